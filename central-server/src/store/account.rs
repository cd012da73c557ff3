//! What is kept of accounts and of logins.

use vecino_rest::UserName;

use super::TokenHash;

/// An account.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub user: UserName,
    /// The password's hash, in PHC string format.
    pub password: String,
    /// Random, another one with each password: logins of an earlier one are over.
    pub stamp: u64,
    /// When it was made; milliseconds since 1970-01-01 UTC.
    pub created_ms: i64,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({:?}, redacted)", self.user)
    }
}

/// What must be so for an account to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The user has no account.
    Absent,
    /// The user has an account.
    Present,
}

/// What a peer needs to register again after it logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// As whom.
    pub user: UserName,
    /// That of the account when it logged in.
    pub stamp: u64,
    /// Hash of the token that the next registration shows.
    pub token: TokenHash,
    /// When that is over; milliseconds since 1970-01-01 UTC.
    pub ends_ms: i64,
}
