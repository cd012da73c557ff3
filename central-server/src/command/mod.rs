//! The operator's commands. Each works on the running locator through its control socket, and on
//! the store itself where none runs.

mod account;
mod files;
mod password;
mod place;
mod show;

use crate::{cli::Command, config::Config};

/// Does what `command` says about the locator of `config`.
pub async fn run(command: Command, config: &Config) -> anyhow::Result<()> {
    match command {
        Command::Status(shown) => show::status(config, shown.json).await,
        Command::Peers(shown) => show::peers(config, shown.json).await,
        Command::Account(verb) => account::run(verb, config).await,
        Command::Export(file) => files::export(config, &file.file).await,
        Command::Import(file) => files::import(config, &file.file).await,
        Command::Backup(file) => files::backup(config, &file.file).await,
    }
}
