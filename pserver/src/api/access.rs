//! Who may use which routes. [`Policy::decide`] and [`Policy::decide_for_peers`] are pure; a guard
//! asks them for each request: [`guard`] on client routes, [`guard_lookup`] on those that change
//! nothing whatever their method, [`guard_peers`] on what peers ask of each other.
//!
//! A web page that the user visits must not be able to use the own peer: a `Host` that is a
//! foreign domain name (DNS rebinding) and an `Origin` or `Sec-Fetch-Site` of another site are
//! refused, whoever asks. Between peers any `Host` will do, as neither they nor curl are pages:
//! there only what says by its headers that a browser sent it is looked at.

use std::net::IpAddr;

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, header},
    middleware::Next,
    web,
};
use vecino_rest::{Kind, PeerUrl};

use super::{
    context::Worker,
    error::{ApiError, shown},
};
use crate::config::ApiToken;

/// Who may use the client routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAccess {
    /// Anyone reads; what changes something needs loopback or the token.
    #[default]
    Open,
    /// Loopback, or the token.
    Loopback,
    /// The token.
    Token,
}

impl ClientAccess {
    /// The access of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "open" => Some(Self::Open),
            "loopback" => Some(Self::Loopback),
            "token" => Some(Self::Token),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Loopback => "loopback",
            Self::Token => "token",
        }
    }
}

/// What is known of a request before its handler runs.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Whether it may change something.
    pub changes: bool,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// The address of this machine that it came to.
    pub to: Option<IpAddr>,
    /// `Host`, or the authority of HTTP/2.
    pub host: &'a str,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a str>,
    /// Whether there is any `Sec-Fetch-*`.
    pub is_fetch: bool,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
}

impl Facts<'_> {
    /// Whether it comes from the peer's own machine: from loopback, or from the very address that
    /// it came to.
    fn is_from_own_machine(&self) -> bool {
        let from = self.from.map(|ip| ip.to_canonical());
        from.is_some_and(|ip| ip.is_loopback())
            || from.is_some() && from == self.to.map(|ip| ip.to_canonical())
    }
}

/// Who may do what.
#[derive(Debug)]
pub struct Policy {
    /// The setting.
    pub access: ClientAccess,
    /// The token, when there is one.
    pub token: Option<ApiToken>,
    /// The URL that the operator gave: its host is this peer, too.
    pub public_url: Option<PeerUrl>,
}

impl Policy {
    /// Whether a request may go on.
    pub fn decide(&self, facts: &Facts<'_>) -> Result<(), ApiError> {
        refuse_foreign_site(facts, self.public_url.as_ref())?;
        let presented = facts.authorization.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let has_token = match (presented, &self.token) {
            (Some(presented), Some(token)) if token.matches(presented) => true,
            (Some(_), Some(_)) => {
                return Err(ApiError::new(Kind::Unauthorized, "the token is wrong"));
            }
            _ => false,
        };
        let is_near = facts.is_from_own_machine();
        let allowed = has_token
            || match self.access {
                ClientAccess::Open => !facts.changes || is_near,
                ClientAccess::Loopback => is_near,
                ClientAccess::Token => false,
            };
        if allowed {
            return Ok(());
        }
        Err(match self.token {
            Some(_) => ApiError::new(
                Kind::Unauthorized,
                "send 'Authorization: Bearer TOKEN' (the client: API_TOKEN_FILE)",
            ),
            None => ApiError::new(
                Kind::Forbidden,
                "only from the peer's own machine: no API_TOKEN_FILE is set there",
            ),
        })
    }

    /// Whether a request may go on that peers, and any HTTP client, may make.
    pub fn decide_for_peers(&self, facts: &Facts<'_>) -> Result<(), ApiError> {
        if facts.origin.is_some() || facts.is_fetch {
            return refuse_foreign_site(facts, self.public_url.as_ref());
        }
        Ok(())
    }
}

fn refuse_foreign_site(facts: &Facts<'_>, public_url: Option<&PeerUrl>) -> Result<(), ApiError> {
    let refuse = |what: &str, value: &str| {
        let value = shown(value);
        Err(ApiError::new(
            Kind::ForeignOrigin,
            format!(
                "{what} {value:?} is not this peer: use its IP address, localhost or the host of its PUBLIC_URL"
            ),
        ))
    };
    if !is_own_host(host_of(facts.host), public_url) {
        return refuse("Host", facts.host);
    }
    if let Some(origin) = facts.origin {
        let of_this_host = origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(facts.host));
        if !of_this_host {
            return refuse("Origin", origin);
        }
    }
    match facts.fetch_site {
        Some(site) if !matches!(site, "same-origin" | "none") => refuse("Sec-Fetch-Site", site),
        _ => Ok(()),
    }
}

/// A `Host` without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// An address cannot be rebound to another machine, a name can.
fn is_own_host(host: &str, public_url: Option<&PeerUrl>) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let is_public =
        || public_url.is_some_and(|url| url.host().to_string().eq_ignore_ascii_case(host));
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || is_public()
}

/// The address of this machine that a connection came to; kept with the connection.
#[derive(Debug, Clone, Copy)]
pub struct CameTo(pub IpAddr);

/// Lets a request through to the client routes, or not: `GET` and `HEAD` read.
pub async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    check(&request, changes, Policy::decide)?;
    next.call(request).await
}

/// As [`guard`], for client routes that change nothing whatever their method.
pub async fn guard_lookup(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    check(&request, false, Policy::decide)?;
    next.call(request).await
}

/// Lets a request through to the routes of peers, or not.
pub async fn guard_peers(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    check(&request, false, Policy::decide_for_peers)?;
    next.call(request).await
}

fn check(
    request: &ServiceRequest,
    changes: bool,
    decide: fn(&Policy, &Facts<'_>) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let worker = request
        .app_data::<web::Data<Worker>>()
        .expect("the app has its worker");
    let headers = request.headers();
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("\u{fffd}"))
    };
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let facts = Facts {
        changes,
        from: request.peer_addr().map(|address| address.ip()),
        to: request.conn_data::<CameTo>().map(|CameTo(ip)| *ip),
        host: host.or_else(|| text(header::HOST)).unwrap_or_default(),
        origin: text(header::ORIGIN),
        fetch_site: text(header::HeaderName::from_static("sec-fetch-site")),
        is_fetch: headers
            .keys()
            .any(|name| name.as_str().starts_with("sec-fetch-")),
        authorization: text(header::AUTHORIZATION),
    };
    decide(&worker.shared.policy, &facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-some-length";

    fn facts<'a>() -> Facts<'a> {
        Facts {
            changes: false,
            from: Some("10.0.0.9".parse().expect("address")),
            to: Some("10.0.0.4".parse().expect("address")),
            host: "10.0.0.4:80",
            origin: None,
            fetch_site: None,
            is_fetch: false,
            authorization: None,
        }
    }

    fn kind(access: ClientAccess, token: bool, facts: &Facts<'_>) -> Option<Kind> {
        let policy = Policy {
            access,
            token: token.then(|| ApiToken::new(TOKEN)),
            public_url: PeerUrl::parse("http://peer.example:80").ok(),
        };
        policy
            .decide(facts)
            .err()
            .and_then(|error| error.into_problem().kind())
    }

    #[test]
    fn access_is_as_configured() {
        use ClientAccess::{Loopback, Open, Token};
        let near = Some("127.0.0.1".parse().expect("address"));
        let bearer = format!("bearer {TOKEN}");
        let (read, change) = (
            facts(),
            Facts {
                changes: true,
                ..facts()
            },
        );
        for (access, token, facts, expected) in [
            (Open, false, read, None),
            (Open, false, change, Some(Kind::Forbidden)),
            (Open, true, change, Some(Kind::Unauthorized)),
            (
                Open,
                false,
                Facts {
                    from: near,
                    ..change
                },
                None,
            ),
            (
                Open,
                true,
                Facts {
                    authorization: Some(&bearer),
                    ..change
                },
                None,
            ),
            (
                Open,
                true,
                Facts {
                    authorization: Some("Bearer wrong"),
                    ..read
                },
                Some(Kind::Unauthorized),
            ),
            (Loopback, false, read, Some(Kind::Forbidden)),
            (
                Loopback,
                false,
                Facts {
                    from: near,
                    ..change
                },
                None,
            ),
            (
                Token,
                true,
                Facts { from: near, ..read },
                Some(Kind::Unauthorized),
            ),
            (
                Token,
                true,
                Facts {
                    authorization: Some(&bearer),
                    ..change
                },
                None,
            ),
            (
                Token,
                true,
                Facts { from: None, ..read },
                Some(Kind::Unauthorized),
            ),
        ] {
            assert_eq!(
                kind(access, token, &facts),
                expected,
                "{access:?} {token} {facts:?}"
            );
        }
    }

    #[test]
    fn the_address_that_a_request_came_to_is_the_own_machine() {
        let change = Facts {
            changes: true,
            ..facts()
        };
        for (from, to, expected) in [
            ("10.0.0.4", Some("10.0.0.4"), None),
            ("::ffff:10.0.0.4", Some("10.0.0.4"), None),
            ("10.0.0.4", Some("127.0.0.1"), Some(Kind::Forbidden)),
            ("10.0.0.4", None, Some(Kind::Forbidden)),
            ("10.0.0.9", Some("10.0.0.4"), Some(Kind::Forbidden)),
        ] {
            let address = |text: &str| text.parse().expect("address");
            let facts = Facts {
                from: Some(address(from)),
                to: to.map(address),
                ..change
            };
            let access = ClientAccess::Open;
            assert_eq!(kind(access, false, &facts), expected, "{from} {to:?}");
        }
        let unknown = Facts {
            from: None,
            to: None,
            ..change
        };
        assert!(kind(ClientAccess::Open, false, &unknown).is_some());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let near = Facts {
            from: Some("::1".parse().expect("address")),
            ..facts()
        };
        let refused = Some(Kind::ForeignOrigin);
        for (facts, expected) in [
            (
                Facts {
                    host: "evil.example",
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    host: "evil.example:80",
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    host: "localhost.evil.example",
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    host: "127.0.0.1.evil.example:80",
                    ..near
                },
                refused,
            ),
            (Facts { host: "", ..near }, refused),
            (
                Facts {
                    host: "localhost:80",
                    ..near
                },
                None,
            ),
            (
                Facts {
                    host: "[::1]:80",
                    ..near
                },
                None,
            ),
            (
                Facts {
                    host: "peer.example:80",
                    ..near
                },
                None,
            ),
            (
                Facts {
                    origin: Some("http://evil.example"),
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    origin: Some("null"),
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    origin: Some("http://10.0.0.4:81"),
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    origin: Some("http://10.0.0.4:80"),
                    ..near
                },
                None,
            ),
            (
                Facts {
                    fetch_site: Some("cross-site"),
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    fetch_site: Some("same-site"),
                    ..near
                },
                refused,
            ),
            (
                Facts {
                    fetch_site: Some("same-origin"),
                    ..near
                },
                None,
            ),
        ] {
            assert_eq!(
                kind(ClientAccess::Open, false, &facts),
                expected,
                "{facts:?}"
            );
        }
    }
}
