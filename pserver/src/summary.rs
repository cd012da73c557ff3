//! What a peer says of itself when it starts: a fact a line, for its operator's log. It names the
//! locator, so that nothing of it may reach a client. Then what its settings lack, or have for nothing.

use std::{net::SocketAddr, path::Path};

use vecino_rest::{PeerId, PeerUrl, peer_url::Host};

use crate::{
    api::access::ClientAccess,
    config::{Config, size},
    locate::StrategyKind,
};

/// Where a peer turned out to be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Which peer.
    pub peer: PeerId,
    /// Where REST is.
    pub rest: SocketAddr,
    /// Where the overlay is.
    pub overlay: Option<SocketAddr>,
    /// How others reach it, as far as is known.
    pub url: Option<PeerUrl>,
}

/// The facts, in the order in which an operator asks for them.
pub fn lines(config: &Config, place: &Place) -> Vec<String> {
    let list = |urls: &[PeerUrl]| match urls {
        [] => "none".to_owned(),
        urls => urls
            .iter()
            .map(PeerUrl::authority)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let version = env!("CARGO_PKG_VERSION");
    let strategies: Vec<_> = config.locate_by.iter().map(|kind| kind.as_str()).collect();
    let mut facts = vec![
        ("pserver", format!("{version}, id {}", place.peer)),
        ("REST", place.rest.to_string()),
        ("others use", others_use(config, place)),
        ("neighbours", list(&config.neighbours)),
        ("locators", list(&config.locators)),
        ("looks up by", strategies.join(", ")),
    ];
    if let Some(overlay) = place.overlay {
        let seeds = list(&config.overlay_seeds);
        facts.push(("overlay", format!("{overlay}, joins through {seeds}")));
    }
    let directory = |dir: &Path| std::path::absolute(dir).unwrap_or(dir.to_owned());
    for (what, dir) in [
        ("shares", &config.shared_dir),
        ("downloads", &config.download_dir),
        ("own state", &config.data_dir),
    ] {
        facts.push((what, format!("{:?}", directory(dir))));
    }
    facts.push(("limits", limits(config)));
    facts.push(("clients", clients(config).to_owned()));
    facts.push((
        "peers",
        "whoever reaches the REST port may look up, and fetch what is shared here".to_owned(),
    ));
    let line = |(what, value)| format!("{what:<12}{value}");
    facts.into_iter().map(line).collect()
}

fn others_use(config: &Config, place: &Place) -> String {
    match (&place.url, &config.public_url) {
        (Some(url), Some(_)) => format!("{url} (PUBLIC_URL)"),
        (Some(url), None) if config.locators.is_empty() => {
            format!("{url} (PUBLIC_URL is unset: the address towards the first one named)")
        }
        (Some(url), None) => format!("{url} (PUBLIC_URL is unset: until a locator says otherwise)"),
        (None, _) => "not known: set PUBLIC_URL".to_owned(),
    }
}

fn limits(config: &Config) -> String {
    let bytes = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), size::print);
    format!(
        "sends {} and receives {} bytes a second; keeps what is fetched: {}, {} bytes of it; 16M \
         of disk stay free",
        bytes(config.upload_limit),
        bytes(config.download_limit),
        config.keep.as_str(),
        bytes(config.cache_limit),
    )
}

fn clients(config: &Config) -> &'static str {
    match (config.client_access, config.api_token.is_some()) {
        (ClientAccess::Open, false) => {
            "anyone reads; changes from this machine only (no API_TOKEN_FILE)"
        }
        (ClientAccess::Open, true) => "anyone reads; changes from this machine or with the token",
        (ClientAccess::Loopback, false) => "this machine only (CLIENT_ACCESS=loopback)",
        (ClientAccess::Loopback, true) => {
            "this machine, or with the token (CLIENT_ACCESS=loopback)"
        }
        (ClientAccess::Token, _) => "with the token only (CLIENT_ACCESS=token)",
    }
}

/// Says what the settings lack, or have for nothing.
pub fn warn_of_gaps(config: &Config, place: &Place) {
    if config.neighbours.is_empty() {
        log::warn!("URL_PEERSU is unset: clients get only what this peer holds itself");
    }
    for neighbour in config.neighbours.iter() {
        if is_here(neighbour, place.rest) || Some(neighbour) == place.url.as_ref() {
            log::warn!(
                "URL_PEERSU={} is this peer itself, which then shows who asks: name another peer",
                neighbour.authority()
            );
        }
    }
    let needs_locator =
        |kind: &&StrategyKind| matches!(kind, StrategyKind::Central | StrategyKind::Zone);
    if config.locators.is_empty()
        && let Some(kind) = config.locate_by.iter().find(needs_locator)
    {
        match config.locate_by[..] {
            [StrategyKind::Central] => {
                log::warn!("URL_Request is unset: nobody finds what this peer shares");
            }
            _ => log::warn!("URL_Request is unset: LOCATE_BY={} needs it", kind.as_str()),
        }
    }
    if !config.locate_by.iter().any(|kind| kind.is_overlay()) {
        let set = [
            ("OVERLAY_PORT", config.overlay_port.is_some()),
            ("OVERLAY_SEEDS", !config.overlay_seeds.is_empty()),
        ];
        for (variable, _) in set.iter().filter(|(_, is_set)| *is_set) {
            log::warn!("{variable} is of no use: LOCATE_BY has none of chord, zone and flood");
        }
    }
}

/// Whether `url` says by itself that it leads to what listens on `addr`.
fn is_here(url: &PeerUrl, addr: SocketAddr) -> bool {
    let is_host = match url.host() {
        Host::Ip(ip) if *ip == addr.ip() || ip.is_unspecified() => true,
        _ => url.is_loopback() && (addr.ip().is_unspecified() || addr.ip().is_loopback()),
    };
    is_host && url.port() == addr.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_asks_is_said() {
        let vars = [
            ("URL_Request", "10.0.0.9:51015"),
            ("URL_PEERSU", "10.0.0.2:80,10.0.0.3:80"),
            ("UPLOAD_LIMIT", "10M"),
            ("SHARED_DIR", "/srv/shared"),
            ("LOCATE_BY", "central,flood"),
            ("OVERLAY_PORT", "51080"),
        ];
        let vars = vars
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).expect("valid");
        let place = Place {
            peer: PeerId::from_bytes([7; 16]),
            rest: "0.0.0.0:80".parse().expect("valid"),
            overlay: "0.0.0.0:51080".parse().ok(),
            url: PeerUrl::parse("http://10.0.0.4:80").ok(),
        };
        let text = lines(&config, &place).join("\n");
        for fact in [
            "REST        0.0.0.0:80",
            "others use  http://10.0.0.4:80 (PUBLIC_URL is unset",
            "neighbours  10.0.0.2:80, 10.0.0.3:80",
            "locators    10.0.0.9:51015",
            "looks up by central, flood",
            "overlay     0.0.0.0:51080, joins through none",
            "shares      \"/srv/shared\"",
            "limits      sends 10M and receives unlimited",
            "clients     anyone reads; changes from this machine only",
        ] {
            assert!(text.contains(fact), "{fact:?} in\n{text}");
        }
    }

    #[test]
    fn a_neighbour_that_is_this_peer_is_told_by_its_address() {
        let is_here = |url: &str, addr: &str| {
            let url = PeerUrl::parse_endpoint(url, None).expect("valid");
            is_here(&url, addr.parse().expect("an address"))
        };
        for (url, addr) in [
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("localhost:8081", "0.0.0.0:8081"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::]:80"),
        ] {
            assert!(is_here(url, addr), "{url} {addr}");
        }
        for (url, addr) in [
            ("127.0.0.1:8082", "127.0.0.1:8081"),
            ("10.0.0.2:80", "10.0.0.1:80"),
            ("127.0.0.1:80", "10.0.0.1:80"),
            ("localhost.example:80", "0.0.0.0:80"),
        ] {
            assert!(!is_here(url, addr), "{url} {addr}");
        }
    }
}
