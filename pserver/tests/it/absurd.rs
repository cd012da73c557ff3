//! Queries, ranges, methods and routes that nobody sends in earnest: said what is wrong with them.

use vecino_rest::{Kind, route};

use crate::{
    hostile::{is_refused, stage},
    support::{content::Content, http::Request},
};

#[tokio::test(flavor = "multi_thread")]
async fn absurd_queries_are_refused_and_said_so() {
    let (_stage, own, _neighbour) = stage().await;
    let huge = "9".repeat(400);
    let long = "a".repeat(20_000);
    let mut targets = Vec::new();
    for list in [route::FILES, "/v1/search?q=a&x=", route::DOWNLOADS] {
        let join = if list.contains('?') { '&' } else { '?' };
        for query in [
            "limit=0",
            "limit=-1",
            "limit=1001",
            "limit=abc",
            "limit=1.5",
            "limit=%00",
            "limit=",
            "limit=99999999999999999999",
            "limit=1&limit=2",
            "cursor=%00",
            "cursor=!!!",
            "cursor=%ff",
            "cursor=Li4vLi4vZXRjL3Bhc3N3ZA",
            "cursor=gICAgA",
        ] {
            if list == route::DOWNLOADS && query.is_empty() {
                continue;
            }
            targets.push(format!("{list}{join}{query}"));
        }
        targets.push(format!("{list}{join}limit={huge}"));
        targets.push(format!("{list}{join}cursor={long}"));
    }
    for query in [
        "digest=",
        "digest=xyz",
        "digest=00",
        "digest=%00",
        "from=",
        "from=xyz",
        "from=ftp://a:1",
        "from=file:///etc/passwd",
        "from=http://169.254.169.254:80",
        "from=http://169.254.169.254",
        "from=http://2852039166:80",
        "from=http://[fe80::1]:80",
        "from=http://[::ffff:169.254.169.254]:80",
        "from=http://0.0.0.0:80",
        "from=http://224.0.0.1:80",
        "from=http://a:80/path",
        "from=http://user@a:80",
        "from=http://u:p@a:80",
        "from=http://a:80%23f",
        "from=http://a:80?q=1",
        "from=http://a:0",
        "from=http://a%0d%0a:80",
        "from=javascript:alert(1)",
    ] {
        targets.push(format!("/v1/files/b.txt?{query}"));
    }
    targets.extend([
        "/v1/search".to_owned(),
        "/v1/search?q=".to_owned(),
        "/v1/search?q=%20".to_owned(),
        format!("/v1/search?q={long}"),
        "/v1/search?q=a&type=..%2f".to_owned(),
        format!("/v1/search?type={long}"),
        "/v1/blobs/xyz".to_owned(),
        "/v1/blobs/00".to_owned(),
        "/v1/blobs/..%2f..%2fsecret.txt".to_owned(),
        "/v1/blobs/xyz/pieces".to_owned(),
        format!("/v1/blobs/{}", "0".repeat(64)),
        format!("/v1/blobs/{}/pieces", "0".repeat(64)),
        "/v1/downloads/0".to_owned(),
        "/v1/downloads/-1".to_owned(),
        "/v1/downloads/99999999999999999999999".to_owned(),
        "/v1/downloads/%00".to_owned(),
        format!("/v1/downloads/{long}"),
    ]);
    for target in targets {
        let response = own.get(&target).await;
        is_refused(&response, &format!("{target:.150}"));
    }
    let from = r#"{"name":"b.txt","from":"http://169.254.169.254:80"}"#;
    is_refused(
        &own.send(&Request::json(route::DOWNLOADS, from)).await,
        from,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_ranges_are_read_as_the_rfc_says() {
    let (_stage, own, _neighbour) = stage().await;
    let content = Content::new("ranges", 1000);
    own.shares("r.bin", &content).await;
    for (range, status) in [
        ("bytes=1000-", 416),
        ("bytes=18446744073709551615-", 416),
        ("bytes=99999999999999999999999-", 416),
        ("bytes=-0", 416),
        ("bytes=5-3", 200),
        ("bytes=a-b", 200),
        ("bytes=", 200),
        ("bytes=-", 200),
        ("bytes=--5", 200),
        ("bytes=+1-2", 200),
        ("lines=0-1", 200),
        ("bytes", 200),
        ("bytes=0-1,5-6", 200),
        ("bytes=0-99999999999999999999999", 206),
        ("bytes=-99999999999999999999", 206),
        ("bytes=999-", 206),
    ] {
        let request = Request::get("/v1/files/r.bin").with("Range", range);
        let response = own.send(&request).await;
        assert_eq!(response.status, status, "{range}");
        match status {
            416 => {
                assert_eq!(response.kind(), Kind::RangeNotSatisfiable);
                assert_eq!(response.header("content-range"), Some("bytes */1000"));
            }
            200 => assert_eq!(response.body, *content.bytes, "{range}"),
            _ => assert!(content.bytes.ends_with(&response.body), "{range}"),
        }
    }
    let bytes = Request::get("/v1/files/r.bin")
        .with("Range", b"bytes=\xff-")
        .with("If-Range", b"\xff")
        .with("If-None-Match", b"\xff");
    assert_eq!(own.send(&bytes).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_routes_are_problems() {
    let (_stage, own, _neighbour) = stage().await;
    let digest = "0".repeat(64);
    for (methods, path) in [
        ("POST PUT DELETE PATCH", "/v1/status"),
        ("POST PUT DELETE PATCH", "/v1/files"),
        ("POST PATCH OPTIONS TRACE BREW", "/v1/files/a.txt"),
        ("POST PUT", "/v1/search"),
        ("POST PUT DELETE", "/v1/locate/a.txt"),
        ("PUT DELETE", "/v1/downloads"),
        ("POST PUT", "/v1/downloads/1"),
        ("PUT DELETE", "/v1/peers"),
        ("GET POST", "/v1/peers/a"),
        ("PUT DELETE", "/v1/discover"),
        ("GET PUT", "/connect"),
        ("GET PUT", "/pedirRecurso"),
        ("PUT DELETE", "/download/a.txt"),
        ("GET", "/v1/neighbour/locate"),
        ("GET", "/v1/neighbour/search"),
        ("POST", "/metrics"),
        ("POST", "/healthz"),
        ("POST", "/readyz"),
        ("POST DELETE", &format!("/v1/blobs/{digest}")),
        ("POST", &format!("/v1/blobs/{digest}/pieces")),
    ] {
        for method in methods.split(' ') {
            let response = own.send(&Request::new(method, path)).await;
            assert_eq!(
                (response.status, response.kind()),
                (405, Kind::MethodNotAllowed),
                "{method} {path}"
            );
        }
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/files",
        "/v1/filesystem",
        "/V1/files",
        "/v1/neighbour",
        "/v1/downloads/1/2",
        &format!("/{}", "a".repeat(9000)),
        "/etc/passwd",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/favicon.ico",
        "//v1/files",
    ] {
        for method in ["GET", "POST", "PUT"] {
            let response = own.send(&Request::new(method, path)).await;
            is_refused(&response, &format!("{method} {path:.100}"));
            assert_eq!((response.status, response.kind()), (404, Kind::NotFound));
        }
    }
}
