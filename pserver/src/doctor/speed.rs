//! How fast a provider sends: a few MiB of some file that another peer shares, counted and thrown
//! away.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use vecino_rest::{
    Digest, PeerUrl,
    body::{SearchQuery, Variant},
    doctor::Check,
    piece::Layout,
};

use crate::{
    download::{
        choice::{self, Choice, Wanted},
        fetch::Fetcher,
        roster::Fault,
    },
    neighbour::outbound::OutboundError,
};

/// Bytes that are fetched at most.
const MEASURED: u64 = 4 << 20;
/// Fewer tell nothing of the speed.
const FEWEST: u64 = 64 << 10;
/// How long looking for a file may take, and fetching some of it.
const WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How words begin: asked one after the other until a large file is found. Most frequent first.
const BEGINNINGS: &str = "sabcmdtpflrehinwgouvkjyqxz0123456789";
/// Names of each.
const NAMES: u32 = 50;
/// Files of each whose providers are looked up.
const TRIED: usize = 4;
/// A slower link deserves a look.
const SLOW: f64 = 64.0 * 1024.0;
const WHAT: &str = "speed";
const SHARE: &str = "share a file of some MiB on another peer, and run it again";

/// Measures it.
pub(super) async fn measure(fetcher: &Fetcher) -> Check {
    let not_measured = |why: &str| Check::warn(WHAT, format!("not measured: {why}"), SHARE);
    match timeout(WITHIN.0, find(fetcher)).await {
        Err(_) => not_measured("it takes too long to find a file of another peer"),
        Ok(Err(OutboundError::NotSupported(why))) => not_measured(why),
        Ok(Err(_)) => not_measured("no neighbour finds a file to measure with"),
        Ok(Ok(None)) => not_measured("no other peer shares a file to measure with"),
        Ok(Ok(Some((variant, digest, size, url)))) => {
            let got = fetch(fetcher, &url, &digest, size).await;
            judge(&format!("{:?} from {url}", variant.name), got)
        }
    }
}

/// What came, and how long it took.
type Got = Result<(u64, Duration), Fault>;

fn judge(what: &str, got: Got) -> Check {
    let (bytes, took) = match got {
        Ok(got) => got,
        Err(Fault::Busy(_)) => {
            return Check::warn(WHAT, format!("{what}: it is busy"), "run it again later");
        }
        Err(fault) => {
            return Check::warn(
                WHAT,
                format!("{what}: {fault}"),
                "is that peer's port open to yours, and its PUBLIC_URL right?",
            );
        }
    };
    let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let detail = format!(
        "{:.1} MiB/s, {:.2} MiB of {what}",
        mib(rate),
        mib(bytes as f64)
    );
    if rate < SLOW {
        return Check::warn(
            WHAT,
            detail,
            "look at the link, and at UPLOAD_LIMIT and DOWNLOAD_LIMIT",
        );
    }
    Check::ok(WHAT, detail)
}

/// A large file that another peer holds whole, or else the largest, and where.
async fn find(fetcher: &Fetcher) -> Result<Option<(Variant, Digest, u64, PeerUrl)>, OutboundError> {
    for beginning in BEGINNINGS.chars() {
        let query = SearchQuery {
            q: beginning.to_string(),
            limit: Some(NAMES),
            ..SearchQuery::default()
        };
        let page = fetcher.outbound.search(&query).await?;
        let sized = page
            .items
            .into_iter()
            .filter_map(|variant| Some((variant.size?, variant)));
        let mut found: Vec<_> = sized.filter(|(size, _)| *size >= FEWEST).collect();
        found.sort_by_key(|(size, _)| Reverse((*size).min(MEASURED)));
        let catalogue = fetcher.tools.store.catalogue();
        let with_digest = found
            .into_iter()
            .filter_map(|(size, variant)| Some((size, variant.digest?, variant)));
        // What only this peer holds measures nothing. The content under another name may be
        // held by others only.
        let elsewhere = with_digest.filter(|(_, digest, variant)| {
            let held = || catalogue.by_name_and_digest(&variant.name, digest);
            variant.provider_count > 1 || held().is_none()
        });
        for (size, digest, variant) in elsewhere.take(TRIED) {
            if let Some(url) = provider(fetcher, &variant, digest).await? {
                return Ok(Some((variant, digest, size, url)));
            }
        }
    }
    Ok(None)
}

/// Another peer that holds all of it.
async fn provider(
    fetcher: &Fetcher,
    variant: &Variant,
    digest: Digest,
) -> Result<Option<PeerUrl>, OutboundError> {
    let wanted = Wanted {
        name: variant.name.clone(),
        digest: Some(digest),
        from: None,
    };
    let located = fetcher.outbound.locate(&wanted.query()).await?;
    let Choice::Content(_, claims) = choice::choose(located, &wanted, &fetcher.me) else {
        return Ok(None);
    };
    let mut providers = claims.into_iter().flat_map(|claim| claim.providers);
    let whole = providers.find(|provider| !provider.is_partial);
    Ok(whole.map(|provider| provider.url))
}

/// Fetches as much of it as is measured.
async fn fetch(fetcher: &Fetcher, url: &PeerUrl, digest: &Digest, size: u64) -> Got {
    let unusable = || Fault::Failed(format!("{size} bytes cannot be fetched"));
    let layout = Layout::of(size).ok_or_else(unusable)?;
    let pieces = u32::try_from(MEASURED / layout.piece_size()).unwrap_or(1);
    let run = 0..pieces.clamp(1, layout.pieces());
    let (began, mut bytes) = (Instant::now(), 0);
    let all = async {
        let source = &fetcher.tools.source;
        let mut incoming = source.run(url, digest, &layout, &run).await?;
        while let Some(chunk) = incoming.next().await? {
            bytes += chunk.len() as u64;
            if bytes >= MEASURED {
                break;
            }
        }
        Ok(())
    };
    match timeout(WITHIN.1, all).await {
        Ok(Err(fault)) => Err(fault),
        // A slow link is measured as well.
        Ok(Ok(())) | Err(_) => Ok((bytes, began.elapsed())),
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::doctor::CheckState;

    use super::*;

    #[test]
    fn a_link_is_judged_by_what_came_of_it() {
        let second = Duration::from_secs(1);
        let fast = judge("a", Ok((4 << 20, second)));
        assert_eq!(
            (fast.state, &*fast.detail),
            (CheckState::Ok, "4.0 MiB/s, 4.00 MiB of a")
        );
        assert_eq!(judge("a", Ok((1 << 10, second))).state, CheckState::Warn);
        assert_eq!(judge("a", Ok((0, second))).state, CheckState::Warn);
        let lost = judge("a", Err(Fault::Failed("refused".to_owned())));
        assert_eq!(
            (lost.state, &*lost.detail),
            (CheckState::Warn, "a: refused")
        );
    }
}
