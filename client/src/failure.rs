//! [`Failure`]: why a command did not do its job. Each says what was wrong, what to do next and
//! with which code the program ends.

use std::{fmt, io, path::PathBuf};

use vecino_rest::{Kind, Name, Problem};

use crate::{
    api::{ApiError, told},
    config::InvalidConfig,
    exit_code::{self, ExitCode},
};

/// Why a command did not do its job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Settings are wrong.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The own peer did not answer well.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A provider asked with `--direct` did not answer well.
    #[error("{0}")]
    Provider(ApiError),
    /// A content stopped in the middle, and so did the tries to go on.
    #[error("{cause}")]
    Stopped {
        /// What ended the last try.
        cause: ApiError,
        /// What is kept for the next run.
        kept: Option<Kept>,
    },
    /// One file of several.
    #[error("{}", of_file(name, failure))]
    File {
        /// Which.
        name: Name,
        /// Why.
        failure: Box<Failure>,
    },
    /// The name is taken by something that no upload replaces.
    #[error("{}", told(.0))]
    Taken(Box<Problem>),
    /// A file whose own name is none for the network.
    #[error("{path} is left out: its name cannot be shared: {why}", path = .path.display())]
    Unshareable {
        /// Which.
        path: PathBuf,
        /// What is wrong with its name.
        why: String,
    },
    /// Words that clap cannot know to be wrong.
    #[error("{0}")]
    Usage(String),
    /// More than is worked on at once.
    #[error("{0}")]
    TooMany(String),
    /// Nothing there.
    #[error("{0}")]
    NotFound(String),
    /// A search without hits.
    #[error("{text}")]
    NoHits {
        /// What was searched for.
        text: String,
        /// Whether there were words, or a type only.
        by_words: bool,
    },
    /// Bytes do not match their digest.
    #[error("{0}")]
    Verification(String),
    /// Disk or permission, here.
    #[error("{path}: {source}", path = .path.display())]
    Disk {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, a device or standard output takes no more.
    #[error("{to}: {source}")]
    Stream {
        /// What was written into.
        to: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not to be replaced by a download.
    #[error("{path} is {what}: only a regular file is replaced", path = .path.display())]
    NotReplaced {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// There is no such folder to save something in.
    #[error("{path}: there is no such folder", path = .0.display())]
    NoFolder(PathBuf),
    /// The target is there already.
    #[error("{path} exists already", path = .0.display())]
    Exists(PathBuf),
    /// Another run of the client downloads to the same target.
    #[error("another download to {path} is running", path = .0.display())]
    Running(PathBuf),
    /// There is nothing to upload at the path.
    #[error("{path}: there is no such file or folder", path = .0.display())]
    NoSuchPath(PathBuf),
    /// The own peer has no such link.
    #[error("{}", told(.0))]
    NoLink(Box<Problem>),
    /// `doctor` found something, and said what to do.
    #[error("{failed} of {of} checks failed")]
    Unwell {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
        /// The code of the last one.
        code: ExitCode,
    },
    /// Nobody reads standard output any more.
    #[error("standard output is closed")]
    OutputClosed,
}

/// What a download that stopped leaves for the next run.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Bytes that the next run goes on from.
    pub(crate) bytes: u64,
    /// The file that has them.
    pub(crate) path: PathBuf,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = indicatif::HumanBytes(self.bytes);
        write!(f, "{size} are kept in {}", self.path.display())
    }
}

impl Failure {
    /// Makes a [`Failure::Disk`] of what the system said about `path`.
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }

    /// The code to end with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Unshareable { .. } => ExitCode::Usage,
            Self::Api(error) | Self::Provider(error) => error.exit_code(),
            Self::Stopped { cause, .. } => cause.exit_code(),
            Self::File { failure, .. } => failure.exit_code(),
            Self::NotFound(_) | Self::NoHits { .. } | Self::NoSuchPath(_) | Self::NoLink(_) => {
                ExitCode::NotFound
            }
            Self::Verification(_) => ExitCode::Verification,
            Self::Disk { .. } | Self::Stream { .. } | Self::NoFolder(_) => ExitCode::Disk,
            Self::Exists(_) | Self::NotReplaced { .. } | Self::Taken(_) => ExitCode::Exists,
            Self::Running(_) | Self::TooMany(_) => ExitCode::Error,
            Self::Unwell { code, .. } => *code,
            Self::OutputClosed => ExitCode::OutputClosed,
        }
    }

    /// What to do next, where there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Api(error) => return error.hint(),
            Self::File { failure, .. } if failure.exit_code() == ExitCode::Ambiguous => {
                "download that file alone, with --digest DIGEST"
            }
            Self::File { failure, .. } => return failure.hint(),
            Self::Stopped {
                kept: Some(kept), ..
            } => {
                return Some(format!("{kept}; run again to resume"));
            }
            Self::Provider(_) => "run it without --direct: your own peer finds another provider",
            Self::Stopped { kept: None, .. } => "run again to start over",
            Self::NoLink(_) => "`peers` lists the links of your peer, of the kind flood",
            Self::NoSuchPath(_) => "check the path; one with spaces goes in quotes",
            Self::NotFound(_) => "`search` finds names in the network",
            Self::NoHits { by_words: true, .. } => {
                "use fewer or shorter words: each is the beginning of a word"
            }
            Self::NoHits { .. } | Self::TooMany(_) => return None,
            Self::Verification(_) => {
                "try again later, or choose who to take it from: `locate` lists the peers for --from"
            }
            Self::Exists(_) => {
                "choose another target with -o, or --if-exists skip, rename or overwrite"
            }
            Self::Running(_) => "wait for it, or choose another target with -o",
            Self::Taken(_) => "share it under another name with --as",
            Self::Unshareable { .. } => {
                "rename it, or share it alone, under another name with --as"
            }
            Self::NotReplaced { .. } => "choose another target with -o",
            Self::NoFolder(_) => "create it first, or choose another target with -o",
            Self::Stream { .. } => "what was written is not whole: run again with another target",
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space and run again; what can be resumed is kept"
            }
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; one with spaces goes in quotes"
            }
            Self::Disk { .. } => "check the path and its permissions, or choose another one",
            Self::Config(_) | Self::Usage(_) => "`--help` says what is accepted",
            Self::Unwell { .. } | Self::OutputClosed => return None,
        };
        Some(text.to_owned())
    }

    /// What the own peer said, where it was the peer that said it.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Api(ApiError::Problem(problem))
            | Self::Taken(problem)
            | Self::NoLink(problem) => Some(problem),
            Self::File { failure, .. } => failure.problem(),
            _ => None,
        }
    }

    /// Stable identifier of the kind, as in RFC 9457.
    pub(crate) fn problem_type(&self) -> String {
        if let Some(problem) = self.problem() {
            return problem.problem_type.clone();
        }
        if matches!(self, Self::NoSuchPath(_)) {
            return "urn:vecino:client:no-such-path".to_owned();
        }
        let slug = match self.exit_code() {
            ExitCode::Usage => "usage",
            ExitCode::NotFound => return not_found_type(),
            ExitCode::Auth => "auth",
            ExitCode::Ambiguous => "ambiguous",
            ExitCode::Unreachable => "unreachable",
            ExitCode::Verification => "verification",
            ExitCode::Disk => "disk",
            ExitCode::Exists => "exists",
            _ => "error",
        };
        format!("urn:vecino:client:{slug}")
    }
}

/// Says which file a failure is about, where its text does not.
fn of_file(name: &Name, failure: &Failure) -> String {
    let text = failure.to_string();
    if text.contains(name.as_str()) {
        text
    } else {
        format!("{name}: {text}")
    }
}

fn not_found_type() -> String {
    Problem::new(Kind::NotFound, "").problem_type
}

/// What to do next when the own peer has nobody whom it could ask.
pub(crate) const HINT_NO_NEIGHBOURS: &str =
    "whoever runs your peer names others in URL_PEERSU; `peers` shows them then";

/// What to do next about a problem of the own peer.
pub(crate) fn hint_for(kind: Option<Kind>, status: u16) -> Option<&'static str> {
    let Some(kind) = kind else {
        return match exit_code::of_status(status) {
            ExitCode::Auth => hint_for(Some(Kind::Unauthorized), status),
            ExitCode::Disk => hint_for(Some(Kind::NoSpace), status),
            _ => None,
        };
    };
    Some(match kind {
        Kind::BadRequest | Kind::BadName => "`--help` says what is accepted",
        Kind::NotFound => {
            "`search` finds names in the network, `list` shows what your peer holds; a folder ends with /"
        }
        Kind::Unauthorized => {
            "put the token of your peer into a file and name that file in API_TOKEN_FILE"
        }
        Kind::Forbidden => "ask who runs your peer for permission, or run the client beside it",
        Kind::ForeignOrigin => "name your peer in URL_PEERAS by the address that it listens on",
        Kind::Ambiguous => "pick one with --digest DIGEST",
        Kind::Conflict => {
            "share it under another name with --as, or replace the file there with --replace"
        }
        Kind::PreconditionFailed => "it changed meanwhile; run again",
        Kind::NoNeighbour => "`peers` shows the neighbours of your peer; try again later",
        Kind::LookupFailed | Kind::Busy | Kind::NetworkUnreachable => "try again later",
        Kind::LoginRefused => "check user and password, or ask who runs the network for an account",
        Kind::LinkFailed => {
            "is the other peer running there with LOCATE_BY=flood? `overlay` there says its address"
        }
        Kind::ProviderFailed => "run again later to resume; `locate` shows who holds it",
        Kind::VerificationFailed => {
            "try again later, or choose who to take it from: `locate` lists the peers for --from"
        }
        Kind::NoSpace => {
            "your peer's disk is full: free some space there; `download --direct` needs none of it"
        }
        Kind::Storage => "check the disk of your peer and its permissions",
        Kind::Internal => "look into the log of your peer",
        _ => return None,
    })
}
