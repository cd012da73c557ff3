//! A content on its way from a peer to a file or into a stream: hashed while it comes, resumed
//! when it breaks, refused when it is wrong.
//!
//! Invariant: [`Delivery::file`] is reached only by bytes whose digest is the expected one, or
//! for which nobody but their provider knew a digest; the caller can tell by
//! [`Delivery::verified`].

pub(crate) mod limit;
pub(crate) mod part;
pub(crate) mod small;
pub(crate) mod stream;
pub(crate) mod target;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::{path::PathBuf, time::Duration};

use vecino_rest::{Digest, PeerUrl};

use self::{limit::Limiter, part::Part, stream::Stream};
use crate::{
    api::{Api, ApiError, Content, Resume, Wanted},
    cli::IfExists,
    exit_code::ExitCode,
    failure::{Failure, Kept},
};

/// Bytes that are taken together at most: hashing and writing them one by one, as they come from
/// the socket, costs twice as much.
const BLOCK: usize = 256 << 10;
/// How often a content that broke is asked for again, for the rest of it.
const MAX_RETRIES: u32 = 4;
/// How long to wait before the first of them; doubled for each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Whom to ask for the content.
#[derive(Debug)]
pub(crate) enum Source {
    /// The own peer, which finds and verifies it.
    OwnPeer,
    /// A provider itself.
    Provider(PeerUrl),
}

/// Where the bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To a file that is not there yet.
    File(Part),
    /// To what takes bytes as they come, and cannot give them back.
    Stream(Stream),
}

/// What came.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Where it is, or what it was written into; `None` for standard output.
    pub(crate) file: Option<PathBuf>,
    /// The digest of what came.
    pub(crate) digest: Digest,
    /// Bytes of the whole.
    pub(crate) size: u64,
    /// Whether `digest` was known before, and not from its provider alone.
    pub(crate) verified: bool,
    /// Bytes that an earlier run had.
    pub(crate) resumed: u64,
    /// `local`, or the URL of the peer that it began to come from.
    pub(crate) source: Option<String>,
}

impl Sink {
    fn written(&self) -> u64 {
        match self {
            Self::File(part) => part.written(),
            Self::Stream(stream) => stream.written,
        }
    }

    fn resume(&self) -> Option<Resume> {
        match self {
            Self::File(part) => part.resume(),
            Self::Stream(stream) => Some(Resume {
                offset: stream.written,
                digest: stream.known.filter(|_| stream.written > 0)?,
            }),
        }
    }

    /// What the next run of the program can go on from.
    fn kept(&self) -> Option<Kept> {
        match self {
            Self::File(part) => part.kept(),
            Self::Stream(_) => None,
        }
    }

    fn restart(&mut self, content: &Content) -> Result<(), Failure> {
        match self {
            Self::File(part) => part.restart(content.digest.zip(content.total)),
            Self::Stream(stream) if stream.written == 0 => {
                stream.known = content.digest;
                Ok(())
            }
            Self::Stream(_) => Err(Failure::Verification(
                "the file changed while it came; what was written is not to be trusted".to_owned(),
            )),
        }
    }

    /// The digest of what is there, if `content`, which comes from its start, goes on from it.
    fn beginning_of(&self, content: &Content) -> Option<Digest> {
        match self {
            Self::File(part) => part.beginning_of(content.digest, content.total),
            Self::Stream(stream) => {
                let known = stream.known.filter(|_| stream.written > 0);
                known.filter(|known| content.digest == Some(*known))
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File(part) => part.write(bytes),
            Self::Stream(stream) => stream.write(bytes).await,
        }
    }

    /// Waits until what came is where it belongs: the program may end here.
    async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::File(_) => Ok(()),
            Self::Stream(stream) => stream.flush().await,
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Self::File(part) => part.digest(),
            Self::Stream(stream) => stream.digest(),
        }
    }
}

/// A download as it was asked for.
pub(crate) struct Order<'a> {
    /// What.
    pub(crate) wanted: Wanted,
    /// From whom.
    pub(crate) source: Source,
    /// What to do when the target exists by now.
    pub(crate) if_exists: IfExists,
    /// Who sends it, or knows who does.
    pub(crate) api: &'a Api,
    /// How fast.
    pub(crate) limiter: &'a Limiter,
    /// Who is told of its progress.
    pub(crate) observer: &'a dyn Observer,
}

/// Is told how a content comes.
pub(crate) trait Observer {
    /// `done` of `total` bytes are there already; `digest` is what the sender says that it is.
    fn begin(&self, done: u64, total: Option<u64>, digest: Option<Digest>);
    /// `bytes` more are there.
    fn advance(&self, bytes: u64);
    /// The next run could go on from so many bytes now, if any.
    fn kept(&self, kept: Option<Kept>);
}

impl Order<'_> {
    /// Brings all of it to `sink`.
    pub(crate) async fn deliver(&self, mut sink: Sink) -> Result<Delivery, Failure> {
        let mut resumed = sink.written();
        let mut started_over = false;
        loop {
            let arrived = self.receive(&mut sink).await?;
            if !arrived.resumed {
                resumed = 0;
            }
            let digest = sink.digest();
            let expected = self.wanted.digest.or(arrived.digest);
            if expected.is_none_or(|expected| expected == digest) {
                // What a provider says of its own bytes proves that they all came, nothing more.
                let known = match self.source {
                    Source::OwnPeer => expected,
                    Source::Provider(_) => self.wanted.digest,
                };
                return self
                    .accept(sink, digest, resumed, arrived, known.is_some())
                    .await;
            }
            // The fault may be in what an earlier run left here: then once more, from the start.
            match &mut sink {
                Sink::File(part) if part.has_earlier_bytes() && !started_over => {
                    started_over = true;
                    part.restart(None)?;
                }
                _ => return Err(self.refuse(sink, digest)),
            }
        }
    }

    async fn accept(
        &self,
        sink: Sink,
        digest: Digest,
        resumed: u64,
        arrived: Arrived,
        verified: bool,
    ) -> Result<Delivery, Failure> {
        let size = sink.written();
        let file = match sink {
            Sink::File(part) => Some(part.place(self.if_exists)?),
            Sink::Stream(stream) => stream.finish().await?,
        };
        let source = match &self.source {
            Source::OwnPeer => arrived.source,
            Source::Provider(origin) => Some(origin.to_string()),
        };
        Ok(Delivery {
            file,
            digest,
            size,
            verified,
            resumed,
            source,
        })
    }

    fn refuse(&self, sink: Sink, digest: Digest) -> Failure {
        let name = &self.wanted.name;
        match sink {
            Sink::File(part) => {
                part.discard();
                Failure::Verification(format!(
                    "{name}: the bytes that came have the digest {digest}, which is not the \
                     expected one; nothing was saved"
                ))
            }
            Sink::Stream(_) => Failure::Verification(format!(
                "{name}: the bytes that came have the digest {digest}, which is not the expected \
                 one; what was written is not to be trusted"
            )),
        }
    }

    /// Fills `sink` to the end, asking again for the rest when the connection breaks. What is
    /// there goes only when an answer says that the content is another one now.
    async fn receive(&self, sink: &mut Sink) -> Result<Arrived, Failure> {
        let mut retries = 0;
        let mut source = None;
        let mut resumed = true;
        let mut afresh = false;
        let mut broken: Option<ApiError> = None;
        loop {
            let resume = sink.resume().filter(|_| !afresh);
            let cause = match self.open(resume).await {
                Ok(mut content) => {
                    afresh = false;
                    self.check_offer(sink.resume(), &content)?;
                    let (mut digest, mut skip) = (content.digest, 0);
                    if content.start == 0 {
                        if let Some(known) = sink.beginning_of(&content) {
                            (digest, skip) = (Some(known), sink.written());
                        } else {
                            sink.restart(&content)?;
                            resumed = false;
                        }
                    }
                    source = source.or(content.source.take());
                    self.observer.begin(sink.written(), content.total, digest);
                    match self.drain(&mut content, skip, sink).await? {
                        None => {
                            return Ok(Arrived {
                                digest,
                                source,
                                resumed,
                            });
                        }
                        Some(cause) => cause,
                    }
                }
                // It may be shorter now than what an earlier run left: the whole of it will tell.
                Err(cause) if cause.is_range_refused() && resume.is_some() => {
                    afresh = true;
                    continue;
                }
                // Who sent it is gone by now: that is not the same as unheard of.
                Err(cause) if cause.exit_code() == ExitCode::NotFound && broken.is_some() => {
                    return Err(Failure::Stopped {
                        cause: match broken {
                            Some(before) => cause.after(before),
                            None => cause,
                        },
                        kept: sink.kept(),
                    });
                }
                // Nothing came yet in this run: no reason to hope for a better second try.
                Err(cause) if !cause.is_break() || retries == 0 => return Err(self.failed(cause)),
                Err(cause) => cause,
            };
            if retries == MAX_RETRIES {
                return Err(Failure::Stopped {
                    cause,
                    kept: sink.kept(),
                });
            }
            // Without a digest there is no telling whether the rest belongs to the beginning.
            if matches!(sink, Sink::Stream(_)) && sink.written() > 0 && sink.resume().is_none() {
                return Err(Failure::Stopped { cause, kept: None });
            }
            log::info!("asking again for the rest: {cause}");
            actix_rt::time::sleep(RETRY_PAUSE * 2_u32.pow(retries)).await;
            retries += 1;
            broken = Some(cause);
        }
    }

    async fn open(&self, resume: Option<Resume>) -> Result<Content, ApiError> {
        match &self.source {
            Source::OwnPeer => self.api.open(&self.wanted, resume).await,
            Source::Provider(origin) => {
                let name = &self.wanted.name;
                self.api.open_at(origin, name, resume).await
            }
        }
    }

    /// Refuses an answer that does not go with what was asked for, or with what is there.
    fn check_offer(&self, there: Option<Resume>, content: &Content) -> Result<(), Failure> {
        if let (Some(wanted), Some(offered)) = (self.wanted.digest, content.digest)
            && wanted != offered
        {
            return Err(Failure::Verification(format!(
                "{} offers the digest {offered} instead of {wanted}",
                content.origin()
            )));
        }
        let fits = content.start == 0
            || there.is_some_and(|resume| {
                resume.offset == content.start && content.digest == Some(resume.digest)
            });
        if fits {
            Ok(())
        } else {
            Err(Failure::Api(ApiError::Garbled {
                origin: content.origin().clone(),
                what: "it is not the part of the content that was asked for".to_owned(),
            }))
        }
    }

    /// Moves bytes, but for the first `skip`, until the end (`None`) or until the connection
    /// breaks.
    async fn drain(
        &self,
        content: &mut Content,
        mut skip: u64,
        sink: &mut Sink,
    ) -> Result<Option<ApiError>, Failure> {
        let at_once = self.limiter.at_once(BLOCK);
        loop {
            match content.block(at_once).await {
                Ok(Some(block)) => {
                    self.limiter.pay(block.len()).await;
                    let skipped = block.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                    skip -= skipped as u64;
                    let block = &block[skipped..];
                    if block.is_empty() {
                        continue;
                    }
                    sink.write(block).await?;
                    self.observer.advance(block.len() as u64);
                    self.observer.kept(sink.kept());
                }
                Ok(None) if skip > 0 => {
                    return Ok(Some(ApiError::Garbled {
                        origin: content.origin().clone(),
                        what: "it ends before what is here already".to_owned(),
                    }));
                }
                Ok(None) => return Ok(None),
                Err(cause) => {
                    sink.flush().await?;
                    return Ok(Some(cause));
                }
            }
        }
    }

    fn failed(&self, cause: ApiError) -> Failure {
        match &self.source {
            Source::OwnPeer => Failure::Api(cause),
            Source::Provider(_) => Failure::Provider(cause),
        }
    }
}

/// What the headers of the last answer said.
struct Arrived {
    digest: Option<Digest>,
    source: Option<String>,
    resumed: bool,
}
