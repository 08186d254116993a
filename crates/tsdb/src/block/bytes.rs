//! Bytes of a block's files: reading with offsets, and the numbers that are in them
//! (big-endian, and varints as Go writes them).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Why something of a block cannot be read.
#[derive(Debug)]
pub enum Fault {
    /// The system says so.
    Io(io::Error),
    /// The bytes are not what was written.
    Damaged(String),
    /// A query asks for more samples than it may have.
    TooMany,
    /// The node ends.
    Stopped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(e) => e.fmt(f),
            Fault::Damaged(what) => f.write_str(what),
            Fault::Stopped => f.write_str("given up: the node ends"),
            Fault::TooMany => f.write_str(
                "query processing would load too many samples into memory in query execution",
            ),
        }
    }
}

impl std::error::Error for Fault {}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

pub(crate) fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

/// Something to read at offsets.
pub trait ReadAt: Send + Sync {
    /// Its bytes.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills the buffer from the bytes at an offset.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A file that does not change.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    len: u64,
}

impl FileAt {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<FileAt> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(FileAt { file, len })
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.get(begin..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Bytes of a source, checked to be there before memory is taken for them.
pub(crate) fn read(source: &impl ReadAt, offset: u64, len: u64) -> Result<Vec<u8>, Fault> {
    if offset.checked_add(len).is_none_or(|end| end > source.len()) {
        return damaged(format!("{len} bytes at {offset} are beyond the file's end"));
    }
    let mut bytes = vec![0; len as usize];
    source.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// A part of a source, so that what stands one behind the other is read at once.
#[derive(Default)]
pub(crate) struct Window {
    begin: u64,
    bytes: Vec<u8>,
    /// How much is read at once: more when one read follows the other.
    reach: usize,
}

impl Window {
    const REACH_MIN: usize = 4 << 10;
    const REACH_MAX: usize = 256 << 10;

    /// At least `len` bytes at `offset`, or as many as there are.
    pub fn get(&mut self, source: &impl ReadAt, offset: u64, len: usize) -> Result<&[u8], Fault> {
        if offset > source.len() {
            return damaged(format!("{offset} is beyond the file's end"));
        }
        let end = offset.saturating_add(len as u64).min(source.len());
        let held = self.begin + self.bytes.len() as u64;
        if offset < self.begin || end > held {
            let near = offset >= self.begin && offset <= held + Window::REACH_MIN as u64;
            let reach = if near { self.reach * 2 } else { 0 };
            self.reach = reach.clamp(Window::REACH_MIN, Window::REACH_MAX);
            let end = offset.saturating_add(self.reach.max(len) as u64).min(source.len());
            self.bytes.clear();
            self.bytes.resize(end.saturating_sub(offset) as usize, 0);
            self.begin = offset;
            source.read_at(offset, &mut self.bytes)?;
        }
        Ok(&self.bytes[(offset - self.begin) as usize..])
    }
}

/// Reads numbers and texts.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return damaged(format!("{len} bytes are expected and {} are left", self.0.len()));
        };
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        Ok(self.take(4)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    pub fn u64(&mut self) -> Result<u64, Fault> {
        Ok(self.take(8)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    pub fn uvarint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        damaged("a number takes more than ten bytes")
    }

    pub fn varint(&mut self) -> Result<i64, Fault> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub fn number(&mut self) -> Result<u32, Fault> {
        let number = self.uvarint()?;
        u32::try_from(number).or_else(|_| damaged(format!("{number} is no reference")))
    }

    pub fn text(&mut self) -> Result<&'a str, Fault> {
        let len = self.uvarint()?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).or_else(|_| damaged("a text is not UTF-8"))
    }
}

pub(crate) fn put_uvarint(out: &mut Vec<u8>, value: u64) {
    synod_base::codec::put_varint(out, value);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}
