//! `search`: names in the network.
//!
//! Each page is printed in order of names and digests; what fits into one page is all in order,
//! whatever order the peer found it in.

use vecino_rest::body::{SearchQuery, Variant};

use crate::{
    cli::SearchArgs,
    command::pages,
    failure::Failure,
    output::{Output, Rows, moment, size},
    session::Session,
};

/// Digits of a digest that tell variants apart.
const SHORT_DIGEST: usize = 12;

/// Runs it.
pub(crate) async fn run(args: &SearchArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    let words = args.words.join(" ");
    if words.trim().is_empty() && args.file_type.is_none() {
        return Err(Failure::Usage(
            "nothing to search for: give TEXT, --type, or both".to_owned(),
        ));
    }
    let mut alike = false;
    let shown = pages::each(
        args.limit,
        |limit, cursor| {
            let query = SearchQuery {
                q: words.clone(),
                file_type: args.file_type.clone(),
                limit: Some(limit),
                cursor,
                prefix: None,
            };
            async move { session.api.search(&query).await }
        },
        |mut variants: Vec<Variant>| {
            variants.sort_by(|a, b| (&a.name, a.digest).cmp(&(&b.name, b.digest)));
            alike |= share_names(&variants);
            show(&variants, out)
        },
    )
    .await?;
    if alike {
        out.note("names with several variants: `locate NAME` shows whole digests for --digest");
    }
    if shown > 0 {
        return Ok(());
    }
    let of_type = match &args.file_type {
        Some(file_type) => format!(" of the type {file_type}"),
        None => String::new(),
    };
    let by_words = !words.trim().is_empty();
    let text = if by_words {
        format!("no names{of_type} match {words:?}")
    } else {
        format!("no names{of_type}")
    };
    Err(Failure::NoHits { text, by_words })
}

/// Whether two of them share a name; they are in order of names.
fn share_names(variants: &[Variant]) -> bool {
    variants.windows(2).any(|pair| pair[0].name == pair[1].name)
}

/// The beginning of a digest, to tell variants apart.
fn short(variant: &Variant) -> String {
    variant.digest.map_or_else(
        || "unknown".to_owned(),
        |digest| digest.to_string().chars().take(SHORT_DIGEST).collect(),
    )
}

fn show(variants: &[Variant], out: &Output) -> Result<(), Failure> {
    if out.json() {
        return variants.iter().try_for_each(|variant| out.value(variant));
    }
    let alike = share_names(variants);
    let head: &[&str] = if alike {
        &["SIZE", "MODIFIED", "PROVIDERS", "DIGEST", "NAME"]
    } else {
        &["SIZE", "MODIFIED", "PROVIDERS", "NAME"]
    };
    let mut rows = Rows::new(head).right(0).right(2);
    for variant in variants {
        let bytes = variant.size.map_or_else(|| "unknown".to_owned(), size);
        let modified = variant.modified_ms.map(moment).unwrap_or_default();
        let providers = variant.provider_count.to_string();
        let digest = short(variant);
        let mut cells = vec![&*bytes, &modified, &providers];
        if alike {
            cells.push(&digest);
        }
        cells.push(variant.name.as_str());
        rows.push(&cells);
    }
    out.table(&rows)
}
