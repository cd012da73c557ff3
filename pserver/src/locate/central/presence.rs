//! Makes what this peer holds findable: registers at a locator, keeps the lease alive, announces
//! what differs, and begins again whenever that ends.
//!
//! Invariant: while a session lives, the locator's records of this peer follow the catalogue:
//! after registering, buckets whose fingerprints differ are replaced; from then on each change is
//! announced in order. Falling behind the catalogue ends the session, and the next one compares
//! again. What is held in part is told anew in each session: the locator forgets it with the lease. Each configured locator has a session of its own, so that any of them knows this peer; of those
//! that share a directory one has it, and the next when that ends. A shared directory may lose what
//! it acknowledged: now and then it says what it holds, and buckets that differ are replaced.

mod outbox;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{
    DeregisterRequest, KeepAliveRequest, RegisterRequest, RegisterResponse,
    directory_client::DirectoryClient,
};
use vecino_rest::{PeerKey, PeerUrl};

use self::outbox::Outbox;
use super::{
    ANSWER_WITHIN,
    account::{Barred, Door, Wanted, is_elsewhere, within},
    comparing::{Comparing, compare},
    directories::Directories,
    refused::{complaint, is_first_system},
};
use crate::content::Store;

/// Messages that may wait for their acknowledgement.
const UNACKNOWLEDGED: u64 = 16;
/// Changes that come within so long go in one message.
const GATHER: Duration = Duration::from_millis(10);
/// Waits between tries double from the first to the last of these.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Reasons of one locator that are remembered as said.
const MAX_SAID: usize = 16;
/// Waits between tries to get in where a login is needed double from the first to the last of these.
const LOGIN_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// However soon a locator wants to be asked again, it is not asked before this.
const TOLD_AT_LEAST: Duration = Duration::from_secs(1);
/// A locator that takes no registrations is tried again after so long.
const FOREIGN_AGAIN: Duration = Duration::from_secs(60);

/// What the rest of the peer may know of its presence.
#[derive(Debug, Default)]
pub struct Presence {
    sessions: AtomicUsize,
    announced: AtomicU64,
    /// A locator speaks only the first system's contract, which knows no registration.
    is_unlisted: AtomicBool,
    url: RwLock<Option<PeerUrl>>,
    /// By what the operator said, whatever a locator says.
    on_loopback: bool,
}

impl Presence {
    /// With a URL that is known from the start.
    pub fn with_url(url: Option<PeerUrl>) -> Self {
        Self {
            on_loopback: url.as_ref().is_some_and(PeerUrl::is_loopback),
            url: RwLock::new(url),
            ..Self::default()
        }
    }

    /// Whether this peer is itself on loopback, and so may have providers there.
    pub fn on_loopback(&self) -> bool {
        self.on_loopback
    }

    /// Whether other peers can find what this one shares.
    pub fn online(&self) -> bool {
        self.sessions.load(Ordering::Acquire) > 0
    }

    /// Whether it is as findable as its locators allow.
    pub fn settled(&self) -> bool {
        self.online() || self.is_unlisted.load(Ordering::Relaxed)
    }

    /// Records that other peers can find.
    pub fn announced(&self) -> u64 {
        if self.online() {
            self.announced.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// How other peers reach this one, once known.
    pub fn url(&self) -> Option<PeerUrl> {
        self.url
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Believes a locator about this peer's URL, if a provider may have that.
    fn set_url(&self, text: &str) {
        let Ok(url) = PeerUrl::parse(text) else {
            return;
        };
        if url.fault(self.on_loopback).is_some() {
            return;
        }
        let mut known = self.url.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&url) {
            log::info!("other peers reach this one at {url}");
            *known = Some(url);
        }
    }

    fn begin(self: &Arc<Self>) -> Session {
        self.sessions.fetch_add(1, Ordering::AcqRel);
        Session(self.clone())
    }
}

/// Counts as online until dropped.
struct Session(Arc<Presence>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// The locator, for the operator's log.
    pub locator: PeerUrl,
    /// Who this peer is.
    pub key: PeerKey,
    /// The URL that the operator gave.
    pub public_url: Option<PeerUrl>,
    /// REST port, for a derived URL.
    pub port: u16,
    /// Label of the place.
    pub site: Option<String>,
    /// What there is to announce.
    pub store: Arc<Store>,
    /// Where what comes of it is told.
    pub presence: Arc<Presence>,
    /// The way in.
    pub door: Arc<Door>,
    /// As whom to log in, where that is asked for.
    pub wanted: watch::Receiver<Wanted>,
    /// The directories of all locators.
    pub directories: Arc<Directories>,
    /// Becomes true when the peer stops.
    pub stopping: watch::Receiver<bool>,
}

/// Why a session ended.
enum End {
    /// The peer stops; it deregistered.
    Stopping,
    /// Begin the next one at once.
    Again,
    /// The locator lets nobody in without a login, or not with this one, or not yet: then perhaps
    /// with the time after which it does.
    Barred(String, Option<Duration>),
    /// The locator failed; try again later.
    Failed(Status),
}

impl From<Barred> for End {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Failed(status) => Self::Failed(status),
            Barred::Held(_, after) => Self::Barred(barred.to_string(), after),
            barred => Self::Barred(barred.to_string(), None),
        }
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        match status.code() {
            // The lease is over, or the locator forgot it.
            Code::Unauthenticated => Self::Again,
            _ => Self::Failed(status),
        }
    }
}

/// How long to wait before the next try. A registration begins both anew.
#[derive(Debug)]
struct Waits {
    /// After a failure.
    failed: Duration,
    /// Where it was not let in, and not told when it would be.
    barred: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            failed: BACKOFF.0,
            barred: LOGIN_AGAIN.0,
        }
    }
}

impl Waits {
    /// The locator knows best after how long it is of use.
    fn after_barred(&mut self, told: Option<Duration>) -> Duration {
        match told {
            // Twice, for jitter takes up to half of it.
            Some(after) => after.max(TOLD_AT_LEAST) * 2,
            None => {
                let longer = (self.barred * 2).min(LOGIN_AGAIN.1);
                std::mem::replace(&mut self.barred, longer)
            }
        }
    }
}

impl Announcer {
    /// Keeps a session at the locator behind `channel` until the peer stops.
    pub async fn run(mut self, channel: Channel) {
        // What is known from before is compared with the locator's records, not taken out of them.
        let store = self.store.clone();
        tokio::select! {
            () = store.importer().first_scan() => {}
            () = stopped(&mut self.stopping) => return,
        }
        let mut waits = Waits::default();
        let mut said = BTreeSet::new();
        loop {
            let ended = self.session(&channel, &mut waits).await;
            // It was registered meanwhile: what is wrong now is news.
            let was_let_in = waits.failed == BACKOFF.0 && !matches!(ended, End::Barred(..));
            if was_let_in || said.len() >= MAX_SAID {
                said.clear();
            }
            let pause = match ended {
                End::Stopping => return,
                End::Again => {
                    waits.barred = LOGIN_AGAIN.0;
                    Duration::ZERO
                }
                End::Barred(reason, after) => {
                    self.complain(&mut said, reason);
                    waits.after_barred(after)
                }
                End::Failed(status) if status.code() == Code::Unimplemented => {
                    let locator = &self.locator;
                    let is_locator = is_first_system(&channel).await;
                    self.presence
                        .is_unlisted
                        .store(is_locator, Ordering::Relaxed);
                    if is_locator {
                        log::info!(
                            "locator {locator}: takes no registrations (first system's contract)"
                        );
                    } else {
                        log::warn!(
                            "not registered at locator {locator}: what answers there is no \
                             locator; URL_Request names the locator's host and port"
                        );
                    }
                    FOREIGN_AGAIN
                }
                End::Failed(status) => {
                    let reason = complaint(&status, &self.locator).await;
                    self.complain(&mut said, reason);
                    let longer = (waits.failed * 2).min(BACKOFF.1);
                    std::mem::replace(&mut waits.failed, longer)
                }
            };
            // Jitter keeps a crowd of peers from coming back in step; `Again` must not spin.
            let pause = pause.mul_f64(rand::random_range(0.5..1.0)) + Duration::from_millis(20);
            tokio::select! {
                () = sleep(pause) => {}
                // An error means that the server is gone, which `stopped` tells as well.
                Ok(()) = self.wanted.changed() => said.clear(),
                () = stopped(&mut self.stopping) => return,
            }
        }
    }

    /// Says why this peer is not registered, once for each reason: it is tried every few seconds.
    fn complain(&self, said: &mut BTreeSet<String>, reason: String) {
        let locator = &self.locator;
        let level = match said.insert(reason.clone()) {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        log::log!(
            level,
            "not registered at locator {locator}: {reason}; trying on"
        );
    }

    async fn session(&mut self, channel: &Channel, waits: &mut Waits) -> End {
        match self.try_session(channel, waits).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn try_session(&mut self, channel: &Channel, waits: &mut Waits) -> Result<End, End> {
        let mut client = DirectoryClient::new(channel.clone());
        // Before the snapshot below, so that nothing falls between.
        let mut partials = self.store.catalogue().follow_partials();
        let (mut changes, followed_from) = self.store.catalogue().follow_numbered();
        let directories = self.directories.clone();
        let turn = directories.turn().await;
        let request = self.registration();
        let door = self.door.clone();
        let known = directories.of(&self.locator);
        let registered = directories.register(known, &door, &mut client, request, &mut self.wanted);
        let registered = registered.await?;
        *waits = Waits::default();
        let directory = directories.learn(&self.locator, &registered.directory);
        if let Some(directory) = directory.filter(|_| is_elsewhere(&registered)) {
            drop((turn, changes, partials));
            log::info!("standing by at locator {}", self.locator);
            tokio::select! {
                () = directories.free(&directory) => {}
                () = stopped(&mut self.stopping) => return Ok(End::Stopping),
            }
            return Ok(End::Again);
        }
        let _held = directory.map(|directory| directories.hold(directory, &door));
        drop(turn);
        if self.public_url.is_none() {
            self.presence.set_url(&registered.public_url);
        }
        let (announcements, outbound) = mpsc::channel(UNACKNOWLEDGED as usize);
        let acks = within(
            ANSWER_WITHIN,
            client.announce(ReceiverStream::new(outbound)),
        )
        .await?
        .into_inner();
        let (keep_alives, outbound) = mpsc::channel(1);
        let mut alive = within(
            ANSWER_WITHIN,
            client.keep_alive(ReceiverStream::new(outbound)),
        )
        .await?
        .into_inner();
        let mut outbox = Outbox {
            registered: &registered,
            announcements,
            acks,
            sent: 0,
            acknowledged: 0,
            partial: BTreeSet::new(),
            presence: self.presence.clone(),
            follower: self.store.catalogue().progress().begin(),
            change: 0,
            unacknowledged: VecDeque::new(),
        };
        let _online = self.presence.begin();
        let lease = Duration::from_secs(registered.lease_seconds.max(1).into());
        let mut ticks = interval(lease / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (differing, known) = compare(&self.store, &registered.fingerprints);
        // No acknowledgement tells the number when there is nothing to announce.
        self.presence.announced.store(known, Ordering::Relaxed);
        let mut differing = differing.into_iter();
        // The change up to which the locator knows all when none of them differs any more.
        let mut as_of = followed_from;
        let mut comparing = Comparing::default();
        log::info!(
            "registered at locator {}; {} of 256 buckets differ",
            self.locator,
            differing.len()
        );
        if differing.as_slice().is_empty() {
            outbox.is_as_of(followed_from);
        }
        loop {
            tokio::select! {
                () = stopped(&mut self.stopping) => {
                    within(ANSWER_WITHIN, client.deregister(deregistration(&registered))).await?;
                    return Ok(End::Stopping);
                }
                Ok(()) = self.wanted.changed() => {
                    if self.door.is_open() {
                        continue;
                    }
                    // Somebody else, or nobody: what is announced is not of this user any more.
                    within(ANSWER_WITHIN, client.deregister(deregistration(&registered))).await?;
                    return Ok(End::Again);
                }
                _ = ticks.tick() => {
                    let request = KeepAliveRequest {
                        peer_id: registered.peer_id.clone(),
                        lease_token: registered.lease_token.clone(),
                        free_bytes: self.store.room_for_copies(),
                        compare: comparing.is_wanted(outbox.sent),
                    };
                    // One is in flight already when it does not answer: the pings decide.
                    let _ = keep_alives.try_send(request);
                }
                answer = alive.message() => {
                    let theirs = answer?.ok_or_else(ended)?.fingerprints;
                    let is_idle = differing.as_slice().is_empty() && changes.is_empty();
                    if !theirs.is_empty() && comparing.may(is_idle, outbox.sent, outbox.acknowledged) {
                        let (now, _) = compare(&self.store, &theirs);
                        if !now.is_empty() {
                            log::warn!("the locator lost records: {} of 256 buckets differ", now.len());
                        }
                        differing = now.into_iter();
                        as_of = outbox.change;
                    }
                }
                ack = outbox.acks.message() => outbox.acknowledge(ack?.ok_or_else(ended)?),
                bucket = async { differing.next() }, if !differing.as_slice().is_empty() && outbox.has_room() => {
                    if differing.as_slice().is_empty() {
                        outbox.change = as_of;
                    }
                    if let Some(bucket) = bucket {
                        outbox.replace(bucket, self.store.catalogue().bucket(bucket)).await?;
                    }
                }
                change = changes.recv(), if differing.as_slice().is_empty() && outbox.has_room() => {
                    let first = match change {
                        Ok(change) => change,
                        Err(broadcast::error::RecvError::Lagged(_)) => return Ok(End::Again),
                        Err(broadcast::error::RecvError::Closed) => return Ok(End::Stopping),
                    };
                    sleep(GATHER).await;
                    outbox.announce(first, &mut changes).await?;
                }
                changed = partials.changed(), if differing.as_slice().is_empty() && outbox.has_room() => {
                    if changed.is_err() {
                        return Ok(End::Stopping);
                    }
                    // What is whole before this has passed is never told as partial.
                    sleep(GATHER).await;
                    let held = partials.borrow_and_update().clone();
                    outbox.announce_partials(&held).await?;
                }
            }
        }
    }

    fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            peer_key: self.key.as_bytes().to_vec().into(),
            public_url: self
                .public_url
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            port: self.port.into(),
            site: self.site.clone().unwrap_or_default(),
            free_bytes: self.store.room_for_copies(),
            // The door has it.
            session_token: Bytes::new(),
            registered_in: self
                .directories
                .held()
                .into_iter()
                .map(|directory| directory.to_vec().into())
                .collect(),
        }
    }
}

fn deregistration(registered: &RegisterResponse) -> DeregisterRequest {
    DeregisterRequest {
        peer_id: registered.peer_id.clone(),
        lease_token: registered.lease_token.clone(),
    }
}

/// Waits until the peer stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the same.
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

fn ended() -> End {
    End::Failed(Status::unavailable("the stream ended"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_that_says_when_is_asked_then_and_others_ever_more_rarely() {
        let seconds = Duration::from_secs;
        let mut waits = Waits::default();
        for wait in [5, 10, 20, 40, 60, 60] {
            assert_eq!(waits.after_barred(None), seconds(wait));
            // At half of it at the earliest.
            assert_eq!(waits.after_barred(Some(seconds(3))), seconds(6));
        }
        assert_eq!(waits.after_barred(Some(Duration::ZERO)), TOLD_AT_LEAST * 2);
        assert_eq!(waits.after_barred(Some(seconds(300))), seconds(600));
    }
}
