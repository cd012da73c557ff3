//! From what a client wants to an open content: held here, else located through a neighbour and
//! fetched from providers.
//!
//! Belongs to a worker: jobs that it begins run on that worker's thread, over its connections.

use std::{ops::Range, sync::Arc};

use futures_util::{FutureExt, future::select_ok};
use vecino_rest::{
    Digest, PeerUrl,
    body::{Download, LocateQuery, Variant},
};

use super::{
    Downloads, JobError,
    choice::{self, Choice, Claim, Me, Wanted},
    job::{Job, Reader, Tools},
    provider_url,
    roster::Candidate,
    source::Incoming,
};
use crate::{
    content::{StoreError, read::OpenFile},
    locate::Strategy,
    neighbour::outbound::{Outbound, OutboundError},
};

/// Sizes of one digest that are tried at once ...
const CLAIMS_AT_ONCE: usize = 4;
/// ... and altogether: who lies about it hides the truth only with so many lies.
const MAX_CLAIMS: usize = 16;

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
    /// This peer would not keep it.
    #[error("{0}")]
    NotKept(String),
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
    pub me: Me,
    /// Who looks up.
    pub outbound: Outbound,
    /// Of which the flood may know something by itself.
    pub strategies: Vec<Arc<dyn Strategy>>,
    /// The running jobs.
    pub downloads: Arc<Downloads>,
    /// What they work with; its connections belong to this worker.
    pub tools: Tools,
}

impl Fetcher {
    /// What is held here, open; `None` when it has to be located. A client that names a provider
    /// gets what that provider has, so only its digest can be answered from here.
    async fn held(&self, wanted: &Wanted) -> Result<Option<OpenFile>, FetchError> {
        let catalogue = self.tools.store.catalogue();
        let entry = match (&wanted.digest, &wanted.from) {
            (Some(digest), _) => catalogue
                .by_name_and_digest(&wanted.name, digest)
                .or_else(|| catalogue.by_digest(digest)),
            (None, Some(_)) => None,
            (None, None) => catalogue.by_name(&wanted.name),
        };
        match entry {
            Some(entry) => Ok(self.tools.store.read(entry).await?),
            None => Ok(None),
        }
    }

    /// Who holds it: what the neighbours say, or else what this peer itself discovered, for which
    /// it asks nobody.
    pub async fn lookup(&self, query: &LocateQuery) -> Result<Vec<Variant>, OutboundError> {
        let asked = self.outbound.locate(query).await;
        let is_final = match &asked {
            Ok(variants) => !variants.is_empty(),
            Err(error) => matches!(error, OutboundError::BadQuery(_)),
        };
        if is_final {
            return asked;
        }
        let flood = self.strategies.iter().find_map(|one| one.as_flood());
        let known = flood.map(|flood| flood.known(query)).unwrap_or_default();
        if known.is_empty() { asked } else { Ok(known) }
    }

    /// What is held here, or else what the neighbours say of it. What is held here under another
    /// name counts as held then.
    pub async fn find(&self, wanted: &Wanted) -> Result<Located, FetchError> {
        if let Some(file) = self.held(wanted).await? {
            return Ok(Located::Held(file));
        }
        let (digest, claims) = match self.ask(wanted).await? {
            Located::Content(digest, claims) => (digest, claims),
            other => return Ok(other),
        };
        let file = match self.tools.store.catalogue().by_digest(&digest) {
            Some(entry) => self.tools.store.read(entry).await?,
            None => None,
        };
        Ok(file.map_or(Located::Content(digest, claims), Located::Held))
    }

    /// What `wanted` means in the network; `fresh`: by no answer from before. A provider that is
    /// known by its address may be named by its host.
    async fn choose(&self, wanted: &Wanted, fresh: bool) -> Result<Choice, OutboundError> {
        let mut choice = self.choose_as_named(wanted, fresh).await?;
        let Some(choice::From::Url(url)) = &wanted.from else {
            return Ok(choice);
        };
        if choice != Choice::Nobody {
            return Ok(choice);
        }
        for url in provider_url::by_address(url).await {
            let from = Some(choice::From::Url(url));
            let wanted = Wanted {
                from,
                ..wanted.clone()
            };
            choice = self.choose_as_named(&wanted, fresh).await?;
            if choice != Choice::Nobody {
                break;
            }
        }
        Ok(choice)
    }

    async fn choose_as_named(&self, wanted: &Wanted, fresh: bool) -> Result<Choice, OutboundError> {
        let ask = async |query: LocateQuery| {
            let query = LocateQuery { fresh, ..query };
            let located = self.lookup(&query).await?;
            Ok(choice::choose(located, wanted, &self.me))
        };
        if !fresh && let Some(choice) = self.searched(wanted) {
            return Ok(choice);
        }
        let by_name = ask(wanted.query()).await?;
        let Some(query) = wanted
            .query_by_digest()
            .filter(|_| by_name == Choice::Nobody)
        else {
            return Ok(by_name);
        };
        // Not every neighbour can: then the first answer holds.
        Ok(ask(query).await.unwrap_or_else(|error: OutboundError| {
            log::debug!("lookup by digest: {error}");
            by_name
        }))
    }

    /// What a search told a moment ago, where that will do: a folder of many files needs no lookup
    /// a file then.
    fn searched(&self, wanted: &Wanted) -> Option<Choice> {
        let digest = wanted.digest.filter(|_| wanted.from.is_none())?;
        let told = self.outbound.searched(&wanted.name, &digest)?;
        let choice = choice::choose(vec![told], wanted, &self.me);
        matches!(choice, Choice::Content(..)).then_some(choice)
    }

    async fn ask(&self, wanted: &Wanted) -> Result<Located, FetchError> {
        match self.choose(wanted, false).await? {
            Choice::Nobody => Err(FetchError::NotFound(match (&wanted.digest, &wanted.from) {
                (None, None) => format!("nobody shares {:?}", wanted.name),
                (Some(digest), None) => {
                    format!("nobody shares {:?} with digest {digest}", wanted.name)
                }
                (_, Some(from @ choice::From::Url(_))) => {
                    format!("no peer that is known as {from} shares {:?}", wanted.name)
                }
                (_, Some(from)) => format!("{from} does not share {:?}", wanted.name),
            })),
            Choice::Ambiguous(variants) => Err(FetchError::Ambiguous(variants)),
            Choice::Content(digest, claims) => {
                // Somebody else's download may have ended while this one was located.
                let catalogue = self.tools.store.catalogue();
                let held = catalogue.by_name_and_digest(&wanted.name, &digest);
                let file = match held {
                    Some(entry) => self.tools.store.read(entry).await?,
                    None => None,
                };
                Ok(file.map_or(Located::Content(digest, claims), Located::Held))
            }
            Choice::Unverifiable(providers) => Ok(Located::Unverifiable(providers)),
        }
    }

    /// A reader of the bytes that `part` gives for a size, its first piece verified; it reads in
    /// order, or waits for all. Claims of several sizes are tried, some at once: the last piece
    /// proves the right one.
    pub async fn read(
        &self,
        wanted: &Wanted,
        digest: Digest,
        claims: &[Claim],
        part: impl Fn(u64) -> Range<u64>,
        in_order: bool,
    ) -> Result<(Arc<Job>, Reader), FetchError> {
        let attempt = async |claim: &Claim| {
            let bytes = part(claim.size);
            let (job, mut reader) = self.join_or_begin(wanted, digest, claim, bytes, in_order)?;
            if claims.len() > 1 {
                let last = claim.size.saturating_sub(1)..claim.size;
                let proof = job.read(&wanted.name, last, true);
                proof.ok_or(JobError::Cancelled)?.ready().await?;
            }
            reader.ready().await?;
            Ok::<_, JobError>((job, reader))
        };
        let tried = &claims[..claims.len().min(MAX_CLAIMS)];
        let mut failed = JobError::Cancelled;
        for claims in tried.chunks(CLAIMS_AT_ONCE) {
            let attempts = claims.iter().map(|claim| attempt(claim).boxed_local());
            match select_ok(attempts).await {
                Ok((reading, _)) => return Ok(reading),
                Err(error) => failed = error,
            }
        }
        Err(failed.into())
    }

    fn join_or_begin(
        &self,
        wanted: &Wanted,
        digest: Digest,
        claim: &Claim,
        bytes: Range<u64>,
        in_order: bool,
    ) -> Result<(Arc<Job>, Reader), JobError> {
        let (job, reader, is_new) =
            self.downloads
                .join_or_begin(digest, &wanted.name, claim, bytes, in_order)?;
        if is_new {
            let (fetcher, job, size) = (self.clone(), job.clone(), claim.size);
            let providers = claim.providers.clone();
            let wanted = Wanted {
                digest: Some(digest),
                ..wanted.clone()
            };
            actix_web::rt::spawn(async move {
                let relocate = async || fetcher.candidates(&wanted, size).await;
                job.run(providers, fetcher.tools.clone(), relocate).await;
                fetcher.downloads.ended(&job);
            });
        }
        Ok((job, reader))
    }

    /// Who holds a content by now.
    async fn candidates(&self, wanted: &Wanted, size: u64) -> Vec<Candidate> {
        let Ok(choice) = self.choose(wanted, true).await else {
            return Vec::new();
        };
        match choice {
            Choice::Content(_, claims) => {
                let same = claims.into_iter().filter(|claim| claim.size == size);
                same.flat_map(|claim| claim.providers).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The bytes of the first provider that begins to deliver; nothing to check them against.
    pub async fn unverifiable(
        &self,
        wanted: &Wanted,
        providers: &[PeerUrl],
    ) -> Result<(PeerUrl, Incoming), FetchError> {
        let mut faults = Vec::new();
        for url in providers {
            match self.tools.source.unverifiable(url, &wanted.name).await {
                Ok(incoming) => return Ok((url.clone(), incoming)),
                Err(fault) => faults.push(format!("{url}: {fault}")),
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
        let here = self.held(wanted).await?;
        // It is to be here under this name: another one counts only where nobody else has it.
        let (located, other) = match here {
            Some(file) if file.entry().name == wanted.name => (Ok(Located::Held(file)), None),
            other => (self.ask(wanted).await, other),
        };
        let (digest, mut claims) = match (located, other) {
            (Ok(Located::Held(file)), _) | (Err(FetchError::NotFound(_)), Some(file)) => {
                held(file);
                return Ok(());
            }
            (Ok(Located::Content(digest, claims)), _) => (digest, claims),
            (Ok(Located::Unverifiable(_)), _) => return Err(FetchError::Unverifiable),
            (Err(error), _) => return Err(error),
        };
        let store = &self.tools.store;
        let size = claims.first().map_or(0, |claim| claim.size);
        claims.retain(|claim| store.keeps_size(claim.size));
        if claims.is_empty() {
            return Err(FetchError::NotKept(store.why_not_kept(size)));
        }
        let (job, reader) = self
            .read(wanted, digest, &claims, |size| 0..size, false)
            .await?;
        self.downloads.records.runs(&record.id, &job);
        Ok(reader.ended().await?)
    }
}
