//! The store in memory, for the simulator and tests. It knows what would
//! survive a crash: [`MemStore::lose_unsynced`] goes back to it.
//!
//! **Invariants**: `durable` is the content after some commit, never an older
//! one than before (syncs that finish out of order do not move it back).

use crate::pmap::PMap;
use crate::store::{Batch, Item, Read, Space, Store, StoreError, StoreSize, Syncer};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Maps = [PMap; Space::ALL.len()];

/// Which pairs of a [`MemStore`] cannot be read, as on a disk that rots: one key in so many
/// (0: none), told from the others by this salt.
#[derive(Clone, Default)]
pub struct Rot(Arc<[AtomicU64; 2]>);

impl Rot {
    /// From now on one key in `odds` is rotten; 0: none is.
    pub fn set(&self, odds: u64, salt: u64) {
        self.0[1].store(salt, Ordering::Relaxed);
        self.0[0].store(odds, Ordering::Relaxed);
    }

    /// Whether some are.
    pub fn is_set(&self) -> bool {
        self.0[0].load(Ordering::Relaxed) > 0
    }

    fn check(&self, space: Space, key: &[u8]) -> Result<(), StoreError> {
        let odds = self.0[0].load(Ordering::Relaxed);
        if odds == 0 {
            return Ok(());
        }
        let salt = self.0[1].load(Ordering::Relaxed) ^ space as u64;
        let sum = synod_base::crc32c_append(&[&salt.to_le_bytes(), key]);
        match u64::from(sum) % odds {
            0 => Err(StoreError::corrupt(format!("checksum of a pair in {space:?}"))),
            _ => Ok(()),
        }
    }
}

/// See the file's header.
#[derive(Default)]
pub struct MemStore {
    maps: Maps,
    commits: u64,
    durable: Arc<Mutex<(u64, Maps)>>,
    staged: Option<Maps>,
    behind: bool,
    rot: Rot,
}

/// A pinned state of a [`MemStore`].
#[derive(Clone)]
pub struct MemView(Arc<Maps>, Rot);

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        MemStore::default()
    }

    /// Makes it say that its upkeep is behind, or not any more.
    pub fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// Its rot, to be set.
    pub fn rot(&self) -> Rot {
        self.rot.clone()
    }

    /// What a crash leaves: the content at the last finished sync.
    pub fn lose_unsynced(&mut self) {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        self.maps = durable.1.clone();
        self.commits = durable.0;
        drop(durable);
        self.staged = None;
    }
}

impl Read for MemView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.0[space as usize].get(key).cloned();
        found.map(|value| self.1.check(space, key).map(|()| value)).transpose()
    }

    fn scan<'a>(
        &'a self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Item> + 'a> {
        let range = self.0[space as usize].range(from, to, reverse);
        Box::new(range.map(move |(k, v)| {
            self.1.check(space, k)?;
            Ok((k.clone(), v.clone()))
        }))
    }

    fn count(&self, space: Space, from: &[u8], to: Option<&[u8]>) -> Result<u64, StoreError> {
        Ok(self.0[space as usize].range(from, to, false).count() as u64)
    }
}

impl Store for MemStore {
    type View = MemView;

    fn view(&self) -> MemView {
        MemView(Arc::new(self.maps.clone()), self.rot.clone())
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        for (space, key, value) in batch.ops {
            let map = &mut self.maps[space as usize];
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            }
        }
        self.commits += 1;
        Ok(())
    }

    fn syncer(&self) -> Syncer {
        let (commits, maps) = (self.commits, self.maps.clone());
        let durable = Arc::clone(&self.durable);
        Box::new(move || {
            let mut durable = durable.lock().unwrap_or_else(PoisonError::into_inner);
            if durable.0 < commits {
                *durable = (commits, maps);
            }
            Ok(())
        })
    }

    fn size(&self) -> StoreSize {
        StoreSize::default()
    }

    fn is_behind(&self) -> bool {
        self.behind
    }

    fn stage_begin(&mut self) -> Result<(), StoreError> {
        self.staged = Some(Maps::default());
        Ok(())
    }

    fn stage_put(&mut self, pairs: Vec<(Space, Bytes, Bytes)>) -> Result<(), StoreError> {
        let staged = self.staged.as_mut().ok_or_else(no_staging)?;
        for (space, key, value) in pairs {
            staged[space as usize].insert(key, value);
        }
        Ok(())
    }

    fn stage_swap(&mut self) -> Result<(), StoreError> {
        self.maps = self.staged.take().ok_or_else(no_staging)?;
        self.commits += 1;
        self.sync()
    }

    fn stage_abort(&mut self) -> Result<(), StoreError> {
        self.staged = None;
        Ok(())
    }
}

fn no_staging() -> StoreError {
    StoreError::io("a snapshot is being installed, but no staging area was begun")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Bench, run};

    struct Memory;

    impl Bench for Memory {
        type Store = MemStore;

        fn create(&mut self) -> MemStore {
            MemStore::new()
        }

        fn crash(&mut self, mut store: MemStore) -> MemStore {
            store.lose_unsynced();
            store
        }
    }

    #[test]
    fn conforms() {
        run(&mut Memory);
    }
}
