//! Why a locator does not take this peer, and what its operator can do about it: for the log of
//! the peer, and for nobody else.

use tonic::{Code, Status, transport::Channel};
use vecino_grpc::product_service::{Resource, product_service_client::ProductServiceClient};

use super::ANSWER_WITHIN;
use crate::neighbour::examine::unheard_of;

/// A status with what it came of.
pub(super) fn reason(status: &Status) -> String {
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

/// What to do about it.
pub(super) fn mend(status: &Status) -> &'static str {
    // A status that came over the wire has no source.
    let is_local = std::error::Error::source(status).is_some();
    if is_local && reason(status).contains("h2 protocol error") {
        return "what answers there speaks no gRPC: URL_Request names the locator's host and port";
    }
    if is_local || status.code() == Code::DeadlineExceeded {
        return "is the locator running there, and its port open? URL_Request names it";
    }
    "its log may say more"
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
