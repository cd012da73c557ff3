//! Lookups over gRPC, and a service of the same messages that looks nothing up.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use vecino_grpc::v1::{
    self, LocateRequest, LocateResponse, LocateStreamRequest, LocateStreamResponse,
    directory_client::DirectoryClient,
    directory_server::{Directory, DirectoryServer},
    locate_request::By,
    locate_stream_response::Outcome,
};

use super::records;
use crate::load::Asker;

/// Which names are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    /// A thousand of so many.
    Hot(u64),
    /// Any of so many.
    Any(u64),
}

impl Names {
    pub(crate) fn next(self) -> u64 {
        const HOT: u64 = 1000;
        match self {
            Self::Hot(records) if records > HOT => fastrand::u64(..HOT) * (records / HOT),
            Self::Hot(records) | Self::Any(records) => fastrand::u64(..records),
        }
    }

    fn request(self) -> LocateRequest {
        LocateRequest {
            by: Some(By::Name(records::name(self.next()))),
            ..Default::default()
        }
    }
}

async fn client(addr: SocketAddr) -> anyhow::Result<DirectoryClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
    Ok(DirectoryClient::new(endpoint.connect().await?))
}

/// All that is asked for is there.
fn check(response: &LocateResponse) -> anyhow::Result<()> {
    let is_found = matches!(&response.variants[..], [variant] if variant.providers.len() == 1);
    anyhow::ensure!(is_found, "not found: {response:?}");
    Ok(())
}

/// So many `Locate`s at once on one connection, then the next.
pub(crate) struct Unary {
    client: DirectoryClient<Channel>,
    names: Names,
    depth: u64,
}

impl Unary {
    pub(crate) async fn open(addr: SocketAddr, names: Names, depth: u64) -> anyhow::Result<Self> {
        let client = client(addr).await?;
        Ok(Self {
            client,
            names,
            depth,
        })
    }

    async fn locate(mut client: DirectoryClient<Channel>, names: Names) -> anyhow::Result<()> {
        let response = client.locate(names.request()).await?;
        check(response.get_ref())
    }
}

impl Asker for Unary {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        let once = || Self::locate(self.client.clone(), self.names);
        try_join_all((0..self.depth).map(|_| once())).await?;
        Ok(self.depth)
    }
}

/// So many lookups at once on one `LocateStream`, then the next.
pub(crate) struct Streamed {
    requests: mpsc::Sender<LocateStreamRequest>,
    responses: Streaming<LocateStreamResponse>,
    names: Names,
    depth: u64,
}

impl Streamed {
    pub(crate) async fn open(addr: SocketAddr, names: Names, depth: u64) -> anyhow::Result<Self> {
        let (requests, outbound) = mpsc::channel(usize::try_from(depth)?);
        let mut client = client(addr).await?;
        let responses = client.locate_stream(ReceiverStream::new(outbound)).await?;
        Ok(Self {
            requests,
            responses: responses.into_inner(),
            names,
            depth,
        })
    }
}

impl Asker for Streamed {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        for id in 0..self.depth {
            let request = Some(self.names.request());
            let request = LocateStreamRequest { id, request };
            self.requests.send(request).await?;
        }
        for _ in 0..self.depth {
            let response = self.responses.message().await?.context("it ended")?;
            match response.outcome {
                Some(Outcome::Response(response)) => check(&response)?,
                outcome => anyhow::bail!("{outcome:?}"),
            }
        }
        Ok(self.depth)
    }
}

/// The bytes of a located record.
pub(crate) fn response() -> LocateResponse {
    let record = records::record(0);
    let provider = v1::Provider {
        peer_id: vec![7; 16].into(),
        url: "http://127.1.10.10:80".to_owned(),
        ..Default::default()
    };
    LocateResponse {
        variants: vec![v1::Variant {
            name: record.name,
            digest: record.digest,
            size: record.size,
            modified_ms: record.modified_ms,
            provider_count: 1,
            providers: vec![provider],
        }],
    }
}

/// Answers every lookup with the same.
struct Echo(LocateResponse);

/// What an echo does not answer.
type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;
type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<LocateStreamResponse, Status>> + Send>>;

fn nothing<T>() -> Result<T, Status> {
    Err(Status::unimplemented("it only answers lookups"))
}

#[tonic::async_trait]
impl Directory for Echo {
    type KeepAliveStream = Nothing<v1::KeepAliveResponse>;
    type AnnounceStream = Nothing<v1::AnnounceResponse>;
    type LocateStreamStream = Answers;

    async fn locate(&self, _: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn locate_stream(
        &self,
        request: Request<Streaming<LocateStreamRequest>>,
    ) -> Result<Response<Self::LocateStreamStream>, Status> {
        let response = self.0.clone();
        let answers = request.into_inner().map(move |request| {
            Ok(LocateStreamResponse {
                id: request?.id,
                outcome: Some(Outcome::Response(response.clone())),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        nothing()
    }

    async fn keep_alive(
        &self,
        _: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        nothing()
    }

    async fn announce(
        &self,
        _: Request<Streaming<v1::AnnounceRequest>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        nothing()
    }

    async fn deregister(
        &self,
        _: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        nothing()
    }

    async fn search(
        &self,
        _: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        nothing()
    }

    async fn place(
        &self,
        _: Request<v1::PlaceRequest>,
    ) -> Result<Response<v1::PlaceResponse>, Status> {
        nothing()
    }
}

/// The program `echo-directory`: bare tonic as it comes, on one runtime of several threads.
#[tokio::main]
pub(crate) async fn echo() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        std::io::Result::Ok(stream)
    });
    Server::builder()
        .add_service(DirectoryServer::new(Echo(response())))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The program `echo-directory-cores`: the same on a runtime a core, which take connections in turn.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn echo_of_cores() -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let mut threads = Vec::new();
    for _ in 0..cores {
        let (dealt, connections) = mpsc::unbounded_channel::<std::net::TcpStream>();
        std::thread::spawn(|| echo_on_this_thread(connections));
        threads.push(dealt);
    }
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    for thread in threads.iter().cycle() {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        thread.send(stream.into_std()?)?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn echo_on_this_thread(
    connections: mpsc::UnboundedReceiver<std::net::TcpStream>,
) -> anyhow::Result<()> {
    let incoming = UnboundedReceiverStream::new(connections);
    let incoming = incoming.map(tokio::net::TcpStream::from_std);
    Server::builder()
        .add_service(DirectoryServer::new(Echo(response())))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
