//! The locator's process: arguments, configuration, logging, signals.

use std::process::ExitCode;

use anyhow::Context as _;
use central_server::{Config, Server, ServerError, cli::Cli, command};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

/// Settings or arguments that cannot be used.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    if cli.print_config {
        print!("{config}");
        return ExitCode::SUCCESS;
    }
    env_logger::Builder::from_default_env()
        // Hundreds of lines a second while a node is down, of which the store says what matters.
        .filter_module("redis", log::LevelFilter::Error)
        .parse_filters(&config.log_filter)
        .format_timestamp_millis()
        .init();
    let done = match cli.command {
        Some(command) => command::run(command, &config).await,
        None => run(config).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whatever is logged, why it ended is said.
        Err(error) => {
            let is_setting = error.downcast_ref().is_some_and(ServerError::is_setting);
            fail(if is_setting { USAGE } else { 1 }, &format!("{error:#}"))
        }
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("central-server: {message}");
    ExitCode::from(code)
}

async fn run(config: Config) -> anyhow::Result<()> {
    central_server::open_files::raise_limit();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    // Until it serves nothing is to be ended in order: what was begun in the store is undone when it
    // is opened the next time, and may take minutes to come to its end.
    let mut server = tokio::select! {
        bound = Server::bind(config) => bound?,
        _ = terminate.recv() => std::process::exit(0),
        _ = interrupt.recv() => std::process::exit(0),
    };
    tokio::select! {
        ended = server.join() => return Ok(ended?),
        _ = terminate.recv() => log::info!("SIGTERM: shutting down"),
        _ = interrupt.recv() => log::info!("SIGINT: shutting down"),
    }
    Ok(server.shutdown().await?)
}
