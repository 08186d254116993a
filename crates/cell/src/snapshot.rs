//! Streaming the state to a peer that needs more than the log still holds.
//!
//! Piece 0 is the boundary (index, ballot, membership); the others are the
//! export format of `synod_mvcc`. The sender keeps what is not acknowledged and
//! sends it again, so a lost piece or a broken connection resumes where it was;
//! a receiver that lost its staging area asks from the start.
//!
//! A receiver keeps the stream that it receives while that lives, and refuses
//! others: several members may find at once that it needs the state, and streams
//! that replace each other would none of them end. A sender reads nothing before
//! the first piece is taken.
//!
//! **Invariant**: a piece is read beside the cell ([`SnapshotJob`]), never in one of its
//! steps. It may take seconds: where much was removed, the store looks through all of it
//! for the next pair, and a leader that did so itself would be held for dead.

#[cfg(test)]
mod tests;

use crate::cell::{Cell, CellLimits, CellOutput, Failure};
use crate::event::CellEvent;
use crate::message::PeerMessage;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use synod_base::codec::{Malformed, Reader, put_varint};
use synod_base::{NodeId, Tick, planted};
use synod_consensus::{Input, Membership, SnapshotMeta};
use synod_mvcc::{
    Published, SnapshotCursor, SnapshotReader, SnapshotWriter, Store, StoreError, View,
};

const RESEND_MS: u64 = 500;

/// Streams that this node sends, and the one that it receives.
pub(crate) struct Transfers<V: View> {
    sending: BTreeMap<NodeId, Sending<V>>,
    receiving: Option<Receiving>,
    next_stream: u64,
}

struct Sending<V: View> {
    stream: u64,
    /// Piece 0; repeated while nothing else is to be sent, to say that it goes on.
    meta: Bytes,
    state: Arc<Published<V>>,
    cursor: SnapshotCursor,
    /// A job is under way.
    reading: bool,
    /// When the last one ended: what takes too long lives no more.
    read: Tick,
    /// Sent or to be sent, not acknowledged: (number, last, bytes).
    unacked: VecDeque<(u64, bool, Bytes)>,
    next: u64,
    complete: bool,
    heard: Tick,
    sent: Tick,
    resend: bool,
}

/// The next pieces of a stream, to be read. It may take long.
pub struct SnapshotJob {
    to: NodeId,
    stream: u64,
    read: Box<dyn FnOnce() -> Result<Vec<Piece>, StoreError> + Send>,
}

/// What was read: bytes, and the place behind them.
type Piece = (Bytes, SnapshotCursor);

/// What a [`SnapshotJob`] read, for [`crate::CellInput::SnapshotRead`].
pub struct SnapshotPieces {
    to: NodeId,
    stream: u64,
    read: Result<Vec<Piece>, StoreError>,
}

impl SnapshotJob {
    /// Reads.
    pub fn run(self) -> SnapshotPieces {
        SnapshotPieces { to: self.to, stream: self.stream, read: (self.read)() }
    }
}

impl fmt::Debug for SnapshotJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotJob(stream {} to {})", self.stream, self.to)
    }
}

impl fmt::Debug for SnapshotPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotPieces(stream {} to {})", self.stream, self.to)
    }
}

struct Receiving {
    from: NodeId,
    stream: u64,
    next: u64,
    meta: SnapshotMeta,
    reader: SnapshotReader,
    /// When a piece of it last came.
    heard: Tick,
    /// The connection to its sender was lost since.
    cut: bool,
}

impl Receiving {
    fn is(&self, from: NodeId, stream: u64) -> bool {
        (self.from, self.stream) == (from, stream)
    }
}

impl<V: View> Transfers<V> {
    pub fn new(seed: u64) -> Transfers<V> {
        // Another life's streams have other numbers.
        Transfers { sending: BTreeMap::new(), receiving: None, next_stream: seed >> 8 }
    }

    pub fn disconnected(&mut self, peer: NodeId) {
        if let Some(s) = self.sending.get_mut(&peer) {
            s.resend = true;
        }
        if let Some(r) = self.receiving.as_mut().filter(|r| r.from == peer) {
            r.cut = true;
        }
    }
}

fn encode_meta(meta: &SnapshotMeta) -> Bytes {
    let mut out = Vec::new();
    put_varint(&mut out, meta.index);
    put_varint(&mut out, meta.term);
    meta.membership.encode(&mut out);
    put_varint(&mut out, meta.joint_until);
    out.into()
}

pub(crate) fn decode_meta(bytes: Bytes) -> Result<SnapshotMeta, Malformed> {
    let mut r = Reader::new(bytes);
    let (index, term) = (r.varint("index")?, r.varint("term")?);
    let membership = Membership::decode(&mut r)?;
    // Absent in what version 0.1 wrote before Multi-Paxos was there.
    let joint_until = if r.remaining() > 0 { r.varint("end of the joint membership")? } else { 0 };
    r.end("end of the boundary")?;
    Ok(SnapshotMeta { index, term, membership, joint_until })
}

impl<S: Store> Cell<S> {
    pub(crate) fn start_transfer(&mut self, to: NodeId, out: &mut Vec<CellOutput>) {
        if self.transfers.sending.contains_key(&to) {
            return;
        }
        let published = self.state.reader().published();
        let Some(meta) = self.core.boundary(published.applied()) else {
            self.end_transfer(to, None, out);
            return;
        };
        let stream = self.transfers.next_stream;
        self.transfers.next_stream += 1;
        let index = meta.index;
        let meta = encode_meta(&meta);
        let first = (0, false, meta.clone());
        let sending = Sending {
            stream,
            meta,
            state: published,
            cursor: SnapshotCursor::default(),
            reading: false,
            read: self.now,
            unacked: [first].into(),
            next: 1,
            complete: false,
            heard: self.now,
            sent: self.now,
            resend: true,
        };
        self.transfers.sending.insert(to, sending);
        out.push(CellOutput::Event(CellEvent::SnapshotStarted { to, index }));
        self.pump_transfers(out);
    }

    fn end_transfer(&mut self, to: NodeId, installed: Option<u64>, out: &mut Vec<CellOutput>) {
        self.transfers.sending.remove(&to);
        out.push(CellOutput::Event(CellEvent::SnapshotEnded { to, installed }));
        // Told at the next tick: this may be inside a step of the protocol.
        self.snapshots_ended.push((to, installed));
    }

    /// Sends what the windows allow; gives up streams that nobody answers.
    pub(crate) fn pump_transfers(&mut self, out: &mut Vec<CellOutput>) {
        let peers: Vec<NodeId> = self.transfers.sending.keys().copied().collect();
        for to in peers {
            let Some(s) = self.transfers.sending.get_mut(&to) else { continue };
            let member = self.status.membership.all().contains(&to);
            // Nothing is to be heard about what was not sent.
            let waits = !s.unacked.is_empty();
            if !member || waits && self.now.since(s.heard) > self.limits.snapshot_idle_ms {
                self.end_transfer(to, None, out);
                continue;
            }
            pump(s, to, self.now, &self.limits, out);
        }
    }

    /// Sends what a job has read.
    pub(crate) fn snapshot_read(&mut self, pieces: SnapshotPieces, out: &mut Vec<CellOutput>) {
        let SnapshotPieces { to, stream, read } = pieces;
        let sending = self.transfers.sending.get_mut(&to).filter(|s| s.stream == stream);
        let Some(s) = sending else { return };
        let read = match read {
            Ok(read) => read,
            Err(e) => {
                out.push(CellOutput::Fatal(format!("the state's store failed: {e}")));
                return self.end_transfer(to, None, out);
            }
        };
        (s.reading, s.read) = (false, self.now);
        if s.unacked.is_empty() {
            s.heard = self.now;
        }
        s.sent = self.now;
        for (bytes, cursor) in read {
            s.complete = cursor.is_end();
            s.cursor = cursor;
            let piece = (s.next, s.complete, bytes);
            s.next += 1;
            out.push(chunk(to, s.stream, &piece));
            s.unacked.push_back(piece);
        }
        self.pump_transfers(out);
    }

    /// Tells the protocol which streams ended; outside any of its steps.
    pub(crate) fn report_ended_transfers(&mut self, out: &mut Vec<CellOutput>) {
        for (to, installed) in std::mem::take(&mut self.snapshots_ended) {
            self.drive(Input::SnapshotSent { to, installed }, out);
        }
    }

    pub(crate) fn chunk_acked(
        &mut self,
        from: NodeId,
        stream: u64,
        next: u64,
        installed: Option<u64>,
        failed: bool,
        out: &mut Vec<CellOutput>,
    ) {
        let Some(s) = self.transfers.sending.get_mut(&from).filter(|s| s.stream == stream) else {
            return;
        };
        s.heard = self.now;
        let first = s.unacked.front().map_or(s.next, |u| u.0);
        if failed || installed.is_some() || next < first {
            // Below what is kept: the receiver started over, so does the stream.
            self.end_transfer(from, installed, out);
            return;
        }
        while s.unacked.front().is_some_and(|u| u.0 < next) {
            s.unacked.pop_front();
        }
        self.pump_transfers(out);
    }

    /// How long a stream lives of which nothing comes.
    pub(crate) fn living_ms(&self) -> u64 {
        let some = (8 * self.limits.consensus.election_ms).max(4 * RESEND_MS);
        some.min(self.limits.snapshot_idle_ms)
    }

    /// Another one's stream that is being received and lives.
    fn stream_before(&self, from: NodeId) -> Option<NodeId> {
        let (now, living) = (self.now, self.living_ms());
        let lives = |r: &&Receiving| {
            let useful = r.meta.index > self.state.applied();
            r.from != from && useful && !r.cut && now.since(r.heard) < living
        };
        self.transfers.receiving.as_ref().filter(lives).map(|r| r.from)
    }

    pub(crate) fn take_chunk(
        &mut self,
        from: NodeId,
        stream: u64,
        number: u64,
        last: bool,
        bytes: Bytes,
        out: &mut Vec<CellOutput>,
    ) {
        let (mut installed, mut failed) = (None, false);
        if let Some(other) = self.stream_before(from).filter(|_| number == 0) {
            let why = format!("that of {other} is being received");
            out.push(CellOutput::Event(CellEvent::SnapshotRefused { from, why }));
            let message =
                PeerMessage::SnapshotAck { stream, next: 0, installed: None, failed: true };
            return out.push(CellOutput::Send { to: from, message });
        }
        match self.feed_chunk(from, stream, number, last, bytes, out) {
            Ok(done) => installed = done,
            Err(why) => {
                failed = true;
                self.transfers.receiving = None;
                if let Err(e) = self.state.store_mut().stage_abort() {
                    self.fatal(&e, out);
                }
                out.push(CellOutput::Event(CellEvent::SnapshotRefused { from, why }));
            }
        }
        let receiving = self.transfers.receiving.as_ref().filter(|r| r.is(from, stream));
        let next = receiving.map_or(0, |r| r.next);
        let message = PeerMessage::SnapshotAck { stream, next, installed, failed };
        out.push(CellOutput::Send { to: from, message });
    }

    fn feed_chunk(
        &mut self,
        from: NodeId,
        stream: u64,
        number: u64,
        last: bool,
        bytes: Bytes,
        out: &mut Vec<CellOutput>,
    ) -> Result<Option<u64>, String> {
        let now = self.now;
        let known = self.transfers.receiving.as_mut().filter(|r| r.is(from, stream));
        let known = known.map(|r| (r.heard, r.cut) = (now, false)).is_some();
        if number == 0 && !known {
            let meta = decode_meta(bytes).map_err(|e| e.to_string())?;
            if meta.index <= self.state.applied() {
                return Ok(Some(self.state.applied()));
            }
            self.state.store_mut().stage_begin().map_err(|e| e.to_string())?;
            let reader = SnapshotReader::new();
            let (heard, cut) = (now, false);
            let receiving = Receiving { from, stream, next: 1, meta, reader, heard, cut };
            self.transfers.receiving = Some(receiving);
            return Ok(None);
        }
        let Some(r) = self.transfers.receiving.as_mut().filter(|r| r.is(from, stream)) else {
            return Ok(None);
        };
        if number != r.next {
            return Ok(None);
        }
        r.next += 1;
        let pairs = r.reader.feed(&bytes).map_err(|e| e.to_string())?;
        self.state.store_mut().stage_put(pairs).map_err(|e| e.to_string())?;
        if !last {
            return Ok(None);
        }
        let Some(r) = self.transfers.receiving.take() else { return Ok(None) };
        r.reader.finish().map_err(|e| e.to_string())?;
        self.install(r.from, r.meta, out)
    }

    fn install(
        &mut self,
        from: NodeId,
        meta: SnapshotMeta,
        out: &mut Vec<CellOutput>,
    ) -> Result<Option<u64>, String> {
        let index = meta.index;
        if index <= self.state.applied() {
            self.state.store_mut().stage_abort().map_err(|e| e.to_string())?;
            return Ok(Some(self.state.applied()));
        }
        let swapped = self
            .state
            .stage_boundary(if planted("cell: an installed snapshot forgets its place") {
                encode_meta(&SnapshotMeta::default())
            } else {
                encode_meta(&meta)
            })
            .and_then(|()| self.state.store_mut().stage_swap())
            .and_then(|()| self.state.reload());
        if let Err(e) = swapped {
            self.fatal(&e, out);
            return Ok(None);
        }
        if self.state.applied() != index {
            out.push(CellOutput::Fatal(format!(
                "the snapshot from {from} promised index {index} and holds {}",
                self.state.applied()
            )));
            return Ok(None);
        }
        self.synced = index;
        self.duties.heard(self.state.lease_clock(), self.leads(), self.now);
        let revision = self.state.revision();
        out.push(CellOutput::Event(CellEvent::SnapshotInstalled { from, index, revision }));
        out.push(CellOutput::Replaced);
        for ticket in self.requests.swallowed(index) {
            out.push(CellOutput::Done { ticket, result: Err(Failure::Unknown) });
        }
        self.drive(Input::SnapshotInstalled(meta), out);
        self.tell_applied(out);
        self.answer_reads(out);
        Ok(Some(index))
    }
}

/// A piece as a message.
fn chunk(to: NodeId, stream: u64, (number, last, bytes): &(u64, bool, Bytes)) -> CellOutput {
    let (number, last, bytes) = (*number, *last, bytes.clone());
    CellOutput::Send { to, message: PeerMessage::SnapshotChunk { stream, number, last, bytes } }
}

fn pump<V: View>(
    s: &mut Sending<V>,
    to: NodeId,
    now: Tick,
    limits: &CellLimits,
    out: &mut Vec<CellOutput>,
) {
    let window = limits.snapshot_window;
    if s.resend || (now.since(s.sent) >= RESEND_MS && now.since(s.heard) >= RESEND_MS) {
        s.resend = false;
        s.sent = now;
        out.extend(s.unacked.iter().map(|u| chunk(to, s.stream, u)));
        if s.unacked.is_empty() && now.since(s.read) < limits.snapshot_idle_ms {
            out.push(chunk(to, s.stream, &(0, false, s.meta.clone())));
        }
    }
    // Nothing for a stream that may be refused. Then half the window at least: a
    // job costs a thread.
    let untaken = s.unacked.front().is_some_and(|u| u.0 == 0);
    if untaken || s.complete || s.reading || s.unacked.len() > window / 2 {
        return;
    }
    s.reading = true;
    let (writer, mut cursor) =
        (SnapshotWriter::new(s.state.clone(), limits.snapshot_piece_bytes), s.cursor.clone());
    let count = window - s.unacked.len();
    let read = move || {
        let mut pieces = Vec::new();
        while pieces.len() < count
            && let Some((bytes, next)) = writer.chunk(&cursor)?
        {
            cursor = next.clone();
            pieces.push((bytes, next));
        }
        Ok(pieces)
    };
    out.push(CellOutput::ReadSnapshot(SnapshotJob { to, stream: s.stream, read: Box::new(read) }));
}
