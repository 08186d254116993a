//! Synod's cores, through the contract.

use crate::journal::Journal;
use crate::meter::State;
use crate::pump::{Failure, Replica, TICK_MS};
use std::collections::VecDeque;
use synod_base::{NodeId, Tick};
use synod_consensus::{
    Consensus, EntryKind, Input, Limits, Membership, Message, Output, Outputs, Proposal, Protocol,
    Recovered, Role, SnapshotMeta, WriteSeq,
};

pub const RAFT: u8 = 0;
pub const PAXOS: u8 = 1;
pub const ZAB: u8 = 2;

/// A replica of the protocol at `WHICH` in [`Protocol::ALL`].
pub struct Synod<const WHICH: u8> {
    core: Box<dyn Consensus>,
    journal: Journal,
    now: Tick,
    out: Outputs,
    held: VecDeque<(WriteSeq, u64, Message)>,
    written: WriteSeq,
    durable: WriteSeq,
    applied: u64,
}

impl<const WHICH: u8> Synod<WHICH> {
    fn step(&mut self, input: Input) {
        self.core.step(self.now, input, &mut self.out);
    }

    /// Begins the outputs in their order; gives the last index applied.
    fn begin(&mut self, state: &mut State, sent: &mut Vec<(u64, Message)>) -> Result<u64, Failure> {
        let mut applied = self.applied;
        for output in self.out.drain(..) {
            match output {
                Output::Write { seq, record } => {
                    self.journal.append(true, |buffer| record.encode(buffer));
                    self.written = seq;
                }
                Output::Send { to, message, after } if after > self.durable => {
                    self.held.push_back((after, to.0, message));
                }
                Output::Send { to, message, .. } => sent.push((to.0, message)),
                Output::Commit(entries) => {
                    for entry in &entries {
                        applied = entry.index;
                        if entry.kind == EntryKind::Command {
                            state.apply(&entry.data);
                        }
                    }
                }
                Output::Refused { why, .. } => return Err(format!("refused: {why:?}").into()),
                Output::NeedSnapshot { to } => return Err(format!("{to} wants the state").into()),
                Output::Accepted { .. }
                | Output::ReadReady { .. }
                | Output::Forget { .. }
                | Output::Members(_)
                | Output::Event(_) => {}
            }
        }
        Ok(applied)
    }
}

impl<const WHICH: u8> Replica for Synod<WHICH> {
    type Message = Message;

    fn new(id: u64, journal: Journal) -> Result<Self, Failure> {
        let membership = Membership::of_voters((1..=3).map(NodeId));
        let snapshot = SnapshotMeta { membership, ..SnapshotMeta::default() };
        let recovered = Recovered { snapshot, ..Recovered::default() };
        let protocol = Protocol::ALL[usize::from(WHICH)];
        let core = protocol.start(NodeId(id), Limits::default(), id, recovered, Tick(0))?;
        Ok(Synod {
            core,
            journal,
            now: Tick(0),
            out: Vec::new(),
            held: VecDeque::new(),
            written: WriteSeq(0),
            durable: WriteSeq(0),
            applied: 0,
        })
    }

    fn tick(&mut self) {
        self.now = self.now.plus(TICK_MS);
        self.step(Input::Tick);
    }

    fn leads(&self) -> bool {
        let status = self.core.status();
        status.role == Role::Leader && status.commit > 0 && status.commit == status.last
    }

    fn receive(&mut self, from: u64, message: Message) -> Result<(), Failure> {
        self.step(Input::Receive { from: NodeId(from), message });
        Ok(())
    }

    fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<(), Failure> {
        let proposal = |data: Vec<u8>| Proposal { ticket: 0, data: data.into() };
        self.step(Input::Propose(commands.into_iter().map(proposal).collect()));
        Ok(())
    }

    fn turn(&mut self, state: &mut State, sent: &mut Vec<(u64, Message)>) -> Result<(), Failure> {
        while !self.out.is_empty() {
            let applied = self.begin(state, sent)?;
            if self.written > self.durable {
                self.journal.sync()?;
                self.durable = self.written;
                while let Some((_, to, message)) =
                    self.held.pop_front_if(|(after, ..)| *after <= self.durable)
                {
                    sent.push((to, message));
                }
                self.step(Input::Persisted(self.durable));
            }
            if applied > self.applied {
                self.applied = applied;
                self.step(Input::Applied { index: applied, durable: applied });
            }
        }
        Ok(())
    }
}
