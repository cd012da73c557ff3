//! The binary as an operator starts it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use crate::support::*;

pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_central-server"));
    command.current_dir(directory);
    for variable in [
        "HOST",
        "STORE_URL",
        "REDIS_PASSWORD_FILE",
        "LEASE_SECONDS",
        "ACCOUNTS",
        "CONTROL_SOCKET",
        "NETWORK_SIZE",
        "NUMBER_OF_ZONES",
        "METRICS_ADDR",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// A locator of its own process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// What it logged since it listens.
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut command = command(directory);
        command.env("METRICS_ADDR", "off");
        Self::spawn(&mut command)
    }

    /// Its peers need no keep-alive for so many seconds.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_lease(directory: &Path, seconds: u32) -> Self {
        let mut command = command(directory);
        command.env("METRICS_ADDR", "off");
        Self::spawn(command.env("LEASE_SECONDS", seconds.to_string()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .env("HOST", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let addr = lines.by_ref().find_map(|line| {
            let line = line.expect("text");
            line.rsplit_once("listening on ")
                .map(|(_, addr)| addr.parse().expect("an address"))
        });
        // Read on, lest the process blocks on a full pipe.
        let log = Arc::new(Mutex::new(Vec::new()));
        let logged = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                logged.lock().expect("not poisoned").push(line);
            }
        });
        Self {
            child,
            addr: addr.expect("it says where it listens"),
            log,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its id in the system.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it says that it serves machines.
    #[cfg(target_os = "linux")]
    async fn metrics_addr(&self) -> SocketAddr {
        eventually("it serves metrics", || async {
            !self.logged("metrics on http://").is_empty()
        })
        .await;
        let line = self.logged("metrics on http://").remove(0);
        let (_, addr) = line.rsplit_once("http://").expect("is in the line");
        let addr = addr.strip_suffix("/metrics").expect("ends so");
        addr.parse().expect("an address")
    }

    /// The lines of the log with `text` in them.
    fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().expect("not poisoned");
        log.iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("is killed");
        self.child.wait().expect("ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().expect("runs")
}

/// Runs `central-server ARGS` on a store; exit code, standard output and standard error.
pub(crate) async fn run_command(store: &str, args: &[&str], input: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = command(directory.path())
        .env("STORE_URL", store)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // A command that reads nothing may have ended.
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = soon(ended).await.expect("joins").expect("ends");
    let code = output.status.code().expect("no signal");
    (code, text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<String> = Vec::new();
    let mut token = None;
    for round in 0..3_u8 {
        let process = Process::start(directory.path());
        let mut client = connect(process.addr).await;
        // Right after the start, before any peer came back.
        for name in &acknowledged {
            assert_eq!(
                providers(&mut client, by_name(name)).await.len(),
                1,
                "{name}"
            );
        }
        let mut peer = match token.take() {
            None => Peer::register(client.clone(), registration(1)).await,
            Some(peer) => Peer {
                client: client.clone(),
                ..peer
            },
        };
        peer.kept_alive().await.expect("the token holds");
        let records: Vec<_> = (0..200)
            .map(|n| record(&format!("round{round}/{n}"), &format!("{n}")))
            .collect();
        peer.announce(&records).await;
        process.kill();
        acknowledged.extend(records.into_iter().map(|record| record.name));
        token = Some(Peer {
            announcing: None,
            ..peer
        });
    }
    assert_eq!(acknowledged.len(), 600);
    let process = Process::start(directory.path());
    let mut client = connect(process.addr).await;
    for name in &acknowledged {
        assert_eq!(
            providers(&mut client, by_name(name)).await.len(),
            1,
            "{name}"
        );
    }
}

#[test]
fn arguments_and_settings() {
    let directory = tempfile::tempdir().expect("a directory");
    let help = run(command(directory.path()).arg("--help"));
    assert!(help.status.success());
    for variable in ["HOST", "STORE_URL", "LEASE_SECONDS", "METRICS_ADDR"] {
        assert!(text(&help.stdout).contains(variable), "{variable}");
    }
    let version = run(command(directory.path()).arg("--version"));
    assert_eq!(
        text(&version.stdout),
        format!("central-server {}\n", env!("CARGO_PKG_VERSION"))
    );

    std::fs::write(
        directory.path().join(".env"),
        "HOST = \"192.0.2.1:51015\"\nLEASE_SECONDS=7\n",
    )
    .expect("writes");
    let print = run(command(directory.path())
        .arg("--print-config")
        .env("LEASE_SECONDS", "9"));
    let printed = text(&print.stdout);
    assert!(printed.contains("HOST=192.0.2.1:51015\n"), "{printed}");
    assert!(printed.contains("LEASE_SECONDS=9\n"), "{printed}");

    let wrong = run(command(directory.path()).env("LEASE_SECONDS", "0"));
    assert_eq!(wrong.status.code(), Some(2));
    let message = text(&wrong.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(
        message.contains("LEASE_SECONDS=\"0\"") && message.contains("1 to 86400"),
        "{message}"
    );
    let wrong = run(command(directory.path()).env("NUMBER_OF_ZONES", "50"));
    assert_eq!(wrong.status.code(), Some(2));
    let message = text(&wrong.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(
        message.contains("NUMBER_OF_ZONES=\"50\"") && message.contains("1 to 10"),
        "{message}"
    );
    let wrong = run(command(directory.path()).arg("--nonsense"));
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn what_stops_the_start_is_said_whatever_is_logged() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = taken.local_addr().expect("bound").to_string();
    let refused = run(command(directory.path())
        .env("HOST", &taken)
        .env("METRICS_ADDR", "off")
        .env("STORE_URL", "memory:")
        .env("RUST_LOG", "off"));
    assert_eq!(refused.status.code(), Some(1));
    let message = text(&refused.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(&format!("HOST={taken}")), "{message}");
    // A mistyped level would hide everything.
    for arguments in [&[][..], &["--print-config"]] {
        let refused = run(command(directory.path())
            .args(arguments)
            .env("RUST_LOG", "bogus"));
        assert_eq!(refused.status.code(), Some(2));
        let message = text(&refused.stderr);
        assert!(message.contains("RUST_LOG=\"bogus\""), "{message}");
    }
    let print = run(command(directory.path())
        .arg("--print-config")
        .env("RUST_LOG", "warn,central_server=debug"));
    let printed = text(&print.stdout);
    assert!(
        printed.contains("RUST_LOG=warn,central_server=debug\n"),
        "{printed}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_value_that_no_machine_could_use_ends_with_2() {
    let directory = tempfile::tempdir().expect("a directory");
    for (variable, value) in [
        ("STORE_URL", "redb:/proc/x/y"),
        ("STORE_URL", "redb:/"),
        ("HOST", "192.0.2.1:5555"),
        ("METRICS_ADDR", "192.0.2.1:5555"),
    ] {
        let refused = run(command(directory.path())
            .env("HOST", "127.0.0.1:0")
            .env("METRICS_ADDR", "off")
            .env(variable, value));
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(
            message.contains(&format!("central-server: {variable}={value}")),
            "{message}"
        );
    }
}

#[test]
fn a_foreign_store_stops_the_start_and_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("precious.txt");
    std::fs::write(&path, "precious").expect("writes");
    let mut refused = command(directory.path());
    refused
        .env("HOST", "127.0.0.1:0")
        .env("METRICS_ADDR", "off")
        .env("STORE_URL", "redb:precious.txt");
    let refused = run(&mut refused);
    assert_eq!(refused.status.code(), Some(1));
    let message = text(&refused.stderr);
    assert!(
        message.contains("redb:precious.txt") && message.contains("left as it is"),
        "{message}"
    );
    assert_eq!(std::fs::read(&path).expect("reads"), b"precious");
}

#[test]
fn a_second_locator_on_the_same_store_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = Process::start(directory.path());
    let mut second = command(directory.path());
    let second = run(second.env("HOST", "127.0.0.1:0").env("METRICS_ADDR", "off"));
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("another process"),
        "{}",
        text(&second.stderr)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn sigterm_ends_it_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(directory.path());
    let pid = process.child.id().to_string();
    assert!(
        run(Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]))
            .status
            .success()
    );
    assert!(process.child.wait().expect("ends").success());
}

#[test]
fn sigterm_ends_it_while_it_waits_for_its_store() {
    let directory = tempfile::tempdir().expect("a directory");
    // Who connects to it is never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = silent.local_addr().expect("bound");
    let mut command = command(directory.path());
    let command = command.env("STORE_URL", format!("redis://{addr}"));
    let child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let _held = silent.accept().expect("it asks for its store");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("signalled");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).matches("central-server:").count(), 0);
}

/// How long the files of a process may become.
#[cfg(target_os = "linux")]
fn limit_files(process: &Process, bytes: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = i32::try_from(process.child.id()).expect("a process id");
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Pid::from_raw(pid), Resource::Fsize, limit).expect("is limited");
}

/// A locator for which a file that may not grow is an error of the write, as on a full disk, and
/// not a signal.
#[cfg(target_os = "linux")]
fn limitable(directory: &Path) -> Command {
    let direct = command(directory);
    let binary = env!("CARGO_BIN_EXE_central-server");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("trap '' XFSZ; exec '{binary}'")])
        .current_dir(directory);
    for (variable, _) in direct.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(variable);
    }
    command
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_moment_without_room_on_the_disk_stops_no_writes_for_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = limitable(directory.path());
    command.env("METRICS_ADDR", "127.0.0.1:0");
    let process = Process::spawn(&mut command);
    let metrics = process.metrics_addr().await;
    let mut client = connect(process.addr).await;
    let mut peer = Peer::register(client.clone(), registration(1)).await;
    peer.announce(&[record("before", "one")]).await;
    assert!(page(metrics, "/readyz").await.contains(r#""ready":true"#));

    let file = directory.path().join("data/locator.redb");
    let length = std::fs::metadata(&file).expect("is there").len();
    limit_files(&process, Some(length));
    // More than fits into what the file has.
    let many: Vec<_> = (0..4_000)
        .map(|n| record(&format!("{n}/{}", "x".repeat(200)), &n.to_string()))
        .collect();
    let mut refused = 0;
    for part in many.chunks(400).cycle().take(40) {
        if let Err(status) = peer.send(peer.batch(part.to_vec(), Vec::new())).await {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
            assert!(status.message().contains("full"), "{status:?}");
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused} refused: the file had room enough");
    let unready = page(metrics, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
    assert!(unready.contains(r#""store":false"#), "{unready}");
    assert!(unready.contains("no changes are taken"), "{unready}");
    assert!(page(metrics, "/healthz").await.ends_with("ok\n"));
    assert_eq!(providers(&mut client, by_name("before")).await.len(), 1);
    assert!(
        process.logged("ERROR").len() < 5,
        "{:?}",
        process.logged("ERROR")
    );

    limit_files(&process, None);
    eventually("it is ready again", || async {
        page(metrics, "/readyz").await.contains(r#""ready":true"#)
    })
    .await;
    for part in many.chunks(400) {
        peer.announce(part).await;
    }
    assert_eq!(providers(&mut client, by_name("before")).await.len(), 1);
    let last = many.last().expect("many");
    assert_eq!(providers(&mut client, by_name(&last.name)).await.len(), 1);
    process.kill();
    let process = Process::start(directory.path());
    let mut client = connect(process.addr).await;
    for name in ["before", &last.name] {
        assert_eq!(providers(&mut client, by_name(name)).await.len(), 1);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_store_that_takes_no_changes_is_told_of_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = limitable(directory.path());
    command.env("METRICS_ADDR", "off").env("LEASE_SECONDS", "1");
    let process = Process::spawn(&mut command);
    let mut client = connect(process.addr).await;
    for number in 1..=5 {
        Peer::register(client.clone(), registration(number)).await;
    }
    limit_files(&process, Some(0));
    eventually("the ends of leases cannot be stored", || async {
        !process.logged("not stored yet").is_empty()
    })
    .await;
    let mut refused = 0;
    // Several rounds of the sweeper long.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1_500);
    while std::time::Instant::now() < until {
        let registered = client.register(registration(9)).await;
        let status = registered.expect_err("no changes are taken");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        let _ = client.locate(by_name("a")).await;
        refused += 1;
    }
    assert!(refused > 10, "{refused}");
    let mut told = process.logged("ERROR");
    told.extend(process.logged("WARN"));
    assert!(told.len() < 6, "{told:#?}");
    limit_files(&process, None);
    eventually("changes are taken again", || async {
        let mut client = client.clone();
        client.register(registration(9)).await.is_ok()
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn while_nobody_can_register_nobody_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = limitable(directory.path());
    command.env("METRICS_ADDR", "off").env("LEASE_SECONDS", "2");
    let process = Process::spawn(&mut command);
    let mut client = connect(process.addr).await;
    let mut peer = Peer::register(client.clone(), registration(1)).await;
    peer.announce(&[record("song.mp3", "one")]).await;
    let file = directory.path().join("data/locator.redb");
    let length = std::fs::metadata(&file).expect("is there").len();
    limit_files(&process, Some(length));
    for part in 0.. {
        let many = (0..400).map(|n| record(&format!("{part}/{n}/{}", "x".repeat(200)), "more"));
        let batch = peer.batch(many.collect(), Vec::new());
        if peer.send(batch).await.is_err() {
            break;
        }
        peer.kept_alive().await.expect("is kept until then");
    }
    // As long as two leases and more.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut found = 0;
    while std::time::Instant::now() < until {
        match client.locate(by_name("song.mp3")).await {
            Ok(located) => {
                assert_eq!(located.into_inner().variants.len(), 1);
                found += 1;
            }
            // The engine is being opened again.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        }
    }
    assert!(found > 100, "{found}");
    limit_files(&process, None);
    eventually("who stays away is gone in the end", || {
        let mut client = client.clone();
        async move {
            let located = client.locate(by_name("song.mp3")).await;
            located.is_ok_and(|located| located.into_inner().variants.is_empty())
        }
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_locator_that_stood_still_denies_nobody_when_it_goes_on() {
    use rustix::process::{Pid, Signal, kill_process};

    let directory = tempfile::tempdir().expect("a directory");
    let mut command = command(directory.path());
    command.env("METRICS_ADDR", "off").env("LEASE_SECONDS", "2");
    let process = Process::spawn(&mut command);
    let mut client = Client::new(channel(process.addr).await);
    let mut peer = Peer::register(client.clone(), registration(1)).await;
    peer.announce(&[record("song.mp3", "one")]).await;
    peer.kept_alive().await.expect("is kept");
    let pid = Pid::from_raw(process.child.id().cast_signed()).expect("a process");
    kill_process(pid, Signal::STOP).expect("stops");
    // Longer than a lease, and as long as it would take the sweeper to notice.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    kill_process(pid, Signal::CONT).expect("goes on");
    let found = providers(&mut client, by_name("song.mp3")).await;
    assert_eq!(found, [peer.url()]);
    peer.kept_alive().await.expect("its lease goes on");
}

/// The open files that a process may have: soft and hard.
#[cfg(target_os = "linux")]
fn open_files(process: &Process) -> (String, String) {
    let limits = format!("/proc/{}/limits", process.child.id());
    let limits = std::fs::read_to_string(limits).expect("is readable");
    let mut line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("is there")
        .split_whitespace();
    let mut next = || line.next().expect("two numbers").to_owned();
    (next(), next())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn as_many_files_are_opened_as_the_system_allows() {
    let directory = tempfile::tempdir().expect("a directory");
    let binary = env!("CARGO_BIN_EXE_central-server");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -S -n 64; exec '{binary}'")])
        .current_dir(directory.path())
        .env("STORE_URL", "memory:")
        .env("METRICS_ADDR", "off");
    let process = Process::spawn(&mut command);
    let (soft, hard) = open_files(&process);
    assert_ne!(hard, "64", "the test needs a higher hard limit");
    assert_eq!(soft, hard);
}
