//! A member of a cell with a journal and a state, driven by hand: what the
//! host is to a protocol, without a machine. Shared by the transcripts and the
//! random runs.
//!
//! **Invariants**: a send leaves only after the write it names is durable; a
//! crash loses what is not durable; the journal is cut after `Forget` as the
//! contract allows and no later.

#![allow(dead_code)]

pub mod explorer;
pub mod scenarios;

use std::collections::{BTreeMap, VecDeque};
use synod_base::{NodeId, Tick};
use synod_consensus::{
    Consensus, Entry, Event, Input, Limits, Message, Output, Protocol, RecordView, Recovered,
    Refusal, SnapshotMeta, WriteSeq,
};

/// What a step led to, besides what the member did by itself.
#[derive(Debug)]
pub enum Effect {
    Send { to: NodeId, message: Message },
    Wrote { seq: WriteSeq, record: RecordView },
    Applied(Vec<Entry>),
    Accepted { ticket: u64, index: u64, term: u64 },
    Refused { ticket: u64, why: Refusal, leader: Option<NodeId> },
    ReadReady { tickets: Vec<u64>, index: u64 },
    NeedSnapshot { to: NodeId },
    Event(Event),
    Forget { upto: u64 },
}

/// The replicated state: simply everything applied, and the boundary it stands for.
#[derive(Clone, Default)]
pub struct State {
    pub applied: Vec<Entry>,
    pub snapshot: SnapshotMeta,
}

impl State {
    pub fn index(&self) -> u64 {
        self.applied.len() as u64
    }
}

pub struct Node {
    pub id: NodeId,
    pub limits: Limits,
    pub protocol: Protocol,
    pub core: Option<Box<dyn Consensus>>,
    pub now: Tick,
    pub lives: u64,
    /// Whether writes become durable by themselves.
    pub disk_runs: bool,
    journal: VecDeque<(u64, Vec<u8>)>,
    written: u64,
    buffered: VecDeque<(WriteSeq, u64, Vec<u8>)>,
    done: WriteSeq,
    forget: Vec<(WriteSeq, u64, u64)>,
    held: Vec<(WriteSeq, NodeId, Message)>,
    pub state: State,
    pub durable: State,
}

impl Node {
    pub fn new(protocol: Protocol, id: NodeId, limits: Limits, first: SnapshotMeta) -> Node {
        let state = State { applied: Vec::new(), snapshot: first };
        Node {
            id,
            limits,
            protocol,
            core: None,
            now: Tick(0),
            lives: 0,
            disk_runs: true,
            journal: VecDeque::new(),
            written: 0,
            buffered: VecDeque::new(),
            done: WriteSeq(0),
            forget: Vec::new(),
            held: Vec::new(),
            durable: state.clone(),
            state,
        }
    }

    /// Puts a record into the journal as if an earlier life had written it.
    pub fn plant(&mut self, record: Vec<u8>) {
        self.written += 1;
        self.journal.push_back((self.written, record));
    }

    /// Starts a life with what is durable.
    pub fn start(&mut self, seed: u64) -> Vec<Effect> {
        self.lives += 1;
        self.state = self.durable.clone();
        let recovered = Recovered {
            snapshot: self.state.snapshot.clone(),
            records: self.journal.iter().map(|(_, r)| r.clone().into()).collect(),
            applied: self.state.index(),
        };
        let seed = seed.wrapping_add(self.lives << 20);
        let core = self.protocol.start(self.id, self.limits.clone(), seed, recovered, self.now);
        self.core = Some(core.unwrap_or_else(|e| panic!("{:?} cannot start: {e}", self.id)));
        self.done = WriteSeq(0);
        Vec::new()
    }

    /// The process dies. `survive` of the writes under way reach the disk.
    pub fn crash(&mut self, survive: usize) {
        let n = survive.min(self.buffered.len());
        let kept: Vec<_> = self.buffered.drain(..n).map(|(_, i, r)| (i, r)).collect();
        self.journal.extend(kept);
        self.buffered.clear();
        self.held.clear();
        self.forget.clear();
        self.core = None;
    }

    pub fn up(&self) -> bool {
        self.core.is_some()
    }

    /// Everything that its future depends on.
    pub fn describe(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            self.core,
            self.now,
            self.journal,
            self.buffered,
            self.held,
            self.state.applied,
            self.durable.applied.len()
        )
    }

    /// The entries that its journal holds, or is about to.
    pub fn held(&self) -> BTreeMap<u64, Entry> {
        let buffered = self.buffered.iter().map(|(_, _, r)| r);
        let mut held = BTreeMap::new();
        for record in self.journal.iter().map(|(_, r)| r).chain(buffered) {
            let record =
                RecordView::decode(record.clone().into()).expect("own records can be read");
            if let Some(from) = record.void_from {
                held.split_off(&from);
            }
            held.extend(record.entries.into_iter().map(|(_, e)| (e.index, e)));
        }
        held
    }

    pub fn unwritten(&self) -> usize {
        self.buffered.len()
    }

    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(core) = &mut self.core else { break };
            let mut out = Vec::new();
            core.step(self.now, input, &mut out);
            self.take(out, &mut inputs, &mut effects);
            if self.disk_runs && inputs.is_empty() && !self.buffered.is_empty() {
                inputs.push_back(Input::Persisted(self.sync(usize::MAX, &mut effects)));
            }
        }
        effects
    }

    fn take(&mut self, out: Vec<Output>, inputs: &mut VecDeque<Input>, fx: &mut Vec<Effect>) {
        let mut last_seq = WriteSeq(0);
        for o in out {
            match o {
                Output::Write { seq, record } => {
                    last_seq = seq;
                    self.written += 1;
                    let record = record.to_bytes();
                    self.buffered.push_back((seq, self.written, record.to_vec()));
                    let record = RecordView::decode(record).expect("own records can be read");
                    fx.push(Effect::Wrote { seq, record });
                }
                Output::Send { to, message, after } if after <= self.done => {
                    fx.push(Effect::Send { to, message });
                }
                Output::Send { to, message, after } => self.held.push((after, to, message)),
                Output::Commit(entries) => {
                    for e in &entries {
                        assert_eq!(e.index, self.state.index() + 1, "applied in order");
                        self.state.applied.push(e.clone());
                    }
                    fx.push(Effect::Applied(entries.to_vec()));
                    let (index, durable) = (self.state.index(), self.durable.index());
                    inputs.push_back(Input::Applied { index, durable });
                }
                Output::Forget { upto } => {
                    assert!(last_seq > WriteSeq(0), "a boundary is written before a Forget");
                    self.forget.push((last_seq, self.written, upto));
                    fx.push(Effect::Forget { upto });
                }
                Output::Accepted { tickets, index, term } => {
                    let each = tickets.into_iter().zip(index..);
                    fx.extend(each.map(|(ticket, index)| Effect::Accepted { ticket, index, term }));
                }
                Output::Refused { ticket, why, leader } => {
                    fx.push(Effect::Refused { ticket, why, leader });
                }
                Output::ReadReady { tickets, index } => {
                    fx.push(Effect::ReadReady { tickets, index });
                }
                Output::NeedSnapshot { to } => fx.push(Effect::NeedSnapshot { to }),
                Output::Members(_) => {}
                Output::Event(e) => fx.push(Effect::Event(e)),
            }
        }
    }

    /// Makes the oldest `n` writes durable; sends what waited for them.
    fn sync(&mut self, n: usize, fx: &mut Vec<Effect>) -> WriteSeq {
        for (seq, place, record) in self.buffered.drain(..n.min(self.buffered.len())) {
            self.done = seq;
            self.journal.push_back((place, record));
        }
        for (seq, place, upto) in std::mem::take(&mut self.forget) {
            if seq > self.done {
                self.forget.push((seq, place, upto));
                continue;
            }
            // The harshest reading of the rule: each record a segment.
            while self.journal.front().is_some_and(|(p, r)| {
                let record = RecordView::decode(r.clone().into()).expect("own records can be read");
                *p < place && record.last_index() <= upto
            }) {
                self.journal.pop_front();
            }
        }
        let done = self.done;
        self.held.retain(|(after, to, message)| {
            if *after <= done {
                fx.push(Effect::Send { to: *to, message: message.clone() });
            }
            *after > done
        });
        done
    }

    /// The disk finishes `n` writes.
    pub fn persist(&mut self, n: usize) -> Vec<Effect> {
        let mut effects = Vec::new();
        let done = self.sync(n, &mut effects);
        effects.extend(self.step(Input::Persisted(done)));
        effects
    }

    /// The state's own copy catches up with what is applied.
    pub fn checkpoint(&mut self) -> Vec<Effect> {
        self.durable = self.state.clone();
        let index = self.state.index();
        self.step(Input::Applied { index, durable: index })
    }

    /// A snapshot of the present state.
    pub fn snapshot(&self) -> Option<State> {
        let snapshot = self.core.as_ref()?.boundary(self.state.index())?;
        Some(State { applied: self.state.applied.clone(), snapshot })
    }

    /// Installs a snapshot unless it is old; always says so to the protocol.
    pub fn install(&mut self, state: State) -> Vec<Effect> {
        let meta = state.snapshot.clone();
        if meta.index > self.state.index() {
            self.durable = state.clone();
            self.state = state;
        }
        self.step(Input::SnapshotInstalled(meta))
    }
}
