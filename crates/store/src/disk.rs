//! The store on disk: which generation counts, and staging the next one.
//!
//! **Folder**: `LOCK` (held while open), `CURRENT` (number of the generation
//! that counts), `generation-N/`. Generations that do not count are removed
//! at opening: they are staging that was broken off, or were superseded.

use crate::generation::{Generation, Workers, at, folder};
use crate::options::DiskOptions;
use crate::pace::{self, Pace};
use crate::view::DiskView;
use bytes::Bytes;
use lsm_tree::AbstractTree;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_mvcc::{Backlog, Batch, Space, Store, StoreError, StoreSize, Syncer};

const CURRENT: &str = "CURRENT";

/// See the file's header.
pub struct DiskStore {
    // Ahead of the generation: its threads end before it does.
    workers: Workers,
    generation: Arc<Generation>,
    staged: Option<(Workers, Arc<Generation>)>,
    pace: Pace,
    /// How long commits waited.
    slowed_us: u64,
    root: PathBuf,
    options: DiskOptions,
    _lock: File,
}

impl DiskStore {
    /// Opens the store in folder `root`, or makes it.
    pub fn open(root: impl AsRef<Path>, options: DiskOptions) -> Result<DiskStore, StoreError> {
        let root = root.as_ref().to_path_buf();
        fs::create_dir_all(&root).map_err(|e| at("making the folder", &root, &e))?;
        let lock = lock(&root)?;
        let number = match current(&root)? {
            Some(number) => number,
            None => {
                set_current(&root, 1)?;
                1
            }
        };
        remove_others(&root, number)?;
        let generation = Generation::open(&root, number, &options)?;
        let workers = Workers::start(&generation)?;
        let (staged, pace) = (None, Pace::default());
        let slowed_us = 0;
        Ok(DiskStore { workers, generation, staged, pace, slowed_us, root, options, _lock: lock })
    }
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("LOCK");
    let file = File::create(&path).map_err(|e| at("making the lock file", root, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError {
            what: format!("{} is in use by another process", root.display()),
            remedy: "stop the other process or choose another data folder",
        }),
        Err(TryLockError::Error(e)) => Err(at("locking", root, &e)),
    }
}

fn current(root: &Path) -> Result<Option<u64>, StoreError> {
    let path = root.join(CURRENT);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim().parse();
            let bad = |_| StoreError::corrupt(format!("{} holds no number", path.display()));
            number.map(Some).map_err(bad)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("reading CURRENT", root, &e)),
    }
}

/// Names the generation that counts, durably and at once.
fn set_current(root: &Path, number: u64) -> Result<(), StoreError> {
    let written = || -> std::io::Result<()> {
        let new = root.join("CURRENT.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&new, root.join(CURRENT))?;
        File::open(root)?.sync_all()
    };
    written().map_err(|e| at("writing CURRENT", root, &e))
}

fn remove_others(root: &Path, number: u64) -> Result<(), StoreError> {
    let keep = folder(root, number);
    let removed = || -> std::io::Result<()> {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("generation-") && path != keep {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    };
    removed().map_err(|e| at("removing an old generation", root, &e))
}

fn no_staging() -> StoreError {
    StoreError::io("a snapshot is being installed, but no staging area was begun")
}

impl Store for DiskStore {
    type View = DiskView;

    fn view(&self) -> DiskView {
        DiskView::pin(&self.generation)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.generation.check()?;
        let (bytes, sealed) = self.generation.insert(batch);
        if sealed {
            self.workers.wake();
            self.generation.wait_for_flush()?;
        }
        let (runs, sealed) = self.generation.backlog();
        let wait = self.pace.wait(bytes, runs, sealed);
        if !wait.is_zero() {
            std::thread::sleep(wait);
            self.slowed_us += wait.as_micros() as u64;
        }
        Ok(())
    }

    fn syncer(&self) -> Syncer {
        self.generation.seal();
        let generation = Arc::clone(&self.generation);
        let waker = self.workers.waker();
        Box::new(move || {
            generation.flush()?;
            if let Some(waker) = waker.upgrade() {
                // The flusher finds nothing to do and passes it on to the compactor.
                let _ = waker.try_send(());
            }
            generation.check()
        })
    }

    fn size(&self) -> StoreSize {
        let tree = &self.generation.tree;
        let cache = tree.tree_config().cache.size();
        let memtables = self.generation.memtables();
        let memtables =
            memtables.sealed.iter().chain([&memtables.active]).map(|m| m.bytes()).sum::<u64>();
        let (runs, sealed) = self.generation.backlog();
        let (runs, buffers, slowed_us) = (runs as u64, sealed as u64, self.slowed_us);
        let backlog = Backlog { runs, buffers, slowed_us };
        StoreSize { on_disk: tree.disk_space(), in_memory: cache + memtables, backlog }
    }

    fn is_behind(&self) -> bool {
        let (runs, sealed) = self.generation.backlog();
        pace::is_behind(runs, sealed)
    }

    fn stage_begin(&mut self) -> Result<(), StoreError> {
        self.stage_abort()?;
        let number = self.generation.number + 1;
        let path = folder(&self.root, number);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|e| at("clearing the staging area", &path, &e))?;
        }
        let staged = Generation::open(&self.root, number, &self.options)?;
        self.staged = Some((Workers::start(&staged)?, staged));
        Ok(())
    }

    fn stage_put(&mut self, pairs: Vec<(Space, Bytes, Bytes)>) -> Result<(), StoreError> {
        let (workers, staged) = self.staged.as_ref().ok_or_else(no_staging)?;
        staged.check()?;
        let mut batch = Batch::default();
        for (space, key, value) in pairs {
            batch.put(space, key, value);
        }
        if staged.insert(batch).1 {
            workers.wake();
            staged.wait_for_flush()?;
        }
        Ok(())
    }

    fn stage_swap(&mut self) -> Result<(), StoreError> {
        let (workers, staged) = self.staged.take().ok_or_else(no_staging)?;
        staged.seal();
        staged.flush()?;
        staged.check()?;
        set_current(&self.root, staged.number)?;
        self.workers = workers;
        self.generation.retire();
        self.generation = staged;
        Ok(())
    }

    fn stage_abort(&mut self) -> Result<(), StoreError> {
        if let Some((workers, staged)) = self.staged.take() {
            drop(workers);
            staged.retire();
        }
        Ok(())
    }
}
