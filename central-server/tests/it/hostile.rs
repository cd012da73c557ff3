//! Input that breaks the contract: the right status, bounded cost, and the server goes on.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use vecino_grpc::v1;

use crate::support::*;

async fn refusal(peer: &mut Peer, batch: v1::AnnounceRequest) -> (Code, String) {
    let status = peer.send(batch).await.expect_err("refused");
    assert!(status.message().len() < 600, "short: {}", status.message());
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn bad_records_refuse_their_whole_batch_by_name() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let good = record("good", "one");
    for bad in [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        ".",
        "a\\b",
        "a\0b",
        "a\r\nb",
        "a\u{202e}b",
        "a\u{7f}",
    ] {
        let batch = peer.batch(vec![good.clone(), record(bad, "x")], Vec::new());
        let (code, message) = refusal(&mut peer, batch).await;
        assert_eq!(code, Code::InvalidArgument, "{bad:?}");
        assert!(message.contains("announce.name"), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
        let located = client.locate(by_name(bad)).await.expect_err("refused");
        assert_eq!(located.code(), Code::InvalidArgument, "{bad:?}");
    }
    let long = record(&"a".repeat(100_000), "x");
    let batch = peer.batch(vec![good.clone(), long], Vec::new());
    assert_eq!(refusal(&mut peer, batch).await.0, Code::InvalidArgument);
    let short = v1::Record {
        digest: vec![0; 31].into(),
        ..good.clone()
    };
    let batch = peer.batch(vec![good.clone(), short], Vec::new());
    let (code, message) = refusal(&mut peer, batch).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        message.contains("31") && message.contains("32"),
        "{message}"
    );
    assert!(
        providers(&mut client, by_name("good")).await.is_empty(),
        "all or nothing"
    );
    assert_eq!(peer.announce(&[good]).await, 1, "the peer goes on");
}

#[tokio::test]
async fn huge_batches_are_refused() {
    let locator = Locator::start().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let records =
        |count: usize| -> Vec<_> { (0..count).map(|n| record(&n.to_string(), "x")).collect() };
    let batch = peer.batch(records(4_097), Vec::new());
    let (code, message) = refusal(&mut peer, batch).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        message.contains("4097") && message.contains("4096"),
        "{message}"
    );
    // A million names do not fit into a message.
    let batch = peer.batch(records(1_000_000), Vec::new());
    assert_eq!(refusal(&mut peer, batch).await.0, Code::OutOfRange);

    let of_bucket = |count| {
        let digest = digest("x");
        (u32::from(digest[0]), records(count))
    };
    for (bucket, announce, withdraw, named) in [
        (of_bucket(0).0, records(16_385), Vec::new(), "16384"),
        (of_bucket(0).0, Vec::new(), records(1), "withdraw"),
        (of_bucket(0).0 ^ 1, records(1), Vec::new(), "bucket"),
        (256, Vec::new(), Vec::new(), "256"),
    ] {
        let batch = v1::AnnounceRequest {
            replace_bucket: Some(bucket),
            ..peer.batch(announce, withdraw)
        };
        let (code, message) = refusal(&mut peer, batch).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.contains(named), "{named}: {message}");
    }
    assert_eq!(
        peer.announce(&records(4_096)).await,
        4_096,
        "the greatest batch is taken"
    );
}

#[tokio::test]
async fn wrong_registrations_name_the_field() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let good = registration(1);
    for (request, named) in [
        (
            v1::RegisterRequest {
                peer_key: vec![1; 31].into(),
                ..good.clone()
            },
            "peer_key",
        ),
        (
            v1::RegisterRequest {
                port: 0,
                ..good.clone()
            },
            "port",
        ),
        (
            v1::RegisterRequest {
                port: 65_536,
                ..good.clone()
            },
            "65536",
        ),
        (
            v1::RegisterRequest {
                site: "x".repeat(65),
                ..good.clone()
            },
            "site",
        ),
        (
            v1::RegisterRequest {
                site: "a\nb".into(),
                ..good.clone()
            },
            "site",
        ),
        (
            v1::RegisterRequest {
                public_url: "http://169.254.169.254:80".into(),
                ..good.clone()
            },
            "link-local",
        ),
        (
            v1::RegisterRequest {
                public_url: "http://a:80/path".into(),
                ..good.clone()
            },
            "a:80/path",
        ),
        (
            v1::RegisterRequest {
                public_url: "x".repeat(60_000),
                ..good.clone()
            },
            "public_url",
        ),
    ] {
        let refused = client.register(request).await.expect_err(named);
        assert_eq!(refused.code(), Code::InvalidArgument, "{named}");
        assert!(
            refused.message().contains(named),
            "{named}: {}",
            refused.message()
        );
        assert!(refused.message().len() < 600, "short");
    }
    client.register(good).await.expect("the server goes on");
}

#[tokio::test]
async fn wrong_counts_and_ids_are_refused() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let asked = v1::LocateRequest {
        max_providers: 65,
        ..by_name("a")
    };
    assert_eq!(
        client.locate(asked).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    for request in [
        v1::PlaceRequest {
            count: 0,
            ..Default::default()
        },
        v1::PlaceRequest {
            count: u32::MAX,
            ..Default::default()
        },
        v1::PlaceRequest {
            count: 1,
            exclude: vec![vec![1].into()],
            ..Default::default()
        },
        v1::PlaceRequest {
            count: 1,
            exclude: vec![vec![1; 16].into(); 1_025],
            ..Default::default()
        },
        v1::PlaceRequest {
            count: 1,
            site: "x".repeat(65),
            ..Default::default()
        },
    ] {
        assert_eq!(
            client.place(request).await.expect_err("refused").code(),
            Code::InvalidArgument
        );
    }
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.welcome.lease_token = vec![0; 15].into();
    assert_eq!(
        peer.kept_alive().await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    peer.welcome.lease_token = vec![0; 16].into();
    assert_eq!(
        peer.kept_alive().await.expect_err("refused").code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn what_is_no_grpc_is_cut_off_and_the_server_goes_on() {
    let locator = Locator::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = TcpStream::connect(locator.server.addr())
            .await
            .expect("connects");
        // The server may have hung up already.
        let _ = socket.write_all(garbage).await;
        let mut answer = Vec::new();
        let _ = soon(socket.read_to_end(&mut answer)).await;
    }
    let mut client = locator.client().await;
    assert!(providers(&mut client, by_name("a")).await.is_empty());
}

#[tokio::test]
async fn streams_of_one_connection_are_bounded() {
    let locator = Locator::start().await;
    let channel = locator.channel().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut client = Client::new(channel.clone());
        let (sender, receiver) = mpsc::channel::<v1::LocateStreamRequest>(1);
        let silent = ReceiverStream::new(receiver);
        open.push((
            sender,
            soon(client.locate_stream(silent)).await.expect("opens"),
        ));
    }
    assert_eq!(
        locator.metric("vecino_streams_open{kind=\"locate\"}").await,
        32.0
    );
    let mut one_more = Client::new(channel);
    let refused = one_more.locate(by_name("a"));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), refused).await;
    assert!(waited.is_err(), "it waits for a stream to end");
    let mut other = locator.client().await;
    assert!(
        providers(&mut other, by_name("a")).await.is_empty(),
        "others are unharmed"
    );
    drop(open);
    eventually("ended streams are counted out", || async {
        locator.metric("vecino_streams_open{kind=\"locate\"}").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn only_announced_batches_may_be_great() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let long = "x".repeat(70_000);
    let refused = client.locate(by_name(&long)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let lookup = v1::LocateStreamRequest {
        id: 1,
        request: Some(by_name(&long)),
    };
    let lookups = client.locate_stream(tokio_stream::once(lookup)).await;
    let answer = lookups.expect("opens").into_inner().message().await;
    assert_eq!(answer.expect_err("refused").code(), Code::OutOfRange);
    let request = v1::RegisterRequest {
        public_url: long.clone(),
        ..registration(1)
    };
    let refused = client.register(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange);
    let mut health = tonic_health::pb::health_client::HealthClient::new(locator.channel().await);
    let request = tonic_health::pb::HealthCheckRequest { service: long };
    let refused = health.check(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange);
    let mut peer = Peer::register(client, registration(1)).await;
    let names = (0..4_000).map(|n| record(&format!("{n}/{}", "x".repeat(200)), "x"));
    assert_eq!(peer.announce(&names.collect::<Vec<_>>()).await, 4_000);
}

#[tokio::test]
async fn a_connection_has_few_places_for_announcing() {
    let locator = Locator::start().await;
    let channel = locator.channel().await;
    let mut peer = Peer::register(Client::new(channel.clone()), registration(1)).await;
    let open = || {
        let mut client = Client::new(channel.clone());
        async move {
            let (sender, receiver) = mpsc::channel(1);
            let opened = client.announce(ReceiverStream::new(receiver)).await;
            opened.map(|answers| (sender, answers))
        }
    };
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(soon(open()).await.expect("opens"));
    }
    let refused = soon(open()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains('4'), "{refused:?}");
    let mut other = Peer::register(locator.client().await, registration(2)).await;
    other.announce(&[record("a", "one")]).await;
    streams.pop();
    eventually("an ended stream makes room", || async {
        match open().await {
            Ok(stream) => {
                drop(stream);
                true
            }
            Err(_) => false,
        }
    })
    .await;
    streams.clear();
    eventually("all have ended", || async {
        locator
            .metric("vecino_streams_open{kind=\"announce\"}")
            .await
            == 1.0
    })
    .await;
    peer.announce(&[record("b", "two")]).await;
}

#[tokio::test]
async fn a_keep_alive_stream_without_keep_alives_ends_with_its_lease() {
    let locator = Locator::with(central_server::Config {
        lease: std::time::Duration::from_secs(1),
        ..central_server::Config::ephemeral()
    })
    .await;
    let mut client = locator.client().await;
    let silent = tokio_stream::pending::<v1::KeepAliveRequest>();
    let mut answers = client.keep_alive(silent).await.expect("opens").into_inner();
    let ended = soon(answers.message()).await.expect("an orderly end");
    assert!(ended.is_none());
}
