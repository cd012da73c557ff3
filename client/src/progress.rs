//! [`Progress`]: a bar on standard error with bytes, rate and time left. Without a terminal, or
//! when nobody wants it, it is nothing at all.

use std::{fmt, time::Duration};

use indicatif::{
    HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

/// How often the bar moves while no bytes do.
const TICK: Duration = Duration::from_millis(200);

/// A bar, or nothing. It is gone from the screen when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar that says `label`; shown when `visible`.
    pub(crate) fn new(label: &str, visible: bool) -> Self {
        let target = if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_style(unknown_length());
        bar.set_message(label.to_owned());
        if visible {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// `done` of `total` bytes are there already.
    pub(crate) fn begin(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.0.set_style(known_length());
            self.0.set_length(total);
        }
        self.0.set_position(done);
        self.0.reset_eta();
    }

    /// The same bar, for who outlives this; it leaves the bar on the screen.
    pub(crate) fn handle(&self) -> Handle {
        Handle(self.0.clone())
    }

    /// `bytes` more are there.
    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// Moves a bar that belongs to somebody else.
#[derive(Debug)]
pub(crate) struct Handle(ProgressBar);

impl Handle {
    /// `bytes` more are there.
    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn known_length() -> ProgressStyle {
    let pace = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A `String` takes everything.
        let _ = out.write_str(&pace(state.per_sec(), Some(state.eta())));
    };
    ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}{pace}")
        .expect("the template is well formed")
        .with_key("pace", pace)
        .progress_chars("=> ")
}

fn unknown_length() -> ProgressStyle {
    let pace = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&pace(state.per_sec(), None));
    };
    ProgressStyle::with_template("{msg} {spinner} {bytes}{pace}")
        .expect("the template is well formed")
        .with_key("pace", pace)
}

/// Bytes a second and time left; nothing while no bytes tell.
fn pace(rate: f64, left: Option<Duration>) -> String {
    if !rate.is_finite() || rate < 1.0 {
        return String::new();
    }
    let rate = HumanBytes(rate as u64);
    match left {
        Some(left) => format!(" {rate}/s, {:#} left", HumanDuration(left)),
        None => format!(" {rate}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_the_pace_before_it_is_known() {
        let left = Some(Duration::from_secs(90));
        for unknown in [0.0, 0.5, f64::NAN, f64::INFINITY] {
            assert_eq!(pace(unknown, left), "");
        }
        assert_eq!(pace(2048.0, left), " 2.00 KiB/s, 2m left");
        assert_eq!(pace(2048.0, None), " 2.00 KiB/s");
    }
}
