//! A map that forgets: it has two generations, and when the younger one is full, the older one
//! goes. So it holds at least as many of the latest entries as one generation, and at most twice
//! as many, and no entry costs a search for the oldest.

use std::{collections::HashMap, hash::Hash, mem};

/// The map.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// At most twice `generation` entries.
    pub(super) fn new(generation: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_stay_and_the_number_is_bounded() {
        let mut recent = Recent::new(10);
        for key in 0..1_000 {
            recent.put(key, key);
            assert!(recent.len() <= 20);
            for latest in (key - 9).max(0)..=key {
                assert_eq!(recent.get(&latest), Some(&latest));
            }
        }
        assert_eq!(recent.get(&0), None);
        recent.put(999, 1);
        assert_eq!(recent.remove(&999), Some(1));
        assert_eq!(recent.get(&999), None);
        assert_eq!(recent.remove(&999), None);
    }
}
