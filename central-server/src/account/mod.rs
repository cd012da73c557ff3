//! Accounts: who may register. It decides; `grpc` translates, the store remembers.
//!
//! Invariants: nothing in an answer, nor the time that it takes, tells an unknown user from a wrong
//! password. A token is kept as its hash, is good for one registration of the peer that logged in,
//! and not after its time, its logout, or a change of the account. Everything here that grows by
//! what strangers send has a bound.

mod agreement;
mod backoff;
mod manage;
mod password;
mod recent;
mod session;
mod wrong;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use vecino_rest::{PeerId, UserName};

use crate::{
    directory::{Clock, Token, lease::network},
    store::{Account, Expect, PeerRow, Session, Store, StoreError, TokenHash},
};
pub use agreement::{Disagreement, keep};
use backoff::Backoff;
pub use manage::{ManageError, add, list, put_out, remove, set_password};
use password::{Hasher, Place};
pub use password::{check_hash, hash as hash_password};
use session::Pending;
use wrong::Wrong;

/// How long a session token is good for.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// A first login makes no account when there are so many.
pub const MAX_ACCOUNTS: u64 = 1_000_000;
/// Accounts read in one step.
const PAGE: usize = 1_000;

/// `ACCOUNTS`: who may register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Everybody; nobody logs in.
    #[default]
    Off,
    /// Who logs in; the first login makes the account.
    Open,
    /// Who logs in to an account that is there.
    Closed,
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "off" => Ok(Self::Off),
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Accounts are off.
    #[error("no login is needed here")]
    Off,
    /// Unknown user or wrong password: which of both is nobody's business.
    #[error("there is no such user with this password")]
    Refused,
    /// Too many failed.
    #[error("too many logins failed: try again in {} seconds", .0.as_secs() + 1)]
    TooOften(Duration),
    /// Too many wait.
    #[error("too many logins wait: try again in a moment")]
    Busy,
    /// What a registration shows is not good, or not any more.
    #[error("the session token is missing, unknown, used or over: log in")]
    NoSession,
    /// No more accounts are made by first logins.
    #[error("there are {MAX_ACCOUNTS} accounts already")]
    Full,
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The password could not be hashed.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Somebody who logs in.
pub struct Login {
    /// As whom.
    pub user: UserName,
    /// With what.
    pub password: String,
    /// For which peer.
    pub peer: PeerId,
    /// From where.
    pub address: IpAddr,
}

/// What a registration that was let in is given.
#[derive(Debug, Clone)]
pub struct Admission {
    /// To be kept with the peer.
    pub session: Session,
    /// For the next registration.
    pub token: Token,
}

/// The accounts of a locator.
pub struct Accounts {
    policy: Policy,
    life: Duration,
    store: Arc<dyn Store>,
    hasher: Hasher,
    backoff: Mutex<Backoff>,
    wrong: Mutex<Wrong>,
    /// Logins whose peers have not registered yet.
    pending: Mutex<Pending>,
    clock: Clock,
    /// As far as this process knows; counted where first logins make accounts.
    count: AtomicU64,
}

fn hash_of(token: &[u8]) -> TokenHash {
    blake3::hash(token).into()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random number that no other account has.
fn stamp() -> Result<u64, getrandom::Error> {
    getrandom::u64()
}

impl Accounts {
    /// Those in `store`; session tokens are good for `life`.
    pub async fn open(
        store: Arc<dyn Store>,
        policy: Policy,
        life: Duration,
    ) -> Result<Self, StoreError> {
        let mut count = 0;
        if policy == Policy::Open {
            let mut after = None;
            loop {
                let page = store.accounts(after.as_ref(), PAGE).await?;
                count += page.len() as u64;
                match page.into_iter().next_back() {
                    Some(last) => after = Some(last.user),
                    None => break,
                }
            }
        }
        Ok(Self {
            policy,
            life,
            store,
            hasher: Hasher::default(),
            backoff: Mutex::default(),
            wrong: Mutex::default(),
            pending: Mutex::default(),
            clock: Clock::default(),
            count: AtomicU64::new(count),
        })
    }

    /// Who may register.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How long a session token is good for.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// Lets a user in; the token for the peer's next registration.
    pub async fn login(&self, login: Login) -> Result<Token, Error> {
        if self.policy == Policy::Off {
            return Err(Error::Off);
        }
        let Login {
            user,
            password,
            peer,
            address,
        } = login;
        let from = network(address);
        // First of all: who finds no place has not tried, and is remembered nowhere.
        let place = self.hasher.enter(from, &user)?;
        let known = self.store.account(&user).await?;
        let stamp = known.as_ref().map(|account| account.stamp);
        let guess = locked(&self.wrong).guess(&user, stamp, &password)?;
        if locked(&self.wrong).is_known(&guess) {
            return Err(Error::Refused);
        }
        let begun = locked(&self.backoff).begin(&user, from, self.clock.now());
        begun.map_err(Error::TooOften)?;
        let mut attempt = Attempt {
            backoff: &self.backoff,
            user: &user,
            from,
            counts: Some(place.is_hashing()),
        };
        let outcome = self.check(&user, known, password, place).await;
        attempt.counts = None;
        match &outcome {
            Ok(_) => locked(&self.backoff).succeeded(&user, from),
            Err(Error::Refused) if locked(&self.wrong).remember(guess) => {}
            // Nobody's password was wrong, or the same one as another's at the same time.
            Err(_) => locked(&self.backoff).undo(&user, from),
        }
        let account = outcome?;
        let (token, session) = self.session(account.user, account.stamp)?;
        locked(&self.pending).put(peer, session);
        Ok(token)
    }

    /// The account of `user`, which is `known` or to be made, if that is the password.
    async fn check(
        &self,
        user: &UserName,
        known: Option<Account>,
        password: String,
        place: Place,
    ) -> Result<Account, Error> {
        match known {
            Some(account) => verified(account, password, place).await,
            None if self.policy == Policy::Open => {
                if self.count.load(Relaxed) >= MAX_ACCOUNTS {
                    return Err(Error::Full);
                }
                // Where first logins make no accounts, those without one have no queue of their
                // own: it would tell who has one.
                let place = place.of_newcomer()?;
                let (place, hash) = place.hash(password.clone()).await?;
                let account = Account {
                    user: user.clone(),
                    password: hash,
                    stamp: stamp().map_err(Error::Randomness)?,
                    created_ms: self.clock.wall_ms(),
                };
                let is_new = self.store.put_account(account.clone(), Expect::Absent);
                if !is_new.await? {
                    // Another first login was faster, perhaps of the same user's.
                    let known = self.store.account(user).await?.ok_or(Error::Refused)?;
                    return verified(known, password, place).await;
                }
                self.count.fetch_add(1, Relaxed);
                log::info!("user {user:?} logged in for the first time and has an account now");
                Ok(account)
            }
            None => {
                // The same work as for a wrong password.
                place.hash(password).await?;
                Err(Error::Refused)
            }
        }
    }

    fn session(&self, user: UserName, stamp: u64) -> Result<(Token, Session), Error> {
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(Error::Randomness)?;
        let life_ms = i64::try_from(self.life.as_millis()).unwrap_or(i64::MAX);
        let session = Session {
            user,
            stamp,
            token: hash_of(&token),
            ends_ms: self.clock.wall_ms().saturating_add(life_ms),
        };
        Ok((token, session))
    }

    /// Whether a peer may register, given the token that it shows. The token is used up.
    pub async fn admit(&self, peer: &PeerId, shown: &[u8]) -> Result<Option<Admission>, Error> {
        if self.policy == Policy::Off {
            return Ok(None);
        }
        let Session { user, stamp, .. } = self.current(peer, shown).await?;
        let (token, session) = self.session(user, stamp)?;
        Ok(Some(Admission { session, token }))
    }

    /// Whether the account of a peer that just registered is still as it was when it was let in: it
    /// may have been changed in between.
    pub async fn confirm(&self, session: &Session) -> Result<(), Error> {
        let is_good = self.is_good(session).await?;
        is_good.then_some(()).ok_or(Error::NoSession)
    }

    /// Ends the session that `shown` is of. The lease is the directory's.
    pub async fn logout(&self, peer: &PeerId, shown: &[u8]) -> Result<(), Error> {
        if self.policy == Policy::Off {
            return Err(Error::Off);
        }
        self.current(peer, shown).await.map(drop)
    }

    /// The session of `peer` of which `shown` is the token.
    async fn current(&self, peer: &PeerId, shown: &[u8]) -> Result<Session, Error> {
        let token = hash_of(shown);
        let begun = locked(&self.pending).take(peer, &token);
        let session = match begun {
            Some(session) => Some(session),
            None => {
                let known = self.store.peer(peer).await?;
                let kept = known.and_then(|(_, row)| row.session);
                kept.filter(|session| session.token == token)
            }
        };
        let session = session.ok_or(Error::NoSession)?;
        if self.is_good(&session).await? {
            Ok(session)
        } else {
            Err(Error::NoSession)
        }
    }

    /// Whether a session is not over, and its account as it was.
    async fn is_good(&self, session: &Session) -> Result<bool, StoreError> {
        if self.clock.wall_ms() >= session.ends_ms {
            return Ok(false);
        }
        let account = self.store.account(&session.user).await?;
        Ok(account.is_some_and(|account| account.stamp == session.stamp))
    }

    /// Ends the leases of peers that would not be let in now: accounts may have been asked for, or
    /// removed, while no locator ran. To be called before the directory gives them their grace.
    pub async fn end_unadmitted(&self) -> Result<(), StoreError> {
        if self.policy == Policy::Off {
            return Ok(());
        }
        let peers = self.store.peers().await?;
        // Many peers may be of one user.
        let users = peers.iter().filter_map(|(_, row)| row.session.as_ref());
        let users: BTreeSet<_> = users.map(|session| session.user.clone()).collect();
        let users: Vec<_> = users.into_iter().collect();
        let mut stamps = HashMap::new();
        for some in users.chunks(PAGE) {
            let accounts = self.store.accounts_of(some).await?;
            stamps.extend(accounts.into_iter().map(|known| (known.user, known.stamp)));
        }
        // A live peer outlives the token of its next registration.
        let stays = |row: &PeerRow| match &row.session {
            Some(session) => stamps.get(&session.user) == Some(&session.stamp),
            None => false,
        };
        let over = peers.iter().filter(|(_, row)| !stays(row));
        let over = over.map(|(no, row)| (*no, row.token)).collect();
        self.store.lapse(over, self.clock.wall_ms()).await
    }

    /// Hashes a password of the operator's on the pool.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.hasher.hash_for_operator(password).await
    }
}

/// An attempt that is under way. Whoever goes away meanwhile has tried nothing unless it cost a hash.
struct Attempt<'a> {
    backoff: &'a Mutex<Backoff>,
    user: &'a UserName,
    from: IpAddr,
    /// Whether a hash was begun for it; `None` when its outcome is known.
    counts: Option<Arc<AtomicBool>>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self
            .counts
            .take()
            .is_some_and(|counts| !counts.load(Relaxed))
        {
            locked(self.backoff).undo(self.user, self.from);
        }
    }
}

/// The account, if that is its password.
async fn verified(account: Account, password: String, place: Place) -> Result<Account, Error> {
    let is_right = place.verify(password, account.password.clone()).await?;
    is_right.then_some(account).ok_or(Error::Refused)
}

#[cfg(test)]
mod tests;
