//! The series in memory.

use crate::chunk::Chunk;
use crate::index::Index;
use std::collections::HashMap;
use std::fmt;
use synod_promql::{Labels, Matcher, Sample, Series, all_take};

/// Samples of a chunk, at most.
const CHUNK_SAMPLES: usize = 240;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series that there may be.
    pub series: usize,
    /// Labels of a series.
    pub labels: usize,
    /// Bytes of all labels of a series.
    pub label_bytes: usize,
    /// How long samples stay, ms.
    pub retention: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { series: 200_000, labels: 64, label_bytes: 8 << 10, retention: 2 * 3_600_000 }
    }
}

/// A series of a head, for as long as the head lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SeriesId(u32);

impl SeriesId {
    /// As the log writes it.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.0)
    }
}

/// Why a sample or a series was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The series has a later sample.
    OutOfOrder,
    /// It has another value at this very time.
    Duplicate,
    /// There are as many series as the limit allows.
    TooManySeries(usize),
    /// Too many labels, or too many bytes of them.
    TooManyLabels(usize),
    /// The series is no more: nothing came for longer than the retention.
    Gone,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::OutOfOrder => f.write_str("out of order sample"),
            Refused::Duplicate => f.write_str("duplicate sample for timestamp"),
            Refused::TooManySeries(most) => {
                write!(f, "there are {most} series already, which is the limit")
            }
            Refused::TooManyLabels(most) => {
                write!(f, "a series has more labels, or longer ones, than the limit of {most}")
            }
            Refused::Gone => f.write_str("the series was dropped as too old"),
        }
    }
}

impl std::error::Error for Refused {}

#[derive(Debug)]
struct Entry {
    labels: Labels,
    /// Oldest first; the last is appended to.
    chunks: Vec<Chunk>,
}

/// What a head holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Series.
    pub series: usize,
    /// Chunks.
    pub chunks: usize,
    /// Bytes of chunks.
    pub chunk_bytes: usize,
    /// Oldest sample's time; 0 if there is none.
    pub oldest: i64,
    /// Newest sample's time; 0 if there is none.
    pub newest: i64,
}

/// See the file's header. One owner appends; readers share it by a lock of its owner.
#[derive(Debug, Default)]
pub struct Head {
    limits: Limits,
    /// By number; a gap is a series that is no more.
    entries: Vec<Option<Entry>>,
    known: HashMap<Labels, u32>,
    index: Index,
    newest: i64,
}

impl Head {
    /// An empty one.
    pub fn new(limits: Limits) -> Head {
        Head { limits, ..Head::default() }
    }

    /// The series with these labels; a new one if need be.
    pub fn series(&mut self, labels: &Labels) -> Result<SeriesId, Refused> {
        if let Some(number) = self.known.get(labels) {
            return Ok(SeriesId(*number));
        }
        if self.known.len() >= self.limits.series {
            return Err(Refused::TooManySeries(self.limits.series));
        }
        if labels.len() > self.limits.labels {
            return Err(Refused::TooManyLabels(self.limits.labels));
        }
        let bytes: usize = labels.iter().map(|(n, v)| n.len() + v.len()).sum();
        if bytes > self.limits.label_bytes {
            return Err(Refused::TooManyLabels(self.limits.label_bytes));
        }
        let number = self.entries.len() as u32;
        self.index.add(number, labels);
        self.known.insert(labels.clone(), number);
        self.entries.push(Some(Entry { labels: labels.clone(), chunks: Vec::new() }));
        Ok(SeriesId(number))
    }

    /// Appends a sample. The same one again is taken as done.
    pub fn append(&mut self, id: SeriesId, sample: Sample) -> Result<(), Refused> {
        let entry = self.entries.get_mut(id.0 as usize).and_then(Option::as_mut);
        let entry = entry.ok_or(Refused::Gone)?;
        self.newest = self.newest.max(sample.at);
        let Some(chunk) = entry.chunks.last_mut() else {
            entry.chunks.push(Chunk::new(sample));
            return Ok(());
        };
        let last = chunk.last();
        if sample.at < last.at {
            return Err(Refused::OutOfOrder);
        }
        if sample.at == last.at {
            let same = sample.value.to_bits() == last.value.to_bits();
            return if same { Ok(()) } else { Err(Refused::Duplicate) };
        }
        if chunk.len() < CHUNK_SAMPLES {
            chunk.push(sample);
        } else {
            chunk.seal();
            entry.chunks.push(Chunk::new(sample));
        }
        Ok(())
    }

    /// The labels of a series.
    pub fn labels(&self, id: SeriesId) -> Option<&Labels> {
        Some(&self.entries.get(id.0 as usize)?.as_ref()?.labels)
    }

    fn matching<'a>(&'a self, matchers: &'a [Matcher]) -> impl Iterator<Item = &'a Entry> {
        let candidates = self.index.candidates(matchers);
        let all = candidates.unwrap_or_else(|| (0..self.entries.len() as u32).collect());
        let entries = all.into_iter().filter_map(|n| self.entries[n as usize].as_ref());
        entries.filter(|e| all_take(matchers, &e.labels))
    }

    /// The series that all matchers take, with their samples in `from..=to`.
    pub fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let mut found = Vec::new();
        for entry in self.matching(matchers) {
            let mut samples = Vec::new();
            let within = |c: &&Chunk| c.last().at >= from && c.first_at() <= to;
            for chunk in entry.chunks.iter().filter(within) {
                let all = chunk.samples();
                let all = all.map_err(|_| format!("a chunk of {} is damaged", entry.labels))?;
                samples.extend(all.into_iter().filter(|s| (from..=to).contains(&s.at)));
            }
            if !samples.is_empty() {
                found.push(Series { labels: entry.labels.clone(), samples });
            }
        }
        Ok(found)
    }

    /// The labels of the series that have samples in `from..=to` and that all matchers of
    /// one of the sets take; of all series if there is no set.
    pub fn labels_of(&self, sets: &[Vec<Matcher>], from: i64, to: i64) -> Vec<Labels> {
        let live = |e: &&Entry| {
            let (first, last) = (e.chunks.first(), e.chunks.last());
            first.is_some_and(|c| c.first_at() <= to) && last.is_some_and(|c| c.last().at >= from)
        };
        let mut all: Vec<Labels> = match sets {
            [] => self.entries.iter().flatten().filter(live).map(|e| e.labels.clone()).collect(),
            sets => {
                let found = sets.iter().flat_map(|set| self.matching(set));
                found.filter(live).map(|e| e.labels.clone()).collect()
            }
        };
        all.sort();
        all.dedup();
        all
    }

    /// All label names, ascending.
    pub fn label_names(&self) -> Vec<String> {
        self.index.names().map(str::to_owned).collect()
    }

    /// All values of a label, ascending.
    pub fn label_values(&self, name: &str) -> Vec<String> {
        self.index.values(name).map(str::to_owned).collect()
    }

    /// Drops chunks that are older than the retention, and series of which none is left.
    pub fn drop_old(&mut self) -> usize {
        let oldest = self.newest - self.limits.retention;
        let mut gone = 0;
        for number in 0..self.entries.len() {
            let Some(entry) = &mut self.entries[number] else { continue };
            entry.chunks.retain(|c| c.last().at >= oldest);
            if entry.chunks.is_empty()
                && let Some(entry) = self.entries[number].take()
            {
                self.index.remove(number as u32, &entry.labels);
                self.known.remove(&entry.labels);
                gone += 1;
            }
        }
        gone
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats { series: self.known.len(), newest: self.newest, ..Stats::default() };
        for chunk in self.entries.iter().flatten().flat_map(|e| &e.chunks) {
            stats.chunks += 1;
            stats.chunk_bytes += chunk.bytes();
            if stats.oldest == 0 || chunk.first_at() < stats.oldest {
                stats.oldest = chunk.first_at();
            }
        }
        stats
    }

    /// Its bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(name: &str, op: &str, value: &str) -> Matcher {
        Matcher::new(name, op, value).expect("a matcher")
    }

    fn head() -> Head {
        let mut head = Head::new(Limits { retention: 1_000, ..Limits::default() });
        for (i, job) in ["a", "b", "c"].iter().enumerate() {
            let labels = Labels::new([("__name__", "up"), ("job", job)]);
            let id = head.series(&labels).expect("room");
            for at in 0..500 {
                head.append(id, Sample { at: at * 10, value: i as f64 }).expect("in order");
            }
        }
        head
    }

    #[test]
    fn series_are_found_by_their_labels() {
        let head = head();
        let found = |matchers: &[Matcher]| {
            let found = head.select(matchers, 100, 200).expect("whole");
            found.iter().map(|s| s.labels.get("job").to_owned()).collect::<Vec<_>>()
        };
        let name = matcher("__name__", "=", "up");
        assert_eq!(found(std::slice::from_ref(&name)), ["a", "b", "c"]);
        assert_eq!(found(&[matcher("job", "=~", "a|c")]), ["a", "c"]);
        assert_eq!(found(&[name.clone(), matcher("job", "!=", "b")]), ["a", "c"]);
        assert_eq!(found(&[name, matcher("none", "=", "")]), ["a", "b", "c"]);
        assert!(found(&[matcher("job", "=", "d")]).is_empty());
        let samples =
            &head.select(&[matcher("job", "=", "b")], 100, 200).expect("whole")[0].samples;
        assert_eq!((samples.len(), samples[0].at, samples[10].at), (11, 100, 200));
    }

    #[test]
    fn what_is_out_of_order_or_too_much_is_refused() {
        let mut head = Head::new(Limits { series: 1, labels: 2, ..Limits::default() });
        let id = head.series(&Labels::new([("a", "b")])).expect("room");
        let sample = |at, value| Sample { at, value };
        assert_eq!(head.append(id, sample(10, 1.0)), Ok(()));
        assert_eq!(head.append(id, sample(10, 1.0)), Ok(()));
        assert_eq!(head.append(id, sample(10, 2.0)), Err(Refused::Duplicate));
        assert_eq!(head.append(id, sample(9, 1.0)), Err(Refused::OutOfOrder));
        assert_eq!(head.series(&Labels::new([("a", "c")])), Err(Refused::TooManySeries(1)));
        let mut head = Head::new(Limits { labels: 1, ..Limits::default() });
        let two = Labels::new([("a", "b"), ("c", "d")]);
        assert_eq!(head.series(&two), Err(Refused::TooManyLabels(1)));
    }

    #[test]
    fn what_is_old_goes() {
        let mut head = head();
        let before = head.stats();
        let late = head.series(&Labels::new([("job", "late")])).expect("room");
        head.append(late, Sample { at: 6_000, value: 1.0 }).expect("in order");
        assert_eq!(head.drop_old(), 3);
        assert!(head.stats().chunk_bytes < before.chunk_bytes);
        assert_eq!(head.label_values("job"), ["late"]);
        assert_eq!(head.append(SeriesId(0), Sample { at: 9_999, value: 1.0 }), Err(Refused::Gone));
    }
}
