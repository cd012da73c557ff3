//! Between messages and the words of the domain. What other members send is hostile: of an
//! answer, what does not parse or was not asked for is left out; a request is refused whole.

use tonic::Status;
use vecino_grpc::v1;
use vecino_rest::{
    Digest, Name, PeerId,
    body::{Provider, Variant},
    zone::ZoneLayout,
};

use super::kept::{MAX_OF_NAME, MAX_VARIANTS};
use crate::{content::catalogue::Record, download::provider_url};

/// Records in one message.
pub(super) const MAX_BATCH: usize = 1024;
/// Bytes of a site.
const MAX_SITE_BYTES: usize = 64;

/// As it is sent.
pub(super) fn record(record: &Record) -> v1::Record {
    v1::Record {
        name: record.name.to_string(),
        digest: record.digest.as_bytes().to_vec().into(),
        size: record.size,
        modified_ms: record.modified_ms,
        partial: false,
    }
}

/// A record that is gone, as it is sent.
pub(super) fn gone(digest: &Digest, name: &Name) -> v1::Record {
    v1::Record {
        name: name.to_string(),
        digest: digest.as_bytes().to_vec().into(),
        size: 0,
        modified_ms: 0,
        partial: false,
    }
}

/// Records that a request has for `slot`.
pub(super) fn records(
    records: Vec<v1::Record>,
    slot: u32,
    layout: ZoneLayout,
) -> Result<Vec<Record>, Status> {
    if records.len() > MAX_BATCH {
        return Err(Status::invalid_argument(format!(
            "{} records in one message: expected at most {MAX_BATCH}",
            records.len()
        )));
    }
    let parse = |record: v1::Record| {
        let name = Name::parse(&record.name)
            .map_err(|fault| Status::invalid_argument(format!("name: {fault}")))?;
        let digest = Digest::from_slice(&record.digest)
            .ok_or_else(|| Status::invalid_argument("digest: expected 32 bytes"))?;
        let belongs = layout.slot_of(&name);
        if belongs != slot {
            return Err(Status::invalid_argument(format!(
                "slot is {slot}: {name:?} belongs to {belongs}"
            )));
        }
        Ok(Record {
            name,
            digest,
            size: record.size,
            modified_ms: record.modified_ms,
        })
    };
    records.into_iter().map(parse).collect()
}

/// What is known of a name, as it is sent.
pub(super) fn found(variants: Vec<Variant>) -> Vec<v1::Variant> {
    let provider = |provider: Provider| {
        Some(v1::Provider {
            peer_id: provider.peer?.as_bytes().to_vec().into(),
            url: provider.url,
            site: provider.site.unwrap_or_default(),
            partial: false,
        })
    };
    let variant = |variant: Variant| {
        Some(v1::Variant {
            name: variant.name.into(),
            digest: variant.digest?.as_bytes().to_vec().into(),
            size: variant.size?,
            modified_ms: variant.modified_ms.unwrap_or_default(),
            provider_count: variant.provider_count,
            providers: variant.providers.into_iter().filter_map(provider).collect(),
        })
    };
    variants.into_iter().filter_map(variant).collect()
}

/// What of an answer is about `name` and can be understood.
pub(super) fn variants(answer: Vec<v1::Variant>, name: &Name) -> Vec<Variant> {
    let provider = |provider: v1::Provider| {
        // In its one spelling; what it resolves to is checked by whoever fetches from it.
        let url = provider_url::parse(&provider.url).ok()?;
        let site = provider.site;
        let shown = site.len() <= MAX_SITE_BYTES && !site.contains(char::is_control);
        Some(Provider {
            peer: Some(PeerId::from_slice(&provider.peer_id)?),
            url: url.to_string(),
            site: (shown && !site.is_empty()).then_some(site),
            partial: false,
        })
    };
    let variant = |variant: v1::Variant| {
        let providers: Vec<_> = variant
            .providers
            .into_iter()
            .take(MAX_OF_NAME)
            .filter_map(provider)
            .collect();
        let known = variant.name == name.as_str() && !providers.is_empty();
        known.then_some(Variant {
            name: name.clone(),
            digest: Some(Digest::from_slice(&variant.digest)?),
            size: Some(variant.size),
            modified_ms: Some(variant.modified_ms),
            provider_count: u32::try_from(providers.len()).unwrap_or(u32::MAX),
            providers,
        })
    };
    answer
        .into_iter()
        .take(MAX_VARIANTS)
        .filter_map(variant)
        .collect()
}
