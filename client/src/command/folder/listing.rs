//! Which files are below a folder of the network: what the own peer holds, and what a search by
//! prefix finds.
//!
//! Invariants: a name is listed once; none is listed that is not below the folder, whoever says
//! so; nothing is guessed where several contents share a name.

use std::collections::BTreeMap;

use vecino_rest::{
    Digest, Name,
    body::{FileEntry, Origin, SearchQuery, Variant},
};

use crate::{
    api::{Api, ApiError},
    command::pages,
    failure::Failure,
    output::Output,
};

/// Most files of one folder: what is known of them is held in memory.
const MAX_FILES: usize = 500_000;

/// A file below the folder.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// Its name in the network.
    pub(super) name: Name,
    /// Its content.
    pub(super) content: Contents,
}

/// What is shared under a name.
#[derive(Debug, PartialEq)]
pub(super) enum Contents {
    /// One content, as far as it is known.
    One {
        /// What it is.
        digest: Option<Digest>,
        /// Bytes.
        size: Option<u64>,
    },
    /// Several, and nobody said which.
    Several(Vec<Variant>),
}

impl Entry {
    /// Bytes, as far as they are known.
    pub(super) fn size(&self) -> u64 {
        match self.content {
            Contents::One { size, .. } => size.unwrap_or_default(),
            Contents::Several(_) => 0,
        }
    }
}

/// What is below a folder.
pub(super) struct Listed {
    /// Its files, in order of names.
    pub(super) entries: Vec<Entry>,
    /// Why that may not be all of them.
    pub(super) unsearched: Option<ApiError>,
}

/// Lists what is below `folder`. `from_one` where only one peer counts: then
/// that peer decides what is meant by a name, not the own one.
pub(super) async fn list(
    folder: &Name,
    from_one: bool,
    api: &Api,
    out: &Output,
) -> Result<Listed, Failure> {
    let prefix = format!("{folder}/");
    let (own, network) =
        futures_util::future::join(own(api, &prefix), searched(api, &prefix)).await;
    let own = own?;
    let (network, unsearched) = match network {
        Ok(network) => (network, None),
        Err(Failure::Api(why)) => {
            out.warn(&format!(
                "the network cannot be searched ({why}): only what your peer holds or discovered \
                 is taken"
            ));
            // Where there is no discovery, it found nothing.
            let known = discovered(api, &prefix).await.unwrap_or_default();
            (known, Some(why))
        }
        Err(failure) => return Err(failure),
    };
    let entries = merge(&prefix, own, network, from_one);
    match unsearched {
        // That nothing is known is not that nothing is there.
        Some(why) if entries.is_empty() => Err(Failure::Api(why)),
        unsearched => Ok(Listed {
            entries,
            unsearched,
        }),
    }
}

async fn own(api: &Api, prefix: &str) -> Result<Vec<FileEntry>, Failure> {
    let prefix = Some(prefix);
    collect(|limit, cursor| async move { api.files(prefix, limit, cursor.as_deref()).await }).await
}

async fn searched(api: &Api, prefix: &str) -> Result<Vec<Variant>, Failure> {
    collect(|limit, cursor| {
        let query = SearchQuery {
            prefix: Some(prefix.to_owned()),
            limit: Some(limit),
            cursor,
            ..SearchQuery::default()
        };
        async move { api.search(&query).await }
    })
    .await
}

async fn discovered(api: &Api, prefix: &str) -> Result<Vec<Variant>, Failure> {
    let prefix = Some(prefix);
    collect(|limit, cursor| async move {
        let mut page = api.discovered(prefix, limit, cursor.as_deref()).await?;
        // Who has it is asked for again, for each file.
        for variant in &mut page.items {
            variant.providers = Vec::new();
        }
        Ok(page)
    })
    .await
}

async fn collect<T, Fetched>(
    fetch: impl FnMut(u32, Option<String>) -> Fetched,
) -> Result<Vec<T>, Failure>
where
    Fetched: Future<Output = Result<vecino_rest::body::Page<T>, ApiError>>,
{
    let mut all = Vec::new();
    pages::each(None, fetch, |items| {
        all.extend(items);
        if all.len() <= MAX_FILES {
            return Ok(());
        }
        Err(Failure::TooMany(format!(
            "more than {MAX_FILES} files are below it: download its folders one by one"
        )))
    })
    .await?;
    Ok(all)
}

/// What is known of one name.
#[derive(Default)]
struct Known {
    own: Option<FileEntry>,
    variants: Vec<Variant>,
}

fn merge(prefix: &str, own: Vec<FileEntry>, network: Vec<Variant>, from_one: bool) -> Vec<Entry> {
    let mut names: BTreeMap<Name, Known> = BTreeMap::new();
    let is_below = |name: &Name| name.as_str().starts_with(prefix);
    for entry in own.into_iter().filter(|entry| is_below(&entry.name)) {
        let known = names.entry(entry.name.clone()).or_default();
        // As for a single download: what is shared goes before what was fetched.
        let is_better =
            |old: &FileEntry| old.origin == Origin::Fetched && entry.origin == Origin::Shared;
        if known.own.as_ref().is_none_or(is_better) {
            known.own = Some(entry);
        }
    }
    for variant in network.into_iter().filter(|entry| is_below(&entry.name)) {
        let variants = &mut names.entry(variant.name.clone()).or_default().variants;
        match variants.iter_mut().find(|old| old.digest == variant.digest) {
            Some(old) => old.provider_count = old.provider_count.max(variant.provider_count),
            None => variants.push(variant),
        }
    }
    let entry = |(name, known): (Name, Known)| Entry {
        name,
        content: known.decide(from_one),
    };
    names.into_iter().map(entry).collect()
}

impl Known {
    fn decide(self, from_one: bool) -> Contents {
        let Self { own, mut variants } = self;
        if variants.iter().any(|variant| variant.digest.is_some()) {
            // What can be verified goes before what cannot.
            variants.retain(|variant| variant.digest.is_some());
        }
        let one = |digest, size| Contents::One { digest, size };
        if from_one {
            let mut digests = variants.iter().map(|variant| variant.digest);
            let first = digests.next().flatten();
            let agree = digests.all(|digest| digest == first)
                && own.is_none_or(|own| first.is_none_or(|first| first == own.digest));
            return match variants.first() {
                Some(first) if agree => one(first.digest, first.size),
                _ => one(None, None),
            };
        }
        match (own, &mut *variants) {
            (Some(own), _) => one(Some(own.digest), Some(own.size)),
            (None, [only]) => one(only.digest, only.size),
            (None, _) => Contents::Several(variants),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn own(text: &str, content: &str, origin: Origin) -> FileEntry {
        FileEntry {
            name: name(text),
            digest: Digest::of(content.as_bytes()),
            size: content.len() as u64,
            modified_ms: 0,
            origin,
        }
    }

    fn variant(text: &str, content: Option<&str>) -> Variant {
        Variant {
            name: name(text),
            digest: content.map(|content| Digest::of(content.as_bytes())),
            size: content.map(|content| content.len() as u64),
            modified_ms: None,
            provider_count: 1,
            providers: Vec::new(),
        }
    }

    fn one(content: &str) -> Contents {
        Contents::One {
            digest: Some(Digest::of(content.as_bytes())),
            size: Some(content.len() as u64),
        }
    }

    fn contents(own: Vec<FileEntry>, network: Vec<Variant>, from_one: bool) -> Vec<Contents> {
        let entries = merge("d/", own, network, from_one);
        entries.into_iter().map(|entry| entry.content).collect()
    }

    #[test]
    fn the_own_peer_goes_first_and_nothing_is_guessed() {
        let own = vec![
            own("d/a", "fetched", Origin::Fetched),
            own("d/a", "shared", Origin::Shared),
        ];
        let network = vec![
            variant("d/a", Some("other")),
            variant("d/b", Some("1")),
            variant("d/b", Some("1")),
            variant("d/b", None),
            variant("d/c", Some("1")),
            variant("d/c", Some("22")),
        ];
        let contents = contents(own, network, false);
        assert_eq!(contents[..2], [one("shared"), one("1")]);
        assert!(matches!(&contents[2], Contents::Several(two) if two.len() == 2));
    }

    #[test]
    fn a_single_peer_decides_itself_what_it_means() {
        let unknown = Contents::One {
            digest: None,
            size: None,
        };
        let own = vec![
            own("d/a", "mine", Origin::Shared),
            own("d/b", "1", Origin::Shared),
            own("d/d", "1", Origin::Shared),
        ];
        let network = vec![
            variant("d/a", Some("theirs")),
            variant("d/b", Some("1")),
            variant("d/c", Some("1")),
            variant("d/c", Some("22")),
        ];
        let contents = contents(own, network, true);
        assert_eq!(contents[1], one("1"));
        for index in [0, 2, 3] {
            assert_eq!(contents[index], unknown, "{index}");
        }
    }

    #[test]
    fn what_is_not_below_the_folder_is_not_listed() {
        let network = ["d", "dd/a", "e/d/a", "D/a"].map(|name| variant(name, Some("1")));
        assert_eq!(merge("d/", Vec::new(), network.into(), false), []);
    }
}
