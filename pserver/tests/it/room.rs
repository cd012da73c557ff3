//! `KEEP` and `CACHE_LIMIT`: what streams through leaves nothing, and a full cache lets go of what
//! nobody used for longest, never of what is shared or being read, never unannounced.

use std::fs;

use vecino_grpc::v1::{LocateRequest, directory_client::DirectoryClient, locate_request::By};
use vecino_rest::{
    Kind,
    body::{Download, DownloadState},
    route,
};

use crate::support::{
    content::Content,
    eventually,
    http::Request,
    peer::{Door, Plan, path_of},
    provider::Provider,
    stage::Stage,
};

const MIB: usize = 1 << 20;
/// More than fits between two programs.
const SIZE: usize = 23 * MIB + 777;

/// Peers of a test, and providers of contents by name.
struct Scene {
    stage: Stage,
    _neighbour: crate::support::peer::Peer,
    providers: Vec<Provider>,
    own: Plan,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::start().await;
        let neighbour = stage.peer("neighbour").start().await;
        let own = stage.peer("own").neighbour(neighbour.addr);
        Self {
            stage,
            _neighbour: neighbour,
            providers: Vec::new(),
            own,
        }
    }

    /// Somebody provides `size` bytes under `name`.
    async fn provide(&mut self, name: &str, size: usize) -> Content {
        let content = Content::new(name, size);
        let provider = Provider::honest(&content).await;
        self.stage.announce_provider(name, &provider).await;
        self.providers.push(provider);
        content
    }

    /// How many the locator knows to hold `content`.
    async fn holders(&self, content: &Content) -> usize {
        let url = format!("http://{}", self.stage.locator_addr);
        let mut client = DirectoryClient::connect(url).await.unwrap();
        let request = LocateRequest {
            by: Some(By::Digest(content.digest.as_bytes().to_vec().into())),
            ..Default::default()
        };
        let located = client.locate(request).await.unwrap().into_inner();
        let variants = located.variants.iter();
        variants.map(|variant| variant.providers.len()).sum()
    }
}

/// Waits until no download runs and nothing of one is left.
async fn leaves_nothing(own: &Door) {
    eventually("nothing is left", async || {
        own.metric("vecino_downloads").await == 0 && fs::read_dir(own.parts()).unwrap().count() == 0
    })
    .await;
    assert!(own.fetched_files().is_empty());
}

/// Downloads, and waits until it is kept and nobody reads it any more.
async fn fetches(own: &Door, name: &str, content: &Content) {
    own.downloads(name, content).await;
    own.keeps(name, content).await;
    is_quiet(own).await;
}

async fn is_quiet(own: &Door) {
    eventually("quiet", async || own.metric("vecino_uploads").await == 0).await;
}

fn names(own: &Door) -> Vec<String> {
    let files = own.fetched_files();
    let names = files.iter().map(|path| path.file_name().unwrap());
    names
        .map(|name| name.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_keeps_nothing_streams_through() {
    let mut scene = Scene::new().await;
    let content = scene.provide("big.iso", SIZE).await;
    let small = scene.provide("small", 100).await;
    let own = scene.own.clone().set("KEEP", "never").start().await;
    own.downloads("small", &small).await;
    own.downloads("big.iso", &content).await;
    leaves_nothing(&own).await;
    assert!(own.files().await.is_empty());
    assert_eq!(scene.holders(&content).await, 1, "it is announced");

    // Who reads slowly gets everything, though the job is long over.
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    assert!(answer.read_up_to(MIB).await < SIZE, "the load was too low");
    leaves_nothing(&own).await;
    let response = answer.whole().await;
    assert!(response.whole && *response.body == *content.bytes);

    let part = Request::get(path_of("big.iso")).with("Range", "bytes=5000000-5000009");
    let part = own.send(&part).await;
    assert_eq!(part.body, content.slice(5_000_000..5_000_010));

    let begin = Request::json(route::DOWNLOADS, r#"{"name":"small"}"#);
    let refused = own.send(&begin).await;
    assert_eq!((refused.status, refused.kind()), (409, Kind::NotKept));
    assert!(refused.problem().detail.contains("KEEP=never"));
    let copy = format!("{}?name=copy", route::blob(&small.digest));
    let copy = own
        .send(&Request::new("PUT", copy).body(&*small.bytes))
        .await;
    assert_eq!((copy.status, copy.kind()), (409, Kind::NotKept));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_before_go_when_nothing_is_kept() {
    let scene = Scene::new().await;
    let parts = scene.own.home().join("data/parts");
    fs::create_dir_all(&parts).unwrap();
    for name in ["a.part", "a.have", "b.upload"] {
        fs::write(parts.join(name), "x").unwrap();
    }
    let own = scene.own.clone().set("KEEP", "never").start().await;
    leaves_nothing(&own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_used_for_longest_goes_first() {
    let mut scene = Scene::new().await;
    let mut contents = Vec::new();
    for name in ["a", "b", "c", "d"] {
        contents.push(scene.provide(name, MIB).await);
    }
    let plan = scene.own.clone().set("CACHE_LIMIT", "3M");
    let shared = Content::new("shared", 8 * MIB);
    let own = plan.holding("shared", &shared.bytes).start().await;
    for (name, content) in ["a", "b", "c"].iter().zip(&contents) {
        fetches(&own, name, content).await;
    }
    assert_eq!(own.metric("vecino_cache_bytes").await, 3 * MIB as u64);
    own.downloads("a", &contents[0]).await;
    is_quiet(&own).await;
    own.downloads("d", &contents[3]).await;
    eventually("room", async || names(&own) == ["a", "c", "d"]).await;
    eventually("counted", async || {
        own.metric("vecino_cache_evictions_total").await == 1
    })
    .await;
    assert_eq!(own.metric("vecino_cache_bytes").await, 3 * MIB as u64);
    // It is not found here any more, and fetched again by who wants it.
    let files = own.files().await;
    let held: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(held, ["a", "c", "d", "shared"]);
    own.downloads("shared", &shared).await;
    own.downloads("b", &contents[1]).await;
    eventually("room", async || names(&own) == ["a", "b", "d"]).await;
    own.stop().await;

    // A smaller limit holds from the start; what was used last is known from the disk.
    let own = scene.own.clone().set("CACHE_LIMIT", "1M").start().await;
    eventually("room", async || names(&own).len() == 1).await;
    own.downloads("shared", &shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_read_stays() {
    let mut scene = Scene::new().await;
    let big = scene.provide("big.iso", SIZE).await;
    let other = scene.provide("other", SIZE).await;
    let own = scene.own.clone().set("CACHE_LIMIT", "30M").start().await;
    fetches(&own, "big.iso", &big).await;
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    assert_eq!(answer.header("vecino-source"), Some("local"));
    assert!(answer.read_up_to(MIB).await < SIZE, "the load was too low");
    own.downloads("other", &other).await;
    eventually("room", async || {
        own.metric("vecino_cache_evictions_total").await == 1
    })
    .await;
    assert_eq!(names(&own), ["big.iso"]);
    let response = answer.whole().await;
    assert!(response.whole && *response.body == *big.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_withdrawn_before_it_is_deleted() {
    let mut scene = Scene::new().await;
    let mut contents = Vec::new();
    for number in 0..8 {
        contents.push(scene.provide(&format!("{number}"), MIB).await);
    }
    let own = scene.own.clone().set("CACHE_LIMIT", "1M").start().await;
    for (number, content) in contents.iter().enumerate() {
        let name = number.to_string();
        let before = number.checked_sub(1).map(|before| &contents[before]);
        let gone = number.checked_sub(1).map(|n| own.fetched(&n.to_string()));
        own.downloads(&name, content).await;
        if let (Some(before), Some(gone)) = (before, gone) {
            eventually("gone", async || {
                // In this order: what is gone now was withdrawn before.
                let is_gone = !gone.exists();
                let holders = scene.holders(before).await;
                assert!(
                    !is_gone || holders == 1,
                    "deleted, and still to be found here"
                );
                is_gone
            })
            .await;
        }
        own.keeps(&name, content).await;
        eventually("announced", async || scene.holders(content).await == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_locator_room_is_made_all_the_same() {
    let mut scene = Scene::new().await;
    let contents = [scene.provide("a", MIB).await, scene.provide("b", MIB).await];
    let plan = scene.own.clone().set("CACHE_LIMIT", "1M");
    let own = plan.without("URL_Request").start().await;
    fetches(&own, "a", &contents[0]).await;
    own.downloads("b", &contents[1]).await;
    eventually("room", async || names(&own) == ["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_cache_streams_through() {
    let mut scene = Scene::new().await;
    let big = scene.provide("big.iso", SIZE).await;
    let small = scene.provide("small", 100).await;
    let own = scene.own.clone().set("CACHE_LIMIT", "8M").start().await;
    own.downloads("big.iso", &big).await;
    leaves_nothing(&own).await;
    fetches(&own, "small", &small).await;
    let begun = Request::json(route::DOWNLOADS, r#"{"name":"big.iso"}"#);
    let id = own.send(&begun).await.json::<Download>().id;
    let record = async || own.get(route::download(&id)).await.json::<Download>();
    eventually("over", async || {
        record().await.state == DownloadState::Failed
    })
    .await;
    let error = record().await.error.unwrap();
    assert_eq!(error.kind(), Some(Kind::NotKept));
    assert!(error.detail.contains("CACHE_LIMIT"), "{error}");
    assert_eq!(names(&own), ["small"]);
}
