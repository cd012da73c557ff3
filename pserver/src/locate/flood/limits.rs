//! Every bound and every time of the flood overlay, with why it is what it is.
//!
//! Those that tests shorten or widen are fields of [`Limits`]; the rest are constants.

use std::time::Duration;

/// Links of a peer, whoever made them.
pub const MAX_LINKS: usize = 16;
/// Of these, links that others made: strangers cannot take every place.
pub const MAX_ACCEPTED: usize = 12;
/// A peer that joined through seeds makes links until it has so many.
pub const TARGET_LINKS: usize = 4;
/// A link that was down for so long may give its place to a new one.
pub const GIVES_WAY_AFTER: Duration = Duration::from_secs(600);
/// A link that was cut for what it sent does not come back for so long.
pub const BARRED_FOR: Duration = Duration::from_secs(60);
/// Links that one peer, or one address, may make at once ...
pub const LINKS_AT_ONCE: f64 = 30.0;
/// ... and a minute after that.
pub const LINKS_A_MINUTE: f64 = 30.0;
/// Peers and addresses whose use of links is remembered.
pub const MAX_ORIGINS: usize = 4096;
/// Links that were ended on purpose and are remembered, so that no seed brings them back.
pub const MAX_ENDED: usize = 256;
/// Addresses of other peers in a `hello` or `refusal`.
pub const MAX_ELSEWHERE: usize = 8;
/// Frames that wait to be written to a link. What does not fit is lost, as on any busy link.
pub const LINK_QUEUE: usize = 2048;
/// The same in bytes.
pub const LINK_QUEUE_BYTES: usize = 2 << 20;
/// Largest frame, in bytes: 32 files with the longest names.
pub const MAX_FRAME: usize = 64 * 1024;
/// Frames a second that are read from a link, on average; a faster one is read later.
pub const FRAMES_A_SECOND: f64 = 2000.0;
/// Frames that may come at once.
pub const FRAMES_AT_ONCE: f64 = 4000.0;
/// How long either side of a new link may take to say `hello`.
pub const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// How often a link is measured.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A link whose ping stays unanswered for so long is down.
pub const PONG_WITHIN: Duration = Duration::from_secs(8);
/// How long a link that is ended may take to deliver its `goodbye`.
pub const GOODBYE_WITHIN: Duration = Duration::from_millis(500);
/// Longest label of a place, in bytes.
pub const MAX_SITE_BYTES: usize = 64;

/// Deepest that a question goes, whatever it says of itself.
pub const MAX_HOPS: u32 = 5;
/// Most peers that a question visits, whatever it says of itself.
pub const MAX_BUDGET: u32 = 1024;
/// Longest that a peer waits for one hop of a question, whatever it says of itself.
pub const MAX_HOP_WAIT: Duration = Duration::from_secs(2);
/// Files of one answer.
pub const FILES_PER_ANSWER: usize = 32;
/// Files of one peer in one page of a discovery.
pub const PAGE_FILES: usize = 256;
/// Pages of a discovery.
pub const MAX_PAGES: u32 = 16;
/// Files that a peer passes on, or takes, for one lookup; each link that it asked has its share.
pub const MAX_FOUND: u32 = 256;
/// The same for one page of a discovery.
pub const MAX_DISCOVERED_A_PAGE: u32 = 16 * 1024;
/// Own questions that may be under way at once.
pub const MAX_ASKS: usize = 1024;
/// An own question that finds every link at its rate tries again after so long ...
pub const BUSY_WAIT: Duration = Duration::from_millis(50);
/// ... and so often.
pub const BUSY_TRIES: u32 = 20;
/// Discoveries of one peer that may be under way at once.
pub const MAX_DISCOVERIES: usize = 4;
/// Depths that a lookup tries, one after the other (Lv et al. 2002, "expanding ring").
pub const RINGS: [u32; 3] = [1, 2, 4];

/// Depth of a discovery, unless somebody says.
pub const DISCOVER_HOPS: u32 = 4;
/// How long a discovery takes at most, unless somebody says.
pub const DISCOVER_WAIT: Duration = Duration::from_secs(5);
/// How long a discovery may take at most.
pub const MAX_DISCOVER_WAIT: Duration = Duration::from_secs(60);

/// Bounds and times that tests change.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Depths of a lookup, in order of trial.
    pub rings: Vec<u32>,
    /// How long a lookup waits for each hop of its depth: 0.4, 0.8 and 1.6 s for the rings, which
    /// is half of what the asking neighbour waits.
    pub hop_wait: Duration,
    /// After the first answer of a lookup, the others have so long.
    pub gather: Duration,
    /// How long a question is remembered: longer than it can live.
    pub seen_for: Duration,
    /// Questions remembered; when there are more, new ones are not taken up. What one link may
    /// send in `seen_for` times [`MAX_LINKS`] fits, so nobody can push out what is remembered.
    pub max_seen: usize,
    /// Questions a second that a link may send us.
    pub questions_a_second: f64,
    /// Questions that a link may send us at once.
    pub questions_at_once: f64,
    /// Pages of everything a second that a link may ask us for: each is read from the catalogue,
    /// and answered at length.
    pub pages_a_second: f64,
    /// Pages that a link may ask us for at once: those of one discovery.
    pub pages_at_once: f64,
    /// We send a link at most this share of what it may send us, so that nobody of good will is
    /// ever above.
    pub sent_share: f64,
    /// A link that was above its rate so often, without a pause of `seen_for`, is cut.
    pub max_dropped: u32,
    /// First and longest wait before a link that is down is tried again.
    pub redial: (Duration, Duration),
    /// How long what a discovery found is remembered.
    pub discovered_for: Duration,
    /// Files of others that are remembered, counted once for each peer that holds them.
    pub max_discovered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rings: RINGS.to_vec(),
            hop_wait: Duration::from_millis(400),
            gather: Duration::from_millis(100),
            seen_for: Duration::from_secs(30),
            max_seen: 256 * 1024,
            questions_a_second: 400.0,
            questions_at_once: 800.0,
            pages_a_second: 2.0,
            pages_at_once: 16.0,
            sent_share: 0.8,
            max_dropped: 1000,
            redial: (Duration::from_millis(500), Duration::from_secs(30)),
            discovered_for: Duration::from_secs(600),
            max_discovered: 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_links_may_send_fits_into_the_memory_of_questions() {
        let limits = Limits::default();
        let seconds = limits.seen_for.as_secs_f64();
        let a_link = limits.questions_at_once + limits.questions_a_second * seconds;
        assert!(a_link * MAX_LINKS as f64 <= limits.max_seen as f64);
    }
}
