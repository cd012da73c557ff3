//! Hears of changes in the two directories from the operating system.
//!
//! A watch may miss things (a full queue, a network file system): the importer walks the
//! directories again from time to time, and this only makes it sooner.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use vecino_rest::body::Origin;

use super::import::Roots;

/// With more touched paths than this, everything is looked at instead.
const MAX_TOUCHED: usize = 4096;

/// Paths at which something may have changed; bounded, each at most once.
#[derive(Debug)]
pub struct Touched {
    roots: Roots,
    paths: Mutex<BTreeSet<(Origin, PathBuf)>>,
    some: Notify,
}

impl Touched {
    /// Nothing touched yet.
    pub fn new(roots: Roots) -> Self {
        Self {
            roots,
            paths: Mutex::default(),
            some: Notify::new(),
        }
    }

    /// Something at `path` may have changed.
    pub fn add(&self, origin: Origin, path: &Path) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() < MAX_TOUCHED {
            paths.insert((origin, path.to_owned()));
        } else {
            *paths = self
                .roots
                .all()
                .map(|(origin, root)| (origin, root.to_owned()))
                .collect();
        }
        self.some.notify_one();
    }

    /// Waits until something was touched.
    pub async fn some(&self) {
        self.some.notified().await;
    }

    /// What was touched since the last time.
    pub fn take(&self) -> BTreeSet<(Origin, PathBuf)> {
        std::mem::take(&mut *self.paths.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    _watchers: Vec<RecommendedWatcher>,
}

impl Watch {
    /// Watches both directories; one that cannot be watched is said so, and only walked.
    pub fn start(roots: &Roots, touched: &Arc<Touched>) -> Self {
        let watch = |(origin, root): (Origin, &Path)| {
            let (touched, whole) = (touched.clone(), root.to_owned());
            let tell = move |event: notify::Result<notify::Event>| match event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
                Ok(event) if !event.need_rescan() => {
                    event
                        .paths
                        .iter()
                        .for_each(|path| touched.add(origin, path));
                }
                // Events were lost.
                _ => touched.add(origin, &whole),
            };
            let started = notify::recommended_watcher(tell).and_then(|mut watcher| {
                watcher.watch(root, RecursiveMode::Recursive)?;
                Ok(watcher)
            });
            started
                .inspect_err(|error| {
                    log::warn!(
                        "{} cannot be watched ({error}): it is only walked",
                        root.display()
                    );
                })
                .ok()
        };
        Self {
            _watchers: roots.all().filter_map(watch).collect(),
        }
    }
}
