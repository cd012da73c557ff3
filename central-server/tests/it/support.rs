//! A locator under test and peers that talk to it.

use std::{future::Future, net::SocketAddr, time::Duration};

use central_server::{Config, Server, config::StoreUrl};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use vecino_grpc::v1::{self, directory_client::DirectoryClient, locate_request::By};
use vecino_rest::Digest;

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Client = DirectoryClient<Channel>;

/// A locator in this process.
pub(crate) struct Locator {
    pub(crate) server: Server,
}

impl Locator {
    pub(crate) async fn start() -> Self {
        Self::with(Config::ephemeral()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self {
            server: Server::bind(config).await.expect("the locator starts"),
        }
    }

    pub(crate) async fn client(&self) -> Client {
        connect(self.server.addr()).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.server.addr()).await
    }

    /// The body of a page for machines.
    pub(crate) async fn get(&self, path: &str) -> String {
        page(self.server.metrics_addr().expect("metrics are on"), path).await
    }

    /// A metric's value by its full name with labels; 0 when it does not show.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }
}

/// A page for machines, with its head.
pub(crate) async fn page(addr: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(addr).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads");
    answer
}

pub(crate) fn on_disk(path: &std::path::Path) -> Config {
    Config {
        store: StoreUrl::Redb(path.to_owned()),
        ..Config::ephemeral()
    }
}

pub(crate) async fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).expect("a URL");
    endpoint.connect().await.expect("connects")
}

pub(crate) async fn connect(addr: SocketAddr) -> Client {
    DirectoryClient::new(channel(addr).await)
}

/// Awaits until `check` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Fails when the answer takes too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

pub(crate) fn registration(number: u8) -> v1::RegisterRequest {
    v1::RegisterRequest {
        peer_key: vec![number; 32].into(),
        public_url: String::new(),
        port: 5000 + u32::from(number),
        site: String::new(),
        free_bytes: 1 << 30,
        ..Default::default()
    }
}

pub(crate) fn record(name: &str, content: &str) -> v1::Record {
    v1::Record {
        name: name.into(),
        digest: digest(content).into(),
        size: content.len() as u64,
        modified_ms: 1_700_000_000_000,
        partial: false,
    }
}

pub(crate) fn digest(content: &str) -> Vec<u8> {
    Digest::of(content.as_bytes()).as_bytes().to_vec()
}

pub(crate) fn by_name(name: &str) -> v1::LocateRequest {
    v1::LocateRequest {
        by: Some(By::Name(name.into())),
        ..Default::default()
    }
}

pub(crate) fn by_digest(content: &str) -> v1::LocateRequest {
    v1::LocateRequest {
        by: Some(By::Digest(digest(content).into())),
        ..Default::default()
    }
}

/// A registered peer.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) welcome: v1::RegisterResponse,
    pub(crate) announcing: Option<(
        mpsc::Sender<v1::AnnounceRequest>,
        Streaming<v1::AnnounceResponse>,
    )>,
}

impl Peer {
    pub(crate) async fn register(mut client: Client, request: v1::RegisterRequest) -> Self {
        let welcome = client
            .register(request)
            .await
            .expect("registers")
            .into_inner();
        Self {
            client,
            welcome,
            announcing: None,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.welcome.public_url
    }

    pub(crate) fn batch(
        &self,
        announce: Vec<v1::Record>,
        withdraw: Vec<v1::Record>,
    ) -> v1::AnnounceRequest {
        v1::AnnounceRequest {
            peer_id: self.welcome.peer_id.clone(),
            lease_token: self.welcome.lease_token.clone(),
            batch: 7,
            announce,
            withdraw,
            replace_bucket: None,
        }
    }

    pub(crate) async fn send(
        &mut self,
        batch: v1::AnnounceRequest,
    ) -> Result<v1::AnnounceResponse, Status> {
        self.send_within(batch, DEADLINE).await
    }

    pub(crate) async fn send_within(
        &mut self,
        batch: v1::AnnounceRequest,
        within: Duration,
    ) -> Result<v1::AnnounceResponse, Status> {
        if self.announcing.is_none() {
            let (sender, receiver) = mpsc::channel(8);
            let answers = self
                .client
                .announce(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            self.announcing = Some((sender, answers));
        }
        let (sender, answers) = self.announcing.as_mut().expect("opened above");
        sender.send(batch).await.expect("the stream is open");
        let answer = tokio::time::timeout(within, answers.message()).await;
        let answer = answer.expect("in time");
        if answer.is_err() {
            self.announcing = None;
        }
        Ok(answer?.expect("an answer a batch"))
    }

    pub(crate) async fn announce(&mut self, records: &[v1::Record]) -> u64 {
        let batch = self.batch(records.to_vec(), Vec::new());
        let answer = self.send(batch).await.expect("announces");
        assert_eq!(answer.batch, 7);
        answer.records
    }

    pub(crate) fn keep_alive(&self) -> v1::KeepAliveRequest {
        v1::KeepAliveRequest {
            peer_id: self.welcome.peer_id.clone(),
            lease_token: self.welcome.lease_token.clone(),
            free_bytes: 1 << 30,
            compare: false,
        }
    }

    pub(crate) async fn kept_alive(&mut self) -> Result<v1::KeepAliveResponse, Status> {
        let request = tokio_stream::once(self.keep_alive());
        let mut answers = self.client.keep_alive(request).await?.into_inner();
        Ok(soon(answers.message()).await?.expect("an answer"))
    }

    pub(crate) async fn deregister(&mut self) -> Result<(), Status> {
        let request = v1::DeregisterRequest {
            peer_id: self.welcome.peer_id.clone(),
            lease_token: self.welcome.lease_token.clone(),
        };
        self.client.deregister(request).await.map(|_| ())
    }
}

/// URLs of the providers of all variants, sorted.
pub(crate) async fn providers(client: &mut Client, request: v1::LocateRequest) -> Vec<String> {
    let located = client.locate(request).await.expect("locates").into_inner();
    let mut urls: Vec<_> = located
        .variants
        .into_iter()
        .flat_map(|variant| variant.providers)
        .map(|provider| provider.url)
        .collect();
    urls.sort();
    urls
}
