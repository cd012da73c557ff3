//! What this peer holds in part while it fetches it: what others may find besides the catalogue.
//!
//! Invariant: a record is here exactly as long as somebody holds a [`Partial`] for it. It is a
//! state and no feed of changes: who follows it compares, so nobody can fall behind.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use vecino_rest::{Digest, Name};

use super::catalogue::Record;

/// What is held in part, with how many guards each record has.
pub type Held = BTreeMap<(Digest, Name), (Record, usize)>;

/// See the module.
#[derive(Debug)]
pub struct Partials {
    held: watch::Sender<Held>,
}

impl Default for Partials {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(Held::new()),
        }
    }
}

impl Partials {
    /// `record` is held in part until the guard is dropped.
    pub fn begin(self: &Arc<Self>, record: Record) -> Partial {
        let key = (record.digest, record.name.clone());
        self.held.send_if_modified(|held| {
            let guards = &mut held.entry(key.clone()).or_insert((record, 0)).1;
            *guards += 1;
            *guards == 1
        });
        Partial {
            partials: self.clone(),
            key,
        }
    }

    /// Follows what is held in part; what is held now counts as a change.
    pub fn follow(&self) -> watch::Receiver<Held> {
        let mut held = self.held.subscribe();
        held.mark_changed();
        held
    }

    fn end(&self, key: &(Digest, Name)) {
        self.held.send_if_modified(|held| {
            let Some((_, guards)) = held.get_mut(key) else {
                return false;
            };
            *guards -= 1;
            *guards == 0 && held.remove(key).is_some()
        });
    }
}

/// A content is held in part while this lives.
#[derive(Debug)]
pub struct Partial {
    partials: Arc<Partials>,
    key: (Digest, Name),
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.partials.end(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            name: Name::parse(name).expect("valid"),
            digest: Digest::of(b"content"),
            size: 7,
            modified_ms: 0,
        }
    }

    #[test]
    fn a_record_is_held_until_its_last_guard_is_gone() {
        let partials = Arc::new(Partials::default());
        let mut held = partials.follow();
        let mut names = || -> Vec<String> {
            assert!(held.has_changed().expect("open"));
            let held = held.borrow_and_update();
            held.keys().map(|(_, name)| name.to_string()).collect()
        };
        assert!(names().is_empty(), "what there is counts as a change");
        let first = partials.begin(record("a"));
        assert_eq!(names(), ["a"]);
        let second = partials.begin(record("a"));
        drop(first);
        let other = partials.begin(record("b"));
        assert_eq!(names(), ["a", "b"]);
        drop(second);
        drop(other);
        assert!(names().is_empty());
    }
}
