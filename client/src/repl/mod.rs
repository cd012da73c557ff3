//! The loop: the terminal client of the first system, whose numbers still work, with the words of
//! the command line.
//!
//! Invariant: no error ends it; only `0`, `exit`, `quit`, the end of input or SIGTERM do.

mod complete;
mod editor;
mod home;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::IsTerminal,
    path::Path,
    time::Duration,
};

use actix_rt::time::timeout;
use clap::{CommandFactory, FromArgMatches};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use vecino_rest::body::SearchQuery;

use self::{
    editor::{Ask, Event, Lines},
    words::Words,
};
use crate::{
    cli::{Line, without_flags_of_help},
    exit_code::ExitCode,
    failure::Failure,
    output::{self, Output},
    session::Session,
    signals::{Signals, Stop},
};

/// Names that completion offers at most, from each place that has some.
const MAX_NAMES: u32 = 50;
/// How long each of those places may take.
const NAMES_TIMEOUT: Duration = Duration::from_millis(900);

/// How a step of the loop ended.
enum Step {
    /// On with the next line.
    Next,
    /// The user wants to end.
    End,
    /// A signal ends it.
    Stopped(Stop),
}

/// Reads and runs lines until the end.
pub(crate) async fn run(session: &Session, out: &Output) -> ExitCode {
    let terminal = std::io::stdin().is_terminal();
    let started = Lines::start(terminal).and_then(|lines| Ok((lines, Signals::listen()?)));
    let (lines, signals) = match started {
        Ok(started) => started,
        Err(error) => return out.failure(&Failure::disk("the loop")(error)),
    };
    // An editor that is stopped in the middle of a line leaves the terminal as it uses it.
    let before = terminal.then(|| tcgetattr(std::io::stdin()).ok()).flatten();
    let mut repl = Repl {
        session,
        out,
        signals,
        lines,
        terminal,
    };
    out.note(&menu(session));
    loop {
        match repl.step().await {
            Step::Next => {}
            Step::End => return ExitCode::Ok,
            Step::Stopped(stop) => {
                restore(before.as_ref());
                return stop.exit_code();
            }
        }
    }
}

fn menu(session: &Session) -> String {
    let grammar = Line::command();
    // Nobody asks the loop for the completions of a shell.
    let verbs = grammar.get_subcommands().map(clap::Command::get_name);
    let verbs: Vec<_> = verbs.filter(|verb| *verb != "completions").collect();
    format!(
        "Your own peer is {}.\n  1  download a file, or NAME/ for a folder\n  2  upload a file or a folder\n  0  end\n\
         Or a word: {}, help, exit.",
        session.api.peer().authority(),
        verbs.join(", ")
    )
}

fn restore(before: Option<&Termios>) {
    if let Some(before) = before {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        eprintln!();
    }
}

/// The verb that a number of the first system stands for; other words are verbs themselves.
fn verb_of(word: &str) -> &str {
    match word {
        "1" => "download",
        "2" => "upload",
        "?" => "help",
        word => word,
    }
}

/// The words as the grammar knows them.
fn grammatical(mut words: Vec<String>) -> Vec<String> {
    words[0] = verb_of(&words[0]).to_owned();
    if words[0] == "help" {
        for word in &mut words[1..] {
            *word = verb_of(word).to_owned();
        }
        // What ends the loop is said in the help of all.
        words.retain(|word| !is_end(word));
    }
    words
}

fn is_end(word: &str) -> bool {
    matches!(word, "0" | "exit" | "quit")
}

/// The words of a line with a number of the first system, whose prompt took the rest of the line
/// as it is: for `1` a name, and for `2` a path that is there, spaces and all.
fn as_the_first_system(line: &str) -> Option<Vec<String>> {
    let (number, rest) = words::plain_rest(line)?;
    let is_whole = match number {
        "1" => true,
        "2" => Path::new(rest).exists(),
        _ => false,
    };
    is_whole.then(|| vec![verb_of(number).to_owned(), "--".to_owned(), rest.to_owned()])
}

struct Repl<'a> {
    session: &'a Session,
    out: &'a Output,
    signals: Signals,
    lines: Lines,
    terminal: bool,
}

impl Repl<'_> {
    async fn step(&mut self) -> Step {
        let line = match self.ask(Ask::Command).await {
            Ok(Some(line)) => line,
            Ok(None) => return Step::Next,
            Err(step) => return step,
        };
        if let Some(words) = as_the_first_system(&line) {
            return self.run(words).await;
        }
        let Some(words) = Words::of(&line).all() else {
            return self.wrong("a quote is not closed; put names with spaces in quotes");
        };
        let [first, rest @ ..] = &*words else {
            return Step::Next;
        };
        if rest.is_empty() {
            match first.as_str() {
                word if is_end(word) => return Step::End,
                "1" => return self.ask_and_run(Ask::Name, "download").await,
                "2" => return self.ask_and_run(Ask::Path, "upload").await,
                _ => {}
            }
        }
        self.run(grammatical(words)).await
    }

    /// What `1` and `2` alone do, as in the first system: ask, then run.
    async fn ask_and_run(&mut self, ask: Ask, verb: &str) -> Step {
        match self.ask(ask).await {
            Ok(Some(answer)) if !answer.trim().is_empty() => {
                let answer = answer.trim().to_owned();
                self.run(vec![verb.to_owned(), "--".to_owned(), answer])
                    .await
            }
            Ok(_) => Step::Next,
            Err(step) => step,
        }
    }

    /// A line; `None` when there is nothing to run.
    async fn ask(&mut self, ask: Ask) -> Result<Option<String>, Step> {
        self.lines.ask(ask);
        loop {
            let event = tokio::select! {
                biased;
                stop = self.signals.next() => match stop {
                    // On a terminal Ctrl-C is a key, and the editor reads it.
                    Stop::Interrupt if self.terminal => continue,
                    stop => return Err(Step::Stopped(stop)),
                },
                event = self.lines.event() => event,
            };
            match event {
                Event::Line(line) => return Ok(Some(line)),
                Event::Cancelled => return Ok(None),
                Event::End => return Err(Step::End),
                Event::Wrong(why) => return Err(self.wrong(why)),
                Event::Names(prefix, answer) => {
                    // Completion that waits no longer has nothing to show.
                    let _ = answer.send(self.names(&prefix).await);
                }
            }
        }
    }

    async fn run(&mut self, words: Vec<String>) -> Step {
        let words = without_flags_of_help(words.into_iter().map(OsString::from).collect());
        let json = self.out.json() || output::wants_json(&words);
        let parsed = Line::command()
            .color(output::clap_color(self.out.color()))
            .try_get_matches_from(words)
            .and_then(|matches| Line::from_arg_matches(&matches));
        let line = match parsed {
            Ok(mut line) => {
                home::expand(&mut line.command);
                line
            }
            Err(error) => {
                output::clap_message(&error, json, self.out.color(), "help");
                return Step::Next;
            }
        };
        let out = self.out.with(line.globals);
        let done = self
            .session
            .supervise(&line.command, &out, &mut self.signals)
            .await;
        match done {
            Err(Stop::Terminate) => Step::Stopped(Stop::Terminate),
            Ok(_) | Err(Stop::Interrupt) => Step::Next,
        }
    }

    fn wrong(&self, why: &str) -> Step {
        self.out.failure(&Failure::Usage(why.to_owned()));
        Step::Next
    }

    /// Some names that begin with `prefix`: of the own peer, then of the network.
    async fn names(&self, prefix: &str) -> Vec<String> {
        let api = &self.session.api;
        let mut names = BTreeSet::new();
        let held = timeout(NAMES_TIMEOUT, api.files(Some(prefix), MAX_NAMES, None)).await;
        if let Ok(Ok(page)) = held {
            names.extend(page.items.into_iter().map(|entry| entry.name));
        }
        if !prefix.trim().is_empty() {
            let query = SearchQuery {
                q: prefix.to_owned(),
                limit: Some(MAX_NAMES),
                ..SearchQuery::default()
            };
            if let Ok(Ok(page)) = timeout(NAMES_TIMEOUT, api.search(&query)).await {
                names.extend(page.items.into_iter().map(|variant| variant.name));
            }
        }
        let mut names: Vec<_> = names
            .into_iter()
            .filter(|name| name.as_str().starts_with(prefix))
            .map(String::from)
            .collect();
        add_folders(&mut names, prefix.len());
        names
    }
}

/// Adds the folders that several of `names`, which are in order, lie in: `download` takes them as
/// well. Each is one step deeper than what is `typed`, in bytes.
fn add_folders(names: &mut Vec<String>, typed: usize) {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for name in &*names {
        if let Some(end) = name.get(typed..).and_then(|rest| rest.find('/')) {
            let folder = name[..=typed + end].to_owned();
            *folders.entry(folder).or_default() += 1;
        }
    }
    let several = folders.into_iter().filter(|(_, below)| *below > 1);
    names.extend(several.map(|(folder, _)| folder));
    names.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_several_names_is_offered() {
        let with_folders = |names: &[&str], typed: &str| {
            let mut names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            add_folders(&mut names, typed.len());
            names
        };
        let names = ["dé/a", "dé/b/c", "dé/b/d", "e/f", "g"];
        assert_eq!(
            with_folders(&names, "")[..2],
            ["dé/".to_owned(), "dé/a".to_owned()]
        );
        assert_eq!(with_folders(&names, "").len(), 6);
        let below = &names[..3];
        assert_eq!(
            with_folders(below, "dé/"),
            ["dé/a", "dé/b/", "dé/b/c", "dé/b/d"]
        );
    }
}
