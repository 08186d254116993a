//! Journal writes under way.

use crate::contract::WriteSeq;
use std::collections::VecDeque;
use synod_base::Tick;

#[derive(Debug)]
struct Unfinished {
    seq: WriteSeq,
    /// Entries up to here are durable with it; lowered by truncation.
    last: u64,
    since: Tick,
}

/// Numbers writes and knows which of them are durable.
#[derive(Debug, Default)]
pub struct Writes {
    minted: WriteSeq,
    done: WriteSeq,
    unfinished: VecDeque<Unfinished>,
    /// The oldest one takes too long; kept by the protocol.
    pub stalled: bool,
}

impl Writes {
    /// The number that this step's record will get.
    pub fn coming(&self) -> WriteSeq {
        WriteSeq(self.minted.0 + 1)
    }

    /// Every write up to this one is durable.
    pub fn done(&self) -> WriteSeq {
        self.done
    }

    /// A record is written that holds entries up to `last`.
    pub fn mint(&mut self, last: u64, now: Tick) -> WriteSeq {
        self.minted = self.coming();
        self.unfinished.push_back(Unfinished { seq: self.minted, last, since: now });
        self.minted
    }

    /// No write makes an entry above `last` durable any more.
    pub fn cut(&mut self, last: u64) {
        for write in &mut self.unfinished {
            write.last = write.last.min(last);
        }
    }

    /// Writes up to `seq` are durable: the last entry that became so with them.
    pub fn finished(&mut self, seq: WriteSeq) -> u64 {
        self.done = self.done.max(seq.min(self.minted));
        let mut last = 0;
        while let Some(write) = self.unfinished.front().filter(|w| w.seq <= seq) {
            last = last.max(write.last);
            self.unfinished.pop_front();
        }
        last
    }

    /// Age of the oldest write that is not durable yet, in milliseconds.
    pub fn age(&self, now: Tick) -> u64 {
        self.unfinished.front().map_or(0, |w| now.since(w.since))
    }
}
