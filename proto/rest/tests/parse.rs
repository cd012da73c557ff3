//! Properties of everything here that parses text from outside.

use proptest::prelude::*;
use vecino_rest::{Digest, Kind, Name, PeerId, PeerKey, Problem, frozen, name::Fault, piece};

fn fault(text: &str) -> Option<Fault> {
    Name::parse(text).err().map(|error| error.fault)
}

#[test]
fn ordinary_names_are_accepted_unchanged() {
    for text in [
        "a",
        "a.txt",
        "dir/sub/b 1.tar.gz",
        "canción.mp3",
        "100% #1?&=+;.txt",
        "…",
        "日本/語",
        "...",
    ] {
        assert_eq!(Name::parse(text).map(String::from).as_deref(), Ok(text));
    }
}

#[test]
fn a_decomposed_name_is_normalised() {
    assert_eq!(
        Name::parse("cancio\u{301}n").map(String::from).as_deref(),
        Ok("canci\u{f3}n")
    );
}

#[test]
fn hostile_names_are_refused_with_their_fault() {
    assert_eq!(fault(""), Some(Fault::Empty));
    assert_eq!(fault("/etc/passwd"), Some(Fault::Absolute));
    assert_eq!(fault("a//b"), Some(Fault::EmptyPart));
    assert_eq!(fault("a/"), Some(Fault::EmptyPart));
    assert_eq!(fault("../a"), Some(Fault::DotPart));
    assert_eq!(fault("a/../../b"), Some(Fault::DotPart));
    assert_eq!(fault("./a"), Some(Fault::DotPart));
    assert_eq!(fault("..\\a"), Some(Fault::Backslash));
    for c in [
        '\0', '\r', '\n', '\u{7f}', '\u{85}', '\u{1b}', '\u{202e}', '\u{2066}', '\u{feff}',
    ] {
        assert_eq!(fault(&format!("a{c}b")), Some(Fault::Forbidden(c)));
    }
    assert_eq!(fault(&"a".repeat(256)), Some(Fault::PartTooLong));
    assert_eq!(fault(&"a/".repeat(600)), Some(Fault::TooLong));
    assert_eq!(fault(&"e\u{301}".repeat(1_000_000)), Some(Fault::TooLong));
}

#[test]
fn the_longest_name_and_part_are_accepted() {
    assert!(Name::parse(&"a".repeat(255)).is_ok());
    let longest = [&*"a".repeat(255); 4].join("/");
    assert_eq!(longest.len(), 1023);
    assert!(Name::parse(&longest).is_ok());
}

#[test]
fn url_paths_are_decoded_once() {
    let name = Name::parse_url_path("a%2Fb%20c%25.txt").expect("valid");
    assert_eq!(name.as_str(), "a/b c%.txt");
    assert!(Name::parse_url_path("%2e%2e/%2e%2e/etc/passwd").is_err());
    assert!(Name::parse_url_path("%ff%fe").is_err());
    assert_eq!(
        Name::parse_url_path("%252e%252e")
            .map(String::from)
            .as_deref(),
        Ok("%2e%2e")
    );
}

#[test]
fn an_error_repeats_little_of_a_giant_value_and_escapes_it() {
    let message = Name::parse(&format!("\u{1b}[2J{}", "x".repeat(100_000)))
        .expect_err("bad")
        .to_string();
    assert!(message.len() < 400, "{message}");
    assert!(!message.contains('\u{1b}'));
    assert!(
        "y".repeat(100_000)
            .parse::<Digest>()
            .expect_err("bad")
            .to_string()
            .len()
            < 400
    );
}

#[test]
fn every_kind_of_problem_is_found_again_by_its_type() {
    for kind in Kind::all() {
        assert_eq!(Problem::new(kind, "x").kind(), Some(kind));
    }
    assert_eq!(Kind::from_type("about:blank"), None);
}

#[test]
fn a_peer_id_follows_from_its_key_alone() {
    let id = PeerKey::from_bytes([7; 32]).peer_id();
    assert_eq!(id, PeerKey::from_bytes([7; 32]).peer_id());
    assert_ne!(id, PeerKey::from_bytes([8; 32]).peer_id());
    assert!(!format!("{:?}", PeerKey::from_bytes([7; 32])).contains('7'));
}

#[test]
fn frozen_bodies_are_exactly_of_their_form() {
    let connect = |text: &str| serde_json::from_str::<frozen::ConnectBody>(text);
    assert_eq!(
        connect(r#"{"body":["a"]}"#).expect("valid").body,
        ["a".to_owned()]
    );
    for wrong in [
        r#"{"body":"a"}"#,
        r#"{"body":[]}"#,
        r#"{"body":["a","b"]}"#,
        r#"["a"]"#,
        "{}",
    ] {
        assert!(connect(wrong).is_err(), "{wrong}");
    }
    let body = frozen::PedirRecursoBody { body: "a".into() };
    assert_eq!(
        serde_json::to_string(&body).expect("serialises"),
        r#"{"body":"a"}"#
    );
}

proptest! {
    #[test]
    fn a_parsed_name_is_a_fixed_point_and_survives_a_url(text in "\\PC{0,60}") {
        if let Ok(name) = Name::parse(&text) {
            prop_assert_eq!(&Name::parse(name.as_str()).expect("fixed point"), &name);
            let path = name.to_url_path();
            prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)));
            prop_assert_eq!(Name::parse_url_path(&path).expect("round trip"), name);
        }
    }

    #[test]
    fn a_parsed_name_stays_below_its_directory(text in "([./\\\\a%]|\\PC|\\x00|\\.\\.){0,40}") {
        if let Ok(name) = Name::parse(&text) {
            let joined = std::path::Path::new("/root-dir").join(name.as_str());
            prop_assert!(joined.starts_with("/root-dir"));
            prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
            prop_assert_eq!(joined.components().count(), 2 + name.parts().count());
        }
    }

    #[test]
    fn ids_survive_text(bytes in any::<[u8; 32]>(), id in any::<[u8; 16]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        prop_assert_eq!(digest.to_string().to_uppercase().parse::<Digest>(), Ok(digest));
        let peer = PeerId::from_bytes(id);
        prop_assert_eq!(peer.to_string().parse::<PeerId>(), Ok(peer));
    }

    #[test]
    fn anything_else_is_no_id(text in "\\PC{0,80}") {
        let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        prop_assert_eq!(text.parse::<Digest>().is_ok(), hex);
    }

    #[test]
    fn pieces_cover_a_content_once(size in prop_oneof![0..1u64 << 22, 0..=piece::MAX_SIZE]) {
        let layout = piece::Layout::of(size).expect("in bounds");
        prop_assert!(layout.piece_size().is_power_of_two());
        let last = layout.pieces() - 1;
        prop_assert_eq!(layout.range(0).start, 0);
        prop_assert_eq!(layout.range(last).end, size);
        prop_assert!(size == 0 || !layout.range(last).is_empty());
        prop_assert!(layout.range(last + 1).is_empty());
        let offset = size / 3;
        prop_assert!(size == 0 || layout.range(layout.piece_at(offset)).contains(&offset));
    }

    #[test]
    fn the_pieces_of_a_range_are_those_it_touches(size in 1..1u64 << 24, a in 0..1u64 << 24, b in 0..1u64 << 24) {
        let layout = piece::Layout::of(size).expect("in bounds");
        let (start, end) = ((a % size).min(b % size), (a % size).max(b % size));
        let touched = layout.pieces_in(&(start..end));
        for index in 0..layout.pieces() {
            let piece = layout.range(index);
            let overlaps = piece.start < end && start < piece.end && start < end;
            prop_assert_eq!(touched.contains(&index), overlaps);
        }
    }
}
