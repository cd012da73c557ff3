//! Looking up, searching and placing: what a peer does for others.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use vecino_rest::{Digest, Name, PeerId};

use super::{
    Directory, Error, choice,
    lease::{LiveAt, Provider},
    search::Query,
};
use crate::store::{Among, Found, Key, PeerNo, Resource, Walk};

/// Variants in an answer.
pub const MAX_VARIANTS: usize = 32;
/// Rows of the index that one page of a search reads at most, in slices.
pub const SEARCH_ROW_BUDGET: usize = SEARCH_SLICES * SEARCH_SLICE_ROWS;
/// Slices of a page; other requests of the same thread have their turn between them.
const SEARCH_SLICES: usize = 16;
/// Rows of a slice: some hundreds of microseconds.
const SEARCH_SLICE_ROWS: usize = 256;
/// Providers a variant in a search by prefix: enough to begin a folder's downloads without looking
/// up each of its files.
const PREFIX_PROVIDERS: usize = 4;
/// Live peers that one placing looks at, at most.
const MAX_CANDIDATES: usize = 1_024;

/// A lookup.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Of what.
    pub key: Key,
    /// Only this provider.
    pub provider: Option<ProviderFilter>,
    /// Providers a variant in the answer.
    pub max_providers: usize,
    /// Whether those that hold some pieces only are answered, too.
    pub with_partial: bool,
}

/// Which provider an answer is restricted to.
#[derive(Debug, Clone)]
pub enum ProviderFilter {
    /// The one with this id.
    Peer(PeerId),
    /// Those under this URL, in the spelling of [`PublicUrl`](super::public_url::PublicUrl).
    Url(String),
}

/// A resource with live providers.
#[derive(Debug)]
pub struct Variant {
    /// The resource.
    pub resource: Resource,
    /// How many live providers are known, those in `partial` included.
    pub provider_count: usize,
    /// A random choice of those that hold it whole; none in a search for words.
    pub providers: Vec<Arc<Provider>>,
    /// A random choice of those that hold some pieces only; none in a search.
    pub partial: Vec<Arc<Provider>>,
}

/// Who holds a resource, whole or in part.
struct Holders {
    resource: Resource,
    whole: Vec<PeerNo>,
    part: Vec<PeerNo>,
}

impl Holders {
    fn count(&self) -> usize {
        self.whole.len() + self.part.len()
    }

    /// Its place in an answer.
    fn place(&self) -> (Reverse<usize>, &Name, &Digest, u64) {
        let Resource {
            name, digest, size, ..
        } = &self.resource;
        (Reverse(self.count()), name, digest, *size)
    }
}

impl Directory {
    /// Who holds it: most providers first. Of more than [`MAX_VARIANTS`] with as many providers, each
    /// lookup answers others: who announces many others with no more providers hides none for good.
    pub async fn locate(&self, lookup: &Lookup) -> Result<Vec<Variant>, Error> {
        let now = self.clock.now();
        let only = lookup.provider.as_ref().map(|filter| match filter {
            ProviderFilter::Peer(id) => self.leases.of_id(id, now).into_iter().collect(),
            ProviderFilter::Url(url) => self.leases.at_url(url, now),
        });
        let mut rng = fastrand::Rng::new();
        let live = LiveAt {
            leases: &self.leases,
            now,
        };
        let among = Among {
            live: &live,
            only: only.as_deref(),
            start: PeerNo(self.start(&mut rng)),
            seed: rng.u64(..),
        };
        let whole = self.store.find(&lookup.key, &among).await?;
        let part = if lookup.with_partial {
            self.partials().find(&lookup.key, &among)
        } else {
            Vec::new()
        };
        let mut found = merge(whole, part);
        if found.len() > MAX_VARIANTS {
            rng.shuffle(&mut found);
            found.sort_by_key(|found| Reverse(found.count()));
            found.truncate(MAX_VARIANTS);
        }
        // In an order of their own, whatever the store's was.
        found.sort_by(|one, other| one.place().cmp(&other.place()));
        let variant = |found: Holders| {
            let provider_count = found.count();
            let count = lookup.max_providers;
            let (whole, part) = choice::mix(&mut rng, found.whole, found.part, count);
            Variant {
                resource: found.resource,
                provider_count,
                providers: self.leases.providers(&whole, now),
                partial: self.leases.providers(&part, now),
            }
        };
        Ok(found.into_iter().map(variant).collect())
    }

    /// A page of names, and the cursor of the next one (empty: there is none).
    pub async fn search(
        &self,
        query: &Query,
        limit: usize,
        cursor: &[u8],
    ) -> Result<(Vec<Variant>, Vec<u8>), Error> {
        let mut after = query.position(cursor)?;
        let live = LiveAt {
            leases: &self.leases,
            now: self.clock.now(),
        };
        let mut rng = fastrand::Rng::new();
        let named = if query.by_prefix() {
            PREFIX_PROVIDERS
        } else {
            0
        };
        let among = Among {
            live: &live,
            only: None,
            start: PeerNo(self.start(&mut rng)),
            seed: rng.u64(..),
        };
        let accept = |term: &str, resource: &Resource| query.accepts(term, resource);
        let mut hits = Vec::new();
        for _ in 0..SEARCH_SLICES {
            let walk = Walk {
                prefix: query.prefix(),
                exact: query.exact(),
                after: after.as_ref(),
                accept: &accept,
                limit: limit - hits.len(),
                row_budget: SEARCH_SLICE_ROWS,
            };
            let page = self.store.walk(&walk, &among).await?;
            hits.extend(page.found.into_iter().map(|mut found| {
                let provider_count = found.holders.len();
                choice::choose(&mut rng, &mut found.holders, named);
                Variant {
                    provider_count,
                    resource: found.resource,
                    providers: self.leases.providers(&found.holders, live.now),
                    partial: Vec::new(),
                }
            }));
            after = page.next;
            if after.is_none() || hits.len() >= limit {
                break;
            }
            tokio::task::yield_now().await;
        }
        let next = after.map(|position| query.cursor(&position));
        Ok((hits, next.unwrap_or_default()))
    }

    /// Live peers for new copies.
    pub fn place(&self, need: &choice::Need) -> Vec<Arc<Provider>> {
        let mut rng = fastrand::Rng::new();
        let start = rng.usize(..);
        let candidates = self
            .leases
            .candidates(start, MAX_CANDIDATES, self.clock.now());
        choice::place(&mut rng, candidates, need)
    }

    /// Where a walk over holders begins: any number that a peer may have.
    fn start(&self, rng: &mut fastrand::Rng) -> u32 {
        rng.u32(..self.leases.numbers().max(1))
    }
}

/// One entry a resource. Who holds it whole does not count among those that hold it in part.
fn merge(whole: Vec<Found>, part: Vec<Found>) -> Vec<Holders> {
    let mut all: Vec<_> = whole
        .into_iter()
        .map(|found| Holders {
            resource: found.resource,
            whole: found.holders,
            part: Vec::new(),
        })
        .collect();
    for found in part {
        let is_it = |holders: &&mut Holders| {
            let (one, other) = (&holders.resource, &found.resource);
            (&one.digest, one.size, &one.name) == (&other.digest, other.size, &other.name)
        };
        match all.iter_mut().find(is_it) {
            Some(holders) => {
                let whole: HashSet<_> = holders.whole.iter().collect();
                let part = found.holders.into_iter();
                holders.part = part.filter(|peer| !whole.contains(peer)).collect();
            }
            None => all.push(Holders {
                resource: found.resource,
                whole: Vec::new(),
                part: found.holders,
            }),
        }
    }
    all
}
