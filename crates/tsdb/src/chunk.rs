//! A run of samples in few bits: times as the change of their distance, values as what
//! differs in their bits (Pelkonen et al., "Gorilla", VLDB'15, section 4.1; the codes are
//! those of Prometheus's XOR chunks, so that blocks take chunks as they are).

use crate::bits::{Bits, Reader, Window};
use synod_promql::Sample;

/// A chunk that is appended to. The first two bytes of its data count the samples; they are
/// written when somebody asks for the data, since they are far from where samples go.
#[derive(Clone, Debug)]
pub struct Chunk {
    bits: Bits,
    last: Sample,
    first_at: i64,
    /// Between the last two.
    distance: i64,
    window: Window,
    count: u16,
    /// So many of its samples are in a file too.
    in_file: u16,
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

/// Samples that a chunk can count.
const COUNT_MAX: usize = u16::MAX as usize;

impl Chunk {
    /// A chunk with its first sample.
    pub fn new(first: Sample) -> Chunk {
        let mut bits = Bits::begin(&[0, 0]);
        bits.varint(first.at);
        bits.put(first.value.to_bits(), 64);
        let first_at = first.at;
        Chunk {
            bits,
            last: first,
            first_at,
            distance: 0,
            window: Window::NONE,
            count: 1,
            in_file: 0,
        }
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Never: a chunk is made with a sample.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// How many of its samples are in no file yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.len() - usize::from(self.in_file)
    }

    /// A file has so many samples of it, if it is the one that begins there.
    pub(crate) fn in_file(&mut self, first: i64, count: usize) {
        if self.first_at == first {
            self.in_file = count as u16;
        }
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
    pub fn data(&self) -> Vec<u8> {
        let mut bytes = self.bits.bytes.clone();
        bytes[..2].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// Bytes of memory that its bytes take.
    pub fn capacity(&self) -> usize {
        self.bits.bytes.capacity()
    }

    /// Nothing more will come: gives memory back.
    pub fn seal(mut self) -> Sealed {
        self.bits.bytes[..2].copy_from_slice(&self.count.to_be_bytes());
        let (first, last) = (self.first_at, self.last.at);
        Sealed { first, last, data: self.bits.bytes.into_boxed_slice() }
    }

    /// Appends a sample later than the last. A chunk counts no more than 65,535.
    pub fn push(&mut self, sample: Sample) {
        debug_assert!(sample.at > self.last.at && self.len() < COUNT_MAX);
        let distance = sample.at.wrapping_sub(self.last.at);
        if self.count == 1 {
            self.bits.uvarint(distance as u64);
        } else {
            self.time(distance.wrapping_sub(self.distance));
        }
        self.window.put(&mut self.bits, self.last.value, sample.value);
        self.distance = distance;
        self.last = sample;
        self.count += 1;
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

    /// Its samples, in order.
    pub fn samples(&self) -> Result<Vec<Sample>, Corrupt> {
        samples(&self.data())
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
    let mut read = Reader::at(data, 2);
    let at = read.varint()?;
    let mut sample = Sample { at, value: f64::from_bits(read.get(64)?) };
    take(sample);
    let (mut distance, mut window) = (0i64, Window::default());
    for number in 1..count {
        distance = if number == 1 {
            read.uvarint()? as i64
        } else {
            distance.wrapping_add(read.change()?)
        };
        sample.at = sample.at.wrapping_add(distance);
        sample.value = window.get(&mut read, sample.value)?;
        take(sample);
    }
    Ok(())
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
        assert!(chunk.data().len() < 270, "{}", chunk.data().len());
    }
}
