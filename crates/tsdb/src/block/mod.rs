//! Blocks: the series of a span of time, on disk, in Prometheus's format
//! (`tsdb/docs/format` of its repository: index 2, chunks 1, tombstones 1, `meta.json` 1).

pub(crate) mod bytes;
pub(crate) mod chunks;
pub(crate) mod index;
pub(crate) mod meta;
mod tombstones;
pub(crate) mod write;

use crate::chunk;
use crate::late::merged;
use crate::native::{self, is_native};
use bytes::{Fault, FileAt, damaged};
use chunks::{ChunkWalk, XOR};
use index::{IndexReader, SeriesEntry, SeriesWalk, Symbols};
use meta::Meta;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_promql::{HistogramSample, Labels, Matcher, Sample, Series, all_take};
use tombstones::Tombstones;
use write::ChunkData;

/// A block that is read.
#[derive(Debug)]
pub struct Block {
    folder: PathBuf,
    meta: Meta,
    bytes: u64,
    pub(crate) index: IndexReader<FileAt>,
    chunks: Vec<FileAt>,
    tombstones: Tombstones,
    /// It has chunks of kinds that are not known.
    other_chunks: AtomicBool,
}

impl Block {
    /// Opens the block in this folder.
    pub fn open(folder: &Path) -> Result<Block, Fault> {
        let meta = Meta::read(&std::fs::read(folder.join("meta.json"))?)?;
        let named = folder.file_name().and_then(|name| name.to_str());
        if named != Some(&*meta.ulid) {
            return damaged(format!("meta.json is that of {}", meta.ulid));
        }
        let index = IndexReader::open(FileAt::open(&folder.join("index"))?)?;
        let chunks = chunks::open(&folder.join("chunks"))?;
        let tombstones = match std::fs::read(folder.join("tombstones")) {
            Ok(bytes) => Tombstones::read(&bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Tombstones::default(),
            Err(e) => return Err(e.into()),
        };
        let bytes = size(folder)?;
        let other_chunks = AtomicBool::new(false);
        Ok(Block {
            folder: folder.to_owned(),
            meta,
            bytes,
            index,
            chunks,
            tombstones,
            other_chunks,
        })
    }

    /// What it says of itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether chunks were met of kinds that are not known.
    pub fn has_other_chunks(&self) -> bool {
        self.other_chunks.load(Ordering::Relaxed)
    }

    /// Whether it may have samples in `from..=to`.
    pub fn overlaps(&self, from: i64, to: i64) -> bool {
        self.meta.min_time <= to && self.meta.max_time > from
    }

    /// The series that all matchers take, as numbers with what the index says of them.
    fn matching(
        &self,
        matchers: &[Matcher],
        mut take: impl FnMut(u32, Labels, SeriesEntry) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let rest: Vec<Matcher> = matchers.iter().filter(|m| m.takes("")).cloned().collect();
        let mut symbols = Symbols::new(&self.index);
        let mut walk = SeriesWalk::new(&self.index);
        for number in self.index.candidates(matchers)? {
            let entry = walk.get(number)?;
            let mut pairs = Vec::with_capacity(entry.labels.len());
            for (name, value) in &entry.labels {
                pairs.push((symbols.get(*name)?, symbols.get(*value)?));
            }
            if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
                return damaged(format!("the labels of series {number} are not in order"));
            }
            let labels = Labels::sorted(pairs);
            if all_take(&rest, &labels) {
                take(number, labels, entry)?;
            }
        }
        Ok(())
    }

    /// The series that all matchers take, with their samples in `from..=to`. `most` is how
    /// many samples there may be, and goes down by those that there are.
    pub fn select(
        &self,
        matchers: &[Matcher],
        from: i64,
        to: i64,
        most: &mut usize,
    ) -> Result<Vec<Series>, Fault> {
        let (mut found, mut walk) = (Vec::new(), ChunkWalk::new(&self.chunks));
        self.matching(matchers, |number, labels, entry| {
            let (mut samples, mut histograms) = (Vec::new(), Vec::new());
            for chunk in entry.chunks.iter().filter(|c| c.min <= to && c.max >= from) {
                let (encoding, data) = walk.get(chunk.at)?;
                let (numbers, natives) = (&mut samples, &mut histograms);
                if !read_any(encoding, data, (from, to), numbers, natives)? {
                    self.other_chunks.store(true, Ordering::Relaxed);
                }
                if samples.len() + histograms.len() > *most {
                    return Err(Fault::TooMany);
                }
            }
            let gone =
                |at: &i64| self.tombstones.of(number).iter().any(|(a, b)| (a..=b).contains(&at));
            samples.retain(|s| !gone(&s.at));
            histograms.retain(|h| !gone(&h.at));
            let series =
                Series { labels, samples: merged(samples), histograms: native::merged(histograms) };
            *most = most.checked_sub(series.weight()).ok_or(Fault::TooMany)?;
            if !series.is_empty() {
                found.push(series);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The labels of the series that have chunks in `from..=to` and that all matchers of
    /// one of the sets take; of all series if there is no set.
    pub fn labels_of(
        &self,
        sets: &[Vec<Matcher>],
        from: i64,
        to: i64,
        found: &mut BTreeSet<Labels>,
    ) -> Result<(), Fault> {
        let sets = if sets.is_empty() { &[Vec::new()] } else { sets };
        for set in sets {
            self.matching(set, |_, labels, entry| {
                if entry.chunks.iter().any(|c| c.min <= to && c.max >= from) {
                    found.insert(labels);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// All label names, ascending.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.index.names()
    }

    /// All values of a label, ascending.
    pub fn label_values(&self, name: &str) -> Result<Vec<String>, Fault> {
        let mut all = Vec::new();
        self.index.values(name, |value, _| all.push(value.to_owned()))?;
        Ok(all)
    }

    /// Its series one after the other, to write them to another block.
    pub(crate) fn contents(&self) -> Result<Contents<'_>, Fault> {
        Ok(Contents {
            block: self,
            numbers: self.index.all()?.into_iter(),
            series: SeriesWalk::new(&self.index),
            chunks: ChunkWalk::new(&self.chunks),
        })
    }
}

fn read_chunk(data: &[u8], from: i64, to: i64, out: &mut Vec<Sample>) -> Result<(), Fault> {
    let read = chunk::each(data, |sample| {
        if (from..=to).contains(&sample.at) {
            out.push(sample);
        }
    });
    read.or_else(|_| damaged("a chunk ends before its samples do"))
}

/// Reads a chunk of any kind; says whether it is known.
fn read_any(
    encoding: u8,
    data: &[u8],
    (from, to): (i64, i64),
    numbers: &mut Vec<Sample>,
    histograms: &mut Vec<HistogramSample>,
) -> Result<bool, Fault> {
    match encoding {
        XOR => read_chunk(data, from, to, numbers).map(|()| true),
        _ if is_native(encoding) => {
            let read = native::read(&[(encoding, data)], (from, to), histograms, numbers);
            read.or_else(|_| damaged("a chunk of histograms cannot be read"))
        }
        _ => Ok(false),
    }
}

fn size(folder: &Path) -> Result<u64, Fault> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// See [`Block::contents`].
pub(crate) struct Contents<'a> {
    block: &'a Block,
    numbers: std::vec::IntoIter<u32>,
    series: SeriesWalk<'a, FileAt>,
    chunks: ChunkWalk<'a, FileAt>,
}

impl Contents<'_> {
    /// The next series' labels as symbols, and a handle for its chunks.
    pub fn next(&mut self) -> Result<Option<(u32, SeriesEntry)>, Fault> {
        let Some(number) = self.numbers.next() else { return Ok(None) };
        Ok(Some((number, self.series.get(number)?)))
    }

    /// The chunks of a series, without what was deleted of it.
    pub fn chunks(&mut self, number: u32, entry: &SeriesEntry) -> Result<Vec<ChunkData>, Fault> {
        let gone = self.block.tombstones.of(number);
        let mut all = Vec::with_capacity(entry.chunks.len());
        for chunk in &entry.chunks {
            let (encoding, data) = self.chunks.get(chunk.at)?;
            let (min, max) = (chunk.min, chunk.max);
            let known = encoding == XOR || is_native(encoding);
            if !known || !gone.iter().any(|(from, to)| *from <= max && *to >= min) {
                all.push(ChunkData { min, max, encoding, data: data.into() });
                continue;
            }
            let (mut samples, mut histograms) = (Vec::new(), Vec::new());
            let all_times = (i64::MIN, i64::MAX);
            if !read_any(encoding, data, all_times, &mut samples, &mut histograms)? {
                all.push(ChunkData { min, max, encoding, data: data.into() });
                continue;
            }
            let stays = |at: i64| !gone.iter().any(|(from, to)| (*from..=*to).contains(&at));
            samples.retain(|s| stays(s.at));
            histograms.retain(|h| stays(h.at));
            all.extend(of_both(samples, histograms));
        }
        Ok(all)
    }
}

/// Chunks of samples in any order.
pub(crate) fn repacked(samples: Vec<Sample>, range: i64) -> impl Iterator<Item = ChunkData> {
    let chunks = crate::late::packed(merged(samples), range);
    chunks.into_iter().map(|c| ChunkData { min: c.first, max: c.last, encoding: XOR, data: c.data })
}

/// Chunks of samples of both kinds, in any order: where the kind changes, another begins.
fn of_both(samples: Vec<Sample>, histograms: Vec<HistogramSample>) -> Vec<ChunkData> {
    let (samples, histograms) = (merged(samples), native::merged(histograms));
    let (mut numbers, mut natives, mut all) = (&samples[..], &histograms[..], Vec::new());
    while !numbers.is_empty() || !natives.is_empty() {
        let next = natives.first().map_or(i64::MAX, |h| h.at);
        let (run, rest) = numbers.split_at(numbers.partition_point(|s| s.at < next));
        all.extend(repacked(run.to_vec(), i64::MAX));
        // Of both of one time the histogram counts.
        numbers = match rest.first() {
            Some(s) if s.at == next => &rest[1..],
            _ => rest,
        };
        let next = numbers.first().map_or(i64::MAX, |s| s.at);
        let (run, rest) = natives.split_at(natives.partition_point(|h| h.at < next));
        for (encoding, c) in native::packed(run) {
            all.push(ChunkData { min: c.first, max: c.last, encoding, data: c.data });
        }
        natives = rest;
    }
    all
}

/// Chunks of several sources as one run: those that overlap are read and written anew. What
/// is of a kind that is not known, or cannot be read, stays as it is.
pub(crate) fn joined(mut chunks: Vec<ChunkData>) -> Vec<ChunkData> {
    // Of the same time the earlier source counts: the sort is stable.
    chunks.sort_by_key(|c| c.min);
    if chunks.is_sorted_by(|a, b| a.max < b.min) {
        return chunks;
    }
    let (mut all, mut group, mut end) = (Vec::new(), Vec::new(), i64::MIN);
    for chunk in chunks {
        if chunk.min > end {
            all.extend(as_one(std::mem::take(&mut group)));
        }
        end = end.max(chunk.max);
        group.push(chunk);
    }
    all.extend(as_one(group));
    all
}

fn as_one(group: Vec<ChunkData>) -> Vec<ChunkData> {
    if group.len() < 2 {
        return group;
    }
    let (mut samples, mut histograms, times) = (Vec::new(), Vec::new(), (i64::MIN, i64::MAX));
    let mut all = |c: &ChunkData| {
        let read = read_any(c.encoding, &c.data, times, &mut samples, &mut histograms);
        read.unwrap_or(false)
    };
    if !group.iter().all(&mut all) {
        return group;
    }
    of_both(samples, histograms)
}

/// The symbols of several blocks as one list, and of each block which of its symbols is
/// which of the list.
pub(crate) struct AllSymbols {
    pub list: Vec<Arc<str>>,
    pub of_blocks: Vec<Vec<u32>>,
}

/// An error names the block that cannot be read.
pub(crate) fn symbols_of(blocks: &[Arc<Block>]) -> Result<AllSymbols, (usize, Fault)> {
    let mut walks: Vec<_> = blocks.iter().map(|b| index::SymbolWalk::new(&b.index)).collect();
    let mut next = Vec::new();
    for (number, walk) in walks.iter_mut().enumerate() {
        next.push(walk.next().map_err(|fault| (number, fault))?);
    }
    let (mut list, mut of_blocks) = (Vec::<Arc<str>>::new(), vec![Vec::new(); blocks.len()]);
    while let Some(least) = next.iter().flatten().min().cloned() {
        let each = walks.iter_mut().zip(&mut next).zip(&mut of_blocks).enumerate();
        for (number, ((walk, next), map)) in each {
            if next.as_ref() == Some(&least) {
                map.push(list.len() as u32);
                let after = walk.next().map_err(|fault| (number, fault))?;
                if after.as_ref().is_some_and(|after| *after <= least) {
                    let what = "the symbols are not in order".into();
                    return Err((number, Fault::Damaged(what)));
                }
                *next = after;
            }
        }
        list.push(least.into());
    }
    Ok(AllSymbols { list, of_blocks })
}
