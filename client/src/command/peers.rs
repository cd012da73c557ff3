//! `peers`: the links of the own peer.

use vecino_rest::body::{LinkKind, LinkState, Peer};

use crate::{
    command::pages,
    failure::Failure,
    output::{Output, Rows},
    session::Session,
};

/// Runs it.
pub(crate) async fn run(session: &Session, out: &Output) -> Result<(), Failure> {
    let shown = pages::each(
        None,
        |_, cursor| async move { session.api.peers(cursor.as_deref()).await },
        |peers: Vec<Peer>| {
            if out.json() {
                return peers.iter().try_for_each(|peer| out.value(peer));
            }
            out.table(&table(&peers))
        },
    )
    .await?;
    if shown == 0 {
        out.note("your peer has no neighbours: it serves only what it holds itself");
    }
    Ok(())
}

/// Links as people read them.
pub(super) fn table(peers: &[Peer]) -> Rows {
    let mut rows = Rows::new(&["URL", "KIND", "STATE", "LATENCY", "PEER", "ERROR"]).right(3);
    for peer in peers {
        let kind = match peer.kind {
            LinkKind::Neighbour => "neighbour",
            LinkKind::Flood => "flood",
        };
        let state = match peer.state {
            LinkState::Unknown => "unknown",
            LinkState::Up => "up",
            LinkState::Down => "down",
        };
        let latency = match peer.latency_ms {
            Some(milliseconds) => format!("{milliseconds:.1} ms"),
            None => String::new(),
        };
        rows.push(&[
            &peer.url,
            kind,
            state,
            &latency,
            &peer.peer.map(|id| id.to_string()).unwrap_or_default(),
            peer.error.as_deref().unwrap_or_default(),
        ]);
    }
    rows
}
