//! `GET /v1/files/NAME`, the transparent download: for clients, who need not check what they
//! receive.
//!
//! Invariants: only verified bytes are sent. From the page cache itself they come only while the
//! file has no name yet: nobody but this peer can write to it. What has a name is read and looked at
//! before it is sent. What lies in a socket when the file gets its name cannot be looked at again.

use std::io;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use vecino_rest::Digest;

use super::{
    connection::{Answered, ELSEWHERE, HERE, Sender},
    head::Request,
};
use crate::{
    api::{access::Facts, respond::Described},
    content::read::OpenFile,
    download::{
        choice::{Claim, Wanted},
        fetch::Located,
        job::Reader,
    },
    metrics::Metrics,
};

impl Sender {
    /// Answers a request for the file that is `wanted`.
    pub(super) async fn file(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        wanted: &Wanted,
    ) -> io::Result<Answered> {
        let facts = Facts {
            changes: false,
            from: Some(stream.peer_addr()?.ip()),
            to: Some(stream.local_addr()?.ip()),
            host: &request.host,
            origin: None,
            fetch_site: None,
            is_fetch: false,
            authorization: request.authorization.as_deref(),
        };
        if self.worker.shared.policy.decide(&facts).is_err() {
            return Ok(ELSEWHERE);
        }
        match self.worker.fetcher.find(wanted).await {
            Ok(Located::Held(file)) => self.held(stream, request, wanted, file).await,
            Ok(Located::Content(digest, claims)) => {
                self.coming(stream, request, wanted, digest, &claims).await
            }
            Ok(Located::Unverifiable(_)) => Ok(ELSEWHERE),
            Err(error) => {
                self.refuse(stream, request, &error.into()).await?;
                Ok(HERE)
            }
        }
    }

    async fn held(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        wanted: &Wanted,
        file: OpenFile,
    ) -> io::Result<Answered> {
        let entry = file.entry().clone();
        let (digest, size) = (entry.digest, entry.stamp.size);
        let Some(sent) = request.bytes_of(size) else {
            return Ok(ELSEWHERE);
        };
        let content = Described {
            name: &wanted.name,
            digest,
            size,
            source: "local",
        };
        self.begin(stream, request, &content, &sent).await?;
        self.send_bytes(stream, file.stream(sent.range)).await?;
        if !sent.is_part {
            self.worker.fetcher.keep_also(&entry, &wanted.name);
        }
        Ok(HERE)
    }

    async fn coming(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        wanted: &Wanted,
        digest: Digest,
        claims: &[Claim],
    ) -> io::Result<Answered> {
        // The web server answers that without fetching any byte.
        if let [claim] = claims
            && request.bytes_of(claim.size).is_none()
        {
            return Ok(ELSEWHERE);
        }
        let part = |size| request.bytes_of(size).map_or(0..size, |sent| sent.range);
        let read = self.worker.fetcher.read(wanted, digest, claims, part, true);
        let (job, reader) = match read.await {
            Ok(reading) => reading,
            Err(error) => {
                self.refuse(stream, request, &error.into()).await?;
                return Ok(HERE);
            }
        };
        let size = job.layout.size();
        let Some(sent) = request.bytes_of(size) else {
            return Ok(ELSEWHERE);
        };
        // What an earlier download left on the disk has no provider any more.
        let source = job.source().map(ToString::to_string);
        let content = Described {
            name: &wanted.name,
            digest,
            size,
            source: source.as_deref().unwrap_or("local"),
        };
        self.begin(stream, request, &content, &sent).await?;
        self.send_verified(stream, reader).await?;
        Ok(HERE)
    }

    /// Sends what `reader` reads, as it is verified.
    async fn send_verified(&self, stream: &mut TcpStream, mut reader: Reader) -> io::Result<()> {
        let Some(file) = reader.file() else {
            return self.send_bytes(stream, reader.stream()).await;
        };
        let running = Metrics::running(&self.worker.shared.metrics.uploads);
        while let Some(range) = reader.next_range().await.map_err(io::Error::other)? {
            if reader.may_be_named() {
                drop(running);
                let first = reader.read(range).await;
                let bytes = futures_util::stream::iter([first]).chain(reader.stream());
                return self.send_bytes(stream, bytes).await;
            }
            self.send_file(stream, &file, range, || reader.is_unchanged(&file))
                .await?;
        }
        Ok(())
    }
}
