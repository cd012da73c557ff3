//! Connects to peers that ask whether others can reach them: `POST /v1/neighbour/reach`.
//!
//! Invariant: only the address that the question came from is ever connected to, at the port of
//! the URL that was claimed; what the claimed host leads to must have that address. A question costs one
//! connection, one small request and a few seconds, an address has so many questions a minute, and
//! the answer is one word: it can be used neither to reach others nor to read anything.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use awc::{
    Client, Connector,
    error::{ConnectError, SendRequestError},
    http::{StatusCode, header},
};
use tokio::{sync::Semaphore, time::timeout};
use vecino_rest::{
    PeerId, PeerUrl,
    doctor::{Reach, ReachQuery, Reached},
    peer_url::{InvalidPeerUrl, address_fault},
    problem, route,
};

use crate::download::provider_url;

/// How long resolving the claimed host may take.
const RESOLVED_WITHIN: Duration = Duration::from_secs(2);
/// How long connecting may take ...
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// ... and connecting and answering together.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Probes that run at once.
const AT_ONCE: usize = 16;
/// Questions of one address (IPv6: of one /64) in a [`WINDOW`].
const A_WINDOW: u32 = 20;
/// See [`A_WINDOW`].
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted at once.
const MAX_COUNTED: usize = 4096;

/// Why nothing was tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The claimed URL is none that a peer may have.
    #[error(transparent)]
    Url(#[from] InvalidPeerUrl),
    /// Too many questions.
    #[error("too many peers ask to be connected to: ask again in a minute")]
    Busy,
}

/// See the module.
#[derive(Debug)]
pub struct Probes {
    asked: Mutex<Asked>,
    running: Semaphore,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            running: Semaphore::new(AT_ONCE),
        }
    }
}

impl Probes {
    /// Tries to connect to the peer that asked `query` from `from`. `me` is this peer, and
    /// `on_loopback` says whether it is itself on loopback.
    pub async fn answer(
        &self,
        query: &ReachQuery,
        from: IpAddr,
        me: PeerId,
        on_loopback: bool,
    ) -> Result<Reached, ProbeError> {
        let url = query.url.as_deref().map(provider_url::parse).transpose()?;
        let from = from.to_canonical();
        let allowed = self
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(from, Instant::now());
        let _running = self.running.try_acquire().map_err(|_| ProbeError::Busy)?;
        if !allowed {
            return Err(ProbeError::Busy);
        }
        let outcome = match &url {
            _ if query.peer == me => Reach::Yourself,
            Some(url) if is_at(url, from, on_loopback).await => {
                connect(url, SocketAddr::new(from, url.port()), &query.peer).await
            }
            _ => Reach::Elsewhere,
        };
        Ok(Reached {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seen: from,
            outcome,
        })
    }
}

/// Whether `url` leads to `from`, which may be connected to.
async fn is_at(url: &PeerUrl, from: IpAddr, on_loopback: bool) -> bool {
    if address_fault(from, on_loopback).is_some() {
        return false;
    }
    let resolved = timeout(RESOLVED_WITHIN, provider_url::addresses(url, on_loopback)).await;
    let addresses = resolved.ok().and_then(Result::ok).unwrap_or_default();
    addresses
        .iter()
        .any(|address| address.ip().to_canonical() == from)
}

/// Connects anew, whatever connections there are to that peer already.
async fn connect(url: &PeerUrl, address: SocketAddr, peer: &PeerId) -> Reach {
    let client = Client::builder()
        .connector(Connector::new().timeout(CONNECT_WITHIN).limit(1))
        .disable_redirects()
        .finish();
    let sent = client
        .get(url.join(&route::reach(peer)))
        .address(address)
        .force_close()
        .timeout(ANSWER_WITHIN)
        .send()
        .await;
    match sent {
        Ok(answer) if answer.status() == StatusCode::NO_CONTENT => Reach::Reached,
        Ok(answer) => {
            let media_type = answer.headers().get(header::CONTENT_TYPE);
            let is_problem = media_type
                .is_some_and(|value| value.as_bytes().starts_with(problem::MEDIA_TYPE.as_bytes()));
            match answer.status() {
                StatusCode::NOT_FOUND if is_problem => Reach::AnotherPeer,
                _ => Reach::NotAPeer,
            }
        }
        Err(error) => of_error(&error),
    }
}

fn of_error(error: &SendRequestError) -> Reach {
    match error {
        SendRequestError::Connect(ConnectError::Io(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reach::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Reach::NoRoute,
            io::ErrorKind::TimedOut => Reach::TimedOut,
            _ => Reach::Failed,
        },
        SendRequestError::Connect(ConnectError::Timeout) | SendRequestError::Timeout => {
            Reach::TimedOut
        }
        SendRequestError::Response(_) => Reach::NotAPeer,
        _ => Reach::Failed,
    }
}

/// How often each address asked; pure.
#[derive(Debug, Default)]
struct Asked(HashMap<IpAddr, (Instant, u32)>);

impl Asked {
    /// Whether whoever is at `from` may ask once more.
    fn allow(&mut self, from: IpAddr, now: Instant) -> bool {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= WINDOW;
        let key = match from {
            IpAddr::V6(ip) => {
                let network = u128::from(ip) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 => v4,
        };
        if self.0.len() >= MAX_COUNTED && !self.0.contains_key(&key) {
            self.0.retain(|_, (began, _)| !is_over(*began));
            if self.0.len() >= MAX_COUNTED {
                return false;
            }
        }
        let (began, count) = self.0.entry(key).or_insert((now, 0));
        if is_over(*began) {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        *count <= A_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_asks_so_often_a_minute_and_a_network_counts_as_one() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let mut times = |from: &str, now| (0..99).filter(|_| asked.allow(ip(from), now)).count();
        assert_eq!(times("10.0.0.4", start), A_WINDOW as usize);
        assert_eq!(times("10.0.0.5", start), A_WINDOW as usize);
        assert_eq!(times("2001:db8::1", start), A_WINDOW as usize);
        assert_eq!(times("2001:db8::2", start), 0, "the same network");
        assert_eq!(times("2001:db8:0:1::2", start), A_WINDOW as usize);
        assert_eq!(times("10.0.0.4", start + WINDOW / 2), 0);
        assert_eq!(times("10.0.0.4", start + WINDOW), A_WINDOW as usize);
    }

    #[test]
    fn so_many_addresses_are_counted_and_no_more() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let address = |number: u32| IpAddr::V4((0x0a00_0000 + number).into());
        for number in 0..MAX_COUNTED as u32 {
            assert!(asked.allow(address(number), start));
        }
        assert!(!asked.allow(ip("192.0.2.1"), start));
        assert!(asked.allow(ip("192.0.2.1"), start + WINDOW));
        assert_eq!(asked.0.len(), 1, "those whose minute is over are forgotten");
    }

    #[tokio::test]
    async fn only_the_address_that_asks_is_connected_to() {
        for (url, from, on_loopback, expected) in [
            ("http://10.0.0.4:80", "10.0.0.4", false, true),
            ("http://10.0.0.4:80", "10.0.0.5", false, false),
            ("http://127.0.0.1:80", "10.0.0.4", true, false),
            ("http://127.0.0.1:22", "127.0.0.1", false, false),
            ("http://127.0.0.1:80", "127.0.0.1", true, true),
            ("http://localhost:80", "127.0.0.1", true, true),
            ("http://localhost:80", "127.0.0.1", false, false),
            ("http://localhost:80", "10.0.0.4", true, false),
            ("http://[fe80::1]:80", "fe80::1", false, false),
            ("http://169.254.169.254:80", "169.254.169.254", false, false),
        ] {
            let parsed = PeerUrl::parse(url).expect("of the form");
            let is_at = is_at(&parsed, ip(from), on_loopback).await;
            assert_eq!(is_at, expected, "{url} asked from {from}");
        }
    }
}
