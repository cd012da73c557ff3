//! [`Problem`]: the error body of REST v1 (RFC 9457, `application/problem+json`).
//!
//! `type` is stable and what programs branch on; `title` and `detail` are for people. Nothing
//! in a problem speaks of the locator.

use serde::{Deserialize, Serialize};

use crate::body::Variant;

/// The media type of [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Prefix of every `type`.
const TYPE_PREFIX: &str = "urn:vecino:problem:";

/// What went wrong: one stable `type` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Malformed request: body, query, header or method of use.
    BadRequest,
    /// A name that is not a valid [`crate::Name`].
    BadName,
    /// No token, or a wrong one.
    Unauthorized,
    /// Not for this caller, whatever the token.
    Forbidden,
    /// `Host` or `Origin` of another site (DNS rebinding, cross-site request).
    ForeignOrigin,
    /// No such name, digest, download or route.
    NotFound,
    /// The route has no such method.
    MethodNotAllowed,
    /// Several variants share the name; the body lists them.
    Ambiguous,
    /// The name is shared with another content.
    Conflict,
    /// `If-Match` or the like does not hold.
    PreconditionFailed,
    /// Body, name or header above its bound.
    TooLarge,
    /// `Range` outside the content.
    RangeNotSatisfiable,
    /// Not by this peer as it is configured.
    NotSupported,
    /// This peer would not keep what it fetches, or not so much.
    NotKept,
    /// No neighbour answered (or none is configured); nothing can be located now.
    NoNeighbour,
    /// Neighbours answer, but cannot look anything up now.
    LookupFailed,
    /// The file is known, but no provider could deliver it.
    ProviderFailed,
    /// Every provider that delivered sent wrong bytes.
    VerificationFailed,
    /// No link to another peer came about.
    LinkFailed,
    /// The network knows no such user, or not with this password.
    LoginRefused,
    /// Nobody in the network who could log a peer in or out answers.
    NetworkUnreachable,
    /// Too much at once; try again later.
    Busy,
    /// No room on this peer's disk.
    NoSpace,
    /// Disk or permission of this peer.
    Storage,
    /// A fault of this peer.
    Internal,
}

impl Kind {
    const ALL: [(Self, &'static str, u16, &'static str); 25] = [
        (Self::BadRequest, "bad-request", 400, "Bad request"),
        (Self::BadName, "bad-name", 400, "Not a valid name"),
        (Self::Unauthorized, "unauthorized", 401, "Token needed"),
        (Self::Forbidden, "forbidden", 403, "Not allowed"),
        (
            Self::ForeignOrigin,
            "foreign-origin",
            403,
            "Request of a foreign site",
        ),
        (Self::NotFound, "not-found", 404, "Not found"),
        (
            Self::MethodNotAllowed,
            "method-not-allowed",
            405,
            "Method not allowed",
        ),
        (
            Self::Ambiguous,
            "ambiguous",
            300,
            "Several variants share this name",
        ),
        (
            Self::Conflict,
            "conflict",
            409,
            "The name is taken by another content",
        ),
        (
            Self::PreconditionFailed,
            "precondition-failed",
            412,
            "Precondition failed",
        ),
        (Self::TooLarge, "too-large", 413, "Too large"),
        (
            Self::RangeNotSatisfiable,
            "range-not-satisfiable",
            416,
            "Range not satisfiable",
        ),
        (Self::NotSupported, "not-supported", 501, "Not supported"),
        (
            Self::NotKept,
            "not-kept",
            409,
            "This peer would not keep it",
        ),
        (
            Self::NoNeighbour,
            "no-neighbour",
            503,
            "No neighbour answers",
        ),
        (
            Self::LookupFailed,
            "lookup-failed",
            503,
            "Lookups do not work now",
        ),
        (
            Self::ProviderFailed,
            "provider-failed",
            502,
            "No provider could deliver",
        ),
        (
            Self::VerificationFailed,
            "verification-failed",
            502,
            "Wrong bytes from providers",
        ),
        (Self::LinkFailed, "link-failed", 502, "No link to that peer"),
        (
            Self::LoginRefused,
            "login-refused",
            403,
            "Login refused by the network",
        ),
        (
            Self::NetworkUnreachable,
            "network-unreachable",
            503,
            "The network does not answer",
        ),
        (Self::Busy, "busy", 503, "Busy"),
        (Self::NoSpace, "no-space", 507, "No room left"),
        (Self::Storage, "storage", 500, "Storage failed"),
        (Self::Internal, "internal", 500, "Internal error"),
    ];

    fn row(self) -> &'static (Self, &'static str, u16, &'static str) {
        Self::ALL
            .iter()
            .find(|row| row.0 == self)
            .expect("ALL has a row for each kind")
    }

    /// The HTTP status it goes with.
    pub fn status(self) -> u16 {
        self.row().2
    }

    /// Its name in `type`.
    pub fn slug(self) -> &'static str {
        self.row().1
    }

    /// The kind of a `type`; `None` for one that this version does not know.
    pub fn from_type(problem_type: &str) -> Option<Self> {
        let slug = problem_type.strip_prefix(TYPE_PREFIX)?;
        Self::ALL.iter().find(|row| row.1 == slug).map(|row| row.0)
    }

    /// Every kind there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.iter().map(|row| row.0)
    }
}

/// The error body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable identifier of the kind: `urn:vecino:problem:SLUG`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// What was wrong here: the thing, the value, what would be right.
    pub detail: String,
    /// The variants to choose from (`ambiguous` only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// URLs of the neighbours that were tried (`no-neighbour` only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<String>,
}

impl Problem {
    /// A problem of `kind`; `detail` says what was wrong here.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let &(_, slug, status, title) = kind.row();
        Self {
            problem_type: format!("{TYPE_PREFIX}{slug}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            variants: Vec::new(),
            neighbours: Vec::new(),
        }
    }

    /// Its kind; `None` when this version does not know its `type`.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_type(&self.problem_type)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() {
            f.write_str(&self.title)
        } else {
            f.write_str(&self.detail)
        }
    }
}
