//! [`Session`]: what commands share while the program runs: the own peer and the settings. It
//! runs one command at a time, under the signals.

use std::{cell::RefCell, future::Future};

use crate::{
    api::Api,
    cli::Command,
    command,
    config::Config,
    exit_code::ExitCode,
    failure::Failure,
    output::Output,
    signals::{Signals, Stop},
};

/// What commands share.
pub(crate) struct Session {
    /// The own peer.
    pub(crate) api: Api,
    /// What to say about the running command when it is cancelled: how to go on.
    go_on: RefCell<Option<String>>,
}

impl Session {
    /// Nothing is sent yet.
    pub(crate) fn new(config: Config) -> Result<Self, Failure> {
        Ok(Self {
            api: Api::new(config.peer, config.token.map(|(_, token)| token)),
            go_on: RefCell::new(None),
        })
    }

    /// Says how to go on, should the running command be cancelled.
    pub(crate) fn set_go_on(&self, text: Option<String>) {
        *self.go_on.borrow_mut() = text;
    }

    /// Runs the command of the command line.
    pub(crate) async fn run_once(&self, command: &Command, out: &Output) -> ExitCode {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return out.failure(&Failure::disk("signals")(error)),
        };
        match self.supervise(command, out, &mut signals).await {
            Ok(code) => code,
            Err(stop) => stop.exit_code(),
        }
    }

    /// Runs `command` until it ends or a signal does; says in both cases how it ended.
    pub(crate) async fn supervise(
        &self,
        command: &Command,
        out: &Output,
        signals: &mut Signals,
    ) -> Result<ExitCode, Stop> {
        self.set_go_on(None);
        match until_stopped(command::run(command, self, out), signals).await {
            Ok(result) => Ok(out.finish(result)),
            Err(stop) => {
                let text = match self.go_on.borrow_mut().take() {
                    Some(how) => format!("cancelled; {how}"),
                    None => "cancelled".to_owned(),
                };
                out.note(&text);
                Err(stop)
            }
        }
    }
}

/// Drops `work` when a signal comes first.
async fn until_stopped<T>(work: impl Future<Output = T>, signals: &mut Signals) -> Result<T, Stop> {
    tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        done = work => Ok(done),
    }
}
