//! The finger table: who is responsible for the places 2^i ahead.
//!
//! Fingers only make lookups short: a wrong or dead one costs a request, never a wrong answer. So
//! nothing of the ring's invariant depends on them.

use super::{id::Id, member::Member};

/// See the module.
#[derive(Debug, Clone)]
pub struct Fingers {
    me: Id,
    /// Entry i is for `me` + 2^i.
    nodes: Vec<Option<Member>>,
    next: usize,
}

impl Fingers {
    /// None known.
    pub fn new(me: Id) -> Self {
        Self {
            me,
            nodes: vec![None; Id::BITS],
            next: 0,
        }
    }

    /// The first place of entry `index`.
    pub fn start(&self, index: usize) -> Id {
        self.me.plus_power_of_two(index)
    }

    /// The first place after entry `index`.
    pub fn end(&self, index: usize) -> Id {
        match index + 1 {
            Id::BITS => self.me,
            next => self.start(next),
        }
    }

    /// Which entry to look up next. Those that lie before `successor` are its without a lookup.
    /// `None` when a pass over the table is complete; the next call begins another one.
    pub fn next(&mut self, successor: &Member) -> Option<usize> {
        while self.next < Id::BITS {
            if !self.start(self.next).is_in(&self.me, &successor.id) {
                return Some(self.next);
            }
            self.nodes[self.next] = Some(successor.clone());
            self.next += 1;
        }
        self.next = 0;
        None
    }

    /// `node` was found to be responsible for entry `index`; so it is for those after it that
    /// begin before `node`.
    pub fn set(&mut self, index: usize, node: &Member) {
        let mut at = index;
        while at < Id::BITS && (at == index || self.start(at).is_in(&self.me, &node.id)) {
            self.nodes[at] = Some(node.clone());
            at += 1;
        }
        self.next = at;
    }

    /// Entry `index` could not be looked up: go on with the one after it.
    pub fn skip(&mut self, index: usize) {
        self.next = index + 1;
    }

    /// The member `gone` is no more.
    pub fn forget(&mut self, gone: &Id) {
        for node in &mut self.nodes {
            if node.as_ref().is_some_and(|node| node.id == *gone) {
                *node = None;
            }
        }
    }

    /// Those before `target`, the closest to it first; each once.
    pub fn before<'a>(&'a self, target: &'a Id) -> impl Iterator<Item = &'a Member> {
        let mut last = None;
        self.nodes
            .iter()
            .rev()
            .flatten()
            .filter(move |node| last.replace(node.id) != Some(node.id))
            .filter(move |node| node.id.is_between(&self.me, target))
    }

    /// Every entry, in order: its index and who is in it.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Option<&Member>)> {
        self.nodes.iter().map(Option::as_ref).enumerate()
    }
}
