//! `~` at the beginning of a path, which a shell expands on the command line, and nobody but us
//! in the loop.

use std::path::{Path, PathBuf};

use crate::cli::Command;

/// Expands the paths of `command` that are on this machine.
pub(super) fn expand(command: &mut Command) {
    let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) else {
        return;
    };
    let home = Path::new(&home);
    match command {
        Command::Download(args) => {
            if let Some(output) = &mut args.output {
                *output = at_home(output, home);
            }
        }
        Command::Upload(args) => {
            for path in &mut args.paths {
                *path = at_home(path, home);
            }
        }
        Command::Login(args) => {
            if let Some(file) = &mut args.password_file {
                *file = at_home(file, home);
            }
        }
        _ => {}
    }
}

/// `path`, with `home` for a first part that is `~`; `./~` is a file of that name.
fn at_home(path: &Path, home: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        // Joined to nothing, it would end with a separator.
        Ok(rest) if rest.as_os_str().is_empty() => home.to_owned(),
        Ok(rest) => home.join(rest),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_part_is_home() {
        let at = |path: &str| at_home(Path::new(path), Path::new("/home/me"));
        assert_eq!(at("~"), Path::new("/home/me"));
        assert_eq!(at("~/a b.txt"), Path::new("/home/me/a b.txt"));
        for path in ["./~", "~me/a", "a/~/b", "-", "/~"] {
            assert_eq!(at(path), Path::new(path));
        }
    }
}
