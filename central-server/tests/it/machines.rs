//! What machines read: health, reflection, metrics; and how the server ends.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio_stream::StreamExt as _;
use tonic::{
    Status, Streaming,
    body::Body,
    codegen::{Service as _, http},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use vecino_grpc::v1::{self, directory_client::DirectoryClient};

use crate::support::*;

#[tokio::test]
async fn health_is_serving_for_the_server_and_each_service() {
    let locator = Locator::start().await;
    let mut health = HealthClient::new(locator.channel().await);
    for service in ["", "vecino.v1.Directory", "ProductService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.expect(service).into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let request = HealthCheckRequest {
        service: "nonsense".into(),
    };
    assert!(health.check(request).await.is_err());
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let locator = Locator::start().await;
    let mut reflection = ServerReflectionClient::new(locator.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answers
        .expect("opens")
        .into_inner()
        .next()
        .await
        .expect("one")
        .expect("answered");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("a list")
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for expected in [
        "vecino.v1.Directory",
        "ProductService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&expected), "{expected} in {names:?}");
    }
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let locator = Locator::start().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.announce(&[record("secret-name.txt", "one")]).await;
    peer.kept_alive().await.expect("is kept");
    let mut client = locator.client().await;
    providers(&mut client, by_name("secret-name.txt")).await;
    providers(&mut client, by_name("nothing")).await;
    client.locate(by_name("..")).await.expect_err("refused");
    for (metric, value) in [
        (
            "vecino_lookups_total{kind=\"unary\",outcome=\"found\"}",
            1.0,
        ),
        ("vecino_lookups_total{kind=\"unary\",outcome=\"none\"}", 1.0),
        (
            "vecino_lookups_total{kind=\"unary\",outcome=\"error\"}",
            1.0,
        ),
        ("vecino_lookup_seconds_count{kind=\"unary\"}", 3.0),
        ("vecino_registrations_total{outcome=\"ok\"}", 1.0),
        ("vecino_keepalives_total{outcome=\"ok\"}", 1.0),
        ("vecino_announce_batches_total{outcome=\"ok\"}", 1.0),
        ("vecino_announced_records_total", 1.0),
        ("vecino_leases_live", 1.0),
        ("vecino_records", 1.0),
        ("vecino_resources", 1.0),
        ("vecino_grpc_connections_total", 2.0),
        ("vecino_grpc_connections_open", 2.0),
        ("vecino_commit_queue_depth", 0.0),
    ] {
        assert_eq!(locator.metric(metric).await, value, "{metric}");
    }
    let text = locator.get("/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(!text.contains("secret-name"));
    assert!(locator.get("/healthz").await.ends_with("ok\n"));
    assert!(locator.get("/readyz").await.contains(r#""ready":true"#));
    assert!(locator.get("/other").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_thousand_lookups_open_no_further_connection() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    for _ in 0..1_000 {
        providers(&mut client, by_name("a")).await;
    }
    assert_eq!(locator.metric("vecino_grpc_connections_total").await, 1.0);
}

#[tokio::test]
async fn a_shutdown_ends_open_streams_and_does_not_wait_for_their_peers() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let silent = tokio_stream::pending::<v1::KeepAliveRequest>();
    let mut answers = client.keep_alive(silent).await.expect("opens").into_inner();
    let began = std::time::Instant::now();
    locator.server.shutdown().await.expect("shuts down");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "no need for the bound"
    );
    assert!(
        soon(answers.message())
            .await
            .expect("an orderly end")
            .is_none()
    );
    assert!(client.locate(by_name("a")).await.is_err(), "nobody there");
}

/// More than there are threads, so that each has some.
fn connections() -> usize {
    2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Streams over connections of their own, so many that each thread has some.
async fn open_streams(locator: &Locator) -> Vec<Streaming<v1::KeepAliveResponse>> {
    let mut streams = Vec::new();
    for _ in 0..connections() {
        let silent = tokio_stream::pending::<v1::KeepAliveRequest>();
        let opened = locator.client().await.keep_alive(silent).await;
        streams.push(opened.expect("opens").into_inner());
    }
    streams
}

#[tokio::test]
async fn a_shutdown_ends_the_streams_of_every_thread() {
    let locator = Locator::start().await;
    let streams = open_streams(&locator).await;
    let began = std::time::Instant::now();
    locator.server.shutdown().await.expect("shuts down");
    assert!(began.elapsed() < Duration::from_secs(4), "no call is cut");
    for mut stream in streams {
        let ended = soon(stream.message()).await.expect("an orderly end");
        assert!(ended.is_none());
    }
}

#[tokio::test]
async fn a_locator_that_is_dropped_ends_the_streams_of_every_thread() {
    let locator = Locator::start().await;
    let streams = open_streams(&locator).await;
    drop(locator);
    for mut stream in streams {
        let ended = soon(stream.message()).await.expect("an orderly end");
        assert!(ended.is_none());
    }
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_when_the_locator_shuts_down() {
    let locator = Locator::start().await;
    let mut channel = locator.channel().await;
    let never = tokio_stream::pending::<Result<Frame<Bytes>, Status>>();
    let request = http::Request::post("http://locator/vecino.v1.Directory/Locate")
        .header("content-type", "application/grpc")
        .body(Body::new(StreamBody::new(never)))
        .expect("a request");
    poll_fn(|context| channel.poll_ready(context))
        .await
        .expect("ready");
    let call = tokio::spawn(channel.call(request));
    // What is asked after it on the same connection is answered: it has arrived.
    let mut client = DirectoryClient::new(channel);
    assert!(providers(&mut client, by_name("a")).await.is_empty());
    let began = std::time::Instant::now();
    locator.server.shutdown().await.expect("shuts down");
    let took = began.elapsed().as_secs();
    assert!((4..8).contains(&took), "{took} s: it has 5");
    let answer = soon(call).await.expect("no panic");
    assert!(answer.is_err(), "{answer:?}");
}
