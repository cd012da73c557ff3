//! Which resources a lookup reads of a name or a digest.
//!
//! Of more than it may read, one half are the first ones that it meets, the other half any others, by
//! turns: nobody hides for good what others announce, before or after, by announcing more. A
//! lookup looks at a bounded part of the index all the same, which begins at a random place.

use std::ops::Bound;

use fastrand::Rng;
use vecino_rest::{Digest, Name};

use super::{
    cut,
    read::{Snapshot, engine},
    schema::{self, IdentityKey, damaged},
    texts::Text,
};
use crate::store::{MAX_VARIANTS_READ, ResourceNo, StoreError};

/// Entries of the index among which a lookup chooses where there are many.
const CHOSEN_AMONG: usize = 16 * MAX_VARIANTS_READ;
/// Rows of a name among which a lookup chooses the one where it begins.
const ROWS: usize = 1_024;

impl Snapshot {
    /// The resources that a lookup of a name reads. The index is in the order in which they were made:
    /// the first ones are those that were there first. Up to [`CHOSEN_AMONG`] others are each as
    /// likely as any.
    pub(super) fn of_name(&self, name: &Name, seed: u64) -> Result<Vec<ResourceNo>, StoreError> {
        let mut rng = Rng::with_seed(seed);
        let mut early = self.named(name, ResourceNo(0), ResourceNo::MAX, MAX_VARIANTS_READ + 1)?;
        if early.len() <= MAX_VARIANTS_READ {
            return Ok(turned(early, &mut rng));
        }
        let others = early[MAX_VARIANTS_READ / 2];
        early.truncate(MAX_VARIANTS_READ / 2);
        let start = self.row_of_name(name, others, ROWS, &mut rng)?;
        let mut any = self.named(name, start, ResourceNo::MAX, CHOSEN_AMONG)?;
        let before = CHOSEN_AMONG - any.len();
        any.extend(self.named(name, others, start, before)?);
        Ok(by_turns(early, any, &mut rng))
    }

    /// The resources of that name from one on and below another, at most so many.
    fn named(
        &self,
        name: &Name,
        from: ResourceNo,
        below: ResourceNo,
        most: usize,
    ) -> Result<Vec<ResourceNo>, StoreError> {
        let mut numbers = Vec::new();
        if from >= below || most == 0 {
            return Ok(numbers);
        }
        let first = Text::new(name.as_str(), from);
        cut::read(&self.named, &first, |named: &Text| {
            let is_it = named.text == first.text && named.no < below;
            if is_it {
                numbers.push(named.no);
            }
            Ok(is_it && numbers.len() < most)
        })?;
        Ok(numbers)
    }

    /// Where a row with resources of that name begins, at `first` or behind it: any of `most` rows,
    /// which are the first ones behind a random number where there are more. A random number alone
    /// would not do: between those of a name there may be millions of others.
    fn row_of_name(
        &self,
        name: &Name,
        first: ResourceNo,
        most: usize,
        rng: &mut Rng,
    ) -> Result<ResourceNo, StoreError> {
        let key = |no| schema::text(name.as_str().as_bytes(), no);
        let rows = |from: ResourceNo, to: ResourceNo| {
            let (from, to) = (key(from), key(to));
            let rows = self.named.range::<&[u8]>(&from[..]..&to[..]);
            let numbers = rows.map_err(engine)?.map(|row| {
                let no = schema::resource_at_end(row.map_err(engine)?.0.value());
                no.ok_or_else(|| damaged("an index of names"))
            });
            Ok::<_, StoreError>(numbers)
        };
        // The first ones may be in a row that begins before them.
        let mut places = vec![first];
        for place in rows(first, ResourceNo::MAX)?.take(most) {
            places.push(place?);
        }
        if places.len() > most
            && let Some(last) = rows(first, ResourceNo::MAX)?.next_back().transpose()?
        {
            let start = ResourceNo(rng.u64(first.0..=last.0));
            places.clear();
            let from_start = rows(start, ResourceNo::MAX)?;
            for place in from_start.chain(rows(first, start)?).take(most) {
                places.push(place?);
            }
        }
        Ok(rng.choice(places).unwrap_or(first))
    }

    /// The resources that a lookup of a digest reads, and of others that the index cannot tell from them.
    /// The index is in the order of a keyed hash: the first ones are those that were made first, among
    /// the [`CHOSEN_AMONG`] behind a random place.
    pub(super) fn of_digest(
        &self,
        digest: &Digest,
        seed: u64,
    ) -> Result<Vec<ResourceNo>, StoreError> {
        let mut rng = Rng::with_seed(seed);
        let (first, last) = schema::of_digest(digest);
        let read = |from: Bound<&IdentityKey>, to, most: usize| {
            let rows = self.identities.range::<&IdentityKey>((from, to));
            let numbers = rows.map_err(engine)?.take(most).map(|row| {
                let no = schema::resource_at_end(row.map_err(engine)?.0.value());
                no.ok_or_else(|| damaged("an index of digests"))
            });
            numbers.collect::<Result<Vec<_>, _>>()
        };
        let (first, last) = (Bound::Included(&first), Bound::Included(&last));
        let mut numbers = read(first, last, MAX_VARIANTS_READ + 1)?;
        if numbers.len() <= MAX_VARIANTS_READ {
            numbers.sort_unstable();
            return Ok(turned(numbers, &mut rng));
        }
        let start = schema::amid_digest(digest, rng.u32(..));
        numbers = read(Bound::Included(&start), last, CHOSEN_AMONG)?;
        let before = CHOSEN_AMONG - numbers.len();
        numbers.extend(read(first, Bound::Excluded(&start), before)?);
        numbers.sort_unstable();
        let any = numbers.split_off(MAX_VARIANTS_READ / 2);
        Ok(by_turns(numbers, any, &mut rng))
    }
}

/// One half of what a lookup reads, and as many of any others.
fn by_turns(early: Vec<ResourceNo>, mut any: Vec<ResourceNo>, rng: &mut Rng) -> Vec<ResourceNo> {
    rng.shuffle(&mut any);
    let by_turns = early.into_iter().zip(any);
    let numbers = by_turns.flat_map(|(one, other)| [one, other]).collect();
    turned(numbers, rng)
}

/// The same, from any of them on: where holders are more than a lookup reads, those of others are
/// left out each time.
fn turned(mut numbers: Vec<ResourceNo>, rng: &mut Rng) -> Vec<ResourceNo> {
    if numbers.len() > 1 {
        let first = rng.usize(..numbers.len());
        numbers.rotate_left(first);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::{RedbStore, tests},
        *,
    };
    use crate::store::{
        Resource, Store as _,
        conformance::{announce, file, name},
    };

    async fn announce_all(store: &RedbStore, files: impl Iterator<Item = Resource>) {
        let peer = tests::two_peers(store).await[0];
        let files: Vec<_> = files.collect();
        for some in files.chunks(4_000) {
            let change = announce(&some.iter().collect::<Vec<_>>());
            let announced = store.announce(peer, [1; 32], change).await;
            announced.expect("announces");
        }
    }

    #[tokio::test]
    async fn more_digests_of_a_name_than_a_lookup_chooses_among_hide_nothing_for_good() {
        const MANY: usize = 3 * CHOSEN_AMONG;
        const LOOKUPS: u64 = 1_000;
        let directory = tests::directory();
        let store = tests::open(&directory).expect("opens");
        let of_name = |n: usize| file("the same", &format!("content {n}"));
        let others = (0..2 * MANY).map(|n| file(&format!("other {n}"), "another"));
        let last = std::iter::once(of_name(MANY));
        announce_all(&store, (0..MANY).map(of_name).chain(others).chain(last)).await;
        let snapshot = store.published.snapshot().expect("open");
        let name = name("the same");
        let all = snapshot.named(&name, ResourceNo(0), ResourceNo::MAX, usize::MAX);
        let all = all.expect("reads");
        assert_eq!(all.len(), MANY + 1);
        let mut found = BTreeSet::new();
        for seed in 0..LOOKUPS {
            let some = snapshot.of_name(&name, seed).expect("reads");
            let distinct: BTreeSet<_> = some.iter().copied().collect();
            assert_eq!(distinct.len(), MAX_VARIANTS_READ);
            for first in &all[..MAX_VARIANTS_READ / 2] {
                assert!(distinct.contains(first), "the first ones are always there");
            }
            found.extend(distinct);
        }
        let hidden = all.len() - found.len();
        assert!(hidden < MANY / 1_000, "{hidden} are hidden");

        // Where there are more rows than are looked at, each may be the first one all the same.
        let mut starts = BTreeSet::new();
        for seed in 0..LOOKUPS {
            let mut rng = Rng::with_seed(seed);
            let start = snapshot.row_of_name(&name, all[300], 8, &mut rng);
            starts.insert(start.expect("reads"));
        }
        let rows = starts.len();
        let mean = MANY / rows;
        assert!(mean < 512, "{rows} rows are not all");
    }
}
