//! The one translation of errors into gRPC status codes.

use tonic::{Code, Status};

use super::request::Invalid;
use crate::{directory::Error, store::StoreError, zone};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Url(_) | Error::Search(_) | Error::Site(_) => Code::InvalidArgument,
            Error::NoLease => Code::Unauthenticated,
            Error::Full => Code::ResourceExhausted,
            Error::Randomness(_) => Code::Unavailable,
            Error::Store(store) => match store {
                StoreError::NotThePeer => Code::Unauthenticated,
                StoreError::BucketFull { .. } => Code::ResourceExhausted,
                StoreError::Closed => Code::Unavailable,
                // The causes may name paths of this machine: they stay in the log of the store.
                StoreError::Engine(_) => {
                    return Self::unavailable("the store failed; try again");
                }
                StoreError::DiskFull(_) => {
                    return Self::unavailable("the disk of the store is full; try again");
                }
            },
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
