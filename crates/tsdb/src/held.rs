//! Chunks of the head, in memory or in files, and what is read of them.

use crate::block::bytes::Fault;
use crate::chunk::{Sealed, each};
use crate::chunk_file::{self, Record};
use crate::head::Head;
use crate::late::merged;
use crate::native::{self, Coded};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};
use synod_promql::{Labels, Matcher, Sample, Series};

/// Series whose chunks are copied for a query under one lock.
const COPY: usize = 256;

/// A chunk of the head, in order, to which nothing more comes.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub first: i64,
    pub last: i64,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Memory(Arc<[u8]>),
    /// Where its record is.
    File {
        file: Arc<File>,
        at: u32,
        len: u32,
    },
}

impl Held {
    /// In memory.
    pub fn new(first: i64, last: i64, data: &[u8]) -> Held {
        Held { first, last, data: Data::Memory(data.into()) }
    }

    /// In a file, of which these are where its record begins and how long that is.
    pub fn in_file(first: i64, last: i64, file: &Arc<File>, (at, len): (u32, u32)) -> Held {
        Held { first, last, data: Data::File { file: file.clone(), at, len } }
    }

    /// Whether this is its last sample. One that cannot be read is another.
    pub fn ends_with(&self, sample: Sample) -> bool {
        let (mut buffer, mut last) = (Vec::new(), None);
        let bytes = self.bytes(&mut buffer);
        let read = bytes.is_ok_and(|bytes| each(bytes, |sample| last = Some(sample)).is_ok());
        let same = |l: Sample| l.at == sample.at && l.value.to_bits() == sample.value.to_bits();
        read && last.is_some_and(same)
    }

    /// Bytes of memory that its bytes take.
    pub fn memory(&self) -> usize {
        match &self.data {
            Data::Memory(bytes) => bytes.len(),
            Data::File { .. } => 0,
        }
    }

    /// Its bytes, read into the buffer if they are in a file.
    pub fn bytes<'a>(&'a self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        match &self.data {
            Data::Memory(bytes) => Ok(bytes),
            Data::File { file, at, len } => {
                buffer.resize(*len as usize, 0);
                file.read_exact_at(buffer, u64::from(*at))?;
                match chunk_file::read(buffer) {
                    Some(Record::Chunk { data, .. } | Record::Aside { data }) => Ok(&buffer[data]),
                    _ => Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a chunk of the head in a file is damaged",
                    )),
                }
            }
        }
    }
}

impl From<Sealed> for Held {
    fn from(sealed: Sealed) -> Held {
        Held::new(sealed.first, sealed.last, &sealed.data)
    }
}

/// What a series has, copied so that it can be read without the head's lock.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub chunks: Vec<Held>,
    pub late: Vec<Sample>,
    pub native: Vec<Coded>,
}

impl Copied {
    /// The samples of both kinds in `from..=to`, under no labels.
    pub fn series(mut self, from: i64, to: i64) -> Result<Series, Fault> {
        let native = std::mem::take(&mut self.native);
        let mut series = Series::new(Labels::default(), self.samples(from, to)?);
        let mut buffer = Vec::new();
        for (kind, held) in &native {
            let chunk = [(*kind, held.bytes(&mut buffer)?)];
            let (histograms, numbers) = (&mut series.histograms, &mut series.samples);
            let read = native::read(&chunk, (from, to), histograms, numbers);
            read.map_err(|_| Fault::Damaged("a chunk of histograms is damaged".into()))?;
        }
        Ok(series)
    }

    /// The samples in `from..=to`.
    pub fn samples(mut self, from: i64, to: i64) -> Result<Vec<Sample>, Fault> {
        let (mut samples, mut buffer) = (Vec::new(), Vec::new());
        for chunk in &self.chunks {
            let read = each(chunk.bytes(&mut buffer)?, |sample| {
                if (from..=to).contains(&sample.at) {
                    samples.push(sample);
                }
            });
            read.map_err(|_| Fault::Damaged("a chunk of the head is damaged".into()))?;
        }
        if self.late.is_empty() {
            return Ok(samples);
        }
        samples.append(&mut self.late);
        Ok(merged(samples))
    }
}

/// The series that all matchers take, with their samples in `from..=to`, of which there may
/// be `most`. The head is locked for moments only.
pub fn select(
    head: &RwLock<Head>,
    matchers: &[Matcher],
    from: i64,
    to: i64,
    most: usize,
) -> Result<Vec<Series>, Fault> {
    let locked = || head.read().unwrap_or_else(PoisonError::into_inner);
    let (ids, mut count, mut found) = (locked().ids(matchers), 0, Vec::new());
    for some in ids.chunks(COPY) {
        let mut copies = Vec::with_capacity(some.len());
        let head = locked();
        for id in some {
            let (Some(copied), Some(labels)) = (head.copy(*id, from, to)?, head.labels(*id)) else {
                continue;
            };
            copies.push((labels, copied));
        }
        drop(head);
        for (labels, copied) in copies {
            let series = copied.series(from, to)?;
            count += series.weight();
            if count > most {
                return Err(Fault::TooMany);
            }
            if !series.is_empty() {
                found.push(Series { labels, ..series });
            }
        }
    }
    Ok(found)
}
