//! Walks `SHARED_DIR` and `DOWNLOAD_DIR`: which regular files there are, under which names.
//!
//! Symbolic links are not followed, so nothing outside the directory can be shared by accident;
//! hidden files and folders are passed over. A peer's key is never shared, nor is anything in a
//! folder that is, or was, a peer's `DATA_DIR`.
//! It reads no content.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use vecino_rest::Name;

use super::stamp::Stamp;
use crate::identity::{KEY_FILE, LOCK_FILE};

/// Files of this beginning are Vecino's own, on their way to their name.
pub const TEMPORARY_PREFIX: &str = ".vecino-";

/// A temporary file of that age is nobody's any more.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Directories within directories: enough for every valid name.
const MAX_DEPTH: usize = 512;

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is shared as.
    pub name: Name,
    /// Where it is.
    pub path: PathBuf,
    /// The file now.
    pub stamp: Stamp,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// What can be shared, in order of name.
    pub found: Vec<Found>,
    /// What cannot, and why.
    pub refused: Vec<(PathBuf, String)>,
}

/// The regular files at or below `at`, which is `root` or below it; nothing when `at` is gone.
pub fn walk(root: &Path, at: &Path) -> Walk {
    let mut found = BTreeMap::new();
    let mut refused = Vec::new();
    // A path that was touched may lie in a folder that is hidden.
    let is_shown = at
        .strip_prefix(root)
        .is_ok_and(|below| below.iter().all(|part| !is_hidden(part)));
    let is_apart = |dir: &Path| !dir.starts_with(root) || !is_of_a_peer(dir);
    if is_shown && at.ancestors().skip(1).all(is_apart) {
        visit(root, at, 0, &mut found, &mut refused);
    }
    Walk {
        found: found.into_values().collect(),
        refused,
    }
}

/// What begins with a dot is the user's own: settings, keys, histories. It is never shared, and
/// so neither is what Vecino has on its way to its name.
pub fn is_hidden(part: impl AsRef<OsStr>) -> bool {
    part.as_ref().as_encoded_bytes().starts_with(b".")
}

/// Whether a file of that name is taken for a peer's key.
pub fn is_key(file_name: impl AsRef<OsStr>) -> bool {
    file_name.as_ref() == KEY_FILE
}

/// Whether `dir` is the `DATA_DIR` of a peer, running or not.
fn is_of_a_peer(dir: &Path) -> bool {
    dir.join(KEY_FILE).is_file() && dir.join(LOCK_FILE).is_file()
}

fn visit(
    root: &Path,
    at: &Path,
    depth: usize,
    found: &mut BTreeMap<Name, Found>,
    refused: &mut Vec<(PathBuf, String)>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    let mut refuse = |why: String| refused.push((at.to_owned(), why));
    let metadata = match fs::symlink_metadata(at) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return refuse(error.to_string()),
    };
    if metadata.is_dir() {
        if is_of_a_peer(at) {
            return refuse("it is the DATA_DIR of a peer: move it out of here".to_owned());
        }
        match fs::read_dir(at) {
            Ok(children) => {
                for child in children.flatten() {
                    if !is_hidden(child.file_name()) {
                        visit(root, &child.path(), depth + 1, found, refused);
                    } else if is_left_over(&child) {
                        // A crash left it on its way to its name.
                        let _ = fs::remove_file(child.path());
                    }
                }
            }
            Err(error) => refuse(error.to_string()),
        }
    } else if metadata.is_file() {
        if at.file_name().is_some_and(is_key) {
            return refuse("a peer's key is called so: such files are never shared".to_owned());
        }
        match name_of(root, at) {
            Ok(name) => {
                let stamp = Stamp::of(&metadata);
                let new = Found {
                    name: name.clone(),
                    path: at.to_owned(),
                    stamp,
                };
                if let Some(other) = found.insert(name, new) {
                    refused.push((other.path, format!("{at:?} has the same name")));
                }
            }
            Err(why) => refuse(why),
        }
    }
}

/// Whether it is a temporary file of Vecino's that nobody wrote to for a day.
fn is_left_over(child: &fs::DirEntry) -> bool {
    let is_ours = child
        .file_name()
        .as_encoded_bytes()
        .starts_with(TEMPORARY_PREFIX.as_bytes());
    let age = || child.metadata().ok()?.modified().ok()?.elapsed().ok();
    is_ours && age().is_some_and(|age| age > LEFT_OVER_AFTER)
}

/// What the file at `path` below `root` is shared as.
pub fn name_of(root: &Path, path: &Path) -> Result<Name, String> {
    let relative = path.strip_prefix(root).map_err(|error| error.to_string())?;
    let text = relative.to_str().ok_or("its name is not UTF-8")?;
    Name::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        fs::create_dir_all(root.join("sub/deep")).expect("made");
        for file in [
            "a.txt",
            "sub/deep/ñ %#?.bin",
            ".hidden",
            ".vecino-1.tmp",
            "bad\nname",
        ] {
            fs::write(root.join(file), file).expect("written");
        }
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).expect("linked");
        std::os::unix::fs::symlink("/etc", root.join("linked-dir")).expect("linked");
        let names = |at: &Path| -> Vec<String> {
            walk(root, at)
                .found
                .into_iter()
                .map(|found| found.name.to_string())
                .collect()
        };
        assert_eq!(names(root), ["a.txt", "sub/deep/ñ %#?.bin"]);
        assert_eq!(names(&root.join("sub")), ["sub/deep/ñ %#?.bin"]);
        assert_eq!(names(&root.join("a.txt")), ["a.txt"]);
        assert_eq!(names(&root.join("gone")), [""; 0]);
        assert_eq!(names(&root.join(".hidden")), [""; 0]);
        let refused = walk(root, root).refused;
        assert_eq!(refused.len(), 1, "{refused:?}");
    }

    #[test]
    fn the_key_of_a_peer_is_never_shared() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        fs::create_dir_all(root.join("x/parts")).expect("made");
        for file in [
            "x/peer.key",
            "x/lock",
            "x/index.redb",
            "x/parts/a",
            "alone/peer.key",
            "alone/b",
            "lock",
        ] {
            fs::create_dir_all(root.join(file).parent().expect("a folder")).expect("made");
            fs::write(root.join(file), [7; 32]).expect("written");
        }
        let names = |at: &str| -> Vec<String> {
            let found = walk(root, &root.join(at)).found;
            found.into_iter().map(|f| f.name.to_string()).collect()
        };
        assert_eq!(names(""), ["alone/b", "lock"]);
        for at in ["x", "x/index.redb", "x/parts/a", "alone/peer.key"] {
            assert_eq!(names(at), [""; 0], "{at}");
        }
        let refused = walk(root, root).refused;
        assert_eq!(refused.len(), 2, "{refused:?}");
    }
}
