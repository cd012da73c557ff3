//! A network of peers in one thread: the protocol as it is, with simulated links and time.
//! Everything follows from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use vecino_rest::{Digest, Name, PeerId, PeerUrl};

use super::{
    ask::Asked,
    core::{Action, AskId, Core, Holdings, LinkId},
    limits::Limits,
    message::{File, Held, Holder, Message, Subject},
};

/// What a simulated peer holds, and how often it was asked.
pub(super) struct Holds {
    holder: Holder,
    pub(super) files: Vec<File>,
    pub(super) asked: std::cell::Cell<usize>,
}

impl Holdings for Holds {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn matching(&self, subject: &Subject) -> (Vec<File>, bool) {
        self.asked.set(self.asked.get() + 1);
        let matching = self.files.iter().filter(|file| subject.accepts(file));
        (matching.cloned().collect(), false)
    }
}

pub(super) fn holds(number: usize) -> Holds {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let url = format!("http://10.0.{}.{}:80", number / 250, number % 250 + 1);
    Holds {
        holder: Holder {
            peer: PeerId::from_bytes(id),
            url: PeerUrl::parse(&url).expect("valid"),
            site: None,
        },
        files: Vec::new(),
        asked: 0.into(),
    }
}

pub(super) fn file(name: &str) -> File {
    File {
        name: Name::parse(name).expect("valid"),
        digest: Digest::of(name.as_bytes()),
        size: 1,
        modified_ms: 0,
    }
}

/// What happens, when, and to whom; equal times in the order in which they were planned.
type Event = Reverse<(Instant, u64, usize)>;

pub(super) struct Simulation {
    pub(super) cores: Vec<Core>,
    pub(super) holds: Vec<Holds>,
    pub(super) now: Instant,
    pub(super) questions: u64,
    pub(super) answers: u64,
    pub(super) found: Vec<Held>,
    pub(super) ended: BTreeMap<(usize, AskId), u32>,
    queue: BinaryHeap<Event>,
    mail: BTreeMap<u64, Option<(usize, Message)>>,
    planned: u64,
    rng: StdRng,
}

impl Simulation {
    /// `links` are pairs of peers; a peer's link has the number of the other peer.
    pub(super) fn new(
        peers: usize,
        links: &[(usize, usize)],
        limits: &Limits,
        rng: StdRng,
    ) -> Self {
        let now = Instant::now();
        let mut cores: Vec<_> = (0..peers).map(|_| Core::new(limits.clone())).collect();
        for &(a, b) in links {
            cores[a].link_up(b as LinkId, Vec::new(), now);
            cores[b].link_up(a as LinkId, Vec::new(), now);
        }
        Self {
            cores,
            holds: (0..peers).map(holds).collect(),
            now,
            questions: 0,
            answers: 0,
            found: Vec::new(),
            ended: BTreeMap::new(),
            queue: BinaryHeap::new(),
            mail: BTreeMap::new(),
            planned: 0,
            rng,
        }
    }

    fn plan(&mut self, at: Instant, to: usize, message: Option<(usize, Message)>) {
        self.planned += 1;
        self.mail.insert(self.planned, message);
        self.queue.push(Reverse((at, self.planned, to)));
    }

    pub(super) fn carry_out(&mut self, peer: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(link, message) => {
                    match message {
                        Message::Question(_) => self.questions += 1,
                        Message::Answer(_) => self.answers += 1,
                    }
                    let latency = Duration::from_millis(self.rng.random_range(5..50));
                    self.plan(self.now + latency, link as usize, Some((peer, message)));
                }
                Action::Cut(..) => panic!("nobody here sends too much"),
                Action::Found(_, held) => self.found.push(held),
                Action::Ended(ask, visited) => {
                    self.ended.insert((peer, ask), visited);
                }
            }
        }
        if let Some(due) = self.cores[peer].next_due() {
            self.plan(due, peer, None);
        }
    }

    pub(super) fn ask(&mut self, peer: usize, asked: Asked) -> AskId {
        let mut actions = Vec::new();
        let ask = self.cores[peer].ask(asked, self.now, &mut actions);
        self.carry_out(peer, actions);
        ask.expect("not too many")
    }

    /// Until nothing happens any more within `time`.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, number, peer))) = self.queue.pop() {
            if at > end {
                self.queue.push(Reverse((at, number, peer)));
                break;
            }
            self.now = self.now.max(at);
            let mut actions = Vec::new();
            match self.mail.remove(&number).flatten() {
                Some((from, message)) => {
                    let (core, holds) = (&mut self.cores[peer], &self.holds[peer]);
                    core.receive(from as LinkId, message, holds, self.now, &mut actions);
                }
                None => {
                    let due = self.cores[peer].next_due();
                    if due.is_none_or(|due| due > self.now) {
                        continue;
                    }
                    self.cores[peer].tick(self.now, &mut actions);
                }
            }
            self.carry_out(peer, actions);
        }
        self.now = end;
    }
}

/// Links of `peers` peers, four each (a few have fewer): two rings in random order.
pub(super) fn degree_four(peers: usize, rng: &mut StdRng) -> Vec<(usize, usize)> {
    let mut links = HashSet::new();
    for _ in 0..2 {
        let mut order: Vec<_> = (0..peers).collect();
        order.shuffle(rng);
        for (place, peer) in order.iter().enumerate() {
            let next = order[(place + 1) % peers];
            links.insert((*peer.min(&next), *peer.max(&next)));
        }
    }
    let mut links: Vec<_> = links.into_iter().collect();
    links.sort_unstable();
    links
}

const PEERS: usize = 1000;
const LOOKUPS: usize = 200;
const SEED: u64 = 20_020_622;

struct Row {
    found: usize,
    questions: f64,
    messages: f64,
    visited: f64,
}

fn lookups(copies: usize, rings: &[u32]) -> Row {
    let mut rng = StdRng::seed_from_u64(SEED);
    let links = degree_four(PEERS, &mut rng);
    let limits = Limits {
        rings: rings.to_vec(),
        ..Limits::default()
    };
    let mut network = Simulation::new(PEERS, &links, &limits, StdRng::seed_from_u64(SEED));
    let wanted = file("wanted");
    let mut row = Row {
        found: 0,
        questions: 0.0,
        messages: 0.0,
        visited: 0.0,
    };
    for _ in 0..LOOKUPS {
        let mut order: Vec<usize> = (0..PEERS).collect();
        order.shuffle(&mut rng);
        for (place, peer) in order.iter().enumerate() {
            network.holds[*peer].files.clear();
            if place < copies {
                network.holds[*peer].files.push(wanted.clone());
            }
        }
        // Somebody who does not have it.
        let asking = order[copies];
        let (questions, answers) = (network.questions, network.answers);
        network.found.clear();
        let subject = Subject::Name(wanted.name.clone());
        let asked = Asked::lookup(subject, None, &limits, rng.random());
        network.ask(asking, asked);
        // Long enough that everybody forgets it.
        network.run_for(Duration::from_secs(40));
        row.found += usize::from(!network.found.is_empty());
        row.questions += (network.questions - questions) as f64;
        row.messages += (network.questions - questions + network.answers - answers) as f64;
    }
    row.visited = network
        .holds
        .iter()
        .map(|holds| holds.asked.get() as f64)
        .sum();
    let mean = LOOKUPS as f64;
    row.questions /= mean;
    row.messages /= mean;
    row.visited /= mean;
    row
}

#[test]
fn an_expanding_ring_costs_less_than_plain_flooding_the_more_copies_there_are() {
    println!("{PEERS} peers of degree 4, {LOOKUPS} lookups each, seed {SEED}");
    println!("| copies | way | found | questions | all messages | peers asked, again included |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: |");
    for copies in [2, 10, 50] {
        let ways: [(&str, &[u32]); 3] = [
            ("rings 1, 2, 4", &[1, 2, 4]),
            ("plain, 4 deep", &[4]),
            ("plain, 5 deep", &[5]),
        ];
        let rows = ways.map(|(way, rings)| {
            let row = lookups(copies, rings);
            println!(
                "| {:.1} % | {way} | {:.1} % | {:.1} | {:.1} | {:.1} |",
                100.0 * copies as f64 / PEERS as f64,
                100.0 * row.found as f64 / LOOKUPS as f64,
                row.questions,
                row.messages,
                row.visited,
            );
            row
        });
        // Both look equally far, but which way is the fastest differs from one to the other.
        assert!(rows[0].found.abs_diff(rows[1].found) <= LOOKUPS / 10);
        if copies >= 10 {
            assert!(rows[0].questions < rows[1].questions);
        }
        for row in rows {
            assert!(row.messages <= 2.0 * row.questions + copies as f64 * 5.0);
        }
    }
}

#[test]
fn a_ring_of_three_links_ends_after_each_peer_was_visited_once() {
    let limits = Limits {
        rings: vec![5],
        ..Limits::default()
    };
    let rng = StdRng::seed_from_u64(SEED);
    let mut ring = Simulation::new(3, &[(0, 1), (1, 2), (2, 0)], &limits, rng);
    let subject = Subject::Name(file("nobody has it").name);
    let ask = ring.ask(0, Asked::lookup(subject, None, &limits, 7));
    ring.run_for(Duration::from_secs(1));
    assert_eq!(ring.ended[&(0, ask)], 2, "each of the others once");
    let asked: Vec<_> = ring.holds.iter().map(|holds| holds.asked.get()).collect();
    assert_eq!(asked, [0, 1, 1]);
    assert_eq!(
        ring.questions, 4,
        "two links, then each of the two to the other"
    );
    assert_eq!(ring.answers, 4, "and every one of them is answered once");
    assert!(ring.cores.iter().all(|core| core.seen() == 1));
    ring.run_for(limits.seen_for);
    assert!(ring.cores.iter().all(|core| core.seen() == 0));
}

#[test]
fn a_budget_bounds_the_visits_in_any_network() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let links = degree_four(PEERS, &mut rng);
    let limits = Limits::default();
    let mut network = Simulation::new(PEERS, &links, &limits, rng);
    // Sent by a peer that is no peer of the simulation, over a link of its own.
    network.cores[0].link_up(PEERS as LinkId, Vec::new(), network.now);
    let question = super::message::Question {
        id: super::message::QuestionId([9; 16]),
        hops: 5,
        budget: 50,
        patience: Duration::from_secs(2),
        subject: Subject::Everything(0),
    };
    let mut actions = Vec::new();
    let (core, holds) = (&mut network.cores[0], &network.holds[0]);
    core.receive(
        PEERS as LinkId,
        Message::Question(question),
        holds,
        network.now,
        &mut actions,
    );
    network.cores.push(Core::new(limits));
    network.holds.push(self::holds(PEERS));
    network.carry_out(0, actions);
    network.run_for(Duration::from_secs(5));
    let visited: usize = network.holds.iter().map(|holds| holds.asked.get()).sum();
    assert!((40..=50).contains(&visited), "{visited}");
}
