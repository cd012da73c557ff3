//! Completion in the loop: verbs and flags from the grammar, paths from the disk, names from the
//! own peer, which is asked by the loop's own thread.

use clap::{Arg, Command, CommandFactory};
use rustyline::{
    Context, Helper,
    completion::{Completer, FilenameCompleter, Pair},
    highlight::Highlighter,
    hint::Hinter,
    validate::Validator,
};

use super::{
    editor::{Ask, NameSource},
    verb_of,
    words::{Words, quoted_alike},
};
use crate::cli::Line;

/// What a word can be completed with.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// One of these.
    Fixed(Vec<String>),
    /// A path on this machine.
    Path,
    /// A name in the network.
    Name,
}

/// Completes lines of the loop.
pub(super) struct Completion {
    /// What is being asked for.
    pub(super) ask: Ask,
    names: NameSource,
    paths: FilenameCompleter,
}

impl Completion {
    /// Takes names from `names`.
    pub(super) fn new(names: NameSource) -> Self {
        Self {
            ask: Ask::Command,
            names,
            paths: FilenameCompleter::new(),
        }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = &line[..pos];
        match self.ask {
            Ask::Name => {
                let names = self.names.beginning_with(line);
                return Ok((0, names.iter().map(|name| pair(name, name)).collect()));
            }
            Ask::Path => return self.paths.complete_path(line, pos),
            Ask::Command => {}
        }
        let words = Words::of(line);
        let typed = words.last.as_deref().unwrap_or_default();
        let choice = choice(&words.done, typed);
        let is_fixed = matches!(choice, Choice::Fixed(_));
        let candidates = match choice {
            Choice::Path => return self.paths.complete_path(line, pos),
            Choice::Name => self.names.beginning_with(typed),
            Choice::Fixed(mut fixed) => {
                fixed.retain(|word| word.starts_with(typed));
                fixed
            }
        };
        let mut replacements = quoted_alike(&candidates);
        // Nothing can follow within the word, as it could in a name that is the beginning of
        // another.
        if let ([only], true) = (&mut replacements[..], is_fixed) {
            only.push(' ');
        }
        let pairs = candidates.iter().zip(&replacements);
        let pairs = pairs.map(|(word, replacement)| pair(word, replacement));
        Ok((words.last_start, pairs.collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Hinter for Completion {
    type Hint = String;
}

fn pair(display: &str, replacement: &str) -> Pair {
    Pair {
        display: display.to_owned(),
        replacement: replacement.to_owned(),
    }
}

/// What can stand after `done` where `typed` begins.
fn choice(done: &[String], typed: &str) -> Choice {
    let mut grammar = Line::command();
    grammar.build();
    let Some(verb) = done.first() else {
        return Choice::Fixed(verbs(&grammar));
    };
    let verb = verb_of(verb);
    if verb == "help" {
        return Choice::Fixed(verbs(&grammar));
    }
    let Some(command) = grammar.find_subcommand(verb) else {
        return Choice::Fixed(Vec::new());
    };
    let before = done.last().map(String::as_str).unwrap_or_default();
    let flag = command
        .get_arguments()
        .find(|arg| arg.get_action().takes_values() && is_called(arg, before));
    if let Some(flag) = flag {
        return value_of(flag);
    }
    if typed.starts_with('-') {
        let flags = command.get_arguments().filter_map(Arg::get_long);
        return Choice::Fixed(flags.map(|flag| format!("--{flag}")).collect());
    }
    match command.get_positionals().next() {
        Some(positional) => value_of(positional),
        None => Choice::Fixed(Vec::new()),
    }
}

fn verbs(grammar: &Command) -> Vec<String> {
    grammar
        .get_subcommands()
        .map(Command::get_name)
        .chain(["exit", "quit"])
        .map(str::to_owned)
        .collect()
}

fn is_called(arg: &Arg, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => word
            .strip_prefix('-')
            .is_some_and(|short| arg.get_short().is_some_and(|c| short == c.to_string())),
    }
}

fn value_of(arg: &Arg) -> Choice {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let values = possible.iter().map(|value| value.get_name().to_owned());
        return Choice::Fixed(values.collect());
    }
    match arg.get_id().as_str() {
        "output" | "paths" => Choice::Path,
        "name" | "prefix" => Choice::Name,
        _ => Choice::Fixed(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str) -> Choice {
        let words = Words::of(line);
        choice(&words.done, words.last.as_deref().unwrap_or_default())
    }

    fn offers(line: &str, word: &str) -> bool {
        matches!(after(line), Choice::Fixed(words) if words.iter().any(|w| w == word))
    }

    #[test]
    fn the_grammar_says_what_can_follow() {
        assert!(offers("", "download"));
        assert!(offers("do", "exit"));
        assert!(offers("help ", "search"));
        assert!(offers("download a --", "--if-exists"));
        assert!(offers("status --", "--json"));
        assert!(offers("download a --if-exists ", "rename"));
        assert!(offers("completions ", "bash"));
        assert_eq!(after("download 'my "), Choice::Name);
        assert_eq!(after("1 "), Choice::Name);
        assert_eq!(after("locate x"), Choice::Name);
        assert_eq!(after("list --prefix x"), Choice::Name);
        assert_eq!(after("download a -o "), Choice::Path);
        assert_eq!(after("2 x"), Choice::Path);
        assert_eq!(after("nonsense "), Choice::Fixed(Vec::new()));
        assert_eq!(after("peers "), Choice::Fixed(Vec::new()));
    }

    #[test]
    fn after_the_only_verb_that_fits_the_next_word_begins() {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let completion = Completion::new(NameSource(events));
        let history = rustyline::history::MemHistory::new();
        let replacements = |line: &str| -> Vec<String> {
            let context = Context::new(&history);
            let (_, pairs) = completion.complete(line, line.len(), &context).unwrap();
            pairs.into_iter().map(|pair| pair.replacement).collect()
        };
        assert_eq!(replacements("down"), ["download "]);
        assert_eq!(replacements("download a --if-exists ren"), ["rename "]);
        assert_eq!(replacements("loc"), ["locate "]);
        assert_eq!(replacements("log"), ["login", "logout"]);
        assert_eq!(replacements("co"), ["connect", "completions"]);
        assert_eq!(replacements("nonsense"), [""; 0]);
    }
}
