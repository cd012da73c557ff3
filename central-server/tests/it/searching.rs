//! Search over the wire: words, types, pages.

use std::collections::BTreeSet;

use tonic::Code;
use vecino_grpc::v1;

use crate::support::*;

async fn pages(client: &mut Client, query: &str, file_type: &str, limit: u32) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), Default::default());
    loop {
        let request = v1::SearchRequest {
            query: query.into(),
            r#type: file_type.into(),
            limit,
            cursor,
            prefix: String::new(),
        };
        let page = soon(client.search(request))
            .await
            .expect("searches")
            .into_inner();
        assert!(page.hits.len() <= limit as usize);
        for hit in page.hits {
            assert!(hit.providers.is_empty());
            assert!(hit.provider_count > 0);
            names.push(hit.name);
        }
        if page.cursor.is_empty() {
            let distinct: BTreeSet<_> = names.iter().collect();
            assert_eq!(distinct.len(), names.len(), "nothing twice: {names:?}");
            names.sort();
            return names;
        }
        cursor = page.cursor;
    }
}

#[tokio::test]
async fn words_are_prefixes_in_any_case_and_types_narrow() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let names = [
        "Música/Canción del Mar.mp3",
        "Música/Canción sin mar.flac",
        "docs/mar y montaña.pdf",
        "mar/mareas marinas.txt",
        "data.parquet",
    ];
    let records: Vec<_> = names.iter().map(|name| record(name, name)).collect();
    peer.announce(&records).await;
    for limit in [1, 2, 1_000] {
        let mut find =
            async |query: &str, file_type: &str| pages(&mut client, query, file_type, limit).await;
        assert_eq!(
            find("mar", "").await,
            [names[0], names[1], names[2], names[3]].map(String::from)
        );
        assert_eq!(
            find("MAR can", "").await,
            [names[0], names[1]].map(String::from)
        );
        assert_eq!(
            find("mar", "music").await,
            [names[0], names[1]].map(String::from)
        );
        assert_eq!(find("mar", "FLAC").await, [names[1]].map(String::from));
        assert_eq!(find("", "document").await, [names[2], names[3]].sorted());
        assert_eq!(find("", "parquet").await, [names[4]].map(String::from));
        assert_eq!(
            find("montan", "").await,
            Vec::<String>::new(),
            "accents count"
        );
        assert_eq!(find("mariposa", "").await, Vec::<String>::new());
    }
    peer.deregister().await.expect("deregisters");
    assert!(
        pages(&mut client, "mar", "", 10).await.is_empty(),
        "live holders only"
    );
}

trait Sorted {
    fn sorted(self) -> Vec<String>;
}

impl<const N: usize> Sorted for [&str; N] {
    fn sorted(self) -> Vec<String> {
        let mut names = self.map(String::from).to_vec();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_page_ends_at_its_budget_and_all_pages_are_all() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    // Every name is met twice under "w": 12,000 rows, three times the budget.
    for part in 0..2 {
        let names = (0..3_000).map(|n| record(&format!("w{part}/w{n:04}.txt"), "x"));
        peer.announce(&names.collect::<Vec<_>>()).await;
    }
    let request = v1::SearchRequest {
        query: "w zzz".into(),
        ..Default::default()
    };
    let first = client.search(request).await.expect("searches").into_inner();
    assert!(first.hits.is_empty());
    let request = v1::SearchRequest {
        query: "w".into(),
        limit: 1_000,
        ..Default::default()
    };
    let first = client.search(request).await.expect("searches").into_inner();
    assert_eq!(first.hits.len(), 1_000);
    assert!(!first.cursor.is_empty());
    // Only the last rows match: pages without hits go on.
    let found = pages(&mut client, "w w2999", "", 10).await;
    assert_eq!(found, ["w0/w2999.txt", "w1/w2999.txt"].sorted());
    assert_eq!(pages(&mut client, "w", "", 1_000).await.len(), 6_000);
    // The index of a type has one row a name: 6,000 rows are two budgets.
    assert_eq!(pages(&mut client, "", "txt", 1_000).await.len(), 6_000);
}

#[tokio::test]
async fn wrong_searches_say_what_is_wrong() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let names: Vec<_> = (0..10).map(|n| record(&format!("w{n}"), "x")).collect();
    peer.announce(&names).await;
    let ask = |query: &str| v1::SearchRequest {
        query: query.into(),
        limit: 1,
        ..Default::default()
    };
    let cursor = client
        .search(ask("w"))
        .await
        .expect("searches")
        .into_inner()
        .cursor;
    for (request, named) in [
        (ask(""), "type is empty"),
        (ask("!!"), "\"!!\""),
        (ask(&"x".repeat(257)), "257"),
        (
            v1::SearchRequest {
                limit: 1_001,
                ..ask("w")
            },
            "1001",
        ),
        (
            v1::SearchRequest {
                r#type: "a/b".into(),
                ..ask("w")
            },
            "a/b",
        ),
        (
            v1::SearchRequest {
                cursor: vec![0xff; 40].into(),
                ..ask("w")
            },
            "cursor",
        ),
        (
            v1::SearchRequest {
                cursor: vec![1; 60_000].into(),
                ..ask("w")
            },
            "cursor",
        ),
        (
            v1::SearchRequest {
                cursor: cursor.clone(),
                ..ask("other")
            },
            "cursor",
        ),
    ] {
        let refused = client.search(request).await.expect_err(named);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().contains(named),
            "{named}: {}",
            refused.message()
        );
        assert!(refused.message().len() < 600, "short");
    }
    client
        .search(v1::SearchRequest { cursor, ..ask("w") })
        .await
        .expect("goes on");
}

#[tokio::test]
async fn a_folder_is_listed_by_its_prefix_in_order_with_some_providers() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let names = ["docs/a", "docs/b/c", "docs/é", "docs", "Docs/x", "docs2/y"];
    let records: Vec<_> = names.iter().map(|name| record(name, name)).collect();
    let mut urls = BTreeSet::new();
    for number in 1..7 {
        let mut peer = Peer::register(locator.client().await, registration(number)).await;
        peer.announce(&records).await;
        urls.insert(peer.url().to_owned());
    }
    let mut gone = Peer::register(locator.client().await, registration(9)).await;
    gone.announce(&[record("docs/gone", "gone")]).await;
    gone.deregister().await.expect("deregisters");
    for limit in [1, 2, 0] {
        let (mut listed, mut cursor) = (Vec::new(), Default::default());
        loop {
            let request = v1::SearchRequest {
                prefix: "docs/".into(),
                limit,
                cursor,
                ..Default::default()
            };
            let page = soon(client.search(request)).await.expect("searches");
            let page = page.into_inner();
            for hit in page.hits {
                assert_eq!((hit.provider_count, hit.providers.len()), (6, 4));
                let known = |one: &v1::Provider| urls.contains(&one.url) && !one.partial;
                assert!(hit.providers.iter().all(known), "{:?}", hit.providers);
                listed.push(hit.name);
            }
            if page.cursor.is_empty() {
                break;
            }
            cursor = page.cursor;
        }
        assert_eq!(
            listed,
            ["docs/a", "docs/b/c", "docs/é"],
            "in order, only live"
        );
    }
}

#[tokio::test]
async fn a_prefix_that_is_too_much_is_refused() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let prefix = |prefix: &str| v1::SearchRequest {
        prefix: prefix.into(),
        ..Default::default()
    };
    let wrong = [
        v1::SearchRequest {
            query: "a".into(),
            ..prefix("docs/")
        },
        v1::SearchRequest {
            r#type: "music".into(),
            ..prefix("docs/")
        },
        prefix(&"a".repeat(1025)),
        v1::SearchRequest {
            cursor: vec![1; 30].into(),
            ..prefix("docs/")
        },
    ];
    for request in wrong {
        let refused = client.search(request).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}
