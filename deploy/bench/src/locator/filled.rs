//! A directory with many records, announced by its peers, and kept for the next time.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Place, locator, records,
    session::{Manner, Progress, Session},
};

/// Peers that announce at a time.
const AT_ONCE: usize = 100;
/// Changes with what [`records`] says: what was filled otherwise is filled again.
const VERSION: u32 = 1;

/// The working directory of a locator with `total` records of [`records::PEERS`] peers.
pub(crate) async fn filled(place: &Place, total: u64) -> anyhow::Result<PathBuf> {
    let directory = place.kept.join(format!("records-{total}-v{VERSION}"));
    let whole = directory.join("whole");
    if whole.exists() {
        return Ok(directory);
    }
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir(&directory)?;
    fill(&directory, total).await?;
    std::fs::write(whole, [])?;
    Ok(directory)
}

async fn fill(directory: &Path, total: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let locator = locator(directory).await?;
    let addr = locator.addr;
    let progress = Arc::new(Progress::begin((total / 10).clamp(1, 1_000_000)));
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut peers = JoinSet::new();
    for peer in 0..records::PEERS {
        let permit = permits.clone().acquire_owned().await?;
        let progress = progress.clone();
        peers.spawn(async move {
            let _permit = permit;
            let numbers = records::of_peer(peer, records::PEERS, total);
            let mut session = Session::open(addr, peer).await?;
            session.announce(Manner::Changes, numbers, &progress).await
        });
        while let Some(done) = peers.try_join_next() {
            done??;
        }
    }
    while let Some(done) = peers.join_next().await {
        done??;
    }
    let (rate, steps) = progress.rates();
    anyhow::ensure!(progress.records() == total, "{}", progress.records());
    let memory = locator.memory();
    let stopping = Instant::now();
    locator.stop().await?;
    println!(
        "{total} records of {} peers, each over a connection of its own, {AT_ONCE} at a time: \
         {:.1} s ({rate:.0} a second; by tenths or millions: {}), VmHWM {} MiB, ended in {:.1} s.\n",
        records::PEERS,
        begun.elapsed().as_secs_f64(),
        super::table::rates(&steps),
        memory.peak >> 20,
        stopping.elapsed().as_secs_f64(),
    );
    Ok(())
}
