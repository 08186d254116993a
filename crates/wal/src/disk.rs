//! The few things that a journal asks of a directory.

use crate::sectors::SECTOR;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// One directory of a disk. The host binds it to real files, tests to memory.
pub trait Disk: Send {
    /// Names of the files in it.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// All bytes of a file.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    /// How many bytes a file has.
    fn len(&mut self, name: &str) -> io::Result<u64>;
    /// A new file of `len` bytes, every one of them written (zeros) and
    /// durable, so that later overwrites change no metadata.
    fn create(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Overwrites bytes within a file.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written to a file durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Renames, durably (the directory is synced too).
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes, durably.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A disk in memory that can lose what was not synced.
#[derive(Clone, Default, Debug)]
pub struct MemDisk {
    files: BTreeMap<String, MemFile>,
}

#[derive(Clone, Default, Debug)]
struct MemFile {
    /// What is read: the page cache.
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
    /// The durable bytes were damaged behind the cache's back.
    damaged: bool,
}

impl MemFile {
    fn refresh(&mut self) {
        if std::mem::take(&mut self.damaged) {
            self.now.clone_from(&self.durable);
        }
    }

    fn write_out(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.now.len());
        if let (Some(to), Some(from)) = (self.durable.get_mut(from..to), self.now.get(from..to)) {
            to.copy_from_slice(from);
        }
    }
}

impl MemDisk {
    /// What a crash leaves: durable bytes, plus those unsynced sectors for which
    /// `keep(file, sector)` says that they reached the disk.
    pub fn crash(&mut self, mut keep: impl FnMut(&str, usize) -> bool) {
        for (name, file) in &mut self.files {
            // A sector is written whole or not at all.
            for sector in std::mem::take(&mut file.dirty) {
                if keep(name, sector) {
                    file.write_out(sector);
                }
            }
            file.now.clone_from(&file.durable);
        }
    }

    /// A sync that fails, as Linux's do: what was to be written counts as clean. It is still
    /// read as it was written, no later sync writes it, and a loss of power takes it.
    pub fn fail_sync(&mut self, name: &str) {
        if let Some(f) = self.files.get_mut(name) {
            f.dirty.clear();
        }
    }

    /// The bytes of a file, to look at or to damage.
    pub fn bytes_mut(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        let f = self.files.get_mut(name)?;
        f.refresh();
        f.dirty.clear();
        f.durable.clone_from(&f.now);
        f.damaged = true;
        Some(&mut f.durable)
    }

    /// Puts bytes where nobody asked for them, as far as they fit: durable at once.
    pub fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) {
        let Some(f) = self.files.get_mut(name) else { return };
        for copy in [&mut f.now, &mut f.durable] {
            let place = copy.get_mut(offset as usize..);
            place.into_iter().flatten().zip(bytes).for_each(|(to, from)| *to = *from);
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut MemFile> {
        let f = self.files.get_mut(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        f.refresh();
        Ok(f)
    }
}

impl Disk for MemDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.file(name)?.now.clone())
    }

    fn len(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.durable.len() as u64)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let zeros = vec![0; len as usize];
        let file = MemFile { now: zeros.clone(), durable: zeros, ..MemFile::default() };
        self.files.insert(name.to_owned(), file);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let f = self.file(name)?;
        let at = offset as usize;
        let Some(place) = f.now.get_mut(at..at + bytes.len()) else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        };
        place.copy_from_slice(bytes);
        f.dirty.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let f = self.file(name)?;
        for sector in std::mem::take(&mut f.dirty) {
            f.write_out(sector);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let f = self.files.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.files.insert(to.to_owned(), f);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.remove(name);
        Ok(())
    }
}
