//! A directory that can lose power in the midst of a write, fail, fill up and
//! rot.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use synod_base::Rng;
use synod_wal::{Disk, MemDisk, SECTOR};

/// Shared by a process and the machine that outlives it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: MemDisk,
    /// Operations until the power goes.
    fuse: Option<u64>,
    full: bool,
    fails: Option<Failing>,
    /// Where the next write of a segment goes instead.
    astray: Option<u64>,
    /// What went astray, while nothing was written behind where it should be.
    missing: Option<Missing>,
}

/// What a disk says no to, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failing {
    /// The next write or sync, whichever comes first.
    Any,
    /// The next sync. What it was to write is read as written, and never will be.
    Sync,
}

struct Missing {
    file: String,
    offset: u64,
    bytes: Vec<u8>,
}

impl SimDisk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the `n`-th operation on nothing happens any more.
    pub fn cut_power_after(&self, n: u64) {
        self.inner().fuse = Some(n);
    }

    /// What a loss of power leaves; each unsynced sector survives or not.
    pub fn lose_power(&self, rng: &mut Rng) {
        let mut inner = self.inner();
        let share = rng.between(1, 4);
        inner.files.crash(|_, _| rng.below(4) < share);
        inner.fuse = None;
        inner.fails = None;
    }

    /// Whether new files can be made.
    pub fn set_full(&self, full: bool) {
        self.inner().full = full;
    }

    /// The next of these operations fails.
    pub fn fail_next(&self, what: Failing) {
        self.inner().fails = Some(what);
    }

    /// The next write of a segment goes to another place, and the disk says that all is well.
    pub fn lead_astray(&self, place: u64) {
        self.inner().astray = Some(place);
    }

    /// A process begins. What went astray and should be the journal's very end is there, as
    /// if it had been written twice: without it no journal could know.
    pub fn settle(&self) {
        let mut inner = self.inner();
        inner.astray = None;
        if let Some(missing) = inner.missing.take() {
            inner.files.overwrite(&missing.file, missing.offset, &missing.bytes);
        }
    }

    /// Flips a bit in one of the segments, or loses the end or all of one, as a file system
    /// may that a crash left damaged; says what.
    pub fn damage(&self, place: u64) -> Option<String> {
        let mut inner = self.inner();
        let mut names = inner.files.list().ok()?;
        names.retain(|n| n.ends_with(".seg"));
        names.sort();
        let name = names.get(place as usize % names.len().max(1))?.clone();
        let bytes = inner.files.bytes_mut(&name)?;
        let at = (place >> 16) as usize % (bytes.len() * 8).max(1);
        match place >> 61 {
            _ if bytes.is_empty() => {}
            0 => {
                inner.files.remove(&name).ok()?;
                return Some(format!("{name} is gone"));
            }
            1 => {
                bytes.truncate(at / 8 % 3 * (at / 16));
                return Some(format!("{name} ends after {} bytes", bytes.len()));
            }
            2 => {
                bytes.fill(0);
                return Some(format!("{name} is full of zeros"));
            }
            _ => bytes[at / 8] ^= 1 << (at % 8),
        }
        Some(format!("a bit of {name} flips"))
    }
}

impl Inner {
    /// Writes at a sector where nobody wants it.
    fn go_astray(&mut self, file: &str, offset: u64, bytes: &[u8], place: u64) -> io::Result<()> {
        let mut names = self.files.list()?;
        names.retain(|n| n.ends_with(".seg"));
        names.sort();
        let victim = names[place as usize % names.len()].clone();
        let sectors = self.files.read(&victim)?.len() as u64 / SECTOR as u64;
        let at = (place >> 16) % sectors.max(1) * SECTOR as u64;
        let missing = Missing { file: file.to_owned(), offset, bytes: bytes.to_vec() };
        self.files.overwrite(&victim, at, bytes);
        self.missing = Some(missing);
        Ok(())
    }

    fn use_power(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn may_write(&mut self) -> io::Result<()> {
        self.use_power()?;
        self.fail_if(self.fails == Some(Failing::Any))
    }

    fn fail_if(&mut self, fails: bool) -> io::Result<()> {
        if !fails {
            return Ok(());
        }
        self.fails = None;
        Err(io::Error::other("the disk reports an error"))
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        self.inner().files.list()
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.inner().files.read(name)
    }

    fn len(&mut self, name: &str) -> io::Result<u64> {
        self.inner().files.len(name)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.may_write()?;
        if inner.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.files.create(name, len)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.may_write()?;
        if name.ends_with(".seg") {
            // What comes behind it shows that it is missing; what covers it, heals it.
            inner.missing = None;
            if let Some(place) = inner.astray.take() {
                return inner.go_astray(name, offset, bytes, place);
            }
        }
        inner.files.write_at(name, offset, bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.use_power()?;
        let fails = inner.fails.is_some();
        if fails {
            inner.files.fail_sync(name);
        }
        inner.fail_if(fails)?;
        inner.files.sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.may_write()?;
        inner.files.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.may_write()?;
        inner.files.remove(name)
    }
}
