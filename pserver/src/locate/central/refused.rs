//! Why a locator does not take this peer, and what its operator can do about it: for the log of
//! the peer, and for nobody else.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::product_service::{Resource, product_service_client::ProductServiceClient};
use vecino_rest::PeerUrl;

use super::ANSWER_WITHIN;
use crate::neighbour::examine::unheard_of;

/// What begins a connection of HTTP/2: the preface and settings without any.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Bytes of a frame's head, and which of them says what it is.
const HEAD: usize = 9;
const TYPE: usize = 3;
/// The type of settings, which are what a server says first.
const SETTINGS: u8 = 4;

/// A status, and what to do about it.
pub(super) async fn complaint(status: &Status, locator: &PeerUrl) -> String {
    // A status that came over the wire has no source.
    let is_local = std::error::Error::source(status).is_some();
    let found = match is_local || status.code() == Code::DeadlineExceeded {
        true => timeout(ANSWER_WITHIN, speaks_http2(&locator.authority())).await,
        false => Ok(Ok(true)),
    };
    match found {
        Ok(Ok(true)) => format!("{}; its log may say more", reason(status)),
        Ok(Ok(false)) => "what answers there speaks no gRPC: URL_Request names the locator's host \
                          and port"
            .to_owned(),
        Ok(Err(error)) => format!("{error}; {IS_IT_THERE}"),
        Err(_) => format!("{}; {IS_IT_THERE}", reason(status)),
    }
}

const IS_IT_THERE: &str = "is the locator running there, and its port open? URL_Request names it";

/// Whether who listens at `address` speaks HTTP/2; an error when nobody does.
async fn speaks_http2(address: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let mut head = [0; HEAD];
    let spoken = async {
        stream.write_all(HELLO).await?;
        stream.read_exact(&mut head).await
    };
    Ok(spoken.await.is_ok() && head[TYPE] == SETTINGS)
}

/// A status with what it came of.
fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = error.source();
    }
    reason
}

/// Whether what knows no registration knows at least the first system's contract. Nobody's
/// question is asked: the name is one that nobody has.
pub(super) async fn is_first_system(channel: &Channel) -> bool {
    let mut client = ProductServiceClient::new(channel.clone());
    let question = client.get_resource(Resource {
        resource_name: unheard_of().to_string(),
    });
    let answer = tokio::time::timeout(ANSWER_WITHIN, question).await;
    !matches!(answer, Ok(Err(status)) if status.code() == Code::Unimplemented)
}
