//! [`Searched`]: what a search told of contents and who holds them, for the downloads that follow
//! it. A folder of many files needs no lookup a file then.
//!
//! Only exact questions are answered from it, for a name with a digest: what is fetched is checked
//! against that. Bounded in number and in time; who asks for a fresh answer gets none from here.

use std::time::Duration;

use moka::sync::Cache;
use vecino_rest::{
    Digest, Name,
    body::{LocateQuery, Variant},
};

/// Providers remembered, of all contents together; a content counts as one more.
const MAX_PROVIDERS: u64 = 50_000;
/// For how long.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Searched(Cache<(Name, Digest), Variant>);

impl Default for Searched {
    fn default() -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_PROVIDERS)
            .weigher(|_: &(Name, Digest), variant: &Variant| {
                u32::try_from(1 + variant.providers.len()).unwrap_or(u32::MAX)
            })
            .time_to_live(KNOWN_FOR)
            .build();
        Self(cache)
    }
}

impl Searched {
    /// Remembers those whose providers were named.
    pub fn learn(&self, found: &[Variant]) {
        for variant in found.iter().filter(|variant| !variant.providers.is_empty()) {
            if let Some(digest) = variant.digest {
                let key = (variant.name.clone(), digest);
                self.0.insert(key, variant.clone());
            }
        }
    }

    /// What is known of it.
    pub fn find(&self, query: &LocateQuery) -> Option<Variant> {
        match query {
            LocateQuery {
                name: Some(name),
                digest: Some(digest),
                provider: None,
                fresh: false,
            } => self.0.get(&(name.clone(), *digest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::body::Provider;

    use super::*;

    #[test]
    fn only_exact_questions_are_answered_and_only_with_providers() {
        let variant = |name: &str, providers: Vec<Provider>| Variant {
            name: name.parse().expect("valid"),
            digest: Some(Digest::of(name.as_bytes())),
            size: Some(1),
            modified_ms: None,
            provider_count: 1,
            providers,
        };
        let provider = Provider {
            peer: None,
            url: "http://10.0.0.1:80".to_owned(),
            site: None,
            partial: false,
        };
        let (told, untold) = (variant("a", vec![provider]), variant("b", Vec::new()));
        let searched = Searched::default();
        searched.learn(&[told.clone(), untold.clone()]);
        let exact = |variant: &Variant| LocateQuery {
            name: Some(variant.name.clone()),
            digest: variant.digest,
            provider: None,
            fresh: false,
        };
        assert_eq!(searched.find(&exact(&told)), Some(told.clone()));
        assert_eq!(searched.find(&exact(&untold)), None);
        let other = Some(Digest::of(b"other"));
        for query in [
            LocateQuery {
                fresh: true,
                ..exact(&told)
            },
            LocateQuery {
                digest: None,
                ..exact(&told)
            },
            LocateQuery {
                digest: other,
                ..exact(&told)
            },
            LocateQuery {
                name: None,
                ..exact(&told)
            },
            LocateQuery {
                provider: Some("http://10.0.0.1:80".to_owned()),
                ..exact(&told)
            },
        ] {
            assert_eq!(searched.find(&query), None, "{query:?}");
        }
    }
}
