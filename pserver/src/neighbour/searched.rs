//! [`Searched`]: what a search told of contents and who holds them, for the downloads that follow
//! it. A folder of many files needs no lookup a file then.
//!
//! Only exact questions are answered from it, for a name with a digest: what is fetched is checked
//! against that. Bounded in number and in time; who asks for a fresh answer gets none from here.

use std::time::Duration;

use moka::sync::Cache;
use vecino_rest::{Digest, Name, body::Variant};

/// Providers remembered, of all contents together; a content counts as one more.
const MAX_PROVIDERS: u64 = 50_000;
/// For how long.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Searched(Cache<(Name, Digest), Option<Variant>>);

impl Default for Searched {
    fn default() -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_PROVIDERS)
            .weigher(|_: &(Name, Digest), variant: &Option<Variant>| {
                let providers = variant
                    .as_ref()
                    .map_or(0, |variant| variant.providers.len());
                u32::try_from(1 + providers).unwrap_or(u32::MAX)
            })
            .time_to_live(KNOWN_FOR)
            .build();
        Self(cache)
    }
}

impl Searched {
    /// Remembers those whose providers were named. Where there are two words on how large a content
    /// is, one of them is wrong, and nothing is known of it.
    pub fn learn(&self, found: &[Variant]) {
        for variant in found.iter().filter(|variant| !variant.providers.is_empty()) {
            if let Some(digest) = variant.digest {
                let key = (variant.name.clone(), digest);
                let is_disputed = match self.0.get(&key) {
                    Some(Some(known)) => known.size != variant.size,
                    Some(None) => true,
                    None => false,
                };
                self.0.insert(key, (!is_disputed).then(|| variant.clone()));
            }
        }
    }

    /// What is known of this content under this name.
    pub fn find(&self, name: &Name, digest: &Digest) -> Option<Variant> {
        self.0.get(&(name.clone(), *digest)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::body::Provider;

    use super::*;

    #[test]
    fn only_what_was_told_with_providers_is_known() {
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
        let find = |variant: &Variant| searched.find(&variant.name, &variant.digest?);
        assert_eq!(find(&told), Some(told.clone()));
        assert_eq!(find(&untold), None);
        // Another size: nobody knows which is right, whatever is said afterwards.
        let larger = Variant {
            size: Some(2),
            ..told.clone()
        };
        for word in [&larger, &told] {
            searched.learn(std::slice::from_ref(word));
            assert_eq!(find(&told), None);
        }
        let other = Digest::of(b"other");
        assert_eq!(searched.find(&told.name, &other), None);
        assert_eq!(
            find(&Variant {
                name: untold.name,
                ..told
            }),
            None
        );
    }
}
