//! `download`: chooses target and source, has the content delivered, says what came of it.

use serde::Serialize;
use vecino_rest::{Digest, Name};

use crate::{
    api::Wanted,
    cli::{DownloadArgs, IfExists},
    failure::Failure,
    output::{Output, clean, size},
    session::Session,
    transfer::{
        Delivery, Order, Sink, Source,
        part::Part,
        stream::Stream,
        target::{self, Target},
    },
};

/// The result, with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    digest: Digest,
    size: u64,
    verified: bool,
    resumed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

/// Runs it.
pub(crate) async fn run(
    args: &DownloadArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    let mut target = Target::of(&args.name, args.output.as_deref());
    if let Target::File(path) = &mut target
        && target::exists(path)?
    {
        match args.if_exists {
            IfExists::Error => return Err(Failure::Exists(path.clone())),
            IfExists::Skip => return skipped(&args.name, &path.to_string_lossy(), out),
            IfExists::Rename => {}
            IfExists::Overwrite => *path = target::to_overwrite(path)?,
        }
    }
    let order = Order {
        wanted: Wanted {
            name: args.name.clone(),
            digest: args.digest,
            from: args.from.clone(),
        },
        source: source(args, session).await?,
        if_exists: args.if_exists,
        session,
        out,
    };
    let sink = match &target {
        Target::Stdout => Sink::Stream(Stream::stdout()),
        Target::Stream(path) => Sink::Stream(Stream::open(path).await?),
        Target::File(path) => Sink::File(Part::open(path).await?),
    };
    let delivery = order.deliver(sink).await?;
    if !delivery.verified {
        out.warn(&format!(
            "{}: nobody knew a digest to check it against; its bytes may be anything",
            args.name
        ));
    }
    report(&args.name, delivery, &target, out)
}

async fn source(args: &DownloadArgs, session: &Session) -> Result<Source, Failure> {
    if !args.direct {
        return Ok(Source::OwnPeer);
    }
    match session.api.connect(&args.name).await? {
        None => Err(Failure::NotFound(format!("{}: nobody has it", args.name))),
        Some(provider) if provider.is_https() => Err(Failure::Usage(format!(
            "{provider} has the file and speaks TLS, which --direct does not: run it without \
             --direct"
        ))),
        Some(provider) => Ok(Source::Provider(provider)),
    }
}

fn skipped(name: &Name, path: &str, out: &Output) -> Result<(), Failure> {
    if out.json() {
        return out.value(&serde_json::json!({ "name": name, "path": path, "skipped": true }));
    }
    out.note(&format!("{} exists already: skipped", clean(path)));
    Ok(())
}

fn report(name: &Name, delivery: Delivery, target: &Target, out: &Output) -> Result<(), Failure> {
    let path = delivery
        .file
        .as_deref()
        .map(|path| path.to_string_lossy().into_owned());
    if out.json() {
        let report = Report {
            name,
            path,
            digest: delivery.digest,
            size: delivery.size,
            verified: delivery.verified,
            resumed: delivery.resumed,
            source: delivery.source,
        };
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
    if let Some(path) = path {
        let how = match target {
            Target::File(_) => "saved as",
            Target::Stream(_) | Target::Stdout => "written into",
        };
        text.push_str(&format!(", {how} {}", clean(&path)));
    }
    out.note(&text);
    Ok(())
}
