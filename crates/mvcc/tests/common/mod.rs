//! What the tests of the state share.
#![allow(dead_code, reason = "not every test uses all of it")]

use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;
use synod_mvcc::*;

/// An empty state in memory.
pub fn state() -> State<MemStore> {
    State::open(MemStore::new(), StateLimits::default()).expect("it opens")
}

/// Applies a command at the next index.
pub fn run(state: &mut State<MemStore>, command: &Command) -> Result<Outcome, Error> {
    state.apply(state.applied() + 1, 1, command).expect("the store works")
}

/// Whether a range holds a key, said once more.
pub fn inside(range: &KeyRange, key: &Bytes) -> bool {
    match &range.end[..] {
        b"" => range.key == key,
        b"\0" => *key >= range.key,
        _ => *key >= range.key && *key < range.end,
    }
}

/// One of few keys, some with zero bytes, some a prefix of others.
pub fn key() -> impl Strategy<Value = Bytes> {
    let keys: [&'static [u8]; 8] = [b"a", b"a\0", b"a\0b", b"aa", b"b", b"b\xff", b"c", b"\0"];
    prop::sample::select(keys.to_vec()).prop_map(Bytes::from_static)
}

/// A range over such keys.
pub fn range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        2 => key(),
    ];
    (key(), end).prop_map(|(key, end)| KeyRange { key, end })
}

/// All chunks of a snapshot.
pub fn snapshot(p: &Arc<Published<MemView>>, chunk_bytes: usize) -> Vec<Bytes> {
    let writer = SnapshotWriter::new(Arc::clone(p), chunk_bytes);
    let mut cursor = SnapshotCursor::default();
    let mut chunks = Vec::new();
    while let Some((chunk, next)) = writer.chunk(&cursor).expect("the store works") {
        assert_eq!(next.offset(), cursor.offset() + chunk.len() as u64);
        chunks.push(chunk);
        cursor = next;
    }
    assert!(cursor.is_end());
    chunks
}

/// The state after a journey through a snapshot.
pub fn snapshot_copy(p: &Arc<Published<MemView>>) -> Arc<Published<MemView>> {
    let bytes = snapshot(p, 50).concat();
    let mut copy = state();
    let mut reader = SnapshotReader::new();
    copy.store_mut().stage_begin().expect("staging begins");
    for piece in bytes.chunks(33) {
        let pairs = reader.feed(piece).expect("it is whole");
        copy.store_mut().stage_put(pairs).expect("staging takes pairs");
    }
    let head = reader.finish().expect("it is whole");
    copy.store_mut().stage_swap().expect("the swap works");
    copy.reload().expect("it opens");
    assert_eq!((head.revision, head.applied), (copy.revision(), copy.applied()));
    copy.reader().published()
}
