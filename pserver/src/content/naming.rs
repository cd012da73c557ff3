//! [`Naming`]: whether a part's file may have a name, under which its owner can write to it, and
//! whether that happened since. Shared by all jobs that read the part.

use std::{fs::File, io, sync::OnceLock};

use super::stamp::Stamp;

/// See the module.
#[derive(Debug, Default)]
pub struct Naming(OnceLock<Stamp>);

impl Naming {
    /// From now on it may.
    pub fn begins(&self, file: &File) -> io::Result<()> {
        let stamp = Stamp::of(&file.metadata()?);
        self.0.get_or_init(|| stamp);
        Ok(())
    }

    /// Whether it may.
    pub fn has_begun(&self) -> bool {
        self.0.get().is_some()
    }

    /// Whether `file` is what it was then. To get a name, and to lose it, changes the change time.
    pub fn is_unchanged(&self, file: &File) -> io::Result<bool> {
        let Some(before) = self.0.get() else {
            return Ok(true);
        };
        Ok(before.is_but_for_changed(&Stamp::of(&file.metadata()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use super::*;

    #[test]
    fn a_name_changes_nothing_and_a_write_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("part");
        let file = File::create_new(&path).expect("a file");
        file.write_all_at(b"verified", 0).expect("written");
        let (naming, long_ago) = (Naming::default(), std::time::SystemTime::UNIX_EPOCH);
        assert!(!naming.has_begun() && naming.is_unchanged(&file).expect("looked at"));
        file.set_modified(long_ago).expect("a time");
        naming.begins(&file).expect("looked at");
        fs::rename(&path, directory.path().join("name")).expect("renamed");
        assert!(naming.has_begun() && naming.is_unchanged(&file).expect("looked at"));
        file.write_all_at(b"V", 0).expect("written");
        assert!(!naming.is_unchanged(&file).expect("looked at"));
        // Whoever finishes it again does not make the write good.
        naming.begins(&file).expect("looked at");
        assert!(!naming.is_unchanged(&file).expect("looked at"));
    }
}
