//! The one place where errors of the domain become REST problems.
//!
//! Invariant: a detail speaks of what the client sent or of peers, never of where a lookup went.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use vecino_rest::{Kind, Problem, body::Variant, name::InvalidName, problem};

use crate::{
    content::{StoreError, replica::ReplicaError},
    download::{JobError, fetch::FetchError},
    locate::{LocateError, central::account::LoginError, flood::DialError},
    neighbour::{outbound::OutboundError, probe::ProbeError},
};

/// Seconds after which it may be better.
pub const RETRY_AFTER: &str = "2";

/// An answer that is a problem.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    /// Size of the content, for `Content-Range` of a 416.
    content_size: Option<u64>,
}

impl ApiError {
    /// A problem of `kind`.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem::new(kind, detail).into()
    }

    /// Several variants share the name.
    pub fn ambiguous(variants: Vec<Variant>) -> Self {
        let detail = format!(
            "{} variants share this name: choose one with ?digest=",
            variants.len()
        );
        Problem {
            variants,
            ..Problem::new(Kind::Ambiguous, detail)
        }
        .into()
    }

    /// No byte of the range is in the content.
    pub fn range_not_satisfiable(size: u64) -> Self {
        let mut error = Self::new(
            Kind::RangeNotSatisfiable,
            format!("the content has {size} bytes"),
        );
        error.content_size = Some(size);
        error
    }

    /// Its problem.
    pub fn into_problem(self) -> Problem {
        *self.problem
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            content_size: None,
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.problem.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(problem::MEDIA_TYPE);
        match self.problem.kind() {
            Some(Kind::Unauthorized) => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            Some(
                Kind::Busy | Kind::LookupFailed | Kind::NoNeighbour | Kind::NetworkUnreachable,
            ) => {
                response.insert_header((header::RETRY_AFTER, RETRY_AFTER));
            }
            _ => {}
        }
        if let Some(size) = self.content_size {
            response.insert_header((header::CONTENT_RANGE, format!("bytes */{size}")));
        }
        response.body(serde_json::to_string(&self.problem).expect("a problem is plain data"))
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::new(Kind::BadName, error.to_string())
    }
}

impl From<LocateError> for ApiError {
    fn from(error: LocateError) -> Self {
        let kind = match &error {
            LocateError::Unavailable => Kind::LookupFailed,
            LocateError::BadQuery(_) => Kind::BadRequest,
            LocateError::Unsupported => Kind::NotSupported,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ProbeError> for ApiError {
    fn from(error: ProbeError) -> Self {
        let kind = match &error {
            ProbeError::Url(_) => Kind::BadRequest,
            ProbeError::Busy => Kind::Busy,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DialError> for ApiError {
    fn from(error: DialError) -> Self {
        let kind = match &error {
            DialError::Own(_) => Kind::BadRequest,
            DialError::Full => Kind::Busy,
            DialError::Unreachable(..)
            | DialError::TheyAreFull(_)
            | DialError::Ended(_)
            | DialError::NotLinked(_)
            | DialError::Linked(_) => Kind::LinkFailed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        let kind = match error {
            LoginError::Refused | LoginError::TooMany => Kind::LoginRefused,
            LoginError::NotAsked => Kind::NotSupported,
            LoginError::Unreachable => Kind::NetworkUnreachable,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<OutboundError> for ApiError {
    fn from(error: OutboundError) -> Self {
        let detail = error.to_string();
        match error {
            OutboundError::NoneConfigured => Self::new(Kind::NoNeighbour, detail),
            OutboundError::NoneAnswers(neighbours) => Problem {
                neighbours,
                ..Problem::new(Kind::NoNeighbour, detail)
            }
            .into(),
            OutboundError::LookupFailed => Self::new(Kind::LookupFailed, detail),
            OutboundError::NotSupported(_) => Self::new(Kind::NotSupported, detail),
            OutboundError::BadQuery(_) => Self::new(Kind::BadRequest, detail),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let kind = match &error {
            JobError::Providers(_) | JobError::TooLarge(_) => Kind::ProviderFailed,
            JobError::Verification(_) => Kind::VerificationFailed,
            JobError::NoSpace | JobError::NoRoom { .. } => Kind::NoSpace,
            JobError::Storage(_) => Kind::Storage,
            JobError::Cancelled | JobError::Busy => Kind::Busy,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::NotFound(detail) => Self::new(Kind::NotFound, detail),
            FetchError::Ambiguous(variants) => Self::ambiguous(variants),
            FetchError::Unverifiable => Self::new(Kind::NotSupported, error.to_string()),
            FetchError::NotKept(detail) => Self::new(Kind::NotKept, detail),
            FetchError::Outbound(error) => error.into(),
            FetchError::Job(error) => error.into(),
            FetchError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Precondition(_) => Kind::PreconditionFailed,
            StoreError::Conflict(_) => Kind::Conflict,
            StoreError::BadName(_) => Kind::BadName,
            StoreError::NoSpace => Kind::NoSpace,
            StoreError::TooLarge => Kind::TooLarge,
            StoreError::Io(..)
            | StoreError::Index(_)
            | StoreError::Overlap(_)
            | StoreError::Directory { .. } => {
                log::error!("{error}");
                Kind::Storage
            }
            StoreError::Interrupted => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ReplicaError> for ApiError {
    fn from(error: ReplicaError) -> Self {
        let kind = match error {
            ReplicaError::Store(error) => return error.into(),
            ReplicaError::Busy | ReplicaError::ComingIn(..) => Kind::Busy,
            ReplicaError::NoRoom { .. } => Kind::NoSpace,
            ReplicaError::TooLarge(_) => Kind::TooLarge,
            ReplicaError::Wrong { .. } => Kind::BadRequest,
        };
        Self::new(kind, error.to_string())
    }
}

/// Characters of a value from outside that an error repeats.
const SHOWN: usize = 120;

/// As much of `value` as an error repeats.
pub fn shown(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}

/// For routes that are not there.
pub async fn no_route(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(
        Kind::NotFound,
        format!("there is no route {:?}", shown(request.path())),
    ))
}

/// For methods that a route has not.
pub async fn no_method(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(
        Kind::MethodNotAllowed,
        format!(
            "{:?} has no method {}",
            shown(request.path()),
            shown(request.method().as_str())
        ),
    ))
}
