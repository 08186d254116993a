//! What a block says of itself: its name, and `meta.json`.

use super::bytes::{Fault, damaged};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Crockford's base 32.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Digits of a block's name.
const LEN: usize = 26;

/// The name of a block: a ULID, which begins with the time at which it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(u128);

impl BlockId {
    /// Of the time (Unix, ms) and 80 random bits.
    pub fn new(at: i64, random: u128) -> BlockId {
        BlockId((at as u128 & ((1 << 48) - 1)) << 80 | random & ((1 << 80) - 1))
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..LEN as u32).rev() {
            let digit = DIGITS[(self.0 >> (5 * place)) as usize & 31];
            write!(f, "{}", char::from(digit))?;
        }
        Ok(())
    }
}

impl FromStr for BlockId {
    type Err = ();

    fn from_str(text: &str) -> Result<BlockId, ()> {
        // 26 digits have two bits more than there are.
        if text.len() != LEN || text.as_bytes()[0] > b'7' {
            return Err(());
        }
        let digits = text.bytes().map(|b| DIGITS.iter().position(|d| *d == b));
        let value = digits.map(|d| d.map(|d| d as u128)).try_fold(0, |all, d| Some(all << 5 | d?));
        value.map(BlockId).ok_or(())
    }
}

/// What is in a block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Its name.
    pub ulid: String,
    /// Oldest time that it may hold, ms.
    #[serde(rename = "minTime")]
    pub min_time: i64,
    /// The first time that it does not hold.
    #[serde(rename = "maxTime")]
    pub max_time: i64,
    /// How much it holds.
    #[serde(default)]
    pub stats: BlockStats,
    /// What it was made of.
    #[serde(default)]
    pub compaction: Compaction,
    /// Of this format.
    pub version: u32,
}

/// How much a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockStats {
    /// Samples.
    #[serde(rename = "numSamples")]
    pub samples: u64,
    /// Series.
    #[serde(rename = "numSeries")]
    pub series: u64,
    /// Chunks.
    #[serde(rename = "numChunks")]
    pub chunks: u64,
}

/// What a block was made of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// How many compactions it went through; 1: it was cut off a head.
    pub level: u32,
    /// The blocks of level 1 that are in it.
    pub sources: Vec<String>,
    /// The blocks that it was made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
}

/// A block of which another was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// Its name.
    pub ulid: String,
    /// Where it began.
    #[serde(rename = "minTime")]
    pub min_time: i64,
    /// Where it ended.
    #[serde(rename = "maxTime")]
    pub max_time: i64,
}

impl Meta {
    /// Reads `meta.json`.
    pub fn read(bytes: &[u8]) -> Result<Meta, Fault> {
        let meta: Meta = match serde_json::from_slice(bytes) {
            Ok(meta) => meta,
            Err(e) => return damaged(format!("meta.json: {e}")),
        };
        if meta.version != 1 {
            return damaged(format!("meta.json: version {} is not known", meta.version));
        }
        if meta.ulid.parse::<BlockId>().is_err() || meta.min_time > meta.max_time {
            return damaged("meta.json: the name or the times make no sense");
        }
        Ok(meta)
    }

    /// Whether times of both are in each other.
    pub fn overlaps(&self, other: &Meta) -> bool {
        self.min_time < other.max_time && other.min_time < self.max_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ulids() {
        // The example of the ULID's specification.
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().expect("a ULID");
        assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(id.0 >> 80, 1_469_922_850_259);
        assert_eq!(BlockId::new(1_469_922_850_259, id.0), id);
        for bad in ["", "wal", "01ARZ3NDEKTSV4RRFFQ69G5FA", "81ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            assert!(bad.parse::<BlockId>().is_err(), "{bad}");
        }
        assert!("01ARZ3NDEKTSV4RRFFQ69G5FAU".parse::<BlockId>().is_err(), "U is no digit");
    }
}
