//! Which files an `upload` means, and under which names: a file, or all files below a folder.
//!
//! Links inside a folder are left out: they may lead out of it, or round in circles. So is what is
//! hidden, which no peer shares.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use vecino_rest::{Name, name::Fault};

use crate::{failure::Failure, transfer::part};

/// Why something in a folder is left out.
const LINK: &str = "it is a symbolic link";
const SPECIAL: &str = "it is not a regular file";
const UNFINISHED: &str = "it is a download that is not whole";
const HIDDEN: &str = "it is hidden, and peers share nothing hidden";

/// A file to share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it is to be called.
    pub(crate) name: Name,
}

/// What was found, in order of names.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files to share.
    pub(crate) items: Vec<Item>,
    /// Files that cannot be shared, with the reason.
    pub(crate) failed: Vec<Failure>,
    /// What a folder has that is not shared, and why.
    pub(crate) left_out: Vec<(PathBuf, &'static str)>,
    /// Whether a folder was meant.
    pub(crate) has_folder: bool,
}

impl Found {
    /// Adds what `path` means; `name` is what it is to be called instead of its own name.
    pub(crate) fn add(&mut self, path: &Path, name: Option<&Name>) -> Result<(), Failure> {
        let kind = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoSuchPath(path.to_owned()));
            }
            kind => kind.map_err(Failure::disk(path))?,
        };
        let name = match name {
            Some(name) => name.to_string(),
            None => own_name(path)?,
        };
        if kind.is_dir() {
            self.has_folder = true;
            self.add_folder(path, &name);
            Ok(())
        } else if kind.is_file() {
            self.add_file(path.to_owned(), &name);
            Ok(())
        } else {
            let source = io::Error::other("it is neither a file nor a folder");
            Err(Failure::disk(path)(source))
        }
    }

    fn add_folder(&mut self, path: &Path, name: &str) {
        let mut folders = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = folders.pop() {
            let mut entries =
                match fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                    Ok(entries) => entries,
                    Err(error) => {
                        self.failed.push(Failure::disk(path)(error));
                        continue;
                    }
                };
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let file_name = entry.file_name();
                let Some(text) = file_name.to_str() else {
                    self.failed.push(not_utf8(&path));
                    continue;
                };
                let name = format!("{name}/{text}");
                match entry.file_type() {
                    Ok(kind) if kind.is_file() && part::is_unfinished(text) => {
                        self.left_out.push((path, UNFINISHED));
                    }
                    // A peer refuses it; with all that is below it, when it is a folder.
                    Ok(_) if text.starts_with('.') => self.left_out.push((path, HIDDEN)),
                    Ok(kind) if kind.is_dir() => folders.push((path, name)),
                    Ok(kind) if kind.is_symlink() => self.left_out.push((path, LINK)),
                    Ok(kind) if !kind.is_file() => self.left_out.push((path, SPECIAL)),
                    Ok(_) => self.add_file(path, &name),
                    Err(error) => self.failed.push(Failure::disk(path)(error)),
                }
            }
        }
        self.items.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn add_file(&mut self, path: PathBuf, name: &str) {
        match Name::parse(name) {
            Ok(name) => self.items.push(Item { path, name }),
            Err(error) => self.failed.push(Failure::Unshareable {
                path,
                why: error.fault.to_string(),
            }),
        }
    }
}

/// The last part of `path`, looked up where it is not spelled out (`.`, `..`).
fn own_name(path: &Path) -> Result<String, Failure> {
    let nameless = || {
        Failure::Usage(format!(
            "{} has no name: give one with --as",
            path.display()
        ))
    };
    let resolved;
    let file_name = match path.file_name() {
        Some(file_name) => file_name,
        None => {
            resolved = path.canonicalize().map_err(Failure::disk(path))?;
            resolved.file_name().ok_or_else(nameless)?
        }
    };
    match file_name.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(not_utf8(path)),
    }
}

fn not_utf8(path: &Path) -> Failure {
    Failure::Unshareable {
        path: path.to_owned(),
        why: Fault::NotUtf8.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &Found) -> Vec<&str> {
        found.items.iter().map(|item| item.name.as_str()).collect()
    }

    #[test]
    fn a_folder_means_its_files_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("holiday pics");
        fs::create_dir_all(folder.join("day 1")).unwrap();
        fs::write(folder.join("b.jpg"), "b").unwrap();
        fs::write(folder.join("day 1/a.jpg"), "a").unwrap();
        fs::write(folder.join(".x.vecino-part"), "unfinished").unwrap();
        fs::create_dir(folder.join(".git")).unwrap();
        fs::write(folder.join(".git/HEAD"), "h").unwrap();
        fs::write(folder.join("day 1/.env"), "e").unwrap();
        std::os::unix::fs::symlink("/", folder.join("everything")).unwrap();

        let mut found = Found::default();
        found.add(&folder, None).unwrap();
        assert_eq!(
            names(&found),
            ["holiday pics/b.jpg", "holiday pics/day 1/a.jpg"]
        );
        let left_out: Vec<_> = found.left_out.iter().map(|(_, why)| *why).collect();
        assert_eq!(left_out, [HIDDEN, UNFINISHED, LINK, HIDDEN]);

        let mut found = Found::default();
        let name = Name::parse("p/q").unwrap();
        found.add(&folder, Some(&name)).unwrap();
        assert_eq!(names(&found), ["p/q/b.jpg", "p/q/day 1/a.jpg"]);
    }

    #[test]
    fn a_folder_without_a_spelled_name_is_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("top/sub")).unwrap();
        fs::write(dir.path().join("top/a"), "a").unwrap();
        let mut found = Found::default();
        found.add(&dir.path().join("top/sub/.."), None).unwrap();
        assert_eq!(names(&found), ["top/a"]);
        assert!(own_name(Path::new("/")).is_err());
    }

    #[test]
    fn names_that_cannot_be_shared_do_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("bad\u{1b}.txt"), "x").unwrap();
        fs::write(folder.join("good.txt"), "x").unwrap();
        let mut found = Found::default();
        found.add(&folder, None).unwrap();
        assert_eq!(names(&found), ["d/good.txt"]);
        assert_eq!(found.failed.len(), 1);
        let text = found.failed[0].to_string();
        assert!(text.contains("its name cannot be shared"), "{text}");
    }
}
