//! What was deleted of a block without being taken out of it.

use super::bytes::{Cursor, Fault, damaged};
use std::collections::HashMap;
use synod_base::crc32c;

pub(crate) const MAGIC: u32 = 0x0130_ba30;
pub(crate) const VERSION: u8 = 1;

/// Times (both ends within) of series by their number.
#[derive(Debug, Default)]
pub(crate) struct Tombstones(HashMap<u64, Vec<(i64, i64)>>);

impl Tombstones {
    pub fn read(bytes: &[u8]) -> Result<Tombstones, Fault> {
        let mut head = Cursor(bytes);
        let (magic, version) = (head.u32()?, head.u8()?);
        let Some(len) = head.0.len().checked_sub(4) else {
            return damaged("the tombstones' checksum is missing");
        };
        if magic != MAGIC || version != VERSION {
            return damaged(format!("{magic:x}, version {version}, are no tombstones"));
        }
        let stones = head.take(len)?;
        if crc32c(stones) != head.u32()? {
            return damaged("the checksum of the tombstones does not hold");
        }
        let (mut cursor, mut all) = (Cursor(stones), HashMap::<u64, Vec<_>>::new());
        while !cursor.0.is_empty() {
            let (series, from, to) = (cursor.uvarint()?, cursor.varint()?, cursor.varint()?);
            all.entry(series).or_default().push((from, to));
        }
        Ok(Tombstones(all))
    }

    /// Those of a series.
    pub fn of(&self, series: u32) -> &[(i64, i64)] {
        self.0.get(&u64::from(series)).map_or(&[], Vec::as_slice)
    }

    /// A file with none.
    pub fn none() -> Vec<u8> {
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&crc32c(&[]).to_be_bytes());
        bytes
    }
}
