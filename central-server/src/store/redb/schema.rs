//! The tables and their keys, and the rows of peers and accounts. Changing anything here or in
//! [`rows`](super::rows) changes [`FORMAT`].
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | text | bytes |
//! | `peers` | peer | state, token, id, URL, site, session |
//! | `peer_ids` | peer id | peer |
//! | `accounts` | user | stamp, made at, hash of the password |
//! | `names` | name, 0, resource | digest, size, modified, its holders while they are few |
//! | `crowds` | resource, peer | |
//! | `digests` | first 8 bytes of the digest, keyed hash of name and digest (4), resource | |
//! | `numbers` | resource / 16 | the names of those 16 resources |
//! | `held` | peer, resource and bucket | further resources and buckets |
//! | `words` | term, 0, resource | further resources |
//! | `prints` | peer, bucket / 32 | sum and count of each bucket that is not empty |
//!
//! Numbers in keys are big-endian, so that ranges are in their order: a peer takes 4 bytes, a
//! resource 6 (2^48 are never used up). `held` and `words` are ordered lists that are cut into rows
//! ([`lists`](super::lists)). The terms that are names have no rows of their own: `names` is in
//! their order. Hashes are keyed with a secret of the file, so that nobody can choose names or
//! digests that collide; the row of `names` decides what a hash may mean.

use redb::TableDefinition;
use vecino_rest::{Digest, Name, PeerId, UserName};

use crate::store::{Account, PeerNo, PeerRow, PeerState, ResourceNo, Session, StoreError};

/// Version of everything in these modules.
pub(super) const FORMAT: u32 = 4;
/// What `meta` has under `application` in a file of ours.
pub(super) const APPLICATION: &[u8] = b"vecino locator";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");
pub(super) const PEER_IDS: TableDefinition<'_, &[u8; 16], u32> = TableDefinition::new("peer_ids");
pub(super) const NAMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("names");
pub(super) const CROWDS: TableDefinition<'_, &[u8; 10], ()> = TableDefinition::new("crowds");
pub(super) const DIGESTS: TableDefinition<'_, &[u8; 18], ()> = TableDefinition::new("digests");
pub(super) const NUMBERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("numbers");
pub(super) const HELD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("held");
pub(super) const WORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("words");
pub(super) const PRINTS: TableDefinition<'_, &[u8; 5], &[u8]> = TableDefinition::new("prints");
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

/// What the keys of `digests` begin with under one name and digest.
pub(super) type Identity = [u8; 12];

/// A range of keys, both ends included.
pub(super) type Range<const N: usize> = ([u8; N], [u8; N]);

impl Keys {
    pub(super) fn identity(&self, name: &Name, digest: &Digest) -> Identity {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher
            .update(digest.as_bytes())
            .update(name.as_str().as_bytes());
        let tag = hasher.finalize();
        concat(&[&digest.as_bytes()[..8], &tag.as_bytes()[..4]])
    }
}

pub(super) fn digest(identity: &Identity, resource: ResourceNo) -> [u8; 18] {
    concat(&[identity, &no(resource)])
}

pub(super) fn of_identity(identity: &Identity) -> Range<18> {
    (
        digest(identity, ResourceNo(0)),
        digest(identity, ResourceNo::MAX),
    )
}

pub(super) fn of_digest(digest: &Digest) -> Range<18> {
    let first = &digest.as_bytes()[..8];
    (concat(&[first, &[0; 10]]), concat(&[first, &[0xff; 10]]))
}

pub(super) fn name(name: &str, resource: ResourceNo) -> Vec<u8> {
    [name.as_bytes(), &[0], &no(resource)].concat()
}

/// The name and the resource of a key of `names`.
pub(super) fn read_name(key: &[u8]) -> Option<(&str, ResourceNo)> {
    let name = key.get(..key.len().checked_sub(1 + NO)?)?;
    Some((std::str::from_utf8(name).ok()?, resource_at_end(key)?))
}

/// What the keys of `words` begin with under one term, up to the number.
pub(super) fn word(term: &str) -> Vec<u8> {
    [term.as_bytes(), &[0]].concat()
}

pub(super) fn crowd(resource: ResourceNo, peer: PeerNo) -> [u8; 10] {
    concat(&[&no(resource), &peer.0.to_be_bytes()])
}

pub(super) fn peer_of_crowd(key: &[u8; 10]) -> PeerNo {
    let peer: &[u8; 4] = key.last_chunk().expect("10 bytes");
    PeerNo(u32::from_be_bytes(*peer))
}

pub(super) fn print(peer: PeerNo, group: u8) -> [u8; 5] {
    concat(&[&peer.0.to_be_bytes(), &[group]])
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
