//! Copies of a shared file on other peers: asks a neighbour for places, and pushes the content to
//! some of them.
//!
//! Invariant: a peer counts as a holder when it said that it holds exactly this content; fewer than
//! were wanted are no error. What the neighbour asks the locator is the same whoever asks: that
//! this peer is left out and peers of other sites go first is decided here.

mod push;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use awc::Client;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;
use vecino_rest::{
    Digest, PeerId, PeerUrl,
    body::{LocateQuery, Provider},
};

use crate::{
    content::{Store, catalogue::Entry},
    download::provider_url,
    limit::Limiter,
    metrics::Metrics,
    neighbour::outbound::Outbound,
};

/// Copies of one file at most.
pub const MAX_COPIES: usize = 16;
/// Copies of one file that are pushed at the same time.
const AT_ONCE: usize = 4;
/// How long placing all copies may take, whatever the size ...
const WITHIN: Duration = Duration::from_secs(120);
/// ... and how much longer for each so many bytes: a slower way is no way.
const BYTES_A_SECOND: u64 = 1 << 20;

/// See the module. One a worker.
#[derive(Clone)]
pub struct Copier {
    /// This peer.
    pub me: PeerId,
    /// Its place.
    pub site: Option<String>,
    /// Whether it is itself on loopback.
    pub on_loopback: bool,
    /// Who knows of places.
    pub outbound: Outbound,
    /// Over which copies are sent; follows no redirects.
    pub client: Client,
    /// Where the content is.
    pub store: Arc<Store>,
    /// How fast they are sent.
    pub limit: Arc<Limiter>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Copier {
    /// Has up to `count` other peers hold `entry`, which this one has at `own_url`: their URLs. Where
    /// it `was_shared` before, those who hold it already come first.
    pub async fn copy(
        &self,
        entry: &Arc<Entry>,
        count: usize,
        own_url: Option<&str>,
        was_shared: bool,
    ) -> Vec<String> {
        let count = count.min(MAX_COPIES);
        if count == 0 {
            return Vec::new();
        }
        let holders = match was_shared {
            true => self.holders(&entry.digest).await,
            false => Vec::new(),
        };
        let places = match self.outbound.place(entry.stamp.size).await {
            Ok(places) => places,
            Err(error) => {
                log::info!("{:?} is not copied further: {error}", entry.name);
                Vec::new()
            }
        };
        let site = self.site.as_deref();
        let mut waiting = candidates(&holders, &places, &self.me, own_url, site).into_iter();
        let within = time_for(entry.stamp.size, count, self.limit.rate());
        let deadline = Instant::now() + within;
        let (mut holders, mut pushing) = (Vec::new(), FuturesUnordered::new());
        loop {
            let wanted = AT_ONCE.min(count - holders.len());
            while pushing.len() < wanted {
                let Some(url) = waiting.next() else { break };
                pushing.push(async move {
                    let pushed = self.push(&url, entry, within).await;
                    (url, pushed)
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, pushing.next()).await {
                Ok(Some((url, Ok(())))) => holders.push(url.to_string()),
                Ok(Some((url, Err(why)))) => {
                    log::info!("{:?} is not copied to {url}: {why}", entry.name);
                }
                Ok(None) => return holders,
                Err(_) => {
                    log::info!("copying {:?} took longer than {within:?}", entry.name);
                    return holders;
                }
            }
        }
    }
}

impl Copier {
    /// Who is known to hold all of a content.
    async fn holders(&self, digest: &Digest) -> Vec<Provider> {
        let query = LocateQuery {
            name: None,
            digest: Some(*digest),
            provider: None,
            fresh: false,
        };
        let Ok(located) = self.outbound.locate(&query).await else {
            return Vec::new();
        };
        let known = located.into_iter();
        let known = known.filter(|variant| variant.digest == Some(*digest));
        let providers = known.flat_map(|variant| variant.providers);
        providers.filter(|provider| !provider.partial).collect()
    }
}

/// How long `count` copies of so many bytes may take; with our own limit, twice what it takes them
/// all.
pub fn time_for(size: u64, count: usize, limit: Option<u64>) -> Duration {
    let limited = limit.map_or(0, |rate| {
        size.saturating_mul(2 * count as u64) / rate.max(1)
    });
    WITHIN.saturating_add(Duration::from_secs(limited.max(size / BYTES_A_SECOND)))
}

/// Whom to push to: not this peer; who is said to hold it first, of the `places` those of other
/// sites, else in the locator's order.
fn candidates(
    holders: &[Provider],
    places: &[Provider],
    me: &PeerId,
    own_url: Option<&str>,
    site: Option<&str>,
) -> Vec<PeerUrl> {
    let mut seen = HashSet::new();
    let mut other = |provider: &Provider| {
        let url = provider_url::parse(&provider.url).ok()?;
        let text = url.to_string();
        let is_other = provider.peer.as_ref() != Some(me) && own_url != Some(&*text);
        (is_other && seen.insert(text)).then_some(url)
    };
    let is_elsewhere = |provider: &&Provider| site.is_none() || provider.site.as_deref() != site;
    let (far, near): (Vec<_>, Vec<_>) = places.iter().partition(is_elsewhere);
    let all = holders.iter().chain(far).chain(near);
    all.filter_map(&mut other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(number: u8, url: &str, site: &str) -> Provider {
        Provider {
            peer: Some(PeerId::from_bytes([number; 16])),
            url: url.to_owned(),
            site: (!site.is_empty()).then(|| site.to_owned()),
            partial: false,
        }
    }

    #[test]
    fn a_copy_has_the_time_that_the_own_limit_takes() {
        let gib = 1 << 30;
        assert_eq!(time_for(gib, 1, None), WITHIN + Duration::from_secs(1024));
        let slow = time_for(gib, 3, Some(100 << 10)) - WITHIN;
        assert!(slow >= Duration::from_secs(3 * gib / (100 << 10)));
        assert!(time_for(u64::MAX, MAX_COPIES, Some(0)) > slow);
    }

    #[test]
    fn this_peer_is_left_out_and_other_sites_go_first() {
        let placed = [
            provider(1, "http://10.0.0.1:80", "east"),
            provider(2, "http://10.0.0.2:80", "east"),
            provider(3, "http://10.0.0.3:80", "west"),
            provider(4, "http://10.0.0.4:80", ""),
            // Another peer that claims our URL, one twice, and one that leads inside.
            provider(5, "http://10.0.0.9:80", "west"),
            provider(6, "http://10.0.0.3:80", "west"),
            provider(7, "http://169.254.169.254:80", "west"),
        ];
        let me = PeerId::from_bytes([1; 16]);
        let order = |site| -> Vec<String> {
            let urls = candidates(&[], &placed, &me, Some("http://10.0.0.9:80"), site);
            urls.iter().map(ToString::to_string).collect()
        };
        let (two, three, four) = (
            "http://10.0.0.2:80",
            "http://10.0.0.3:80",
            "http://10.0.0.4:80",
        );
        assert_eq!(order(Some("east")), [three, four, two]);
        assert_eq!(order(Some("west")), [two, four, three]);
        assert_eq!(order(None), [two, three, four]);
        let (holders, site) = (&placed[..2], Some("east"));
        let urls = candidates(holders, &placed, &me, None, site);
        assert_eq!(urls[0].to_string(), two, "who holds it already");
    }
}
