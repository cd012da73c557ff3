//! Accounts: who gets in, with what, and who does not; and that guessing costs nobody else anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use central_server::{Config, account::Policy, config::StoreUrl};
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{self, accounts_client::AccountsClient};

use crate::{process::run_command, support::*};

/// A locator that asks for accounts.
struct Guarded {
    locator: Locator,
    /// Holds the store, where there is one.
    directory: tempfile::TempDir,
}

impl Guarded {
    async fn open() -> Self {
        Self::with(|config| config.accounts = Policy::Open).await
    }

    async fn closed() -> Self {
        Self::with(|config| config.accounts = Policy::Closed).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = on_disk(&directory.path().join("locator.redb"));
        config.control = Some(directory.path().join("locator.redb.sock"));
        change(&mut config);
        Self {
            locator: Locator::with(config).await,
            directory,
        }
    }

    async fn accounts(&self) -> AccountsClient<Channel> {
        AccountsClient::new(self.locator.channel().await)
    }

    async fn login(&self, number: u8, user: &str, password: &str) -> Result<Vec<u8>, Status> {
        let request = v1::LoginRequest {
            peer_key: vec![number; 32].into(),
            user: user.into(),
            password: password.into(),
        };
        let answer = self.accounts().await.login(request).await?.into_inner();
        assert_eq!(answer.valid_seconds, 24 * 60 * 60);
        Ok(answer.session_token.to_vec())
    }

    async fn logout(&self, number: u8, token: &[u8]) -> Result<(), Status> {
        let request = v1::LogoutRequest {
            peer_key: vec![number; 32].into(),
            session_token: token.to_vec().into(),
        };
        self.accounts().await.logout(request).await.map(drop)
    }

    async fn register(&self, number: u8, token: &[u8]) -> Result<v1::RegisterResponse, Status> {
        let request = v1::RegisterRequest {
            session_token: token.to_vec().into(),
            ..registration(number)
        };
        let answer = self.locator.client().await.register(request).await?;
        Ok(answer.into_inner())
    }

    /// A peer that is in and shares `name`.
    async fn sharing(&self, number: u8, token: &[u8], name: &str) -> Peer {
        let mut peer = Peer {
            client: self.locator.client().await,
            welcome: self.register(number, token).await.expect("registers"),
            announcing: None,
        };
        peer.announce(&[record(name, "content")]).await;
        peer
    }

    async fn is_found(&self, name: &str) -> bool {
        let mut client = self.locator.client().await;
        !providers(&mut client, by_name(name)).await.is_empty()
    }

    /// `central-server account …` in this locator's directory, while it runs.
    async fn command(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let store = format!("redb:{}/locator.redb", self.directory.path().display());
        run_command(&store, args, input).await
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    outcome.expect_err("refused").code()
}

#[tokio::test]
async fn without_an_account_nobody_registers() {
    let guarded = Guarded::closed().await;
    assert_eq!(code(guarded.register(1, &[]).await), Code::Unauthenticated);
    assert_eq!(
        code(guarded.register(1, &[7; 16]).await),
        Code::Unauthenticated
    );
    assert_eq!(
        code(guarded.register(1, &[7; 1_000]).await),
        Code::Unauthenticated
    );
    // Looking up needs no account: whoever asks is a neighbour for somebody.
    assert!(!guarded.is_found("a").await);
    let off = Locator::start().await;
    let mut accounts = AccountsClient::new(off.channel().await);
    let request = v1::LoginRequest {
        peer_key: vec![1; 32].into(),
        user: "ana".into(),
        password: "x".into(),
    };
    let refused = accounts.login(request).await;
    assert_eq!(code(refused), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_first_login_makes_the_account_where_that_is_open() {
    let guarded = Guarded::open().await;
    let token = guarded.login(1, "ana", "hers").await.expect("logs in");
    guarded.sharing(1, &token, "a").await;
    assert!(guarded.is_found("a").await);
    assert_eq!(
        code(guarded.login(2, "ana", "guessed").await),
        Code::Unauthenticated
    );
    guarded.login(2, "ana", "hers").await.expect("logs in");
    // Where it is closed, it does not.
    let closed = Guarded::closed().await;
    assert_eq!(
        code(closed.login(1, "ana", "hers").await),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn wrong_replayed_foreign_and_stale_tokens_are_refused() {
    let guarded = Guarded::open().await;
    let first = guarded.login(1, "ana", "hers").await.expect("logs in");
    let mut wrong = first.clone();
    wrong[0] ^= 1;
    for (number, token, what) in [(1, &wrong, "wrong"), (2, &first, "foreign")] {
        let refused = guarded.register(number, token).await;
        assert_eq!(code(refused), Code::Unauthenticated, "{what}");
    }
    let welcome = guarded.register(1, &first).await.expect("registers");
    let replayed = guarded.register(1, &first).await;
    assert_eq!(code(replayed), Code::Unauthenticated);
    let again = guarded.register(1, &welcome.session_token).await;
    again.expect("the next token is good");
    let stale = Guarded::with(|config| {
        config.accounts = Policy::Open;
        config.session = Duration::from_millis(1);
    })
    .await;
    let request = v1::LoginRequest {
        peer_key: vec![1; 32].into(),
        user: "ana".into(),
        password: "hers".into(),
    };
    let answer = stale
        .accounts()
        .await
        .login(request)
        .await
        .expect("logs in");
    let token = answer.into_inner().session_token;
    eventually("it is stale", async || {
        matches!(stale.register(1, &token).await, Err(status) if status.code() == Code::Unauthenticated)
    })
    .await;
}

#[tokio::test]
async fn nobody_announces_under_the_id_or_with_the_session_of_another() {
    let guarded = Guarded::open().await;
    let token = guarded.login(1, "ana", "hers").await.expect("logs in");
    let mut ana = guarded.sharing(1, &token, "a").await;
    let token = guarded.login(2, "eve", "hers").await.expect("logs in");
    let mut eve = guarded.sharing(2, &token, "e").await;
    // The id of ana with the lease of eve.
    let batch = v1::AnnounceRequest {
        peer_id: ana.welcome.peer_id.clone(),
        ..eve.batch(vec![record("mine", "x")], Vec::new())
    };
    assert_eq!(code(eve.send(batch).await), Code::Unauthenticated);
    // The session of ana for eve, and the other way round: not even to log out.
    let stolen = ana.welcome.session_token.clone();
    assert_eq!(
        code(guarded.register(2, &stolen).await),
        Code::Unauthenticated
    );
    assert_eq!(
        code(guarded.logout(2, &stolen).await),
        Code::Unauthenticated
    );
    ana.kept_alive().await.expect("ana is as she was");
    assert!(guarded.is_found("a").await && !guarded.is_found("mine").await);
}

#[tokio::test]
async fn logout_takes_a_peer_out_of_all_answers_at_once() {
    let guarded = Guarded::open().await;
    let token = guarded.login(1, "ana", "hers").await.expect("logs in");
    let mut peer = guarded.sharing(1, &token, "a").await;
    let other = guarded.login(2, "ana", "hers").await.expect("logs in");
    guarded.sharing(2, &other, "b").await;
    let current = peer.welcome.session_token.to_vec();
    assert_eq!(code(guarded.logout(1, &token).await), Code::Unauthenticated);
    guarded.logout(1, &current).await.expect("logs out");
    assert!(!guarded.is_found("a").await, "gone at once");
    assert!(
        guarded.is_found("b").await,
        "another peer of the user stays"
    );
    assert_eq!(code(peer.kept_alive().await), Code::Unauthenticated);
    for token in [&token, &current] {
        assert_eq!(
            code(guarded.register(1, token).await),
            Code::Unauthenticated
        );
    }
    // Back in, it has what it had.
    let token = guarded.login(1, "ana", "hers").await.expect("logs in");
    guarded.register(1, &token).await.expect("registers");
    assert!(guarded.is_found("a").await);
}

#[tokio::test]
async fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    let guarded = Guarded::closed().await;
    let (status, _, error) = guarded.command(&["account", "add", "ana"], "hers\n").await;
    assert_eq!(status, 0, "{error}");
    let refusal = async |user: &str, number: u8, guess: &str| {
        let began = Instant::now();
        let status = guarded
            .login(number, user, guess)
            .await
            .expect_err("refused");
        let headers = format!("{:?}", status.metadata().keys().collect::<Vec<_>>());
        let told = (status.code(), status.message().to_owned(), headers);
        (told, began.elapsed())
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let guess = format!("guess {round}");
        let (of_known, took_known) = refusal("ana", round, &guess).await;
        let (of_unknown, took_unknown) = refusal("eve", round, &guess).await;
        assert_eq!(of_known, of_unknown);
        assert_eq!(of_known.0, Code::Unauthenticated);
        // The same guess again is refused alike, be the user known or not.
        for user in ["ana", "eve"] {
            let (again, _) = refusal(user, round, &guess).await;
            assert_eq!(again, of_known);
        }
        known.push(took_known);
        unknown.push(took_unknown);
    }
    // The same work: a hash each, of which none is cheap. Not a measure of speed: without the
    // work the difference is a hundredfold.
    let (known, unknown) = (known.iter().min(), unknown.iter().min());
    let (known, unknown) = (known.expect("four"), unknown.expect("four"));
    assert!(
        *unknown * 4 > *known && *known * 4 > *unknown,
        "known {known:?}, unknown {unknown:?}"
    );
    // Both are held back alike.
    for user in ["ana", "eve"] {
        let mut codes = Vec::new();
        while codes.last() != Some(&Code::ResourceExhausted) {
            let guess = format!("another guess {}", codes.len());
            let status = guarded.login(9, user, &guess).await.expect_err("refused");
            codes.push(status.code());
            assert!(codes.len() < 5, "{codes:?}");
            // When it is of use to ask again is told to programs as well.
            let after = status.metadata().get(vecino_grpc::RETRY_AFTER_MS);
            let after = after.map(|ms| ms.to_str().expect("text").parse::<u64>());
            match status.code() {
                Code::ResourceExhausted => {
                    assert!(after.is_some_and(|ms| (1..=60_001).contains(&ms.expect("a number"))));
                }
                _ => assert_eq!(after, None),
            }
        }
    }
}

#[tokio::test]
async fn guessing_is_held_back_and_lookups_go_on() {
    let guarded = Arc::new(Guarded::open().await);
    let token = guarded.login(1, "ana", "hers").await.expect("logs in");
    guarded.sharing(1, &token, "a").await;
    let (refused, held_back) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let guessing: Vec<_> = (0..8)
        .map(|guesser| {
            let (guarded, refused, held_back) =
                (guarded.clone(), refused.clone(), held_back.clone());
            tokio::spawn(async move {
                for number in 0..50 {
                    let guess = format!("guess {guesser} {number}");
                    match code(guarded.login(2, "ana", &guess).await) {
                        Code::Unauthenticated => refused.fetch_add(1, Ordering::Relaxed),
                        Code::ResourceExhausted => held_back.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other:?}"),
                    };
                }
            })
        })
        .collect();
    let mut lookups = 0;
    let mut client = guarded.locator.client().await;
    while !guessing.iter().all(tokio::task::JoinHandle::is_finished) || lookups == 0 {
        let found = soon(providers(&mut client, by_name("a"))).await;
        assert_eq!(found.len(), 1);
        lookups += 1;
    }
    for guesser in guessing {
        guesser.await.expect("no other answer");
    }
    let (refused, held_back) = (
        refused.load(Ordering::Relaxed),
        held_back.load(Ordering::Relaxed),
    );
    assert_eq!(refused + held_back, 400);
    assert!(refused <= 12, "{refused} passwords were tried");
    // Who is in stays in, whoever guesses.
    assert!(guarded.is_found("a").await);
}

#[tokio::test]
async fn nonsense_is_refused_by_name() {
    let guarded = Guarded::open().await;
    let long = "x".repeat(1_025);
    for (user, password, field) in [
        ("", "x", "user"),
        ("a\u{202e}b", "x", "user"),
        ("ana", "", "password"),
        ("ana", &long, "password"),
    ] {
        let status = guarded.login(1, user, password).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{}", status.message());
        assert!(!status.message().contains("xxx"), "no password is repeated");
    }
    let request = v1::LoginRequest {
        peer_key: vec![1; 31].into(),
        user: "ana".into(),
        password: "x".into(),
    };
    let refused = guarded.accounts().await.login(request).await;
    assert_eq!(code(refused), Code::InvalidArgument);
}

#[tokio::test]
async fn accounts_are_managed_while_the_locator_runs() {
    let guarded = Guarded::closed().await;
    let (status, _, error) = guarded.command(&["account", "add", "ana"], "first\n").await;
    assert_eq!(status, 0, "{error}");
    let (status, _, error) = guarded.command(&["account", "add", "ana"], "other\n").await;
    assert_eq!(status, 1);
    assert!(error.contains("\"ana\" has an account already"), "{error}");
    let token = guarded.login(1, "ana", "first").await.expect("logs in");
    let mut peer = guarded.sharing(1, &token, "a").await;
    // A new password ends what the old one began.
    let file = guarded.directory.path().join("password");
    std::fs::write(&file, "second\n").expect("writes");
    let file = file.to_str().expect("text");
    let passwd = ["account", "passwd", "ana", "--password-file", file];
    let (status, _, error) = guarded.command(&passwd, "").await;
    assert_eq!(status, 0, "{error}");
    assert!(!guarded.is_found("a").await);
    assert_eq!(code(peer.kept_alive().await), Code::Unauthenticated);
    let stale = guarded
        .register(1, &peer.welcome.session_token.clone())
        .await;
    assert_eq!(code(stale), Code::Unauthenticated);
    assert_eq!(
        code(guarded.login(1, "ana", "first").await),
        Code::Unauthenticated
    );
    let token = guarded.login(1, "ana", "second").await.expect("logs in");
    guarded.register(1, &token).await.expect("registers");
    assert!(guarded.is_found("a").await);
    let (_, list, _) = guarded.command(&["account", "list", "--json"], "").await;
    assert!(
        list.contains("\"user\":\"ana\"") && !list.contains("argon2"),
        "{list}"
    );
    let (_, peers, _) = guarded.command(&["peers", "--json"], "").await;
    assert!(
        peers.contains("\"live\":true") && peers.contains("\"user\":\"ana\""),
        "{peers}"
    );
    let (status, _, error) = guarded.command(&["account", "remove", "ana"], "").await;
    assert_eq!(status, 0, "{error}");
    assert!(!guarded.is_found("a").await, "its peers are out at once");
    assert_eq!(
        code(guarded.login(1, "ana", "second").await),
        Code::Unauthenticated
    );
    let (status, _, error) = guarded.command(&["account", "passwd", "ana"], "x\n").await;
    assert_eq!(status, 1);
    assert!(error.contains("\"ana\" has no account"), "{error}");
}

#[tokio::test]
async fn sessions_and_accounts_outlive_the_locator_and_the_settings_count_from_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("locator.redb");
    let config = |accounts| Config {
        accounts,
        store: StoreUrl::Redb(path.clone()),
        ..Config::ephemeral()
    };
    let start = async |accounts| Guarded {
        locator: Locator::with(config(accounts)).await,
        directory: tempfile::tempdir().expect("a directory"),
    };
    let open = start(Policy::Open).await;
    let token = open.login(1, "ana", "hers").await.expect("logs in");
    let peer = open.sharing(1, &token, "a").await;
    open.locator.server.shutdown().await.expect("ends");
    let closed = start(Policy::Closed).await;
    assert!(closed.is_found("a").await, "it is in, and has its grace");
    let session = peer.welcome.session_token.to_vec();
    closed
        .register(1, &session)
        .await
        .expect("the session holds");
    closed
        .login(2, "ana", "hers")
        .await
        .expect("the account holds");
    closed.locator.server.shutdown().await.expect("ends");
    // Who registered while nobody asked gets no grace once somebody does.
    let off = start(Policy::Off).await;
    off.sharing(3, &[], "c").await;
    assert!(off.is_found("c").await);
    off.locator.server.shutdown().await.expect("ends");
    let closed = start(Policy::Closed).await;
    assert!(!closed.is_found("c").await);
    assert_eq!(code(closed.register(3, &[]).await), Code::Unauthenticated);
}
