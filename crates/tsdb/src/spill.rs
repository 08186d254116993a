//! Full chunks of the head go to files instead of memory, and what is in the others goes there
//! too from time to time. A later life takes from the files what it would else take from the
//! log (`found.rs`), so that a start is quick; no crash needs them.
//!
//! **Invariants**
//! - A chunk leaves memory when its file is synced.
//! - A life writes to files of its own.
//! - The log still has all that is in the files: they may be lost or damaged at any time
//!   between two lives.

use crate::chunk_file::{BODY_MAX, MAGIC, put_chunk, put_name};
use crate::found::{Found, OldFile, file_name};
use crate::head::{Head, SeriesId};
use crate::held::Held;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use synod_promql::Labels;

/// Series that are looked at under one lock.
const LOOK: usize = 4_096;
/// A chunk that is appended to is written when so many more samples are in it.
const MORE: usize = 60;

/// See the file's header.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Which life of the folder this is.
    life: u64,
    /// By where the block begins that their chunks go into.
    files: BTreeMap<i64, SpillFile>,
    /// Those of earlier lives.
    old: Vec<OldFile>,
    found: Found,
}

#[derive(Debug)]
struct SpillFile {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    synced: bool,
    /// By slot of a series: one more than the life that is named in it.
    named: Vec<u32>,
    /// Series with chunks in it that could not be named yet.
    unnamed: Vec<SeriesId>,
}

/// Which chunk of a series.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// One of those to which nothing more comes.
    Sealed(usize),
    /// The one that is appended to, with so many samples.
    Open(usize),
}

/// A chunk that is written to a file.
struct Moving {
    id: SeriesId,
    place: Place,
    chunk: Held,
    /// Whether another life may take it.
    comes_back: bool,
}

/// Chunks that are in files now, and where in the head they belong.
type Moved = Vec<(SeriesId, Place, Held)>;

impl Spill {
    /// Finds what earlier lives left in this folder, making it if need be. A folder that
    /// cannot be read is made anew: what this life does not know no later one may find.
    pub fn open(folder: &Path) -> io::Result<Spill> {
        std::fs::create_dir_all(folder)?;
        let (found, life) = Found::read(folder).or_else(|e| {
            std::fs::remove_dir_all(folder)?;
            std::fs::create_dir_all(folder)?;
            Ok::<_, io::Error>((Found::unreadable(folder, &e), 0))
        })?;
        let folder = folder.to_owned();
        Ok(Spill { folder, life, files: BTreeMap::new(), old: Vec::new(), found })
    }

    /// What could not be read of the files of earlier lives, until a log was opened with it.
    pub fn damage(&self) -> &[String] {
        &self.found.damage
    }

    pub(crate) fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    /// The log is read. What it did not know all of must not be found again; if it could
    /// not be read, that is everything.
    pub(crate) fn keep(&mut self, found: Found, log_is_read: bool) {
        let (known, unknown) = found.into_files();
        self.old = known;
        for file in unknown {
            remove(&file.path);
        }
        if !log_is_read {
            self.forget(i64::MAX, 0);
        }
        // Else the loss of power would bring them back.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
    }

    /// Moves what it can out of memory; gives how many chunks. What cannot be written stays
    /// in memory.
    pub fn run(&mut self, head: &RwLock<Head>) -> io::Result<usize> {
        let (mut at, mut end, mut moved, mut done) = (0, 1, Vec::new(), Ok(()));
        while at < end && done.is_ok() {
            let locked = head.read().unwrap_or_else(PoisonError::into_inner);
            end = locked.slots();
            let moving = to_write(&locked, at..at + LOOK);
            let names = self.names(&locked, &moving);
            let range = locked.limits().block_range;
            drop(locked);
            done = self.put_names(names).and_then(|()| self.write(moving, range, &mut moved));
            at += LOOK;
        }
        self.sync()?;
        for some in moved.chunks(LOOK) {
            head.write().unwrap_or_else(PoisonError::into_inner).put_back(some);
        }
        let full = moved.iter().filter(|(_, place, _)| matches!(place, Place::Sealed(_)));
        done.map(|()| full.count())
    }

    /// The same for a part of a head that is brought back. Its series are named later.
    pub(crate) fn run_alone(&mut self, part: &mut Head, shard: (usize, usize)) -> io::Result<()> {
        let range = part.limits().block_range;
        for at in (0..part.slots()).step_by(LOOK) {
            let mut moving = to_write(part, at..at + LOOK);
            moving.retain(|one| matches!(one.place, Place::Sealed(_)));
            moving.iter_mut().for_each(|one| one.id = one.id.of_part(shard));
            let mut moved = Vec::new();
            let done = self.write(moving, range, &mut moved);
            moved.iter_mut().for_each(|(id, ..)| *id = id.in_part(shard));
            part.put_back(&moved);
            done?;
        }
        Ok(())
    }

    /// The series of these chunks whose names are not in their files yet, and others that
    /// had to wait.
    fn names(&mut self, head: &Head, moving: &[Moving]) -> Vec<(i64, SeriesId, Labels)> {
        let range = head.limits().block_range;
        let waiting = self.files.iter_mut().flat_map(|(begin, file)| {
            std::mem::take(&mut file.unnamed).into_iter().map(|id| (*begin, id))
        });
        let waiting: Vec<(i64, SeriesId)> = waiting.collect();
        let new = moving.iter().map(|one| (block_of(one.chunk.first, range), one.id));
        let mut all: BTreeSet<(i64, SeriesId)> = waiting.into_iter().chain(new).collect();
        all.retain(|(begin, id)| self.files.get(begin).is_none_or(|file| !file.names(*id)));
        all.into_iter().filter_map(|(begin, id)| Some((begin, id, head.labels(id)?))).collect()
    }

    fn put_names(&mut self, names: Vec<(i64, SeriesId, Labels)>) -> io::Result<()> {
        let mut by_file = BTreeMap::<i64, (Vec<u8>, Vec<SeriesId>)>::new();
        for (begin, id, labels) in names {
            let (bytes, ids) = by_file.entry(begin).or_default();
            put_name(bytes, id, &labels);
            ids.push(id);
        }
        let mut done = Ok(());
        for (begin, (bytes, ids)) in by_file {
            let file = self.file(begin)?;
            match file.append(&bytes) {
                Ok(()) => ids.iter().for_each(|id| file.set_named(*id)),
                Err(e) => {
                    file.unnamed.extend(ids);
                    done = Err(e);
                }
            }
        }
        done
    }

    fn write(&mut self, moving: Vec<Moving>, range: i64, moved: &mut Moved) -> io::Result<()> {
        let mut by_file = BTreeMap::<i64, Vec<Moving>>::new();
        for one in moving {
            by_file.entry(block_of(one.chunk.first, range)).or_default().push(one);
        }
        for (begin, moving) in by_file {
            let file = self.file(begin)?;
            let (mut bytes, mut unused) = (Vec::new(), Vec::new());
            let mut places = Vec::with_capacity(moving.len());
            for one in &moving {
                let chunk = &one.chunk;
                let data = chunk.bytes(&mut unused)?;
                // What does not fit any more stays in memory.
                if file.len + (bytes.len() + BODY_MAX) as u64 > u64::from(u32::MAX) {
                    break;
                }
                let times = (chunk.first, chunk.last);
                let record = put_chunk(&mut bytes, one.id, times, data, one.comes_back);
                places.push((file.len as u32 + record.start as u32, record.len() as u32));
            }
            file.append(&bytes)?;
            for (one, place) in moving.into_iter().zip(places) {
                if !file.names(one.id) {
                    file.unnamed.push(one.id);
                }
                let chunk = Held::in_file(one.chunk.first, one.chunk.last, &file.file, place);
                moved.push((one.id, one.place, chunk));
            }
        }
        Ok(())
    }

    fn file(&mut self, begin: i64) -> io::Result<&mut SpillFile> {
        let path = self.folder.join(file_name(begin, self.life));
        Ok(match self.files.entry(begin) {
            Occupied(known) => known.into_mut(),
            Vacant(new) => new.insert(SpillFile::create(path)?),
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        for file in self.files.values_mut().filter(|file| !file.synced) {
            file.file.sync_data()?;
            file.synced = true;
        }
        Ok(())
    }

    /// Drops the files of what is older: no head has it any more. Whoever reads one still
    /// can.
    pub fn forget(&mut self, floor: i64, range: i64) {
        let goes = |begin: i64| begin.saturating_add(range) <= floor;
        self.files.extract_if(.., |begin, _| goes(*begin)).for_each(|(_, f)| remove(&f.path));
        self.old.extract_if(.., |file| goes(file.begin)).for_each(|file| remove(&file.path));
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        let old = self.old.iter().map(|file| file.len);
        self.files.values().map(|file| file.len).chain(old).sum()
    }
}

impl SpillFile {
    fn create(path: PathBuf) -> io::Result<SpillFile> {
        let mut made = File::options();
        let file = Arc::new(made.read(true).write(true).create(true).truncate(true).open(&path)?);
        let (named, unnamed) = (Vec::new(), Vec::new());
        let mut made = SpillFile { file, path, len: 0, synced: false, named, unnamed };
        made.append(MAGIC)?;
        Ok(made)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.synced = false;
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn names(&self, id: SeriesId) -> bool {
        self.named.get(id.number() as usize).is_some_and(|life| u64::from(*life) == id.life() + 1)
    }

    fn set_named(&mut self, id: SeriesId) {
        let slot = id.number() as usize;
        if slot >= self.named.len() {
            self.named.resize(slot + 1, 0);
        }
        self.named[slot] = id.life() as u32 + 1;
    }
}

fn block_of(at: i64, range: i64) -> i64 {
    at.div_euclid(range).saturating_mul(range)
}

/// It would be in the way of nothing: what is in it is older than what a start looks for.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// What of these slots' series is in memory and goes to files.
fn to_write(head: &Head, slots: std::ops::Range<usize>) -> Vec<Moving> {
    let mut moving = Vec::new();
    head.each(slots, |id, entry| {
        // Where histograms lie between numbers, the log tells how.
        let comes_back = entry.native.is_none();
        for (place, chunk) in entry.sealed.iter().enumerate() {
            if chunk.memory() > 0 {
                let (place, chunk) = (Place::Sealed(place), chunk.clone());
                moving.push(Moving { id, place, chunk, comes_back });
            }
        }
        let open = entry.open.as_ref().filter(|open| open.unwritten() >= MORE && comes_back);
        if let Some(open) = open {
            let chunk = Held::new(open.first_at(), open.last().at, &open.data());
            moving.push(Moving { id, place: Place::Open(open.len()), chunk, comes_back });
        }
    });
    moving
}
