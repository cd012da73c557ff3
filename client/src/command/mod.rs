//! The verbs: each takes its arguments, asks the own peer and prints. Errors go up as
//! [`Failure`]; nobody here decides exit codes.

mod direct;
mod doctor;
mod download;
mod fetch;
mod folder;
mod links;
mod list;
mod locate;
mod overlay;
mod pages;
mod password;
mod peers;
mod search;
mod session;
mod status;
mod tally;
mod upload;
mod walk;

use clap::CommandFactory;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
    output::{self, Output},
    session::Session,
};

/// Does what `command` says.
pub(crate) async fn run(command: &Command, session: &Session, out: &Output) -> Result<(), Failure> {
    match command {
        Command::Download(args) => download::run(args, session, out).await,
        Command::Upload(args) => upload::run(args, session, out).await,
        Command::List(args) => list::run(args, session, out).await,
        Command::Search(args) => search::run(args, session, out).await,
        Command::Locate(args) => locate::run(args, session, out).await,
        Command::Peers => peers::run(session, out).await,
        Command::Connect(args) => links::connect(args, session, out).await,
        Command::Disconnect(args) => links::disconnect(args, session, out).await,
        Command::Fetch(args) => fetch::run(args, session, out).await,
        Command::Overlay => overlay::run(session, out).await,
        Command::Repair => overlay::repair(session, out).await,
        Command::Login(args) => session::login(args, session, out).await,
        Command::Logout => session::logout(session, out).await,
        Command::Status => status::run(session, out).await,
        Command::Doctor => doctor::run(session, out).await,
        Command::Completions(args) => completions(args.shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "client", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script).map_err(output::stdout_failed)
}
