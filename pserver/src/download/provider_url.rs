//! URLs of providers come from outside and are hostile until they passed here: parsed
//! ([`parse`]), an address in them checked ([`check`]), and what a name resolves to as well
//! ([`resolve`], [`Resolver`]).
//!
//! Invariant: an address from here leads neither back into this machine (unless this peer is
//! itself on loopback), nor to link-local services, nor to many at once.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::timeout;
use tower_service::Service;
use vecino_rest::{
    PeerUrl,
    peer_url::{Host, InvalidPeerUrl, address_fault},
};

/// Addresses that are looked up for a host name that a client named ...
const MAX_ADDRESSES: usize = 4;
/// ... and how long it may take to find them.
const RESOLVED_WITHIN: Duration = Duration::from_secs(3);

/// Why a provider's URL leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Its address may not be used.
    #[error("{0} {1}")]
    Address(IpAddr, &'static str),
    /// Its host is not known.
    #[error("host {0:?} cannot be resolved")]
    Host(String),
}

/// Parses the URL of a provider; whether loopback will do shows when it is resolved.
pub fn parse(text: &str) -> Result<PeerUrl, InvalidPeerUrl> {
    let url = PeerUrl::parse(text)?;
    match url.fault(true) {
        Some(fault) => Err(InvalidPeerUrl::new(text, fault)),
        None => Ok(url),
    }
}

/// Refuses an address in `url` that may not be connected to; `on_loopback` says whether this peer
/// is itself on loopback. A name passes: the [`Resolver`] checks it.
pub fn check(url: &PeerUrl, on_loopback: bool) -> Result<(), Unresolved> {
    match url.host() {
        Host::Ip(ip) => check_address(*ip, on_loopback),
        Host::Name(_) => Ok(()),
    }
}

fn check_address(ip: IpAddr, on_loopback: bool) -> Result<(), Unresolved> {
    match address_fault(ip, on_loopback) {
        Some(fault) => Err(Unresolved::Address(ip, fault)),
        None => Ok(()),
    }
}

/// The address to connect to; `on_loopback` says whether this peer is itself on loopback.
pub async fn resolve(url: &PeerUrl, on_loopback: bool) -> Result<SocketAddr, Unresolved> {
    let addresses = addresses(url, on_loopback).await?;
    let unresolved = || Unresolved::Host(url.host().to_string());
    addresses.first().copied().ok_or_else(unresolved)
}

/// All addresses that `url` leads to.
pub async fn addresses(url: &PeerUrl, on_loopback: bool) -> Result<Vec<SocketAddr>, Unresolved> {
    match url.host() {
        Host::Ip(ip) => {
            check_address(*ip, on_loopback)?;
            Ok(vec![(*ip, url.port()).into()])
        }
        Host::Name(host) => look_up(host, url.port(), on_loopback).await,
    }
}

/// The URLs by which whoever is at the host name of `url` may be known instead, if it is one; they
/// are compared, and never connected to.
pub async fn by_address(url: &PeerUrl) -> Vec<PeerUrl> {
    let Host::Name(host) = url.host() else {
        return Vec::new();
    };
    if url.is_https() {
        return Vec::new();
    }
    let found = timeout(RESOLVED_WITHIN, look_up(host, url.port(), true)).await;
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    let addresses = found.into_iter().take(MAX_ADDRESSES);
    addresses.map(PeerUrl::http).collect()
}

/// The addresses of a name. One bad address among several spoils it: it is not an honest
/// provider's.
async fn look_up(host: &str, port: u16, on_loopback: bool) -> Result<Vec<SocketAddr>, Unresolved> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| Unresolved::Host(host.to_owned()))?
        .collect();
    for address in &addresses {
        check_address(address.ip(), on_loopback)?;
    }
    Ok(addresses)
}

/// Resolves names for connections to providers.
#[derive(Debug, Clone, Copy)]
pub struct Resolver {
    /// Whether this peer is itself on loopback.
    pub on_loopback: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let on_loopback = self.on_loopback;
        // The connector puts the port in.
        Box::pin(async move {
            let addresses = look_up(name.as_str(), 0, on_loopback).await?;
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_addresses_are_refused_by_their_text() {
        for text in [
            "http://169.254.169.254:80",
            "http://0.0.0.0:80",
            "http://[ff02::1]:80",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("http://10.0.0.4:80").is_ok());
    }

    #[tokio::test]
    async fn loopback_is_for_peers_on_loopback() {
        for text in [
            "http://127.0.0.1:80",
            "http://127.9.9.9:80",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]:80",
            "http://localhost:80",
        ] {
            let url = parse(text).expect("of the form");
            assert!(resolve(&url, false).await.is_err(), "{text}");
            assert!(resolve(&url, true).await.is_ok(), "{text}");
        }
        let url = parse("http://10.0.0.4:80").expect("of the form");
        assert!(resolve(&url, false).await.is_ok() && check(&url, false).is_ok());
        let inside = parse("http://127.0.0.1:80").expect("of the form");
        assert!(check(&inside, false).is_err() && check(&inside, true).is_ok());
        let name = || "localhost".parse().expect("a name");
        assert!(Resolver { on_loopback: false }.call(name()).await.is_err());
        assert!(Resolver { on_loopback: true }.call(name()).await.is_ok());
    }
}
