//! Settings of the peer: from the environment, with a `.env` file filling what is unset.
//!
//! Invariant: a [`Config`] is wholly parsed; whatever is wrong with a value was said at start,
//! naming the variable, the value and what is accepted.

pub(crate) mod size;

use std::{
    collections::BTreeMap,
    fmt,
    io::Read as _,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use vecino_rest::{
    PeerUrl, UserName, settings,
    user::{MAX_PASSWORD_BYTES, check_password, first_line},
};

use crate::{
    api::access::ClientAccess,
    content::cache::Keep,
    download::provider_url,
    locate::{StrategyKind, central::account::Credentials},
    upload::congestion::Congestion,
};

/// Everything the peer can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Locators, tried in order.
    pub locators: Vec<PeerUrl>,
    /// Neighbours, tried in order.
    pub neighbours: Vec<PeerUrl>,
    /// REST address.
    pub bind: IpAddr,
    /// REST port; 0 lets the system choose.
    pub port: u16,
    /// How other peers reach this one; derived when `None`.
    pub public_url: Option<PeerUrl>,
    /// What the user shares.
    pub shared_dir: PathBuf,
    /// What was fetched.
    pub download_dir: PathBuf,
    /// The peer's own state.
    pub data_dir: PathBuf,
    /// Label of the place.
    pub site: Option<String>,
    /// Who may use the client routes.
    pub client_access: ClientAccess,
    /// Strategies by which it looks up for others, in order of trial.
    pub locate_by: Vec<StrategyKind>,
    /// Whether what was fetched is kept.
    pub keep: Keep,
    /// Bytes that what was fetched may take.
    pub cache_limit: Option<u64>,
    /// Bytes a second sent to peers and clients.
    pub upload_limit: Option<u64>,
    /// What connections go by while several peers are sent to.
    pub congestion: Congestion,
    /// Bytes a second received from peers.
    pub download_limit: Option<u64>,
    /// As whom it logs in, where a locator asks for that.
    pub credentials: Option<Credentials>,
    /// The bearer token.
    pub api_token: Option<ApiToken>,
    /// Where peers speak to each other, for chord, zone and flood; 0 lets the system choose.
    pub overlay_port: Option<u16>,
    /// Peers to join through.
    pub overlay_seeds: Vec<PeerUrl>,
    /// How often both directories are walked again, whatever the watch says.
    pub rescan: Duration,
    /// What is logged, as `env_logger` reads it.
    pub log_filter: String,
}

/// The bearer token; never shown.
#[derive(Clone)]
pub struct ApiToken(String);

impl ApiToken {
    /// A token of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether `presented` is this token, in constant time.
    pub fn matches(&self, presented: &str) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), presented.as_bytes()).into()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={value:?}: {expected}")]
pub struct InvalidSetting {
    variable: &'static str,
    value: String,
    expected: String,
}

impl InvalidSetting {
    fn new(variable: &'static str, value: &str, expected: impl Into<String>) -> Self {
        Self {
            variable,
            value: value.to_owned(),
            expected: expected.into(),
        }
    }
}

/// How the first variable is written by who writes all of them so, and its name.
const LOUD: (&str, &str) = ("URL_REQUEST", "URL_Request");

/// Every variable: name, default, meaning. `--help` prints it.
pub const VARIABLES: &[(&str, &str, &str)] = &[
    (
        "URL_Request",
        "(none)",
        "the locator, host:port; several with commas: those that share a cluster share the lookups, others are asked in order",
    ),
    ("PORT", "80", "REST port"),
    (
        "URL_PEERSU",
        "(none)",
        "the neighbour, host:port; several with commas, tried in order",
    ),
    ("BIND", "0.0.0.0", "REST address"),
    (
        "PUBLIC_URL",
        "(derived)",
        "how other peers reach this one, http://host:port",
    ),
    ("SHARED_DIR", "shared", "what the user shares"),
    ("DOWNLOAD_DIR", "downloads", "what was fetched"),
    (
        "DATA_DIR",
        "data",
        "the peer's own state; one peer a directory",
    ),
    ("SITE", "(none)", "label of the place, at most 64 bytes"),
    (
        "CLIENT_ACCESS",
        "open",
        "client routes: open (anyone reads; changes need loopback or the token), loopback, token",
    ),
    (
        "LOCATE_BY",
        "central",
        "strategies in order of trial: central, chord, zone, flood",
    ),
    (
        "OVERLAY_PORT",
        "(off)",
        "gRPC between peers, for chord, zone and flood",
    ),
    (
        "OVERLAY_SEEDS",
        "(none)",
        "peers to join through, host:port of their overlay; several with commas",
    ),
    (
        "KEEP",
        "always",
        "keep and serve what was fetched: always, or never (it streams through)",
    ),
    (
        "CACHE_LIMIT",
        "(none)",
        "bytes in DOWNLOAD_DIR, 20G for example; least recently used go first",
    ),
    (
        "UPLOAD_LIMIT",
        "(none)",
        "bytes a second sent to peers and clients, 10M for example",
    ),
    (
        "DOWNLOAD_LIMIT",
        "(none)",
        "bytes a second received from peers",
    ),
    (
        "CONGESTION",
        "loss",
        "of TCP, where the system's is BBR (sysctl net.ipv4.tcp_congestion_control): loss (CUBIC or Reno within this machine, and while several peers of a private network are sent to), or system (as it is)",
    ),
    (
        "PEER_USER",
        "(none)",
        "account of this peer, where the network asks for one; with PEER_PASSWORD_FILE",
    ),
    (
        "PEER_PASSWORD_FILE",
        "(none)",
        "file whose first line is the password of PEER_USER",
    ),
    ("API_TOKEN_FILE", "(none)", "file with the bearer token"),
    (
        "RUST_LOG",
        "info",
        "what is logged: off, error, warn, info, debug, trace, or MODULE=LEVEL, with commas",
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    url_request: Option<String>,
    port: Option<String>,
    url_peersu: Option<String>,
    bind: Option<String>,
    public_url: Option<String>,
    shared_dir: Option<String>,
    download_dir: Option<String>,
    data_dir: Option<String>,
    site: Option<String>,
    client_access: Option<String>,
    locate_by: Option<String>,
    peer_user: Option<String>,
    peer_password_file: Option<String>,
    api_token_file: Option<String>,
    overlay_port: Option<String>,
    overlay_seeds: Option<String>,
    rust_log: Option<String>,
    keep: Option<String>,
    cache_limit: Option<String>,
    upload_limit: Option<String>,
    download_limit: Option<String>,
    congestion: Option<String>,
}

impl Config {
    /// Reads the process environment, after a `.env` file filled what is unset.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        match dotenvy::from_path(".env") {
            Ok(_) => {}
            Err(error) if error.not_found() => {}
            Err(error) => {
                return Err(InvalidSetting::new(
                    ".env",
                    &error.to_string(),
                    "lines of the form NAME=value",
                ));
            }
        }
        // `vars` would panic on what is not UTF-8, and an empty value means unset.
        let vars = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            (!value.is_empty()).then_some((name, value))
        });
        Self::from_vars(vars)
    }

    /// Reads `vars`, as the process environment would give them. `envy` takes names in any case; ours
    /// are exact, but that `URL_REQUEST` is taken as well.
    pub fn from_vars(vars: impl Iterator<Item = (String, String)>) -> Result<Self, InvalidSetting> {
        let vars: BTreeMap<_, _> = vars.collect();
        let is_known = |name: &str| {
            VARIABLES.iter().any(|row| row.0 == name)
                || (name == LOUD.0 && !vars.contains_key(LOUD.1))
        };
        let known = vars.iter().filter(|(name, _)| is_known(name));
        let known = known.map(|(name, value)| (name.clone(), value.clone()));
        let raw: Raw = envy::from_iter(known)
            .map_err(|error| InvalidSetting::new("environment", &error.to_string(), "text"))?;
        Self::from_raw(raw)
    }

    fn from_raw(raw: Raw) -> Result<Self, InvalidSetting> {
        let dir =
            |value: Option<String>, default| PathBuf::from(value.as_deref().unwrap_or(default));
        let port = parse(
            raw.port,
            "PORT",
            "a port, 0 to 65535 (0: any free one)",
            |text| text.parse().ok(),
        )?;
        let bind = parse(raw.bind, "BIND", "an IP address", |text| text.parse().ok())?;
        let site = parse(
            raw.site,
            "SITE",
            "at most 64 bytes without control characters",
            |text| (text.len() <= 64 && !text.contains(char::is_control)).then(|| text.to_owned()),
        )?;
        let public_url = parse(
            raw.public_url,
            "PUBLIC_URL",
            "http://host:port or https://host:port that other peers can reach",
            |text| provider_url::parse(text.strip_suffix('/').unwrap_or(text)).ok(),
        )?;
        let client_access = parse(
            raw.client_access,
            "CLIENT_ACCESS",
            "open, loopback or token",
            ClientAccess::parse,
        )?;
        let locate_by = parse(
            raw.locate_by,
            "LOCATE_BY",
            "strategies with commas, each once: central, chord, zone, flood",
            strategies,
        )?;
        let api_token = raw
            .api_token_file
            .map(|path| read_token(Path::new(&path)))
            .transpose()?;
        let log_filter = parse(
            raw.rust_log,
            "RUST_LOG",
            settings::LOG_FILTER_EXPECTED,
            |text| settings::is_log_filter(text).then(|| text.to_owned()),
        )?;
        let overlay_port = parse(
            raw.overlay_port,
            "OVERLAY_PORT",
            "a port, 0 to 65535",
            |text| text.parse().ok(),
        )?;
        let needs_overlay = locate_by
            .iter()
            .flatten()
            .find(|kind: &&StrategyKind| kind.is_overlay());
        if let (Some(kind), None) = (needs_overlay, overlay_port) {
            return Err(InvalidSetting::new(
                "LOCATE_BY",
                kind.as_str(),
                "set OVERLAY_PORT as well",
            ));
        }
        let client_access = client_access.unwrap_or_default();
        if client_access == ClientAccess::Token && api_token.is_none() {
            return Err(InvalidSetting::new(
                "CLIENT_ACCESS",
                "token",
                "set API_TOKEN_FILE as well",
            ));
        }
        let keep = parse(raw.keep, "KEEP", "always or never", Keep::parse)?;
        let cache_limit = parse(
            raw.cache_limit,
            "CACHE_LIMIT",
            "bytes, at least 1, with K, M, G or T for powers of 1024 (nothing is kept: KEEP=never)",
            |text| size::parse(text).filter(|&bytes| bytes > 0),
        )?;
        let rate = |value, variable| {
            parse(
                value,
                variable,
                "bytes a second, at least 1K, with K, M, G or T for powers of 1024",
                |text| size::parse(text).filter(|&rate| rate >= MIN_RATE),
            )
        };
        let upload_limit = rate(raw.upload_limit, "UPLOAD_LIMIT")?;
        let download_limit = rate(raw.download_limit, "DOWNLOAD_LIMIT")?;
        let congestion = parse(
            raw.congestion,
            "CONGESTION",
            "loss or system",
            Congestion::parse,
        )?;
        Ok(Self {
            locators: endpoints(raw.url_request, "URL_Request")?,
            neighbours: endpoints(raw.url_peersu, "URL_PEERSU")?,
            bind: bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: port.unwrap_or(80),
            public_url,
            shared_dir: dir(raw.shared_dir, "shared"),
            download_dir: dir(raw.download_dir, "downloads"),
            data_dir: dir(raw.data_dir, "data"),
            site,
            client_access,
            locate_by: locate_by.unwrap_or_else(|| vec![StrategyKind::Central]),
            credentials: credentials(raw.peer_user, raw.peer_password_file)?,
            api_token,
            overlay_port,
            overlay_seeds: endpoints(raw.overlay_seeds, "OVERLAY_SEEDS")?,
            keep: keep.unwrap_or_default(),
            cache_limit,
            upload_limit,
            congestion: congestion.unwrap_or_default(),
            download_limit,
            rescan: RESCAN,
            log_filter: log_filter.unwrap_or_else(|| LOG_FILTER.to_owned()),
        })
    }

    /// The resolved values, one `NAME=value` a line, secrets redacted.
    pub fn print(&self) -> String {
        let list = |endpoints: &[PeerUrl]| {
            endpoints
                .iter()
                .map(PeerUrl::authority)
                .collect::<Vec<_>>()
                .join(",")
        };
        let strategies: Vec<_> = self.locate_by.iter().map(|kind| kind.as_str()).collect();
        let url = self.public_url.as_ref().map(ToString::to_string);
        let bytes = |limit: Option<u64>| limit.map_or("(none)".to_owned(), size::print);
        [
            ("URL_Request", list(&self.locators)),
            ("PORT", self.port.to_string()),
            ("URL_PEERSU", list(&self.neighbours)),
            ("BIND", self.bind.to_string()),
            ("PUBLIC_URL", url.unwrap_or("(derived)".to_owned())),
            ("SHARED_DIR", self.shared_dir.display().to_string()),
            ("DOWNLOAD_DIR", self.download_dir.display().to_string()),
            ("DATA_DIR", self.data_dir.display().to_string()),
            ("SITE", self.site.clone().unwrap_or_default()),
            ("CLIENT_ACCESS", self.client_access.as_str().to_owned()),
            ("LOCATE_BY", strategies.join(",")),
            (
                "OVERLAY_PORT",
                self.overlay_port
                    .map_or("(off)".to_owned(), |port| port.to_string()),
            ),
            ("OVERLAY_SEEDS", list(&self.overlay_seeds)),
            ("KEEP", self.keep.as_str().to_owned()),
            ("CACHE_LIMIT", bytes(self.cache_limit)),
            ("UPLOAD_LIMIT", bytes(self.upload_limit)),
            ("DOWNLOAD_LIMIT", bytes(self.download_limit)),
            ("CONGESTION", self.congestion.as_str().to_owned()),
            (
                "PEER_USER",
                self.credentials
                    .as_ref()
                    .map_or(String::new(), |who| who.user.to_string()),
            ),
            (
                "PEER_PASSWORD_FILE",
                self.credentials
                    .as_ref()
                    .map_or("", |_| "(redacted)")
                    .to_owned(),
            ),
            (
                "API_TOKEN_FILE",
                self.api_token
                    .as_ref()
                    .map_or("", |_| "(redacted)")
                    .to_owned(),
            ),
            ("RUST_LOG", self.log_filter.clone()),
        ]
        .map(|(name, value)| format!("{name}={value}\n"))
        .concat()
    }
}

/// What is logged unless said otherwise.
const LOG_FILTER: &str = "info,actix_server=warn";

/// The directories are walked again this often even when the watch saw nothing.
const RESCAN: Duration = Duration::from_secs(60);

/// Bytes a second below which nothing would get anywhere.
const MIN_RATE: u64 = 1 << 10;

/// Most locators or neighbours that are of use.
const MAX_ENDPOINTS: usize = 16;

/// Strategies with commas, each once.
fn strategies(text: &str) -> Option<Vec<StrategyKind>> {
    let kinds: Vec<_> = text
        .split(',')
        .map(|part| StrategyKind::parse(part.trim()))
        .collect::<Option<_>>()?;
    let is_first = |(at, kind)| !kinds[..at].contains(kind);
    kinds.iter().enumerate().all(is_first).then_some(kinds)
}

fn parse<T>(
    value: Option<String>,
    variable: &'static str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, InvalidSetting> {
    value
        .map(|text| {
            parse(text.trim())
                .ok_or_else(|| InvalidSetting::new(variable, &text, format!("expected {expected}")))
        })
        .transpose()
}

fn endpoints(
    value: Option<String>,
    variable: &'static str,
) -> Result<Vec<PeerUrl>, InvalidSetting> {
    let parsed = parse(
        value,
        variable,
        "host:port, at most 16 of them with commas",
        |text| {
            let all: Option<Vec<_>> = text
                .split(',')
                .map(|part| PeerUrl::parse_endpoint(part.trim(), None).ok())
                .collect();
            all.filter(|all| all.len() <= MAX_ENDPOINTS)
        },
    )?;
    Ok(parsed.unwrap_or_default())
}

/// Most bytes of a password's file that are read: the longest password and the end of its line.
const MAX_PASSWORD_FILE: u64 = MAX_PASSWORD_BYTES as u64 + 3;

/// User and password, both or none.
fn credentials(
    user: Option<String>,
    file: Option<String>,
) -> Result<Option<Credentials>, InvalidSetting> {
    let (user, file) = match (user, file) {
        (None, None) => return Ok(None),
        (Some(user), Some(file)) => (user, file),
        (Some(user), None) => {
            let expected = "set PEER_PASSWORD_FILE as well";
            return Err(InvalidSetting::new("PEER_USER", &user, expected));
        }
        (None, Some(file)) => {
            let expected = "set PEER_USER as well";
            return Err(InvalidSetting::new("PEER_PASSWORD_FILE", &file, expected));
        }
    };
    let expected = "expected 1 to 64 bytes of printable characters";
    let name = UserName::parse(user.trim())
        .map_err(|_| InvalidSetting::new("PEER_USER", &user, expected))?;
    let wrong = |why: String| InvalidSetting::new("PEER_PASSWORD_FILE", &file, why);
    let mut text = String::new();
    std::fs::File::open(&file)
        .and_then(|file| file.take(MAX_PASSWORD_FILE).read_to_string(&mut text))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let password = first_line(&text).to_owned();
    check_password(&password)
        .map_err(|error| wrong(format!("its first line is no password: {error}")))?;
    Ok(Some(Credentials {
        user: name,
        password,
    }))
}

fn read_token(path: &Path) -> Result<ApiToken, InvalidSetting> {
    let wrong =
        |why: String| InvalidSetting::new("API_TOKEN_FILE", &path.display().to_string(), why);
    let text =
        std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let token = settings::token_in(&text)
        .ok_or_else(|| wrong(format!("expected {}", settings::TOKEN_EXPECTED)))?;
    Ok(ApiToken::new(token))
}

#[cfg(test)]
mod tests;
