//! Keeping series: the threads that write the log, and the blocks.

use crate::room::Level;
use crate::store::{Monitor, Shared, held, now_ms};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use synod_host::FileDisk;
use synod_promql::{Labels, Matcher, Series};
use synod_tsdb::{
    Batch, BlockEvent, Blocks, Exemplars, Fault, Head, Limits, RealFiles, SeriesLog, Spill, trim,
};
use synod_wal::{JournalError, Options};

/// Bytes of a segment of the log.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How often it is looked whether a block is due, and what is too old.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// When what failed (a full disk, most likely) is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// Bytes that wait for a log that cannot be written, at most.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Exemplars that are kept.
const EXEMPLARS: usize = 10_000;
/// How long series stay in memory if there can be no blocks, ms.
const ONLY_MEMORY: i64 = 3 * 3_600_000;

/// What a monitor keeps besides the head.
pub(crate) struct Kept {
    /// Not set while there can be none: it is tried again.
    blocks: OnceLock<Blocks>,
    /// What is older is in blocks, so that the log may forget it.
    in_blocks: AtomicI64,
    pub exemplars: Mutex<Exemplars>,
    /// Where the head's full chunks go; `None`: they stay in memory.
    spill: Mutex<Option<Spill>>,
    /// Why blocks are not written at present.
    blocks_failed: Mutex<Option<String>>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            blocks: OnceLock::new(),
            in_blocks: AtomicI64::new(i64::MIN),
            spill: Mutex::default(),
            exemplars: Mutex::new(Exemplars::new(EXEMPLARS)),
            blocks_failed: Mutex::default(),
        }
    }
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, spares_max: 1 }
}

impl Monitor {
    pub(crate) fn blocks(&self) -> Option<&Blocks> {
        self.0.kept.blocks.get()
    }

    /// Bounds as the settings and the configuration file say.
    pub(crate) fn limits(&self) -> Limits {
        self.0.limits()
    }

    /// Why blocks are not written at present, if so.
    pub fn blocks_failure(&self) -> Option<String> {
        held(&self.0.kept.blocks_failed).clone()
    }

    /// The series of head and blocks.
    pub(crate) fn stored(
        &self,
        matchers: &[Matcher],
        from: i64,
        to: i64,
    ) -> Result<Vec<Series>, String> {
        let most = self.0.settings.query.samples;
        synod_tsdb::stored(&self.0.head, self.blocks(), matchers, from, to, most)
    }

    /// The labels of series of head and blocks; see [`Head::labels_of`].
    pub(crate) fn labels_of(
        &self,
        sets: &[Vec<Matcher>],
        from: i64,
        to: i64,
    ) -> Result<BTreeSet<Labels>, String> {
        let mut found = self.head().labels_of(sets, from, to);
        if let Some(blocks) = self.blocks() {
            blocks.labels_of(sets, from, to, &mut found)?;
        }
        Ok(found)
    }

    /// All label names within a time (or all values of a label): of all blocks that reach
    /// into it, without looking at each series.
    pub(crate) fn texts(
        &self,
        name: Option<&str>,
        from: i64,
        to: i64,
    ) -> Result<BTreeSet<String>, String> {
        let mut all: BTreeSet<String> = match name {
            None => self.head().label_names().into_iter().collect(),
            Some(name) => self.head().label_values(name).into_iter().collect(),
        };
        if let Some(blocks) = self.blocks() {
            blocks.texts(name, from, to, &mut all)?;
        }
        Ok(all)
    }
}

impl Shared {
    pub(crate) fn limits(&self) -> Limits {
        let (mut limits, config) = (self.settings.limits, self.config());
        let ms = |d: Duration| d.as_millis() as i64;
        limits.out_of_order = config.out_of_order.map_or(limits.out_of_order, ms);
        limits.retention = config.retention.map_or(limits.retention, ms);
        limits.retention_bytes = config.retention_bytes.unwrap_or(limits.retention_bytes);
        limits
    }

    fn give_up(&self, why: &str) {
        tracing::error!(
            file = %self.settings.dir.display(),
            error = why,
            "the series' log: until it can be written again, series are in memory only"
        );
        *held(&self.failed) = Some(why.to_owned());
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A test that syncs often does not want to wait long.
    fn retry_after(&self) -> Duration {
        RETRY_AFTER.min(self.settings.sync_every * 20)
    }

    fn blocks_dir(&self) -> PathBuf {
        self.settings.dir.join("blocks")
    }
}

fn tell(event: BlockEvent) {
    use BlockEvent::*;
    let (file, error) = match &event {
        Opened(_) | Compacted(_, None) => (None, None),
        Unfinished(file) | Cut(file) | Compacted(_, Some(file)) => (Some(file), None),
        Retired(file) | OtherChunks(file) => (Some(file), None),
        SetAside { block: file, why, .. } => (Some(file), Some(why)),
        Unreadable(file, why) | Stays(file, why) => (Some(file), Some(why)),
    };
    let file = file.map(|file| tracing::field::display(file.display()));
    if event.is_trouble() {
        tracing::error!(file, error, "{event}");
    } else {
        tracing::info!(file, error, "{event}");
    }
}

/// Opens blocks and log, with what the log holds in the head. `None`: there can be no log,
/// which was told; series are kept in memory only.
pub(crate) fn bring_back(shared: &Shared) -> Option<SeriesLog<FileDisk>> {
    open_blocks(shared);
    // What is there was taken once, and stays, however many series that are.
    let mut head = Head::new(Limits { series: usize::MAX, ..shared.limits() });
    if let Some(end) = shared.kept.blocks.get().and_then(Blocks::end) {
        head.raise_floor(end);
        shared.kept.in_blocks.store(end, Ordering::Relaxed);
    }
    let mut spill = Spill::open(&shared.settings.dir.join("head"));
    for damage in spill.iter().flat_map(Spill::damage) {
        tracing::warn!(error = %damage, "full chunks in files: what was there comes from the log");
    }
    let log = open_log(shared, &mut head, spill.as_mut().ok());
    match spill {
        Ok(spill) => *held(&shared.kept.spill) = Some(spill),
        Err(e) => tracing::error!(error = %e, "full chunks stay in memory"),
    }
    within_limits(shared, &mut head);
    *shared.head.write().unwrap_or_else(PoisonError::into_inner) = head;
    log.map_err(|why| shared.give_up(&why)).ok()
}

fn open_blocks(shared: &Shared) {
    let folder = shared.blocks_dir();
    let seed = RandomState::new().hash_one(now_ms());
    match Blocks::open(&folder, Arc::new(RealFiles), seed, Box::new(tell)) {
        Ok(blocks) => {
            *held(&shared.kept.blocks_failed) = None;
            // It was not set: this is called once, and then by one thread while it is not.
            let _ = shared.kept.blocks.set(blocks);
        }
        Err(e) => {
            let file = folder.display();
            tracing::error!(%file, error = %e, "no blocks: series are kept for three hours");
            *held(&shared.kept.blocks_failed) = Some(e.to_string());
        }
    }
}

/// Only new series are refused: what there is above the limit is told.
fn within_limits(shared: &Shared, head: &mut Head) {
    let limits = shared.limits();
    head.set_limits(limits);
    let (count, limit) = (head.stats().series, limits.series);
    if count > limit {
        tracing::warn!(
            count,
            limit,
            "more series are back than there may be: no new one is taken until there are fewer"
        );
    }
}

/// A damaged log is set aside, so that a node can be watched while somebody looks into it.
fn open_log(
    shared: &Shared,
    head: &mut Head,
    spill: Option<&mut Spill>,
) -> Result<SeriesLog<FileDisk>, String> {
    let dir = &*shared.settings.dir;
    let disk = || FileDisk::open(dir).map_err(|e| e.to_string());
    let (limits, floor) = (head.limits(), head.floor());
    match SeriesLog::open_spilling(disk()?, options(), head, spill) {
        Ok((log, recovered)) => {
            let (samples, skipped) = (recovered.samples, recovered.skipped);
            if samples > 0 || skipped > 0 {
                let in_files = recovered.in_files;
                tracing::info!(samples, skipped, in_files, "samples are back");
            }
            if skipped > 0 {
                shared.note_skipped(skipped);
                tracing::warn!(
                    skipped,
                    "samples of the series' log were left out: they do not fit"
                );
            }
            Ok(log)
        }
        Err(why @ JournalError::Damaged { .. }) => {
            let aside = dir.with_extension(format!("damaged-{}", now_ms() / 1_000));
            set_aside(dir, &aside).map_err(|e| format!("{why}; nor can it be moved: {e}"))?;
            tracing::error!(
                error = %why,
                aside = %aside.display(),
                "the series' log is damaged; it was moved and a new one begun"
            );
            *head = Head::new(limits);
            head.raise_floor(floor);
            let opened = SeriesLog::open(disk()?, options(), head);
            opened.map(|(log, _)| log).map_err(|e| e.to_string())
        }
        Err(why) => Err(why.to_string()),
    }
}

/// Moves the log's files to another folder; the blocks stay.
fn set_aside(dir: &Path, aside: &Path) -> io::Result<()> {
    fs::create_dir_all(aside)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::rename(entry.path(), aside.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The log, and what waits for it while it cannot be written.
struct Writer<'a> {
    shared: &'a Shared,
    log: Option<SeriesLog<FileDisk>>,
    waiting: Vec<Batch>,
    failed_at: Instant,
}

/// Writes what is gathered, until told to end.
pub(crate) fn write_loop(shared: &Shared, log: Option<SeriesLog<FileDisk>>, stop: &Receiver<()>) {
    let mut writer = Writer { shared, log, waiting: Vec::new(), failed_at: Instant::now() };
    loop {
        let end =
            stop.recv_timeout(shared.settings.sync_every) == Err(RecvTimeoutError::Disconnected);
        shared.room.look();
        let batch = held(&shared.gather).take();
        if !batch.is_empty() {
            writer.waiting.push(batch);
        }
        writer.write(end);
        if end {
            return;
        }
    }
}

impl Writer<'_> {
    fn write(&mut self, end: bool) {
        if self.log.is_none() && (end || self.failed_at.elapsed() >= self.shared.retry_after()) {
            self.reopen();
        }
        while let (Some(log), Some(batch)) = (&mut self.log, self.waiting.first()) {
            match log.write(batch, self.shared.kept.in_blocks.load(Ordering::Relaxed)) {
                Ok(()) => drop(self.waiting.remove(0)),
                Err(e) => self.fails(&in_words(&e)),
            }
        }
        if self.waiting.iter().map(Batch::bytes).sum::<usize>() > WAITING_BYTES_MAX {
            tracing::error!("too much waits for the series' log: a crash would lose it");
            self.waiting.clear();
            // What was left out may have named series.
            held(&self.shared.gather).name_again();
        }
    }

    fn fails(&mut self, why: &str) {
        self.shared.give_up(why);
        self.log = None;
        self.failed_at = Instant::now();
    }

    fn reopen(&mut self) {
        let newest = self.shared.newest();
        let disk = FileDisk::open(&self.shared.settings.dir).map_err(|e| e.to_string());
        let opened = disk
            .and_then(|disk| SeriesLog::reopen(disk, options(), newest).map_err(|e| e.to_string()));
        match opened {
            Ok(log) => {
                tracing::info!("the series' log is tried again");
                self.log = Some(log);
                *held(&self.shared.failed) = None;
            }
            Err(why) => self.fails(&why),
        }
    }
}

/// Why the log is not written: the journal's own words are for the keyspace.
fn in_words(e: &JournalError) -> String {
    match e {
        JournalError::Io { doing, file, source } => format!(
            "{doing} {file}: {source}; it is tried again, and what is taken until then is in memory \
             alone"
        ),
        other => other.to_string(),
    }
}

/// Cuts blocks, compacts them, drops the old, until told to end.
pub(crate) fn block_loop(shared: &Shared, stop: &Receiver<()>) {
    let mut failed_at: Option<Instant> = None;
    let every = LOOK_EVERY.min(shared.settings.sync_every);
    while stop.recv_timeout(every) != Err(RecvTimeoutError::Disconnected) {
        if !shared.is_ready() {
            continue;
        }
        shared.room.look();
        spill(shared);
        let waits = failed_at.is_some_and(|at| at.elapsed() < shared.retry_after());
        let Some(blocks) = shared.kept.blocks.get() else {
            only_memory(shared);
            if !waits {
                open_blocks(shared);
                failed_at = Some(Instant::now());
            }
            continue;
        };
        retire(shared, blocks);
        if waits {
            continue;
        }
        match keep_blocks(shared, blocks) {
            Ok(()) => {
                if failed_at.take().is_some() {
                    tracing::info!("blocks can be written again");
                    *held(&shared.kept.blocks_failed) = None;
                }
            }
            Err(Fault::Stopped) => return,
            Err(why) => {
                tracing::error!(error = %why, "the series' blocks: nothing is lost, it is tried again");
                *held(&shared.kept.blocks_failed) = Some(why.to_string());
                failed_at = Some(Instant::now());
            }
        }
    }
}

/// Without blocks the head forgets what is old, and so does the log.
fn only_memory(shared: &Shared) {
    let oldest = shared.newest().saturating_sub(shared.limits().retention.min(ONLY_MEMORY));
    trim(&shared.head, oldest, false);
    shared.kept.in_blocks.store(oldest, Ordering::Relaxed);
    forget(shared, oldest);
}

/// Moves full chunks to files. What cannot be written stays in memory; the next block will
/// tell why.
fn spill(shared: &Shared) {
    // They are copies of what is in the log, until that goes.
    if shared.room.level() == Level::All
        && let Some(spill) = &mut *held(&shared.kept.spill)
        && let Err(e) = spill.run(&shared.head)
    {
        tracing::debug!(error = %e, "full chunks stay in memory");
    }
}

/// No chunk of the head is older.
fn forget(shared: &Shared, oldest: i64) {
    if let Some(spill) = &mut *held(&shared.kept.spill) {
        spill.forget(oldest, shared.limits().block_range);
    }
}

fn keep_blocks(shared: &Shared, blocks: &Blocks) -> Result<(), Fault> {
    // A block is smaller than the log that it replaces; both are there for a moment.
    while shared.room.fits(log_bytes(shared))
        && let Some(until) = blocks.cut(&shared.head, now_ms())?
    {
        shared.kept.in_blocks.store(until, Ordering::Relaxed);
        forget(shared, until);
    }
    let limits = shared.limits();
    while shared.room.fits(blocks.due_bytes(&limits)) && blocks.compact(&limits, now_ms())? {}
    Ok(())
}

/// Bytes of the log's files.
fn log_bytes(shared: &Shared) -> u64 {
    let log = fs::read_dir(&shared.settings.dir).into_iter().flatten().flatten();
    let log = log.filter_map(|entry| entry.metadata().ok().filter(|m| m.is_file()));
    log.map(|m| m.len()).sum()
}

fn retire(shared: &Shared, blocks: &Blocks) {
    let (limits, newest) = (shared.limits(), shared.newest());
    blocks.retire(&limits, newest, log_bytes(shared));
    if limits.retention < limits.block_range * 2 {
        // The head may hold what is too old for a block already.
        trim(&shared.head, newest.saturating_sub(limits.retention), false);
    }
}
