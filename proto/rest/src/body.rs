//! Bodies of REST v1: JSON, one type a shape. Sizes are bytes, times are milliseconds since
//! 1970-01-01 UTC unless the name says otherwise. Readers ignore fields they do not know.

use serde::{Deserialize, Serialize};

use crate::{Digest, Name, PeerId, Problem, UserName, doctor::Reachability};

/// A page of a list. Ask again with `?cursor=` for the next one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Opaque; absent on the last page. A page may be short and yet have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Where the own peer has a file from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The user shares it (`SHARED_DIR`).
    Shared,
    /// It was fetched (`DOWNLOAD_DIR`).
    Fetched,
}

/// A file that the own peer holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name.
    pub name: Name,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last modified.
    pub modified_ms: i64,
    /// Where it comes from.
    pub origin: Origin,
}

/// A peer that holds a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Its id; absent when only the first system's contract told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerId>,
    /// `http[s]://host:port`.
    pub url: String,
    /// Its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// It holds some pieces only, and is fetching the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// One content among those that share a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// The name it was found under.
    pub name: Name,
    /// Absent when only the first system's contract told of it: it can be fetched, not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was last modified; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<i64>,
    /// Live providers known; counting stops at 1000.
    pub provider_count: u32,
    /// Some of them, at random.
    #[serde(default)]
    pub providers: Vec<Provider>,
}

impl Variant {
    /// A provider that the first system's contract told of: no digest, nothing to check against.
    pub fn unverifiable(name: Name, url: String) -> Self {
        Self {
            name,
            digest: None,
            size: None,
            modified_ms: None,
            provider_count: 1,
            providers: vec![Provider {
                peer: None,
                url,
                site: None,
                partial: false,
            }],
        }
    }
}

/// `GET /v1/locate/NAME`, and the answer of `POST /v1/neighbour/locate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Located {
    /// Most providers first; empty when nobody holds it (at the neighbour only: the own peer
    /// answers 404 then).
    pub variants: Vec<Variant>,
}

/// `POST /v1/neighbour/locate`. Exactly one of `name` and `digest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LocateQuery {
    /// Look up by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Look up by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Only this provider: a peer id, or its URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The answer is to be no older than some hundred milliseconds: a download that runs looks for
    /// who came to hold it meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// `POST /v1/neighbour/locate-many`: the answer is a line of JSON, [`LocatedOne`], for each, in the
/// order in which they are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocateMany {
    /// 1 to 32.
    pub queries: Vec<LocateQuery>,
}

impl LocateMany {
    /// Most queries of one request.
    pub const MAX: usize = 32;
}

/// One of the answers to [`LocateMany`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocatedOne {
    /// The query's place in the request, from 0.
    pub query: u32,
    /// What was found; empty when nobody holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Why nothing could be looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// `POST /v1/neighbour/search`; the same fields are the query string of `GET /v1/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchQuery {
    /// Words; each is a case-insensitive prefix of a word of the name.
    #[serde(default)]
    pub q: String,
    /// An extension, or music, video, image, document, archive, code.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub file_type: Option<String>,
    /// Only names that begin with this, case and all, in order of name; `q` and `type` are empty
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// From the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The answer of `GET /v1/search`: variants without `providers`, but for a search by `prefix`,
/// which has up to 4 each.
pub type SearchPage = Page<Variant>;

/// `POST /v1/neighbour/place`: who could take a new copy?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceQuery {
    /// Bytes of the copy.
    pub size: u64,
    /// How many peers are wanted, 1 to 16.
    pub count: u32,
}

/// The answer of `POST /v1/neighbour/place`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Live peers with room, the better choice first; the asker may be among them.
    pub peers: Vec<Provider>,
}

/// `PUT /v1/files/NAME`: 201, or 200 when it was shared already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name.
    pub name: Name,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// URLs of the peers that hold it now, the own peer's first.
    pub holders: Vec<String>,
}

/// `POST /v1/downloads`: fetch into the own peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// What to fetch.
    pub name: Name,
    /// Which variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Only from this provider: a peer id, or its URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Where a download is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DownloadState {
    /// Looking for providers.
    Locating,
    /// Bytes are coming.
    Running,
    /// Whole, verified and kept.
    Done,
    /// It could not be finished; `error` says why. What was verified is kept for the next try.
    Failed,
    /// Somebody cancelled it. What was verified is kept for the next try.
    Cancelled,
}

/// A download into the own peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Download {
    /// Its id on this peer.
    pub id: String,
    /// What is fetched.
    pub name: Name,
    /// Known once it is located.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes; known once it is located.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where it is in its life.
    pub state: DownloadState,
    /// Bytes verified so far, those of earlier tries included.
    pub verified_bytes: u64,
    /// When it was asked for.
    pub started_ms: i64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// Looks things up for this peer.
    Neighbour,
    /// A link of the flood overlay.
    Flood,
}

/// How a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Not tried yet.
    Unknown,
    /// The last try succeeded.
    Up,
    /// The last try failed.
    Down,
}

/// A link of the own peer to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// `http://host:port`: REST of a neighbour, the overlay of a flood link.
    pub url: String,
    /// What it is for.
    pub kind: LinkKind,
    /// Which peer; absent where nobody asked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerId>,
    /// How it does.
    pub state: LinkState,
    /// Of the last answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This peer.
    pub peer: PeerId,
    /// How other peers reach it, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Whether other peers can find what it shares now.
    pub online: bool,
    /// Why they cannot, where that is a matter of this peer's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_reason: Option<String>,
    /// Whether others can connect to it; absent until a neighbour was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reachability>,
    /// Whether the network asks for a login, and as whom this peer is logged in.
    #[serde(default)]
    pub session: Session,
    /// Strategies by which it looks up for others, in order of trial.
    pub strategies: Vec<String>,
    /// Peers that look up for it, in order of trial.
    pub neighbours: Vec<Peer>,
    /// What it holds.
    pub files: FileCounts,
    /// What it moves.
    pub transfers: Transfers,
}

/// `POST /v1/session`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// As whom.
    pub user: UserName,
    /// 1 to 1024 bytes.
    pub password: String,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoginRequest({:?}, redacted)", self.user)
    }
}

/// Whether a peer is logged in to the network. The answer to `POST` and `DELETE /v1/session`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// How it stands.
    pub state: SessionState,
    /// As whom, where there is somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
}

/// How a peer stands with a network that may ask for a login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Nobody asked for a login.
    #[default]
    NotAsked,
    /// The network asks for a login, and there is none.
    Needed,
    /// The network refused the login.
    Refused,
    /// Logged in.
    LoggedIn,
}

/// How many files a peer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Files in `SHARED_DIR`.
    pub shared: u64,
    /// Files in `DOWNLOAD_DIR`.
    pub fetched: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Files found but not hashed yet; they are not shared before.
    pub hashing: u64,
    /// Files that other peers can find: what was announced, or what is held by a member of an
    /// overlay, which makes all of it findable.
    pub announced: u64,
}

/// What a peer moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfers {
    /// Downloads that run now.
    pub downloads: u64,
    /// Contents being sent now, to peers and clients.
    pub uploads: u64,
    /// Verified bytes received from other peers since the start.
    pub bytes_received: u64,
    /// Content bytes sent since the start.
    pub bytes_sent: u64,
}

/// `GET /v1/blobs/DIGEST/pieces`: the chaining values of the BLAKE3 subtrees that the pieces
/// are. They merge to `digest`, so nobody needs to trust who sends them. One piece only: the
/// digest itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Of the whole content.
    pub digest: Digest,
    /// Of the whole content, in bytes.
    pub size: u64,
    /// Bytes of every piece but the last; follows from `size`.
    pub piece_size: u64,
    /// One a piece, in order.
    pub pieces: Vec<Digest>,
}

/// `GET /v1/blobs/DIGEST/have?since=V`: which pieces a peer can send now. Answers at once when its
/// version is not `V`, else as soon as it changes, or after a while with the same version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Changes whenever the rest does.
    pub version: u64,
    /// Of the whole content, in bytes.
    pub size: u64,
    /// It holds the whole content; `have` is absent then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// Pieces that it has: a bit a piece in hex, the first piece first, each byte's highest bit
    /// first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub have: String,
    /// Pieces that it is fetching, in the same form: others better fetch others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub coming: String,
}
