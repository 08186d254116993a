//! A pinned state of the store on disk.

use crate::generation::{Generation, Memtables, damage, prefixed};
use crate::memtable::Memtable;
use crate::merge::{Merge, Pairs};
use bytes::Bytes;
use lsm_tree::{AbstractTree, Guard, IterGuardImpl, SeqNo};
use std::ops::Bound;
use std::sync::Arc;
use synod_mvcc::{Item, Read, Space, StoreError};

/// See the file's header. Cheap to clone; while any clone lives, what it shows
/// stays on disk.
#[derive(Clone)]
pub struct DiskView(Arc<Pinned>);

struct Pinned {
    generation: Arc<Generation>,
    /// What was not in tables then.
    memtables: Arc<Memtables>,
    seqno: SeqNo,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.generation.pins.remove(self.seqno);
    }
}

impl DiskView {
    /// Pins what is there now; only the writer may, between batches.
    pub(crate) fn pin(generation: &Arc<Generation>) -> DiskView {
        // In this order: a flush beside this adds tables before it takes a memtable off.
        let memtables = generation.memtables();
        let seqno = generation.now();
        generation.pins.add(seqno);
        DiskView(Arc::new(Pinned { generation: Arc::clone(generation), memtables, seqno }))
    }

    /// Newest first.
    fn memtables(&self) -> impl DoubleEndedIterator<Item = &Memtable> {
        let Memtables { active, sealed } = &*self.0.memtables;
        sealed.iter().chain([active]).rev().map(|memtable| &**memtable)
    }

    fn in_tables(&self, space: Space, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Pairs<'_> {
        let lower = bound(prefixed(space, from));
        let upper = match to {
            Some(to) => bound(prefixed(space, to)),
            None => Bytes::copy_from_slice(&[space as u8 + 1]),
        };
        if upper <= lower {
            return Box::new(std::iter::empty());
        }
        let bounds = (Bound::Included(lower), Bound::Excluded(upper));
        let found = self.0.generation.tree.range(bounds, self.0.seqno, None);
        if reverse { Box::new(found.rev().map(item)) } else { Box::new(found.map(item)) }
    }
}

/// The longest key that the tree can be asked for.
const KEY_MAX: usize = u16::MAX as usize;

/// The same bound for all keys that are in the tree, all of which are shorter: what begins with
/// a long one's first bytes and goes on is behind those bytes and one zero.
fn bound(key: Bytes) -> Bytes {
    if key.len() <= KEY_MAX {
        return key;
    }
    let mut short = key[..KEY_MAX - 1].to_vec();
    short.push(0);
    short.into()
}

fn unreadable(e: lsm_tree::Error) -> StoreError {
    match e {
        lsm_tree::Error::Io(e) => StoreError::io(format!("reading a table failed: {e}")),
        other => StoreError::corrupt(format!("a table cannot be read: {}", damage(&other))),
    }
}

fn item(guard: IterGuardImpl) -> Item {
    let (key, value) = guard.into_inner().map_err(unreadable)?;
    Ok((Bytes::from(key).slice(1..), value.into()))
}

impl Read for DiskView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        for memtable in self.memtables() {
            if let Some(known) = memtable.get(space, key, self.0.seqno) {
                return Ok(known);
            }
        }
        let key = prefixed(space, key);
        if key.len() > KEY_MAX {
            return Ok(None);
        }
        let found = self.0.generation.tree.get(key, self.0.seqno);
        Ok(found.map_err(unreadable)?.map(Bytes::from))
    }

    fn scan<'a>(
        &'a self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Item> + 'a> {
        let mut pairs = self.in_tables(space, from, to, reverse);
        for memtable in self.memtables().rev() {
            let over = memtable.scan(space, from, to, reverse, self.0.seqno);
            pairs = Box::new(Merge::new(pairs, over, reverse));
        }
        pairs
    }
}
