//! [`UserName`]: what an account is called, and what may be a password.
//!
//! Invariant: a `UserName` can be printed on a terminal or in a log without moving the cursor, and
//! two that look the same by canonical equivalence are the same.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Longest name of a user, in bytes.
pub const MAX_USER_BYTES: usize = 64;
/// Longest password, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// The name of an account: 1 to 64 bytes of printable UTF-8 in NFC, no space at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Box<str>);

/// A text that names no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "user {shown:?} is not valid: expected 1 to {MAX_USER_BYTES} bytes of printable characters, \
     no space at either end"
)]
pub struct InvalidUserName {
    shown: String,
}

/// A password that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password has {0} bytes: expected 1 to {MAX_PASSWORD_BYTES}")]
pub struct InvalidPassword(pub usize);

/// Whether `password` may be one; what it is made of is the user's affair.
pub fn check_password(password: &str) -> Result<(), InvalidPassword> {
    match password.len() {
        1..=MAX_PASSWORD_BYTES => Ok(()),
        bytes => Err(InvalidPassword(bytes)),
    }
}

/// The first line of a file with a password, or of what is typed: without its end.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl UserName {
    /// Parses `text`, normalising it to NFC.
    pub fn parse(text: &str) -> Result<Self, InvalidUserName> {
        let invalid = || InvalidUserName {
            shown: text.chars().take(MAX_USER_BYTES).collect(),
        };
        // Bounds what normalisation may cost; NFC never shortens below a third.
        if text.len() > 3 * MAX_USER_BYTES {
            return Err(invalid());
        }
        let normal: String = text.nfc().collect();
        let fits = (1..=MAX_USER_BYTES).contains(&normal.len());
        if fits && normal.trim() == normal && is_printable(&normal) {
            return Ok(Self(normal.into()));
        }
        Err(invalid())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether escaping would leave all of it as it is, quotes and backslashes aside: it escapes
/// what is invisible, moves the cursor or changes the direction.
fn is_printable(text: &str) -> bool {
    let plain = text.replace(['\'', '"', '\\'], "");
    plain.escape_debug().eq(plain.chars())
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        Self::parse(text)
    }
}

impl TryFrom<String> for UserName {
    type Error = InvalidUserName;

    fn try_from(text: String) -> Result<Self, InvalidUserName> {
        Self::parse(&text)
    }
}

impl From<UserName> for String {
    fn from(user: UserName) -> Self {
        user.0.into()
    }
}
