//! `export`, `import`, `backup`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use vecino_grpc::v1;

use super::place::{Missing, Place, absolute, open_to_import, refusal};
use crate::{archive, config::Config};

/// Where an export goes. A new file is its owner's alone, and has its bytes on the disk at the end.
enum Target {
    Stdout(io::Stdout),
    File(File),
}

impl Target {
    fn new(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(io::stdout()));
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        Ok(Self::File(file.with_context(|| format!("{path:?}"))?))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes),
            Self::File(file) => file.write_all(bytes),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file) => file.sync_all(),
        }
    }
}

pub(super) async fn export(config: &Config, path: &Path) -> anyhow::Result<()> {
    let place = Place::find(config, Missing::IsAnError).await?;
    let mut target = Target::new(path)?;
    let exported = match place {
        Place::Running(locator) => of_running(locator, &mut target).await,
        Place::Stopped(store) => {
            let failed = Mutex::new(None);
            let taking = Mutex::new(&mut target);
            let ended = archive::export(&*store, |chunk| {
                let written = taking
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .write(&chunk);
                let taken = written.is_ok();
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = written.err();
                std::future::ready(taken)
            });
            let ended = ended.await;
            let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
            match failed {
                Some(error) => Err(error.into()),
                None => ended.map_err(anyhow::Error::from),
            }
        }
    };
    let ended = exported.and_then(|()| Ok(target.end()?));
    if ended.is_err() && matches!(target, Target::File(_)) {
        // Half an export is of no use; it could not be imported either.
        let _ = std::fs::remove_file(path);
    }
    ended.with_context(|| format!("{path:?}"))
}

async fn of_running(
    mut locator: v1::control_client::ControlClient<tonic::transport::Channel>,
    target: &mut Target,
) -> anyhow::Result<()> {
    let chunks = locator.export(v1::ExportRequest {}).await;
    let mut chunks = chunks.map_err(|status| refusal(&status))?.into_inner();
    let mut last = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(|s| refusal(&s))? {
        target.write(&chunk.lines)?;
        last = chunk.lines.to_vec();
    }
    let is_whole = last.ends_with(b"}}\n") && String::from_utf8_lossy(&last).contains("{\"end\":");
    if !is_whole {
        bail!("the locator ended before the export did");
    }
    Ok(())
}

pub(super) async fn import(config: &Config, path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("{path:?}"))?;
    let store = open_to_import(config).await?;
    let imported = archive::import(BufReader::new(file), &*store).await;
    store.close().await;
    let imported = imported.with_context(|| format!("{path:?}"))?;
    eprintln!(
        "imported into {}: {} accounts, {} peers, {} records",
        config.store, imported.accounts, imported.peers, imported.records
    );
    Ok(())
}

pub(super) async fn backup(config: &Config, path: &Path) -> anyhow::Result<()> {
    let path = absolute(path)?;
    match Place::find(config, Missing::IsAnError).await? {
        Place::Running(mut locator) => {
            let file = path
                .to_str()
                .with_context(|| format!("{path:?} is not UTF-8"))?;
            let request = v1::BackupRequest { file: file.into() };
            let made = locator.backup(request).await;
            made.map_err(|status| refusal(&status))?;
        }
        Place::Stopped(store) => {
            let made = store.backup(&path).await;
            store.close().await;
            made?;
        }
    }
    eprintln!("the store is copied to {}", path.display());
    Ok(())
}
