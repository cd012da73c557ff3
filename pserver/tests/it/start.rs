//! The binary as an operator starts it with something wrong: what it says, with which code it
//! ends, and what it leaves behind.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::support::{DEADLINE, eventually, stage::Stage};

/// Starts a peer that cannot start; how it ended.
fn refused(home: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pserver"));
    command
        .current_dir(home)
        .env_clear()
        .env("BIND", "127.0.0.1")
        .env("PORT", "0")
        .envs(variables.iter().copied());
    ended(command)
}

/// How `command` ended, which it must do by itself.
fn ended(mut command: Command) -> Output {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let process = rustix::process::Pid::from_child(&child);
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match waiting.recv_timeout(DEADLINE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            panic!("it does not end: {:?}", waiting.recv());
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_data_dir_leaves_no_key_in_the_shared_folder() {
    let stage = Stage::start().await;
    let plan = stage.peer("own").holding("a.txt", b"a");
    let home = plan.home().to_owned();
    for data in ["shared/x", "shared/x/y", "shared", "downloads/x"] {
        let ended = refused(&home, &[("DATA_DIR", data)]);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(said(&ended).contains("lies in"), "{ended:?}");
        let left: Vec<_> = fs::read_dir(&home).unwrap().collect();
        assert_eq!(left.len(), 1, "{data}: {left:?}");
        let left: Vec<_> = fs::read_dir(home.join("shared")).unwrap().collect();
        assert_eq!(left.len(), 1, "{data}: {left:?}");
    }
    // What an older version left there is not shared either, nor can it be put there.
    fs::create_dir(home.join("shared/x")).unwrap();
    for file in ["peer.key", "lock", "index.redb"] {
        fs::write(home.join("shared/x").join(file), [1; 32]).unwrap();
    }
    let peer = plan.start().await;
    eventually("the file is shared", async || {
        let files = peer.files().await;
        files.len() == 1 && files[0].name.as_str() == "a.txt"
    })
    .await;
    assert_eq!(peer.put("y/peer.key", b"k").await.status, 400);
}

#[test]
fn what_stops_the_start_is_said_whatever_is_logged() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = refused(home.path(), &[("PORT", &port), ("RUST_LOG", "off")]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let text = said(&ended);
    assert!(text.contains("cannot listen on"), "{text}");
    let ended = refused(home.path(), &[("RUST_LOG", "bogus")]);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let text = said(&ended);
    assert!(text.contains("RUST_LOG=\"bogus\""), "{text}");
    let printed = Command::new(env!("CARGO_BIN_EXE_pserver"))
        .arg("--print-config")
        .env_clear()
        .env("RUST_LOG", "debug")
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("RUST_LOG=debug\n"), "{printed}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_value_that_no_machine_could_use_ends_with_2() {
    let home = tempfile::tempdir().unwrap();
    for (variable, value) in [
        ("DATA_DIR", "/proc/q"),
        ("SHARED_DIR", "/proc/x"),
        ("DOWNLOAD_DIR", "/proc/x"),
        ("BIND", "192.0.2.1"),
    ] {
        let ended = refused(home.path(), &[(variable, value)]);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        let text = said(&ended);
        assert!(text.contains(variable) && text.contains(value), "{text}");
    }
}

/// What a peer warns of before it listens.
async fn warnings(stage: &Stage, variables: &[(&str, &str)]) -> String {
    let mut plan = stage.peer("warned").without("URL_Request");
    for &(variable, value) in variables {
        plan = plan.set(variable, value);
    }
    let variables = plan.variables();
    let variables = variables.iter().map(|(name, value)| (&**name, &**value));
    let said = said_until(plan.home(), &variables.collect::<Vec<_>>(), "] peer ");
    let warned = said.iter().filter(|line| line.contains("WARN"));
    warned.map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_settings_lack_or_have_for_nothing_is_warned_of() {
    let stage = Stage::start().await;
    let neighbour = ("URL_PEERSU", "127.0.0.1:9");
    let no_locator = "URL_Request is unset";
    let said = warnings(&stage, &[neighbour]).await;
    assert!(
        said.contains("nobody finds what this peer shares"),
        "{said}"
    );
    for strategy in ["chord", "flood"] {
        let overlay = [neighbour, ("LOCATE_BY", strategy), ("OVERLAY_PORT", "0")];
        let said = warnings(&stage, &overlay).await;
        assert_eq!(said, "", "{strategy}");
    }
    let zone = [neighbour, ("LOCATE_BY", "zone"), ("OVERLAY_PORT", "0")];
    let said = warnings(&stage, &zone).await;
    assert!(said.contains(no_locator), "{said}");
    let idle = [("OVERLAY_PORT", "0"), ("OVERLAY_SEEDS", "127.0.0.1:9")];
    let said = warnings(&stage, &idle).await;
    assert!(said.contains("OVERLAY_PORT is of no use"), "{said}");
    assert!(said.contains("OVERLAY_SEEDS is of no use"), "{said}");
    // A port that is free now; should it be taken meanwhile, there is no warning and it fails.
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let own = format!("localhost:{port}");
    let said = warnings(&stage, &[("PORT", &port), ("URL_PEERSU", &own)]).await;
    assert!(said.contains("is this peer itself"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_status_agree_where_no_locator_is_set() {
    let stage = Stage::start().await;
    let plan = stage.peer("alone").without("URL_Request");
    let peer = plan.start().await;
    let ready: serde_json::Value = peer.get("/readyz").await.json();
    assert_eq!(ready["parts"], serde_json::json!({ "files": true }));
    let status = peer.status().await;
    assert!(!status.online);
    assert_eq!(
        status.offline_reason.as_deref(),
        Some("URL_Request is unset")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_ring_what_is_held_counts_as_announced() {
    let stage = Stage::start().await;
    let plan = stage.peer("ring").without("URL_Request");
    let plan = plan.set("LOCATE_BY", "chord").set("OVERLAY_PORT", 0);
    let peer = plan.holding("a.txt", b"a").start().await;
    peer.has_announced(1).await;
    assert!(peer.status().await.online);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_number_in_a_query_is_named() {
    let stage = Stage::start().await;
    let peer = stage.peer("own").start().await;
    for target in ["/v1/files?limit=abc", "/v1/search?q=a&limit=abc"] {
        let problem = peer.get(target).await.problem();
        assert_eq!(problem.detail, "limit=\"abc\": expected 1 to 1000");
    }
    let problem = peer.get("/v1/files?limit=1&limit=2").await.problem();
    assert!(!problem.detail.contains("deserialize"), "{problem:?}");
    let response = peer.get("/v1/files/a?from=127.0.0.1:9").await;
    assert_ne!(response.status, 400, "{}", response.text());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_beyond_the_soft_limit_of_open_files_keep_nobody_out() {
    let stage = Stage::start().await;
    let plan = stage.peer("own").holding("a.txt", b"a");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -S -n 64; exec \"$0\""])
        .arg(env!("CARGO_BIN_EXE_pserver"));
    let own = plan.spawn_by(command).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(tokio::net::TcpStream::connect(own.addr).await.unwrap());
    }
    // They would be closed after 10 s, and then let others in.
    let answered = timeout(Duration::from_secs(8), own.download("a.txt")).await;
    assert_eq!(answered.expect("answered").status, 200);
}

/// What a peer says from its start until a line has `last`, which must come.
fn said_until(home: &Path, variables: &[(&str, &str)], last: &str) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(env!("CARGO_BIN_EXE_pserver"))
        .current_dir(home)
        .env_clear()
        .env("BIND", "127.0.0.1")
        .env("PORT", "0")
        .envs(variables.iter().copied())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (told, telling) = mpsc::channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| told.send(line))
    });
    let (began, mut said) = (Instant::now(), Vec::new());
    while !said.last().is_some_and(|line: &String| line.contains(last)) {
        match telling.recv_timeout(DEADLINE.saturating_sub(began.elapsed())) {
            Ok(line) => said.push(line),
            Err(_) => break,
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let is_said = said.last().is_some_and(|line| line.contains(last));
    assert!(is_said, "never {last:?} in {said:#?}");
    said
}

#[test]
fn at_its_start_a_peer_says_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let variables = [
        ("URL_PEERSU", "127.0.0.9:80"),
        ("URL_Request", "127.0.0.8:51015"),
        ("PUBLIC_URL", "http://192.0.2.4:80"),
    ];
    let said = said_until(home.path(), &variables, "] peer ");
    for fact in [
        "REST        127.0.0.1:",
        "others use  http://192.0.2.4:80 (PUBLIC_URL)",
        "neighbours  127.0.0.9:80",
        "locators    127.0.0.8:51015",
        "looks up by central",
        "/shared\"",
        "limits      sends unlimited",
        "clients     anyone reads",
        "peers       whoever reaches the REST port",
    ] {
        let count = said.iter().filter(|line| line.contains(fact)).count();
        assert_eq!(count, 1, "{fact:?} in {said:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_a_start_says_what_to_do() {
    let stage = Stage::start().await;
    let plan = stage.peer("running");
    let peer = plan.spawn().await;
    let data = plan.home().join("data").display().to_string();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let (port, file) = (peer.addr.port().to_string(), file.display().to_string());
    for (variable, value, code, said_is) in [
        (
            "PORT",
            port.as_str(),
            1,
            "another program has that port: end it, or set PORT to a free one",
        ),
        (
            "DATA_DIR",
            &data,
            1,
            "give each peer its own directory, or wait for the one before to end",
        ),
        ("SHARED_DIR", &file, 2, "it is a file: name a directory"),
        (
            "BIND",
            "192.0.2.1",
            2,
            "BIND must be an address of this machine, or 0.0.0.0 for all of them",
        ),
    ] {
        let ended = refused(home.path(), &[(variable, value)]);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        let text = said(&ended);
        let last = text.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("pserver: ") && last.ends_with(said_is),
            "{text}"
        );
        assert!(last.contains(value), "{text}");
    }
}

/// Root reads everything, so that it is another user who starts the peer.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_read_stops_the_start() {
    use std::os::unix::fs::PermissionsExt;
    const NOBODY: &str = "65534";
    let by_nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            program,
        ]);
        command
    };
    let binary = env!("CARGO_BIN_EXE_pserver");
    let is_root = rustix::process::getuid().is_root();
    if is_root
        && !by_nobody(binary)
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success())
    {
        println!("not run: nobody cannot start {binary}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(home.path(), 0o777);
    for variable in ["SHARED_DIR", "DOWNLOAD_DIR"] {
        let dir = home.path().join(variable);
        fs::create_dir(&dir).unwrap();
        set(&dir, 0);
        let mut command = if is_root {
            by_nobody(binary)
        } else {
            Command::new(binary)
        };
        command
            .current_dir(home.path())
            .env(variable, &dir)
            .env("PORT", "0")
            .env("BIND", "127.0.0.1");
        let ended = ended(command);
        set(&dir, 0o700);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        let text = said(&ended);
        assert!(
            text.contains(variable) && text.contains("Permission denied"),
            "{text}"
        );
        assert!(
            text.contains("let the user that this peer runs as read"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_locator_is_told_from_one_that_is_down() {
    let stage = Stage::start().await;
    let ring = stage.peer("ring").set("LOCATE_BY", "chord");
    let ring = ring.set("OVERLAY_PORT", 0).start().await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (locator, expected) in [
        (closed, "is the locator running there, and its port open?"),
        (
            ring.addr,
            "what answers there speaks no gRPC: URL_Request names",
        ),
        (
            stage.metrics_addr(),
            "what answers there speaks no gRPC: URL_Request names",
        ),
        (
            ring.overlay(),
            "what answers there is no locator; URL_Request names",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let at = locator.to_string();
        let said = said_until(home.path(), &[("URL_Request", &at)], expected);
        let told = said.iter().filter(|line| line.contains("not registered"));
        assert_eq!(told.count(), 1, "{said:?}");
        let last = said.last().unwrap();
        assert!(last.contains("WARN"), "{last}");
        assert!(
            last.contains(&format!("not registered at locator http://{at}: ")),
            "{last}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_neighbour_and_a_closed_port_are_told_in_the_log() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (dead, other) = (closed.to_string(), stage.locator_addr.to_string());
    let (alive, public) = (neighbour.addr.to_string(), format!("http://{closed}"));
    for (neighbour, public_url, expected) in [
        (
            &dead,
            "",
            format!("neighbour http://{dead}: connection refused; is a peer running there"),
        ),
        // A locator, for example.
        (
            &other,
            "",
            format!("neighbour http://{other}: what answers there is no peer"),
        ),
        (
            &alive,
            &public,
            format!(
                "neighbour http://{alive} cannot reach {public}: connection refused; open the port \
                 or set PUBLIC_URL"
            ),
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let variables = [
            ("URL_PEERSU", neighbour.as_str()),
            ("PUBLIC_URL", public_url),
        ];
        let said = said_until(home.path(), &variables, &expected);
        assert!(said.last().unwrap().contains("WARN"), "{said:#?}");
    }
}
