//! Choosing peers: which providers an answer names, and who takes a new copy.
//!
//! Pure: randomness is passed in, so that every choice can be repeated.

use std::sync::Arc;

use fastrand::Rng;
use vecino_rest::PeerId;

use super::lease::{Candidate, Provider};

/// Moves a random choice of at most `count` items to the front and drops the others.
pub fn choose<T>(rng: &mut Rng, items: &mut Vec<T>, count: usize) {
    let count = count.min(items.len());
    for place in 0..count {
        let other = rng.usize(place..items.len());
        items.swap(place, other);
    }
    items.truncate(count);
}

/// A random choice of at most `count`: complete holders, then partial ones. Among all of them
/// everybody has about the same chance; but while complete ones are known, a quarter of the choice
/// is theirs, because what nobody has yet comes from them alone.
pub fn mix<T>(
    rng: &mut Rng,
    mut complete: Vec<T>,
    partial: Vec<T>,
    count: usize,
) -> (Vec<T>, Vec<T>) {
    let all = complete.len();
    choose(rng, &mut complete, all);
    let rest = complete.split_off(count.div_ceil(4).min(all));
    let rest = rest.into_iter().map(|item| (true, item));
    let mut others: Vec<_> = rest
        .chain(partial.into_iter().map(|item| (false, item)))
        .collect();
    choose(rng, &mut others, count - complete.len());
    let mut chosen = Vec::new();
    for (is_complete, item) in others {
        if is_complete {
            complete.push(item);
        } else {
            chosen.push(item);
        }
    }
    (complete, chosen)
}

/// What a new copy needs.
#[derive(Debug, Clone, Default)]
pub struct Need {
    /// Its bytes.
    pub size: u64,
    /// How many peers.
    pub count: usize,
    /// Who is not to be chosen.
    pub exclude: Vec<PeerId>,
    /// Peers of other sites come first; empty: no preference.
    pub site: String,
}

/// The peers that shall take the copies. Again and again, of two random candidates the one with
/// more room ("the power of two choices", Mitzenmacher 2001): load spreads, and nobody who has
/// the most room at the moment is overrun by everybody at once.
pub fn place(rng: &mut Rng, mut candidates: Vec<Candidate>, need: &Need) -> Vec<Arc<Provider>> {
    candidates.retain(|candidate| {
        candidate.free_bytes >= need.size && !need.exclude.contains(&candidate.provider.peer)
    });
    let elsewhere =
        |candidate: &Candidate| need.site.is_empty() || candidate.provider.site != need.site;
    let (far, near): (Vec<_>, Vec<_>) = candidates.into_iter().partition(elsewhere);
    let mut chosen = Vec::with_capacity(need.count);
    for mut group in [far, near] {
        while chosen.len() < need.count && !group.is_empty() {
            let one = rng.usize(..group.len());
            let other = rng.usize(..group.len());
            let roomier = if group[one].free_bytes >= group[other].free_bytes {
                one
            } else {
                other
            };
            chosen.push(group.swap_remove(roomier).provider);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Rng, *};

    fn candidate(number: u8, site: &str, free_bytes: u64) -> Candidate {
        let provider = Provider {
            peer: PeerId::from_bytes([number; 16]),
            url: format!("http://10.0.0.{number}:80"),
            site: site.to_owned(),
        };
        Candidate {
            provider: Arc::new(provider),
            free_bytes,
        }
    }

    #[test]
    fn every_item_is_chosen_about_equally_often() {
        let mut rng = Rng::with_seed(7);
        let mut counts = [0; 20];
        for _ in 0..4_000 {
            let mut items: Vec<usize> = (0..20).collect();
            choose(&mut rng, &mut items, 5);
            for item in items {
                counts[item] += 1;
            }
        }
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_roomy_peer_is_chosen_more_often_than_a_full_one() {
        let mut rng = Rng::with_seed(7);
        let need = Need {
            size: 1,
            count: 1,
            ..Need::default()
        };
        let mut first = 0;
        for _ in 0..1_000 {
            let candidates = vec![candidate(1, "", 1_000), candidate(2, "", 10)];
            first += usize::from(place(&mut rng, candidates, &need)[0].peer.as_bytes()[0] == 1);
        }
        assert!(
            (650..850).contains(&first),
            "{first}: three of four pairs have the roomy one"
        );
    }

    #[test]
    fn partial_holders_do_not_crowd_out_complete_ones_nor_the_other_way_round() {
        let mut rng = Rng::with_seed(7);
        let (mut complete_of_few, mut partial_of_few) = (0, 0);
        for _ in 0..1_000 {
            let (complete, partial) = mix(&mut rng, vec![1], vec![0; 100], 16);
            assert_eq!((complete.len(), partial.len()), (1, 15));
            let (complete, partial) = mix(&mut rng, vec![1; 20], vec![0; 20], 16);
            complete_of_few += complete.len();
            partial_of_few += partial.len();
        }
        assert!(
            (8_000..11_000).contains(&complete_of_few),
            "{complete_of_few}"
        );
        assert_eq!(complete_of_few + partial_of_few, 16_000);
    }

    proptest! {
        #[test]
        fn a_mixed_choice_is_full_and_has_complete_ones(
            seed: u64, complete in 0..40_usize, partial in 0..40_usize, count in 1..65_usize,
        ) {
            let (whole, part) = mix(
                &mut Rng::with_seed(seed),
                (0..complete).collect(),
                (100..100 + partial).collect(),
                count,
            );
            prop_assert_eq!(whole.len() + part.len(), count.min(complete + partial));
            prop_assert!(whole.len() >= count.div_ceil(4).min(complete));
            prop_assert!(whole.iter().all(|item| *item < 100));
            prop_assert!(part.iter().all(|item| *item >= 100));
            let distinct: std::collections::BTreeSet<_> = whole.iter().chain(&part).collect();
            prop_assert_eq!(distinct.len(), whole.len() + part.len());
        }

        #[test]
        fn a_choice_is_a_subset_without_repetition(seed: u64, items in 0..50_usize, count in 0..60_usize) {
            let mut chosen: Vec<usize> = (0..items).collect();
            choose(&mut Rng::with_seed(seed), &mut chosen, count);
            prop_assert_eq!(chosen.len(), items.min(count));
            chosen.sort_unstable();
            chosen.dedup();
            prop_assert_eq!(chosen.len(), items.min(count));
            prop_assert!(chosen.iter().all(|item| *item < items));
        }

        #[test]
        fn copies_go_where_there_is_room_and_elsewhere_first(
            seed: u64,
            peers in prop::collection::vec((0..3_u8, 0..100_u64), 0..20),
            count in 1..16_usize,
            excluded in prop::collection::vec(0..20_u8, 0..5),
        ) {
            let candidates: Vec<_> = (0..).zip(&peers)
                .map(|(number, (site, free))| candidate(number, &format!("s{site}"), *free)).collect();
            let exclude: Vec<_> = excluded.iter().map(|n| PeerId::from_bytes([*n; 16])).collect();
            let need = Need { size: 50, count, exclude: exclude.clone(), site: "s0".into() };
            let fit = |c: &&Candidate| c.free_bytes >= 50 && !exclude.contains(&c.provider.peer);
            let fitting = candidates.iter().filter(fit).count();
            let elsewhere = candidates.iter().filter(fit).filter(|c| c.provider.site != "s0").count();
            let chosen = place(&mut Rng::with_seed(seed), candidates.clone(), &need);
            prop_assert_eq!(chosen.len(), count.min(fitting));
            let split = chosen.iter().take_while(|p| p.site != "s0").count();
            prop_assert_eq!(split, count.min(elsewhere));
            prop_assert!(chosen[split..].iter().all(|p| p.site == "s0"));
            for (place, provider) in chosen.iter().enumerate() {
                prop_assert!(!exclude.contains(&provider.peer));
                prop_assert!(chosen[..place].iter().all(|other| other.peer != provider.peer));
            }
        }
    }
}
