//! [`Stage`]: a locator and the directory in which all peers of a test live.

use std::{net::SocketAddr, time::Duration};

use central_server::{Config, Server, config::Listen};
use tempfile::TempDir;
use tokio_stream::StreamExt;
use vecino_grpc::v1::{self, directory_client::DirectoryClient};
use vecino_rest::{PeerId, route};

use super::{content::Content, http::Request, peer::Plan, provider::Provider, soon};

/// See the module.
pub(crate) struct Stage {
    locator: Option<Server>,
    pub(crate) locator_addr: SocketAddr,
    config: Config,
    dir: TempDir,
}

/// Long enough that a fixture need not keep its lease alive.
const LONG_LEASE: Duration = Duration::from_secs(600);

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::with_lease(LONG_LEASE).await
    }

    pub(crate) async fn with_lease(lease: Duration) -> Self {
        Self::with(Config {
            lease,
            ..Config::ephemeral()
        })
        .await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let locator = Server::bind(config.clone()).await.expect("it starts");
        Self {
            locator_addr: locator.addr(),
            config: Config {
                host: Listen::from(locator.addr()),
                ..config
            },
            locator: Some(locator),
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// A peer with the locator, and with itself as nobody's neighbour yet.
    pub(crate) fn peer(&self, label: &str) -> Plan {
        Plan::new(self.dir.path().join(label)).set("URL_Request", self.locator_addr)
    }

    /// The directory in which all peers live.
    pub(crate) fn home(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn stop_locator(&mut self) {
        let locator = self.locator.take().expect("it runs");
        soon(locator.shutdown()).await.expect("ends");
    }

    /// Where it was before; what it knew is gone.
    pub(crate) async fn start_locator(&mut self) {
        let locator = Server::bind(self.config.clone()).await;
        self.locator = Some(locator.expect("it starts"));
    }

    /// Where the locator answers machines.
    pub(crate) fn metrics_addr(&self) -> SocketAddr {
        let locator = self.locator.as_ref().expect("it runs");
        locator.metrics_addr().expect("metrics are on")
    }

    /// A metric of the locator by its full name with labels; 0 when it does not show.
    pub(crate) async fn locator_metric(&self, name: &str) -> u64 {
        let request = Request::get(route::METRICS);
        let text = request.send(self.metrics_addr()).await.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// Makes it known that whoever is at `url` holds `records` (name, content).
    pub(crate) async fn announce(&self, url: &str, records: &[(&str, &Content)]) -> PeerId {
        let records = records
            .iter()
            .map(|(name, content)| record(name, content, content.len()));
        self.announce_records(url, records.collect()).await
    }

    pub(crate) async fn announce_provider(&self, name: &str, provider: &Provider) -> PeerId {
        self.announce(&provider.fixture.url(), &[(name, &provider.content)])
            .await
    }

    pub(crate) async fn announce_records(&self, url: &str, records: Vec<v1::Record>) -> PeerId {
        let mut client = DirectoryClient::connect(format!("http://{}", self.locator_addr))
            .await
            .expect("connects");
        let key: [u8; 32] = rand::random();
        let registration = v1::RegisterRequest {
            peer_key: key.to_vec().into(),
            public_url: url.to_owned(),
            ..Default::default()
        };
        let registered = client.register(registration).await.expect("registers");
        let registered = registered.into_inner();
        // Those in part are counted apart.
        let count = records.iter().filter(|one| !one.partial).count() as u64;
        let batch = v1::AnnounceRequest {
            peer_id: registered.peer_id.clone(),
            lease_token: registered.lease_token.clone(),
            batch: 1,
            announce: records,
            ..Default::default()
        };
        // The stream stays open until the answer is here.
        let batches = tokio_stream::once(batch).chain(tokio_stream::pending());
        let answers = client.announce(batches).await.expect("announces");
        let answer = soon(answers.into_inner().message()).await;
        let answer = answer.expect("acknowledged").expect("an answer");
        assert_eq!(answer.records, count);
        PeerId::from_slice(&registered.peer_id).expect("an id")
    }
}

/// `content` under `name`, with a size that may be a lie.
pub(crate) fn record(name: &str, content: &Content, size: u64) -> v1::Record {
    v1::Record {
        name: name.to_owned(),
        digest: content.digest.as_bytes().to_vec().into(),
        size,
        modified_ms: 1_700_000_000_000,
        partial: false,
    }
}
