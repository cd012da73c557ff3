//! Locators that share a directory need the same `ACCOUNTS`: what one lets in, all of them serve, and
//! what one ends as not admitted is gone at all of them.
//!
//! Each says with which it runs for as long as it runs. So another value is for when none of the
//! others runs any more; nothing is left to be changed in the store.

use std::{sync::Arc, time::Duration};

use super::{Accounts, Policy};
use crate::store::StoreError;

/// What a locator said holds for so long: one that was killed counts as running until then.
const LASTING: Duration = Duration::from_secs(30);
/// It is said again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Another locator runs with other accounts, or that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum Disagreement {
    /// It does.
    #[error(
        "ACCOUNTS={ours}: another locator of this directory runs with ACCOUNTS={theirs}, and all need \
         the same; to change it, end them all first (one that was killed counts as running for {} \
         seconds)",
        LASTING.as_secs()
    )]
    Other {
        /// Of this locator.
        ours: Policy,
        /// Of another one.
        theirs: String,
    },
    /// The store failed.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
}

impl Accounts {
    /// Says with which accounts this locator runs, unless another one runs with others. Before
    /// anything is done by them.
    pub async fn agree(&self) -> Result<(), Disagreement> {
        let Some(sharing) = self.store.sharing() else {
            return Ok(());
        };
        let said = sharing.run_with(&self.policy.to_string(), LASTING).await?;
        said.map_or(Ok(()), |theirs| {
            Err(Disagreement::Other {
                ours: self.policy,
                theirs,
            })
        })
    }
}

/// Says it again and again, until it is aborted.
pub async fn keep(accounts: Arc<Accounts>) {
    if accounts.store.sharing().is_none() {
        return;
    }
    loop {
        tokio::time::sleep(AGAIN_AFTER).await;
        match accounts.agree().await {
            Ok(()) => {}
            // This locator stood still or was cut off meanwhile.
            Err(disagreement @ Disagreement::Other { .. }) => log::error!("{disagreement}"),
            Err(Disagreement::Store(error)) => {
                log::debug!("the other locators were not told of ACCOUNTS: {error}");
            }
        }
    }
}
