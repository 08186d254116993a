//! A voter whose log is behind takes over that of one who would not vote for it.
//!
//! Raft alone elects nobody when the only one that reaches a majority lacks an
//! entry ("constrained election": OmniPaxos, EuroSys'23, section 2). So whoever
//! is refused a pre-vote for its log asks the refuser for what it lacks, and
//! stands again.
//!
//! **Why it is safe.** Let X's last entry be of term T, C's of an earlier one. X's
//! log is a prefix of the log of T's leader that reaches into T, and that leader
//! had everything that was committed before T (leader completeness). So what
//! differs in C's log was not committed, and cannot be any more: a majority has
//! left its term. If the last terms are equal, C's log is a prefix of X's. Entries
//! are taken over only behind a place where the logs agree, so log matching
//! holds; nothing is acknowledged to anybody by it.
//!
//! **Invariants**
//! - Only a node that knows no leader borrows, one refuser at a time, and only from
//!   a newer log.
//! - Nothing is learned about what is committed, but by a snapshot: if what is lacking is
//!   no longer in the lender's log, the lender sends its state, once at a time.

use super::Raft;
use super::message::Body;
use crate::contract::{Output, WriteSeq};
use crate::entries::Entries;
use crate::event::{Event, SnapshotReason};
use synod_base::NodeId;

/// What a member says of its log to one that borrows of it.
pub(super) struct Loan {
    pub last_index: u64,
    pub last_term: u64,
    pub prev_index: u64,
    pub prev_term: u64,
    pub entries: Entries,
}

impl Raft {
    /// `from` refused a pre-vote because this log is behind its own.
    pub(super) fn borrow_from(&mut self, from: NodeId) {
        if self.watch.leader.is_none() && self.lender.replace(from) != Some(from) {
            self.ask_loan(from, self.log.last(), self.log.last_term());
        }
    }

    fn ask_loan(&mut self, from: NodeId, last_index: u64, last_term: u64) {
        self.send(from, Body::Borrow { last_index, last_term }, WriteSeq(0));
    }

    pub(super) fn on_borrow(&mut self, from: NodeId, last_index: u64, last_term: u64) {
        if self.lead.is_some() {
            return;
        }
        if last_index < self.log.start() {
            if !self.snapshots.begin(from, self.now) {
                return;
            }
            let (next, first) = (last_index + 1, self.log.first());
            let why = SnapshotReason::BelowLog { next, first };
            self.event(Event::SnapshotNeeded { to: from, why });
            return self.out.push(Output::NeedSnapshot { to: from });
        }
        let (prev_index, prev_term) = self.log.agree(last_index, last_term);
        let max = self.limits.append_bytes_max as u64;
        let entries = self.log.entries(prev_index + 1, self.log.last(), max);
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        let body = Body::Lend { last_index, last_term, prev_index, prev_term, entries };
        self.send(from, body, WriteSeq(0));
    }

    pub(super) fn on_lend(&mut self, from: NodeId, loan: Loan) {
        let newer = (loan.last_term, loan.last_index) > (self.log.last_term(), self.log.last());
        let wanted = self.watch.leader.is_none() && self.lender == Some(from);
        if !wanted || !newer || loan.prev_index < self.log.start() {
            return;
        }
        if let Err(what) = self.check_append(loan.prev_term, &loan.entries) {
            return self.event(Event::BadMessage { from, what });
        }
        if self.log.term(loan.prev_index) != Some(loan.prev_term) {
            let at = loan.prev_index.saturating_sub(1).min(self.log.last());
            let (index, term) = self.log.agree(at, loan.prev_term);
            return self.ask_loan(from, index, term);
        }
        let Some(last) = loan.entries.last().map(|e| e.index) else { return };
        self.take(from, &loan.entries);
        self.event(Event::Borrowed { from, upto: last });
        if last < loan.last_index {
            self.ask_loan(from, self.log.last(), self.log.last_term());
        }
    }
}
