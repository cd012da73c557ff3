//! The links in a file of `DATA_DIR`, so that they come back after a restart. Blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use vecino_rest::PeerId;

use super::{
    table::{Ended, Kept, Table},
    wire::Token,
};
use crate::{download::provider_url, locate::overlay::Contact};

/// The file. It has the tokens of the links in it: nobody else may read it.
const FILE: &str = "flood-links.json";
/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What is in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    links: Vec<LinkRow>,
    ended: Vec<EndedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LinkRow {
    peer: PeerId,
    overlay: String,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// As a peer id is written: 32 hex digits.
    token: PeerId,
    ours: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndedRow {
    peer: PeerId,
    overlay: String,
}

impl Book {
    /// What is worth keeping of `table`.
    pub(super) fn of(table: &Table) -> Self {
        let row = |kept: &Kept| LinkRow {
            peer: kept.contact.peer,
            overlay: kept.contact.overlay.to_string(),
            url: kept.contact.url.to_string(),
            site: kept.contact.site.clone(),
            token: PeerId::from_bytes(kept.token),
            ours: kept.ours,
        };
        let ended = |ended: &Ended| EndedRow {
            peer: ended.peer,
            overlay: ended.overlay.to_string(),
        };
        Self {
            links: table.links().map(|link| row(&link.kept)).collect(),
            ended: table.ended().map(ended).collect(),
        }
    }

    /// What was kept, as far as it can be used.
    pub(super) fn into_rows(self) -> (Vec<Kept>, Vec<Ended>) {
        let kept = |row: LinkRow| {
            let token: Token = *row.token.as_bytes();
            Some(Kept {
                contact: Contact {
                    peer: row.peer,
                    overlay: provider_url::parse(&row.overlay).ok()?,
                    url: provider_url::parse(&row.url).ok()?,
                    site: row.site,
                },
                token,
                ours: row.ours,
            })
        };
        let ended = |row: EndedRow| {
            Some(Ended {
                peer: row.peer,
                overlay: provider_url::parse(&row.overlay).ok()?,
            })
        };
        (
            self.links.into_iter().filter_map(kept).collect(),
            self.ended.into_iter().filter_map(ended).collect(),
        )
    }

    /// Reads the file; empty when there is none, or none that can be read.
    pub(super) fn load(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let read = || -> io::Result<Self> {
            let mut bytes = Vec::new();
            File::open(&path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        match read() {
            Ok(book) => book,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                log::warn!("{}: {error}: beginning without links", path.display());
                Self::default()
            }
        }
    }

    /// Writes the file, whole or not at all.
    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(FILE);
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    }
}
