//! From what a client wants to an open content: held here, else located through a neighbour and
//! fetched from providers.
//!
//! Belongs to a worker: jobs that it begins run on that worker's thread, over its connections.

use std::{ops::Range, sync::Arc};

use vecino_rest::{
    Digest, PeerId, PeerUrl,
    body::{Download, Variant},
};

use super::{
    Downloads, JobError,
    choice::{self, Choice, Claim, Wanted},
    job::{Job, Reader, Tools},
    source::{Incoming, Source},
};
use crate::{
    content::{Store, StoreError, read::OpenFile},
    metrics::Metrics,
    neighbour::outbound::{Outbound, OutboundError},
};

/// Why a content cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody holds it.
    #[error("{0}")]
    NotFound(String),
    /// Several contents share the name.
    #[error("several variants share this name")]
    Ambiguous(Vec<Variant>),
    /// Nothing to check its bytes against, where that is needed.
    #[error(
        "its provider speaks only the first system's contract: its bytes cannot be verified, so \
         nothing is kept; download it directly"
    )]
    Unverifiable,
    /// No neighbour gave an answer.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// It could not be fetched.
    #[error(transparent)]
    Job(#[from] JobError),
    /// What is held here cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A content that was located.
pub enum Located {
    /// It came to be held here meanwhile.
    Held(OpenFile),
    /// Its bytes can be verified.
    Content(Digest, Vec<Claim>),
    /// Nothing to check its bytes against.
    Unverifiable(Vec<PeerUrl>),
}

/// See the module.
#[derive(Clone)]
pub struct Fetcher {
    /// This peer.
    pub me: PeerId,
    /// What is held here.
    pub store: Arc<Store>,
    /// Who looks up.
    pub outbound: Outbound,
    /// Whom to fetch from.
    pub source: Source,
    /// The running jobs.
    pub downloads: Arc<Downloads>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Fetcher {
    /// What is held here, open; `None` when it has to be located. A client that names a provider
    /// gets what that provider has, so only its digest can be answered from here.
    pub async fn held(&self, wanted: &Wanted) -> Result<Option<OpenFile>, FetchError> {
        let catalogue = self.store.catalogue();
        let entry = match (&wanted.digest, &wanted.from) {
            (Some(digest), _) => catalogue
                .by_name_and_digest(&wanted.name, digest)
                .or_else(|| catalogue.by_digest(digest)),
            (None, Some(_)) => None,
            (None, None) => catalogue.by_name(&wanted.name),
        };
        match entry {
            Some(entry) => Ok(self.store.read(entry).await?),
            None => Ok(None),
        }
    }

    /// What the neighbours say of it.
    pub async fn locate(&self, wanted: &Wanted) -> Result<Located, FetchError> {
        let located = self.outbound.locate(&wanted.query()).await?;
        match choice::choose(located, wanted, self.me) {
            Choice::Nobody => Err(FetchError::NotFound(match (&wanted.digest, &wanted.from) {
                (None, None) => format!("nobody shares {:?}", wanted.name),
                (Some(digest), None) => {
                    format!("nobody shares {:?} with digest {digest}", wanted.name)
                }
                (_, Some(from)) => format!("{from} does not share {:?}", wanted.name),
            })),
            Choice::Ambiguous(variants) => Err(FetchError::Ambiguous(variants)),
            Choice::Content(digest, claims) => {
                // Somebody else's download may have ended while this one was located.
                let catalogue = self.store.catalogue();
                let held = catalogue.by_name_and_digest(&wanted.name, &digest);
                let file = match held {
                    Some(entry) => self.store.read(entry).await?,
                    None => None,
                };
                Ok(file.map_or(Located::Content(digest, claims), Located::Held))
            }
            Choice::Unverifiable(providers) => Ok(Located::Unverifiable(providers)),
        }
    }

    /// A reader of the bytes that `part` gives for a size, its first piece verified. Claims of
    /// the size are tried in turn; where there are several, the last piece proves it first.
    pub async fn read(
        &self,
        wanted: &Wanted,
        digest: Digest,
        claims: &[Claim],
        part: impl Fn(u64) -> Range<u64>,
    ) -> Result<(Arc<Job>, Reader), FetchError> {
        let mut error = JobError::Providers("no provider is known".to_owned());
        for claim in claims {
            let attempt = async {
                let (job, mut reader) =
                    self.join_or_begin(wanted, digest, claim, part(claim.size))?;
                if claims.len() > 1 {
                    let last = claim.size.saturating_sub(1)..claim.size;
                    job.read(last).ok_or(JobError::Cancelled)?.ready().await?;
                }
                reader.ready().await?;
                Ok((job, reader))
            };
            match attempt.await {
                Ok(reading) => return Ok(reading),
                Err(failed) => error = failed,
            }
        }
        Err(error.into())
    }

    fn join_or_begin(
        &self,
        wanted: &Wanted,
        digest: Digest,
        claim: &Claim,
        bytes: Range<u64>,
    ) -> Result<(Arc<Job>, Reader), JobError> {
        let (job, reader, is_new) =
            self.downloads
                .join_or_begin(digest, &wanted.name, claim, bytes)?;
        if is_new {
            let (fetcher, job, size) = (self.clone(), job.clone(), claim.size);
            let providers = claim.providers.clone();
            let wanted = Wanted {
                digest: Some(digest),
                ..wanted.clone()
            };
            actix_web::rt::spawn(async move {
                let tools = Tools {
                    source: fetcher.source.clone(),
                    store: fetcher.store.clone(),
                    metrics: fetcher.metrics.clone(),
                };
                let relocate = async || match fetcher.locate(&wanted).await {
                    Ok(Located::Content(_, claims)) => {
                        let same = claims.into_iter().filter(|claim| claim.size == size);
                        same.flat_map(|claim| claim.providers).collect()
                    }
                    _ => Vec::new(),
                };
                job.run(providers, tools, relocate).await;
            });
        }
        Ok((job, reader))
    }

    /// The bytes of the first provider that begins to deliver; nothing to check them against.
    pub async fn unverifiable(
        &self,
        wanted: &Wanted,
        providers: &[PeerUrl],
    ) -> Result<(PeerUrl, Incoming), FetchError> {
        let mut faults = Vec::new();
        for url in providers {
            match self.source.unverifiable(url, &wanted.name).await {
                Ok(incoming) => return Ok((url.clone(), incoming)),
                Err(fault) => faults.push(format!("{url}: {fault:?}")),
            }
        }
        Err(
            JobError::Providers(format!("no provider could deliver ({})", faults.join("; ")))
                .into(),
        )
    }

    /// Fetches the whole content into this peer, telling `record` how it goes.
    pub async fn fetch(&self, wanted: &Wanted, record: &Download) -> Result<(), FetchError> {
        let held = |file: OpenFile| {
            let entry = file.entry();
            let (digest, size) = (entry.digest, entry.stamp.size);
            self.downloads.records.held(&record.id, digest, size);
        };
        if let Some(file) = self.held(wanted).await? {
            held(file);
            return Ok(());
        }
        let (digest, claims) = match self.locate(wanted).await? {
            Located::Held(file) => {
                held(file);
                return Ok(());
            }
            Located::Content(digest, claims) => (digest, claims),
            Located::Unverifiable(_) => return Err(FetchError::Unverifiable),
        };
        let (job, reader) = self.read(wanted, digest, &claims, |size| 0..size).await?;
        self.downloads.records.runs(&record.id, &job);
        Ok(reader.ended().await?)
    }
}
