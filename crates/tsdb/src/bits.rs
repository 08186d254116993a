//! Bits in a row, and numbers in them as chunks have them.

use crate::chunk::Corrupt;

/// Bytes by which the memory of a chunk grows.
const GROWTH: usize = 48;
/// Widths of a number, each with one more bit set before it; beyond them all 64 bits follow.
const WIDTHS: [u32; 7] = [3, 6, 9, 12, 18, 25, 56];

/// Which bits of a number differed from the one before it: the next need not say so again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    leading: u8,
    trailing: u8,
}

impl Window {
    /// None was written yet.
    pub const NONE: Window = Window { leading: 0xff, trailing: 0 };

    /// Writes what differs from the number before.
    #[inline]
    pub fn put(&mut self, bits: &mut Bits, before: f64, value: f64) {
        let differs = value.to_bits() ^ before.to_bits();
        if differs == 0 {
            bits.put(0, 1);
            return;
        }
        // Five bits tell how many zeros lead.
        let leading = (differs.leading_zeros() as u8).min(31);
        let trailing = differs.trailing_zeros() as u8;
        let known = self.leading != Window::NONE.leading;
        if known && leading >= self.leading && trailing >= self.trailing {
            bits.put(0b10, 2);
            let width = 64 - self.leading - self.trailing;
            bits.put(differs >> self.trailing, u32::from(width));
            return;
        }
        (self.leading, self.trailing) = (leading, trailing);
        let width = 64 - leading - trailing;
        // 64 is written as 0: a width of 0 cannot be.
        let window = u64::from(leading) << 6 | u64::from(width) & 63;
        bits.put(0b11 << 11 | window, 13);
        bits.put(differs >> trailing, u32::from(width));
    }

    /// The next number.
    #[inline]
    pub fn get(&mut self, read: &mut Reader<'_>, before: f64) -> Result<f64, Corrupt> {
        if read.get(1)? == 0 {
            return Ok(before);
        }
        if read.get(1)? == 1 {
            let window = read.get(11)?;
            self.leading = (window >> 6) as u8;
            let width = match window as u8 & 63 {
                0 => 64,
                width => width,
            };
            self.trailing = 64u8.checked_sub(self.leading + width).ok_or(Corrupt)?;
        }
        let width = u32::from(64 - self.leading - self.trailing);
        let differs = read.get(width)? << self.trailing;
        Ok(f64::from_bits(before.to_bits() ^ differs))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Bits {
    pub bytes: Vec<u8>,
    /// Bits of the last byte that are not used.
    free: u8,
}

impl Bits {
    /// These bytes are the first.
    pub fn begin(head: &[u8]) -> Bits {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(head);
        Bits { bytes, free: 0 }
    }

    /// The lower `count` bits, the highest first; one at least.
    pub fn put(&mut self, value: u64, count: u32) {
        let (mut value, mut left) = (value << (64 - count), count);
        let free = u32::from(self.free);
        if free > 0
            && let Some(last) = self.bytes.last_mut()
        {
            *last |= (value >> (64 - free)) as u8;
            if left <= free {
                self.free = (free - left) as u8;
                return;
            }
            value <<= free;
            left -= free;
        }
        let count = left.div_ceil(8) as usize;
        if self.bytes.len() + count > self.bytes.capacity() {
            // Little by little: most of the head's memory is these.
            self.bytes.reserve_exact(GROWTH);
        }
        self.bytes.extend_from_slice(&value.to_be_bytes()[..count]);
        self.free = (count as u32 * 8 - left) as u8;
    }

    pub fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    pub fn varint(&mut self, value: i64) {
        self.uvarint(((value << 1) ^ (value >> 63)) as u64);
    }
}

impl Bits {
    /// A number in as many bits as it needs, little ones in few.
    pub fn signed(&mut self, value: i64) {
        let fits = |bits: u32| (-(1i64 << (bits - 1)) + 1..=1i64 << (bits - 1)).contains(&value);
        self.of_width(value as u64, fits);
    }

    /// The same, of one that is never below zero.
    pub fn unsigned(&mut self, value: u64) {
        self.of_width(value, |bits| value >> bits == 0);
    }

    fn of_width(&mut self, value: u64, fits: impl Fn(u32) -> bool) {
        if value == 0 {
            return self.put(0, 1);
        }
        for (ones, width) in (1..).zip(WIDTHS) {
            if fits(width) {
                self.put(!1, ones + 1);
                return self.put(value, width);
            }
        }
        self.put(0xff, 8);
        self.put(value, 64);
    }
}

/// Reads them again.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins at a byte.
    pub fn at(bytes: &'a [u8], byte: usize) -> Reader<'a> {
        Reader { bytes, at: byte * 8 }
    }

    /// The next bits; at most 64.
    pub fn get(&mut self, count: u32) -> Result<u64, Corrupt> {
        let (byte, shift) = (self.at / 8, (self.at % 8) as u32);
        if count > 0
            && shift + count <= 64
            && let Some(next) = self.bytes.get(byte..).and_then(|b| b.first_chunk::<8>())
        {
            self.at += count as usize;
            return Ok((u64::from_be_bytes(*next) << shift) >> (64 - count));
        }
        self.get_slowly(count)
    }

    /// Near the end, and over nine bytes.
    fn get_slowly(&mut self, count: u32) -> Result<u64, Corrupt> {
        let (mut value, mut left) = (0u64, count);
        while left > 0 {
            let byte = *self.bytes.get(self.at / 8).ok_or(Corrupt)?;
            let free = 8 - (self.at % 8) as u32;
            let take = left.min(free);
            let part = (u64::from(byte) >> (free - take)) & ((1 << take) - 1);
            value = value << take | part;
            self.at += take as usize;
            left -= take;
        }
        Ok(value)
    }

    pub fn uvarint(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.get(8)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Corrupt)
    }

    pub fn varint(&mut self) -> Result<i64, Corrupt> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub fn change(&mut self) -> Result<i64, Corrupt> {
        let mut width = 0;
        for bits in [14, 17, 20, 64] {
            if self.get(1)? == 0 {
                break;
            }
            width = bits;
        }
        if width == 0 || width == 64 {
            return Ok(self.get(width)? as i64);
        }
        let raw = self.get(width)? as i64;
        // The range is from −(half − 1) to half.
        Ok(if raw > 1 << (width - 1) { raw - (1 << width) } else { raw })
    }

    fn width(&mut self) -> Result<u32, Corrupt> {
        let mut ones = 0;
        while ones < 8 && self.get(1)? == 1 {
            ones += 1;
        }
        Ok(match ones {
            0 => 0,
            8 => 64,
            _ => WIDTHS[ones - 1],
        })
    }

    /// See [`Bits::signed`].
    pub fn signed(&mut self) -> Result<i64, Corrupt> {
        match self.width()? {
            0 => Ok(0),
            64 => Ok(self.get(64)? as i64),
            width => {
                let raw = self.get(width)? as i64;
                Ok(if raw > 1 << (width - 1) { raw - (1 << width) } else { raw })
            }
        }
    }

    /// See [`Bits::unsigned`].
    pub fn unsigned(&mut self) -> Result<u64, Corrupt> {
        match self.width()? {
            0 => Ok(0),
            width => self.get(width),
        }
    }
}
