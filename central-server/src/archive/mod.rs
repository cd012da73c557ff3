//! The directory as a file: JSON lines, for moving from one store to another.
//!
//! ```text
//! {"vecino_export":1}
//! {"account":{"user":"ana","password":"$argon2id$…","stamp":7,"created_ms":1700000000000}}
//! {"peer":{"id":"…","url":"http://…","site":"","token":"…","url_is_observed":true,…}}
//! {"record":{"name":"a","digest":"…","size":1,"modified_ms":0}}     of the peer above it
//! {"end":{"accounts":1,"peers":1,"records":1,"blake3":"…"}}          of all bytes before this line
//! ```
//!
//! Invariant: both directions hold one bucket of one peer in memory at most, besides the list of
//! peers and the names of users. Nothing is imported from a file that is not whole, or has a line that
//! no locator would have let in. While an import has not come to its end, the store says so, and no
//! locator starts on it; the same import again goes on. A locator that runs already, or starts in that
//! moment, is not stopped where a store can be shared: that is the operator's part. Hashes of tokens and passwords are in the file: it is to
//! be kept as the store is.

mod export;
mod import;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use vecino_rest::{Digest, Name, PeerId, UserName};

use crate::store::{self, PeerRow, PeerState, StoreError};
pub use export::export;
pub use import::{Imported, import};

/// Version of the lines.
const VERSION: u32 = 1;
/// Bytes of a line: the longest name, escaped, and the rest.
const MAX_LINE: usize = 16 << 10;

/// Why there is no archive, or nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file is not an export, or not a whole one.
    #[error("line {line} is {fault}; nothing was imported")]
    Line {
        /// Which, from 1 on.
        line: u64,
        /// What is wrong with it.
        fault: String,
    },
    /// It ends too early.
    #[error("the file ends without its last line: it is not whole; nothing was imported")]
    Truncated,
    /// The bytes are not those that were exported.
    #[error("the checksum does not match: the file was changed or damaged; nothing was imported")]
    Checksum,
    /// The numbers are not those that were exported.
    #[error("the last line tells of {told}, the file has {found}; nothing was imported")]
    Counts {
        /// By the trailer.
        told: String,
        /// In the file.
        found: String,
    },
    /// Something is in the store.
    #[error("the store is not empty: import into a new one")]
    NotEmpty,
    /// Another export is half in the store.
    #[error(
        "the import of another file into this store did not come to its end: import that one again, \
         or import into a new store"
    )]
    Another,
    /// The import broke off.
    #[error("{0}; the import did not come to its end: run it again with the same file")]
    Unfinished(#[source] Box<ArchiveError>),
    /// The file could not be read.
    #[error("the file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Who wanted the export is gone.
    #[error("nobody takes the export any more")]
    Gone,
}

/// A line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    VecinoExport(u32),
    Account(Account),
    Peer(Peer),
    Record(Record),
    End(Trailer),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    user: UserName,
    password: String,
    stamp: u64,
    created_ms: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Peer {
    id: PeerId,
    url: String,
    site: String,
    /// Hex of the hash.
    token: Digest,
    url_is_observed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lapsed_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Session>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    user: UserName,
    stamp: u64,
    /// Hex of the hash.
    token: Digest,
    ends_ms: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    name: Name,
    digest: Digest,
    size: u64,
    modified_ms: i64,
}

/// What the last line says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    accounts: u64,
    peers: u64,
    records: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            accounts,
            peers,
            records,
        } = self;
        write!(f, "{accounts} accounts, {peers} peers, {records} records")
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Trailer {
    #[serde(flatten)]
    counts: Counts,
    blake3: Digest,
}

impl From<store::Account> for Account {
    fn from(account: store::Account) -> Self {
        let store::Account {
            user,
            password,
            stamp,
            created_ms,
        } = account;
        Self {
            user,
            password,
            stamp,
            created_ms,
        }
    }
}

impl From<Account> for store::Account {
    fn from(account: Account) -> Self {
        let Account {
            user,
            password,
            stamp,
            created_ms,
        } = account;
        Self {
            user,
            password,
            stamp,
            created_ms,
        }
    }
}

impl From<store::Resource> for Record {
    fn from(resource: store::Resource) -> Self {
        Self {
            name: resource.name,
            digest: resource.digest,
            size: resource.size,
            modified_ms: resource.modified_ms,
        }
    }
}

impl From<Record> for store::Resource {
    fn from(record: Record) -> Self {
        Self {
            name: record.name,
            digest: record.digest,
            size: record.size,
            modified_ms: record.modified_ms,
        }
    }
}

impl From<PeerRow> for Peer {
    fn from(row: PeerRow) -> Self {
        Self {
            id: row.id,
            url: row.url,
            site: row.site,
            token: Digest::from_bytes(row.token),
            url_is_observed: row.url_is_observed,
            lapsed_ms: match row.state {
                PeerState::Present => None,
                PeerState::Lapsed(at_ms) => Some(at_ms),
            },
            session: row.session.map(|session| Session {
                user: session.user,
                stamp: session.stamp,
                token: Digest::from_bytes(session.token),
                ends_ms: session.ends_ms,
            }),
        }
    }
}

impl From<Peer> for PeerRow {
    fn from(peer: Peer) -> Self {
        Self {
            id: peer.id,
            url: peer.url,
            site: peer.site,
            token: *peer.token.as_bytes(),
            url_is_observed: peer.url_is_observed,
            state: peer.lapsed_ms.map_or(PeerState::Present, PeerState::Lapsed),
            session: peer.session.map(|session| store::Session {
                user: session.user,
                stamp: session.stamp,
                token: *session.token.as_bytes(),
                ends_ms: session.ends_ms,
            }),
        }
    }
}
