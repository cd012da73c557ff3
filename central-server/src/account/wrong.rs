//! Passwords that were refused lately. A peer that still has an old one asks with it again and again,
//! and there may be many of them: they learn nothing by it, so it costs neither a hash nor one of the
//! attempts of the user, whose right password would wait with them otherwise.
//!
//! Invariant: of a password only a hash is kept, whose key nobody has but this process; what was
//! refused for an account is not for the account as it was changed since. Users that are not there
//! are remembered as well: nobody can tell them by it.

use vecino_rest::UserName;

use super::{Error, recent::Recent};

/// Refusals that are remembered at least.
const KEPT: usize = 16_384;

/// A user, an account as it was, and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Guess([u8; 32]);

/// The refused ones.
#[derive(Debug)]
pub(super) struct Wrong {
    key: Option<[u8; 32]>,
    guesses: Recent<Guess, ()>,
}

impl Default for Wrong {
    fn default() -> Self {
        Self {
            key: None,
            guesses: Recent::new(KEPT),
        }
    }
}

impl Wrong {
    /// `stamp` is that of the account, if there is one.
    pub(super) fn guess(
        &mut self,
        user: &UserName,
        stamp: Option<u64>,
        password: &str,
    ) -> Result<Guess, Error> {
        let key = match &self.key {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(Error::Randomness)?;
                self.key.insert(key)
            }
        };
        let mut hasher = blake3::Hasher::new_keyed(key);
        let user = user.as_str().as_bytes();
        hasher.update(&(user.len() as u64).to_le_bytes());
        hasher.update(user);
        hasher.update(&[u8::from(stamp.is_some())]);
        hasher.update(&stamp.unwrap_or_default().to_le_bytes());
        hasher.update(password.as_bytes());
        Ok(Guess(*hasher.finalize().as_bytes()))
    }

    pub(super) fn is_known(&self, guess: &Guess) -> bool {
        self.guesses.get(guess).is_some()
    }

    /// It was refused; whether that is news.
    pub(super) fn remember(&mut self, guess: Guess) -> bool {
        let is_news = !self.is_known(&guess);
        self.guesses.put(guess, ());
        is_news
    }
}
