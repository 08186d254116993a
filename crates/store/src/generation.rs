//! One tree in one folder, with the threads that flush and compact it.
//!
//! **Invariants**
//! - Only the writer inserts and seals; flushing and compacting may happen anywhere.
//! - A memtable leaves the list after its tables are in the tree: whoever takes the
//!   list first and a sequence number after it misses nothing.
//! - Nothing that a pinned sequence number can see is dropped.
//! - The threads end, and are waited for, with their [`Workers`].

use crate::memtable::Memtable;
use crate::options::{DiskOptions, TABLE_BYTES};
use crate::pace::SEALED_MAX;
use bytes::Bytes;
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, InternalValue, SeqNo, SequenceNumberCounter, ValueType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_mvcc::{Batch, Space, StoreError};

/// How much flushing and compaction yield to what clients wait for (Unix niceness). Not
/// more: on a machine without a processor to spare they would fall behind, and clients wait
/// for that in the end.
const WORKERS_NICE: i32 = 5;
/// How long a flush keeps a flushed memtable, so that it and not the writer's
/// thread frees it: until the views that show it are replaced, but no longer.
const FREE_WITHIN: Duration = Duration::from_millis(50);
/// Runs in level 0 from which they are merged into level 1.
const L0_RUNS: u8 = 4;

/// Which sequence numbers views still read at.
#[derive(Default)]
pub(crate) struct Pins(Mutex<BTreeMap<SeqNo, usize>>);

impl Pins {
    pub(crate) fn add(&self, seqno: SeqNo) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(seqno).or_default() += 1;
    }

    pub(crate) fn remove(&self, seqno: SeqNo) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = pins.get_mut(&seqno) {
            *n -= 1;
            if *n == 0 {
                pins.remove(&seqno);
            }
        }
    }

    fn all(&self) -> Vec<SeqNo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn lowest(&self) -> Option<SeqNo> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.first_key_value().map(|(seqno, _)| *seqno)
    }
}

/// What is not in tables yet.
#[derive(Clone, Default)]
pub(crate) struct Memtables {
    pub(crate) active: Arc<Memtable>,
    /// Oldest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
}

/// See the file's header.
pub(crate) struct Generation {
    pub(crate) tree: AnyTree,
    memtables: Mutex<Arc<Memtables>>,
    pub(crate) pins: Pins,
    pub(crate) number: u64,
    path: PathBuf,
    seqno: SequenceNumberCounter,
    memtable_bytes: u64,
    /// Why flushing failed, once it has: commits then fail too.
    failed: Mutex<Option<StoreError>>,
    /// Set when this content is superseded: the folder goes with the last view.
    obsolete: AtomicBool,
}

impl Generation {
    pub(crate) fn open(
        root: &Path,
        number: u64,
        options: &DiskOptions,
    ) -> Result<Arc<Generation>, StoreError> {
        let path = folder(root, number);
        let seqno = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        let config = options.config(&path, seqno.clone(), visible.clone());
        let tree = config.open().map_err(|e| of_tree("opening the tree", &path, e))?;
        // 0 is the sequence number of the first version of an opened tree;
        // views must be above it.
        let next = tree.get_highest_persisted_seqno().map_or(1, |seqno| seqno + 1);
        seqno.set(next);
        visible.set(next);
        Ok(Arc::new(Generation {
            tree,
            memtables: Mutex::default(),
            pins: Pins::default(),
            number,
            path,
            seqno,
            memtable_bytes: options.memtable_bytes,
            failed: Mutex::default(),
            obsolete: AtomicBool::new(false),
        }))
    }

    /// The sequence number at which everything inserted so far is visible.
    /// Only the writer may ask, between batches.
    pub(crate) fn now(&self) -> SeqNo {
        self.seqno.get()
    }

    /// Nothing that is visible at or above this number may be dropped.
    fn watermark(&self) -> SeqNo {
        self.pins.lowest().unwrap_or_else(|| self.seqno.get()).saturating_sub(1)
    }

    /// Inserts a batch; then seals the memtable if it is full. Gives the bytes that it
    /// took, and whether it was sealed.
    pub(crate) fn insert(&self, batch: Batch) -> (u64, bool) {
        let memtables = self.memtables();
        let before = memtables.active.bytes();
        memtables.active.insert(batch, self.seqno.next(), &self.pins.all());
        let bytes = memtables.active.bytes();
        (bytes.saturating_sub(before), bytes >= self.memtable_bytes && self.seal())
    }

    /// What is not in tables yet.
    pub(crate) fn memtables(&self) -> Arc<Memtables> {
        Arc::clone(&self.memtables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_memtables(&self, change: impl FnOnce(&mut Memtables)) {
        let mut memtables = self.memtables.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut memtables));
    }

    /// Seals the memtable, so that a flush takes everything inserted so far. Says
    /// whether there was anything.
    pub(crate) fn seal(&self) -> bool {
        let any = !self.memtables().active.is_empty();
        if any {
            self.change_memtables(|m| m.sealed.push(std::mem::take(&mut m.active)));
        }
        any
    }

    /// Flushes what is sealed. Once this has returned, all that was sealed
    /// before the call is durable.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.tree.get_flush_lock();
        // Not what is sealed meanwhile: under load that would never end.
        let sealed = self.memtables().sealed.clone();
        for oldest in sealed {
            let flushed = self.flush_one(&oldest);
            flushed.map_err(|e| self.fail(of_tree("flushing", &self.path, e)))?;
            self.change_memtables(|m| drop(m.sealed.remove(0)));
            let begun = Instant::now();
            while Arc::strong_count(&oldest) > 1 && begun.elapsed() < FREE_WITHIN {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    fn flush_one(&self, memtable: &Memtable) -> lsm_tree::Result<()> {
        let tables = memtable.with_newest(|pairs| {
            let pairs = pairs.map(|(space, key, seqno, value)| {
                let key = prefixed(space, key);
                Ok(match value.clone() {
                    Some(v) => InternalValue::from_components(key, v, seqno, ValueType::Value),
                    None => InternalValue::new_tombstone(key, seqno),
                })
            });
            self.tree.flush_to_tables(pairs)
        })?;
        match tables {
            Some((tables, _)) => {
                self.tree.register_tables(&tables, None, None, &[], self.watermark())
            }
            None => Ok(()),
        }
    }

    /// Compacts until there is nothing to do.
    fn compact(&self, stop: &AtomicBool) -> Result<(), StoreError> {
        let strategy =
            Leveled::default().with_l0_threshold(L0_RUNS).with_table_target_size(TABLE_BYTES);
        let strategy = Arc::new(strategy);
        while !stop.load(Ordering::Relaxed) {
            let before = self.tree.current_version().id();
            let done = self.tree.compact(strategy.clone(), self.watermark());
            done.map_err(|e| self.fail(of_tree("compacting", &self.path, e)))?;
            if self.tree.current_version().id() == before {
                break;
            }
        }
        Ok(())
    }

    fn fail(&self, error: StoreError) -> StoreError {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| error.clone());
        error
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits while too many memtables are sealed: the bound on memory.
    pub(crate) fn wait_for_flush(&self) -> Result<(), StoreError> {
        while self.memtables().sealed.len() > SEALED_MAX {
            self.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Runs in level 0, and sealed memtables: what workers have before them.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        (self.tree.l0_run_count(), self.memtables().sealed.len())
    }

    /// Removes the folder once nobody reads it any more.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Relaxed);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Relaxed) {
            // What cannot be removed now is removed at the next opening.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The folder of a generation.
pub(crate) fn folder(root: &Path, number: u64) -> PathBuf {
    root.join(format!("generation-{number}"))
}

/// A key as it is in the tree.
pub(crate) fn prefixed(space: Space, key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(space as u8);
    out.extend_from_slice(key);
    out.into()
}

/// What the tree says, told apart: the system refuses, or what it gave is damaged.
pub(crate) fn of_tree(what: &str, path: &Path, error: lsm_tree::Error) -> StoreError {
    match error {
        lsm_tree::Error::Io(e) => at(what, path, &e),
        other => {
            StoreError::corrupt(format!("{what} in {} failed: {}", path.display(), damage(&other)))
        }
    }
}

/// What is damaged, in words.
pub(crate) fn damage(error: &lsm_tree::Error) -> String {
    match error {
        lsm_tree::Error::ChecksumMismatch { .. } => "a checksum does not match".into(),
        lsm_tree::Error::Decompress(_) => "a block cannot be decompressed".into(),
        other => other.to_string(),
    }
}

/// An error with what was done and where.
pub(crate) fn at(what: &str, path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::io(format!("{what} in {} failed: {error}", path.display()))
}

/// The threads of a generation: one flushes, one compacts, so that a long
/// compaction does not hold up flushing.
pub(crate) struct Workers {
    /// `None` once they are to end: the only strong reference is here.
    wake: Option<Arc<SyncSender<()>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(crate) fn start(generation: &Arc<Generation>) -> Result<Workers, StoreError> {
        let (wake, sealed) = sync_channel(1);
        let (flushed, compact) = sync_channel(1);
        // Left over from the last time, perhaps.
        let _ = flushed.try_send(());
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers =
            Workers { wake: Some(Arc::new(wake)), stop: Arc::clone(&stop), threads: Vec::new() };
        let shared = Arc::clone(generation);
        workers.spawn("state-flush", move || {
            // Gently: commits go on meanwhile, and wait only if this is far behind.
            let _ = rustix::process::nice(WORKERS_NICE);
            flush_loop(&shared, &sealed, &flushed);
        })?;
        let shared = Arc::clone(generation);
        workers.spawn("state-compact", move || {
            let _ = rustix::process::nice(WORKERS_NICE);
            while compact.recv().is_ok() && shared.compact(&stop).is_ok() {}
        })?;
        Ok(workers)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|e| StoreError::io(format!("starting thread {name}: {e}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Something was sealed (or flushed by somebody else).
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A full channel means that it will wake anyway.
            let _ = wake.try_send(());
        }
    }

    /// What [`Workers::wake`] does, for elsewhere. It must not keep the threads alive.
    pub(crate) fn waker(&self) -> Weak<SyncSender<()>> {
        self.wake.as_ref().map(Arc::downgrade).unwrap_or_default()
    }
}

fn flush_loop(generation: &Generation, sealed: &Receiver<()>, flushed: &SyncSender<()>) {
    while sealed.recv().is_ok() && generation.flush().is_ok() {
        let _ = flushed.try_send(());
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake = None;
        for thread in self.threads.drain(..) {
            // A panic there was a failed flush; `check` has told.
            let _ = thread.join();
        }
    }
}
