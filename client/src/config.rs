//! [`Config`]: the settings, from the environment and, for what is unset there, from a `.env`
//! file in the working directory. Raw text ends here.
//!
//! The environment of the process is read, never changed.

use std::{collections::BTreeMap, fmt, io, path::PathBuf};

use serde::Deserialize;
use vecino_rest::{PeerUrl, settings};

/// Every variable there is.
const VARIABLES: [&str; 4] = [URL_PEERAS, API_TOKEN_FILE, RUST_LOG, NO_COLOR];
/// Where HTTP listens unless said otherwise.
const HTTP_PORT: u16 = 80;
/// FROZEN: the own peer.
const URL_PEERAS: &str = "URL_PEERAS";
const API_TOKEN_FILE: &str = "API_TOKEN_FILE";
const RUST_LOG: &str = "RUST_LOG";
const NO_COLOR: &str = "NO_COLOR";

/// Where the own peer is unless said otherwise.
const DEFAULT_PEER: &str = "127.0.0.1:80";
/// Longest token file, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;

/// The last part of `--help`.
pub(crate) const HELP: &str = "\
Environment (a .env file in the working directory fills what is unset):
  URL_PEERAS      your own peer, host:port [default: 127.0.0.1:80]
  API_TOKEN_FILE  file with the token that your own peer asks for [default: none]
  RUST_LOG        what to log on stderr: off, error, warn, info, debug, trace, or
                  MODULE=LEVEL, with commas [default: off]
  NO_COLOR        anything: no colours

Exit codes:
  0 done              4 token or password wrong     7 bytes do not match their digest
  1 error             5 several variants: pick one  8 disk or permission
  2 wrong usage       6 peer or network unreachable 9 target exists, or the name is taken
  3 not found         130 cancelled by Ctrl-C       143 ended by SIGTERM
                      141 nobody reads standard output

With --json, an error is one JSON object on stderr (RFC 9457, plus \"hint\" and \"exit_code\").";

/// The settings, resolved.
pub(crate) struct Config {
    /// The own peer.
    pub(crate) peer: PeerUrl,
    /// Where the token was read from, and the token.
    pub(crate) token: Option<(PathBuf, String)>,
    /// What to log.
    pub(crate) log_filter: String,
    /// Whether colours are allowed.
    pub(crate) color: bool,
}

/// A setting that cannot be used: which, its value, what would be right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidConfig {
    /// The value is of the wrong form.
    #[error("{variable}={value:?}: {accepted}")]
    Value {
        variable: &'static str,
        value: String,
        accepted: String,
    },
    /// `.env` cannot be read.
    #[error(".env: {0}: expected lines like URL_PEERAS = \"127.0.0.1:80\"")]
    DotEnv(dotenvy::Error),
}

/// The values as they are written; `envy` fills it.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    url_peeras: Option<String>,
    api_token_file: Option<String>,
    rust_log: Option<String>,
    no_color: Option<String>,
}

impl Config {
    /// Reads environment and `.env`.
    pub(crate) fn load() -> Result<Self, InvalidConfig> {
        let mut values = dot_env()?;
        // `envy` fails on what is not UTF-8 and takes empty values for values.
        values.extend(std::env::vars_os().filter_map(|(variable, value)| {
            Some((variable.into_string().ok()?, value.into_string().ok()?))
        }));
        Self::resolve(values)
    }

    fn resolve(values: BTreeMap<String, String>) -> Result<Self, InvalidConfig> {
        let ours = values.into_iter().filter(|(variable, value)| {
            VARIABLES.contains(&variable.as_str()) && !value.trim().is_empty()
        });
        let raw: Raw = envy::from_iter(ours).expect("every field is an optional text");
        Ok(Self {
            peer: own_peer(raw.url_peeras.as_deref().unwrap_or(DEFAULT_PEER))?,
            token: raw.api_token_file.map(read_token).transpose()?,
            log_filter: raw.rust_log.map_or(Ok("off".to_owned()), log_filter)?,
            color: raw.no_color.is_none(),
        })
    }
}

fn dot_env() -> Result<BTreeMap<String, String>, InvalidConfig> {
    match dotenvy::from_path_iter(".env") {
        Ok(lines) => lines
            .collect::<Result<_, _>>()
            .map_err(InvalidConfig::DotEnv),
        Err(error) if error.not_found() => Ok(BTreeMap::new()),
        Err(error) => Err(InvalidConfig::DotEnv(error)),
    }
}

fn own_peer(value: &str) -> Result<PeerUrl, InvalidConfig> {
    let wrong = |accepted: String| InvalidConfig::Value {
        variable: URL_PEERAS,
        value: value.to_owned(),
        accepted,
    };
    let accepted = "expected host:port or http://host:port";
    let url = PeerUrl::parse_endpoint(value.trim(), Some(HTTP_PORT))
        .map_err(|error| wrong(format!("it {}; {accepted}", error.fault())))?;
    if url.is_https() {
        return Err(wrong(accepted.to_owned()));
    }
    Ok(url)
}

fn log_filter(value: String) -> Result<String, InvalidConfig> {
    if settings::is_log_filter(&value) {
        return Ok(value);
    }
    Err(InvalidConfig::Value {
        variable: RUST_LOG,
        value,
        accepted: format!("expected {}", settings::LOG_FILTER_EXPECTED),
    })
}

fn read_token(path: String) -> Result<(PathBuf, String), InvalidConfig> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let file = std::fs::File::open(&path)?;
        io::Read::read_to_string(&mut io::Read::take(file, MAX_TOKEN_FILE + 1), &mut text)?;
        Ok(text)
    };
    let wrong = |accepted: String| InvalidConfig::Value {
        variable: API_TOKEN_FILE,
        value: path.clone(),
        accepted,
    };
    let text = read().map_err(|error| wrong(format!("{error}; expected a readable file")))?;
    let token = Some(&*text)
        .filter(|text| text.len() as u64 <= MAX_TOKEN_FILE)
        .and_then(settings::token_in)
        .ok_or_else(|| wrong(format!("expected {}", settings::TOKEN_EXPECTED)))?;
    Ok((PathBuf::from(&path), token.to_owned()))
}

impl fmt::Display for Config {
    /// The resolved values, without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{URL_PEERAS}={}", self.peer.authority())?;
        match &self.token {
            Some((path, _)) => writeln!(f, "{API_TOKEN_FILE}={} (token read)", path.display())?,
            None => writeln!(f, "{API_TOKEN_FILE}=")?,
        }
        writeln!(f, "{RUST_LOG}={}", self.log_filter)?;
        write!(f, "{NO_COLOR}={}", if self.color { "" } else { "1" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(values: &[(&str, &str)]) -> Result<Config, String> {
        let values = values
            .iter()
            .map(|&(variable, value)| (variable.to_owned(), value.to_owned()))
            .collect();
        Config::resolve(values).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_and_empty_values_are_the_defaults() {
        for values in [&[][..], &[("URL_PEERAS", ""), ("NO_COLOR", " ")]] {
            let config = resolve(values).unwrap();
            assert_eq!(config.peer.authority(), "127.0.0.1:80");
            assert!(config.token.is_none());
            assert!(config.color);
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_accepted() {
        let error = resolve(&[("URL_PEERAS", "http://a/b")]).err().unwrap();
        assert!(error.contains("URL_PEERAS=\"http://a/b\""), "{error}");
        assert!(error.contains("expected host:port"), "{error}");
        let error = resolve(&[("URL_PEERAS", "https://a:1")]).err().unwrap();
        assert!(error.contains("expected host:port"), "{error}");
        let error = resolve(&[("RUST_LOG", "client=loud")]).err().unwrap();
        assert!(error.contains("RUST_LOG=\"client=loud\""), "{error}");
        assert!(resolve(&[("RUST_LOG", "info,awc=off, actix_http::h1=trace")]).is_ok());
        let error = resolve(&[("RUST_LOG", "bogus")]).err().unwrap();
        assert!(error.contains("RUST_LOG=\"bogus\""), "{error}");
        let error = resolve(&[("API_TOKEN_FILE", "/nowhere/t")]).err().unwrap();
        assert!(error.contains("API_TOKEN_FILE=\"/nowhere/t\""), "{error}");
    }

    #[test]
    fn the_token_is_trimmed_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " s3cret-s3cret-s3cret \n").unwrap();
        let config = resolve(&[("API_TOKEN_FILE", path.to_str().unwrap())]).unwrap();
        assert_eq!(config.token.as_ref().unwrap().1, "s3cret-s3cret-s3cret");
        assert!(!config.to_string().contains("s3cret"));
    }
}
