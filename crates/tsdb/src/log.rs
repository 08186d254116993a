//! What was appended, made durable; and brought back.
//!
//! A record is a sequence of
//! - 1, number, count, (name, value)…: this number means the series of these labels;
//! - 4, time, count, samples of that time, each a varint with the value's length in its four
//!   low bits and above them how far its number is from that of the one before (zigzag),
//!   then so many bytes of the value, the highest first (what is left out is zero);
//! - 5, the same: samples that came after later ones of their series;
//! - 6, time, count, histograms of that time, each the number of its series and what
//!   `native.rs` writes of one
//!
//! with numbers, counts and times (zigzag) as varints, texts with their length before.
//!
//! Series are named again when samples begin to go into another block: what was written
//! before can go when its samples are in blocks, and nothing that stays needs it.

use crate::chunk_file::put_labels;
use crate::found::Found;
use crate::head::{Head, SeriesId};
use crate::native;
use crate::replay::replay;
use crate::spill::Spill;
use crate::varint::zigzag;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::scope;
use synod_base::codec::put_varint;
use synod_promql::{Histogram, Labels};
use synod_wal::{Disk, Journal, JournalError, Options, Recovery};

pub(crate) const SERIES: u8 = 1;
pub(crate) const SAMPLES: u8 = 4;
pub(crate) const LATE: u8 = 5;
pub(crate) const HISTOGRAMS: u8 = 6;
/// A record is closed when it is larger: well below what a segment takes.
const RECORD_BYTES: usize = 1 << 20;

/// What waits to be made durable.
#[derive(Default)]
pub struct Batch {
    records: Vec<Vec<u8>>,
    newest: i64,
}

impl Batch {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }
}

/// What a log brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Samples that are in the head again.
    pub samples: u64,
    /// How many of them are in full chunks that are in files already.
    pub in_files: u64,
    /// Samples that are in blocks already.
    pub in_blocks: u64,
    /// Samples of series whose names are in segments that are gone, or that the head's
    /// limits refuse.
    pub skipped: u64,
    /// Whether a torn tail was cut.
    pub cut: bool,
}

/// The log of a head. One owner; [`SeriesLog::write`] blocks.
pub struct SeriesLog<D: Disk> {
    journal: Journal<D>,
    /// The newest sample in each segment, oldest segment first.
    segments: VecDeque<(u64, i64)>,
}

/// Gathers what a head takes, for its log. Owned beside the head, so that appending needs no
/// lock of the log.
#[derive(Default)]
pub struct Gather {
    /// By slot of a series: whether it is named already.
    named: Vec<Option<SeriesId>>,
    /// The block that the newest samples will go into.
    block: i64,
    batch: Batch,
}

impl Gather {
    /// Notes samples of one time that the head has taken in order.
    pub fn add(&mut self, head: &Head, at: i64, samples: &[(SeriesId, f64)]) {
        self.note(head, SAMPLES, at, samples);
    }

    /// Notes samples of one time that the head has taken though they came late.
    pub fn add_late(&mut self, head: &Head, at: i64, samples: &[(SeriesId, f64)]) {
        self.note(head, LATE, at, samples);
    }

    /// Notes histograms of one time that the head has taken.
    pub fn add_histograms(&mut self, head: &Head, at: i64, all: &[(SeriesId, Arc<Histogram>)]) {
        if all.is_empty() {
            return;
        }
        let mut out = self.begin(head, all.iter().map(|(id, _)| *id));
        out.push(HISTOGRAMS);
        put_varint(&mut out, zigzag(at));
        put_varint(&mut out, all.len() as u64);
        for (id, histogram) in all {
            put_varint(&mut out, id.number());
            native::put(&mut out, histogram);
        }
        self.batch.records.push(out);
        self.batch.newest = self.batch.newest.max(head.newest());
    }

    /// The record that is written on, in which these series are named.
    fn begin(&mut self, head: &Head, series: impl Iterator<Item = SeriesId>) -> Vec<u8> {
        let block = head.limits().block_of(head.newest());
        if block != self.block {
            self.block = block;
            self.name_again();
        }
        let mut out = match self.batch.records.pop() {
            Some(record) if record.len() < RECORD_BYTES => record,
            Some(full) => {
                self.batch.records.push(full);
                Vec::new()
            }
            None => Vec::new(),
        };
        for id in series {
            let slot = id.number() as usize;
            if slot >= self.named.len() {
                self.named.resize(slot + 1, None);
            }
            if self.named[slot].replace(id) == Some(id) {
                continue;
            }
            if let Some(labels) = head.labels(id) {
                name(&mut out, id, &labels);
            }
        }
        out
    }

    fn note(&mut self, head: &Head, kind: u8, at: i64, samples: &[(SeriesId, f64)]) {
        if samples.is_empty() {
            return;
        }
        let mut out = self.begin(head, samples.iter().map(|(id, _)| *id));
        out.push(kind);
        put_varint(&mut out, zigzag(at));
        put_varint(&mut out, samples.len() as u64);
        let mut before = 0;
        for (id, value) in samples {
            let number = id.number() as i64;
            let bits = value.to_bits();
            let len = 8 - bits.trailing_zeros().min(64) as usize / 8;
            put_varint(&mut out, zigzag(number - before) << 4 | len as u64);
            out.extend_from_slice(&bits.to_be_bytes()[..len]);
            before = number;
        }
        self.batch.records.push(out);
        // Late ones go into blocks when the newest of now do.
        self.batch.newest = self.batch.newest.max(head.newest());
    }

    /// What was noted since the last time.
    pub fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Names all series again, as if the log were new.
    pub fn name_again(&mut self) {
        self.named.fill(None);
    }
}

fn name(out: &mut Vec<u8>, id: SeriesId, labels: &Labels) {
    out.push(SERIES);
    put_varint(out, id.number());
    put_labels(out, labels);
}

impl<D: Disk> SeriesLog<D> {
    /// Opens the log in `disk`, and puts what it holds into the head.
    pub fn open(
        disk: D,
        options: Options,
        head: &mut Head,
    ) -> Result<(SeriesLog<D>, Recovered), JournalError> {
        SeriesLog::open_spilling(disk, options, head, None)
    }

    /// The same, but what is in files already (see [`Spill`]) is not taken from the log; and
    /// moves chunks out of memory meanwhile.
    pub fn open_spilling(
        disk: D,
        options: Options,
        head: &mut Head,
        mut spill: Option<&mut Spill>,
    ) -> Result<(SeriesLog<D>, Recovered), JournalError> {
        let mut segments: VecDeque<(u64, i64)> = VecDeque::new();
        let mut found = spill.as_mut().map_or_else(Found::default, |spill| spill.take_found());
        found.sort(head.floor());
        let (opened, mut recovered) = replay(head, &mut found, spill.as_deref_mut(), |replay| {
            read_ahead(disk, options, |segment, records| {
                let newest = records.into_iter().map(|record| replay.record(record)).last();
                segments.extend(newest.map(|newest| (segment, newest)));
            })
        });
        if let Some(spill) = spill {
            spill.keep(found, opened.is_ok());
        }
        let (journal, recovery) = opened?;
        recovered.cut = recovery.cut.is_some();
        head.drop_old();
        Ok((SeriesLog { journal, segments }, recovered))
    }

    /// Opens the log to write on, after it failed: what it holds is in the head.
    pub fn reopen(disk: D, options: Options, newest: i64) -> Result<SeriesLog<D>, JournalError> {
        let (journal, _) = Journal::open_each(disk, 0, options, |_, _| {})?;
        let segments = journal.segments().iter().map(|segment| (*segment, newest)).collect();
        Ok(SeriesLog { journal, segments })
    }

    /// Makes a batch durable, and drops segments of which all is older than `oldest`: what
    /// is in blocks.
    pub fn write(&mut self, batch: &Batch, oldest: i64) -> Result<(), JournalError> {
        for record in &batch.records {
            let segment = self.journal.append([(0, &record[..])].into_iter())?;
            match self.segments.back_mut() {
                Some((last, newest)) if *last == segment => *newest = (*newest).max(batch.newest),
                _ => self.segments.push_back((segment, batch.newest)),
            }
        }
        while self.segments.len() > 1 && self.segments[0].1 < oldest {
            self.segments.pop_front();
            let first = self.segments[0].0;
            self.journal.drop_before(first)?;
        }
        Ok(())
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.journal.into_disk()
    }
}

/// Opens a journal and hands out the records of each segment, while a thread of its own reads
/// the next one: no more than three segments are in memory.
fn read_ahead<D: Disk>(
    disk: D,
    options: Options,
    mut take: impl FnMut(u64, Vec<Bytes>),
) -> Result<(Journal<D>, Recovery), JournalError> {
    let (read, waiting) = sync_channel::<(u64, Vec<Bytes>)>(1);
    scope(|scope| {
        let reader = scope.spawn(move || {
            let mut filling = (0, Vec::new());
            let opened = Journal::open_each(disk, 0, options, |segment, record| {
                if segment != filling.0 {
                    let _ = read.send(std::mem::replace(&mut filling, (segment, Vec::new())));
                }
                filling.1.push(record.bytes);
            });
            // Whoever takes them waits for the end: only a panic there makes this fail.
            let _ = read.send(filling);
            opened
        });
        waiting.into_iter().for_each(|(segment, records)| take(segment, records));
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use synod_promql::{Matcher, Sample};
    use synod_wal::MemDisk;

    fn options() -> Options {
        Options { segment_bytes: 1 << 20, spares_max: 1 }
    }

    /// With what is older than `floor` in blocks.
    fn open(disk: MemDisk, floor: i64) -> (Head, SeriesLog<MemDisk>, Recovered) {
        let mut head = Head::new(Limits { block_range: 100_000, ..Limits::default() });
        head.raise_floor(floor);
        let (log, recovered) = SeriesLog::open(disk, options(), &mut head).expect("it opens");
        (head, log, recovered)
    }

    /// Rounds of a hundred series, a second apart.
    fn fill(
        head: &mut Head,
        log: &mut SeriesLog<MemDisk>,
        gather: &mut Gather,
        rounds: std::ops::Range<i64>,
    ) {
        for round in rounds {
            let mut taken = Vec::new();
            for n in 0..100 {
                let n = format!("{n}");
                let id = head.series(&Labels::new([("__name__", "m"), ("n", &n)])).expect("room");
                let sample = Sample { at: round * 1_000, value: round as f64 };
                head.append(id, sample).expect("in order");
                taken.push((id, sample.value));
            }
            gather.add(head, round * 1_000, &taken);
            // As if blocks were cut.
            if let Some(until) = head.due() {
                head.raise_floor(until);
                head.trim(0..head.slots(), until, true);
            }
            log.write(&gather.take(), head.floor()).expect("written");
        }
    }

    fn held(head: &Head) -> (usize, usize) {
        let all =
            head.select(&[Matcher::new("__name__", "=", "m").expect("a matcher")], 0, i64::MAX);
        let all = all.expect("whole");
        (all.len(), all.iter().map(|s| s.samples.len()).sum())
    }

    #[test]
    fn what_was_written_is_there_after_a_crash_and_what_was_not_may_be_gone() {
        let (mut head, mut log, _) = open(MemDisk::default(), 0);
        let mut gather = Gather::default();
        fill(&mut head, &mut log, &mut gather, 0..50);
        let mut disk = log.into_disk();
        disk.crash(|_, _| false);
        let (again, _, recovered) = open(disk, 0);
        assert_eq!(held(&again), (100, 5_000));
        assert_eq!((recovered.samples, recovered.skipped), (5_000, 0));
    }

    #[test]
    fn old_segments_go_and_the_rest_can_be_read_without_them() {
        let (mut head, mut log, _) = open(MemDisk::default(), 0);
        let mut gather = Gather::default();
        fill(&mut head, &mut log, &mut gather, 0..3_000);
        assert!(log.segments.len() <= 4, "{:?}", log.segments);
        let floor = head.floor();
        assert!(floor > 2_800_000, "{floor}");
        let mut disk = log.into_disk();
        disk.crash(|_, _| false);
        let (again, mut log, recovered) = open(disk, floor);
        assert_eq!(recovered.skipped, 0);
        assert!(recovered.in_blocks < 120_000, "{recovered:?}");
        assert_eq!(held(&again), held(&head));
        // And it goes on.
        let (mut head, mut gather) = (again, Gather::default());
        fill(&mut head, &mut log, &mut gather, 3_000..3_010);
        let last = head.select(&[], 3_009_000, i64::MAX).expect("whole");
        assert_eq!((last.len(), last[0].samples.len()), (100, 1));
    }

    #[test]
    fn all_comes_back_though_no_block_was_cut_for_long() {
        let (mut head, mut log, _) = open(MemDisk::default(), 0);
        let mut gather = Gather::default();
        for round in 0..400 {
            let at = round * 1_000;
            for n in 0..10 {
                let n = format!("{n}");
                let id = head.series(&Labels::new([("__name__", "m"), ("n", &n)])).expect("room");
                head.append(id, Sample { at, value: 1.0 }).expect("in order");
                gather.add(&head, at, &[(id, 1.0)]);
            }
            let id = head.series(&Labels::new([("__name__", "h")])).expect("room");
            let some = std::sync::Arc::new(synod_promql::Histogram::default());
            head.append_histogram(id, at, &some).expect("in order");
            gather.add_histograms(&head, at, &[(id, some)]);
        }
        // A full disk may keep blocks from being written.
        assert!(head.due().is_some(), "a block is due");
        log.write(&gather.take(), 0).expect("written");
        let (again, _, recovered) = open(log.into_disk(), 0);
        assert_eq!((recovered.samples, recovered.skipped), (4_400, 0));
        assert_eq!(held(&again), (10, 4_000));
    }

    #[test]
    fn late_samples_come_back_though_newer_ones_are_in_blocks() {
        let (mut head, mut log, _) = open(MemDisk::default(), 0);
        let mut gather = Gather::default();
        fill(&mut head, &mut log, &mut gather, 0..300);
        let floor = head.floor();
        assert!(floor >= 100_000);
        head.set_limits(Limits { out_of_order: 1_000_000, ..head.limits() });
        let id = head.series(&Labels::new([("__name__", "m"), ("n", "7")])).expect("there");
        head.append(id, Sample { at: 50_500, value: 0.1 }).expect("within the window");
        gather.add_late(&head, 50_500, &[(id, 0.1)]);
        log.write(&gather.take(), floor).expect("written");
        let (again, _, recovered) = open(log.into_disk(), floor);
        assert_eq!(recovered.skipped, 0);
        let seventh = Matcher::new("n", "=", "7").expect("a matcher");
        let found = again.select(&[seventh], 0, floor - 1).expect("whole");
        assert_eq!(found[0].samples, [Sample { at: 50_500, value: 0.1 }]);
    }
}
