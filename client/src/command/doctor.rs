//! `doctor`: what is wrong, from the client's side and from the own peer's, and what to do.

use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access, statvfs};
use vecino_rest::doctor::{Check, CheckState};

use crate::{
    api::Looked,
    exit_code::ExitCode,
    failure::Failure,
    output::{Output, clean, size},
    session::Session,
};

/// How far two clocks may be apart: as far as those of peers.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// With less room than this in the folder that downloads go to somebody should look at it.
const LITTLE_ROOM: u64 = 16 << 20;

/// Runs it.
pub(crate) async fn run(session: &Session, out: &Output) -> Result<(), Failure> {
    let mut shown = Shown::default();
    shown.show(here(), out)?;
    out.announce("asking your peer, which asks its neighbours ...");
    let looked = match session.api.look().await {
        Ok(looked) => looked,
        Err(error) => {
            shown.code = error.exit_code();
            let next = error.hint().unwrap_or_default();
            shown.show(Check::fail("peer", error.to_string(), next), out)?;
            return shown.end();
        }
    };
    let origin = session.api.peer().to_string();
    shown.show(peer(&origin, &looked), out)?;
    shown.show(clock(looked.date, SystemTime::now()), out)?;
    match session.api.diagnosis().await {
        Ok(Some(diagnosis)) => {
            for check in diagnosis.checks {
                shown.show(check, out)?;
            }
        }
        Ok(None) => {
            let what = "your peer's version cannot say what it finds wrong";
            shown.show(Check::warn("checks", what, "run a newer one there"), out)?;
        }
        Err(error) => {
            shown.code = error.exit_code();
            let next = error.hint().unwrap_or_default();
            shown.show(Check::fail("checks", error.to_string(), next), out)?;
        }
    }
    shown.end()
}

/// What was shown so far.
struct Shown {
    checks: usize,
    failed: usize,
    code: ExitCode,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            checks: 0,
            failed: 0,
            code: ExitCode::Error,
        }
    }
}

impl Shown {
    fn show(&mut self, check: Check, out: &Output) -> Result<(), Failure> {
        self.checks += 1;
        self.failed += usize::from(check.state == CheckState::Fail);
        if out.json() {
            return out.value(&check);
        }
        out.text(&line(&check))
    }

    fn end(self) -> Result<(), Failure> {
        if self.failed == 0 {
            return Ok(());
        }
        Err(Failure::Unwell {
            failed: self.failed,
            of: self.checks,
            code: self.code,
        })
    }
}

fn line(check: &Check) -> String {
    let state = match check.state {
        CheckState::Ok => "ok",
        CheckState::Warn => "warn",
        CheckState::Fail => "FAIL",
    };
    let next = match check.next.as_deref() {
        None | Some("") => String::new(),
        Some(next) => format!("; {}", clean(next)),
    };
    let (what, detail) = (clean(&check.check), clean(&check.detail));
    format!("{state:<4}  {what:<9}  {detail}{next}")
}

/// The folder in which downloads are saved.
fn here() -> Check {
    const WHAT: &str = "here";
    const NEXT: &str = "downloads are saved in this folder unless -o says otherwise";
    if let Err(error) = access(".", Access::WRITE_OK) {
        let detail = format!("this folder cannot be written to: {error}");
        return Check::warn(WHAT, detail, NEXT);
    }
    let free = match statvfs(".") {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return Check::warn(WHAT, format!("this folder: {error}"), NEXT),
    };
    let detail = format!("{} free in this folder", size(free));
    if free < LITTLE_ROOM {
        Check::warn(WHAT, detail, NEXT)
    } else {
        Check::ok(WHAT, detail)
    }
}

fn peer(origin: &str, looked: &Looked) -> Check {
    const WHAT: &str = "peer";
    let milliseconds = looked.latency.as_secs_f64() * 1e3;
    let (theirs, ours) = (&looked.status.version, env!("CARGO_PKG_VERSION"));
    let detail = format!("{origin} answers in {milliseconds:.1} ms; version {theirs}");
    if theirs == ours {
        Check::ok(WHAT, detail)
    } else {
        let detail = format!("{detail}, this client's is {ours}");
        Check::warn(WHAT, detail, "run the same version on both")
    }
}

fn clock(theirs: Option<SystemTime>, ours: SystemTime) -> Check {
    const WHAT: &str = "clock";
    let Some(theirs) = theirs else {
        return Check::warn(
            WHAT,
            "your peer does not tell the time",
            "is it behind a proxy?",
        );
    };
    let (apart, which) = match theirs.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let detail = match apart.as_secs() {
        // It tells whole seconds.
        0..=2 => "your peer's and this machine's tell the same time".to_owned(),
        seconds => format!("your peer's is {seconds} s {which} this machine's"),
    };
    if apart <= CLOCKS_APART {
        Check::ok(WHAT, detail)
    } else {
        Check::warn(
            WHAT,
            detail,
            "set the one that is wrong, by NTP for example",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_with_what_to_do() {
        let check = Check::fail("disk", "it is full\n", "free some space");
        assert_eq!(
            line(&check),
            "FAIL  disk       it is full\\n; free some space"
        );
        assert_eq!(
            line(&Check::ok("peer", "is there")),
            "ok    peer       is there"
        );
    }

    #[test]
    fn clocks_a_minute_apart_are_right_and_a_day_apart_are_not() {
        let now = SystemTime::now();
        assert_eq!(clock(Some(now + CLOCKS_APART), now).state, CheckState::Ok);
        let day = Duration::from_secs(86_400);
        let ahead = clock(Some(now + day), now);
        assert_eq!(ahead.state, CheckState::Warn);
        assert_eq!(
            ahead.detail,
            "your peer's is 86400 s ahead of this machine's"
        );
        assert!(
            clock(Some(now - day), now)
                .detail
                .contains("86400 s behind")
        );
    }
}
