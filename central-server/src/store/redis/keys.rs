//! Where things are in the cluster, and how they are spelled.
//!
//! Each record is kept twice: by name, to be located by its name in one command, and by digest.
//! Both sides are of the same form and each is in [`PARTS`] parts; all keys of a part share a hash
//! tag, so that a script changes a part at once. Of a part `P`:
//!
//! | key | type | entries |
//! | --- | --- | --- |
//! | `P:rows` | hash | id: share in the fingerprint, size, modified, digest, name |
//! | `P:holders` | sorted set | id, peer (4 bytes) |
//! | `P:held:N` | sorted set | what peer N holds: bucket, id |
//! | `P:sums:N` | hash | bucket, or `all`: sum of the shares, number of records |
//! | `P:terms` | sorted set | by name only: term, 0, rest of the id, key of the id |
//!
//! An id has 24 bytes: its key (8 bytes of a hash of the name, or of the digest), 8 bytes of a hash
//! of name and digest, the size. Sorted sets have scores of 0 and are read by ranges of bytes.
//!
//! Peers are in [`SHARDS`] shards. Of a shard `S`: `S:rows` (hash: number to epoch and row),
//! `S:kept` (hash: number to epoch and free bytes), `S:seen` (sorted set: number by the time of its
//! last keep-alive), `S:gone` (by the time at which it lapsed). Accounts are in as many shards, by a
//! hash of the user's name. Of a shard `A`: `A:rows` (hash: name to stamp, time and password's
//! hash), `A:users` (sorted set of the names, for listing). `{NS.id.ID}` has the number of
//! the peer with that id, `{NS.numbers}` the last number given, `{NS.store}` the id of the store,
//! `{NS.store}:importing` the checksum of an export whose import has not come to its end, and
//! `{NS.store}:accounts` with which accounts each locator runs (sorted set, by how long that holds).

use vecino_rest::{Digest, Name, PeerId, UserName, terms::terms_of};

use crate::store::{
    Account, Found, PeerNo, PeerRow, PeerState, Position, Resource, ResourceNo, Session,
    StoreError, bucket_of, fingerprint::of_record,
};

/// Parts of each side.
pub(super) const PARTS: u8 = 32;
/// Shards of peers, and of accounts.
pub(super) const SHARDS: u8 = 16;
/// Bytes of an id.
const ID: usize = 24;

/// By what records are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Side {
    Names,
    Digests,
}

/// A part of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Part {
    pub(super) side: Side,
    pub(super) number: u8,
}

impl Part {
    /// All parts of a side.
    pub(super) fn all(side: Side) -> impl Iterator<Item = Self> {
        (0..PARTS).map(move |number| Self { side, number })
    }

    /// Where the records of a name are.
    pub(super) fn of_name(name: &Name) -> Self {
        Self {
            side: Side::Names,
            number: name_key(name)[0] / (u8::MAX / PARTS + 1),
        }
    }

    /// Where the records of a bucket are.
    pub(super) fn of_bucket(bucket: u8) -> Self {
        Self {
            side: Side::Digests,
            number: bucket / (u8::MAX / PARTS + 1),
        }
    }

    pub(super) fn of(side: Side, name: &Name, digest: &Digest) -> Self {
        match side {
            Side::Names => Self::of_name(name),
            Side::Digests => Self::of_bucket(bucket_of(digest)),
        }
    }

    pub(super) fn tag(self, namespace: &str) -> String {
        let side = match self.side {
            Side::Names => 'n',
            Side::Digests => 'd',
        };
        format!("{{{namespace}.{side}{:02}}}", self.number)
    }
}

/// The shard of a peer.
pub(super) fn shard_of(peer: PeerNo) -> u8 {
    u8::try_from(peer.0 % u32::from(SHARDS)).expect("there are few")
}

pub(super) fn shard(namespace: &str, number: u8) -> String {
    format!("{{{namespace}.p{number:02}}}")
}

/// The shard of an account.
pub(super) fn accounts_of(namespace: &str, user: &UserName) -> String {
    let hash = blake3::hash(user.as_str().as_bytes());
    accounts(namespace, hash.as_bytes()[0] % SHARDS)
}

pub(super) fn accounts(namespace: &str, number: u8) -> String {
    format!("{{{namespace}.a{number:02}}}")
}

pub(super) fn number_of(namespace: &str, id: &PeerId) -> String {
    format!("{{{namespace}.id.{id}}}")
}

pub(super) fn numbers(namespace: &str) -> String {
    format!("{{{namespace}.numbers}}")
}

pub(super) fn store_id(namespace: &str) -> String {
    format!("{{{namespace}.store}}")
}

fn first_8(hash: &blake3::Hash) -> [u8; 8] {
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// What the ids of a name begin with.
pub(super) fn name_key(name: &Name) -> [u8; 8] {
    first_8(&blake3::hash(name.as_str().as_bytes()))
}

/// What the ids of a digest begin with.
pub(super) fn digest_key(digest: &Digest) -> [u8; 8] {
    *digest.as_bytes().first_chunk().expect("32 bytes")
}

/// Bucket, key, and hash of name and digest: what the holdings of a name and digest begin with.
pub(super) fn holding_prefix(side: Side, name: &Name, digest: &Digest) -> Vec<u8> {
    let key = match side {
        Side::Names => name_key(name),
        Side::Digests => digest_key(digest),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(digest.as_bytes());
    hasher.update(name.as_str().as_bytes());
    let mut prefix = vec![bucket_of(digest)];
    prefix.extend_from_slice(&key);
    prefix.extend_from_slice(&first_8(&hasher.finalize()));
    prefix
}

/// Bucket and id.
pub(super) fn holding(side: Side, resource: &Resource) -> Vec<u8> {
    let mut holding = holding_prefix(side, &resource.name, &resource.digest);
    holding.extend_from_slice(&resource.size.to_be_bytes());
    debug_assert_eq!(holding.len(), 1 + ID);
    holding
}

pub(super) fn resource_row(resource: &Resource) -> Vec<u8> {
    let share = of_record(&resource.name, &resource.digest, resource.size);
    let mut row = share.to_le_bytes().to_vec();
    row.extend_from_slice(&resource.size.to_be_bytes());
    row.extend_from_slice(&resource.modified_ms.to_be_bytes());
    row.extend_from_slice(resource.digest.as_bytes());
    row.extend_from_slice(resource.name.as_str().as_bytes());
    row
}

pub(super) fn read_resource(row: &[u8]) -> Result<Resource, StoreError> {
    let read = || {
        let (_, rest) = row.split_first_chunk::<16>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (modified, rest) = rest.split_first_chunk::<8>()?;
        let (digest, name) = rest.split_first_chunk::<32>()?;
        Some(Resource {
            name: Name::parse(std::str::from_utf8(name).ok()?).ok()?,
            digest: Digest::from_bytes(*digest),
            size: u64::from_be_bytes(*size),
            modified_ms: i64::from_be_bytes(*modified),
        })
    };
    read().ok_or_else(|| foreign("a resource"))
}

/// The numbers of holders.
pub(super) fn read_holders(bytes: &[u8]) -> Vec<PeerNo> {
    let holders = bytes.chunks_exact(4);
    holders
        .map(|holder| PeerNo(u32::from_be_bytes(holder.try_into().expect("chunks of 4"))))
        .collect()
}

/// The index rows of a resource.
pub(super) fn term_rows(resource: &Resource) -> Vec<Vec<u8>> {
    let holding = holding(Side::Names, resource);
    let (key, rest) = holding[1..].split_at(8);
    let row = |term: String| [term.as_bytes(), &[0], rest, key].concat();
    terms_of(&resource.name).into_iter().map(row).collect()
}

/// The term and the number of an index row, and the id of its resource.
pub(super) fn read_term(row: &[u8]) -> Option<(Position, Vec<u8>)> {
    let (term, id) = row.split_at_checked(row.len().checked_sub(ID)?)?;
    let (rest, key) = id.split_at(ID - 8);
    let [a, b, c, d, e, f, ..] = *rest else {
        return None;
    };
    let number = ResourceNo(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
    let term = std::str::from_utf8(term.strip_suffix(&[0])?).ok()?;
    Some(((term.to_owned(), number), [key, rest].concat()))
}

/// The bound after all rows at a position.
pub(super) fn after((term, number): &Position) -> Vec<u8> {
    let [_, _, number @ ..] = number.0.to_be_bytes();
    [b"(", term.as_bytes(), &[0], &number, &[0xff; ID - 6]].concat()
}

/// The bounds of a walk over terms that begin with `prefix`, or are it.
pub(super) fn terms_from(prefix: &str) -> Vec<u8> {
    [b"[", prefix.as_bytes()].concat()
}

pub(super) fn terms_to(prefix: &str, exact: bool) -> Vec<u8> {
    // No byte of UTF-8 is 0xff.
    let end: &[u8] = if exact { &[0; 1] } else { &[] };
    [b"[", prefix.as_bytes(), end, &[0xff; ID + 1]].concat()
}

const PRESENT: u8 = 0;
const LAPSED: u8 = 1;

/// The row of a peer without the epoch that stands before it: id, token, state, whether the URL is
/// observed, since when it is gone, lengths of site and URL, both, and the session, if there is one.
/// Scripts know where these are.
pub(super) fn peer_row(peer: &PeerRow) -> Vec<u8> {
    let (state, at_ms) = match peer.state {
        PeerState::Present => (PRESENT, 0),
        PeerState::Lapsed(at_ms) => (LAPSED, at_ms),
    };
    let site_bytes = u8::try_from(peer.site.len()).expect("a site has at most 64 bytes");
    let mut row = peer.id.as_bytes().to_vec();
    row.extend_from_slice(&peer.token);
    row.extend_from_slice(&[state, u8::from(peer.url_is_observed)]);
    row.extend_from_slice(&at_ms.to_be_bytes());
    row.push(site_bytes);
    let url_bytes = u16::try_from(peer.url.len()).expect("a URL is a host of 253 bytes at most");
    row.extend_from_slice(&url_bytes.to_be_bytes());
    row.extend_from_slice(peer.site.as_bytes());
    row.extend_from_slice(peer.url.as_bytes());
    if let Some(session) = &peer.session {
        row.extend_from_slice(&session.stamp.to_be_bytes());
        row.extend_from_slice(&session.token);
        row.extend_from_slice(&session.ends_ms.to_be_bytes());
        row.extend_from_slice(session.user.as_str().as_bytes());
    }
    row
}

fn read_session(bytes: &[u8]) -> Option<Session> {
    let (stamp, rest) = bytes.split_first_chunk::<8>()?;
    let (token, rest) = rest.split_first_chunk::<32>()?;
    let (ends_ms, user) = rest.split_first_chunk::<8>()?;
    Some(Session {
        user: UserName::parse(std::str::from_utf8(user).ok()?).ok()?,
        stamp: u64::from_be_bytes(*stamp),
        token: *token,
        ends_ms: i64::from_be_bytes(*ends_ms),
    })
}

/// The epoch and the row.
pub(super) fn read_peer(row: &[u8]) -> Result<(u64, PeerRow), StoreError> {
    let read = || {
        let (epoch, rest) = row.split_first_chunk::<8>()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (token, rest) = rest.split_first_chunk::<32>()?;
        let ([state, observed], rest) = rest.split_first_chunk::<2>()?;
        let (at_ms, rest) = rest.split_first_chunk::<8>()?;
        let (site_bytes, rest) = rest.split_first()?;
        let (url_bytes, rest) = rest.split_first_chunk::<2>()?;
        let (site, rest) = rest.split_at_checked(usize::from(*site_bytes))?;
        let url_bytes = usize::from(u16::from_be_bytes(*url_bytes));
        let (url, session) = rest.split_at_checked(url_bytes)?;
        let row = PeerRow {
            id: PeerId::from_bytes(*id),
            url: std::str::from_utf8(url).ok()?.to_owned(),
            site: std::str::from_utf8(site).ok()?.to_owned(),
            token: *token,
            url_is_observed: *observed == 1,
            state: match *state {
                PRESENT => PeerState::Present,
                LAPSED => PeerState::Lapsed(i64::from_be_bytes(*at_ms)),
                _ => return None,
            },
            session: match session {
                [] => None,
                session => Some(read_session(session)?),
            },
        };
        Some((u64::from_be_bytes(*epoch), row))
    };
    read().ok_or_else(|| foreign("a peer"))
}

/// What is kept of an account under its user's name.
pub(super) fn account_row(account: &Account) -> Vec<u8> {
    let mut row = account.stamp.to_be_bytes().to_vec();
    row.extend_from_slice(&account.created_ms.to_be_bytes());
    row.extend_from_slice(account.password.as_bytes());
    row
}

pub(super) fn read_account(user: UserName, row: &[u8]) -> Result<Account, StoreError> {
    let read = || {
        let (stamp, rest) = row.split_first_chunk::<8>()?;
        let (created_ms, password) = rest.split_first_chunk::<8>()?;
        Some((
            u64::from_be_bytes(*stamp),
            i64::from_be_bytes(*created_ms),
            std::str::from_utf8(password).ok()?.to_owned(),
        ))
    };
    let (stamp, created_ms, password) = read().ok_or_else(|| foreign("an account"))?;
    Ok(Account {
        user,
        password,
        stamp,
        created_ms,
    })
}

/// Something in the cluster is not of this form.
pub(super) fn foreign(what: &str) -> StoreError {
    StoreError::Engine(format!(
        "the cluster has {what} in another form than this locator's"
    ))
}

/// Only those of the wanted name or digest, and with holders.
pub(super) fn is_wanted(found: &Found, key: &crate::store::Key) -> bool {
    let wanted = match key {
        crate::store::Key::Name(name) => found.resource.name == *name,
        crate::store::Key::Digest(digest) => found.resource.digest == *digest,
    };
    wanted && !found.holders.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_spelling() {
        let resource = Resource {
            name: Name::parse("dir/é b.mp3").expect("valid"),
            digest: Digest::of(b"x"),
            size: 1 << 60,
            modified_ms: -5,
        };
        assert_eq!(
            read_resource(&resource_row(&resource)),
            Ok(resource.clone())
        );
        for row in term_rows(&resource) {
            let ((term, number), id) = read_term(&row).expect("readable");
            assert_eq!(id, holding(Side::Names, &resource)[1..]);
            assert!(terms_of(&resource.name).contains(&term));
            let bound = after(&(term.clone(), number));
            assert!(row[..] < bound[1..] && row[..] >= terms_from(&term)[1..]);
            assert!(row[..] < terms_to(&term, true)[1..]);
            let first = term.chars().next().expect("not empty").to_string();
            assert!(row[..] < terms_to(&first, false)[1..]);
        }
        let peer = PeerRow {
            id: PeerId::from_bytes([1; 16]),
            url: "http://10.0.0.1:80".into(),
            site: "here".into(),
            token: [2; 32],
            url_is_observed: true,
            state: PeerState::Lapsed(7),
            session: Some(Session {
                user: UserName::parse("josé b").expect("valid"),
                stamp: u64::MAX,
                token: [3; 32],
                ends_ms: 9,
            }),
        };
        let row = [&5_u64.to_be_bytes()[..], &peer_row(&peer)].concat();
        // Where the scripts look.
        assert_eq!(
            (&row[8..24], &row[24..56], row[56]),
            (&[1; 16][..], &[2; 32][..], LAPSED)
        );
        assert_eq!(row[58..66], 7_i64.to_be_bytes());
        assert_eq!(row[66..69], [4, 0, 18], "lengths of site and URL");
        assert_eq!(read_peer(&row), Ok((5, peer.clone())));
        // As the script does that ends a session.
        let without = &row[..69 + 4 + 18];
        let ended = PeerRow {
            session: None,
            ..peer
        };
        assert_eq!(read_peer(without), Ok((5, ended)));
        assert!(read_peer(&row[..60]).is_err() && read_resource(&row[..60]).is_err());
    }
}
