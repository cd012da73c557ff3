//! [`told`]: a problem of the own peer in words for who types commands.
//!
//! The peer's details advise whoever speaks HTTP; what to type instead is in our hints.

use vecino_rest::Problem;

/// What only HTTP knows.
const HTTP: [&str; 7] = [
    "?digest=",
    "?from=",
    "give q",
    "query string",
    "Authorization",
    "If-Match",
    "If-None-Match",
];

/// The detail up to the clause that speaks HTTP; the title where nothing else is left.
pub(crate) fn told(problem: &Problem) -> &str {
    let detail = &*problem.detail;
    let speaks_http = HTTP.iter().filter_map(|word| detail.find(word)).min();
    let told = match speaks_http {
        None => detail,
        Some(at) => {
            let end = detail[..at].rfind([':', ';']);
            detail[..end.unwrap_or_default()].trim_end()
        }
    };
    if told.is_empty() {
        &problem.title
    } else {
        told
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::Kind;

    use super::*;

    #[test]
    fn advice_about_http_is_left_out() {
        for (kind, detail, expected) in [
            (
                Kind::Ambiguous,
                "2 variants share this name: choose one with ?digest=",
                "2 variants share this name",
            ),
            (
                Kind::Conflict,
                "\"a: b\" is shared with another content, digest 12: choose another name, or \
                 replace it with 'If-Match: \"12\"'",
                "\"a: b\" is shared with another content, digest 12",
            ),
            (
                Kind::BadRequest,
                "nothing to search for: give q, type, or both",
                "nothing to search for",
            ),
            (Kind::BadRequest, "If-Match: not a digest", "Bad request"),
            (
                Kind::Unauthorized,
                "send 'Authorization: Bearer TOKEN' (the client: API_TOKEN_FILE)",
                "Token needed",
            ),
            (Kind::NotFound, "", "Not found"),
            (Kind::NotFound, "nobody: has it", "nobody: has it"),
        ] {
            assert_eq!(told(&Problem::new(kind, detail)), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_detail_is_told(detail in "\\PC{0,20}(If-Match|[?]digest=|: |; |é){0,4}\\PC{0,20}") {
            let problem = Problem::new(Kind::Conflict, detail);
            proptest::prop_assert!(!told(&problem).is_empty());
        }
    }
}
