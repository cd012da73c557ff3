//! The thread on which this peer talks to its locators: connections, and the streams on them.
//!
//! On a runtime of several threads each message would wake one thread for the connection and
//! another for the stream. Here it wakes one, whichever worker of the web server asked.

use std::{io, thread};

use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
};

/// The thread, until this is dropped.
#[derive(Debug)]
pub struct Wire {
    runtime: Handle,
    _until_dropped: oneshot::Sender<()>,
}

impl Wire {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (until_dropped, dropped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("locators".to_owned())
            .spawn(move || {
                // Nothing is ever sent: it ends when the sender does.
                let _ = runtime.block_on(dropped);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            _until_dropped: until_dropped,
        })
    }

    /// What `make` makes: the tasks that it starts run on the thread.
    pub fn make<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.enter();
        make()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_run_on_its_thread_until_it_is_dropped() {
        let wire = Wire::start().expect("a thread");
        let name = || thread::current().name().map(str::to_owned);
        let task = wire.make(|| tokio::spawn(async move { name() }));
        assert_eq!(task.await.expect("it ran").as_deref(), Some("locators"));
        let endless = wire.make(|| tokio::spawn(std::future::pending::<()>()));
        drop(wire);
        let ended = endless.await.expect_err("it has no end of its own");
        assert!(ended.is_cancelled());
    }
}
