//! The tables and how their rows are spelled. Changing anything here changes [`FORMAT`].
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | text | bytes |
//! | `peers` | peer | state, token, id, URL, site, session |
//! | `peer_ids` | peer id | peer |
//! | `buckets` | peer, bucket | sum and count of the bucket's records |
//! | `resources` | resource | digest, size, modified, name |
//! | `by_name` | keyed hash of the name (8), of name and digest (4), resource | |
//! | `by_digest` | first 8 bytes of the digest, resource | |
//! | `holders` | resource, peer | |
//! | `by_peer` | peer, bucket, resource | |
//! | `terms` | term, 0, resource | |
//! | `accounts` | user | stamp, made at, hash of the password |
//!
//! Numbers in keys are big-endian, so that ranges are in their order: a peer takes 4 bytes, a
//! resource 6 (2^48 are never used up). Hashes are keyed with a secret of the file, so that
//! nobody can choose names that collide; the resource row decides what a hash may mean.

use redb::TableDefinition;
use vecino_rest::{Digest, Name, PeerId, UserName};

use crate::store::{
    Account, PeerNo, PeerRow, PeerState, Resource, ResourceNo, Session, StoreError,
    fingerprint::Bucket,
};

/// Version of everything in this module.
pub(super) const FORMAT: u32 = 3;
/// A format before, without accounts and sessions; it is brought up to date when it is opened.
pub(super) const FORMAT_WITHOUT_ACCOUNTS: u32 = 2;
/// The one before that, in which names were no terms either.
pub(super) const FORMAT_WITHOUT_NAMES: u32 = 1;
/// What `meta` has under `application` in a file of ours.
pub(super) const APPLICATION: &[u8] = b"vecino locator";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");
pub(super) const PEER_IDS: TableDefinition<'_, &[u8; 16], u32> = TableDefinition::new("peer_ids");
pub(super) const BUCKETS: TableDefinition<'_, &[u8; 5], &[u8; Bucket::LEN]> =
    TableDefinition::new("buckets");
pub(super) const RESOURCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("resources");
pub(super) const BY_NAME: TableDefinition<'_, &[u8; 18], ()> = TableDefinition::new("by_name");
pub(super) const BY_DIGEST: TableDefinition<'_, &[u8; 14], ()> = TableDefinition::new("by_digest");
pub(super) const HOLDERS: TableDefinition<'_, &[u8; 10], ()> = TableDefinition::new("holders");
pub(super) const BY_PEER: TableDefinition<'_, &[u8; 11], ()> = TableDefinition::new("by_peer");
pub(super) const TERMS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("terms");
pub(super) const ACCOUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");

/// Keys of `meta`.
pub(super) mod meta {
    pub(in super::super) const APPLICATION: &str = "application";
    pub(in super::super) const FORMAT: &str = "format";
    pub(in super::super) const HASH_KEY: &str = "hash_key";
    pub(in super::super) const COUNTERS: &str = "counters";
    /// The checksum of the export that is being imported.
    pub(in super::super) const IMPORTING: &str = "importing";
}

/// Bytes of a resource's number in a key.
const NO: usize = 6;

/// The row of a table does not have its form: the file is damaged.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Engine(format!("the store file is damaged: {what}"))
}

fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut end = 0;
    for part in parts {
        key[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    debug_assert_eq!(end, N);
    key
}

fn no(resource: ResourceNo) -> [u8; NO] {
    let [_, _, bytes @ ..] = resource.0.to_be_bytes();
    bytes
}

/// The resource at the end of a key.
pub(super) fn resource_at_end(key: &[u8]) -> Option<ResourceNo> {
    let bytes: &[u8; NO] = key.last_chunk()?;
    let [a, b, c, d, e, f] = *bytes;
    Some(ResourceNo(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
}

/// The keyed hashes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) secret: [u8; 32],
}

/// All keys of `by_name` under one name, or under one name and digest.
pub(super) type NameRange = ([u8; 18], [u8; 18]);

impl Keys {
    fn name_hash(&self, name: &Name) -> [u8; 8] {
        let hash = blake3::keyed_hash(&self.secret, name.as_str().as_bytes());
        *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    /// Hash of the name, then of name and digest.
    pub(super) fn identity(&self, name: &Name, digest: &Digest) -> [u8; 12] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher
            .update(digest.as_bytes())
            .update(name.as_str().as_bytes());
        let tag = hasher.finalize();
        let tag: &[u8; 4] = tag.as_bytes().first_chunk().expect("a hash has 32 bytes");
        concat(&[&self.name_hash(name), tag])
    }

    pub(super) fn of_name(&self, name: &Name) -> NameRange {
        let hash = self.name_hash(name);
        (concat(&[&hash, &[0; 10]]), concat(&[&hash, &[0xff; 10]]))
    }
}

pub(super) fn of_identity(identity: &[u8; 12]) -> NameRange {
    (
        concat(&[identity, &[0; NO]]),
        concat(&[identity, &[0xff; NO]]),
    )
}

pub(super) fn by_name(identity: &[u8; 12], resource: ResourceNo) -> [u8; 18] {
    concat(&[identity, &no(resource)])
}

pub(super) fn by_digest(digest: &Digest, resource: ResourceNo) -> [u8; 14] {
    concat(&[&digest.as_bytes()[..8], &no(resource)])
}

pub(super) fn of_digest(digest: &Digest) -> ([u8; 14], [u8; 14]) {
    (
        by_digest(digest, ResourceNo(0)),
        by_digest(digest, ResourceNo::MAX),
    )
}

pub(super) fn holder(resource: ResourceNo, peer: PeerNo) -> [u8; 10] {
    concat(&[&no(resource), &peer.0.to_be_bytes()])
}

pub(super) fn peer_of_holder(key: &[u8; 10]) -> PeerNo {
    let peer: &[u8; 4] = key.last_chunk().expect("10 bytes");
    PeerNo(u32::from_be_bytes(*peer))
}

pub(super) fn by_peer(peer: PeerNo, bucket: u8, resource: ResourceNo) -> [u8; 11] {
    concat(&[&peer.0.to_be_bytes(), &[bucket], &no(resource)])
}

/// All rows of `by_peer` in some buckets of a peer.
pub(super) fn of_peer(peer: PeerNo, first: u8, last: u8) -> ([u8; 11], [u8; 11]) {
    (
        by_peer(peer, first, ResourceNo(0)),
        by_peer(peer, last, ResourceNo::MAX),
    )
}

pub(super) fn bucket(peer: PeerNo, bucket: u8) -> [u8; 5] {
    concat(&[&peer.0.to_be_bytes(), &[bucket]])
}

pub(super) fn term(term: &str, resource: ResourceNo) -> Vec<u8> {
    [term.as_bytes(), &[0], &no(resource)].concat()
}

/// The term and the resource of a key of `terms`.
pub(super) fn read_term(key: &[u8]) -> Option<(&str, ResourceNo)> {
    let term = key.get(..key.len().checked_sub(1 + NO)?)?;
    Some((std::str::from_utf8(term).ok()?, resource_at_end(key)?))
}

pub(super) fn resource_row(resource: &Resource) -> Vec<u8> {
    let name = resource.name.as_str().as_bytes();
    let mut row = Vec::with_capacity(32 + 12 + name.len());
    row.extend_from_slice(resource.digest.as_bytes());
    write_varint(&mut row, resource.size);
    // Zigzag: small magnitudes of either sign are short.
    let modified = resource.modified_ms;
    write_varint(
        &mut row,
        ((modified << 1) ^ (modified >> 63)).cast_unsigned(),
    );
    row.extend_from_slice(name);
    row
}

pub(super) fn read_resource(row: &[u8]) -> Result<Resource, StoreError> {
    let read = || {
        let (digest, mut rest) = row.split_first_chunk::<32>()?;
        let size = read_varint(&mut rest)?;
        let zigzag = read_varint(&mut rest)?;
        let name = Name::parse(std::str::from_utf8(rest).ok()?).ok()?;
        Some(Resource {
            name,
            digest: Digest::from_bytes(*digest),
            size,
            modified_ms: (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed(),
        })
    };
    read().ok_or_else(|| damaged("a resource"))
}

/// LEB128.
fn write_varint(row: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        row.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    row.push(value.to_le_bytes()[0]);
}

fn read_varint(row: &mut &[u8]) -> Option<u64> {
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

const PRESENT: u8 = 0;
const LAPSED: u8 = 1;

/// Bits of a peer's flags.
const URL_IS_OBSERVED: u8 = 1;
const HAS_SESSION: u8 = 2;

pub(super) fn peer_row(peer: &PeerRow) -> Vec<u8> {
    let (state, at_ms) = match peer.state {
        PeerState::Present => (PRESENT, 0),
        PeerState::Lapsed(at_ms) => (LAPSED, at_ms),
    };
    let observed = u8::from(peer.url_is_observed) * URL_IS_OBSERVED;
    let session = u8::from(peer.session.is_some()) * HAS_SESSION;
    let site_bytes = u8::try_from(peer.site.len()).expect("a site has at most 64 bytes");
    let mut row = vec![state, observed | session, site_bytes];
    row.extend_from_slice(&at_ms.to_le_bytes());
    row.extend_from_slice(&peer.token);
    row.extend_from_slice(peer.id.as_bytes());
    row.extend_from_slice(peer.site.as_bytes());
    if let Some(session) = &peer.session {
        let user = session.user.as_str().as_bytes();
        row.push(u8::try_from(user.len()).expect("a user has at most 64 bytes"));
        row.extend_from_slice(user);
        row.extend_from_slice(&session.stamp.to_le_bytes());
        row.extend_from_slice(&session.token);
        row.extend_from_slice(&session.ends_ms.to_le_bytes());
    }
    row.extend_from_slice(peer.url.as_bytes());
    row
}

pub(super) fn read_peer(row: &[u8]) -> Result<PeerRow, StoreError> {
    let read = || {
        let ([state, flags, site_bytes], rest) = row.split_first_chunk::<3>()?;
        let (at_ms, rest) = rest.split_first_chunk::<8>()?;
        let (token, rest) = rest.split_first_chunk::<32>()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (site, mut rest) = rest.split_at_checked(usize::from(*site_bytes))?;
        let session = match flags & HAS_SESSION {
            0 => None,
            _ => Some(read_session(&mut rest)?),
        };
        Some(PeerRow {
            id: PeerId::from_bytes(*id),
            url: std::str::from_utf8(rest).ok()?.to_owned(),
            site: std::str::from_utf8(site).ok()?.to_owned(),
            token: *token,
            url_is_observed: flags & URL_IS_OBSERVED != 0,
            state: match *state {
                PRESENT => PeerState::Present,
                LAPSED => PeerState::Lapsed(i64::from_le_bytes(*at_ms)),
                _ => return None,
            },
            session,
        })
    };
    read().ok_or_else(|| damaged("a peer"))
}

fn read_session(row: &mut &[u8]) -> Option<Session> {
    let (user_bytes, rest) = row.split_first()?;
    let (user, rest) = rest.split_at_checked(usize::from(*user_bytes))?;
    let (stamp, rest) = rest.split_first_chunk::<8>()?;
    let (token, rest) = rest.split_first_chunk::<32>()?;
    let (ends_ms, rest) = rest.split_first_chunk::<8>()?;
    *row = rest;
    Some(Session {
        user: UserName::parse(std::str::from_utf8(user).ok()?).ok()?,
        stamp: u64::from_le_bytes(*stamp),
        token: *token,
        ends_ms: i64::from_le_bytes(*ends_ms),
    })
}

pub(super) fn account_row(account: &Account) -> Vec<u8> {
    let mut row = account.stamp.to_le_bytes().to_vec();
    row.extend_from_slice(&account.created_ms.to_le_bytes());
    row.extend_from_slice(account.password.as_bytes());
    row
}

pub(super) fn read_account(user: &str, row: &[u8]) -> Result<Account, StoreError> {
    let read = || {
        let (stamp, rest) = row.split_first_chunk::<8>()?;
        let (created_ms, password) = rest.split_first_chunk::<8>()?;
        Some(Account {
            user: UserName::parse(user).ok()?,
            password: std::str::from_utf8(password).ok()?.to_owned(),
            stamp: u64::from_le_bytes(*stamp),
            created_ms: i64::from_le_bytes(*created_ms),
        })
    };
    read().ok_or_else(|| damaged("an account"))
}

/// The numbers that the next things get, and how many things there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) next_peer: u64,
    pub(super) next_resource: u64,
    pub(super) epoch: u64,
    pub(super) peers: u64,
    pub(super) resources: u64,
    pub(super) records: u64,
}

impl Counters {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Self {
            next_peer,
            next_resource,
            epoch,
            peers,
            resources,
            records,
        } = self;
        let all = [next_peer, next_resource, epoch, peers, resources, records];
        all.iter()
            .flat_map(|counter| counter.to_le_bytes())
            .collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut counters = bytes
            .chunks_exact(8)
            .map(|counter| u64::from_le_bytes(counter.try_into().expect("chunks of 8")));
        let mut next = || counters.next();
        Some(Self {
            next_peer: next()?,
            next_resource: next()?,
            epoch: next()?,
            peers: next()?,
            resources: next()?,
            records: next()?,
        })
    }
}
