//! Which locators share a directory, and at which one this peer has its lease.
//!
//! Invariant: in each directory at most one session is meant to be; the others of its locators
//! stand by until that has ended. Locators that say nothing of a directory have one of their own.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{MutexGuard, watch},
    time::timeout,
};
use tonic::transport::Channel;
use vecino_grpc::v1::{RegisterRequest, RegisterResponse, directory_client::DirectoryClient};
use vecino_rest::PeerUrl;

use super::account::{Barred, Door, OpenSession, Wanted};

/// What tells one directory from another.
pub(super) type Id = [u8; 16];

/// How long a session waits until another one has registered, so that it knows where.
const TURN_WITHIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub struct Directories {
    /// The directories with a session, and which.
    held: watch::Sender<BTreeMap<Id, u64>>,
    sessions: AtomicU64,
    of_locators: Mutex<BTreeMap<String, Id>>,
    turn: tokio::sync::Mutex<()>,
    /// Logins that are good at each locator of their directory.
    logins: Mutex<BTreeMap<Id, OpenSession>>,
}

impl Directories {
    /// The login that the last session in a directory left.
    fn take_login(&self, directory: &Id) -> Option<OpenSession> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.remove(directory)
    }

    /// A login that is not used now.
    fn leave_login(&self, directory: Id, login: OpenSession) {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.insert(directory, login);
    }

    /// Registers by `door` at a locator of the directory that is `known`, with the login that is good
    /// there. What was of no use is left to its other locators: this one may be away for long.
    pub(super) async fn register(
        &self,
        known: Option<Id>,
        door: &Door,
        client: &mut DirectoryClient<Channel>,
        request: RegisterRequest,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> Result<RegisterResponse, Barred> {
        let Some(directory) = known else {
            return door.register(client, request, wanted, &mut None).await;
        };
        let mut login = self.take_login(&directory);
        let registered = door.register(client, request, wanted, &mut login).await;
        if registered.is_err() {
            // What is left otherwise may be of a user who is not wanted any more.
            login = door.hand_over().or(login);
        }
        if let Some(login) = login {
            self.leave_login(directory, login);
        }
        registered
    }

    /// One session registers after the other, unless that takes long.
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        timeout(TURN_WITHIN, self.turn.lock()).await.ok()
    }

    /// The directories with a session.
    pub(super) fn held(&self) -> Vec<Id> {
        self.held.borrow().keys().copied().collect()
    }

    /// A locator says which directory it has.
    pub(super) fn learn(&self, locator: &PeerUrl, directory: &[u8]) -> Option<Id> {
        let mut known = self
            .of_locators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = directory.try_into().ok();
        match id {
            Some(id) => known.insert(locator.to_string(), id),
            None => known.remove(&locator.to_string()),
        };
        id
    }

    /// The directory of a locator, as far as it is shared and known.
    pub(super) fn of(&self, locator: &PeerUrl) -> Option<Id> {
        let known = self
            .of_locators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(&locator.to_string()).copied()
    }

    /// A session in a directory begins, by the login of `door`; it takes the place of an earlier one,
    /// whose lease it ended.
    pub(super) fn hold<'a>(&'a self, directory: Id, door: &'a Door) -> Held<'a> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        self.held.send_modify(|held| {
            held.insert(directory, session);
        });
        Held {
            directories: self,
            door,
            directory,
            session,
        }
    }

    /// Waits until there is no session in a directory.
    pub(super) async fn free(&self, directory: &Id) {
        let mut held = self.held.subscribe();
        // It fails when the sender is gone, which this borrows.
        let _ = held.wait_for(|held| !held.contains_key(directory)).await;
    }
}

/// A session in a directory, until it is dropped.
pub(super) struct Held<'a> {
    directories: &'a Directories,
    door: &'a Door,
    directory: Id,
    session: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // First: whoever is woken below goes on with it.
        if let Some(login) = self.door.hand_over() {
            self.directories.leave_login(self.directory, login);
        }
        self.directories.held.send_if_modified(|held| {
            let is_this = held.get(&self.directory) == Some(&self.session);
            is_this && held.remove(&self.directory).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vecino_rest::{PeerKey, UserName};

    use super::{super::account::Credentials, *};

    #[tokio::test]
    async fn a_locator_that_is_away_keeps_no_login_from_the_others() {
        // Nobody listens there any more.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = gone.local_addr().expect("bound");
        drop(gone);
        let locator = PeerUrl::parse(&format!("http://{address}")).expect("valid");
        let channel = super::super::channel(&locator).expect("a channel");
        let door = Door::new(PeerKey::from_bytes([7; 32]), channel.clone());
        let user = UserName::parse("ana").expect("valid");
        let ana = Credentials {
            user: user.clone(),
            password: "hers".to_owned(),
        };
        let (_wanted, mut wants) = watch::channel(Some(Arc::new(ana)));
        let directories = Directories::default();
        let id = [1; 16];
        let login = OpenSession::new(user, "token".into());
        directories.leave_login(id, login.clone());
        let mut client = DirectoryClient::new(channel);
        for _ in 0..2 {
            let request = RegisterRequest::default();
            let registered =
                directories.register(Some(id), &door, &mut client, request, &mut wants);
            let barred = registered.await.expect_err("nobody is there");
            assert!(matches!(barred, Barred::Failed(_)), "{barred:?}");
            assert_eq!(directories.take_login(&id), Some(login.clone()));
            directories.leave_login(id, login.clone());
        }
    }

    #[tokio::test]
    async fn who_stands_by_is_told_when_the_last_session_ends() {
        let directories = Directories::default();
        let nowhere = PeerUrl::parse("http://127.0.0.1:1").expect("valid");
        let channel = super::super::channel(&nowhere).expect("a channel");
        let door = Door::new(PeerKey::from_bytes([7; 32]), channel);
        let id = [1; 16];
        directories.free(&id).await;
        let first = directories.hold(id, &door);
        let second = directories.hold(id, &door);
        drop(first);
        assert_eq!(directories.held(), [id], "the second goes on");
        let waits = timeout(Duration::from_millis(20), directories.free(&id)).await;
        assert!(waits.is_err());
        drop(second);
        directories.free(&id).await;
    }

    #[test]
    fn a_locators_directory_is_what_it_said_last() {
        let directories = Directories::default();
        let locator = PeerUrl::parse("http://10.0.0.1:1").expect("valid");
        assert_eq!(directories.of(&locator), None);
        assert_eq!(directories.learn(&locator, &[2; 16]), Some([2; 16]));
        assert_eq!(directories.of(&locator), Some([2; 16]));
        assert_eq!(directories.learn(&locator, &[]), None);
        assert_eq!(directories.of(&locator), None);
    }
}
