//! A state as a stream of bytes, for followers that are too far behind, for
//! backups and restores.
//!
//! **Format**: magic `SYNODSS1`; then frames: payload length u32, checksum u32,
//! kind u8, payload (integers little-endian). The checksum is a CRC-32C over
//! the frame's offset in the stream, its kind and its payload, so that a frame
//! lost, repeated or moved is found out. First frame: head. Then pairs, by
//! space and key. Last: foot with the totals.
//!
//! **Invariants**
//! - What comes after a cursor depends on the pinned state and the cursor
//!   alone: a stream that broke goes on from the last cursor.
//! - A reader gives out only what a checksum covered. Until
//!   [`SnapshotReader::finish`] has succeeded the staging area must not be used.

use crate::meta;
use crate::reader::Published;
use crate::records::after;
use crate::store::{Space, StoreError, View};
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;
use std::sync::Arc;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};
use synod_base::crc32c_append;

const MAGIC: &[u8; 8] = b"SYNODSS1";
const FORMAT: u64 = 2;
/// Length, checksum, kind.
const FRAME_HEAD: usize = 9;
/// Largest payload that a reader takes: far above any chunk, so that a damaged
/// length does not make it wait for gigabytes.
const PAYLOAD_MAX: usize = 64 << 20;
const HEAD: u8 = 1;
const PAIRS: u8 = 2;
const FOOT: u8 = 3;

/// What a snapshot tells about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHead {
    /// Index of the last command in it.
    pub applied: u64,
    /// Term of that command.
    pub term: u64,
    /// Its revision.
    pub revision: i64,
    /// Its last compaction.
    pub compacted: i64,
}

/// A place in a snapshot's stream, between two chunks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotCursor {
    offset: u64,
    pairs: u64,
    next: Next,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Next {
    #[default]
    Head,
    Pairs(Space, Vec<u8>),
    Foot,
    End,
}

impl SnapshotCursor {
    /// Bytes of the stream before this place.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether nothing comes after it.
    pub fn is_end(&self) -> bool {
        self.next == Next::End
    }
}

/// Writes a pinned state as chunks.
pub struct SnapshotWriter<V> {
    state: Arc<Published<V>>,
    chunk_bytes: usize,
}

fn frame(out: &mut Vec<u8>, offset: u64, kind: u8, payload: &[u8]) {
    let checksum = crc32c_append(&[&offset.to_le_bytes(), &[kind], payload]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&checksum.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

impl<V: View> SnapshotWriter<V> {
    /// Writes `state` in chunks of about `chunk_bytes` (64 KiB to 1 MiB; a
    /// single larger pair makes a larger chunk).
    pub fn new(state: Arc<Published<V>>, chunk_bytes: usize) -> SnapshotWriter<V> {
        SnapshotWriter { state, chunk_bytes }
    }

    /// What it tells about itself.
    pub fn head(&self) -> SnapshotHead {
        SnapshotHead {
            applied: self.state.applied,
            term: self.state.applied_term,
            revision: self.state.revision,
            compacted: self.state.compacted,
        }
    }

    /// The chunk at `cursor` and the place after it; `None` at the end.
    pub fn chunk(
        &self,
        cursor: &SnapshotCursor,
    ) -> Result<Option<(Bytes, SnapshotCursor)>, StoreError> {
        let mut out = Vec::new();
        let mut after = cursor.clone();
        match &cursor.next {
            Next::End => return Ok(None),
            Next::Head => {
                out.extend_from_slice(MAGIC);
                let head = self.head();
                let mut payload = Vec::new();
                for number in
                    [FORMAT, head.applied, head.term, head.revision as u64, head.compacted as u64]
                {
                    put_varint(&mut payload, number);
                }
                frame(&mut out, MAGIC.len() as u64, HEAD, &payload);
                after.next = Next::Pairs(Space::Meta, Vec::new());
            }
            Next::Pairs(space, from) => {
                let (payload, pairs, next) = self.pairs(*space, from.clone())?;
                frame(&mut out, cursor.offset, PAIRS, &payload);
                after.pairs += pairs;
                after.next = next;
            }
            Next::Foot => {
                let mut foot = Vec::new();
                put_varint(&mut foot, cursor.pairs);
                frame(&mut out, cursor.offset, FOOT, &foot);
                after.next = Next::End;
            }
        }
        after.offset += out.len() as u64;
        Ok(Some((out.into(), after)))
    }

    /// The pairs from a place on, as many as make a chunk.
    fn pairs(&self, first: Space, mut from: Vec<u8>) -> Result<(Vec<u8>, u64, Next), StoreError> {
        let (mut payload, mut pairs) = (Vec::new(), 0);
        for space in Space::ALL.into_iter().filter(|space| *space >= first) {
            for item in self.state.view.scan(space, &from, None, false) {
                let (key, value) = item?;
                if space == Space::Meta && key == meta::BOUNDARY {
                    continue;
                }
                payload.push(space as u8);
                put_bytes(&mut payload, &key);
                put_bytes(&mut payload, &value);
                pairs += 1;
                if payload.len() >= self.chunk_bytes {
                    return Ok((payload, pairs, Next::Pairs(space, after(&key))));
                }
            }
            from.clear();
        }
        Ok((payload, pairs, Next::Foot))
    }
}

/// Why a snapshot cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotError {
    /// What is wrong.
    pub what: String,
    /// Offset in the stream of the frame that is wrong.
    pub offset: u64,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot: {} (at byte {}): fetch it again", self.what, self.offset)
    }
}

impl std::error::Error for SnapshotError {}

/// Pairs of a snapshot, for [`crate::Store::stage_put`].
pub type StagedPairs = Vec<(Space, Bytes, Bytes)>;

/// Reads a snapshot from pieces of any size.
#[derive(Default)]
pub struct SnapshotReader {
    buffer: BytesMut,
    /// Offset of the buffer in the stream.
    offset: u64,
    head: Option<SnapshotHead>,
    pairs: u64,
    complete: bool,
}

impl SnapshotReader {
    /// Nothing read yet.
    pub fn new() -> SnapshotReader {
        SnapshotReader::default()
    }

    /// What it tells about itself, once that is read.
    pub fn head(&self) -> Option<SnapshotHead> {
        self.head
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, SnapshotError> {
        Err(SnapshotError { what: what.into(), offset: self.offset })
    }

    /// Takes the next piece; returns the pairs that are whole and checked.
    pub fn feed(&mut self, piece: &[u8]) -> Result<StagedPairs, SnapshotError> {
        self.buffer.extend_from_slice(piece);
        let mut pairs = Vec::new();
        if self.offset == 0 {
            let there = self.buffer.len().min(MAGIC.len());
            if self.buffer[..there] != MAGIC[..there] {
                return self.wrong("this is no snapshot of Synod, or one of another version");
            }
            if there < MAGIC.len() {
                return Ok(pairs);
            }
            self.advance(MAGIC.len());
        }
        while let Some((kind, payload)) = self.frame()? {
            let length = FRAME_HEAD + payload.len();
            if let Err(malformed) = self.take(kind, payload, &mut pairs)? {
                return self.wrong(malformed.to_string());
            }
            self.offset += length as u64;
        }
        if self.complete && !self.buffer.is_empty() {
            return self.wrong("there is something after its end");
        }
        Ok(pairs)
    }

    fn advance(&mut self, n: usize) {
        self.buffer.advance(n);
        self.offset += n as u64;
    }

    /// Cuts a whole, checked frame off the buffer.
    fn frame(&mut self) -> Result<Option<(u8, Bytes)>, SnapshotError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEAD>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        if length > PAYLOAD_MAX {
            return self.wrong(format!("a frame claims {length} bytes, it is damaged"));
        }
        if self.buffer.len() < FRAME_HEAD + length {
            return Ok(None);
        }
        let payload = &self.buffer[FRAME_HEAD..FRAME_HEAD + length];
        if crc32c_append(&[&self.offset.to_le_bytes(), &[kind], payload]) != checksum {
            return self.wrong("a checksum does not match, it is damaged");
        }
        let frame = self.buffer.split_to(FRAME_HEAD + length).freeze();
        Ok(Some((kind, frame.slice(FRAME_HEAD..))))
    }

    /// Makes sense of a frame. The inner error is that of its bytes.
    fn take(
        &mut self,
        kind: u8,
        payload: Bytes,
        pairs: &mut StagedPairs,
    ) -> Result<Result<(), Malformed>, SnapshotError> {
        if self.complete {
            return self.wrong("there is a frame after its end");
        }
        if (kind == HEAD) != self.head.is_none() {
            return self.wrong("its frames are out of order");
        }
        match kind {
            HEAD => Ok(head(payload).map(|head| self.head = Some(head))),
            PAIRS => Ok(self.take_pairs(payload, pairs)),
            FOOT => {
                let mut r = Reader::new(payload);
                match r.varint("total of pairs") {
                    Ok(total) if total == self.pairs && r.is_empty() => {
                        self.complete = true;
                        Ok(Ok(()))
                    }
                    Ok(total) => self.wrong(format!(
                        "it ends after {} pairs and says that there are {total}",
                        self.pairs
                    )),
                    Err(malformed) => Ok(Err(malformed)),
                }
            }
            other => self.wrong(format!("it has a frame of unknown kind {other}")),
        }
    }

    fn take_pairs(&mut self, payload: Bytes, pairs: &mut StagedPairs) -> Result<(), Malformed> {
        let mut r = Reader::new(payload);
        while !r.is_empty() {
            let space = Space::from_u8(r.u8("space")?);
            let space = space.ok_or(Malformed { what: "space", at: 0 })?;
            pairs.push((space, r.bytes("key")?, r.bytes("value")?));
            self.pairs += 1;
        }
        Ok(())
    }

    /// Fails unless everything came; then the staging area may be swapped in.
    pub fn finish(self) -> Result<SnapshotHead, SnapshotError> {
        match self.head {
            Some(head) if self.complete => Ok(head),
            _ => self.wrong("it is cut off"),
        }
    }
}

fn head(payload: Bytes) -> Result<SnapshotHead, Malformed> {
    let mut r = Reader::new(payload);
    if r.varint("snapshot format")? != FORMAT {
        return Err(Malformed { what: "snapshot format that this version reads", at: 0 });
    }
    let head = SnapshotHead {
        applied: r.varint("applied index")?,
        term: r.varint("applied term")?,
        revision: r.varint("revision")? as i64,
        compacted: r.varint("compacted revision")? as i64,
    };
    r.end("end of the snapshot's head")?;
    Ok(head)
}
