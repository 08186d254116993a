//! Cutting blocks off the head. The head is locked for no longer than it takes to look at
//! some thousand series, or to copy the chunks of some hundred.

use crate::block::bytes::{Fault, damaged};
use crate::block::chunks::XOR;
use crate::block::meta::Compaction;
use crate::block::write::{BlockWriter, ChunkData, Place};
use crate::block::{joined, repacked};
use crate::head::{Entry, Head, SeriesId};
use crate::held::{Copied, Held};
use crate::index::PairId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Series that are looked at under one lock.
const LOOK: usize = 4_096;
/// Series whose chunks are copied under one lock.
const COPY: usize = 256;

fn read(head: &RwLock<Head>) -> RwLockReadGuard<'_, Head> {
    head.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(head: &RwLock<Head>) -> RwLockWriteGuard<'_, Head> {
    head.write().unwrap_or_else(PoisonError::into_inner)
}

/// The series of a head with samples before a time, in the order of their labels.
pub(crate) struct Picked {
    until: i64,
    range: i64,
    series: Vec<(SeriesId, Box<[PairId]>)>,
    texts: HashMap<PairId, (Arc<str>, Arc<str>)>,
    /// Where blocks begin, and which of the series go into them.
    blocks: BTreeMap<i64, Vec<u32>>,
}

impl Picked {
    /// From now on the head takes nothing older than `until` but late samples.
    pub fn new(head: &RwLock<Head>, until: i64) -> Picked {
        write(head).raise_floor(until);
        let range = read(head).limits().block_range;
        let (series, texts, blocks) = (Vec::new(), HashMap::new(), BTreeMap::new());
        let mut picked = Picked { until, range, series, texts, blocks };
        let (mut at, mut end) = (0, 1);
        while at < end {
            let mut head = write(head);
            end = head.slots();
            head.visit(at..at + LOOK, |id, entry, index| {
                let begins = picked.begins(entry);
                if begins.is_empty() {
                    return;
                }
                for begin in begins {
                    picked.blocks.entry(begin).or_default().push(picked.series.len() as u32);
                }
                for pair in &entry.pairs {
                    picked.texts.entry(*pair).or_insert_with(|| {
                        let (name, value) = index.text(*pair);
                        (name.clone(), value.clone())
                    });
                }
                picked.series.push((id, entry.pairs.clone()));
            });
            at += LOOK;
        }
        picked.sort();
        picked
    }

    /// Where the blocks begin that a series goes into.
    fn begins(&self, entry: &mut Entry) -> BTreeSet<i64> {
        let begin = |at: i64| at.div_euclid(self.range).saturating_mul(self.range);
        let sealed = entry.sealed.iter().map(|c| c.first);
        let native = entry.native.iter().flat_map(|n| n.firsts());
        let firsts = sealed.chain(entry.open.iter().map(|c| c.first_at())).chain(native);
        let mut begins: BTreeSet<i64> = firsts.filter(|at| *at < self.until).map(begin).collect();
        for chunk in entry.late.iter_mut().flat_map(|late| late.begin_cut()) {
            let mut at = begin(chunk.first);
            while at < self.until && at <= chunk.last {
                begins.insert(at);
                at += self.range;
            }
        }
        begins
    }

    fn sort(&mut self) {
        let mut pairs: Vec<PairId> = self.texts.keys().copied().collect();
        pairs.sort_by(|a, b| self.texts[a].cmp(&self.texts[b]));
        let places: HashMap<PairId, u32> = pairs.into_iter().zip(0..).collect();
        let keys: Vec<Vec<u32>> = self
            .series
            .iter()
            .map(|(_, pairs)| pairs.iter().map(|pair| places[pair]).collect())
            .collect();
        for series in self.blocks.values_mut() {
            series.sort_by(|a, b| keys[*a as usize].cmp(&keys[*b as usize]));
        }
    }

    /// Where the blocks begin, oldest first.
    pub fn blocks(&self) -> Vec<i64> {
        self.blocks.keys().copied().collect()
    }

    /// Writes the block that begins there. Gives its folder; `None`: nothing is in it.
    pub fn write(
        &self,
        head: &RwLock<Head>,
        begin: i64,
        place: Place<'_>,
    ) -> Result<Option<PathBuf>, Fault> {
        let series = &self.blocks[&begin];
        let of = |number: &u32| &self.series[*number as usize];
        let pairs: BTreeSet<PairId> = series.iter().flat_map(|n| of(n).1.iter().copied()).collect();
        let texts = pairs.iter().map(|pair| &self.texts[pair]);
        let symbols: BTreeSet<&Arc<str>> = texts.flat_map(|(n, v)| [n, v]).collect();
        let numbers: HashMap<&str, u32> = symbols.iter().map(|s| &***s).zip(0..).collect();
        let labels: HashMap<PairId, (u32, u32)> = pairs
            .iter()
            .map(|pair| {
                let (name, value) = &self.texts[pair];
                (*pair, (numbers[&**name], numbers[&**value]))
            })
            .collect();
        let symbols = symbols.into_iter().cloned().collect();
        let mut writer = BlockWriter::begin(place, symbols)?;
        let end = begin.saturating_add(self.range).min(self.until);
        for some in series.chunks(COPY) {
            let mut copied = Vec::with_capacity(some.len());
            let locked = read(head);
            for number in some {
                let Some(entry) = locked.look(of(number).0) else { continue };
                copied.push((number, of_cut(entry, begin, end)?));
            }
            drop(locked);
            for (number, copied) in copied {
                let chunks = chunks(copied, self.range)?;
                let labels: Vec<_> = of(number).1.iter().map(|pair| labels[pair]).collect();
                writer.add(&labels, &chunks)?;
            }
        }
        let made = Compaction { level: 1, ..Compaction::default() };
        Ok(writer.finish((begin, end), made)?)
    }

    /// All blocks are written: the head forgets what is in them.
    pub fn forget(&self, head: &RwLock<Head>) {
        trim(head, self.until, true);
    }
}

/// Drops what is older than `until` from a head, a part at a time; see [`Head::trim`].
pub fn trim(head: &RwLock<Head>, until: i64, written: bool) -> usize {
    let (mut at, mut end, mut gone) = (0, 1, 0);
    while at < end {
        let mut head = write(head);
        end = head.slots();
        gone += head.trim(at..at + LOOK, until, written);
        at += LOOK;
    }
    gone
}

/// What a series has in `from..to` and the cut writes.
fn of_cut(entry: &Entry, from: i64, to: i64) -> Result<Copied, Fault> {
    let within = |c: &&Held| c.first >= from && c.last < to;
    let mut chunks: Vec<Held> = entry.sealed.iter().filter(within).cloned().collect();
    let open = entry.open.iter().map(|c| Held::new(c.first_at(), c.last().at, &c.data()));
    chunks.extend(open.filter(|c| within(&c)));
    let native = entry.native.as_ref().map_or(Vec::new(), |n| n.chunks(from, to - 1, true));
    let mut late = Vec::new();
    match entry.late.as_ref().map_or(Ok(()), |l| l.of_cut(from, to, &mut late)) {
        Ok(()) => Ok(Copied { chunks, late, native }),
        Err(_) => damaged("a chunk of late samples cannot be read"),
    }
}

/// As it goes into a block: chunks as they are, unless late samples belong between.
fn chunks(mut copied: Copied, range: i64) -> Result<Vec<ChunkData>, Fault> {
    let native = std::mem::take(&mut copied.native);
    let mut buffer = Vec::new();
    let mut coded = Vec::with_capacity(native.len());
    for (encoding, chunk) in &native {
        let data = chunk.bytes(&mut buffer)?.into();
        coded.push(ChunkData { min: chunk.first, max: chunk.last, encoding: *encoding, data });
    }
    if !copied.late.is_empty() {
        let numbers = repacked(copied.samples(i64::MIN, i64::MAX)?, range);
        return Ok(joined(numbers.chain(coded).collect()));
    }
    let mut chunks = Vec::with_capacity(copied.chunks.len());
    for chunk in &copied.chunks {
        let data = chunk.bytes(&mut buffer)?.into();
        chunks.push(ChunkData { min: chunk.first, max: chunk.last, encoding: XOR, data });
    }
    if !coded.is_empty() {
        chunks.append(&mut coded);
        chunks.sort_by_key(|c| c.min);
    }
    Ok(chunks)
}
