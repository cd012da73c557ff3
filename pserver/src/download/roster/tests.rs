use rand::{SeedableRng, rngs::StdRng};

use super::{super::provider_url::parse, *};

fn candidate(port: u16) -> Candidate {
    Candidate {
        url: parse(&format!("http://10.0.0.1:{port}")).expect("valid"),
        is_partial: false,
        is_near: false,
    }
}

fn failed() -> Fault {
    Fault::Failed("refused".to_owned())
}

fn askable(roster: &Roster, now: Instant) -> Vec<ProviderNo> {
    roster.askable(now, &mut StdRng::seed_from_u64(7))
}

#[test]
fn who_failed_rests_and_a_liar_is_never_asked_again() {
    let mut roster = Roster::default();
    let mut now = Instant::now();
    roster.add([candidate(1), candidate(2), candidate(1)]);
    assert_eq!(roster.len(), 2);
    roster.failed(0, failed(), now);
    assert_eq!(askable(&roster, now), [1]);
    roster.failed(1, Fault::Wrong("piece 0".to_owned()), now);
    assert!(askable(&roster, now).is_empty());
    assert_eq!(roster.next_rested(now), Some(now + REST));
    now += REST;
    roster.add([candidate(2)]);
    assert_eq!(askable(&roster, now), [0], "a liar cannot be added again");
    for _ in 1..MAX_FAILURES {
        roster.failed(0, failed(), now);
        now += REST * 8;
    }
    assert!(roster.is_exhausted() && roster.next_rested(now).is_none());
    assert!(matches!(roster.verdict(), JobError::Verification(_)));
    roster.add([candidate(1)]);
    assert_eq!(
        askable(&roster, now),
        [0],
        "a new lookup gives another chance"
    );
}

#[test]
fn a_busy_provider_is_no_failure() {
    let mut roster = Roster::default();
    let now = Instant::now();
    roster.add([candidate(1)]);
    for _ in 0..9 {
        roster.failed(0, Fault::Busy(Duration::from_secs(1)), now);
    }
    assert!(askable(&roster, now).is_empty() && !roster.is_exhausted());
    assert_eq!(askable(&roster, now + Duration::from_secs(1)), [0]);
}

#[test]
fn partial_providers_go_first_once_they_said_what_they_have() {
    let mut roster = Roster::default();
    let now = Instant::now();
    let partial = Candidate {
        is_partial: true,
        ..candidate(2)
    };
    roster.add([candidate(1), partial]);
    assert_eq!(askable(&roster, now), [0]);
    assert_eq!(roster.to_be_asked(now), [(1, None)]);
    assert!(roster.to_be_asked(now).is_empty(), "it is asked already");
    let have = Bits::of([true, false, true]);
    let holdings = Holdings {
        version: 3,
        have: Some(have.clone()),
        coming: Bits::of([false, true, false]),
    };
    roster.holds(1, holdings, now);
    assert_eq!(askable(&roster, now), [1, 0]);
    assert_eq!(roster.has(1), Some(&have));
    assert_eq!(roster.copies(), [1, 1, 1]);
    assert!(roster.to_be_asked(now).is_empty(), "not at once");
    let again = now + QUESTION_EVERY;
    assert_eq!(roster.next_question(now), Some(again));
    assert_eq!(roster.to_be_asked(again), [(1, Some(3))]);
    // Another version of the same is no news.
    let same = Holdings {
        version: 4,
        have: Some(have.clone()),
        coming: Bits::of([false, true, false]),
    };
    roster.holds(1, same, again);
    assert!(roster.to_be_asked(again + QUESTION_EVERY).is_empty());
    assert_eq!(roster.to_be_asked(again + NO_NEWS), [(1, Some(4))]);
    roster.failed(1, Fault::NotThere, now);
    assert_eq!(askable(&roster, now + REST), [0], "it has to say again");
}

#[test]
fn a_provider_counts_among_the_copies_as_long_as_it_is_counted_on() {
    let mut roster = Roster::default();
    let now = Instant::now();
    roster.add([1, 2].map(|port| Candidate {
        is_partial: true,
        ..candidate(port)
    }));
    let holdings = |have: [bool; 3]| Holdings {
        version: 1,
        have: Some(Bits::of(have)),
        coming: Bits::default(),
    };
    roster.holds(0, holdings([true, false, true]), now);
    roster.holds(1, holdings([true, true, false]), now);
    assert_eq!(roster.copies(), [2, 1, 1]);
    roster.holds(0, holdings([false, false, true]), now);
    assert_eq!(roster.copies(), [1, 1, 1]);
    // Busy is no fault, but who does not say what it has is not counted on.
    let busy = || Fault::Busy(Duration::from_secs(1));
    roster.failed(1, busy(), now);
    assert_eq!(roster.copies(), [1, 1, 1]);
    roster.holds_unknown(1, busy(), now);
    assert_eq!(roster.copies(), [0, 0, 1]);
    roster.failed(0, failed(), now);
    assert!(roster.copies().is_empty());
    roster.delivered(0);
    assert_eq!(roster.copies(), [0, 0, 1]);
    roster.overtaken(0, now);
    assert!(roster.copies().is_empty());
    roster.delivered(0);
    assert_eq!(roster.copies(), [0, 0, 1]);
    // Who has everything is no partial provider.
    let whole = Holdings {
        have: None,
        ..holdings([true; 3])
    };
    roster.holds(0, whole, now);
    assert!(roster.copies().is_empty());
    roster.holds(1, holdings([true; 3]), now);
    roster.add([candidate(2)]);
    assert!(
        roster.copies().is_empty(),
        "a lookup says that it has everything"
    );
}

#[test]
fn the_more_partial_providers_there_are_the_longer_each_is_left_alone() {
    const PARTIAL: u16 = 20;
    let mut roster = Roster::default();
    let now = Instant::now();
    roster.add((1..=PARTIAL).map(|port| Candidate {
        is_partial: true,
        ..candidate(port)
    }));
    assert_eq!(roster.to_be_asked(now).len(), usize::from(PARTIAL));
    let holdings = Holdings {
        version: 1,
        have: Some(Bits::of([true])),
        coming: Bits::of([false]),
    };
    roster.holds(0, holdings.clone(), now);
    let again = now + ANY_QUESTION_EVERY * u32::from(PARTIAL);
    assert_eq!(roster.next_question(now), Some(again));
    // Those that are asked no more do not count.
    (1..u32::from(PARTIAL)).for_each(|no| {
        roster.failed(no, Fault::Wrong("it lied".to_owned()), now);
    });
    let have = Some(Bits::of([false]));
    roster.holds(0, Holdings { have, ..holdings }, now);
    assert_eq!(roster.next_question(now), Some(now + QUESTION_EVERY));
}

#[test]
fn partial_providers_without_news_keep_nobody_from_being_asked() {
    let mut roster = Roster::default();
    let mut now = Instant::now();
    let all = 1..=u16::try_from(2 * MAX_ASKED_FOR_PIECES).expect("few");
    roster.add(all.map(|port| Candidate {
        is_partial: true,
        ..candidate(port)
    }));
    let mut asked = Vec::new();
    for _ in 0..2 {
        let due = roster.to_be_asked(now);
        assert_eq!(due.len(), MAX_ASKED_FOR_PIECES);
        for (no, _) in due {
            asked.push(no);
            let nothing = Holdings {
                version: 1,
                have: Some(Bits::of([false])),
                coming: Bits::of([false]),
            };
            roster.holds(no, nothing, now);
        }
        now += NO_NEWS;
    }
    asked.sort_unstable();
    let all: Vec<_> = (0..2 * MAX_ASKED_FOR_PIECES as ProviderNo).collect();
    assert_eq!(asked, all);
}

#[test]
fn no_more_is_in_flight_than_allowed() {
    let mut roster = Roster::default();
    let now = Instant::now();
    roster.add([candidate(1)]);
    for _ in 0..DEPTH.0 {
        assert_eq!(askable(&roster, now), [0]);
        roster.asked(0);
    }
    assert!(askable(&roster, now).is_empty());
    roster.answered(0);
    assert_eq!(askable(&roster, now), [0]);
}

#[test]
fn a_fast_provider_gets_long_runs() {
    let layout = Layout::of(1 << 30).expect("small");
    let mut roster = Roster::default();
    roster.add([candidate(1)]);
    assert_eq!(roster.longest_run(0, &layout), 1);
    let second = Duration::from_secs(1);
    roster.measured(0, 50 << 20, Duration::ZERO, second);
    assert_eq!(roster.longest_run(0, &layout), 5);
    for _ in 0..20 {
        roster.measured(0, 10 << 30, Duration::ZERO, second);
    }
    assert_eq!(roster.longest_run(0, &layout), 16);
}

#[test]
fn the_verdict_says_what_was_wrong() {
    let mut roster = Roster::default();
    assert!(matches!(roster.verdict(), JobError::Providers(_)));
    roster.add([candidate(1), candidate(2)]);
    roster.failed(0, Fault::Short, Instant::now());
    assert!(matches!(roster.verdict(), JobError::Verification(_)));
    roster.failed(1, failed(), Instant::now());
    assert!(matches!(roster.verdict(), JobError::Providers(text) if text.contains("refused")));
}

#[test]
fn who_is_overtaken_goes_last_and_is_never_left() {
    let layout = Layout::of(1 << 30).expect("small");
    let mut roster = Roster::default();
    let now = Instant::now();
    let partial = Candidate {
        is_partial: true,
        ..candidate(2)
    };
    roster.add([candidate(1), partial]);
    let holdings = Holdings {
        version: 1,
        have: Some(Bits::of([true])),
        coming: Bits::default(),
    };
    roster.holds(1, holdings, now);
    assert!(roster.is_crowd() && roster.is_had_by_others(&(0..1)));
    for _ in 0..99 {
        roster.overtaken(1, now);
    }
    assert!(!roster.is_crowd() && roster.copies().is_empty());
    assert!(!roster.is_had_by_others(&(0..1)));
    assert_eq!(askable(&roster, now), [0]);
    let later = now + REST * 2u32.pow(MAX_OVERTAKEN);
    assert_eq!(askable(&roster, later).len(), 2);
    roster.failed(1, Fault::Busy(Duration::from_secs(60)), later);
    roster.overtaken(1, later);
    assert_eq!(askable(&roster, later + Duration::from_secs(30)), [0]);
    roster.delivered(1);
    assert!(roster.is_crowd(), "it brought something");

    // Who was never tried may be faster than who was.
    let (untried, second) = (Duration::from_millis(1), Duration::from_secs(1));
    assert_eq!(roster.fastest_piece_takes(&layout, untried, now), untried);
    roster.asked(0);
    roster.measured(0, layout.piece_size(), Duration::ZERO, second);
    assert_eq!(roster.fastest_piece_takes(&layout, untried, now), second);
}
