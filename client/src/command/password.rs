//! Where user and password come from when they are not on the command line, where others could
//! read a password: a file, a terminal that does not show it, or standard input.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::Path,
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};
use vecino_rest::{
    UserName,
    user::{MAX_PASSWORD_BYTES, first_line},
};

use crate::{failure::Failure, output::clean};

/// Bytes of a line that are read: one more than a password may have, and the end of the line.
const MAX_LINE: usize = MAX_PASSWORD_BYTES + 3;

/// How often it looks whether a line of the terminal is still wanted.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The first line of `path`.
pub(super) fn in_file(path: &Path) -> Result<String, Failure> {
    let line = File::open(path).and_then(|file| line_of(BufReader::new(file)));
    line.map_err(Failure::disk(path))
}

/// Asks for the name of a user, where somebody can answer.
pub(super) async fn ask_user() -> Result<UserName, Failure> {
    if !io::stdin().is_terminal() {
        let why = "name the user: login USER";
        return Err(Failure::Usage(why.to_owned()));
    }
    let line = typed("user: ", Echo::Stays).await;
    let line = line.map_err(Failure::disk("the terminal"))?;
    UserName::parse(&line).map_err(|error| Failure::Usage(error.to_string()))
}

/// Asks for the password of `user`: on the terminal, or the next line of standard input.
pub(super) async fn ask(user: &UserName) -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        let prompt = format!("password of {}: ", clean(user.as_str()));
        let line = typed(&prompt, Echo::IsOff).await;
        return line.map_err(Failure::disk("the terminal"));
    }
    let read = tokio::task::spawn_blocking(|| line_of(io::stdin().lock())).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Failure::disk("standard input"))
}

fn line_of(from: impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    text_of(line)
}

fn text_of(line: Vec<u8>) -> io::Result<String> {
    match String::from_utf8(line) {
        Ok(line) => Ok(first_line(&line).to_owned()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the line is not UTF-8",
        )),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Stays,
    IsOff,
}

/// Shows again what is typed, when it goes.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// A line of the terminal. Whoever stops waiting for it leaves the terminal as it was, and to
/// others.
async fn typed(prompt: &str, echo: Echo) -> io::Result<String> {
    eprint!("{prompt}");
    let _hidden = (echo == Echo::IsOff).then(Hidden::begin).transpose()?;
    let waiting = Arc::new(());
    let is_waited_for = Arc::downgrade(&waiting);
    let read = tokio::task::spawn_blocking(move || {
        let stdin = io::stdin();
        while is_waited_for.strong_count() > 0 {
            let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
            // The terminal hands out whole lines, so that reading does not block then.
            if poll(&mut ready, Some(&LOOK_EVERY))? > 0 && is_waited_for.strong_count() > 0 {
                let mut buffer = [0; MAX_LINE];
                let read = rustix::io::read(&stdin, &mut buffer)?;
                return text_of(buffer[..read].to_vec());
            }
        }
        Ok(String::new())
    });
    let line = read.await;
    drop(waiting);
    line.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_and_is_bounded() {
        let line = |text: &[u8]| line_of(text);
        assert_eq!(line(b" a b \r\nmore").unwrap(), " a b ");
        assert_eq!(line(b"").unwrap(), "");
        let long = vec![b'x'; 1 << 20];
        assert!(line(&long).unwrap().len() <= MAX_LINE);
        assert!(line(b"\xff\n").is_err());
    }
}
