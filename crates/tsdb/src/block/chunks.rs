//! The files of a block's chunks.

use super::bytes::{Cursor, Fault, FileAt, ReadAt, Window, damaged};
use std::path::Path;
use synod_base::crc32c;

const MAGIC: u32 = 0x85bd_40dd;
const VERSION: u8 = 1;
/// Bytes before the first chunk.
const HEADER_LEN: usize = 8;
/// Bytes of a chunk, at most.
const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// The encoding of [`crate::Chunk`].
pub(crate) const XOR: u8 = 1;

/// The file of this number, from 1.
pub(crate) fn name(number: u32) -> String {
    format!("{number:06}")
}

pub(crate) fn header() -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&MAGIC.to_be_bytes());
    header[4] = VERSION;
    header
}

/// Opens the files of chunks in this folder.
pub(crate) fn open(folder: &Path) -> Result<Vec<FileAt>, Fault> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    names.sort_unstable();
    let mut files = Vec::new();
    for (number, found) in (1..).zip(names) {
        if number != found {
            return damaged(format!("the file of chunks {number} is missing"));
        }
        let file = FileAt::open(&folder.join(name(number)))?;
        check(&file)?;
        files.push(file);
    }
    Ok(files)
}

/// Whether a file of chunks begins as it should.
pub fn check(file: &impl ReadAt) -> Result<(), Fault> {
    let bytes = super::bytes::read(file, 0, HEADER_LEN as u64)?;
    let mut cursor = Cursor(&bytes);
    let (magic, version) = (cursor.u32()?, cursor.u8()?);
    if magic != MAGIC || version != VERSION {
        return damaged(format!("{magic:x}, version {version}, is no file of chunks"));
    }
    Ok(())
}

/// Reads chunks, those that stand near each other at once.
pub(crate) struct ChunkWalk<'a, R> {
    files: &'a [R],
    window: Window,
    /// The file that the window is of.
    file: u64,
}

impl<'a, R: ReadAt> ChunkWalk<'a, R> {
    pub fn new(files: &'a [R]) -> ChunkWalk<'a, R> {
        ChunkWalk { files, window: Window::default(), file: 0 }
    }

    /// Encoding and data of the chunk at a reference.
    pub fn get(&mut self, at: u64) -> Result<(u8, &[u8]), Fault> {
        let (number, offset) = (at >> 32, at & u64::from(u32::MAX));
        let Some(file) = self.files.get(number as usize) else {
            return damaged(format!("there is no file of chunks {}", number + 1));
        };
        if self.file != number {
            (self.file, self.window) = (number, Window::default());
        }
        let mut begin = Cursor(self.window.get(file, offset, 10)?);
        let before = begin.0.len();
        let len = begin.uvarint()?;
        let prefix = before - begin.0.len();
        if len > CHUNK_BYTES_MAX {
            return damaged(format!("a chunk at {offset} would be {len} bytes long"));
        }
        let whole = self.window.get(file, offset, prefix + len as usize + 5)?;
        let mut cursor = Cursor(&whole[prefix..]);
        let summed = cursor.take(len as usize + 1)?;
        if crc32c(summed) != cursor.u32()? {
            return damaged(format!(
                "the checksum of the chunk at {offset} of file {} does not hold",
                number + 1
            ));
        }
        Ok((summed[0], &summed[1..]))
    }
}
