//! Linearizable reads: one barrier for all that came in a turn.

use crate::cell::{Cell, CellOutput, Failure, Reply};
use std::collections::{BTreeMap, BTreeSet};
use synod_base::{Tick, planted};
use synod_consensus::{Input, Refusal};
use synod_mvcc::Store;

/// A number space apart from that of proposals.
const READ_TICKETS: u64 = 1 << 63;

/// Reads that wait for a barrier, or for the state to reach it.
#[derive(Default)]
pub(crate) struct Reads {
    fresh: Vec<u64>,
    /// Barrier -> the reads that share it.
    waiting: BTreeMap<u64, Vec<u64>>,
    /// Index -> reads that may look once it is applied.
    ready: BTreeMap<u64, Vec<u64>>,
    open: BTreeMap<u64, Tick>,
    deadlines: BTreeSet<(Tick, u64)>,
    next_barrier: u64,
}

impl Reads {
    pub fn len(&self) -> usize {
        self.open.len()
    }

    fn close(&mut self, ticket: u64) -> bool {
        match self.open.remove(&ticket) {
            Some(deadline) => self.deadlines.remove(&(deadline, ticket)),
            None => false,
        }
    }
}

impl<S: Store> Cell<S> {
    pub(crate) fn take_read(&mut self, ticket: u64, out: &mut Vec<CellOutput>) {
        if self.reads.open.len() >= self.limits.waiting_max {
            let result = Err(Failure::Refused(Refusal::Overloaded));
            out.push(CellOutput::Done { ticket, result });
            return;
        }
        let deadline = self.now.plus(self.limits.request_ms);
        self.reads.open.insert(ticket, deadline);
        self.reads.deadlines.insert((deadline, ticket));
        self.reads.fresh.push(ticket);
    }

    pub(crate) fn flush_reads(&mut self, out: &mut Vec<CellOutput>) {
        if self.reads.fresh.is_empty() || self.status.leader.is_none() {
            return;
        }
        let fresh = std::mem::take(&mut self.reads.fresh);
        self.reads.next_barrier += 1;
        let barrier = READ_TICKETS | self.reads.next_barrier;
        self.reads.waiting.insert(barrier, fresh);
        self.drive(Input::Read { ticket: barrier }, out);
    }

    pub(crate) fn reads_ready(&mut self, barriers: &[u64], index: u64, out: &mut Vec<CellOutput>) {
        for barrier in barriers {
            if let Some(tickets) = self.reads.waiting.remove(barrier) {
                self.reads.ready.entry(index).or_default().extend(tickets);
            }
        }
        self.answer_reads(out);
    }

    pub(crate) fn answer_reads(&mut self, out: &mut Vec<CellOutput>) {
        let applied = self.state.applied();
        while let Some(entry) = self.reads.ready.first_entry() {
            if *entry.key() > applied && !planted("cell: a read does not wait for the state") {
                break;
            }
            for ticket in entry.remove() {
                if self.reads.close(ticket) {
                    out.push(CellOutput::Done { ticket, result: Ok(Reply::ReadNow) });
                }
            }
        }
    }

    pub(crate) fn read_refused(&mut self, barrier: u64, why: Refusal, out: &mut Vec<CellOutput>) {
        let Some(tickets) = self.reads.waiting.remove(&barrier) else { return };
        if why == Refusal::Overloaded {
            for ticket in tickets {
                if self.reads.close(ticket) {
                    let result = Err(Failure::Refused(why));
                    out.push(CellOutput::Done { ticket, result });
                }
            }
        } else {
            // A read changes nothing: it may be asked of the next leader.
            self.reads.fresh.extend(tickets);
        }
    }

    pub(crate) fn expire_reads(&mut self, out: &mut Vec<CellOutput>) {
        while let Some(&(deadline, ticket)) = self.reads.deadlines.first() {
            if deadline > self.now {
                break;
            }
            self.reads.close(ticket);
            out.push(CellOutput::Done { ticket, result: Err(Failure::TimedOut) });
        }
        let open = &self.reads.open;
        self.reads.fresh.retain(|t| open.contains_key(t));
        self.reads.waiting.retain(|_, tickets| tickets.iter().any(|t| open.contains_key(t)));
    }
}
