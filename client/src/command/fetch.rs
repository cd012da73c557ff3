//! `fetch`: has the own peer discover what other peers share. `search` and `list --network` know
//! it then.

use std::collections::BTreeMap;

use vecino_rest::{
    PeerId,
    overlay::{DiscoverEvent, DiscoverRequest},
};

use crate::{
    cli::FetchArgs,
    failure::Failure,
    output::{Output, Rows, clean, counted},
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
                    out.note(&format!(
                        "{} answers after {}",
                        clean(&url),
                        took(elapsed_ms)
                    ));
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
                out.note(&format!(
                    "{} of {}, {visited} asked, in {}",
                    counted(files, "file"),
                    counted(count, "peer"),
                    took(elapsed_ms)
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

/// A time for people.
fn took(milliseconds: u64) -> String {
    match milliseconds {
        0 => "less than 1 ms".to_owned(),
        1..1000 => format!("{milliseconds} ms"),
        more => format!("{}.{} s", more / 1000, more % 1000 / 100),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(took(0), "less than 1 ms");
        assert_eq!(took(999), "999 ms");
        assert_eq!(took(5049), "5.0 s");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(0, "peer"), "0 peers");
    }
}
