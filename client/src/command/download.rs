//! `download` of one file: chooses target and source, has the content delivered, says what came of
//! it. A folder is the work of `folder`.

use std::{pin::pin, time::Duration};

use actix_rt::time::timeout;
use futures_util::future::{Either, select};
use serde::Serialize;
use vecino_rest::{Digest, Name, event::Transfer};

use crate::{
    api::Wanted,
    cli::{DownloadArgs, IfExists, Wish},
    command::{direct, folder},
    failure::{Failure, Kept},
    output::{Output, clean, size},
    progress::Progress,
    session::Session,
    transfer::{
        Delivery, Observer, Order, Sink, Source,
        limit::Limiter,
        part::Part,
        stream::Stream,
        target::{self, Target},
        watch::Watch,
    },
};

/// How long a report waits for what the own peer says at the end of a transfer, after the content
/// is there.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The result, with `--json`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    name: &'a Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    digest: Digest,
    size: u64,
    verified: bool,
    resumed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    providers: Option<Vec<Taken<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wasted_bytes: Option<u64>,
}

/// What the own peer took from a provider.
#[derive(Serialize)]
struct Taken<'a> {
    url: &'a str,
    pieces: u32,
}

impl<'a> Report<'a> {
    /// What came of the download of `name`, and what was told of it.
    pub(super) fn new(name: &'a Name, delivery: &'a Delivery, told: Option<&'a Transfer>) -> Self {
        let taken = |told: &'a Transfer| {
            let taken = told.providers.iter().map(|provider| Taken {
                url: &provider.url,
                pieces: provider.pieces,
            });
            taken.collect()
        };
        Self {
            name,
            path: shown_path(delivery),
            digest: delivery.digest,
            size: delivery.size,
            verified: delivery.verified,
            resumed: delivery.resumed,
            source: delivery.source.as_deref(),
            providers: told.map(taken),
            wasted_bytes: told.map(|told| told.wasted_bytes),
        }
    }
}

fn shown_path(delivery: &Delivery) -> Option<String> {
    let path = delivery.file.as_deref()?;
    Some(path.to_string_lossy().into_owned())
}

/// Moves the bar of one file, and says how to go on.
struct Watched<'a> {
    session: &'a Session,
    progress: &'a Progress,
    watch: &'a Watch<'a>,
    /// Whether anybody looks at what the own peer tells.
    is_looked_at: bool,
}

impl Observer for Watched<'_> {
    fn begin(&self, done: u64, total: Option<u64>, digest: Option<Digest>) {
        self.progress.begin(done, total);
        if let Some(digest) = digest.filter(|_| self.is_looked_at) {
            self.watch.know(digest);
        }
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn kept(&self, kept: Option<Kept>) {
        let how = |kept| clean(&format!("{kept}; run again to resume")).into_owned();
        self.session.set_go_on(kept.map(how));
    }
}

/// Runs it.
pub(crate) async fn run(
    args: &DownloadArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    match &args.name {
        Wish::File(name) => file(name, args, session, out).await,
        Wish::Folder(name) => folder::run(name, args, session, out).await,
    }
}

async fn file(
    name: &Name,
    args: &DownloadArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    let mut target = Target::of(name, args.output.as_deref());
    if let Target::File(path) = &mut target
        && target::exists(path)?
    {
        match args.if_exists {
            IfExists::Error => return Err(Failure::Exists(path.clone())),
            IfExists::Skip => return skipped(name, &path.to_string_lossy(), out),
            IfExists::Rename => {}
            IfExists::Overwrite => *path = target::to_overwrite(path)?,
        }
    }
    let (source, digest) = match args.direct {
        true => direct::provider(name, args.digest, session).await?,
        false => (Source::OwnPeer, args.digest),
    };
    let sink = match &target {
        Target::Stdout => Sink::Stream(Stream::stdout()),
        Target::Stream(path) => Sink::Stream(Stream::open(path).await?),
        Target::File(path) => Sink::File(Part::open(path).await?),
    };
    let progress = out.progress(name.file_name());
    let watch = Watch::new(&session.api, &progress);
    let order = Order {
        wanted: Wanted {
            name: name.clone(),
            digest,
            from: args.from.clone(),
        },
        source,
        if_exists: args.if_exists,
        api: &session.api,
        limiter: &Limiter::new(args.limit),
        observer: &Watched {
            session,
            progress: &progress,
            watch: &watch,
            is_looked_at: !args.direct && (progress.is_visible() || out.json()),
        },
    };
    let delivery = deliver(&order, sink, &watch, out.json()).await?;
    let told = watch.into_last();
    drop(progress);
    if !delivery.verified {
        out.warn(&format!(
            "{name}: nobody knew a digest to check it against; its bytes may be anything"
        ));
    }
    report(name, &delivery, told.as_ref(), &target, out)
}

/// Has it delivered, and watches meanwhile; `to_the_end` where the last word counts.
async fn deliver(
    order: &Order<'_>,
    sink: Sink,
    watch: &Watch<'_>,
    to_the_end: bool,
) -> Result<Delivery, Failure> {
    let mut watching = pin!(watch.run());
    match select(pin!(order.deliver(sink)), &mut watching).await {
        Either::Left((delivery, _)) => {
            if to_the_end && delivery.is_ok() && watch.is_in_the_middle() {
                // What is known without it will do.
                let _ = timeout(LAST_WORD, watching).await;
            }
            delivery
        }
        Either::Right(((), delivering)) => delivering.await,
    }
}

fn skipped(name: &Name, path: &str, out: &Output) -> Result<(), Failure> {
    if out.json() {
        return out.value(&serde_json::json!({ "name": name, "path": path, "skipped": true }));
    }
    out.note(&format!("{} exists already: skipped", clean(path)));
    Ok(())
}

fn report(
    name: &Name,
    delivery: &Delivery,
    told: Option<&Transfer>,
    target: &Target,
    out: &Output,
) -> Result<(), Failure> {
    if out.json() {
        let report = Report::new(name, delivery, told);
        if *target == Target::Stdout {
            // Standard output is the file.
            out.aside(&report);
            return Ok(());
        }
        return out.value(&report);
    }
    let mut text = format!("{name}: {}", size(delivery.size));
    if delivery.verified {
        text.push_str(", verified");
    }
    if delivery.resumed > 0 {
        text.push_str(&format!(", {} of it from before", size(delivery.resumed)));
    }
    if let Some(path) = shown_path(delivery) {
        let how = match target {
            Target::File(_) => "saved as",
            Target::Stream(_) | Target::Stdout => "written into",
        };
        text.push_str(&format!(", {how} {}", clean(&path)));
    }
    out.note(&text);
    Ok(())
}
