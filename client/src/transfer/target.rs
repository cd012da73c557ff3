//! [`Target`]: where a download goes, and how it appears there.
//!
//! Invariants: a target appears at once and whole; unless asked to, nothing that is there is
//! replaced, whoever else creates it meanwhile; what is no regular file is never replaced.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, FileType},
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use vecino_rest::Name;

use super::stream::takes_a_stream;
use crate::{cli::IfExists, failure::Failure};

/// Most numbers that are tried for a free `NAME (N).ext`.
const MAX_RENAMES: u32 = 10_000;

/// Where a download goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Stdout,
    /// Into this device or pipe, which the user named.
    Stream(PathBuf),
    /// This file.
    File(PathBuf),
}

impl Target {
    /// Where `name` goes when the user says `output`.
    pub(crate) fn of(name: &Name, output: Option<&Path>) -> Self {
        match output {
            None => Self::File(PathBuf::from(name.file_name())),
            Some(path) if path == Path::new("-") || path == Path::new("/dev/stdout") => {
                Self::Stdout
            }
            Some(path) if path.is_dir() || ends_with_separator(path) => {
                Self::File(path.join(name.file_name()))
            }
            Some(path) => match fs::metadata(path) {
                Ok(there) if takes_a_stream(there.file_type()) => Self::Stream(path.to_owned()),
                // What is wrong with it comes out when it is used.
                _ => Self::File(path.to_owned()),
            },
        }
    }
}

pub(crate) fn ends_with_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Whether something is at `path`, even a dangling link.
pub(crate) fn exists(path: &Path) -> Result<bool, Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::disk(path)(error)),
    }
}

/// What is to be overwritten at `path`, where something is: that file, or the one that a symbolic
/// link leads to.
pub(crate) fn to_overwrite(path: &Path) -> Result<PathBuf, Failure> {
    let there = fs::symlink_metadata(path).map_err(Failure::disk(path))?;
    if !there.is_symlink() {
        regular(path, there.file_type())?;
        return Ok(path.to_owned());
    }
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::NotReplaced {
                path: path.to_owned(),
                what: "a symbolic link to nothing",
            });
        }
        real => real.map_err(Failure::disk(path))?,
    };
    let there = fs::symlink_metadata(&real).map_err(Failure::disk(path))?;
    regular(path, there.file_type())?;
    Ok(real)
}

/// Refuses what is not to be replaced.
fn regular(path: &Path, kind: FileType) -> Result<(), Failure> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Failure::NotReplaced {
        path: path.to_owned(),
        what,
    })
}

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Moves the finished `part` to `target`, or beside it as `if_exists` says; the path that it has
/// now. The folder is on the disk afterwards.
pub(crate) fn place(part: &Path, target: &Path, if_exists: IfExists) -> Result<PathBuf, Failure> {
    let path = put(part, target, if_exists)?;
    let folder = folder_of(&path);
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Failure::disk(folder))?;
    Ok(path)
}

/// The same, but for the folder, which may not be on the disk yet.
pub(crate) fn put(part: &Path, target: &Path, if_exists: IfExists) -> Result<PathBuf, Failure> {
    let path = match if_exists {
        IfExists::Overwrite => {
            // It may be another thing by now than when the download began.
            match fs::symlink_metadata(target) {
                Ok(there) => regular(target, there.file_type())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::disk(target)(error)),
            }
            fs::rename(part, target).map_err(Failure::disk(target))?;
            target.to_owned()
        }
        // `Skip` was decided before the download; what came since is left alone as well.
        IfExists::Error | IfExists::Skip => match rename_new(part, target) {
            Ok(()) => target.to_owned(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::Exists(target.to_owned()));
            }
            Err(error) => return Err(Failure::disk(target)(error)),
        },
        IfExists::Rename => rename_beside(part, target)?,
    };
    Ok(path)
}

fn rename_beside(part: &Path, target: &Path) -> Result<PathBuf, Failure> {
    for number in 0..MAX_RENAMES {
        let path = numbered(target, number);
        match rename_new(part, &path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::disk(path)(error)),
        }
    }
    Err(Failure::Exists(target.to_owned()))
}

/// `NAME (number).ext`; `NAME.ext` for 0.
fn numbered(target: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return target.to_owned();
    }
    let stem = target.file_stem().unwrap_or(OsStr::new(""));
    let mut file_name = OsString::from(stem);
    file_name.push(format!(" ({number})"));
    if let Some(extension) = target.extension() {
        file_name.push(".");
        file_name.push(extension);
    }
    target.with_file_name(file_name)
}

/// Renames, but only where nothing is.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            result => return Ok(result?),
        }
    }
    // A link fails when the name is taken, on every system.
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_target_is_the_last_part_here() {
        let name = Name::parse("music/a b.mp3").unwrap();
        assert_eq!(Target::of(&name, None), Target::File("a b.mp3".into()));
        assert_eq!(Target::of(&name, Some(Path::new("-"))), Target::Stdout);
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().to_owned(), dir.path().join("new/")] {
            assert_eq!(
                Target::of(&name, Some(&folder)),
                Target::File(folder.join("a b.mp3"))
            );
        }
        assert_eq!(
            Target::of(&name, Some(Path::new("x/y"))),
            Target::File("x/y".into())
        );
    }

    #[test]
    fn numbers_go_before_the_extension() {
        let of = |target: &str| numbered(Path::new(target), 2).to_str().unwrap().to_owned();
        assert_eq!(of("d/a.txt"), "d/a (2).txt");
        assert_eq!(of("a.tar.gz"), "a.tar (2).gz");
        assert_eq!(of(".profile"), ".profile (2)");
        assert_eq!(of("README"), "README (2)");
    }

    #[test]
    fn nothing_is_replaced_unless_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (part, target) = (dir.path().join("part"), dir.path().join("a.txt"));
        fs::write(&target, "old").unwrap();
        fs::write(&part, "new").unwrap();
        assert!(matches!(
            place(&part, &target, IfExists::Error),
            Err(Failure::Exists(_))
        ));
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        let beside = place(&part, &target, IfExists::Rename).unwrap();
        assert_eq!(beside, dir.path().join("a (1).txt"));
        fs::write(&part, "newer").unwrap();
        place(&part, &target, IfExists::Overwrite).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "newer");
        assert!(!part.exists());
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).unwrap();
        fs::write(path("file"), "old").unwrap();
        fs::create_dir(path("folder")).unwrap();
        link("file", "link");
        link("link", "link to link");
        link("nowhere", "dangling");
        link("round", "round");
        link("/dev/null", "null");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let real = path("file").canonicalize().unwrap();
        assert_eq!(to_overwrite(&path("file")).unwrap(), path("file"));
        assert_eq!(to_overwrite(&path("link")).unwrap(), real);
        assert_eq!(to_overwrite(&path("link to link")).unwrap(), real);
        assert!(to_overwrite(&path("round")).is_err());
        for special in ["folder", "dangling", "null", "socket"] {
            let refused = to_overwrite(&path(special));
            assert!(
                matches!(refused, Err(Failure::NotReplaced { .. })),
                "{special}: {refused:?}"
            );
            fs::write(path("part"), "new").unwrap();
            let refused = place(&path("part"), &path(special), IfExists::Overwrite);
            assert!(
                matches!(refused, Err(Failure::NotReplaced { .. })),
                "{special}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_takes_a_stream_is_one_only_when_it_is_named() {
        let name = Name::parse("null").unwrap();
        let device = Path::new("/dev/null");
        assert_eq!(
            Target::of(&name, Some(device)),
            Target::Stream(device.into())
        );
        assert_eq!(
            Target::of(&name, Some(Path::new("/dev"))),
            Target::File(device.into())
        );
        let stdout = Path::new("/dev/stdout");
        assert_eq!(Target::of(&name, Some(stdout)), Target::Stdout);
    }

    proptest! {
        #[test]
        fn a_numbered_name_stays_in_its_folder(file in "[a-z. ]{1,12}", number in 1..99_u32) {
            let target = Path::new("folder").join(&file);
            prop_assume!(target.file_name() == Some(OsStr::new(&file)));
            let path = numbered(&target, number);
            prop_assert_eq!(path.parent(), Some(Path::new("folder")));
            prop_assert_ne!(path, target);
        }
    }
}
