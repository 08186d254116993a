//! What was committed and is not in tables yet.
//!
//! **Why not the tree's own**: its skip list takes a node for every version of
//! a key, and a search that compares twice as many keys. Here a key that is
//! written again replaces its version, unless a view may still read that.
//!
//! **Invariants**
//! - One writer; its batches have ascending sequence numbers. Who reads at
//!   number `n` sees the newest version below `n`.
//! - A version that a pinned number sees is kept for as long as the memtable.
//! - A sealed memtable never changes.

use bytes::Bytes;
use lsm_tree::SeqNo;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use synod_mvcc::{Batch, Space};

/// What a version takes beside its key and value: its place in the map, and
/// what the allocator adds.
const VERSION_BYTES: usize = 160;
/// Entries that a scan takes under one hold of the lock, at first and at most:
/// the writer waits meanwhile.
const SCAN_FIRST: usize = 16;
const SCAN_MAX: usize = 256;

/// A version of a key; `None`: it was removed.
type Version = (SeqNo, Option<Bytes>);

struct Slot {
    newest: Version,
    /// Those before it that views may read, oldest first.
    older: Vec<Version>,
}

impl Slot {
    fn at(&self, seqno: SeqNo) -> Option<&Option<Bytes>> {
        let versions = self.older.iter().chain([&self.newest]);
        versions.rev().find(|(written, _)| *written < seqno).map(|(_, value)| value)
    }

    /// A new version; gives the bytes of those that nobody can read any more.
    fn replace(&mut self, version: Version, pins: &[SeqNo]) -> usize {
        let mut until = version.0;
        self.older.push(std::mem::replace(&mut self.newest, version));
        let mut freed = 0;
        for i in (0..self.older.len()).rev() {
            let written = self.older[i].0;
            if !pins.iter().any(|pin| written < *pin && *pin <= until) {
                freed += VERSION_BYTES + self.older.remove(i).1.map_or(0, |v| v.len());
            }
            until = written;
        }
        freed
    }
}

type Map = BTreeMap<Bytes, Slot>;

/// See the file's header.
#[derive(Default)]
pub(crate) struct Memtable {
    maps: RwLock<[Map; Space::ALL.len()]>,
    bytes: AtomicU64,
}

impl Memtable {
    fn read(&self) -> RwLockReadGuard<'_, [Map; Space::ALL.len()]> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch. `pins` are the numbers that views read at.
    pub(crate) fn insert(&self, batch: Batch, seqno: SeqNo, pins: &[SeqNo]) {
        let (mut added, mut freed) = (0, 0);
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        for (space, key, value) in batch.ops {
            added += VERSION_BYTES + value.as_ref().map_or(0, Bytes::len);
            match maps[space as usize].entry(key) {
                Entry::Occupied(mut slot) => freed += slot.get_mut().replace((seqno, value), pins),
                Entry::Vacant(place) => {
                    added += place.key().len();
                    place.insert(Slot { newest: (seqno, value), older: Vec::new() });
                }
            }
        }
        drop(maps);
        self.bytes.fetch_add(added as u64, Ordering::Relaxed);
        self.bytes.fetch_sub(freed as u64, Ordering::Relaxed);
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.read().iter().all(BTreeMap::is_empty)
    }

    /// What it knows of a key at `seqno`: nothing, that it was removed, or its value.
    pub(crate) fn get(&self, space: Space, key: &[u8], seqno: SeqNo) -> Option<Option<Bytes>> {
        self.read()[space as usize].get(key)?.at(seqno).cloned()
    }

    /// Hands over the newest version of every key, in the order of spaces and keys,
    /// for a flush: what older views read, they read here. Only of a sealed one: it
    /// holds the lock.
    pub(crate) fn with_newest<R>(
        &self,
        take: impl FnOnce(&mut dyn Iterator<Item = (Space, &Bytes, SeqNo, &Option<Bytes>)>) -> R,
    ) -> R {
        let maps = self.read();
        let spaces = Space::ALL.into_iter().zip(maps.iter());
        let mut all = spaces.flat_map(|(space, map)| {
            map.iter().map(move |(key, slot)| (space, key, slot.newest.0, &slot.newest.1))
        });
        take(&mut all)
    }

    /// The keys from `from` to `to` that it knows at `seqno`.
    pub(crate) fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        seqno: SeqNo,
    ) -> Scan<'_> {
        let own = Bytes::copy_from_slice;
        Scan {
            memtable: self,
            space,
            from: Bound::Included(own(from)),
            to: to.map_or(Bound::Unbounded, |to| Bound::Excluded(own(to))),
            reverse,
            seqno,
            piece: Vec::new().into_iter(),
            size: SCAN_FIRST,
            done: to.is_some_and(|to| to <= from),
        }
    }
}

/// See [`Memtable::scan`].
pub(crate) struct Scan<'a> {
    memtable: &'a Memtable,
    space: Space,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    reverse: bool,
    seqno: SeqNo,
    piece: std::vec::IntoIter<(Bytes, Option<Bytes>)>,
    size: usize,
    done: bool,
}

fn by_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

impl Scan<'_> {
    /// Takes the next piece under one hold of the lock.
    fn refill(&mut self) {
        let mut piece = Vec::new();
        let (mut looked, mut last) = (0, None);
        {
            let maps = self.memtable.read();
            let map = &maps[self.space as usize];
            let mut range = map.range::<[u8], _>((by_slice(&self.from), by_slice(&self.to)));
            while looked < self.size {
                let next = if self.reverse { range.next_back() } else { range.next() };
                let Some((key, slot)) = next else {
                    self.done = true;
                    break;
                };
                looked += 1;
                last = Some(key.clone());
                if let Some(value) = slot.at(self.seqno) {
                    piece.push((key.clone(), value.clone()));
                }
            }
        }
        if let Some(last) = last {
            let reached = if self.reverse { &mut self.to } else { &mut self.from };
            *reached = Bound::Excluded(last);
        }
        self.size = (self.size * 2).min(SCAN_MAX);
        self.piece = piece.into_iter();
    }
}

impl Iterator for Scan<'_> {
    type Item = (Bytes, Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(pair) = self.piece.next() {
                return Some(pair);
            }
            if self.done {
                return None;
            }
            self.refill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(memtable: &Memtable, seqno: SeqNo, key: &'static str, value: &str, pins: &[SeqNo]) {
        let mut batch = Batch::default();
        batch.put(Space::Latest, key, Bytes::copy_from_slice(value.as_bytes()));
        memtable.insert(batch, seqno, pins);
    }

    fn at(memtable: &Memtable, seqno: SeqNo) -> Option<Option<Bytes>> {
        memtable.get(Space::Latest, b"k", seqno)
    }

    #[test]
    fn a_version_lives_as_long_as_a_pin_sees_it() {
        let memtable = Memtable::default();
        put(&memtable, 5, "k", "a", &[]);
        put(&memtable, 7, "k", "b", &[6]);
        let full = memtable.bytes();
        assert_eq!(at(&memtable, 5), None);
        assert_eq!(at(&memtable, 6), Some(Some("a".into())));
        assert_eq!(at(&memtable, 8), Some(Some("b".into())));
        // Nobody reads "b"; 6 still reads "a".
        put(&memtable, 9, "k", "c", &[6, 12]);
        assert_eq!(memtable.bytes(), full);
        assert_eq!(at(&memtable, 6), Some(Some("a".into())));
        assert_eq!(at(&memtable, 10), Some(Some("c".into())));
        put(&memtable, 11, "k", "d", &[10]);
        assert_eq!(at(&memtable, 10), Some(Some("c".into())));
        assert_eq!(at(&memtable, 12), Some(Some("d".into())));
        assert_eq!(memtable.bytes(), full);
    }

    #[test]
    fn scans_go_on_across_pieces_and_writes_both_ways() {
        let memtable = Memtable::default();
        let mut batch = Batch::default();
        let keys: Vec<Bytes> = (0..1000).map(|n| Bytes::from(format!("{n:04}"))).collect();
        for key in &keys {
            batch.put(Space::Latest, key.clone(), key.clone());
        }
        memtable.insert(batch, 1, &[]);
        for reverse in [false, true] {
            let mut scan = memtable.scan(Space::Latest, b"0100", Some(b"0900"), reverse, 2);
            let mut seen: Vec<Bytes> = scan.by_ref().take(20).map(|(key, _)| key).collect();
            // What is written meanwhile is above the number that is read at.
            put(&memtable, 3, "0555x", "new", &[2]);
            put(&memtable, 4, "0556", "new", &[2]);
            for (key, value) in scan {
                assert_eq!(value.as_ref(), Some(&key));
                seen.push(key);
            }
            if reverse {
                seen.reverse();
            }
            assert_eq!(seen, keys[100..900]);
        }
        assert_eq!(memtable.scan(Space::Latest, b"b", Some(b"b"), false, 9).count(), 0);
    }
}
