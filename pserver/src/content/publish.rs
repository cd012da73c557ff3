//! Puts a finished file under its name: whole or not at all, durable, inside its directory.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use vecino_rest::Name;

use super::scan::TEMPORARY_PREFIX;

/// How often the directories on the way are made: an emptied one may be removed meanwhile.
const TRIES: u32 = 3;

/// Whether a file of that name may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// `AlreadyExists` then.
    No,
    /// Yes.
    Yes,
}

/// Renames `temporary`, which is synced, to `name` below `root`, making the directories on the
/// way; answers the new path, which is durable. Across file systems it copies first. Blocks.
pub fn publish(
    temporary: &Path,
    root: &Path,
    name: &Name,
    replace: Replace,
) -> io::Result<PathBuf> {
    let mut folders = Folders::below(root);
    let path = folders.place(temporary, name, replace)?;
    folders.sync().of(&path)?;
    Ok(path)
}

/// The directories below a root in which files get their names: what many files have in common is
/// done once. To live for a moment only, because what was looked at is not looked at again.
#[derive(Debug)]
pub struct Folders<'a> {
    root: &'a Path,
    /// They are there and inside of the root.
    checked: HashSet<PathBuf>,
    /// They hold names that are not durable yet.
    changed: BTreeSet<PathBuf>,
}

impl<'a> Folders<'a> {
    /// Those below `root`; nothing is known of them yet.
    pub fn below(root: &'a Path) -> Self {
        Self {
            root,
            checked: HashSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// As [`publish`], but the new path is durable only after [`Folders::sync`].
    pub fn place(
        &mut self,
        temporary: &Path,
        name: &Name,
        replace: Replace,
    ) -> io::Result<PathBuf> {
        let target = self.root.join(name.as_str());
        let parent = target.parent().unwrap_or(self.root);
        let mut tries = 1;
        loop {
            if !self.checked.contains(parent) {
                self.make(parent)?;
                self.checked.insert(parent.to_owned());
            }
            match place(temporary, &target, parent, replace) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && tries < TRIES
                        && temporary.exists() =>
                {
                    self.checked.remove(parent);
                    tries += 1;
                }
                placed => {
                    placed?;
                    self.changed.insert(parent.to_owned());
                    return Ok(target);
                }
            }
        }
    }

    /// Makes `parent` and what is missing above it, unless that is outside of the root.
    fn make(&mut self, parent: &Path) -> io::Result<()> {
        let deepest_there = parent
            .ancestors()
            .find(|dir| dir.is_dir())
            .unwrap_or(self.root)
            .to_owned();
        // A symbolic link on the way would lead out of the directory. What is made below the
        // deepest directory that is there are directories, not links.
        if !deepest_there
            .canonicalize()?
            .starts_with(self.root.canonicalize()?)
        {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!(
                    "{} leads out of {} through a symbolic link",
                    parent.display(),
                    self.root.display()
                ),
            ));
        }
        if deepest_there != parent {
            fs::create_dir_all(parent)?;
            // Each of them is a new name in the one above.
            let above = parent.ancestors().skip(1);
            let made = above.take_while(|dir| dir.starts_with(&deepest_there));
            self.changed.extend(made.map(Path::to_owned));
        }
        Ok(())
    }

    /// Makes all new names durable, as far as that can be.
    pub fn sync(self) -> Synced {
        let sync = |dir: &PathBuf| File::open(dir).and_then(|dir| dir.sync_all());
        let failed = self.changed.into_iter().rev();
        Synced(
            failed
                .filter_map(|dir| sync(&dir).err().map(|error| (dir, error)))
                .collect(),
        )
    }
}

/// What came of [`Folders::sync`]: the directories whose names are not durable.
#[derive(Debug)]
pub struct Synced(Vec<(PathBuf, io::Error)>);

impl Synced {
    /// Whether the name at `path` is durable.
    pub fn of(&self, path: &Path) -> io::Result<()> {
        match self.0.iter().find(|(dir, _)| path.starts_with(dir)) {
            Some((_, error)) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Ok(()),
        }
    }
}

/// Moves `temporary` to `target`, which is in `parent`.
fn place(temporary: &Path, target: &Path, parent: &Path, replace: Replace) -> io::Result<()> {
    match rename(temporary, target, replace) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let near = parent.join(format!(
                "{TEMPORARY_PREFIX}{:016x}.tmp",
                rand::random::<u64>()
            ));
            let copied =
                copy_synced(temporary, &near).and_then(|()| rename(&near, target, replace));
            if copied.is_err() {
                // What was copied so far is of no use; the error above says why.
                let _ = fs::remove_file(&near);
            }
            copied?;
            fs::remove_file(temporary)
        }
        renamed => renamed,
    }
}

fn rename(from: &Path, to: &Path, replace: Replace) -> io::Result<()> {
    if replace == Replace::Yes {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot; a hard link refuses an existing name as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// A copy with the same modified time, synced. Blocks.
pub fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    let modified = fs::metadata(from)?.modified()?;
    fs::copy(from, to)?;
    let copy = File::options().write(true).open(to)?;
    copy.set_modified(modified)?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("valid")
    }

    #[test]
    fn a_file_gets_its_name_whole_and_replaces_only_when_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("made");
        let temporary = dir.path().join("t");
        fs::write(&temporary, "1").expect("written");
        let path = publish(&temporary, &root, &name("a/b/c"), Replace::No).expect("published");
        assert_eq!(fs::read(&path).expect("there"), b"1");
        assert!(!temporary.exists());
        fs::write(&temporary, "2").expect("written");
        let error = publish(&temporary, &root, &name("a/b/c"), Replace::No).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("there"), b"1");
        publish(&temporary, &root, &name("a/b/c"), Replace::Yes).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"2");
    }

    #[test]
    fn a_link_does_not_lead_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir(&root).expect("made");
        fs::create_dir(&outside).expect("made");
        std::os::unix::fs::symlink(&outside, root.join("link")).expect("linked");
        let temporary = dir.path().join("t");
        fs::write(&temporary, "1").expect("written");
        assert!(publish(&temporary, &root, &name("link/a"), Replace::No).is_err());
        assert!(publish(&temporary, &root, &name("link/new/dir/a"), Replace::No).is_err());
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
    }
}
