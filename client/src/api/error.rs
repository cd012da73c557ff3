//! [`ApiError`]: how an answer can fail to come, or be no answer.

use std::time::Duration;

use awc::error::{PayloadError, SendRequestError};
use vecino_rest::{Kind, PeerUrl, Problem};

use super::told::told;
use crate::{
    exit_code::{self, ExitCode},
    failure,
};

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The own peer says what is wrong.
    #[error("{}", told(.0))]
    Problem(Box<Problem>),
    /// No connection.
    #[error("{origin} cannot be reached: {why}")]
    Unreachable {
        /// Who.
        origin: PeerUrl,
        /// What the system said.
        why: String,
    },
    /// The connection ended in the middle.
    #[error("the connection to {origin} broke: {why}")]
    Broken {
        /// Who.
        origin: PeerUrl,
        /// What the system said.
        why: String,
    },
    /// It broke, and who sent it said why when it was asked for the rest.
    #[error("the download broke off: {}", told(.0))]
    BrokenOff(Box<Problem>),
    /// Nothing came for too long.
    #[error("{origin} sent nothing for {} seconds", .after.as_secs())]
    Silent {
        /// Who.
        origin: PeerUrl,
        /// For how long.
        after: Duration,
    },
    /// Not 2xx, and not a problem that can be read.
    #[error("{origin} answered with the status {status} and no reason")]
    Unexpected {
        /// Who.
        origin: PeerUrl,
        /// The HTTP status.
        status: u16,
    },
    /// Whoever answers there, it is no peer.
    #[error("{origin} does not answer like a Vecino peer: {why}")]
    NotAPeer {
        /// Who.
        origin: PeerUrl,
        /// What gave it away.
        why: String,
    },
    /// The answer is not what was asked for.
    #[error("{origin} sent an answer that cannot be understood: {what}")]
    Garbled {
        /// Who.
        origin: PeerUrl,
        /// What is wrong with it.
        what: String,
    },
    /// The request cannot be written down.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl ApiError {
    pub(super) fn sending(origin: &PeerUrl, error: SendRequestError) -> Self {
        let origin = origin.clone();
        match error {
            SendRequestError::Connect(awc::error::ConnectError::Disconnected) => Self::Broken {
                origin,
                why: "it was closed before an answer came".to_owned(),
            },
            SendRequestError::Connect(error) => Self::Unreachable {
                origin,
                why: error.to_string(),
            },
            SendRequestError::Timeout => Self::Silent {
                origin,
                after: super::SILENCE_TIMEOUT,
            },
            SendRequestError::Url(error) => Self::Request(error.to_string()),
            SendRequestError::Http(error) => Self::Request(error.to_string()),
            // A server of another kind, gRPC for example.
            SendRequestError::Response(error) => Self::NotAPeer {
                origin,
                why: format!("its answer is not HTTP/1.1 ({error})"),
            },
            error => Self::Broken {
                origin,
                why: error.to_string(),
            },
        }
    }

    pub(super) fn receiving(origin: &PeerUrl, error: PayloadError) -> Self {
        Self::Broken {
            origin: origin.clone(),
            why: error.to_string(),
        }
    }

    pub(super) fn silent(origin: &PeerUrl, after: Duration) -> Self {
        Self::Silent {
            origin: origin.clone(),
            after,
        }
    }

    pub(super) fn broken(origin: &PeerUrl) -> Self {
        Self::Broken {
            origin: origin.clone(),
            why: "it was closed before the end".to_owned(),
        }
    }

    /// The own peer says why it refuses; who does not is not one, unless somebody in between
    /// refuses for it.
    pub(super) fn of_own_peer(self) -> Self {
        match self {
            Self::Unexpected {
                origin,
                status: status @ (300..400 | 404 | 405 | 501),
            } => Self::NotAPeer {
                origin,
                why: format!("it answered with the status {status} and no reason"),
            },
            other => other,
        }
    }

    /// Whether the same request may succeed when sent again at once.
    pub(crate) fn is_break(&self) -> bool {
        matches!(
            self,
            Self::Broken { .. } | Self::Silent { .. } | Self::Unreachable { .. }
        )
    }

    /// Why it broke off with what was said `before`, when this was the answer to who asked again.
    pub(crate) fn after(self, before: Self) -> Self {
        match self {
            Self::Problem(problem) => Self::BrokenOff(problem),
            _ => before,
        }
    }

    /// Whether there is nothing at the offset that was asked for.
    pub(crate) fn is_range_refused(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.status == 416,
            Self::Unexpected { status, .. } => *status == 416,
            _ => false,
        }
    }

    /// Whether the own peer has nobody who could do what was asked for, now or later.
    pub(crate) fn is_for_good(&self) -> bool {
        match self {
            Self::Problem(problem) => match problem.kind() {
                Some(Kind::NoNeighbour) => problem.neighbours.is_empty(),
                kind => kind == Some(Kind::NotSupported),
            },
            _ => false,
        }
    }

    /// The code to end with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Problem(problem) => exit_code::of_problem(problem.kind(), problem.status),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::BrokenOff(_)
            | Self::Silent { .. }
            | Self::NotAPeer { .. } => ExitCode::Unreachable,
            Self::Unexpected { status, .. } => exit_code::of_status(*status),
            Self::Garbled { .. } | Self::Request(_) => ExitCode::Error,
        }
    }

    /// What to do next, where there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Problem(problem)
                if problem.kind() == Some(Kind::NoNeighbour) && problem.neighbours.is_empty() =>
            {
                failure::HINT_NO_NEIGHBOURS
            }
            Self::Problem(problem) => {
                return failure::hint_for(problem.kind(), problem.status).map(str::to_owned);
            }
            Self::Unreachable { .. } => {
                "is the peer running there? URL_PEERAS names your own peer, host:port"
            }
            Self::Broken { .. } | Self::BrokenOff(_) | Self::Silent { .. } => "run again",
            Self::Unexpected { status, .. } => {
                return failure::hint_for(None, *status).map(str::to_owned);
            }
            Self::NotAPeer { .. } => "URL_PEERAS names your own peer, host:port",
            Self::Garbled { .. } => {
                "is it a Vecino peer? URL_PEERAS names your own peer, host:port"
            }
            Self::Request(_) => return None,
        };
        Some(text.to_owned())
    }
}
