//! The protocol as a pure state machine: messages and time in, messages out. It knows no socket,
//! no clock and no dice, so that the same code runs on real links and in a simulation.
//!
//! Invariants: a question is taken up once within `seen_for`, whoever sends it how often; every
//! question that a link may ask is answered once with `done`, at the latest when its patience
//! ends; an answer goes to where its question came from and nowhere else; what one question can
//! make us send is bounded by [`Subject::max_files`] and the number of links.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    ask::{Ask, Asked, Next},
    limits::{
        BUSY_WAIT, FILES_PER_ANSWER, Limits, MAX_ASKS, MAX_BUDGET, MAX_HOP_WAIT, MAX_HOPS,
        PAGE_FILES,
    },
    message::{Answer, File, Held, Holder, Message, Question, QuestionId, Subject},
    meter::{Heard, Meter, Origin, Resting},
};

/// A link, for as long as it is up; never used again for another.
pub type LinkId = u64;
/// An own question, through all its rings.
pub type AskId = u64;

/// What this peer holds.
pub trait Holdings {
    /// Who it is.
    fn holder(&self) -> &Holder;
    /// Its files for `subject`, at most [`PAGE_FILES`], and whether there is a further page.
    fn matching(&self, subject: &Subject) -> (Vec<File>, bool);
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send it.
    Send(LinkId, Message),
    /// Cut the link, because of what came over it.
    Cut(LinkId, &'static str),
    /// An own question found something.
    Found(AskId, Held),
    /// An own question is over; so many peers were asked. Nothing more comes for it.
    Ended(AskId, u32),
}

#[derive(Debug)]
struct Link {
    meter: Meter,
    origins: Vec<Origin>,
}

/// What this peer itself has for a question.
#[derive(Debug, Clone)]
pub struct OwnFiles {
    /// Who it is.
    pub holder: Holder,
    /// Its files, at most [`PAGE_FILES`].
    pub files: Vec<File>,
    /// Whether there is a further page.
    pub more: bool,
}

impl OwnFiles {
    /// What `holdings` have.
    pub fn of(holdings: &dyn Holdings, subject: &Subject) -> Self {
        let (files, more) = holdings.matching(subject);
        Self {
            holder: holdings.holder().clone(),
            files,
            more,
        }
    }
}

/// Where a question came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Link(LinkId),
    Ask(AskId),
}

/// A question that is still waited for.
#[derive(Debug)]
struct Active {
    from: From,
    subject: Subject,
    waiting: Vec<Waiting>,
    visited: u32,
    due: Instant,
}

/// A link that was asked, and how many files are still taken from it: each has the same share, so
/// that one that answers too much takes nothing from the others.
#[derive(Debug)]
struct Waiting {
    link: LinkId,
    files_left: u32,
}

fn shares(links: Vec<LinkId>, files: u32) -> Vec<Waiting> {
    let share = files / u32::try_from(links.len().max(1)).unwrap_or(u32::MAX);
    let waiting = |link| Waiting {
        link,
        files_left: share,
    };
    links.into_iter().map(waiting).collect()
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    links: BTreeMap<LinkId, Link>,
    resting: Resting,
    /// Every question of the last `seen_for`; those that are over have nothing more in it.
    seen: HashMap<QuestionId, Option<Box<Active>>>,
    /// When each is forgotten, oldest first.
    forget: VecDeque<(Instant, QuestionId)>,
    /// When each active question is given up.
    due: BTreeSet<(Instant, QuestionId)>,
    asks: HashMap<AskId, Ask>,
    last_ask: AskId,
}

impl Core {
    /// Without links.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            links: BTreeMap::new(),
            resting: Resting::default(),
            seen: HashMap::new(),
            forget: VecDeque::new(),
            due: BTreeSet::new(),
            asks: HashMap::new(),
            last_ask: 0,
        }
    }

    /// Questions that are remembered.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at);
        let forget = self.forget.front().map(|(at, _)| *at);
        due.into_iter().chain(forget).min()
    }

    /// A link came up, of whom `origins` tell.
    pub fn link_up(&mut self, link: LinkId, origins: Vec<Origin>, now: Instant) {
        let meter = self.resting.take(&origins, &self.limits, now);
        self.links.insert(link, Link { meter, origins });
    }

    /// A link went down: nothing comes from it any more.
    pub fn link_down(&mut self, link: LinkId, now: Instant, out: &mut Vec<Action>) {
        let Some(state) = self.links.remove(&link) else {
            return;
        };
        let life = self.limits.seen_for;
        self.resting.put(&state.origins, &state.meter, now, life);
        let active: Vec<_> = self.due.iter().map(|(_, id)| *id).collect();
        for id in active {
            let Some(Some(state)) = self.seen.get_mut(&id) else {
                continue;
            };
            if state.from == From::Link(link) {
                // Nobody waits for it any more.
                self.take(id);
                continue;
            }
            let before = state.waiting.len();
            state.waiting.retain(|other| other.link != link);
            if before > 0 && state.waiting.is_empty() {
                self.finish(id, None, now, out);
            }
        }
    }

    /// Asks an own question. `None` when too many are under way.
    pub fn ask(&mut self, asked: Asked, now: Instant, out: &mut Vec<Action>) -> Option<AskId> {
        if self.asks.len() >= MAX_ASKS {
            return None;
        }
        self.last_ask += 1;
        let ask = self.last_ask;
        self.asks.insert(ask, Ask::new(asked));
        self.next_ring(ask, now, out);
        Some(ask)
    }

    /// What came over `link`, with what this peer itself holds at hand. Whoever may not block reads
    /// that between [`Self::admits`] and [`Self::take_up`].
    pub fn receive(
        &mut self,
        link: LinkId,
        message: Message,
        holdings: &dyn Holdings,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        match message {
            Message::Question(question) => {
                if self.admits(link, &question, now, out) {
                    let own = OwnFiles::of(holdings, &question.subject);
                    self.take_up(link, question, own, now, out);
                }
            }
            Message::Answer(answer) => self.answer(link, answer, now, out),
        }
    }

    /// Gives up what is due, forgets what is old.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            self.finish(id, None, now, out);
        }
        while let Some(&(at, id)) = self.forget.front()
            && at <= now
        {
            self.forget.pop_front();
            self.take(id);
            self.seen.remove(&id);
        }
    }

    /// Whether a question over `from` is to be taken up: it is within the link's rate, and was not
    /// seen yet.
    pub fn admits(
        &mut self,
        from: LinkId,
        question: &Question,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(link) = self.links.get_mut(&from) else {
            return false;
        };
        match link.meter.hears(&question.subject, &self.limits, now) {
            Heard::Yes => !self.is_known(from, question.id, out),
            Heard::No => false,
            Heard::TooMany => {
                out.push(Action::Cut(from, "it asked too much"));
                false
            }
        }
    }

    /// Answers a question that was seen, or for which there is no room.
    fn is_known(&self, from: LinkId, id: QuestionId, out: &mut Vec<Action>) -> bool {
        let known = self.seen.contains_key(&id) || self.seen.len() >= self.limits.max_seen;
        if known {
            let done = Answer {
                id,
                held: None,
                done: Some(0),
            };
            out.push(Action::Send(from, Message::Answer(done)));
        }
        known
    }

    /// A question over `from` that was admitted, with what this peer itself has for it.
    pub fn take_up(
        &mut self,
        from: LinkId,
        question: Question,
        own: OwnFiles,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let id = question.id;
        // It may have come over another link meanwhile.
        if !self.links.contains_key(&from) || self.is_known(from, id, out) {
            return;
        }
        let question = Question {
            hops: question.hops.clamp(1, MAX_HOPS),
            budget: question.budget.clamp(1, MAX_BUDGET),
            ..question
        };
        let (forwarded, waiting, due) = self.forward(&question, Some(from), now);
        let done = waiting.is_empty().then_some(1);
        let files_left = question.subject.max_files();
        self.remember(
            id,
            Active {
                from: From::Link(from),
                subject: question.subject,
                waiting: shares(waiting, files_left),
                visited: 1,
                due,
            },
            now,
        );
        if done.is_some() {
            self.take(id);
        }
        answer_own(from, id, own, done, out);
        out.extend(forwarded);
    }

    /// To whom a question goes on: what to send, whom to wait for, until when.
    fn forward(
        &mut self,
        question: &Question,
        from: Option<LinkId>,
        now: Instant,
    ) -> (Vec<Action>, Vec<LinkId>, Instant) {
        // An own question spends nothing on this peer itself.
        let here = u32::from(from.is_some());
        let hops = question.hops - here;
        let budget = question.budget - here;
        let patience = question
            .patience
            .min(MAX_HOP_WAIT * question.hops)
            .mul_f64(f64::from(hops) / f64::from(question.hops));
        let due = now + patience;
        if hops == 0 || budget == 0 {
            return (Vec::new(), Vec::new(), due);
        }
        let mut others: Vec<LinkId> = self
            .links
            .keys()
            .copied()
            .filter(|link| Some(*link) != from)
            .collect();
        if !others.is_empty() {
            // When the budget is for some only, not always for the same.
            let first = usize::from(question.id.0[0]) % others.len();
            others.rotate_left(first);
        }
        others.truncate(budget as usize);
        others.retain(|link| {
            self.links
                .get_mut(link)
                .is_some_and(|link| link.meter.may_send(&question.subject, now))
        });
        let count = others.len() as u32;
        let send = |(place, link): (usize, &LinkId)| {
            let extra = u32::from((place as u32) < budget % count);
            let question = Question {
                id: question.id,
                hops,
                budget: budget / count + extra,
                patience,
                subject: question.subject.clone(),
            };
            Action::Send(*link, Message::Question(question))
        };
        let sent = others.iter().enumerate().map(send).collect();
        (sent, others, due)
    }

    fn remember(&mut self, id: QuestionId, active: Active, now: Instant) {
        self.due.insert((active.due, id));
        self.seen.insert(id, Some(Box::new(active)));
        self.forget.push_back((now + self.limits.seen_for, id));
    }

    /// Takes a question out of those that are waited for; it stays known.
    fn take(&mut self, id: QuestionId) -> Option<Box<Active>> {
        let active = self.seen.get_mut(&id)?.take()?;
        self.due.remove(&(active.due, id));
        Some(active)
    }

    fn answer(&mut self, link: LinkId, answer: Answer, now: Instant, out: &mut Vec<Action>) {
        let id = answer.id;
        let Some(Some(active)) = self.seen.get_mut(&id) else {
            return;
        };
        let Some(place) = active.waiting.iter().position(|other| other.link == link) else {
            // Nobody asked it, or it was done.
            return;
        };
        let left = &mut active.waiting[place].files_left;
        let held = answer.held.and_then(|mut held| {
            held.files.retain(|file| active.subject.accepts(file));
            held.files.truncate(*left as usize);
            *left -= held.files.len() as u32;
            (!held.files.is_empty()).then_some(held)
        });
        if let Some(visited) = answer.done {
            active.waiting.swap_remove(place);
            active.visited = active.visited.saturating_add(visited.min(MAX_BUDGET));
        }
        if active.waiting.is_empty() {
            self.finish(id, held, now, out);
            return;
        }
        let Some(held) = held else {
            return;
        };
        match active.from {
            From::Link(parent) => {
                let answer = Answer {
                    id,
                    held: Some(held),
                    done: None,
                };
                out.push(Action::Send(parent, Message::Answer(answer)));
            }
            From::Ask(ask) => self.found(ask, id, held, now, out),
        }
    }

    /// A question could not be sent: the link has too much to carry. It is not waited for; an own
    /// question that reached nobody is asked again in a moment.
    pub fn not_sent(&mut self, link: LinkId, id: QuestionId, now: Instant, out: &mut Vec<Action>) {
        let Some(Some(active)) = self.seen.get_mut(&id) else {
            return;
        };
        active.waiting.retain(|other| other.link != link);
        if !active.waiting.is_empty() {
            return;
        }
        if let From::Ask(ask) = active.from
            && active.visited == 0
            && self.asks.get_mut(&ask).is_some_and(Ask::again)
        {
            self.put_off(id, now + BUSY_WAIT);
        } else {
            self.finish(id, None, now, out);
        }
    }

    /// Another time to give up a question.
    fn put_off(&mut self, id: QuestionId, due: Instant) {
        if let Some(Some(active)) = self.seen.get_mut(&id) {
            self.due.remove(&(active.due, id));
            active.due = due;
            self.due.insert((due, id));
        }
    }

    /// Nobody is waited for any more.
    fn finish(&mut self, id: QuestionId, held: Option<Held>, now: Instant, out: &mut Vec<Action>) {
        let Some(active) = self.take(id) else {
            return;
        };
        match active.from {
            From::Link(parent) => {
                let answer = Answer {
                    id,
                    held,
                    done: Some(active.visited),
                };
                out.push(Action::Send(parent, Message::Answer(answer)));
            }
            From::Ask(ask) => {
                if let Some(held) = held {
                    self.found(ask, id, held, now, out);
                }
                if let Some(state) = self.asks.get_mut(&ask) {
                    state.visited = state.visited.saturating_add(active.visited);
                }
                self.next_ring(ask, now, out);
            }
        }
    }

    fn found(
        &mut self,
        ask: AskId,
        id: QuestionId,
        held: Held,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(state) = self.asks.get_mut(&ask) else {
            return;
        };
        let Some(held) = state.take_up(held) else {
            return;
        };
        out.push(Action::Found(ask, held));
        // The others have a moment to answer, too.
        if let Some(gather) = state.gather()
            && let Some(Some(active)) = self.seen.get(&id)
            && now + gather < active.due
        {
            self.put_off(id, now + gather);
        }
    }

    /// Asks the next ring, or ends.
    fn next_ring(&mut self, ask: AskId, now: Instant, out: &mut Vec<Action>) {
        let Some(state) = self.asks.get_mut(&ask) else {
            return;
        };
        if let Next::Ring(question) = state.next() {
            let (sent, waiting, mut due) = self.forward(&question, None, now);
            let is_busy = waiting.is_empty() && !self.links.is_empty();
            let again = is_busy && self.asks.get_mut(&ask).is_some_and(Ask::again);
            if again {
                // Every link had as much as it takes: the same ring is tried in a moment.
                due = now + BUSY_WAIT;
            }
            if again || !waiting.is_empty() {
                let active = Active {
                    from: From::Ask(ask),
                    waiting: shares(waiting, question.subject.max_files()),
                    subject: question.subject,
                    visited: 0,
                    due,
                };
                self.remember(question.id, active, now);
                out.extend(sent);
                return;
            }
        }
        let visited = self.asks.remove(&ask).map_or(0, |state| state.visited);
        out.push(Action::Ended(ask, visited));
    }
}

/// What this peer itself answers: in as many messages as it takes, the last of which says `done`.
fn answer_own(to: LinkId, id: QuestionId, own: OwnFiles, done: Option<u32>, out: &mut Vec<Action>) {
    let OwnFiles {
        holder,
        mut files,
        more,
    } = own;
    files.truncate(PAGE_FILES);
    let count = files.len().div_ceil(FILES_PER_ANSWER);
    if count == 0 && done.is_none() {
        return;
    }
    let mut files = files.into_iter().peekable();
    for part in 0..count.max(1) {
        let files: Vec<_> = files.by_ref().take(FILES_PER_ANSWER).collect();
        let held = (!files.is_empty()).then(|| Held {
            holder: holder.clone(),
            files,
            more,
        });
        let is_last = part + 1 >= count;
        let answer = Answer {
            id,
            held,
            done: done.filter(|_| is_last),
        };
        out.push(Action::Send(to, Message::Answer(answer)));
    }
}

/// How long an own question of so many hops waits.
pub(super) fn patience(hop_wait: Duration, hops: u32) -> Duration {
    hop_wait.min(MAX_HOP_WAIT) * hops.min(MAX_HOPS)
}
