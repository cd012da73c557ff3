//! URLs of providers come from outside and are hostile until they passed here: parsed
//! ([`parse`]), and what they resolve to checked ([`resolve`]).
//!
//! Invariant: an address from here leads neither back into this machine (unless this peer is
//! itself on loopback), nor to link-local services, nor to many at once.

use std::net::{IpAddr, SocketAddr};

use vecino_rest::{
    PeerUrl,
    peer_url::{Host, InvalidPeerUrl, address_fault},
};

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

/// The address to connect to; `on_loopback` says whether this peer is itself on loopback.
pub async fn resolve(url: &PeerUrl, on_loopback: bool) -> Result<SocketAddr, Unresolved> {
    let unresolved = || Unresolved::Host(url.host().to_string());
    let addresses: Vec<SocketAddr> = match url.host() {
        Host::Ip(ip) => vec![(*ip, url.port()).into()],
        Host::Name(host) => tokio::net::lookup_host((host.as_str(), url.port()))
            .await
            .map_err(|_| unresolved())?
            .collect(),
    };
    // One bad address among several spoils the name: it is not an honest provider's.
    for address in &addresses {
        if let Some(fault) = address_fault(address.ip(), on_loopback) {
            return Err(Unresolved::Address(address.ip(), fault));
        }
    }
    addresses.first().copied().ok_or_else(unresolved)
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
        assert!(resolve(&url, false).await.is_ok());
    }
}
