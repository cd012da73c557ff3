//! What can be said to the program: arguments, parsed once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use vecino_rest::UserName;

use crate::config;

/// The locator of Vecino: a directory of which peer holds what, over gRPC.
///
/// Without a command it is the locator. The commands are about the store that STORE_URL names:
/// they ask the locator that runs on it, and open it themselves where none does.
#[derive(Debug, Parser)]
#[command(name = "central-server", version, after_help = config::help())]
pub struct Cli {
    /// Print the settings in use and end
    #[arg(long)]
    pub print_config: bool,

    /// What to do; the locator without it.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how the locator does: peers, records, leases, queue, size of the store
    Status(Shown),
    /// List the peers that the locator knows
    Peers(Shown),
    /// Make, change, remove and list accounts
    #[command(subcommand)]
    Account(Account),
    /// Write peers, records and accounts into a new file, as JSON lines; `-` is standard output
    Export(File),
    /// Read an exported file into a store that is empty and that no locator runs on
    Import(File),
    /// Copy the store into a new file, while it is served or not
    Backup(File),
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct Shown {
    /// Print JSON, one value a line
    #[arg(long)]
    pub json: bool,
}

/// A file of this machine.
#[derive(Debug, Args)]
pub struct File {
    /// Its path
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// `account`.
#[derive(Debug, Subcommand)]
pub enum Account {
    /// Make an account
    Add(Password),
    /// Change the password of an account; its peers have to log in again
    Passwd(Password),
    /// Remove an account; its peers are out at once
    Remove {
        /// Whose
        user: UserName,
    },
    /// List the accounts
    List(Shown),
}

/// A user and where the password is.
#[derive(Debug, Args)]
pub struct Password {
    /// 1 to 64 bytes of printable characters
    pub user: UserName,

    /// The password is the first line of this file [default: of standard input]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound_and_knows_no_password() {
        Cli::command().debug_assert();
        let words = ["central-server", "account", "add", "ana", "secret"];
        assert!(Cli::try_parse_from(words).is_err());
        for user in ["", " a", "a\u{7}"] {
            let words = ["central-server", "account", "remove", user];
            let error = Cli::try_parse_from(words).expect_err("invalid");
            assert!(error.to_string().contains("1 to 64 bytes"), "{error}");
        }
        assert!(Cli::try_parse_from(["central-server"]).is_ok());
    }
}
