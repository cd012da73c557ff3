//! What can be said to the client: one enum of verbs for the command line and for the loop.
//!
//! Names and digests are parsed here; no command sees raw text for them.

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint, value_parser};
use vecino_rest::{Digest, Name, UserName, name::InvalidName};

use crate::{config, peer_ref::PeerRef, transfer::limit::Rate};

/// Moves files between machines, through your own peer.
///
/// Without a command it is a loop that reads commands.
#[derive(Debug, Parser)]
#[command(name = "client", version, after_help = config::HELP)]
pub(crate) struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) globals: Globals,

    /// Print the settings in use and end
    #[arg(long)]
    pub(crate) print_config: bool,

    /// What to do; the loop without it.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// A line of the loop: the same verbs.
///
/// Names with spaces go in quotes: download 'my file.txt'
#[derive(Debug, Parser)]
#[command(
    name = "",
    override_usage = "COMMAND [ARGUMENTS]",
    no_binary_name = true,
    disable_version_flag = true,
    after_help = "Numbers: 1 is download, 2 is upload, 0 ends. `exit`, `quit` and Ctrl-D end, too. \
                  `?` is help. After a number, a name or path with spaces needs no quotes as long \
                  as no option follows."
)]
pub(crate) struct Line {
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) globals: Globals,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every verb.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Globals {
    /// Print JSON, one value a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print results, warnings and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Download a file, or all files of a folder; run again, it resumes
    Download(DownloadArgs),
    /// Share files, or all files of folders, on your own peer
    Upload(UploadArgs),
    /// List what your own peer holds, or what it found in the network
    List(ListArgs),
    /// Search names in the network
    Search(SearchArgs),
    /// Show who holds a file, and its variants
    Locate(LocateArgs),
    /// Show the neighbours and links of your own peer
    Peers,
    /// Link your own peer with another one, in the flood overlay
    Connect(ConnectArgs),
    /// End a link of your own peer, at both ends
    Disconnect(DisconnectArgs),
    /// Find out what other peers share; `search` and `list --network` know it then
    Fetch(FetchArgs),
    /// Show the overlays that your own peer is part of
    Overlay,
    /// Have your own peer bring its overlays in order now
    Repair,
    /// Log your own peer in to a network that asks for it
    Login(LoginArgs),
    /// Log your own peer out: what it shares leaves the network at once
    Logout,
    /// Show how your own peer does
    Status,
    /// Find out what is wrong, and what to do: here, at your own peer and around it
    Doctor,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `download`.
#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// Name of the file in the network; NAME/ means all files below it
    pub(crate) name: Wish,

    /// Save as this file, or into this folder; `-` is standard output, and a device or a pipe is
    /// written into [default: the last part of NAME, here]
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,

    /// Take the variant with this BLAKE3 digest
    #[arg(long)]
    pub(crate) digest: Option<Digest>,

    /// Take it only from this peer: its host:port, or its id of 32 hex digits; `locate` shows both
    #[arg(long, value_name = "PEER")]
    pub(crate) from: Option<PeerRef>,

    /// Ask your own peer only where the file is, and fetch it from there. It is checked when all
    /// of it is here: with `-o -`, what comes before is written unchecked
    #[arg(long, conflicts_with = "from")]
    pub(crate) direct: bool,

    /// What to do when the target exists; a file of a folder that is there already, whole and the
    /// same, is always left as it is
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub(crate) if_exists: IfExists,

    /// Take no more than so many bytes a second, over all files; K, M and G may follow the number
    #[arg(long, value_name = "RATE")]
    pub(crate) limit: Option<Rate>,
}

/// What to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The file of this name.
    File(Name),
    /// All files whose names are below this one.
    Folder(Name),
}

impl FromStr for Wish {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.strip_suffix('/') {
            Some(folder) => Name::parse(folder).map(Self::Folder),
            None => Name::parse(text).map(Self::File),
        }
    }
}

/// What to do when a download's target exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum IfExists {
    /// Fail with exit code 9
    #[default]
    Error,
    /// Leave it as it is, with exit code 0
    Skip,
    /// Save as `NAME (1).ext`
    Rename,
    /// Replace it, once the new one is whole; only a regular file is replaced
    Overwrite,
}

/// `upload`.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Files and folders; a folder shares its files as FOLDER/...
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    /// Share it under this name (one PATH only)
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<Name>,

    /// Replace another content that your own peer shares under the name
    #[arg(long)]
    pub(crate) replace: bool,

    /// How many other peers are to hold a copy, 0 to 16 [default: 1, where there is one]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(0..=16))]
    pub(crate) replicas: Option<u32>,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only names that begin with this
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,

    /// How many at most [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,

    /// List what `fetch` found that other peers share
    #[arg(long)]
    pub(crate) network: bool,
}

/// `connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Where the other peer's overlay listens, host:OVERLAY_PORT; its `overlay` says it
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) url: String,
}

/// `disconnect`.
#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// The other peer: its id, or its URL, as `peers` shows them
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) peer: String,
}

/// `fetch`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// How many links deep to ask [default: 4]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=5))]
    pub(crate) ttl: Option<u32>,

    /// How many seconds to wait at most [default: 5]
    #[arg(long, value_name = "S", value_parser = value_parser!(u32).range(1..=60))]
    pub(crate) wait: Option<u32>,
}

/// `search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Words, each the beginning of a word of the name
    #[arg(value_name = "TEXT")]
    pub(crate) words: Vec<String>,

    /// An extension without dot, or music, video, image, document, archive, code; may stand alone
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    pub(crate) file_type: Option<String>,

    /// How many at most [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// `locate`.
#[derive(Debug, Args)]
pub(crate) struct LocateArgs {
    /// Name of the file in the network
    pub(crate) name: Name,
}

/// `login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The name of the account; asked for without it
    pub(crate) user: Option<UserName>,

    /// The password is the first line of this file; asked for without it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
}

/// `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `words` as the grammar takes them: `help` has no flags of its own, so that those of every verb
/// are left out after it. `words` are without the name of the program.
pub(crate) fn without_flags_of_help(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_flag = |word: &OsString| {
        let flags = ["-h", "--help", "-q", "--quiet", "--json"];
        flags.iter().any(|flag| word == flag)
    };
    if words
        .iter()
        .find(|word| !is_flag(word))
        .is_some_and(|verb| verb == "help")
    {
        words.retain(|word| !is_flag(word));
    }
    words
}

/// Longest extension, in bytes: a part of a name.
const MAX_TYPE: usize = 255;

/// Takes what can be the end of a name.
fn file_type(text: &str) -> Result<String, String> {
    let part_of_a_name = |c: char| !c.is_control() && !matches!(c, '.' | '/' | '\\');
    let fits = !text.trim().is_empty() && text.len() <= MAX_TYPE;
    if fits && text.chars().all(part_of_a_name) {
        return Ok(text.to_owned());
    }
    Err(
        "expected an extension without dot, or music, video, image, document, archive or code"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn both_grammars_are_sound() {
        Cli::command().debug_assert();
        Line::command().debug_assert();
    }

    #[test]
    fn the_loop_reads_what_the_command_line_reads() {
        let words = ["download", "a b.txt", "--if-exists", "rename", "--json"];
        let line = Line::try_parse_from(words).unwrap();
        let Command::Download(args) = line.command else {
            panic!("another verb");
        };
        assert!(line.globals.json);
        assert_eq!(args.name, Wish::File(Name::parse("a b.txt").unwrap()));
        assert_eq!(args.if_exists, IfExists::Rename);
    }

    #[test]
    fn a_slash_at_the_end_means_a_folder() {
        let folder = Wish::Folder(Name::parse("a/b").unwrap());
        assert_eq!("a/b/".parse(), Ok(folder));
        assert!("/".parse::<Wish>().is_err());
        assert!("a//".parse::<Wish>().is_err());
    }

    #[test]
    fn help_takes_the_flags_of_every_verb() {
        for words in [
            &["help", "--help"][..],
            &["help", "--json"],
            &["--json", "help", "search", "-q"],
            &["help"],
        ] {
            let words = words.iter().map(OsString::from).collect();
            let words = [OsString::from("client")]
                .into_iter()
                .chain(without_flags_of_help(words));
            let help = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
        }
        let words = ["search", "help", "--json"].map(OsString::from).to_vec();
        assert_eq!(without_flags_of_help(words.clone()), words);
    }

    #[test]
    fn wrong_words_are_refused() {
        for words in [
            &["download"][..],
            &["download", "../x"],
            &["download", "a", "--digest", "12"],
            &["download", "a", "--direct", "--from", "b"],
            &["download", "a", "--from", ""],
            &["download", "a", "--from", "somebody"],
            &["download", "a", "--limit", "0"],
            &["download", "a", "--limit", "fast"],
            &["search", "a", "--type", ""],
            &["search", "--type", ".txt"],
            &["list", "--limit", "0"],
            &["fetch", "--ttl", "6"],
            &["fetch", "--wait", "0"],
            &["connect"],
            &["login", ""],
            &["login", "ana", "password"],
            &["disconnect", ""],
            &["dowload", "a"],
        ] {
            assert!(Line::try_parse_from(words).is_err(), "{words:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_words_make_the_grammar_panic(words in proptest::collection::vec("\\PC{0,12}|--[a-z]{1,6}", 0..6)) {
            let _ = Line::try_parse_from(words);
        }
    }
}
