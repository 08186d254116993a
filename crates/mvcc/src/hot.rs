//! The live pairs that were written last, so that a put of a key that is often
//! written does not search the store for the pair before it.
//!
//! **Invariants**
//! - What is in here is what [`Space::Latest`](crate::Space::Latest) holds under
//!   the buffer, or is not in here at all: a slot that is in doubt is emptied.
//! - Each key has one slot, so nothing has to be chosen for eviction, and the
//!   bound on memory is slots times the largest value that is taken.

use crate::records::Live;
use synod_base::crc32c;

/// Slots; a power of two. A key that shares its slot with another that is also
/// often written only costs searches of the store.
const SLOTS: usize = 1 << 15;
/// Bytes of key and value of the largest pair taken: at most 32 MiB in all.
const PAIR_BYTES_MAX: usize = 1 << 10;
const _: () = assert!(SLOTS.is_power_of_two() && SLOTS * PAIR_BYTES_MAX <= 32 << 20);

/// See the file's header.
#[derive(Default)]
pub(crate) struct Hot {
    /// Empty until the first pair comes.
    slots: Vec<Option<Live>>,
}

fn slot(key: &[u8]) -> usize {
    crc32c(key) as usize & (SLOTS - 1)
}

impl Hot {
    /// The live pair of a key, if it is here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Live> {
        let live = self.slots.get(slot(key))?.as_ref()?;
        (live.kv.key == key).then(|| live.clone())
    }

    /// This is now the live pair of its key.
    pub(crate) fn set(&mut self, live: Live) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let slot = slot(&live.kv.key);
        let small = live.kv.key.len() + live.kv.value.len() <= PAIR_BYTES_MAX;
        self.slots[slot] = small.then_some(live);
    }

    /// The live pair of this key is another one, or none.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        if let Some(entry) = self.slots.get_mut(slot(key)) {
            *entry = None;
        }
    }

    /// Everything may have changed.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyValue;
    use bytes::Bytes;

    fn live(key: &Bytes, value: Vec<u8>) -> Live {
        let kv = KeyValue { key: key.clone(), value: value.into(), ..KeyValue::default() };
        Live { kv, sub: 0 }
    }

    #[test]
    fn a_slot_holds_the_last_pair_that_fits_and_never_another_key() {
        let mut hot = Hot::default();
        let one = Bytes::from_static(b"0");
        hot.forget(&one);
        assert_eq!(hot.get(&one), None);
        let same_slot = (1u32..).map(|n| Bytes::from(n.to_string()));
        let other = same_slot.into_iter().find(|k| slot(k) == slot(&one)).unwrap();
        hot.set(live(&one, vec![1]));
        assert_eq!(hot.get(&one), Some(live(&one, vec![1])));
        assert_eq!(hot.get(&other), None);
        hot.set(live(&other, vec![2]));
        assert_eq!(hot.get(&one), None);
        assert_eq!(hot.get(&other), Some(live(&other, vec![2])));
        // Too large: not the new pair, but not the old one either.
        hot.set(live(&other, vec![3; PAIR_BYTES_MAX]));
        assert_eq!(hot.get(&other), None);
        hot.set(live(&one, vec![4]));
        hot.forget(&one);
        assert_eq!(hot.get(&one), None);
    }
}
