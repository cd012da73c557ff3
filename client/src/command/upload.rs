//! `upload`: shares files on the own peer, several at once, and checks that what arrived is what was
//! sent. A file that fails does not stop the others, unless nothing can succeed.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::Read,
    path::Path,
    rc::Rc,
    time::Duration,
};

use actix_rt::time::{Instant, sleep_until};
use awc::body::SizedStream;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use vecino_rest::{Digest, Kind, body::Stored};

use crate::{
    api::{ApiError, SILENCE_TIMEOUT},
    cli::UploadArgs,
    command::{
        tally::{self, Failures},
        walk::{Found, Item},
    },
    exit_code::ExitCode,
    failure::Failure,
    output::{Output, size},
    progress::{Handle, Overall},
    session::Session,
};

/// Bytes that are read and sent at a time.
const CHUNK: usize = 256 << 10;
/// Files that are sent at the same time, each over a connection that the next one takes over.
const AT_ONCE: usize = 8;

/// A peer that has all of a file syncs it and reads it again before it answers: so many bytes a
/// second at least, from a slow disk.
const HASHED_BYTES_A_SECOND: u64 = 8 << 20;
/// Further peers that hold a copy, when nobody says.
const REPLICAS: u32 = 1;

/// The result of one file, with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    path: String,
    created: bool,
    #[serde(flatten)]
    stored: &'a Stored,
}

/// Runs it.
pub(crate) async fn run(args: &UploadArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    if args.name.is_some() && args.paths.len() > 1 {
        return Err(Failure::Usage(
            "--as names one PATH only: run upload once for each".to_owned(),
        ));
    }
    let mut found = Found::default();
    for path in &args.paths {
        if let Err(failure) = found.add(path, args.name.as_ref()) {
            found.failed.push(failure);
        }
    }
    for (path, why) in &found.left_out {
        out.warn(&format!("{} is left out: {why}", path.display()));
    }
    let several = found.has_folder || found.items.len() > 1;
    if several && !found.items.is_empty() {
        out.announce(&announcement(&found.items));
    }
    let all = found.items.len() + found.failed.len();
    let mut failures = Failures::default();
    found.failed.into_iter().for_each(|one| failures.add(one));
    let mut tally = Tally::default();
    let overall = several.then(|| one_bar(&found.items, out));
    let overall = overall.as_ref();
    let mut ends = stream::iter(&found.items)
        .map(|item| async move { (item, share(item, args, overall, session, out).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((item, end)) = ends.next().await {
        match end {
            Ok(shared) => tally.add(&shared),
            Err(failure) => {
                let hopeless = is_hopeless(&failure);
                failures.add(about(item, failure, args.replace));
                if hopeless {
                    break;
                }
            }
        }
    }
    drop(ends);
    if several && out.json() {
        out.value(&serde_json::json!({ "summary": tally.summary(all, failures.count()) }))?;
    } else if several {
        out.note(&tally.text(all));
    }
    failures.finish(out)
}

/// A bar over all of them.
fn one_bar(items: &[Item], out: &Output) -> Overall {
    let progress = out.progress("upload");
    let size_of = |item: &Item| std::fs::metadata(&item.path).map_or(0, |file| file.len());
    let bytes = if progress.is_visible() {
        items.iter().map(size_of).sum()
    } else {
        0
    };
    Overall::new(progress, items.len() as u64, bytes)
}

/// What is about to be shared.
fn announcement(items: &[Item]) -> String {
    format!("{} to share", counted(items.len()))
}

fn counted(files: usize) -> String {
    match files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    }
}

/// The last value of several files, with `--json`.
#[derive(Serialize)]
struct Summary {
    /// Files that were to be shared.
    files: u64,
    /// Shared now or before.
    shared: u64,
    /// How many of them were shared before.
    already: u64,
    failed: u64,
    /// Not tried, because nothing could succeed any more.
    untried: u64,
    /// Of those that are shared.
    bytes: u64,
}

/// What was shared so far.
#[derive(Debug, Default)]
struct Tally {
    files: usize,
    /// How many of them were shared before.
    before: usize,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, shared: &Shared) {
        self.files += 1;
        self.before += usize::from(!shared.created);
        self.bytes += shared.bytes;
    }

    /// The total, where `all` were to be shared and some `failed`.
    fn summary(&self, all: usize, failed: u64) -> Summary {
        let (files, shared) = (all as u64, self.files as u64);
        Summary {
            files,
            shared,
            already: self.before as u64,
            failed,
            untried: files.saturating_sub(shared + failed),
            bytes: self.bytes,
        }
    }

    /// The same in words.
    fn text(&self, all: usize) -> String {
        if all == 0 {
            return "no files there: nothing to share".to_owned();
        }
        let mut text = format!("{} of {} shared", self.files, counted(all));
        if self.before > 0 {
            text.push_str(&format!(" ({} already)", self.before));
        }
        text.push_str(&format!(", {}", size(self.bytes)));
        text
    }
}

/// Whether all other files would fail as well: the disk of the own peer counts here, our own does
/// not.
fn is_hopeless(failure: &Failure) -> bool {
    let code = failure.exit_code();
    let is_of_peer = matches!(failure, Failure::Api(_));
    is_of_peer && matches!(code, ExitCode::Unreachable | ExitCode::Disk)
        || tally::is_hopeless(failure)
}

/// Says which file a failure is about, where its text does not; and, when it was to `replace` what
/// is there, that this did not help.
fn about(item: &Item, failure: Failure, replace: bool) -> Failure {
    let failure = match failure {
        Failure::Api(ApiError::Problem(problem))
            if replace && problem.kind() == Some(Kind::Conflict) =>
        {
            Failure::Taken(problem)
        }
        failure @ Failure::Api(_) => failure,
        // The others name the path.
        failure => return failure,
    };
    Failure::File {
        name: item.name.clone(),
        failure: Box::new(failure),
    }
}

/// A file that is shared now.
struct Shared {
    created: bool,
    bytes: u64,
}

async fn share(
    item: &Item,
    args: &UploadArgs,
    overall: Option<&Overall>,
    session: &Session,
    out: &Output,
) -> Result<Shared, Failure> {
    let replaces = if args.replace {
        session.api.held(&item.name).await?
    } else {
        None
    };
    let outgoing = Outgoing::open(&item.path)?;
    let alone = overall.is_none().then(|| {
        let progress = out.progress(item.name.file_name());
        progress.begin(0, Some(outgoing.0.size));
        progress
    });
    let handle = match (&alone, overall) {
        (Some(progress), _) => Some(progress.handle()),
        (None, overall) => overall.map(Overall::handle),
    };
    let replicas = args.replicas.unwrap_or(REPLICAS);
    let body = outgoing.body(handle);
    let put = session.api.put(&item.name, replaces, replicas, body);
    let (created, answer) = tokio::select! {
        answer = put => match answer {
            Ok(answer) => answer,
            // Our own file, not the connection.
            Err(error) => return Err(outgoing.take_failure(&item.path).unwrap_or(error.into())),
        },
        after = outgoing.silence() => return Err(Failure::Api(ApiError::Silent {
            origin: session.api.peer().clone(),
            after,
        })),
    };
    drop(alone);
    // It is shared; copies of it may be on their way yet.
    let stored = session.api.stored(answer, outgoing.0.size).await?;
    let sent = outgoing.digest();
    if stored.digest != sent {
        return Err(Failure::Verification(format!(
            "{}: sent with the digest {sent}, but your peer has {} now",
            item.name, stored.digest
        )));
    }
    if let Some(wanted) = args
        .replicas
        .filter(|wanted| copies(&stored) < *wanted as usize)
    {
        let placed = copies(&stored);
        out.warn(&format!(
            "{}: {placed} of {wanted} copies placed: no other peer took one",
            item.name
        ));
    }
    // What took the place of another content is new as well.
    let created = created || replaces.is_some_and(|before| before != sent);
    let shared = Shared {
        created,
        bytes: stored.size,
    };
    if out.json() {
        let path = item.path.to_string_lossy().into_owned();
        out.value(&Report {
            path,
            created,
            stored: &stored,
        })?;
        return Ok(shared);
    }
    if let Some(overall) = overall {
        overall.file_done();
        // A line each is for who does not see the bar.
        if overall.is_visible() {
            return Ok(shared);
        }
    }
    let how = if created { "shared" } else { "already shared" };
    out.note(&format!(
        "{}: {how}, {}, digest {sent}{}",
        item.name,
        size(stored.size),
        also_on(&stored)
    ));
    Ok(shared)
}

/// Peers that hold it besides the own one, which is named first.
fn copies(stored: &Stored) -> usize {
    stored.holders.len().saturating_sub(1)
}

/// Where the copies are.
fn also_on(stored: &Stored) -> String {
    match stored.holders.get(1..) {
        None | Some([]) => String::new(),
        Some(others) => format!(", also on {}", others.join(", ")),
    }
}

/// A file that is being sent: the stream takes from it, the command watches it.
#[derive(Clone)]
struct Outgoing(Rc<State>);

struct State {
    file: RefCell<File>,
    size: u64,
    left: Cell<u64>,
    hasher: RefCell<blake3::Hasher>,
    moved: Cell<Instant>,
    failure: RefCell<Option<std::io::Error>>,
}

impl Outgoing {
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(Failure::disk(path))?;
        let size = file.metadata().map_err(Failure::disk(path))?.len();
        Ok(Self(Rc::new(State {
            file: RefCell::new(file),
            size,
            left: Cell::new(size),
            hasher: RefCell::new(blake3::Hasher::new()),
            moved: Cell::new(Instant::now()),
            failure: RefCell::new(None),
        })))
    }

    /// The bytes that were there when it was opened.
    fn body(&self, progress: Option<Handle>) -> impl awc::body::MessageBody + use<> {
        let chunks = stream::unfold(self.clone(), move |outgoing| {
            let next = outgoing.next();
            if let (Some(Ok(chunk)), Some(progress)) = (&next, &progress) {
                progress.advance(chunk.len() as u64);
            }
            std::future::ready(next.map(|chunk| (chunk, outgoing)))
        });
        SizedStream::new(self.0.size, chunks)
    }

    fn next(&self) -> Option<Result<Bytes, Box<dyn std::error::Error>>> {
        let state = &self.0;
        state.moved.set(Instant::now());
        let left = state.left.get();
        if left == 0 {
            return None;
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        let read = match state.file.borrow_mut().read(&mut chunk) {
            Ok(0) => Err(std::io::Error::other("it became shorter while it was sent")),
            other => other,
        };
        match read {
            Ok(read) => {
                chunk.truncate(read);
                state.hasher.borrow_mut().update(&chunk);
                state.left.set(left - read as u64);
                Some(Ok(chunk.into()))
            }
            Err(error) => {
                let text = error.to_string();
                *state.failure.borrow_mut() = Some(error);
                Some(Err(text.into()))
            }
        }
    }

    fn take_failure(&self, path: &Path) -> Option<Failure> {
        let error = self.0.failure.borrow_mut().take()?;
        Some(Failure::disk(path)(error))
    }

    /// The digest of what was sent.
    fn digest(&self) -> Digest {
        self.0.hasher.borrow().finalize().into()
    }

    /// How long nothing may be taken from it.
    fn patience(&self) -> Duration {
        let state = &self.0;
        let hashed = if state.left.get() == 0 { state.size } else { 0 };
        SILENCE_TIMEOUT + Duration::from_secs(hashed / HASHED_BYTES_A_SECOND)
    }

    /// Ends when nothing was taken from it for too long; answers how long.
    async fn silence(&self) -> Duration {
        loop {
            let patience = self.patience();
            let deadline = self.0.moved.get() + patience;
            if Instant::now() >= deadline {
                return patience;
            }
            sleep_until(deadline + Duration::from_millis(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_counts_files_and_bytes() {
        let mut tally = Tally::default();
        assert_eq!(tally.text(0), "no files there: nothing to share");
        for created in [true, false] {
            let bytes = 1024;
            tally.add(&Shared { created, bytes });
        }
        assert_eq!(tally.text(3), "2 of 3 files shared (1 already), 2.00 KiB");
        let summary = serde_json::to_value(tally.summary(5, 1)).unwrap();
        let untried = (&summary["untried"], &summary["already"], &summary["bytes"]);
        assert_eq!(untried, (&2.into(), &1.into(), &2048.into()));
    }

    #[test]
    fn a_peer_that_has_all_of_a_large_file_may_hash_it() {
        let outgoing = Outgoing::open(Path::new("/dev/zero")).expect("opened");
        let mut state = Rc::into_inner(outgoing.0).expect("only here");
        state.size = 32 << 30;
        state.left.set(1);
        let outgoing = Outgoing(Rc::new(state));
        assert_eq!(outgoing.patience(), SILENCE_TIMEOUT);
        outgoing.next().expect("a byte").expect("read");
        assert_eq!(
            outgoing.patience(),
            SILENCE_TIMEOUT + Duration::from_secs(4096)
        );
    }
}
