//! Which content and which providers a located name means: pure.
//!
//! Never a guess: several digests under one name are the caller's to choose from.

use std::collections::BTreeMap;

use vecino_rest::{
    Digest, Name, PeerId, PeerUrl,
    body::{LocateQuery, Provider, Variant},
    peer_url::InvalidPeerUrl,
};

use super::{provider_url, roster::Candidate};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The name.
    pub name: Name,
    /// Which variant.
    pub digest: Option<Digest>,
    /// Only from this provider.
    pub from: Option<From>,
}

/// A provider that a client named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// By its id.
    Peer(PeerId),
    /// By its URL.
    Url(PeerUrl),
}

impl From {
    /// Parses a peer id, a URL, or a `host:port` that stands for `http`.
    pub fn parse(text: &str) -> Result<Self, InvalidPeerUrl> {
        match text.parse() {
            Ok(id) => Ok(Self::Peer(id)),
            Err(_) if text.contains("://") => provider_url::parse(text).map(Self::Url),
            Err(_) => provider_url::parse(&format!("http://{text}"))
                .map(Self::Url)
                .map_err(|error| InvalidPeerUrl::new(text, error.fault())),
        }
    }

    fn is(&self, provider: &Provider) -> bool {
        match self {
            Self::Peer(id) => provider.peer == Some(*id),
            Self::Url(url) => provider_url::parse(&provider.url).as_ref() == Ok(url),
        }
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(id) => write!(f, "{id}"),
            Self::Url(url) => write!(f, "{url}"),
        }
    }
}

impl Wanted {
    /// The question to a neighbour.
    pub fn query(&self) -> LocateQuery {
        LocateQuery {
            name: Some(self.name.clone()),
            digest: None,
            fresh: false,
            provider: self.from.as_ref().map(ToString::to_string),
        }
    }

    /// The question to ask when the answer to [`Wanted::query`] has not what is wanted: an answer
    /// has but some of the variants of a name that many contents share.
    pub fn query_by_digest(&self) -> Option<LocateQuery> {
        Some(LocateQuery {
            name: None,
            digest: Some(self.digest?),
            fresh: false,
            provider: self.from.as_ref().map(ToString::to_string),
        })
    }

    /// Whether `variant` is what was asked for, by name.
    fn is(&self, variant: &Variant) -> bool {
        variant.name == self.name && (self.digest.is_none() || variant.digest == self.digest)
    }
}

/// Providers that agree on the size of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The size, unproven.
    pub size: u64,
    /// When it was last modified, unproven.
    pub modified_ms: i64,
    /// Who holds it.
    pub providers: Vec<Candidate>,
}

/// What a located name means.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// Nobody holds it.
    Nobody,
    /// Several contents: choose by digest.
    Ambiguous(Vec<Variant>),
    /// One content. More than one claim when providers disagree on its size: most providers
    /// first.
    Content(Digest, Vec<Claim>),
    /// Only the first system's contract told of it: nothing to check the bytes against.
    Unverifiable(Vec<PeerUrl>),
}

/// Who chooses.
#[derive(Debug, Clone)]
pub struct Me {
    /// Never a provider for itself.
    pub peer: PeerId,
    /// Providers of the same place are near.
    pub site: Option<String>,
}

/// Chooses among `located`. A digest that is known under other names only is as good: content is
/// content.
pub fn choose(mut located: Vec<Variant>, wanted: &Wanted, me: &Me) -> Choice {
    if located.iter().any(|variant| wanted.is(variant)) || wanted.digest.is_none() {
        located.retain(|variant| wanted.is(variant));
    } else {
        located.retain(|variant| variant.digest == wanted.digest);
    }
    let mut contents: BTreeMap<Digest, Vec<Claim>> = BTreeMap::new();
    let mut unverifiable = Vec::new();
    let mut shown = Vec::new();
    for mut variant in located {
        variant.providers.retain(|provider| {
            provider.peer != Some(me.peer)
                && wanted.from.as_ref().is_none_or(|from| from.is(provider))
        });
        let providers: Vec<_> = variant
            .providers
            .iter()
            .filter_map(|provider| {
                Some(Candidate {
                    url: provider_url::parse(&provider.url).ok()?,
                    is_partial: provider.partial,
                    is_near: me.site.is_some() && provider.site == me.site,
                })
            })
            .collect();
        if providers.is_empty() {
            continue;
        }
        match (variant.digest, variant.size) {
            (Some(digest), Some(size)) => {
                let claims = contents.entry(digest).or_default();
                match claims.iter_mut().find(|claim| claim.size == size) {
                    // The same content under another name.
                    Some(claim) => {
                        let known = &mut claim.providers;
                        let new: Vec<_> = providers
                            .into_iter()
                            .filter(|new| known.iter().all(|known| known.url != new.url))
                            .collect();
                        known.extend(new);
                    }
                    None => claims.push(Claim {
                        size,
                        modified_ms: variant.modified_ms.unwrap_or_default(),
                        providers,
                    }),
                }
            }
            _ => unverifiable.extend(providers.into_iter().map(|provider| provider.url)),
        }
        shown.push(variant);
    }
    // What nobody holds whole yet makes nothing ambiguous that somebody does.
    let is_whole = |claims: &Vec<Claim>| {
        let mut providers = claims.iter().flat_map(|claim| &claim.providers);
        providers.any(|provider| !provider.is_partial)
    };
    if contents.values().any(is_whole) {
        contents.retain(|_, claims| is_whole(claims));
        shown.retain(|variant: &Variant| {
            variant
                .digest
                .is_none_or(|digest| contents.contains_key(&digest))
        });
    }
    if contents.len() > 1 {
        return Choice::Ambiguous(shown);
    }
    match contents.pop_first() {
        Some((digest, mut claims)) => {
            claims.sort_by_key(|claim| std::cmp::Reverse(claim.providers.len()));
            Choice::Content(digest, claims)
        }
        None if unverifiable.is_empty() => Choice::Nobody,
        None => Choice::Unverifiable(unverifiable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Me = Me {
        peer: PeerId::from_bytes([9; 16]),
        site: None,
    };

    fn variant(content: &str, size: u64, ports: &[u8]) -> Variant {
        let providers = ports.iter().map(|&port| Provider {
            peer: Some(PeerId::from_bytes([port; 16])),
            url: format!("http://10.0.0.1:{port}"),
            site: None,
            partial: false,
        });
        Variant {
            name: "a".parse().expect("valid"),
            digest: Some(Digest::of(content.as_bytes())),
            size: Some(size),
            modified_ms: Some(0),
            provider_count: 1,
            providers: providers.collect(),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            name: "a".parse().expect("valid"),
            digest: None,
            from: None,
        }
    }

    #[test]
    fn two_contents_are_never_guessed_between() {
        let located = vec![variant("1", 1, &[1]), variant("2", 1, &[2])];
        assert!(
            matches!(choose(located.clone(), &wanted(), &ME), Choice::Ambiguous(v) if v.len() == 2)
        );
        let digest = Some(Digest::of(b"2"));
        let chosen = choose(located.clone(), &Wanted { digest, ..wanted() }, &ME);
        assert!(matches!(chosen, Choice::Content(d, _) if Some(d) == digest));
        let from = Some(From::Peer(PeerId::from_bytes([1; 16])));
        let chosen = choose(located, &Wanted { from, ..wanted() }, &ME);
        assert!(matches!(chosen, Choice::Content(d, _) if d == Digest::of(b"1")));
    }

    #[test]
    fn a_provider_is_named_with_scheme_or_without() {
        for text in ["http://10.0.0.1:80", "10.0.0.1:80"] {
            let from = From::parse(text).expect(text);
            assert_eq!(from.to_string(), "http://10.0.0.1:80");
        }
        let wrong = From::parse("10.0.0.1").expect_err("no port");
        assert!(wrong.to_string().starts_with("\"10.0.0.1\" has no port"));
        assert!(From::parse("169.254.169.254:80").is_err());
    }

    #[test]
    fn i_am_no_provider_for_myself_and_bad_urls_are_left_out() {
        assert_eq!(
            choose(vec![variant("1", 1, &[9])], &wanted(), &ME),
            Choice::Nobody
        );
        let mut bad = variant("1", 1, &[1]);
        bad.providers[0].url = "http://169.254.169.254".to_owned();
        assert_eq!(choose(vec![bad], &wanted(), &ME), Choice::Nobody);
    }

    #[test]
    fn a_size_that_fewer_claim_comes_later() {
        let located = vec![variant("1", 7, &[1]), variant("1", 1, &[2, 3])];
        let Choice::Content(_, claims) = choose(located, &wanted(), &ME) else {
            panic!("one content")
        };
        assert_eq!(
            claims.iter().map(|claim| claim.size).collect::<Vec<_>>(),
            [1, 7]
        );
    }

    #[test]
    fn a_digest_under_other_names_is_one_content_with_all_its_providers() {
        let named = |name: &str, variant: Variant| Variant {
            name: name.parse().expect("valid"),
            ..variant
        };
        let digest = Some(Digest::of(b"1"));
        let wanted = Wanted { digest, ..wanted() };
        let others = [
            named("b", variant("1", 1, &[1, 2])),
            named("c", variant("1", 1, &[2, 3])),
            named("a", variant("2", 1, &[4])),
        ];
        let Choice::Content(_, claims) = choose(others.to_vec(), &wanted, &ME) else {
            panic!("one content")
        };
        let ports: Vec<_> = claims.iter().flat_map(|claim| &claim.providers).collect();
        assert_eq!((claims.len(), ports.len()), (1, 3), "{ports:?}");
        // Where the name has it, other names do not count.
        let mut all = others.to_vec();
        all.push(variant("1", 1, &[5]));
        let Choice::Content(_, claims) = choose(all, &wanted, &ME) else {
            panic!("one content")
        };
        assert_eq!(claims[0].providers.len(), 1);
        // Without a digest another name is another thing.
        let unnamed = Wanted {
            digest: None,
            ..wanted
        };
        assert_eq!(choose(others[..2].to_vec(), &unnamed, &ME), Choice::Nobody);
    }

    #[test]
    fn a_content_that_can_be_checked_goes_before_one_that_cannot() {
        let unchecked = Variant {
            digest: None,
            size: None,
            ..variant("1", 1, &[1])
        };
        assert!(matches!(
            choose(vec![unchecked.clone()], &wanted(), &ME),
            Choice::Unverifiable(_)
        ));
        let both = vec![unchecked, variant("1", 1, &[2])];
        assert!(matches!(choose(both, &wanted(), &ME), Choice::Content(..)));
    }
}
