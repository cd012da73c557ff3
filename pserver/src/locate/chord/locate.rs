//! Lookups: finds the holders of a name, asks several of them, and tells the providers that live.
//!
//! Invariant: what is told was named by a holder that answered, is not over, and its provider
//! answered just now or a moment ago. One holder that lies can add providers, whose bytes are
//! verified anyway, but cannot hide those that another holder names.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use rand::seq::SliceRandom;
use tokio::{task::JoinSet, time::sleep};
use vecino_grpc::v1;
use vecino_rest::{
    Name, PeerId,
    body::{LocateQuery, Provider, Variant},
};

use super::{
    id::Id,
    member::Member,
    node::Node,
    records::Provided,
    timing::{HEDGE_AFTER, HOLDERS_ASKED, MAX_PROVIDERS, MAX_VARIANTS, PROVIDERS_CHECKED},
    wire,
};
use crate::locate::LocateError;

impl Node {
    /// Who holds it.
    pub(super) async fn locate(
        self: &Arc<Self>,
        query: &LocateQuery,
    ) -> Result<Vec<Variant>, LocateError> {
        // Records are placed by name: nothing tells where those of a digest are.
        let name = query.name.as_ref().ok_or(LocateError::Unsupported)?;
        let found = self
            .find(Id::of_name(name))
            .await
            .ok_or(LocateError::Unavailable)?;
        let mut provided = self.ask_holders(name, found.holders.clone()).await;
        if provided.as_ref().is_none_or(Vec::is_empty) {
            // The last of the r + 1 is on the responsible member's own list only.
            let mut further = self.holders(&found).await;
            further.retain(|holder| !found.holders.contains(holder));
            if !further.is_empty() {
                provided = self.ask_holders(name, further).await.or(provided);
            }
        }
        let provided = provided
            .ok_or(LocateError::Unavailable)?
            .into_iter()
            .filter(|one| is_wanted(one, query.provider.as_deref()))
            .collect();
        Ok(variants(name, self.living(provided).await))
    }

    /// What holders know of `name`: of the first `HOLDERS_ASKED` that answer, or of all when
    /// those know nothing. One that is slow is waited for while others are asked as well. `None`
    /// when nobody answers.
    async fn ask_holders(
        self: &Arc<Self>,
        name: &Name,
        holders: Vec<Member>,
    ) -> Option<Vec<Provided>> {
        // Those that were silent lately come last.
        let (silent, speaking): (Vec<_>, Vec<_>) = holders
            .into_iter()
            .partition(|holder| self.calls.was_silent(&holder.contact.peer));
        let mut waiting = speaking.into_iter().chain(silent);
        let mut asking = JoinSet::new();
        let mut ask = |asking: &mut JoinSet<_>, count: usize| {
            for holder in waiting.by_ref().take(count) {
                let (node, name) = (self.clone(), name.clone());
                asking.spawn(async move { node.ask_holder(&holder, &name).await });
            }
        };
        ask(&mut asking, HOLDERS_ASKED);
        let (mut answered, mut merged) = (0, BTreeMap::new());
        // Nobody is said to hold it only when no holder knows better.
        while answered < HOLDERS_ASKED || merged.is_empty() {
            let answer = loop {
                tokio::select! {
                    answer = asking.join_next() => break answer,
                    () = sleep(HEDGE_AFTER) => {
                        ask(&mut asking, HOLDERS_ASKED.saturating_sub(answered).max(1));
                    }
                }
            };
            match answer {
                Some(Ok(Some(provided))) => {
                    answered += 1;
                    for one in provided {
                        let key = (one.record.digest, one.provider.peer);
                        let (told, _) = merged.entry(key).or_insert((0_usize, one));
                        *told += 1;
                    }
                    if answered >= HOLDERS_ASKED && merged.is_empty() {
                        ask(&mut asking, 1);
                    }
                }
                // Another takes its place.
                Some(_) => ask(&mut asking, 1),
                None => break,
            }
        }
        // Those that are late are still found out to be silent, for the lookups that come.
        asking.detach_all();
        let mut merged: Vec<_> = merged.into_values().collect();
        // What several holders agree on goes first.
        merged.sort_by_key(|(told, _)| std::cmp::Reverse(*told));
        (answered > 0).then(|| merged.into_iter().map(|(_, one)| one).collect())
    }

    async fn ask_holder(&self, holder: &Member, name: &Name) -> Option<Vec<Provided>> {
        let now = self.now();
        if holder.id == self.me.id {
            return Some(self.records().find(name, now));
        }
        let request = v1::ChordFetchRequest {
            to: wire::from_peer(&holder.contact.peer),
            name: name.to_string(),
        };
        let answer = self
            .calls
            .ask(&holder.contact, async |mut client| {
                client.fetch(request).await
            })
            .await
            .ok()?;
        let provided = self
            .reader
            .provided(answer.provided, now, self.timing.life)
            .ok()?;
        let is_asked = |one: &Provided| one.record.name == *name && one.expires > now;
        Some(provided.into_iter().filter(is_asked).collect())
    }

    /// Those whose provider answers.
    async fn living(self: &Arc<Self>, provided: Vec<Provided>) -> Vec<Provided> {
        let mut contacts = HashMap::new();
        for one in &provided {
            if contacts.len() < PROVIDERS_CHECKED {
                contacts
                    .entry(one.provider.peer)
                    .or_insert_with(|| one.provider.clone());
            }
        }
        let mut checking = JoinSet::new();
        for (peer, contact) in contacts {
            let node = self.clone();
            checking.spawn(async move {
                let lives = peer == node.me.contact.peer || node.calls.lives(&contact).await;
                lives.then_some(peer)
            });
        }
        let mut living: HashSet<PeerId> = HashSet::new();
        while let Some(checked) = checking.join_next().await {
            living.extend(checked.ok().flatten());
        }
        provided
            .into_iter()
            .filter(|one| living.contains(&one.provider.peer))
            .collect()
    }
}

fn is_wanted(provided: &Provided, provider: Option<&str>) -> bool {
    provider.is_none_or(|wanted| {
        provided.provider.peer.to_string() == wanted.to_ascii_lowercase()
            || provided.provider.url.to_string() == wanted.trim_end_matches('/')
    })
}

/// One variant a digest, most providers first.
fn variants(name: &Name, provided: Vec<Provided>) -> Vec<Variant> {
    let mut by_digest: BTreeMap<_, Vec<Provided>> = BTreeMap::new();
    for one in provided {
        by_digest
            .entry((one.record.digest, one.record.size))
            .or_default()
            .push(one);
    }
    let variant = |((digest, size), mut provided): (_, Vec<Provided>)| {
        let modified_ms = provided.iter().map(|one| one.record.modified_ms).max();
        let provider_count = u32::try_from(provided.len()).unwrap_or(u32::MAX);
        provided.shuffle(&mut rand::rng());
        provided.truncate(MAX_PROVIDERS);
        let provider = |one: Provided| Provider {
            peer: Some(one.provider.peer),
            url: one.provider.url.to_string(),
            site: one.provider.site.clone(),
            partial: false,
        };
        Variant {
            name: name.clone(),
            digest: Some(digest),
            size: Some(size),
            modified_ms,
            provider_count,
            providers: provided.into_iter().map(provider).collect(),
        }
    };
    let mut variants: Vec<_> = by_digest.into_iter().map(variant).collect();
    variants.sort_by_key(|variant| std::cmp::Reverse(variant.provider_count));
    variants.truncate(MAX_VARIANTS);
    variants
}
