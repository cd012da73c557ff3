//! [`Stream`]: where a content cannot be taken back once it is written: standard output, a pipe,
//! a device.
//!
//! Invariant: what is opened here is never a regular file; such a file appears whole or not at
//! all, which is the work of `part` and `target`.

use std::{
    fs::FileType,
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tokio::io::AsyncWriteExt;
use vecino_rest::Digest;

use crate::{failure::Failure, output};

/// A content that is written while it comes.
#[derive(Debug)]
pub(crate) struct Stream {
    pipe: Pipe,
    hasher: blake3::Hasher,
    /// Bytes that are written.
    pub(super) written: u64,
    /// What they are the beginning of, when the sender says so.
    pub(super) known: Option<Digest>,
}

#[derive(Debug)]
enum Pipe {
    Stdout(tokio::io::Stdout),
    File(PathBuf, tokio::fs::File),
}

impl Stream {
    /// To whoever reads our standard output.
    pub(crate) fn stdout() -> Self {
        Self::to(Pipe::Stdout(tokio::io::stdout()))
    }

    /// To the device or pipe at `path`; waits until a named pipe has a reader.
    pub(crate) async fn open(path: &Path) -> Result<Self, Failure> {
        let file = tokio::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .await
            .map_err(Failure::disk(path))?;
        let kind = file.metadata().await.map_err(Failure::disk(path))?;
        if !takes_a_stream(kind.file_type()) {
            return Err(Failure::disk(path)(io::Error::other(
                "it was replaced by something else just now",
            )));
        }
        Ok(Self::to(Pipe::File(path.to_owned(), file)))
    }

    fn to(pipe: Pipe) -> Self {
        Self {
            pipe,
            hasher: blake3::Hasher::new(),
            written: 0,
            known: None,
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.pipe {
            Pipe::Stdout(stdout) => stdout.write_all(bytes).await,
            Pipe::File(_, file) => file.write_all(bytes).await,
        };
        written.map_err(|error| self.failed(error))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all that came is written.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let flushed = match &mut self.pipe {
            Pipe::Stdout(stdout) => stdout.flush().await,
            Pipe::File(_, file) => file.flush().await,
        };
        flushed.map_err(|error| self.failed(error))
    }

    /// The same for all there is; the path, where it has one.
    pub(super) async fn finish(mut self) -> Result<Option<PathBuf>, Failure> {
        self.flush().await?;
        Ok(match self.pipe {
            Pipe::Stdout(_) => None,
            Pipe::File(path, _) => Some(path),
        })
    }

    fn failed(&self, error: io::Error) -> Failure {
        match &self.pipe {
            Pipe::Stdout(_) => output::stdout_failed(error),
            Pipe::File(path, _) => Failure::Stream {
                to: path.display().to_string(),
                source: error,
            },
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }
}

/// Whether something of this kind is written into, and never replaced.
pub(super) fn takes_a_stream(kind: FileType) -> bool {
    kind.is_char_device() || kind.is_fifo()
}
