//! `fetch`: has the own peer discover what other peers share. `search` and `list --network` know
//! it then.

use std::{collections::BTreeMap, time::Duration};

use vecino_rest::{
    PeerId,
    overlay::{DiscoverEvent, DiscoverRequest},
};

use crate::{
    cli::FetchArgs,
    failure::Failure,
    output::{Output, Rows, clean},
    session::Session,
};

struct Answered {
    url: String,
    site: String,
    files: u64,
}

/// Runs it.
pub(crate) async fn run(args: &FetchArgs, session: &Session, out: &Output) -> Result<(), Failure> {
    let request = DiscoverRequest {
        ttl: args.ttl,
        wait_ms: args.wait.map(|seconds| u64::from(seconds) * 1000),
    };
    let mut discovering = session.api.discover(&request).await?;
    let mut peers: BTreeMap<PeerId, Answered> = BTreeMap::new();
    while let Some(event) = discovering.next().await? {
        if out.json() {
            out.value(&event)?;
            continue;
        }
        match event {
            DiscoverEvent::Peer {
                peer,
                url,
                site,
                files,
                elapsed_ms,
            } => {
                if !peers.contains_key(&peer) {
                    let after = Duration::from_millis(elapsed_ms);
                    out.note(&format!("{} answers after {after:?}", clean(&url)));
                }
                let site = site.unwrap_or_default();
                peers.insert(peer, Answered { url, site, files });
            }
            DiscoverEvent::End {
                peers: count,
                files,
                visited,
                complete,
                elapsed_ms,
            } => {
                show(&peers, out)?;
                let after = Duration::from_millis(elapsed_ms);
                out.note(&format!(
                    "{files} files of {count} peers, {visited} asked, in {after:?}"
                ));
                if !complete {
                    out.warn(
                        "not everybody answered in time, or there is more: try a longer --wait",
                    );
                }
            }
        }
    }
    Ok(())
}

fn show(peers: &BTreeMap<PeerId, Answered>, out: &Output) -> Result<(), Failure> {
    if peers.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(&["FILES", "PEER", "URL", "SITE"]).right(0);
    for (peer, answered) in peers {
        rows.push(&[
            &answered.files.to_string(),
            &peer.to_string(),
            &answered.url,
            &answered.site,
        ]);
    }
    out.table(&rows)
}
