//! The `pserver` binary: arguments, settings, logging, signals.

use std::{process::ExitCode, time::Duration};

use pserver::{Config, Server, config::VARIABLES, server::ServerError};
use tokio::signal::unix::{SignalKind, signal};

/// Settings or arguments that cannot be used.
const USAGE: u8 = 2;

fn help() -> String {
    let mut help = String::from(
        "pserver: a Vecino peer\n\nUsage: pserver [--help | --version | --print-config]\n\n\
         Settings come from the environment; a .env file in the working directory fills what is unset.\n\n",
    );
    for (name, default, meaning) in VARIABLES {
        help += &format!("  {name:<15} {meaning} [default: {default}]\n");
    }
    help
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let print_config = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--print-config"] => true,
        ["--help" | "-h"] => return say(&help()),
        ["--version" | "-V"] => return say(concat!("pserver ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => {
            return fail(
                USAGE,
                &format!("unknown arguments {arguments:?}: see pserver --help"),
            );
        }
    };
    let config = match Config::from_env() {
        Ok(config) if print_config => return say(&config.print()),
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    env_logger::Builder::from_default_env()
        .parse_filters(&config.log_filter)
        .format_timestamp_millis()
        .init();
    pserver::open_files::raise_limit();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let is_setting = error.downcast_ref().is_some_and(ServerError::is_setting);
            // Each error here says its cause itself.
            fail(if is_setting { USAGE } else { 1 }, &error.to_string())
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(serve(config));
    // A file that is being hashed is no reason to stay.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut server = Server::bind(config).await?;
    tokio::select! {
        ended = server.join() => return Ok(ended?),
        _ = term.recv() => log::info!("SIGTERM: shutting down"),
        _ = int.recv() => log::info!("SIGINT: shutting down"),
    }
    server.shutdown().await;
    Ok(())
}

fn say(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("pserver: {message}");
    ExitCode::from(code)
}
