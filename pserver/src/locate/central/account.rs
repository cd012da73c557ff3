//! Logging in where a locator asks for it.
//!
//! Each locator has a [`Door`], which knows the token for this peer's next registration there.
//! Locators that share a directory share its sessions: the token goes to where the next lease is.
//! Tokens are good once, so registering, logging in and logging out take turns. The password is
//! kept in memory while this peer is logged in: a locator may forget a session at any time. It is
//! sent to nobody who did not ask for a login, and for a while not again to who refused it: each refusal
//! counts there, and a user's right password waits for those that failed. It may be right later: the
//! account may be made, or the password put right, after this peer asked.
//!
//! Invariant: nothing here that a client gets to see names a locator, or repeats what one wrote.

mod refusal;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{
    LoginRequest, LogoutRequest, RegisterRequest, RegisterResponse,
    accounts_client::AccountsClient, directory_client::DirectoryClient,
};
use vecino_rest::{
    PeerKey, UserName,
    body::{Session, SessionState},
};

use self::refusal::{REFUSED_FOR, Refusal};
use super::ANSWER_WITHIN;

/// A locator that takes no more logins for now is asked again at most so much later.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// How long a login may take: many may wait there, and each password costs its time.
const LOGIN_WITHIN: Duration = Duration::from_secs(20);

/// As whom this peer logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub user: UserName,
    /// 1 to 1024 bytes; never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, redacted)", self.user)
    }
}

/// Credentials that may change while the peer runs.
pub type Wanted = Option<Arc<Credentials>>;

/// Why a login that a client asked for came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Unknown user or wrong password.
    #[error("the network knows no such user with this password")]
    Refused,
    /// Too many failed, or wait.
    #[error(
        "the network takes no login of this user or from here now: too many failed; it does again \
         within a minute"
    )]
    TooMany,
    /// Nobody asks for one.
    #[error("the network asks for no login")]
    NotAsked,
    /// No answer.
    #[error("nobody in the network who could log this peer in answers")]
    Unreachable,
}

/// Why a registration came to nothing, for the operator's log.
#[derive(Debug, thiserror::Error)]
pub enum Barred {
    /// The locator asks for a login, and there are no credentials.
    #[error("it asks for a login: set PEER_USER and PEER_PASSWORD_FILE, or say `client login`")]
    Needed,
    /// It knows no such user with this password.
    #[error(
        "it refused the login: there is no user {0:?} with this password; it is asked again with \
         it every {minutes} minutes or so: say `client login`, or start this peer again with the \
         right one",
        minutes = REFUSED_FOR.as_secs() / 60
    )]
    Refused(UserName),
    /// It takes no more logins for now; after how long it does, if it says so.
    #[error("it takes no login now: {}", .0.message())]
    Held(Status, Option<Duration>),
    /// Something else.
    #[error("{0}")]
    Failed(Status),
}

/// How this peer stands with one locator.
#[derive(Debug, Default)]
enum State {
    #[default]
    NotAsked,
    Needed,
    Refused(UserName),
    LoggedIn {
        user: UserName,
        /// None once it was used, or handed over.
        token: Option<Token>,
    },
}

/// What a registration shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    bytes: Bytes,
    /// A registration gave it: so the directory knows it, and not only one of its locators.
    is_of_directory: bool,
}

/// A session with a directory that no locator has a lease for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenSession {
    user: UserName,
    token: Bytes,
}

impl OpenSession {
    #[cfg(test)]
    pub(super) fn new(user: UserName, token: Bytes) -> Self {
        Self { user, token }
    }
}

/// The way in at one locator.
#[derive(Debug)]
pub struct Door {
    key: PeerKey,
    accounts: AccountsClient<Channel>,
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// What the locator refused last.
    refused: Mutex<Option<Refusal>>,
}

impl Door {
    /// For the peer of `key`, at the locator behind `channel`.
    pub fn new(key: PeerKey, channel: Channel) -> Self {
        Self {
            key,
            accounts: AccountsClient::new(channel),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the locator let this peer in without a login.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), State::NotAsked)
    }

    fn is_logged_in(&self) -> bool {
        matches!(*self.state(), State::LoggedIn { .. })
    }

    fn token(&self) -> Option<Bytes> {
        match &*self.state() {
            State::LoggedIn { token, .. } => token.as_ref().map(|token| token.bytes.clone()),
            _ => None,
        }
    }

    /// The session, for whichever locator of the directory is next.
    pub(super) fn hand_over(&self) -> Option<OpenSession> {
        let State::LoggedIn { user, token } = &mut *self.state() else {
            return None;
        };
        let token = token.take_if(|token| token.is_of_directory)?;
        Some(OpenSession {
            user: user.clone(),
            token: token.bytes,
        })
    }

    /// Takes over a session with the directory, if there is one of the user who is wanted.
    fn take_over(&self, wanted: &Wanted, session: &mut Option<OpenSession>) -> bool {
        let is_wanted = |session: &mut OpenSession| {
            let wanted = wanted.as_ref();
            wanted.is_some_and(|wanted| wanted.user == session.user)
        };
        let Some(OpenSession { user, token }) = session.take_if(is_wanted) else {
            return false;
        };
        *self.state() = State::LoggedIn {
            user,
            token: Some(Token {
                bytes: token,
                is_of_directory: true,
            }),
        };
        true
    }

    /// The locator did not take it.
    fn forget_token(&self) {
        if let State::LoggedIn { token, .. } = &mut *self.state() {
            *token = None;
        }
    }

    /// Registers, and logs in first where that is asked for and no `session` with the directory
    /// helps.
    pub(super) async fn register(
        &self,
        directory: &mut DirectoryClient<Channel>,
        request: RegisterRequest,
        wanted: &mut watch::Receiver<Wanted>,
        session: &mut Option<OpenSession>,
    ) -> Result<RegisterResponse, Barred> {
        let _turn = self.turn.lock().await;
        // Now, and not while it waited: somebody may have logged out.
        let wanted = wanted.borrow_and_update().clone();
        // A login that has just succeeded may not be wanted yet.
        if wanted.is_none() && self.is_logged_in() {
            return Err(Barred::Needed);
        }
        if self.token().is_none() {
            self.take_over(&wanted, session);
        }
        // With what it has, with what another one had, and after a login.
        for is_last in [false, false, true] {
            let request = RegisterRequest {
                // It stays until the locator answered: while it is away, it keeps the session.
                session_token: self.token().unwrap_or_default(),
                ..request.clone()
            };
            match within(ANSWER_WITHIN, directory.register(request)).await {
                Ok(registered) => {
                    let registered = registered.into_inner();
                    // There is a session already: the token is not used, and stays good.
                    if !is_elsewhere(&registered) {
                        self.registered(&registered.session_token);
                    }
                    return Ok(registered);
                }
                Err(status) if status.code() == Code::Unauthenticated && !is_last => {
                    self.forget_token();
                    if self.take_over(&wanted, session) {
                        continue;
                    }
                }
                Err(status) => return Err(Barred::Failed(status)),
            }
            let Some(credentials) = &wanted else {
                *self.state() = State::Needed;
                return Err(Barred::Needed);
            };
            if self.has_refused(credentials) {
                return Err(self.stands_refused(credentials));
            }
            match self.login(credentials).await {
                Ok(token) => self.logged_in(credentials, token),
                Err(status) => match status.code() {
                    Code::Unauthenticated => {
                        self.remember_refused(credentials);
                        return Err(self.stands_refused(credentials));
                    }
                    Code::ResourceExhausted => {
                        let after = retry_after(&status);
                        return Err(Barred::Held(status, after));
                    }
                    _ => return Err(Barred::Failed(status)),
                },
            }
        }
        Err(Barred::Needed)
    }

    fn registered(&self, next: &Bytes) {
        let mut state = self.state();
        match &mut *state {
            State::LoggedIn { token, .. } if !next.is_empty() => {
                *token = Some(Token {
                    bytes: next.clone(),
                    is_of_directory: true,
                });
            }
            other => *other = State::NotAsked,
        }
    }

    fn logged_in(&self, credentials: &Credentials, token: Bytes) {
        *self.state() = State::LoggedIn {
            user: credentials.user.clone(),
            token: Some(Token {
                bytes: token,
                is_of_directory: false,
            }),
        };
    }

    fn last_refusal(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_refused(&self, credentials: &Credentials) -> bool {
        let refusal = self.last_refusal();
        let now = Instant::now();
        refusal.as_ref().is_some_and(|r| r.is_of(credentials, now))
    }

    /// These credentials are not tried again for a while.
    fn remember_refused(&self, credentials: &Credentials) {
        let jitter = rand::random_range(0.0..1.0);
        *self.last_refusal() = Some(Refusal::new(credentials, Instant::now(), jitter));
    }

    fn stands_refused(&self, credentials: &Credentials) -> Barred {
        *self.state() = State::Refused(credentials.user.clone());
        Barred::Refused(credentials.user.clone())
    }

    /// A client logged in with `credentials`, which are wanted from now on if `are_wanted`; what came
    /// of it here: whatever was refused before may be tried again, but for what just was.
    fn logged_in_by_client(
        &self,
        credentials: &Credentials,
        outcome: &Result<(), LoginError>,
        are_wanted: bool,
    ) {
        let are_refused = |refusal: &Refusal| refusal.credentials == *credentials;
        if are_wanted || self.last_refusal().as_ref().is_some_and(are_refused) {
            match outcome {
                Err(LoginError::Refused) => self.remember_refused(credentials),
                _ => *self.last_refusal() = None,
            }
        }
    }

    async fn login(&self, credentials: &Credentials) -> Result<Bytes, Status> {
        let request = LoginRequest {
            peer_key: self.key.as_bytes().to_vec().into(),
            user: credentials.user.to_string(),
            password: credentials.password.clone(),
        };
        let mut accounts = self.accounts.clone();
        let answer = within(LOGIN_WITHIN, accounts.login(request)).await?;
        Ok(answer.into_inner().session_token)
    }

    /// As a client wants it: whatever was before stays when it fails.
    async fn login_now(&self, credentials: &Credentials) -> Result<(), LoginError> {
        let _turn = self.turn.lock().await;
        match self.login(credentials).await {
            Ok(token) => {
                self.logged_in(credentials, token);
                Ok(())
            }
            Err(status) => Err(match status.code() {
                Code::Unauthenticated => LoginError::Refused,
                Code::ResourceExhausted => LoginError::TooMany,
                Code::FailedPrecondition | Code::Unimplemented => LoginError::NotAsked,
                _ => LoginError::Unreachable,
            }),
        }
    }

    async fn logout(&self) {
        let _turn = self.turn.lock().await;
        let session_token = self.token();
        if !self.is_open() {
            *self.state() = State::Needed;
        }
        let Some(session_token) = session_token else {
            return;
        };
        let request = LogoutRequest {
            peer_key: self.key.as_bytes().to_vec().into(),
            session_token,
        };
        let mut accounts = self.accounts.clone();
        if let Err(status) = within(ANSWER_WITHIN, accounts.logout(request)).await {
            // Its lease is given back, or ends by itself.
            log::debug!("a session was not ended: {}", status.message());
        }
    }
}

/// After how long a locator wants to be asked again, if it says so.
fn retry_after(status: &Status) -> Option<Duration> {
    let told = status.metadata().get(vecino_grpc::RETRY_AFTER_MS)?;
    let ms = told.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(ms).min(MAX_RETRY_AFTER))
}

/// Whether a locator answers that this peer has a lease in its directory already, at another one.
pub(super) fn is_elsewhere(registered: &RegisterResponse) -> bool {
    registered.lease_token.is_empty() && !registered.directory.is_empty()
}

/// The answer, unless it takes longer than `time`.
pub(super) async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(time, answer)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// The account of this peer, at all its locators.
#[derive(Debug)]
pub struct Account {
    wanted: watch::Sender<Wanted>,
    doors: Vec<Arc<Door>>,
}

impl Account {
    /// Logs in as `credentials` wherever that is asked for.
    pub fn new(credentials: Option<Credentials>, doors: Vec<Arc<Door>>) -> Self {
        Self {
            wanted: watch::Sender::new(credentials.map(Arc::new)),
            doors,
        }
    }

    /// The credentials, as they change.
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Logs in at every locator that asks for it; good when it is at one of them.
    pub async fn login(&self, credentials: Credentials) -> Result<Session, LoginError> {
        let tries = self.doors.iter().map(|door| door.login_now(&credentials));
        let outcomes = join_all(tries).await;
        let is_in = outcomes.iter().any(Result::is_ok);
        for (door, outcome) in self.doors.iter().zip(&outcomes) {
            door.logged_in_by_client(&credentials, outcome, is_in);
        }
        if is_in {
            log::info!("logged in as {:?}", credentials.user);
            self.wanted.send_replace(Some(Arc::new(credentials)));
            return Ok(self.session());
        }
        let first = [
            LoginError::Refused,
            LoginError::TooMany,
            LoginError::Unreachable,
        ];
        let came = |error: &LoginError| outcomes.contains(&Err(*error));
        Err(first.into_iter().find(came).unwrap_or(LoginError::NotAsked))
    }

    /// Logs out everywhere, until a client logs in.
    pub async fn logout(&self) -> Session {
        join_all(self.doors.iter().map(|door| door.logout())).await;
        self.wanted
            .send_if_modified(|wanted| wanted.take().is_some());
        self.session()
    }

    /// How this peer stands with the network.
    pub fn session(&self) -> Session {
        let of_door = |door: &Arc<Door>| match &*door.state() {
            State::NotAsked => (SessionState::NotAsked, None),
            State::Needed => (SessionState::Needed, None),
            State::Refused(user) => (SessionState::Refused, Some(user.clone())),
            State::LoggedIn { user, .. } => (SessionState::LoggedIn, Some(user.clone())),
        };
        let all: Vec<_> = self.doors.iter().map(of_door).collect();
        let first = [
            SessionState::LoggedIn,
            SessionState::Refused,
            SessionState::Needed,
        ];
        let best = first
            .into_iter()
            .find_map(|wanted| all.iter().find(|(state, _)| *state == wanted));
        let (state, user) = best.cloned().unwrap_or_default();
        Session { state, user }
    }

    /// Why others do not find this peer, where that is a matter of the login.
    pub fn offline_reason(&self) -> Option<String> {
        let Session { state, user } = self.session();
        match (state, user) {
            (SessionState::Needed, _) => Some("the network asks for a login".to_owned()),
            (SessionState::Refused, Some(user)) => {
                Some(format!("the network refused the login of user {user:?}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::PeerUrl;

    use super::*;

    #[test]
    fn a_locator_says_when_it_takes_logins_again_within_reason() {
        let told = |text: &'static str| {
            let mut status = Status::resource_exhausted("too many");
            let key = vecino_grpc::RETRY_AFTER_MS;
            let value = tonic::metadata::MetadataValue::from_static(text);
            status.metadata_mut().insert(key, value);
            retry_after(&status)
        };
        assert_eq!(told("1500"), Some(Duration::from_millis(1_500)));
        assert_eq!(told("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!((told("-1"), told("soon")), (None, None));
        assert_eq!(retry_after(&Status::resource_exhausted("")), None);
    }

    fn ana() -> Credentials {
        Credentials {
            user: UserName::parse("ana").expect("valid"),
            password: "hers".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_clients_login_is_tried_again_where_it_was_not_just_refused() {
        let locator = PeerUrl::parse("http://127.0.0.1:1").expect("valid");
        let channel = super::super::channel(&locator).expect("a channel");
        let door = Door::new(PeerKey::from_bytes([7; 32]), channel);
        let ana = ana();
        let ben = Credentials {
            user: UserName::parse("ben").expect("valid"),
            ..ana.clone()
        };
        for outcome in [
            Ok(()),
            Err(LoginError::TooMany),
            Err(LoginError::Unreachable),
        ] {
            door.remember_refused(&ana);
            door.logged_in_by_client(&ben, &outcome, false);
            assert!(door.has_refused(&ana), "nobody wants another user");
            door.logged_in_by_client(&ana, &outcome, outcome.is_ok());
            assert!(!door.has_refused(&ana), "{outcome:?}");
            door.remember_refused(&ana);
            door.logged_in_by_client(&ana, &outcome, true);
            assert!(!door.has_refused(&ana), "{outcome:?}");
        }
        door.logged_in_by_client(&ana, &Err(LoginError::Refused), true);
        assert!(door.has_refused(&ana));
        door.logged_in_by_client(&ben, &Err(LoginError::Refused), false);
        assert!(door.has_refused(&ana));
        let account = Account::new(None, vec![Arc::new(door)]);
        let nobody = account.login(ana.clone()).await;
        assert_eq!(nobody, Err(LoginError::Unreachable));
        assert!(!account.doors[0].has_refused(&ana));
    }

    #[tokio::test]
    async fn while_the_locator_is_away_the_session_stays() {
        // Nobody listens there any more.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = gone.local_addr().expect("bound");
        drop(gone);
        let locator = PeerUrl::parse(&format!("http://{address}")).expect("valid");
        let channel = super::super::channel(&locator).expect("a channel");
        let door = Door::new(PeerKey::from_bytes([7; 32]), channel.clone());
        let ana = ana();
        let token = Bytes::from_static(b"token");
        door.logged_in(&ana, token.clone());
        let (wanted, mut wants) = watch::channel(Some(Arc::new(ana)));
        let mut directory = DirectoryClient::new(channel);
        let request = RegisterRequest::default();
        let barred = door
            .register(&mut directory, request, &mut wants, &mut None)
            .await;
        assert!(matches!(barred, Err(Barred::Failed(_))), "{barred:?}");
        assert_eq!(door.token(), Some(token));
        // Who logged out meanwhile is not shown as logged in.
        wanted.send_replace(None);
        door.logout().await;
        assert!(!door.is_logged_in() && door.token().is_none());
    }
}
