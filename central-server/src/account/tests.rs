//! Logins and what becomes of their tokens, on the store in memory.

use futures_util::FutureExt as _;

use super::*;
use crate::store::{MemoryStore, PeerRow, PeerState};

struct Bench {
    store: Arc<MemoryStore>,
    accounts: Accounts,
}

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("valid")
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 16])
}

impl Bench {
    async fn new(policy: Policy, life: Duration) -> Self {
        let store = Arc::new(MemoryStore::new());
        let hash = password::hash("right").expect("hashes");
        add(&*store, user("ana"), hash, 0).await.expect("adds");
        let accounts = Accounts::open(store.clone(), policy, life).await;
        Self {
            accounts: accounts.expect("opens"),
            store,
        }
    }

    async fn closed() -> Self {
        Self::new(Policy::Closed, SESSION_LIFE).await
    }

    async fn login(&self, name: &str, password: &str, number: u8) -> Result<Token, Error> {
        let login = Login {
            user: user(name),
            password: password.into(),
            peer: peer(number),
            address: [10, 0, 0, number].into(),
        };
        self.accounts.login(login).await
    }

    /// Registers as the directory does.
    async fn register(&self, number: u8, token: &[u8]) -> Result<Token, Error> {
        let admission = self.accounts.admit(&peer(number), token).await?;
        let admission = admission.expect("accounts are on");
        let row = PeerRow {
            id: peer(number),
            url: "http://10.0.0.1:80".into(),
            site: String::new(),
            token: [number; 32],
            url_is_observed: true,
            state: PeerState::Present,
            session: Some(admission.session),
        };
        self.store.register(row).await.expect("registers");
        Ok(admission.token)
    }

    async fn is_refused(&self, number: u8, token: &[u8]) -> bool {
        matches!(self.register(number, token).await, Err(Error::NoSession))
    }
}

#[tokio::test]
async fn each_token_is_good_for_one_registration_of_its_peer() {
    let bench = Bench::closed().await;
    let first = bench.login("ana", "right", 1).await.expect("logs in");
    assert!(bench.is_refused(2, &first).await, "another peer's");
    assert!(bench.is_refused(1, &[]).await, "none");
    assert!(bench.is_refused(1, &[7; 16]).await, "wrong");
    let second = bench.register(1, &first).await.expect("registers");
    assert!(bench.is_refused(1, &first).await, "replayed");
    assert!(bench.is_refused(2, &second).await, "another peer's");
    let third = bench.register(1, &second).await.expect("registers");
    assert!(bench.is_refused(1, &second).await, "replayed");
    // A login that was not used yet ends with the next one.
    let unused = bench.login("ana", "right", 1).await.expect("logs in");
    bench.login("ana", "right", 1).await.expect("logs in");
    assert!(bench.is_refused(1, &unused).await, "superseded");
    bench.register(1, &third).await.expect("the session holds");
}

#[tokio::test]
async fn tokens_end_with_their_time() {
    let bench = Bench::new(Policy::Closed, Duration::ZERO).await;
    let token = bench.login("ana", "right", 1).await.expect("logs in");
    assert!(bench.is_refused(1, &token).await, "stale");
}

#[tokio::test]
async fn logout_ends_the_session_and_needs_its_token() {
    let bench = Bench::closed().await;
    let first = bench.login("ana", "right", 1).await.expect("logs in");
    let token = bench.register(1, &first).await.expect("registers");
    for wrong in [&first[..], &[], &[0; 16]] {
        let refused = bench.accounts.logout(&peer(1), wrong).await;
        assert!(matches!(refused, Err(Error::NoSession)));
    }
    bench.accounts.logout(&peer(1), &token).await.expect("ends");
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_are_the_same() {
    let bench = Bench::closed().await;
    let wrong = bench.login("ana", "wrong", 1).await.expect_err("refused");
    let unknown = bench.login("eve", "right", 1).await.expect_err("refused");
    assert!(matches!(wrong, Error::Refused) && matches!(unknown, Error::Refused));
    assert_eq!(wrong.to_string(), unknown.to_string());
    for name in ["ana", "eve"] {
        let mut guesses = 0..;
        let held_back = loop {
            let guess = format!("guess {}", guesses.next().expect("endless"));
            match bench.login(name, &guess, 2).await.expect_err("refused") {
                Error::Refused => {}
                error => break error,
            }
        };
        assert!(matches!(held_back, Error::TooOften(_)), "{held_back}");
    }
}

#[tokio::test]
async fn open_makes_accounts_and_closed_does_not() {
    let open = Bench::new(Policy::Open, SESSION_LIFE).await;
    open.login("eve", "hers", 1).await.expect("makes it");
    assert!(matches!(
        open.login("eve", "other", 1).await,
        Err(Error::Refused)
    ));
    open.login("eve", "hers", 2).await.expect("logs in");
    assert!(matches!(
        open.login("ana", "hers", 2).await,
        Err(Error::Refused)
    ));
    let closed = Bench::closed().await;
    assert!(matches!(
        closed.login("eve", "hers", 1).await,
        Err(Error::Refused)
    ));
    let off = Bench::new(Policy::Off, SESSION_LIFE).await;
    assert!(matches!(
        off.login("ana", "right", 1).await,
        Err(Error::Off)
    ));
    assert!(
        off.accounts
            .admit(&peer(1), &[])
            .await
            .expect("lets in")
            .is_none()
    );
}

#[tokio::test]
async fn a_changed_account_ends_its_sessions() {
    let bench = Bench::closed().await;
    let pending = bench.login("ana", "right", 1).await.expect("logs in");
    let used = bench.login("ana", "right", 2).await.expect("logs in");
    let used = bench.register(2, &used).await.expect("registers");
    let hash = password::hash("new").expect("hashes");
    set_password(&*bench.store, user("ana"), hash)
        .await
        .expect("is set");
    assert!(bench.is_refused(1, &pending).await);
    assert!(bench.is_refused(2, &used).await);
    assert!(matches!(
        bench.login("ana", "right", 3).await,
        Err(Error::Refused)
    ));
    let token = bench.login("ana", "new", 3).await.expect("logs in");
    remove(&*bench.store, user("ana"))
        .await
        .expect("is removed");
    assert!(bench.is_refused(3, &token).await);
    let unknown = set_password(&*bench.store, user("ana"), String::new()).await;
    assert!(matches!(unknown, Err(ManageError::Unknown(_))));
}

#[tokio::test]
async fn who_would_not_be_let_in_gets_no_grace() {
    let bench = Bench::closed().await;
    let token = bench.login("ana", "right", 1).await.expect("logs in");
    bench.register(1, &token).await.expect("registers");
    let without = PeerRow {
        id: peer(2),
        session: None,
        token: [2; 32],
        ..bench.store.peers().await.expect("lists")[0].1.clone()
    };
    bench.store.register(without).await.expect("registers");
    let present = async || {
        let peers = bench.store.peers().await.expect("lists");
        let present = peers
            .into_iter()
            .filter(|(_, row)| row.state == PeerState::Present);
        present.map(|(_, row)| row.id).collect::<Vec<_>>()
    };
    bench.accounts.end_unadmitted().await.expect("ends");
    assert_eq!(present().await, [peer(1)]);
    remove(&*bench.store, user("ana"))
        .await
        .expect("is removed");
    bench.accounts.end_unadmitted().await.expect("ends");
    assert!(present().await.is_empty());
}

#[tokio::test]
async fn first_logins_from_many_addresses_leave_room_for_known_users() {
    let bench = Bench::new(Policy::Open, SESSION_LIFE).await;
    let mut first_logins = Vec::new();
    for network in 20..60 {
        let from = [10, 0, network, 1].into();
        let user = user(&network.to_string());
        let newcomer = || bench.accounts.hasher.enter(from, &user)?.of_newcomer();
        while let Ok(place) = newcomer() {
            first_logins.push(place);
        }
    }
    let another = bench.login("eve", "hers", 1).await;
    assert!(matches!(another, Err(Error::Busy)), "{another:?}");
    bench.login("ana", "right", 1).await.expect("logs in");
    drop(first_logins);
    bench.login("eve", "hers", 1).await.expect("makes it");
}

#[tokio::test]
async fn who_finds_no_place_is_not_remembered() {
    let bench = Bench::closed().await;
    let mut places = Vec::new();
    for network in 20..60 {
        let from = [10, 0, network, 1].into();
        let user = user(&network.to_string());
        while let Ok(place) = bench.accounts.hasher.enter(from, &user) {
            places.push(place);
        }
    }
    for number in 0..50 {
        let name = format!("user {number}");
        let busy = bench.login(&name, "guess", number).await;
        assert!(matches!(busy, Err(Error::Busy)), "{busy:?}");
    }
    assert_eq!(locked(&bench.accounts.backoff).remembered(), (0, 0));
}

#[tokio::test]
async fn an_old_password_uses_up_no_attempts_however_often_it_comes() {
    let bench = Bench::closed().await;
    let hash = password::hash("new").expect("hashes");
    let set = set_password(&*bench.store, user("ana"), hash).await;
    set.expect("is set");
    // From many peers at once, and again and again.
    let peers = (1..=4).map(|number| bench.login("ana", "right", number));
    for outcome in futures_util::future::join_all(peers).await {
        assert!(matches!(outcome, Err(Error::Refused)), "{outcome:?}");
    }
    let stopped = bench.accounts.hasher.stop();
    for number in 0..100 {
        let outcome = bench.login("ana", "right", number);
        let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await;
        let outcome = outcome.expect("without a hash");
        assert!(matches!(outcome, Err(Error::Refused)), "{outcome:?}");
    }
    drop(stopped);
    bench.login("ana", "new", 1).await.expect("logs in");
    // It is right again when it is set again.
    let hash = password::hash("right").expect("hashes");
    let set = set_password(&*bench.store, user("ana"), hash).await;
    set.expect("is set");
    bench.login("ana", "right", 1).await.expect("logs in");
}

#[tokio::test]
async fn first_logins_of_one_user_at_once_are_all_let_in() {
    let bench = Bench::new(Policy::Open, SESSION_LIFE).await;
    let peers = (1..=4).map(|number| bench.login("eve", "hers", number));
    for outcome in futures_util::future::join_all(peers).await {
        outcome.expect("logs in");
    }
}

#[tokio::test]
async fn who_goes_away_before_a_hash_was_begun_has_not_tried() {
    let bench = Bench::closed().await;
    let stopped = bench.accounts.hasher.stop();
    for number in 0..10 {
        let guess = format!("guess {number}");
        let login = bench.login("ana", &guess, 1);
        assert!(login.now_or_never().is_none(), "it waits for a thread");
    }
    assert_eq!(locked(&bench.accounts.backoff).remembered(), (0, 0));
    drop(stopped);
    let login = bench.login("ana", "guess", 1);
    assert!(login.now_or_never().is_none(), "it waits for the hash");
    assert_eq!(locked(&bench.accounts.backoff).remembered(), (1, 1));
}
