//! What this node has accepted, by slot: the acceptor's memory.
//!
//! **Invariants**
//! - Everything up to `start` is chosen, applied and durable in the state.
//! - Everything up to `commit` is chosen, and held. Beyond it there may be holes.
//! - A chosen value never changes.

use crate::contract::{Entry, WriteSeq};
use crate::entries::Entries;
use crate::parts::log::{BATCH_MIN, cost, cost_of};
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// Values of slots that follow each other, accepted together. Never empty.
#[derive(Clone, Debug)]
pub struct Run {
    /// The first slot.
    pub first: u64,
    /// The values.
    pub entries: Entries,
    /// In which ballot they were accepted here.
    pub ballot: u64,
    /// The write that makes them durable.
    pub seq: WriteSeq,
    /// Whether they are known to be chosen (all up to the commit are).
    pub chosen: bool,
}

impl Run {
    /// The last slot.
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// Those of these slots.
    pub fn part(&self, slots: RangeInclusive<u64>) -> Entries {
        let (from, to) = (slots.start() - self.first, slots.end() + 1 - self.first);
        self.entries.part(from as usize..to as usize)
    }

    /// The same, to look at.
    pub fn slice(&self, slots: RangeInclusive<u64>) -> &[Entry] {
        let (from, to) = (slots.start() - self.first, slots.end() + 1 - self.first);
        &self.entries[from as usize..to as usize]
    }

    /// Whether a leader of this round has proposed them and does not know them
    /// to be chosen, beyond the commit.
    pub fn is_open(&self, round: u64) -> bool {
        self.ballot == round && !self.chosen
    }

    fn at(&self, slot: u64) -> &Entry {
        &self.entries[(slot - self.first) as usize]
    }
}

/// The value of one slot.
#[derive(Debug)]
pub struct Held<'a> {
    /// In which ballot it was accepted here.
    pub ballot: u64,
    /// The value.
    pub entry: &'a Entry,
    /// Whether it is known to be chosen.
    pub chosen: bool,
}

pub struct Slots {
    start: u64,
    start_term: u64,
    commit: u64,
    /// In order of their slots, as they came.
    runs: VecDeque<Run>,
    bytes: u64,
}

impl Slots {
    pub fn new(start: u64, start_term: u64) -> Slots {
        Slots { start, start_term, commit: start, runs: VecDeque::new(), bytes: 0 }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    /// The last slot of an unbroken row of chosen ones.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The last slot that holds anything.
    pub fn last(&self) -> u64 {
        self.runs.back().map_or(self.start, Run::last)
    }

    /// Cost of all that is held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The place of the first run that ends at or after `slot`. Most are asked
    /// for soon after they came.
    fn place(&self, slot: u64) -> usize {
        let count = self.runs.len();
        for place in (count.saturating_sub(4)..count).rev() {
            if self.runs[place].last() < slot {
                return place + 1;
            }
        }
        self.runs.partition_point(|r| r.last() < slot)
    }

    /// The run that holds `slot`.
    pub fn run(&self, slot: u64) -> Option<&Run> {
        self.runs.get(self.place(slot)).filter(|r| r.first <= slot)
    }

    /// The runs that hold anything of these slots.
    pub fn runs(&self, slots: RangeInclusive<u64>) -> impl Iterator<Item = &Run> + Clone {
        let end = *slots.end();
        self.runs.range(self.place(*slots.start())..).take_while(move |r| r.first <= end)
    }

    pub fn get(&self, slot: u64) -> Option<Held<'_>> {
        self.run(slot).map(|run| self.held(run, slot))
    }

    fn held<'a>(&self, run: &'a Run, slot: u64) -> Held<'a> {
        let chosen = run.chosen || slot <= self.commit;
        Held { ballot: run.ballot, entry: run.at(slot), chosen }
    }

    /// The ballot in which the value of a slot was first proposed.
    pub fn term(&self, slot: u64) -> Option<u64> {
        if slot == self.start {
            return Some(self.start_term);
        }
        self.get(slot).map(|s| s.entry.term)
    }

    /// Takes values. The caller has checked that it may.
    pub fn put(&mut self, run: Run) {
        let (first, last) = (run.first, run.last());
        if run.first <= self.start {
            return;
        }
        self.bytes += cost_of(&run.entries);
        if first > self.last() {
            return self.runs.push_back(run);
        }
        self.split(first);
        self.split(last + 1);
        let (from, to) = (self.place(first), self.place(last + 1));
        for old in self.runs.drain(from..to) {
            assert!(!old.chosen && old.first > self.commit, "what is chosen stays");
            self.bytes -= cost_of(&old.entries);
        }
        self.runs.insert(from, run);
    }

    /// Makes a run begin with `slot`, if one holds it.
    fn split(&mut self, slot: u64) {
        let place = self.place(slot);
        let Some(run) = self.runs.get_mut(place).filter(|r| r.first < slot) else { return };
        let later = Run { first: slot, entries: run.part(slot..=run.last()), ..run.clone() };
        run.entries = run.part(run.first..=slot - 1);
        self.runs.insert(place + 1, later);
    }

    /// The value of `slot` is chosen.
    pub fn set_chosen(&mut self, slot: u64) {
        self.split(slot);
        self.split(slot + 1);
        let place = self.place(slot);
        self.runs[place].chosen = true;
    }

    /// All up to `upto` is chosen, and held.
    pub fn set_commit(&mut self, upto: u64) {
        self.commit = self.commit.max(upto);
    }

    /// The last slot of the unbroken row that begins with `from`, no further
    /// than `to`, of runs that `fit`; the one before `from` if there is none.
    pub fn reach(&self, from: u64, to: u64, fits: impl Fn(&Run) -> bool) -> u64 {
        let mut end = from - 1;
        for run in self.runs(from..=to) {
            if run.first > end + 1 || !fits(run) {
                break;
            }
            end = run.last();
        }
        end.min(to.max(from - 1))
    }

    /// Values from `from` to `to`, all of which are held; as many as `max` bytes
    /// allow, at least one.
    pub fn row(&self, from: u64, to: u64, max: u64) -> Entries {
        let Some(first) = self.run(from).filter(|_| from <= to) else { return Entries::default() };
        let (mut end, mut bytes) = (from - 1, 0);
        for run in self.runs(from..=to) {
            let some = run.slice(from.max(run.first)..=to.min(run.last()));
            let fits = |e: &&Entry| {
                bytes += cost(e.data.len());
                bytes <= max
            };
            let count = some.iter().take_while(fits).count();
            end += count as u64;
            if count < some.len() {
                break;
            }
        }
        self.cut(first, from, end.max(from))
    }

    /// Values from `from` on up to `to` that can be applied as one batch: those
    /// that came together, unless they are few.
    pub fn batch(&self, from: u64, to: u64) -> Entries {
        let Some(run) = self.run(from) else { return Entries::default() };
        let end = run.last().min(to);
        let few = end + 1 - from < BATCH_MIN;
        self.cut(run, from, if few { to } else { end })
    }

    /// The values of these slots, the first of which is in `run`.
    fn cut(&self, run: &Run, from: u64, to: u64) -> Entries {
        if to <= run.last() {
            return run.part(from..=to);
        }
        let all = self.runs(from..=to).flat_map(|r| &r.entries);
        all.filter(|e| (from..=to).contains(&e.index)).cloned().collect()
    }

    /// Accepted values from `from` on, as many as `max` bytes allow (at least
    /// one), and where they go on.
    pub fn range(&self, from: u64, upto: u64, max: u64) -> (Vec<Held<'_>>, Option<u64>) {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for run in self.runs(from..=upto) {
            for slot in from.max(run.first)..=upto.min(run.last()) {
                let held = self.held(run, slot);
                bytes += cost(held.entry.data.len());
                if bytes > max && !found.is_empty() {
                    return (found, Some(slot));
                }
                found.push(held);
            }
        }
        (found, None)
    }

    /// Forgets all up to and including `upto`, which is chosen.
    pub fn drop_to(&mut self, upto: u64) {
        let Some(term) = self.term(upto) else { return };
        self.reset(upto, term);
    }

    /// What is held starts after `start`, whose value was first proposed in
    /// `term`; later slots stay.
    pub fn reset(&mut self, start: u64, term: u64) {
        self.split(start + 1);
        while let Some(run) = self.runs.pop_front_if(|r| r.first <= start) {
            self.bytes -= cost_of(&run.entries);
        }
        (self.start, self.start_term) = (start, term);
        self.commit = self.commit.max(start);
    }

    /// How far what is held may be dropped so that, of what is at or below
    /// `durable`, no more than these amounts are kept.
    pub fn droppable(&self, durable: u64, bytes_max: u64, entries_max: u64) -> u64 {
        let durable = durable.min(self.commit);
        let (mut upto, mut bytes) = (self.start, self.bytes);
        for entry in self.runs.iter().flat_map(|r| &r.entries) {
            if upto >= durable || (bytes <= bytes_max && durable - upto <= entries_max) {
                break;
            }
            upto = entry.index;
            bytes -= cost(entry.data.len());
        }
        upto
    }
}

impl fmt::Debug for Slots {
    /// Slot by slot, however they came: that changes nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots after {}:{} commit {} ", self.start, self.start_term, self.commit)?;
        let slots = |r: &'_ Run| (r.first..=r.last()).map(|s| (s, r.seq)).collect::<Vec<_>>();
        let all = self.runs.iter().flat_map(slots);
        f.debug_list().entries(all.map(|(slot, seq)| (self.get(slot), seq))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EntryKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn run(first: u64, len: u64, ballot: u64) -> Run {
        let entry = |index| Entry {
            index,
            term: 1,
            kind: EntryKind::Command,
            data: vec![ballot as u8; (index % 5) as usize].into(),
        };
        let entries = (first..first + len).map(entry).collect();
        Run { first, entries, ballot, seq: WriteSeq(ballot), chosen: false }
    }

    proptest! {
        /// Against a map from slots to values.
        #[test]
        fn runs_are_a_map(puts: Vec<(u8, u8)>, chosen: Vec<u8>, from in 1..40u64, to in 1..60u64, max in 0..300u64) {
            let (mut slots, mut map) = (Slots::new(0, 0), BTreeMap::new());
            for (ballot, (first, len)) in (1..).zip(puts) {
                let run = run(u64::from(first % 40) + 1, u64::from(len % 9) + 1, ballot);
                map.extend(run.entries.iter().map(|e| (e.index, (ballot, e.clone(), false))));
                slots.put(run);
            }
            for slot in chosen.iter().map(|&s| u64::from(s)) {
                if let Some(held) = map.get_mut(&slot) {
                    held.2 = true;
                    slots.set_chosen(slot);
                }
            }
            for slot in 1..60 {
                let held = slots.get(slot).map(|h| (h.ballot, h.entry.clone(), h.chosen));
                prop_assert_eq!(held, map.get(&slot).cloned());
            }
            let cost_all: u64 = map.values().map(|(_, e, _)| cost(e.data.len())).sum();
            prop_assert_eq!(slots.bytes(), cost_all);
            prop_assert_eq!(slots.last(), map.last_key_value().map_or(0, |(s, _)| *s));
            let row: Vec<Entry> = (from..=to).map_while(|s| map.get(&s).map(|v| v.1.clone())).collect();
            let end = from + row.len() as u64 - 1;
            prop_assert_eq!(slots.reach(from, to, |_| true), end);
            prop_assert_eq!(&slots.row(from, end, u64::MAX)[..], &row[..]);
            let some = slots.row(from, end, max);
            prop_assert_eq!(&some[..], &row[..some.len()]);
            prop_assert!(some.len() <= 1 || cost_of(&some) <= max);
            prop_assert!(some.len() == row.len() || cost_of(&row[..=some.len()]) > max);
            if !row.is_empty() {
                let batch = slots.batch(from, end);
                prop_assert_eq!(&batch[..], &row[..batch.len()]);
                prop_assert!(!batch.is_empty());
            }
            slots.reset(from, 1);
            let kept = map.split_off(&(from + 1));
            let (found, _) = slots.range(1, 60, u64::MAX);
            let found: Vec<u64> = found.iter().map(|h| h.entry.index).collect();
            prop_assert_eq!(found, kept.keys().copied().collect::<Vec<_>>());
        }
    }
}
