//! Where replicas write: nowhere (a write is durable at once), or the same
//! plain journal for every core.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use synod_base::crc32c;

/// One replica's journal. Records gather until [`Journal::sync`]: what came in
/// one turn is one write and one fdatasync.
#[derive(Clone)]
pub struct Journal(Option<Rc<RefCell<Open>>>);

struct Open {
    file: File,
    waiting: Vec<u8>,
    must_sync: bool,
}

impl Journal {
    /// Keeps nothing.
    pub fn memory() -> Journal {
        Journal(None)
    }

    /// A new file.
    pub fn file(path: &Path) -> io::Result<Journal> {
        let file = File::create(path)?;
        Ok(Journal(Some(Rc::new(RefCell::new(Open {
            file,
            waiting: Vec::new(),
            must_sync: false,
        })))))
    }

    /// Appends what `encode` writes, with its length and checksum. Without
    /// `must_sync` it is a hint that the next sync takes along.
    pub fn append(&self, must_sync: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(open) = &self.0 else { return };
        let open = &mut *open.borrow_mut();
        let at = open.waiting.len();
        open.waiting.extend_from_slice(&[0; 8]);
        encode(&mut open.waiting);
        let length = (open.waiting.len() - at - 8) as u32;
        let sum = crc32c(&open.waiting[at + 8..]);
        open.waiting[at..at + 4].copy_from_slice(&length.to_le_bytes());
        open.waiting[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        open.must_sync |= must_sync;
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> io::Result<()> {
        let Some(open) = &self.0 else { return Ok(()) };
        let open = &mut *open.borrow_mut();
        if open.must_sync {
            open.file.write_all(&open.waiting)?;
            open.file.sync_data()?;
            open.waiting.clear();
            open.must_sync = false;
        }
        Ok(())
    }
}
