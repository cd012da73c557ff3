//! The wire: translates requests into the words of [`directory`](crate::directory) and answers
//! back. It validates forms and never decides.
//!
//! Every size here has a bound; what a request may cost is known before it is read.

mod accounts;
mod calls;
mod directory;
mod idle;
mod lookups;
mod product;
mod request;
mod response;
mod status;
mod whole;
mod zone;

use std::time::Duration;

pub(crate) use accounts::AccountsService;
pub(crate) use calls::Calls;
pub(crate) use directory::DirectoryService;
pub(crate) use product::Products;
pub(crate) use zone::ZonesService;

/// Bytes of an answer, and of a batch of announced records.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of any other request: the greatest of them, a placing with all its exclusions, has a third.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Streams (calls) of one connection at a time: a peer keeps three open, and asks on some more.
pub(crate) const MAX_STREAMS_PER_CONNECTION: u32 = 32;
/// Announce streams of one connection at a time: a peer needs one. With the bounds above, a
/// connection makes the locator hold about 20 MiB at most, besides what waits in the store, which
/// bounds that for all.
pub(crate) const MAX_ANNOUNCES_PER_CONNECTION: usize = 4;
/// Batches of one Announce stream that wait for their commit; more wait in the connection's window.
/// Those of some peers fill a commit while those of the same peers are in the one before.
pub(crate) const MAX_ANNOUNCES_IN_FLIGHT: usize = 4;
/// Time for the rest of a message on a stream.
pub(crate) const MESSAGE_WITHIN: Duration = Duration::from_secs(60);
/// A LocateStream without lookups for so long is ended; the next lookup opens another.
pub(crate) const LOCATE_IDLE: Duration = Duration::from_secs(600);
/// A KeepAlive stream without messages for so many leases is ended: its lease is over.
pub(crate) const KEEP_ALIVE_IDLE_LEASES: u32 = 2;
/// Lookups of one LocateStream in flight; more wait in the connection's window.
pub(crate) const MAX_LOOKUPS_IN_FLIGHT: usize = 256;
/// Records in a batch with and without `replace_bucket`.
pub(crate) const MAX_BATCH_RECORDS: usize = 4_096;
/// Records in a batch that replaces a bucket.
pub(crate) const MAX_BUCKET_BATCH_RECORDS: usize = 16_384;
/// Providers a variant.
pub(crate) const MAX_PROVIDERS: u32 = 64;
/// Providers a variant when the request does not say.
pub(crate) const DEFAULT_PROVIDERS: u32 = 16;
/// Hits of a page.
pub(crate) const MAX_HITS: u32 = 1_000;
/// Hits of a page when the request does not say.
pub(crate) const DEFAULT_HITS: u32 = 100;
/// Peers placed in one request.
pub(crate) const MAX_PLACED: u32 = 16;
/// Directories that a registration may name.
pub(crate) const MAX_DIRECTORIES: usize = 16;
/// Peers excluded in one request.
pub(crate) const MAX_EXCLUDED: usize = 1_024;
/// Pause after a failed accept: usually the process has no file descriptor left.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for a call to be answered; streams only have to begin within it.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence on a connection after which it is pinged.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Silence after a ping that ends the connection.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the headers of a call.
pub(crate) const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Bytes in flight to the locator on one call. Bounds what a sender can make it hold.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes in flight to the locator on one connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
