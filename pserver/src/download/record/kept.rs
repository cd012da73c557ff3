//! Records of downloads on disk: `DATA_DIR/downloads.json`, written whole and renamed into place.
//!
//! Invariant: what is read is what was written last, or nothing: a file that cannot be understood
//! is put aside, and said so.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use vecino_rest::{Digest, body::Download};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// All records.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The last id that was given.
    pub(super) last_id: u64,
    /// Oldest first.
    pub(super) records: Vec<KeptRecord>,
}

/// One of them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptRecord {
    /// As REST shows it.
    pub(super) download: Download,
    /// The variant that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    /// The provider that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
}

/// Where they lie.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("downloads.json")
}

/// Reads what [`save`] wrote; nothing when there is none. Blocks.
pub(super) fn load(path: &Path) -> Kept {
    match read(path) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
        Err(error) => {
            let aside = path.with_extension("json.broken");
            let outcome = match fs::rename(path, &aside) {
                Ok(()) => format!("put aside as {}", aside.display()),
                Err(error) => format!("cannot be put aside: {error}"),
            };
            log::warn!(
                "{}: downloads of before are not known ({error}); {outcome}",
                path.display()
            );
            Kept::default()
        }
    }
}

fn read(path: &Path) -> io::Result<Kept> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is too large"));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Puts `kept` in the place of what was there, durably. Blocks.
pub(super) fn save(path: &Path, kept: &Kept) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = path(dir.path());
        assert_eq!(load(&path), Kept::default());
        let kept = Kept {
            last_id: 7,
            records: Vec::new(),
        };
        save(&path, &kept).expect("saved");
        assert_eq!(load(&path), kept);
        for broken in ["", "{", "[]", r#"{"last_id":-1,"records":[]}"#] {
            fs::write(&path, broken).expect("written");
            assert_eq!(load(&path), Kept::default());
            assert!(!path.exists());
            let aside = fs::read_to_string(path.with_extension("json.broken"));
            assert_eq!(aside.expect("put aside"), broken);
        }
    }
}
