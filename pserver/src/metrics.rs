//! What `/metrics` shows (OpenMetrics text). Names, in the order of the fields:
//! `vecino_files_hashed_total`, `vecino_bytes_hashed_total`, `vecino_files_recognised_total`
//! (unchanged since they were hashed before a restart), `vecino_http_connections_total` (accepted),
//! `vecino_lookups_total{outcome}` (for other peers), `vecino_strategy_lookups_total` (those that
//! no cache answered), `vecino_neighbour_requests_total{outcome}`, `vecino_pieces_verified_total`,
//! `vecino_received_bytes_total`, `vecino_sent_bytes_total`, `vecino_verification_failures_total{provider}`,
//! `vecino_provider_switches_total`, `vecino_zone_lookups_total`, `vecino_zone_contacts_total` (members
//! asked for them), `vecino_zone_asked_total` (answered for others), `vecino_cache_evictions_total`
//! (files that `CACHE_LIMIT` took out of `DOWNLOAD_DIR`), `vecino_cache_bytes` (in it now),
//! `vecino_downloads`, `vecino_uploads` (running now).

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

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

/// The counters; see the module for their names.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Files read and hashed.
    pub files_hashed: Counter,
    /// Bytes of them.
    pub bytes_hashed: Counter,
    /// Files known from before a restart.
    pub files_recognised: Counter,
    /// HTTP connections accepted.
    pub http_connections: Counter,
    /// Lookups for other peers.
    pub lookups: Family<Lookup, Counter>,
    /// Lookups that no cache answered.
    pub strategy_lookups: Counter,
    /// Requests to neighbours.
    pub neighbour_requests: Family<Lookup, Counter>,
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
    pub cache_bytes: Gauge<i64, AtomicI64>,
    /// Downloads running.
    pub downloads: Gauge<i64, AtomicI64>,
    /// Contents being sent.
    pub uploads: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("vecino");
        let mut counter =
            |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("files_hashed", "Files read and hashed", &self.files_hashed);
        counter(
            "bytes_hashed",
            "Bytes of files read and hashed",
            &self.bytes_hashed,
        );
        counter(
            "files_recognised",
            "Files known from before a restart",
            &self.files_recognised,
        );
        counter(
            "http_connections",
            "HTTP connections accepted",
            &self.http_connections,
        );
        counter(
            "strategy_lookups",
            "Lookups that no cache answered",
            &self.strategy_lookups,
        );
        counter("pieces_verified", "Pieces verified", &self.pieces_verified);
        counter(
            "received_bytes",
            "Content bytes received and verified",
            &self.bytes_received,
        );
        counter("sent_bytes", "Content bytes sent", &self.bytes_sent);
        counter(
            "provider_switches",
            "Providers left for the next one",
            &self.provider_switches,
        );
        counter("zone_lookups", "Lookups in zones", &self.zone_lookups);
        counter(
            "zone_contacts",
            "Members of zones that were asked",
            &self.zone_contacts,
        );
        counter("zone_asked", "Questions of other members", &self.zone_asked);
        counter(
            "cache_evictions",
            "Files deleted because the cache was full",
            &self.cache_evictions,
        );
        registry.register(
            "verification_failures",
            "Pieces that were not what they should be",
            self.verification_failures.clone(),
        );
        registry.register(
            "cache_bytes",
            "Bytes of fetched files",
            self.cache_bytes.clone(),
        );
        registry.register("lookups", "Lookups for other peers", self.lookups.clone());
        registry.register(
            "neighbour_requests",
            "Requests to neighbours",
            self.neighbour_requests.clone(),
        );
        registry.register("downloads", "Downloads running", self.downloads.clone());
        registry.register("uploads", "Contents being sent", self.uploads.clone());
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
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
            Provider {
                provider: "other".to_owned(),
            }
        };
        self.verification_failures.get_or_create(&counted).inc();
    }

    /// Counts a gauge up until the guard is dropped.
    pub fn running(gauge: &Gauge<i64, AtomicI64>) -> Running {
        gauge.inc();
        Running(gauge.clone())
    }
}

/// See [`Metrics::running`].
#[derive(Debug)]
pub struct Running(Gauge<i64, AtomicI64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
