//! The blocks of a node: which there are, cutting new ones off the head, compaction and
//! retention. What is asked while they change sees the old ones or the new one.

use crate::block::Block;
use crate::block::bytes::Fault;
use crate::block::meta::BlockId;
use crate::block::write::{DELETING, Files, MAKING, Place};
use crate::compact::{self, Unmerged};
use crate::cut::Picked;
use crate::head::Head;
use crate::late::merged;
use crate::limits::Limits;
use crate::native;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use synod_base::Rng;
use synod_promql::{Labels, Matcher, Series};

/// What happened to blocks, for the log.
#[derive(Debug)]
pub enum BlockEvent {
    /// So many were there at the start.
    Opened(usize),
    /// What a crash left half-written is deleted.
    Unfinished(PathBuf),
    /// It cannot be read, and was moved out of the way.
    SetAside {
        /// Where it was.
        block: PathBuf,
        /// Where it is now; or why it could not be moved.
        to: Result<PathBuf, String>,
        /// What is wrong with it.
        why: String,
    },
    /// The system does not let it be read now.
    Unreadable(PathBuf, String),
    /// The head's oldest samples are in it.
    Cut(PathBuf),
    /// So many blocks became one.
    Compacted(usize, Option<PathBuf>),
    /// It is older than the retention, or the blocks take too many bytes.
    Retired(PathBuf),
    /// It cannot be deleted.
    Stays(PathBuf, String),
    /// Chunks in it of kinds that are not known are left out of answers.
    OtherChunks(PathBuf),
}

impl BlockEvent {
    /// Whether somebody should look at it.
    pub fn is_trouble(&self) -> bool {
        use BlockEvent::*;
        matches!(self, SetAside { .. } | Unreadable(..) | Stays(..) | OtherChunks(_))
    }
}

impl fmt::Display for BlockEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockEvent::Opened(count) => write!(f, "{count} blocks are open"),
            BlockEvent::Unfinished(path) => {
                write!(f, "{} was not finished and is deleted", path.display())
            }
            BlockEvent::SetAside { block, to: Ok(to), why } => {
                let (block, to) = (block.display(), to.display());
                write!(f, "the block {block} is damaged ({why}); it was moved to {to}")
            }
            BlockEvent::SetAside { block, to: Err(e), why } => {
                let block = block.display();
                write!(f, "the block {block} is damaged ({why}), and cannot be moved: {e}")
            }
            BlockEvent::Unreadable(path, why) => {
                write!(f, "the block {} cannot be read: {why}", path.display())
            }
            BlockEvent::Cut(path) => write!(f, "cut the block {} off the head", path.display()),
            BlockEvent::Compacted(count, Some(path)) => {
                write!(f, "{count} blocks became {}", path.display())
            }
            BlockEvent::Compacted(count, None) => {
                write!(f, "nothing was left of {count} blocks")
            }
            BlockEvent::Retired(path) => write!(f, "dropped the block {}", path.display()),
            BlockEvent::Stays(path, why) => {
                write!(f, "{} cannot be deleted: {why}", path.display())
            }
            BlockEvent::OtherChunks(path) => write!(
                f,
                "the block {} has chunks of a kind that is not known, which are left out of answers",
                path.display()
            ),
        }
    }
}

/// Who hears of events.
pub type OnEvent = Box<dyn Fn(BlockEvent) + Send + Sync>;

/// See the file's header.
pub struct Blocks {
    folder: PathBuf,
    files: Arc<dyn Files>,
    told: OnEvent,
    random: Mutex<Rng>,
    /// By their times.
    open: RwLock<Arc<Vec<Arc<Block>>>>,
    /// Of which it was told that they have chunks of unknown kinds.
    known_other: Mutex<BTreeSet<PathBuf>>,
    /// One changes them at a time.
    changes: Mutex<()>,
    stopping: AtomicBool,
}

impl Blocks {
    /// Opens all blocks in this folder, making it if need be. `seed` is for their names.
    pub fn open(
        folder: &Path,
        files: Arc<dyn Files>,
        seed: u64,
        told: OnEvent,
    ) -> Result<Blocks, Fault> {
        // Prometheus's tools want to find a log beside blocks; none is one without samples.
        std::fs::create_dir_all(folder.join("wal"))?;
        let blocks = Blocks {
            folder: folder.to_owned(),
            files,
            told,
            random: Mutex::new(Rng::new(seed)),
            open: RwLock::default(),
            known_other: Mutex::default(),
            changes: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(MAKING) || name.ends_with(DELETING) {
                std::fs::remove_dir_all(&path)?;
                (blocks.told)(BlockEvent::Unfinished(path));
            } else if name.parse::<BlockId>().is_ok() {
                match Block::open(&path) {
                    Ok(block) => found.push(Arc::new(block)),
                    Err(fault) => blocks.not_readable(&path, &fault),
                }
            }
        }
        // A crash may have come after a block was made of others and before they went.
        let (gone, stay): (Vec<_>, Vec<_>) =
            found.iter().cloned().partition(|b| found.iter().any(|other| contains(other, b)));
        gone.iter().for_each(|block| blocks.delete(block.folder()));
        (blocks.told)(BlockEvent::Opened(stay.len()));
        blocks.replace(&[], stay);
        Ok(blocks)
    }

    /// Those that there are, by their times.
    pub fn all(&self) -> Arc<Vec<Arc<Block>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first time that no block holds; `None`: there are no blocks.
    pub fn end(&self) -> Option<i64> {
        self.all().iter().map(|b| b.meta().max_time).max()
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.all().iter().map(|b| b.bytes()).sum()
    }

    /// What is being written is given up, and nothing is begun any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn replace(&self, gone: &[Arc<Block>], new: Vec<Arc<Block>>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let stays = |b: &&Arc<Block>| !gone.iter().any(|g| Arc::ptr_eq(g, b));
        let mut all: Vec<_> = open.iter().filter(stays).cloned().chain(new).collect();
        // Of two of one span the one made first: in another life too, its samples count.
        all.sort_by_key(|b| (b.meta().min_time, b.meta().max_time, b.meta().ulid.clone()));
        *open = Arc::new(all);
    }

    /// Damage is set aside; what only now cannot be read stays where it is.
    fn not_readable(&self, path: &Path, fault: &Fault) {
        match fault {
            Fault::Io(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                (self.told)(BlockEvent::Unreadable(path.to_owned(), fault.to_string()));
            }
            _ => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let to = path.with_file_name(format!("damaged-{name}"));
                let moved = std::fs::rename(path, &to).map(|()| to).map_err(|e| e.to_string());
                let (block, why) = (path.to_owned(), fault.to_string());
                (self.told)(BlockEvent::SetAside { block, to: moved, why });
            }
        }
    }

    /// Takes a damaged block out of those that are asked.
    fn set_aside(&self, block: &Arc<Block>, fault: &Fault) {
        let known = self.all().iter().any(|b| Arc::ptr_eq(b, block));
        if known && matches!(fault, Fault::Damaged(_)) {
            self.replace(std::slice::from_ref(block), Vec::new());
            self.not_readable(block.folder(), fault);
        }
    }

    fn delete(&self, path: &Path) {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(DELETING);
        let going = path.with_file_name(name);
        // Renamed first: half a block is never taken for one.
        let gone = std::fs::rename(path, &going).and_then(|()| std::fs::remove_dir_all(&going));
        if let Err(e) = gone {
            (self.told)(BlockEvent::Stays(path.to_owned(), e.to_string()));
        }
    }

    /// Where the next block is written.
    fn place(&self, now: i64) -> Place<'_> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let random = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        Place {
            files: self.files.clone(),
            folder: &self.folder,
            id: BlockId::new(now, random),
            stopping: &self.stopping,
        }
    }

    /// Cuts the oldest block off the head, if it is time. Gives up to when the head's
    /// samples are in blocks then. On an error the head has all that it had.
    pub fn cut(&self, head: &RwLock<Head>, now: i64) -> Result<Option<i64>, Fault> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let due = head.read().unwrap_or_else(PoisonError::into_inner).due();
        let Some(until) = due else { return Ok(None) };
        let picked = Picked::new(head, until);
        for begin in picked.blocks() {
            let made = picked.write(head, begin, self.place(now))?;
            let Some(path) = made else { continue };
            self.replace(&[], vec![Arc::new(Block::open(&path)?)]);
            (self.told)(BlockEvent::Cut(path));
        }
        picked.forget(head);
        Ok(Some(until))
    }

    /// Bytes of the blocks that [`Blocks::compact`] would make one of, which is no larger; 0:
    /// there are none.
    pub fn due_bytes(&self, limits: &Limits) -> u64 {
        let all = self.all();
        let metas: Vec<_> = all.iter().map(|b| b.meta()).collect();
        let chosen = compact::plan(&metas, &compact::spans(limits)).unwrap_or_default();
        chosen.into_iter().map(|number| all[number].bytes()).sum()
    }

    /// Makes one larger block of some, if there are such. Gives whether there were. On an
    /// error all are as they were; but what was found damaged is set aside.
    pub fn compact(&self, limits: &Limits, now: i64) -> Result<bool, Fault> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all();
        let metas: Vec<_> = all.iter().map(|b| b.meta()).collect();
        let Some(chosen) = compact::plan(&metas, &compact::spans(limits)) else {
            return Ok(false);
        };
        let chosen: Vec<Arc<Block>> = chosen.into_iter().map(|n| all[n].clone()).collect();
        let made = compact::merge(&chosen, self.place(now));
        let made = made.map_err(|unmerged| match unmerged {
            Unmerged::Writing(fault) => fault,
            Unmerged::Block(number, fault) => {
                self.set_aside(&chosen[number], &fault);
                fault
            }
        })?;
        let new = match &made {
            Some(path) => vec![Arc::new(Block::open(path)?)],
            None => Vec::new(),
        };
        self.replace(&chosen, new);
        (self.told)(BlockEvent::Compacted(chosen.len(), made));
        chosen.iter().for_each(|block| self.delete(block.folder()));
        Ok(true)
    }

    /// Drops blocks that are older than the retention, and the oldest while all together
    /// with `other` bytes take more than they may.
    pub fn retire(&self, limits: &Limits, newest: i64, other: u64) {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.end().unwrap_or(newest).max(newest);
        let mut bytes = self.bytes() + other;
        for block in self.all().iter() {
            let old = block.meta().max_time <= newest.saturating_sub(limits.retention);
            let many = limits.retention_bytes > 0 && bytes > limits.retention_bytes;
            if old || many {
                bytes -= block.bytes();
                self.replace(std::slice::from_ref(block), Vec::new());
                self.delete(block.folder());
                (self.told)(BlockEvent::Retired(block.folder().to_owned()));
            }
        }
    }

    /// What the blocks have of these series in `from..=to`, those of one block after those
    /// of the one before, `most` samples at most. A damaged block is set aside, and an error.
    pub fn select(
        &self,
        matchers: &[Matcher],
        from: i64,
        to: i64,
        mut most: usize,
    ) -> Result<Vec<Vec<Series>>, String> {
        let mut parts = Vec::new();
        for block in self.all().iter().filter(|b| b.overlaps(from, to)) {
            let found = block.select(matchers, from, to, &mut most);
            parts.push(found.map_err(|fault| self.broken(block, &fault))?);
            if block.has_other_chunks() {
                let mut known = self.known_other.lock().unwrap_or_else(PoisonError::into_inner);
                if known.insert(block.folder().to_owned()) {
                    (self.told)(BlockEvent::OtherChunks(block.folder().to_owned()));
                }
            }
        }
        Ok(parts)
    }

    fn broken(&self, block: &Arc<Block>, fault: &Fault) -> String {
        self.set_aside(block, fault);
        match fault {
            Fault::TooMany => fault.to_string(),
            _ => format!("block {}: {fault}", block.meta().ulid),
        }
    }

    /// Adds the labels of series; see [`Head::labels_of`].
    pub fn labels_of(
        &self,
        sets: &[Vec<Matcher>],
        from: i64,
        to: i64,
        found: &mut BTreeSet<Labels>,
    ) -> Result<(), String> {
        for block in self.all().iter().filter(|b| b.overlaps(from, to)) {
            let read = block.labels_of(sets, from, to, found);
            read.map_err(|fault| self.broken(block, &fault))?;
        }
        Ok(())
    }
}

impl Blocks {
    /// Adds all label names within a time, or all values of a label.
    pub fn texts(
        &self,
        name: Option<&str>,
        from: i64,
        to: i64,
        all: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        for block in self.all().iter().filter(|b| b.overlaps(from, to)) {
            match name {
                None => all.extend(block.label_names().map(str::to_owned)),
                Some(name) => {
                    let values = block.label_values(name);
                    all.extend(values.map_err(|fault| self.broken(block, &fault))?);
                }
            }
        }
        Ok(())
    }
}

/// Whether a block was made of another, or of what that was made of.
fn contains(block: &Block, other: &Block) -> bool {
    let (all, part) = (&block.meta().compaction, &other.meta().compaction);
    let name = &other.meta().ulid;
    all.parents.iter().any(|p| p.ulid == *name)
        || all.level > part.level
            && !part.sources.is_empty()
            && part.sources.iter().all(|source| all.sources.contains(source))
}

/// The series of a head and its blocks, `most` samples at most. The head is asked first: what
/// goes from it to a block meanwhile is then found twice, never missed.
pub fn stored(
    head: &RwLock<Head>,
    blocks: Option<&Blocks>,
    matchers: &[Matcher],
    from: i64,
    to: i64,
    most: usize,
) -> Result<Vec<Series>, String> {
    let head = crate::held::select(head, matchers, from, to, most);
    let head = head.map_err(|fault| fault.to_string())?;
    let Some(blocks) = blocks else { return Ok(head) };
    let samples: usize = head.iter().map(Series::weight).sum();
    let mut parts = blocks.select(matchers, from, to, most.saturating_sub(samples))?;
    parts.push(head);
    Ok(united(parts))
}

/// Series of several sources as one list, each series once; of samples of one time that of
/// the first source counts.
pub fn united(parts: Vec<Vec<Series>>) -> Vec<Series> {
    let mut parts = parts.into_iter().filter(|part| !part.is_empty());
    let Some(mut all) = parts.next() else { return Vec::new() };
    let Some(second) = parts.next() else { return all };
    let mut places: HashMap<Labels, usize> =
        all.iter().enumerate().map(|(n, s)| (s.labels.clone(), n)).collect();
    for series in std::iter::once(second).chain(parts).flatten() {
        match places.get(&series.labels) {
            Some(place) => {
                all[*place].samples.extend(series.samples);
                all[*place].histograms.extend(series.histograms);
            }
            None => {
                places.insert(series.labels.clone(), all.len());
                all.push(series);
            }
        }
    }
    for series in &mut all {
        series.samples = merged(std::mem::take(&mut series.samples));
        if !series.histograms.is_empty() {
            series.histograms = native::merged(std::mem::take(&mut series.histograms));
        }
    }
    all
}
