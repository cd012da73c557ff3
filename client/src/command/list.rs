//! `list`: what the own peer holds; with `--network`, what it found that others hold.

use vecino_rest::body::{FileEntry, Origin, Variant};

use crate::{
    cli::ListArgs,
    command::pages,
    failure::Failure,
    output::{Output, Rows, moment, size},
    session::Session,
};

/// Runs it.
pub(crate) async fn run(args: &ListArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    if args.network {
        return network(args, session, out).await;
    }
    let prefix = args.prefix.as_deref();
    let shown = pages::each(
        args.limit,
        |limit, cursor| async move { session.api.files(prefix, limit, cursor.as_deref()).await },
        |entries| show(&entries, out),
    )
    .await?;
    if shown == 0 {
        out.note(match prefix {
            None => "your peer holds no files yet; `upload` shares some",
            Some(_) => "your peer holds no files whose names begin so",
        });
    }
    Ok(())
}

async fn network(args: &ListArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    let prefix = args.prefix.as_deref();
    let shown = pages::each(
        args.limit,
        |limit, cursor| async move {
            let api = &session.api;
            api.discovered(prefix, limit, cursor.as_deref()).await
        },
        |variants| show_network(&variants, out),
    )
    .await?;
    if shown == 0 {
        out.note("your peer knows of no such files; `fetch` asks other peers what they share");
    }
    Ok(())
}

fn show_network(variants: &[Variant], out: &Output) -> Result<(), Failure> {
    if out.json() {
        return variants.iter().try_for_each(|variant| out.value(variant));
    }
    let mut rows = Rows::new(&["SIZE", "MODIFIED", "HOLDERS", "FROM", "NAME"])
        .right(0)
        .right(2);
    for variant in variants {
        let first = variant.providers.first();
        rows.push(&[
            &variant.size.map_or_else(|| "unknown".to_owned(), size),
            &variant.modified_ms.map(moment).unwrap_or_default(),
            &variant.provider_count.to_string(),
            first.map_or("", |provider| provider.url.as_str()),
            variant.name.as_str(),
        ]);
    }
    out.table(&rows)
}

fn show(entries: &[FileEntry], out: &Output) -> Result<(), Failure> {
    if out.json() {
        return entries.iter().try_for_each(|entry| out.value(entry));
    }
    let mut rows = Rows::new(&["SIZE", "MODIFIED", "FROM", "NAME"]).right(0);
    for entry in entries {
        let origin = match entry.origin {
            Origin::Shared => "shared",
            Origin::Fetched => "fetched",
        };
        rows.push(&[
            &size(entry.size),
            &moment(entry.modified_ms),
            origin,
            entry.name.as_str(),
        ]);
    }
    out.table(&rows)
}
