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

/// Most slots; a power of two. A key that shares its slot with another that is also
/// often written only costs searches of the store.
const SLOTS: usize = 1 << 15;
/// Slots at first; they double whenever half of them are taken.
const SLOTS_AT_FIRST: usize = 1 << 6;
/// Bytes of key and value of the largest pair taken: at most 32 MiB in all.
const PAIR_BYTES_MAX: usize = 1 << 10;
const _: () =
    assert!(SLOTS.is_power_of_two() && SLOTS <= 1 << 16 && SLOTS_AT_FIRST.is_power_of_two());
const _: () = assert!(SLOTS * PAIR_BYTES_MAX <= 32 << 20);

/// See the file's header.
#[derive(Default)]
pub(crate) struct Hot {
    /// Empty until the first pair comes.
    slots: Vec<Option<Live>>,
    taken: usize,
}

impl Hot {
    fn slot(&self, key: &[u8]) -> usize {
        // The sums of similar keys are similar; a product's upper bits are not (Knuth,
        // The Art of Computer Programming, volume 3, section 6.4).
        let mixed = crc32c(key).wrapping_mul(0x9e37_79b1) >> 16;
        mixed as usize & self.slots.len().wrapping_sub(1)
    }

    /// The live pair of a key, if it is here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Live> {
        let live = self.slots.get(self.slot(key))?.as_ref()?;
        (live.kv.key == key).then(|| live.clone())
    }

    /// This is now the live pair of its key.
    pub(crate) fn set(&mut self, live: Live) {
        if self.taken * 2 >= self.slots.len() && self.slots.len() < SLOTS {
            self.grow();
        }
        let slot = self.slot(&live.kv.key);
        let small = live.kv.key.len() + live.kv.value.len() <= PAIR_BYTES_MAX;
        self.fill(slot, small.then_some(live));
    }

    /// The live pair of this key is another one, or none.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        if !self.slots.is_empty() {
            self.fill(self.slot(key), None);
        }
    }

    /// Everything may have changed.
    pub(crate) fn clear(&mut self) {
        *self = Hot::default();
    }

    fn fill(&mut self, slot: usize, live: Option<Live>) {
        let (now, before) = (live.is_some(), self.slots[slot].is_some());
        self.taken = self.taken + usize::from(now) - usize::from(before);
        self.slots[slot] = live;
    }

    /// Pairs that shared a slot's lower bits still have one each.
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(SLOTS_AT_FIRST);
        let old = std::mem::replace(&mut self.slots, (0..size).map(|_| None).collect());
        for live in old.into_iter().flatten() {
            let slot = self.slot(&live.kv.key);
            self.slots[slot] = Some(live);
        }
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
        hot.set(live(&one, vec![1]));
        let same_slot = (1u32..).map(|n| Bytes::from(n.to_string()));
        let other = same_slot.into_iter().find(|k| hot.slot(k) == hot.slot(&one)).unwrap();
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

    #[test]
    fn it_grows_with_what_it_holds_and_not_beyond_its_bound() {
        let key = |n: u32| Bytes::from(n.to_string());
        let mut hot = Hot::default();
        for n in 0..1_000 {
            hot.set(live(&key(n), vec![1]));
        }
        let held = |hot: &Hot| (0..1_000).filter(|n| hot.get(&key(*n)).is_some()).count();
        assert!(held(&hot) > 500 && hot.slots.len() <= 2_048);
        assert_eq!(hot.taken, hot.slots.iter().flatten().count());
        for n in 0..200_000 {
            hot.set(live(&key(n), vec![1]));
        }
        assert_eq!(hot.slots.len(), SLOTS);
        for n in 0..200_000 {
            hot.forget(&key(n));
        }
        assert_eq!(hot.taken, 0);
    }
}
