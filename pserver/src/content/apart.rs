//! The three directories of a peer lie apart, or what is its own alone would be shared.
//!
//! Invariant: [`check`] creates nothing, so it can be asked before the first file is written.
//! What does not exist yet is judged by the deepest folder above it that does.

use std::{
    ffi::OsString,
    io,
    path::{Component, Path, PathBuf},
};

use super::StoreError;

/// Refuses directories that lie in each other, or are the same.
pub fn check(shared: &Path, fetched: &Path, data: &Path) -> Result<(), StoreError> {
    let mut all = Vec::new();
    for (variable, dir) in [
        ("SHARED_DIR", shared),
        ("DOWNLOAD_DIR", fetched),
        ("DATA_DIR", data),
    ] {
        let resolved = resolved(dir).map_err(|error| StoreError::Directory {
            variable,
            dir: dir.to_owned(),
            error,
        })?;
        all.push((variable, resolved));
    }
    for (outer, outer_path) in &all {
        for (inner, inner_path) in all.iter().filter(|(inner, _)| inner != outer) {
            if inner_path.starts_with(outer_path) {
                return Err(StoreError::Overlap(format!(
                    "{inner}={inner_path:?} lies in {outer}={outer_path:?}: give each a \
                     directory of its own, or what is yours alone would be shared"
                )));
            }
        }
    }
    Ok(())
}

/// Where `path` is, or would be once it is made: no links and no dots in it.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut there = std::path::absolute(path)?;
    let mut missing: Vec<OsString> = Vec::new();
    loop {
        match there.canonicalize() {
            Ok(mut resolved) => {
                for part in missing.iter().rev() {
                    match Path::new(part).components().next() {
                        // What is not there is no link, so that this leads where it says.
                        Some(Component::ParentDir) => drop(resolved.pop()),
                        _ => resolved.push(part),
                    }
                }
                return Ok(resolved);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(last) = there.components().next_back() else {
                    return Err(error);
                };
                missing.push(last.as_os_str().to_owned());
                if !there.pop() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_does_not_exist_yet_is_judged_by_what_does() {
        let home = tempfile::tempdir().expect("temporary directory");
        let at = |path: &str| home.path().join(path);
        fs::create_dir(at("shared")).expect("made");
        symlink(at("shared"), at("link")).expect("linked");
        let overlaps = |data: &str| {
            let checked = check(&at("shared"), &at("downloads"), &at(data));
            matches!(checked, Err(StoreError::Overlap(_)))
        };
        for data in [
            "shared",
            "shared/x",
            "shared/x/y",
            "link/x",
            "other/../shared/x",
            "downloads/x/..",
            "downloads",
        ] {
            assert!(overlaps(data), "{data}");
        }
        for data in ["data", "shared2", "link/../data", "shared/x/../../data"] {
            assert!(!overlaps(data), "{data}");
        }
        let mut names: Vec<_> = fs::read_dir(home.path())
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["link", "shared"], "nothing is made");
    }
}
