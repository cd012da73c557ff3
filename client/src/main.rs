//! The terminal client of Vecino: it speaks plain HTTP to its own peer and knows nothing else.
//!
//! Here: arguments, settings, logging, one command or the loop, exit code. Everything else has
//! its module: `cli` (what can be said), `command` (what is done), `repl` (the loop), `api` (the
//! own peer), `transfer` (content on its way to the disk), `output` (what is printed),
//! `exit_code` (what the caller learns).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod cli;
mod command;
mod config;
mod exit_code;
mod failure;
mod output;
mod peer_ref;
mod progress;
mod repl;
mod session;
mod signals;
mod transfer;

use clap::{CommandFactory, FromArgMatches};

use crate::{cli::Cli, config::Config, exit_code::ExitCode, output::Output, session::Session};

fn main() {
    let system = actix_rt::System::new();
    let code = system.block_on(run());
    // Not a return, and before `system` goes: a thread that waits for the terminal or for a full
    // pipe must not hold us. For the same reason nothing is flushed here: lines are when they end.
    std::process::exit(code.into());
}

async fn run() -> ExitCode {
    let loaded = Config::load();
    let color = loaded.as_ref().is_ok_and(|config| config.color);
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let words = cli::without_flags_of_help(arguments.collect());
    let json = output::wants_json(&words);
    let parsed = Cli::command()
        .color(output::clap_color(color))
        .try_get_matches_from(program.into_iter().chain(words))
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return output::clap_message(&error, json, color, "--help"),
    };
    let out = Output::new(cli.globals, color);
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return out.failure(&error.into()),
    };
    output::start_log(&config);
    if cli.print_config {
        return out.finish(out.text(&config.to_string()));
    }
    let session = match Session::new(config) {
        Ok(session) => session,
        Err(failure) => return out.failure(&failure),
    };
    match cli.command {
        Some(command) => session.run_once(&command, &out).await,
        None => repl::run(&session, &out).await,
    }
}
