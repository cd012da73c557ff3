//! Finds who holds a name: asks the slot's peer, then the rest of its zone, and nobody else.
//!
//! Invariant: only members of the zone that answers for the name are asked, each at most once;
//! what they receive is the name and nothing of who asked. Many are asked at once only after the
//! likely ones knew nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout_at;
use vecino_rest::{
    Digest, Name, PeerUrl,
    body::{LocateQuery, Provider, Variant},
};

use super::{
    Node,
    kept::MAX_VARIANTS,
    network::Member,
    placement::{self, SHARED_COPIES},
};
use crate::locate::LocateError;

/// How long a lookup may take.
const LOOKUP_WITHIN: Duration = Duration::from_secs(3);
/// Members that are asked at once, after the first few.
const FAN_OUT: usize = 16;
/// Providers of a variant in an answer.
const MAX_PROVIDERS: usize = 16;

/// Who holds it; empty when nobody is known to.
pub(super) async fn locate(node: &Node, query: &LocateQuery) -> Result<Vec<Variant>, LocateError> {
    // Records are found by the hash of their name.
    let name = query.name.as_ref().ok_or(LocateError::Unsupported)?;
    let deadline = tokio::time::Instant::now() + LOOKUP_WITHIN;
    node.metrics.zone_lookups.inc();
    let layout = node.network.layout().ok_or(LocateError::Unavailable)?;
    let slot = layout.slot_of(name);
    let responsible = timeout_at(deadline, node.network.responsible(slot)).await;
    let (_, members) = responsible
        .ok()
        .flatten()
        .filter(|(_, members)| !members.is_empty())
        .ok_or(LocateError::Unavailable)?;
    let mut order = placement::order(slot, &members);
    // Who did not answer a moment ago is asked last.
    order.sort_by_key(|member| node.peers.suspects(&member.contact.peer));
    let owned = order.first().is_some_and(|first| first.slot == slot);
    let mut asking = Asking {
        node,
        name,
        found: Found::new(query.provider.as_deref()),
        answered: false,
    };
    let mut rest = order.as_slice();
    let mut wave = if owned { 1 } else { SHARED_COPIES };
    while !rest.is_empty() && asking.found.is_empty() {
        let (now, later) = rest.split_at(wave.min(rest.len()));
        if timeout_at(deadline, asking.ask(now)).await.is_err() {
            break;
        }
        (rest, wave) = (later, if wave == 1 { SHARED_COPIES } else { FAN_OUT });
    }
    if !asking.answered && asking.found.is_empty() {
        return Err(LocateError::Unavailable);
    }
    Ok(asking.found.into_variants())
}

struct Asking<'a> {
    node: &'a Node,
    name: &'a Name,
    found: Found,
    /// Whether anybody answered, whatever.
    answered: bool,
}

impl Asking<'_> {
    async fn ask(&mut self, members: &[&Member]) {
        let (node, name) = (self.node, self.name);
        let mut answers: FuturesUnordered<_> = members
            .iter()
            .map(|member| async move {
                if member.contact.peer == node.me.peer {
                    return Ok(node.kept().find(name, Instant::now()));
                }
                node.metrics.zone_contacts.inc();
                node.peers.find(&member.contact, name).await
            })
            .collect();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(variants) => {
                    self.answered = true;
                    self.found.add(variants);
                }
                Err(status) => log::debug!("a member does not answer: {}", status.message()),
            }
        }
    }
}

/// What was found, of several answers.
struct Found {
    variants: BTreeMap<(Option<Digest>, Option<u64>), Variant>,
    only: Option<Only>,
}

/// The one provider that is wanted.
enum Only {
    Id(String),
    Url(PeerUrl),
    Nobody,
}

impl Found {
    fn new(provider: Option<&str>) -> Self {
        let only = provider.map(|text| match text.parse::<vecino_rest::PeerId>() {
            Ok(id) => Only::Id(id.to_string()),
            Err(_) => PeerUrl::parse(text).map_or(Only::Nobody, Only::Url),
        });
        Self {
            variants: BTreeMap::new(),
            only,
        }
    }

    fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    fn wants(&self, provider: &Provider) -> bool {
        match &self.only {
            None => true,
            Some(Only::Id(id)) => provider.peer.is_some_and(|peer| peer.to_string() == *id),
            Some(Only::Url(url)) => provider.url == url.to_string(),
            Some(Only::Nobody) => false,
        }
    }

    fn add(&mut self, variants: Vec<Variant>) {
        for mut variant in variants {
            variant.providers.retain(|provider| self.wants(provider));
            if variant.providers.is_empty() {
                continue;
            }
            let room = self.variants.len() < MAX_VARIANTS;
            match self.variants.entry((variant.digest, variant.size)) {
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    for provider in variant.providers {
                        if known.providers.iter().all(|p| p.peer != provider.peer) {
                            known.providers.push(provider);
                        }
                    }
                }
                std::collections::btree_map::Entry::Vacant(place) if room => {
                    place.insert(variant);
                }
                std::collections::btree_map::Entry::Vacant(_) => {}
            }
        }
    }

    /// Most providers first, and of those some by chance.
    fn into_variants(self) -> Vec<Variant> {
        use rand::seq::SliceRandom;
        let mut variants: Vec<_> = self.variants.into_values().collect();
        for variant in &mut variants {
            variant.provider_count = u32::try_from(variant.providers.len()).unwrap_or(u32::MAX);
            variant.providers.shuffle(&mut rand::rng());
            variant.providers.truncate(MAX_PROVIDERS);
        }
        variants.sort_by_key(|variant| std::cmp::Reverse(variant.provider_count));
        variants
    }
}
