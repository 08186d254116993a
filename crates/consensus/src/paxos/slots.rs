//! What this node has accepted, by slot: the acceptor's memory.
//!
//! **Invariants**
//! - Everything up to `start` is chosen, applied and durable in the state.
//! - Everything up to `commit` is chosen, and held. Beyond it there may be holes.
//! - A chosen value never changes.

use crate::contract::{Entry, WriteSeq};
use crate::parts::log::cost;
use std::collections::VecDeque;

/// One accepted value.
#[derive(Debug)]
pub struct Slot {
    /// In which ballot it was accepted here.
    pub ballot: u64,
    /// The value.
    pub entry: Entry,
    /// The write that makes it durable.
    pub seq: WriteSeq,
    /// Whether it is known to be chosen.
    pub chosen: bool,
}

#[derive(Debug)]
pub struct Slots {
    start: u64,
    start_term: u64,
    commit: u64,
    slots: VecDeque<Option<Slot>>,
    bytes: u64,
}

impl Slots {
    pub fn new(start: u64, start_term: u64) -> Slots {
        Slots { start, start_term, commit: start, slots: VecDeque::new(), bytes: 0 }
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
        self.start + self.slots.len() as u64
    }

    /// Cost of all that is held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn place(&self, slot: u64) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.start + 1)?).ok()
    }

    pub fn get(&self, slot: u64) -> Option<&Slot> {
        self.slots.get(self.place(slot)?)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: u64) -> Option<&mut Slot> {
        let place = self.place(slot)?;
        self.slots.get_mut(place)?.as_mut()
    }

    /// The ballot in which the value of a slot was first proposed.
    pub fn term(&self, slot: u64) -> Option<u64> {
        if slot == self.start {
            return Some(self.start_term);
        }
        self.get(slot).map(|s| s.entry.term)
    }

    /// Takes a value. The caller has checked that it may.
    pub fn put(&mut self, slot: Slot) {
        let Some(place) = self.place(slot.entry.index) else { return };
        while self.slots.len() <= place {
            self.slots.push_back(None);
        }
        self.bytes += cost(slot.entry.data.len());
        if let Some(old) = self.slots[place].replace(slot) {
            assert!(!old.chosen, "what is chosen stays");
            self.bytes -= cost(old.entry.data.len());
        }
    }

    /// Goes on over slots that are chosen; the entry that was passed, if any.
    pub fn advance(&mut self) -> Option<Entry> {
        let next = self.get(self.commit + 1).filter(|s| s.chosen)?;
        let entry = next.entry.clone();
        self.commit += 1;
        Some(entry)
    }

    /// Accepted values from `from` on, as many as `max` bytes allow (at least
    /// one), and where they go on.
    pub fn range(&self, from: u64, upto: u64, max: u64) -> (Vec<&Slot>, Option<u64>) {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for slot in from.max(self.start + 1)..=upto.min(self.last()) {
            let Some(held) = self.get(slot) else { continue };
            bytes += cost(held.entry.data.len());
            if bytes > max && !found.is_empty() {
                return (found, Some(slot));
            }
            found.push(held);
        }
        (found, None)
    }

    /// Chosen values from `from` on without a gap, as many as `max` bytes allow.
    pub fn chosen(&self, from: u64, max: u64) -> Vec<Entry> {
        let (found, _) = self.range(from, self.commit, max);
        found.into_iter().map(|s| s.entry.clone()).collect()
    }

    /// Forgets all up to and including `upto`, which is chosen.
    pub fn drop_to(&mut self, upto: u64) {
        let Some(term) = self.term(upto) else { return };
        self.reset(upto, term);
    }

    /// What is held starts after `start`, whose value was first proposed in
    /// `term`; later slots stay.
    pub fn reset(&mut self, start: u64, term: u64) {
        let drop = (start.saturating_sub(self.start) as usize).min(self.slots.len());
        for slot in self.slots.drain(..drop).flatten() {
            self.bytes -= cost(slot.entry.data.len());
        }
        (self.start, self.start_term) = (start, term);
        self.commit = self.commit.max(start);
    }

    /// How far what is held may be dropped so that, of what is at or below
    /// `durable`, no more than these amounts are kept.
    pub fn droppable(&self, durable: u64, bytes_max: u64, entries_max: u64) -> u64 {
        let durable = durable.min(self.commit);
        let mut bytes = self.bytes;
        let mut upto = self.start;
        while upto < durable && (bytes > bytes_max || durable - upto > entries_max) {
            upto += 1;
            bytes -= self.get(upto).map_or(0, |s| cost(s.entry.data.len()));
        }
        upto
    }
}
