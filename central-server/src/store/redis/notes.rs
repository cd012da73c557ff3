//! What is written down about the store as a whole.

use std::time::Duration;

use vecino_rest::Digest;

use super::{RedisStore, cluster::scripts, keys, peers::number};
use crate::store::StoreError;

/// The checksum of the export that is being imported.
const IMPORTING: &str = "importing";

impl RedisStore {
    pub(super) async fn imported_export(&self) -> Result<Option<Digest>, StoreError> {
        let key = format!("{}:{IMPORTING}", keys::store_id(&self.namespace));
        let export: Option<Vec<u8>> = self.cluster.call(redis::cmd("GET").arg(key)).await?;
        let digest = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map(Digest::from_bytes);
        let export = export.map(digest).transpose();
        export.map_err(|_| keys::foreign("an import"))
    }

    pub(super) async fn note_import(&self, export: Option<Digest>) -> Result<(), StoreError> {
        let store = keys::store_id(&self.namespace);
        let export = export.map_or_else(Vec::new, |export| export.as_bytes().to_vec());
        let arguments = [IMPORTING.as_bytes().to_vec(), export];
        let noted = self.cluster.run_surely(&scripts().note, &store, &arguments);
        noted.await.map(drop)
    }

    /// See [`Sharing::run_with`](crate::store::Sharing::run_with).
    pub(super) async fn say_accounts(
        &self,
        accounts: &str,
        lasting: Duration,
    ) -> Result<Option<String>, StoreError> {
        let store = keys::store_id(&self.namespace);
        let locator: String = self.locator.iter().map(|b| format!("{b:02x}")).collect();
        let arguments = [
            locator.into_bytes(),
            accounts.as_bytes().to_vec(),
            number(lasting.as_millis()),
        ];
        let said = self
            .cluster
            .run(&scripts().say_accounts, &store, &arguments);
        said.await
    }

    /// What this locator said of its accounts does not hold any more.
    pub(super) async fn run_no_more(&self) {
        if let Err(error) = self.say_accounts("", Duration::ZERO).await {
            log::debug!("it will be known in a moment that this locator has ended: {error}");
        }
    }
}
