//! What the operator says: the environment, resolved once into typed values.
//!
//! A `.env` file in the working directory fills what the environment leaves unset. Empty values
//! count as unset. Nothing behind this module reads the environment.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;
use vecino_rest::settings;
use vecino_rest::zone::{MAX_SLOTS, MAX_ZONE_SLOTS, MIN_ZONE_SLOTS, ZoneLayout};

use crate::{
    account::{Policy, SESSION_LIFE},
    store::{REDIS_EXPECTED, RedisUrl},
};

/// A variable, its default and what it means; also the text of `--help`.
struct Variable {
    name: &'static str,
    default: &'static str,
    help: &'static str,
}

const VARIABLES: [Variable; 10] = [
    Variable {
        name: "HOST",
        default: "[::]:51015",
        help: "where gRPC listens: ip:port, host:port or :port",
    },
    Variable {
        name: "STORE_URL",
        default: "redb:data/locator.redb",
        help: "redb:PATH (a file, made when it is missing), memory: (gone with the process), or \
               redis://host:port,host:port (a Redis or Valkey Cluster, for any number of locators)",
    },
    Variable {
        name: "REDIS_PASSWORD_FILE",
        default: "none",
        help: "file with the password of the cluster",
    },
    Variable {
        name: "LEASE_SECONDS",
        default: "15",
        help: "a peer silent for longer is gone; seconds, 1 to 86400",
    },
    Variable {
        name: "ACCOUNTS",
        default: "off",
        help: "who may register: off (everybody), open (who logs in; the first login makes the account), closed (existing accounts)",
    },
    Variable {
        name: "CONTROL_SOCKET",
        default: "derived",
        help: "Unix socket for the commands below, for this user alone: a path, derived (the store's file + .sock; none without a file), or off",
    },
    Variable {
        name: "NETWORK_SIZE",
        default: "64",
        help: "slots for peers that use zones: one a peer, 6 to 65536",
    },
    Variable {
        name: "NUMBER_OF_ZONES",
        default: "derived",
        help: "zones of the network, of 6 to 1024 slots each; derived: the square root of its size",
    },
    Variable {
        name: "METRICS_ADDR",
        default: "127.0.0.1:51016",
        help: "HTTP /metrics, /healthz, /readyz: ip:port, host:port, :port, or off",
    },
    Variable {
        name: "RUST_LOG",
        default: "info",
        help: "what is logged: off, error, warn, info, debug, trace, or MODULE=LEVEL, with commas",
    },
];

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is wrong.
    #[error("{variable}={value:?} is not valid: expected {expected}")]
    Value {
        /// Which variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is accepted.
        expected: Cow<'static, str>,
    },
    /// The `.env` file cannot be read.
    #[error(".env cannot be read: {0}; expected lines of the form NAME = \"value\"")]
    DotEnv(String),
}

/// A place to listen: `host` may be empty, which is every address of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// IP address without brackets, host name, or empty.
    pub host: String,
    /// TCP port; 0: any free one.
    pub port: u16,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for Listen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let name_like = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.len() > 255 || !host.chars().all(name_like) {
            return Err(());
        }
        let digits = port.bytes().all(|digit| digit.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(())?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Which engine keeps the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In memory.
    Memory,
    /// In this file.
    Redb(PathBuf),
    /// In this cluster.
    Redis(RedisUrl),
}

impl StoreUrl {
    /// Where commands reach a locator on this store unless somebody says otherwise: beside its
    /// file, where there is one, and where the path of a socket may be so long.
    pub fn socket(&self) -> Option<PathBuf> {
        let Self::Redb(file) = self else {
            return None;
        };
        let mut path = file.clone().into_os_string();
        path.push(".sock");
        let path = PathBuf::from(path);
        is_socket_path(&path).then_some(path)
    }
}

impl FromStr for StoreUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("redb", path)) if !path.is_empty() => Ok(Self::Redb(path.into())),
            Some(("redis", _)) => text.parse().map(Self::Redis),
            _ => Err(()),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Redb(path) => write!(f, "redb:{}", path.display()),
            Self::Redis(cluster) => cluster.fmt(f),
        }
    }
}

/// The settings of a locator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HOST`: where gRPC listens.
    pub host: Listen,
    /// `STORE_URL`: what keeps the directory.
    pub store: StoreUrl,
    /// `LEASE_SECONDS`: a peer silent for longer is gone. Whole seconds, 1 to 86400.
    pub lease: Duration,
    /// `ACCOUNTS`: who may register.
    pub accounts: Policy,
    /// How long a session token is good for.
    pub session: Duration,
    /// `CONTROL_SOCKET`: where the operator's commands reach it; `None`: they do not.
    pub control: Option<PathBuf>,
    /// `NETWORK_SIZE`, `NUMBER_OF_ZONES`: slots and zones.
    pub zones: ZoneLayout,
    /// `METRICS_ADDR`: where HTTP for machines listens; `None`: nowhere.
    pub metrics_addr: Option<Listen>,
    /// `RUST_LOG`: what is logged, as `env_logger` reads it.
    pub log_filter: String,
}

/// Slots of a network of which nobody said the size.
const DEFAULT_SLOTS: u32 = 64;
/// Longest lease, in seconds.
const MAX_LEASE_SECONDS: u64 = 86_400;

/// The variables as text.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    host: Option<String>,
    store_url: Option<String>,
    redis_password_file: Option<String>,
    lease_seconds: Option<String>,
    accounts: Option<String>,
    control_socket: Option<String>,
    network_size: Option<String>,
    number_of_zones: Option<String>,
    metrics_addr: Option<String>,
    rust_log: Option<String>,
}

impl Config {
    /// For tests: any free port of the loopback address, an empty store in memory.
    pub fn ephemeral() -> Self {
        let loopback = Listen {
            host: "127.0.0.1".into(),
            port: 0,
        };
        Self {
            host: loopback.clone(),
            store: StoreUrl::Memory,
            lease: Duration::from_secs(15),
            accounts: Policy::Off,
            session: SESSION_LIFE,
            control: None,
            zones: ZoneLayout::derived(DEFAULT_SLOTS).expect("a size of a network"),
            metrics_addr: Some(loopback),
            log_filter: "info".into(),
        }
    }

    /// Reads the environment of the process, and `.env` for what it leaves unset.
    pub fn from_env() -> Result<Self, ConfigError> {
        let process = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_variables(process, dot_env()?)
    }

    /// Resolves `process`, and `file` for what it leaves unset.
    fn from_variables(
        process: impl IntoIterator<Item = (String, String)>,
        file: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let known = |(name, value): &(String, String)| {
            !value.is_empty() && VARIABLES.iter().any(|variable| variable.name == name)
        };
        let mut variables: Vec<_> = process.into_iter().filter(known).collect();
        for (name, value) in file.into_iter().filter(known) {
            if !variables.iter().any(|(set, _)| *set == name) {
                variables.push((name, value));
            }
        }
        let raw: Raw = envy::from_iter(variables).expect("all fields are optional text");
        let [
            host,
            store,
            _,
            lease,
            accounts,
            control,
            size,
            zones,
            metrics,
            log,
        ] = VARIABLES;
        let lease_seconds = parse(
            &lease,
            raw.lease_seconds,
            "whole seconds from 1 to 86400",
            |text| {
                text.parse()
                    .ok()
                    .filter(|seconds| (1..=MAX_LEASE_SECONDS).contains(seconds))
            },
        )?;
        let store = store_url(&store, raw.store_url, raw.redis_password_file)?;
        Ok(Self {
            control: parse(
                &control,
                raw.control_socket,
                format!("a path of at most {MAX_SOCKET_PATH} bytes, derived or off"),
                |text| match text {
                    "off" => Some(None),
                    "derived" => Some(store.socket()),
                    path => is_socket_path(Path::new(path)).then(|| Some(path.into())),
                },
            )?,
            accounts: parse(&accounts, raw.accounts, "off, open or closed", |text| {
                text.parse().ok()
            })?,
            session: SESSION_LIFE,
            store,
            host: parse(&host, raw.host, "ip:port, host:port or :port", |t| {
                t.parse().ok()
            })?,
            lease: Duration::from_secs(lease_seconds),
            zones: layout(&size, raw.network_size, &zones, raw.number_of_zones)?,
            metrics_addr: parse(
                &metrics,
                raw.metrics_addr,
                "ip:port, host:port, :port or off",
                |text| match text {
                    "off" => Some(None),
                    text => text.parse().ok().map(Some),
                },
            )?,
            log_filter: parse(&log, raw.rust_log, settings::LOG_FILTER_EXPECTED, |text| {
                settings::is_log_filter(text).then(|| text.to_owned())
            })?,
        })
    }
}

impl Default for Config {
    /// What holds when nothing is set.
    fn default() -> Self {
        Self::from_variables([], []).expect("the defaults are valid")
    }
}

impl fmt::Display for Config {
    /// The resolved values, one `NAME=value` a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HOST={}", self.host)?;
        writeln!(f, "STORE_URL={}", self.store)?;
        if let StoreUrl::Redis(cluster) = &self.store
            && let Some(file) = &cluster.password_file
        {
            writeln!(f, "REDIS_PASSWORD_FILE={}", file.display())?;
        }
        writeln!(f, "LEASE_SECONDS={}", self.lease.as_secs())?;
        writeln!(f, "ACCOUNTS={}", self.accounts)?;
        match &self.control {
            Some(path) => writeln!(f, "CONTROL_SOCKET={}", path.display())?,
            None => writeln!(f, "CONTROL_SOCKET=off")?,
        }
        writeln!(f, "NETWORK_SIZE={}", self.zones.slots())?;
        writeln!(f, "NUMBER_OF_ZONES={}", self.zones.zones())?;
        match &self.metrics_addr {
            Some(address) => writeln!(f, "METRICS_ADDR={address}")?,
            None => writeln!(f, "METRICS_ADDR=off")?,
        }
        writeln!(f, "RUST_LOG={}", self.log_filter)
    }
}

fn parse<T>(
    variable: &Variable,
    value: Option<String>,
    expected: impl Into<Cow<'static, str>>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    let value = value.unwrap_or_else(|| variable.default.to_owned());
    parse(value.trim()).ok_or(ConfigError::Value {
        variable: variable.name,
        value,
        expected: expected.into(),
    })
}

/// Where the directory is kept. What may have a password in it is not repeated.
fn store_url(
    variable: &Variable,
    url: Option<String>,
    password_file: Option<String>,
) -> Result<StoreUrl, ConfigError> {
    let expected = format!("redb:PATH, memory: or {REDIS_EXPECTED}");
    let mut url = parse(variable, url, expected, |text| text.parse().ok());
    match &mut url {
        Ok(StoreUrl::Redis(cluster)) => cluster.password_file = password_file.map(PathBuf::from),
        Err(ConfigError::Value { value, .. }) if value.contains('@') => {
            let (_, shown) = value.rsplit_once('@').expect("has one");
            *value = format!("redis://...@{shown}");
        }
        _ => {}
    }
    url
}

/// The layout of zones that both variables tell.
fn layout(
    size: &Variable,
    slots: Option<String>,
    number: &Variable,
    zones: Option<String>,
) -> Result<ZoneLayout, ConfigError> {
    let expected = format!("a whole number from {MIN_ZONE_SLOTS} to {MAX_SLOTS}");
    let derived = parse(size, slots, expected, |text| {
        text.parse().ok().and_then(ZoneLayout::derived)
    })?;
    let slots = derived.slots();
    let allowed = ZoneLayout::zones_of(slots).expect("it has a layout");
    let expected = format!(
        "derived, or a whole number from {} to {} ({MIN_ZONE_SLOTS} to {MAX_ZONE_SLOTS} slots a \
         zone, NETWORK_SIZE={slots})",
        allowed.start,
        allowed.end - 1
    );
    parse(number, zones, expected, |text| match text {
        "derived" => Some(derived),
        text => ZoneLayout::new(slots, text.parse().ok()?),
    })
}

/// Bytes of the path of a socket: what the system's address of one takes, and room for an ending.
const MAX_SOCKET_PATH: usize = 103;

fn is_socket_path(path: &Path) -> bool {
    path.as_os_str().len() <= MAX_SOCKET_PATH
}

fn dot_env() -> Result<Vec<(String, String)>, ConfigError> {
    match dotenvy::from_path_iter(".env") {
        Ok(lines) => lines
            .collect::<Result<_, _>>()
            .map_err(|e| ConfigError::DotEnv(e.to_string())),
        Err(error) if error.not_found() => Ok(Vec::new()),
        Err(error) => Err(ConfigError::DotEnv(error.to_string())),
    }
}

/// The settings, for `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "Settings come from the environment; a .env file in the working directory fills what is \
         unset.\n",
    );
    for Variable {
        name,
        default,
        help,
    } in VARIABLES
    {
        text += &format!("  {name:<19} {help} [default: {default}]\n");
    }
    text
}

#[cfg(test)]
mod tests;
