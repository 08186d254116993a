//! A pinned state of the store on disk.

use crate::generation::{Generation, prefixed};
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
        let seqno = generation.now();
        generation.pins.add(seqno);
        DiskView(Arc::new(Pinned { generation: Arc::clone(generation), seqno }))
    }

    fn guards(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send + 'static> {
        let lower = prefixed(space, from);
        let upper = match to {
            Some(to) => prefixed(space, to),
            None => Bytes::copy_from_slice(&[space as u8 + 1]),
        };
        if upper <= lower {
            return Box::new(std::iter::empty());
        }
        let bounds = (Bound::Included(lower), Bound::Excluded(upper));
        self.0.generation.tree.range(bounds, self.0.seqno, None)
    }
}

fn unreadable(e: lsm_tree::Error) -> StoreError {
    match e {
        lsm_tree::Error::Io(e) => StoreError::io(format!("reading a table failed: {e}")),
        other => StoreError::corrupt(format!("a table cannot be read: {other}")),
    }
}

fn item(guard: IterGuardImpl) -> Item {
    let (key, value) = guard.into_inner().map_err(unreadable)?;
    Ok((Bytes::from(key).slice(1..), value.into()))
}

impl Read for DiskView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.0.generation.tree.get(prefixed(space, key), self.0.seqno);
        Ok(found.map_err(unreadable)?.map(Bytes::from))
    }

    fn scan<'a>(
        &'a self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Item> + 'a> {
        let guards = self.guards(space, from, to);
        if reverse { Box::new(guards.rev().map(item)) } else { Box::new(guards.map(item)) }
    }

    fn count(&self, space: Space, from: &[u8], to: Option<&[u8]>) -> Result<u64, StoreError> {
        let mut n = 0;
        for guard in self.guards(space, from, to) {
            guard.key().map_err(unreadable)?;
            n += 1;
        }
        Ok(n)
    }
}
