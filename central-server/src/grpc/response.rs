//! Answers of the domain into messages of `vecino.v1`.

use bytes::Bytes;
use vecino_grpc::v1;

use crate::directory::{Variant, lease};

pub(super) fn provider(provider: &lease::Provider, partial: bool) -> v1::Provider {
    v1::Provider {
        peer_id: Bytes::copy_from_slice(provider.peer.as_bytes()),
        url: provider.url.clone(),
        site: provider.site.clone(),
        partial,
    }
}

pub(super) fn variant(variant: Variant) -> v1::Variant {
    v1::Variant {
        digest: Bytes::copy_from_slice(variant.resource.digest.as_bytes()),
        size: variant.resource.size,
        modified_ms: variant.resource.modified_ms,
        provider_count: u32::try_from(variant.provider_count).unwrap_or(u32::MAX),
        providers: {
            let whole = variant.providers.iter().map(|peer| provider(peer, false));
            let partial = variant.partial.iter().map(|peer| provider(peer, true));
            whole.chain(partial).collect()
        },
        name: variant.resource.name.into(),
    }
}

pub(super) fn located(variants: Vec<Variant>) -> v1::LocateResponse {
    v1::LocateResponse {
        variants: variants.into_iter().map(variant).collect(),
    }
}
