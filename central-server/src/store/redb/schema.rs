//! The tables and their keys, and the rows of peers and accounts. Changing anything here or in
//! [`rows`](super::rows) changes [`FORMAT`].
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | text | bytes |
//! | `peers` | peer | state, token, id, URL, site, session |
//! | `peer_ids` | peer id | peer |
//! | `accounts` | user | stamp, made at, hash of the password |
//! | `known` | resource | from there on: resource, name, digest, size, modified, its holders while they are few |
//! | `named` | name, 0, resource | from there on: name, resource |
//! | `termed` | term, 0, resource | from there on: term, resource |
//! | `identities` | first 6 bytes of the digest, keyed hash of name and digest (3), resource | |
//! | `crowds` | resource, peer | |
//! | `held` | peer, resource and bucket | further resources and buckets |
//! | `prints` | peer, bucket / 32 | sum and count of each bucket that is not empty |
//!
//! Numbers in keys are big-endian, so that ranges are in their order: a peer takes 4 bytes, a
//! resource 6 (2^48 are never used up). `known`, `named` and `termed` are in rows of many entries
//! ([`cut`](super::cut)), `held` is of lists that are cut into rows ([`lists`](super::lists)). The terms
//! that are names are not in `termed`: `named` is in their order. Hashes are keyed with a secret of the
//! file, so that nobody can choose names or digests that collide; what is known of the resource decides
//! what a hash may mean.

use redb::TableDefinition;
use vecino_rest::{Digest, Name, PeerId, UserName};

use crate::store::{Account, PeerNo, PeerRow, PeerState, ResourceNo, Session, StoreError};

/// Version of everything in these modules.
pub(super) const FORMAT: u32 = 5;
/// What `meta` has under `application` in a file of ours.
pub(super) const APPLICATION: &[u8] = b"vecino locator";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");
pub(super) const PEER_IDS: TableDefinition<'_, &[u8; 16], u32> = TableDefinition::new("peer_ids");
pub(super) const KNOWN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("known");
pub(super) const NAMED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("named");
pub(super) const TERMED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("termed");
pub(super) const IDENTITIES: TableDefinition<'_, &[u8; 15], ()> =
    TableDefinition::new("identities");
pub(super) const CROWDS: TableDefinition<'_, &[u8; 10], ()> = TableDefinition::new("crowds");
pub(super) const HELD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("held");
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
pub(super) const NO: usize = 6;

/// The row of a table does not have its form: the file is damaged.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Engine(format!("the store file is damaged: {what}"))
}

pub(super) fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut end = 0;
    for part in parts {
        key[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    debug_assert_eq!(end, N);
    key
}

pub(super) fn no(resource: ResourceNo) -> [u8; NO] {
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

/// Bytes of a digest in a key.
pub(super) const DIGEST: usize = 6;
/// Bytes of a keyed hash in a key.
pub(super) const TAG: usize = 3;

/// What the keys of `identities` begin with under one name and digest.
pub(super) type Identity = [u8; DIGEST + TAG];

/// A key of `identities`.
pub(super) type IdentityKey = [u8; DIGEST + TAG + NO];

/// A range of keys, both ends included.
pub(super) type Range<K> = (K, K);

impl Keys {
    pub(super) fn identity(&self, name: &Name, digest: &Digest) -> Identity {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher
            .update(digest.as_bytes())
            .update(name.as_str().as_bytes());
        let tag = hasher.finalize();
        concat(&[&digest.as_bytes()[..DIGEST], &tag.as_bytes()[..TAG]])
    }
}

pub(super) fn identity(identity: &Identity, resource: ResourceNo) -> IdentityKey {
    concat(&[identity, &no(resource)])
}

pub(super) fn of_identity(its: &Identity) -> Range<IdentityKey> {
    (identity(its, ResourceNo(0)), identity(its, ResourceNo::MAX))
}

pub(super) fn of_digest(digest: &Digest) -> Range<IdentityKey> {
    let first = &digest.as_bytes()[..DIGEST];
    (
        concat(&[first, &[0; TAG + NO]]),
        concat(&[first, &[0xff; TAG + NO]]),
    )
}

/// A place in the range of a digest: any, as the number is any.
pub(super) fn amid_digest(digest: &Digest, any: u32) -> IdentityKey {
    let [tag @ .., _] = any.to_le_bytes();
    concat(&[&digest.as_bytes()[..DIGEST], &tag, &[0; NO]])
}

/// A text with a resource, in the order of the texts, which have no zero.
pub(super) fn text(text: &[u8], resource: ResourceNo) -> Vec<u8> {
    [text, &[0], &no(resource)].concat()
}

pub(super) fn read_text(key: &[u8]) -> Option<(&[u8], ResourceNo)> {
    let text = key.get(..key.len().checked_sub(1 + NO)?)?;
    Some((text, resource_at_end(key)?))
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
