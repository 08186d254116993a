//! The store on disk against the suite that every store must pass.

use synod_mvcc::conformance::{Bench, run};
use synod_store::{DiskOptions, DiskStore};
use tempfile::TempDir;

struct Disk {
    folder: TempDir,
    options: DiskOptions,
}

impl Bench for Disk {
    type Store = DiskStore;

    fn create(&mut self) -> DiskStore {
        self.folder = tempfile::tempdir().expect("a folder");
        DiskStore::open(self.folder.path(), self.options).expect("it opens")
    }

    fn crash(&mut self, store: DiskStore) -> DiskStore {
        // What is only in memory goes with it, as in a crash.
        drop(store);
        DiskStore::open(self.folder.path(), self.options).expect("it opens again")
    }
}

fn conforms(options: DiskOptions) {
    run(&mut Disk { folder: tempfile::tempdir().expect("a folder"), options });
}

#[test]
fn conforms_as_configured() {
    conforms(DiskOptions::default());
}

/// Memtables of next to nothing: every few commits seal one, so flushes,
/// compactions and views meet all the time.
#[test]
fn conforms_with_tiny_memtables() {
    conforms(DiskOptions { memtable_bytes: 4 << 10, ..DiskOptions::default() });
}

#[test]
fn is_locked_while_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = DiskStore::open(folder.path(), DiskOptions::default()).expect("it opens");
    let second = DiskStore::open(folder.path(), DiskOptions::default());
    let error = second.err().expect("it is in use").to_string();
    assert!(error.contains("in use") && error.contains("stop the other"), "{error}");
    drop(first);
    DiskStore::open(folder.path(), DiskOptions::default()).expect("it is free again");
}
