//! What a locator says of itself when it starts: a fact a line, for its operator's log.

use std::net::SocketAddr;

use crate::config::Config;

/// The facts of a locator whose gRPC is at `grpc`, and whose HTTP for machines is at `machines`.
pub(crate) fn lines(
    config: &Config,
    grpc: SocketAddr,
    machines: Option<SocketAddr>,
) -> Vec<String> {
    let port = grpc.port();
    let named = match grpc.ip() {
        ip if ip.is_unspecified() => format!("THIS_HOST:{port}"),
        _ => grpc.to_string(),
    };
    let machines = match machines {
        None => "off: no /metrics, /healthz, /readyz".to_owned(),
        Some(at) if at.ip().is_loopback() => format!("{at}, for this machine only"),
        Some(at) => format!("{at}, for whoever reaches it"),
    };
    let zones = config.zones;
    [
        ("locator", env!("CARGO_PKG_VERSION").to_owned()),
        ("gRPC", format!("{grpc}; peers name it URL_Request={named}")),
        ("store", config.store.to_string()),
        ("leases", format!("{} s", config.lease.as_secs())),
        (
            "zones",
            format!("{} of {} slots in all", zones.zones(), zones.slots()),
        ),
        ("machines", machines),
        (
            "peers",
            "whoever reaches the gRPC port registers, announces and looks up".to_owned(),
        ),
    ]
    .map(|(what, value)| format!("{what:<10}{value}"))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_asks_is_said() {
        let at = |text: &str| text.parse().expect("an address");
        let text = lines(
            &Config::default(),
            at("[::]:51015"),
            Some(at("127.0.0.1:51016")),
        );
        let text = text.join("\n");
        for fact in [
            "gRPC      [::]:51015; peers name it URL_Request=THIS_HOST:51015",
            "store     redb:data/locator.redb",
            "leases    15 s",
            "machines  127.0.0.1:51016, for this machine only",
        ] {
            assert!(text.contains(fact), "{fact:?} in\n{text}");
        }
        let text = lines(&Config::default(), at("10.0.0.9:1"), None).join("\n");
        assert!(text.contains("URL_Request=10.0.0.9:1") && text.contains("machines  off"));
    }
}
