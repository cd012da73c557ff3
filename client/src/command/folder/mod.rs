//! `download NAME/`: brings all files below a folder of the network, several at once, under one
//! bar. A file that fails does not stop the others, unless nothing can succeed.
//!
//! Files that are there already, whole and the same, are not fetched again: run again, it goes on.

mod listing;
mod tree;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use vecino_rest::{Digest, Kind, Name, Problem};

use self::{
    listing::{Contents, Entry, Listed},
    tree::Tree,
};
use super::{
    download::Report,
    tally::{self, Failures},
};
use crate::{
    api::{ApiError, Wanted},
    cli::{DownloadArgs, IfExists},
    failure::{Failure, Kept},
    output::{Output, clean, size},
    progress::{Overall, Share},
    session::Session,
    transfer::{
        Delivery, Observer, Order, Sink, Source,
        limit::Limiter,
        part::Part,
        small::MAX_SMALL,
        target::{self, ends_with_separator},
    },
};

/// Files that are fetched at the same time, each over a connection that the next one takes over.
const AT_ONCE: usize = 8;
/// How often a file is asked for again where the own peer is busy.
const MAX_BUSY: u32 = 6;
/// How long to wait before the first of them; doubled for each further one.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// How a file came to be there.
enum Outcome {
    /// It was fetched.
    Fetched(Delivery),
    /// It was there, whole and the same.
    Complete(PathBuf),
    /// Something else was there, and was to stay.
    Skipped(PathBuf),
}

/// The last value, with `--json`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Files below the folder.
    files: u64,
    /// Fetched now.
    fetched: u64,
    /// There before, whole and the same.
    complete: u64,
    /// Left as they were.
    skipped: u64,
    failed: u64,
    /// Fetched now, and nobody knew a digest to check them against.
    unverified: u64,
    /// Not tried, because nothing could succeed any more.
    untried: u64,
    /// Fetched now.
    bytes: u64,
    path: String,
    /// The network could not be searched: there may be more files.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

impl Summary {
    /// Files that are there.
    fn there(&self) -> u64 {
        self.fetched + self.complete + self.skipped
    }

    fn text(&self, folder: &Name) -> String {
        let mut text = format!(
            "{folder}/: {} of {} files, {}",
            self.there(),
            self.files,
            size(self.bytes)
        );
        for (count, how) in [
            (self.complete, "there before"),
            (self.skipped, "skipped"),
            (self.failed, "failed"),
            (self.untried, "not tried"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {how}"));
            }
        }
        text.push_str(&format!(", saved in {}", clean(&self.path)));
        text
    }
}

/// Runs it.
pub(super) async fn run(
    folder: &Name,
    args: &DownloadArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    let root = root(folder, args)?;
    let api = &session.api;
    let Listed {
        entries,
        unsearched,
    } = listing::list(folder, args.from.is_some(), api, out).await?;
    if entries.is_empty() {
        let text = format!("{folder}/: nobody shares a file below it");
        return Err(Failure::NotFound(text));
    }
    let fetching = Fetching {
        folder,
        args,
        session,
        tree: Tree::open(root)?,
        limiter: Limiter::new(args.limit),
    };
    let mut summary = Summary {
        files: entries.len() as u64,
        path: fetching.tree.root().to_string_lossy().into_owned(),
        incomplete: unsearched.is_some(),
        ..Summary::default()
    };
    let expected = entries.iter().map(Entry::size).fold(0, u64::saturating_add);
    let overall = Overall::new(out.progress(folder.file_name()), summary.files, expected);
    let failures = fetching.all(entries, &overall, &mut summary, out).await?;
    drop(overall);
    if summary.unverified > 0 {
        out.warn(&format!(
            "for {} of the files nobody knew a digest to check it against; their bytes may be \
             anything",
            summary.unverified
        ));
    }
    summary.failed = failures.count();
    summary.untried = summary.files - summary.there() - summary.failed;
    if out.json() {
        out.value(&serde_json::json!({ "summary": summary }))?;
    } else {
        out.note(&summary.text(folder));
    }
    failures.finish(out)?;
    match unsearched {
        // Where nobody can search, what the own peer knows is all that there is to know.
        Some(why) if !why.is_for_good() => Err(Failure::Api(why)),
        _ => Ok(()),
    }
}

/// Where the folder goes.
fn root(folder: &Name, args: &DownloadArgs) -> Result<PathBuf, Failure> {
    let alone = |what: &str| {
        Err(Failure::Usage(format!(
            "{what} goes with a single file, and {folder}/ is a folder"
        )))
    };
    if args.digest.is_some() {
        return alone("--digest");
    }
    if args.direct {
        return alone("--direct");
    }
    match args.output.as_deref() {
        None => Ok(PathBuf::from(folder.file_name())),
        Some(path) if path == Path::new("-") || path == Path::new("/dev/stdout") => {
            alone("standard output")
        }
        Some(path) if ends_with_separator(path) => {
            // Without it, so that what it is in can be told.
            Ok(path.components().as_path().to_owned())
        }
        Some(path) if path.as_os_str() == OsStr::new("") => {
            Err(Failure::Usage("-o \"\" is no folder".to_owned()))
        }
        Some(path) => Ok(path.to_owned()),
    }
}

struct Fetching<'a> {
    folder: &'a Name,
    args: &'a DownloadArgs,
    session: &'a Session,
    tree: Tree,
    limiter: Limiter,
}

impl Fetching<'_> {
    /// Fetches `entries`, several at once, and tells of each; what failed.
    async fn all(
        &self,
        entries: Vec<Entry>,
        overall: &Overall,
        summary: &mut Summary,
        out: &Output,
    ) -> Result<Failures, Failure> {
        let mut failures = Failures::default();
        let mut ends = stream::iter(entries)
            .map(|entry| async move {
                let share = overall.file(entry.size());
                let end = self.one(&entry, &share).await;
                if end.is_ok() {
                    share.done();
                }
                (entry.name, end)
            })
            .buffer_unordered(AT_ONCE);
        let say_how_to_go_on = |summary: &Summary| {
            self.session.set_go_on(Some(format!(
                "{} of {} files are there, what came of others is kept; run again to go on",
                summary.there(),
                summary.files
            )));
        };
        say_how_to_go_on(summary);
        while let Some((name, end)) = ends.next().await {
            match end {
                Ok(outcome) => tell(&name, &outcome, summary, out)?,
                Err(failure) => {
                    let failure = Box::new(failure);
                    let failure = Failure::File { name, failure };
                    let is_hopeless = tally::is_hopeless(&failure);
                    tell_failure(&failure, out)?;
                    failures.add(failure);
                    if is_hopeless {
                        break;
                    }
                }
            }
            say_how_to_go_on(summary);
        }
        Ok(failures)
    }

    async fn one(&self, entry: &Entry, share: &Share<'_>) -> Result<Outcome, Failure> {
        let (digest, size) = match &entry.content {
            Contents::One { digest, size } => (*digest, *size),
            Contents::Several(variants) => {
                let detail = format!("{} variants share this name", variants.len());
                let mut problem = Problem::new(Kind::Ambiguous, detail);
                problem.variants.clone_from(variants);
                return Err(Failure::Api(ApiError::Problem(Box::new(problem))));
            }
        };
        let below = entry.name.as_str().get(self.folder.as_str().len() + 1..);
        let target = self
            .tree
            .target(below.expect("listed names are below the folder"))?;
        if target::exists(&target)? {
            if let Some((digest, size)) = digest.zip(size)
                && tree::holds(&target, digest, size).await?
            {
                share.begin(size, size);
                return Ok(Outcome::Complete(target));
            }
            match self.args.if_exists {
                IfExists::Error => return Err(Failure::Exists(target)),
                IfExists::Skip => return Ok(Outcome::Skipped(target)),
                // What is no regular file is not replaced when it comes to that.
                IfExists::Rename | IfExists::Overwrite => {}
            }
        }
        let order = Order {
            wanted: Wanted {
                name: entry.name.clone(),
                digest,
                from: self.args.from.clone(),
            },
            source: Source::OwnPeer,
            if_exists: self.args.if_exists,
            api: &self.session.api,
            limiter: &self.limiter,
            observer: share,
        };
        let known = digest.zip(size);
        let mut pause = BUSY_PAUSE;
        for _ in 0..MAX_BUSY {
            match deliver(&order, known, &target).await {
                Err(failure) if is_busy(&failure) => actix_rt::time::sleep(pause).await,
                end => return end.map(Outcome::Fetched),
            }
            pause *= 2;
        }
        deliver(&order, known, &target).await.map(Outcome::Fetched)
    }
}

async fn deliver(
    order: &Order<'_>,
    known: Option<(Digest, u64)>,
    target: &Path,
) -> Result<Delivery, Failure> {
    match known {
        Some((digest, size)) if size <= MAX_SMALL => {
            order.deliver_small(digest, size, target).await
        }
        _ => order.deliver(Sink::File(Part::open(target).await?)).await,
    }
}

fn is_busy(failure: &Failure) -> bool {
    let problem = failure.problem();
    problem.is_some_and(|problem| problem.kind() == Some(Kind::Busy))
}

/// Counts a file that is there, and says so where each is told.
fn tell(
    name: &Name,
    outcome: &Outcome,
    summary: &mut Summary,
    out: &Output,
) -> Result<(), Failure> {
    let stays = |path: &Path, complete: bool| {
        if !out.json() {
            return Ok(());
        }
        let path = path.to_string_lossy();
        let mut value = serde_json::json!({ "name": name, "path": path, "skipped": true });
        if complete {
            value["complete"] = true.into();
        }
        out.value(&value)
    };
    match outcome {
        Outcome::Fetched(delivery) => {
            summary.fetched += 1;
            summary.bytes += delivery.size;
            summary.unverified += u64::from(!delivery.verified);
            if out.json() {
                return out.value(&Report::new(name, delivery, None));
            }
            Ok(())
        }
        Outcome::Complete(path) => {
            summary.complete += 1;
            stays(path, true)
        }
        Outcome::Skipped(path) => {
            summary.skipped += 1;
            stays(path, false)
        }
    }
}

fn tell_failure(failure: &Failure, out: &Output) -> Result<(), Failure> {
    let Failure::File { name, .. } = failure else {
        return Ok(());
    };
    if !out.json() {
        return Ok(());
    }
    out.value(&serde_json::json!({ "name": name, "failed": out.problem(failure) }))
}

impl Observer for Share<'_> {
    fn begin(&self, done: u64, total: Option<u64>, _: Option<Digest>) {
        Share::begin(self, done, total.unwrap_or(done));
    }

    fn advance(&self, bytes: u64) {
        Share::advance(self, bytes);
    }

    fn kept(&self, _: Option<Kept>) {}
}
