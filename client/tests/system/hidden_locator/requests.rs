//! Everything that a client can say to its own peer, rightly and wrongly: requests, verbs of the
//! client, a session of its loop.

use vecino_rest::{Digest, route};

/// A request.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) header: (&'static str, &'static str),
    pub(super) body: String,
}

const NO_HEADER: (&str, &str) = ("Accept", "*/*");

/// Paths to `GET`. The own peer holds `held`; others hold `remote 1`, `remote 2` and, with two
/// contents, `both`.
const PATHS: [&str; 42] = [
    route::DOCTOR,
    "/v1/neighbour/reach/nobody",
    route::STATUS,
    route::PEERS,
    route::METRICS,
    route::OVERLAY,
    "/v1/overlay/nothing",
    route::DISCOVER,
    "/v1/discover?prefix=r&limit=1",
    "/v1/discover?limit=0",
    route::READYZ,
    route::HEALTHZ,
    route::FILES,
    "/v1/files?limit=0",
    "/v1/files?cursor=x",
    "/v1/files/held",
    "/v1/files/both",
    "/v1/files/nobody",
    "/v1/files/..%2Fx",
    "/v1/files/held?digest=x",
    "/v1/files/nobody?from=http://10.1.2.3:4",
    "/v1/locate/remote%201",
    "/v1/locate/both",
    "/v1/locate/nobody",
    "/v1/locate/",
    "/v1/search?q=remote",
    "/v1/search?q=nobody",
    "/v1/search?q=",
    "/v1/search?q=a&cursor=AAAA",
    "/v1/search?q=a&cursor=!",
    "/v1/search?q=a&type=no.such",
    route::DOWNLOADS,
    "/v1/downloads/nothing",
    "/v1/blobs/x",
    "/download/held",
    "/download/nobody",
    "/connect",
    "/",
    "/v1",
    "/v2/nothing",
    "/index.html",
    "/v1/files/",
];

/// Method, path, body.
const CHANGES: [(&str, &str, &str); 39] = [
    (
        "POST",
        route::NEIGHBOUR_REACH,
        r#"{"peer":"07070707070707070707070707070707","url":"http://127.0.0.1:1"}"#,
    ),
    ("POST", route::NEIGHBOUR_REACH, "{}"),
    ("HEAD", "/v1/files/remote%202", ""),
    ("HEAD", "/v1/files/nobody", ""),
    ("DELETE", "/v1/files/nobody", ""),
    ("POST", route::FILES, ""),
    ("OPTIONS", route::FILES, ""),
    ("POST", route::DOWNLOADS, r#"{"name":"nobody"}"#),
    ("POST", route::DOWNLOADS, r#"{"name":"both"}"#),
    ("POST", route::DOWNLOADS, "{}"),
    ("DELETE", "/v1/downloads/nothing", ""),
    ("POST", "/connect", r#"{"body":["remote 1"]}"#),
    ("POST", "/connect", r#"{"body":["nobody"]}"#),
    ("POST", "/connect", "{}"),
    ("POST", "/pedirRecurso", r#"{"body":"remote 1"}"#),
    ("POST", "/pedirRecurso", r#"{"body":"nobody"}"#),
    ("POST", "/pedirRecurso", "{}"),
    ("POST", route::NEIGHBOUR_LOCATE, r#"{"name":"remote 2"}"#),
    ("POST", route::NEIGHBOUR_LOCATE, r#"{"name":"nobody"}"#),
    (
        "POST",
        route::NEIGHBOUR_LOCATE,
        r#"{"name":"both","provider":"x"}"#,
    ),
    ("POST", route::NEIGHBOUR_LOCATE, "{}"),
    ("POST", route::NEIGHBOUR_SEARCH, r#"{"q":"remote"}"#),
    ("POST", route::NEIGHBOUR_SEARCH, r#"{"q":""}"#),
    (
        "POST",
        route::NEIGHBOUR_SEARCH,
        r#"{"q":"a","cursor":"AAAA"}"#,
    ),
    ("POST", "/download/held", ""),
    ("POST", route::REPAIR, ""),
    ("DELETE", route::OVERLAY, ""),
    ("POST", route::DISCOVER, r#"{"wait_ms":2000}"#),
    ("POST", route::DISCOVER, r#"{"ttl":9}"#),
    ("POST", route::DISCOVER, "nonsense"),
    ("POST", route::PEERS, r#"{"url":"127.0.0.1:1"}"#),
    ("POST", route::PEERS, r#"{"url":"https://127.0.0.1:1"}"#),
    ("POST", route::PEERS, "{}"),
    (
        "POST",
        route::SESSION,
        r#"{"user":"ana","password":"wrong"}"#,
    ),
    ("POST", route::SESSION, r#"{"user":"","password":"x"}"#),
    ("POST", route::SESSION, "{}"),
    ("DELETE", route::SESSION, ""),
    ("DELETE", "/v1/peers/nobody", ""),
    ("DELETE", "/v1/peers", ""),
];

/// Path, header.
const WITH_HEADER: [(&str, (&str, &str)); 6] = [
    ("/v1/files/held", ("Range", "bytes=1-2")),
    ("/v1/files/held", ("Range", "bytes=99-")),
    ("/v1/files/remote%202", ("If-None-Match", "*")),
    (route::STATUS, ("Host", "attacker.example")),
    (route::STATUS, ("Origin", "http://attacker.example")),
    (route::STATUS, ("Authorization", "Bearer x")),
];

/// All of them; `fresh` is fetched into the peer.
pub(super) fn all(fresh: &str) -> Vec<Request> {
    let request = |method, path: &str, header, body: &str| Request {
        method,
        path: path.to_owned(),
        header,
        body: body.to_owned(),
    };
    let get = |path: &str| request("GET", path, NO_HEADER, "");
    let mut all: Vec<Request> = PATHS.iter().map(|path| get(path)).collect();
    let held = Digest::of(b"held here");
    all.push(get(&route::blob(&held)));
    all.push(get(&route::pieces(&held)));
    all.push(get(&format!("/v1/files/nobody?digest={held}")));
    for (path, header) in WITH_HEADER {
        all.push(request("GET", path, header, ""));
    }
    for (method, path, body) in CHANGES {
        all.push(request(method, path, NO_HEADER, body));
    }
    for (method, body) in [
        ("PUT", "put"),
        ("PUT", "put"),
        ("PUT", "conflict"),
        ("DELETE", ""),
    ] {
        all.push(request(method, "/v1/files/put%20here", NO_HEADER, body));
    }
    let wanted = serde_json::json!({ "name": fresh }).to_string();
    all.push(request("POST", route::DOWNLOADS, NO_HEADER, &wanted));
    all
}

/// What can be said to the client.
pub(super) const VERBS: &[&[&str]] = &[
    &["status"],
    &["doctor"],
    &["peers"],
    &["list"],
    &["locate", "remote 2"],
    &["locate", "both"],
    &["locate", "nobody"],
    &["search", "remote"],
    &["search", "nobody"],
    &["search", "--type", "no.such", "a"],
    &["download", "held", "--if-exists", "overwrite"],
    &["download", "both"],
    &["download", "nobody"],
    &["download", "nobody", "--from", "http://10.1.2.3:4"],
    &["download", "nobody", "--direct"],
    &["download", "held", "-o", "-"],
    &["overlay"],
    &["repair"],
    &["fetch", "--wait", "2"],
    &["list", "--network"],
    &["connect", "127.0.0.1:1"],
    &["disconnect", "nobody"],
    &["login", "ana", "--password-file", "file"],
    &["login", "ana"],
    &["logout"],
    &["upload", "file"],
    &["upload", "no such file"],
    &["download"],
    &["nonsense"],
    &["--print-config"],
    &["--help"],
    &["completions", "bash"],
];

/// What is typed into the client's loop.
pub(super) const LOOP: &str = "status\ndoctor\npeers\noverlay\nrepair\nfetch\nlocate both\nlocate nobody\nsearch remote\n\
    1\nnobody\ndownload both\nnonsense\nhelp\nlogin ana\nwrong\nlogout\nlist\n0\n";
