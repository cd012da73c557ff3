//! A foreign neighbour: it answers what a test puts into its mouth.

use std::sync::Arc;

use vecino_rest::{
    Name,
    body::{Located, Provider, Variant},
    route,
};

use super::{
    content::Content,
    fixture::{Fixture, Reply, Seen},
};

/// Locates every name as `variants` says.
pub(crate) async fn telling(variants: Vec<Variant>) -> Fixture {
    let conduct = move |seen: &Seen| match seen.path.as_str() {
        route::NEIGHBOUR_LOCATE => Reply::json(&Located {
            variants: variants.clone(),
        }),
        route::HEALTHZ => Reply::new("200 OK", "ok\n"),
        _ => Reply::new("404 Not Found", ""),
    };
    Fixture::start(Arc::new(conduct)).await
}

/// `content` under `name`, at these URLs.
pub(crate) fn variant(name: &str, content: &Content, urls: &[String]) -> Variant {
    let providers = urls.iter().map(|url| Provider {
        peer: None,
        url: url.clone(),
        site: None,
        partial: false,
    });
    Variant {
        name: Name::parse(name).expect("a name"),
        digest: Some(content.digest),
        size: Some(content.len()),
        modified_ms: Some(1_700_000_000_000),
        provider_count: urls.len() as u32,
        providers: providers.collect(),
    }
}
