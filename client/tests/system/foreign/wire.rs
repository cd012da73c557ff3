//! The first system's gRPC by hand: messages, tags and path as the contract writes them, so that
//! a slip in our `.proto` file cannot slip in here as well.

use std::net::SocketAddr;

use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::cluster::wait;

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(string, tag = "2")]
    resource_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransactionResponse {
    #[prost(int32, tag = "1")]
    status_code: i32,
    #[prost(string, tag = "2")]
    response: String,
}

/// `getResource` at a locator: `status_code` and `Response`.
pub(super) async fn ask(locator: SocketAddr, name: &str) -> Result<(i32, String), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{locator}"));
    let channel: Channel = endpoint
        .map(|endpoint| endpoint.connect_lazy())
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut grpc = Grpc::new(channel);
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(Resource {
        resource_name: name.to_owned(),
    });
    let path = PathAndQuery::from_static("/ProductService/getResource");
    let codec: ProstCodec<Resource, TransactionResponse> = ProstCodec::default();
    let answer = grpc.unary(request, path, codec).await?.into_inner();
    Ok((answer.status_code, answer.response))
}

/// The same, for a test.
pub(crate) fn get_resource(locator: SocketAddr, name: &str) -> (i32, String) {
    wait(ask(locator, name)).unwrap()
}
