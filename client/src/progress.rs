//! [`Progress`]: a bar on standard error with bytes, rate and time left. Without a terminal, or
//! when nobody wants it, it is nothing at all.

use std::{cell::Cell, fmt, time::Duration};

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

    /// Whether somebody sees it.
    pub(crate) fn is_visible(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Says `text` behind the pace.
    pub(crate) fn tell(&self, text: String) {
        self.0.set_prefix(text);
    }

    /// `done` of `total` bytes are there already.
    pub(crate) fn begin(&self, done: u64, total: Option<u64>) {
        if total.is_some() {
            self.0.set_style(known_length());
        }
        self.go_on_from(done, total);
    }

    /// `done` of `total` bytes are there, and those of them that were not before cost no time: the
    /// pace does not count them.
    fn go_on_from(&self, done: u64, total: Option<u64>) {
        self.0.set_position(done);
        if let Some(total) = total {
            // This has the position counted now; it would be at the next tick otherwise.
            self.0.set_length(total);
        }
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
    ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}{pace}{prefix}")
        .expect("the template is well formed")
        .with_key("pace", pace)
        .progress_chars("=> ")
}

fn unknown_length() -> ProgressStyle {
    let pace = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&pace(state.per_sec(), None));
    };
    ProgressStyle::with_template("{msg} {spinner} {bytes}{pace}{prefix}")
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

/// One bar over many files: how many are done, and the bytes of all.
#[derive(Debug)]
pub(crate) struct Overall {
    progress: Progress,
    files: u64,
    done: Cell<u64>,
    bytes: Cell<u64>,
    expected: Cell<u64>,
}

impl Overall {
    /// `files` are to come, of `expected` bytes as far as that is known.
    pub(crate) fn new(progress: Progress, files: u64, expected: u64) -> Self {
        progress.begin(0, Some(expected));
        let overall = Self {
            progress,
            files,
            done: Cell::new(0),
            bytes: Cell::new(0),
            expected: Cell::new(expected),
        };
        overall.tell();
        overall
    }

    /// The part of a file of which `expected` bytes are expected.
    pub(crate) fn file(&self, expected: u64) -> Share<'_> {
        Share {
            overall: self,
            bytes: Cell::new(0),
            expected: Cell::new(expected),
        }
    }

    /// A file is there whose bytes were counted by a handle.
    pub(crate) fn file_done(&self) {
        self.done.set(self.done.get() + 1);
        self.tell();
    }

    /// Whether somebody sees it.
    pub(crate) fn is_visible(&self) -> bool {
        self.progress.is_visible()
    }

    /// Counts bytes of files that have no part of their own.
    pub(crate) fn handle(&self) -> Handle {
        self.progress.handle()
    }

    fn tell(&self) {
        let text = format!(", {}/{} files", self.done.get(), self.files);
        self.progress.tell(text);
    }
}

/// What one file has of the bar. Dropped, it takes with it what did not come.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    overall: &'a Overall,
    bytes: Cell<u64>,
    expected: Cell<u64>,
}

impl Share<'_> {
    /// The file is there.
    pub(crate) fn done(self) {
        self.overall.file_done();
    }

    /// `bytes` of `expected` are there.
    pub(crate) fn set(&self, bytes: u64, expected: u64) {
        let Overall { progress, .. } = self.overall;
        move_by(&self.overall.bytes, self.bytes.replace(bytes), bytes);
        if self.expected.get() != expected {
            let before = self.expected.replace(expected);
            move_by(&self.overall.expected, before, expected);
            progress.0.set_length(self.overall.expected.get());
        }
        progress.0.set_position(self.overall.bytes.get());
    }

    /// `bytes` of `expected` were there before.
    pub(crate) fn begin(&self, bytes: u64, expected: u64) {
        let before = self.bytes.get();
        self.set(bytes, expected);
        if bytes <= before {
            return;
        }
        let Overall { progress, .. } = self.overall;
        progress.go_on_from(self.overall.bytes.get(), Some(self.overall.expected.get()));
    }

    /// `bytes` more are there.
    pub(crate) fn advance(&self, bytes: u64) {
        self.set(self.bytes.get() + bytes, self.expected.get());
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.set(self.bytes.get(), self.bytes.get());
    }
}

/// Takes `before` from `sum` and gives it `after`.
fn move_by(sum: &Cell<u64>, before: u64, after: u64) {
    sum.set((sum.get() + after).saturating_sub(before));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bar_is_over_all_files() {
        let overall = Overall::new(Progress::new("d", false), 3, 30);
        let (a, b, c) = (overall.file(10), overall.file(20), overall.file(0));
        a.advance(10);
        a.done();
        b.set(5, 20);
        b.advance(3);
        assert_eq!((overall.bytes.get(), overall.expected.get()), (18, 30));
        // It is larger than it was said to be.
        c.set(0, 40);
        assert_eq!((overall.bytes.get(), overall.expected.get()), (18, 70));
        // What failed is not expected any more.
        drop(b);
        assert_eq!((overall.bytes.get(), overall.expected.get()), (18, 58));
        assert_eq!(overall.done.get(), 1);
    }

    #[test]
    fn what_was_there_before_is_not_counted_in_the_pace() {
        let progress = Progress::new("a", false);
        progress.0.enable_steady_tick(Duration::from_secs(3600));
        progress.begin(500 << 20, Some(600 << 20));
        progress.tell("counted".to_owned());
        assert_eq!(progress.0.per_sec(), 0.0);
        let overall = Overall::new(progress, 2, 600 << 20);
        overall.file(600 << 20).begin(500 << 20, 600 << 20);
        overall.tell();
        assert_eq!(overall.progress.0.per_sec(), 0.0);
    }

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
