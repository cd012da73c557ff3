//! Programs of the first system, written from its contract and from nothing else (DESIGN.md, "The
//! first system's wire contract"): what the contract does not name, they do not know.

mod locator;
mod peer;
pub(crate) mod refusing;
mod wire;

pub(crate) use self::{locator::ForeignLocator, peer::ForeignPeer, wire::get_resource};

use std::net::SocketAddr;

use crate::http::{self, Connection, Response};

/// A client of the first system: asks its own peer where `name` is.
pub(crate) fn connect(own_peer: SocketAddr, name: &str) -> Response {
    let body = serde_json::json!({ "body": [name] }).to_string();
    http::post(own_peer, "/connect", &body)
}

/// A client of the first system: fetches `path` (percent-encoded) from a provider.
pub(crate) fn download(provider: SocketAddr, method: &str, path: &str) -> Response {
    Connection::open(provider).send(method, &format!("/download/{path}"), &[], b"")
}
