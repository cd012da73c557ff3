//! Walks over the terms in a committed snapshot.
//!
//! The index of terms is in two tables: `named` is in the order of the terms which are names (U+0002
//! and the name), and lies between the type terms (U+0001) and the words, which are in `termed`.

use super::{
    cut::{self, Rows},
    read::Snapshot,
    texts::Text,
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
            pager.terms(&start)?;
            pager.names(&from_names)?;
            pager.terms(&from_further)?;
        } else if start.term < further {
            pager.names(&start)?;
            pager.terms(&from_further)?;
        } else {
            pager.terms(&start)?;
        }
        if !pager.is_over {
            pager.page.next = None;
        }
        Ok(pager.page)
    }
}

impl Pager<'_> {
    /// Goes over `termed` to the end, or to the names.
    fn terms(&mut self, start: &Start<'_>) -> Result<(), StoreError> {
        let until = if start.term < NAMES.0 { NAMES.0 } else { "" };
        self.texts(&self.snapshot.termed, "", start, until)
    }

    /// Goes over the names to the end.
    fn names(&mut self, start: &Start<'_>) -> Result<(), StoreError> {
        self.texts(&self.snapshot.named, NAMES.0, start, "")
    }

    /// Goes over the texts of a table, which are terms behind `mark`, to the end, or to those from
    /// `until` on.
    fn texts(
        &mut self,
        rows: &impl Rows,
        mark: &str,
        start: &Start<'_>,
        until: &str,
    ) -> Result<(), StoreError> {
        if self.is_over {
            return Ok(());
        }
        let text = start.term.strip_prefix(mark).unwrap_or_default();
        let first = Text::new(text, start.behind.unwrap_or(ResourceNo(0)));
        let mut term = mark.to_owned();
        cut::read(rows, &first, |entry: &Text| {
            if start.behind.is_some() && *entry == first {
                return Ok(true);
            }
            let text = entry.as_str()?;
            if !until.is_empty() && text >= until {
                return Ok(false);
            }
            term.truncate(mark.len());
            term.push_str(text);
            if self.is_over_at(&term) {
                return Ok(false);
            }
            self.meet(&term, entry.no)?;
            Ok(!self.is_over)
        })
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

    fn meet(&mut self, term: &str, no: ResourceNo) -> Result<(), StoreError> {
        let known = self.snapshot.known(no)?;
        let resource = known.resource()?;
        if (self.walk.accept)(term, &resource) {
            let (among, budget) = (self.among, &mut self.holder_budget);
            let holders = &known.facts.holders;
            let live = self.snapshot.live_holders(no, holders, among, budget);
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
