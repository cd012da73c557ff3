//! Words of a line, split as a shell splits them: spaces, quotes, backslashes. Completion and
//! execution read the same words.
//!
//! Unlike a shell, nothing is expanded here, and `#` begins no comment: names may begin with it.

use std::borrow::Cow;

/// A line in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Words {
    /// The words that a space ends.
    pub(super) done: Vec<String>,
    /// The word at the end of the line, without quotes; `None` after a space.
    pub(super) last: Option<String>,
    /// Where the last word begins in the line, in bytes.
    pub(super) last_start: usize,
    /// Whether a quote is open, or a backslash is last.
    pub(super) open: bool,
}

impl Words {
    /// Reads a line.
    pub(super) fn of(line: &str) -> Self {
        let mut words = Self {
            last_start: line.len(),
            ..Self::default()
        };
        let mut quote = None;
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if quote.is_none() && c.is_whitespace() {
                words.done.extend(words.last.take());
                words.last_start = line.len();
                continue;
            }
            let word = match &mut words.last {
                Some(word) => word,
                none => {
                    words.last_start = at;
                    none.insert(String::new())
                }
            };
            match (quote, c) {
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), c) if open == c => quote = None,
                (None, '\\') => match chars.next() {
                    Some((_, escaped)) => word.push(escaped),
                    None => words.open = true,
                },
                (Some('"'), '\\') => {
                    match chars.next_if(|&(_, c)| matches!(c, '"' | '\\' | '$' | '`')) {
                        Some((_, escaped)) => word.push(escaped),
                        None => word.push('\\'),
                    }
                }
                (_, c) => word.push(c),
            }
        }
        words.open |= quote.is_some();
        words
    }

    /// All words; `None` when a quote is open.
    pub(super) fn all(self) -> Option<Vec<String>> {
        if self.open {
            return None;
        }
        let mut all = self.done;
        all.extend(self.last);
        Some(all)
    }
}

/// The first word of `line`, and the rest as it is; `None` when there is no rest, or when it is to
/// be read as words: with a quote, a backslash or an option in it.
pub(super) fn plain_rest(line: &str) -> Option<(&str, &str)> {
    let (first, rest) = line.trim().split_once(char::is_whitespace)?;
    let is_option = |word: &str| word.len() > 1 && word.starts_with('-');
    let is_plain = !rest.contains(['\'', '"', '\\']) && !rest.split_whitespace().any(is_option);
    is_plain.then(|| (first, rest.trim_start()))
}

/// `word` so that it is read as one word again.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

/// `words` so that each is read as one word again, and so that a common beginning stays one: when
/// one of them has to begin with a quote, all do.
pub(super) fn quoted_alike(words: &[String]) -> Vec<String> {
    let quoted: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    let alike = quoted
        .iter()
        .zip(words)
        .all(|(quoted, word)| quoted == word);
    if alike {
        return words.to_vec();
    }
    let in_quotes = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    words.iter().map(in_quotes).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(line: &str) -> Option<Vec<String>> {
        Words::of(line).all()
    }

    fn is(line: &str, words: &[&str]) -> bool {
        split(line).is_some_and(|split| split == words)
    }

    #[test]
    fn names_with_spaces_are_quoted_or_escaped() {
        assert!(is("1 'my file.txt'", &["1", "my file.txt"]));
        assert!(is("1 \"my file.txt\"", &["1", "my file.txt"]));
        assert!(is("1 my\\ file.txt", &["1", "my file.txt"]));
        assert!(is("  a \t b  ", &["a", "b"]));
        assert!(is("a'b c'd", &["ab cd"]));
        assert!(is("download #1 ''", &["download", "#1", ""]));
        assert!(is("\"a\\\"b\\n\"", &["a\"b\\n"]));
        assert!(is("", &[]));
    }

    #[test]
    fn a_plain_rest_is_taken_as_it_is() {
        let line = " 1  hello from  peer - 3.txt ";
        assert_eq!(plain_rest(line), Some(("1", "hello from  peer - 3.txt")));
        for line in [
            "1",
            "1 ",
            "",
            "1 'a b'",
            "1 a\\ b",
            "1 a -o b",
            "1 a --json",
        ] {
            assert_eq!(plain_rest(line), None, "{line}");
        }
    }

    #[test]
    fn a_common_beginning_survives_quoting() {
        let words = ["dir/a".to_owned(), "dir/b c".to_owned()];
        assert_eq!(quoted_alike(&words), ["'dir/a'", "'dir/b c'"]);
        assert_eq!(quoted_alike(&words[..1]), ["dir/a"]);
    }

    #[test]
    fn an_open_quote_is_no_line() {
        assert_eq!(split("download 'a"), None);
        assert_eq!(split("download \"a"), None);
        assert_eq!(split("download a\\"), None);
    }

    #[test]
    fn the_word_at_the_cursor_is_known() {
        let words = Words::of("download 'mú b");
        assert_eq!(words.last.as_deref(), Some("mú b"));
        assert_eq!(words.last_start, 9);
        let words = Words::of("download ");
        assert_eq!((words.last, words.last_start), (None, 9));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("[^\\x00]{0,12}", 0..5)) {
            let line: Vec<_> = words.iter().map(|word| quoted(word)).collect();
            prop_assert_eq!(split(&line.join(" ")), Some(words.clone()));
            prop_assert_eq!(split(&quoted_alike(&words).join(" ")), Some(words));
        }

        #[test]
        fn no_line_panics(line in any::<String>()) {
            let _ = plain_rest(&line);
            let words = Words::of(&line);
            prop_assert!(line.is_char_boundary(words.last_start));
        }
    }
}
