//! The URL under which other peers reach a peer.
//!
//! A peer says what others will connect to, so it must not point them at what is theirs alone
//! ([`vecino_rest::peer_url::address_fault`]); loopback is for a peer that the locator itself saw
//! there. Providers' answers are verified against digests by who fetches, so a wrong but ordinary
//! address costs a try, not correctness.

use std::net::{IpAddr, SocketAddr};

use vecino_rest::{
    PeerUrl,
    peer_url::{Host, InvalidPeerUrl},
};

/// A URL that passed the rules above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// In its one spelling.
    pub text: String,
    /// Whether its host is the address from which the peer was seen.
    pub is_observed: bool,
}

impl PublicUrl {
    /// Parses what a peer seen at `observed` says of itself.
    pub fn parse(text: &str, observed: IpAddr) -> Result<Self, InvalidPeerUrl> {
        Self::check(PeerUrl::parse(text)?, observed)
    }

    /// The URL of a peer that says only its port.
    pub fn derived(observed: IpAddr, port: u16) -> Result<Self, InvalidPeerUrl> {
        Self::check(PeerUrl::http(SocketAddr::new(observed, port)), observed)
    }

    fn check(url: PeerUrl, observed: IpAddr) -> Result<Self, InvalidPeerUrl> {
        let (text, observed) = (url.to_string(), observed.to_canonical());
        match url.fault(observed.is_loopback()) {
            Some(fault) => Err(InvalidPeerUrl::new(&text, fault)),
            None => Ok(Self {
                text,
                is_observed: *url.host() == Host::Ip(observed),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn text(url: &str, observed: IpAddr) -> Option<String> {
        PublicUrl::parse(url, observed).ok().map(|url| url.text)
    }

    #[test]
    fn urls_that_point_inside_are_refused() {
        for url in [
            "http://169.254.169.254:80",
            "http://127.0.0.1:80",
            "http://localhost:80",
        ] {
            assert_eq!(text(url, OUTSIDE), None, "{url}");
        }
        assert!(text("http://10.1.2.3:80", OUTSIDE).is_some());
    }

    #[test]
    fn loopback_is_for_a_peer_on_loopback() {
        let mapped = "::ffff:127.0.0.1".parse().expect("an address");
        assert!(text("http://127.0.0.1:80", mapped).is_some());
        assert!(text("http://localhost:80", mapped).is_some());
        assert_eq!(text("http://169.254.1.1:80", mapped), None);
    }

    #[test]
    fn a_derived_url_prints_mapped_addresses_as_ipv4_and_brackets_ipv6() {
        let derived = |ip: &str| {
            let url = PublicUrl::derived(ip.parse().expect("an address"), 81).expect("usable");
            assert!(url.is_observed);
            url.text
        };
        assert_eq!(derived("::ffff:192.0.2.7"), "http://192.0.2.7:81");
        assert_eq!(derived("2001:db8::7"), "http://[2001:db8::7]:81");
    }
}
