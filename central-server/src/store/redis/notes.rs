//! What is written down about the store as a whole.

use vecino_rest::Digest;

use super::{RedisStore, cluster::scripts, keys};
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
}
