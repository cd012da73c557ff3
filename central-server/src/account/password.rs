//! Hashing passwords: argon2id with the parameters that OWASP recommends (19 MiB, 2 passes, 1
//! lane), on a few threads and behind a bounded queue, so that logins cost lookups little.
//!
//! Invariant: one network has few of the places in the queue, and so have one user's name and all
//! first logins together: whoever fills those leaves room for the others. Many networks at once can
//! fill them all.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vecino_rest::UserName;

use super::{Error, locked};

/// Memory of a hash, in KiB.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// Lanes.
const LANES: u32 = 1;
/// Bytes of salt.
const SALT: usize = 16;
/// Logins that wait for a thread at most.
const QUEUE: usize = 128;
/// Those of one network at most.
const QUEUE_OF_NETWORK: usize = 8;
/// Those by one user's name at most.
const QUEUE_OF_USER: usize = 8;
/// Those that are to make an account at most: anybody can send as many as there are addresses.
const QUEUE_OF_NEWCOMERS: usize = 64;
/// Cores for each thread that hashes, and threads at most.
const CORES_A_THREAD: usize = 4;
const MAX_THREADS: usize = 4;

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("they are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// What a hash of another program may need at most: it comes with an import.
const MAX_MEMORY_KIB: u32 = 64 * 1024;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 8;

/// Whether a password can be compared with `hash`, and for how much; the error says what is wrong.
pub fn check_hash(hash: &str) -> Result<(), String> {
    let hash = PasswordHash::new(hash).map_err(|error| error.to_string())?;
    if Algorithm::new(hash.algorithm).ok() != Some(Algorithm::Argon2id) {
        return Err(format!("{} instead of argon2id", hash.algorithm));
    }
    if let Some(version) = hash.version {
        Version::try_from(version).map_err(|error| error.to_string())?;
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("it has no salt, or no hash".into());
    }
    let params = Params::try_from(&hash).map_err(|error| error.to_string())?;
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if memory > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > MAX_LANES {
        return Err(format!(
            "m={memory},t={passes},p={lanes}: expected at most \
             m={MAX_MEMORY_KIB},t={MAX_PASSES},p={MAX_LANES}"
        ));
    }
    Ok(())
}

/// Hashes `password` with a new salt. Blocks for tens of milliseconds.
pub fn hash(password: &str) -> Result<String, Error> {
    let mut salt = [0; SALT];
    getrandom::fill(&mut salt).map_err(Error::Randomness)?;
    let failed = |error: password_hash::Error| Error::Hash(error.to_string());
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let hash = argon2().hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(failed)?.to_string())
}

/// Whether `hash` is of `password`. Blocks as long.
fn verify(password: &str, hash: &str) -> Result<bool, Error> {
    check_hash(hash).map_err(Error::Hash)?;
    let failed = |error: password_hash::Error| Error::Hash(error.to_string());
    let hash = PasswordHash::new(hash).map_err(failed)?;
    match argon2().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::Password) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct Hasher {
    places: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    of_networks: Shares<IpAddr>,
    of_users: Shares<UserName>,
    threads: Arc<Semaphore>,
}

/// How many places each has that has any.
type Shares<K> = Arc<Mutex<HashMap<K, usize>>>;

impl Default for Hasher {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / CORES_A_THREAD).clamp(1, MAX_THREADS);
        Self {
            places: Arc::new(Semaphore::new(threads + QUEUE)),
            newcomers: Arc::new(Semaphore::new(QUEUE_OF_NEWCOMERS)),
            of_networks: Arc::default(),
            of_users: Arc::default(),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }
}

impl Hasher {
    /// A place in the queue for somebody of this network who logs in by this name, if one is free.
    pub(super) fn enter(&self, network: IpAddr, user: &UserName) -> Result<Place, Error> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Error::Busy)?;
        Ok(Place {
            _place: place,
            _newcomer: None,
            _of_network: Share::take(&self.of_networks, network, QUEUE_OF_NETWORK)?,
            _of_user: Share::take(&self.of_users, user.clone(), QUEUE_OF_USER)?,
            newcomers: self.newcomers.clone(),
            threads: self.threads.clone(),
            is_hashing: Arc::default(),
        })
    }

    /// Nothing is hashed until it is dropped.
    #[cfg(test)]
    pub(super) fn stop(&self) -> OwnedSemaphorePermit {
        let threads = u32::try_from(self.threads.available_permits()).expect("few");
        let all = self.threads.clone().try_acquire_many_owned(threads);
        all.expect("they are free")
    }

    /// Hashes a password of the operator's, who needs no place: strangers may have taken all.
    pub(super) async fn hash_for_operator(&self, password: String) -> Result<String, Error> {
        let began = Arc::default();
        let hashed = run((), self.threads.clone(), began, move || hash(&password)).await;
        hashed.map(|((), hash)| hash)
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _newcomer: Option<OwnedSemaphorePermit>,
    _of_network: Share<IpAddr>,
    _of_user: Share<UserName>,
    newcomers: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    /// It is being used.
    is_hashing: Arc<AtomicBool>,
}

/// A place that counts for somebody. Who has none is not remembered.
#[derive(Debug)]
struct Share<K: Hash + Eq> {
    of: K,
    shares: Shares<K>,
}

impl<K: Hash + Eq + Clone> Share<K> {
    fn take(shares: &Shares<K>, of: K, most: usize) -> Result<Self, Error> {
        let mut taken = locked(shares);
        let taken = taken.entry(of.clone()).or_default();
        if *taken >= most {
            return Err(Error::Busy);
        }
        *taken += 1;
        let shares = shares.clone();
        Ok(Self { of, shares })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut shares = locked(&self.shares);
        if let Some(taken) = shares.get_mut(&self.of) {
            *taken -= 1;
            if *taken == 0 {
                shares.remove(&self.of);
            }
        }
    }
}

impl Place {
    /// The same place for somebody who is to get an account, if there is one for those.
    pub(super) fn of_newcomer(mut self) -> Result<Self, Error> {
        let newcomer = self.newcomers.clone().try_acquire_owned();
        self._newcomer = Some(newcomer.map_err(|_| Error::Busy)?);
        Ok(self)
    }

    /// Becomes true when hashing begins.
    pub(super) fn is_hashing(&self) -> Arc<AtomicBool> {
        self.is_hashing.clone()
    }

    /// The hash, and the place, which is free again when it is dropped.
    pub(super) async fn hash(self, password: String) -> Result<(Self, String), Error> {
        let (threads, began) = (self.threads.clone(), self.is_hashing.clone());
        run(self, threads, began, move || hash(&password)).await
    }

    pub(super) async fn verify(self, password: String, hash: String) -> Result<bool, Error> {
        let (threads, began) = (self.threads.clone(), self.is_hashing.clone());
        let verified = run(self, threads, began, move || verify(&password, &hash)).await;
        verified.map(|(_, is_right)| is_right)
    }
}

/// Works on a thread of the pool. What is `held` is so until the work is done, whoever still waits
/// for it.
async fn run<H: Send + 'static, T: Send + 'static>(
    held: H,
    threads: Arc<Semaphore>,
    began: Arc<AtomicBool>,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<(H, T), Error> {
    let thread = threads.acquire_owned().await.expect("never closed");
    began.store(true, Relaxed);
    let worked = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        Ok((held, work()?))
    });
    worked
        .await
        .unwrap_or_else(|error| Err(Error::Hash(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_alone_and_says_how_it_was_made() {
        let (one, other) = (
            hash("pässword").expect("hashes"),
            hash("pässword").expect("hashes"),
        );
        assert_ne!(one, other, "each has its salt");
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert!(verify("pässword", &one).expect("verifies"));
        assert!(!verify("passwort", &one).expect("verifies"));
        assert!(matches!(verify("x", "nonsense"), Err(Error::Hash(_))));
    }

    #[test]
    fn a_hash_that_would_cost_much_or_is_of_another_kind_is_never_tried() {
        let ours = hash("x").expect("hashes");
        assert_eq!(check_hash(&ours), Ok(()));
        for (from, to) in [
            ("m=19456", "m=4194304"),
            ("t=2", "t=4000000"),
            ("p=1", "p=255"),
            ("argon2id", "argon2i"),
            ("argon2id", "scrypt"),
            ("v=19", "v=77"),
            ("$m=19456,t=2,p=1", ""),
        ] {
            let theirs = ours.replacen(from, to, 1);
            // Without parameters they are the usual ones.
            assert_eq!(check_hash(&theirs).is_ok(), to.is_empty(), "{theirs}");
            assert_eq!(verify("x", &theirs).is_ok(), to.is_empty(), "{theirs}");
        }
        let end = ours.rfind('$').expect("parts");
        assert!(check_hash(&ours[..end]).is_err(), "nothing to compare with");
    }

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn user(number: u8) -> UserName {
        UserName::parse(&format!("user {number}")).expect("valid")
    }

    /// Takes places until there is none, in one network after the other.
    fn fill(hasher: &Hasher, enter: impl Fn(u8) -> Result<Place, Error>) -> Vec<Place> {
        let mut places = Vec::new();
        for number in 0..=u8::MAX {
            while let Ok(place) = enter(number) {
                places.push(place);
            }
        }
        assert!(locked(&hasher.of_networks).len() <= places.len());
        places
    }

    #[tokio::test]
    async fn who_finds_the_queue_full_is_told_and_places_come_back() {
        let hasher = Hasher::default();
        let enter = |number| hasher.enter(address(number), &user(number));
        let mut places = fill(&hasher, enter);
        assert!((QUEUE..=MAX_THREADS + QUEUE).contains(&places.len()));
        let refused = enter(255);
        assert!(matches!(refused, Err(Error::Busy)));
        // The operator does not wait for strangers.
        let hashed = hasher.hash_for_operator("x".into()).await;
        hashed.expect("hashes");
        let place = places.pop().expect("many");
        place.hash("x".into()).await.expect("hashes");
        assert!(enter(255).is_ok());
        drop(places);
        assert!(locked(&hasher.of_networks).is_empty() && locked(&hasher.of_users).is_empty());
    }

    #[test]
    fn neither_one_network_nor_one_name_nor_all_newcomers_take_the_places_of_others() {
        let hasher = Hasher::default();
        let enter = |number| hasher.enter(address(number), &user(number));
        for (of_network, of_user) in [(true, false), (false, true)] {
            let places = fill(&hasher, |number| {
                let network = address(if of_network { 1 } else { number });
                hasher.enter(network, &user(if of_user { 1 } else { number }))
            });
            assert_eq!(places.len(), QUEUE_OF_NETWORK.max(QUEUE_OF_USER));
            assert!(enter(2).is_ok());
        }
        let newcomer = |number| enter(number).and_then(Place::of_newcomer);
        let newcomers = fill(&hasher, newcomer);
        assert_eq!(newcomers.len(), QUEUE_OF_NEWCOMERS);
        assert!(newcomer(255).is_err());
        let others = fill(&hasher, enter);
        assert!(others.len() >= QUEUE - QUEUE_OF_NEWCOMERS);
    }
}
