//! Settings, help, version, completions.

use crate::stage::{Answer, Client, Peer};

#[test]
fn a_wrong_setting_is_named_and_ends_with_2() {
    let done = Client::at("http://a/b").run(&["status"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(
        done.stderr.contains("URL_PEERAS=\"http://a/b\""),
        "{done:?}"
    );
    assert!(done.stderr.contains("host:port"), "{done:?}");
    assert_eq!(
        done.stderr
            .lines()
            .filter(|line| line.starts_with("error"))
            .count(),
        1
    );
}

#[test]
fn a_dot_env_file_fills_what_is_unset() {
    let peer = Peer::always(Answer::of(404, ""));
    let client = Client::at("");
    client.write(
        ".env",
        format!("URL_PEERAS = \"{}\"\nPORT = \"80\"\n", peer.authority()),
    );
    assert_eq!(client.run(&["status"]).code, 6);
    assert_eq!(peer.seen().len(), 1);
    let client = client.env("URL_PEERAS", "127.0.0.1:1");
    let done = client.run(&["--print-config"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("URL_PEERAS=127.0.0.1:1\n"), "{done:?}");
    client.write(".env", "URL_PEERAS = \"never closed\n");
    let done = client.run(&["status"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains(".env"), "{done:?}");
}

#[test]
fn the_default_peer_is_this_machine() {
    let done = Client::at("").run(&["--print-config"]);
    assert!(
        done.stdout.contains("URL_PEERAS=127.0.0.1:80\n"),
        "{done:?}"
    );
}

#[test]
fn help_lists_verbs_and_variables_even_with_wrong_settings() {
    let done = Client::at("///").run(&["--help"]);
    assert_eq!(done.code, 0, "{done:?}");
    for word in [
        "download",
        "completions",
        "URL_PEERAS",
        "API_TOKEN_FILE",
        "RUST_LOG",
        "NO_COLOR",
    ] {
        assert!(done.stdout.contains(word), "{word} in {done:?}");
    }
    assert!(
        Client::at("")
            .run(&["--version"])
            .stdout
            .starts_with("client 0.")
    );
}

#[test]
fn a_typo_is_2_with_a_suggestion() {
    let done = Client::at("").run(&["dowload", "a"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("download"), "{done:?}");
    let done = Client::at("").run(&["download", "../../etc/passwd"]);
    assert_eq!(done.code, 2, "{done:?}");
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = Client::at("").run(&["completions", shell]);
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.contains("download"));
    }
}

#[test]
fn a_token_file_is_what_a_peer_takes() {
    let client = Client::at("127.0.0.1:1").env("API_TOKEN_FILE", "token");
    client.write("token", "short\n");
    let done = client.run(&["status"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("API_TOKEN_FILE=\"token\""), "{done:?}");
    assert!(done.stderr.contains("16 to 1024"), "{done:?}");
    client.write("token", "long-enough-for-a-token\n");
    assert_eq!(client.run(&["status"]).code, 6);
}

#[test]
fn a_mistyped_log_level_is_refused() {
    let done = Client::at("").env("RUST_LOG", "bogus").run(&["status"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("RUST_LOG=\"bogus\""), "{done:?}");
}
