//! [`PeerUrl`]: where a peer is reached, `http[s]://host:port` and nothing more.
//!
//! URLs of providers come from outside and are hostile until parsed here. Parsing settles the
//! form; which addresses a provider may have is [`address_fault`]'s, to be asked again for what
//! a host name resolves to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;
/// Characters of a wrong URL that an error repeats.
const SHOWN: usize = 80;

/// The host of a [`PeerUrl`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; IPv4-mapped ones are IPv4.
    Ip(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerUrl {
    https: bool,
    host: Host,
    port: u16,
}

/// A text that is no [`PeerUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} {fault}; expected http://host:port")]
pub struct InvalidPeerUrl {
    shown: String,
    fault: &'static str,
}

impl InvalidPeerUrl {
    /// The error that `text` is not usable because it `fault`.
    pub fn new(text: &str, fault: &'static str) -> Self {
        Self {
            shown: text.chars().take(SHOWN).collect(),
            fault,
        }
    }

    /// What is wrong, as the end of a sentence about the URL.
    pub fn fault(&self) -> &'static str {
        self.fault
    }
}

impl PeerUrl {
    /// Parses `http[s]://host:port`.
    pub fn parse(text: &str) -> Result<Self, InvalidPeerUrl> {
        let parsed = match text.split_once("://") {
            None => Err("has no scheme"),
            Some((scheme, authority)) => parse(scheme, authority, None),
        };
        parsed.map_err(|fault| InvalidPeerUrl::new(text, fault))
    }

    /// Parses what a person writes, `[http[s]://]host[:port][/]`. Without scheme it is `http`;
    /// without port it is `port`, or an error when that is `None`.
    pub fn parse_endpoint(text: &str, port: Option<u16>) -> Result<Self, InvalidPeerUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        parse(scheme, authority, port).map_err(|fault| InvalidPeerUrl::new(text, fault))
    }

    /// `http` at `address`.
    pub fn http(address: SocketAddr) -> Self {
        Self {
            https: false,
            host: Host::Ip(address.ip().to_canonical()),
            port: address.port(),
        }
    }

    /// `http` at the same host and another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            https: false,
            port,
            ..self.clone()
        }
    }

    /// Whether it wants TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, IPv6 in brackets.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// This URL of `path`, which begins with `/` and is percent-encoded.
    pub fn join(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Whether the host says by itself that it is this machine.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => last_label(name) == "localhost",
        }
    }

    /// Why no provider may have this URL, as far as its text tells; `on_loopback` says whether
    /// whoever asks is on loopback too.
    pub fn fault(&self, on_loopback: bool) -> Option<&'static str> {
        match &self.host {
            Host::Ip(ip) => address_fault(*ip, on_loopback),
            Host::Name(_) if self.is_loopback() && !on_loopback => Some(LOOPBACK),
            Host::Name(_) => None,
        }
    }
}

const LOOPBACK: &str = "is a loopback address, and this is about another machine";

/// Why no provider may have the address `ip`: it would lead others to what is theirs alone.
/// `on_loopback` says whether whoever asks is on loopback too.
pub fn address_fault(ip: IpAddr, on_loopback: bool) -> Option<&'static str> {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        return Some("is link-local");
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some("is a multicast address");
    }
    // All of 0.0.0.0/8 means this host.
    if ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0) {
        return Some("is the unspecified address");
    }
    (ip.is_loopback() && !on_loopback).then_some(LOOPBACK)
}

fn parse(scheme: &str, authority: &str, port: Option<u16>) -> Result<PeerUrl, &'static str> {
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err("is neither http nor https"),
    };
    if authority.contains(['/', '?', '#', '@', '\\']) {
        return Err("has more than host and port");
    }
    // The last colon outside of an IPv6 address in brackets is before the port.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => (host, parse_port(digits)?),
        _ => (authority, port.ok_or("has no port")?),
    };
    Ok(PeerUrl {
        https,
        host: parse_host(host)?,
        port,
    })
}

fn parse_port(digits: &str) -> Result<u16, &'static str> {
    if digits.is_empty() {
        return Err("has no port");
    }
    if digits.starts_with("00") || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("has a port that is no number");
    }
    match digits.parse() {
        Ok(0) => Err("has port 0"),
        Ok(port) => Ok(port),
        Err(_) => Err("has a port above 65535"),
    }
}

fn parse_host(host: &str) -> Result<Host, &'static str> {
    if let Some(v6) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let ip: Ipv6Addr = v6.parse().map_err(|_| "has a wrong IPv6 address")?;
        return Ok(Host::Ip(IpAddr::V6(ip).to_canonical()));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.len() > MAX_HOST_BYTES || !labels.split('.').all(is_label) {
        return Err("has a wrong host name");
    }
    // `127.1`, `2130706433` and `0x7f.1` are addresses to many resolvers (WHATWG URL, "ends in a
    // number").
    let last = last_label(host);
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return Err("has a wrong IPv4 address");
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

fn last_label(name: &str) -> String {
    let labels = name.strip_suffix('.').unwrap_or(name);
    labels
        .rsplit('.')
        .next()
        .unwrap_or(labels)
        .to_ascii_lowercase()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl FromStr for PeerUrl {
    type Err = InvalidPeerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPeerUrl> {
        Self::parse(text)
    }
}
