//! Which pieces to fetch next: pure.
//!
//! Invariant: it picks only pieces that are missing and that some reader still wants; the reader
//! that would wait first is served first.

use std::ops::Range;

/// Pieces that one request may ask for: bounds how long another reader waits.
pub const MAX_RUN: u32 = 64;
/// A reader that has so many pieces ahead is not about to wait.
const ENOUGH_AHEAD: u32 = 8;

/// Which pieces to fetch next, in order, all missing: a run for one request. `readers` gives the
/// pieces each still wants, the next one first. `None` when nothing that is wanted is missing.
pub fn next_run(have: &[bool], readers: impl Iterator<Item = Range<u32>>) -> Option<Range<u32>> {
    let missing_of = |wanted: Range<u32>| {
        let start = wanted.clone().find(|&piece| !have[piece as usize])?;
        Some((start - wanted.start, start, wanted.end))
    };
    let (_, start, end) = readers
        .filter_map(missing_of)
        .min_by_key(|&(ahead, start, _)| (ahead.min(ENOUGH_AHEAD), start))?;
    let end = (start..end.min(start.saturating_add(MAX_RUN)))
        .find(|&piece| have[piece as usize])
        .unwrap_or_else(|| end.min(start.saturating_add(MAX_RUN)));
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reader_that_would_wait_first_is_served_first() {
        let mut have = vec![false; 100];
        have[..4].fill(true);
        assert_eq!(next_run(&have, [0..100, 50..60].into_iter()), Some(50..60));
        have[50..60].fill(true);
        assert_eq!(next_run(&have, [0..100, 50..60].into_iter()), Some(4..50));
        have.fill(true);
        assert_eq!(next_run(&have, std::iter::once(0..100)), None);
    }

    proptest! {
        #[test]
        fn runs_end_a_download_fetching_every_piece_once(
            mut have in prop::collection::vec(any::<bool>(), 1..200),
            cuts in prop::collection::vec((0..200u32, 0..200u32), 1..5),
        ) {
            let count = have.len() as u32;
            let readers: Vec<_> = cuts.iter().map(|&(a, b)| a.min(b).min(count)..a.max(b).min(count)).collect();
            let before = have.clone();
            while let Some(run) = next_run(&have, readers.iter().cloned()) {
                prop_assert!(!run.is_empty() && run.len() <= MAX_RUN as usize);
                for piece in run {
                    prop_assert!(!have[piece as usize], "fetched twice");
                    prop_assert!(readers.iter().any(|wanted| wanted.contains(&piece)), "not wanted");
                    have[piece as usize] = true;
                }
            }
            for piece in 0..count {
                let wanted = readers.iter().any(|reader| reader.contains(&piece));
                prop_assert_eq!(have[piece as usize], before[piece as usize] || wanted);
            }
        }
    }
}
