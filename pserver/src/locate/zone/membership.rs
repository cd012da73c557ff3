//! Keeps this peer in its slot: joins, keeps the lease alive, and learns which zones changed.
//!
//! Invariant: once it sat, this peer takes itself to sit until a locator says otherwise: while
//! none can be reached, everything goes on with the members that are known. The slot is kept in
//! `DATA_DIR`, so that after a restart of either side the peer asks for it again.

use std::{fs, path::PathBuf, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use super::{Node, registrar::Lease, timing::jittered};

/// Waits between tries to join double from the first to the last of these.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long giving the slot back may take.
const LEAVE_WITHIN: Duration = Duration::from_millis(300);
/// Bytes of the file with the slot.
const MAX_FILE_BYTES: usize = 16;

/// Where the slot is kept over restarts.
pub(super) fn file(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("zone.slot")
}

fn remembered(path: &std::path::Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    (text.len() <= MAX_FILE_BYTES).then(|| text.trim().parse().ok())?
}

fn remember(path: &std::path::Path, slot: u32) {
    // Losing it costs another slot after a restart, nothing more: no sync.
    if let Err(error) = fs::write(path, format!("{slot}\n")) {
        log::debug!("the slot is not remembered: {error}");
    }
}

/// Runs until `stopping`; then waits for `withdrawn` and gives the slot back.
pub(super) async fn run(
    node: &Node,
    mut stopping: watch::Receiver<bool>,
    mut withdrawn: watch::Receiver<bool>,
) {
    let mut lease = None;
    tokio::select! {
        () = sit(node, &mut lease) => {}
        // An error means that the peer is gone, which is the same.
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
    let Some(lease) = lease else { return };
    let leave = async {
        let _ = withdrawn.wait_for(|&withdrawn| withdrawn).await;
        let left = node.network.registrar.leave(&node.me.peer, &lease);
        timeout(LEAVE_WITHIN, left).await
    };
    if !matches!(leave.await, Ok(Ok(()))) {
        log::info!("the slot was not given back: its lease ends by itself");
    }
}

async fn sit(node: &Node, lease: &mut Option<Lease>) {
    let path = file(&node.data_dir);
    let mut wanted = remembered(&path);
    let mut wait = BACKOFF.0;
    let mut told = None;
    loop {
        let joining = node.network.registrar.join(&node.key, &node.me, wanted);
        match joining.await {
            Ok(seated) => {
                let zone = seated.layout.zone_of(seated.slot);
                log::info!("sits in slot {} of zone {zone}", seated.slot);
                if wanted != Some(seated.slot) {
                    remember(&path, seated.slot);
                }
                (wanted, wait, told) = (Some(seated.slot), BACKOFF.0, None);
                let seated = lease.insert(seated);
                node.network.sit(Some(seated));
                keep(node, seated).await;
                // The locator forgot this peer: others will soon, too.
            }
            Err(status) => {
                if told.replace(status.code()) != Some(status.code()) {
                    log::warn!("no slot in the zones: {}", status.message());
                }
                if status.code() == Code::ResourceExhausted {
                    // Somebody else sits there by now.
                    *lease = None;
                    node.network.sit(None);
                    look_on(node).await;
                }
                pause(node, jittered(wait)).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Keeps the lease alive until the locator does not know it any more.
async fn keep(node: &Node, lease: &Lease) {
    let mut version = 0;
    loop {
        let kept = node
            .network
            .registrar
            .keep_alive(&node.me.peer, lease, version);
        match kept.await {
            Ok(changes) => {
                if node.network.catch_up(&changes.zones).await {
                    version = changes.version;
                }
            }
            Err(status) if status.code() == Code::Unauthenticated => return,
            Err(status) => unreachable_now(&status),
        }
        pause(node, jittered(node.network.timing().poll)).await;
    }
}

/// Without a slot it can look up all the same: it learns the layout, and what changed.
async fn look_on(node: &Node) {
    if node.network.layout().is_none() {
        node.network.fetch(0).await;
    }
    node.network.catch_up_all().await;
}

fn unreachable_now(status: &Status) {
    log::debug!(
        "the slot's lease is not kept alive now: {}",
        status.message()
    );
}

async fn pause(node: &Node, wait: Duration) {
    tokio::select! {
        () = sleep(wait) => {}
        () = node.poll_now.notified() => {}
    }
}
