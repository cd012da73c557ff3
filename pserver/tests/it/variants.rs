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
    // By its host's name, whatever address it is known by; and who is known by none is not said to
    // be there.
    let by_host = first.fixture.url().replace("127.0.0.1", "localhost");
    let response = own.get(format!("{path}?from={by_host}")).await;
    assert_eq!(response.status, 200, "{by_host}: {}", response.text());
    assert!(*response.body == *one.bytes);
    let nobody = own.get(format!("{path}?from=127.0.0.1:1")).await;
    assert_eq!((nobody.status, nobody.kind()), (404, Kind::NotFound));
    let told = nobody.text();
    assert!(
        told.contains("no peer that is known as http://127.0.0.1:1"),
        "{told}"
    );
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
async fn what_is_held_under_another_name_is_kept_under_the_one_that_was_asked_for() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    for (label, size) in [("large", 2 * PIECE + 3), ("empty", 0)] {
        let content = Content::new(label, size);
        let provider = Provider::honest(&content).await;
        let names = ["a", "b", "c", "d"].map(|name| format!("{label}/{name}.py"));
        let records = names.each_ref().map(|name| (&**name, &content));
        stage.announce(&provider.fixture.url(), &records).await;
        own.downloads(&names[0], &content).await;
        own.keeps(&names[0], &content).await;
        let asked = provider.fixture.seen().len();
        // A part, or a name that nobody shares, is no reason to keep it.
        let path = path_of(&names[2]);
        let head = own.send(&Request::new("HEAD", &path)).await;
        assert_eq!(head.status, 200);
        if size > 0 {
            let part = own
                .send(&Request::get(&path).with("Range", "bytes=0-9"))
                .await;
            assert_eq!(part.status, 206);
        }
        let made_up = path_of(&format!("{label}/made up.py"));
        let made_up = own
            .get(format!("{made_up}?digest={}", content.digest))
            .await;
        assert!(made_up.status == 200 && *made_up.body == *content.bytes);
        own.downloads(&names[1], &content).await;
        own.keeps(&names[1], &content).await;
        let by_digest = format!("{}?digest={}", path_of(&names[3]), content.digest);
        assert_eq!(own.get(by_digest).await.status, 200);
        own.keeps(&names[3], &content).await;
        let held = own.files().await.into_iter();
        let held: Vec<_> = held
            .filter(|file| file.digest == content.digest)
            .map(|file| file.name.to_string())
            .collect();
        assert_eq!(held, [&*names[0], &*names[1], &*names[3]]);
        assert_eq!(provider.fixture.seen().len(), asked, "it was fetched again");
    }
    let never = stage.peer("never").neighbour(neighbour.addr);
    let never = never.set("KEEP", "never").start().await;
    let content = Content::new("large", 2 * PIECE + 3);
    never.shares("mine.py", &content).await;
    never.downloads("large/b.py", &content).await;
    assert!(never.fetched_files().is_empty());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_found_by_its_digest_however_many_variants_its_name_has() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    // Each has more providers than the one that is wanted, so that it goes before it.
    let decoys: Vec<_> = (0..40)
        .map(|n| Content::new(&format!("decoy {n}"), 100 + n))
        .collect();
    for port in [1, 2] {
        let records: Vec<_> = decoys.iter().map(|content| ("v.bin", content)).collect();
        let url = format!("http://127.0.0.1:{port}");
        stage.announce(&url, &records).await;
    }
    let content = Content::new("wanted", PIECE + 7);
    let provider = Provider::honest(&content).await;
    let id = stage.announce_provider("v.bin", &provider).await;
    let path = path_of("v.bin");
    let digest = content.digest;
    let head = Request::new("HEAD", format!("{path}?digest={digest}"));
    assert_eq!(own.send(&head).await.status, 200);
    for query in [format!("digest={digest}&from={id}"), format!("from={id}")] {
        let response = own.get(format!("{path}?{query}")).await;
        assert_eq!(response.status, 200, "{query}: {}", response.text());
        assert!(*response.body == *content.bytes, "{query}");
    }
    let others = stage.peer("other").neighbour(neighbour.addr).start().await;
    let response = others.get(format!("{path}?digest={digest}")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(*response.body == *content.bytes);
    others.keeps("v.bin", &content).await;
    // Content is content: where nobody has it under that name, it is found under another.
    let third = stage.peer("third").neighbour(neighbour.addr).start().await;
    let renamed = third
        .get(format!("{}?digest={digest}", path_of("renamed.bin")))
        .await;
    assert_eq!(renamed.status, 200, "{}", renamed.text());
    assert!(*renamed.body == *content.bytes);
    let nobody = format!("{path}?digest={}", Content::of(*b"nobody").digest);
    assert_eq!(own.get(nobody).await.kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_is_held_under_another_name_is_not_fetched_again() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("two names", 2 * PIECE + 1);
    own.shares("c1.bin", &content).await;
    let provider = Provider::honest(&content).await;
    stage.announce_provider("c2.bin", &provider).await;
    own.downloads("c2.bin", &content).await;
    let response = own.download("c2.bin").await;
    assert_eq!(response.header("vecino-source"), Some("local"));
    let shown = response.header("content-disposition").unwrap();
    assert!(shown.contains("c2.bin"), "{shown}");
    assert_eq!(provider.fixture.seen().len(), 0, "it was fetched again");
}
