//! Bringing back what a log holds. One thread reads (`log.rs`), one decodes, others append.
//! Most of what a sample costs is the wait for its series' chunk to come from memory: so
//! samples are gathered, and those of one series appended together. What is in files
//! already (`found.rs`) is passed over.
//!
//! **Invariants**: a series is one appender's, and its samples go there in their order.

use crate::found::{Cover, Found};
use crate::head::{Head, SeriesId};
use crate::limits::Limits;
use crate::log::{HISTOGRAMS, LATE, Recovered, SAMPLES, SERIES};
use crate::native;
use crate::spill::Spill;
use crate::varint::{bits, unzigzag, varint};
use bytes::Bytes;
use std::num::NonZero;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{ScopedJoinHandle, available_parallelism, scope};
use synod_base::codec::{Malformed, Reader};
use synod_promql::{Histogram, Labels, Sample};

/// Appenders, at most.
const APPENDERS_MAX: usize = 4;
/// Samples that go to an appender at a time (6 MiB), and how many such lots wait for it.
const LOT: usize = 1 << 18;
const LOT_HISTOGRAMS: usize = 1 << 12;
const LOTS_MAX: usize = 1;
/// Chunks are moved out of memory when there are so many more bytes of them.
const SPILL_BYTES: usize = 16 << 20;
/// Numbers of series that are believed.
const NUMBER_MAX: usize = 1 << 26;

/// Samples for one appender, of its own series by their numbers there.
struct Lot {
    late: bool,
    samples: Vec<(u32, Sample)>,
    histograms: Vec<(u32, i64, Arc<Histogram>)>,
}

/// Where the samples of some series go.
struct Appender<'scope> {
    lots: SyncSender<Lot>,
    filling: Lot,
    thread: ScopedJoinHandle<'scope, (Head, Recovered)>,
}

impl Appender<'_> {
    fn put(&mut self, late: bool, number: u32, sample: Sample) {
        if self.filling.late != late || self.filling.samples.len() >= LOT {
            self.flush();
            self.filling.late = late;
        }
        self.filling.samples.push((number, sample));
    }

    fn put_histogram(&mut self, number: u32, at: i64, histogram: Arc<Histogram>) {
        if self.filling.histograms.len() >= LOT_HISTOGRAMS {
            self.flush();
        }
        self.filling.histograms.push((number, at, histogram));
    }

    fn flush(&mut self) {
        let histograms = std::mem::take(&mut self.filling.histograms);
        let samples = std::mem::replace(&mut self.filling.samples, Vec::with_capacity(LOT));
        // If it has ended, its panic is told when it is waited for.
        let _ = self.lots.send(Lot { late: self.filling.late, samples, histograms });
    }
}

/// Appends lots until there are no more.
fn append(
    shard: (usize, usize),
    limits: Limits,
    floor: i64,
    lots: &Receiver<Lot>,
    spill: &Mutex<Option<&mut Spill>>,
) -> (Head, Recovered) {
    let (mut recovered, mut spilled_at) = (Recovered::default(), 0);
    let mut head = Head::part(limits, floor);
    for Lot { late, mut samples, mut histograms } in lots {
        // Stable: a series' samples stay in their order, which is that of their times.
        samples.sort_by_key(|(number, _)| *number);
        histograms.sort_by_key(|(number, ..)| *number);
        let mut histograms = histograms.into_iter().peekable();
        let mut natives = |head: &mut Head, recovered: &mut Recovered, before: (u32, i64)| {
            while let Some((number, at, h)) = histograms.next_if(|next| (next.0, next.1) < before) {
                let id = head.unnamed(number);
                match head.append_histogram(id, at, &h) {
                    Ok(_) => recovered.samples += 1,
                    Err(_) => recovered.skipped += 1,
                }
            }
        };
        for (number, sample) in samples {
            natives(&mut head, &mut recovered, (number, sample.at));
            let id = head.unnamed(number);
            let taken = if late { head.put_late(id, sample) } else { head.append(id, sample) };
            match taken {
                Ok(_) => recovered.samples += 1,
                Err(_) => recovered.skipped += 1,
            }
        }
        natives(&mut head, &mut recovered, (u32::MAX, i64::MAX));
        if head.stats().chunk_bytes > spilled_at + SPILL_BYTES {
            let mut spill = spill.lock().unwrap_or_else(PoisonError::into_inner);
            // What cannot be written stays in memory: whoever opens it tells.
            let _ = spill.as_mut().map(|spill| spill.run_alone(&mut head, shard));
            spilled_at = head.stats().chunk_bytes;
        }
    }
    (head, recovered)
}

/// Puts records into a head as `run` hands them over.
pub(crate) fn replay<R>(
    head: &mut Head,
    found: &mut Found,
    spill: Option<&mut Spill>,
    run: impl FnOnce(&mut Replay<'_, '_>) -> R,
) -> (R, Recovered) {
    let count = available_parallelism().map_or(1, NonZero::get).min(APPENDERS_MAX);
    let (limits, floor, spill) = (head.limits(), head.floor(), Mutex::new(spill));
    scope(|scope| {
        let start = |number| {
            let (lots, waiting) = sync_channel(LOTS_MAX);
            let samples = Vec::with_capacity(LOT);
            let filling = Lot { late: false, samples, histograms: Vec::new() };
            let spill = &spill;
            let thread =
                scope.spawn(move || append((number, count), limits, floor, &waiting, spill));
            Appender { lots, filling, thread }
        };
        let appenders = (0..count).map(start).collect();
        let (newest, recovered) = (head.newest(), Recovered::default());
        let (known, named, text, covers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut replay =
            Replay { head, found, known, named, text, covers, appenders, newest, recovered };
        let done = run(&mut replay);
        (done, replay.end())
    })
}

/// See the file's header.
pub(crate) struct Replay<'head, 'scope> {
    /// All series, without their samples.
    head: &'head mut Head,
    found: &'head mut Found,
    /// What numbers mean; `None`: nothing, or the head does not take it.
    known: Vec<Option<SeriesId>>,
    /// Where in the text the labels of numbers are, as the log has them: most are named
    /// again and again.
    named: Vec<Range<usize>>,
    text: Vec<u8>,
    /// By slot of a series: what of it is in files.
    covers: Vec<Cover>,
    appenders: Vec<Appender<'scope>>,
    newest: i64,
    recovered: Recovered,
}

impl Replay<'_, '_> {
    /// Takes a record; gives the newest sample's time so far.
    pub fn record(&mut self, record: Bytes) -> i64 {
        if self.read(&record).is_err() {
            // The journal's checksum held: this is not damage but another format.
            self.recovered.skipped += 1;
        }
        self.newest
    }

    fn read(&mut self, record: &Bytes) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(kind) = record.get(at) {
            at += 1;
            match *kind {
                SERIES => {
                    let len = self.series(&record[at..]);
                    at += len.ok_or(Malformed { what: "series", at })?;
                }
                kind @ (SAMPLES | LATE) => {
                    let rest = &record[at..];
                    let left = self.samples(kind == LATE, rest);
                    let left = left.ok_or(Malformed { what: "samples", at })?;
                    at += rest.len() - left;
                }
                HISTOGRAMS => at += self.histograms(record.slice(at..))?,
                _ => return Err(Malformed { what: "kind", at }),
            }
        }
        Ok(())
    }

    /// Gives how many bytes it took; `None`: it is none.
    fn series(&mut self, bytes: &[u8]) -> Option<usize> {
        let rest = &mut &*bytes;
        let number = usize::try_from(varint(rest)?).ok().filter(|n| *n <= NUMBER_MAX)?;
        let begin = bytes.len() - rest.len();
        let mut labels = Vec::new();
        for _ in 0..varint(rest)? {
            labels.push((text(rest)?, text(rest)?));
        }
        let len = bytes.len() - rest.len();
        let name = &bytes[begin..len];
        if number >= self.known.len() {
            self.known.resize(number + 1, None);
            self.named.resize(number + 1, 0..0);
        }
        if self.text[self.named[number].clone()] == *name {
            return Some(len);
        }
        self.named[number] = self.text.len()..self.text.len() + name.len();
        self.text.extend_from_slice(name);
        let id = self.head.series(&Labels::new(labels)).ok();
        self.known[number] = id;
        if let Some(id) = id
            && id.number() as usize >= self.covers.len()
            && !self.found.is_empty()
        {
            // Slots are given in their order: this one's series is new.
            self.covers.resize(id.number() as usize, Cover::NONE);
            self.covers.push(self.found.cover(name));
        }
        Some(len)
    }

    /// Gives how many bytes it took.
    fn histograms(&mut self, bytes: Bytes) -> Result<usize, Malformed> {
        let (total, mut r) = (bytes.len(), Reader::new(bytes));
        let at = unzigzag(r.varint("time")?);
        let in_blocks = at < self.head.floor();
        let shards = self.appenders.len();
        for _ in 0..r.varint("histograms")? {
            let number = r.varint("series")?;
            let histogram = native::get(&mut r)?;
            if in_blocks {
                self.recovered.in_blocks += 1;
                continue;
            }
            let id = self.known.get(number as usize).copied().flatten();
            let Some(id) = id.filter(|_| histogram.check().is_ok()) else {
                self.recovered.skipped += 1;
                continue;
            };
            let slot = id.number() as usize;
            let (shard, place) = (slot % shards, (slot / shards) as u32);
            self.appenders[shard].put_histogram(place, at, Arc::new(histogram));
        }
        if !in_blocks {
            self.newest = self.newest.max(at);
        }
        Ok(total - r.remaining())
    }

    /// Gives how many bytes are left; `None`: it ends within.
    fn samples(&mut self, late: bool, bytes: &[u8]) -> Option<usize> {
        let rest = &mut &*bytes;
        let at = unzigzag(varint(rest)?);
        let (count, mut number) = (varint(rest)?, 0);
        let in_blocks = !late && at < self.head.floor();
        let shards = self.appenders.len();
        for _ in 0..count {
            let head = varint(rest)?;
            number = unzigzag(head >> 4).wrapping_add(number);
            let value = bits(rest, head as usize & 15)?;
            if in_blocks {
                self.recovered.in_blocks += 1;
                continue;
            }
            let Some(id) = self.known.get(number as usize).copied().flatten() else {
                self.recovered.skipped += 1;
                continue;
            };
            let slot = id.number() as usize;
            if !late
                && let Some(cover) = self.covers.get_mut(slot)
                && (at <= cover.to || cover.goes_on(self.found, at, value))
            {
                self.recovered.in_files += 1;
                continue;
            }
            let value = f64::from_bits(value);
            self.appenders[slot % shards].put(late, (slot / shards) as u32, Sample { at, value });
        }
        if late {
            // The next block to be cut takes them: until then the log has to stay.
            self.newest = self.newest.max(self.head.floor());
        }
        if !in_blocks {
            self.newest = self.newest.max(at);
        }
        Some(rest.len())
    }

    /// Waits for the appenders, and takes over what they have.
    fn end(self) -> Recovered {
        let (shards, mut recovered) = (self.appenders.len(), self.recovered);
        recovered.samples += recovered.in_files;
        // Each ends with its channel: all of them before the first is waited for.
        let threads: Vec<_> = self
            .appenders
            .into_iter()
            .map(|mut appender| {
                appender.flush();
                appender.thread
            })
            .collect();
        for (shard, thread) in threads.into_iter().enumerate() {
            match thread.join() {
                Ok((part, count)) => {
                    self.head.adopt(part, |number| number * shards + shard);
                    recovered.samples += count.samples;
                    recovered.skipped += count.skipped;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        for (slot, cover) in self.covers.iter().enumerate() {
            self.head.begin_with(slot, self.found.known(cover));
        }
        recovered
    }
}

/// A text with its length before it.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(varint(rest)?).ok()?;
    let (text, more) = rest.split_at_checked(len)?;
    *rest = more;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_any_bytes_is_refused_or_read_without_a_panic() {
        let mut rng = synod_base::Rng::new(7);
        let mut head = Head::new(Limits::default());
        replay(&mut head, &mut Found::default(), None, |replay| {
            for _ in 0..20_000 {
                let bytes: Vec<u8> = (0..rng.below(60)).map(|_| rng.below(256) as u8).collect();
                replay.record(bytes.into());
            }
        });
    }
}
