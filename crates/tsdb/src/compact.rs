//! Blocks become larger ones: fewer to ask, and labels stand in fewer indices.

use crate::block::bytes::Fault;
use crate::block::index::SeriesEntry;
use crate::block::meta::{Compaction, Meta, Parent};
use crate::block::write::{BlockWriter, ChunkData, Place};
use crate::block::{Block, Contents, joined, symbols_of};
use crate::limits::Limits;
use std::path::PathBuf;
use std::sync::Arc;

/// Each size of blocks is so many times the one before.
const GROWTH: i64 = 3;
/// No block spans more, ms.
const SPAN_MAX: i64 = 31 * 86_400_000;

/// The spans of blocks, the smallest first.
pub(crate) fn spans(limits: &Limits) -> Vec<i64> {
    let most = (limits.retention / 10).min(SPAN_MAX).max(limits.block_range);
    let grown = |span: &i64| span.checked_mul(GROWTH);
    std::iter::successors(Some(limits.block_range), grown).take_while(|s| *s <= most).collect()
}

/// Which blocks should become one: those that overlap; or the oldest that fill a span of
/// the next size, or that will not fill it any more. `metas` by their times.
pub(crate) fn plan(metas: &[&Meta], spans: &[i64]) -> Option<Vec<usize>> {
    let (mut group, mut end) = (Vec::new(), i64::MIN);
    for (number, meta) in metas.iter().enumerate() {
        if meta.min_time >= end {
            if group.len() > 1 {
                return Some(group);
            }
            group.clear();
        }
        group.push(number);
        end = end.max(meta.max_time);
    }
    if group.len() > 1 {
        return Some(group);
    }
    // The newest stays: what comes late is likely to belong to it.
    let (newest, older) = metas.split_last()?;
    for span in spans.iter().skip(1) {
        let place = |meta: &Meta| meta.min_time.div_euclid(*span);
        let mut at = 0;
        for run in older.chunk_by(|a, b| place(a) == place(b)) {
            let fitting: Vec<usize> = (at..at + run.len())
                .filter(|n| (older[*n].max_time - 1).div_euclid(*span) == place(older[*n]))
                .collect();
            at += run.len();
            let ([first, .., last], Some(begin)) = (&fitting[..], run.first()) else { continue };
            let full = older[*last].max_time - older[*first].min_time == *span;
            let past = (place(begin) + 1).saturating_mul(*span) <= newest.min_time;
            if full || past {
                return Some(fitting);
            }
        }
    }
    None
}

/// Why blocks did not become one.
#[derive(Debug)]
pub(crate) enum Unmerged {
    /// This one cannot be read.
    Block(usize, Fault),
    /// The new one cannot be written.
    Writing(Fault),
}

/// A block that is read series by series.
struct Next<'a> {
    contents: Contents<'a>,
    /// Which of its symbols is which of all.
    symbols: Vec<u32>,
    series: Option<NextSeries>,
}

struct NextSeries {
    /// In the symbols of all.
    labels: Vec<(u32, u32)>,
    number: u32,
    entry: SeriesEntry,
}

impl Next<'_> {
    /// Goes on to the one behind `before`.
    fn advance(&mut self, before: &[(u32, u32)]) -> Result<(), Fault> {
        let symbols = &self.symbols;
        let of = |symbol: u32| symbols.get(symbol as usize).copied();
        self.series = match self.contents.next()? {
            None => None,
            Some((number, entry)) => {
                let labels = entry.labels.iter().map(|(n, v)| Some((of(*n)?, of(*v)?)));
                let Some(labels) = labels.collect::<Option<Vec<_>>>() else {
                    return Err(Fault::Damaged(format!("series {number} has unknown symbols")));
                };
                if *before >= *labels {
                    return Err(Fault::Damaged(format!("series {number} is not in order")));
                }
                Some(NextSeries { labels, number, entry })
            }
        };
        Ok(())
    }
}

/// Writes a block of what these have, which are in the order of their times. Gives its
/// folder; `None`: all that they had is deleted.
pub(crate) fn merge(blocks: &[Arc<Block>], place: Place<'_>) -> Result<Option<PathBuf>, Unmerged> {
    let symbols = symbols_of(blocks).map_err(|(number, fault)| Unmerged::Block(number, fault))?;
    let mut all = Vec::new();
    for (number, (block, symbols)) in blocks.iter().zip(symbols.of_blocks).enumerate() {
        let broken = |fault| Unmerged::Block(number, fault);
        let mut next = Next { contents: block.contents().map_err(broken)?, symbols, series: None };
        next.advance(&[]).map_err(broken)?;
        all.push(next);
    }
    let begun = BlockWriter::begin(place, symbols.list);
    let mut writer = begun.map_err(|e| Unmerged::Writing(e.into()))?;
    let labels_of = |next: &Next<'_>| next.series.as_ref().map(|s| s.labels.clone());
    while let Some(least) = all.iter().filter_map(labels_of).min() {
        let mut chunks: Vec<ChunkData> = Vec::new();
        for (number, next) in all.iter_mut().enumerate() {
            let broken = |fault| Unmerged::Block(number, fault);
            let Some(series) = next.series.take_if(|s| s.labels == least) else { continue };
            let read = next.contents.chunks(series.number, &series.entry);
            chunks.append(&mut read.map_err(broken)?);
            next.advance(&least).map_err(broken)?;
        }
        writer.add(&least, &joined(chunks)).map_err(Unmerged::Writing)?;
    }
    let metas: Vec<&Meta> = blocks.iter().map(|b| b.meta()).collect();
    let begin = metas.iter().map(|m| m.min_time).min().unwrap_or(0);
    let end = metas.iter().map(|m| m.max_time).max().unwrap_or(0);
    let made = writer.finish((begin, end), made_of(&metas));
    made.map_err(|e| Unmerged::Writing(e.into()))
}

fn made_of(metas: &[&Meta]) -> Compaction {
    let mut sources: Vec<String> =
        metas.iter().flat_map(|m| &m.compaction.sources).cloned().collect();
    sources.sort();
    sources.dedup();
    let parent =
        |m: &&Meta| Parent { ulid: m.ulid.clone(), min_time: m.min_time, max_time: m.max_time };
    let level = metas.iter().map(|m| m.compaction.level).max().unwrap_or(0) + 1;
    Compaction { level, sources, parents: metas.iter().map(parent).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::meta::BlockId;

    const HOUR: i64 = 3_600_000;

    fn meta(from: i64, to: i64) -> Meta {
        Meta {
            ulid: BlockId::new(from, to as u128).to_string(),
            min_time: from * HOUR,
            max_time: to * HOUR,
            stats: Default::default(),
            compaction: Compaction::default(),
            version: 1,
        }
    }

    fn planned(blocks: &[(i64, i64)]) -> Option<Vec<usize>> {
        let metas: Vec<Meta> = blocks.iter().map(|(from, to)| meta(*from, *to)).collect();
        let metas: Vec<&Meta> = metas.iter().collect();
        plan(&metas, &spans(&Limits::default()))
    }

    #[test]
    fn spans_grow_threefold_up_to_a_tenth_of_the_retention() {
        let hours = |retention: i64| -> Vec<i64> {
            let limits = Limits { retention: retention * HOUR, ..Limits::default() };
            spans(&limits).iter().map(|s| s / HOUR).collect()
        };
        assert_eq!(hours(15 * 24), [2, 6, 18]);
        assert_eq!(hours(1), [2]);
        assert_eq!(hours(100_000), [2, 6, 18, 54, 162, 486]);
    }

    #[test]
    fn what_fills_a_span_or_never_will_is_planned() {
        assert_eq!(planned(&[]), None);
        assert_eq!(planned(&[(0, 2), (2, 4), (4, 6)]), None, "the newest stays");
        assert_eq!(planned(&[(0, 2), (2, 4), (4, 6), (6, 8)]), Some(vec![0, 1, 2]));
        // A gap: nothing more will come before hour 6.
        assert_eq!(planned(&[(0, 2), (4, 6), (6, 8)]), Some(vec![0, 1]));
        assert_eq!(planned(&[(2, 4), (6, 8), (12, 14)]), None);
        assert_eq!(planned(&[(0, 6), (6, 12), (12, 18), (18, 20)]), Some(vec![0, 1, 2]));
        assert_eq!(planned(&[(0, 18), (18, 36), (36, 54), (54, 56)]), None, "large enough");
    }

    #[test]
    fn what_overlaps_comes_first() {
        assert_eq!(planned(&[(0, 2), (2, 4), (3, 4), (4, 6), (6, 8)]), Some(vec![1, 2]));
        assert_eq!(planned(&[(0, 2), (0, 2)]), Some(vec![0, 1]));
        // A foreign block over the border of spans goes into a larger one.
        assert_eq!(planned(&[(0, 5), (5, 7), (7, 9), (14, 16)]), None);
        assert_eq!(planned(&[(0, 5), (5, 7), (7, 9), (20, 22)]), Some(vec![0, 1, 2]));
    }
}
