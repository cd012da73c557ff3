//! Hashing passwords: argon2id with the parameters that OWASP recommends (19 MiB, 2 passes, 1
//! lane), on a few threads and behind a bounded queue, so that logins cost lookups little.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

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
/// Cores for each thread that hashes, and threads at most.
const CORES_A_THREAD: usize = 4;
const MAX_THREADS: usize = 4;

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("they are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
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
    threads: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / CORES_A_THREAD).clamp(1, MAX_THREADS);
        Self {
            places: Arc::new(Semaphore::new(threads + QUEUE)),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }
}

impl Hasher {
    /// A place in the queue, if one is free.
    pub(super) fn enter(&self) -> Result<Place, Error> {
        let place = self.places.clone().try_acquire_owned();
        Ok(Place {
            place: place.map_err(|_| Error::Busy)?,
            threads: self.threads.clone(),
        })
    }
}

/// A place in the queue.
pub(super) struct Place {
    place: OwnedSemaphorePermit,
    threads: Arc<Semaphore>,
}

impl Place {
    pub(super) async fn hash(self, password: String) -> Result<String, Error> {
        self.run(move || hash(&password)).await
    }

    pub(super) async fn verify(self, password: String, hash: String) -> Result<bool, Error> {
        self.run(move || verify(&password, &hash)).await
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Self { place, threads } = self;
        let thread = threads.acquire_owned().await.expect("never closed");
        let worked = tokio::task::spawn_blocking(move || {
            // Held until the work is done, whoever still waits for it.
            let _held = (place, thread);
            work()
        });
        worked
            .await
            .unwrap_or_else(|error| Err(Error::Hash(error.to_string())))
    }
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

    #[tokio::test]
    async fn who_finds_the_queue_full_is_told_and_places_come_back() {
        let hasher = Hasher::default();
        let mut places = Vec::new();
        let refused = loop {
            match hasher.enter() {
                Ok(place) => places.push(place),
                Err(error) => break error,
            }
            assert!(places.len() <= MAX_THREADS + QUEUE);
        };
        assert!(matches!(refused, Error::Busy));
        assert!(places.len() > QUEUE);
        let place = places.pop().expect("many");
        place.hash("x".into()).await.expect("hashes");
        assert!(hasher.enter().is_ok());
    }
}
