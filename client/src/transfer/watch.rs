//! [`Watch`]: what the own peer tells of a download while it runs: from whom it takes the pieces.
//!
//! Invariant: it neither delays nor fails the download that it watches; it talks to the own peer
//! only, and not at all unless somebody looks.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;
use vecino_rest::{Digest, body::DownloadState, event::Transfer};

use crate::{api::Api, output, progress::Progress};

/// Looks at one download.
pub(crate) struct Watch<'a> {
    api: &'a Api,
    progress: &'a Progress,
    digest: Cell<Option<Digest>>,
    known: Notify,
    last: RefCell<Option<Transfer>>,
}

impl<'a> Watch<'a> {
    /// Asks for nothing before the content is known.
    pub(crate) fn new(api: &'a Api, progress: &'a Progress) -> Self {
        Self {
            api,
            progress,
            digest: Cell::new(None),
            known: Notify::new(),
            last: RefCell::new(None),
        }
    }

    /// This is the content.
    pub(crate) fn know(&self, digest: Digest) {
        if self.digest.replace(Some(digest)).is_none() {
            self.known.notify_one();
        }
    }

    /// Watches until it is done, or until nothing more is told.
    pub(crate) async fn run(&self) {
        self.known.notified().await;
        let Some(digest) = self.digest.get() else {
            return;
        };
        let mut events = match self.api.events(&digest).await {
            Ok(events) => events,
            Err(error) => return log::info!("no events: {error}"),
        };
        while let Some(transfer) = events.next().await {
            if transfer.digest != digest {
                continue;
            }
            self.progress.tell(told(&transfer));
            let is_done = transfer.state == DownloadState::Done;
            *self.last.borrow_mut() = Some(transfer);
            if is_done {
                return;
            }
        }
    }

    /// Whether something was told, and the end not yet.
    pub(crate) fn is_in_the_middle(&self) -> bool {
        let last = self.last.borrow();
        last.as_ref()
            .is_some_and(|transfer| transfer.state != DownloadState::Done)
    }

    /// What was told last.
    pub(crate) fn into_last(self) -> Option<Transfer> {
        self.last.into_inner()
    }
}

/// What a bar says of it.
fn told(transfer: &Transfer) -> String {
    let active = transfer.providers.iter().filter(|one| one.active).count();
    let mut text = format!(", providers {active}/{}", transfer.providers_known);
    if transfer.wasted_bytes > 0 {
        text.push_str(&format!(", {} wasted", output::size(transfer.wasted_bytes)));
    }
    text
}

#[cfg(test)]
mod tests {
    use vecino_rest::{Name, event::TransferProvider};

    use super::*;

    #[test]
    fn a_bar_says_who_sends_and_what_was_in_vain() {
        let provider = |active| TransferProvider {
            url: "http://10.0.0.1:80".to_owned(),
            pieces: 1,
            active,
            fault: None,
        };
        let mut transfer = Transfer {
            name: Name::parse("a").unwrap(),
            digest: Digest::of(b"a"),
            size: 9,
            state: DownloadState::Running,
            verified_bytes: 0,
            wasted_bytes: 0,
            bytes_a_second: 0,
            providers_known: 5,
            providers: vec![provider(true), provider(false), provider(true)],
            error: None,
        };
        assert_eq!(told(&transfer), ", providers 2/5");
        transfer.wasted_bytes = 2048;
        assert_eq!(told(&transfer), ", providers 2/5, 2.00 KiB wasted");
    }
}
