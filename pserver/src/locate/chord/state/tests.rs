//! The steps of the protocol one by one; whole schedules are in `tests/chord`.

use vecino_rest::{PeerId, PeerUrl};

use super::*;
use crate::locate::overlay::Contact;

/// Members in order of their places.
fn members(count: u8) -> Vec<Member> {
    let url = PeerUrl::parse("http://10.0.0.1:80").expect("a URL");
    let contact = |n| Contact {
        peer: PeerId::from_bytes([n; 16]),
        overlay: url.clone(),
        url: url.clone(),
        site: None,
    };
    let mut members: Vec<_> = (0..count).map(|n| Member::new(contact(n))).collect();
    members.sort_by_key(|member| member.id);
    members
}

/// Member 2 of 5, whose predecessor is 1.
fn ring(members: &[Member]) -> Ring {
    let mut ring = Ring::new(members[2].clone(), 2);
    assert!(ring.join(&members[1], &members[3..]));
    assert_eq!(
        rectify(&mut ring, &members[1], &[]),
        Some(members[1].clone())
    );
    ring
}

/// `candidate` notifies; who is the predecessor when all but `dead` answer.
fn rectify(ring: &mut Ring, candidate: &Member, dead: &[&Member]) -> Option<Member> {
    let notify = Request::Notify(candidate.clone());
    let (_, mut calls) = ring.handle(notify).expect("a member");
    while let Some(call) = calls.pop() {
        assert_eq!(call.request, Request::Ping);
        let answer = (!dead.contains(&&call.to)).then_some(Response::Done);
        calls.extend(ring.answered(&call.to, call.purpose, answer));
    }
    ring.predecessor().cloned()
}

#[test]
fn rectify_replaces_a_dead_predecessor_and_no_live_one_by_one_further_away() {
    let all = members(5);
    let mut ring = ring(&all);
    assert_eq!(rectify(&mut ring, &all[0], &[]), Some(all[1].clone()));
    assert_eq!(
        rectify(&mut ring, &all[0], &[&all[0], &all[1]]),
        Some(all[1].clone()),
        "a candidate that cannot be reached replaces nobody"
    );
    assert_eq!(
        rectify(&mut ring, &all[0], &[&all[1]]),
        Some(all[0].clone())
    );
    assert_eq!(rectify(&mut ring, &all[1], &[]), Some(all[1].clone()));
}

#[test]
fn a_list_is_the_successors_and_its_list_but_for_the_last() {
    let all = members(5);
    let mut ring = ring(&all);
    assert_eq!(ring.successors(), &all[3..]);
    let calls = ring.stabilize();
    assert_eq!(calls[0].to, all[3]);
    assert!(ring.stabilize().is_empty(), "one at a time");
    // The successor is dead: the next one is asked, and its list adopted.
    let calls = ring.answered(&all[3], Purpose::FromSuccessor, None);
    assert_eq!(calls[0].to, all[4]);
    let neighbours = Response::Neighbours {
        predecessor: Some(all[3].clone()),
        successors: vec![all[0].clone(), all[1].clone()],
    };
    let calls = ring.answered(&all[4], Purpose::FromSuccessor, Some(neighbours));
    assert_eq!(ring.successors(), [all[4].clone(), all[0].clone()]);
    // Its predecessor lies between, but is dead: nothing is adopted.
    assert_eq!(
        (&calls[0].to, &calls[0].purpose),
        (&all[3], &Purpose::FromPredecessor)
    );
    let calls = ring.answered(&all[3], Purpose::FromPredecessor, None);
    assert_eq!(ring.successors()[0], all[4]);
    assert_eq!(calls[0].request, Request::Notify(all[2].clone()));
}

#[test]
fn what_was_given_up_holds_nothing_up() {
    let all = members(5);
    let mut ring = ring(&all);
    for purpose in [Purpose::FromSuccessor, Purpose::FromPredecessor] {
        assert_eq!(ring.stabilize().len(), 1);
        assert!(ring.stabilize().is_empty(), "one at a time");
        ring.abandoned(&purpose);
        assert_eq!(ring.successors(), &all[3..], "nobody counts as dead");
    }
    let notify = || Request::Notify(all[0].clone());
    let (_, calls) = ring.handle(notify()).expect("a member");
    assert!(ring.handle(notify()).expect("a member").1.is_empty());
    ring.abandoned(&calls[0].purpose);
    assert_eq!(ring.handle(notify()).expect("a member").1.len(), 1);
}

#[test]
fn lists_that_are_out_of_order_are_cut() {
    let all = members(5);
    let mut ring = ring(&all);
    ring.stabilize();
    let neighbours = Response::Neighbours {
        predecessor: None,
        successors: vec![all[1].clone(), all[4].clone()],
    };
    ring.answered(&all[3], Purpose::FromSuccessor, Some(neighbours));
    assert_eq!(ring.successors(), [all[3].clone(), all[1].clone()]);
    ring.stabilize();
    let neighbours = Response::Neighbours {
        predecessor: None,
        successors: vec![all[3].clone(), all[4].clone()],
    };
    ring.answered(&all[3], Purpose::FromSuccessor, Some(neighbours));
    assert_eq!(ring.successors(), [all[3].clone()]);
}

#[test]
fn with_few_members_every_member_lists_all() {
    let all = members(3);
    let mut ring = Ring::new(all[0].clone(), 4);
    ring.begin_alone();
    assert!(ring.is_alone() && ring.knows_all());
    rectify(&mut ring, &all[2], &[]);
    rectify(&mut ring, &all[1], &[]);
    let list = [all[1].clone(), all[2].clone(), all[0].clone()];
    assert_eq!(ring.successors(), list);
    assert!(ring.knows_all());
}

#[test]
fn only_who_is_gone_is_dropped_when_somebody_is_said_to_leave() {
    let all = members(5);
    let mut ring = ring(&all);
    for (answer, left) in [(Some(Response::Done), 2), (None, 1)] {
        let leaving = Request::Leaving(all[4].clone());
        let (_, mut calls) = ring.handle(leaving).expect("a member");
        let call = calls.pop().expect("it is asked");
        ring.answered(&call.to, call.purpose, answer);
        assert_eq!(ring.successors().len(), left);
    }
    let stranger = Request::Leaving(all[0].clone());
    assert!(ring.handle(stranger).expect("a member").1.is_empty());
}

#[test]
fn examined_candidates_are_bounded() {
    let all = members(100);
    let mut ring = Ring::new(all[0].clone(), 4);
    ring.begin_alone();
    let asked: usize = all[1..]
        .iter()
        .map(|member| ring.handle(Request::Notify(member.clone())))
        .map(|handled| handled.expect("a member").1.len())
        .sum();
    assert_eq!(asked, MAX_VETTED);
}
