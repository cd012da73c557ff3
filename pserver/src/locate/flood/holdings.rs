//! What this peer answers of itself: straight from its catalogue, so that what is withdrawn is
//! not found from that moment on.

use std::sync::Arc;

use super::{
    core::Holdings,
    limits::PAGE_FILES,
    message::{File, Holder, Subject},
};
use crate::{
    content::{Store, catalogue::Entry},
    locate::overlay::Context,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    holder: Holder,
    store: Arc<Store>,
}

impl Own {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            holder: Holder {
                peer: context.me.peer,
                url: context.me.url.clone(),
                site: context.me.site.clone(),
            },
            store: context.store.clone(),
        }
    }
}

impl Holdings for Own {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn matching(&self, subject: &Subject) -> (Vec<File>, bool) {
        let catalogue = self.store.catalogue();
        match subject {
            Subject::Name(name) => {
                let entry = catalogue.by_name(name);
                (entry.iter().map(|entry| file(entry)).collect(), false)
            }
            Subject::Digest(digest) => {
                let entry = catalogue.by_digest(digest);
                (entry.iter().map(|entry| file(entry)).collect(), false)
            }
            Subject::Everything(page) => {
                let skipped = *page as usize * PAGE_FILES;
                let entries = catalogue.list("", None, skipped + PAGE_FILES + 1);
                let more = entries.len() > skipped + PAGE_FILES;
                let page = entries.iter().skip(skipped).take(PAGE_FILES);
                (page.map(|entry| file(entry)).collect(), more)
            }
        }
    }
}

fn file(entry: &Entry) -> File {
    File {
        name: entry.name.clone(),
        digest: entry.digest,
        size: entry.stamp.size,
        modified_ms: entry.stamp.modified_ms(),
    }
}
