//! Search: what a query means, which rows of the index it walks, and where it goes on.
//!
//! The walk goes over the terms that begin with the longest word of the query; the other words
//! and the type are checked on the resource. A resource is met once for each of its words that
//! has the prefix, and emitted only at the smallest of them: no memory of earlier rows, and so
//! no state between pages. A cursor carries its position and a hash of its query: with another
//! query it is refused.
//!
//! A search by prefix walks the names themselves, which are terms, too: each is met once.

use vecino_rest::{
    name,
    terms::{FileType, MAX_WORDS, file_type_term, name_term, normalised_words, words_of},
};

use crate::store::{Position, Resource, ResourceNo};

/// Longest query, in bytes.
pub const MAX_QUERY_BYTES: usize = 256;
/// Longest cursor that can be ours.
const MAX_CURSOR_BYTES: usize = CURSOR_HEAD + 1 + name::MAX_BYTES;
/// Version, hash of the query, number of the resource.
const CURSOR_HEAD: usize = 1 + 8 + 8;
const CURSOR_VERSION: u8 = 1;

/// A query that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSearch {
    /// Nothing to look for.
    #[error(
        "query {0:?} has no word (letters or digits) and type is empty: expected at least one of them"
    )]
    Nothing(String),
    /// Too much text.
    #[error("query has {0} bytes: expected at most {MAX_QUERY_BYTES}")]
    TooLong(usize),
    /// Too many words.
    #[error("query has more than {MAX_WORDS} words")]
    TooManyWords,
    /// Too long for a name.
    #[error("prefix has {0} bytes: expected at most {max}", max = name::MAX_BYTES)]
    PrefixTooLong(usize),
    /// Two questions in one.
    #[error("prefix is given together with query or type: expected prefix alone, or no prefix")]
    PrefixBeside,
    /// Not a type.
    #[error(
        "type {0:?} is not valid: expected an extension without dot, or music, video, image, document, archive or code"
    )]
    Type(String),
    /// Not a cursor of this query.
    #[error("cursor is not valid: expected the cursor of the previous page of the same query")]
    Cursor,
}

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    words: Vec<String>,
    file_type: Option<FileType>,
    /// What the walk goes over: the longest word, the type term, or the names' own terms.
    prefix: String,
    /// Whether names that begin alike are searched for, and no words.
    by_prefix: bool,
}

impl Query {
    /// Parses words and type, or the beginning of names.
    pub fn parse(query: &str, file_type: &str, prefix: &str) -> Result<Self, InvalidSearch> {
        match prefix {
            "" => Self::words(query, file_type),
            _ if !query.is_empty() || !file_type.is_empty() => Err(InvalidSearch::PrefixBeside),
            prefix if prefix.len() > name::MAX_BYTES => {
                Err(InvalidSearch::PrefixTooLong(prefix.len()))
            }
            prefix => Ok(Self {
                words: Vec::new(),
                file_type: None,
                prefix: name_term(prefix),
                by_prefix: true,
            }),
        }
    }

    fn words(query: &str, file_type: &str) -> Result<Self, InvalidSearch> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(InvalidSearch::TooLong(query.len()));
        }
        let words: Vec<_> = normalised_words(query).collect();
        if words.len() > MAX_WORDS {
            return Err(InvalidSearch::TooManyWords);
        }
        let file_type = parse_type(file_type)?;
        let longest = words.iter().max_by_key(|word| word.len()).cloned();
        let prefix = match (longest, &file_type) {
            (Some(word), _) => word,
            (None, Some(FileType::Category(category))) => format!("\u{1}{category}"),
            (None, Some(FileType::Extension(extension))) => file_type_term(extension),
            (None, None) => return Err(InvalidSearch::Nothing(query.to_owned())),
        };
        Ok(Self {
            words,
            file_type,
            prefix,
            by_prefix: false,
        })
    }

    /// What the terms of the walk begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the walk is over the prefix itself only: a type is no prefix.
    pub fn exact(&self) -> bool {
        self.words.is_empty() && !self.by_prefix
    }

    /// Whether it is for the beginning of names: who gets the answer wants the files.
    pub fn by_prefix(&self) -> bool {
        self.by_prefix
    }

    /// Whether `resource`, met at `term`, is to be emitted there.
    pub fn accepts(&self, term: &str, resource: &Resource) -> bool {
        if !self.has_type(resource) {
            return false;
        }
        if self.words.is_empty() {
            return true;
        }
        let words = words_of(&resource.name);
        let smallest = words
            .iter()
            .filter(|word| word.starts_with(&self.prefix))
            .min();
        smallest.is_some_and(|smallest| smallest == term)
            && self
                .words
                .iter()
                .all(|prefix| words.iter().any(|word| word.starts_with(prefix)))
    }

    fn has_type(&self, resource: &Resource) -> bool {
        self.file_type
            .as_ref()
            .is_none_or(|wanted| wanted.matches(&resource.name))
    }

    fn hash(&self) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        if self.by_prefix {
            hasher.update(self.prefix.as_bytes());
        }
        for word in &self.words {
            hasher.update(word.as_bytes()).update(&[0]);
        }
        hasher.update(&[1]);
        match &self.file_type {
            Some(FileType::Category(category)) => hasher.update(category.to_string().as_bytes()),
            Some(FileType::Extension(extension)) => {
                hasher.update(&[2]).update(extension.as_bytes())
            }
            None => hasher.update(&[3]),
        };
        let mut hash = [0; 8];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// The cursor that goes on after `position`.
    pub fn cursor(&self, position: &Position) -> Vec<u8> {
        let (term, number) = position;
        let mut cursor = vec![CURSOR_VERSION];
        cursor.extend_from_slice(&self.hash());
        cursor.extend_from_slice(&number.0.to_le_bytes());
        cursor.extend_from_slice(term.as_bytes());
        cursor
    }

    /// The position in a cursor of this query; `None` for the empty one.
    pub fn position(&self, cursor: &[u8]) -> Result<Option<Position>, InvalidSearch> {
        if cursor.is_empty() {
            return Ok(None);
        }
        self.decode(cursor).map(Some).ok_or(InvalidSearch::Cursor)
    }

    fn decode(&self, cursor: &[u8]) -> Option<Position> {
        if cursor.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let (version, rest) = cursor.split_first()?;
        let (hash, rest) = rest.split_first_chunk::<8>()?;
        let (number, term) = rest.split_first_chunk::<8>()?;
        let term = std::str::from_utf8(term).ok()?;
        let number = u64::from_le_bytes(*number);
        let in_range = if self.exact() {
            term == self.prefix
        } else {
            term.starts_with(&self.prefix)
        };
        let ours = *version == CURSOR_VERSION
            && *hash == self.hash()
            && in_range
            && !term.contains('\0')
            && number <= ResourceNo::MAX.0;
        ours.then(|| (term.to_owned(), ResourceNo(number)))
    }
}

fn parse_type(text: &str) -> Result<Option<FileType>, InvalidSearch> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = FileType::parse(text);
    parsed
        .map(Some)
        .ok_or_else(|| InvalidSearch::Type(text.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vecino_rest::{Digest, Name};

    use super::*;

    fn resource(name: &str) -> Resource {
        Resource {
            name: Name::parse(name).expect("valid"),
            digest: Digest::of(b""),
            size: 0,
            modified_ms: 0,
        }
    }

    fn query(words: &str, file_type: &str) -> Query {
        Query::parse(words, file_type, "").expect("valid")
    }

    fn prefix(prefix: &str) -> Query {
        Query::parse("", "", prefix).expect("valid")
    }

    #[test]
    fn every_word_is_a_prefix_and_the_longest_leads() {
        let query = query("CAN mús", "");
        assert_eq!(query.prefix(), "mús");
        assert!(query.accepts("música", &resource("Música/canción.mp3")));
        assert!(!query.accepts("música", &resource("Música/otra.mp3")));
        assert!(
            !query.accepts("can", &resource("Música/canción.mp3")),
            "only at its word"
        );
    }

    #[test]
    fn a_resource_is_emitted_at_the_smallest_of_its_words_only() {
        let query = query("so", "");
        let song = resource("sound song.mp3");
        assert!(query.accepts("song", &song));
        assert!(!query.accepts("sound", &song));
    }

    #[test]
    fn types_are_categories_or_extensions() {
        assert!(query("", "music").accepts("\u{1}music", &resource("a.FLAC")));
        assert!(query("", "flac").accepts("\u{1}music", &resource("a.FLAC")));
        assert!(!query("", "mp3").accepts("\u{1}music", &resource("a.FLAC")));
        assert_eq!(query("", "flac").prefix(), "\u{1}music");
        assert_eq!(query("", "parquet").prefix(), "\u{1}.parquet");
        assert!(!query("a", "code").accepts("a", &resource("a")));
    }

    #[test]
    fn wrong_queries_say_what_is_wrong() {
        assert!(matches!(
            Query::parse("", "", ""),
            Err(InvalidSearch::Nothing(_))
        ));
        assert!(matches!(
            Query::parse("-- !", "", ""),
            Err(InvalidSearch::Nothing(_))
        ));
        assert!(matches!(
            Query::parse(&"a".repeat(257), "", ""),
            Err(InvalidSearch::TooLong(257))
        ));
        let many: String = (0..17).map(|n| format!("w{n} ")).collect();
        assert_eq!(
            Query::parse(&many, "", ""),
            Err(InvalidSearch::TooManyWords)
        );
        for wrong in [".mp3", "a/b", "tar.gz", "\u{1}music"] {
            assert!(
                matches!(Query::parse("a", wrong, ""), Err(InvalidSearch::Type(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_prefix_is_alone_and_may_end_anywhere_in_a_name() {
        let query = prefix("docs/");
        assert_eq!(query.prefix(), "\u{2}docs/");
        assert!(!query.exact() && query.accepts("\u{2}docs/a", &resource("docs/a")));
        assert_eq!(prefix("e\u{301}").prefix(), "\u{2}é", "as names are kept");
        for (words, file_type) in [("a", ""), ("", "music"), ("a", "music")] {
            let both = Query::parse(words, file_type, "docs/");
            assert_eq!(both, Err(InvalidSearch::PrefixBeside));
        }
        let long = "a".repeat(name::MAX_BYTES + 1);
        let refused = Query::parse("", "", &long);
        assert_eq!(refused, Err(InvalidSearch::PrefixTooLong(long.len())));
    }

    #[test]
    fn the_longest_name_has_a_cursor() {
        let longest = vec!["n".repeat(255); 4].join("/") + "x";
        let asked = prefix("n");
        let position = (name_term(&longest), ResourceNo::MAX);
        let cursor = asked.cursor(&position);
        assert_eq!(asked.position(&cursor), Ok(Some(position)));
        assert_eq!(prefix("nn").position(&cursor), Err(InvalidSearch::Cursor));
    }

    proptest! {
        #[test]
        fn a_cursor_survives_and_belongs_to_its_query(word in "[a-z]{1,8}", rest in "[a-z]{0,8}", number in 0..=ResourceNo::MAX.0) {
            let asked = query(&word, "");
            let position = (format!("{word}{rest}"), ResourceNo(number));
            let cursor = asked.cursor(&position);
            prop_assert_eq!(asked.position(&cursor), Ok(Some(position)));
            prop_assert_eq!(query(&word, "music").position(&cursor), Err(InvalidSearch::Cursor));
            prop_assert_eq!(query(&format!("{word}x"), "").position(&cursor), Err(InvalidSearch::Cursor));
        }

        #[test]
        fn any_other_bytes_are_no_cursor(bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            prop_assert_eq!(query("a", "").position(&bytes), Err(InvalidSearch::Cursor));
        }

        #[test]
        fn any_query_is_answered_or_refused(words in "\\PC{0,80}", file_type in "\\PC{0,20}") {
            let _ = Query::parse(&words, &file_type, "");
            let _ = Query::parse("", "", &words);
        }
    }
}
