//! Chunks of the head to which nothing more comes, in files instead of memory. The files
//! are no copy that a crash needs (the log has all of it): they are neither synced nor read
//! again by another life.

use crate::block::bytes::Fault;
use crate::chunk::{Sealed, each};
use crate::head::{Head, SeriesId};
use crate::late::merged;
use crate::native::{self, Coded};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use synod_promql::{Labels, Matcher, Sample, Series};

/// Series that are looked at under one lock.
const LOOK: usize = 4_096;
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
    File { file: Arc<File>, at: u32, len: u32 },
}

impl Held {
    /// In memory.
    pub fn new(first: i64, last: i64, data: &[u8]) -> Held {
        Held { first, last, data: Data::Memory(data.into()) }
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
                Ok(buffer)
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

/// See the file's header.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    /// By where the block begins that their chunks go into.
    files: BTreeMap<i64, SpillFile>,
}

#[derive(Debug)]
struct SpillFile {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
}

/// A chunk that is moved to a file.
struct Moving {
    id: SeriesId,
    /// Which of the series' chunks.
    place: usize,
    chunk: Held,
}

impl Spill {
    /// Makes this folder anew: nothing in it is of use.
    pub fn open(folder: &Path) -> io::Result<Spill> {
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::create_dir_all(folder)?,
        }
        Ok(Spill { folder: folder.to_owned(), files: BTreeMap::new() })
    }

    /// Moves what it can out of memory; gives how many chunks. What cannot be written stays
    /// in memory.
    pub fn run(&mut self, head: &RwLock<Head>) -> io::Result<usize> {
        let (mut at, mut count) = (0, 0);
        loop {
            let locked = head.read().unwrap_or_else(PoisonError::into_inner);
            let (slots, range) = (locked.slots(), locked.limits().block_range);
            let moving = in_memory(&locked, at..at + LOOK);
            drop(locked);
            let moved = self.write(moving, range)?;
            count += moved.len();
            if !moved.is_empty() {
                head.write().unwrap_or_else(PoisonError::into_inner).put_back(moved);
            }
            at += LOOK;
            if at >= slots {
                return Ok(count);
            }
        }
    }

    /// The same for a head that nobody shares yet.
    pub(crate) fn run_alone(&mut self, head: &mut Head) -> io::Result<()> {
        let range = head.limits().block_range;
        for at in (0..head.slots()).step_by(LOOK) {
            let moved = self.write(in_memory(head, at..at + LOOK), range)?;
            head.put_back(moved);
        }
        Ok(())
    }

    fn write(
        &mut self,
        moving: Vec<Moving>,
        range: i64,
    ) -> io::Result<Vec<(SeriesId, usize, Held)>> {
        let mut by_file = BTreeMap::<i64, Vec<Moving>>::new();
        for one in moving {
            let begin = one.chunk.first.div_euclid(range).saturating_mul(range);
            by_file.entry(begin).or_default().push(one);
        }
        let mut moved = Vec::new();
        for (begin, moving) in by_file {
            let file = self.file(begin)?;
            let (mut bytes, mut unused) = (Vec::new(), Vec::new());
            let mut places = Vec::with_capacity(moving.len());
            for one in &moving {
                let data = one.chunk.bytes(&mut unused)?;
                let at = file.len + bytes.len() as u64;
                // What does not fit any more stays in memory.
                let Ok(at) = u32::try_from(at) else { break };
                places.push((at, data.len() as u32));
                bytes.extend_from_slice(data);
            }
            file.file.write_all_at(&bytes, file.len)?;
            file.len += bytes.len() as u64;
            for (one, (at, len)) in moving.into_iter().zip(places) {
                let data = Data::File { file: file.file.clone(), at, len };
                moved.push((one.id, one.place, Held { data, ..one.chunk }));
            }
        }
        Ok(moved)
    }

    fn file(&mut self, begin: i64) -> io::Result<&mut SpillFile> {
        let path = self.folder.join(begin.to_string());
        Ok(match self.files.entry(begin) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let mut made = File::options();
                let made = made.read(true).write(true).create(true).truncate(true);
                let file = Arc::new(made.open(&path)?);
                new.insert(SpillFile { file, path, len: 0 })
            }
        })
    }

    /// Drops the files of what is older: no head has it any more. Whoever reads one still
    /// can.
    pub fn forget(&mut self, floor: i64, range: i64) {
        self.files.retain(|begin, file| {
            let stays = begin.saturating_add(range) > floor;
            if !stays {
                // It would be in the way of nothing: the next life makes the folder anew.
                let _ = std::fs::remove_file(&file.path);
            }
            stays
        });
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.len).sum()
    }
}

fn in_memory(head: &Head, slots: std::ops::Range<usize>) -> Vec<Moving> {
    let mut moving = Vec::new();
    head.each_sealed(slots, |id, place, chunk| {
        if chunk.memory() > 0 {
            moving.push(Moving { id, place, chunk: chunk.clone() });
        }
    });
    moving
}
