//! The bytes of entries and answers, in messages and records alike.

use crate::contract::{Entry, EntryKind};
use crate::entries::Entries;
use crate::event::VoteRefusal;
use std::fmt;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};

pub fn put_all(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|&v| put_varint(out, v));
}

pub fn read_bool(r: &mut Reader, what: &'static str) -> Result<bool, Malformed> {
    match r.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed { what, at: 0 }),
    }
}

pub fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    put_varint(out, value.unwrap_or(0));
}

pub fn read_option(r: &mut Reader, what: &'static str) -> Result<Option<u64>, Malformed> {
    let some = r.u8(what)? != 0;
    let value = r.varint(what)?;
    Ok(some.then_some(value))
}

/// An entry without its index: that follows from its place.
pub fn put_entry(out: &mut Vec<u8>, e: &Entry) {
    let kind = match e.kind {
        EntryKind::Command => 0,
        EntryKind::Noop => 1,
        EntryKind::Config => 2,
    };
    // Most numbers are one byte.
    if e.term < 0x80 && e.data.len() < 0x80 {
        out.extend_from_slice(&[e.term as u8, kind, e.data.len() as u8]);
        return out.extend_from_slice(&e.data);
    }
    put_varint(out, e.term);
    out.push(kind);
    put_bytes(out, &e.data);
}

/// Entries that follow each other, with their count before them.
pub fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    put_varint(out, entries.len() as u64);
    entries.iter().for_each(|e| put_entry(out, e));
}

/// The bytes that [`put_entries`] puts: memory is asked for once.
pub fn entries_len(entries: &[Entry]) -> usize {
    let entry = |e: &Entry| varint_len(e.term) + 1 + varint_len(e.data.len() as u64) + e.data.len();
    varint_len(entries.len() as u64) + entries.iter().map(entry).sum::<usize>()
}

/// Seven bits a byte, at least one byte.
fn varint_len(v: u64) -> usize {
    (70 - (v | 1).leading_zeros() as usize) / 7
}

/// An entry at a known index.
pub fn read_entry(r: &mut Reader, index: u64) -> Result<Entry, Malformed> {
    let term = r.varint("entry term")?;
    let kind = match r.u8("entry kind")? {
        0 => EntryKind::Command,
        1 => EntryKind::Noop,
        2 => EntryKind::Config,
        _ => return Err(Malformed { what: "entry kind", at: 0 }),
    };
    Ok(Entry { index, term, kind, data: r.bytes("entry data")? })
}

/// Entries from `first` on; their count stands before them.
pub fn read_entries(r: &mut Reader, first: u64) -> Result<Entries, Malformed> {
    let n = r.count("entry count")?;
    // An entry is at least three bytes, so a count cannot make this allocate
    // more than a small multiple of what was given.
    let mut entries = Vec::with_capacity(n.min(r.remaining() / 3));
    for i in 0..n as u64 {
        let Some(index) = first.checked_add(i) else {
            return Err(Malformed { what: "entry index", at: 0 });
        };
        entries.push(read_entry(r, index)?);
    }
    Ok(entries.into())
}

pub fn put_refusal(out: &mut Vec<u8>, refused: Option<VoteRefusal>) {
    out.push(match refused {
        None => 0,
        Some(VoteRefusal::LeaderAlive) => 1,
        Some(VoteRefusal::LogBehind) => 2,
        Some(VoteRefusal::AlreadyVoted) => 3,
        Some(VoteRefusal::OldTerm) => 4,
    });
}

pub fn read_refusal(r: &mut Reader) -> Result<Option<VoteRefusal>, Malformed> {
    Ok(match r.u8("vote")? {
        0 => None,
        1 => Some(VoteRefusal::LeaderAlive),
        2 => Some(VoteRefusal::LogBehind),
        3 => Some(VoteRefusal::AlreadyVoted),
        4 => Some(VoteRefusal::OldTerm),
        _ => return Err(Malformed { what: "vote", at: 0 }),
    })
}

/// Shows where entries stand: `index:term`.
pub struct Places<'a>(pub &'a [Entry]);

impl fmt::Display for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            let gap = if i > 0 { " " } else { "" };
            write!(f, "{gap}{}:{}", e.index, e.term)?;
        }
        Ok(())
    }
}
