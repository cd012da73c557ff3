//! Hostile names, bodies, headers and queries: each gets a 4xx that says what was wrong, nothing
//! outside the directories is read or made, and the peer goes on.

use std::fs;

use tempfile::TempDir;
use vecino_rest::Kind;

use crate::support::{
    content::Content,
    http::{Request, Response, find},
    peer::{Peer, files_below},
    stage::Stage,
};

/// What no response may contain: it lies beside the directories of the peer.
const SECRET: &str = "the secret beside the directories";

/// Names as they stand in a URL. `own` is the home of the peer, so `../secret.txt` and
/// `data/peer.key` are there to be found.
fn hostile_paths() -> Vec<Vec<u8>> {
    let long_part = "a".repeat(256);
    let long_name = format!("{}b", "a/".repeat(512));
    let texts = [
        "..",
        ".",
        "../secret.txt",
        "../../own/secret.txt",
        "a/../../secret.txt",
        "./a",
        "a/./b",
        "..%2fsecret.txt",
        "..%2Fsecret.txt",
        "%2e%2e/secret.txt",
        "%2e%2e%2fsecret.txt",
        "%2E%2E%2F%2E%2E%2Fetc%2Fpasswd",
        "..%5csecret.txt",
        "..%5Csecret.txt",
        "..\\secret.txt",
        "a%5cb",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "%2Fetc/passwd",
        "a//b",
        "a/",
        "%c0%ae%c0%ae/secret.txt",
        "%c0%ae%c0%ae%c0%afsecret.txt",
        "%e0%80%ae%e0%80%ae/secret.txt",
        "..%c0%afsecret.txt",
        "..%00/secret.txt",
        "a%00.txt",
        "%00",
        "a%0d%0aX-Injected:%201",
        "a%0ab",
        "a%0db",
        "%1b%5b2Ja",
        "a%7fb",
        "%c2%80",
        "a%c2%85b",
        "%e2%80%aetxt.exe",
        "a%e2%80%ab",
        "%e2%81%a6a",
        "%d8%9ca",
        "%e2%80%a8",
        "%ef%bb%bfa",
        "%e2%80%8b",
        "%ff",
        "a%ff%fe",
        "%80",
        "%ed%a0%80",
        "%f5%80%80%80",
        "%ef%bf%bf",
        "%f3%a0%81%81",
        &long_part,
        &long_name,
        "",
    ];
    let mut paths: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    paths.push("%c3%a9".repeat(128).into_bytes());
    paths.push(format!("ok/{}", "%61".repeat(256)).into_bytes());
    // Bytes that no URL may have as they are.
    paths.extend(
        [
            &b"a\xff"[..],
            b"\xc0\xae\xc0\xae/secret.txt",
            b"a\x00b",
            b"a\x01b",
            b"a\x7fb",
        ]
        .map(<[u8]>::to_vec),
    );
    paths
}

/// The same as JSON strings, quotes included.
fn hostile_json() -> Vec<String> {
    let mut names: Vec<String> = [
        "..",
        "../secret.txt",
        "a/../../secret.txt",
        "/etc/passwd",
        "..\\secret.txt",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "a\r\nX: 1",
        "\u{1b}[2J",
        "\u{7f}",
        "\u{85}",
        "\u{202e}txt.exe",
        "\u{2066}a",
        "\u{feff}a",
        "\u{200b}",
        "\u{2028}",
        "",
    ]
    .iter()
    .map(|name| serde_json::to_string(name).unwrap())
    .collect();
    names.push(format!("\"{}\"", "a".repeat(256)));
    names.push(format!("\"{}b\"", "a/".repeat(512)));
    names.push(r#""\ud800""#.to_owned());
    names
}

pub(crate) async fn stage() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    fs::write(plan.home().join("secret.txt"), SECRET).unwrap();
    let own = plan.holding("a.txt", b"harmless").start().await;
    (stage, own, neighbour)
}

/// A 4xx in `application/problem+json` that leaks nothing and splits no header.
#[track_caller]
pub(crate) fn is_refused(response: &Response, what: &str) {
    assert!(
        (400..500).contains(&response.status),
        "{what}: {} {}",
        response.status,
        response.text()
    );
    assert_eq!(response.header("x-injected"), None, "{what}");
    assert!(find(&response.body, SECRET.as_bytes()).is_none(), "{what}");
    assert!(response.whole, "{what}");
    let problem = response.problem();
    let printable = |c: char| !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
    assert!(
        problem.detail.chars().all(printable),
        "{what}: {:?}",
        problem.detail
    );
    assert!(
        problem.detail.len() < 2000,
        "{what}: an error repeats all of a long value"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_in_urls_are_refused_on_every_route() {
    let (stage, own, _neighbour) = stage().await;
    let before = files_below(stage.home());
    for path in hostile_paths() {
        for (method, prefix) in [
            ("GET", "/v1/files/"),
            ("HEAD", "/v1/files/"),
            ("PUT", "/v1/files/"),
            ("DELETE", "/v1/files/"),
            ("GET", "/v1/locate/"),
            ("GET", "/download/"),
            ("POST", "/download/"),
        ] {
            let target = [prefix.as_bytes(), &path].concat();
            let mut request = Request::new(method, &target);
            if method == "PUT" {
                request = request.body("hostile");
            }
            let response = own.send(&request).await;
            let what = format!("{method} {}", target.escape_ascii());
            if method == "HEAD" {
                assert!((400..500).contains(&response.status), "{what}");
            } else if response.header("content-type").is_none() {
                // Refused by the HTTP parser, before there was a request.
                assert_eq!(response.status, 400, "{what}");
                assert!(path.iter().any(|byte| !byte.is_ascii_graphic()), "{what}");
            } else {
                is_refused(&response, &what);
                assert_eq!(response.kind(), Kind::BadName, "{what}");
            }
        }
    }
    assert_eq!(
        files_below(stage.home()),
        before,
        "a file was made or deleted"
    );
    assert_eq!(own.download("a.txt").await.body, b"harmless");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_in_bodies_are_refused_on_every_route() {
    let (stage, own, _neighbour) = stage().await;
    let before = files_below(stage.home());
    for name in hostile_json() {
        for (path, body) in [
            ("/connect", format!(r#"{{"body":[{name}]}}"#)),
            ("/pedirRecurso", format!(r#"{{"body":{name}}}"#)),
            ("/v1/neighbour/locate", format!(r#"{{"name":{name}}}"#)),
            (
                "/v1/neighbour/locate-many",
                format!(r#"{{"queries":[{{"name":{name}}}]}}"#),
            ),
            ("/v1/downloads", format!(r#"{{"name":{name}}}"#)),
        ] {
            let response = own.send(&Request::json(path, body.clone())).await;
            is_refused(&response, &format!("{path} {body:.200}"));
        }
    }
    assert_eq!(files_below(stage.home()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_bodies_are_refused_and_said_so() {
    let (_stage, own, _neighbour) = stage().await;
    let deep = format!(
        r#"{{"name":{}1{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let broken = [
        "",
        " ",
        "{",
        "}",
        "null",
        "1",
        "[]",
        "\"a\"",
        "{}",
        r#"{"body":}"#,
        r#"{"body":"#,
        "\0",
        "{\"name\":\"a\"",
        "{'name':'a'}",
        r#"{"body":1}"#,
        r#"{"body":[]}"#,
        r#"{"body":["a","b"]}"#,
        r#"{"body":[1]}"#,
        r#"{"body":{"a":1}}"#,
        r#"{"body":null}"#,
        r#"{"name":1}"#,
        r#"{"name":["a"]}"#,
        r#"{"name":null}"#,
        r#"{"name":"a","digest":"zz"}"#,
        r#"{"name":"a","digest":1}"#,
        r#"{"name":"a"} trailing"#,
        &deep,
    ];
    for path in [
        "/connect",
        "/pedirRecurso",
        "/v1/neighbour/locate",
        "/v1/neighbour/locate-many",
        "/v1/downloads",
        "/v1/neighbour/search",
    ] {
        for body in broken {
            if (path.ends_with("search") && body == "{}")
                || path.ends_with("search") && body.starts_with(r#"{"body"#)
                || body.is_empty() && path.ends_with("none")
            {
                continue;
            }
            let response = own.send(&Request::json(path, body)).await;
            if path.ends_with("search") && body.starts_with(r#"{"name"#) {
                // Unknown fields are ignored.
                continue;
            }
            is_refused(&response, &format!("{path} {body:.100}"));
            assert_eq!(response.kind(), Kind::BadRequest, "{path} {body:.100}");
        }
        let response = own
            .send(&Request::json(path, &b"{\"name\":\"\xff\"}"[..]))
            .await;
        is_refused(&response, path);
    }
    let both = r#"{"name":"a","digest":"0000000000000000000000000000000000000000000000000000000000000000"}"#;
    is_refused(
        &own.send(&Request::json("/v1/neighbour/locate", both)).await,
        "name and digest",
    );
    // A body of the first system's wrong shape: 400, exactly.
    assert_eq!(
        own.send(&Request::json("/connect", r#"{"body":"a.txt"}"#))
            .await
            .status,
        400
    );
    assert_eq!(
        own.send(&Request::json("/pedirRecurso", r#"{"body":["a.txt"]}"#))
            .await
            .status,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symbolic_link_leads_nowhere() {
    let (stage, own, _neighbour) = stage().await;
    let outside = TempDir::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), own.shared("out")).unwrap();
    std::os::unix::fs::symlink(stage.home().join("own/secret.txt"), own.shared("link.txt"))
        .unwrap();
    assert_eq!(own.download("link.txt").await.status, 404);
    let response = own.put("out/in.txt", b"escaped").await;
    assert!(
        (400..500).contains(&response.status),
        "{} {}",
        response.status,
        response.text()
    );
    response.problem();
    assert!(files_below(outside.path()).is_empty());
    // Nor does one on the way of a download.
    let content = Content::new("fetched", 100);
    let provider = crate::support::provider::Provider::honest(&content).await;
    stage.announce_provider("out/in.txt", &provider).await;
    std::os::unix::fs::symlink(outside.path(), own.fetched("out")).unwrap();
    own.downloads("out/in.txt", &content).await;
    assert!(files_below(outside.path()).is_empty());
    assert_eq!(own.put("link.txt", b"over the link").await.status, 409);
    assert_eq!(
        fs::read_to_string(stage.home().join("own/secret.txt")).unwrap(),
        SECRET
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_decoded_once() {
    let (stage, own, _neighbour) = stage().await;
    for path in [
        "%252e%252e%252fsecret.txt",
        "%252e%252e/secret.txt",
        "x..%252fsecret.txt",
        "%25252e%25252e%25252fsecret.txt",
        "%252fetc%252fpasswd",
    ] {
        let target = format!("/v1/files/{path}");
        let before = own.get(&target).await;
        assert_eq!(
            (before.status, before.kind()),
            (404, Kind::NotFound),
            "{path}"
        );
        // It is the name that it looks like after decoding once, percent signs included.
        assert_eq!(
            own.send(&Request::new("PUT", &target).body("odd"))
                .await
                .status,
            201
        );
        let decoded = path.replace("%25", "%");
        assert_eq!(fs::read(own.shared(&decoded)).unwrap(), b"odd", "{path}");
        assert_eq!(own.get(&target).await.body, b"odd", "{path}");
        assert_eq!(
            own.get(format!("/download/{path}")).await.body,
            b"odd",
            "{path}"
        );
    }
    let secret = stage.home().join("own/secret.txt");
    assert_eq!(fs::read_to_string(secret).unwrap(), SECRET);
}
