//! Every length, limit and time of the ring; `PROTOCOL.md` has the arithmetic behind them.

use std::time::Duration;

/// r: successors that a member knows and that hold copies of its records. The extended successor
/// list, a member followed by its list, has r + 1 entries, and the stable base as many members.
pub const REPLICAS: usize = 12;
/// Most members in a list from outside; more is refused.
pub const MAX_LIST: usize = 64;
/// Closer members that one step of a lookup may tell, besides the successor list.
pub const CLOSER: usize = 4;
/// Most requests of one lookup.
pub const MAX_STEPS: usize = 64;
/// Members that one lookup waits for at a time, each but the first asked because those before it
/// were slow to answer.
pub const ASKED_AT_A_TIME: usize = 6;
/// How long one that was asked may be silent before another is asked as well.
pub const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// Members that may be under examination as predecessors at a time.
pub const MAX_VETTED: usize = 16;
/// Holders of a record that a lookup asks at first, and must hear of if there are as many.
pub const HOLDERS_ASKED: usize = 3;
/// Records in one message.
pub const RECORDS_A_MESSAGE: usize = 256;
/// Records under one name that a member keeps; more are refused.
pub const RECORDS_A_NAME: usize = 64;
/// Of these, records of one publisher: it shares one content under a name, for a moment two.
pub const RECORDS_A_NAME_AND_PUBLISHER: usize = 4;
/// Records that a member keeps of one publisher; more are refused.
pub const RECORDS_A_PUBLISHER: usize = 100_000;
/// Records that a member keeps in total; more are refused.
pub const RECORDS_IN_TOTAL: usize = 500_000;
/// Pages of records that a new member takes over from its successor.
pub const TAKE_OVER_PAGES: usize = RECORDS_IN_TOTAL / RECORDS_A_MESSAGE;
/// How long that may take; what is missing then, its publishers bring.
pub const TAKE_OVER_WITHIN: Duration = Duration::from_secs(30);
/// How long bringing the ring in order on request may take.
pub const REPAIR_WITHIN: Duration = Duration::from_secs(60);
/// Records that holders refused are sent again after so long, with everything else.
pub const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Variants that a lookup answers with, and providers of each.
pub const MAX_VARIANTS: usize = 32;
/// See [`MAX_VARIANTS`].
pub const MAX_PROVIDERS: usize = 16;
/// Providers of one lookup whose life is checked before they are told.
pub const PROVIDERS_CHECKED: usize = 64;
/// Bytes of a gRPC message.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Holders that a publisher sends to at a time.
pub const SENDS_AT_A_TIME: usize = 32;
/// Publishers whose word a member remembers to have checked; the least used go first.
pub const MAX_VOUCHED: u64 = 65_536;
/// Members remembered as alive or silent; the least used go first.
pub const MAX_REMEMBERED: u64 = 65_536;
/// Holders that a publisher remembers to have sent records to.
pub const MAX_HOLDERS: usize = 4096;

/// The times; tests may have shorter ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two stabilisations.
    pub stabilize: Duration,
    /// Between two fingers that are looked up again.
    pub fix_finger: Duration,
    /// Between two comparisons with the seeds' ring.
    pub compare: Duration,
    /// Between the first tries to join; later ones come with `compare`.
    pub join_again: Duration,
    /// How long one request may take.
    pub answer: Duration,
    /// How long a member that did not answer is passed over.
    pub silent: Duration,
    /// How long a provider that answered counts as alive.
    pub alive: Duration,
    /// How long finding the member responsible for a place may take.
    pub lookup: Duration,
    /// How long a record lives after it was published.
    pub life: Duration,
    /// Between two publications of everything, before jitter.
    pub republish: Duration,
    /// After a change among the nearest members, before everything is published again.
    pub settle: Duration,
    /// Before what could not be published is tried again.
    pub publish_again: Duration,
    /// Between two sweeps of records that are over.
    pub sweep: Duration,
    /// How long a checked word of a publisher counts.
    pub vouched: Duration,
    /// How long leaving may take.
    pub leave: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            stabilize: Duration::from_millis(500),
            fix_finger: Duration::from_millis(500),
            compare: Duration::from_secs(5),
            join_again: Duration::from_millis(250),
            answer: Duration::from_secs(1),
            silent: Duration::from_secs(5),
            alive: Duration::from_secs(2),
            lookup: Duration::from_secs(3),
            life: Duration::from_secs(300),
            republish: Duration::from_secs(90),
            settle: Duration::from_secs(5),
            publish_again: Duration::from_secs(1),
            sweep: Duration::from_secs(5),
            vouched: Duration::from_secs(600),
            leave: Duration::from_millis(900),
        }
    }
}

impl Timing {
    /// `period`, spread over 75 to 100 %, so that peers do not act in step; `random` is in 0..1.
    pub fn jittered(period: Duration, random: f64) -> Duration {
        period.mul_f64(0.75 + 0.25 * random)
    }
}
