//! Walks over the terms in a committed snapshot.
//!
//! The index of terms is in two tables: that of names is in the order of the terms which are names
//! (U+0002 and the name), and lies between the type terms (U+0001) and the words of the other one.

use std::ops::Bound;

use vecino_rest::Name;

use super::{
    lists,
    read::{Snapshot, engine},
    rows::NameRow,
    schema,
};
use crate::store::{
    Among, Found, HOLDER_READS_RESERVED, MAX_HOLDER_READS_WALK, Position, ResourceNo, StoreError,
    Walk, WalkPage,
};

/// Before the terms that are names, and what follows them.
const NAMES: (&str, &str) = ("\u{2}", "\u{3}");

/// Where a walk begins: at a term, behind a resource there.
struct Start<'a> {
    term: &'a str,
    behind: Option<ResourceNo>,
}

/// A walk under way.
struct Pager<'a> {
    snapshot: &'a Snapshot,
    walk: &'a Walk<'a>,
    among: &'a Among<'a>,
    holder_budget: usize,
    rows: usize,
    page: WalkPage,
    /// Whether it ended, at the end of the walk or of the page.
    is_over: bool,
}

impl Snapshot {
    pub(super) fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError> {
        let start = match walk.after {
            Some((term, no)) => Start {
                term,
                behind: Some(*no),
            },
            None => Start {
                term: walk.prefix,
                behind: None,
            },
        };
        let mut pager = Pager {
            snapshot: self,
            walk,
            among,
            holder_budget: MAX_HOLDER_READS_WALK,
            rows: 0,
            page: WalkPage::default(),
            is_over: false,
        };
        let (names, further) = NAMES;
        let from_names = Start {
            term: names,
            behind: None,
        };
        let from_further = Start {
            term: further,
            behind: None,
        };
        if start.term < names {
            pager.words(&start)?;
            pager.names(&from_names)?;
            pager.words(&from_further)?;
        } else if start.term < further {
            pager.names(&start)?;
            pager.words(&from_further)?;
        } else {
            pager.words(&start)?;
        }
        if !pager.is_over {
            pager.page.next = None;
        }
        Ok(pager.page)
    }
}

impl Pager<'_> {
    /// Goes over the terms of `words` to the end, or to the names.
    fn words(&mut self, start: &Start<'_>) -> Result<(), StoreError> {
        if self.is_over {
            return Ok(());
        }
        let words = &self.snapshot.words;
        let prefix = schema::word(start.term);
        let mut from = match start.behind {
            Some(_) => prefix.clone(),
            None => start.term.as_bytes().to_vec(),
        };
        if let Some(no) = start.behind {
            // The row that has it, or would.
            let place = lists::key(&prefix, no.0);
            let mut before = words
                .range::<&[u8]>(&prefix[..]..=&place[..])
                .map_err(engine)?;
            if let Some(row) = before.next_back() {
                from = row.map_err(engine)?.0.value().to_vec();
            }
        }
        let from = Bound::Included(&from[..]);
        let rows = words
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(engine)?;
        for row in rows {
            let (key, steps) = row.map_err(engine)?;
            let (term, first) = lists::read_key(key.value())?;
            let term = term.strip_suffix(&[0]).map(std::str::from_utf8);
            let Some(Ok(term)) = term else {
                return Err(schema::damaged("a term"));
            };
            if start.term < NAMES.0 && term >= NAMES.0 {
                return Ok(());
            }
            let behind = start.behind.filter(|_| term == start.term);
            for no in lists::numbers(first, steps.value()) {
                let no = ResourceNo(no?);
                if behind.is_some_and(|behind| no <= behind) {
                    continue;
                }
                if self.is_over_at(term) {
                    return Ok(());
                }
                let (name, row) = self.snapshot.resource(no)?;
                self.meet(term, no, name, row)?;
                if self.is_over {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Goes over the names to the end.
    fn names(&mut self, start: &Start<'_>) -> Result<(), StoreError> {
        if self.is_over {
            return Ok(());
        }
        let name = start.term.strip_prefix(NAMES.0).unwrap_or_default();
        let key = start.behind.map(|no| schema::name(name, no));
        let from = key
            .as_deref()
            .map_or(Bound::Included(name.as_bytes()), Bound::Excluded);
        let rows = self.snapshot.names.range::<&[u8]>((from, Bound::Unbounded));
        let mut term = NAMES.0.to_owned();
        for row in rows.map_err(engine)? {
            let (key, row) = row.map_err(engine)?;
            let name = schema::read_name(key.value());
            let (name, no) = name.ok_or_else(|| schema::damaged("a name"))?;
            term.truncate(NAMES.0.len());
            term.push_str(name);
            if self.is_over_at(&term) {
                return Ok(());
            }
            let name = Name::parse(name).map_err(|_| schema::damaged("a name"))?;
            self.meet(&term, no, name, NameRow::read(row.value())?)?;
            if self.is_over {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether it ends before a resource at this term.
    fn is_over_at(&mut self, term: &str) -> bool {
        if !self.walk.covers(term) {
            self.page.next = None;
            self.is_over = true;
        } else if self.holder_budget < HOLDER_READS_RESERVED {
            self.is_over = true;
        }
        self.is_over
    }

    fn meet(
        &mut self,
        term: &str,
        no: ResourceNo,
        name: Name,
        row: NameRow,
    ) -> Result<(), StoreError> {
        let resource = row.resource(name);
        if (self.walk.accept)(term, &resource) {
            let (among, budget) = (self.among, &mut self.holder_budget);
            let live = self.snapshot.live_holders(no, &row.holders, among, budget);
            let holders = live?;
            if !holders.is_empty() {
                self.page.found.push(Found { resource, holders });
            }
        }
        self.rows += 1;
        let position: Position = (term.to_owned(), no);
        self.page.next = Some(position);
        self.is_over =
            self.rows >= self.walk.row_budget || self.page.found.len() >= self.walk.limit;
        Ok(())
    }
}
