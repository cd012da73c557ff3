//! Peers: their numbers, rows, and who was heard of when.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::try_join_all;
use vecino_rest::PeerId;

use super::{
    RedisStore,
    cluster::scripts,
    keys::{self, SHARDS, shard_of},
};
use crate::store::{Exchange, Heard, Kept, PeerNo, PeerRow, PeerState, StoreError, TokenHash};

/// Numbers that are tried for a new peer. More than one is only needed when a failover lost the
/// count of those given.
const NUMBERS_TRIED: u32 = 40;

/// A number as an argument.
pub(super) fn number(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn read_number(text: &[u8]) -> Result<PeerNo, StoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    number.map(PeerNo).ok_or_else(|| keys::foreign("a number"))
}

impl RedisStore {
    fn shard(&self, number: u8) -> String {
        keys::shard(&self.namespace, number)
    }

    pub(super) fn shard_of(&self, peer: PeerNo) -> String {
        self.shard(shard_of(peer))
    }

    /// The number of the peer and the epoch of this registration.
    pub(super) async fn register_peer(&self, peer: &PeerRow) -> Result<(PeerNo, u64), StoreError> {
        let key = keys::number_of(&self.namespace, &peer.id);
        let mut known = self.number_of(&peer.id).await?;
        let mut step = 1_u64;
        for _ in 0..NUMBERS_TRIED {
            let (no, was_known) = match known.take() {
                Some(no) => (no, true),
                None => (self.new_number(step).await?, false),
            };
            let arguments = [
                number(no.0),
                peer.id.as_bytes().to_vec(),
                keys::peer_row(peer),
            ];
            let shard = self.shard_of(no);
            let claimed: Option<(String, u64, u64)> = self
                .cluster
                .run(&scripts().register, &shard, &arguments)
                .await?;
            let Some((epoch, peers, row_is_new)) = claimed else {
                // Another peer's: the count of numbers is behind. It may be far.
                step = step.saturating_mul(2);
                continue;
            };
            self.counts.set_peers(shard_of(no), peers);
            if !was_known || row_is_new == 1 {
                // Of a known number, too: who removed the row goes on to remove the number.
                self.set_number(&key, no).await?;
            }
            let epoch = epoch.parse().map_err(|_| keys::foreign("an epoch"))?;
            return Ok((no, epoch));
        }
        Err(StoreError::Engine(format!(
            "no free peer number was found in {NUMBERS_TRIED} tries"
        )))
    }

    pub(super) async fn number_of(&self, id: &PeerId) -> Result<Option<PeerNo>, StoreError> {
        let key = keys::number_of(&self.namespace, id);
        let no: Option<u32> = self.cluster.call(redis::cmd("GET").arg(key)).await?;
        Ok(no.map(PeerNo))
    }

    /// The peer of that id.
    pub(super) async fn peer_of(
        &self,
        id: &PeerId,
    ) -> Result<Option<(PeerNo, PeerRow)>, StoreError> {
        let Some(no) = self.number_of(id).await? else {
            return Ok(None);
        };
        let row = self.row(no).await?;
        // After a failover the number may be another peer's.
        let row = row.filter(|(_, row)| row.id == *id);
        Ok(row.map(|(_, row)| (no, row)))
    }

    async fn new_number(&self, step: u64) -> Result<PeerNo, StoreError> {
        let key = keys::numbers(&self.namespace);
        let mut command = redis::cmd("INCRBY");
        let no: u64 = self.cluster.call(command.arg(key).arg(step)).await?;
        let no = u32::try_from(no.saturating_sub(1))
            .map_err(|_| StoreError::Engine("all peer numbers are used up".into()))?;
        Ok(PeerNo(no))
    }

    /// Refuses who is not there with this token.
    pub(super) async fn authorise(
        &self,
        peer: PeerNo,
        token: &TokenHash,
    ) -> Result<(), StoreError> {
        match self.row(peer).await? {
            Some((_, row)) if row.token == *token && row.state == PeerState::Present => Ok(()),
            _ => Err(StoreError::NotThePeer),
        }
    }

    /// The epoch and the row of a peer.
    pub(super) async fn row(&self, peer: PeerNo) -> Result<Option<(u64, PeerRow)>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.shard_of(peer) + ":rows").arg(peer.0);
        let row: Option<Vec<u8>> = self.cluster.call(&command).await?;
        row.map(|row| keys::read_peer(&row)).transpose()
    }

    pub(super) async fn all_peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError> {
        let shards = (0..SHARDS).map(|shard| async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.shard(shard) + ":rows");
            let rows: BTreeMap<u32, Vec<u8>> = self.cluster.call(&command).await?;
            self.counts.set_peers(shard, rows.len() as u64);
            let peers = rows
                .into_iter()
                .map(|(no, row)| Ok((PeerNo(no), keys::read_peer(&row)?.1)));
            peers.collect::<Result<Vec<_>, StoreError>>()
        });
        let mut peers = try_join_all(shards).await?.concat();
        peers.sort_by_key(|(no, _)| *no);
        Ok(peers)
    }

    /// Marks those as gone who have these tokens, and were not heard of for `silence`.
    pub(super) async fn lapse_peers(
        &self,
        peers: &[(PeerNo, TokenHash)],
        at_ms: i64,
        silence: Duration,
    ) -> Result<(), StoreError> {
        let mut shards: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        for (peer, token) in peers {
            let head = || vec![at_ms.to_be_bytes().to_vec(), number(silence.as_millis())];
            let arguments = shards.entry(shard_of(*peer)).or_insert_with(head);
            arguments.push(number(peer.0));
            arguments.push(token.to_vec());
        }
        let lapses = shards.into_iter().map(|(shard, arguments)| async move {
            let shard = self.shard(shard);
            let done: Result<u64, _> = self.cluster.run(&scripts().lapse, &shard, &arguments).await;
            done.map(|_| ())
        });
        try_join_all(lapses).await?;
        self.forget_counts(peers.iter().map(|(peer, _)| *peer));
        Ok(())
    }

    /// Removes a peer that lapsed at `at_ms` or earlier and holds nothing; any other one stays.
    pub(super) async fn forget_peer(
        &self,
        peer: PeerNo,
        id: &PeerId,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        let arguments = [number(peer.0), number(at_ms)];
        let (removed, peers): (u64, u64) = self
            .cluster
            .run(&scripts().forget, &self.shard_of(peer), &arguments)
            .await?;
        self.counts.set_peers(shard_of(peer), peers);
        if removed == 0 {
            return Ok(());
        }
        let key = keys::number_of(&self.namespace, id);
        let done: Result<u64, _> = self.cluster.call(redis::cmd("DEL").arg(&key)).await;
        done?;
        // Who came back in between has its number again.
        if self.row(peer).await?.is_some_and(|(_, row)| row.id == *id) {
            self.set_number(&key, peer).await?;
        }
        Ok(())
    }

    async fn set_number(&self, key: &str, peer: PeerNo) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        self.cluster.call(command.arg(key).arg(peer.0)).await
    }

    /// See [`Sharing::exchange`](crate::store::Sharing::exchange).
    pub(super) async fn exchange_all(
        &self,
        kept: &[Kept],
        back: Duration,
    ) -> Result<Exchange, StoreError> {
        let mut told: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        for kept in kept {
            told.entry(shard_of(kept.peer)).or_default().extend([
                number(kept.peer.0),
                kept.epoch.to_be_bytes().to_vec(),
                kept.free_bytes.to_be_bytes().to_vec(),
            ]);
        }
        let shards = (0..SHARDS).map(|shard| {
            let told = told.remove(&shard).unwrap_or_default();
            self.exchange_shard(shard, told, back)
        });
        let mut all = Exchange::default();
        for answer in try_join_all(shards.collect::<Vec<_>>()).await? {
            all.unknown.extend(answer.unknown);
            all.heard.extend(answer.heard);
            all.gone.extend(answer.gone);
        }
        Ok(all)
    }

    async fn exchange_shard(
        &self,
        shard: u8,
        told: Vec<Vec<u8>>,
        back: Duration,
    ) -> Result<Exchange, StoreError> {
        type Answer = (u64, Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<Vec<u8>>);
        let since = self.exchanged_ms(shard);
        let mut arguments = vec![number(since), number(back.as_millis())];
        arguments.extend(told);
        let (now, unknown, heard, gone): Answer = self
            .cluster
            .run(&scripts().exchange, &self.shard(shard), &arguments)
            .await?;
        let numbers = |list: Vec<Vec<u8>>| -> Result<Vec<_>, StoreError> {
            list.iter().map(|text| read_number(text)).collect()
        };
        let heard = heard.chunks_exact(3).map(|heard| {
            let seen: u64 = read_ms(&heard[1])?;
            let (epoch, free) = heard[2].split_at_checked(8).unwrap_or_default();
            let read = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
            Ok(Heard {
                peer: read_number(&heard[0])?,
                epoch: read(epoch).map_err(|_| keys::foreign("an epoch"))?,
                free_bytes: read(free).map_err(|_| keys::foreign("free bytes"))?,
                ago: Duration::from_millis(now.saturating_sub(seen)),
            })
        });
        let exchange = Exchange {
            unknown: numbers(unknown)?,
            heard: heard.collect::<Result<_, StoreError>>()?,
            gone: numbers(gone)?,
        };
        self.set_exchanged_ms(shard, now);
        Ok(exchange)
    }
}

fn read_ms(text: &[u8]) -> Result<u64, StoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    number.ok_or_else(|| keys::foreign("a time"))
}
