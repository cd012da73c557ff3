//! What `/metrics` shows (OpenMetrics text); each metric is described in
//! `deploy/observability/METRICS.md`.
//!
//! Invariant: the number of series is bounded; what takes a value from outside (the provider
//! that sent wrong bytes) takes 64 at most. A label whose values are known is at 0 from the start,
//! so that a rate sees its first increment.

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use vecino_rest::body::Origin;

use crate::locate::StrategyKind;

/// How a lookup ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Lookup {
    /// See [`Outcome`].
    pub outcome: Outcome,
}

/// How a lookup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "label values are lower case")]
pub enum Outcome {
    /// Somebody holds it.
    found,
    /// Nobody does.
    unknown,
    /// It could not be looked up.
    failed,
}

/// Who sent something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Provider {
    /// Its URL, or `other` when there are too many of them.
    pub provider: String,
}

/// Providers that are told apart.
const MAX_LIARS: usize = 64;

/// Which strategy was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Strategy {
    /// Its name.
    pub strategy: &'static str,
}

/// How a lookup by one strategy ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StrategyLookup {
    /// Its name.
    pub strategy: &'static str,
    /// See [`Outcome`].
    pub outcome: Outcome,
}

/// How a download ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// `done`, `failed` or `cancelled`.
    pub outcome: &'static str,
}

/// Which of the peer's directories.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Directory {
    /// `shared` or `downloads`.
    pub directory: &'static str,
}

impl From<Origin> for Directory {
    fn from(origin: Origin) -> Self {
        Self {
            directory: match origin {
                Origin::Shared => "shared",
                Origin::Fetched => "downloads",
            },
        }
    }
}

type Level = Gauge<i64, AtomicI64>;
type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// From half a millisecond to 8 s: a lookup may take 5 s, a neighbour 6 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 15))
}

/// The counters; see the module for where each is described.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Files read and hashed.
    pub files_hashed: Counter,
    /// Bytes of them.
    pub hashed_bytes: Counter,
    /// Files known from before a restart.
    pub files_recognised: Counter,
    /// HTTP connections accepted.
    pub http_connections: Counter,
    /// HTTP connections that are open.
    pub http_connections_open: Level,
    /// Lookups for other peers.
    pub lookups: Family<Lookup, Counter>,
    /// How long they took.
    pub lookup_seconds: Histogram,
    /// Lookups that no cache answered, by the strategies that were asked.
    strategy_lookups: Family<StrategyLookup, Counter>,
    strategy_lookup_seconds: Durations<Strategy>,
    /// Requests to neighbours.
    pub neighbour_requests: Family<Lookup, Counter>,
    /// How long they took.
    pub neighbour_request_seconds: Histogram,
    /// Pieces verified.
    pub pieces_verified: Counter,
    /// Content bytes received and verified.
    pub bytes_received: Counter,
    /// Content bytes sent.
    pub bytes_sent: Counter,
    /// Pieces that were not what their provider said, by provider.
    pub verification_failures: Family<Provider, Counter>,
    /// How many providers that has so far.
    liars: AtomicUsize,
    /// Providers left for the next one.
    pub provider_switches: Counter,
    /// Lookups in zones.
    pub zone_lookups: Counter,
    /// Members of zones that were asked for them.
    pub zone_contacts: Counter,
    /// Such questions that this peer was asked.
    pub zone_asked: Counter,
    /// Files deleted because the cache was full.
    pub cache_evictions: Counter,
    /// Bytes of fetched files.
    pub cache_bytes: Level,
    /// Downloads running.
    pub downloads: Level,
    /// Downloads that ended.
    pub downloads_ended: Family<Ended, Counter>,
    /// Contents being sent.
    pub uploads: Level,
    /// Whether others find what it holds.
    pub online: Level,
    /// Records that a locator acknowledged.
    pub records_announced: Level,
    /// Changes that a locator has not acknowledged yet.
    pub unannounced_changes: Level,
    /// Files held.
    pub files: Family<Directory, Level>,
    /// Files that wait to be hashed.
    pub files_waiting: Level,
    /// Bytes that may still be written.
    pub disk_free_bytes: Family<Directory, Level>,
    /// Whether the index of hashed files takes no changes.
    pub index_failing: Level,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vecino");
        macro_rules! register {
            ($metric:expr, $name:literal, $help:literal) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What runs", Info::new(build));
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let started_at = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        started_at.set(started.unwrap_or_default().as_secs_f64());
        registry.register("start_time_seconds", "When it started", started_at);
        let metrics = Self {
            files_hashed: register!(Counter::default(), "files_hashed", "Files read and hashed"),
            hashed_bytes: register!(
                Counter::default(),
                "hashed_bytes",
                "Bytes of files read and hashed"
            ),
            files_recognised: register!(
                Counter::default(),
                "files_recognised",
                "Files known from before a restart"
            ),
            http_connections: register!(
                Counter::default(),
                "http_connections",
                "HTTP connections accepted"
            ),
            http_connections_open: register!(
                Gauge::default(),
                "http_connections_open",
                "HTTP connections that are open"
            ),
            lookups: register!(Family::default(), "lookups", "Lookups for other peers"),
            lookup_seconds: register!(
                seconds(),
                "lookup_seconds",
                "Duration of lookups for other peers"
            ),
            strategy_lookups: register!(
                Family::default(),
                "strategy_lookups",
                "Lookups that no cache answered, by strategy"
            ),
            strategy_lookup_seconds: register!(
                Family::new_with_constructor(seconds as fn() -> Histogram),
                "strategy_lookup_seconds",
                "Duration of lookups by one strategy"
            ),
            neighbour_requests: register!(
                Family::default(),
                "neighbour_requests",
                "Requests to neighbours"
            ),
            neighbour_request_seconds: register!(
                seconds(),
                "neighbour_request_seconds",
                "Duration of requests to neighbours"
            ),
            pieces_verified: register!(Counter::default(), "pieces_verified", "Pieces verified"),
            bytes_received: register!(
                Counter::default(),
                "received_bytes",
                "Content bytes received and verified"
            ),
            bytes_sent: register!(Counter::default(), "sent_bytes", "Content bytes sent"),
            verification_failures: register!(
                Family::default(),
                "verification_failures",
                "Pieces that were not what they should be"
            ),
            provider_switches: register!(
                Counter::default(),
                "provider_switches",
                "Providers left for the next one"
            ),
            zone_lookups: register!(Counter::default(), "zone_lookups", "Lookups in zones"),
            zone_contacts: register!(
                Counter::default(),
                "zone_contacts",
                "Members of zones that were asked"
            ),
            zone_asked: register!(
                Counter::default(),
                "zone_asked",
                "Questions of other members"
            ),
            cache_evictions: register!(
                Counter::default(),
                "cache_evictions",
                "Files deleted because the cache was full"
            ),
            cache_bytes: register!(Gauge::default(), "cache_bytes", "Bytes of fetched files"),
            downloads: register!(Gauge::default(), "downloads", "Downloads running"),
            downloads_ended: register!(
                Family::default(),
                "downloads_ended",
                "Downloads that ended"
            ),
            uploads: register!(Gauge::default(), "uploads", "Contents being sent"),
            online: register!(
                Gauge::default(),
                "online",
                "1 while others find what it holds"
            ),
            records_announced: register!(
                Gauge::default(),
                "records_announced",
                "Records that a locator acknowledged"
            ),
            unannounced_changes: register!(
                Gauge::default(),
                "unannounced_changes",
                "Changes that a locator has not acknowledged yet"
            ),
            files: register!(Family::default(), "files", "Files held"),
            files_waiting: register!(
                Gauge::default(),
                "files_waiting",
                "Files that wait to be hashed"
            ),
            disk_free_bytes: register!(
                Family::default(),
                "disk_free_bytes",
                "Bytes that may still be written"
            ),
            index_failing: register!(
                Gauge::default(),
                "index_failing",
                "1 while the index of hashed files takes no changes"
            ),
            liars: AtomicUsize::default(),
            registry,
        };
        metrics.begin_at_zero();
        metrics
    }
}

impl Metrics {
    fn begin_at_zero(&self) {
        for outcome in [Outcome::found, Outcome::unknown, Outcome::failed] {
            drop(self.lookups.get_or_create(&Lookup { outcome }));
            drop(self.neighbour_requests.get_or_create(&Lookup { outcome }));
            for strategy in StrategyKind::ALL.map(StrategyKind::as_str) {
                drop(
                    self.strategy_lookups
                        .get_or_create(&StrategyLookup { strategy, outcome }),
                );
                drop(
                    self.strategy_lookup_seconds
                        .get_or_create(&Strategy { strategy }),
                );
            }
        }
        for outcome in ["done", "failed", "cancelled"] {
            drop(self.downloads_ended.get_or_create(&Ended { outcome }));
        }
        for origin in [Origin::Shared, Origin::Fetched] {
            drop(self.files.get_or_create(&origin.into()));
            drop(self.disk_free_bytes.get_or_create(&origin.into()));
        }
        drop(self.verification_failures.get_or_create(&other()));
    }

    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// `strategy` was asked, and answered so after `took`.
    pub fn strategy_answered(&self, strategy: StrategyKind, outcome: Outcome, took: Duration) {
        let strategy = strategy.as_str();
        let ended = StrategyLookup { strategy, outcome };
        self.strategy_lookups.get_or_create(&ended).inc();
        self.strategy_lookup_seconds
            .get_or_create(&Strategy { strategy })
            .observe(took.as_secs_f64());
    }

    /// A provider at `url` sent something wrong.
    pub fn wrong_bytes_from(&self, url: &str) {
        let named = Provider {
            provider: url.to_owned(),
        };
        let is_known = self.verification_failures.get(&named).is_some();
        let counted = if is_known || self.liars.fetch_add(1, Ordering::Relaxed) < MAX_LIARS {
            named
        } else {
            other()
        };
        self.verification_failures.get_or_create(&counted).inc();
    }

    /// Counts a gauge up until the guard is dropped.
    pub fn running(gauge: &Level) -> Running {
        gauge.inc();
        Running(gauge.clone())
    }
}

/// Who sent something wrong, when there are too many to be told apart.
fn other() -> Provider {
    Provider {
        provider: "other".to_owned(),
    }
}

/// See [`Metrics::running`].
#[derive(Debug)]
pub struct Running(Level);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Its rows: `| name{label,label} | type | meaning |`, under the heading of the peer.
    const DOCUMENTED: &str = include_str!("../../deploy/observability/METRICS.md");

    fn documented() -> BTreeSet<(String, String)> {
        let (_, section) = DOCUMENTED.split_once("## pserver\n").expect("a heading");
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `vecino_")?.split(" | ");
            let name = cells.next()?.split(['{', '`']).next()?;
            Some((format!("vecino_{name}"), cells.next()?.to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn what_is_documented_is_what_is_shown() {
        let text = Metrics::default().encode().expect("a string");
        let shown = text.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            // A counter's and an info's samples have a suffix that the family has not.
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            Some((format!("{name}{suffix}"), kind.to_owned()))
        });
        let shown: BTreeSet<_> = shown.collect();
        assert!(shown.len() > 20, "{text}");
        assert_eq!(shown, documented());
        for (name, _) in &shown {
            assert!(
                text.lines().any(|line| line.starts_with(name.as_str())),
                "{name} is at nothing from the start"
            );
        }
    }
}
