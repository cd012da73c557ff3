//! How TCP finds its rate within the machine, and while several peers are sent to at once.
//!
//! BBR paces what it sends, by timers. Within the machine there is no path to spare, and the timers cost
//! more than the sending (1 GiB over loopback: 0.42 s and 0.38 s of CPU, 0.19 s and 0.04 s with CUBIC).
//!
//! BBR models a path: it takes a second or more to notice that another connection gave way. The
//! pieces of a crowd last a tenth of that, so each is sent at the rate that was free before, and the
//! link idles in between (16 peers on links of 100 Mbit/s: 1.34 times the ideal time, 1.22 with CUBIC).
//! Within a private network, where hardly a packet is lost but to a full queue, what goes by loss
//! does better. Beyond it a connection keeps what the administrator chose. A private network may reach
//! far, over a VPN that loses packets: `CONGESTION=system` is for that.

use std::{
    net::{IpAddr, Ipv6Addr, TcpListener},
    sync::Arc,
};

use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

/// What goes by loss, the better one first; not everybody may choose the first.
const BY_LOSS: [&str; 2] = ["cubic", "reno"];

/// What connections go by within the machine, and while several peers are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// By loss, where the system's choice is BBR and they stay within the machine or a private network.
    #[default]
    Loss,
    /// By what the system chose.
    System,
}

impl Congestion {
    /// Reads the value of `CONGESTION`.
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

    /// Prepares a listener: its connections go by loss from their first byte on. One that leaves
    /// the machine is to be given back what the system chose.
    pub fn listening(self, listener: &TcpListener) -> SystemChoice {
        let system = tcp_congestion(listener).ok();
        let Some(system) = system.filter(|name| self == Self::Loss && is_a_model(name)) else {
            return SystemChoice::default();
        };
        let mut choices = BY_LOSS.into_iter();
        let choice = choices.find(|loss| may_choose(&[loss, &system]));
        let choice = choice.filter(|loss| set_tcp_congestion(listener, loss).is_ok());
        if choice.is_none() {
            log::debug!("no congestion control by loss instead of {system}");
        }
        SystemChoice(choice.map(|loss| (loss, system.into())))
    }

    /// Prepares a connection to `asker`, while others are sent to as well. It stays so.
    pub(super) fn beside_others(self, stream: &TcpStream, asker: IpAddr) {
        if is_private(asker.to_canonical()) {
            self.instead_of_a_model(stream);
        }
    }

    fn instead_of_a_model(self, stream: &TcpStream) {
        let is_by_model = || tcp_congestion(stream).is_ok_and(|name| is_a_model(&name));
        if self == Self::Loss && is_by_model() {
            let mut choices = BY_LOSS.iter();
            if !choices.any(|name| set_tcp_congestion(stream, name).is_ok()) {
                log::debug!("no congestion control by loss for {stream:?}");
            }
        }
    }
}

/// What the system chose, where the connections of a listener begin with something else, and with
/// what. Once a connection went by BBR, it would keep its timers.
#[derive(Debug, Clone, Default)]
pub struct SystemChoice(Option<(&'static str, Arc<str>)>);

impl SystemChoice {
    /// Gives it back to a connection from `asker` to `own`, unless these are of one machine. What a
    /// route of the administrator's chose stays.
    pub(super) fn beyond_the_machine(&self, stream: &TcpStream, asker: IpAddr, own: IpAddr) {
        let is_within = asker == own || asker.to_canonical().is_loopback();
        if let Some((loss, system)) = self.0.as_ref().filter(|_| !is_within)
            && tcp_congestion(stream).is_ok_and(|name| name == *loss)
            && let Err(error) = set_tcp_congestion(stream, system)
        {
            log::debug!("{system} for {asker}: {error}");
        }
    }
}

fn is_a_model(name: &str) -> bool {
    name.starts_with("bbr")
}

/// Whether this process may choose each of `names`, whatever a new socket goes by: the last of
/// them may be just that, and choosing it again would tell nothing.
fn may_choose(names: &[&str; 2]) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    let choose = |socket| {
        names
            .iter()
            .all(|name| set_tcp_congestion(&socket, name).is_ok())
    };
    socket.is_ok_and(choose)
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

    fn connection(listener: &TcpListener) -> (std::net::TcpStream, TcpStream) {
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound"));
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(stream).expect("a socket");
        (client.expect("connected"), stream)
    }

    #[tokio::test]
    async fn what_the_listener_had_changed_is_given_back_and_nothing_else() {
        let [near, far]: [IpAddr; 2] =
            ["127.0.0.1", "203.0.113.5"].map(|text| text.parse().expect(text));
        // Everybody may choose it; what the system chose stands for the model.
        let loss = "reno";
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let system = tcp_congestion(&listener).expect("it has one");
        assert!(may_choose(&[loss, &system]) && !may_choose(&["nothing", &system]));
        set_tcp_congestion(&listener, loss).expect("reno");
        let choice = SystemChoice(Some((loss, system.as_str().into())));
        let (_client, stream) = connection(&listener);
        let name = || tcp_congestion(&stream).expect("it has one");
        choice.beyond_the_machine(&stream, near, near);
        assert_eq!(name(), loss);
        let other = SystemChoice(Some(("cubic", system.as_str().into())));
        other.beyond_the_machine(&stream, far, near);
        assert_eq!(name(), loss);
        choice.beyond_the_machine(&stream, far, near);
        assert_eq!(name(), system);
    }

    #[tokio::test]
    async fn a_model_gives_way_to_loss_within_the_machine_and_in_a_crowd_of_a_private_network() {
        let [loopback, private, far]: [IpAddr; 3] =
            ["::ffff:127.0.0.1", "10.77.0.1", "203.0.113.5"].map(|text| text.parse().expect(text));
        for (chosen, asker, own, in_a_crowd, by_model) in [
            (Congestion::Loss, loopback, private, false, false),
            (Congestion::Loss, private, private, false, false),
            (Congestion::Loss, private, loopback, false, true),
            (Congestion::Loss, private, loopback, true, false),
            (Congestion::Loss, far, private, false, true),
            (Congestion::Loss, far, private, true, true),
            (Congestion::System, loopback, private, false, true),
            (Congestion::System, private, private, true, true),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            // Where the kernel has no BBR, there is nothing to change.
            let has_bbr = set_tcp_congestion(&listener, "bbr").is_ok();
            let before = tcp_congestion(&listener).expect("it has one");
            let system = chosen.listening(&listener);
            let (_client, stream) = connection(&listener);
            system.beyond_the_machine(&stream, asker, own);
            if in_a_crowd {
                chosen.beside_others(&stream, asker);
            }
            let name = tcp_congestion(&stream).expect("it has one");
            if has_bbr && !by_model {
                assert!(
                    BY_LOSS.contains(&name.as_str()),
                    "{chosen:?} {asker}: {name}"
                );
            } else {
                assert_eq!(name, before, "{chosen:?} {asker}");
            }
        }
    }
}
