//! Names of users and passwords.

use proptest::prelude::*;
use vecino_rest::user::{MAX_PASSWORD_BYTES, MAX_USER_BYTES, UserName, check_password, first_line};

#[test]
fn printable_names_are_users_in_one_form() {
    for name in [
        "ana",
        "Ana García",
        "o'neil \"x\" \\",
        "日本",
        "a@b.example",
    ] {
        assert_eq!(UserName::parse(name).expect(name).as_str(), name);
    }
    let composed = UserName::parse("Jose\u{301}").expect("valid");
    assert_eq!(composed.as_str(), "Jos\u{e9}");
    assert!(UserName::parse(&"a".repeat(MAX_USER_BYTES)).is_ok());
}

#[test]
fn what_cannot_be_seen_or_is_too_long_is_no_user() {
    let long = "a".repeat(MAX_USER_BYTES + 1);
    for name in [
        "",
        " ",
        " a",
        "a ",
        "a\n",
        "a\tb",
        "\u{202e}a",
        "a\u{200b}b",
        "\u{a0}a",
        "a\u{a0}b",
        "\u{301}",
        "a\u{0}",
        &long,
    ] {
        let error = UserName::parse(name).expect_err(name).to_string();
        assert!(error.contains("1 to 64 bytes"), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

#[test]
fn passwords_are_bounded_and_otherwise_free() {
    assert!(check_password("x").is_ok() && check_password(&"é".repeat(512)).is_ok());
    assert!(check_password("").is_err());
    assert!(check_password(&"x".repeat(MAX_PASSWORD_BYTES + 1)).is_err());
    assert_eq!(first_line(" a b \r\nc"), " a b ");
    assert_eq!(first_line(""), "");
}

proptest! {
    #[test]
    fn a_parsed_user_parses_to_itself_and_prints_on_one_line(text in "\\PC{0,80}") {
        if let Ok(user) = UserName::parse(&text) {
            prop_assert_eq!(UserName::parse(user.as_str()), Ok(user.clone()));
            prop_assert!(!user.as_str().contains(char::is_control));
        }
    }
}
