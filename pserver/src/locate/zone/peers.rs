//! Requests to other members. Who does not answer is suspected for a moment: asked last, and
//! given no records.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, transport::Channel};
use vecino_grpc::v1::{self, zone_client::ZoneClient};
use vecino_rest::{Name, PeerId, PeerKey, body::Variant};

use super::{convert, fingerprint::Fingerprint, service::MAX_MESSAGE_BYTES, trust};
use crate::{
    content::catalogue::Record,
    locate::overlay::{Channels, Contact},
};

/// How long a member may take to say what it knows of a name.
const FIND_WITHIN: Duration = Duration::from_secs(1);
/// How long a sender may take to confirm a pass: less than whoever waits for it waits.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// How long a member may take to put records away.
const PUT_WITHIN: Duration = Duration::from_secs(2);
/// How long a member is suspected.
pub(super) const SUSPECTED_FOR: Duration = Duration::from_secs(2);
/// Members that are suspected at a time; the rest is asked in vain.
const MAX_SUSPECTS: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Peers {
    me: PeerId,
    key: PeerKey,
    channels: Channels,
    suspects: Cache<PeerId, ()>,
}

impl Peers {
    /// Asks over `channels`.
    pub(super) fn new(me: PeerId, key: PeerKey, channels: Channels) -> Self {
        Self {
            me,
            key,
            channels,
            suspects: Cache::builder()
                .max_capacity(MAX_SUSPECTS)
                .time_to_live(SUSPECTED_FOR)
                .build(),
        }
    }

    /// Who asks.
    pub(super) fn me(&self) -> PeerId {
        self.me
    }

    /// Whether a member failed to answer lately.
    pub(super) fn suspects(&self, peer: &PeerId) -> bool {
        self.suspects.contains_key(peer)
    }

    async fn ask<T, F>(
        &self,
        to: &Contact,
        within: Duration,
        ask: impl FnOnce(ZoneClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let asking = async {
            let channel = self.channels.to(&to.overlay).await;
            let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
            let client = ZoneClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            ask(client).await
        };
        let answer = timeout(within, asking)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match &answer {
            Ok(_) => self.suspects.invalidate(&to.peer),
            Err(status) if is_silence(status.code()) => self.suspects.insert(to.peer, ()),
            Err(_) => {}
        }
        answer.map(Response::into_inner)
    }

    /// What `to` knows of `name`.
    pub(super) async fn find(&self, to: &Contact, name: &Name) -> Result<Vec<Variant>, Status> {
        let request = v1::ZoneFindRequest {
            name: name.to_string(),
        };
        let answer = self
            .ask(to, FIND_WITHIN, |mut client| async move {
                client.find(request).await
            })
            .await?;
        Ok(convert::variants(answer.variants, name))
    }

    /// Whether `sender` gave this peer the pass.
    pub(super) async fn confirm(
        &self,
        sender: &Contact,
        pass: &trust::Pass,
    ) -> Result<bool, Status> {
        let request = v1::ZoneConfirmRequest {
            receiver: self.me.as_bytes().to_vec().into(),
            pass: pass.to_vec().into(),
        };
        let answer = self.ask(sender, CONFIRM_WITHIN, |mut client| async move {
            client.confirm(request).await
        });
        Ok(answer.await?.given)
    }

    /// Whether this peer gave `receiver` the pass.
    pub(super) fn gave(&self, receiver: &PeerId, pass: &trust::Pass) -> bool {
        let given = blake3::Hash::from_bytes(trust::pass(&self.key, receiver));
        given == blake3::Hash::from_bytes(*pass)
    }

    fn sender(&self, to: &Contact, from: From) -> Option<v1::ZoneSender> {
        Some(v1::ZoneSender {
            peer_id: self.me.as_bytes().to_vec().into(),
            slot: from.slot,
            pass: trust::pass(&self.key, &to.peer).to_vec().into(),
            slots: from.slots,
        })
    }

    /// Gives `to` records in `slot`; with `reset`, in the place of what it has.
    pub(super) async fn put<'a>(
        &self,
        to: &Contact,
        from: From,
        slot: u32,
        records: impl IntoIterator<Item = &'a Record>,
        reset: bool,
    ) -> Result<Fingerprint, Status> {
        let request = v1::ZonePutRequest {
            sender: self.sender(to, from),
            slot,
            records: records.into_iter().map(convert::record).collect(),
            reset,
        };
        let answer = self.ask(to, PUT_WITHIN, |mut client| async move {
            client.put(request).await
        });
        fingerprint(&answer.await?.fingerprint)
    }

    /// Takes records in `slot` back from `to`; all of them when `records` is `None`.
    pub(super) async fn withdraw(
        &self,
        to: &Contact,
        from: From,
        slot: u32,
        records: Option<Vec<v1::Record>>,
    ) -> Result<Fingerprint, Status> {
        let request = v1::ZoneWithdrawRequest {
            sender: self.sender(to, from),
            slot,
            all: records.is_none(),
            records: records.unwrap_or_default(),
        };
        let answer = self.ask(to, PUT_WITHIN, |mut client| async move {
            client.withdraw(request).await
        });
        fingerprint(&answer.await?.fingerprint)
    }

    /// Prolongs everything at `to`; the slots in which it has something else.
    pub(super) async fn refresh(
        &self,
        to: &Contact,
        from: From,
        slots: &[(u32, Fingerprint)],
    ) -> Result<Vec<u32>, Status> {
        let fingerprints = slots.iter().flat_map(|(_, print)| print.to_bytes());
        let request = v1::ZoneRefreshRequest {
            sender: self.sender(to, from),
            slots: slots.iter().map(|(slot, _)| *slot).collect(),
            fingerprints: fingerprints.collect::<Vec<_>>().into(),
        };
        let answer = self.ask(to, PUT_WITHIN, |mut client| async move {
            client.refresh(Request::new(request)).await
        });
        Ok(answer.await?.differing)
    }
}

/// Where this peer sits, as it tells others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct From {
    /// Its slot.
    pub(super) slot: u32,
    /// Slots of the network.
    pub(super) slots: u32,
}

/// Whether a member gave no answer, rather than a refusal.
fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled | Code::Unknown
    )
}

fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, Status> {
    Fingerprint::from_slice(bytes)
        .ok_or_else(|| Status::internal("a member answered without fingerprint"))
}
