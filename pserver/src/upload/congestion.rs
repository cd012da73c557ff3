//! How TCP finds its rate while several peers are sent to at once.
//!
//! BBR models a path: it takes a second or more to notice that another connection gave way. The
//! pieces of a crowd last a tenth of that, so each is sent at the rate that was free before, and the
//! link idles in between (16 peers on links of 100 Mbit/s: 1.34 times the ideal time, 1.22 with CUBIC).
//! Within a private network, where hardly a packet is lost but to a full queue, what goes by loss
//! does better. Beyond it a connection keeps what the administrator chose. A private network may reach
//! far, over a VPN that loses packets: `CROWD_CONGESTION=system` is for that.

use std::net::{IpAddr, Ipv6Addr};

use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
use tokio::net::TcpStream;

/// What goes by loss, the better one first; not everybody may choose the first.
const BY_LOSS: [&str; 2] = ["cubic", "reno"];

/// What connections go by while several peers are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// By loss, where the system's choice is BBR and the network is private.
    #[default]
    Loss,
    /// By what the system chose.
    System,
}

impl Congestion {
    /// Reads the value of `CROWD_CONGESTION`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Loss, Self::System]
            .into_iter()
            .find(|one| one.as_str() == text)
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::System => "system",
        }
    }

    /// Prepares a connection to `asker`, while others are sent to as well. It stays so.
    pub(super) fn beside_others(self, stream: &TcpStream, asker: IpAddr) {
        let is_by_model = || tcp_congestion(stream).is_ok_and(|name| name.starts_with("bbr"));
        if self == Self::Loss && is_private(asker.to_canonical()) && is_by_model() {
            let mut choices = BY_LOSS.iter();
            if !choices.any(|name| set_tcp_congestion(stream, name).is_ok()) {
                log::debug!("no congestion control by loss for {asker}");
            }
        }
    }
}

/// Whether an address is of a network that is not the Internet.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_private() || address.is_link_local() || address.is_loopback()
        }
        IpAddr::V6(address) => {
            address.is_unique_local()
                || address.is_unicast_link_local()
                || address == Ipv6Addr::LOCALHOST
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn private_networks_are_told_from_the_internet() {
        for (text, expected) in [
            ("10.77.0.1", true),
            ("172.31.255.255", true),
            ("192.168.1.2", true),
            ("169.254.0.1", true),
            ("127.0.0.1", true),
            ("fd12::1", true),
            ("fe80::1", true),
            ("::1", true),
            ("172.32.0.1", false),
            ("203.0.113.5", false),
            ("2001:db8::1", false),
        ] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(is_private(address), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_model_gives_way_to_loss_within_a_private_network_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = || tcp_congestion(&stream).expect("it has one");
        let system = name();
        // Where the kernel has no BBR, there is nothing to change.
        let has_bbr = set_tcp_congestion(&stream, "bbr").is_ok();
        Congestion::Loss.beside_others(&stream, "203.0.113.5".parse().expect("an address"));
        Congestion::System.beside_others(&stream, address.ip());
        assert_eq!(
            name(),
            if has_bbr {
                "bbr".to_owned()
            } else {
                system.clone()
            }
        );
        Congestion::Loss.beside_others(&stream, address.ip());
        if has_bbr {
            assert!(BY_LOSS.contains(&name().as_str()), "{}", name());
        } else {
            assert_eq!(name(), system);
        }
    }
}
