//! The records of the benchmarks: all follow from a number, so that nobody has to keep them.

use std::net::Ipv4Addr;

use vecino_grpc::v1;
use vecino_rest::Digest;

/// Peers that a filled directory has.
pub(crate) const PEERS: u64 = 10_000;

/// A number that looks random and follows from `number` (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// 22 bytes for the first hundred million. The folder spreads what one peer holds over all names.
pub(crate) fn name(number: u64) -> String {
    format!("{:04x}/file-{number:08}.bin", mixed(number) >> 48)
}

pub(crate) fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

pub(crate) fn record(number: u64) -> v1::Record {
    v1::Record {
        name: name(number),
        digest: digest(number).as_bytes().to_vec().into(),
        size: 1_000_000 + number,
        modified_ms: 1_700_000_000_000 + number.cast_signed(),
        partial: false,
    }
}

/// What another store keeps of a record under its name: digest, size, time and the holder's id.
pub(crate) fn value(number: u64, peer: u64) -> [u8; 64] {
    let mut value = [0; 64];
    value[..32].copy_from_slice(digest(number).as_bytes());
    value[32..40].copy_from_slice(&(1_000_000 + number).to_le_bytes());
    value[40..48].copy_from_slice(&(1_700_000_000_000 + number).to_le_bytes());
    value[48..].copy_from_slice(&u128::from(peer).to_le_bytes());
    value
}

/// The numbers of the records that one of `peers` peers holds, of `total`.
pub(crate) fn of_peer(peer: u64, peers: u64, total: u64) -> impl Iterator<Item = u64> + Send {
    (peer..total).step_by(usize::try_from(peers).unwrap_or(usize::MAX))
}

/// The loopback address of a peer.
pub(crate) fn address(peer: u64) -> Ipv4Addr {
    // Not 127.0.0.1, where the servers are.
    Ipv4Addr::from_bits(0x7f01_0000 + u32::try_from(peer).unwrap_or(0))
}
