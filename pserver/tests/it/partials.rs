//! What a peer holds in part, as others find it.

use std::{sync::Arc, time::Duration};

use pserver::{
    content::{Store, catalogue::Record},
    locate::central::{
        self,
        account::Door,
        presence::{Announcer, Presence},
    },
};
use tokio::{sync::watch, task::JoinSet};
use vecino_rest::{Digest, Name, PeerKey, PeerUrl, body::Located, route};

use crate::support::{content::Content, eventually, http::Request, peer::Peer, stage::Stage};

/// The announcing part of a peer, with its store.
struct Announcing {
    store: Arc<Store>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Announcing {
    async fn start(stage: &Stage) -> Self {
        let home = stage.home().join("announcing");
        let [shared, fetched, data] = ["s", "f", "d"].map(|dir| home.join(dir));
        let store = Store::open(&shared, &fetched, &data, Arc::default()).unwrap();
        let store = Arc::new(store);
        let url = PeerUrl::parse("http://127.0.0.1:9").unwrap();
        let locator = PeerUrl::http(stage.locator_addr);
        let channel = central::channel(&locator).unwrap();
        let (stop, stopping) = watch::channel(false);
        let announcer = Announcer {
            locator,
            key: PeerKey::from_bytes([7; 32]),
            public_url: Some(url.clone()),
            port: 9,
            site: None,
            store: store.clone(),
            presence: Arc::new(Presence::with_url(Some(url))),
            door: Arc::new(Door::new(PeerKey::from_bytes([7; 32]), channel.clone())),
            wanted: watch::channel(None).1,
            directories: Arc::default(),
            stopping,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(store.importer().clone().run(Duration::from_secs(600)));
        tasks.spawn(announcer.run(channel));
        Self { store, stop, tasks }
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        self.tasks.join_next().await;
    }
}

fn record(name: &str, content: &Content) -> Record {
    Record {
        name: Name::parse(name).unwrap(),
        digest: content.digest,
        size: content.len(),
        modified_ms: 1,
    }
}

/// Providers of `name` as the peer's neighbour tells: URL, and whether it holds some pieces only.
async fn providers(peer: &Peer, name: &str, digest: Digest) -> Vec<(String, bool)> {
    let answer = peer.get(route::locate(&name.parse().unwrap())).await;
    match answer.status {
        200 => {}
        404 => return Vec::new(),
        // Nobody can tell while the locator is gone.
        status => return vec![(status.to_string(), false)],
    }
    let located: Located = answer.json();
    let variants = located.variants.into_iter();
    let of_digest = variants.filter(|variant| variant.digest == Some(digest));
    let providers = of_digest.flat_map(|variant| variant.providers);
    providers.map(|one| (one.url, one.partial)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_announced_while_it_is_held_and_again_after_each_registration() {
    let mut stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let asking = stage.peer("asking").neighbour(neighbour.addr).start().await;
    let announcing = Announcing::start(&stage).await;
    let content = Content::new("part", 5_000_000);
    let catalogue = announcing.store.catalogue();
    let part = catalogue.partial(record("a.bin", &content));
    let partial = [("http://127.0.0.1:9".to_owned(), true)];
    let is_found = async |what: &str, expected: &[(String, bool)]| {
        eventually(what, async || {
            providers(&asking, "a.bin", content.digest).await == expected
        })
        .await;
    };
    is_found("announced", &partial).await;
    // The first system's contract names nobody who holds a part.
    let ask = Request::json("/pedirRecurso", r#"{"body":"a.bin"}"#);
    assert_eq!(neighbour.send(&ask).await.text(), "404");
    let ask = Request::json("/connect", r#"{"body":["a.bin"]}"#);
    assert_eq!(asking.send(&ask).await.text(), "404");
    // The locator forgets everything, and is told anew.
    stage.stop_locator().await;
    stage.start_locator().await;
    is_found("announced again", &partial).await;
    drop(part);
    is_found("withdrawn", &[]).await;
    let part = catalogue.partial(record("a.bin", &content));
    is_found("announced once more", &partial).await;
    // A whole one beside it goes first.
    stage
        .announce("http://127.0.0.1:8", &[("a.bin", &content)])
        .await;
    let both = [("http://127.0.0.1:8".to_owned(), false), partial[0].clone()];
    is_found("both are found", &both).await;
    let ask = Request::json("/pedirRecurso", r#"{"body":"a.bin"}"#);
    assert_eq!(neighbour.send(&ask).await.text(), both[0].0);
    // It leaves with its peer.
    announcing.stop().await;
    is_found("gone", &both[..1]).await;
    drop(part);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_takes_the_place_of_its_part() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let asking = stage.peer("asking").neighbour(neighbour.addr).start().await;
    let announcing = Announcing::start(&stage).await;
    let content = Content::new("whole", 3_000_000);
    let part = announcing
        .store
        .catalogue()
        .partial(record("a.bin", &content));
    let is_found = async |what: &str, partial: bool| {
        let expected = [("http://127.0.0.1:9".to_owned(), partial)];
        eventually(what, async || {
            providers(&asking, "a.bin", content.digest).await == expected
        })
        .await;
    };
    is_found("its part", true).await;
    let name = Name::parse("a.bin").unwrap();
    let begun =
        announcing
            .store
            .begin_replica(name, content.digest, content.len(), [127, 0, 0, 1].into());
    let mut replica = begun.await.unwrap();
    for block in content.bytes.chunks(300_001) {
        replica.write(block).unwrap();
    }
    replica.keep().await.unwrap();
    is_found("the whole", false).await;
    drop(part);
    eventually("its part is gone", async || {
        stage.locator_metric("vecino_partial_records").await == 0
    })
    .await;
    is_found("the whole still", false).await;
}
