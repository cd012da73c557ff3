//! Peers of several locators that share a directory in a real Redis Cluster: a locator dies, and a
//! primary of the cluster dies with writes that it acknowledged.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use central_server::{Config, Server, account::Policy};
use tempfile::TempDir;
use vecino_rest::{body::Located, route};

use crate::{
    redis_cluster::RedisCluster,
    support::{
        eventually,
        http::Request,
        peer::{Door, Plan},
        soon,
    },
};

async fn locator(url: &str, lease: Duration) -> Server {
    let config = Config {
        store: url.parse().unwrap(),
        lease,
        ..Config::ephemeral()
    };
    Server::bind(config).await.unwrap()
}

struct Scene {
    dir: TempDir,
    locators: String,
}

impl Scene {
    fn new(locators: &[SocketAddr]) -> Self {
        let locators: Vec<_> = locators.iter().map(ToString::to_string).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            locators: locators.join(","),
        }
    }

    fn peer(&self, label: &str) -> Plan {
        Plan::new(self.dir.path().join(label)).set("URL_Request", &self.locators)
    }
}

/// The lookup of a name through a peer's neighbour; how many providers, `None`: it failed.
async fn providers(peer: &Door, name: &str) -> Option<usize> {
    let answer = peer.get(route::locate(&name.parse().unwrap())).await;
    match answer.status {
        200 => {
            let located: Located = answer.json();
            Some(
                located
                    .variants
                    .iter()
                    .map(|v| v.provider_count as usize)
                    .sum(),
            )
        }
        404 => Some(0),
        _ => None,
    }
}

async fn lookups(locator: SocketAddr) -> u64 {
    metric(locator, "vecino_lookups_total{").await
}

/// The sum of what a locator says under names that begin like this.
async fn metric(locator: SocketAddr, name: &str) -> u64 {
    let text = Request::get(route::METRICS).send(locator).await.text();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_balance_over_locators_and_miss_none_that_dies() {
    const FILES: usize = 400;
    let cluster = RedisCluster::shared();
    let (url, lease) = (cluster.url(), Duration::from_secs(2));
    let (one, other) = (locator(&url, lease).await, locator(&url, lease).await);
    let scene = Scene::new(&[one.addr(), other.addr()]);
    let mut plan = scene.peer("provider");
    for number in 0..FILES {
        plan = plan.holding(&format!("file {number}"), number.to_string().as_bytes());
    }
    let provider = plan.start().await;
    provider.has_announced(FILES as u64).await;
    let neighbour = scene.peer("neighbour").start().await;
    let own = scene.peer("own").neighbour(neighbour.addr).start().await;
    eventually("located", async || {
        providers(&own, "file 0").await == Some(1)
    })
    .await;

    // Each name once: the neighbour remembers answers.
    let number = Cell::new(0);
    let next = || {
        number.set(number.get() + 1);
        format!("file {}", number.get() % FILES)
    };
    while lookups(one.metrics_addr().unwrap()).await < 20
        || lookups(other.metrics_addr().unwrap()).await < 20
    {
        let name = next();
        assert_eq!(providers(&own, &name).await, Some(1), "{name}");
        assert!(number.get() < FILES / 2, "one locator has all lookups");
    }

    // The one at which the provider has its lease.
    let announced = metric(
        one.metrics_addr().unwrap(),
        "vecino_announced_records_total",
    )
    .await;
    let (dies, survives) = if announced > 0 {
        (one, other)
    } else {
        (other, one)
    };
    drop(dies);
    let (died, mut slowest) = (Instant::now(), Duration::ZERO);
    while died.elapsed() < 3 * lease {
        let (name, asked) = (next(), Instant::now());
        let found = providers(&own, &name).await;
        assert_eq!(
            found,
            Some(1),
            "{name}, {:?} after the death",
            died.elapsed()
        );
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // What changes is announced at the other one.
    provider.write("later", b"later");
    eventually("located", async || {
        providers(&own, "later").await == Some(1)
    })
    .await;
    soon(survives.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_locator_that_takes_over_asks_for_no_login() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let start = async || {
        let config = Config {
            store: url.parse().unwrap(),
            lease: Duration::from_secs(4),
            accounts: Policy::Open,
            ..Config::ephemeral()
        };
        Server::bind(config).await.unwrap()
    };
    let (one, other) = (start().await, start().await);
    let scene = Scene::new(&[one.addr(), other.addr()]);
    let password = scene.dir.path().join("password");
    std::fs::write(&password, "hers").unwrap();
    let plan = scene.peer("peer").holding("a", b"a");
    let plan = plan.set("PEER_USER", "ana");
    let plan = plan.set("PEER_PASSWORD_FILE", password.display());
    let peer = plan.start().await;
    peer.has_announced(1).await;
    let of = |locator: &Server| locator.metrics_addr().unwrap();
    let announced =
        async |locator: SocketAddr| metric(locator, "vecino_announced_records_total").await;
    let stands_by = |locator: SocketAddr| async move {
        metric(locator, "vecino_registrations_total{outcome=\"ok\"}").await > 0
    };
    eventually("both know it", async || {
        stands_by(of(&one)).await && stands_by(of(&other)).await
    })
    .await;
    let (dies, survives) = match announced(of(&one)).await {
        0 => (other, one),
        _ => (one, other),
    };
    let logins = metric(of(&survives), "vecino_logins_total{").await;
    drop(dies);
    peer.write("later", b"later");
    eventually("it is at the other one", async || {
        announced(of(&survives)).await > 0
    })
    .await;
    let since = metric(of(&survives), "vecino_logins_total{").await - logins;
    assert_eq!(since, 0, "the session holds there as well");
    soon(survives.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_lost_is_back_within_a_lease() {
    const FILES: usize = 150;
    let cluster = RedisCluster::start();
    let lease = Duration::from_secs(6);
    let locator = locator(&cluster.url(), lease).await;
    let scene = Scene::new(&[locator.addr()]);
    let name = |peer: &str, number: usize| format!("{peer} {number}");
    let holding = |peer: &str| {
        (0..FILES).fold(scene.peer(peer), |plan, number| {
            plan.holding(&name(peer, number), number.to_string().as_bytes())
        })
    };
    let early = holding("early").start().await;
    early.has_announced(FILES as u64).await;
    let neighbour = scene.peer("neighbour").start().await;
    let own = scene.peer("own").neighbour(neighbour.addr).start().await;
    eventually("located", async || {
        providers(&own, &name("early", 0)).await == Some(1)
    })
    .await;

    // Nothing of what is acknowledged from now on reaches the replica.
    let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[3]);
    let before = replica.offset();
    replica.halt();
    primary.ask(&["client", "kill", "type", "replica"]).unwrap();
    for number in FILES..2 * FILES {
        early.write(&name("early", number), number.to_string().as_bytes());
    }
    let late = holding("late").start().await;
    late.has_announced(FILES as u64).await;
    early.has_announced(2 * FILES as u64).await;
    let lost = primary.offset() - before;
    assert!(
        lost > 10_000,
        "{lost} bytes of acknowledged writes are to be lost"
    );

    primary.kill();
    replica.go_on();
    let killed = Instant::now();
    let clients = async {
        // Somebody asks for what was always there.
        let (mut asked, mut failed) = (0, Vec::new());
        while !replica.is_primary() || asked < 20 {
            let name = name("early", asked % FILES);
            let began = Instant::now();
            if providers(&own, &name).await != Some(1) {
                failed.push((name, killed.elapsed(), began.elapsed()));
            }
            asked += 1;
            assert!(killed.elapsed() < Duration::from_secs(30), "no failover");
        }
        failed
    };
    let failed = clients.await;
    let promoted = Instant::now();
    assert!(
        replica.offset() < before + lost,
        "nothing was lost: the test says nothing"
    );
    assert!(failed.is_empty(), "clients saw errors: {failed:?}");

    let mut missing: Vec<_> = (0..2 * FILES)
        .map(|number| name("early", number))
        .chain((0..FILES).map(|number| name("late", number)))
        .collect();
    while !missing.is_empty() {
        assert!(
            promoted.elapsed() < lease,
            "after a lease {} are missing: {missing:?}",
            missing.len()
        );
        let mut still = Vec::new();
        for name in missing {
            if providers(&own, &name).await != Some(1) {
                still.push(name);
            }
        }
        missing = still;
    }
    soon(locator.shutdown()).await.unwrap();
}
