//! Settings that mean the same to every program of the system: `RUST_LOG`, and the bearer token.
//!
//! Only their form is decided here; who reads them says what to do with them.

use std::ops::RangeInclusive;

/// Bytes of a bearer token.
pub const TOKEN_BYTES: RangeInclusive<usize> = 16..=1024;
/// What a token file is to have in it.
pub const TOKEN_EXPECTED: &str = "a file with 16 to 1024 visible ASCII characters";
/// What `RUST_LOG` may be.
pub const LOG_FILTER_EXPECTED: &str =
    "off, error, warn, info, debug or trace, or MODULE=LEVEL, with commas between several";

/// The token in what a token file says; `None` when it is none.
pub fn token_in(text: &str) -> Option<&str> {
    let token = text.trim();
    let is_token =
        TOKEN_BYTES.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_token.then_some(token)
}

/// Whether `text` is `LEVEL` or `MODULE=LEVEL`, or several with commas. A module alone is none: a
/// mistyped level would look like one, and nothing would be logged but for that module.
pub fn is_log_filter(text: &str) -> bool {
    let is_level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| text.trim().eq_ignore_ascii_case(level))
    };
    let is_module = |text: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        !text.is_empty() && text.chars().all(letter)
    };
    text.split(',')
        .all(|directive| match directive.split_once('=') {
            Some((module, level)) => is_module(module.trim()) && is_level(level),
            None => is_level(directive),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_no_filter() {
        for text in ["info", "OFF", "info,awc=off, actix_http::h1=trace"] {
            assert!(is_log_filter(text), "{text}");
        }
        for text in [
            "bogus",
            "",
            "info,",
            "client=loud",
            "a b=info",
            "=info",
            "a=",
        ] {
            assert!(!is_log_filter(text), "{text}");
        }
    }

    #[test]
    fn a_token_is_long_enough_and_visible() {
        let token = "sesame-sesame-sesame";
        assert_eq!(token_in(&format!(" {token}\n")), Some(token));
        for text in [
            "",
            "short",
            "0123456789 0123456789",
            "0123456789é0123456789",
        ] {
            assert_eq!(token_in(text), None, "{text}");
        }
        assert_eq!(token_in(&"x".repeat(1025)), None);
    }
}
