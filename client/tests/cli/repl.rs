//! The loop, fed by a pipe.

use rustix::process::Signal;
use std::io::Write;
use vecino_rest::Kind;

use crate::stage::{Answer, Client, Ending, Peer, await_that, bytes, finish, signal};

#[test]
fn the_numbers_of_the_first_system_work() {
    let peer = Peer::with_file(b"hello".to_vec());
    let client = Client::of(&peer);
    let done = client.run_with(&[], "1\nmy file.txt\n1 other.txt\n0\n");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("my file.txt"), b"hello");
    assert_eq!(client.read("other.txt"), b"hello");
    assert!(done.stderr.contains("1  download"), "{done:?}");
    for verb in ["connect", "disconnect", "fetch", "overlay", "repair"] {
        assert!(done.stderr.contains(verb), "{verb}: {done:?}");
    }
    assert_eq!(done.stdout, "");
}

#[test]
fn words_are_those_of_the_command_line() {
    let peer = Peer::with_file(b"hello".to_vec());
    let client = Client::of(&peer);
    let done = client.run_with(&[], "download 'a b' --json -o c\nexit\n");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("c"), b"hello");
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["name"], "a b");
    // Flags of the loop hold for each of its lines.
    let done = client.run_with(&["--json"], "1 d\nquit\n");
    assert!(done.stdout.starts_with('{'), "{done:?}");
    assert_eq!(done.stderr, "");
}

#[test]
fn a_number_takes_the_rest_of_the_line() {
    let peer = Peer::start(|seen| match &*seen.method {
        "PUT" => Answer::kind(Kind::NoSpace, "full"),
        _ => Answer::content(b"hello", seen),
    });
    let client = Client::of(&peer);
    client.write("my file.txt", "x");
    let input = "1 hello from peer 3.txt\n1 a b.txt -o c\n1 'd e' --json\n2 my file.txt\n0\n";
    let done = client.run_with(&[], input);
    assert_eq!(
        client.files(),
        ["d e", "hello from peer 3.txt", "my file.txt"]
    );
    assert!(done.stderr.contains("in quotes"), "{done:?}");
    assert_eq!(
        peer.seen().last().unwrap().path(),
        "/v1/files/my%20file.txt"
    );
    let done = client.run(&["download", "hello", "from", "peer"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("in quotes"), "{done:?}");
    let done = client.run(&["download", "hello", "--what"]);
    assert!(!done.stderr.contains("in quotes"), "{done:?}");
}

#[test]
fn help_is_there_in_every_form() {
    let client = Client::at("127.0.0.1:1");
    for (line, word) in [
        ("download --help", "--if-exists"),
        ("1 -h", "--if-exists"),
        ("help 1", "--if-exists"),
        ("help 2", "--replace"),
        ("? search", "--type"),
        ("?", "completions"),
        ("help", "completions"),
        ("help exit", "Ctrl-D"),
        ("--help", "completions"),
        ("-h", "completions"),
    ] {
        let done = client.run_with(&["--quiet"], &format!("{line}\n0\n"));
        assert!(done.stdout.contains(word), "{line}: {done:?}");
        assert_eq!(done.stderr, "", "{line}");
    }
}

#[test]
fn a_tilde_is_home() {
    let peer = Peer::start(|seen| match &*seen.method {
        "PUT" => Answer::kind(Kind::NoSpace, "full"),
        _ => Answer::content(b"hello", seen),
    });
    let client = Client::of(&peer);
    client.write("home/there", "x");
    let input = "download a -o ~/a\n2\n~/there\nupload ~/there\n0\n";
    let done = client.run_with(&[], input);
    assert_eq!(client.read("home/a"), b"hello");
    let sent: Vec<_> = peer
        .seen()
        .iter()
        .map(|seen| seen.path().to_owned())
        .collect();
    assert_eq!(
        sent,
        ["/v1/files/a", "/v1/files/there", "/v1/files/there"],
        "{done:?}"
    );
}

#[test]
fn an_error_never_ends_the_loop() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/files/there" => Answer::content(b"hello", seen),
        _ => Answer::kind(Kind::NotFound, "nobody has it"),
    });
    let client = Client::of(&peer);
    let input =
        "1\nnot there\nnonsense\ndownload 'open\n1 ../x\n\n   \n1\n\ndownload\nhelp\n1 there\n";
    let done = client.run_with(&[], input);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("there"), b"hello");
    assert!(done.stderr.contains("nobody has it"), "{done:?}");
    assert!(done.stderr.contains("quote"), "{done:?}");
    assert!(done.stderr.contains("try 'help'"), "{done:?}");
    assert!(!done.stderr.contains("try '--help'"), "{done:?}");
    assert!(done.stdout.contains("locate"), "{done:?}");
}

#[test]
fn ctrl_c_cancels_the_command_and_not_the_loop() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/files/slow" => {
            Answer::content(&bytes(1 << 20), seen).ending_after(1 << 19, Ending::Hang)
        }
        _ => Answer::content(b"hello", seen),
    });
    let client = Client::of(&peer);
    let mut child = client.start(&[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1 slow\n1 fast\n").unwrap();
    let part = client.path(".slow.vecino-part");
    await_that("half of it is there", || {
        part.metadata().is_ok_and(|part| part.len() == 1 << 19)
    });
    signal(child.id(), Signal::INT);
    await_that("the next line is run", || client.path("fast").exists());
    stdin.write_all(b"0\n").unwrap();
    let done = finish(child);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("run again to resume"), "{done:?}");
}

#[test]
fn a_signal_between_lines_ends_the_loop() {
    for (signal_sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let peer = Peer::with_file(b"hello".to_vec());
        let client = Client::of(&peer);
        let mut child = client.start(&[]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"1 a\n").unwrap();
        await_that("the line is run", || client.path("a").exists());
        // One that comes before the line is quite done cancels that line only: hence again.
        await_that("the loop ends", || {
            let ended = child.try_wait().unwrap().is_some();
            if !ended {
                signal(child.id(), signal_sent);
            }
            ended
        });
        let done = finish(child);
        assert_eq!(done.code, code, "{done:?}");
        drop(stdin);
    }
}
