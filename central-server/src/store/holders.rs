//! Reading live holders within a budget: shared by the engines
//! and by what the directory keeps in memory.

use super::{Live, MAX_HOLDERS_COUNTED, PeerNo, StoreError};

/// Holders read before liveness is asked for: one lock of the leases for so many peers.
const CHUNK: usize = 64;

/// Collects live peers from `rows`, at most [`MAX_HOLDERS_COUNTED`]; every row read costs one
/// of `budget`.
pub(crate) fn gather(
    mut rows: impl Iterator<Item = Result<PeerNo, StoreError>>,
    live: &dyn Live,
    budget: &mut usize,
) -> Result<Vec<PeerNo>, StoreError> {
    let mut holders = Vec::new();
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let wanted = CHUNK.min(*budget).min(MAX_HOLDERS_COUNTED - holders.len());
        for row in rows.by_ref().take(wanted) {
            chunk.push(row?);
        }
        *budget -= chunk.len();
        let ended = chunk.is_empty();
        live.retain_live(&mut chunk);
        holders.extend_from_slice(&chunk);
        if ended {
            return Ok(holders);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Even;

    impl Live for Even {
        fn retain_live(&self, peers: &mut Vec<PeerNo>) {
            peers.retain(|peer| peer.0 % 2 == 0);
        }
    }

    fn gather_of(rows: u32, mut budget: usize) -> (usize, usize) {
        let rows = (0..rows).map(|row| Ok(PeerNo(row)));
        let holders = gather(rows, &Even, &mut budget).expect("no error");
        assert!(holders.iter().all(|peer| peer.0 % 2 == 0));
        (holders.len(), budget)
    }

    #[test]
    fn it_stops_at_the_end_the_budget_and_the_count() {
        assert_eq!(gather_of(10, 100), (5, 90));
        assert_eq!(gather_of(1_000, 100), (50, 0));
        assert_eq!(gather_of(0, 100), (0, 100));
        let (count, left) = gather_of(10_000, 10_000);
        assert_eq!(count, MAX_HOLDERS_COUNTED);
        assert!((7_900..=8_001).contains(&left), "{left}");
    }
}
