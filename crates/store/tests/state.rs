//! The state over the store on disk: crashes at any point and a replay of what
//! came after the applied index end in what the store in memory has.

use bytes::Bytes;
use synod_base::Rng;
use synod_mvcc::{
    Command, DeleteRequest, KeyRange, MemStore, PutRequest, SnapshotCursor, SnapshotReader,
    SnapshotWriter, State, StateLimits, Store,
};
use synod_store::{DiskOptions, DiskStore};

fn key(rng: &mut Rng) -> Bytes {
    Bytes::from(format!("key{:03}", rng.below(150)))
}

fn command(rng: &mut Rng, revision: i64) -> Command {
    match rng.below(20) {
        0 => Command::Compact { revision: revision - rng.below(30) as i64 },
        1 => Command::LeaseGrant { id: rng.between(1, 9) as i64, ttl: 3, clock: 0 },
        2 => Command::LeaseRevoke { id: rng.between(1, 9) as i64 },
        3..5 => {
            let (key, end) = (key(rng), key(rng));
            Command::Delete(DeleteRequest { range: KeyRange { key, end }, prev_kv: false })
        }
        n => Command::Put(PutRequest {
            key: key(rng),
            value: Bytes::from(vec![n as u8; rng.below(300) as usize]),
            lease: if n < 8 { rng.between(1, 9) as i64 } else { 0 },
            ..PutRequest::default()
        }),
    }
}

fn open(folder: &std::path::Path) -> State<DiskStore> {
    let options = DiskOptions { memtable_bytes: 32 << 10, ..DiskOptions::default() };
    let store = DiskStore::open(folder, options).expect("it opens");
    State::open(store, StateLimits::default()).expect("it opens")
}

fn hash<S: Store>(state: &State<S>) -> u32 {
    state.reader().published().hash().expect("it reads")
}

#[test]
fn crashes_and_replays() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = Rng::new(11);
    let mut memory = State::open(MemStore::new(), StateLimits::default()).expect("it opens");
    let mut disk = open(folder.path());
    let mut log: Vec<Command> = Vec::new();
    for round in 0..60 {
        for _ in 0..rng.below(60) {
            let command = command(&mut rng, memory.revision());
            log.push(command.clone());
            let index = log.len() as u64;
            let wanted = memory.apply(index, 1, &command).expect("it works");
            assert_eq!(disk.apply(index, 1, &command).expect("it works"), wanted);
        }
        assert_eq!(disk.commit().expect("it works"), memory.commit().expect("it works"));
        if rng.one_in(2) {
            disk.compact_step(20).expect("it works");
        }
        if rng.one_in(4) {
            disk.store_mut().sync().expect("it syncs");
        }
        if round % 6 == 5 {
            drop(disk);
            disk = open(folder.path());
            for index in disk.applied() + 1..=log.len() as u64 {
                let command = &log[index as usize - 1];
                let _ = disk.apply(index, 1, command).expect("it works");
            }
            disk.commit().expect("it works");
        }
    }
    assert_eq!(hash(&disk), hash(&memory));
    while disk.compact_step(50).expect("it works") {
        disk.commit().expect("it works");
    }
    disk.commit().expect("it works");
    assert_eq!(hash(&disk), hash(&memory));
    installs(&memory, &mut disk);
}

/// Sends the state in memory to the one on disk.
fn installs(memory: &State<MemStore>, disk: &mut State<DiskStore>) {
    let writer = SnapshotWriter::new(memory.reader().published(), 4 << 10);
    let mut reader = SnapshotReader::new();
    let mut cursor = SnapshotCursor::default();
    disk.store_mut().stage_begin().expect("staging begins");
    while let Some((chunk, next)) = writer.chunk(&cursor).expect("it reads") {
        let pairs = reader.feed(&chunk).expect("it is whole");
        disk.store_mut().stage_put(pairs).expect("it takes pairs");
        cursor = next;
    }
    reader.finish().expect("it is whole");
    disk.store_mut().stage_swap().expect("it swaps");
    disk.reload().expect("it opens");
    assert_eq!(hash(disk), hash(memory));
}
