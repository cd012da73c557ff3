//! What a running locator does for the operator's commands (`central-server status`, `account`,
//! `export`, …): gRPC over a Unix socket beside the store.
//!
//! A socket of the file system and not a port with a secret: the system itself says who may open
//! it (mode 0600) and who did (the credentials of the other end), nothing has to be kept secret or
//! handed over, and no client of the network can even try.
//!
//! Invariant: only the user that the locator runs as, and root, are answered. The socket has its
//! name only after its mode, and goes when the locator ends.

mod service;

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures_util::{Stream, stream};
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;
use vecino_grpc::v1::control_server::ControlServer;

use crate::{
    account::Accounts, config::StoreUrl, directory::Directory, grpc, metrics::Metrics, store::Store,
};
use service::ControlService;

/// What the operator's commands are about.
pub(crate) struct Control {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) store_url: StoreUrl,
    pub(crate) directory: Arc<Directory>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
}

/// The socket cannot be there.
#[derive(Debug, thiserror::Error)]
#[error("CONTROL_SOCKET={path}: {reason}")]
pub struct ControlError {
    path: PathBuf,
    reason: String,
}

/// Listens at `path`; the future answers until it is dropped.
pub(crate) fn serve(
    path: &Path,
    control: Control,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let listener = bind(path).map_err(|reason| ControlError {
        path: path.to_owned(),
        reason,
    })?;
    let socket = Socket(path.to_owned());
    let service = ControlServer::new(ControlService(Arc::new(control)))
        .max_decoding_message_size(grpc::MAX_REQUEST_BYTES);
    Ok(async move {
        let _socket = socket;
        let served = Server::builder()
            .max_concurrent_streams(grpc::MAX_STREAMS_PER_CONNECTION)
            .add_service(service)
            .serve_with_incoming(Box::pin(accept(listener)));
        if let Err(error) = served.await {
            log::error!("commands cannot reach this locator any more: {error}");
        }
    })
}

/// Removes the name when it goes.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::debug!("the socket {} stays: {error}", self.0.display());
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener, String> {
    let failed = |error: io::Error| error.to_string();
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err("there is something else than a socket".into());
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err("another locator listens there".into());
        }
        // What a crash left is replaced.
        _ => {}
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished).map_err(failed)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(failed)?;
    Ok(listener)
}

/// The connections of those who may command.
fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => stream.peer_cred().map(|by| (stream, by.uid())),
                Err(error) => Err(error),
            };
            match accepted {
                Ok((stream, uid)) if uid == 0 || uid == geteuid().as_raw() => {
                    return Some((Ok(stream), listener));
                }
                Ok((_, uid)) => log::warn!("user {uid} tried to command this locator"),
                Err(error) => {
                    log::warn!("a command could not be accepted: {error}");
                    tokio::time::sleep(grpc::ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_replaces_only_dead_sockets() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s.sock");
        let listener = bind(&path).expect("binds");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = bind(&path).expect_err("it is in use");
        assert!(taken.contains("another locator"), "{taken}");
        drop(listener);
        bind(&path).expect("what a crash left is replaced");
        let file = directory.path().join("file");
        fs::write(&file, "mine").expect("writes");
        let refused = bind(&file).expect_err("no socket");
        assert!(refused.contains("something else"), "{refused}");
        assert_eq!(fs::read(&file).expect("reads"), b"mine");
    }
}
