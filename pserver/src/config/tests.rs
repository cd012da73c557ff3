use super::*;

fn config(vars: &[(&str, &str)]) -> Result<Config, String> {
    Config::from_vars(vars.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())))
        .map_err(|error| error.to_string())
}

#[test]
fn the_frozen_variables_are_read() {
    let config = config(&[
        ("URL_Request", "127.0.0.1:51015"),
        ("PORT", "8081"),
        ("URL_PEERSU", "127.0.0.1:8082, http://peer.lan:80/"),
    ])
    .expect("valid");
    assert_eq!(config.locators[0].to_string(), "http://127.0.0.1:51015");
    assert_eq!(config.port, 8081);
    assert_eq!(config.neighbours[1].authority(), "peer.lan:80");
}

#[test]
fn a_wrong_value_is_named_with_what_is_accepted() {
    for (variable, value) in [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("URL_PEERSU", "127.0.0.1"),
        ("URL_Request", "a/b:1"),
        ("BIND", "everywhere"),
        ("PUBLIC_URL", "ftp://a:1"),
        ("PUBLIC_URL", "http://user@a:1"),
        ("CLIENT_ACCESS", "all"),
        ("CLIENT_ACCESS", "token"),
        ("LOCATE_BY", "guess"),
        ("LOCATE_BY", "central,central"),
        ("SITE", "a\nb"),
        ("KEEP", "sometimes"),
        ("CACHE_LIMIT", "0"),
        ("CACHE_LIMIT", "plenty"),
        ("UPLOAD_LIMIT", "1023"),
        ("UPLOAD_LIMIT", "10MB"),
        ("CONGESTION", "bbr"),
        ("DOWNLOAD_LIMIT", "1.5M"),
        ("DOWNLOAD_LIMIT", "16777216T"),
        ("PEER_USER", "ana"),
        ("PEER_PASSWORD_FILE", "/nonexistent/password"),
        ("API_TOKEN_FILE", "/nonexistent/token"),
        ("RUST_LOG", "bogus"),
    ] {
        let error = config(&[(variable, value)]).expect_err(variable);
        assert!(
            error.starts_with(&format!("{variable}={value:?}: ")),
            "{error}"
        );
    }
}

#[test]
fn limits_are_read_and_printed_and_none_by_default() {
    let unset = config(&[]).expect("valid");
    assert_eq!(unset.keep, Keep::Always);
    assert_eq!((unset.cache_limit, unset.upload_limit), (None, None));
    let set = config(&[
        ("KEEP", "never"),
        ("CACHE_LIMIT", "20 GiB"),
        ("UPLOAD_LIMIT", "1500K"),
        ("CONGESTION", "system"),
        ("DOWNLOAD_LIMIT", "2000000"),
    ])
    .expect("valid");
    assert_eq!(set.keep, Keep::Never);
    assert_eq!(set.cache_limit, Some(20 << 30));
    assert_eq!(set.upload_limit, Some(1500 << 10));
    assert_eq!(set.download_limit, Some(2_000_000));
    assert_eq!(unset.congestion, Congestion::Loss);
    let printed = set.print();
    for line in [
        "KEEP=never",
        "CACHE_LIMIT=20G",
        "UPLOAD_LIMIT=1500K",
        "CONGESTION=system",
        "DOWNLOAD_LIMIT=2000000",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{printed}");
    }
    // Every variable of --help is printed, in its order.
    let names = printed
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0));
    assert!(names.eq(VARIABLES.iter().map(|row| row.0)));
}

#[test]
fn the_token_is_never_printed() {
    let mut config = config(&[]).expect("valid");
    config.api_token = Some(ApiToken::new("sesame-sesame-sesame"));
    assert!(!config.print().contains("sesame"));
    assert!(!format!("{config:?}").contains("sesame"));
    assert!(
        config
            .api_token
            .is_some_and(|t| t.matches("sesame-sesame-sesame"))
    );
}

#[test]
fn user_and_password_come_together_and_the_password_is_never_printed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("password").display().to_string();
    let with = |content: &str, user: &str| {
        std::fs::write(&path, content).expect("writes");
        config(&[("PEER_USER", user), ("PEER_PASSWORD_FILE", &path)])
    };
    let config = with("sesame of ana\nmore", "ana").expect("valid");
    let printed = config.print() + &format!("{config:?}");
    assert!(printed.contains("PEER_USER=ana\n") && !printed.contains("sesame"));
    let known = config.credentials.expect("set");
    assert_eq!(known.password, "sesame of ana");
    let long = "x".repeat(1025);
    for (content, user, variable) in [
        ("", "ana", "PEER_PASSWORD_FILE"),
        ("\nsesame", "ana", "PEER_PASSWORD_FILE"),
        (&*long, "ana", "PEER_PASSWORD_FILE"),
        ("sesame", "a\u{202e}b", "PEER_USER"),
    ] {
        let error = with(content, user).expect_err(variable);
        assert!(error.starts_with(&format!("{variable}=")), "{error}");
        assert!(!error.contains("sesame"), "{error}");
    }
}

#[test]
fn names_are_exact_but_for_the_first() {
    let read = |vars: &[(&str, &str)]| config(vars).expect("valid");
    assert_eq!(read(&[("port", "1"), ("PORT", "9191")]).port, 9191);
    assert_eq!(read(&[("port", "1")]).port, 80);
    let (exact, loud) = (("URL_Request", "a:1"), ("URL_REQUEST", "b:2"));
    assert_eq!(read(&[loud]).locators[0].to_string(), "http://b:2");
    assert_eq!(read(&[loud, exact]).locators[0].to_string(), "http://a:1");
}
