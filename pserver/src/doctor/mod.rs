//! What this peer finds wrong with itself and with those whom it needs: `GET /v1/doctor`.
//!
//! Invariant: no sentence speaks of where lookups go. A diagnosis is bounded in time and in what
//! it costs others; several at once share one, and one that was just made is given again.

pub mod disk;
mod speed;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{join, sync::Mutex};
use vecino_rest::{
    body::{LinkState, LocateQuery, Origin},
    doctor::{Check, Diagnosis, Reachability},
};

use crate::{
    content::Store,
    download::fetch::Fetcher,
    locate::central::{account::Account, presence::Presence},
    neighbour::{
        checkup::{self, Checkup, Trouble},
        examine::{Examined, Found, unheard_of},
        outbound::OutboundError,
    },
};

/// A diagnosis of that age is given again.
const FRESH_FOR: Duration = Duration::from_secs(3);

/// Makes diagnoses, one at a time; see the module.
#[derive(Debug)]
pub struct Doctor {
    store: Arc<Store>,
    presence: Arc<Presence>,
    checkup: Arc<Checkup>,
    account: Arc<Account>,
    /// Whether there are locators to be found through.
    has_locator: bool,
    last: Mutex<Option<(Instant, Diagnosis)>>,
}

impl Doctor {
    /// Of a peer with these parts.
    pub fn new(
        store: Arc<Store>,
        presence: Arc<Presence>,
        checkup: Arc<Checkup>,
        account: Arc<Account>,
        has_locator: bool,
    ) -> Self {
        Self {
            store,
            presence,
            checkup,
            account,
            has_locator,
            last: Mutex::default(),
        }
    }

    /// Whether every file was looked at and hashed.
    pub fn files(&self) -> Result<(), String> {
        let importer = self.store.importer();
        match (importer.scanned(), importer.waiting()) {
            (false, _) => Err("the shared directories are being read".to_owned()),
            (true, 0) => Ok(()),
            (true, 1) => Err("a file is still being hashed".to_owned()),
            (true, files) => Err(format!("{files} files are still being hashed")),
        }
    }

    /// Whether others can find what this peer shares; `None` where no locator is set.
    pub fn online(&self) -> Option<Result<(), String>> {
        self.has_locator.then(|| match self.presence.settled() {
            true => Ok(()),
            false => Err(match self.account.offline_reason() {
                Some(reason) => format!("not registered: {reason}"),
                None => "not registered: other peers cannot find what this one shares".to_owned(),
            }),
        })
    }

    /// All checks, over the connections of `fetcher`; `in_overlay` says whether this peer is a
    /// member of an overlay.
    pub async fn diagnose(&self, fetcher: &Fetcher, in_overlay: bool) -> Diagnosis {
        let mut last = self.last.lock().await;
        if let Some((made, diagnosis)) = &*last
            && made.elapsed() < FRESH_FOR
        {
            return diagnosis.clone();
        }
        let (neighbours, lookups, speed) = join!(
            self.checkup.now(&fetcher.outbound),
            lookups(fetcher),
            speed::measure(fetcher)
        );
        let mut checks = vec![
            self.check_files(),
            disk::check(self.store.free_bytes(Origin::Fetched)),
            self.check_online(in_overlay),
        ];
        checks.extend(check_neighbours(&neighbours));
        // Without anybody to ask the rest says the same again.
        if !neighbours.is_empty() {
            // What one said before that does not answer now is no news.
            let anybody = neighbours
                .iter()
                .any(|one| !matches!(one.found, Found::Nobody(_)));
            let reached = self.checkup.reach().filter(|_| anybody);
            checks.extend([lookups, reach(reached), speed]);
        }
        let diagnosis = Diagnosis { checks };
        *last = Some((Instant::now(), diagnosis.clone()));
        diagnosis
    }

    fn check_files(&self) -> Check {
        for (origin, variable) in [
            (Origin::Shared, "SHARED_DIR"),
            (Origin::Fetched, "DOWNLOAD_DIR"),
        ] {
            if let Err(error) = fs::read_dir(self.store.root(origin)) {
                return Check::fail(
                    "files",
                    format!("{variable} of your peer cannot be read: {error}"),
                    "let the user that the peer runs as read it",
                );
            }
        }
        let counts = self.store.counts();
        match self.files() {
            Ok(()) => Check::ok(
                "files",
                format!("{} shared, {} fetched", counts.shared, counts.fetched),
            ),
            Err(why) => Check::warn("files", why, "wait: others find them once they are hashed"),
        }
    }

    fn check_online(&self, in_overlay: bool) -> Check {
        match self.online() {
            Some(Ok(())) => Check::ok("online", "other peers find what your peer shares"),
            Some(Err(_)) if in_overlay => Check::warn(
                "online",
                "found in the overlay only: your peer is not registered",
                "the log of your peer says why",
            ),
            Some(Err(why)) => {
                let next = match self.account.offline_reason() {
                    Some(_) => "say `client login USER`, so that other peers find what it shares",
                    None => "the log of your peer says why",
                };
                Check::fail("online", why, next)
            }
            None if in_overlay => Check::ok("online", "other peers find it in the overlay"),
            None => Check::warn(
                "online",
                "other peers cannot find what your peer shares: URL_Request is unset there",
                "set it, or LOCATE_BY to a way without it",
            ),
        }
    }
}

fn check_neighbours(found: &[Examined]) -> Vec<Check> {
    const WHAT: &str = "neighbour";
    if found.is_empty() {
        return vec![Check::fail(
            WHAT,
            "your peer has none, and serves only what it holds itself",
            "name another peer in its URL_PEERSU",
        )];
    }
    let is_alone = !found
        .iter()
        .any(|one| !matches!(one.found, Found::Nobody(_)));
    let check = |one: &Examined| {
        let url = &one.url;
        let answers = format!("{url} answers in {:.1} ms", one.latency.as_secs_f64() * 1e3);
        if let Some(Trouble { what, next }) = checkup::itself(one) {
            return Check::fail(WHAT, what, next);
        }
        if let Some(Trouble { what, next }) = checkup::clock(one) {
            return Check::warn(WHAT, what, next);
        }
        match &one.found {
            Found::Nobody(why) => {
                let detail = format!("{url} does not answer as a peer: {why}");
                let next = "is the peer there running, and its port open? URL_PEERSU of your peer names it";
                // As long as another one answers, nothing is lost.
                if is_alone {
                    Check::fail(WHAT, detail, next)
                } else {
                    Check::warn(WHAT, detail, next)
                }
            }
            Found::FirstSystem => Check::ok(WHAT, format!("{answers}; it is of the first system")),
            Found::Silent => Check::ok(WHAT, format!("{answers}; it did not try to reach yours")),
            Found::Peer(said) if said.version != env!("CARGO_PKG_VERSION") => Check::warn(
                WHAT,
                format!(
                    "{answers}; its version is not {}",
                    env!("CARGO_PKG_VERSION")
                ),
                "run the same version everywhere",
            ),
            Found::Peer(_) => Check::ok(WHAT, answers),
        }
    };
    found.iter().map(check).collect()
}

/// Asks for a name that nobody has: everything works when the answer is that nobody has it.
async fn lookups(fetcher: &Fetcher) -> Check {
    const WHAT: &str = "lookups";
    let query = LocateQuery {
        name: Some(unheard_of()),
        digest: None,
        provider: None,
        fresh: false,
    };
    let began = Instant::now();
    let asked = fetcher.outbound.locate(&query).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    match asked {
        Ok(variants) if variants.is_empty() => Check::ok(
            WHAT,
            format!("a name that nobody shares is not found, in {took:.1} ms"),
        ),
        Ok(_) => Check::warn(
            WHAT,
            "a name that nobody shares is found: a neighbour makes answers up",
            "name other peers in URL_PEERSU of your peer",
        ),
        Err(error @ OutboundError::LookupFailed) => Check::fail(
            WHAT,
            error.to_string(),
            "the logs of the neighbours say why",
        ),
        Err(error) => Check::fail(WHAT, error.to_string(), "see the line of each neighbour"),
    }
}

fn reach(reach: Option<Reachability>) -> Check {
    const WHAT: &str = "reach";
    let Some(reach) = reach else {
        return Check::warn(
            WHAT,
            "no neighbour said whether others can connect to your peer",
            "run it again when a neighbour of this version answers",
        );
    };
    let Reachability {
        state,
        url,
        neighbour,
        problem,
    } = reach;
    let problem = problem.map(|problem| match problem.split_once("; ") {
        Some((what, next)) => (what.to_owned(), next.to_owned()),
        None => (problem, String::new()),
    });
    match (state, problem) {
        (LinkState::Up, _) => Check::ok(WHAT, format!("neighbour {neighbour} reaches {url}")),
        (LinkState::Down, Some((what, next))) => Check::fail(WHAT, what, next),
        (_, Some((what, next))) => Check::warn(WHAT, what, next),
        (_, None) => Check::ok(
            WHAT,
            format!("not tried: neighbour {neighbour} is on your peer's own machine"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::doctor::CheckState;

    use super::*;

    fn one(url: &str, found: Found) -> Examined {
        Examined {
            url: url.to_owned(),
            latency: Duration::from_millis(1),
            ahead: None,
            found,
        }
    }

    #[test]
    fn a_dead_neighbour_is_a_failure_unless_another_one_answers() {
        let dead = one("http://a:1", Found::Nobody("connection refused".to_owned()));
        let alone = check_neighbours(std::slice::from_ref(&dead));
        assert_eq!(alone[0].state, CheckState::Fail);
        assert!(
            alone[0].detail.contains("http://a:1 does not answer"),
            "{alone:?}"
        );
        let two = check_neighbours(&[dead, one("http://b:1", Found::Silent)]);
        let states: Vec<_> = two.iter().map(|check| check.state).collect();
        assert_eq!(states, [CheckState::Warn, CheckState::Ok]);
        assert_eq!(check_neighbours(&[])[0].state, CheckState::Fail);
    }

    #[test]
    fn what_a_neighbour_found_becomes_a_line_with_what_to_do() {
        let reachability = |state, problem: Option<&str>| Reachability {
            state,
            url: "http://10.0.0.4:80".to_owned(),
            neighbour: "http://10.0.0.2:80".to_owned(),
            problem: problem.map(str::to_owned),
        };
        let down = reach(Some(reachability(
            LinkState::Down,
            Some("neighbour a cannot reach b: connection refused; open the port or set PUBLIC_URL"),
        )));
        assert_eq!(down.state, CheckState::Fail);
        assert_eq!(
            down.detail,
            "neighbour a cannot reach b: connection refused"
        );
        assert_eq!(
            down.next.as_deref(),
            Some("open the port or set PUBLIC_URL")
        );
        assert_eq!(
            reach(Some(reachability(LinkState::Up, None))).state,
            CheckState::Ok
        );
        assert_eq!(reach(None).state, CheckState::Warn);
    }
}
