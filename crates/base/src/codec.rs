//! The byte codec of our own formats: little-endian fixed integers, LEB128
//! varints, and length-prefixed byte strings. A reader shares the buffer it
//! reads from (no copy) and never allocates more than it was given.

use bytes::{Buf, BufMut, Bytes};
use std::fmt;

/// Why bytes could not be read: what was wanted and at which offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
    /// Offset from the start of the buffer.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed bytes: no valid {} at offset {}", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// Appends `v` as a varint: 1 to 10 bytes.
pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends `bytes` with its length before it.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads what the `put_*` functions wrote.
#[derive(Clone, Debug)]
pub struct Reader {
    rest: Bytes,
    total: usize,
}

impl Reader {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: Bytes) -> Reader {
        let total = bytes.len();
        Reader { rest: bytes, total }
    }

    fn bad<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { what, at: self.total - self.rest.len() })
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        if self.rest.is_empty() {
            return self.bad(what);
        }
        Ok(self.rest.get_u8())
    }

    /// A fixed 32-bit integer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        if self.rest.len() < 4 {
            return self.bad(what);
        }
        Ok(self.rest.get_u32_le())
    }

    /// A fixed 64-bit integer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        if self.rest.len() < 8 {
            return self.bad(what);
        }
        Ok(self.rest.get_u64_le())
    }

    /// A varint; one that does not fit 64 bits is malformed.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut v = 0u64;
        for (i, &b) in self.rest.iter().take(10).enumerate() {
            if i == 9 && b > 1 {
                return self.bad(what);
            }
            v |= u64::from(b & 0x7f) << (7 * i);
            if b < 0x80 {
                self.rest.advance(i + 1);
                return Ok(v);
            }
        }
        self.bad(what)
    }

    /// A length-prefixed byte string, sharing the buffer.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, Malformed> {
        let len = self.varint(what)?;
        if len > self.rest.len() as u64 {
            return self.bad(what);
        }
        Ok(self.rest.split_to(len as usize))
    }

    /// A length-prefixed UTF-8 string.
    pub fn string(&mut self, what: &'static str) -> Result<String, Malformed> {
        let b = self.bytes(what)?;
        String::from_utf8(b.to_vec()).or_else(|_| self.bad(what))
    }

    /// A count of items of at least one byte each: never more than what is
    /// left, so that it can size an allocation.
    pub fn count(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let n = self.varint(what)?;
        if n > self.rest.len() as u64 {
            return self.bad(what);
        }
        Ok(n as usize)
    }

    /// Everything that is left.
    pub fn rest(self) -> Bytes {
        self.rest
    }

    /// Fails unless all was read.
    pub fn end(self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { self.bad(what) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_put_is_read(v: u64, b: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            put_bytes(&mut out, &b);
            let mut r = Reader::new(out.into());
            prop_assert_eq!(r.varint("v").unwrap(), v);
            prop_assert_eq!(r.bytes("b").unwrap(), b);
            prop_assert!(r.end("end").is_ok());
        }

        #[test]
        fn any_bytes_never_panic(b: Vec<u8>) {
            let mut r = Reader::new(b.clone().into());
            while r.varint("v").is_ok() {}
            let mut r = Reader::new(b.into());
            while r.bytes("b").is_ok() && !r.is_empty() {}
        }
    }
}
