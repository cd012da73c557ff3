//! Accounts, and the logins that are kept with peers. What is acknowledged here is at a replica as
//! well, where there is one: nobody else could send it again.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use vecino_rest::UserName;

use super::{
    RedisStore,
    cluster::scripts,
    keys::{self, SHARDS},
    peers::number,
};
use crate::store::{Account, Expect, PeerNo, StoreError, TokenHash};

/// Entries of one shard that are asked for, or changed, at once.
const ENTRIES_AT_ONCE: usize = 1_000;

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
        let users = users.iter().map(|user| {
            let user = UserName::parse(user);
            user.map_err(|_| keys::foreign("a user"))
        });
        let users: Vec<_> = users.collect::<Result<_, _>>()?;
        // One that was removed in between is none.
        let mut accounts = self.accounts_of_users(&users).await?;
        accounts.sort_unstable_by(|one, other| one.user.cmp(&other.user));
        Ok(accounts)
    }

    /// The accounts of those who have one.
    pub(super) async fn accounts_of_users(
        &self,
        users: &[UserName],
    ) -> Result<Vec<Account>, StoreError> {
        let mut shards: BTreeMap<String, Vec<&UserName>> = BTreeMap::new();
        for user in users {
            let shard = keys::accounts_of(&self.namespace, user);
            shards.entry(shard).or_default().push(user);
        }
        let reads = shards.iter().flat_map(|(shard, users)| {
            let reads = users.chunks(ENTRIES_AT_ONCE);
            reads.map(move |users| self.accounts_in(shard, users))
        });
        Ok(try_join_all(reads).await?.concat())
    }

    async fn accounts_in(
        &self,
        shard: &str,
        users: &[&UserName],
    ) -> Result<Vec<Account>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{shard}:rows"));
        for user in users {
            command.arg(user.as_str());
        }
        let rows: Vec<Option<Vec<u8>>> = self.cluster.call(&command).await?;
        let known = users.iter().zip(rows);
        let known = known.filter_map(|(user, row)| Some((*user, row?)));
        known
            .map(|(user, row)| keys::read_account(user.clone(), &row))
            .collect()
    }

    /// Ends the logins of peers, as far as they are those.
    pub(super) async fn end_sessions_of(
        &self,
        peers: &[(PeerNo, TokenHash)],
    ) -> Result<(), StoreError> {
        let mut shards: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (peer, token) in peers {
            let shard = shards.entry(self.shard_of(*peer)).or_default();
            shard.extend([number(peer.0), token.to_vec()]);
        }
        // One after the other: each waits for a replica on the same connection.
        for (shard, peers) in shards {
            // Two arguments each.
            for peers in peers.chunks(2 * ENTRIES_AT_ONCE) {
                let ended = self
                    .cluster
                    .run_surely(&scripts().end_session, &shard, peers);
                ended.await?;
            }
        }
        Ok(())
    }
}
