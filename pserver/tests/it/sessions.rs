//! Logging in and out over REST, where nobody asks for it, nobody answers, and where it is needed.

use central_server::{Config, account::Policy};
use vecino_rest::{
    Kind,
    body::{Session, SessionState},
    route,
};

use crate::support::{eventually, http::Request, peer::Plan, stage::Stage};

fn login(user: &str, password: &str) -> Request {
    let body = serde_json::json!({ "user": user, "password": password });
    Request::json(route::SESSION, body.to_string())
}

async fn asking() -> Stage {
    Stage::with(Config {
        accounts: Policy::Open,
        ..Config::ephemeral()
    })
    .await
}

fn with_account(stage: &Stage, plan: Plan, user: &str, password: &str) -> Plan {
    let file = stage.home().join("password");
    std::fs::write(&file, password).unwrap();
    plan.set("PEER_USER", user)
        .set("PEER_PASSWORD_FILE", file.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_login_is_refused_with_what_would_be_one() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    for (body, part) in [
        ("{}", r#"{"user": USER, "password": PASSWORD}"#),
        (r#"{"user":"ana"}"#, "password"),
        (r#"{"user":" ana","password":"x"}"#, "1 to 64 bytes"),
        (r#"{"user":"ana","password":""}"#, "1 to 1024"),
        ("nonsense", "USER"),
    ] {
        let answer = peer.send(&Request::json(route::SESSION, body)).await;
        assert_eq!(answer.kind(), Kind::BadRequest, "{body}");
        assert!(answer.problem().detail.contains(part), "{}", answer.text());
    }
    let long = "x".repeat(1_025);
    let answer = peer.send(&login("ana", &long)).await;
    assert_eq!(answer.kind(), Kind::BadRequest);
    assert!(!answer.text().contains("xxx"), "no password is repeated");
    let answer = peer.get(route::SESSION).await;
    assert_eq!(answer.kind(), Kind::MethodNotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_asks_or_answers_it_is_said_and_nothing_changes() {
    let mut stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let answer = peer.send(&login("ana", "x")).await;
    assert_eq!(answer.kind(), Kind::NotSupported);
    let answer = peer.send(&Request::new("DELETE", route::SESSION)).await;
    assert_eq!(answer.json::<Session>(), Session::default());
    assert!(peer.status().await.online, "it stays registered");
    stage.stop_locator().await;
    let answer = peer.send(&login("ana", "x")).await;
    assert_eq!(answer.kind(), Kind::NetworkUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_the_settings_logs_in_again_after_the_network_forgot_it() {
    let mut stage = asking().await;
    let plan = stage.peer("peer").holding("a", b"a");
    let peer = with_account(&stage, plan, "ana", "hers\n").start().await;
    let session = peer.status().await.session;
    assert_eq!(session.state, SessionState::LoggedIn);
    assert_eq!(session.user.unwrap().as_str(), "ana");
    // Accounts, sessions and leases are gone with the store in memory.
    stage.stop_locator().await;
    eventually("it noticed", async || !peer.status().await.online).await;
    stage.start_locator().await;
    eventually("it is back", async || peer.status().await.online).await;
    assert_eq!(peer.status().await.session.state, SessionState::LoggedIn);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_takes_over_and_a_refused_one_changes_nothing() {
    let stage = asking().await;
    let plan = stage.peer("peer").holding("a", b"a");
    let peer = with_account(&stage, plan, "ana", "hers").start().await;
    assert_eq!(peer.send(&login("ben", "his")).await.status, 200);
    let is_as = async |user: &str| {
        let status = peer.status().await;
        status.online
            && status
                .session
                .user
                .is_some_and(|known| known.as_str() == user)
    };
    eventually("ben is in", async || is_as("ben").await).await;
    let refused = peer.send(&login("ana", "guessed")).await;
    assert_eq!(refused.kind(), Kind::LoginRefused);
    assert_eq!(refused.status, 403);
    let known = peer.status().await.session.user;
    assert_eq!(known.as_ref().map(|user| user.as_str()), Some("ben"));
    // The lease that ana had may have been still ending.
    eventually("ben is in", async || is_as("ben").await).await;
    let out = peer.send(&Request::new("DELETE", route::SESSION)).await;
    assert_eq!(out.json::<Session>().state, SessionState::Needed);
    eventually("out", async || !peer.status().await.online).await;
    let reason = peer.status().await.offline_reason.unwrap();
    assert!(reason.contains("asks for a login"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_not_tried_again_until_it_is_another() {
    let stage = asking().await;
    let first = with_account(&stage, stage.peer("first"), "ana", "hers");
    let _first = first.start().await;
    let plan = with_account(&stage, stage.peer("peer"), "ana", "an old one");
    let peer = plan.start_unready().await;
    let failed = async |calls: &str| {
        let metric = format!("vecino_{calls}_total{{outcome=\"error\"}}");
        stage.locator_metric(&metric).await
    };
    // Both had none to show at first, and had to log in.
    eventually("it tried to register again", async || {
        failed("registrations").await > 2
    })
    .await;
    let status = peer.status().await;
    assert_eq!(status.session.state, SessionState::Refused);
    // Takes its turn behind a login of the peer's own.
    assert_eq!(peer.send(&login("ana", "hers")).await.status, 200);
    assert_eq!(failed("logins").await, 1);
    eventually("it is in", async || peer.status().await.online).await;
}
