//! Makes variants of what holders answered: one for each content, those with most providers
//! first.

use std::collections::BTreeMap;

use rand::seq::IteratorRandom;
use vecino_rest::{
    Digest, Name, PeerId,
    body::{Provider, Variant},
};

use super::message::{File, Held, Holder};

/// Providers named of one content.
const MAX_PROVIDERS: usize = 32;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By digest and size: who lies about the size hides nobody who does not.
    contents: BTreeMap<(Digest, u64), (File, BTreeMap<PeerId, Holder>)>,
}

impl Answers {
    /// One more holder.
    pub(super) fn add(&mut self, held: Held) {
        for file in held.files {
            let (_, holders) = self
                .contents
                .entry((file.digest, file.size))
                .or_insert_with(|| (file, BTreeMap::new()));
            holders.insert(held.holder.peer, held.holder.clone());
        }
    }

    /// The variants; under `name` when that was asked for.
    pub(super) fn into_variants(self, name: Option<&Name>) -> Vec<Variant> {
        let mut variants: Vec<_> = self
            .contents
            .into_iter()
            .map(|((digest, size), (file, holders))| Variant {
                name: name.cloned().unwrap_or(file.name),
                digest: Some(digest),
                size: Some(size),
                modified_ms: Some(file.modified_ms),
                provider_count: u32::try_from(holders.len()).unwrap_or(u32::MAX),
                // At random: ids that somebody chose must not crowd the others out.
                providers: holders
                    .into_values()
                    .choose_multiple(&mut rand::rng(), MAX_PROVIDERS)
                    .into_iter()
                    .map(|holder| Provider {
                        peer: Some(holder.peer),
                        url: holder.url.to_string(),
                        site: holder.site,
                        partial: false,
                    })
                    .collect(),
            })
            .collect();
        variants.sort_by_key(|variant| std::cmp::Reverse(variant.provider_count));
        variants
    }
}
