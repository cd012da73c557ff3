//! What the operator does with accounts, on whatever store, whether a locator runs or not. The
//! sessions of a changed account are over by its stamp; the leases of its peers are for who has
//! them.

use vecino_rest::UserName;

use super::{PAGE, stamp};
use crate::store::{Account, Expect, Store, StoreError};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// There is one already.
    #[error("user {0:?} has an account already: `account passwd` changes its password")]
    Taken(UserName),
    /// There is none.
    #[error("user {0:?} has no account: `account add` makes one")]
    Unknown(UserName),
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the account of `user`, whose password has this hash.
pub async fn add(
    store: &dyn Store,
    user: UserName,
    password: String,
    now_ms: i64,
) -> Result<(), ManageError> {
    let account = Account {
        user: user.clone(),
        password,
        stamp: stamp()?,
        created_ms: now_ms,
    };
    let is_new = store.put_account(account, Expect::Absent).await?;
    is_new.then_some(()).ok_or(ManageError::Taken(user))
}

/// Gives `user` the password that has this hash.
pub async fn set_password(
    store: &dyn Store,
    user: UserName,
    password: String,
) -> Result<(), ManageError> {
    let Some(known) = store.account(&user).await? else {
        return Err(ManageError::Unknown(user));
    };
    let account = Account {
        password,
        stamp: stamp()?,
        ..known
    };
    let is_known = store.put_account(account, Expect::Present).await?;
    is_known.then_some(()).ok_or(ManageError::Unknown(user))
}

/// Removes the account of `user`.
pub async fn remove(store: &dyn Store, user: UserName) -> Result<(), ManageError> {
    let was_there = store.remove_account(&user).await?;
    was_there.then_some(()).ok_or(ManageError::Unknown(user))
}

/// Ends the leases of the peers that are logged in as `user`, where no locator was told to: those
/// that share the store learn it from there.
pub async fn put_out(store: &dyn Store, user: &UserName, now_ms: i64) -> Result<(), StoreError> {
    let mut out = Vec::new();
    for (peer, row) in store.peers().await? {
        if row.session.is_some_and(|session| session.user == *user) {
            out.push((peer, row.token));
        }
    }
    store.lapse(out, now_ms).await
}

/// Some accounts, in the order of their users' names, those after `after`.
pub async fn list(store: &dyn Store, after: Option<&UserName>) -> Result<Vec<Account>, StoreError> {
    store.accounts(after, PAGE).await
}
