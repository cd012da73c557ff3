//! Lookups: one command for a name or a digest, a merge of all parts for a walk.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::{
    RedisStore,
    cluster::scripts,
    keys::{self, Part, Side},
    peers::number,
};
use crate::store::{
    Among, Found, HOLDER_READS_RESERVED, Key, MAX_HOLDER_READS, MAX_HOLDER_READS_WALK,
    MAX_HOLDERS_COUNTED, MAX_VARIANTS_READ, PeerNo, Position, Resource, StoreError, Walk, WalkPage,
    holders::gather,
};

/// Holders of one resource that are read at most.
const HOLDERS_READ: usize = 2 * MAX_HOLDERS_COUNTED;
/// Rows of a part that a walk reads first, and at once later on.
const ROWS_AT_ONCE: (usize, usize) = (8, 64);
/// Holders that a walk reads with a row; who has more is asked for them.
const HOLDERS_WITH_ROW: usize = 32;

/// A row of the index of terms.
struct Row {
    position: Position,
    bytes: Vec<u8>,
    id: Vec<u8>,
    /// `None`: it is left over from a resource that is gone.
    resource: Option<Resource>,
    holders: Vec<PeerNo>,
}

/// The rows of one part, in their order.
struct Run {
    part: Part,
    from: Vec<u8>,
    rows: VecDeque<Row>,
    at_once: usize,
    is_over: bool,
}

impl RedisStore {
    pub(super) async fn find_all(
        &self,
        key: &Key,
        among: &Among<'_>,
    ) -> Result<Vec<Found>, StoreError> {
        let (part, prefix) = match key {
            Key::Name(name) => (Part::of_name(name), keys::name_key(name)),
            Key::Digest(digest) => (
                Part::of_bucket(crate::store::bucket_of(digest)),
                keys::digest_key(digest),
            ),
        };
        let rows = self.resources(part, &prefix, among, MAX_VARIANTS_READ);
        let mut budget = MAX_HOLDER_READS;
        let mut found = Vec::new();
        for (resource, holders) in rows.await? {
            let holders = gather(holders.into_iter().map(Ok), among.live, &mut budget)?;
            let candidate = Found { resource, holders };
            // The id knows hashes; what they may mean is decided here.
            if keys::is_wanted(&candidate, key) {
                found.push(candidate);
            }
        }
        Ok(found)
    }

    /// Resources of a part whose ids begin with `prefix`, with holders, live or not.
    async fn resources(
        &self,
        part: Part,
        prefix: &[u8],
        among: &Among<'_>,
        variants: usize,
    ) -> Result<Vec<(Resource, Vec<PeerNo>)>, StoreError> {
        let mut arguments = vec![
            prefix.to_vec(),
            number(among.start.0),
            number(variants),
            number(MAX_HOLDER_READS),
            number(HOLDERS_READ),
            number(among.seed & u64::from(u32::MAX)),
        ];
        if let Some(only) = among.only {
            if only.is_empty() {
                return Ok(Vec::new());
            }
            arguments.extend(only.iter().map(|peer| number(peer.0)));
        }
        let tag = part.tag(&self.namespace);
        let answer: Vec<Vec<u8>> = self.cluster.run(&scripts().find, &tag, &arguments).await?;
        let resources = answer.chunks_exact(2).map(|found| {
            Ok((
                keys::read_resource(&found[0])?,
                keys::read_holders(&found[1]),
            ))
        });
        resources.collect()
    }

    pub(super) async fn walk_all(
        &self,
        walk: &Walk<'_>,
        among: &Among<'_>,
    ) -> Result<WalkPage, StoreError> {
        let from = match walk.after {
            Some(position) => keys::after(position),
            None => keys::terms_from(walk.prefix),
        };
        let to = keys::terms_to(walk.prefix, walk.exact);
        let run = |part| Run {
            part,
            from: from.clone(),
            rows: VecDeque::new(),
            at_once: ROWS_AT_ONCE.0.min(walk.row_budget),
            is_over: false,
        };
        let mut runs: Vec<Run> = Part::all(Side::Names).map(run).collect();
        let mut holder_budget = MAX_HOLDER_READS_WALK;
        let (mut page, mut rows, mut is_full) = (WalkPage::default(), 0, false);
        loop {
            let empty = runs
                .iter_mut()
                .filter(|run| run.rows.is_empty() && !run.is_over);
            try_join_all(empty.map(|run| self.refill(run, &to, among.start))).await?;
            let first = runs.iter_mut().filter(|run| !run.rows.is_empty());
            let first = first.min_by(|one, other| one.rows[0].bytes.cmp(&other.rows[0].bytes));
            let Some(row) = first.and_then(|run| run.rows.pop_front()) else {
                page.next = None;
                return Ok(page);
            };
            // Rows of one position are on one page: there is no way to go on between them.
            let goes_on = page.next.as_ref() == Some(&row.position);
            if !goes_on && (is_full || holder_budget < HOLDER_READS_RESERVED) {
                return Ok(page);
            }
            if let Some(resource) = &row.resource
                && (walk.accept)(&row.position.0, resource)
            {
                let holders = self.holders_of(&row, among).await?;
                let holders = gather(holders.into_iter().map(Ok), among.live, &mut holder_budget)?;
                if !holders.is_empty() {
                    page.found.push(Found {
                        resource: resource.clone(),
                        holders,
                    });
                }
            }
            page.next = Some(row.position);
            rows += 1;
            is_full = rows >= walk.row_budget || page.found.len() >= walk.limit;
        }
    }

    /// Reads on in one part.
    async fn refill(&self, run: &mut Run, to: &[u8], start: PeerNo) -> Result<(), StoreError> {
        let arguments = [
            run.from.clone(),
            to.to_vec(),
            number(run.at_once),
            number(start.0),
            number(HOLDERS_WITH_ROW),
        ];
        let tag = run.part.tag(&self.namespace);
        let answer: Vec<Vec<u8>> = self.cluster.run(&scripts().walk, &tag, &arguments).await?;
        for row in answer.chunks_exact(3) {
            let (position, id) = keys::read_term(&row[0]).ok_or_else(|| keys::foreign("a term"))?;
            let resource = match &row[1][..] {
                [] => None,
                row => Some(keys::read_resource(row)?),
            };
            run.rows.push_back(Row {
                position,
                bytes: row[0].clone(),
                id,
                resource,
                holders: keys::read_holders(&row[2]),
            });
        }
        run.is_over = run.rows.len() < run.at_once;
        if let Some(last) = run.rows.back() {
            run.from = [b"(", &last.bytes[..]].concat();
        }
        run.at_once = ROWS_AT_ONCE.1;
        Ok(())
    }

    /// The holders that a walk may count.
    async fn holders_of(&self, row: &Row, among: &Among<'_>) -> Result<Vec<PeerNo>, StoreError> {
        if row.holders.len() < HOLDERS_WITH_ROW && among.only.is_none() {
            return Ok(row.holders.clone());
        }
        let part = Part {
            side: Side::Names,
            number: row.id[0] / (u8::MAX / keys::PARTS + 1),
        };
        let found = self.resources(part, &row.id, among, 1).await?;
        Ok(found.into_iter().flat_map(|(_, holders)| holders).collect())
    }
}
