//! Several contents under one name, and providers that a client names.

use vecino_rest::{Kind, body::Located, route};

use crate::support::{
    content::{Content, PIECE},
    http::Request,
    peer::path_of,
    provider::Provider,
    stage::Stage,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_name_is_never_guessed() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let (one, two) = (
        Content::new("one", PIECE + 1),
        Content::new("two", PIECE + 2),
    );
    let (first, second) = (Provider::honest(&one).await, Provider::honest(&two).await);
    let first_id = stage.announce_provider("v.bin", &first).await;
    stage.announce_provider("v.bin", &second).await;
    let path = path_of("v.bin");

    for method in ["GET", "HEAD"] {
        let response = own.send(&Request::new(method, &path)).await;
        assert_eq!(response.status, 300, "{method}");
    }
    let problem = own.get(&path).await.problem();
    assert_eq!(problem.kind(), Some(Kind::Ambiguous));
    let mut digests: Vec<_> = problem.variants.iter().filter_map(|v| v.digest).collect();
    let mut expected = vec![one.digest, two.digest];
    digests.sort();
    expected.sort();
    assert_eq!(digests, expected);
    assert!(
        problem
            .variants
            .iter()
            .all(|variant| !variant.providers.is_empty())
    );
    let located: Located = own
        .get(route::locate(&"v.bin".parse().unwrap()))
        .await
        .json();
    assert_eq!(located.variants.len(), 2);
    assert_eq!(
        first.fixture.seen().len() + second.fixture.seen().len(),
        0,
        "it guessed"
    );

    // Chosen by digest, by the provider's id and by its URL.
    let by_digest = own.get(format!("{path}?digest={}", two.digest)).await;
    assert!(by_digest.status == 200 && *by_digest.body == *two.bytes);
    for from in [first_id.to_string(), first.fixture.url()] {
        let response = own.get(format!("{path}?from={from}")).await;
        assert_eq!(response.status, 200, "{from}: {}", response.text());
        assert!(*response.body == *one.bytes, "{from}");
        assert_eq!(response.header("etag"), Some(&*one.tag()));
    }
    let neither = own.get(format!("{path}?digest={}", "0".repeat(64))).await;
    assert_eq!((neither.status, neither.kind()), (404, Kind::NotFound));
    let contradiction = own
        .get(format!(
            "{path}?digest={}&from={first_id}",
            Content::of(*b"x").digest
        ))
        .await;
    assert_eq!(
        (contradiction.status, contradiction.kind()),
        (404, Kind::NotFound)
    );
    let unknown = own.get(format!("{path}?from={}", "0".repeat(32))).await;
    assert_eq!((unknown.status, unknown.kind()), (404, Kind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_answered_from_here_unless_another_is_asked_for() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let (mine, theirs) = (Content::new("mine", 1000), Content::new("theirs", 2000));
    own.shares("m.bin", &mine).await;
    let provider = Provider::honest(&theirs).await;
    let id = stage.announce_provider("m.bin", &provider).await;
    own.downloads("m.bin", &mine).await;
    assert_eq!(
        own.download("m.bin").await.header("vecino-source"),
        Some("local")
    );
    let path = path_of("m.bin");
    let other = own.get(format!("{path}?digest={}", theirs.digest)).await;
    assert!(other.status == 200 && *other.body == *theirs.bytes);
    assert_eq!(
        other.header("vecino-source"),
        Some(&*provider.fixture.url())
    );
    let from = own.get(format!("{path}?from={id}")).await;
    assert!(from.status == 200 && *from.body == *theirs.bytes);
    // Without a word, what the user shares goes before what was fetched.
    own.downloads("m.bin", &mine).await;
    // By its digest it is found here under any name.
    let renamed = own
        .get(format!(
            "{}?digest={}",
            path_of("another name.bin"),
            mine.digest
        ))
        .await;
    assert!(renamed.status == 200 && *renamed.body == *mine.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_contents_of_one_name_are_kept_side_by_side() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let contents = [
        Content::new("one", PIECE + 1),
        Content::new("two", PIECE + 2),
    ];
    let mut providers = Vec::new();
    for content in &contents {
        let provider = Provider::honest(content).await;
        stage.announce_provider("v.bin", &provider).await;
        providers.push(provider);
    }
    for (number, content) in contents.iter().enumerate() {
        let response = own
            .get(format!("{}?digest={}", path_of("v.bin"), content.digest))
            .await;
        assert!(response.status == 200 && *response.body == *content.bytes);
        crate::support::eventually("kept", async || own.files().await.len() == number + 1).await;
    }
    own.keeps("v.bin", &contents[0]).await;
    for content in &contents {
        let response = own
            .get(format!("{}?digest={}", path_of("v.bin"), content.digest))
            .await;
        assert!(*response.body == *content.bytes);
        assert_eq!(response.header("vecino-source"), Some("local"));
    }
}
