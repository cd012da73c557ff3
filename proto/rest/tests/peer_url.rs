//! URLs of peers: what is accepted, in which spelling, and which addresses a provider may have.

use proptest::prelude::*;
use vecino_rest::PeerUrl;

fn read(text: &str) -> Option<String> {
    PeerUrl::parse(text).ok().map(|url| url.to_string())
}

fn endpoint(text: &str) -> Option<String> {
    PeerUrl::parse_endpoint(text, Some(80))
        .ok()
        .map(|url| url.to_string())
}

#[test]
fn ordinary_urls_are_accepted_in_one_spelling() {
    for (url, normal) in [
        ("http://192.0.2.1:80", "http://192.0.2.1:80"),
        (
            "HTTPS://Files.Example.ORG:8443",
            "https://files.example.org:8443",
        ),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]:80"),
        ("http://[::ffff:192.0.2.1]:80", "http://192.0.2.1:80"),
    ] {
        assert_eq!(read(url).as_deref(), Some(normal));
    }
}

#[test]
fn endpoints_are_read_as_people_write_them() {
    let peer = Some("http://10.0.0.1:8080".to_owned());
    for text in [
        "10.0.0.1:8080",
        "http://10.0.0.1:8080",
        "http://10.0.0.1:8080/",
    ] {
        assert_eq!(endpoint(text), peer);
    }
    assert_eq!(
        endpoint("localhost").as_deref(),
        Some("http://localhost:80")
    );
    assert_eq!(endpoint("[::1]").as_deref(), Some("http://[::1]:80"));
    assert_eq!(endpoint("https://a:444").as_deref(), Some("https://a:444"));
    assert!(PeerUrl::parse_endpoint("localhost", None).is_err());
}

#[test]
fn other_forms_are_refused() {
    for authority in [
        "",
        ":80",
        "a:",
        "a:0",
        "a:+80",
        "a:65536",
        "a b:80",
        "a..b:80",
        ".a:80",
        "a:80/x",
        "a:80//",
        "a:80?q",
        "a:80#f",
        "u@a:80",
        "u:p@a:80",
        "a:80\r\nX: y",
        "::1:80",
        "[::1:80",
        "[fe80::1%eth0]:80",
        "a\u{1b}[2J:80",
        "127.1:80",
        "2130706433:80",
        "0x7f.0x1:80",
        "0xa9fe.0xa9fe:80",
        "a.1:80",
    ] {
        assert_eq!(endpoint(authority), None, "{authority:?}");
        assert_eq!(read(&format!("http://{authority}")), None, "{authority:?}");
    }
    for url in [
        "a:80",
        "ftp://a:80",
        "file:///etc/passwd",
        "http://a",
        "http://a:80/",
    ] {
        assert_eq!(read(url), None, "{url}");
    }
    assert_eq!(read(&format!("http://{}:80", "a.".repeat(128))), None);
}

#[test]
fn no_provider_has_an_address_that_is_everybodys_own() {
    let fault = |host: &str, on_loopback| {
        PeerUrl::parse(&format!("http://{host}:80"))
            .expect("of the form")
            .fault(on_loopback)
    };
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "[::]",
    ] {
        assert!(
            fault(host, false).is_some() && fault(host, true).is_some(),
            "{host}"
        );
    }
    for host in [
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "a.localhost.",
    ] {
        assert!(
            fault(host, false).is_some() && fault(host, true).is_none(),
            "{host}"
        );
    }
    for host in ["10.0.0.4", "192.168.1.1", "[2001:db8::1]", "peer.example"] {
        assert_eq!(fault(host, false), None, "{host}");
    }
}

#[test]
fn an_error_repeats_little_of_a_giant_value() {
    let message = PeerUrl::parse(&"x".repeat(100_000))
        .expect_err("wrong")
        .to_string();
    assert!(message.len() < 300, "{message}");
}

proptest! {
    #[test]
    fn what_is_read_is_printed_and_read_again(text in "\\PC{0,40}|(https?://)?[a-z0-9.:\\[\\]/?#@-]{0,20}(:[0-9]{1,5})?") {
        if let Ok(url) = PeerUrl::parse_endpoint(&text, Some(80)) {
            let printed = url.to_string();
            prop_assert!(printed.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(printed.matches('/').count(), 2);
            prop_assert!(!printed.contains(['?', '#', '@']));
            prop_assert_eq!(PeerUrl::parse(&printed), Ok(url));
        }
    }
}
