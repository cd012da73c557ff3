//! Whom a job asks for which pieces: fills the flights that are free, takes late pieces over.
//!
//! Invariant: never more than `FLIGHTS` requests at once, and `AT_WHOLE` beside them, nor more at
//! one provider than the roster allows. A piece is asked of a second provider only when the first is
//! late with it. What is late keeps nobody from asking others for the rest.

use std::{
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use super::{
    run::{Event, Events, Run},
    transfer::{Flight, Transfer},
};
use crate::{
    content::part::Part,
    download::{
        picker::{Offer, ProviderNo, State, Want},
        roster::Roster,
    },
    welcome::Welcome,
};

/// Requests in flight, at least while there is something to ask for, and at most.
const FLIGHTS: (usize, usize) = (4, 24);
/// In a crowd, where what waits for one provider cannot be had sooner from another; and together
/// with those that are late.
const IN_A_CROWD: (usize, usize) = (12, 20);
/// Requests at those who have everything, for what nobody else has in a crowd: so many beside all
/// others.
const AT_WHOLE: usize = 4;
/// Requests to others while some are late: what is slow may be our own link as well.
const BESIDE_LATE: usize = 4;
/// All of them together.
pub(super) const MOST_FLIGHTS: usize = FLIGHTS.1 + AT_WHOLE;
/// So much of what comes in is asked for ahead.
const AHEAD: Duration = Duration::from_millis(400);
/// A piece is late when it takes so many times as long as it should, and so much longer.
const LATE: (u32, Duration) = (2, Duration::from_millis(250));
/// How long a piece should take from who was never measured.
const UNMEASURED: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Asks whoever may be asked for what is wanted and missing, or late.
    pub(super) fn ask<'a>(&'a self, part: &'a Arc<Part>, events: &mut Events<'a>, now: Instant) {
        let job = self.job;
        let wants = job.wants();
        if wants.is_empty() {
            return;
        }
        let in_a_crowd = self.roster.borrow().is_crowd();
        if in_a_crowd {
            self.ask_for_the_rarest(part, events, &wants, now);
        }
        let most = self.most_flights(in_a_crowd);
        let late_after = self.overdue_after(now);
        loop {
            let askable = self.roster.borrow().askable(now, &mut rand::rng());
            let mut is_asked = false;
            for no in askable {
                if self.is_enough(most, late_after, now) {
                    return self.ask_for_pieces(events, now);
                }
                // As long as something else is on its way, who has everything is spared for what
                // nobody else has.
                let is_spared = in_a_crowd
                    && self.roster.borrow().is_whole(no)
                    && self.is_anything_on_time(late_after, now);
                let most_copies = if is_spared { 0 } else { u16::MAX };
                let picked = self.pick(no, &wants, most_copies, now);
                let picked = picked.or_else(|| Some((self.take_over(no, now)?, None)));
                if let Some((run, welcome)) = picked {
                    let flight = self.begin(no, run, welcome);
                    events.push(self.transfer(part, flight));
                    is_asked = true;
                }
            }
            if !is_asked {
                break;
            }
        }
        self.ask_for_pieces(events, now);
    }

    /// Asks some who have everything for what nobody else has, however much else is on its way: what
    /// they have not sent yet, nobody in the crowd can have from another.
    fn ask_for_the_rarest<'a>(
        &'a self,
        part: &'a Arc<Part>,
        events: &mut Events<'a>,
        wants: &[Want],
        now: Instant,
    ) {
        let askable = self.roster.borrow().askable(now, &mut rand::rng());
        let is_whole = |no: &ProviderNo| self.roster.borrow().is_whole(*no);
        let flights = self.flights.borrow();
        let whole = flights.iter().filter(|flight| is_whole(&flight.provider));
        let free = AT_WHOLE.saturating_sub(whole.count());
        drop(flights);
        for no in askable.into_iter().filter(is_whole).take(free) {
            if let Some((run, welcome)) = self.pick(no, wants, 0, now) {
                let flight = self.begin(no, run, welcome);
                events.push(self.transfer(part, flight));
            }
        }
    }

    /// Takes back what waits in the queue of one that has everything, and that others have by now,
    /// unless something is as welcome that they have not; as long as any of them sends something.
    pub(super) fn withdraw(&self, now: Instant) {
        let late_after = self.overdue_after(now);
        let (roster, flights) = (self.roster.borrow(), self.flights.borrow());
        let mut of_others = flights
            .iter()
            .filter(|flight| !roster.is_whole(flight.provider));
        if !of_others.any(|flight| self.is_on_time(flight, late_after, now)) {
            return;
        }
        for flight in flights.iter() {
            if flight.is_waiting()
                && roster.is_whole(flight.provider)
                && roster.is_had_by_others(&flight.run())
                && !self.expects_another(&roster, flight)
            {
                flight.withdrawn.notify_one();
            }
        }
    }

    /// Leaves what others have to them, when `flight` may bring something else; whether it may.
    fn expects_another(&self, roster: &Roster, flight: &Flight) -> bool {
        let mut state = self.job.state();
        let mut others = flight.welcome.iter().flat_map(Welcome::pieces);
        let (first, no) = (flight.first.get(), flight.provider);
        let other = others.find(|&other| {
            state.picker.state(other) == State::Missing
                && !roster.is_had_by_others(&(other..other + 1))
        });
        let Some(other) = other.filter(|&other| state.picker.moved(first, other, no)) else {
            return false;
        };
        drop(state);
        flight.first.set(other);
        flight.at.set((other, flight.at.get().1));
        self.job.told_pieces();
        true
    }

    /// The provider of `flight` chose to send `piece`, for which another request waits at it: that
    /// one is to bring what this one was. Whether there is such a one.
    fn swaps(&self, flight: &Rc<Flight>, piece: u32) -> bool {
        let flights = self.flights.borrow();
        let other = flights.iter().find(|other| {
            other.provider == flight.provider
                && !Rc::ptr_eq(other, flight)
                && other.is_waiting()
                && other.run() == (piece..piece + 1)
        });
        if let Some(other) = other {
            let first = flight.first.get();
            other.first.set(first);
            other.at.set((first, other.at.get().1));
        }
        other.is_some()
    }

    /// Asks partial providers what they have.
    fn ask_for_pieces<'a>(&'a self, events: &mut Events<'a>, now: Instant) {
        let due = self.roster.borrow_mut().to_be_asked(now);
        for (no, since) in due {
            let url = self.roster_url(no);
            let (job, source) = (self.job, &self.tools.source);
            events.push(
                async move {
                    let holdings = source.have(&url, &job.digest, &job.layout, since).await;
                    Event::Holds(no, holdings)
                }
                .boxed_local(),
            );
        }
    }

    fn roster_url(&self, no: ProviderNo) -> vecino_rest::PeerUrl {
        self.roster.borrow().url(no).clone()
    }

    /// Whether `most` requests are on their way; for those that are late, some others may be.
    fn is_enough(
        &self,
        (most, with_late): (usize, usize),
        late_after: Duration,
        now: Instant,
    ) -> bool {
        let flights = self.flights.borrow();
        let all = flights.len();
        if all < most || all >= with_late {
            return all >= most;
        }
        let on_time = flights
            .iter()
            .filter(|flight| self.is_on_time(flight, late_after, now));
        on_time.count() >= most
    }

    /// Whether it will bring something as soon as another request could.
    fn is_on_time(&self, flight: &Flight, late_after: Duration, now: Instant) -> bool {
        flight.takes(now) <= late_after && !self.job.has(flight.at.get().0)
    }

    fn is_anything_on_time(&self, late_after: Duration, now: Instant) -> bool {
        let flights = self.flights.borrow();
        let mut flights = flights.iter();
        flights.any(|flight| self.is_on_time(flight, late_after, now))
    }

    /// After so long the fastest provider would have sent a piece.
    pub(super) fn overdue_after(&self, now: Instant) -> Duration {
        let (times, longer) = LATE;
        let roster = self.roster.borrow();
        roster.fastest_piece_takes(&self.job.layout, UNMEASURED, now) * times + longer
    }

    /// Enough flights for the rate that is measured, and how many may be with those that are late. In a
    /// crowd the rate is what the flights make it:
    /// who asked for less would get less, and then ask for less still.
    fn most_flights(&self, in_a_crowd: bool) -> (usize, usize) {
        let (least, most) = FLIGHTS;
        if in_a_crowd {
            return IN_A_CROWD;
        }
        let pieces = self.rate.get() * AHEAD.as_secs_f64() / self.job.layout.piece_size() as f64;
        let enough = (least + pieces as usize).min(most);
        (enough, most.min(enough + BESIDE_LATE))
    }

    /// What `no` is to send next of what is missing, or what a reader waits for and another is late
    /// with; and what would be as welcome.
    fn pick(
        &self,
        no: ProviderNo,
        wants: &[Want],
        most_copies: u16,
        now: Instant,
    ) -> Option<(Range<u32>, Option<Welcome>)> {
        let roster = self.roster.borrow();
        let offer = Offer {
            provider: no,
            has: roster.has(no),
            copies: roster.copies(),
            most_copies,
            longest: roster.longest_run(no, &self.job.layout),
        };
        let mut urgent = self.waited_for(wants).into_iter();
        let urgent = urgent.find(|&piece| self.is_late(piece, no, &roster, now));
        let mut state = self.job.state();
        if let Some(piece) = urgent.filter(|&piece| state.picker.take_over(piece, no)) {
            return Some((piece..piece + 1, None));
        }
        let run = state.picker.pick(&offer, wants, rand::random())?;
        // What a partial one sends, others send as well: by the time that it chose, its choice
        // might be here.
        let may_choose = run.len() == 1 && roster.is_whole(no);
        let welcome = may_choose.then(|| state.picker.welcome(&offer, wants, run.start));
        Some((run, welcome.flatten()))
    }

    /// A piece that another is late with, for `no` to send as well.
    fn take_over(&self, no: ProviderNo, now: Instant) -> Option<Range<u32>> {
        let (roster, flights) = (self.roster.borrow(), self.flights.borrow());
        let pieces = flights.iter().map(|flight| flight.at.get().0);
        let mut late = pieces.filter(|&piece| self.is_late(piece, no, &roster, now));
        let piece = late.find(|&piece| self.job.state().picker.take_over(piece, no))?;
        Some(piece..piece + 1)
    }

    /// A request to `no` that begins.
    fn begin(&self, no: ProviderNo, run: Range<u32>, welcome: Option<Welcome>) -> Rc<Flight> {
        self.job.told_pieces();
        self.roster.borrow_mut().asked(no);
        let flight = Rc::new(Flight::new(no, run, welcome));
        self.flights.borrow_mut().push(flight.clone());
        flight
    }

    /// The pieces that readers in order are waiting for.
    fn waited_for(&self, wants: &[Want]) -> Vec<u32> {
        wants
            .iter()
            .filter(|want| want.in_order && !want.pieces.is_empty())
            .map(|want| want.pieces.start)
            .collect()
    }

    /// Whether who sends `piece` takes so long that `no`, who has it, would be faster.
    fn is_late(&self, piece: u32, no: ProviderNo, roster: &Roster, now: Instant) -> bool {
        let (times, longer) = LATE;
        let flights = self.flights.borrow();
        let mut sending = flights.iter().filter(|flight| flight.at.get().0 == piece);
        let Some(flight) = sending.next() else {
            return false;
        };
        let own = roster.piece_takes(no, &self.job.layout);
        let should = own.unwrap_or(UNMEASURED) * times + longer;
        sending.next().is_none()
            && flight.provider != no
            && roster.has(no).is_none_or(|has| has.get(piece))
            && now.saturating_duration_since(flight.at.get().1) > should
    }

    fn transfer<'a>(
        &'a self,
        part: &'a Arc<Part>,
        flight: Rc<Flight>,
    ) -> futures_util::future::LocalBoxFuture<'a, Event> {
        let no = flight.provider;
        let url = self.roster_url(no);
        let failures = self.roster.borrow().failures(no);
        let keeps = self.tools.store.keeps_size(self.job.layout.size());
        async move {
            let delivered = |piece| self.delivered(no, piece);
            let swaps = |piece| self.swaps(&flight, piece);
            let transfer = Transfer {
                job: self.job,
                source: &self.tools.source,
                part,
                keeps,
                url,
                failures,
                flight: &flight,
                delivered: &delivered,
                swaps: &swaps,
            };
            let outcome = transfer.run().await;
            Event::Landed(flight, outcome)
        }
        .boxed_local()
    }
}
