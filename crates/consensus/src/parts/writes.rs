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

#[cfg(test)]
mod tests {
    use super::*;

    /// openraft cecb5de8: the end of a write whose entries were cut since, and others put
    /// in their place, makes none of the others durable.
    #[test]
    fn the_end_of_a_write_before_a_reversion_says_nothing_about_what_came_after() {
        let mut writes = Writes::default();
        let first = writes.mint(7, Tick(0));
        writes.cut(3);
        let second = writes.mint(9, Tick(1));
        assert_eq!(writes.finished(first), 3);
        assert_eq!(writes.finished(second), 9);
    }

    /// openraft #1960: what is told late, twice or for several at once neither stalls nor
    /// goes back.
    #[test]
    fn ends_that_come_together_late_or_again_do_not_stall() {
        let mut writes = Writes::default();
        let all: Vec<WriteSeq> = (1..=5).map(|last| writes.mint(last, Tick(last))).collect();
        assert_eq!(writes.finished(all[3]), 4);
        assert_eq!((writes.done(), writes.age(Tick(10))), (all[3], 5));
        assert_eq!(writes.finished(all[1]), 0, "that is known");
        assert_eq!(writes.done(), all[3]);
        assert_eq!(writes.finished(all[4]), 5);
        assert_eq!((writes.done(), writes.age(Tick(10))), (all[4], 0));
        assert_eq!(writes.finished(WriteSeq(99)), 0);
        assert_eq!(writes.done(), all[4], "nothing is durable that was not written");
    }
}
