//! [`Secret`]: where a server is that is not to be told of, and whether some bytes tell it.

use std::net::SocketAddr;

/// An address that nobody may learn.
#[derive(Debug, Clone)]
pub(crate) struct Secret {
    ip: String,
    port: String,
}

impl Secret {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        Self {
            ip: addr.ip().to_string(),
            port: addr.port().to_string(),
        }
    }

    /// Of a server that shares its IP address with others: only the whole address is told apart.
    pub(crate) fn of_one_among_others(addr: SocketAddr) -> Self {
        Self {
            ip: addr.to_string(),
            port: addr.port().to_string(),
        }
    }

    /// Panics when `bytes` tell the address, or the port as a number of its own.
    #[track_caller]
    pub(crate) fn is_not_in(&self, bytes: &[u8], what: &str) {
        let text = String::from_utf8_lossy(bytes);
        if let Some(found) = self.find(&text) {
            panic!("{what} tells {found:?} of {self:?}:\n{text}");
        }
    }

    fn find(&self, text: &str) -> Option<&str> {
        if text.contains(&self.ip) {
            return Some(&self.ip);
        }
        let told = text.match_indices(&self.port).any(|(at, port)| {
            let before = text[..at].chars().next_back();
            let mut after = text[at + port.len()..].chars();
            let next = after.next();
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            // Decimals of a number are not the port either.
            let continues = next.is_some_and(is_word)
                || next == Some('.') && after.next().is_some_and(|c| c.is_ascii_digit());
            !before.is_some_and(|c| is_word(c) || c == '.') && !continues
        });
        told.then_some(self.port.as_str())
    }
}

#[test]
fn the_address_and_the_port_are_found_and_longer_numbers_are_not() {
    let secret = Secret::of("127.83.61.47:43210".parse().unwrap());
    for (text, told) in [
        ("connect to http://127.83.61.47:1 failed", true),
        ("tcp connect error: 127.83.61.47", true),
        ("no answer from localhost:43210.", true),
        ("{\"port\":43210}", true),
        ("port=43210 refused", true),
        ("432101 bytes, 143210 bytes, x43210", false),
        ("latency 0.43210 ms, 43210.5 s", false),
        ("127.0.0.1:8080", false),
    ] {
        assert_eq!(secret.find(text).is_some(), told, "{text}");
    }
}
