//! What every engine must do: one suite, run on each of them.
//!
//! [`conforms`] is the entry point; an engine's test calls it with a way to make empty stores.

mod accounts;
mod peers;
mod records;
mod walks;

use std::{collections::HashSet, future::Future, sync::Arc};

use vecino_rest::{Digest, Name, PeerId};

use super::{
    Among, Change, Found, Key, Live, PeerNo, PeerRow, PeerState, Resource, Store, Walk, bucket_of,
    fingerprint::of_record,
};

pub(super) struct Everybody;

impl Live for Everybody {
    fn retain_live(&self, _: &mut Vec<PeerNo>) {}
}

struct Only(HashSet<PeerNo>);

impl Live for Only {
    fn retain_live(&self, peers: &mut Vec<PeerNo>) {
        peers.retain(|peer| self.0.contains(peer));
    }
}

pub(super) const ALL: Among<'static> = Among {
    live: &Everybody,
    only: None,
    start: PeerNo(0),
    seed: 0,
};

pub(super) fn row(number: u8) -> PeerRow {
    PeerRow {
        id: PeerId::from_bytes([number; 16]),
        url: format!("http://10.0.0.{number}:80"),
        site: "here".into(),
        token: [number; 32],
        url_is_observed: number.is_multiple_of(2),
        state: PeerState::Present,
        session: None,
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

pub(super) fn file(path: &str, content: &str) -> Resource {
    Resource {
        name: name(path),
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        modified_ms: -5,
    }
}

pub(super) fn announce(files: &[&Resource]) -> Change {
    let announce = files.iter().map(|file| (*file).clone()).collect();
    Change::Difference {
        announce,
        withdraw: Vec::new(),
    }
}

pub(super) fn withdraw(files: &[&Resource]) -> Change {
    let withdraw = files
        .iter()
        .map(|file| (file.name.clone(), file.digest))
        .collect();
    Change::Difference {
        announce: Vec::new(),
        withdraw,
    }
}

/// A store and the peers that the suite registers in it.
struct Bench {
    store: Arc<dyn Store>,
}

impl Bench {
    async fn peer(&self, number: u8) -> PeerNo {
        self.store
            .register(row(number))
            .await
            .expect("registers")
            .peer
    }

    async fn change(&self, peer: PeerNo, number: u8, change: Change) -> u64 {
        self.store
            .announce(peer, [number; 32], change)
            .await
            .expect("announces")
    }

    async fn find(&self, key: &Key, among: &Among<'_>) -> Vec<Found> {
        let mut found = self.store.find(key, among).await.expect("finds");
        found.sort_by_key(|found| (found.resource.name.clone(), found.resource.digest));
        found
    }

    async fn holders_of(&self, file: &Resource) -> Vec<PeerNo> {
        let found = self.find(&Key::Name(file.name.clone()), &ALL).await;
        let of_file = found
            .into_iter()
            .filter(|found| found.resource.digest == file.digest);
        of_file.flat_map(|found| found.holders).collect()
    }

    /// All names under a prefix, in pages of `limit`.
    async fn names(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let walk = Walk {
                prefix,
                exact: false,
                after: after.as_ref(),
                accept: &|_, _| true,
                limit,
                row_budget: 100,
            };
            let page = self.store.walk(&walk, &ALL).await.expect("walks");
            assert!(page.found.len() <= limit);
            names.extend(
                page.found
                    .into_iter()
                    .map(|found| found.resource.name.to_string()),
            );
            match page.next {
                Some(next) => after = Some(next),
                None => return names,
            }
        }
    }

    fn sum(&self, files: &[&Resource], bucket: u8) -> u128 {
        let of_bucket = files
            .iter()
            .filter(|file| bucket_of(&file.digest) == bucket);
        of_bucket.fold(0, |sum, f| {
            sum.wrapping_add(of_record(&f.name, &f.digest, f.size))
        })
    }

    async fn assert_fingerprints(&self, number: u8, files: &[&Resource]) {
        let fingerprints = self
            .store
            .register(row(number))
            .await
            .expect("registers")
            .fingerprints;
        assert_eq!(fingerprints.records(), files.len() as u64);
        for bucket in 0..=u8::MAX {
            assert_eq!(
                fingerprints.0[usize::from(bucket)].sum,
                self.sum(files, bucket),
                "{bucket}"
            );
        }
    }
}

/// Runs the suite on stores that `make` makes, each of them empty.
pub(super) async fn conforms<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    let bench = || async {
        Bench {
            store: make().await,
        }
    };
    records::what_is_announced_is_found_by_name_and_digest(bench().await).await;
    records::variants_of_a_name_are_apart(bench().await).await;
    records::a_resource_goes_with_its_last_holder(bench().await).await;
    records::a_record_with_another_size_replaces_the_first(bench().await).await;
    records::announcing_twice_changes_nothing(bench().await).await;
    records::a_bucket_becomes_exactly_what_is_sent(bench().await).await;
    records::fingerprints_follow_every_change(bench().await).await;
    peers::only_the_current_token_changes_anything(bench().await).await;
    walks::only_live_and_wanted_holders_are_found(bench().await).await;
    walks::the_walk_over_holders_begins_anywhere(bench().await).await;
    walks::terms_are_walked_in_pages(bench().await).await;
    walks::a_walk_spends_its_budget_and_goes_on(bench().await).await;
    walks::names_are_walked_by_prefix_in_their_order(bench().await).await;
    walks::many_files_of_a_word_are_walked_in_pages_of_any_length(bench().await).await;
    peers::a_lapsed_peer_is_forgotten_in_steps(bench().await).await;
    peers::a_peer_that_came_back_is_not_forgotten(bench().await).await;
    peers::a_peer_that_came_back_and_went_again_is_not_forgotten_for_the_first_time(bench().await)
        .await;
    records::many_names_of_a_digest_do_not_hide_the_others(bench().await).await;
    records::many_digests_of_a_name_do_not_hide_the_others(bench().await).await;
    records::a_full_bucket_refuses_more(bench().await).await;
    peers::a_closed_store_refuses_changes(bench().await).await;
    accounts::an_account_is_made_changed_and_removed(bench().await).await;
    accounts::accounts_are_listed_in_pages(bench().await).await;
    accounts::a_session_stays_with_its_peer_until_it_is_ended(bench().await).await;
    accounts::the_buckets_of_a_peer_are_all_that_it_holds(bench().await).await;
    accounts::an_import_is_marked_from_its_beginning_to_its_end(bench().await).await;
    accounts::a_peer_for_whom_there_is_no_room_is_refused_alone(bench().await).await;
    accounts::a_closed_store_takes_no_accounts(bench().await).await;
}
