//! The one translation of errors into gRPC status codes.

use std::time::Duration;

use tonic::{Code, Status};

use super::request::Invalid;
use crate::{account, directory::Error, store::StoreError, zone};

/// Who finds no place in the queue is to ask again after so long: places come back in moments.
const BUSY_AGAIN: Duration = Duration::from_secs(3);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Url(_) | Error::Search(_) | Error::Site(_) => Code::InvalidArgument,
            Error::NoLease => Code::Unauthenticated,
            Error::Full => Code::ResourceExhausted,
            Error::Randomness(_) => Code::Unavailable,
            Error::Store(error) => return Self::from(error.clone()),
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotThePeer => Code::Unauthenticated,
            StoreError::Unfit { .. } => Code::InvalidArgument,
            StoreError::BucketFull { .. } => Code::ResourceExhausted,
            StoreError::Closed => Code::Unavailable,
            // The causes may name paths of this machine: they stay in the log of the store.
            StoreError::Engine(_) => {
                return Self::unavailable("the store failed; try again");
            }
            StoreError::DiskFull(_) => {
                return Self::unavailable("the disk of the store is full; try again");
            }
            // Only the operator asks for one.
            StoreError::Backup(_) => Code::FailedPrecondition,
        };
        Self::new(code, error.to_string())
    }
}

impl From<account::Error> for Status {
    fn from(error: account::Error) -> Self {
        use account::Error;
        let code = match error {
            Error::Store(error) => return Self::from(error),
            Error::Off => Code::FailedPrecondition,
            Error::Refused | Error::NoSession => Code::Unauthenticated,
            Error::TooOften(_) | Error::Busy | Error::Full => Code::ResourceExhausted,
            Error::Randomness(_) => Code::Unavailable,
            Error::Hash(_) => Code::Internal,
        };
        let mut status = Self::new(code, error.to_string());
        let wait = match error {
            Error::TooOften(wait) => Some(wait),
            Error::Busy => Some(BUSY_AGAIN),
            _ => None,
        };
        if let Some(wait) = wait {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let key = vecino_grpc::RETRY_AFTER_MS;
            status.metadata_mut().insert(key, (wait_ms + 1).into());
        }
        status
    }
}

impl From<account::ManageError> for Status {
    fn from(error: account::ManageError) -> Self {
        use account::ManageError;
        let code = match error {
            ManageError::Store(error) => return Self::from(error),
            ManageError::Taken(_) => Code::AlreadyExists,
            ManageError::Unknown(_) => Code::NotFound,
            ManageError::Randomness(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<zone::Error> for Status {
    fn from(error: zone::Error) -> Self {
        use zone::Error;
        let code = match &error {
            Error::Url(..) | Error::Site(_) | Error::Zone(..) => Code::InvalidArgument,
            Error::NoLease => Code::Unauthenticated,
            Error::Refused(_) => Code::ResourceExhausted,
            Error::Randomness(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_ends_by_itself_says_when() {
        let told = |error: account::Error| {
            let status = Status::from(error);
            let told = status.metadata().get(vecino_grpc::RETRY_AFTER_MS)?;
            told.to_str().ok()?.parse::<u64>().ok()
        };
        assert_eq!(told(account::Error::Busy), Some(3_001));
        let wait = Duration::from_millis(1_500);
        assert_eq!(told(account::Error::TooOften(wait)), Some(1_501));
        assert_eq!(told(account::Error::Refused), None);
        assert_eq!(told(account::Error::Full), None);
    }
}
