//! Lines for the loop, from an editor on a terminal or plainly from a pipe, read by a thread of
//! their own: reading blocks, and the loop must hear signals meanwhile.
//!
//! Invariant: the thread touches the terminal only between an [`Ask`] and its answer, so that a
//! running command has it for itself.

use std::{
    fs,
    io::{self, BufRead, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    time::Duration,
};

use rustyline::{
    Behavior, CompletionType, Config, Editor, error::ReadlineError, history::FileHistory,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::complete::Completion;

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 << 10;
/// Lines that are remembered.
const MAX_HISTORY: usize = 1000;
/// How long completion waits for names.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// A line of the loop.
    Command,
    /// The name of a file in the network.
    Name,
    /// A file or folder here.
    Path,
}

impl Ask {
    fn prompt(self) -> &'static str {
        match self {
            Self::Command => "vecino> ",
            Self::Name => "name of the file: ",
            Self::Path => "file or folder: ",
        }
    }
}

/// What the thread says.
#[derive(Debug)]
pub(super) enum Event {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C on a line.
    Cancelled,
    /// Ctrl-D, or the end of the pipe.
    End,
    /// The line cannot be used.
    Wrong(&'static str),
    /// Completion wants names that begin with this.
    Names(String, SyncSender<Vec<String>>),
}

/// The thread, seen from the loop.
#[derive(Debug)]
pub(super) struct Lines {
    asks: std::sync::mpsc::Sender<Ask>,
    events: UnboundedReceiver<Event>,
}

impl Lines {
    /// Starts the thread; with an editor on a `terminal`.
    ///
    /// The editor takes SIGINT for itself when it is made, and only then. Who wants to hear it
    /// while a command runs listens afterwards; hence this waits until the editor is made.
    pub(super) fn start(terminal: bool) -> io::Result<Self> {
        let (asks, asked) = channel();
        let (say, events) = unbounded_channel();
        let names = NameSource(say.clone());
        let (made, making) = channel();
        std::thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || {
                let editor = terminal.then(|| editor(names)).and_then(Result::ok);
                drop(made);
                // The loop is over when it does not listen any more.
                let _ = match editor {
                    Some(editor) => edit(editor, &asked, &say),
                    None => read(&asked, &say),
                };
            })?;
        // Ends with an error when `made` is dropped: nothing is ever sent.
        let _: Result<(), _> = making.recv();
        Ok(Self { asks, events })
    }

    /// Asks for a line; the answer comes through [`Self::event`].
    pub(super) fn ask(&self, ask: Ask) {
        // A thread that ended says so by [`Event::End`].
        let _ = self.asks.send(ask);
    }

    /// What the thread says next.
    pub(super) async fn event(&mut self) -> Event {
        self.events.recv().await.unwrap_or(Event::End)
    }
}

/// Names for completion, which the loop looks up.
pub(super) struct NameSource(pub(super) UnboundedSender<Event>);

impl NameSource {
    /// Some names that begin with `prefix`; none when they do not come in time.
    pub(super) fn beginning_with(&self, prefix: &str) -> Vec<String> {
        let (answer, names) = sync_channel(1);
        if self
            .0
            .send(Event::Names(prefix.to_owned(), answer))
            .is_err()
        {
            return Vec::new();
        }
        names.recv_timeout(NAMES_PATIENCE).unwrap_or_default()
    }
}

/// The loop does not listen any more.
struct Over;

fn say(events: &UnboundedSender<Event>, event: Event) -> Result<(), Over> {
    events.send(event).map_err(|_| Over)
}

fn editor(names: NameSource) -> rustyline::Result<Editor<Completion, FileHistory>> {
    let config = Config::builder()
        .max_history_size(MAX_HISTORY)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        // Standard output is for data: it may go elsewhere.
        .behavior(Behavior::PreferTerm)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Completion::new(names)));
    Ok(editor)
}

fn edit(
    mut editor: Editor<Completion, FileHistory>,
    asks: &Receiver<Ask>,
    events: &UnboundedSender<Event>,
) -> Result<(), Over> {
    let history = history_file();
    if let Some(path) = &history
        && let Err(error) = editor.load_history(path)
    {
        log::info!("history: {error}");
    }
    while let Ok(ask) = asks.recv() {
        if let Some(completion) = editor.helper_mut() {
            completion.ask = ask;
        }
        let event = match editor.readline(ask.prompt()) {
            Ok(line) if line.len() as u64 > MAX_LINE => Event::Wrong("the line is too long"),
            Ok(line) => {
                if ask == Ask::Command && !line.trim().is_empty() {
                    remember(&mut editor, &line, history.as_ref());
                }
                Event::Line(line)
            }
            Err(ReadlineError::Interrupted) => Event::Cancelled,
            Err(ReadlineError::Signal(_)) => Event::Cancelled,
            Err(ReadlineError::Eof) => Event::End,
            Err(error) => {
                log::info!("the terminal is gone: {error}");
                Event::End
            }
        };
        say(events, event)?;
    }
    Ok(())
}

fn remember(editor: &mut Editor<Completion, FileHistory>, line: &str, history: Option<&PathBuf>) {
    let added = editor.add_history_entry(line);
    // Written at once: however the program ends, the line is there. That it is not is no error.
    if let (Ok(true), Some(path)) = (added, history)
        && let Err(error) = editor.append_history(path)
    {
        log::info!("history: {error}");
    }
}

/// Where lines are remembered (XDG base directories), readable by the user only.
fn history_file() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .and_then(absolute)
        .or_else(|| Some(absolute(std::env::var_os("HOME")?.into())?.join(".local/state")))?;
    let folder = state.join("vecino");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .and_then(|()| {
            fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(folder.join("history"))
        });
    match made {
        Ok(_) => Some(folder.join("history")),
        Err(error) => {
            log::info!("history: {error}");
            None
        }
    }
}

fn read(asks: &Receiver<Ask>, events: &UnboundedSender<Event>) -> Result<(), Over> {
    while asks.recv().is_ok() {
        // Between the lines of the loop, a command may read some of its own.
        let event = read_line(&mut io::stdin().lock());
        say(events, event)?;
    }
    Ok(())
}

fn read_line(input: &mut impl BufRead) -> Event {
    let mut line = Vec::new();
    match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => return Event::End,
        Ok(_) => {}
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == MAX_LINE {
        // Past the rest of it; what cannot be read is the end anyway.
        let _ = input.skip_until(b'\n');
        return Event::Wrong("the line is too long");
    }
    match String::from_utf8(line) {
        Ok(line) => Event::Line(line),
        Err(_) => Event::Wrong("the line is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(input: &[u8]) -> Vec<String> {
        let mut input = input;
        let mut events = Vec::new();
        loop {
            match read_line(&mut input) {
                Event::Line(line) => events.push(line),
                Event::Wrong(why) => events.push(format!("! {why}")),
                _ => return events,
            }
        }
    }

    #[test]
    fn piped_lines_are_bounded_and_text() {
        assert_eq!(events(b"1\n\nname"), ["1", "", "name"]);
        assert_eq!(events(b"\xff\n0\n"), ["! the line is not UTF-8", "0"]);
        let mut long = vec![b'x'; 3 * MAX_LINE as usize];
        long.extend(b"\n0\n");
        assert_eq!(events(&long), ["! the line is too long", "0"]);
    }
}
