//! [`Tree`]: the folder on the disk that a folder of the network goes to.
//!
//! Invariant: nothing is made outside of it. The parts of a name are parsed, so none leads up, and
//! a link that is there already is not followed, wherever it leads.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use vecino_rest::Digest;

use crate::{
    failure::Failure,
    transfer::{part, small::MAX_SMALL},
};

/// Bytes that are hashed at a time.
const HASH_STEP: usize = 1 << 20;

/// Where the files of a folder go.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Folders below it that are there, and are no links.
    known: RefCell<HashSet<PathBuf>>,
}

impl Tree {
    /// Makes `root` where it is not there; what it is in must be. The user named it, so it may be
    /// a link itself.
    pub(super) fn open(root: PathBuf) -> Result<Self, Failure> {
        match fs::create_dir(&root) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !root.is_dir() {
                    return Err(Failure::NotReplaced {
                        path: root,
                        what: "not a folder",
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = root.parent().unwrap_or(&root).to_owned();
                return Err(Failure::NoFolder(parent));
            }
            Err(error) => return Err(Failure::disk(root)(error)),
        }
        Ok(Self {
            root,
            known: RefCell::default(),
        })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file at `below`, a part of a parsed name, goes; the folders on the way are there
    /// then.
    pub(super) fn target(&self, below: &str) -> Result<PathBuf, Failure> {
        let target = self.root.join(below);
        let refuse = |path: &Path, why| Failure::disk(path)(io::Error::other(why));
        if below.split('/').any(part::is_unfinished) {
            return Err(refuse(
                &target,
                "such names are those of unfinished downloads",
            ));
        }
        let Some((folders, _)) = below.rsplit_once('/') else {
            return Ok(target);
        };
        let mut known = self.known.borrow_mut();
        if known.contains(Path::new(folders)) {
            return Ok(target);
        }
        for (end, _) in folders.match_indices('/').chain([(folders.len(), "")]) {
            let folder = Path::new(&folders[..end]);
            if known.contains(folder) {
                continue;
            }
            let path = self.root.join(folder);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Failure::disk(path)(error));
                }
                _ => {}
            }
            let kind = fs::symlink_metadata(&path)
                .map_err(Failure::disk(&*path))?
                .file_type();
            if kind.is_symlink() {
                return Err(refuse(
                    &path,
                    "it is a symbolic link, which is not followed",
                ));
            }
            if !kind.is_dir() {
                return Err(refuse(&path, "it is not a folder"));
            }
            known.insert(folder.to_owned());
        }
        Ok(target)
    }
}

/// Whether the file at `path` is the content of `digest` and `size`: what an earlier run brought,
/// for example.
pub(super) async fn holds(path: &Path, digest: Digest, size: u64) -> Result<bool, Failure> {
    let there = fs::symlink_metadata(path).map_err(Failure::disk(path))?;
    if !there.is_file() || there.len() != size {
        return Ok(false);
    }
    let hashed = if size <= MAX_SMALL {
        hash(path)
    } else {
        let path = path.to_owned();
        // Only a panic in it, or the end of the program, ends it otherwise.
        actix_rt::task::spawn_blocking(move || hash(&path))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    Ok(hashed.map_err(Failure::disk(path))? == digest)
}

fn hash(path: &Path) -> io::Result<Digest> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags of open are a C int");
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let mut hasher = blake3::Hasher::new();
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(HASH_STEP);
    let mut buffer = vec![0; length.clamp(1, HASH_STEP)];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&buffer[..read]),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_made_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let tree = Tree::open(dir.path().join("d")).unwrap();
        symlink(&outside, tree.root().join("link")).unwrap();
        symlink("nowhere", tree.root().join("dangling")).unwrap();
        fs::write(tree.root().join("file"), "x").unwrap();
        for below in ["link/a", "link/a/b", "dangling/a", "file/a", "file/a/b"] {
            assert!(tree.target(below).is_err(), "{below}");
        }
        for below in [".a.vecino-part", ".a.vecino-part.json", ".b.vecino-part/a"] {
            assert!(tree.target(below).is_err(), "{below}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        for below in ["a", "b/c/d", "b/c/e", "b/f"] {
            assert_eq!(tree.target(below).unwrap(), tree.root().join(below));
        }
        assert!(tree.root().join("b/c").is_dir());
    }

    #[test]
    fn the_folder_may_be_a_link_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("real")).unwrap();
        symlink("real", path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        fs::write(path("file"), "x").unwrap();
        assert!(Tree::open(path("link")).is_ok());
        assert!(Tree::open(path("new")).is_ok());
        for wrong in ["file", "dangling"] {
            let refused = Tree::open(path(wrong));
            assert!(matches!(refused, Err(Failure::NotReplaced { .. })));
        }
        let refused = Tree::open(path("no/where"));
        assert!(matches!(refused, Err(Failure::NoFolder(_))));
    }

    #[actix_rt::test]
    async fn only_the_same_content_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let large = vec![7; 3 << 20];
        for content in [&b"content"[..], b"", &large] {
            fs::write(&path, content).unwrap();
            let digest = Digest::of(content);
            let size = content.len() as u64;
            assert!(holds(&path, digest, size).await.unwrap());
            assert!(!holds(&path, digest, size + 1).await.unwrap());
            assert!(!holds(&path, Digest::of(b"other"), size).await.unwrap());
        }
        let link = dir.path().join("link");
        symlink("a", &link).unwrap();
        let digest = Digest::of(&large);
        assert!(!holds(&link, digest, large.len() as u64).await.unwrap());
    }
}
