//! A run of samples in few bits: times as the change of their distance, values as what
//! differs in their bits (Pelkonen et al., "Gorilla", VLDB'15, section 4.1; the codes are
//! those of Prometheus's XOR chunks, so that blocks take chunks as they are).

use synod_promql::Sample;

/// A chunk that is appended to. The first two bytes count the samples.
#[derive(Clone, Debug)]
pub struct Chunk {
    bits: Bits,
    last: Sample,
    first_at: i64,
    /// Between the last two.
    distance: i64,
    leading: u8,
    trailing: u8,
}

/// A chunk to which nothing more comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Its oldest sample's time.
    pub first: i64,
    /// Its newest sample's time.
    pub last: i64,
    /// Its bytes, as blocks hold them.
    pub data: Box<[u8]>,
}

/// The bytes of a chunk end before its samples do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// No window of bits was written yet.
const NO_WINDOW: u8 = 0xff;
/// Bytes by which the memory of a chunk grows.
const GROWTH: usize = 48;
/// Samples that a chunk can count.
const COUNT_MAX: usize = u16::MAX as usize;

impl Chunk {
    /// A chunk with its first sample.
    pub fn new(first: Sample) -> Chunk {
        let mut bits = Bits { bytes: Vec::with_capacity(32), free: 0 };
        bits.bytes.extend_from_slice(&[0, 1]);
        bits.varint(first.at);
        bits.put(first.value.to_bits(), 64);
        let first_at = first.at;
        Chunk { bits, last: first, first_at, distance: 0, leading: NO_WINDOW, trailing: 0 }
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bits.bytes[0], self.bits.bytes[1]]))
    }

    /// Never: a chunk is made with a sample.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its oldest sample's time.
    pub fn first_at(&self) -> i64 {
        self.first_at
    }

    /// Its newest sample.
    pub fn last(&self) -> Sample {
        self.last
    }

    /// Its bytes.
    pub fn data(&self) -> &[u8] {
        &self.bits.bytes
    }

    /// Bytes of memory that its bytes take.
    pub fn capacity(&self) -> usize {
        self.bits.bytes.capacity()
    }

    /// Nothing more will come: gives memory back.
    pub fn seal(self) -> Sealed {
        let (first, last) = (self.first_at, self.last.at);
        Sealed { first, last, data: self.bits.bytes.into_boxed_slice() }
    }

    /// Appends a sample later than the last. A chunk counts no more than 65,535.
    pub fn push(&mut self, sample: Sample) {
        debug_assert!(sample.at > self.last.at && self.len() < COUNT_MAX);
        let count = self.len() as u16;
        let distance = sample.at.wrapping_sub(self.last.at);
        if count == 1 {
            self.bits.uvarint(distance as u64);
        } else {
            self.time(distance.wrapping_sub(self.distance));
        }
        self.value(sample.value);
        self.distance = distance;
        self.last = sample;
        self.bits.bytes[..2].copy_from_slice(&(count + 1).to_be_bytes());
    }

    fn time(&mut self, change: i64) {
        let fits = |bits: u32| (-(1i64 << (bits - 1)) + 1..=1i64 << (bits - 1)).contains(&change);
        match change {
            0 => self.bits.put(0, 1),
            _ if fits(14) => {
                self.bits.put(0b10, 2);
                self.bits.put(change as u64, 14);
            }
            _ if fits(17) => {
                self.bits.put(0b110, 3);
                self.bits.put(change as u64, 17);
            }
            _ if fits(20) => {
                self.bits.put(0b1110, 4);
                self.bits.put(change as u64, 20);
            }
            _ => {
                self.bits.put(0b1111, 4);
                self.bits.put(change as u64, 64);
            }
        }
    }

    fn value(&mut self, value: f64) {
        let differs = value.to_bits() ^ self.last.value.to_bits();
        if differs == 0 {
            self.bits.put(0, 1);
            return;
        }
        // Five bits tell how many zeros lead.
        let leading = (differs.leading_zeros() as u8).min(31);
        let trailing = differs.trailing_zeros() as u8;
        let fits =
            self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing;
        if fits {
            self.bits.put(0b10, 2);
            let width = 64 - self.leading - self.trailing;
            self.bits.put(differs >> self.trailing, u32::from(width));
            return;
        }
        (self.leading, self.trailing) = (leading, trailing);
        let width = 64 - leading - trailing;
        // 64 is written as 0: a width of 0 cannot be.
        let window = u64::from(leading) << 6 | u64::from(width) & 63;
        self.bits.put(0b11 << 11 | window, 13);
        self.bits.put(differs >> trailing, u32::from(width));
    }

    /// Its samples, in order.
    pub fn samples(&self) -> Result<Vec<Sample>, Corrupt> {
        samples(self.data())
    }
}

/// Samples that the bytes of a chunk say they hold.
pub fn count(data: &[u8]) -> usize {
    data.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)))
}

/// The samples of a chunk's bytes.
pub fn samples(data: &[u8]) -> Result<Vec<Sample>, Corrupt> {
    // A sample takes two bits at least.
    let mut all = Vec::with_capacity(count(data).min(data.len() * 4));
    each(data, |sample| all.push(sample))?;
    Ok(all)
}

/// Hands out the samples of a chunk's bytes, in the order in which they went in.
pub fn each(data: &[u8], mut take: impl FnMut(Sample)) -> Result<(), Corrupt> {
    let count = count(data);
    if count == 0 {
        return if data.len() < 2 { Err(Corrupt) } else { Ok(()) };
    }
    let mut read = Reader { bytes: data, at: 16 };
    let at = read.varint()?;
    let mut sample = Sample { at, value: f64::from_bits(read.get(64)?) };
    take(sample);
    let (mut distance, mut leading, mut trailing) = (0i64, 0u8, 0u8);
    for number in 1..count {
        distance = if number == 1 {
            read.uvarint()? as i64
        } else {
            distance.wrapping_add(read.change()?)
        };
        sample.at = sample.at.wrapping_add(distance);
        if read.get(1)? == 1 {
            if read.get(1)? == 1 {
                let window = read.get(11)?;
                leading = (window >> 6) as u8;
                let width = match window as u8 & 63 {
                    0 => 64,
                    width => width,
                };
                trailing = 64u8.checked_sub(leading + width).ok_or(Corrupt)?;
            }
            let width = u32::from(64 - leading - trailing);
            let differs = read.get(width)? << trailing;
            sample.value = f64::from_bits(sample.value.to_bits() ^ differs);
        }
        take(sample);
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not used.
    free: u8,
}

impl Bits {
    /// The lower `count` bits, the highest first; one at least.
    fn put(&mut self, value: u64, count: u32) {
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

    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    fn varint(&mut self, value: i64) {
        self.uvarint(((value << 1) ^ (value >> 63)) as u64);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Reader<'_> {
    fn get(&mut self, count: u32) -> Result<u64, Corrupt> {
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
    fn uvarint(&mut self) -> Result<u64, Corrupt> {
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

    fn varint(&mut self) -> Result<i64, Corrupt> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn change(&mut self) -> Result<i64, Corrupt> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            start in -1i64 << 45..1i64 << 45,
            steps in prop::collection::vec((1i64..1 << 22, prop::num::f64::ANY), 0..200),
            steady in 0usize..50,
        ) {
            let mut sample = Sample { at: start, value: 1.5 };
            let mut all = vec![sample];
            let mut chunk = Chunk::new(sample);
            let quiet = std::iter::repeat_n((1_000, 1.5), steady);
            for (step, value) in quiet.chain(steps) {
                sample = Sample { at: sample.at + step, value };
                all.push(sample);
                chunk.push(sample);
            }
            let read = chunk.samples().expect("whole");
            prop_assert_eq!(read.len(), all.len());
            for (a, b) in read.iter().zip(&all) {
                prop_assert_eq!((a.at, a.value.to_bits()), (b.at, b.value.to_bits()));
            }
        }

        #[test]
        fn damaged_bytes_are_told_or_read_but_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 2..200)
        ) {
            let _ = samples(&bytes);
        }
    }

    #[test]
    fn a_steady_series_takes_two_bits_a_sample() {
        let mut chunk = Chunk::new(Sample { at: 0, value: 7.0 });
        for i in 1..=1_000 {
            chunk.push(Sample { at: i * 1_000, value: 7.0 });
        }
        assert!(chunk.bits.bytes.len() < 270, "{}", chunk.bits.bytes.len());
    }
}
