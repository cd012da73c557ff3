//! The sweeper: makes durable that leases are over, and forgets the records of peers that have
//! been gone for a day.
//!
//! Answers never wait for it: a lease that is over counts nowhere from that moment on. It works
//! in small bounded steps among the other writers and pauses between them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Directory;
use crate::store::{PeerNo, TokenHash};

/// Records of a peer that is gone stay for so long: it may come back.
pub const RECORDS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Leases ended in one step.
const EXPIRED_AT_ONCE: usize = 256;
/// Records forgotten in one step.
const FORGOTTEN_AT_ONCE: usize = 1_000;
/// Pause between two steps of forgetting: at most 10,000 records a second.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it tells what it could not do.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often it looks for records to forget.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub async fn run(directory: Arc<Directory>) {
    tokio::join!(end_leases(&directory), forget_records(&directory));
}

/// The pause between two looks at leases of that duration.
pub(super) fn pause(lease: Duration) -> Duration {
    (lease / 4).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

async fn end_leases(directory: &Directory) {
    let every = pause(directory.lease());
    let mut unmarked = Vec::new();
    loop {
        tokio::time::sleep(every).await;
        directory.end_expired(&mut unmarked).await;
    }
}

async fn forget_records(directory: &Directory) {
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        while directory.forget_due(directory.clock.wall_ms()).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Directory {
    /// Ends leases that are over, at most some hundreds. Those that could not be marked in the
    /// store stay in `unmarked` for the next time.
    async fn end_expired(&self, unmarked: &mut Vec<(PeerNo, TokenHash)>) {
        let room = EXPIRED_AT_ONCE.saturating_sub(unmarked.len());
        let now = self.clock.now();
        if self.store_fault().is_some() {
            // Who lost its connection cannot register again, and is not gone for that.
            self.leases.renew_all(now);
        }
        let expired = self.leases.expire(now, room);
        if !expired.is_empty() {
            log::info!("{} leases are over", expired.len());
            self.metrics.leases_expired.inc_by(expired.len() as u64);
            self.end_partials(expired.iter().map(|(peer, _)| *peer));
            unmarked.extend(expired);
        }
        if unmarked.is_empty() {
            return;
        }
        match self.lapse_silent(unmarked).await {
            Ok(()) => unmarked.clear(),
            Err(error) => self.complain(&format!(
                "the end of {} leases is not stored yet: {error}",
                unmarked.len()
            )),
        }
    }

    /// Forgets some records of one peer that is gone for a day at `wall_ms`; whether there may
    /// be more to forget.
    async fn forget_due(&self, wall_ms: i64) -> bool {
        let kept_ms = i64::try_from(RECORDS_KEPT.as_millis()).expect("a day");
        let due = {
            let lapsed = self.lapsed();
            let due = lapsed
                .iter()
                .find(|(_, at_ms)| at_ms.saturating_add(kept_ms) <= wall_ms);
            due.map(|(peer, at_ms)| (*peer, *at_ms))
        };
        let Some((peer, at_ms)) = due else {
            return false;
        };
        match self.forget(peer, at_ms, FORGOTTEN_AT_ONCE).await {
            Ok(_) => true,
            Err(error) => {
                self.complain(&format!(
                    "records of a peer that is gone could not be removed: {error}"
                ));
                false
            }
        }
    }

    /// It is tried again and again; once in a while is enough to know.
    pub(super) fn complain(&self, what: &str) {
        if let Some(untold) = self.complaints.pass(Instant::now()) {
            log::warn!("{what}{untold}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vecino_rest::{Digest, Name, PeerKey};

    use super::*;
    use crate::{
        directory::{Credentials, Registration, Welcome},
        metrics::Metrics,
        store::{Change, Counts, MemoryStore, Resource, Store as _},
    };

    struct Bench {
        directory: Directory,
        store: Arc<MemoryStore>,
    }

    impl Bench {
        async fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            let lease = Duration::from_millis(1);
            let directory = Directory::open(store.clone(), lease, Arc::new(Metrics::new()));
            Self {
                directory: directory.await.expect("opens"),
                store,
            }
        }

        async fn register(&self, number: u8) -> Welcome {
            let registration = Registration {
                key: PeerKey::from_bytes([number; 32]),
                public_url: String::new(),
                port: 80,
                site: String::new(),
                free_bytes: 0,
                observed: IpAddr::from([10, 0, 0, number]),
                registered_in: Vec::new(),
            };
            self.directory
                .register(registration, None)
                .await
                .expect("registers")
        }

        async fn share(&self, welcome: &Welcome, files: usize) {
            let announce = (0..files).map(|number| Resource {
                name: Name::parse(&format!("f{number}")).expect("valid"),
                digest: Digest::of(&number.to_le_bytes()),
                size: 8,
                modified_ms: 0,
            });
            let change = Change::Difference {
                announce: announce.collect(),
                withdraw: Vec::new(),
            };
            let who = Credentials {
                peer: welcome.peer,
                token: welcome.token,
            };
            let peers = self.store.peers().await.expect("lists");
            let (peer, _) = peers
                .iter()
                .find(|(_, row)| row.id == who.peer)
                .expect("is there");
            self.store
                .announce(*peer, who.token_hash(), change)
                .await
                .expect("announces");
        }

        async fn end_leases(&self) {
            while self.directory.leases.count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.directory.end_expired(&mut Vec::new()).await;
            }
        }
    }

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

    #[tokio::test]
    async fn records_go_a_day_after_their_peer_in_bounded_steps() {
        let bench = Bench::new().await;
        let welcome = bench.register(1).await;
        bench.share(&welcome, 2_500).await;
        bench.end_leases().await;
        let now = bench.directory.clock.wall_ms();
        assert!(
            !bench.directory.forget_due(now + DAY_MS - 60_000).await,
            "not yet"
        );
        assert_eq!(bench.store.counts().records, 2_500);
        let mut left = Vec::new();
        while bench.directory.forget_due(now + DAY_MS + 60_000).await {
            left.push(bench.store.counts().records);
        }
        assert_eq!(left, [1_500, 500, 0]);
        assert_eq!(bench.store.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_peer_without_records_is_forgotten_with_its_lease() {
        let bench = Bench::new().await;
        bench.register(1).await;
        bench.end_leases().await;
        assert_eq!(bench.store.counts(), Counts::default());
    }

    /// As another locator did whose clock is ahead, or this one before its clock stepped back.
    #[tokio::test]
    async fn records_of_a_peer_that_lapsed_later_than_was_known_go_a_day_after_that() {
        let bench = Bench::new().await;
        let welcome = bench.register(1).await;
        bench.share(&welcome, 3).await;
        let later = bench.directory.clock.wall_ms() + 3_600_000;
        let peers = bench.store.peers().await.expect("lists");
        let lapsed = peers.iter().map(|(peer, row)| (*peer, row.token));
        let lapsed = bench.store.lapse(lapsed.collect(), later).await;
        lapsed.expect("lapses");
        bench.end_leases().await;
        while bench.directory.forget_due(later + DAY_MS - 1).await {}
        assert_eq!(bench.store.counts().records, 3, "not yet");
        while bench.directory.forget_due(later + DAY_MS).await {}
        assert_eq!(bench.store.counts(), Counts::default());
        assert!(bench.directory.lapsed().is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_came_back_keeps_its_records() {
        let bench = Bench::new().await;
        let welcome = bench.register(1).await;
        bench.share(&welcome, 3).await;
        bench.end_leases().await;
        let back = bench.register(1).await;
        assert_eq!(back.fingerprints.records(), 3);
        let now = bench.directory.clock.wall_ms();
        assert!(!bench.directory.forget_due(now + 2 * DAY_MS).await);
        assert_eq!(bench.store.counts().records, 3);
    }
}
