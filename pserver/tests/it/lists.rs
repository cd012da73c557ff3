//! Lists in pages: every item once, in order, whatever changes meanwhile.

use vecino_rest::{
    Kind,
    body::{Download, FileEntry, Page, SearchPage},
    route,
};

use crate::support::{
    content::Content,
    http::Request,
    peer::{Door, Peer},
    stage::Stage,
};

/// Walks a list by its cursors.
async fn walk<T: serde::de::DeserializeOwned>(peer: &Door, path: &str) -> Vec<Vec<T>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<T> = peer.get(format!("{path}{cursor}")).await.json();
        pages.push(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
        assert!(pages.len() < 1000, "it does not end");
    }
}

fn names(pages: &[Vec<FileEntry>]) -> Vec<String> {
    pages
        .iter()
        .flatten()
        .map(|file| file.name.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_paged_by_prefix_and_cursor() {
    let stage = Stage::start().await;
    let mut plan = stage.peer("own");
    let mut all = Vec::new();
    for number in 0..57 {
        for dir in ["a", "a b", "ab", "á", "z/deep"] {
            let name = format!("{dir}/{number:02}");
            plan = plan.holding(&name, name.as_bytes());
            all.push(name);
        }
    }
    all.sort();
    let own = plan.start().await;
    for limit in [1, 7, 57, 100, 284, 285, 286, 1000] {
        let pages = walk::<FileEntry>(&own, &format!("/v1/files?limit={limit}")).await;
        assert_eq!(names(&pages), all, "limit {limit}");
        assert_eq!(pages.len(), all.len().div_ceil(limit), "limit {limit}");
        if limit == 100 {
            assert_eq!(names(&walk(&own, "/v1/files?").await), all);
        }
    }
    for prefix in [
        "a", "a/", "a/1", "a b/", "á/0", "z", "nothing", "a/00", "%", "..", "a\\", "\u{7f}",
    ] {
        let expected: Vec<_> = all
            .iter()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect();
        let encoded: String = prefix.bytes().map(|b| format!("%{b:02x}")).collect();
        let pages = walk(&own, &format!("/v1/files?limit=9&prefix={encoded}")).await;
        assert_eq!(names(&pages), expected, "{prefix}");
    }
    // The last item of a page is deleted before the next: nothing moves.
    let page: Page<FileEntry> = own.get("/v1/files?limit=10").await.json();
    assert_eq!(
        own.send(&Request::new("DELETE", "/v1/files/a%20b/09"))
            .await
            .status,
        204
    );
    let cursor = page.next_cursor.unwrap();
    let next: Page<FileEntry> = own
        .get(format!("/v1/files?limit=1000&cursor={cursor}"))
        .await
        .json();
    assert_eq!(page.items.len() + next.items.len(), all.len());
    let file = &page.items[0];
    assert_eq!(
        file.digest,
        Content::of(file.name.as_str().as_bytes()).digest
    );
    assert_eq!(file.size, file.name.as_str().len() as u64);
    assert!(file.modified_ms > 1_700_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_paged_through_the_neighbour() {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    let records: Vec<_> = (0..45)
        .map(|number| {
            (
                format!("Reports/{number:02} yearly.pdf"),
                Content::new(&format!("{number}"), 10),
            )
        })
        .chain([
            ("reports.txt".to_owned(), Content::new("t", 10)),
            ("other song.mp3".to_owned(), Content::new("s", 10)),
        ])
        .collect();
    let records: Vec<_> = records
        .iter()
        .map(|(name, content)| (name.as_str(), content))
        .collect();
    stage.announce("http://127.0.0.1:9", &records).await;
    let search = async |query: &str| -> Vec<String> {
        let pages =
            walk::<vecino_rest::body::Variant>(&asking, &format!("/v1/search?{query}")).await;
        let mut names: Vec<_> = pages
            .into_iter()
            .flatten()
            .map(|hit| hit.name.to_string())
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a hit came twice");
        names
    };
    assert_eq!(search("q=report&limit=10").await.len(), 46);
    assert_eq!(search("q=REP%20year&limit=7").await.len(), 45);
    assert_eq!(search("q=report&type=txt").await, ["reports.txt"]);
    assert_eq!(search("type=music").await, ["other song.mp3"]);
    assert_eq!(search("type=document&limit=20").await.len(), 46);
    assert!(search("q=eport").await.is_empty(), "a word begins with it");
    let page: SearchPage = asking.get("/v1/search?q=song").await.json();
    assert_eq!(
        (page.items[0].provider_count, page.items[0].size),
        (1, Some(10))
    );
    let wrong = asking.get("/v1/search?q=report&cursor=AAAA").await;
    assert_eq!((wrong.status, wrong.kind()), (400, Kind::BadRequest));
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_paged_oldest_first() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let mut ids = Vec::new();
    for number in 0..25 {
        let body = format!(r#"{{"name":"d{number}"}}"#);
        let begun: Download = own
            .send(&Request::json(route::DOWNLOADS, body))
            .await
            .json();
        ids.push(begun.id);
    }
    for limit in [1, 10, 25, 100] {
        let pages = walk::<Download>(&own, &format!("/v1/downloads?limit={limit}")).await;
        let seen: Vec<_> = pages.iter().flatten().map(|d| d.id.clone()).collect();
        assert_eq!(seen, ids, "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_there_is() {
    let stage = Stage::start().await;
    let sharing: Peer = stage.peer("sharing").set("SITE", "attic").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    let content = Content::new("status", 3000);
    sharing.shares("one.bin", &content).await;
    sharing.shares("two.bin", &content).await;
    sharing.has_announced(2).await;
    asking.downloads("one.bin", &content).await;
    asking.keeps("one.bin", &content).await;
    asking.has_announced(1).await;
    let status = sharing.status().await;
    assert_eq!(
        (
            status.files.shared,
            status.files.fetched,
            status.files.bytes
        ),
        (2, 0, 6000)
    );
    assert_eq!(
        (status.peer, status.site.as_deref(), status.online),
        (sharing.id(), Some("attic"), true)
    );
    assert_eq!(status.url, Some(format!("http://{}", sharing.addr)));
    assert_eq!(
        (status.transfers.bytes_sent, status.transfers.uploads),
        (3000, 0)
    );
    let status = asking.status().await;
    assert_eq!((status.files.shared, status.files.fetched), (0, 1));
    assert_eq!(
        (status.transfers.bytes_received, status.transfers.downloads),
        (3000, 0)
    );
    assert_eq!(status.neighbours.len(), 1);
    assert_eq!(status.neighbours[0].url, format!("http://{}", sharing.addr));
    assert_eq!(status.neighbours[0].state, vecino_rest::body::LinkState::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_network_is_listed_by_its_prefix() {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    let names: Vec<_> = (0..25).map(|number| format!("docs/{number:02}")).collect();
    let content = Content::new("in a folder", 10);
    let others = ["docs", "Docs/00", "docs2/00", "other/docs/00"];
    let all = names.iter().map(String::as_str).chain(others);
    let records: Vec<_> = all.map(|name| (name, &content)).collect();
    stage.announce("http://127.0.0.1:9", &records).await;
    for limit in [7, 1000] {
        let target = format!("/v1/search?prefix=docs/&limit={limit}");
        let pages = walk::<vecino_rest::body::Variant>(&asking, &target).await;
        let hits: Vec<_> = pages.into_iter().flatten().collect();
        let found: Vec<_> = hits.iter().map(|hit| hit.name.to_string()).collect();
        assert_eq!(found, names, "in order");
        for hit in hits {
            assert_eq!((hit.provider_count, hit.size), (1, Some(10)));
            assert_eq!(hit.providers[0].url, "http://127.0.0.1:9");
        }
    }
    for wrong in [
        "prefix=docs/&q=a",
        "prefix=docs/&type=music",
        "prefix=",
        "q=",
    ] {
        let refused = asking.get(format!("/v1/search?{wrong}")).await;
        assert_eq!(
            (refused.status, refused.kind()),
            (400, Kind::BadRequest),
            "{wrong}"
        );
    }
    let body = r#"{"prefix": "docs/", "q": "a"}"#;
    let refused = sharing
        .send(&Request::json("/v1/neighbour/search", body))
        .await;
    assert_eq!((refused.status, refused.kind()), (400, Kind::BadRequest));
    assert!(refused.text().contains("prefix"), "{}", refused.text());
}
