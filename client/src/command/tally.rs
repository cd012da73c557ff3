//! [`Failures`]: what failed while many files were moved.
//!
//! Invariant: the first one decides the exit code; only some are kept and printed, all are counted.

use crate::{exit_code::ExitCode, failure::Failure, output::Output};

/// How many failures are printed.
const MAX_SHOWN: usize = 20;

/// What failed.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    kept: Vec<Failure>,
    count: u64,
}

impl Failures {
    /// One more.
    pub(crate) fn add(&mut self, failure: Failure) {
        self.count += 1;
        if self.kept.len() < MAX_SHOWN {
            self.kept.push(failure);
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Prints all but the first, a line each, and gives that one back.
    pub(crate) fn finish(self, out: &Output) -> Result<(), Failure> {
        let unsaid = self.count - self.kept.len() as u64;
        let mut kept = self.kept.into_iter();
        let Some(first) = kept.next() else {
            return Ok(());
        };
        for failure in kept {
            out.failed(&failure.to_string());
        }
        if unsaid > 0 {
            out.failed(&format!("and {unsaid} more"));
        }
        Err(first)
    }
}

/// Whether all other files would fail as well: it is about the own peer or the disk.
pub(crate) fn is_hopeless(failure: &Failure) -> bool {
    match failure {
        Failure::File { failure, .. } => is_hopeless(failure),
        Failure::OutputClosed => true,
        Failure::Disk { source, .. } => is_full(source),
        Failure::Api(error) => match error.exit_code() {
            ExitCode::Auth => true,
            // A problem that the own peer has with the network may be one with this file only.
            ExitCode::Unreachable => failure.problem().is_none(),
            _ => false,
        },
        _ => false,
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use vecino_rest::{Kind, Problem};

    use super::*;
    use crate::{api::ApiError, cli::Globals};

    fn problem(kind: Kind) -> Failure {
        Failure::Api(ApiError::Problem(Box::new(Problem::new(kind, "why"))))
    }

    #[test]
    fn the_first_decides_and_all_are_counted() {
        let json = Globals {
            json: true,
            quiet: true,
        };
        let out = Output::new(json, false);
        assert!(Failures::default().finish(&out).is_ok());
        let mut failures = Failures::default();
        failures.add(problem(Kind::NotFound));
        for _ in 0..100 {
            failures.add(problem(Kind::Internal));
        }
        assert_eq!((failures.count(), failures.kept.len()), (101, MAX_SHOWN));
        let first = failures.finish(&out).unwrap_err();
        assert_eq!(first.exit_code(), ExitCode::NotFound);
    }

    #[test]
    fn one_file_alone_does_not_stop_the_others() {
        for kind in [Kind::ProviderFailed, Kind::NotFound, Kind::Ambiguous] {
            assert!(!is_hopeless(&problem(kind)), "{kind:?}");
        }
        assert!(is_hopeless(&problem(Kind::Unauthorized)));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(is_hopeless(&Failure::disk("a")(full)));
    }
}
