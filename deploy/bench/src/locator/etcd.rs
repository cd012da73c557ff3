//! etcd: a member on its own, asked for one key over gRPC, as `Locate` is.
//!
//! The messages are those of etcd's `rpc.proto` and `kv.proto` (3.4), with the fields that are needed
//! here; what else it answers is skipped.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use prost::Message;
use tokio::task::JoinSet;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{Place, grpc::Names, records};
use crate::{load::Asker, process::Process};

/// More keys take it too long, as each transaction is synced. Fewer only favour it.
const MAX_KEYS: u64 = 100_000;
/// Puts of one transaction: as many as it takes.
const PUTS: u64 = 128;
/// Transactions on their way while it is filled.
const TRANSACTIONS: u64 = 32;
/// Bytes that it may keep: the most that it is made for.
const QUOTA: u64 = 8 << 30;

/// `etcdserverpb.RangeRequest`
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    /// Answered from what the member has, without asking the others whether that is the latest.
    #[prost(bool, tag = "7")]
    serializable: bool,
}

/// `etcdserverpb.RangeResponse`
#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// `mvccpb.KeyValue`
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.RequestOp`, of which a put is one kind.
#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    request_put: Option<PutRequest>,
}

/// `etcdserverpb.TxnRequest`
#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

/// `etcdserverpb.TxnResponse`
#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

/// The service `etcdserverpb.KV`.
#[derive(Clone)]
struct Kv(Grpc<Channel>);

impl Kv {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
        Ok(Self(Grpc::new(endpoint.connect().await?)))
    }

    async fn call<Q, R>(&mut self, path: &'static str, request: Q) -> anyhow::Result<R>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        self.0.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, R>::default();
        Ok(self
            .0
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner())
    }

    /// Puts all of `records`, and awaits that they are durable.
    async fn put(
        &mut self,
        records: impl Iterator<Item = (String, Vec<u8>)>,
    ) -> anyhow::Result<()> {
        let put = |(key, value): (String, Vec<u8>)| RequestOp {
            request_put: Some(PutRequest {
                key: key.into_bytes(),
                value,
            }),
        };
        let request = TxnRequest {
            success: records.map(put).collect(),
        };
        let response: TxnResponse = self.call("/etcdserverpb.KV/Txn", request).await?;
        anyhow::ensure!(response.succeeded, "a transaction failed");
        Ok(())
    }
}

/// One `Range` of one key after another.
pub(crate) struct Ranges {
    kv: Kv,
    names: Names,
    value_bytes: usize,
}

impl Ranges {
    pub(crate) async fn open(
        addr: SocketAddr,
        names: Names,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        let kv = Kv::open(addr).await?;
        Ok(Self {
            kv,
            names,
            value_bytes,
        })
    }
}

impl Asker for Ranges {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        let request = RangeRequest {
            key: records::name(self.names.next()).into_bytes(),
            serializable: true,
        };
        let response: RangeResponse = self.kv.call("/etcdserverpb.KV/Range", request).await?;
        let is_found =
            matches!(&response.kvs[..], [found] if found.value.len() == self.value_bytes);
        anyhow::ensure!(is_found, "not found: {response:?}");
        Ok(1)
    }
}

/// A member that has a value of `value_bytes` under the name of each of `total` records, at most
/// [`MAX_KEYS`]; how many.
pub(crate) async fn filled(
    place: &Place,
    total: u64,
    value_bytes: usize,
) -> anyhow::Result<(Process, u64, tempfile::TempDir)> {
    let total = total.min(MAX_KEYS);
    let directory = place.directory()?;
    let process = start(directory.path()).await?;
    let value = Arc::new(vec![b'x'; value_bytes]);
    let kv = Kv::open(process.addr).await.context("etcd")?;
    let mut filling = JoinSet::new();
    for first in 0..TRANSACTIONS {
        let (mut kv, value) = (kv.clone(), value.clone());
        filling.spawn(async move {
            let mut next = first * PUTS;
            while next < total {
                let numbers = next..(next + PUTS).min(total);
                kv.put(numbers.map(|number| (records::name(number), value.to_vec())))
                    .await?;
                next += TRANSACTIONS * PUTS;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = filling.join_next().await {
        done?.context("etcd")?;
    }
    Ok((process, total, directory))
}

async fn start(directory: &std::path::Path) -> anyhow::Result<Process> {
    Process::start_foreign("etcd", directory, |port| {
        let client = format!("http://127.0.0.1:{port}");
        // Nobody comes to a member on its own: it takes any port, and tells of one that is none.
        let (peers, told) = ("http://127.0.0.1:0", "http://127.0.0.1:1");
        let settings = [
            // A port that was taken left a member with another address there.
            ("data-dir", format!("member-{port}")),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peers.to_owned()),
            ("initial-advertise-peer-urls", told.to_owned()),
            ("initial-cluster", format!("default={told}")),
            ("quota-backend-bytes", QUOTA.to_string()),
            ("log-level", "error".to_owned()),
        ];
        let arguments = settings.into_iter();
        arguments
            .flat_map(|(name, value)| [format!("--{name}"), value])
            .collect()
    })
    .await
}
