//! `download --direct`: which provider to fetch from, as the own peer tells.
//!
//! Never a guess: of several contents under one name only the one that was asked for is fetched.

use std::collections::BTreeSet;

use vecino_rest::{Digest, Kind, Name, PeerUrl, Problem, body::Variant};

use crate::{api::ApiError, failure::Failure, session::Session, transfer::Source};

/// Whom to fetch `name` from, and which digest is to come, as far as that is known.
pub(super) async fn provider(
    name: &Name,
    wanted: Option<Digest>,
    session: &Session,
) -> Result<(Source, Option<Digest>), Failure> {
    let nobody = || Failure::NotFound(format!("{name}: nobody has it"));
    let variants = match session.api.locate(name).await {
        Ok(located) => located.variants,
        Err(error) if error.is_break() => return Err(error.into()),
        // An own peer of the first system has no such route; `connect` tells what it knows.
        Err(_) => Vec::new(),
    };
    let digests: BTreeSet<_> = variants.iter().filter_map(|v| v.digest).collect();
    // Somebody may have it of whom only the name is known.
    let all_known = !variants.is_empty() && variants.iter().all(|v| v.digest.is_some());
    match wanted {
        None if digests.len() > 1 => return Err(several(variants)),
        Some(wanted) if all_known && !digests.contains(&wanted) => return Err(nobody()),
        _ => {}
    }
    let of_it = variants
        .iter()
        .filter(|v| wanted.is_none() || v.digest == wanted);
    let mut providers = of_it.flat_map(|variant| &variant.providers);
    let known = providers.find_map(|provider| PeerUrl::parse(&provider.url).ok());
    let provider = match known {
        // The first system's contract knows no variants.
        Some(provider) if digests.len() > 1 => provider,
        known => match session.api.connect(name).await {
            Ok(connected) => connected.or(known).ok_or_else(nobody)?,
            // The neighbours do not know what the own peer itself discovered.
            Err(error) => known.ok_or(error)?,
        },
    };
    if provider.is_https() {
        return Err(Failure::Usage(format!(
            "{provider} has the file and speaks TLS, which --direct does not: run it without \
             --direct"
        )));
    }
    let digest = wanted.or_else(|| digest_at(&provider, &variants));
    Ok((Source::Provider(provider), digest))
}

/// The digest that the own peer knows of what `provider` has; `None` when it knows none, or
/// several.
fn digest_at(provider: &PeerUrl, variants: &[Variant]) -> Option<Digest> {
    let has_it = |variant: &&Variant| {
        let mut urls = variant.providers.iter().map(|provider| &provider.url);
        urls.any(|url| PeerUrl::parse(url).as_ref() == Ok(provider))
    };
    let mut of_provider = variants.iter().filter(has_it);
    match (of_provider.next(), of_provider.next(), variants) {
        (Some(only), None, _) => only.digest,
        // An answer has but some of the providers. With one variant there is no choice.
        (None, _, [only]) => only.digest,
        _ => None,
    }
}

fn several(variants: Vec<Variant>) -> Failure {
    let detail = format!("{} variants share this name", variants.len());
    let problem = Problem {
        variants,
        ..Problem::new(Kind::Ambiguous, detail)
    };
    ApiError::Problem(Box::new(problem)).into()
}
