//! Everything that is printed: data on standard output, all else on standard error.
//!
//! Invariant: text from outside is printed through [`clean`], JSON through [`to_json`]; neither
//! lets a character through that could move a cursor or make a line look like another.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
};

use clap::{
    ColorChoice,
    error::{ContextKind, ContextValue, ErrorKind},
};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use vecino_rest::body::Variant;

use crate::{
    cli::Globals, config::Config, exit_code::ExitCode, failure::Failure, progress::Progress,
};

/// Longest text from outside that is printed, in characters.
const MAX_SHOWN: usize = 2000;

/// Who prints, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    globals: Globals,
    color: bool,
}

impl Output {
    /// Prints as `globals` say; `color` where colours are allowed.
    pub(crate) fn new(globals: Globals, color: bool) -> Self {
        let color = color && io::stderr().is_terminal();
        Self { globals, color }
    }

    /// The same for a line of the loop, whose flags come on top.
    pub(crate) fn with(&self, line: Globals) -> Self {
        Self {
            globals: Globals {
                json: self.globals.json || line.json,
                quiet: self.globals.quiet || line.quiet,
            },
            color: self.color,
        }
    }

    /// Whether data is JSON.
    pub(crate) fn json(&self) -> bool {
        self.globals.json
    }

    /// Whether colours are allowed.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Data: one JSON value as a line.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&to_json(value))
    }

    /// Data: a line of text that is clean already.
    pub(crate) fn text(&self, line: &str) -> Result<(), Failure> {
        writeln!(io::stdout().lock(), "{line}").map_err(stdout_failed)
    }

    /// Data: a table. Cells are cleaned here.
    pub(crate) fn table(&self, rows: &Rows) -> Result<(), Failure> {
        writeln!(io::stdout().lock(), "{rows}").map_err(stdout_failed)
    }

    /// One JSON value on standard error, where standard output is taken by a content.
    pub(crate) fn aside(&self, value: &impl Serialize) {
        eprint_line(&to_json(value));
    }

    /// What people like to know and programs do not.
    pub(crate) fn note(&self, text: &str) {
        if !self.globals.quiet && !self.globals.json {
            eprint_line(text);
        }
    }

    /// What people like to know before something takes long: on a terminal only.
    pub(crate) fn announce(&self, text: &str) {
        if io::stderr().is_terminal() {
            self.note(text);
        }
    }

    /// What everybody should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.globals.json {
            eprint_line(&to_json(&serde_json::json!({ "warning": text })));
        } else {
            eprint_line(&format!("{} {}", self.paint("33", "warning:"), clean(text)));
        }
    }

    /// Why it failed, and what to do next; the code to end with.
    pub(crate) fn failure(&self, failure: &Failure) -> ExitCode {
        let code = failure.exit_code();
        if matches!(failure, Failure::OutputClosed) {
            return code;
        }
        if self.globals.json {
            eprint_line(&to_json(&problem_of(failure)));
            return code;
        }
        let text = failure.to_string();
        eprint_line(&format!(
            "{} {}",
            self.paint("1;31", "error:"),
            clean(&text)
        ));
        if let Some(problem) = failure.problem() {
            if !problem.variants.is_empty() {
                eprint_line(&variants(&problem.variants).to_string());
            }
            let unsaid = |url: &&String| !text.contains(url.as_str());
            for url in problem.neighbours.iter().filter(unsaid) {
                eprint_line(&format!("  tried {}", clean(url)));
            }
        }
        if let Some(hint) = failure.hint() {
            eprint_line(&format!("{} {}", self.paint("36", "hint:"), clean(&hint)));
        }
        code
    }

    /// The code for how a command ended, after saying so.
    pub(crate) fn finish(&self, result: Result<(), Failure>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::Ok,
            Err(failure) => self.failure(&failure),
        }
    }

    /// A failure as data.
    pub(crate) fn problem(&self, failure: &Failure) -> serde_json::Value {
        problem_of(failure)
    }

    /// Why something failed, as one line among others. With JSON it is said elsewhere.
    pub(crate) fn failed(&self, text: &str) {
        if !self.globals.json {
            eprint_line(&format!("{} {}", self.paint("1;31", "error:"), clean(text)));
        }
    }

    /// A bar, on a terminal only.
    pub(crate) fn progress(&self, label: &str) -> Progress {
        let visible = !self.globals.quiet && !self.globals.json && io::stderr().is_terminal();
        Progress::new(&clean(label), visible)
    }

    fn paint<'a>(&self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m").into()
        } else {
            text.into()
        }
    }
}

/// Rows of a table, with a head.
pub(crate) struct Rows(Table);

impl Rows {
    /// A table without rows.
    pub(crate) fn new(head: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(head);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// One more row; its cells are cleaned.
    pub(crate) fn push(&mut self, cells: &[&str]) {
        self.0.add_row(cells.iter().map(|cell| clean(cell)));
    }

    /// Aligns a column of numbers.
    pub(crate) fn right(mut self, column: usize) -> Self {
        if let Some(column) = self.0.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.lines().collect();
        let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// The variants of a name as a table, with what is needed to pick one.
pub(crate) fn variants(variants: &[Variant]) -> Rows {
    let mut rows = Rows::new(&["DIGEST", "SIZE", "PROVIDERS", "MODIFIED"]);
    for variant in variants {
        rows.push(&[
            &variant
                .digest
                .map_or_else(|| "unknown".to_owned(), |digest| digest.to_string()),
            &variant.size.map_or_else(|| "unknown".to_owned(), size),
            &variant.provider_count.to_string(),
            &variant.modified_ms.map(moment).unwrap_or_default(),
        ]);
    }
    rows
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// `1 file`, `2 files`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// A moment, in milliseconds since 1970, for people: UTC, to the minute.
pub(crate) fn moment(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds).map_or_else(
        |_| "unknown".to_owned(),
        |moment| moment.strftime("%Y-%m-%d %H:%MZ").to_string(),
    )
}

/// Text from outside, safe to print: controls, line separators, bidirectional controls and
/// invisible characters become `\u{..}`, and it ends after [`MAX_SHOWN`] characters.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_SHOWN && !text.contains(is_hostile) {
        return text.into();
    }
    let mut cleaned = String::with_capacity(text.len().min(4 * MAX_SHOWN));
    for (count, c) in text.chars().enumerate() {
        if count == MAX_SHOWN {
            cleaned.push('…');
            break;
        }
        match c {
            '\n' => cleaned.push_str("\\n"),
            '\r' => cleaned.push_str("\\r"),
            '\t' => cleaned.push_str("\\t"),
            c if is_hostile(c) => cleaned.extend(c.escape_unicode()),
            c => cleaned.push(c),
        }
    }
    cleaned.into()
}

/// One line of JSON, with `\u` for every character that [`clean`] would escape.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("our bodies are maps with text keys");
    if !text.contains(is_hostile) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("a String takes everything");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}')
}

fn problem_of(failure: &Failure) -> serde_json::Value {
    let mut problem = match failure.problem() {
        Some(problem) => {
            let mut body =
                serde_json::to_value(problem).expect("a problem is a map with text keys");
            body["detail"] = failure.to_string().into();
            body
        }
        None => serde_json::json!({
            "type": failure.problem_type(),
            "title": failure.to_string(),
            "detail": failure.to_string(),
        }),
    };
    problem["exit_code"] = i32::from(failure.exit_code()).into();
    if let Some(hint) = failure.hint() {
        problem["hint"] = hint.into();
    }
    problem
}

/// Whether clap may use colours.
pub(crate) fn clap_color(allowed: bool) -> ColorChoice {
    if allowed {
        ColorChoice::Auto
    } else {
        ColorChoice::Never
    }
}

/// Whether `words` of the command line ask for JSON, as far as can be told before they are parsed.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    let mut flags = words.iter().take_while(|word| *word != "--");
    flags.any(|word| word == "--json")
}

/// Characters of a word that an error repeats.
const SHOWN: usize = 80;

/// Prints what clap says: help and version are data, the rest is an error of usage. `help` is the
/// word that shows what is accepted.
pub(crate) fn clap_message(error: &clap::Error, json: bool, color: bool, help: &str) -> ExitCode {
    const QUOTES: &str = "put a name with spaces in quotes: 'my file.txt'";
    let quotes_may_help = quotes_may_help(error);
    if json && error.use_stderr() {
        let mut problem = problem_of(&Failure::Usage(what_is_wrong(error)));
        if quotes_may_help {
            problem["hint"] = QUOTES.into();
        }
        eprint_line(&to_json(&problem));
        return ExitCode::Usage;
    }
    if !error.use_stderr() {
        // When it cannot be printed, nobody reads it.
        let _ = error.print();
        return ExitCode::Ok;
    }
    let text = error.render();
    let text = match color && io::stderr().is_terminal() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    let mut text = shortened(error, text);
    if let Some(at) = text.rfind("For more information") {
        let last = text.split_off(at);
        text.push_str(&last.replace("--help", help));
    }
    eprint_line(text.trim_end());
    if quotes_may_help {
        eprint_line(&format!("hint: {QUOTES}"));
    }
    ExitCode::Usage
}

/// `text` of `error`, with no more of a long word than an error repeats.
fn shortened(error: &clap::Error, mut text: String) -> String {
    for (_, value) in error.context() {
        if let ContextValue::String(word) = value
            && let Some((end, _)) = word.char_indices().nth(SHOWN)
        {
            text = text.replace(word, &format!("{}…", &word[..end]));
        }
    }
    text
}

/// What clap says without its title, and without how it is used right.
fn what_is_wrong(error: &clap::Error) -> String {
    let text = shortened(error, error.render().to_string());
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|part| text.find(part))
        .min();
    let text = text[..end.unwrap_or(text.len())].trim();
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

/// Whether there is a word too many after a name.
fn quotes_may_help(error: &clap::Error) -> bool {
    let text = |kind| error.get(kind).map(ToString::to_string);
    error.kind() == ErrorKind::UnknownArgument
        && text(ContextKind::InvalidArg).is_some_and(|word| !word.starts_with('-'))
        && text(ContextKind::Usage).is_some_and(|usage| usage.contains("<NAME>"))
}

/// Starts logging to standard error, as `RUST_LOG` says.
pub(crate) fn start_log(config: &Config) {
    let style = if config.color {
        env_logger::WriteStyle::Auto
    } else {
        env_logger::WriteStyle::Never
    };
    env_logger::Builder::new()
        .parse_filters(&config.log_filter)
        .write_style(style)
        .format(|buffer, record| {
            let text = record.args().to_string();
            writeln!(
                buffer,
                "{} {}: {}",
                record.level(),
                record.target(),
                clean(&text)
            )
        })
        .init();
}

fn eprint_line(text: &str) {
    // There is nowhere left to complain to.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Why standard output did not take something.
pub(crate) fn stdout_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::OutputClosed
    } else {
        Failure::Stream {
            to: "standard output".to_owned(),
            source: error,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_terminal_cannot_be_driven_from_outside() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(clean("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
        assert_eq!(clean("canción 日本"), "canción 日本");
    }

    #[test]
    fn what_is_printed_is_bounded() {
        assert_eq!(
            clean(&"é".repeat(MAX_SHOWN * 2)).chars().count(),
            MAX_SHOWN + 1
        );
    }

    #[test]
    fn moments_are_read_by_people() {
        assert_eq!(moment(0), "1970-01-01 00:00Z");
        assert_eq!(moment(i64::MAX), "unknown");
    }

    proptest! {
        #[test]
        fn nothing_hostile_passes(text in any::<String>()) {
            prop_assert!(!clean(&text).contains(is_hostile));
        }

        #[test]
        fn json_means_the_same_and_has_nothing_hostile(text in any::<String>()) {
            let json = to_json(&text);
            prop_assert!(!json.contains(is_hostile));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
