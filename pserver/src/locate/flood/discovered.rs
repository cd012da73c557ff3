//! What discoveries found: files of others, remembered for a while, bounded, and searched by the
//! same words and types as the locator's index. Time is an argument.
//!
//! Invariant: every entry has at least one holder whose time is not over, but for those that the
//! next [`Discovered::sweep`] takes out.

use std::{
    collections::BTreeMap,
    ops::Bound,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use vecino_rest::{
    Digest, Name, PeerId,
    body::{LocateQuery, Page, Provider, SearchPage, SearchQuery, Variant},
    name,
    terms::{FileType, MAX_WORDS, normalised_words, words_of},
};

use super::{
    limits::Limits,
    message::{Held, Holder},
};
use crate::locate::LocateError;

/// Items of a page, when nobody says.
const DEFAULT_PAGE: usize = 100;
/// Most items of a page.
const MAX_PAGE: usize = 1000;
/// Longest query, in bytes, as the locator has it.
const MAX_QUERY_BYTES: usize = 256;
/// Contents of one name, or names of one content, that an answer has.
const MAX_VARIANTS: usize = 32;
/// Providers shown of one content.
const MAX_PROVIDERS: usize = 32;
/// Providers shown of one content in a search by prefix, as the locator has it.
const PREFIX_PROVIDERS: usize = 4;

#[derive(Debug)]
struct Entry {
    size: u64,
    modified_ms: i64,
    words: Vec<String>,
    holders: BTreeMap<PeerId, (Holder, Instant)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Discovered {
    files: BTreeMap<(Name, Digest), Entry>,
    /// Holders of all files together.
    held: usize,
    /// Until when the last discovery counts; it counts although it found nothing.
    until: Option<Instant>,
    life: Duration,
    max: usize,
}

impl Discovered {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            files: BTreeMap::new(),
            held: 0,
            until: None,
            life: limits.discovered_for,
            max: limits.max_discovered,
        }
    }

    /// A discovery begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.sweep(now);
        self.until = Some(now + self.life);
    }

    /// Whether a discovery was made whose time is not over.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Files that are known, counted once for each holder.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Remembers what somebody has; how much of it there was room for.
    pub(super) fn insert(&mut self, held: Held, now: Instant) -> usize {
        let until = now + self.life;
        let mut taken = 0;
        for file in held.files {
            let key = (file.name, file.digest);
            let is_known = self
                .files
                .get(&key)
                .is_some_and(|entry| entry.holders.contains_key(&held.holder.peer));
            if !is_known && self.held >= self.max {
                continue;
            }
            let words = words_of(&key.0);
            let entry = self.files.entry(key).or_insert_with(|| Entry {
                size: file.size,
                modified_ms: file.modified_ms,
                words,
                holders: BTreeMap::new(),
            });
            let holder = (held.holder.clone(), until);
            if entry.holders.insert(held.holder.peer, holder).is_none() {
                self.held += 1;
            }
            taken += 1;
        }
        taken
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&mut self, now: Instant) {
        let mut held = 0;
        self.files.retain(|_, entry| {
            entry.holders.retain(|_, (_, until)| now < *until);
            held += entry.holders.len();
            !entry.holders.is_empty()
        });
        self.held = held;
    }

    /// A page of what is known, in order of name, with providers.
    pub(super) fn list(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
        now: Instant,
    ) -> Result<Page<Variant>, LocateError> {
        self.page(
            limit.min(MAX_PAGE),
            cursor,
            now,
            MAX_PROVIDERS,
            |name, _| name.as_str().starts_with(prefix),
        )
    }

    /// What is known under the name, or of the digest, with providers.
    pub(super) fn find(&self, query: &LocateQuery, now: Instant) -> Vec<Variant> {
        let start = query.name.as_ref().map_or(Bound::Unbounded, |name| {
            Bound::Included((name.clone(), Digest::from_bytes([0; Digest::LEN])))
        });
        let is_named = |found: &Name| query.name.as_ref().is_none_or(|name| name == found);
        self.files
            .range((start, Bound::Unbounded))
            .take_while(|((name, _), _)| is_named(name))
            .filter(|((_, digest), _)| query.digest.is_none_or(|wanted| wanted == *digest))
            .filter_map(|((name, digest), entry)| entry.variant(name, *digest, now, MAX_PROVIDERS))
            .take(MAX_VARIANTS)
            .collect()
    }

    /// A page of what matches `query`, in order of name; in a search by prefix with some providers.
    pub(super) fn search(
        &self,
        query: &SearchQuery,
        now: Instant,
    ) -> Result<SearchPage, LocateError> {
        let wrong = |why: &str| Err(LocateError::BadQuery(why.to_owned()));
        let limit = query.limit.map_or(DEFAULT_PAGE, |limit| {
            limit.clamp(1, MAX_PAGE as u32) as usize
        });
        if let Some(prefix) = query.prefix.as_deref().filter(|text| !text.is_empty()) {
            let is_alone = query.q.is_empty() && query.file_type.is_none();
            if !is_alone || prefix.len() > name::MAX_BYTES {
                return wrong(
                    "prefix: expected the beginning of names, at most 1024 bytes, and neither q \
                     nor type",
                );
            }
            let prefix = name::prefix(prefix);
            let cursor = query.cursor.as_deref();
            return self.page(limit, cursor, now, PREFIX_PROVIDERS, |name, _| {
                name.as_str().starts_with(&prefix)
            });
        }
        let words: Vec<_> = normalised_words(&query.q).collect();
        if query.q.len() > MAX_QUERY_BYTES || words.len() > MAX_WORDS {
            return wrong("q: expected at most 16 words, at most 256 bytes together");
        }
        let file_type = match query.file_type.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => match FileType::parse(text) {
                Some(file_type) => Some(file_type),
                None => {
                    return wrong(
                        "type: expected an extension without dot, or music, video, image, \
                         document, archive or code",
                    );
                }
            },
        };
        if words.is_empty() && file_type.is_none() {
            return wrong("q: expected a word of letters or digits, or a type");
        }
        self.page(limit, query.cursor.as_deref(), now, 0, |name, entry| {
            let has = |prefix: &String| entry.words.iter().any(|word| word.starts_with(prefix));
            words.iter().all(has) && file_type.as_ref().is_none_or(|wanted| wanted.matches(name))
        })
    }

    fn page(
        &self,
        limit: usize,
        cursor: Option<&str>,
        now: Instant,
        providers: usize,
        wanted: impl Fn(&Name, &Entry) -> bool,
    ) -> Result<Page<Variant>, LocateError> {
        let after = cursor.map(parse_cursor).transpose()?;
        let start = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Unbounded,
        };
        let mut matching = self
            .files
            .range((start, Bound::Unbounded))
            .filter(|((name, _), entry)| wanted(name, entry))
            .filter_map(|((name, digest), entry)| entry.variant(name, *digest, now, providers));
        let items: Vec<Variant> = matching.by_ref().take(limit).collect();
        let next_cursor = match (matching.next(), items.last()) {
            (Some(_), Some(last)) => Some(to_cursor(last)),
            _ => None,
        };
        Ok(Page { items, next_cursor })
    }
}

impl Entry {
    fn variant(
        &self,
        name: &Name,
        digest: Digest,
        now: Instant,
        providers: usize,
    ) -> Option<Variant> {
        let live = || self.holders.values().filter(|(_, until)| now < *until);
        let count = live().count();
        let providers = live().take(providers).map(|(holder, _)| Provider {
            peer: Some(holder.peer),
            url: holder.url.to_string(),
            site: holder.site.clone(),
            partial: false,
        });
        (count > 0).then(|| Variant {
            name: name.clone(),
            digest: Some(digest),
            size: Some(self.size),
            modified_ms: Some(self.modified_ms),
            provider_count: u32::try_from(count).unwrap_or(u32::MAX),
            providers: providers.collect(),
        })
    }
}

/// Where a page ended: digest and name.
fn to_cursor(last: &Variant) -> String {
    let digest = last.digest.expect("what is discovered has a digest");
    BASE64_URL_SAFE_NO_PAD.encode(format!("{digest}{}", last.name))
}

fn parse_cursor(cursor: &str) -> Result<(Name, Digest), LocateError> {
    let parse = || {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (digest, name) = text.split_at_checked(2 * Digest::LEN)?;
        Some((Name::parse(name).ok()?, digest.parse().ok()?))
    };
    let wrong = "cursor: expected that of the page before, of the same search";
    parse().ok_or_else(|| LocateError::BadQuery(wrong.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_by_prefix_lists_exactly_what_begins_with_it() {
        let limits = Limits::default();
        let (mut discovered, now) = (Discovered::new(&limits), Instant::now());
        discovered.begin(now);
        let names = ["docs/a", "docs/b", "docs", "docs2/a", "Docs/a", "docs/é"];
        let file = |name: &str| super::super::message::File {
            name: Name::parse(name).expect("valid"),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            modified_ms: 0,
        };
        let holder = Holder {
            peer: PeerId::from_bytes([1; 16]),
            url: vecino_rest::PeerUrl::parse("http://10.0.0.1:80").expect("valid"),
            site: None,
        };
        let held = Held {
            holder,
            files: names.map(file).into(),
            more: false,
        };
        assert_eq!(discovered.insert(held, now), names.len());
        let ask = |prefix: &str, q: &str| SearchQuery {
            prefix: Some(prefix.to_owned()),
            q: q.to_owned(),
            ..SearchQuery::default()
        };
        let page = discovered.search(&ask("docs/", ""), now).expect("answers");
        let found: Vec<_> = page.items.iter().map(|hit| hit.name.to_string()).collect();
        assert_eq!(found, ["docs/a", "docs/b", "docs/é"]);
        assert_eq!(page.items[0].providers.len(), 1);
        let page = discovered
            .search(&ask("docs/e\u{301}", ""), now)
            .expect("answers");
        assert_eq!(page.items.len(), 1, "as names are kept");
        assert!(discovered.search(&ask("docs/", "a"), now).is_err());
    }
}
