//! The cell itself: its inputs and outputs, and the turn that binds them.
//!
//! A driver feeds any number of inputs with [`Cell::step`] and then calls
//! [`Cell::turn`] once: proposals and reads that came in one turn share one
//! journal write, one append per peer and one barrier.

use crate::envelope::Work;
use crate::event::CellEvent;
use crate::lease::LeaseDuties;
use crate::message::{Outgoing, PeerMessage};
use crate::propose::Requests;
use crate::read::Reads;
use crate::snapshot::{SnapshotJob, SnapshotPieces, Transfers};
use bytes::Bytes;
use std::collections::VecDeque;
use synod_base::{NodeId, Tick, planted};
use synod_consensus::{
    Consensus, Input, Limits, Membership, Output, Outputs, Protocol, Record, Recovered, Refusal,
    Role, Status, WriteSeq,
};
use synod_mvcc::{Command, Outcome, Reader, Revision, State, Store, StoreError};

/// Bounds and timings of a cell. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct CellLimits {
    /// The protocol's.
    pub consensus: Limits,
    /// A request that is not answered by then is given up as unknown.
    pub request_ms: u64,
    /// Most bytes of requests that wait at this node.
    pub waiting_bytes_max: usize,
    /// Most requests that wait at this node.
    pub waiting_max: usize,
    /// Committed bytes applied in one atomic batch.
    pub apply_batch_bytes: usize,
    /// The state's copy is made durable after this many applied bytes...
    pub sync_bytes: usize,
    /// ...or after this long, whichever is first.
    pub sync_ms: u64,
    /// Logical bytes of the keyspace at which writes are refused; 0: no quota.
    pub quota_bytes: u64,
    /// Records of superseded versions removed in one turn.
    pub compact_budget: usize,
    /// Bytes of a snapshot's piece, about. Sane: 64 KiB to 4 MiB.
    pub snapshot_piece_bytes: usize,
    /// Pieces of a snapshot on their way at once.
    pub snapshot_window: usize,
    /// A peer's silence after which a snapshot's stream is given up.
    pub snapshot_idle_ms: u64,
}

impl Default for CellLimits {
    fn default() -> CellLimits {
        CellLimits {
            consensus: Limits::default(),
            request_ms: 7_000,
            waiting_bytes_max: 64 << 20,
            waiting_max: 100_000,
            apply_batch_bytes: 1 << 20,
            sync_bytes: 32 << 20,
            sync_ms: 10_000,
            quota_bytes: 2 << 30,
            compact_budget: 500,
            snapshot_piece_bytes: 256 << 10,
            snapshot_window: 8,
            snapshot_idle_ms: 10_000,
        }
    }
}

/// What happens to a cell.
#[derive(Debug)]
pub enum CellInput {
    /// Time passed.
    Tick,
    /// A peer's message.
    Peer {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// A client's write. Tickets are unique over all lives of the node.
    Propose {
        /// The driver's number.
        ticket: u64,
        /// The work.
        work: Work,
    },
    /// A client's linearizable read asks when it may look.
    Read {
        /// The driver's number.
        ticket: u64,
    },
    /// Hand over leadership.
    Transfer {
        /// The driver's number.
        ticket: u64,
        /// To whom.
        to: Option<NodeId>,
    },
    /// The journal holds every write up to this one.
    Persisted(WriteSeq),
    /// The store's copy is durable up to this applied index.
    StateSynced(u64),
    /// A job of [`CellOutput::ReadSnapshot`] is done.
    SnapshotRead(SnapshotPieces),
    /// The connection to a peer was lost.
    Disconnected(NodeId),
}

/// What a cell answers a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The command was applied.
    Applied {
        /// What it answered.
        outcome: Outcome,
        /// The store's revision then.
        revision: i64,
        /// The ballot it was agreed on in.
        term: u64,
    },
    /// Look now: what is published is recent enough.
    ReadNow,
    /// Done (transfers).
    Done,
}

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The state refused it; nothing was changed.
    State(synod_mvcc::Error),
    /// Consensus refused it; nothing was changed.
    Refused(Refusal),
    /// It never reached the log within its time; nothing was changed.
    TimedOut,
    /// It may or may not take effect.
    Unknown,
}

/// What a cell wants done.
#[derive(Debug)]
pub enum CellOutput {
    /// Append to the journal.
    Write {
        /// Its number.
        seq: WriteSeq,
        /// What it holds; whoever writes it encodes it, into its own buffer.
        record: Record,
    },
    /// Send now; what it relies on is durable.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Answer a request.
    Done {
        /// The driver's number.
        ticket: u64,
        /// The answer.
        result: Result<Reply, Failure>,
    },
    /// These revisions were published (for watches), in order.
    Revisions(Vec<Revision>),
    /// The past was replaced (a snapshot was installed): watches must look again.
    Replaced,
    /// Make the store's copy durable, then say [`CellInput::StateSynced`].
    SyncState {
        /// The applied index that it will hold.
        index: u64,
    },
    /// Run this beside everything else, then say [`CellInput::SnapshotRead`].
    ReadSnapshot(SnapshotJob),
    /// Journal records that only concern indexes up to this may go.
    Forget {
        /// The index.
        upto: u64,
    },
    /// The membership changed.
    Members(Membership),
    /// A peer asks for, or told, a hash of the keyspace.
    Hash {
        /// The peer.
        peer: NodeId,
        /// [`PeerMessage::HashAsk`] or [`PeerMessage::HashTell`].
        message: PeerMessage,
    },
    /// A decision was made.
    Event(CellEvent),
    /// The node must stop: going on could break a promise.
    Fatal(String),
}

/// An entry of the log as it was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// Its index.
    pub index: u64,
    /// The ballot it was proposed in.
    pub term: u64,
    /// Who took the request; 0: nobody.
    pub origin: NodeId,
    /// Its number there.
    pub ticket: u64,
    /// The encoded commands; none for an entry without.
    pub commands: Vec<Bytes>,
}

/// Where a cell stands.
#[derive(Clone, Debug)]
pub struct CellStatus {
    /// The protocol's view.
    pub consensus: Status,
    /// The store's revision.
    pub revision: i64,
    /// The compacted revision.
    pub compacted: i64,
    /// Applied index.
    pub applied: u64,
    /// Logical bytes.
    pub logical_size: u64,
    /// Requests waiting here.
    pub waiting: usize,
}

/// One member of one cell.
pub struct Cell<S: Store> {
    pub(crate) id: NodeId,
    pub(crate) limits: CellLimits,
    pub(crate) core: Box<dyn Consensus>,
    pub(crate) state: State<S>,
    pub(crate) requests: Requests,
    pub(crate) reads: Reads,
    pub(crate) duties: LeaseDuties,
    pub(crate) transfers: Transfers<S::View>,
    /// Streams that ended, not yet told to the protocol.
    pub(crate) snapshots_ended: Vec<(NodeId, Option<u64>)>,
    /// Messages that wait for a write, in order of that write.
    gated: VecDeque<(WriteSeq, Outgoing)>,
    persisted: WriteSeq,
    pub(crate) unsynced_bytes: usize,
    pub(crate) synced: u64,
    pub(crate) syncing: bool,
    pub(crate) last_sync: Tick,
    /// The latest status of the core, refreshed each turn.
    pub(crate) status: Status,
    /// The protocol made a step since `status` was asked for.
    stepped: bool,
    pub(crate) now: Tick,
    /// The state moved on and the protocol does not know yet.
    pub(crate) applied_news: bool,
    core_out: Outputs,
    /// What was applied, for who watches the cell from outside; `None`: nobody.
    pub(crate) observed: Option<Vec<Agreed>>,
}

impl<S: Store> Cell<S> {
    /// A member recovered from its journal and store. `recovered.applied`, and
    /// the boundary of a snapshot that was installed, are taken from the state.
    pub fn new(
        protocol: Protocol,
        id: NodeId,
        limits: CellLimits,
        state: State<S>,
        mut recovered: Recovered,
        seed: u64,
        now: Tick,
    ) -> Result<Cell<S>, String> {
        recovered.applied = state.applied();
        let stored = state.boundary().map_err(|e| e.to_string())?;
        let stored = stored.map(crate::snapshot::decode_meta).transpose();
        let stored = stored.map_err(|e| format!("the state's place in the log: {e}"))?;
        if let Some(meta) = stored.filter(|meta| meta.index > recovered.snapshot.index) {
            recovered.snapshot = meta;
        }
        let core = protocol
            .start(id, limits.consensus.clone(), seed, recovered, now)
            .map_err(|e| format!("the journal's records of this cell do not fit: {e}"))?;
        let status = core.status();
        let duties = LeaseDuties::new(state.lease_clock(), now);
        let synced = state.applied();
        Ok(Cell {
            id,
            core,
            requests: Requests::new(seed),
            reads: Reads::default(),
            duties,
            transfers: Transfers::new(seed),
            snapshots_ended: Vec::new(),
            gated: VecDeque::new(),
            persisted: WriteSeq(0),
            unsynced_bytes: 0,
            synced,
            syncing: false,
            last_sync: now,
            status,
            stepped: false,
            now,
            applied_news: false,
            core_out: Vec::new(),
            observed: None,
            limits,
            state,
        })
    }

    /// Takes one input. Call [`Cell::turn`] after the last one at hand.
    pub fn step(&mut self, now: Tick, input: CellInput, out: &mut Vec<CellOutput>) {
        self.now = now;
        match input {
            CellInput::Tick => self.tick(out),
            CellInput::Peer { from, message } => self.receive(from, message, out),
            CellInput::Propose { ticket, work } => self.take_request(ticket, work, out),
            CellInput::Read { ticket } => self.take_read(ticket, out),
            CellInput::Transfer { ticket, to } => {
                let ticket = self.requests.expect_transfer(ticket);
                self.drive(Input::Transfer { ticket, to }, out);
            }
            CellInput::Persisted(seq) => {
                self.persisted = seq;
                self.drive(Input::Persisted(seq), out);
                self.release(out);
            }
            CellInput::StateSynced(index) => {
                self.syncing = false;
                self.synced = self.synced.max(index);
                self.tell_applied(out);
            }
            CellInput::SnapshotRead(pieces) => self.snapshot_read(pieces, out),
            CellInput::Disconnected(peer) => {
                self.transfers.disconnected(peer);
                self.drive(Input::Disconnected(peer), out);
            }
        }
    }

    /// Ends a turn: what was gathered goes to the protocol at once.
    pub fn turn(&mut self, out: &mut Vec<CellOutput>) {
        self.refresh();
        self.flush_requests(out);
        self.flush_reads(out);
        self.report_ended_transfers(out);
        self.maybe_sync(out);
        self.refresh();
    }

    fn tick(&mut self, out: &mut Vec<CellOutput>) {
        self.drive(Input::Tick, out);
        self.refresh();
        self.expire_requests(out);
        self.lead_duties(out);
        self.pump_transfers(out);
        if self.state.compaction_due() {
            let swept = self.state.compact_step(self.limits.compact_budget);
            if let Err(e) = swept.and_then(|_| self.state.commit()) {
                self.fatal(&e, out);
            }
        }
    }

    fn receive(&mut self, from: NodeId, message: PeerMessage, out: &mut Vec<CellOutput>) {
        match message {
            PeerMessage::Consensus(message) => self.drive(Input::Receive { from, message }, out),
            PeerMessage::Forward { term, id, items } => self.take_forwarded(from, term, id, items),
            PeerMessage::Forwarded(items) => self.forwarded(from, items, out),
            PeerMessage::SnapshotChunk { stream, number, last, bytes } => {
                self.take_chunk(from, stream, number, last, bytes, out);
            }
            PeerMessage::SnapshotAck { stream, next, installed, failed } => {
                self.chunk_acked(from, stream, next, installed, failed, out);
            }
            message @ (PeerMessage::HashAsk { .. } | PeerMessage::HashTell { .. }) => {
                out.push(CellOutput::Hash { peer: from, message });
            }
        }
    }

    /// Sees where the protocol stands now.
    pub(crate) fn refresh(&mut self) {
        if std::mem::take(&mut self.stepped) {
            self.status = self.core.status();
        }
    }

    /// One step of the protocol, with what it wants done.
    pub(crate) fn drive(&mut self, input: Input, out: &mut Vec<CellOutput>) {
        let mut outputs = std::mem::take(&mut self.core_out);
        self.core.step(self.now, input, &mut outputs);
        self.stepped = true;
        for output in outputs.drain(..) {
            match output {
                Output::Write { seq, record } => out.push(CellOutput::Write { seq, record }),
                Output::Send { to, message, after } => {
                    self.send_after(to, PeerMessage::Consensus(message), after, out);
                }
                Output::Accepted { tickets, index, term } => {
                    for (ticket, index) in tickets.into_iter().zip(index..) {
                        self.accepted(ticket, index, term, out);
                    }
                }
                Output::Commit(entries) => self.apply(&entries, out),
                Output::ReadReady { tickets, index } => self.reads_ready(&tickets, index, out),
                Output::Refused { ticket, why, leader } => self.refused(ticket, why, leader, out),
                Output::NeedSnapshot { to } => self.start_transfer(to, out),
                Output::Forget { upto } => out.push(CellOutput::Forget { upto }),
                Output::Members(m) => out.push(CellOutput::Members(m)),
                Output::Event(e) => out.push(CellOutput::Event(CellEvent::Consensus(e))),
            }
        }
        self.core_out = outputs;
        if std::mem::take(&mut self.applied_news) {
            self.tell_applied(out);
            self.answer_reads(out);
        }
    }

    fn send_after(
        &mut self,
        to: NodeId,
        message: PeerMessage,
        after: WriteSeq,
        out: &mut Vec<CellOutput>,
    ) {
        if after <= self.persisted || planted("cell: messages do not wait for the disk") {
            out.push(CellOutput::Send { to, message });
            return;
        }
        let at = self.gated.partition_point(|(seq, _)| *seq <= after);
        self.gated.insert(at, (after, (to, message)));
    }

    fn release(&mut self, out: &mut Vec<CellOutput>) {
        while self.gated.front().is_some_and(|(seq, _)| *seq <= self.persisted) {
            if let Some((_, (to, message))) = self.gated.pop_front() {
                out.push(CellOutput::Send { to, message });
            }
        }
    }

    pub(crate) fn fatal(&self, e: &StoreError, out: &mut Vec<CellOutput>) {
        out.push(CellOutput::Fatal(format!("the state's store failed: {e}")));
    }

    /// Whether this node leads.
    pub(crate) fn leads(&self) -> bool {
        self.status.role == Role::Leader
    }

    /// Whether this node leads and has applied an entry of its own ballot: then
    /// it has heard every stamp of the lease clock that earlier leaders gave,
    /// and its own reckoning counts from the last of them.
    pub(crate) fn leads_caught_up(&self) -> bool {
        self.leads() && self.state.applied_term() == self.status.term
    }

    /// Where it stands.
    pub fn status(&self) -> CellStatus {
        CellStatus {
            consensus: self.core.status(),
            revision: self.state.revision(),
            compacted: self.state.compacted(),
            applied: self.state.applied(),
            logical_size: self.state.logical_size(),
            waiting: self.requests.len() + self.reads.len(),
        }
    }

    /// The protocol's view as of the last turn.
    pub fn consensus_status(&self) -> &Status {
        &self.status
    }

    /// Membership in force as of the last turn.
    pub fn membership(&self) -> &Membership {
        &self.status.membership
    }

    /// No journal record so far concerns an index above this one.
    pub fn last_index(&self) -> u64 {
        self.status.last
    }

    /// Lease time now by this node's reckoning, ms (exact on the leader).
    pub fn lease_clock(&self, now: Tick) -> u64 {
        self.duties.clock(now)
    }

    /// The state, to look at.
    pub fn state(&self) -> &State<S> {
        &self.state
    }

    /// The state, for its driver (making it durable).
    pub fn state_mut(&mut self) -> &mut State<S> {
        &mut self.state
    }

    /// From now on everything applied is also kept for [`Cell::take_observed`].
    pub fn observe(&mut self) {
        self.observed = Some(Vec::new());
    }

    /// What was applied since the last call, in order.
    pub fn take_observed(&mut self) -> Vec<Agreed> {
        self.observed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The state, when the member's life ends.
    pub fn into_state(self) -> State<S> {
        self.state
    }

    /// A handle that always reads what was last published.
    pub fn reader(&self) -> Reader<S::View> {
        self.state.reader()
    }

    /// Proposes a command that nobody waits for (leader's own duties).
    pub(crate) fn propose_own(&mut self, command: &Command) {
        self.requests.push_own(command.encode());
    }
}
