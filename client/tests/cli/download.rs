//! Downloads: whole or not there, verified, resumed.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use vecino_rest::{Digest, Kind};

use crate::stage::{Answer, Client, Ending, Peer, await_that, bytes, finish, signal};

const SIZE: usize = 3 << 20;

#[test]
fn a_file_arrives_whole_with_its_report() {
    let content = bytes(SIZE);
    let peer = Peer::with_file(content.clone());
    let client = Client::of(&peer);
    let done = client.run(&["download", "music/a b#?.mp3", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.files(), ["a b#?.mp3"]);
    assert_eq!(client.read("a b#?.mp3"), content);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["digest"], Digest::of(&content).to_string());
    assert_eq!(report["verified"], true);
    assert_eq!(report["path"], "a b#?.mp3");
    assert_eq!(done.stderr, "");
    assert_eq!(peer.seen()[0].uri, "/v1/files/music/a%20b%23%3F.mp3");
}

#[test]
fn an_empty_file_arrives() {
    let peer = Peer::with_file(Vec::new());
    let client = Client::of(&peer);
    assert_eq!(client.run(&["download", "empty"]).code, 0);
    assert_eq!(client.read("empty"), b"");
}

#[test]
fn digest_and_provider_are_passed_on() {
    let content = bytes(100);
    let digest = Digest::of(&content).to_string();
    let peer = Peer::with_file(content);
    let client = Client::of(&peer);
    let from = "http://10.0.0.9:80";
    let done = client.run(&["download", "a", "--digest", &digest, "--from", from]);
    assert_eq!(done.code, 0, "{done:?}");
    let uri = &peer.seen()[0].uri;
    assert!(uri.contains(&format!("digest={digest}")), "{uri}");
    assert!(uri.contains("from=http%3A%2F%2F10.0.0.9%3A80"), "{uri}");
    let id = "07".repeat(16);
    for (from, sent) in [
        ("127.0.0.1:9102", "from=http%3A%2F%2F127.0.0.1%3A9102"),
        (&*id, &*format!("from={id}")),
    ] {
        let done = client.run(&["download", "a", "-o", "-", "--from", from]);
        assert_eq!(done.code, 0, "{done:?}");
        let uri = peer.seen().last().unwrap().uri.clone();
        assert!(uri.contains(sent), "{uri}");
    }
    let done = client.run(&["download", "a", "-o", "-", "--from", "somebody"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(
        done.stderr.contains("host:port") && done.stderr.contains("32 hex digits"),
        "{done:?}"
    );
}

#[test]
fn standard_output_takes_the_content() {
    let peer = Peer::always(Answer::of(200, "hello\n").with("vecino-verified", "none"));
    let client = Client::of(&peer);
    let done = client.run(&["download", "a", "-o", "-"]);
    assert_eq!((done.code, &*done.stdout), (0, "hello\n"));
    assert!(done.stderr.contains("nobody knew a digest"), "{done:?}");
    assert_eq!(client.files().len(), 0);
}

#[test]
fn wrong_bytes_are_never_there() {
    let digest = Digest::of(b"the right ones");
    let peer = Peer::always(
        Answer::of(200, "the wrong ones")
            .with("etag", &format!("\"{digest}\""))
            .with("vecino-verified", "blake3"),
    );
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert_eq!(client.files().len(), 0);
    let done = client.run(&["download", "a", "-o", "-"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stderr.contains("not to be trusted"), "{done:?}");
}

#[test]
fn another_digest_than_asked_for_is_refused() {
    let peer = Peer::with_file(b"one".to_vec());
    let client = Client::of(&peer);
    let other = Digest::of(b"other").to_string();
    let done = client.run(&["download", "a", "--digest", &other]);
    assert_eq!(done.code, 7, "{done:?}");
    assert_eq!(client.files().len(), 0);
}

#[test]
fn without_a_digest_the_user_is_warned() {
    let peer = Peer::always(Answer::of(200, "foreign").with("vecino-verified", "none"));
    let client = Client::of(&peer);
    let done = client.run(&["download", "a", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let warning: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert!(warning["warning"].is_string());
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["verified"], false);
    // A digest that the user knows is enough.
    let digest = Digest::of(b"foreign").to_string();
    let done = client.run(&["download", "a", "-o", "b", "--digest", &digest]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.stderr.contains("warning"), "{done:?}");
}

#[test]
fn a_broken_stream_goes_on_within_the_run() {
    let content = bytes(SIZE);
    let expected = content.clone();
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |seen| {
        let answer = Answer::content(&content, seen);
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => answer.ending_after(SIZE / 3, Ending::Cut),
            1 => answer.ending_after(SIZE / 3, Ending::Cut),
            _ => answer,
        }
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), expected);
    let seen = peer.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[1].offset().unwrap() > 0);
    assert!(seen[2].offset() > seen[1].offset());
}

#[test]
fn a_stream_that_keeps_breaking_is_resumed_by_the_next_run() {
    let content = bytes(SIZE);
    let expected = content.clone();
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |seen| {
        let answer = Answer::content(&content, seen);
        match asked.fetch_add(1, Ordering::SeqCst) {
            // As often as one run asks.
            0..5 => answer.ending_after(SIZE / 8, Ending::Cut),
            _ => answer,
        }
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stderr.contains("run again to resume"), "{done:?}");
    assert!(done.stderr.contains(" in .a.vecino-part;"), "{done:?}");
    assert!(!client.path("a").exists());
    let done = client.run(&["download", "a", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), expected);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(report["resumed"].as_u64().unwrap() > 0);
    assert_eq!(client.files(), ["a"]);
}

#[test]
fn a_problem_after_a_break_decides_the_exit_code() {
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::content(&bytes(SIZE), seen).ending_after(SIZE / 2, Ending::Cut),
        _ => Answer::kind(Kind::VerificationFailed, "every provider sent wrong bytes"),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(!client.path("a").exists());
}

#[test]
fn a_file_that_changed_starts_over() {
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::content(&bytes(SIZE), seen).ending_after(SIZE / 2, Ending::Cut),
        _ => Answer::content(b"another content", seen),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), b"another content");
}

#[test]
fn a_spoiled_part_is_fetched_again() {
    let content = bytes(SIZE);
    let peer = Peer::with_file(content.clone());
    let client = Client::of(&peer);
    let digest = Digest::of(&content);
    client.write(".a.vecino-part", vec![0; SIZE / 2]);
    client.write(
        ".a.vecino-part.json",
        format!(r#"{{"digest":"{digest}","size":{SIZE}}}"#),
    );
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), content);
    assert_eq!(peer.seen().len(), 2);
    assert_eq!(client.files(), ["a"]);
}

#[test]
fn a_part_longer_than_the_file_starts_over() {
    let peer = Peer::start(|seen| match seen.offset() {
        Some(_) => Answer::kind(Kind::RangeNotSatisfiable, "there is nothing there"),
        None => Answer::content(b"short", seen),
    });
    let client = Client::of(&peer);
    client.write(".a.vecino-part", "much longer");
    let digest = Digest::of(b"much longer than short");
    client.write(
        ".a.vecino-part.json",
        format!(r#"{{"digest":"{digest}","size":22}}"#),
    );
    let done = client.run(&["download", "a"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), b"short");
    assert_eq!(client.files(), ["a"]);
}

#[test]
fn ctrl_c_keeps_what_came_and_the_next_run_resumes() {
    for (signal_sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let content = bytes(SIZE);
        let expected = content.clone();
        let asked = AtomicUsize::new(0);
        let peer = Peer::start(move |seen| {
            let answer = Answer::content(&content, seen);
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 => answer.ending_after(SIZE / 2, Ending::Hang),
                _ => answer,
            }
        });
        let client = Client::of(&peer);
        let child = client.start(&["download", "a"]);
        let part = client.path(".a.vecino-part");
        await_that("half of it is there", || {
            part.metadata()
                .is_ok_and(|part| part.len() == SIZE as u64 / 2)
        });
        signal(child.id(), signal_sent);
        let done = finish(child);
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.stderr.contains("run again to resume"), "{done:?}");
        assert!(done.stderr.contains(" in .a.vecino-part;"), "{done:?}");
        assert!(!client.path("a").exists());

        let done = client.run(&["download", "a"]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(client.read("a"), expected);
        assert_eq!(peer.seen()[1].offset(), Some(SIZE / 2));
        assert_eq!(client.files(), ["a"]);
    }
}

#[test]
fn kill_9_leaves_what_the_next_run_resumes() {
    let content = bytes(SIZE);
    let expected = content.clone();
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |seen| {
        let answer = Answer::content(&content, seen);
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => answer.ending_after(SIZE / 2, Ending::Hang),
            _ => answer,
        }
    });
    let client = Client::of(&peer);
    let child = client.start(&["download", "a"]);
    let part = client.path(".a.vecino-part");
    await_that("half of it is there", || {
        part.metadata()
            .is_ok_and(|part| part.len() == SIZE as u64 / 2)
    });
    signal(child.id(), Signal::KILL);
    finish(child);
    assert!(!client.path("a").exists());
    assert_eq!(client.run(&["download", "a"]).code, 0);
    assert_eq!(client.read("a"), expected);
    assert_eq!(peer.seen()[1].offset(), Some(SIZE / 2));
}

#[test]
fn what_exists_is_treated_as_asked() {
    let peer = Peer::with_file(b"new".to_vec());
    let client = Client::of(&peer);
    client.write("a.txt", "old");
    let done = client.run(&["download", "d/a.txt"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stderr.contains("--if-exists"), "{done:?}");
    let done = client.run(&["download", "d/a.txt", "--if-exists", "skip"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(peer.seen().len(), 0, "nothing was asked for");
    assert_eq!(client.read("a.txt"), b"old");
    let done = client.run(&["download", "d/a.txt", "--if-exists", "rename"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a (1).txt"), b"new");
    let done = client.run(&["download", "d/a.txt", "--if-exists", "overwrite"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a.txt"), b"new");
    assert_eq!(client.files(), ["a (1).txt", "a.txt"]);
}

#[test]
fn a_target_that_appears_meanwhile_is_not_replaced() {
    let content = bytes(SIZE);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    let planted = target.clone();
    let peer = Peer::start(move |seen| {
        std::fs::write(&planted, "somebody else's").unwrap();
        Answer::content(&content, seen)
    });
    let done = Client::of(&peer).run(&["download", "a", "-o", target.to_str().unwrap()]);
    assert_eq!(done.code, 9, "{done:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"somebody else's");
}

#[test]
fn a_folder_that_cannot_be_written_is_8() {
    let peer = Peer::with_file(b"new".to_vec());
    let client = Client::of(&peer);
    client.write("file", "no folder");
    for output in ["file/a", "nowhere/a"] {
        let done = client.run(&["download", "a", "-o", output]);
        assert_eq!(done.code, 8, "{done:?}");
    }
    client.write("folder/x", "");
    let done = client.run(&["download", "d/a.txt", "-o", "folder"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("folder/a.txt"), b"new");
}

#[test]
fn a_folder_that_is_missing_is_named_and_not_created() {
    let client = Client::of(&Peer::with_file(b"new".to_vec()));
    for output in ["no/such/dir/file", "no/such/dir/"] {
        let done = client.run(&["download", "a", "-o", output]);
        assert_eq!(done.code, 8, "{done:?}");
        assert!(
            done.stderr.contains("no/such/dir: there is no such folder"),
            "{done:?}"
        );
        assert!(!done.stderr.contains("vecino-part"), "{done:?}");
    }
    assert_eq!(client.files().len(), 0);
}

#[test]
fn overwrite_never_replaces_a_device_or_a_pipe() {
    let content = bytes(SIZE);
    let peer = Peer::with_file(content.clone());
    let client = Client::of(&peer);
    let fifo = client.path("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/dev/null", client.path("null")).unwrap();
    for how in ["error", "skip", "rename", "overwrite"] {
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || std::fs::read(fifo).unwrap())
        };
        let args = ["download", "a", "--if-exists", how, "--json", "-o"];
        let done = client.run(&[&args[..], &["fifo"]].concat());
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(reader.join().unwrap(), content);
        let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(report["path"], "fifo");
        let done = client.run(&[&args[..], &["null"]].concat());
        assert_eq!(done.code, 0, "{done:?}");
    }
    // Not named, but only in the way: then it is what exists.
    let done = client.run(&["download", "fifo"]);
    assert_eq!(done.code, 9, "{done:?}");
    let done = client.run(&["download", "fifo", "--if-exists", "overwrite"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stderr.contains("fifo is a named pipe"), "{done:?}");
    let kind = std::fs::symlink_metadata(&fifo).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
    assert_eq!(client.files(), ["fifo", "null"]);
}

#[test]
fn wrong_bytes_into_a_device_are_7() {
    let digest = Digest::of(b"the right ones");
    let peer = Peer::always(
        Answer::of(200, "the wrong ones")
            .with("etag", &format!("\"{digest}\""))
            .with("vecino-verified", "blake3"),
    );
    let done = Client::of(&peer).run(&["download", "a", "-o", "/dev/null"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stderr.contains("not to be trusted"), "{done:?}");
}

#[test]
fn overwrite_replaces_what_a_link_leads_to() {
    let peer = Peer::with_file(b"new".to_vec());
    let client = Client::of(&peer);
    client.write("real/file", "old");
    std::os::unix::fs::symlink("real/file", client.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", client.path("dangling")).unwrap();
    let args = ["download", "a", "--if-exists", "overwrite", "-o"];
    let done = client.run(&[&args[..], &["link"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("real/file"), b"new");
    assert!(client.path("link").is_symlink());
    let done = client.run(&[&args[..], &["dangling"]].concat());
    assert_eq!(done.code, 9, "{done:?}");
    assert!(client.path("dangling").is_symlink());
    assert_eq!(client.files(), ["dangling", "link", "real"]);
}

#[cfg(target_os = "linux")] // `/dev/full`
#[test]
fn a_full_standard_output_keeps_nothing_and_says_so() {
    let peer = Peer::with_file(bytes(SIZE));
    let client = Client::of(&peer);
    for args in [
        &["download", "a", "-o", "-"][..],
        &["download", "a", "-o", "/dev/full"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let done = finish(client.start_into(args, full.unwrap()));
        assert_eq!(done.code, 8, "{done:?}");
        assert!(!done.stderr.contains("kept"), "{done:?}");
        assert!(done.stderr.contains("not whole"), "{done:?}");
    }
}

#[cfg(target_os = "linux")] // `/proc` tells that it waits
#[test]
fn ctrl_c_is_heard_while_nobody_reads_standard_output() {
    let peer = Peer::with_file(bytes(SIZE));
    let client = Client::of(&peer);
    let child = client.start(&["download", "a", "-o", "-"]);
    // The pipe is full long before the end, and nobody empties it.
    let io = format!("/proc/{}/io", child.id());
    let mut before = String::new();
    let mut same = 0;
    await_that("it writes no more", || {
        let now = std::fs::read_to_string(&io).unwrap_or_default();
        same = if now == before && now.contains("wchar") {
            same + 1
        } else {
            0
        };
        before = now;
        same == 20 && !peer.seen().is_empty()
    });
    signal(child.id(), Signal::INT);
    let mut child = child;
    await_that("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(finish(child).code, 130);
}
