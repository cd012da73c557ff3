//! [`ExitCode`]: what the caller of the program learns, and which problem of the own peer is
//! which code. The only place where codes are decided.

use vecino_rest::Kind;

/// How the program ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Done.
    Ok = 0,
    /// Failed in a way that has no code of its own.
    Error = 1,
    /// Command line or settings are wrong.
    Usage = 2,
    /// No such name; a search without hits.
    NotFound = 3,
    /// Token missing, wrong or not enough; login refused.
    Auth = 4,
    /// Several variants share the name.
    Ambiguous = 5,
    /// Own peer, neighbours or providers cannot be reached.
    Unreachable = 6,
    /// Bytes do not match their digest.
    Verification = 7,
    /// Disk or permission, here or at the own peer.
    Disk = 8,
    /// The target exists, or the name is taken.
    Exists = 9,
    /// Nobody reads standard output any more (SIGPIPE, as other programs end).
    OutputClosed = 141,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> Self {
        code as Self
    }
}

/// The code of a problem that the own peer reports; `status` decides for a kind that this
/// version does not know.
pub(crate) fn of_problem(kind: Option<Kind>, status: u16) -> ExitCode {
    let Some(kind) = kind else {
        return of_status(status);
    };
    match kind {
        Kind::BadRequest | Kind::BadName => ExitCode::Usage,
        Kind::NotFound => ExitCode::NotFound,
        Kind::Unauthorized | Kind::Forbidden | Kind::ForeignOrigin | Kind::LoginRefused => {
            ExitCode::Auth
        }
        Kind::Ambiguous => ExitCode::Ambiguous,
        Kind::NoNeighbour
        | Kind::LookupFailed
        | Kind::ProviderFailed
        | Kind::LinkFailed
        | Kind::NetworkUnreachable => ExitCode::Unreachable,
        Kind::VerificationFailed => ExitCode::Verification,
        Kind::NoSpace | Kind::Storage => ExitCode::Disk,
        Kind::Conflict => ExitCode::Exists,
        _ => ExitCode::Error,
    }
}

/// The code of an HTTP status that came without a problem.
pub(crate) fn of_status(status: u16) -> ExitCode {
    match status {
        300 => ExitCode::Ambiguous,
        401 | 403 => ExitCode::Auth,
        404 => ExitCode::NotFound,
        502..=504 => ExitCode::Unreachable,
        507 => ExitCode::Disk,
        _ => ExitCode::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_code_that_the_readme_promises() {
        let code = |kind| i32::from(of_problem(Some(kind), 0));
        assert_eq!(code(Kind::BadRequest), 2);
        assert_eq!(code(Kind::NotFound), 3);
        assert_eq!(code(Kind::Unauthorized), 4);
        assert_eq!(code(Kind::Forbidden), 4);
        assert_eq!(code(Kind::LoginRefused), 4);
        assert_eq!(code(Kind::Ambiguous), 5);
        assert_eq!(code(Kind::NoNeighbour), 6);
        assert_eq!(code(Kind::LookupFailed), 6);
        assert_eq!(code(Kind::ProviderFailed), 6);
        assert_eq!(code(Kind::NetworkUnreachable), 6);
        assert_eq!(code(Kind::VerificationFailed), 7);
        assert_eq!(code(Kind::NoSpace), 8);
        assert_eq!(code(Kind::Storage), 8);
        assert_eq!(code(Kind::Conflict), 9);
        assert_eq!(code(Kind::Busy), 1);
    }

    #[test]
    fn an_unknown_kind_falls_back_to_its_status() {
        assert_eq!(of_problem(None, 404), ExitCode::NotFound);
        assert_eq!(of_problem(None, 418), ExitCode::Error);
    }
}
