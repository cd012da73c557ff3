//! Terms: what a search knows of a name, wherever it is made.
//!
//! A word is a maximal run of alphanumeric characters of the whole path, in lower case and NFC.
//! The index has at most [`MAX_WORDS`] distinct words of a name, the first ones, cut to
//! [`MAX_WORD_BYTES`]; query words are cut alike, so a long word still finds itself. Besides, it
//! has one type term: the category of the extension, or the extension when it has no category.
//! A type term begins with U+0001, which no word contains. The name itself is a term, too, behind
//! U+0002: a walk over those terms meets the names in their order.

use std::{fmt, str::FromStr};

use unicode_normalization::UnicodeNormalization;

use crate::{Name, name};

/// Distinct words of a name that are indexed.
pub const MAX_WORDS: usize = 16;
/// Bytes of a word that are indexed.
pub const MAX_WORD_BYTES: usize = 32;

/// What a file is for, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Sound.
    Music,
    /// Moving pictures.
    Video,
    /// Pictures.
    Image,
    /// To be read.
    Document,
    /// Files in a file.
    Archive,
    /// Source text.
    Code,
}

const CATEGORIES: [(Category, &str, &[&str]); 6] = [
    (
        Category::Music,
        "music",
        &[
            "aac", "aif", "aiff", "flac", "m4a", "mid", "midi", "mp3", "oga", "ogg", "opus", "wav",
            "wma",
        ],
    ),
    (
        Category::Video,
        "video",
        &[
            "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv",
        ],
    ),
    (
        Category::Image,
        "image",
        &[
            "avif", "bmp", "gif", "heic", "ico", "jpeg", "jpg", "jxl", "png", "svg", "tif", "tiff",
            "webp",
        ],
    ),
    (
        Category::Document,
        "document",
        &[
            "csv", "doc", "docx", "epub", "htm", "html", "md", "mobi", "odp", "ods", "odt", "pdf",
            "ppt", "pptx", "ps", "rtf", "tex", "txt", "xls", "xlsx",
        ],
    ),
    (
        Category::Archive,
        "archive",
        &[
            "7z", "apk", "bz2", "deb", "dmg", "gz", "iso", "jar", "lz4", "rar", "rpm", "tar",
            "tgz", "xz", "zip", "zst",
        ],
    ),
    (
        Category::Code,
        "code",
        &[
            "asm", "c", "cc", "cpp", "cs", "css", "go", "h", "hpp", "hs", "java", "js", "json",
            "kt", "lua", "php", "pl", "proto", "py", "rb", "rs", "scala", "sh", "sql", "swift",
            "toml", "xml", "yaml", "yml", "zig",
        ],
    ),
];

impl Category {
    /// The category of an extension in lower case.
    pub fn of_extension(extension: &str) -> Option<Self> {
        CATEGORIES
            .iter()
            .find(|(_, _, extensions)| extensions.contains(&extension))
            .map(|(category, _, _)| *category)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = CATEGORIES.iter().find(|(category, _, _)| category == self);
        f.write_str(found.expect("every category is listed").1)
    }
}

impl FromStr for Category {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = CATEGORIES.iter().find(|(_, label, _)| *label == text);
        found.map(|(category, _, _)| *category).ok_or(())
    }
}

/// What a search is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileType {
    /// Everything of that use.
    Category(Category),
    /// An extension, in lower case and without dot.
    Extension(String),
}

/// Longest extension that is searched for, in bytes.
const MAX_EXTENSION_BYTES: usize = 255;

impl FileType {
    /// The type that `text` names; `None` when it can be none.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > MAX_EXTENSION_BYTES {
            return None;
        }
        let folded: String = text.to_lowercase().nfc().collect();
        if let Ok(category) = folded.parse() {
            return Some(Self::Category(category));
        }
        let part_of_a_name = |c: char| !c.is_control() && !matches!(c, '.' | '/' | '\\');
        folded
            .chars()
            .all(part_of_a_name)
            .then_some(Self::Extension(folded))
    }

    /// Whether a file of this name is of it.
    pub fn matches(&self, name: &Name) -> bool {
        let extension = name.extension();
        match self {
            Self::Category(category) => {
                extension.as_deref().and_then(Category::of_extension) == Some(*category)
            }
            Self::Extension(wanted) => extension.as_ref() == Some(wanted),
        }
    }
}

/// The distinct words of `text` in order of appearance, cut to [`MAX_WORD_BYTES`].
pub fn normalised_words(text: &str) -> impl Iterator<Item = String> {
    let folded: String = text
        .nfc()
        .collect::<String>()
        .to_lowercase()
        .nfc()
        .collect();
    let mut words: Vec<String> = Vec::new();
    for word in folded.split(|c: char| !c.is_alphanumeric()) {
        let word = cut(word);
        if !word.is_empty() && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
            // Enough to tell a name's indexed words and a query's excess; bounds the search above.
            if words.len() > MAX_WORDS {
                break;
            }
        }
    }
    words.into_iter()
}

fn cut(word: &str) -> &str {
    let mut end = word.len().min(MAX_WORD_BYTES);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    &word[..end]
}

/// The indexed words of a name.
pub fn words_of(name: &Name) -> Vec<String> {
    normalised_words(name.as_str()).take(MAX_WORDS).collect()
}

/// The type term of files with this extension (lower case).
pub fn file_type_term(extension: &str) -> String {
    match Category::of_extension(extension) {
        Some(category) => format!("\u{1}{category}"),
        None => format!("\u{1}.{}", cut(extension)),
    }
}

/// What the terms of the names that begin with `prefix` begin with.
pub fn name_term(prefix: &str) -> String {
    format!("\u{2}{}", name::prefix(prefix))
}

/// All terms under which the index has a name.
pub fn terms_of(name: &Name) -> Vec<String> {
    let mut terms = words_of(name);
    terms.extend(name.extension().as_deref().map(file_type_term));
    terms.push(format!("\u{2}{name}"));
    terms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("valid")
    }

    #[test]
    fn words_are_folded_and_distinct_and_the_type_is_a_term() {
        assert_eq!(
            terms_of(&name("Música/CANCIÓN_01 - canción.FLAC")),
            [
                "música",
                "canción",
                "01",
                "flac",
                "\u{1}music",
                "\u{2}Música/CANCIÓN_01 - canción.FLAC"
            ]
        );
        assert_eq!(
            terms_of(&name("data.parquet")),
            ["data", "parquet", "\u{1}.parquet", "\u{2}data.parquet"]
        );
        assert_eq!(terms_of(&name("README")), ["readme", "\u{2}README"]);
        // A name that was spelled otherwise has its own term as well.
        assert_eq!(terms_of(&name("e\u{301}"))[1], name_term("e\u{301}"));
    }

    #[test]
    fn every_category_is_found_again_by_its_label() {
        for (category, label, extensions) in CATEGORIES {
            assert_eq!(category.to_string(), label);
            assert_eq!(label.parse(), Ok(category));
            for extension in extensions {
                assert_eq!(
                    Category::of_extension(extension),
                    Some(category),
                    "{extension}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn terms_are_bounded_and_never_contain_the_separator(text in "\\PC{1,300}") {
            if let Ok(name) = Name::parse(&text) {
                let terms = terms_of(&name);
                prop_assert!(terms.len() <= MAX_WORDS + 2);
                for term in &terms {
                    let is_name = term.starts_with('\u{2}');
                    prop_assert!(is_name || term.len() <= MAX_WORD_BYTES + 2);
                    prop_assert!(!term.contains('\0'));
                }
            }
        }

        #[test]
        fn a_word_of_a_name_is_a_word_of_a_query(text in "\\PC{1,60}") {
            if let Ok(name) = Name::parse(&text) {
                for word in words_of(&name) {
                    let again: Vec<_> = normalised_words(&word).collect();
                    prop_assert_eq!(again, [word]);
                }
            }
        }
    }
}
