//! Where a password comes from: a file, standard input, or a terminal that does not show it. Never
//! from the command line, which others can read.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read},
    path::Path,
};

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use vecino_rest::user::{MAX_PASSWORD_BYTES, check_password, first_line};

/// The password in `file`, or the one that is given on standard input.
pub(super) fn read(file: Option<&Path>) -> anyhow::Result<String> {
    let line = match file {
        Some(path) => File::open(path)
            .and_then(line_of)
            .with_context(|| format!("--password-file {path:?}"))?,
        None if io::stdin().is_terminal() => typed()?,
        None => line_of(io::stdin()).context("standard input")?,
    };
    check_password(&line)?;
    Ok(line)
}

fn line_of(from: impl Read) -> io::Result<String> {
    let mut line = String::new();
    // One more than may be, and the end of the line.
    let bound = MAX_PASSWORD_BYTES as u64 + 3;
    BufReader::new(from.take(bound)).read_line(&mut line)?;
    Ok(first_line(&line).to_owned())
}

fn typed() -> anyhow::Result<String> {
    eprint!("Password: ");
    let before = tcgetattr(io::stdin())?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
    let line = line_of(io::stdin());
    tcsetattr(io::stdin(), OptionalActions::Flush, &before)?;
    line.context("the terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password_and_its_length_is_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        let read_from = |content: &str| {
            std::fs::write(&path, content).expect("writes");
            read(Some(&path)).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read_from(" a b \nmore"), Ok(" a b ".to_owned()));
        let longest = "x".repeat(MAX_PASSWORD_BYTES);
        assert_eq!(read_from(&format!("{longest}\r\n")), Ok(longest.clone()));
        for wrong in ["", "\n", &format!("{longest}x\n")] {
            let error = read_from(wrong).expect_err("refused");
            assert!(error.contains("expected 1 to 1024"), "{error}");
        }
        let error = read(Some(Path::new("/no/such/file"))).expect_err("refused");
        assert!(format!("{error:#}").contains("/no/such/file"), "{error:#}");
    }
}
