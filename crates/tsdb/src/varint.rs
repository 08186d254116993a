//! Numbers of the log and of files of chunks, of which there are millions.

use synod_base::codec::put_varint;

/// Times, and how far numbers are apart.
pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

pub(crate) fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

pub(crate) fn put_zigzag(out: &mut Vec<u8>, v: i64) {
    put_varint(out, zigzag(v));
}

/// As `Reader::varint` of the codec, of a slice. `None`: it ends within.
#[inline]
pub(crate) fn varint(rest: &mut &[u8]) -> Option<u64> {
    if let [byte @ 0..0x80, more @ ..] = *rest {
        *rest = more;
        return Some(u64::from(*byte));
    }
    long_varint(rest)
}

fn long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Some(value);
        }
    }
    None
}

/// The highest `len` bytes (8 at most) of a value.
#[inline]
pub(crate) fn bits(rest: &mut &[u8], len: usize) -> Option<u64> {
    let len = len.min(8);
    let mut eight = [0; 8];
    match rest.first_chunk::<8>() {
        Some(more) => eight = *more,
        None => eight[..len].copy_from_slice(rest.get(..len)?),
    }
    *rest = &rest[len..];
    let others = 64 - 8 * len as u32;
    Some(u64::from_be_bytes(eight).checked_shr(others).unwrap_or(0) << (others % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_their_highest_bytes() {
        let bytes = 0x0102_0304_0506_0708_u64.to_be_bytes();
        for len in 0..=15_usize {
            let (mut rest, kept) = (&bytes[..], len.min(8));
            let mut expected = [0; 8];
            expected[..kept].copy_from_slice(&bytes[..kept]);
            assert_eq!(bits(&mut rest, len), Some(u64::from_be_bytes(expected)), "{len}");
            assert_eq!(rest.len(), 8 - kept);
        }
        let short = &mut &bytes[..3];
        assert_eq!((bits(short, 4), bits(short, 2)), (None, Some(0x0102 << 48)));
    }

    #[test]
    fn numbers_of_any_length_are_read() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, number);
                let rest = &mut &out[..];
                assert_eq!((varint(rest), rest.len()), (Some(number), 0));
                assert_eq!(varint(&mut &out[..out.len() - 1]), None);
                assert_eq!(unzigzag(zigzag(number as i64)), number as i64);
            }
        }
    }
}
