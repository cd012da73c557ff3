//! Registering, keeping the lease, announcing, deregistering: what a peer does for itself.

use std::net::IpAddr;

use vecino_rest::{PeerId, PeerKey, UserName};

use super::{Directory, Error, check_site, public_url::PublicUrl};
use crate::store::{DirectoryId, Fingerprints, PeerNo, PeerRow, PeerState, Session, TokenHash};

/// Live peers of one network that may claim one URL without being seen at its address.
pub const MAX_CLAIMS_PER_URL: usize = 4;
/// Peers that are expelled in one step.
const EXPELLED_AT_ONCE: usize = 1_024;
/// Live peers at most.
pub const MAX_LIVE_PEERS: usize = 262_144;

/// A lease token: 16 random bytes.
pub type Token = [u8; 16];

/// A peer that begins its lease.
#[derive(Debug)]
pub struct Registration {
    /// Proves its id.
    pub key: PeerKey,
    /// What it says of itself; empty: derived from `observed` and `port`.
    pub public_url: String,
    /// Its REST port.
    pub port: u16,
    /// Label of its place.
    pub site: String,
    /// Its room in bytes.
    pub free_bytes: u64,
    /// From where the locator sees it.
    pub observed: IpAddr,
    /// Directories in which it has a lease already.
    pub registered_in: Vec<DirectoryId>,
}

/// What a peer learns when its lease begins.
#[derive(Debug)]
pub struct Welcome {
    /// Its id.
    pub peer: PeerId,
    /// Needed to announce.
    pub token: Token,
    /// The URL under which it is known.
    pub public_url: String,
    /// What the directory holds for it.
    pub fingerprints: Fingerprints,
    /// The directory, where several locators share it.
    pub directory: Option<DirectoryId>,
}

/// Who may announce: a peer's id and its lease token.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who.
    pub peer: PeerId,
    /// Its token.
    pub token: Token,
}

impl Credentials {
    pub(super) fn token_hash(&self) -> TokenHash {
        hash_of(&self.token)
    }
}

fn hash_of(token: &Token) -> TokenHash {
    blake3::hash(token).into()
}

impl Directory {
    /// The directory in which the peer says to have a lease, at another of its locators, so that it
    /// needs none here. That is no matter of being let in: it tells the peer what it said.
    pub fn elsewhere(&self, registration: &Registration) -> Option<DirectoryId> {
        let directory = self.directory_id();
        directory.filter(|id| registration.registered_in.contains(id))
    }

    /// Begins or begins again the lease of a peer, which was let in with `session` where it needed
    /// one.
    pub async fn register(
        &self,
        registration: Registration,
        session: Option<Session>,
    ) -> Result<Welcome, Error> {
        let Registration {
            key,
            public_url,
            port,
            site,
            free_bytes,
            observed,
            registered_in: _,
        } = registration;
        check_site(&site)?;
        let url = if public_url.is_empty() {
            PublicUrl::derived(observed, port)?
        } else {
            PublicUrl::parse(&public_url, observed)?
        };
        let (id, now) = (key.peer_id(), self.clock.now());
        if self.leases.count() >= MAX_LIVE_PEERS && self.leases.of_id(&id, now).is_none() {
            return Err(Error::Full);
        }
        // A peer that lost its key comes back under the same URL while its old lease runs, and
        // what providers send is verified: so a URL may have several claimants. Only so many of
        // one network that are not seen at its address, lest answers fill with them. Nobody is
        // refused for that: the oldest claim goes, and who is alive registers again.
        if !url.is_observed
            && let Some(oldest) =
                self.leases
                    .crowding_claim(&url.text, &id, observed, MAX_CLAIMS_PER_URL, now)
        {
            log::debug!(
                "more than {MAX_CLAIMS_PER_URL} peers of one network claim {:?}",
                url.text
            );
            self.lapse(&[oldest]).await?;
            self.leases.end(oldest.0, &oldest.1);
        }
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(Error::Randomness)?;
        let row = PeerRow {
            id,
            url: url.text,
            site,
            token: hash_of(&token),
            url_is_observed: url.is_observed,
            state: PeerState::Present,
            session,
        };
        let losses = self.losses();
        let registered = self.store.register(row.clone()).await?;
        self.lapsed().remove(&registered.peer);
        self.leases.grant(
            registered.peer,
            &row,
            registered.epoch,
            Some(observed),
            free_bytes,
            self.clock.now(),
        );
        let records = registered.fingerprints.records();
        self.leases.set_records(registered.peer, records);
        self.begin_without_partials(registered.peer, &id, &row.token);
        self.leases.compared(registered.peer, losses);
        Ok(Welcome {
            peer: id,
            token,
            public_url: row.url,
            fingerprints: registered.fingerprints,
            directory: self.directory_id(),
        })
    }

    /// Prolongs a lease. Now and then, or when the peer wants to `compare`, what a shared store
    /// holds for it.
    pub async fn keep_alive(
        &self,
        who: &Credentials,
        free_bytes: u64,
        compare: bool,
    ) -> Result<Option<Fingerprints>, Error> {
        self.check_sharing()?;
        let now = self.clock.now();
        let kept = self
            .leases
            .keep_alive(&who.peer, &who.token_hash(), free_bytes, now);
        if !kept {
            return Err(Error::NoLease);
        }
        Ok(self.due_fingerprints(&who.peer, compare).await)
    }

    /// A lease that begins knows of no partial records: the peer announces them anew.
    fn begin_without_partials(&self, peer: PeerNo, id: &PeerId, token: &TokenHash) {
        let mut partials = self.partials_mut();
        // A registration that was overtaken by a later one takes nothing from that.
        let now = self.clock.now();
        if self.leases.authorise(id, token, now) == Some(peer) {
            partials.end_all(peer);
        }
    }

    /// Partial records end with the lease.
    pub(super) fn end_partials(&self, peers: impl IntoIterator<Item = PeerNo>) {
        let mut partials = self.partials_mut();
        for peer in peers {
            // Whose lease has begun again meanwhile began without partial records.
            if !self.leases.has(peer) {
                partials.end_all(peer);
            }
        }
    }

    /// Ends the session that a peer has now, and its lease at once, whatever its token.
    pub async fn expel(&self, id: &PeerId) -> Result<(), Error> {
        match self.store.peer(id).await? {
            Some(known) => self.expel_all(&[known]).await,
            None => Ok(()),
        }
    }

    /// Expels the peers that are logged in as `user`; how many there were.
    pub async fn expel_user(&self, user: &UserName) -> Result<usize, Error> {
        let mut peers = self.store.peers().await?;
        peers.retain(|(_, row)| {
            let session = row.session.as_ref();
            session.is_some_and(|session| session.user == *user)
        });
        for some in peers.chunks(EXPELLED_AT_ONCE) {
            self.expel_all(some).await?;
        }
        Ok(peers.len())
    }

    async fn expel_all(&self, peers: &[(PeerNo, PeerRow)]) -> Result<(), Error> {
        // In this order they cannot come back in between. Who has logged in again since stays in: a
        // registration looks at the account once more when it is done.
        let sessions = peers.iter().filter_map(|(peer, row)| {
            let session = row.session.as_ref()?;
            Some((*peer, session.token))
        });
        self.store.end_sessions(sessions.collect()).await?;
        let present = peers.iter();
        let present = present.filter(|(_, row)| row.state == PeerState::Present);
        let present: Vec<_> = present.map(|(peer, row)| (*peer, row.token)).collect();
        if !present.is_empty() {
            self.lapse(&present).await?;
        }
        for (peer, row) in peers {
            self.leases.end(*peer, &row.token);
        }
        self.end_partials(peers.iter().map(|(peer, _)| *peer));
        Ok(())
    }

    /// Ends a lease at once.
    pub async fn deregister(&self, who: &Credentials) -> Result<(), Error> {
        let token = who.token_hash();
        let now = self.clock.now();
        let peer = self
            .leases
            .authorise(&who.peer, &token, now)
            .ok_or(Error::NoLease)?;
        // The store first: when it fails, the lease runs out and is ended as any other.
        self.lapse(&[(peer, token)]).await?;
        self.leases.end(peer, &token);
        self.end_partials([peer]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        metrics::Metrics,
        store::{RedbStore, Store as _},
    };

    #[tokio::test]
    async fn many_peers_are_expelled_in_few_commits_and_others_stay() {
        const PEERS: u8 = 200;
        let folder = tempfile::tempdir().expect("a directory");
        let metrics = Arc::new(Metrics::new());
        let store = RedbStore::open(&folder.path().join("store"), metrics.store.clone());
        let store = Arc::new(store.expect("opens"));
        let user = |name: &str| UserName::parse(name).expect("valid");
        let rows = (0..PEERS).map(|number| PeerRow {
            id: PeerId::from_bytes([number; 16]),
            url: "http://10.0.0.1:80".into(),
            site: String::new(),
            token: [number; 32],
            url_is_observed: true,
            state: PeerState::Present,
            session: Some(Session {
                user: user(if number == 7 { "ben" } else { "ana" }),
                stamp: 1,
                token: [number; 32],
                ends_ms: i64::MAX,
            }),
        });
        for row in rows.clone() {
            store.register(row).await.expect("registers");
        }
        let lease = Duration::from_secs(60);
        let directory = Directory::open(store.clone(), lease, metrics.clone()).await;
        let directory = directory.expect("opens");
        assert_eq!(directory.leases.count(), usize::from(PEERS));
        let before = metrics.store.commits.get();
        let expelled = directory.expel_user(&user("ana")).await.expect("expels");
        assert_eq!(expelled, usize::from(PEERS) - 1);
        let commits = metrics.store.commits.get() - before;
        assert!(commits < 20, "{commits} commits");
        let stays = rows.clone().find(|row| row.id.as_bytes()[0] == 7);
        let stays = stays.expect("one of them");
        for row in rows {
            assert_eq!(directory.is_live(&row.id), row == stays);
        }
        // Who holds nothing is forgotten with its lease.
        let left = store.peers().await.expect("lists");
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1, stays);
    }
}
