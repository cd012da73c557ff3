//! `locate`: the variants of a name, and who holds each.

use crate::{
    cli::LocateArgs,
    failure::Failure,
    output::{Output, Rows, size},
    session::Session,
};

/// Runs it.
pub(crate) async fn run(args: &LocateArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    let located = session.api.locate(&args.name).await?;
    if located.variants.is_empty() {
        return Err(Failure::NotFound(format!("{}: nobody has it", args.name)));
    }
    if out.json() {
        return out.value(&located);
    }
    for variant in &located.variants {
        let digest = match variant.digest {
            Some(digest) => digest.to_string(),
            None => "unknown digest".to_owned(),
        };
        let bytes = variant.size.map_or_else(|| "unknown size".to_owned(), size);
        let count = variant.provider_count;
        let providers = if count == 1 { "provider" } else { "providers" };
        out.text(&format!("{digest}  {bytes}  {count} {providers}"))?;
        let some_have_a_part = variant.providers.iter().any(|provider| provider.partial);
        // Without them it would say nothing.
        let columns = if some_have_a_part { 4 } else { 3 };
        let mut rows = Rows::new(&["URL", "PEER", "SITE", "HOLDS"][..columns]);
        for provider in &variant.providers {
            let peer = provider.peer.map(|peer| peer.to_string());
            let cells: [&str; 4] = [
                &provider.url,
                peer.as_deref().unwrap_or("unknown"),
                provider.site.as_deref().unwrap_or_default(),
                if provider.partial { "a part" } else { "all" },
            ];
            rows.push(&cells[..columns]);
        }
        out.table(&rows)?;
    }
    Ok(())
}
