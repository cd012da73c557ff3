//! How what is in rows is spelled: numbers, texts, what is known of a resource; and rows of `prints`.

use vecino_rest::Digest;

use super::schema::damaged;
use crate::store::Live;
use crate::store::{Fingerprints, PeerNo, StoreError, fingerprint::Bucket, holders::gather};

/// Holders that are told with a resource. With more, all of them are in `crowds`.
pub(super) const FEW: usize = 8;
/// A crowd that shrank to so many goes back to its resource: not at once, lest a peer that comes and
/// goes moves all others to and fro.
pub(super) const FEW_AGAIN: usize = 4;
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

pub(super) fn read_length(row: &mut &[u8]) -> Option<usize> {
    usize::try_from(read_varint(row)?).ok()
}

/// Zigzag: small magnitudes of either sign are short.
pub(super) fn read_signed(row: &mut &[u8]) -> Option<i64> {
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

/// What is known of a resource beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) modified_ms: i64,
    pub(super) holders: Holders,
}

impl Facts {
    /// What the first ones of a row are told by.
    pub(super) fn none() -> Self {
        Self {
            digest: Digest::from_bytes([0; 32]),
            size: 0,
            modified_ms: 0,
            holders: Holders::Crowd,
        }
    }

    /// Writes them behind those of `last`. Files of a peer are often of about the same time.
    pub(super) fn write(&self, last: &Self, row: &mut Vec<u8>) {
        row.extend_from_slice(self.digest.as_bytes());
        write_varint(row, self.size);
        let step = self.modified_ms.wrapping_sub(last.modified_ms);
        write_varint(row, ((step << 1) ^ (step >> 63)).cast_unsigned());
        match &self.holders {
            Holders::Crowd => row.push(0),
            Holders::Few(few) => {
                write_varint(row, few.count as u64);
                let mut last = 0;
                for peer in few.numbers() {
                    write_varint(row, u64::from(peer - last));
                    last = *peer;
                }
            }
        }
    }

    /// Becomes those that follow them in a row.
    pub(super) fn read_next(&mut self, row: &mut &[u8]) -> Option<()> {
        let (digest, rest) = row.split_first_chunk::<32>()?;
        *row = rest;
        self.digest = Digest::from_bytes(*digest);
        self.size = read_varint(row)?;
        self.modified_ms = self.modified_ms.wrapping_add(read_signed(row)?);
        let count = read_length(row)?;
        if count == 0 {
            self.holders = Holders::Crowd;
            return Some(());
        }
        let mut few = Few::default();
        let mut last = 0;
        for place in few.peers.get_mut(..count)? {
            let step = u32::try_from(read_varint(row)?).ok()?;
            last = step.checked_add(last)?;
            *place = last;
        }
        few.count = count;
        self.holders = Holders::Few(few);
        Some(())
    }
}

/// How many bytes two texts have in common at their beginning.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Writes `text` by what it has in common with `last`.
pub(super) fn write_common(row: &mut Vec<u8>, last: &[u8], text: &[u8]) {
    let common = common(last, text);
    write_varint(row, common as u64);
    write_varint(row, (text.len() - common) as u64);
    row.extend_from_slice(&text[common..]);
}

/// Reads a text over the one before.
pub(super) fn read_common(row: &mut &[u8], text: &mut Vec<u8>) -> Option<()> {
    let (common, more) = (read_length(row)?, read_length(row)?);
    let (more, rest) = row.split_at_checked(more)?;
    *row = rest;
    (common <= text.len()).then(|| {
        text.truncate(common);
        text.extend_from_slice(more);
    })
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
