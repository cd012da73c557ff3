//! Between the directory's messages and the REST bodies. What a locator sends is as hostile as
//! anything else from outside: what does not parse is left out.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use vecino_grpc::v1;
use vecino_rest::{
    Digest, Name, PeerId,
    body::{LocateQuery, Page, Provider, SearchPage, SearchQuery, Variant},
};

use crate::{download::provider_url, locate::LocateError};

/// Longest label of a place, in bytes.
const MAX_SITE: usize = 64;

/// The question as the directory takes it: what is looked up, and nothing else.
pub(super) fn locate_request(query: &LocateQuery) -> v1::LocateRequest {
    use v1::locate_request::By;
    let by = match (&query.name, &query.digest) {
        (Some(name), _) => Some(By::Name(name.to_string())),
        (None, Some(digest)) => Some(By::Digest(digest.as_bytes().to_vec().into())),
        (None, None) => None,
    };
    v1::LocateRequest {
        by,
        provider: query.provider.clone().unwrap_or_default(),
        max_providers: 0,
    }
}

/// Those of `variants` that can be understood.
pub(super) fn variants(variants: Vec<v1::Variant>) -> Vec<Variant> {
    variants.into_iter().filter_map(variant).collect()
}

fn variant(variant: v1::Variant) -> Option<Variant> {
    Some(Variant {
        name: Name::parse(&variant.name).ok()?,
        digest: Some(Digest::from_slice(&variant.digest)?),
        size: Some(variant.size),
        modified_ms: Some(variant.modified_ms),
        provider_count: variant.provider_count,
        providers: variant.providers.into_iter().filter_map(provider).collect(),
    })
}

/// `None` when it is not where a provider may be.
fn provider(provider: v1::Provider) -> Option<Provider> {
    let url = provider_url::parse(&provider.url).ok()?;
    let site = provider.site;
    let is_label = !site.is_empty() && site.len() <= MAX_SITE && !site.contains(char::is_control);
    Some(Provider {
        peer: PeerId::from_slice(&provider.peer_id),
        url: url.to_string(),
        site: is_label.then_some(site),
        partial: provider.partial,
    })
}

/// What the first system's contract told of.
pub(super) fn unverifiable(query: &LocateQuery, url: Option<String>) -> Vec<Variant> {
    let url = url.and_then(|url| provider_url::parse(&url).ok());
    let known = query.name.clone().zip(url.map(|url| url.to_string()));
    known
        .map(|(name, url)| Variant::unverifiable(name, url))
        .into_iter()
        .collect()
}

/// The question as the directory takes it.
pub(super) fn search_request(query: &SearchQuery) -> Result<v1::SearchRequest, LocateError> {
    let cursor = match &query.cursor {
        None => Vec::new(),
        Some(text) => BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| {
            LocateError::BadQuery("cursor is not one that a search answered with".to_owned())
        })?,
    };
    Ok(v1::SearchRequest {
        query: query.q.clone(),
        r#type: query.file_type.clone().unwrap_or_default(),
        limit: query.limit.unwrap_or_default(),
        cursor: cursor.into(),
        prefix: query.prefix.clone().unwrap_or_default(),
    })
}

/// Peers that an answer to a question for places has at most.
const MAX_PLACED: u32 = 16;

/// The question for places as the directory takes it. Whom to leave out and which site to prefer
/// would tell who asks: the asker sees to both itself.
pub(super) fn place_request(size: u64) -> v1::PlaceRequest {
    v1::PlaceRequest {
        size,
        count: MAX_PLACED,
        exclude: Vec::new(),
        site: String::new(),
    }
}

/// Those of the peers that can be understood, in their order.
pub(super) fn placed(response: v1::PlaceResponse) -> Vec<Provider> {
    let peers = response.peers.into_iter().take(MAX_PLACED as usize);
    peers.filter_map(provider).collect()
}

/// What a locator may have found wrong with a question, by the field its message begins with.
const REFUSALS: [(&str, &str); 5] = [
    (
        "query",
        "q: expected 1 to 16 words of letters or digits, at most 256 bytes together",
    ),
    (
        "type",
        "type: expected an extension without dot, or music, video, image, document, archive or code",
    ),
    (
        "cursor",
        "cursor: expected that of the page before, of the same search",
    ),
    (
        "prefix",
        "prefix: expected the beginning of names, at most 1024 bytes, and neither q nor type",
    ),
    ("provider", "provider: expected a peer id or a URL"),
];

/// Why a locator refused a question, as far as a client may hear it: the locator's own words are
/// not repeated, because they could tell where it is.
pub(super) fn refusal(message: &str) -> String {
    log::debug!("a locator refused a question: {message:?}");
    let known = REFUSALS
        .iter()
        .find(|(field, _)| message.starts_with(field));
    let why = known.map_or("the network does not take this question", |(_, why)| *why);
    why.to_owned()
}

/// The hits as REST shows them.
pub(super) fn search_page(response: v1::SearchResponse) -> SearchPage {
    let cursor = response.cursor;
    Page {
        items: variants(response.hits),
        next_cursor: (!cursor.is_empty()).then(|| BASE64_URL_SAFE_NO_PAD.encode(cursor)),
    }
}
