//! 1,024 members, of which 30 % die at once: what is found before anything is repaired, and how
//! long it takes until the ring is ideal and every record is found again. Time is simulated:
//! each message takes some of it, and a dead member costs its caller the whole time-out.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    time::Duration,
};

use pserver::locate::chord::{
    id::Id,
    member::Member,
    state::{Call, Purpose, Response},
    timing::{HOLDERS_ASKED, REPLICAS, Timing},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    hops::{Field, responsible},
    seed,
};

const MEMBERS: usize = 1024;
const DEAD: usize = MEMBERS * 3 / 10;
const RECORDS: usize = 2000;
const LOOKUPS: usize = 2000;
/// What `PROTOCOL.md` says it takes at most until the record of a live provider is found again.
const FOUND_AGAIN_WITHIN: Duration = Duration::from_secs(30);

/// A record by the place of its name, and who keeps it.
struct Record {
    place: Id,
    holders: HashSet<Id>,
}

enum Event {
    Stabilize(Id),
    Request {
        from: Id,
        call: Call,
    },
    Answer {
        from: Id,
        to: Member,
        purpose: Purpose,
        answer: Option<Response>,
    },
}

struct Clock {
    now: Duration,
    events: BinaryHeap<(Reverse<(Duration, u64)>, usize)>,
    kept: HashMap<usize, Event>,
    count: u64,
    random: StdRng,
    timing: Timing,
}

impl Clock {
    fn after(&mut self, wait: Duration, event: Event) {
        self.count += 1;
        let at = self.count as usize;
        self.kept.insert(at, event);
        self.events
            .push((Reverse((self.now + wait, self.count)), at));
    }

    fn next(&mut self) -> Event {
        let (Reverse((now, _)), at) = self.events.pop().expect("timers never end");
        self.now = now;
        self.kept.remove(&at).expect("each once")
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(5..50))
    }

    fn send(&mut self, from: Id, calls: Vec<Call>) {
        for call in calls {
            let latency = self.latency();
            self.after(latency, Event::Request { from, call });
        }
    }

    fn stabilize_later(&mut self, at: Id) {
        let wait = Timing::jittered(self.timing.stabilize, self.random.random());
        self.after(wait, Event::Stabilize(at));
    }

    fn handle(&mut self, field: &mut Field, event: Event) {
        match event {
            Event::Stabilize(at) => {
                let calls = field.rings.get_mut(&at).expect("alive").stabilize();
                self.send(at, calls);
                self.stabilize_later(at);
            }
            Event::Request { from, call } => {
                let answer = field
                    .rings
                    .get_mut(&call.to.id)
                    .map(|ring| ring.handle(call.request).expect("all are members"));
                let (answer, wait) = match answer {
                    Some((answer, calls)) => {
                        self.send(call.to.id, calls);
                        (Some(answer), self.latency())
                    }
                    None => (None, self.timing.answer),
                };
                let (to, purpose) = (call.to, call.purpose);
                self.after(
                    wait,
                    Event::Answer {
                        from,
                        to,
                        purpose,
                        answer,
                    },
                );
            }
            Event::Answer {
                from,
                to,
                purpose,
                answer,
            } => {
                let ring = field.rings.get_mut(&from).expect("alive");
                let calls = ring.answered(&to, purpose, answer);
                self.send(from, calls);
            }
        }
    }
}

/// How many of `LOOKUPS` find their record, the mean of their requests, those to dead members
/// among them.
fn find(field: &Field, records: &[Record], random: &mut StdRng) -> (usize, f64) {
    let (mut found, mut requests) = (0, 0);
    for at in 0..LOOKUPS {
        let record = &records[at % records.len()];
        let from = field.anyone(random);
        let way = field.look_up(&from, record.place);
        requests += way.steps;
        // As `locate` asks: the first holders that answer.
        let answering = way.holders.iter().take(1 + REPLICAS);
        let mut answering = answering.filter(|holder| field.rings.contains_key(&holder.id));
        found += usize::from(
            answering
                .by_ref()
                .take(HOLDERS_ASKED)
                .any(|holder| record.holders.contains(&holder.id)),
        );
    }
    (found, requests as f64 / LOOKUPS as f64)
}

fn is_ideal(field: &Field) -> bool {
    let size = field.members.len();
    field.members.iter().enumerate().all(|(at, me)| {
        let ring = &field.rings[&me.id];
        let around = |steps: usize| &field.members[(at + steps) % size];
        ring.predecessor() == Some(around(size - 1))
            && ring.successors().len() == REPLICAS
            && (1..=REPLICAS).all(|steps| ring.successors()[steps - 1] == *around(steps))
    })
}

#[test]
fn a_ring_that_loses_a_third_of_its_members_at_once_repairs_itself() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut field = Field::ideal(MEMBERS, &mut random);
    let records: Vec<_> = (0..RECORDS)
        .map(|_| {
            let place = Id::from_bytes(random.random());
            let first = responsible(&field.members, &place).id;
            let at = field.members.iter().position(|member| member.id == first);
            let at = at.expect("a member");
            let holder = |steps: usize| field.members[(at + steps) % MEMBERS].id;
            Record {
                place,
                holders: (0..=REPLICAS).map(holder).collect(),
            }
        })
        .collect();
    field.members.shuffle(&mut random);
    for dead in field.members.drain(..DEAD) {
        field.rings.remove(&dead.id);
    }
    field.members.sort_by_key(|member| member.id);
    let alone = field
        .rings
        .values()
        .filter(|ring| {
            !ring
                .others()
                .any(|other| field.rings.contains_key(&other.id))
        })
        .count();
    let lost = records
        .iter()
        .filter(|record| !record.holders.iter().any(|id| field.rings.contains_key(id)))
        .count();
    println!(
        "seed {seed}: {DEAD} of {MEMBERS} die; r = {REPLICAS}: {alone} members without a live \
         successor, {lost} of {RECORDS} records without a live holder"
    );
    let (found, steps) = find(&field, &records, &mut random);
    println!(
        "before repair {found} of {LOOKUPS} lookups succeed ({:.2} %), in {steps:.2} requests",
        100.0 * found as f64 / LOOKUPS as f64
    );
    assert_eq!(alone, 0, "seed {seed}: beyond the assumption");

    let mut clock = Clock {
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        kept: HashMap::new(),
        count: 0,
        random,
        timing: Timing::default(),
    };
    for member in &field.members {
        clock.stabilize_later(member.id);
    }
    let mut checked = Duration::ZERO;
    let mut ideal_after = None;
    while ideal_after.is_none() && clock.now < FOUND_AGAIN_WITHIN {
        let event = clock.next();
        clock.handle(&mut field, event);
        if clock.now >= checked {
            checked = clock.now + Duration::from_millis(250);
            ideal_after = is_ideal(&field).then_some(clock.now);
        }
    }
    let ideal_after = ideal_after.unwrap_or_else(|| {
        panic!("seed {seed}: not ideal after {FOUND_AGAIN_WITHIN:?}");
    });
    let (found, steps) = find(&field, &records, &mut clock.random);
    println!(
        "the ring is ideal again after {ideal_after:.1?}; then {found} of {LOOKUPS} lookups \
         succeed, in {steps:.2} requests"
    );
    assert_eq!(found, LOOKUPS, "seed {seed}");
}
