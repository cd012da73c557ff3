//! Accounts, and the logins that are kept with peers. What is acknowledged here is at a replica as
//! well, where there is one: nobody else could send it again.

use futures_util::future::try_join_all;
use vecino_rest::UserName;

use super::{
    RedisStore,
    cluster::scripts,
    keys::{self, SHARDS},
    peers::number,
};
use crate::store::{Account, Expect, PeerNo, StoreError};

impl RedisStore {
    pub(super) async fn account_of(&self, user: &UserName) -> Result<Option<Account>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(keys::accounts_of(&self.namespace, user) + ":rows");
        let row: Option<Vec<u8>> = self.cluster.call(command.arg(user.as_str())).await?;
        row.map(|row| keys::read_account(user.clone(), &row))
            .transpose()
    }

    /// Stores an account, if it is as `expect` says; whether it was so.
    pub(super) async fn put(&self, account: &Account, expect: Expect) -> Result<bool, StoreError> {
        let expected: &[u8] = match expect {
            Expect::Absent => b"absent",
            Expect::Present => b"present",
        };
        let row = keys::account_row(account);
        let done = self.change_account(&account.user, expected, row).await?;
        Ok(done == 1)
    }

    /// Removes an account; whether there was one.
    pub(super) async fn remove(&self, user: &UserName) -> Result<bool, StoreError> {
        // Asked before: the change may run twice, and finds nothing then.
        let was_there = self.account_of(user).await?.is_some();
        self.change_account(user, b"remove", Vec::new()).await?;
        Ok(was_there)
    }

    async fn change_account(
        &self,
        user: &UserName,
        what: &[u8],
        row: Vec<u8>,
    ) -> Result<u64, StoreError> {
        let shard = keys::accounts_of(&self.namespace, user);
        let arguments = [user.as_str().as_bytes().to_vec(), what.to_vec(), row];
        self.cluster
            .run_surely(&scripts().put_account, &shard, &arguments)
            .await
    }

    /// Accounts in the order of their users' names, those after `after`, at most `limit`.
    pub(super) async fn accounts_after(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        let from = match after {
            Some(user) => format!("({user}"),
            None => "-".to_owned(),
        };
        let shards = (0..SHARDS).map(|shard| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(keys::accounts(&self.namespace, shard) + ":users");
            command.arg(&from).arg("+");
            command.arg("LIMIT").arg(0).arg(limit);
            async move {
                let users: Vec<String> = self.cluster.call(&command).await?;
                Ok::<_, StoreError>(users)
            }
        });
        let mut users = try_join_all(shards).await?.concat();
        users.sort_unstable();
        users.truncate(limit);
        let accounts = users.iter().map(|user| async move {
            let user = UserName::parse(user).map_err(|_| keys::foreign("a user"))?;
            self.account_of(&user).await
        });
        // One that was removed in between is none.
        Ok(try_join_all(accounts)
            .await?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Ends the login of a peer.
    pub(super) async fn end_session_of(&self, peer: PeerNo) -> Result<(), StoreError> {
        let (shard, arguments) = (self.shard_of(peer), [number(peer.0)]);
        let done = self
            .cluster
            .run_surely(&scripts().end_session, &shard, &arguments);
        done.await.map(drop)
    }
}
