//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit to what the system allows: the usual 1024 are fewer than the connections that
/// a peer takes. Failing that, it goes on with what it has.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => log::debug!(
            "open files: at most {}, raised from {}",
            shown(limit.maximum),
            shown(before)
        ),
        Err(error) => log::warn!(
            "open files: the limit stays {} and could not be raised to {}: {error}",
            shown(before),
            shown(limit.maximum)
        ),
    }
}
