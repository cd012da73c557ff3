//! Paths of REST v1. A `NAME` in a path is percent-encoded, its `/` kept.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{Digest, Name, PeerId};

/// `GET`: the own peer's state.
pub const STATUS: &str = "/v1/status";
/// `GET`: what the own peer holds. With `/NAME`: the transparent download, `PUT`, `DELETE`.
pub const FILES: &str = "/v1/files";
/// `GET`: search in the network.
pub const SEARCH: &str = "/v1/search";
/// `GET` with `/NAME`: variants and providers.
pub const LOCATE: &str = "/v1/locate";
/// `GET`, `POST`: downloads into the own peer. With `/ID`: `GET`, `DELETE`.
pub const DOWNLOADS: &str = "/v1/downloads";
/// `GET`: what the own peer knows of its overlays. With `/repair`: `POST`.
pub const OVERLAY: &str = "/v1/overlay";
/// `POST`: brings the overlays in order now.
pub const REPAIR: &str = "/v1/overlay/repair";
/// `POST`: discovers by flooding what other peers share. `GET`: what was discovered.
pub const DISCOVER: &str = "/v1/discover";
/// `GET`: links of the own peer. `POST`: connect. With `/PEER`: `DELETE`, disconnect.
pub const PEERS: &str = "/v1/peers";
/// `POST`: log the own peer in to the network. `DELETE`: log it out.
pub const SESSION: &str = "/v1/session";
/// `POST` on a neighbour: look up for another peer.
pub const NEIGHBOUR_LOCATE: &str = "/v1/neighbour/locate";
/// Several lookups for another peer in one request.
pub const NEIGHBOUR_LOCATE_MANY: &str = "/v1/neighbour/locate-many";
/// `POST` on a neighbour: search for another peer.
pub const NEIGHBOUR_SEARCH: &str = "/v1/neighbour/search";
/// `POST` on a neighbour: who could take a copy, for another peer.
pub const NEIGHBOUR_PLACE: &str = "/v1/neighbour/place";
/// `POST` on a neighbour: can it connect to whoever asks? With `/PEER`, `GET`: is it that peer?
pub const NEIGHBOUR_REACH: &str = "/v1/neighbour/reach";
/// `GET`: what the own peer finds wrong with itself and those whom it needs.
pub const DOCTOR: &str = "/v1/doctor";
/// `GET`: server-sent events.
pub const EVENTS: &str = "/v1/events";
/// `GET` with `/DIGEST`: content; with `/DIGEST/pieces`: piece hashes.
pub const BLOBS: &str = "/v1/blobs";
/// Alive.
pub const HEALTHZ: &str = "/healthz";
/// Ready to serve.
pub const READYZ: &str = "/readyz";
/// Prometheus metrics.
pub const METRICS: &str = "/metrics";

/// Response header: `blake3` when every byte was checked against the digest in `ETag`, `none`
/// when the provider speaks only the first system's contract and there was nothing to check.
pub const HEADER_VERIFIED: &str = "vecino-verified";
/// Response header: `local` or the URL of the provider that the response begins with.
pub const HEADER_SOURCE: &str = "vecino-source";

/// `/v1/files/NAME`.
pub fn file(name: &Name) -> String {
    format!("{FILES}/{}", name.to_url_path())
}

/// `/v1/locate/NAME`.
pub fn locate(name: &Name) -> String {
    format!("{LOCATE}/{}", name.to_url_path())
}

/// `/v1/blobs/DIGEST`.
pub fn blob(digest: &Digest) -> String {
    format!("{BLOBS}/{digest}")
}

/// `/v1/blobs/DIGEST/pieces`.
pub fn pieces(digest: &Digest) -> String {
    format!("{BLOBS}/{digest}/pieces")
}

/// `/v1/blobs/DIGEST/have`.
pub fn have(digest: &Digest) -> String {
    format!("{BLOBS}/{digest}/have")
}

/// `/v1/downloads/ID`.
pub fn download(id: &str) -> String {
    format!("{DOWNLOADS}/{id}")
}

/// `/v1/neighbour/reach/PEER`.
pub fn reach(peer: &PeerId) -> String {
    format!("{NEIGHBOUR_REACH}/{peer}")
}

/// `/v1/peers/PEER`: of a peer id, or of a URL, which is percent-encoded.
pub fn peer(peer: &str) -> String {
    format!("{PEERS}/{}", utf8_percent_encode(peer, NON_ALPHANUMERIC))
}
