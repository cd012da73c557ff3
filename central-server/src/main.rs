//! The locator's process: arguments, configuration, logging, signals.

use std::process::ExitCode;

use anyhow::Context as _;
use central_server::{Config, Server, ServerError, config};
use tokio::signal::unix::{SignalKind, signal};

/// Settings or arguments that cannot be used.
const USAGE: u8 = 2;

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
        Some(other) => return fail(USAGE, &format!("unknown argument {other:?}: see --help")),
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    if argument.is_some() {
        print!("{config}");
        return ExitCode::SUCCESS;
    }
    env_logger::Builder::from_default_env()
        .parse_filters(&config.log_filter)
        .format_timestamp_millis()
        .init();
    central_server::open_files::raise_limit();
    match run(config) {
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
