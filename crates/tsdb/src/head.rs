//! The series in memory.

use crate::block::bytes::Fault;
use crate::chunk::Chunk;
use crate::held::{Copied, Held};
use crate::index::{Index, PairId};
use crate::late::Late;
use crate::limits::{Limits, Refused};
use crate::native::Native;
use crate::spill::Place;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::ops::Range;
use synod_promql::{Labels, Matcher, Sample, Series};

/// Samples of a chunk, at most.
const CHUNK_SAMPLES: usize = 240;
/// What an empty head has as its newest sample's time, and an uncut one as its floor.
const NEVER: i64 = i64::MIN / 4;

/// A series of a head, for as long as it lives there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeriesId {
    slot: u32,
    life: u32,
}

impl SeriesId {
    /// As the log writes it: one of a later life is named before it is used.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.slot)
    }

    /// How many series had its number before it.
    pub(crate) fn life(self) -> u64 {
        u64::from(self.life)
    }

    /// In a head that replays: where the series is of a part's; see [`Head::adopt`].
    pub(crate) fn of_part(self, (shard, shards): (usize, usize)) -> SeriesId {
        SeriesId { slot: (self.slot as usize * shards + shard) as u32, life: 0 }
    }

    /// The other way round.
    pub(crate) fn in_part(self, (_, shards): (usize, usize)) -> SeriesId {
        SeriesId { slot: (self.slot as usize / shards) as u32, life: 0 }
    }
}

/// How a sample was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is its series' newest.
    InOrder,
    /// It is older than the series' newest.
    Late,
    /// It was there already.
    Again,
}

#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub pairs: Box<[PairId]>,
    /// What is appended to.
    pub open: Option<Chunk>,
    /// Oldest first.
    pub sealed: Vec<Held>,
    pub late: Option<Box<Late>>,
    /// Its histograms, if it has had any.
    pub native: Option<Box<Native>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// How many series were here before.
    life: u32,
    entry: Option<Box<Entry>>,
}

/// What a head holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Series.
    pub series: usize,
    /// Pairs of a label's name and value.
    pub pairs: usize,
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
#[derive(Debug)]
pub struct Head {
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// By the labels' hash.
    known: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(crate) index: Index,
    newest: i64,
    /// Of the samples in order, or earlier.
    oldest: i64,
    /// What is older is in blocks, or is being written to one.
    floor: i64,
    /// In order, what is older than the newest by more is not taken.
    span: i64,
    /// Chunks in order; bytes of memory that they and late samples take.
    chunks: usize,
    chunk_bytes: usize,
    /// Times of which it is known that one block holds them all.
    range: Range<i64>,
}

impl Head {
    /// An empty one.
    pub fn new(limits: Limits) -> Head {
        Head {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            known: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            index: Index::default(),
            newest: NEVER,
            oldest: i64::MAX,
            floor: NEVER,
            span: limits.head_span(),
            chunks: 0,
            chunk_bytes: 0,
            range: 0..0,
        }
    }

    fn entry(&self, id: SeriesId) -> Option<&Entry> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.entry.as_deref().filter(|_| slot.life == id.life)
    }

    fn hash(&self, labels: &Labels) -> u64 {
        self.hasher.hash_one(labels)
    }

    /// The series with these labels; a new one if need be.
    pub fn series(&mut self, labels: &Labels) -> Result<SeriesId, Refused> {
        let hash = self.hash(labels);
        let same = |number: &u32| {
            let entry = self.slots[*number as usize].entry.as_deref();
            entry.is_some_and(|e| self.index.same(&e.pairs, labels))
        };
        if let Some(number) = self.known.find(hash, same) {
            return Ok(SeriesId { slot: *number, life: self.slots[*number as usize].life });
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
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let pairs = self.index.add(number, labels);
        let slot = &mut self.slots[number as usize];
        slot.entry = Some(Box::new(Entry { pairs, ..Entry::default() }));
        let life = slot.life;
        let (slots, index, hasher) = (&self.slots, &self.index, &self.hasher);
        self.known.insert_unique(hash, number, |number| {
            let entry = slots[*number as usize].entry.as_deref();
            entry.map_or(0, |e| hasher.hash_one(index.labels(&e.pairs)))
        });
        Ok(SeriesId { slot: number, life })
    }

    /// An empty one for series without labels, to be adopted; see [`Head::unnamed`]. All
    /// that it gets was taken once: one series may be far ahead of the next.
    pub(crate) fn part(limits: Limits, floor: i64) -> Head {
        Head { floor, span: -NEVER, ..Head::new(limits) }
    }

    /// A series without labels, by its number: one that only [`Head::adopt`] makes whole.
    pub(crate) fn unnamed(&mut self, number: u32) -> SeriesId {
        let number_at = number as usize;
        if number_at >= self.slots.len() {
            self.slots.resize_with(number_at + 1, Slot::default);
        }
        self.slots[number_at].entry.get_or_insert_default();
        SeriesId { slot: number, life: 0 }
    }

    /// Takes over what a head of series without labels holds; `place` says where each of
    /// them is here. This one has no samples of theirs.
    pub(crate) fn adopt(&mut self, other: Head, place: impl Fn(usize) -> usize) {
        for (number, slot) in other.slots.into_iter().enumerate() {
            let mine = self.slots.get_mut(place(number)).and_then(|slot| slot.entry.as_mut());
            if let (Some(mine), Some(theirs)) = (mine, slot.entry) {
                let pairs = std::mem::take(&mut mine.pairs);
                **mine = Entry { pairs, ..*theirs };
            }
        }
        self.newest = self.newest.max(other.newest);
        self.oldest = self.oldest.min(other.oldest);
        self.chunks += other.chunks;
        self.chunk_bytes += other.chunk_bytes;
    }

    /// What a series has begins with these chunks of files: they are older than the rest.
    pub(crate) fn begin_with(&mut self, slot: usize, chunks: Vec<Held>) {
        let entry = self.slots.get_mut(slot).and_then(|slot| slot.entry.as_deref_mut());
        let (Some(entry), Some(first), Some(last)) = (entry, chunks.first(), chunks.last()) else {
            return;
        };
        self.chunks += chunks.len();
        self.oldest = self.oldest.min(first.first);
        self.newest = self.newest.max(last.last);
        entry.sealed.splice(0..0, chunks);
    }

    /// Appends a sample.
    pub fn append(&mut self, id: SeriesId, sample: Sample) -> Result<Taken, Refused> {
        let bound = self.in_order_from();
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.life == id.life);
        let entry = slot.and_then(|slot| slot.entry.as_deref_mut()).ok_or(Refused::Gone)?;
        if entry.native.is_some() {
            self.chunk_bytes -= entry.before_number(sample.at)?;
        }
        let Some(chunk) = &mut entry.open else {
            // Another life's chunk may be the newest.
            let before = entry.sealed.last().filter(|c| c.last >= sample.at);
            if let Some(before) = before.filter(|c| c.last == sample.at) {
                return match before.ends_with(sample) {
                    true => Ok(Taken::Again),
                    false => Err(Refused::Duplicate),
                };
            }
            if sample.at < bound || before.is_some() {
                let in_bounds = sample.at >= bound;
                let why = if in_bounds { Refused::OutOfOrder } else { Refused::OutOfBounds };
                return self.append_late(id, sample, why);
            }
            self.chunks += 1;
            self.chunk_bytes += entry.open.insert(Chunk::new(sample)).capacity();
            self.newest = self.newest.max(sample.at);
            self.oldest = self.oldest.min(sample.at);
            return Ok(Taken::InOrder);
        };
        let last = chunk.last();
        if sample.at == last.at {
            let same = sample.value.to_bits() == last.value.to_bits();
            return if same { Ok(Taken::Again) } else { Err(Refused::Duplicate) };
        }
        if sample.at < bound {
            return self.append_late(id, sample, Refused::OutOfBounds);
        }
        if sample.at < last.at {
            return self.append_late(id, sample, Refused::OutOfOrder);
        }
        if !self.range.contains(&sample.at) {
            let begin = self.limits.block_of(sample.at);
            self.range = begin..begin.saturating_add(self.limits.block_range);
        }
        // A chunk goes into one block.
        if chunk.len() < CHUNK_SAMPLES && chunk.first_at() >= self.range.start {
            let before = chunk.capacity();
            chunk.push(sample);
            self.chunk_bytes += chunk.capacity() - before;
        } else {
            if self.chunk_bytes > self.limits.head_bytes {
                return Err(Refused::Full(self.limits.head_bytes));
            }
            let full = std::mem::replace(chunk, Chunk::new(sample));
            self.chunk_bytes = self.chunk_bytes + chunk.capacity() - full.capacity();
            let sealed = Held::from(full.seal());
            self.chunk_bytes += sealed.memory();
            self.chunks += 1;
            if entry.sealed.len() == entry.sealed.capacity() {
                entry.sealed.reserve_exact(2);
            }
            entry.sealed.push(sealed);
        }
        self.newest = self.newest.max(sample.at);
        Ok(Taken::InOrder)
    }

    /// Appends a sample to those out of order, if the window allows it.
    fn append_late(
        &mut self,
        id: SeriesId,
        sample: Sample,
        otherwise: Refused,
    ) -> Result<Taken, Refused> {
        match self.limits.out_of_order {
            0 => Err(otherwise),
            window if sample.at < self.newest - window => Err(Refused::TooOld),
            _ if self.chunk_bytes > self.limits.head_bytes => {
                Err(Refused::Full(self.limits.head_bytes))
            }
            _ => self.put_late(id, sample),
        }
    }

    /// Appends a sample to those out of order.
    pub(crate) fn put_late(&mut self, id: SeriesId, sample: Sample) -> Result<Taken, Refused> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.life == id.life);
        let entry = slot.and_then(|slot| slot.entry.as_deref_mut()).ok_or(Refused::Gone)?;
        self.newest = self.newest.max(sample.at);
        let late = entry.late.get_or_insert_default();
        let before = late.bytes();
        let taken = late.insert(sample);
        self.chunk_bytes += late.bytes() - before;
        taken
    }

    /// A series that is changed.
    pub(crate) fn entry_mut(&mut self, id: SeriesId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.life == id.life);
        slot.and_then(|slot| slot.entry.as_deref_mut())
    }

    /// In order, nothing older is taken.
    pub(crate) fn in_order_from(&self) -> i64 {
        self.floor.max(self.newest - self.span)
    }

    /// Whether memory for samples is used up: how much there is.
    pub(crate) fn is_full(&self) -> Option<usize> {
        (self.chunk_bytes > self.limits.head_bytes).then_some(self.limits.head_bytes)
    }

    /// There is a sample of this time, in so many more chunks, and other bytes than before.
    pub(crate) fn grow(&mut self, at: i64, chunks: usize, bytes: usize, before: usize) {
        self.chunks += chunks;
        self.chunk_bytes = self.chunk_bytes + bytes - before;
        self.newest = self.newest.max(at);
        self.oldest = self.oldest.min(at);
    }

    /// The labels of a series.
    pub fn labels(&self, id: SeriesId) -> Option<Labels> {
        Some(self.index.labels(&self.entry(id)?.pairs))
    }

    fn matching<'a>(
        &'a self,
        matchers: &'a [Matcher],
    ) -> impl Iterator<Item = (SeriesId, &'a Entry)> {
        let candidates = self.index.candidates(matchers);
        let all = candidates.unwrap_or_else(|| (0..self.slots.len() as u32).collect());
        let entries = all.into_iter().filter_map(|number| {
            let slot = &self.slots[number as usize];
            Some((SeriesId { slot: number, life: slot.life }, slot.entry.as_deref()?))
        });
        let rest: Vec<&Matcher> = matchers.iter().filter(|m| m.takes("")).collect();
        entries.filter(move |(_, e)| self.index.all_take(rest.iter().copied(), &e.pairs))
    }

    /// The series that all matchers take.
    pub(crate) fn ids(&self, matchers: &[Matcher]) -> Vec<SeriesId> {
        self.matching(matchers).map(|(id, _)| id).collect()
    }

    /// What a series has in `from..=to`.
    pub(crate) fn copy(&self, id: SeriesId, from: i64, to: i64) -> Result<Option<Copied>, Fault> {
        self.entry(id).map(|entry| entry.copy(from, to)).transpose()
    }

    /// The series that all matchers take, with their samples in `from..=to`. Whoever shares
    /// the head uses [`crate::select`].
    pub fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, Fault> {
        let mut found = Vec::new();
        for (_, entry) in self.matching(matchers) {
            let series = entry.copy(from, to)?.series(from, to)?;
            if !series.is_empty() {
                found.push(Series { labels: self.index.labels(&entry.pairs), ..series });
            }
        }
        Ok(found)
    }

    /// The labels of the series that have samples in `from..=to` and that all matchers of
    /// one of the sets take; of all series if there is no set.
    pub fn labels_of(&self, sets: &[Vec<Matcher>], from: i64, to: i64) -> BTreeSet<Labels> {
        let sets = if sets.is_empty() { &[Vec::new()] } else { sets };
        let found = sets.iter().flat_map(|set| self.matching(set));
        found
            .filter(|(_, e)| e.overlaps(from, to))
            .map(|(_, e)| self.index.labels(&e.pairs))
            .collect()
    }

    /// All label names, ascending.
    pub fn label_names(&self) -> Vec<String> {
        self.index.names().map(str::to_owned).collect()
    }

    /// All values of a label, ascending.
    pub fn label_values(&self, name: &str) -> Vec<String> {
        self.index.values(name).map(str::to_owned).collect()
    }

    /// What blocks hold already: in order, only what is not older is taken from now on.
    pub fn raise_floor(&mut self, floor: i64) {
        self.floor = self.floor.max(floor);
    }

    /// What is older is in blocks, or is being written to one.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// The newest sample's time; far in the past if there is none.
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// Up to which time a block should be cut off, if one should.
    pub fn due(&self) -> Option<i64> {
        let due = self.oldest < self.newest.saturating_sub(self.limits.head_span());
        due.then(|| self.limits.block_of(self.oldest) + self.limits.block_range)
    }

    /// How many slots for series there are: see [`Head::trim`].
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Looks at some series, to change them.
    pub(crate) fn visit(
        &mut self,
        slots: Range<usize>,
        mut visitor: impl FnMut(SeriesId, &mut Entry, &Index),
    ) {
        let end = slots.end.min(self.slots.len());
        for number in slots.start.min(end)..end {
            let slot = &mut self.slots[number];
            if let Some(entry) = slot.entry.as_deref_mut() {
                visitor(SeriesId { slot: number as u32, life: slot.life }, entry, &self.index);
            }
        }
    }

    /// Hands out what some series have.
    pub(crate) fn each(&self, slots: Range<usize>, mut take: impl FnMut(SeriesId, &Entry)) {
        let end = slots.end.min(self.slots.len());
        for number in slots.start.min(end)..end {
            let slot = &self.slots[number];
            let id = SeriesId { slot: number as u32, life: slot.life };
            slot.entry.iter().for_each(|entry| take(id, entry));
        }
    }

    /// Puts chunks in the places of those that they are copies of; of those that are appended
    /// to it is noted how much of them is in a file.
    pub(crate) fn put_back(&mut self, chunks: &[(SeriesId, Place, Held)]) {
        for (id, place, chunk) in chunks {
            let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.life == id.life);
            let Some(entry) = slot.and_then(|slot| slot.entry.as_deref_mut()) else { continue };
            let place = match *place {
                Place::Sealed(place) => place,
                Place::Open(count) => {
                    entry.open.iter_mut().for_each(|open| open.in_file(chunk.first, count));
                    continue;
                }
            };
            let Some(old) = entry.sealed.get_mut(place) else { continue };
            if (old.first, old.last) == (chunk.first, chunk.last) {
                self.chunk_bytes = self.chunk_bytes + chunk.memory() - old.memory();
                *old = chunk.clone();
            }
        }
    }

    /// What a series has; see [`Head::visit`].
    pub(crate) fn look(&self, id: SeriesId) -> Option<&Entry> {
        self.entry(id)
    }

    /// Drops chunks of which all is older than `until`, in these slots, and series of which
    /// nothing is left. If they are in blocks now (`written`), of the late samples those
    /// go that were there when the cut began. Gives how many series are gone. Whoever goes
    /// through all slots begins with the first.
    pub fn trim(&mut self, slots: Range<usize>, until: i64, written: bool) -> usize {
        if slots.start == 0 {
            self.oldest = i64::MAX;
        }
        let (mut gone, mut pairs) = (BTreeSet::new(), BTreeSet::new());
        let (mut chunks, mut freed, mut oldest) = (0, 0, self.oldest);
        self.visit(slots, |id, entry, _| {
            let (count, bytes) = entry.trim(until, written);
            (chunks, freed) = (chunks + count, freed + bytes);
            oldest = oldest.min(entry.first_at().unwrap_or(i64::MAX));
            if entry.first_at().is_none() && entry.late.is_none() {
                gone.insert(id.slot);
                pairs.extend(&entry.pairs);
            }
        });
        self.oldest = oldest;
        (self.chunks, self.chunk_bytes) = (self.chunks - chunks, self.chunk_bytes - freed);
        for number in &gone {
            let slot = &mut self.slots[*number as usize];
            let Some(entry) = slot.entry.take() else { continue };
            slot.life += 1;
            self.free.push(*number);
            let hash = self.hasher.hash_one(self.index.labels(&entry.pairs));
            if let Ok(known) = self.known.find_entry(hash, |n| n == number) {
                known.remove();
            }
        }
        self.index.remove(&gone, &pairs);
        gone.len()
    }

    /// Drops what is older than the retention; gives how many series are gone.
    pub fn drop_old(&mut self) -> usize {
        self.trim(0..self.slots.len(), self.newest - self.limits.retention, false)
    }

    /// What it holds; of late samples their bytes alone.
    pub fn stats(&self) -> Stats {
        let any = self.oldest < i64::MAX;
        Stats {
            series: self.known.len(),
            pairs: self.index.pairs(),
            chunks: self.chunks,
            chunk_bytes: self.chunk_bytes,
            oldest: if any { self.oldest } else { 0 },
            newest: if any { self.newest } else { 0 },
        }
    }

    /// Other bounds from now on; but the blocks' range stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = Limits { block_range: self.limits.block_range, ..limits };
    }

    /// Its bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl Entry {
    pub fn first_at(&self) -> Option<i64> {
        let open = self.open.as_ref().map(Chunk::first_at);
        let number = self.sealed.first().map(|c| c.first).or(open);
        match &self.native {
            None => number,
            Some(native) => number.into_iter().chain(native.first_at()).min(),
        }
    }

    fn overlaps(&self, from: i64, to: i64) -> bool {
        let open = self.open.as_ref().map(|c| c.last().at);
        let last = open.or(self.sealed.last().map(|c| c.last));
        let in_order =
            self.first_at().is_some_and(|at| at <= to) && last.is_some_and(|at| at >= from);
        in_order
            || self.late.as_ref().is_some_and(|late| late.overlaps(from, to))
            || self.native.is_some()
                && (self.sealed.iter().any(|c| c.first <= to && c.last >= from)
                    || self.native.iter().any(|n| n.overlaps(from, to)))
    }

    /// What it has in `from..=to`.
    pub fn copy(&self, from: i64, to: i64) -> Result<Copied, Fault> {
        let sealed = self.sealed.iter().filter(|c| c.first <= to && c.last >= from);
        let mut chunks: Vec<Held> = sealed.cloned().collect();
        if let Some(open) = &self.open
            && open.first_at() <= to
            && open.last().at >= from
        {
            chunks.push(Held::new(open.first_at(), open.last().at, &open.data()));
        }
        let mut late = Vec::new();
        if let Some(held) = &self.late {
            let read = held.samples(from, to, &mut late);
            read.map_err(|_| Fault::Damaged("a chunk of late samples is damaged".into()))?;
        }
        let native = self.native.as_ref().map_or(Vec::new(), |n| n.chunks(from, to, false));
        Ok(Copied { chunks, late, native })
    }

    /// Gives how many chunks in order and bytes of them are gone.
    fn trim(&mut self, until: i64, written: bool) -> (usize, usize) {
        let old = self.sealed.partition_point(|c| c.last < until);
        let sealed = self.sealed.drain(..old).map(|c| c.memory());
        let (mut count, mut freed) = sealed.fold((0, 0), |(n, b), len| (n + 1, b + len));
        if old > 0 {
            self.sealed.shrink_to_fit();
        }
        if let Some(open) = self.open.take_if(|c| c.last().at < until) {
            (count, freed) = (count + 1, freed + open.capacity());
        }
        if let Some(native) = &mut self.native {
            let gone = native.trim(until);
            (count, freed) = (count + gone.0, freed + gone.1);
        }
        if let Some(late) = &mut self.late {
            let before = late.bytes();
            if written {
                late.end_cut(until);
            } else {
                late.drop_before(until);
            }
            freed += before - late.bytes();
            if late.is_empty() {
                self.late = None;
            }
        }
        (count, freed)
    }
}

#[cfg(test)]
mod tests;
