//! Accounts of several locators with one directory, in a real Redis Cluster.

use std::time::{Duration, Instant};

use central_server::{Config, Server, account::Policy, config::StoreUrl};
use tonic::{Code, Status};
use vecino_grpc::v1::{self, accounts_client::AccountsClient};

use crate::{process::run_command, redis_cluster::RedisCluster, support::*};

const LEASE: Duration = Duration::from_secs(4);

fn with_accounts(url: &str, accounts: Policy) -> Config {
    let store: StoreUrl = url.parse().expect("a cluster");
    Config {
        store,
        lease: LEASE,
        accounts,
        ..Config::ephemeral()
    }
}

async fn closed(url: &str) -> Locator {
    Locator::with(with_accounts(url, Policy::Closed)).await
}

async fn login(locator: &Locator, user: &str, password: &str) -> Result<Vec<u8>, Status> {
    let request = v1::LoginRequest {
        peer_key: vec![1; 32].into(),
        user: user.into(),
        password: password.into(),
    };
    let mut accounts = AccountsClient::new(locator.channel().await);
    let answer = accounts.login(request).await?.into_inner();
    Ok(answer.session_token.to_vec())
}

fn with_token(token: &[u8]) -> v1::RegisterRequest {
    v1::RegisterRequest {
        session_token: token.to_vec().into(),
        ..registration(1)
    }
}

async fn add_ana(url: &str) {
    let (status, _, error) = run_command(url, &["account", "add", "ana"], "secret\n").await;
    assert_eq!(status, 0, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_counts_at_each_locator_and_its_end_as_well() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = (closed(&url).await, closed(&url).await);
    add_ana(&url).await;
    let token = login(&one, "ana", "secret").await.expect("logs in");
    let mut peer = Peer::register(one.client().await, with_token(&token)).await;
    peer.announce(&[record("a", "one")]).await;
    let mut clients = [one.client().await, other.client().await];
    eventually("the other locator knows it", || async {
        !providers(&mut other.client().await, by_name("a"))
            .await
            .is_empty()
    })
    .await;
    let began = Instant::now();
    while began.elapsed() < 2 * LEASE {
        peer.kept_alive().await.expect("is kept");
        for client in &mut clients {
            assert_eq!(providers(client, by_name("a")).await.len(), 1);
        }
        tokio::time::sleep(LEASE / 20).await;
    }
    // Its next registration may be at the other one.
    let next = with_token(&peer.welcome.session_token);
    let mut peer = Peer::register(other.client().await, next).await;
    assert_eq!(providers(&mut clients[1], by_name("a")).await.len(), 1);
    let (status, _, error) = run_command(&url, &["account", "remove", "ana"], "").await;
    assert_eq!(status, 0, "{error}");
    let removed = Instant::now();
    for locator in [&one, &other] {
        eventually("it is out", || async {
            providers(&mut locator.client().await, by_name("a"))
                .await
                .is_empty()
        })
        .await;
    }
    assert!(removed.elapsed() < LEASE, "{:?}", removed.elapsed());
    let refused = peer.kept_alive().await.expect_err("out");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let again = with_token(&peer.welcome.session_token);
    for (locator, client) in [&one, &other].into_iter().zip(&mut clients) {
        let refused = client
            .register(again.clone())
            .await
            .expect_err("no account");
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused = login(locator, "ana", "secret").await.expect_err("removed");
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_a_lease_elsewhere_keeps_its_token() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = (closed(&url).await, closed(&url).await);
    add_ana(&url).await;
    let token = login(&one, "ana", "secret").await.expect("logs in");
    let peer = Peer::register(one.client().await, with_token(&token)).await;
    let token = login(&other, "ana", "secret").await.expect("logs in");
    let standing_by = v1::RegisterRequest {
        registered_in: vec![peer.welcome.directory.clone()],
        ..with_token(&token)
    };
    let mut client = other.client().await;
    let answer = client.register(standing_by.clone()).await;
    let expected = v1::RegisterResponse {
        directory: peer.welcome.directory.clone(),
        ..Default::default()
    };
    assert_eq!(answer.expect("answers").into_inner(), expected);
    Peer::register(other.client().await, with_token(&token)).await;
    // Who guesses a directory is told nothing, and let in nowhere.
    let stranger = v1::RegisterRequest {
        registered_in: vec![vec![7; 16].into()],
        ..registration(2)
    };
    let refused = client.register(stranger).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn locators_with_other_accounts_do_not_run_beside_each_other() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let open = Locator::with(with_accounts(&url, Policy::Off)).await;
    let mut peer = Peer::register(open.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    let config = with_accounts(&url, Policy::Closed);
    let refused = Server::bind(config.clone()).await.err().expect("refused");
    let told = refused.to_string();
    for part in ["ACCOUNTS=closed", "ACCOUNTS=off", "end them all first"] {
        assert!(told.contains(part), "{told}");
    }
    // Its peers are as they were.
    peer.kept_alive().await.expect("is kept");
    let same = Locator::with(with_accounts(&url, Policy::Off)).await;
    open.server.shutdown().await.expect("ends");
    let refused = Server::bind(config.clone()).await.err();
    assert!(refused.is_some(), "one of two goes on");
    same.server.shutdown().await.expect("ends");
    Locator::with(config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locator_that_did_not_start_says_nothing_of_accounts() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let fails = Config {
        // No folder can be there.
        control: Some("/dev/null/socket".into()),
        ..with_accounts(&url, Policy::Off)
    };
    let failed = Server::bind(fails).await.err().expect("fails");
    assert!(failed.to_string().contains("/dev/null"), "{failed}");
    // At once, and not when what it said is over.
    Locator::with(with_accounts(&url, Policy::Closed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_acknowledged_outlives_a_primary() {
    let cluster = RedisCluster::start();
    let url = cluster.url();
    let locator = closed(&url).await;
    // Without the replicas nothing is acknowledged.
    let (primaries, replicas) = cluster.nodes.split_at(3);
    replicas.iter().for_each(|node| node.halt());
    let add = ["account", "add", "ana"];
    let (status, _, error) = run_command(&url, &add, "first\n").await;
    assert_eq!(status, 1);
    assert!(error.contains("no replica took the change"), "{error}");
    replicas.iter().for_each(|node| node.go_on());
    for number in 0..3 {
        cluster.await_replica(number);
    }
    // Whether it was made is not known; what is said last counts.
    let (status, _, error) = run_command(&url, &["account", "remove", "ana"], "").await;
    assert!(
        status == 0 || error.contains("has no account"),
        "{status} {error}"
    );
    // Of twenty users some are at each primary.
    for number in 0..20 {
        let user = format!("user{number}");
        let (status, _, error) = run_command(&url, &["account", "add", &user], "secret\n").await;
        assert_eq!(status, 0, "{error}");
    }
    primaries[0].kill();
    eventually("a replica took over", || async { replicas[0].is_primary() }).await;
    for number in 0..20 {
        let user = format!("user{number}");
        eventually("it is let in", || async {
            login(&locator, &user, "secret").await.is_ok()
        })
        .await;
    }
}
