//! Changing what peers hold: on both sides, one script a part.

use std::collections::BTreeMap;

use futures_util::future::{try_join, try_join_all};
use vecino_rest::{Digest, Name};

use super::{
    RedisStore,
    cluster::scripts,
    keys::{self, PARTS, Part, Side},
    peers::number,
};
use crate::store::{
    BUCKETS, Change, Fingerprints, Forgotten, PeerNo, Resource, StoreError, TokenHash, check_room,
    fingerprint::Bucket,
};

/// Both sides.
const SIDES: [Side; 2] = [Side::Names, Side::Digests];

/// What of a peer's holdings in a part goes unless it is announced.
#[derive(Clone, Copy)]
enum Stale {
    None,
    Bucket(u8),
    /// All, but at most so many.
    Any(usize),
}

impl Stale {
    fn arguments(self) -> [Vec<u8>; 3] {
        match self {
            Self::None => [Vec::new(), Vec::new(), number(0)],
            Self::Bucket(bucket) => {
                let to = [&[b'[', bucket][..], &[0xff; 25]].concat();
                [vec![b'[', bucket], to, number(0)]
            }
            Self::Any(limit) => [b"-".to_vec(), b"+".to_vec(), number(limit)],
        }
    }
}

/// What changes in one part.
struct PartChange {
    stale: Stale,
    withdraw: Vec<Vec<u8>>,
    /// Holding, row and terms, as the script takes them.
    announce: Vec<Vec<u8>>,
}

impl PartChange {
    fn new(stale: Stale) -> Self {
        Self {
            stale,
            withdraw: Vec::new(),
            announce: Vec::new(),
        }
    }

    fn add(&mut self, side: Side, resource: &Resource) {
        self.announce.push(keys::holding(side, resource));
        self.announce.push(keys::resource_row(resource));
        let terms = match side {
            Side::Names => keys::term_rows(resource),
            Side::Digests => Vec::new(),
        };
        self.announce.push(number(terms.len()));
        self.announce.extend(terms);
    }

    fn arguments(self, peer: PeerNo) -> Vec<Vec<u8>> {
        let mut arguments = vec![number(peer.0)];
        arguments.extend(self.stale.arguments());
        arguments.push(number(self.withdraw.len()));
        arguments.extend(self.withdraw);
        arguments.extend(self.announce);
        arguments
    }
}

type Parts = BTreeMap<Part, PartChange>;

/// The parts that a change touches.
fn parts_of(change: &Change) -> Parts {
    let mut parts = Parts::new();
    let records = match change {
        Change::Difference { announce, withdraw } => {
            for (name, digest) in withdraw {
                withdraw_from(&mut parts, name, digest);
            }
            announce
        }
        Change::Bucket { bucket, records } => {
            // Anywhere by name, the bucket may have more than it is to have.
            let touched = Part::all(Side::Names).chain([Part::of_bucket(*bucket)]);
            parts.extend(touched.map(|part| (part, PartChange::new(Stale::Bucket(*bucket)))));
            records
        }
    };
    for resource in records {
        for side in SIDES {
            let part = Part::of(side, &resource.name, &resource.digest);
            let change = parts.entry(part);
            let change = change.or_insert_with(|| PartChange::new(Stale::None));
            change.add(side, resource);
        }
    }
    parts
}

fn withdraw_from(parts: &mut Parts, name: &Name, digest: &Digest) {
    for side in SIDES {
        let part = parts.entry(Part::of(side, name, digest));
        let change = part.or_insert_with(|| PartChange::new(Stale::None));
        let prefix = keys::holding_prefix(side, name, digest);
        change.withdraw.push(prefix);
    }
}

/// How many records a peer has in each bucket.
pub(super) type BucketCounts = Box<[u32; BUCKETS]>;

impl RedisStore {
    /// Changes what a peer holds; how many records it has then.
    pub(super) async fn change(
        &self,
        peer: PeerNo,
        token: &TokenHash,
        change: Change,
    ) -> Result<u64, StoreError> {
        self.authorise(peer, token).await?;
        let mut counts = match self.known_counts(peer, token) {
            Some(counts) => counts,
            None => {
                let held = self.held_by_digest(peer).await?;
                Box::new(held.0.map(|bucket| bucket.count))
            }
        };
        if let Change::Difference { announce, .. } = &change {
            check_room(announce, |bucket| counts[usize::from(bucket)])?;
        }
        let changed = self.apply(peer, parts_of(&change)).await;
        if changed.is_err() {
            // Which parts changed is not known.
            self.forget_counts([peer]);
        }
        for (bucket, count) in changed? {
            counts[usize::from(bucket)] = count;
        }
        let records = counts.iter().copied().map(u64::from).sum();
        self.remember_counts(peer, *token, counts);
        Ok(records)
    }

    /// Changes all these parts; the buckets whose number of records changed.
    async fn apply(&self, peer: PeerNo, parts: Parts) -> Result<Vec<(u8, u32)>, StoreError> {
        let changes = parts
            .into_iter()
            .map(|(part, change)| self.apply_part(peer, part, change));
        Ok(try_join_all(changes).await?.concat())
    }

    async fn apply_part(
        &self,
        peer: PeerNo,
        part: Part,
        change: PartChange,
    ) -> Result<Vec<(u8, u32)>, StoreError> {
        type Answer = (u64, u64, Vec<Vec<u8>>, Vec<Vec<u8>>, u64);
        let (tag, arguments) = (part.tag(&self.namespace), change.arguments(peer));
        let changing = self.counts.changing(part);
        let (records, resources, counts, gone, _): Answer =
            self.cluster.run(&scripts().apply, &tag, &arguments).await?;
        changing.done(records, resources);
        if part.side == Side::Names {
            self.unlist(&tag, &gone).await?;
            return Ok(Vec::new());
        }
        let count = |pair: &[Vec<u8>]| {
            let count = std::str::from_utf8(&pair[1]).ok()?.parse().ok()?;
            Some((*pair[0].first()?, count))
        };
        let counts = counts.chunks_exact(2).map(count);
        let counts: Option<Vec<_>> = counts.collect();
        counts.ok_or_else(|| keys::foreign("a count"))
    }

    /// Removes the index rows of resources that are gone. What is left when this fails is passed
    /// over by who reads it.
    async fn unlist(&self, tag: &str, gone: &[Vec<u8>]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut arguments = Vec::new();
        for row in gone {
            let resource = keys::read_resource(row)?;
            let terms = keys::term_rows(&resource);
            let holding = keys::holding(Side::Names, &resource);
            arguments.extend([holding[1..].to_vec(), number(terms.len())]);
            arguments.extend(terms);
        }
        let done: Result<u64, _> = self.cluster.run(&scripts().unlist, tag, &arguments).await;
        done.map(|_| ())
    }

    /// Removes up to `limit` records of a peer that is gone, and the peer with the last of them.
    pub(super) async fn forget_records(
        &self,
        peer: PeerNo,
        at_ms: i64,
        limit: usize,
    ) -> Result<Forgotten, StoreError> {
        let mut parts = Part::all(Side::Digests);
        let mut removed = 0;
        let (row, done) = loop {
            // Who comes back in between keeps the rest.
            let row = match self.row(peer).await? {
                Some((_, row)) if row.state.is_lapsed_at(at_ms) => row,
                kept => {
                    return Ok(Forgotten {
                        records: removed,
                        ..Forgotten::kept(kept.map(|(_, row)| row.state))
                    });
                }
            };
            let part = parts.next().filter(|_| removed < limit);
            let Some(part) = part else {
                break (row, self.held_by_digest(peer).await?.records() == 0);
            };
            removed += self.forget_part(peer, part, limit - removed).await?;
        };
        if done {
            // What the other side may have more, after a failover.
            while self.purge_names(peer).await? {}
            self.forget_peer(peer, &row.id, at_ms).await?;
        }
        Ok(Forgotten {
            records: removed,
            done,
            lapsed_ms: None,
        })
    }

    /// Removes records of a peer in a part; how many.
    async fn forget_part(
        &self,
        peer: PeerNo,
        part: Part,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let held = self
            .held(peer, part, [b"-".to_vec(), b"+".to_vec()], limit)
            .await?;
        if held.is_empty() {
            return Ok(0);
        }
        let mut parts = Parts::new();
        for row in held.iter().filter_map(|(_, row)| row.as_ref()) {
            let resource = keys::read_resource(row)?;
            withdraw_from(&mut parts, &resource.name, &resource.digest);
        }
        // By digest last: as long as it is there, it is tried again.
        let by_digest = parts.split_off(&Part {
            side: Side::Digests,
            number: 0,
        });
        self.apply(peer, parts).await?;
        self.apply(peer, by_digest).await?;
        Ok(held.len())
    }

    /// Holdings of a peer in a part, in a range, with their rows where these are.
    async fn held(
        &self,
        peer: PeerNo,
        part: Part,
        [from, to]: [Vec<u8>; 2],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        let tag = part.tag(&self.namespace);
        let arguments = [number(peer.0), from, to, number(limit)];
        let held: Vec<Option<Vec<u8>>> =
            self.cluster.run(&scripts().held, &tag, &arguments).await?;
        let held = held
            .chunks_exact(2)
            .map(|held| (held[0].clone().unwrap_or_default(), held[1].clone()));
        Ok(held.collect())
    }

    /// The records of a peer in a bucket.
    pub(super) async fn records_of(
        &self,
        peer: PeerNo,
        bucket: u8,
    ) -> Result<Vec<Resource>, StoreError> {
        const AT_ONCE: usize = 1_000;
        let [mut from, to, _] = Stale::Bucket(bucket).arguments();
        let mut records = Vec::new();
        loop {
            let range = [from, to.clone()];
            let page = self.held(peer, Part::of_bucket(bucket), range, AT_ONCE);
            let page = page.await?;
            for row in page.iter().filter_map(|(_, row)| row.as_ref()) {
                records.push(keys::read_resource(row)?);
            }
            match page.last() {
                Some((last, _)) if page.len() == AT_ONCE => {
                    from = [b"(", &last[..]].concat();
                }
                _ => return Ok(records),
            }
        }
    }

    /// Removes what is left of a peer by name; whether there may be more.
    async fn purge_names(&self, peer: PeerNo) -> Result<bool, StoreError> {
        const AT_ONCE: usize = 256;
        let held = self.held_in(peer, Side::Names, "all").await?;
        if held.count == 0 {
            return Ok(false);
        }
        let purge = || PartChange::new(Stale::Any(AT_ONCE));
        let parts = Part::all(Side::Names).map(|part| (part, purge()));
        self.apply(peer, parts.collect()).await?;
        Ok(true)
    }

    /// What a peer holds, by the side of digests.
    async fn held_by_digest(&self, peer: PeerNo) -> Result<Fingerprints, StoreError> {
        const OF_PART: u8 = u8::MAX / PARTS + 1;
        let parts = Part::all(Side::Digests).map(|part| async move {
            let first = part.number * OF_PART;
            let buckets: Vec<u8> = (first..=first + (OF_PART - 1)).collect();
            let sums = self
                .sums(peer, part, buckets.iter().map(|b| vec![*b]))
                .await?;
            Ok::<_, StoreError>(buckets.into_iter().zip(sums).collect::<Vec<_>>())
        });
        let mut all = Fingerprints::default();
        for (bucket, sum) in try_join_all(parts).await?.concat() {
            all.0[usize::from(bucket)] = sum;
        }
        Ok(all)
    }

    /// What a peer holds under one field, by one side.
    async fn held_in(&self, peer: PeerNo, side: Side, field: &str) -> Result<Bucket, StoreError> {
        let parts = Part::all(side).map(|part| self.sums(peer, part, [field.as_bytes().to_vec()]));
        let sums = try_join_all(parts).await?.concat();
        Ok(sums.into_iter().fold(Bucket::default(), plus))
    }

    async fn sums(
        &self,
        peer: PeerNo,
        part: Part,
        fields: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Vec<Bucket>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{}:sums:{}", part.tag(&self.namespace), peer.0));
        for field in fields {
            command.arg(field);
        }
        let sums: Vec<Option<Vec<u8>>> = self.cluster.call(&command).await?;
        let sums = sums.into_iter().map(|sum| match sum {
            Some(sum) => {
                let sum: &[u8; Bucket::LEN] = sum[..]
                    .try_into()
                    .map_err(|_| keys::foreign("a fingerprint"))?;
                Ok(Bucket::from_bytes(sum))
            }
            None => Ok(Bucket::default()),
        });
        sums.collect()
    }

    /// What the cluster has of a peer. A bucket in which the sides differ, because a failover lost
    /// writes of one, differs from what the peer holds as well, so that it sends it again.
    pub(super) async fn fingerprints_of(&self, peer: PeerNo) -> Result<Fingerprints, StoreError> {
        let (mut all, by_name) = try_join(
            self.held_by_digest(peer),
            self.held_in(peer, Side::Names, "all"),
        )
        .await?;
        let by_digest = all.0.iter().copied().fold(Bucket::default(), plus);
        if by_name != by_digest {
            let buckets = || (0..=u8::MAX).map(|bucket| vec![bucket]);
            let parts = Part::all(Side::Names).map(|part| self.sums(peer, part, buckets()));
            let mut by_name = [Bucket::default(); BUCKETS];
            for sums in try_join_all(parts).await? {
                for (bucket, sum) in by_name.iter_mut().zip(sums) {
                    *bucket = plus(*bucket, sum);
                }
            }
            for (bucket, by_name) in all.0.iter_mut().zip(by_name) {
                if *bucket != by_name {
                    bucket.sum = !bucket.sum;
                }
            }
        }
        Ok(all)
    }
}

fn plus(one: Bucket, other: Bucket) -> Bucket {
    Bucket {
        sum: one.sum.wrapping_add(other.sum),
        count: one.count + other.count,
    }
}
