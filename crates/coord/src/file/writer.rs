//! One write from its first attempt to its end: what its server does next.
//!
//! **Invariant**: the change is made by one transaction that compares all that it
//! rests on; whoever drives the writer may stop at any time, and then nothing was
//! changed unless that transaction was on its way.

use super::steps::{Settled, mark};
use super::{Expect, Object, Refused, Write};
use bytes::Bytes;
use synod_mvcc::{TxnRequest, TxnResult};

/// What a writer needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// This transaction is to be run: [`Writer::ran`].
    Run(TxnRequest),
    /// A lease for its marks, that outlives the wait: [`Writer::leased`].
    Lease,
    /// Nobody is to be registered for these: [`Writer::quiet`] then.
    Quiet(Vec<Object>),
    /// Nothing: it is done, by this revision; whether it made or ended a node.
    Done {
        /// The revision of the change: the contents' generation.
        revision: i64,
        /// Whether there was no node before, or is none now.
        names_changed: bool,
    },
    /// Nothing: it was refused.
    Refused(Refused),
}

enum State {
    Attempt,
    Lease(Vec<Object>),
    Mark(Vec<Object>),
    Wait(Vec<Object>),
    Over(Need),
}

/// See the file's header.
pub struct Writer {
    write: Write,
    /// Whether the node is there, as far as it is known.
    there: bool,
    /// The lease of its marks, or 0.
    lease: i64,
    marked: Vec<Object>,
    state: State,
}

impl Writer {
    /// A write; `there`: whether the node seems to be.
    pub fn new(write: Write, there: bool) -> Writer {
        let there = match write.expect {
            Expect::Absent => false,
            _ => there || write.needs_node(),
        };
        Writer { write, there, lease: 0, marked: Vec::new(), state: State::Attempt }
    }

    /// The lease of its marks, if it has one: to be ended with the write.
    pub fn lease(&self) -> Option<i64> {
        (self.lease != 0).then_some(self.lease)
    }

    /// What it needs to go on.
    pub fn need(&self) -> Need {
        match &self.state {
            State::Attempt => {
                let marks: Vec<Bytes> = self.marked.iter().map(|o| o.mark(self.lease)).collect();
                Need::Run(self.write.attempt(self.there, marks))
            }
            State::Lease(_) => Need::Lease,
            State::Mark(objects) => Need::Run(mark(objects, self.lease)),
            State::Wait(objects) => Need::Quiet(objects.clone()),
            State::Over(end) => end.clone(),
        }
    }

    /// Its transaction was run, and left the keyspace at this revision. `None`: what
    /// it was answered is of something else.
    pub fn ran(&mut self, result: &TxnResult, revision: i64) -> Option<()> {
        match std::mem::replace(&mut self.state, State::Attempt) {
            State::Mark(objects) => {
                self.marked.extend(objects.iter().cloned());
                self.state = State::Wait(objects);
            }
            _ => self.tried(self.write.settle(self.there, result)?, revision),
        }
        Some(())
    }

    fn tried(&mut self, settled: Settled, revision: i64) {
        self.state = match settled {
            Settled::Done => {
                let deletes = self.write.change == super::Change::Delete;
                State::Over(Need::Done { revision, names_changed: deletes || !self.there })
            }
            Settled::Refused(why) => State::Over(Need::Refused(why)),
            Settled::Guess(there) => {
                self.there = there;
                State::Attempt
            }
            Settled::Cached(objects) => {
                let new: Vec<Object> =
                    objects.iter().filter(|o| !self.marked.contains(o)).cloned().collect();
                match (new.is_empty(), self.lease) {
                    (true, _) => State::Wait(objects),
                    (false, 0) => State::Lease(new),
                    (false, _) => State::Mark(new),
                }
            }
        };
    }

    /// A lease was granted.
    pub fn leased(&mut self, lease: i64) {
        self.lease = lease;
        if let State::Lease(objects) = std::mem::replace(&mut self.state, State::Attempt) {
            self.state = State::Mark(objects);
        }
    }

    /// Nobody seems to be registered any more.
    pub fn quiet(&mut self) {
        if let State::Wait(_) = self.state {
            self.state = State::Attempt;
        }
    }
}
