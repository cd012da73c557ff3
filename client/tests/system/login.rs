//! A network that asks for accounts: who has none is not found and is told so, who logs in is, and
//! who logs out is gone at once.

use std::path::PathBuf;

use central_server::{Config, account::Policy, cli::Cli, command, config::StoreUrl};
use clap::Parser as _;
use tempfile::TempDir;
use vecino_grpc::v1::{LocateRequest, directory_client::DirectoryClient, locate_request::By};
use vecino_rest::body::SessionState;

use crate::{
    cluster::{Locator, Peer, eventually, start_ring, wait},
    witness::Secret,
};

/// A locator that asks for accounts, and its operator.
struct Guarded {
    locator: Locator,
    config: Config,
    dir: TempDir,
}

impl Guarded {
    fn start(policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            accounts: policy,
            store: StoreUrl::Redb(dir.path().join("locator.redb")),
            control: Some(dir.path().join("locator.redb.sock")),
            ..Config::ephemeral()
        };
        Self {
            locator: Locator::start_with([127, 0, 0, 1].into(), config.clone()),
            config,
            dir,
        }
    }

    fn password_file(&self, password: &str) -> PathBuf {
        let file = self.dir.path().join(password);
        std::fs::write(&file, format!("{password}\n")).unwrap();
        file
    }

    /// What the operator says: `central-server account ARGS`.
    fn account(&self, args: &[&str]) {
        let words = ["central-server", "account"].iter().chain(args);
        let cli = Cli::parse_from(words);
        wait(command::run(cli.command.unwrap(), &self.config)).unwrap();
    }

    /// How many hold `name` by the locator's word, which no neighbour remembers.
    fn holders(&self, name: &str) -> usize {
        let request = LocateRequest {
            by: Some(By::Name(name.to_owned())),
            ..Default::default()
        };
        let url = format!("http://{}", self.locator.addr());
        let located = wait(async {
            let mut client = DirectoryClient::connect(url).await.unwrap();
            client.locate(request).await.unwrap().into_inner()
        });
        let variants = located.variants.iter();
        variants.map(|variant| variant.providers.len()).sum()
    }

    fn await_holder(&self, name: &str) {
        eventually(name, || (self.holders(name) == 1).then_some(()));
    }

    /// A peer without an account that shares `a`, and one of ben's that shares `b`.
    fn two_peers(&self) -> [Peer; 2] {
        let file = self.password_file("bens-secret");
        let peer = || Peer::setup().locator(self.locator.addr());
        let peers = start_ring(&[
            peer().file("a", "of ana"),
            peer().file("b", "of ben").account("ben", &file),
        ]);
        peers.try_into().ok().unwrap()
    }
}

#[test]
fn who_has_no_account_is_not_found_until_it_logs_in_and_not_after_it_logged_out() {
    let guarded = Guarded::start(Policy::Closed);
    for (user, password) in [("ana", "anas-secret"), ("ben", "bens-secret")] {
        let file = guarded.password_file(password);
        guarded.account(&["add", user, "--password-file", file.to_str().unwrap()]);
    }
    let [ana, ben] = guarded.two_peers();
    ben.await_ready();
    assert_eq!(ben.status().session.state, SessionState::LoggedIn);
    ana.await_files();
    let status = eventually("it knows that a login is needed", || {
        let status = ana.status();
        (status.session.state == SessionState::Needed).then_some(status)
    });
    assert!(!status.online);
    assert!(status.offline_reason.unwrap().contains("asks for a login"));
    guarded.await_holder("b");
    assert_eq!((guarded.holders("a"), guarded.holders("b")), (0, 1));
    let (of_ana, of_ben) = (ana.client(), ben.client());
    assert_eq!(of_ben.run(&["locate", "a"]).code, 3);
    // It may look up: whoever asks is hidden by a neighbour.
    assert_eq!(of_ana.download("b", &[]), b"of ben");

    let secret = Secret::of_one_among_others(guarded.locator.addr());
    let told = |args: &[&str], input: &str| {
        let done = of_ana.run_with(args, input);
        secret.is_not_in(&done.stdout, "the client");
        secret.is_not_in(done.stderr.as_bytes(), "the client");
        let stderr = done.stderr.clone();
        assert!(
            !stderr.contains("locator") && !stderr.contains("secret"),
            "{stderr}"
        );
        done
    };
    let status = String::from_utf8(told(&["status"], "").stdout).unwrap();
    assert!(
        status.contains("asks for a login") && status.contains("needed"),
        "{status}"
    );
    let wrong = told(&["login", "ana"], "wrong-secret\n");
    assert_eq!(wrong.code, 4, "{}", wrong.stderr);
    assert!(
        wrong.stderr.contains("no such user with this password"),
        "{}",
        wrong.stderr
    );
    let unknown = told(&["login", "eve"], "wrong-secret\n");
    assert_eq!((unknown.code, unknown.stderr), (4, wrong.stderr));
    assert_eq!(told(&["login", "ana"], "").code, 2);
    assert_eq!(guarded.holders("a"), 0);

    let done = told(&["login", "ana"], "anas-secret\n").ok();
    assert!(done.stderr.contains("logged in as ana"), "{}", done.stderr);
    guarded.await_holder("a");
    ana.await_ready();
    eventually("the neighbours' answers are new", || {
        (of_ben.run(&["locate", "a"]).code == 0).then_some(())
    });
    told(&["logout"], "").ok();
    assert_eq!(guarded.holders("a"), 0, "gone at once");
    assert_eq!(guarded.holders("b"), 1);
    assert_eq!(ana.status().session.state, SessionState::Needed);
    told(&["logout"], "").ok();
    // Back, from the loop; and out, and by a file.
    let file = guarded.password_file("anas-secret");
    let input = "login ana\nanas-secret\nstatus --json\nlogout\n0\n";
    let looped = told(&[], input).ok();
    let status = String::from_utf8(looped.stdout).unwrap();
    assert!(
        status.contains(r#""state":"logged_in""#),
        "{status} {}",
        looped.stderr
    );
    assert_eq!(guarded.holders("a"), 0);
    let login = ["login", "ana", "--password-file", file.to_str().unwrap()];
    told(&login, "").ok();
    guarded.await_holder("a");
    // An account that is removed takes its peers with it.
    guarded.account(&["remove", "ana"]);
    assert_eq!(guarded.holders("a"), 0);
    eventually("the peer knows", || {
        (ana.status().session.state == SessionState::Refused).then_some(())
    });
    assert_eq!(told(&login, "").code, 4);
}

#[test]
fn too_many_failed_logins_end_like_a_wrong_one_and_say_for_how_long() {
    let guarded = Guarded::start(Policy::Closed);
    let file = guarded.password_file("anas-secret");
    guarded.account(&["add", "ana", "--password-file", file.to_str().unwrap()]);
    let [ana, _ben] = guarded.two_peers();
    ana.await_files();
    eventually("it knows that a login is needed", || {
        (ana.status().session.state == SessionState::Needed).then_some(())
    });
    let client = ana.client();
    let too_many = (0..100).find_map(|number| {
        let refused = client.run_with(&["login", "ana"], &format!("wrong-{number}\n"));
        assert_eq!(refused.code, 4, "{}", refused.stderr);
        let is_told = refused.stderr.contains("too many failed");
        is_told.then_some(refused.stderr)
    });
    let told = too_many.expect("it is not endless");
    assert!(told.contains("within a minute"), "{told}");
}

#[test]
fn a_first_login_makes_the_account_where_that_is_open() {
    let guarded = Guarded::start(Policy::Open);
    let [ana, ben] = guarded.two_peers();
    ben.await_ready();
    guarded.await_holder("b");
    let client = ana.client();
    assert_eq!(client.run_with(&["login", "ben"], "guessed\n").code, 4);
    client.run_with(&["login", "ana"], "new\n").ok();
    guarded.await_holder("a");
}

#[test]
fn a_network_without_accounts_asks_for_no_login() {
    let locator = Locator::start();
    let peers = crate::cluster::ring(&[
        Peer::setup().locator(locator.addr()).file("a", "a"),
        Peer::setup().locator(locator.addr()),
    ]);
    let client = peers[0].client();
    let done = client.run_with(&["login", "ana"], "x\n");
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("asks for no login"), "{}", done.stderr);
    client.run(&["logout"]).ok();
    assert!(peers[0].status().online, "it stays in");
}
