//! What a hostile link can do to the protocol: nothing that is not bounded.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    ask::Asked,
    core::{Action, Core, LinkId},
    limits::{FILES_PER_ANSWER, Limits, MAX_BUDGET, MAX_FOUND, MAX_HOP_WAIT, MAX_HOPS, PAGE_FILES},
    message::{Answer, Held, Message, Question, QuestionId, Subject},
    simulation::{Holds, file, holds},
};

const HOSTILE: LinkId = 1;
const OTHER: LinkId = 2;
const THIRD: LinkId = 3;

struct Peer {
    core: Core,
    holds: Holds,
    now: Instant,
    asks: u128,
}

impl Peer {
    fn new() -> Self {
        let now = Instant::now();
        let mut core = Core::new(Limits::default());
        for link in [HOSTILE, OTHER, THIRD] {
            core.link_up(link, Vec::new(), now);
        }
        Self {
            core,
            holds: holds(0),
            now,
            asks: 0,
        }
    }

    fn receive(&mut self, link: LinkId, message: Message) -> Vec<Action> {
        let mut out = Vec::new();
        self.core
            .receive(link, message, &self.holds, self.now, &mut out);
        out
    }

    fn ask(&mut self, name: &str) -> Vec<Action> {
        let mut out = Vec::new();
        let subject = Subject::Name(file(name).name);
        self.asks += 1;
        let asked = Asked::lookup(subject, None, &Limits::default(), self.asks);
        self.core.ask(asked, self.now, &mut out).expect("few");
        out
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        let mut out = Vec::new();
        self.core.tick(self.now, &mut out);
        out
    }
}

fn question(number: u16, hops: u32, budget: u32) -> Message {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    Message::Question(Question {
        id: QuestionId(id),
        hops,
        budget,
        patience: Duration::from_secs(2),
        subject: Subject::Name(file("a").name),
    })
}

fn answer(id: QuestionId, name: &str, files: usize, done: Option<u32>) -> Message {
    let file = file(name);
    let held = (files > 0).then(|| Held {
        holder: super::core::Holdings::holder(&holds(7)).clone(),
        files: vec![file; files],
        more: false,
    });
    Message::Answer(Answer { id, held, done })
}

fn questions(actions: &[Action]) -> Vec<(LinkId, Question)> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send(link, Message::Question(question)) => Some((*link, question.clone())),
        _ => None,
    });
    sent.collect()
}

fn answers(actions: &[Action]) -> Vec<(LinkId, Answer)> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send(link, Message::Answer(answer)) => Some((*link, answer.clone())),
        _ => None,
    });
    sent.collect()
}

#[test]
fn forged_hops_budgets_and_patience_are_clamped() {
    let mut peer = Peer::new();
    let mut forged = question(1, u32::MAX, u32::MAX);
    if let Message::Question(question) = &mut forged {
        question.patience = Duration::from_secs(1_000_000);
    }
    let sent = questions(&peer.receive(HOSTILE, forged));
    assert_eq!(sent.len(), 2);
    for (link, question) in &sent {
        assert_ne!(*link, HOSTILE);
        assert_eq!(question.hops, MAX_HOPS - 1);
        assert!(question.budget < MAX_BUDGET);
        assert!(question.patience <= MAX_HOP_WAIT * MAX_HOPS);
    }
    assert_eq!(
        answers(&peer.pass(MAX_HOP_WAIT * MAX_HOPS)).len(),
        1,
        "it is given up"
    );
    for (hops, budget) in [(0, 0), (1, 1000), (5, 1)] {
        let number = 2 + hops as u16;
        let actions = peer.receive(HOSTILE, question(number, hops, budget));
        assert_eq!(questions(&actions), [], "{hops} {budget}");
        assert!(answers(&actions)[0].1.done.is_some());
    }
}

#[test]
fn a_replayed_id_is_looked_for_once_and_passed_on_once() {
    let mut peer = Peer::new();
    let first = peer.receive(HOSTILE, question(1, 3, 100));
    assert_eq!(questions(&first).len(), 2);
    for link in [HOSTILE, OTHER, THIRD, HOSTILE] {
        let again = peer.receive(link, question(1, 5, 1000));
        assert_eq!(questions(&again), []);
        assert_eq!(answers(&again).len(), 1);
    }
    assert_eq!(peer.holds.asked.get(), 1);
    let seen_for = Limits::default().seen_for;
    peer.pass(seen_for);
    assert_eq!(peer.core.seen(), 0);
}

#[test]
fn answers_are_taken_from_who_was_asked_for_what_was_asked_up_to_a_bound() {
    let mut peer = Peer::new();
    let sent = questions(&peer.receive(OTHER, question(1, 3, 100)));
    let id = sent[0].1.id;
    // Nobody asked this link, or for this.
    assert_eq!(peer.receive(OTHER, answer(id, "a", 1, None)), []);
    assert_eq!(
        peer.receive(HOSTILE, answer(QuestionId([9; 16]), "a", 1, Some(1))),
        []
    );
    assert_eq!(peer.receive(HOSTILE, answer(id, "b", 1, None)), []);
    assert_eq!(peer.receive(99, answer(id, "a", 1, None)), []);
    let mut passed_on = 0;
    for _ in 0..1000 {
        for (link, answer) in answers(&peer.receive(HOSTILE, answer(id, "a", 32, None))) {
            assert_eq!(link, OTHER, "the way that it came");
            passed_on += answer.held.map_or(0, |held| held.files.len());
        }
    }
    assert_eq!(passed_on, MAX_FOUND as usize / 2, "its share of the two");
    // Done is done, however many it says that it visited.
    peer.receive(HOSTILE, answer(id, "a", 0, Some(u32::MAX)));
    assert_eq!(peer.receive(HOSTILE, answer(id, "a", 1, Some(1))), []);
    let last = answers(&peer.receive(THIRD, answer(id, "a", 0, Some(1))));
    assert_eq!(last[0].1.done, Some(1 + MAX_BUDGET + 1));
}

#[test]
fn a_link_that_floods_us_is_heard_at_its_rate_and_then_cut() {
    let mut peer = Peer::new();
    let limits = Limits::default();
    let (mut sent, mut cut) = (0, 0);
    for number in 0..3000 {
        let actions = peer.receive(HOSTILE, question(number, 5, 1000));
        sent += questions(&actions).len();
        cut += usize::from(matches!(actions[..], [Action::Cut(HOSTILE, _)]));
    }
    assert!(cut > 0);
    let burst = limits.questions_at_once;
    assert_eq!(peer.holds.asked.get(), burst as usize);
    let share = 2.0 * burst * limits.sent_share;
    assert_eq!(sent, share as usize, "others get less than they would bear");
    assert_eq!(peer.core.seen(), burst as usize);
    // Another link is heard meanwhile.
    let heard = peer.receive(OTHER, question(5000, 1, 1));
    assert_eq!(answers(&heard).len(), 1);
}

#[test]
fn when_the_memory_of_questions_is_full_no_new_one_is_taken_up() {
    let mut peer = Peer::new();
    peer.core = Core::new(Limits {
        max_seen: 3,
        ..Limits::default()
    });
    peer.core.link_up(HOSTILE, Vec::new(), peer.now);
    for number in 0..10 {
        let actions = peer.receive(HOSTILE, question(number, 5, 1000));
        assert_eq!(answers(&actions).len(), 1);
    }
    assert_eq!((peer.core.seen(), peer.holds.asked.get()), (3, 3));
}

#[test]
fn a_link_that_never_answers_or_goes_down_holds_nothing_up() {
    let mut peer = Peer::new();
    let rings = Limits::default().rings;
    let mut sent = questions(&peer.ask("a"));
    let mut ended = false;
    for hops in rings {
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|(_, question)| question.hops == hops));
        let due = peer.core.next_due().expect("it is waited for");
        let actions = peer.pass(due - peer.now);
        sent = questions(&actions);
        ended = matches!(actions.last(), Some(Action::Ended(..)));
    }
    assert!(ended);

    let sent = questions(&peer.ask("b"));
    let mut out = Vec::new();
    for link in [HOSTILE, OTHER] {
        peer.core.link_down(link, peer.now, &mut out);
        assert_eq!(out, []);
    }
    let id = sent[0].1.id;
    let actions = peer.receive(THIRD, answer(id, "b", 1, Some(1)));
    assert!(
        matches!(actions[..], [Action::Found(..), Action::Ended(_, 1)]),
        "{actions:?}"
    );
    peer.core.link_down(THIRD, peer.now, &mut out);
    assert!(matches!(
        peer.ask("nobody is left")[..],
        [Action::Ended(_, 0)]
    ));
}

#[test]
fn more_lookups_than_a_link_bears_at_once_wait_for_each_other() {
    let mut peer = Peer::new();
    for link in [OTHER, THIRD] {
        peer.core.link_down(link, peer.now, &mut Vec::new());
    }
    let limits = Limits::default();
    let at_once = limits.questions_at_once * limits.sent_share;
    let all = at_once as usize + 200;
    let mut asked = 0;
    let mut busy = Vec::new();
    for number in 0..all {
        busy.extend(peer.ask(&number.to_string()));
    }
    let mut ended = 0;
    while asked < all && ended == 0 {
        for (link, question) in questions(&std::mem::take(&mut busy)) {
            asked += 1;
            let Subject::Name(name) = question.subject else {
                panic!("a name");
            };
            let found = answer(question.id, name.as_str(), 1, Some(1));
            let actions = peer.receive(link, found);
            assert!(matches!(
                actions[..],
                [Action::Found(..), Action::Ended(_, 1)]
            ));
        }
        busy = peer.pass(Duration::from_millis(50));
        let over = |action: &&Action| matches!(action, Action::Ended(..));
        ended += busy.iter().filter(over).count();
    }
    assert_eq!((asked, ended), (all, 0), "none ended without being asked");
}

#[test]
fn many_files_go_in_answers_of_bounded_size() {
    let mut peer = Peer::new();
    peer.holds.files = (0..1000).map(|n| file(&n.to_string())).collect();
    let Message::Question(mut asked) = question(1, 1, 1) else {
        panic!("a question");
    };
    asked.subject = Subject::Everything(0);
    let sent = answers(&peer.receive(HOSTILE, Message::Question(asked)));
    let sizes = sent.iter().map(|(_, answer)| match &answer.held {
        Some(held) => held.files.len(),
        None => 0,
    });
    assert_eq!(sizes.clone().max(), Some(FILES_PER_ANSWER));
    assert_eq!(sizes.sum::<usize>(), PAGE_FILES);
    let done: Vec<_> = sent.iter().filter_map(|(_, answer)| answer.done).collect();
    assert_eq!(done, [1]);
    assert!(sent.last().expect("some").1.done.is_some());
}

fn any_message() -> impl Strategy<Value = (LinkId, Message, u64)> {
    let question = (0_u16..6, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(number, hops, budget, patience)| {
            let Message::Question(mut question) = question(number, hops, budget) else {
                unreachable!("a question");
            };
            question.patience = Duration::from_millis(patience.into());
            Message::Question(question)
        },
    );
    let answer = (0_u16..6, 0_usize..40, proptest::option::of(any::<u32>())).prop_map(
        |(number, files, done)| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            answer(QuestionId(id), "a", files, done)
        },
    );
    (0_u64..5, prop_oneof![question, answer], 0_u64..3000)
}

/// Questions of each link that are not answered `done` yet.
type Open = HashMap<(LinkId, QuestionId), i64>;

fn count(actions: &[Action], open: &mut Open) {
    for (link, answer) in answers(actions) {
        if answer.done.is_some() {
            *open.entry((link, answer.id)).or_default() -= 1;
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_each_question_is_answered_done_once_and_ends(
        messages in proptest::collection::vec(any_message(), 0..60)
    ) {
        let mut peer = Peer::new();
        let mut open = Open::new();
        for (link, message, time) in messages {
            if let Message::Question(question) = &message
                && (HOSTILE..=THIRD).contains(&link)
            {
                *open.entry((link, question.id)).or_default() += 1;
            }
            let actions = peer.receive(link, message);
            count(&actions, &mut open);
            let actions = peer.pass(Duration::from_millis(time));
            count(&actions, &mut open);
        }
        let actions = peer.pass(Duration::from_secs(60));
        count(&actions, &mut open);
        prop_assert!(open.values().all(|left| *left == 0), "{open:?}");
        prop_assert_eq!(peer.core.seen(), 0);
        prop_assert_eq!(peer.core.next_due(), None);
    }
}
