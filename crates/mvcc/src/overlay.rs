//! Writes that are not in the store yet, and a view that shows them over it.
//!
//! **Invariants**: every key is in `maps` at most once (the last write wins);
//! `None` hides what lies beneath.

use crate::store::{Batch, Item, Read, Space, StoreError};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;

/// Buffered writes.
#[derive(Default)]
pub(crate) struct Writes {
    maps: [BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()],
}

impl Writes {
    pub(crate) fn put(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.maps[space as usize].insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, space: Space, key: Bytes) {
        self.maps[space as usize].insert(key, None);
    }

    /// Everything as a batch; nothing is left.
    pub(crate) fn drain(&mut self) -> Batch {
        let mut batch = Batch::default();
        batch.ops.reserve(self.maps.iter().map(BTreeMap::len).sum());
        for (space, map) in Space::ALL.into_iter().zip(&mut self.maps) {
            let map = std::mem::take(map);
            batch.ops.extend(map.into_iter().map(|(key, value)| (space, key, value)));
        }
        batch
    }
}

/// `base` with `writes` over it.
pub(crate) struct Overlay<'b, V> {
    pub(crate) base: &'b V,
    pub(crate) writes: &'b Writes,
}

impl<V: Read> Read for Overlay<'_, V> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.writes.maps[space as usize].get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(space, key),
        }
    }

    fn scan<'a>(
        &'a self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Item> + 'a> {
        if to.is_some_and(|to| to <= from) {
            return Box::new(std::iter::empty()); // BTreeMap::range would panic.
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let over =
            self.writes.maps[space as usize].range::<[u8], _>((Bound::Included(from), upper));
        let over = if reverse { Over::Back(over) } else { Over::Forth(over) };
        let base = self.base.scan(space, from, to, reverse).peekable();
        Box::new(Merge { base, over: over.peekable(), reverse })
    }
}

enum Over<'a> {
    Forth(btree_map::Range<'a, Bytes, Option<Bytes>>),
    Back(btree_map::Range<'a, Bytes, Option<Bytes>>),
}

impl<'a> Iterator for Over<'a> {
    type Item = (&'a Bytes, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Over::Forth(range) => range.next(),
            Over::Back(range) => range.next_back(),
        }
    }
}

struct Merge<'a> {
    base: Peekable<Box<dyn Iterator<Item = Item> + 'a>>,
    over: Peekable<Over<'a>>,
    reverse: bool,
}

impl Iterator for Merge<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let order = match (self.base.peek(), self.over.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => return self.base.next(),
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok((key, _))), Some((over, _))) => {
                    let order = key.cmp(over);
                    if self.reverse { order.reverse() } else { order }
                }
            };
            if order == Ordering::Less {
                return self.base.next();
            }
            if order == Ordering::Equal {
                self.base.next();
            }
            if let Some((key, Some(value))) = self.over.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
