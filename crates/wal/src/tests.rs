use crate::*;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use synod_base::Rng;

const NODE: u64 = 7;

fn small() -> Options {
    Options { segment_bytes: 4096, spares_max: 1 }
}

fn open(disk: MemDisk) -> Result<(Journal<MemDisk>, Vec<Vec<u8>>), JournalError> {
    let (journal, recovery) = Journal::open(disk, NODE, small())?;
    Ok((journal, recovery.records.into_iter().map(|r| r.bytes.to_vec()).collect()))
}

fn payload(i: usize) -> Vec<u8> {
    vec![i as u8; 1 + (i * 37) % 300]
}

fn append(journal: &mut Journal<MemDisk>, items: &[Vec<u8>]) -> u64 {
    journal.append(items.iter().map(|p| (3, p.as_slice()))).expect("append")
}

/// Writes batches of three records until `n` are in.
fn filled(n: usize) -> (Journal<MemDisk>, Vec<Vec<u8>>) {
    let (mut journal, _) = open(MemDisk::default()).expect("open");
    let all: Vec<_> = (0..n).map(payload).collect();
    for batch in all.chunks(3) {
        append(&mut journal, batch);
    }
    (journal, all)
}

#[test]
fn what_was_appended_is_recovered_over_many_segments() {
    let (journal, all) = filled(100);
    assert!(journal.segments().len() > 3);
    let (mut journal, found) = open(journal.into_disk()).expect("reopen");
    assert_eq!(found, all);
    append(&mut journal, &[payload(5)]);
    let (_, found) = open(journal.into_disk()).expect("reopen again");
    assert_eq!(found.len(), all.len() + 1);
}

#[test]
fn recycled_segments_do_not_bring_back_the_dead() {
    let (mut journal, _) = filled(60);
    let keep = journal.segment();
    journal.drop_before(keep).expect("drop");
    for i in 0..200 {
        append(&mut journal, &[payload(i)]);
        let before = journal.segment();
        journal.drop_before(before).expect("drop");
    }
    let first = journal.segments()[0];
    assert_eq!(first, journal.segment());
    let (_, found) = open(journal.into_disk()).expect("reopen");
    assert_eq!(found.last(), Some(&payload(199)));
}

#[test]
fn another_nodes_journal_is_refused() {
    let (journal, _) = filled(3);
    let error = Journal::open(journal.into_disk(), 8, small()).err().expect("refused");
    assert!(matches!(error, JournalError::Foreign { .. }), "{error}");
}

#[test]
fn a_journal_goes_on_in_another_version_and_back() {
    let (mut disk, mut all) = (MemDisk::default(), Vec::new());
    for life in 0..6 {
        let version = [VERSION, VERSION_OLDEST][life / 2 % 2];
        let (mut journal, found) = open(disk).expect("open");
        assert_eq!(found, all);
        journal.set_version(version);
        let before = journal.segment();
        all.push(payload(life));
        append(&mut journal, &all[life..]);
        // The life before may have written the same.
        let ended = life > 0 && life % 2 == 0;
        assert_eq!(journal.segment(), before + u64::from(ended), "{life}");
        disk = journal.into_disk();
        let name = segment_name(before + u64::from(ended));
        let scan = scan_segment(&disk.read(&name).expect("there")).expect("known");
        let writer = if version >= 3 { env!("CARGO_PKG_VERSION") } else { "" };
        assert_eq!(scan.format(), Some((version, writer.to_owned())));
    }
}

#[test]
fn an_unknown_version_is_named_with_its_writer() {
    let (journal, _) = filled(3);
    let mut disk = journal.into_disk();
    let name = segment_name(1);
    let bytes = disk.bytes_mut(&name).expect("there");
    bytes[8] = 99;
    bytes[40..46].copy_from_slice(b"9.9.9\0");
    let sum = synod_base::crc32c_append(&[&bytes[..60]]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    let error = open(disk).err().expect("refused").to_string();
    assert!(
        error.contains("version 99, written by synod 9.9.9; this program reads 2 to 3"),
        "{error}"
    );
}

#[test]
fn a_missing_middle_segment_is_damage() {
    let (journal, _) = filled(100);
    let middle = journal.segments()[1];
    let mut disk = journal.into_disk();
    disk.remove(&segment_name(middle)).expect("remove");
    assert!(matches!(open(disk), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_journal_without_a_mark_gets_one() {
    for n in [0, 3, 100] {
        let (journal, all) = filled(n);
        let last = journal.segment();
        let mut disk = journal.into_disk();
        disk.remove(MARK_FILE).expect("there");
        let (journal, found) = open(disk).expect("as before");
        assert_eq!(found, all);
        let mut disk = journal.into_disk();
        let mark = Mark::decode(&disk.read(MARK_FILE).expect("there"), NODE).expect("whole");
        let first = u64::from(n > 0);
        assert_eq!(mark, Mark { node: NODE, first, reached: first * last });
    }
}

#[test]
fn a_damaged_mark_is_damage() {
    let (journal, _) = filled(3);
    let mut disk = journal.into_disk();
    disk.bytes_mut(MARK_FILE).expect("there")[25] ^= 1;
    assert!(matches!(open(disk), Err(JournalError::Damaged { .. })));
}

#[test]
fn spares_of_another_size_are_not_used() {
    let (mut journal, _) = filled(60);
    journal.drop_before(journal.segment()).expect("dropped");
    let large = Options { segment_bytes: 8192, ..small() };
    let (mut journal, _) = Journal::open(journal.into_disk(), NODE, large).expect("open");
    for i in 0..60 {
        append(&mut journal, &[payload(i)]);
    }
    let last = segment_name(journal.segment());
    assert_eq!(journal.into_disk().len(&last).expect("there"), 8192);
}

#[test]
fn a_failed_batch_closes_the_journal() {
    let (mut journal, _) = filled(3);
    let big = vec![0u8; 5000];
    assert!(journal.append([(1u32, big.as_slice())].into_iter()).is_err());
    let error = journal.append([(1u32, &b"x"[..])].into_iter()).expect_err("closed");
    assert!(matches!(error, JournalError::Closed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A crash in the middle of an append keeps any subset of its sectors. What
    /// was acknowledged before must be there; the torn batch is whole, or gone.
    #[test]
    fn a_crash_during_an_append(before in 0usize..40, items in 1usize..8, seed: u64) {
        let (journal, all) = filled(before);
        let mut disk = journal.into_disk();
        let last: Vec<_> = (0..items).map(|i| vec![0xee; 200 + i]).collect();
        let mut unsynced = NoSync(disk.clone());
        let torn = {
            let (mut journal, _) = Journal::open(unsynced, NODE, small()).expect("open");
            journal.append(last.iter().map(|p| (3, p.as_slice()))).expect("append");
            journal.into_disk()
        };
        unsynced = torn;
        let mut rng = Rng::new(seed);
        disk = unsynced.0;
        disk.crash(|_, _| rng.one_in(2));
        match open(disk) {
            Ok((_, found)) => {
                prop_assert_eq!(&found[..all.len()], &all[..]);
                let extra = &found[all.len()..];
                prop_assert!(extra.is_empty() || extra == &last[..]);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    /// One flipped bit anywhere in what was acknowledged is never passed over:
    /// either it hit padding, a stamp or unused space, or it is reported.
    #[test]
    fn a_flipped_bit(seed: u64) {
        let (journal, all) = filled(60);
        let mut rng = Rng::new(seed);
        let segments = journal.segments().to_vec();
        let mut disk = journal.into_disk();
        let name = segment_name(segments[rng.below(segments.len() as u64) as usize]);
        let bytes = disk.bytes_mut(&name).expect("file");
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        match open(disk) {
            Ok((_, found)) => prop_assert!(found == all, "lost {}", all.len() - found.len()),
            Err(JournalError::Damaged { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    /// What a file system may leave of a file: nothing of it, a part, zeros.
    #[test]
    fn a_lost_file(batches in 1usize..40, seed: u64, kind in 0..3) {
        let (mut journal, all) = filled(batches * 3);
        let mut rng = Rng::new(seed);
        let all = match rng.below(2) {
            0 => all,
            _ => {
                let first = journal.segment().saturating_sub(rng.below(3)).max(1);
                journal.drop_before(first).expect("dropped");
                let (again, found) = open(journal.into_disk()).expect("whole");
                journal = again;
                found
            }
        };
        let segments = journal.segments().to_vec();
        let mut disk = journal.into_disk();
        let name = segment_name(segments[rng.below(segments.len() as u64) as usize]);
        match kind {
            0 => disk.remove(&name).expect("there"),
            1 => {
                let bytes = disk.bytes_mut(&name).expect("there");
                bytes.truncate(rng.below(bytes.len() as u64) as usize);
            }
            _ => disk.bytes_mut(&name).expect("there").fill(0),
        }
        match open(disk) {
            // The last one may have been made beforehand.
            Ok((_, found)) => prop_assert!(found == all, "lost {}", all.len() - found.len()),
            Err(JournalError::Damaged { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>, header: bool) {
        let mut all = Vec::new();
        if header {
            let (journal, _) = filled(1);
            let mut disk = journal.into_disk();
            all = disk.bytes_mut(&segment_name(1)).expect("file")[..SEGMENT_HEADER_LEN].to_vec();
        }
        all.extend(bytes);
        let _ = scan_segment(&all);
    }
}

/// A disk whose syncs do nothing, so that a crash can tear the last append.
#[derive(Clone, Default)]
struct NoSync(MemDisk);

impl Disk for NoSync {
    fn list(&mut self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }
    fn read(&mut self, name: &str) -> std::io::Result<Vec<u8>> {
        self.0.read(name)
    }
    fn len(&mut self, name: &str) -> std::io::Result<u64> {
        self.0.len(name)
    }
    fn create(&mut self, name: &str, len: u64) -> std::io::Result<()> {
        self.0.create(name, len)
    }
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        if name == MARK_FILE {
            return Ok(()); // Written behind a sync that does not come.
        }
        self.0.write_at(name, offset, bytes)
    }
    fn sync(&mut self, _: &str) -> std::io::Result<()> {
        Ok(())
    }
    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
}

/// A process that is killed between the write and the sync of a batch: the next one
/// reads that batch, and may act on it, before it writes anything itself.
#[test]
fn what_is_recovered_is_durable() {
    let (journal, all) = filled(6);
    let (mut journal, _) = Journal::open(NoSync(journal.into_disk()), NODE, small()).expect("open");
    let more = payload(50);
    journal.append([(3, &more[..])].into_iter()).expect("written");
    let (journal, found) = open(journal.into_disk().0).expect("the next process");
    assert_eq!(found.len(), all.len() + 1);
    let mut disk = journal.into_disk();
    disk.crash(|_, _| false);
    let (_, after) = open(disk).expect("after the loss of power");
    assert_eq!(after, found);
}

proptest! {
    /// One torn batch after another, each under the same number: what the first left
    /// is not taken for a piece of the second.
    #[test]
    fn batches_torn_one_after_another_are_cut(
        n in 1usize..9,
        sizes in proptest::collection::vec(1usize..1200, 2..5),
        seed: u64,
    ) {
        let (journal, all) = filled(n);
        let mut disk = journal.into_disk();
        let mut rng = Rng::new(seed);
        for size in sizes {
            // What it wipes is synced; only what it appends is not.
            let (journal, found) = open(disk).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(found.len() >= all.len());
            let disk_now = NoSync(journal.into_disk());
            let (mut journal, _) = Journal::open(disk_now, NODE, small()).expect("the same");
            let record = vec![size as u8; size];
            journal.append([(3, &record[..])].into_iter()).expect("written");
            disk = journal.into_disk().0;
            let share = rng.below(4);
            disk.crash(|_, _| rng.below(4) < share);
        }
        prop_assert!(open(disk).is_ok());
    }
}

/// A disk that outlives its journals, and whose syncs fail at will.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<(MemDisk, Option<u64>)>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut MemDisk) -> T) -> T {
        f(&mut self.0.lock().expect("one thread").0)
    }

    /// The sync after so many more fails.
    fn fail_after(&self, syncs: Option<u64>) {
        self.0.lock().expect("one thread").1 = syncs;
    }
}

impl Disk for Shared {
    fn list(&mut self) -> std::io::Result<Vec<String>> {
        self.with(Disk::list)
    }
    fn read(&mut self, name: &str) -> std::io::Result<Vec<u8>> {
        self.with(|d| d.read(name))
    }
    fn len(&mut self, name: &str) -> std::io::Result<u64> {
        self.with(|d| d.len(name))
    }
    fn create(&mut self, name: &str, len: u64) -> std::io::Result<()> {
        self.with(|d| d.create(name, len))
    }
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.with(|d| d.write_at(name, offset, bytes))
    }
    fn sync(&mut self, name: &str) -> std::io::Result<()> {
        let mut inner = self.0.lock().expect("one thread");
        let fails = inner.1 == Some(0);
        inner.1 = inner.1.and_then(|n| n.checked_sub(1));
        if fails {
            inner.0.fail_sync(name);
            return Err(std::io::Error::other("the sync fails"));
        }
        inner.0.sync(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.with(|d| d.rename(from, to))
    }
    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.with(|d| d.remove(name))
    }
}

/// The pages of a sync that failed are read as they were written, no later sync writes
/// them, and a loss of power takes them: the next process writes them again.
#[test]
fn what_a_failed_sync_left_is_written_again() {
    let disk = Shared::default();
    let (mut journal, _) = Journal::open(disk.clone(), NODE, small()).expect("open");
    for i in 0..3 {
        journal.append([(3, &payload(i)[..])].into_iter()).expect("append");
    }
    disk.fail_after(Some(0));
    assert!(journal.append([(3, &payload(3)[..])].into_iter()).is_err());
    let (mut journal, found) = Journal::open(disk.clone(), NODE, small()).expect("the next");
    assert_eq!(found.records.len(), 4);
    journal.append([(3, &payload(4)[..])].into_iter()).expect("append");
    disk.with(|d| d.crash(|_, _| false));
    let (_, found) = Journal::open(disk, NODE, small()).expect("after the loss of power");
    assert_eq!(found.records.len(), 5);
}

proptest! {
    /// Syncs fail whenever they like, at the start and while a tail is wiped too, and the
    /// power goes: what was acknowledged stays, and nothing is taken for damage.
    #[test]
    fn syncs_fail_over_many_lives(seed: u64) {
        let mut rng = Rng::new(seed);
        let disk = Shared::default();
        let (mut acked, mut next) = (Vec::new(), 0u64);
        for _ in 0..12 {
            disk.fail_after(rng.one_in(2).then(|| rng.below(6)));
            let opened = Journal::open(disk.clone(), NODE, small());
            match opened {
                Ok((mut journal, found)) => {
                    let found: Vec<_> = found.records.iter().map(|r| r.bytes.to_vec()).collect();
                    prop_assert!(found.starts_with(&acked), "{} of {}", found.len(), acked.len());
                    acked = found;
                    let mut failed = false;
                    for _ in 0..rng.below(12) {
                        next += 1;
                        let bytes = vec![next as u8; rng.between(1, 900) as usize];
                        if journal.append([(3, &bytes[..])].into_iter()).is_err() {
                            failed = true;
                            break;
                        }
                        acked.push(bytes);
                    }
                    // A batch that is under way when the power goes.
                    if !failed && rng.one_in(2) {
                        let mut torn = NoSync(disk.with(|d| d.clone()));
                        let now = Journal::open(torn, NODE, small());
                        torn = now.map(|(mut journal, _)| {
                            let bytes = vec![0xee; rng.between(1, 900) as usize];
                            let _ = journal.append([(3, &bytes[..])].into_iter());
                            journal.into_disk()
                        }).map_err(|e| TestCaseError::fail(e.to_string()))?;
                        disk.with(|d| *d = torn.0);
                    }
                }
                Err(JournalError::Io { .. }) => {}
                Err(other) => prop_assert!(false, "{}", other),
            }
            if rng.one_in(2) {
                let share = rng.below(4);
                disk.with(|d| d.crash(|_, _| rng.below(4) < share));
            }
        }
    }
}
