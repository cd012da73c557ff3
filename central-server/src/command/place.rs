//! Where a command finds what it is about.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use vecino_grpc::v1::control_client::ControlClient;

use crate::{
    config::{Config, StoreUrl},
    metrics::StoreMetrics,
    store::{self, Store},
};

/// A running locator, or a store that none runs on.
pub(super) enum Place {
    Running(ControlClient<Channel>),
    Stopped(Arc<dyn Store>),
}

/// What becomes of a store that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    IsMade,
    IsAnError,
}

impl Place {
    pub(super) async fn find(config: &Config, missing: Missing) -> anyhow::Result<Self> {
        if let Some(path) = &config.control
            && let Some(client) = running(path).await?
        {
            return Ok(Self::Running(client));
        }
        Ok(Self::Stopped(open(config, missing).await?))
    }
}

/// The locator that listens at `path`, if one does.
async fn running(path: &Path) -> anyhow::Result<Option<ControlClient<Channel>>> {
    // What is nobody's is left by a crash.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(anyhow!(error)).with_context(|| {
                let path = path.display();
                format!("the locator at {path} takes commands of its own user and of root only")
            });
        }
        Err(_) => return Ok(None),
    }
    let path = absolute(path)?;
    let uri = format!("unix:{}", path.display());
    let connected = Endpoint::from_shared(uri)?.connect().await;
    let channel = connected.with_context(|| format!("the locator at {}", path.display()))?;
    Ok(Some(ControlClient::new(channel)))
}

/// Opens the store itself, if it is whole.
async fn open(config: &Config, missing: Missing) -> anyhow::Result<Arc<dyn Store>> {
    check(config, missing)?;
    Ok(store::open(&config.store, StoreMetrics::default()).await?)
}

/// Opens or makes the store itself, whatever became of an earlier import.
pub(super) async fn open_to_import(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    check(config, Missing::IsMade)?;
    Ok(store::open_to_import(&config.store, StoreMetrics::default()).await?)
}

/// Whether a command can be about the store when no locator runs on it.
fn check(config: &Config, missing: Missing) -> anyhow::Result<()> {
    match &config.store {
        StoreUrl::Memory => bail!(
            "STORE_URL=memory: is nowhere but in a running locator, and none answers at \
             CONTROL_SOCKET"
        ),
        StoreUrl::Redb(file) if missing == Missing::IsAnError && !file.exists() => {
            bail!("STORE_URL={}: there is no such store", config.store)
        }
        StoreUrl::Redb(file) if !file.exists() => {
            eprintln!(
                "note: no locator has run on STORE_URL={} yet: it is made",
                config.store
            );
            Ok(())
        }
        StoreUrl::Redb(_) | StoreUrl::Redis(_) => Ok(()),
    }
}

/// As another process finds it.
pub(super) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{path:?}"))
}

/// What a locator answered, as a sentence.
pub(super) fn refusal(status: &Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}
