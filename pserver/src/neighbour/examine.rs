//! Asks each neighbour, in one small request, whether it is there, is a peer and not this one, tells
//! the same time, and can connect to this peer.

use std::time::{Duration, Instant, SystemTime};

use awc::http::header;
use futures_util::future::join_all;
use vecino_rest::{
    Name,
    doctor::{ReachQuery, Reached},
    route,
};

use super::{
    link::Link,
    outbound::{NO_PEER, Outbound, RawAnswer, Reply},
};

/// What a neighbour turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A peer, which says this.
    Peer(Reached),
    /// A peer that does not know the question, or has too much to do.
    Silent,
    /// A peer of the first system.
    FirstSystem,
    /// No peer, for this reason.
    Nobody(String),
}

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its URL.
    pub url: String,
    /// How long it took to answer.
    pub latency: Duration,
    /// Seconds that its clock is ahead of ours, where it tells the time.
    pub ahead: Option<i64>,
    /// What it is.
    pub found: Found,
}

impl Outbound {
    /// Examines every neighbour, in the operator's order.
    pub async fn examine(&self, query: &ReachQuery) -> Vec<Examined> {
        join_all(self.links.iter().map(|link| self.examine_one(link, query))).await
    }

    async fn examine_one(&self, link: &Link, query: &ReachQuery) -> Examined {
        let (asked, asked_at) = (Instant::now(), SystemTime::now());
        let answer = self.send(link, route::NEIGHBOUR_REACH, query).await;
        let latency = asked.elapsed();
        let ahead = answer
            .as_ref()
            .ok()
            .and_then(|answer| ahead_of(answer, asked_at + latency / 2));
        let found = match answer {
            Err(why) => Found::Nobody(why),
            Ok(answer) if answer.problem().is_some() => Found::Silent,
            Ok(answer) => match answer.understood() {
                Reply::Answer(body) => match serde_json::from_slice(&body) {
                    Ok(reached) => Found::Peer(reached),
                    Err(_) => Found::Nobody(NO_PEER.to_owned()),
                },
                Reply::FirstSystem => self.first_system(link).await,
                other => nobody(other),
            },
        };
        match &found {
            Found::Nobody(why) => link.failed(Instant::now(), why.clone()),
            _ => link.answered(Instant::now(), latency),
        }
        Examined {
            url: link.url().to_owned(),
            latency,
            ahead,
            found,
        }
    }

    /// Whether it is at least a peer of the first system.
    async fn first_system(&self, link: &Link) -> Found {
        match self.ask_first_system(link, &unheard_of()).await {
            Reply::Answer(_) => Found::FirstSystem,
            other => nobody(other),
        }
    }
}

fn nobody<T>(reply: Reply<T>) -> Found {
    Found::Nobody(match reply {
        Reply::Failed(why) => why,
        _ => NO_PEER.to_owned(),
    })
}

/// A name that nobody shares.
pub fn unheard_of() -> Name {
    let name = format!("vecino/{:032x}", rand::random::<u128>());
    Name::parse(&name).expect("letters, digits and one slash")
}

/// Whole seconds that the clock behind `answer` was ahead of `ours`.
fn ahead_of(answer: &RawAnswer, ours: SystemTime) -> Option<i64> {
    let date = answer.headers.get(header::DATE)?.to_str().ok()?;
    Some(difference(httpdate::parse_http_date(date).ok()?, ours))
}

fn difference(theirs: SystemTime, ours: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => seconds(ahead),
        Err(error) => -seconds(error.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_both_ways() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        assert_eq!(difference(now + day, now), 86_400);
        assert_eq!(difference(now - day, now), -86_400);
        assert_eq!(difference(now, now), 0);
    }

    #[test]
    fn nobody_has_heard_of_two_names_that_are_the_same() {
        assert_ne!(unheard_of(), unheard_of());
    }
}
