//! The locator's process: arguments, configuration, logging, signals.

use std::process::ExitCode;

use anyhow::Context as _;
use central_server::{Config, Server, config};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let argument = std::env::args_os()
        .nth(1)
        .map(|argument| argument.display().to_string());
    match argument.as_deref() {
        None | Some("--print-config") => {}
        Some("--help" | "-h") => {
            print!("{}", config::help());
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            println!("central-server {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(other) => return usage(format_args!("unknown argument {other:?}: see --help")),
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return usage(format_args!("{error}")),
    };
    if argument.is_some() {
        print!("{config}");
        return ExitCode::SUCCESS;
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    central_server::open_files::raise_limit();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(message: std::fmt::Arguments<'_>) -> ExitCode {
    eprintln!("central-server: {message}");
    ExitCode::from(2)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let mut server = Server::bind(config).await?;
    tokio::select! {
        ended = server.join() => return Ok(ended?),
        _ = terminate.recv() => log::info!("SIGTERM: shutting down"),
        _ = interrupt.recv() => log::info!("SIGINT: shutting down"),
    }
    Ok(server.shutdown().await?)
}
