//! Folders: all files below a name, each whole or not there, none outside of the folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use vecino_rest::{
    Digest, Kind, Name,
    body::{FileEntry, Origin, Page, Variant},
    route,
};

use crate::stage::{Answer, Client, Done, Ending, Peer, Seen, await_that, bytes, finish, signal};

/// Items of a page, whatever was asked for: all lists here have several.
const PAGE: usize = 3;

/// What an own peer and its network hold.
#[derive(Default, Clone)]
struct Network {
    own: BTreeMap<String, Vec<u8>>,
    shared: Vec<(String, Vec<u8>)>,
    discovered: Vec<(String, Vec<u8>)>,
    cannot_search: Option<Kind>,
}

impl Network {
    fn own(mut self, name: &str, content: &[u8]) -> Self {
        self.own.insert(name.to_owned(), content.to_owned());
        self
    }

    fn shared(mut self, name: &str, content: &[u8]) -> Self {
        self.shared.push((name.to_owned(), content.to_owned()));
        self
    }

    fn answer(&self, seen: &Seen) -> Answer {
        let prefix = seen.query("prefix").unwrap_or_default();
        match seen.path() {
            route::FILES => page(seen, self.own.iter(), &prefix, |name, content| FileEntry {
                name: Name::parse(name).unwrap(),
                digest: Digest::of(content),
                size: content.len() as u64,
                modified_ms: 0,
                origin: Origin::Shared,
            }),
            route::SEARCH => match self.cannot_search {
                Some(kind) => Answer::kind(kind, "no searching here"),
                None => page(seen, pairs(&self.shared), &prefix, variant),
            },
            route::DISCOVER => page(seen, pairs(&self.discovered), &prefix, variant),
            path => {
                let name = Name::parse_url_path(path.strip_prefix("/v1/files/").unwrap()).unwrap();
                self.content(name.as_str(), seen)
            }
        }
    }

    fn content(&self, name: &str, seen: &Seen) -> Answer {
        let digest = seen.query("digest");
        let all = self.own.iter().chain(pairs(&self.shared));
        let mut all = all.chain(pairs(&self.discovered));
        let is_it = |&(other, content): &(&String, &Vec<u8>)| {
            let wanted = digest.as_ref();
            other == name && wanted.is_none_or(|digest| *digest == Digest::of(content).to_string())
        };
        match all.find(is_it) {
            Some((_, content)) => Answer::content(content, seen),
            None => Answer::kind(Kind::NotFound, "nobody has it"),
        }
    }

    fn start(self) -> Peer {
        Peer::start(move |seen| self.answer(seen))
    }
}

fn pairs(files: &[(String, Vec<u8>)]) -> impl Iterator<Item = (&String, &Vec<u8>)> {
    files.iter().map(|(name, content)| (name, content))
}

fn variant(name: &str, content: &[u8]) -> Variant {
    Variant {
        name: Name::parse(name).unwrap(),
        digest: Some(Digest::of(content)),
        size: Some(content.len() as u64),
        modified_ms: None,
        provider_count: 1,
        providers: Vec::new(),
    }
}

fn page<'a, T: serde::Serialize>(
    seen: &Seen,
    files: impl Iterator<Item = (&'a String, &'a Vec<u8>)>,
    prefix: &str,
    item: impl Fn(&str, &[u8]) -> T,
) -> Answer {
    assert!(prefix.ends_with('/'), "{prefix}");
    let mut below: Vec<_> = files.filter(|(name, _)| name.starts_with(prefix)).collect();
    below.sort();
    let start: usize = seen.query("cursor").map_or(0, |text| text.parse().unwrap());
    let end = below.len().min(start + PAGE);
    let items = below[start..end].iter().map(|(n, c)| item(n, c)).collect();
    let next_cursor = (end < below.len()).then(|| end.to_string());
    Answer::json(200, &Page { items, next_cursor })
}

/// All that is below `folder`, as paths relative to it.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn fetched(peer: &Peer) -> Vec<String> {
    let is_content = |seen: &Seen| seen.path().starts_with("/v1/files/");
    let seen = peer.seen();
    let mut paths: Vec<_> = seen
        .iter()
        .filter(|seen| is_content(seen))
        .map(|seen| seen.path().trim_start_matches("/v1/files/").to_owned())
        .collect();
    paths.sort();
    paths
}

fn lines(done: &Done) -> Vec<serde_json::Value> {
    let values = done.stdout.lines().map(serde_json::from_str);
    values.collect::<Result<_, _>>().unwrap()
}

#[test]
fn all_files_below_a_name_arrive_and_no_others() {
    let large = bytes(3 << 20);
    let mut network = Network::default()
        .own("a/docs/own", b"of my peer")
        .own("a/docs/both", b"mine")
        .own("b/docs/other", b"elsewhere")
        .shared("a/docs/both", b"theirs")
        .shared("a/docs/large", &large)
        .shared("a/docs/empty", b"")
        .shared("a/docsx", b"no");
    for index in 0..10 {
        network = network.shared(&format!("a/docs/sub {index}/x/#é?"), &[index; 9]);
    }
    let peer = network.start();
    let client = Client::of(&peer);
    let done = client.run(&["download", "a/docs/"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.files(), ["docs"]);
    assert_eq!(client.read("docs/own"), b"of my peer");
    assert_eq!(client.read("docs/both"), b"mine");
    assert_eq!(client.read("docs/large"), large);
    assert_eq!(client.read("docs/empty"), b"");
    assert_eq!(client.read("docs/sub 7/x/#é?"), [7; 9]);
    assert_eq!(tree(&client.path("docs")).len(), 14);
    assert!(done.stderr.contains("14 of 14 files"), "{done:?}");
    assert_eq!(done.stdout, "");
    // Again, into another folder by name.
    let done = client.run(&["download", "a/docs/", "-o", "new/", "--quiet"]);
    assert_eq!((done.code, &*done.stderr), (0, ""));
    assert_eq!(tree(&client.path("new")), tree(&client.path("docs")));
}

#[test]
fn many_files_cost_one_request_each_over_few_connections() {
    const FILES: usize = 300;
    let mut network = Network::default();
    for index in 0..FILES {
        network = network.shared(&format!("d/{index}"), index.to_string().as_bytes());
    }
    let peer = network.start();
    let client = Client::of(&peer);
    let done = client.run(&["download", "d/"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(tree(&client.path("d")).len(), FILES);
    let seen = peer.seen();
    assert!(seen.iter().all(|seen| seen.method == "GET"));
    assert_eq!(seen.len(), FILES + FILES.div_ceil(PAGE) + 1);
    let connections: BTreeSet<_> = seen.iter().map(|seen| seen.from.unwrap()).collect();
    // Eight for content, and those for the pages.
    assert!(connections.len() <= 10, "{}", connections.len());
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let peer = Network::default()
        .shared("d/a", b"1")
        .shared("d/b", b"2")
        .shared("d/c", b"3")
        .start();
    let client = Client::of(&peer);
    client.write("d/a", "1");
    client.write("d/b", "other");
    let done = client.run(&["download", "d/", "--json"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert_eq!(fetched(&peer), ["d/c"]);
    assert_eq!(client.read("d/b"), b"other");
    let done = client.run(&["download", "d/", "--if-exists", "skip"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(fetched(&peer), ["d/c"]);
    assert!(
        done.stderr.contains("2 there before, 1 skipped"),
        "{done:?}"
    );
    let done = client.run(&["download", "d/", "--if-exists", "rename"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("d/b (1)"), b"2");
    let done = client.run(&["download", "d/", "--if-exists", "overwrite"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("d/b"), b"2");
    assert_eq!(fetched(&peer), ["d/b", "d/b", "d/c"]);
}

#[test]
fn a_file_that_fails_does_not_stop_the_others() {
    let network = Network::default()
        .shared("d/a", b"right")
        .shared("d/b", b"1")
        .shared("d/b", b"22")
        .shared("d/c", b"3")
        .shared("d/d", b"gone")
        .shared("d/e", b"5");
    let peer = Peer::start(move |seen| match seen.path() {
        "/v1/files/d/a" => Answer::of(200, "wrong").with("vecino-verified", "blake3"),
        "/v1/files/d/d" => Answer::kind(Kind::NotFound, "nobody has it"),
        _ => network.answer(seen),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "d/", "--json"]);
    assert!([3, 5, 7].contains(&done.code), "{done:?}");
    assert_eq!(tree(&client.path("d")), [Path::new("c"), Path::new("e")]);
    let values = lines(&done);
    assert_eq!(values.len(), 6);
    let summary = &values[5]["summary"];
    assert_eq!(summary["files"], 5);
    assert_eq!(summary["fetched"], 2);
    assert_eq!(summary["failed"], 3);
    assert_eq!(summary["untried"], 0);
    let code = |name: &str| {
        let value = values.iter().find(|value| value["name"] == name).unwrap();
        value["failed"]["exit_code"].clone()
    };
    assert_eq!((code("d/a"), code("d/b")), (7.into(), 5.into()));
    assert_eq!((code("d/d"), code("d/c")), (3.into(), ().into()));
    // People read which, how many, and what to do.
    let done = client.run(&["download", "d/"]);
    for text in [
        "2 of 5 files",
        "3 failed",
        "d/a: ",
        "d/b: 2 variants",
        "d/d: ",
    ] {
        assert!(done.stderr.contains(text), "{text} in {done:?}");
    }
}

#[test]
fn ambiguous_files_are_hinted_and_a_single_peer_decides_for_itself() {
    let peer = Network::default()
        .shared("d/b", b"1")
        .shared("d/b", b"22")
        .start();
    let client = Client::of(&peer);
    let done = client.run(&["download", "d/"]);
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.stderr.contains("alone, with --digest"), "{done:?}");
    assert!(
        done.stderr.contains(&Digest::of(b"22").to_string()),
        "{done:?}"
    );
    assert_eq!(fetched(&peer), [""; 0]);
    let done = client.run(&["download", "d/", "--from", "10.0.0.9:80"]);
    assert_eq!(done.code, 0, "{done:?}");
    let last = peer.seen().pop().unwrap();
    assert_eq!(last.query("from").unwrap(), "http://10.0.0.9:80");
    assert_eq!(last.query("digest"), None);
}

#[test]
fn nothing_is_written_outside_of_the_folder() {
    let network = Network::default()
        .shared("d/link/a", b"1")
        .shared("d/over", b"2")
        .shared("d/.x.vecino-part", b"3")
        .shared("d/x", b"4");
    let peer = network.start();
    let client = Client::of(&peer);
    client.write("outside/victim", "precious");
    std::fs::create_dir(client.path("d")).unwrap();
    std::os::unix::fs::symlink("../outside", client.path("d/link")).unwrap();
    std::os::unix::fs::symlink("../outside/victim", client.path("d/over")).unwrap();
    let done = client.run(&["download", "d/", "--if-exists", "overwrite"]);
    assert!([8, 9].contains(&done.code), "{done:?}");
    assert!(done.stderr.contains("3 failed"), "{done:?}");
    assert_eq!(client.read("d/x"), b"4");
    assert_eq!(client.read("outside/victim"), b"precious");
    assert_eq!(tree(&client.path("outside")), [Path::new("victim")]);
    // Names that are none do not get that far.
    for hostile in ["d/../../x", "/etc/x", "d//x"] {
        let page = serde_json::json!({ "items": [{ "name": hostile, "provider_count": 1 }] });
        let empty = serde_json::json!({ "items": [] });
        let peer = Peer::start(move |seen| match seen.path() {
            route::SEARCH => Answer::json(200, &page),
            _ => Answer::json(200, &empty),
        });
        let client = Client::of(&peer);
        let done = client.run(&["download", "d/"]);
        assert_ne!(done.code, 0, "{done:?}");
        assert_eq!(client.files().len(), 0);
    }
}

#[test]
fn a_folder_goes_to_a_folder_and_takes_no_digest() {
    let peer = Network::default().shared("d/a", b"1").start();
    let client = Client::of(&peer);
    client.write("file", "x");
    let digest = "0".repeat(64);
    for args in [
        &["--digest", &digest][..],
        &["-o", "-"],
        &["-o", "/dev/stdout"],
        &["--direct"],
    ] {
        let mut all = vec!["download", "d/"];
        all.extend(args);
        let done = client.run(&all);
        assert_eq!(done.code, 2, "{args:?}: {done:?}");
    }
    assert_eq!(client.run(&["download", "d/", "-o", "file"]).code, 9);
    assert_eq!(client.run(&["download", "d/", "-o", "no/where"]).code, 8);
    assert_eq!(client.run(&["download", "/"]).code, 2);
    let done = client.run(&["download", "nothing/"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert_eq!(client.files(), ["file"]);
}

#[test]
fn without_a_search_what_is_known_is_taken() {
    for kind in [
        Kind::NotSupported,
        Kind::NoNeighbour,
        Kind::LookupFailed,
        Kind::BadRequest,
    ] {
        let mut network = Network::default().own("d/own", b"1");
        network.cannot_search = Some(kind);
        network.discovered = vec![("d/found".to_owned(), b"2".to_vec())];
        let peer = network.start();
        let client = Client::of(&peer);
        let (partly, code) = match kind {
            Kind::LookupFailed => (6, 6),
            Kind::BadRequest => (2, 2),
            // That is all there is to know where nobody can search.
            Kind::NoNeighbour => (0, 6),
            _ => (0, 1),
        };
        let done = client.run(&["download", "d/"]);
        assert_eq!(done.code, partly, "{done:?}");
        assert!(done.stderr.contains("cannot be searched"), "{done:?}");
        let there = tree(&client.path("d"));
        assert_eq!(there, [Path::new("found"), Path::new("own")]);
        let done = client.run(&["download", "d/", "--json"]);
        assert_eq!(done.code, partly, "{done:?}");
        let last = done.stdout.lines().last().unwrap();
        let last: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["summary"]["incomplete"], true, "{done:?}");
        // That nothing is known does not mean that nothing is there.
        assert_eq!(client.run(&["download", "e/"]).code, code, "{kind:?}");
    }
}

#[test]
fn ctrl_c_keeps_what_the_next_run_goes_on_from() {
    let large = bytes(3 << 20);
    let mut network = Network::default().shared("d/z", &large);
    for index in 0..20 {
        network = network.shared(&format!("d/{index}"), &[index; 20]);
    }
    let hangs = Arc::new(AtomicBool::new(true));
    let still = hangs.clone();
    let asked: Arc<Mutex<Vec<Option<usize>>>> = Arc::default();
    let log = asked.clone();
    let peer = Peer::start(move |seen| {
        let answer = network.answer(seen);
        if seen.path() != "/v1/files/d/z" {
            return answer;
        }
        log.lock().unwrap().push(seen.offset());
        match still.load(Ordering::SeqCst) {
            true => answer.ending_after(2 << 20, Ending::Hang),
            false => answer,
        }
    });
    let client = Client::of(&peer);
    let child = client.start(&["download", "d/"]);
    let part = client.path("d/.z.vecino-part");
    await_that("all but one are there, and most of that one", || {
        let length = std::fs::metadata(&part).map_or(0, |part| part.len());
        length == 2 << 20 && tree(&client.path("d")).len() == 22
    });
    signal(child.id(), Signal::INT);
    let done = finish(child);
    assert_eq!(done.code, 130, "{done:?}");
    assert!(done.stderr.contains("20 of 21 files are there"), "{done:?}");
    hangs.store(false, Ordering::SeqCst);
    let done = client.run(&["download", "d/"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("d/z"), large);
    assert_eq!(tree(&client.path("d")).len(), 21);
    assert_eq!(*asked.lock().unwrap(), [None, Some(2 << 20)]);
    assert_eq!(fetched(&peer).len(), 22);
}

#[test]
fn what_concerns_all_files_ends_it_at_once() {
    let mut network = Network::default();
    for index in 0..100 {
        network = network.shared(&format!("d/{index}"), b"1");
    }
    let peer = Peer::start(move |seen| match seen.path() {
        path if path.starts_with("/v1/files/") => Answer::kind(Kind::Unauthorized, "no token"),
        _ => network.answer(seen),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "d/"]);
    assert_eq!(done.code, 4, "{done:?}");
    assert!(fetched(&peer).len() <= 16);
    assert!(done.stderr.contains("99 not tried"), "{done:?}");
}

#[test]
fn a_busy_peer_is_asked_again() {
    let network = Network::default().shared("d/a", b"1");
    let busy = AtomicBool::new(true);
    let peer = Peer::start(move |seen| {
        if seen.path() == "/v1/files/d/a" && busy.swap(false, Ordering::SeqCst) {
            return Answer::kind(Kind::Busy, "later");
        }
        network.answer(seen)
    });
    let client = Client::of(&peer);
    assert_eq!(client.run(&["download", "d/"]).code, 0);
    assert_eq!(client.read("d/a"), b"1");
}

#[test]
fn a_limit_counts_for_all_files_together() {
    let mut network = Network::default();
    for index in 0..6 {
        network = network.shared(&format!("d/{index}"), &bytes(8 << 10));
    }
    let peer = network.start();
    let client = Client::of(&peer);
    let begun = Instant::now();
    let done = client.run(&["download", "d/", "--limit", "32K"]);
    assert_eq!(done.code, 0, "{done:?}");
    // 48 KiB at 32 KiB a second, but for a burst.
    assert!(begun.elapsed() > Duration::from_millis(1300));
    assert_eq!(client.run(&["download", "d/", "--limit", "12X"]).code, 2);
}
