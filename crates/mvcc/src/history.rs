//! Reading the past revision by revision (for watchers that fell behind), and
//! hashing it (to find members whose data differ).
//!
//! **Invariant**: neither depends on how far a compaction's removal has got.

use crate::read::At;
use crate::reader::Published;
use crate::records::{self, Past, Place};
use crate::store::{Space, StoreError, View};
use crate::types::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::{crc32c_append, planted};

/// Most events looked at in one call, so that a watcher of few keys among many
/// comes back in bounded time.
const SCAN_MAX: usize = 20_000;

/// A piece of history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// Whole revisions that hold matching events.
    pub revisions: Vec<Revision>,
    /// Where to go on: every matching event below it was returned.
    pub next_revision: i64,
}

/// A hash with what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashKv {
    /// CRC-32C chained over the records.
    pub hash: u32,
    /// The compaction it starts from.
    pub compact_revision: i64,
    /// The revision it ends with.
    pub hash_revision: i64,
}

impl<V: View> Published<V> {
    /// The events of revisions `from..=to` on keys in `range`: about
    /// `max_bytes` of them, at least one revision if there is one. With
    /// `prev`, events carry the pair before them, unless that was compacted.
    pub fn history(
        &self,
        from: i64,
        to: i64,
        range: &KeyRange,
        max_bytes: usize,
        prev: bool,
    ) -> Result<Result<History, Error>, StoreError> {
        if from < self.compacted {
            return Ok(Err(Error::Compacted));
        }
        let at = self.at();
        let to = to.min(self.revision);
        let mut found = Vec::new();
        let (mut bytes, mut seen) = (0, 0);
        let mut gathered: Vec<Past> = Vec::new();
        let late = i64::from(planted("watch: history begins one revision late"));
        let start = records::place_key((from + late, 0));
        let end = records::place_key((to.saturating_add(1), 0));
        for item in self.view.scan(Space::History, &start, Some(&end), false) {
            let (key, record) = item?;
            let place = records::place_of(&key)?;
            if gathered.last().is_some_and(|last| last.kv.mod_revision != place.0) {
                found.extend(self.whole(&at, &mut gathered, prev)?);
            }
            if gathered.is_empty() && (bytes >= max_bytes || seen >= SCAN_MAX) {
                return Ok(Ok(History { revisions: found, next_revision: place.0 }));
            }
            seen += 1;
            let past = Past::decode(place, record)?;
            if records::contains(range, &past.kv.key) {
                bytes += past.kv.key.len() + past.kv.value.len();
                gathered.push(past);
            }
        }
        found.extend(self.whole(&at, &mut gathered, prev)?);
        Ok(Ok(History { revisions: found, next_revision: to.saturating_add(1).max(from) }))
    }

    /// Makes a revision of its events.
    fn whole(
        &self,
        at: &At<'_, V>,
        gathered: &mut Vec<Past>,
        prev: bool,
    ) -> Result<Option<Revision>, StoreError> {
        let Some(revision) = gathered.last().map(|last| last.kv.mod_revision) else {
            return Ok(None);
        };
        let mut events = std::mem::take(gathered);
        drop_compacted(self.compacted, &mut events);
        settle_prevs(&mut events);
        if events.is_empty() {
            return Ok(None);
        }
        let event = |past: Past| {
            let prev = match past.prev {
                // The pair before it was readable at `revision - 1` only.
                Some(place) if prev && revision > self.compacted => Some(at.past(place)?.kv),
                _ => None,
            };
            Ok(Event { deleted: past.deleted, kv: past.kv, prev })
        };
        let events = events.into_iter().map(event).collect::<Result<_, StoreError>>()?;
        Ok(Some(Revision { revision, events }))
    }

    /// A hash over what is readable at revisions from the compacted one up to
    /// `revision` (0 or less: the present). Equal on all members that applied
    /// that revision and have the same compacted revision.
    pub fn hash_kv(&self, revision: i64) -> Result<Result<HashKv, Error>, StoreError> {
        let at = self.at();
        if let Err(e) = at.check_revision(revision) {
            return Ok(Err(e));
        }
        let hash_revision = if revision <= 0 { self.revision } else { revision };
        let mut hash = Hash::default();
        let base = self.compacted.min(hash_revision);
        for kv in at.pairs(&[], None, base) {
            hash.pair(&kv?);
        }
        let start = records::place_key((base.saturating_add(1), 0));
        let end = records::place_key((hash_revision.saturating_add(1), 0));
        for item in self.view.scan(Space::History, &start, Some(&end), false) {
            let (key, record) = item?;
            hash.add(&[&key, &record]);
        }
        Ok(Ok(HashKv { hash: hash.0, compact_revision: self.compacted, hash_revision }))
    }

    /// A hash over everything that members agree on once they applied the same
    /// index: all that [`Published::hash_kv`] covers, the live pairs as they
    /// are stored, leases, members and alarms.
    pub fn hash(&self) -> Result<u32, StoreError> {
        let mut hash = Hash::default();
        if let Ok(kv) = self.hash_kv(0)? {
            hash.add(&[&kv.hash.to_le_bytes()]);
        }
        for space in [Space::Latest, Space::Leases, Space::LeaseKeys] {
            for item in self.view.scan(space, &[], None, false) {
                let (key, value) = item?;
                hash.add(&[&[space as u8], &key, &value]);
            }
        }
        hash.add(&[&crate::meta::encode_members(&self.members)]);
        hash.add(&[&crate::meta::encode_alarms(&self.alarms)]);
        let numbers = [
            self.applied,
            self.applied_term,
            self.revision as u64,
            self.compacted as u64,
            self.lease_clock,
            self.logical_size,
        ];
        for number in numbers {
            hash.add(&[&number.to_le_bytes()]);
        }
        Ok(hash.0)
    }
}

/// As those who watch are told it (see `settle_prevs` of writes): what was there
/// before the whole revision.
fn settle_prevs(events: &mut [Past]) {
    if events.len() < 2 {
        return;
    }
    let mut before: BTreeMap<Bytes, Option<Place>> = BTreeMap::new();
    for event in events {
        let first = *before.entry(event.kv.key.clone()).or_insert(event.prev);
        event.prev = first.filter(|_| event.kv.create_revision != event.kv.mod_revision);
    }
}

/// Drops those events of the compacted revision that were superseded within
/// it: removal may or may not have got to them.
fn drop_compacted(compacted: i64, events: &mut Vec<Past>) {
    if events.last().is_none_or(|last| last.kv.mod_revision != compacted) {
        return;
    }
    let superseded: Vec<Place> = events.iter().filter_map(|e| e.prev).collect();
    events.retain(|e| !superseded.contains(&(e.kv.mod_revision, e.sub)));
}

/// A chain of checksums: each record's covers the one before, and the lengths
/// of its parts, so that no two streams of records look alike.
#[derive(Default)]
struct Hash(u32);

impl Hash {
    fn add(&mut self, parts: &[&[u8]]) {
        for part in parts {
            let length = (part.len() as u64).to_le_bytes();
            self.0 = crc32c_append(&[&self.0.to_le_bytes(), &length, part]);
        }
    }

    fn pair(&mut self, kv: &KeyValue) {
        let numbers = [kv.create_revision, kv.mod_revision, kv.version, kv.lease];
        self.add(&[&kv.key, &kv.value]);
        self.add(&numbers.map(i64::to_le_bytes).each_ref().map(|n| &n[..]));
    }
}
