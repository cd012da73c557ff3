//! Copies that other peers ask this one to hold, on their way in.
//!
//! Invariant: a copy is hashed as it is written and gets its name only when it is what its digest
//! says; one that is not, or breaks off, leaves nothing. Each content comes in once at a time under
//! a name, at most [`MAX_INCOMING`] do at once, and what they take together there was room for.
//! What is held under another name is copied from there, within the same bounds.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::unix::fs::FileExt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use tokio::task::spawn_blocking;
use vecino_rest::{Digest, Name, body::Origin, piece::Layout};

use super::{
    Store, StoreError, Upload, catalogue::Entry, keep::with_digest, read::OpenFile,
    refuse_unshared, small::time_of, verify::PieceHashes,
};

/// Copies that come in at the same time.
pub const MAX_INCOMING: usize = 32;
/// Of one address.
const MAX_INCOMING_OF_ONE: usize = 8;

/// Why a copy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Enough come in already.
    #[error("as many copies as this peer takes at once are coming in already")]
    Busy,
    /// The same content comes in under the same name from somebody else.
    #[error("a copy of {0} is coming in as {1:?} already")]
    ComingIn(Digest, Name),
    /// Not enough room.
    #[error(
        "the copy has {size} bytes, and this peer has room for {free}: {} are missing",
        size.saturating_sub(*free)
    )]
    NoRoom {
        /// Bytes of the copy.
        size: u64,
        /// Bytes that there is room for.
        free: u64,
    },
    /// More than any content has.
    #[error("{0} bytes are more than a content may have")]
    TooLarge(u64),
    /// It is something else.
    #[error("the body is not {wanted}: {came}")]
    Wrong {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        came: String,
    },
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is coming in: its size, and who sends it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    copies: Mutex<HashMap<(Digest, Name), (u64, IpAddr)>>,
}

impl Incoming {
    /// Admits a copy where `free` bytes are free, those that are coming in not taken off.
    fn admit(
        self: &Arc<Self>,
        (digest, name): (Digest, &Name),
        size: u64,
        free: u64,
        from: IpAddr,
    ) -> Result<Admitted, ReplicaError> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let what = (digest, name.clone());
        if copies.contains_key(&what) {
            return Err(ReplicaError::ComingIn(what.0, what.1));
        }
        let own = copies.values().filter(|(_, by)| *by == from).count();
        if copies.len() >= MAX_INCOMING || own >= MAX_INCOMING_OF_ONE {
            return Err(ReplicaError::Busy);
        }
        // What they have written already is taken off twice: rather too little than too much.
        let coming: u64 = copies.values().map(|(size, _)| size).sum();
        let free = free.saturating_sub(coming);
        if size > free {
            return Err(ReplicaError::NoRoom { size, free });
        }
        copies.insert(what.clone(), (size, from));
        Ok(Admitted {
            incoming: self.clone(),
            what,
        })
    }
}

/// Counts as coming in until dropped.
#[derive(Debug)]
struct Admitted {
    incoming: Arc<Incoming>,
    what: (Digest, Name),
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let copies = self.incoming.copies.lock();
        copies
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.what);
    }
}

/// A copy on its way in; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Replica {
    store: Arc<Store>,
    name: Name,
    digest: Digest,
    hashes: PieceHashes,
    upload: Upload,
    _admitted: Admitted,
}

impl Store {
    /// Takes a copy of `size` bytes `from` somebody, which is to be kept as `name`.
    pub async fn begin_replica(
        self: &Arc<Self>,
        name: Name,
        digest: Digest,
        size: u64,
        from: IpAddr,
    ) -> Result<Replica, ReplicaError> {
        refuse_unshared(&name)?;
        let layout = Layout::of(size).ok_or(ReplicaError::TooLarge(size))?;
        let free = self.free_bytes(Origin::Fetched);
        let admitted = self.incoming.admit((digest, &name), size, free, from)?;
        Ok(Replica {
            upload: self.begin_upload().await?,
            store: self.clone(),
            name,
            digest,
            hashes: PieceHashes::new(layout),
            _admitted: admitted,
        })
    }

    /// Keeps what is held under another name as `name` too, for somebody.
    pub async fn copy_held(
        self: &Arc<Self>,
        held: OpenFile,
        name: Name,
        from: IpAddr,
    ) -> Result<Arc<Entry>, ReplicaError> {
        let entry = held.entry().clone();
        let size = entry.stamp.size;
        let mut replica = self
            .begin_replica(name.clone(), entry.digest, size, from)
            .await?;
        // Another copy may have come to its end just before.
        if let Some(kept) = self.held_as(&name, &entry.digest) {
            return Ok(kept);
        }
        let mut bytes = pin!(held.stream(0..size));
        while let Some(block) = bytes.next().await {
            let block = block.map_err(StoreError::io("what is held cannot be copied"))?;
            let write = move || replica.write(&block).map(|()| replica);
            let written = spawn_blocking(write).await;
            replica = written.map_err(|_| StoreError::Interrupted)??;
        }
        let modified = time_of(entry.stamp.modified_ms());
        let set = replica.upload.file.set_modified(modified);
        set.map_err(StoreError::io("copy cannot be written"))?;
        replica.keep().await
    }

    /// What is held of a content under `name`, or as what is kept where that is taken.
    pub fn held_as(&self, name: &Name, digest: &Digest) -> Option<Arc<Entry>> {
        let other = with_digest(name, digest);
        let mut names = std::iter::once(name).chain(&other);
        names.find_map(|name| self.catalogue().by_name_and_digest(name, digest))
    }
}

impl Replica {
    /// Writes and hashes the next bytes. Blocks.
    pub fn write(&mut self, block: &[u8]) -> Result<(), ReplicaError> {
        let at = self.hashes.bytes();
        let written = self.upload.file.write_all_at(block, at);
        written.map_err(StoreError::io("copy cannot be written"))?;
        if !self.hashes.update(block) {
            return Err(self.wrong("it is longer than it was said to be"));
        }
        Ok(())
    }

    /// Keeps the copy under its name, when it is what it should be.
    pub async fn keep(self) -> Result<Arc<Entry>, ReplicaError> {
        spawn_blocking(|| self.verified())
            .await
            .map_err(|_| StoreError::Interrupted)?
    }

    fn wrong(&self, came: impl Into<String>) -> ReplicaError {
        ReplicaError::Wrong {
            wanted: self.digest,
            came: came.into(),
        }
    }

    fn verified(mut self) -> Result<Arc<Entry>, ReplicaError> {
        let hashed = self.hashes.finish();
        let Some((digest, pieces)) = hashed else {
            return Err(self.wrong("it ended too early"));
        };
        if digest != self.digest {
            return Err(self.wrong(format!("its digest is {digest}")));
        }
        let synced = self.upload.file.sync_all();
        synced.map_err(StoreError::io("copy cannot be written"))?;
        let pieces = (pieces.len() > 1).then(|| pieces.into());
        let path = &self.upload.path;
        let kept = self.store.keep_file(path, self.name, digest, pieces)?.0;
        Ok(Arc::new(kept))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn digest(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn copies_come_in_once_each_some_at_a_time_and_only_where_there_is_room() {
        let incoming = Arc::new(Incoming::default());
        let name: Name = "a".parse().expect("valid");
        let what = |number| (digest(number), &name);
        let first = incoming.admit(what(0), 40, 100, FROM).expect("admitted");
        let again = incoming.admit(what(0), 1, 100, FROM);
        assert!(matches!(again, Err(ReplicaError::ComingIn(..))));
        let other = "b".parse().expect("valid");
        let as_other = incoming.admit((digest(0), &other), 40, 100, FROM);
        drop(as_other.expect("another name is another copy"));
        let second = incoming.admit(what(1), 61, 100, FROM).expect_err("no room");
        let told = "the copy has 61 bytes, and this peer has room for 60: 1 are missing";
        assert_eq!(second.to_string(), told);
        let second = incoming.admit(what(1), 60, 100, FROM).expect("admitted");
        drop((first, second));
        let from = |number: usize| {
            let last = u8::try_from(number / MAX_INCOMING_OF_ONE).expect("few");
            IpAddr::from([10, 0, 0, last])
        };
        let many: Vec<_> = (0..MAX_INCOMING)
            .map(|number| incoming.admit(what(number), 1, 100, from(number)))
            .map(|admitted| admitted.expect("admitted"))
            .collect();
        let more = incoming.admit(what(99), 1, 100, FROM);
        assert!(matches!(more, Err(ReplicaError::Busy)));
        drop(many);
        let of_one: Vec<_> = (0..MAX_INCOMING_OF_ONE)
            .map(|number| incoming.admit(what(number), 1, 100, FROM))
            .map(|admitted| admitted.expect("admitted"))
            .collect();
        let more = incoming.admit(what(99), 1, 100, FROM);
        assert!(matches!(more, Err(ReplicaError::Busy)), "of one");
        assert!(incoming.admit(what(99), 1, 100, from(0)).is_ok());
        let many = of_one;
        drop(many);
        assert!(incoming.admit(what(99), 100, 100, FROM).is_ok());
    }
}
