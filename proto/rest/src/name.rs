//! [`Name`]: what a shared file is called. Every name from outside passes through
//! [`Name::parse`] before anything else looks at it.
//!
//! Invariant: a `Name` can be joined to a directory without leaving it, printed on a terminal or
//! in a log without moving the cursor, and compared byte for byte.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Longest name, in bytes.
pub const MAX_BYTES: usize = 1024;
/// Longest part of a name, in bytes: what common file systems take.
pub const MAX_PART_BYTES: usize = 255;

/// RFC 3986 `unreserved`, and `/` which separates the parts.
const KEPT_IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A relative path with `/` between its parts, in UTF-8 NFC.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A part of more than [`MAX_PART_BYTES`].
    #[error("a part of it is longer than {MAX_PART_BYTES} bytes")]
    PartTooLong,
    /// `/` as the first character.
    #[error("it begins with '/': names are relative")]
    Absolute,
    /// `/` at the end, or twice in a row.
    #[error("it has an empty part (a '/' at the end, or two in a row)")]
    EmptyPart,
    /// `.` or `..` as a part.
    #[error("it has '.' or '..' as a part")]
    DotPart,
    /// A `\`, which separates directories on some systems.
    #[error("it has a backslash")]
    Backslash,
    /// A control, line-separating, direction-changing or invisible formatting character.
    #[error("it has the forbidden character U+{:04X}", *.0 as u32)]
    Forbidden(char),
    /// A percent-encoding that is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// A text that is not a name, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is not a valid name: {fault}")]
pub struct InvalidName {
    shown: String,
    /// The reason.
    pub fault: Fault,
}

impl InvalidName {
    fn new(text: &str, fault: Fault) -> Self {
        // `{:?}` escapes it; an error repeats at most this much of what was sent.
        let shown = match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        Self { shown, fault }
    }
}

/// What names that begin with `text` begin with, as they are kept.
pub fn prefix(text: &str) -> String {
    text.nfc().collect()
}

impl Name {
    /// Parses `text`, normalising it to NFC.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        // Bounds what normalisation may cost; NFC never shortens below a third.
        if text.len() > 3 * MAX_BYTES {
            return Err(InvalidName::new(text, Fault::TooLong));
        }
        let normal: Box<str> = if is_nfc(text) {
            text.into()
        } else {
            text.nfc().collect::<String>().into()
        };
        match fault_in(&normal) {
            Some(fault) => Err(InvalidName::new(text, fault)),
            None => Ok(Self(normal)),
        }
    }

    /// Parses the percent-encoded path of a URL, decoding it once.
    pub fn parse_url_path(path: &str) -> Result<Self, InvalidName> {
        match percent_decode_str(path).decode_utf8() {
            Ok(text) => Self::parse(&text),
            Err(_) => Err(InvalidName::new(path, Fault::NotUtf8)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the path of a URL: everything but RFC 3986 `unreserved` and `/` is
    /// percent-encoded.
    pub fn to_url_path(&self) -> String {
        utf8_percent_encode(&self.0, KEPT_IN_URL).to_string()
    }

    /// Its parts, outermost first; never empty.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Its last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The extension of the last part, in lower case and without dot.
    pub fn extension(&self) -> Option<String> {
        match self.file_name().rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !extension.is_empty() => {
                Some(extension.to_lowercase())
            }
            _ => None,
        }
    }
}

fn fault_in(text: &str) -> Option<Fault> {
    if text.is_empty() {
        return Some(Fault::Empty);
    }
    if text.len() > MAX_BYTES {
        return Some(Fault::TooLong);
    }
    if text.contains('\\') {
        return Some(Fault::Backslash);
    }
    if let Some(forbidden) = text.chars().find(|&c| is_forbidden(c)) {
        return Some(Fault::Forbidden(forbidden));
    }
    if text.starts_with('/') {
        return Some(Fault::Absolute);
    }
    text.split('/').find_map(|part| match part {
        "" => Some(Fault::EmptyPart),
        "." | ".." => Some(Fault::DotPart),
        part if part.len() > MAX_PART_BYTES => Some(Fault::PartTooLong),
        _ => None,
    })
}

/// Characters that could move a cursor, split a line or a header, or make a name look like
/// another: controls, line and paragraph separators, bidirectional controls, invisible format
/// characters, the byte-order mark, noncharacters.
fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}'
            | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{FFFE}' | '\u{FFFF}'
            | '\u{E0000}'..='\u{E007F}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// `Eq`, `Ord` and `Hash` of a `Name` are those of its text.
impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}
