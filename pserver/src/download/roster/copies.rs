//! How many providers have each piece or are fetching it. Pure.
//!
//! It is asked for at each step of a download, and a large content has thousands of pieces: only what
//! a provider has more or less than before is counted.

use crate::download::bits::Bits;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    counts: Vec<u16>,
    providers: usize,
}

impl Copies {
    /// A provider counts with the pieces of `now` where it counted with those of `before`; `None`: it
    /// does not count.
    pub(super) fn change(&mut self, before: Option<&Bits>, now: Option<&Bits>) {
        let nothing = Bits::default();
        let changes = before.unwrap_or(&nothing).changes(now.unwrap_or(&nothing));
        for (piece, is_set) in changes {
            let piece = piece as usize;
            if self.counts.len() <= piece {
                self.counts.resize(piece + 1, 0);
            }
            let count = &mut self.counts[piece];
            *count = if is_set { *count + 1 } else { *count - 1 };
        }
        if now.is_some() && self.counts.is_empty() {
            self.counts.push(0);
        }
        self.providers += usize::from(now.is_some());
        self.providers -= usize::from(before.is_some());
    }

    /// How many have each piece, as far as anybody does; empty when nobody counts, and only then.
    pub(super) fn of_pieces(&self) -> &[u16] {
        if self.providers == 0 {
            &[]
        } else {
            &self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_changed_comes_to_what_is_counted_anew(
            steps in prop::collection::vec(
                (0..4_usize, prop::option::of(prop::collection::vec(any::<bool>(), 0..40))),
                0..30,
            )
        ) {
            let mut copies = Copies::default();
            let mut providers: [Option<Bits>; 4] = Default::default();
            for (who, now) in steps {
                let now = now.map(Bits::of);
                copies.change(providers[who].as_ref(), now.as_ref());
                providers[who] = now;
                let holding = |piece| {
                    let holds = |bits: &&Bits| bits.get(piece);
                    providers.iter().flatten().filter(holds).count()
                };
                for piece in 0..40 {
                    let count = copies.of_pieces().get(piece as usize).copied();
                    prop_assert_eq!(usize::from(count.unwrap_or(0)), holding(piece));
                }
                let is_nobody = providers.iter().all(Option::is_none);
                prop_assert_eq!(is_nobody, copies.of_pieces().is_empty());
            }
        }
    }
}
