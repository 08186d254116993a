//! The bytes of files of full chunks. Each says what it is: a file can be read without the
//! life that wrote it, and no further than it is whole.
//!
//! A file begins with [`MAGIC`]. Each record is the length of its body and the body's CRC-32C
//! (four bytes each, the lowest first), and the body:
//! - 1, slot, life, count, (name, value)…: the labels of the series that has this slot and
//!   life in all of the file;
//! - 2, slot, life, first time, last time, bytes: a chunk of numbers of such a series, with all
//!   that it took in order between these times;
//! - 3, the same: one that is not to be brought back
//!
//! with numbers and times (zigzag) as varints, texts with their length before.

use crate::head::SeriesId;
use crate::varint::{put_zigzag, unzigzag, varint};
use std::ops::Range;
use synod_base::codec::{put_bytes, put_varint};
use synod_base::crc32c;
use synod_promql::Labels;

/// What a file begins with.
pub(crate) const MAGIC: &[u8; 8] = b"SYNCHNK1";
const NAME: u8 = 1;
const CHUNK: u8 = 2;
const ASIDE: u8 = 3;
/// Bytes before a record's body.
const FRAME: usize = 8;
/// No body is longer.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// A series, within one file.
pub(crate) type Key = (u64, u64);

/// A record.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    /// The labels are at these bytes of the record, as the log has them.
    Name { key: Key, labels: Range<usize> },
    /// The chunk's bytes are these of the record.
    Chunk { key: Key, first: i64, last: i64, data: Range<usize> },
    /// A chunk that is not to be brought back.
    Aside { data: Range<usize> },
}

fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let begin = out.len();
    out.extend_from_slice(&[0; FRAME]);
    body(out);
    let (len, sum) = (out.len() - begin - FRAME, crc32c(&out[begin + FRAME..]));
    out[begin..begin + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[begin + 4..begin + FRAME].copy_from_slice(&sum.to_le_bytes());
    begin..out.len()
}

fn put_key(out: &mut Vec<u8>, id: SeriesId) {
    put_varint(out, id.number());
    put_varint(out, id.life());
}

/// The labels of a series, as records of the log have them too.
pub(crate) fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_varint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

/// Adds the name of a series.
pub(crate) fn put_name(out: &mut Vec<u8>, id: SeriesId, labels: &Labels) {
    framed(out, |out| {
        out.push(NAME);
        put_key(out, id);
        put_labels(out, labels);
    });
}

/// Adds a chunk; gives where its record is.
pub(crate) fn put_chunk(
    out: &mut Vec<u8>,
    id: SeriesId,
    (first, last): (i64, i64),
    data: &[u8],
    comes_back: bool,
) -> Range<usize> {
    framed(out, |out| {
        out.push(if comes_back { CHUNK } else { ASIDE });
        put_key(out, id);
        put_zigzag(out, first);
        put_zigzag(out, last);
        out.extend_from_slice(data);
    })
}

/// How long the record is that begins here; `None`: it is none, or more bytes must be there
/// to say.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (1..=BODY_MAX).contains(&len).then_some(FRAME + len)
}

/// The record that these bytes are, if they are a whole one.
pub(crate) fn read(bytes: &[u8]) -> Option<Record> {
    let sum = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    if length(bytes) != Some(bytes.len()) || crc32c(&bytes[FRAME..]) != sum {
        return None;
    }
    let (kind, rest) = (bytes[FRAME], &mut &bytes[FRAME + 1..]);
    let key = (varint(rest)?, varint(rest)?);
    if kind == NAME {
        return Some(Record::Name { key, labels: bytes.len() - rest.len()..bytes.len() });
    }
    let (first, last) = (unzigzag(varint(rest)?), unzigzag(varint(rest)?));
    let data = bytes.len() - rest.len()..bytes.len();
    match kind {
        CHUNK => Some(Record::Chunk { key, first, last, data }),
        ASIDE => Some(Record::Aside { data }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Head;
    use crate::limits::Limits;

    #[test]
    fn what_is_put_is_read_and_no_bit_of_it_may_differ() {
        let mut head = Head::new(Limits::default());
        let labels = Labels::new([("__name__", "m"), ("n", "1")]);
        let id = head.series(&labels).expect("room");
        let (mut out, mut text) = (Vec::new(), Vec::new());
        put_labels(&mut text, &labels);
        put_name(&mut out, id, &labels);
        let name = read(&out).expect("whole");
        assert_eq!(name, Record::Name { key: (0, 0), labels: out.len() - text.len()..out.len() });
        assert!(out.ends_with(&text));
        out.clear();
        assert_eq!(put_chunk(&mut out, id, (-5, 1 << 40), b"bytes", true), 0..out.len());
        let data = out.len() - 5..out.len();
        let chunk = Record::Chunk { key: (0, 0), first: -5, last: 1 << 40, data: data.clone() };
        assert_eq!(read(&out), Some(chunk));
        for bit in 0..out.len() * 8 {
            let mut other = out.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&other), None, "bit {bit}");
        }
        for len in 0..out.len() {
            assert_eq!(read(&out[..len]), None, "{len} bytes");
        }
        out.clear();
        put_chunk(&mut out, id, (-5, 1 << 40), b"bytes", false);
        assert_eq!(read(&out), Some(Record::Aside { data }));
    }
}
