//! `status` and `peers`, and how rows are printed: as a table, or as JSON, one value a line.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use serde_json::json;
use vecino_grpc::v1;

use super::place::{Missing, Place, refusal};
use crate::{
    config::Config,
    store::{PeerRow, PeerState},
};

/// Rows that are printed one by one, or as a table at the end.
pub(super) struct Rows {
    table: Option<Table>,
}

impl Rows {
    pub(super) fn new(header: &[&str], json: bool) -> Self {
        let table = || {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(header);
            table
        };
        Self {
            table: (!json).then(table),
        }
    }

    fn row(&mut self, cells: Vec<String>, value: &serde_json::Value) -> io::Result<()> {
        match &mut self.table {
            Some(table) => {
                table.add_row(cells.iter().map(|cell| clean(cell)));
                Ok(())
            }
            None => writeln!(io::stdout(), "{value}"),
        }
    }

    pub(super) fn account(&mut self, user: &str, created_ms: i64) -> io::Result<()> {
        let value = json!({ "user": user, "created_ms": created_ms });
        self.row(vec![user.to_owned(), time(created_ms)], &value)
    }

    /// `is_told` by a locator, or read in its store.
    fn peer(&mut self, peer: &v1::PeerInfo, is_told: bool) -> io::Result<()> {
        let gone = (peer.lapsed_ms != 0).then_some(peer.lapsed_ms);
        let user = Some(&peer.user).filter(|user| !user.is_empty());
        let value = json!({
            "peer": peer.peer_id, "url": peer.url, "site": peer.site, "live": peer.live,
            "gone_since_ms": gone, "user": user,
        });
        let state = match gone {
            _ if peer.live => "live".to_owned(),
            Some(at_ms) => format!("gone since {}", time(at_ms)),
            None if is_told => "not seen since the start".to_owned(),
            None => "no locator was asked".to_owned(),
        };
        let cells = [&peer.peer_id, &peer.url, &state, &peer.site, &peer.user];
        self.row(cells.map(String::clone).to_vec(), &value)
    }

    pub(super) fn end(self) -> io::Result<()> {
        match self.table {
            Some(table) => writeln!(io::stdout(), "{}", table.trim_fmt()),
            None => Ok(()),
        }
    }
}

/// What peers say of themselves must not command a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms);
    time.map_or_else(
        |_| ms.to_string(),
        |time| time.strftime("%F %T UTC").to_string(),
    )
}

pub(super) async fn status(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let (running, status) = match Place::find(config, Missing::IsAnError).await? {
        Place::Running(mut locator) => {
            let status = locator.status(v1::StatusRequest {}).await;
            (
                true,
                status.map_err(|status| refusal(&status))?.into_inner(),
            )
        }
        Place::Stopped(store) => {
            let counts = store.counts();
            let status = v1::StatusResponse {
                version: env!("CARGO_PKG_VERSION").into(),
                store: config.store.to_string(),
                store_bytes: store.size_bytes(),
                peers: counts.peers,
                resources: counts.resources,
                records: counts.records,
                accounts: config.accounts.to_string(),
                ..Default::default()
            };
            store.close().await;
            (false, status)
        }
    };
    if as_json {
        let fault = Some(&status.store_fault).filter(|fault| !fault.is_empty());
        let value = json!({
            "running": running, "version": status.version,
            "uptime_seconds": status.uptime_seconds, "store": status.store,
            "store_bytes": status.store_bytes, "store_fault": fault, "queue": status.queue,
            "peers": status.peers, "leases": status.leases, "resources": status.resources,
            "records": status.records, "partial_records": status.partial_records,
            "accounts": status.accounts,
        });
        writeln!(io::stdout(), "{value}")?;
        return Ok(());
    }
    let size = status
        .store_bytes
        .map_or("unknown".to_owned(), |bytes| format!("{bytes} bytes"));
    let live = match running {
        true => format!(", {} live", status.leases),
        false => String::new(), // Who is, the store does not know.
    };
    let mut lines = vec![
        ("store", format!("{}, {size}", status.store)),
        ("peers", format!("{} known{live}", status.peers)),
        (
            "records",
            format!(
                "{} of {} resources; {} partial ones",
                status.records, status.resources, status.partial_records
            ),
        ),
        (
            "queue",
            format!("{} changes wait for a commit", status.queue),
        ),
        ("accounts", status.accounts),
    ];
    if running {
        let uptime = std::time::Duration::from_secs(status.uptime_seconds);
        lines.insert(
            0,
            ("locator", format!("{}, up for {uptime:?}", status.version)),
        );
    } else {
        let locator = match config.control {
            Some(_) => "none runs on this store",
            None => "not asked, as CONTROL_SOCKET is not set",
        };
        lines.insert(0, ("locator", locator.to_owned()));
    }
    if !status.store_fault.is_empty() {
        lines.push(("fault", status.store_fault));
    }
    for (what, value) in lines {
        writeln!(io::stdout(), "{what:<10}{}", clean(&value))?;
    }
    Ok(())
}

pub(super) async fn peers(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let mut rows = Rows::new(&["peer", "url", "state", "site", "user"], as_json);
    match Place::find(config, Missing::IsAnError).await? {
        Place::Running(mut locator) => {
            let peers = locator.peers(v1::PeersRequest {}).await;
            let mut peers = peers.map_err(|status| refusal(&status))?.into_inner();
            while let Some(peer) = peers.message().await.map_err(|s| refusal(&s))? {
                rows.peer(&peer, true)?;
            }
        }
        Place::Stopped(store) => {
            for (_, row) in store.peers().await? {
                rows.peer(&stored(row), false)?;
            }
            store.close().await;
        }
    }
    Ok(rows.end()?)
}

/// A peer of a store on which no locator runs.
fn stored(row: PeerRow) -> v1::PeerInfo {
    v1::PeerInfo {
        peer_id: row.id.to_string(),
        url: row.url,
        site: row.site,
        live: false,
        user: row.session.map(|s| s.user.to_string()).unwrap_or_default(),
        lapsed_ms: match row.state {
            PeerState::Present => 0,
            PeerState::Lapsed(at_ms) => at_ms,
        },
    }
}
