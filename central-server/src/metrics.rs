//! What the locator counts, in the text form of Prometheus; each metric is described in
//! `deploy/observability/METRICS.md`.
//!
//! Invariant: no label takes a value from outside, so the number of series is bounded, and
//! nothing here tells who looked up what. A label's values are at 0 from the start, so that a rate
//! sees its first increment.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// How a lookup came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(crate) enum Lookup {
    unary,
    stream,
    search,
    place,
    legacy,
}

/// Every kind, in order.
const LOOKUPS: [Lookup; 5] = [
    Lookup::unary,
    Lookup::stream,
    Lookup::search,
    Lookup::place,
    Lookup::legacy,
];

/// What is counted of the lookups of one kind.
struct Lookups {
    found: Counter,
    none: Counter,
    error: Counter,
    seconds: Histogram,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(crate) enum Outcome {
    ok,
    found,
    none,
    error,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(crate) enum StreamKind {
    keepalive,
    announce,
    locate,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    kind: Lookup,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: Lookup,
}

/// The label of counters by outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    kind: StreamKind,
}

type Outcomes = Family<OutcomeLabel, Counter>;

/// What a store reports while it works. A clone counts into the same metrics.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    pub(crate) commits: Counter,
    pub(crate) commit_records: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) queue_depth: Gauge,
    pub(crate) failing: Gauge,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commits: Counter::default(),
            commit_records: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            queue_depth: Gauge::default(),
            failing: Gauge::default(),
        }
    }
}

/// All metrics of the locator.
pub struct Metrics {
    registry: Registry,
    /// By kind; a lookup is counted without looking for its labels.
    lookups: [Lookups; LOOKUPS.len()],
    streams: Family<StreamLabel, Gauge>,
    pub(crate) registrations: Outcomes,
    pub(crate) logins: Outcomes,
    pub(crate) deregistrations: Outcomes,
    pub(crate) keepalives: Outcomes,
    pub(crate) announce_batches: Outcomes,
    pub(crate) announced_records: Counter,
    pub(crate) leases_live: Gauge,
    pub(crate) partial_records: Gauge,
    pub(crate) leases_expired: Counter,
    pub(crate) forgotten_records: Counter,
    pub(crate) peers: Gauge,
    pub(crate) resources: Gauge,
    pub(crate) records: Gauge,
    pub(crate) zone_members: Gauge,
    pub(crate) zone_slots: Gauge,
    pub(crate) zone_joins: Outcomes,
    pub(crate) zone_keepalives: Outcomes,
    pub(crate) connections: Counter,
    pub(crate) connections_open: Gauge,
    pub(crate) store: StoreMetrics,
}

fn lookup_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_005, 2.0, 18))
}

impl Metrics {
    /// All metrics, at zero.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
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
        let started_at = Gauge::<f64, AtomicU64>::default();
        started_at.set(started.unwrap_or_default().as_secs_f64());
        registry.register("start_time_seconds", "When it started", started_at);
        let store = StoreMetrics::default();
        register!(
            store.commits.clone(),
            "commits",
            "Group commits of the store"
        );
        register!(
            store.commit_records.clone(),
            "commit_records",
            "Records in a group commit"
        );
        register!(
            store.commit_seconds.clone(),
            "commit_seconds",
            "Duration of a group commit"
        );
        register!(
            store.queue_depth.clone(),
            "commit_queue_depth",
            "Changes that wait for a commit"
        );
        register!(
            store.failing.clone(),
            "store_failing",
            "1 while the store takes no changes"
        );
        let lookups = register!(
            Family::<LookupLabels, Counter>::default(),
            "lookups",
            "Lookups"
        );
        let lookup_seconds = register!(
            Family::<KindLabel, _, _>::new_with_constructor(lookup_histogram as fn() -> Histogram),
            "lookup_seconds",
            "Duration of lookups"
        );
        let metrics = Self {
            lookups: LOOKUPS.map(|kind| {
                let of = |outcome| lookups.get_or_create_owned(&LookupLabels { kind, outcome });
                Lookups {
                    found: of(Outcome::found),
                    none: of(Outcome::none),
                    error: of(Outcome::error),
                    seconds: lookup_seconds.get_or_create_owned(&KindLabel { kind }),
                }
            }),
            streams: register!(Family::default(), "streams_open", "Open streams"),
            registrations: register!(Family::default(), "registrations", "Register calls"),
            logins: register!(Family::default(), "logins", "Login calls"),
            deregistrations: register!(Family::default(), "deregistrations", "Deregister calls"),
            keepalives: register!(Family::default(), "keepalives", "Keep-alives"),
            announce_batches: register!(Family::default(), "announce_batches", "Announced batches"),
            announced_records: register!(
                Counter::default(),
                "announced_records",
                "Records in acknowledged batches"
            ),
            partial_records: register!(
                Gauge::default(),
                "partial_records",
                "Records of peers that hold some pieces only"
            ),
            leases_live: register!(Gauge::default(), "leases_live", "Peers with a lease"),
            leases_expired: register!(Counter::default(), "leases_expired", "Leases that ran out"),
            forgotten_records: register!(
                Counter::default(),
                "forgotten_records",
                "Records removed after their peer was gone for a day"
            ),
            peers: register!(Gauge::default(), "peers", "Peers in the store"),
            resources: register!(Gauge::default(), "resources", "Resources in the store"),
            records: register!(Gauge::default(), "records", "Records in the store"),
            zone_members: register!(Gauge::default(), "zone_members", "Slots that are taken"),
            zone_slots: register!(Gauge::default(), "zone_slots", "Slots of the network"),
            zone_joins: register!(Family::default(), "zone_joins", "Joins of zones"),
            zone_keepalives: register!(
                Family::default(),
                "zone_keepalives",
                "Keep-alives of slots"
            ),
            connections: register!(
                Counter::default(),
                "grpc_connections",
                "Accepted connections"
            ),
            connections_open: register!(
                Gauge::default(),
                "grpc_connections_open",
                "Open connections"
            ),
            store,
            registry,
        };
        metrics.begin_at_zero();
        metrics
    }

    fn begin_at_zero(&self) {
        for outcome in [Outcome::ok, Outcome::error] {
            for family in [
                &self.registrations,
                &self.logins,
                &self.deregistrations,
                &self.keepalives,
                &self.announce_batches,
                &self.zone_joins,
                &self.zone_keepalives,
            ] {
                drop(family.get_or_create(&OutcomeLabel { outcome }));
            }
        }
        use StreamKind::{announce, keepalive, locate};
        for kind in [keepalive, announce, locate] {
            drop(self.streams.get_or_create(&StreamLabel { kind }));
        }
    }

    /// Counts a lookup that took `took`.
    pub(crate) fn lookup(&self, kind: Lookup, outcome: Outcome, took: Duration) {
        let lookups = &self.lookups[kind as usize];
        match outcome {
            Outcome::ok | Outcome::found => lookups.found.inc(),
            Outcome::none => lookups.none.inc(),
            Outcome::error => lookups.error.inc(),
        };
        lookups.seconds.observe(took.as_secs_f64());
    }

    /// Counts a stream as open until the guard is dropped.
    pub(crate) fn stream(&self, kind: StreamKind) -> Open {
        Open::new(self.streams.get_or_create_owned(&StreamLabel { kind }))
    }

    /// The text form.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

/// Counts one into a family by outcome.
pub(crate) fn count<T, E>(family: &Outcomes, result: &Result<T, E>) {
    let outcome = if result.is_ok() {
        Outcome::ok
    } else {
        Outcome::error
    };
    family.get_or_create(&OutcomeLabel { outcome }).inc();
}

/// Keeps a gauge one higher while it lives.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Open {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Its rows: `| name{label,label} | type | meaning |`, under the heading of the locator.
    const DOCUMENTED: &str = include_str!("../../deploy/observability/METRICS.md");

    fn documented() -> BTreeSet<(String, String)> {
        let (_, section) = DOCUMENTED
            .split_once("## central-server\n")
            .expect("a heading");
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
        let text = Metrics::new().text();
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
