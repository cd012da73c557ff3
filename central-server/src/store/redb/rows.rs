//! How the rows of records are spelled: of `names`, of `numbers` and of `prints`.

use vecino_rest::{Digest, Name};

use super::schema::damaged;
use crate::store::Live;
use crate::store::{
    Fingerprints, PeerNo, Resource, ResourceNo, StoreError, fingerprint::Bucket, holders::gather,
};

/// Holders that a row of `names` has room for. With more, all of them are in `crowds`.
pub(super) const FEW: usize = 8;
/// A crowd that shrank to so many goes back into the row: not at once, lest a peer that comes and
/// goes moves all others to and fro.
pub(super) const FEW_AGAIN: usize = 4;
/// Names in one row of `numbers`.
pub(super) const BLOCK: u64 = 16;
/// Buckets in one row of `prints`.
pub(super) const GROUP: usize = 32;

/// LEB128.
pub(super) fn write_varint(row: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        row.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    row.push(value.to_le_bytes()[0]);
}

pub(super) fn read_varint(row: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = row.split_first()?;
        *row = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn read_length(row: &mut &[u8]) -> Option<usize> {
    usize::try_from(read_varint(row)?).ok()
}

/// A time; zigzag: small magnitudes of either sign are short.
pub(super) fn read_modified(row: &mut &[u8]) -> Option<i64> {
    let zigzag = read_varint(row)?;
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// Who holds a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holders {
    /// These, in order.
    Few(Few),
    /// Those in `crowds`.
    Crowd,
}

/// Some peers in order, at most [`FEW`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Few {
    peers: [u32; FEW],
    count: usize,
}

impl Few {
    pub(super) fn of(peer: PeerNo) -> Self {
        let mut few = Self::default();
        few.insert(peer);
        few
    }

    fn numbers(&self) -> &[u32] {
        &self.peers[..self.count]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == FEW
    }

    pub(super) fn contains(&self, peer: PeerNo) -> bool {
        self.numbers().contains(&peer.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = PeerNo> + '_ {
        self.numbers().iter().map(|peer| PeerNo(*peer))
    }

    /// Adds a peer that is not there; there is room.
    pub(super) fn insert(&mut self, peer: PeerNo) {
        let place = self.numbers().partition_point(|known| *known < peer.0);
        self.peers.copy_within(place..self.count, place + 1);
        self.peers[place] = peer.0;
        self.count += 1;
    }

    /// Whether the peer was there.
    pub(super) fn remove(&mut self, peer: PeerNo) -> bool {
        let Some(place) = self.numbers().iter().position(|known| *known == peer.0) else {
            return false;
        };
        self.peers.copy_within(place + 1..self.count, place);
        self.count -= 1;
        true
    }

    /// Those that are live, beginning at `start` and wrapping around, or those of `only`.
    pub(super) fn live(
        &self,
        start: PeerNo,
        only: Option<&[PeerNo]>,
        live: &dyn Live,
        budget: &mut usize,
    ) -> Result<Vec<PeerNo>, StoreError> {
        if let Some(only) = only {
            let held = only.iter().filter(|peer| self.contains(**peer));
            return gather(held.map(|peer| Ok(*peer)), live, budget);
        }
        let place = self.numbers().partition_point(|known| *known < start.0);
        let (before, after) = self.numbers().split_at(place);
        let rows = after.iter().chain(before);
        gather(rows.map(|peer| Ok(PeerNo(*peer))), live, budget)
    }
}

/// A row of `names`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameRow {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) modified_ms: i64,
    pub(super) holders: Holders,
}

impl NameRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(64);
        row.extend_from_slice(self.digest.as_bytes());
        write_varint(&mut row, self.size);
        let modified = self.modified_ms;
        write_varint(
            &mut row,
            ((modified << 1) ^ (modified >> 63)).cast_unsigned(),
        );
        if let Holders::Few(few) = &self.holders {
            let mut last = 0;
            for peer in few.numbers() {
                write_varint(&mut row, u64::from(peer - last));
                last = *peer;
            }
        }
        row
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let read = || {
            let (digest, mut rest) = bytes.split_first_chunk::<32>()?;
            let size = read_varint(&mut rest)?;
            let modified_ms = read_modified(&mut rest)?;
            let holders = if rest.is_empty() {
                Holders::Crowd
            } else {
                let mut few = Few::default();
                let mut last = 0;
                while !rest.is_empty() {
                    let step = u32::try_from(read_varint(&mut rest)?).ok()?;
                    last = step.checked_add(last)?;
                    *few.peers.get_mut(few.count)? = last;
                    few.count += 1;
                }
                Holders::Few(few)
            };
            Some(Self {
                digest: Digest::from_bytes(*digest),
                size,
                modified_ms,
                holders,
            })
        };
        read().ok_or_else(|| damaged("a resource"))
    }

    pub(super) fn resource(&self, name: Name) -> Resource {
        Resource {
            name,
            digest: self.digest,
            size: self.size,
            modified_ms: self.modified_ms,
        }
    }
}

/// The names of [`BLOCK`] resources, by the place in their row and in its order. Each is told by what
/// it has in common with the one before.
#[derive(Debug, Default)]
pub(super) struct Block(Vec<(u8, String)>);

/// The row of `numbers` of a resource, and its place there.
pub(super) fn place(no: ResourceNo) -> (u64, u8) {
    let place = u8::try_from(no.0 % BLOCK).expect("less than 16");
    (no.0 / BLOCK, place)
}

impl Block {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.0.len() * 32);
        let mut last: &[u8] = &[];
        for (place, name) in &self.0 {
            let name = name.as_bytes();
            let common = last.iter().zip(name).take_while(|(a, b)| a == b).count();
            row.push(*place);
            write_varint(&mut row, common as u64);
            write_varint(&mut row, (name.len() - common) as u64);
            row.extend_from_slice(&name[common..]);
            last = name;
        }
        row
    }

    pub(super) fn read(mut row: &[u8]) -> Result<Self, StoreError> {
        let mut names = Vec::new();
        let mut buffer = Vec::new();
        while let Some(place) = next_name(&mut row, &mut buffer)? {
            let name = String::from_utf8(buffer.clone()).map_err(|_| damaged("a name"))?;
            names.push((place, name));
        }
        Ok(Self(names))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, place: u8) -> Option<&str> {
        let found = self.0.binary_search_by_key(&place, |(place, _)| *place);
        Some(&self.0[found.ok()?].1)
    }

    pub(super) fn insert(&mut self, place: u8, name: &str) {
        match self.0.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(known) => name.clone_into(&mut self.0[known].1),
            Err(index) => self.0.insert(index, (place, name.to_owned())),
        }
    }

    pub(super) fn remove(&mut self, place: u8) {
        self.0.retain(|(known, _)| *known != place);
    }
}

/// Reads the next name of a row of `numbers` over the one before; its place.
fn next_name(row: &mut &[u8], name: &mut Vec<u8>) -> Result<Option<u8>, StoreError> {
    let Some((place, rest)) = row.split_first() else {
        return Ok(None);
    };
    *row = rest;
    let mut read = || {
        let (common, more) = (read_length(row)?, read_length(row)?);
        let (more, rest) = row.split_at_checked(more)?;
        *row = rest;
        (common <= name.len()).then(|| {
            name.truncate(common);
            name.extend_from_slice(more);
        })
    };
    read().ok_or_else(|| damaged("a name"))?;
    Ok(Some(*place))
}

/// The name at one place of a row of `numbers`.
pub(super) fn name_at(mut row: &[u8], place: u8) -> Result<Option<String>, StoreError> {
    let mut name = Vec::new();
    while let Some(at) = next_name(&mut row, &mut name)? {
        if at == place {
            let name = String::from_utf8(name).map_err(|_| damaged("a name"))?;
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The buckets of one group that are not empty.
pub(super) fn prints_row(buckets: &[Bucket]) -> Vec<u8> {
    let mut row = Vec::new();
    for (place, bucket) in (0..).zip(buckets) {
        if bucket.count > 0 {
            row.push(place);
            row.extend_from_slice(&bucket.sum.to_le_bytes());
            write_varint(&mut row, u64::from(bucket.count));
        }
    }
    row
}

/// Reads the buckets of one group into the fingerprints of a peer.
pub(super) fn read_prints(
    group: u8,
    mut row: &[u8],
    all: &mut Fingerprints,
) -> Result<(), StoreError> {
    let first = usize::from(group) * GROUP;
    while !row.is_empty() {
        let mut read = || {
            let (place, rest) = row.split_first()?;
            let (sum, rest) = rest.split_first_chunk::<16>()?;
            row = rest;
            let bucket = all.0.get_mut(first + usize::from(*place))?;
            bucket.sum = u128::from_le_bytes(*sum);
            bucket.count = u32::try_from(read_varint(&mut row)?).ok()?;
            Some(())
        };
        read().ok_or_else(|| damaged("fingerprints"))?;
    }
    Ok(())
}
