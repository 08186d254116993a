//! Blocks: what goes in comes out, whatever happens on the way.

mod common;

use common::{Model, SmallDisk, Store, part};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_promql::{Labels, Matcher};
use synod_tsdb::{Block, Limits, Refused, Taken};

/// Blocks of a hundred seconds.
const RANGE: i64 = 100_000;

fn limits() -> Limits {
    Limits { block_range: RANGE, ..Limits::default() }
}

fn labels(n: u64) -> Labels {
    let (job, instance) = (format!("j{}", n % 3), format!("host-{n}"));
    Labels::new([("__name__", "m"), ("job", &*job), ("instance", &*instance)])
}

/// Random samples of some series, most in order, some late, as time goes on; blocks are cut
/// and compacted meanwhile.
fn run(store: &Store, seed: u64, series: u64, rounds: i64) -> Model {
    run_with(store, seed, series, rounds, true)
}

fn run_with(store: &Store, seed: u64, series: u64, rounds: i64, compacts: bool) -> Model {
    let (mut rng, mut model) = (Rng::new(seed), Model::new());
    for round in 0..rounds {
        for n in 0..series {
            let late = rng.below(10) == 0;
            let at = round * 5_000 + rng.below(5_000) as i64;
            let at = if late { at - rng.below(3 * RANGE as u64) as i64 } else { at };
            let value = match n % 3 {
                0 => round as f64,
                1 => 1.0,
                _ => f64::from_bits(rng.next_u64()),
            };
            let times = model.entry(labels(n)).or_default();
            match store.append(&labels(n), at, value) {
                // Of what came at one time the first counts: it is known already, or in a
                // block where a late one cannot see it.
                Ok(Taken::InOrder) => {
                    assert_eq!(times.insert(at, value.to_bits()), None, "twice in order");
                }
                Ok(Taken::Late) if times.contains_key(&at) => {}
                Ok(Taken::Late) => drop(times.insert(at, value.to_bits())),
                Ok(Taken::Again) | Err(_) => {}
            }
        }
        if rng.below(5) == 0 {
            store.spill();
        }
        if rng.below(15) == 0 {
            store.cut().expect("space");
        }
        if compacts && rng.below(40) == 0 {
            store.compact().expect("space");
        }
    }
    model.retain(|_, samples| !samples.is_empty());
    model
}

fn matcher(name: &str, op: &str, value: &str) -> Matcher {
    Matcher::new(name, op, value).expect("a matcher")
}

/// The values of a model; of two that late samples gave to one time either may stand.
fn same(got: &Model, wanted: &Model) {
    assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (labels, samples) in wanted {
        assert_eq!(&got[labels], samples, "{labels}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_was_taken_is_there_in_head_and_blocks(
        seed in any::<u64>(),
        window in prop_oneof![Just(0i64), Just(RANGE / 2), Just(4 * RANGE)],
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = Limits { out_of_order: window, ..limits() };
        let store = Store::real(dir.path(), limits);
        let model = run(&store, seed, 40, 400);
        same(&store.all(), &model);
        prop_assert!(store.blocks.all().len() > 2);
        let mut rng = Rng::new(seed);
        for matchers in [
            vec![matcher("job", "=", "j1")],
            vec![matcher("instance", "=~", "host-1.*"), matcher("job", "!=", "j0")],
            vec![matcher("instance", "!~", "host-.")],
            vec![matcher("job", "=~", "j0|j2"), matcher("instance", "!=", "")],
            vec![matcher("none", "=", "x")],
        ] {
            let from = rng.below(2_000_000) as i64;
            let to = from + rng.below(500_000) as i64;
            let got = store.select(&matchers, from, to).expect("whole");
            same(&got, &part(&model, &matchers, from, to));
        }
        // Another life sees the same blocks.
        let blocks = store.blocks.all().len();
        let cut = store.head.read().expect("no panic").floor();
        drop(store);
        let again = Store::real(dir.path(), limits);
        prop_assert_eq!(again.blocks.all().len(), blocks);
        if window == 0 {
            same(&again.all(), &part(&model, &[], i64::MIN, cut - 1));
        }
    }
}

/// A store with some blocks, as they were cut.
fn filled(dir: &Path) -> (Store, Model) {
    let store = Store::real(dir, limits());
    let model = run_with(&store, 3, 50, 300, false);
    store.cut().expect("space");
    (store, model)
}

#[test]
fn blocks_become_larger_ones_and_the_small_ones_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::real(dir.path(), limits());
    let mut model = Model::new();
    for round in 0..500 {
        for n in 0..20 {
            store.append(&labels(n), round * 5_000, round as f64).expect("in order");
            let times = model.entry(labels(n)).or_default();
            times.insert(round * 5_000, (round as f64).to_bits());
        }
    }
    let cut = store.cut().expect("space");
    assert_eq!((cut, store.blocks.all().len()), (24, 24));
    let before = store.blocks.bytes();
    assert!(store.compact().expect("space") > 0);
    let spans = |store: &Store| -> Vec<i64> {
        let all = store.blocks.all();
        all.iter().map(|b| (b.meta().max_time - b.meta().min_time) / RANGE).collect()
    };
    assert_eq!(spans(&store), [9, 9, 3, 1, 1, 1]);
    assert!(store.blocks.bytes() < before * 2 / 3, "{} of {before}", store.blocks.bytes());
    let first = &store.blocks.all()[0];
    let compaction = &first.meta().compaction;
    assert_eq!((compaction.level, compaction.sources.len(), compaction.parents.len()), (3, 9, 3));
    let samples = first.meta().stats.samples;
    assert_eq!((samples, first.meta().stats.series), (20 * 180, 20));
    same(&store.all(), &model);
    let folders = std::fs::read_dir(dir.path()).expect("the folder").count();
    assert_eq!(folders, 6 + 1, "what was compacted is gone");
}

#[test]
fn full_chunks_leave_memory_and_are_read_from_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::real(dir.path(), Limits::default());
    let mut model = Model::new();
    for round in 0..1_000 {
        for n in 0..20 {
            let value = (round * n) as f64;
            store.append(&labels(n as u64), round * 5_000, value).expect("in order");
            model.entry(labels(n as u64)).or_default().insert(round * 5_000, value.to_bits());
        }
    }
    // Four full chunks of 240 samples each, and none twice.
    assert_eq!((store.spill(), store.spill()), (80, 0));
    let bytes = store.spill.lock().expect("no panic").bytes();
    let stats = store.head.read().expect("no panic").stats();
    assert!(bytes > 2 * stats.chunk_bytes as u64, "{bytes} bytes in files, {stats:?}");
    assert_eq!(stats.chunks, 100);
    same(&store.all(), &model);
    let few = store.select(&[matcher("instance", "=", "host-7")], 1_000_000, 2_000_000);
    same(
        &few.expect("whole"),
        &part(&model, &[matcher("instance", "=", "host-7")], 1_000_000, 2_000_000),
    );
    let most = synod_tsdb::select(&store.head, &[], 0, i64::MAX, 19_999);
    assert!(most.is_err_and(|fault| fault.to_string().contains("too many samples")));
    store.append(&labels(0), 12_000_000, 1.0).expect("in order");
    assert_eq!(store.cut().expect("space"), 1);
    model.entry(labels(0)).or_default().insert(12_000_000, 1f64.to_bits());
    same(&store.all(), &model);
    assert_eq!(store.spill.lock().expect("no panic").bytes(), 0, "their block has them");
}

#[test]
fn what_is_too_old_or_too_much_is_dropped() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = filled(dir.path());
    let count = store.blocks.all().len();
    let end = store.blocks.end().expect("blocks");
    store.blocks.retire(&Limits { retention: 5 * RANGE, ..limits() }, end, 0);
    assert!(store.blocks.all().len() < count);
    assert!(store.blocks.all().iter().all(|b| b.meta().max_time > end - 5 * RANGE));
    let bytes = store.blocks.bytes();
    store.blocks.retire(&Limits { retention_bytes: bytes / 2, ..limits() }, end, 0);
    assert!(store.blocks.bytes() <= bytes / 2 && !store.blocks.all().is_empty());
    assert_eq!(store.blocks.end(), Some(end), "the newest stay");
    store.blocks.retire(&Limits { retention_bytes: 1 << 40, ..limits() }, end, 1 << 40);
    assert!(store.blocks.all().is_empty(), "the log counts too");
}

#[test]
fn a_full_disk_loses_nothing_and_is_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let room = Arc::new(AtomicI64::new(1 << 40));
    let store = Store::open(dir.path(), limits(), Arc::new(SmallDisk(room.clone())));
    let mut model = run(&store, 5, 50, 100);
    store.cut().expect("space");
    let there = store.blocks.all().len();
    let mut failed = 0;
    for round in 100..200 {
        // Full after as many bytes as there are rounds behind, and more.
        room.store((round - 100) * 700, Ordering::Relaxed);
        for n in 0..50 {
            store.append(&labels(n), round * 5_000, 1.0).expect("in order");
            model.entry(labels(n)).or_default().insert(round * 5_000, 1f64.to_bits());
        }
        failed += usize::from(store.cut().is_err());
        failed += usize::from(store.compact().is_err());
    }
    assert!(failed > 5, "{failed}");
    let entries = || std::fs::read_dir(dir.path()).expect("the folder").count();
    assert_eq!(entries(), store.blocks.all().len() + 1, "nothing half-written stays");
    same(&store.all(), &model);
    room.store(1 << 40, Ordering::Relaxed);
    store.cut().expect("space");
    store.compact().expect("space");
    assert!(store.blocks.all().len() > there);
    same(&store.all(), &model);
}

#[test]
fn what_a_crash_left_is_cleared_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, model) = filled(dir.path());
    let all = store.blocks.all();
    let (first, second) = (all[0].folder().to_owned(), all[1].folder().to_owned());
    let floor = store.head.read().expect("no panic").floor();
    drop(store);
    // Half-written; half-deleted; and compacted, but the parents did not go.
    let other = |suffix: &str| -> PathBuf {
        let name = first.file_name().expect("a name").to_string_lossy();
        dir.path().join(format!("{name}{suffix}"))
    };
    std::fs::create_dir_all(other(".tmp-for-creation").join("chunks")).expect("a folder");
    std::fs::write(other(".tmp-for-creation").join("index"), b"half").expect("a file");
    copy(&second, &other(".tmp-for-deletion"));
    let before: Vec<(PathBuf, PathBuf)> = all
        .iter()
        .map(|b| {
            (
                b.folder().to_owned(),
                dir.path().join("kept").join(b.folder().file_name().expect("a name")),
            )
        })
        .collect();
    before.iter().for_each(|(from, to)| copy(from, to));
    let store = Store::real(dir.path(), limits());
    assert!(store.compact().expect("space") > 0);
    let left = store.blocks.all().len();
    drop(store);
    before.iter().for_each(|(to, from)| copy(from, to));
    let store = Store::real(dir.path(), limits());
    assert_eq!(store.blocks.all().len(), left, "{:?}", store.events());
    assert!(!other(".tmp-for-creation").exists() && !other(".tmp-for-deletion").exists());
    same(&store.all(), &part(&model, &[], i64::MIN, floor - 1));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// The files of a folder and those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.append(&mut files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

#[test]
fn a_damaged_block_is_set_aside_and_the_others_answer() {
    let kept = tempfile::tempdir().expect("a folder");
    let (store, model) = filled(kept.path());
    let floor = store.head.read().expect("no panic").floor();
    let model = part(&model, &[], i64::MIN, floor - 1);
    drop(store);
    let mut rng = Rng::new(11);
    let (mut at_start, mut when_asked, mut unharmed) = (0, 0, 0);
    for _ in 0..80 {
        let dir = tempfile::tempdir().expect("a folder");
        copy(kept.path(), dir.path());
        let all = files(dir.path());
        let file = &all[rng.below(all.len() as u64) as usize];
        let mut bytes = std::fs::read(file).expect("a file");
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.below(8),
            _ => bytes.splice(at..at, [7]).for_each(drop),
        }
        std::fs::write(file, bytes).expect("a file");
        let store = Store::real(dir.path(), limits());
        at_start += usize::from(store.events().iter().any(|e| e.contains("is damaged")));
        let first = store.select(&[], i64::MIN, i64::MAX);
        when_asked += usize::from(store.events().iter().any(|e| e.contains("is damaged")));
        if first.is_ok_and(|got| got == model) {
            unharmed += 1;
            // A bit of meta.json, or of padding; or of what a merge alone reads.
            let _ = store.compact();
            continue;
        }
        // The next answer is without that block, and right.
        let got = store.select(&[], i64::MIN, i64::MAX).expect("the others are whole");
        for (labels, samples) in &got {
            let differs = samples.iter().find(|(at, value)| model[labels].get(at) != Some(value));
            assert_eq!(differs, None, "{labels} after damage to {}", file.display());
        }
        assert!(dir.path().read_dir().expect("the folder").any(|e| {
            e.expect("an entry").file_name().to_string_lossy().starts_with("damaged-")
        }));
        let _ = store.compact();
    }
    println!("{at_start} found at the start, {when_asked} when asked, {unharmed} unharmed");
    assert!(at_start > 10 && when_asked > 5 && unharmed < 30);
}

#[test]
fn a_block_of_any_series_can_be_asked_for_its_labels() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, model) = filled(dir.path());
    let all = store.blocks.all();
    let block = Block::open(all[3].folder()).expect("whole");
    assert_eq!(block.label_names().collect::<Vec<_>>(), ["__name__", "instance", "job"]);
    assert_eq!(block.label_values("job").expect("whole"), ["j0", "j1", "j2"]);
    assert_eq!(block.label_values("instance").expect("whole").len(), 50);
    assert!(block.label_values("none").expect("whole").is_empty());
    let mut found = std::collections::BTreeSet::new();
    store.blocks.labels_of(&[], i64::MIN, i64::MAX, &mut found).expect("whole");
    assert!(found.iter().eq(model.keys()));
    found.clear();
    let sets = [vec![matcher("job", "=", "j1")], vec![matcher("instance", "=", "host-3")]];
    store.blocks.labels_of(&sets, 0, RANGE, &mut found).expect("whole");
    assert!(found.iter().all(|l| l.get("job") == "j1" || l.get("instance") == "host-3"));
    assert_eq!(found.len(), 18);
    // More samples than a query may have.
    let many = store.blocks.select(&[], i64::MIN, i64::MAX, 100).expect_err("too many");
    assert!(many.contains("too many samples"), "{many}");
    let refused = store.append(&labels(0), 0, 1.0);
    assert_eq!(refused, Err(Refused::OutOfBounds));
}

/// Makes the first chunk of a block one of a kind that there is not.
fn change_kind(block: &Path) {
    let file = block.join("chunks/000001");
    let mut bytes = std::fs::read(&file).expect("chunks");
    // Behind the header: a length of one or two bytes, the kind, the data, a checksum.
    let (len, kind) = match bytes[8] {
        low @ 0..0x80 => (usize::from(low), 9),
        low => (usize::from(low & 0x7f) | usize::from(bytes[9]) << 7, 10),
    };
    assert_eq!(bytes[kind], 1);
    bytes[kind] = 99;
    let end = kind + 1 + len;
    let sum = synod_base::crc32c(&bytes[kind..end]).to_be_bytes();
    bytes[end..end + 4].copy_from_slice(&sum);
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn chunks_of_unknown_kinds_are_left_out_told_once_and_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, model) = filled(dir.path());
    let floor = store.head.read().expect("no panic").floor();
    let mut wanted = part(&model, &[], i64::MIN, floor - 1);
    let folder = store.blocks.all()[4].folder().to_owned();
    let span = store.blocks.all()[4].meta().clone();
    drop(store);
    change_kind(&folder);
    // The first series in order has no samples there then.
    let first = wanted.values_mut().next().expect("a series");
    first.retain(|at, _| !(span.min_time..span.max_time).contains(at));
    let store = Store::real(dir.path(), limits());
    for _ in 0..2 {
        same(&store.all(), &wanted);
    }
    let told = |store: &Store| {
        let events = store.events();
        events.iter().filter(|e| e.contains("a kind that is not known")).count()
    };
    assert_eq!(told(&store), 1);
    assert!(store.compact().expect("space") > 0);
    same(&store.all(), &wanted);
    let compacted = store.blocks.all();
    let whole: u64 = compacted.iter().map(|b| b.meta().stats.samples).sum();
    let known: usize = wanted.values().map(|samples| samples.len()).sum();
    assert!(whole > known as u64, "the chunk is still there");
    assert_eq!(told(&store), 1, "of the new block");
}

#[test]
fn who_asks_while_blocks_are_cut_and_compacted_misses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    // Short blocks, so that much happens at once.
    let limits = Limits { block_range: 20_000, ..Limits::default() };
    let store = Store::real(dir.path(), limits);
    let (appended, done) = (AtomicI64::new(0), AtomicBool::new(false));
    let asked = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(4) {
                let round = appended.load(Ordering::Acquire);
                for n in 0..10 {
                    store.append(&labels(n), round * 1_000, round as f64).expect("in order");
                }
                appended.store(round + 1, Ordering::Release);
                // Not so quick that the head is all there is.
                std::thread::sleep(Duration::from_micros(500));
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.spill();
                store.cut().expect("space");
                store.compact().expect("space");
            }
        });
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Acquire) {
                let before = appended.load(Ordering::Acquire);
                let third = [matcher("instance", "=", "host-3")];
                let found = store.select(&third, 0, i64::MAX).expect("whole");
                let times = found.values().next().into_iter().flat_map(|s| s.keys());
                let times: Vec<i64> = times.map(|at| at / 1_000).collect();
                assert!(times.len() as i64 >= before, "{} of {before}", times.len());
                assert!(times.iter().zip(0..).all(|(at, n)| *at == n), "a hole: {times:?}");
                asked += 1;
            }
            asked
        });
        asking.join().expect("no panic")
    });
    let (rounds, blocks) = (appended.load(Ordering::Acquire), store.blocks.all().len());
    println!("{asked} questions about {rounds} rounds, {blocks} blocks in the end");
    assert!(asked > 20 && blocks > 1, "{asked} questions, {blocks} blocks");
}
