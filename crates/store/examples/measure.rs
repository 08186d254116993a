//! What the state over the store on disk takes: time per put, get and range,
//! memory, and opening after a crash.
//!
//! `measure load FOLDER KEYS` fills a store and aborts, as kill -9 would;
//! `measure read FOLDER KEYS` opens it again and reads, overwrites, compacts.

use bytes::Bytes;
use std::hint::black_box;
use std::time::Instant;
use synod_base::Rng;
use synod_mvcc::{Command, KeyRange, PutRequest, RangeRequest, State, StateLimits, Store};
use synod_store::{DiskOptions, DiskStore};

const BATCH: u64 = 64;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, mode, folder, keys] = &args[..] else {
        eprintln!("usage: measure load|read FOLDER KEYS");
        std::process::exit(2);
    };
    let keys = keys.parse::<u64>().expect("KEYS is a number").next_multiple_of(BATCH);
    let mut options = DiskOptions::default();
    if let Ok(mib) = std::env::var("MEMTABLE_MIB") {
        options.memtable_bytes = mib.parse::<u64>().expect("a number") << 20;
    }
    if let Ok(mib) = std::env::var("CACHE_MIB") {
        options.cache_bytes = mib.parse::<u64>().expect("a number") << 20;
    }
    if std::env::var("PLAIN").is_ok() {
        options.compress = false;
    }
    let started = Instant::now();
    let store = DiskStore::open(folder, options).expect("it opens");
    let mut state = State::open(store, StateLimits::default()).expect("it opens");
    println!("open: {:?}, revision {}, rss {} MiB", started.elapsed(), state.revision(), rss());
    if mode == "load" {
        puts("load", &mut state, keys, |i, _| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let started = Instant::now();
        state.store_mut().sync().expect("it syncs");
        println!("sync: {:?}, disk {} MiB, rss {} MiB", started.elapsed(), disk(&state), rss());
        std::process::abort();
    }
    reads(&state, keys);
    puts("overwrite", &mut state, keys / 4, |_, rng| {
        rng.below(keys).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    reads(&state, keys);
    compact(&mut state);
    println!("end: disk {} MiB, rss {} MiB", disk(&state), rss());
}

fn key(hash: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/{hash:016x}"))
}

/// Half of it compressible, as text would be.
fn value(rng: &mut Rng) -> Bytes {
    let mut value = vec![b'x'; 256];
    value[..128].chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.next_u64().to_le_bytes()));
    value.into()
}

fn puts(
    what: &str,
    state: &mut State<DiskStore>,
    n: u64,
    mut choose: impl FnMut(u64, &mut Rng) -> u64,
) {
    let mut rng = Rng::new(7);
    let mut spent = Vec::with_capacity((n / BATCH) as usize);
    let started = Instant::now();
    for batch in 0..n / BATCH {
        let first = batch * BATCH;
        let commands: Vec<Command> = (0..BATCH)
            .map(|i| {
                let key = key(choose(first + i, &mut rng));
                let value = value(&mut rng);
                Command::Put(PutRequest { key, value, ..PutRequest::default() })
            })
            .collect();
        let begun = Instant::now();
        for command in &commands {
            let index = state.applied() + 1;
            black_box(state.apply(index, 1, command).expect("the store works")).expect("allowed");
        }
        black_box(state.commit().expect("the store works"));
        spent.push(begun.elapsed());
    }
    let total: f64 = spent.iter().map(|d| d.as_secs_f64()).sum();
    spent.sort_unstable();
    let at = |q: f64| spent[((spent.len() - 1) as f64 * q) as usize] / BATCH as u32;
    println!(
        "{what}: {:.2} µs/put (p50 {:?}, p99 {:?}, max batch {:?}), {n} in {:?}, rss {} MiB",
        total * 1e6 / n as f64,
        at(0.5),
        at(0.99),
        spent[spent.len() - 1],
        started.elapsed(),
        rss()
    );
}

fn reads(state: &State<DiskStore>, keys: u64) {
    let reader = state.reader();
    let mut rng = Rng::new(3);
    let range = |key: Bytes, end: &'static [u8], limit| RangeRequest {
        range: KeyRange { key, end: Bytes::from_static(end) },
        limit,
        ..RangeRequest::default()
    };
    let hot: Vec<u64> = (0..10_000).map(|_| rng.below(keys)).collect();
    for (what, n, spread) in [("get (anywhere)", 100_000, keys), ("get (10k hot keys)", 200_000, 0)]
    {
        let started = Instant::now();
        for i in 0..n {
            let chosen = if spread == 0 { hot[i % hot.len()] } else { rng.below(spread) };
            let req = range(key(chosen.wrapping_mul(0x9e37_79b9_7f4a_7c15)), b"", 0);
            let result = reader.published().range(&req).expect("reads").expect("allowed");
            assert_eq!(result.count, 1);
        }
        println!("{what}: {:.2} µs", started.elapsed().as_secs_f64() * 1e6 / f64::from(n as u32));
    }
    let mut req = range(Bytes::from_static(b"/"), b"0", 0);
    req.count_only = true;
    let started = Instant::now();
    let counted = reader.published().range(&req).expect("reads").expect("allowed").count;
    println!("count of all {counted}: {:?}", started.elapsed());
    // A window that ends with the hundredth key: what a range of a prefix is.
    let started = Instant::now();
    let n = 2_000;
    let mut spans = Vec::new();
    for _ in 0..n {
        let from = rng.next_u64();
        let to = from.saturating_add(u64::MAX / keys * 100);
        spans.push((key(from), key(to)));
    }
    let mut found = 0;
    for (from, to) in spans {
        let req = RangeRequest { range: KeyRange { key: from, end: to }, ..Default::default() };
        found += reader.published().range(&req).expect("reads").expect("allowed").kvs.len();
    }
    let spent = started.elapsed().as_secs_f64() * 1e6 / f64::from(n);
    println!("range (about {} keys): {spent:.1} µs", found / n as usize);
}

fn compact(state: &mut State<DiskStore>) {
    let started = Instant::now();
    let index = state.applied() + 1;
    let command = Command::Compact { revision: state.revision() };
    state.apply(index, 1, &command).expect("the store works").expect("allowed");
    let (mut steps, mut longest) = (0, 0.0f64);
    loop {
        let begun = Instant::now();
        let more = state.compact_step(1000).expect("the store works");
        state.commit().expect("the store works");
        longest = longest.max(begun.elapsed().as_secs_f64());
        steps += 1;
        if !more {
            break;
        }
    }
    println!("compact: {:?} in {steps} steps, longest {:.1} ms", started.elapsed(), longest * 1e3);
}

fn disk(state: &State<DiskStore>) -> u64 {
    state.size().on_disk >> 20
}

fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}
