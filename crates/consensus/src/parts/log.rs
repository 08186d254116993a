//! The suffix of the replicated log that is held in memory.
//!
//! **Invariants**
//! - Entries are contiguous from `start + 1`; terms never decrease.
//! - `start` is a real position: its term is known, all at or below it is
//!   committed, applied and durable in the state.
//! - Only [`Log::truncate`] and [`Log::reset`] remove entries at the end.

use crate::contract::Entry;
use std::collections::VecDeque;

/// Bytes that an entry is charged with besides its data.
const ENTRY_COST: u64 = 32;

#[derive(Debug)]
pub struct Log {
    start: u64,
    start_term: u64,
    start_sum: u64,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// Cost of all entries up to and including this one: sizes of ranges in O(1).
    sum: u64,
}

pub fn cost(data_len: usize) -> u64 {
    data_len as u64 + ENTRY_COST
}

impl Log {
    pub fn new(start: u64, start_term: u64) -> Log {
        Log { start, start_term, start_sum: 0, slots: VecDeque::new() }
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
        self.start + self.slots.len() as u64
    }

    pub fn last_term(&self) -> u64 {
        self.slots.back().map_or(self.start_term, |s| s.entry.term)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.start + 1)?).ok()?)
    }

    /// The term at `index`, if the log still or already knows it.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.start {
            return Some(self.start_term);
        }
        self.slot(index).map(|s| s.entry.term)
    }

    pub fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last() + 1, "the log has no gaps");
        assert!(entry.term >= self.last_term(), "terms never decrease");
        let sum = self.sum(self.last()) + cost(entry.data.len());
        self.slots.push_back(Slot { entry, sum });
    }

    /// Removes `from` and all after it.
    pub fn truncate(&mut self, from: u64) {
        assert!(from > self.start, "what is below the start is committed");
        self.slots.truncate((from - self.start - 1) as usize);
    }

    /// Removes all up to and including `upto`.
    pub fn drop_to(&mut self, upto: u64) {
        let Some(term) = self.term(upto) else { return };
        self.start_sum = self.sum(upto);
        self.slots.drain(..(upto - self.start) as usize);
        (self.start, self.start_term) = (upto, term);
    }

    /// Forgets everything; the log starts after `start`.
    pub fn reset(&mut self, start: u64, term: u64) {
        *self = Log::new(start, term);
    }

    fn sum(&self, index: u64) -> u64 {
        self.slot(index).map_or(self.start_sum, |s| s.sum)
    }

    /// Cost of the entries after `after` up to `upto`.
    pub fn bytes(&self, after: u64, upto: u64) -> u64 {
        self.sum(upto).saturating_sub(self.sum(after))
    }

    /// Entries from `from` to `to`, as many as `max` bytes allow, at least one.
    pub fn entries(&self, from: u64, to: u64, max: u64) -> Vec<Entry> {
        let limit = self.sum(from - 1).saturating_add(max);
        let mut out = Vec::new();
        for index in from..=to {
            let Some(slot) = self.slot(index) else { break };
            if slot.sum > limit && !out.is_empty() {
                break;
            }
            out.push(slot.entry.clone());
        }
        out
    }

    /// Entries from `from` to the end, by reference.
    pub fn tail(&self, from: u64) -> impl ExactSizeIterator<Item = &Entry> {
        let skip = (from.max(self.first()) - self.first()) as usize;
        self.slots.range(skip.min(self.slots.len())..).map(|s| &s.entry)
    }

    /// The greatest index at or below `index` whose term is at most `term`, and
    /// its term: the last place where two logs may agree, found without
    /// stepping through a term entry by entry. Never below the start.
    pub fn agree(&self, index: u64, term: u64) -> (u64, u64) {
        let within = self.slots.partition_point(|s| s.entry.term <= term) as u64;
        let at = (self.start + within).min(index).max(self.start);
        (at, self.term(at).unwrap_or(self.start_term))
    }

    /// How far the log may be dropped so that, of what is at or below
    /// `durable`, no more than these amounts are kept.
    pub fn droppable(&self, durable: u64, bytes_max: u64, entries_max: u64) -> u64 {
        let durable = durable.min(self.last());
        if durable <= self.start {
            return self.start;
        }
        let floor = self.sum(durable).saturating_sub(bytes_max);
        let by_bytes = if floor <= self.start_sum {
            self.start
        } else {
            self.start + self.slots.partition_point(|s| s.sum < floor) as u64 + 1
        };
        by_bytes.max(durable.saturating_sub(entries_max)).clamp(self.start, durable)
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
            log.append(Entry { index, term, kind: EntryKind::Command, data: Bytes::new() });
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
        assert_eq!(log.tail(99).len(), 2);
        assert_eq!(log.tail(101).len(), 0);
    }
}
