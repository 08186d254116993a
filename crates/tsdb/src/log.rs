//! What was appended, made durable; and brought back.
//!
//! A record is a sequence of
//! - 1, number, count, (name, value)…: this number means the series of these labels;
//! - 2, time, count, (number, value as 8 bytes, little-endian)…: samples of one time
//!
//! with numbers, counts and times (zigzag) as varints, texts with their length before.

use crate::head::{Head, SeriesId};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};
use synod_promql::{Labels, Sample};
use synod_wal::{Disk, Journal, JournalError, Options};

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
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
}

/// What a log brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Samples that are in the head again.
    pub samples: u64,
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

/// What goes into the log: numbers of series, and in which segment they were named.
/// Owned beside the head, so that appending needs no lock of the log.
#[derive(Default)]
struct Named(HashMap<SeriesId, u64>);

/// Gathers what a head takes, for its log.
#[derive(Default)]
pub struct Gather {
    named: Named,
    /// The segment that the log writes to, as last heard.
    segment: u64,
    batch: Batch,
}

impl Gather {
    /// Notes samples of one time that the head has taken.
    pub fn add(&mut self, head: &Head, at: i64, samples: &[(SeriesId, f64)]) {
        if samples.is_empty() {
            return;
        }
        let mut out = match self.batch.records.pop() {
            Some(record) if record.len() < RECORD_BYTES => record,
            Some(full) => {
                self.batch.records.push(full);
                Vec::new()
            }
            None => Vec::new(),
        };
        for (id, _) in samples {
            let Some(labels) = head.labels(*id) else { continue };
            if self.named.0.insert(*id, self.segment) != Some(self.segment) {
                name(&mut out, *id, labels);
            }
        }
        out.push(SAMPLES);
        put_varint(&mut out, zigzag(at));
        put_varint(&mut out, samples.len() as u64);
        for (id, value) in samples {
            put_varint(&mut out, id.number());
            out.extend_from_slice(&value.to_le_bytes());
        }
        self.batch.records.push(out);
        self.batch.newest = self.batch.newest.max(at);
    }

    /// What was noted since the last time.
    pub fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// The log went on to this segment: series are named again.
    pub fn segment(&mut self, segment: u64) {
        if segment != self.segment {
            self.segment = segment;
            // What was not used for a whole segment is most likely no more.
            self.named.0.retain(|_, named| *named + 1 >= segment);
        }
    }
}

fn name(out: &mut Vec<u8>, id: SeriesId, labels: &Labels) {
    out.push(SERIES);
    put_varint(out, id.number());
    put_varint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

impl<D: Disk> SeriesLog<D> {
    /// Opens the log in `disk`, and puts what it holds into the head.
    pub fn open(
        disk: D,
        options: Options,
        head: &mut Head,
    ) -> Result<(SeriesLog<D>, Recovered), JournalError> {
        let (journal, recovery) = Journal::open(disk, 0, options)?;
        let mut recovered = Recovered { cut: recovery.cut.is_some(), ..Recovered::default() };
        let mut known = HashMap::new();
        let mut newest = 0;
        for record in recovery.records {
            let read = replay(record.bytes, head, &mut known, &mut recovered, &mut newest);
            // The journal's checksum held: this is not damage but another format.
            if read.is_err() {
                recovered.skipped += 1;
            }
        }
        head.drop_old();
        // Which segment a record came from is not told: all count as the newest.
        let segments = journal.segments().iter().map(|s| (*s, newest)).collect();
        Ok((SeriesLog { journal, segments }, recovered))
    }

    /// Makes a batch durable, and drops segments of which all is older than `oldest`.
    /// Gives the segment for [`Gather::segment`].
    pub fn write(&mut self, batch: &Batch, oldest: i64) -> Result<u64, JournalError> {
        for record in &batch.records {
            let segment = self.journal.append([(0, &record[..])].into_iter())?;
            match self.segments.back_mut() {
                Some((last, newest)) if *last == segment => *newest = (*newest).max(batch.newest),
                _ => self.segments.push_back((segment, batch.newest)),
            }
        }
        // The first record of a segment may use names from the one before it.
        while self.segments.len() > 2 && self.segments[0].1 < oldest && self.segments[1].1 < oldest
        {
            self.segments.pop_front();
            let first = self.segments[0].0;
            self.journal.drop_before(first)?;
        }
        Ok(self.journal.segment())
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.journal.into_disk()
    }
}

fn replay(
    record: Bytes,
    head: &mut Head,
    known: &mut HashMap<u64, Option<SeriesId>>,
    recovered: &mut Recovered,
    newest: &mut i64,
) -> Result<(), Malformed> {
    let mut r = Reader::new(record);
    while !r.is_empty() {
        match r.u8("kind")? {
            SERIES => {
                let number = r.varint("series")?;
                let count = r.count("labels")?;
                let mut labels = Vec::new();
                for _ in 0..count {
                    labels.push((r.string("label name")?, r.string("label value")?));
                }
                let labels = Labels::new(labels.iter().map(|(n, v)| (&**n, &**v)));
                known.insert(number, head.series(&labels).ok());
            }
            _ => {
                let raw = r.varint("time")?;
                let at = (raw >> 1) as i64 ^ -((raw & 1) as i64);
                *newest = (*newest).max(at);
                for _ in 0..r.varint("samples")? {
                    let number = r.varint("series")?;
                    let value = f64::from_bits(r.u64("value")?);
                    let id = known.get(&number).copied().flatten();
                    match id.map(|id| head.append(id, Sample { at, value })) {
                        Some(Ok(())) => recovered.samples += 1,
                        _ => recovered.skipped += 1,
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Limits;
    use synod_promql::Matcher;
    use synod_wal::MemDisk;

    fn options() -> Options {
        Options { segment_bytes: 1 << 20, spares_max: 1 }
    }

    fn open(disk: MemDisk) -> (Head, SeriesLog<MemDisk>, Recovered) {
        let mut head = Head::new(Limits { retention: 100_000, ..Limits::default() });
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
            let segment = log.write(&gather.take(), round * 1_000 - 100_000).expect("written");
            gather.segment(segment);
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
        let (mut head, mut log, _) = open(MemDisk::default());
        let mut gather = Gather::default();
        fill(&mut head, &mut log, &mut gather, 0..50);
        let mut disk = log.into_disk();
        disk.crash(|_, _| false);
        let (again, _, recovered) = open(disk);
        assert_eq!(held(&again), (100, 5_000));
        assert_eq!((recovered.samples, recovered.skipped), (5_000, 0));
    }

    #[test]
    fn old_segments_go_and_the_rest_can_be_read_without_them() {
        let (mut head, mut log, _) = open(MemDisk::default());
        let mut gather = Gather::default();
        fill(&mut head, &mut log, &mut gather, 0..3_000);
        assert!(log.segments.len() <= 4, "{:?}", log.segments);
        head.drop_old();
        let before = held(&head);
        let mut disk = log.into_disk();
        disk.crash(|_, _| false);
        let (again, mut log, _) = open(disk);
        let newest = Matcher::new("__name__", "=", "m").expect("a matcher");
        let last = |head: &Head| {
            head.select(std::slice::from_ref(&newest), 2_900_000, i64::MAX).expect("whole")
        };
        assert_eq!(last(&again).len(), last(&head).len());
        // The retention is a hundred seconds.
        assert!(held(&again).1 >= 100 * 100, "{:?} {before:?}", held(&again));
        // And it goes on.
        let (mut head, mut gather) = (again, Gather::default());
        fill(&mut head, &mut log, &mut gather, 3_000..3_010);
        assert_eq!(last(&head)[0].samples.last().map(|s| s.at), Some(3_009_000));
    }

    #[test]
    fn a_record_of_any_bytes_is_refused_or_read_without_a_panic() {
        let mut rng = synod_base::Rng::new(7);
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..rng.below(60)).map(|_| rng.below(256) as u8).collect();
            let mut head = Head::new(Limits::default());
            let mut recovered = Recovered::default();
            let _ = replay(bytes.into(), &mut head, &mut HashMap::new(), &mut recovered, &mut 0);
        }
    }
}
