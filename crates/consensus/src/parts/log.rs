//! The suffix of the replicated log that is held in memory.
//!
//! **Invariants**
//! - Entries are contiguous from `start + 1`; terms never decrease.
//! - `start` is a real position: its term is known, all at or below it is
//!   committed, applied and durable in the state.
//! - Only [`Log::truncate`] and [`Log::reset`] remove entries at the end.

use crate::contract::{Entry, Proposal};
use crate::entries::Entries;
use std::collections::VecDeque;
use std::fmt;

/// Bytes that an entry is charged with besides its data.
const ENTRY_COST: u64 = 32;

/// Fewer entries than this are rather copied than applied by themselves.
pub const BATCH_MIN: u64 = 64;

pub struct Log {
    start: u64,
    start_term: u64,
    start_sum: u64,
    last: u64,
    last_term: u64,
    /// As they came: what is asked for is most often one of them, and shared.
    runs: VecDeque<Run>,
}

/// Entries that came together. Never empty.
struct Run {
    first: u64,
    entries: Entries,
    /// Cost of all entries of the log up to the last one of these: sizes of
    /// ranges without adding up all of them.
    sum: u64,
}

impl Run {
    fn at(&self, index: u64) -> &Entry {
        &self.entries[(index - self.first) as usize]
    }

    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// Those with these indexes.
    fn part(&self, from: u64, to: u64) -> Entries {
        self.entries.part((from - self.first) as usize..(to + 1 - self.first) as usize)
    }
}

pub fn cost(data_len: usize) -> u64 {
    data_len as u64 + ENTRY_COST
}

/// The cost of a row.
pub fn cost_of(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| cost(e.data.len())).sum()
}

/// How many of a batch may be taken with `open` bytes not committed yet: the
/// first always, if there are none.
pub fn fitting(batch: &[Proposal], mut open: u64, max: u64) -> usize {
    let fits = |p: &&Proposal| {
        let (before, cost) = (open, cost(p.data.len()));
        open += cost;
        before == 0 || open <= max
    };
    batch.iter().take_while(fits).count()
}

impl Log {
    pub fn new(start: u64, start_term: u64) -> Log {
        let (last, last_term) = (start, start_term);
        Log { start, start_term, start_sum: 0, last, last_term, runs: VecDeque::new() }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn start_term(&self) -> u64 {
        self.start_term
    }

    pub fn first(&self) -> u64 {
        self.start + 1
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn last_term(&self) -> u64 {
        self.last_term
    }

    /// The place of the run that holds `index`. Most are asked for soon after
    /// they came.
    fn place(&self, index: u64) -> Option<usize> {
        if index <= self.start || index > self.last {
            return None;
        }
        let newest = (1..=self.runs.len().min(4)).map(|back| self.runs.len() - back);
        let near = newest.into_iter().find(|&i| self.runs[i].first <= index);
        near.or_else(|| self.runs.partition_point(|r| r.first <= index).checked_sub(1))
    }

    fn run(&self, index: u64) -> Option<&Run> {
        self.place(index).map(|place| &self.runs[place])
    }

    /// The term at `index`, if the log still or already knows it.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.last {
            return Some(self.last_term);
        }
        if index == self.start {
            return Some(self.start_term);
        }
        self.run(index).map(|r| r.at(index).term)
    }

    /// Puts them at the end.
    pub fn append(&mut self, entries: Entries) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert_eq!(first.index, self.last + 1, "the log has no gaps");
        assert!(first.term >= self.last_term, "terms never decrease");
        let follows = |w: &[Entry]| w[0].index + 1 == w[1].index && w[0].term <= w[1].term;
        debug_assert!(entries.windows(2).all(follows), "entries follow each other");
        let sum = self.sum(self.last) + cost_of(&entries);
        (self.last, self.last_term) = (last.index, last.term);
        self.runs.push_back(Run { first: first.index, entries, sum });
    }

    /// Removes `from` and all after it.
    pub fn truncate(&mut self, from: u64) {
        assert!(from > self.start, "what is below the start is committed");
        let sum = self.sum(from - 1);
        while self.runs.back().is_some_and(|r| r.first >= from) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut().filter(|r| r.last() >= from) {
            (run.entries, run.sum) = (run.part(run.first, from - 1), sum);
        }
        self.last = self.last.min(from - 1);
        let end = self.runs.back().map(|r| r.at(r.last()).term);
        self.last_term = end.unwrap_or(self.start_term);
    }

    /// Removes all up to and including `upto`.
    pub fn drop_to(&mut self, upto: u64) {
        let Some(term) = self.term(upto) else { return };
        self.start_sum = self.sum(upto);
        while self.runs.front().is_some_and(|r| r.last() <= upto) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut().filter(|r| r.first <= upto) {
            (run.entries, run.first) = (run.part(upto + 1, run.last()), upto + 1);
        }
        (self.start, self.start_term) = (upto, term);
    }

    /// Forgets everything; the log starts after `start`.
    pub fn reset(&mut self, start: u64, term: u64) {
        *self = Log::new(start, term);
    }

    /// Cost of all up to and including `index`.
    fn sum(&self, index: u64) -> u64 {
        let Some(run) = self.run(index.min(self.last)) else { return self.start_sum };
        run.sum - cost_of(&run.entries[((index.min(self.last) + 1) - run.first) as usize..])
    }

    /// Cost of the entries after `after` up to `upto`.
    pub fn bytes(&self, after: u64, upto: u64) -> u64 {
        self.sum(upto).saturating_sub(self.sum(after))
    }

    /// Entries from `from` to `to`, as many as `max` bytes allow, at least one.
    pub fn entries(&self, from: u64, to: u64, max: u64) -> Entries {
        let to = to.min(self.last);
        let Some(place) = self.place(from).filter(|_| from <= to) else {
            return Entries::default();
        };
        let whole = max == u64::MAX || self.bytes(from - 1, to) <= max;
        let end = if whole { to } else { self.end_of(place, from, max) };
        let run = &self.runs[place];
        if end <= run.last() {
            return run.part(from, end);
        }
        let runs = self.runs.range(place..).flat_map(|r| &r.entries);
        runs.skip((from - run.first) as usize).take((end - from + 1) as usize).cloned().collect()
    }

    /// Entries from `from` on up to `to` that can be applied as one batch: those
    /// that came together, unless they are few.
    pub fn batch(&self, from: u64, to: u64) -> Entries {
        let end = self.run(from).map_or(to, |run| run.last().min(to));
        let few = end + 1 - from < BATCH_MIN;
        self.entries(from, if few { to } else { end }, u64::MAX)
    }

    /// The last entry within `max` bytes from `from` on, at least that one.
    fn end_of(&self, place: usize, from: u64, max: u64) -> u64 {
        let skipped = (from - self.runs[place].first) as usize;
        let rest = self.runs.range(place..).flat_map(|r| &r.entries).skip(skipped);
        let mut bytes = 0;
        let within = rest.take_while(|e| {
            bytes += cost(e.data.len());
            bytes <= max
        });
        from + (within.count() as u64).max(1) - 1
    }

    /// The greatest index at or below `index` whose term is at most `term`, and
    /// its term: the last place where two logs may agree, found without
    /// stepping through a term entry by entry. Never below the start.
    pub fn agree(&self, index: u64, term: u64) -> (u64, u64) {
        let runs = self.runs.partition_point(|r| r.entries[0].term <= term);
        let within = runs.checked_sub(1).map_or(self.start, |i| {
            let run = &self.runs[i];
            run.first + run.entries.partition_point(|e| e.term <= term) as u64 - 1
        });
        let at = within.min(index).max(self.start);
        (at, self.term(at).unwrap_or(self.start_term))
    }

    /// How far the log may be dropped so that, of what is at or below
    /// `durable`, no more than these amounts are kept.
    pub fn droppable(&self, durable: u64, bytes_max: u64, entries_max: u64) -> u64 {
        let durable = durable.min(self.last);
        if durable <= self.start {
            return self.start;
        }
        let floor = self.sum(durable).saturating_sub(bytes_max);
        let by_bytes = if floor <= self.start_sum { self.start } else { self.reaching(floor) };
        by_bytes.max(durable.saturating_sub(entries_max)).clamp(self.start, durable)
    }

    /// The first index up to which the cost is at least `floor`.
    fn reaching(&self, floor: u64) -> u64 {
        let place = self.runs.partition_point(|r| r.sum < floor);
        let Some(run) = self.runs.get(place) else { return self.last };
        let mut sum = run.sum - cost_of(&run.entries);
        let below = run.entries.iter().take_while(|e| {
            sum += cost(e.data.len());
            sum < floor
        });
        run.first + below.count() as u64
    }
}

impl fmt::Debug for Log {
    /// The entries, however they came: that changes nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log after {}:{} ", self.start, self.start_term)?;
        f.debug_list().entries(self.runs.iter().flat_map(|r| &r.entries)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EntryKind;
    use bytes::Bytes;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::new(0, 0);
        for (&term, index) in terms.iter().zip(1..) {
            log.append(Entry { index, term, kind: EntryKind::Command, data: Bytes::new() }.into());
        }
        log
    }

    #[test]
    fn places_where_logs_may_agree() {
        let log = log(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6]);
        assert_eq!(log.agree(10, 6), (10, 6));
        assert_eq!(log.agree(10, 4), (5, 4));
        assert_eq!(log.agree(10, 3), (3, 1));
        assert_eq!(log.agree(2, 9), (2, 1));
        assert_eq!(log.agree(10, 0), (0, 0));
    }

    #[test]
    fn what_is_kept_stays_within_the_limits() {
        let mut log = log(&[1; 100]);
        assert_eq!(log.droppable(80, u64::MAX, 10), 70);
        assert_eq!(log.droppable(80, 10 * ENTRY_COST, u64::MAX), 70);
        assert_eq!(log.droppable(80, u64::MAX, u64::MAX), 0);
        assert_eq!(log.droppable(80, 0, 0), 80);
        log.drop_to(70);
        assert_eq!((log.first(), log.last(), log.term(70), log.term(69)), (71, 100, Some(1), None));
        assert_eq!(log.droppable(80, 10 * ENTRY_COST, u64::MAX), 70);
        assert_eq!(log.bytes(70, 80), 10 * ENTRY_COST);
        assert_eq!(log.entries(75, 100, 3 * ENTRY_COST).len(), 3);
        assert_eq!(log.entries(75, 100, 0).len(), 1);
        assert_eq!(log.entries(101, 101, u64::MAX).len(), 0);
    }

    #[test]
    fn it_does_not_matter_how_entries_came() {
        let entry = |index| Entry {
            index,
            term: index / 4 + 1,
            kind: EntryKind::Command,
            data: vec![0; index as usize].into(),
        };
        for size in [1, 2, 3, 7, 20] {
            let (mut one, mut runs) = (Log::new(0, 0), Log::new(0, 0));
            (1..=20).for_each(|i| one.append(entry(i).into()));
            for from in (1..=20).step_by(size) {
                runs.append((from..=20.min(from + size as u64 - 1)).map(entry).collect());
            }
            let same = |one: &Log, runs: &Log| {
                assert_eq!(format!("{one:?}"), format!("{runs:?}"));
                assert_eq!((one.last(), one.last_term()), (runs.last(), runs.last_term()));
                for (a, b) in (0..22).flat_map(|a| (0..22).map(move |b| (a, b))) {
                    assert_eq!(one.term(a), runs.term(a));
                    assert_eq!(one.bytes(a, b), runs.bytes(a, b));
                    assert_eq!(one.agree(a, b), runs.agree(a, b));
                    let kept = |log: &Log| log.droppable(a, b * 20, 20 - b.min(20));
                    assert_eq!(kept(one), kept(runs));
                    for max in [0, 40, 200, u64::MAX] {
                        assert_eq!(one.entries(a, b, max), runs.entries(a, b, max));
                    }
                }
            };
            same(&one, &runs);
            one.truncate(18);
            runs.truncate(18);
            same(&one, &runs);
            one.drop_to(5);
            runs.drop_to(5);
            same(&one, &runs);
            assert_eq!((runs.start(), runs.start_term(), runs.last()), (5, 2, 17));
        }
    }
}
