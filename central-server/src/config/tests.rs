use proptest::prelude::*;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

fn config(process: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_variables(pairs(process), [])
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let text = Config::default().to_string();
    assert_eq!(
        text,
        "HOST=[::]:51015\nSTORE_URL=redb:data/locator.redb\nLEASE_SECONDS=15\nACCOUNTS=off\nCONTROL_SOCKET=data/locator.redb.sock\nNETWORK_SIZE=64\nNUMBER_OF_ZONES=8\nMETRICS_ADDR=127.0.0.1:51016\nRUST_LOG=info\n"
    );
    for Variable { name, default, .. } in VARIABLES {
        assert!(
            matches!(default, "derived" | "none") || text.contains(&format!("{name}={default}\n"))
        );
        assert!(help().contains(name) && help().contains(default));
    }
}

#[test]
fn every_form_of_host_is_accepted() {
    for (text, shown) in [
        ("10.0.0.7:51015", "10.0.0.7:51015"),
        ("[::1]:1", "[::1]:1"),
        ("locator.example:51015", "locator.example:51015"),
        (":0", ":0"),
    ] {
        assert_eq!(
            config(&[("HOST", text)]).expect(text).host.to_string(),
            shown
        );
    }
}

#[test]
fn a_wrong_value_names_variable_value_and_what_is_accepted() {
    for (name, value) in [
        ("HOST", "nowhere"),
        ("HOST", "1.2.3.4:99999"),
        ("HOST", "a b:1"),
        ("HOST", "h:+1"),
        ("STORE_URL", "redb:"),
        ("STORE_URL", "mysql://x"),
        ("STORE_URL", "redis://"),
        ("STORE_URL", "redis://10.0.0.1"),
        ("STORE_URL", "redis://10.0.0.1:7000/a b"),
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "-1"),
        ("LEASE_SECONDS", "86401"),
        ("LEASE_SECONDS", "9223372036854775808"),
        ("ACCOUNTS", "on"),
        ("ACCOUNTS", "Open"),
        ("METRICS_ADDR", "on"),
        ("NETWORK_SIZE", "5"),
        ("NETWORK_SIZE", "65537"),
        ("NETWORK_SIZE", "many"),
        ("NUMBER_OF_ZONES", "0"),
        ("NUMBER_OF_ZONES", "11"),
        ("NUMBER_OF_ZONES", "-1"),
        ("RUST_LOG", "bogus"),
    ] {
        let message = config(&[(name, value)]).expect_err(value).to_string();
        assert!(
            message.contains(name) && message.contains(value),
            "{message}"
        );
        assert!(message.contains("expected "), "{message}");
    }
}

#[test]
fn a_clusters_password_is_in_a_file_and_never_shown() {
    let url = ("STORE_URL", "redis://10.0.0.1:7000,10.0.0.2:7000");
    let file = ("REDIS_PASSWORD_FILE", "/etc/vecino/redis");
    let config = |vars: &[_]| config(vars).map(|config| config.to_string());
    let shown = config(&[url, file]).expect("valid");
    assert!(
        shown.contains("STORE_URL=redis://10.0.0.1:7000,10.0.0.2:7000\n"),
        "{shown}"
    );
    assert!(
        shown.contains("REDIS_PASSWORD_FILE=/etc/vecino/redis\n"),
        "{shown}"
    );
    let refused = config(&[("STORE_URL", "redis://user:secret@10.0.0.1:7000")]);
    let refused = refused.expect_err("no place for a password").to_string();
    assert!(
        !refused.contains("secret") && refused.contains("REDIS_PASSWORD_FILE"),
        "{refused}"
    );
}

#[test]
fn the_size_of_the_network_decides_how_many_zones_there_may_be() {
    let zones = |vars: &[_]| config(vars).map(|config| config.zones);
    let layout = |slots, zones| Ok(ZoneLayout::new(slots, zones).expect("valid"));
    assert_eq!(zones(&[("NETWORK_SIZE", "24")]), layout(24, 4));
    let six = ("NUMBER_OF_ZONES", "6");
    assert_eq!(zones(&[("NETWORK_SIZE", "36"), six]), layout(36, 6));
    let message = zones(&[("NETWORK_SIZE", "30"), six]).expect_err("5 slots a zone");
    assert!(
        message
            .to_string()
            .contains("1 to 5 (6 to 1024 slots a zone, NETWORK_SIZE=30)")
    );
}

#[test]
fn the_environment_wins_over_the_file_and_empty_is_unset() {
    let process = pairs(&[("HOST", ":1"), ("STORE_URL", ""), ("UNKNOWN", "x")]);
    let file = pairs(&[
        ("HOST", ":2"),
        ("STORE_URL", "memory:"),
        ("METRICS_ADDR", "off"),
    ]);
    let config = Config::from_variables(process, file).expect("valid");
    assert_eq!(config.host.port, 1);
    assert_eq!(config.store, StoreUrl::Memory);
    assert_eq!(config.metrics_addr, None);
}

#[test]
fn the_first_systems_form_of_the_file_is_read() {
    let text = "# the locator\nHOST = \"192.0.2.1:51015\"\nLEASE_SECONDS=3\n";
    let file: Vec<_> = dotenvy::Iter::new(text.as_bytes())
        .collect::<Result<_, _>>()
        .expect("readable");
    let config = Config::from_variables([], file).expect("valid");
    assert_eq!(config.host.to_string(), "192.0.2.1:51015");
    assert_eq!(config.lease, Duration::from_secs(3));
}

proptest! {
    #[test]
    fn a_parsed_host_survives_its_text(text in "[a-z0-9.:\\[\\]-]{0,30}(:[0-9]{1,5})?") {
        if let Ok(listen) = text.parse::<Listen>() {
            prop_assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen));
        }
    }
}
