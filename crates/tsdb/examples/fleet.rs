//! What a head and blocks cost for a fleet: `cargo run --release -p synod-tsdb --example
//! fleet [HOSTS] [MINUTES] [again]` (starts alone). A hundred series a host, a sample each fifteen seconds: counters
//! with jitter, gauges that walk, values that stay.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_promql::{Labels, Matcher, Sample};
use synod_tsdb::{Blocks, Gather, Head, Limits, RealFiles, SeriesId, SeriesLog, Spill, Taken};
use synod_wal::{MemDisk, Options};

const SERIES: usize = 100;
const EVERY: i64 = 15_000;
const BEGIN: i64 = 1_700_006_400_000;

struct Fleet {
    ids: Vec<SeriesId>,
    values: Vec<f64>,
    rng: Rng,
}

fn labels(host: usize, n: usize) -> Labels {
    let name = match n % 5 {
        0 => format!("node_part{n}_seconds_total"),
        1 => format!("node_part{n}_requests_total"),
        2 => format!("node_part{n}_bytes"),
        _ => format!("node_part{n}_info"),
    };
    Labels::new([
        ("__name__", &*name),
        ("cluster", "production-eu"),
        ("instance", &format!("host-{host:04}.example.net:9100")),
        ("job", "node"),
        ("rack", &format!("rack-{}", host / 40)),
        ("device", &format!("device{}", n % 7)),
        ("mode", ["idle", "user", "system", "iowait"][n % 4]),
    ])
}

impl Fleet {
    /// What every series says next.
    fn step(&mut self, n: usize) -> f64 {
        let value = &mut self.values[n];
        *value = match n % SERIES % 5 {
            0 => *value + self.rng.below(1_500) as f64 / 100.0,
            1 => *value + self.rng.below(30) as f64,
            2 if self.rng.below(2) == 0 => {
                (*value + self.rng.below(9) as f64 * 4_096.0 - 16_384.0).abs()
            }
            _ => *value,
        };
        // Scrapes store what text says.
        *value = (*value * 100.0).round() / 100.0;
        *value
    }
}

/// The time that the processor spent on us: other processes do not count.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = stat.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Since when.
struct Watch(Duration);

impl Watch {
    fn start() -> Watch {
        Watch(busy())
    }

    fn elapsed(&self) -> Duration {
        busy() - self.0
    }
}

/// Bytes of memory that the process has.
fn memory() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or(f64::NAN) * 4_096.0
}

fn per(took: Duration, count: usize) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = words.iter().take(2).map(|n| n.parse::<usize>().expect("a number"));
    let hosts = numbers.next().unwrap_or(1_000);
    let minutes = numbers.next().unwrap_or(60);
    let count = hosts * SERIES;
    let limits = Limits { series: count, ..Limits::default() };
    let dir = std::env::temp_dir().join(format!("fleet-{}", std::process::id()));
    if words.iter().any(|word| word == "again") {
        again(&dir, limits, minutes);
        std::fs::remove_dir_all(&dir).expect("gone");
        return;
    }
    let mut fleet = Fleet { ids: Vec::new(), values: vec![1.0; count], rng: Rng::new(1) };
    let (before, begun) = (memory(), Watch::start());
    let mut head = Head::new(limits);
    for host in 0..hosts {
        for n in 0..SERIES {
            fleet.ids.push(head.series(&labels(host, n)).expect("room"));
        }
    }
    let rate = per(begun.elapsed(), count);
    println!("{count} series: {rate:.0} new ones a second");
    println!("{:.0} bytes a series without samples", (memory() - before) / count as f64);
    let begun = Watch::start();
    for n in 0..count {
        assert_eq!(head.series(&labels(n / SERIES, n % SERIES)), Ok(fleet.ids[n]));
    }
    println!(
        "{:.0} known ones found a second (with making the labels)",
        per(begun.elapsed(), count)
    );
    let (rounds, head) = (minutes * 4, RwLock::new(head));
    let mut spill = Spill::open(&dir.join("head")).expect("a folder");
    let (mut took, mut spilling, mut chunks) = (Duration::ZERO, Duration::ZERO, 0);
    for round in 0..rounds {
        let begun = Watch::start();
        for n in 0..count {
            // Hosts are not scraped at one moment.
            let at = BEGIN + round as i64 * EVERY + (n / SERIES) as i64 * 15;
            let sample = Sample { at, value: fleet.step(n) };
            let taken = head.write().expect("no panic").append(fleet.ids[n], sample);
            assert_eq!(taken, Ok(Taken::InOrder));
        }
        took += begun.elapsed();
        let begun = Watch::start();
        chunks += spill.run(&head).expect("space");
        spilling += begun.elapsed();
    }
    println!("{:.2} million samples made and appended a second", per(took, count * rounds) / 1e6);
    let memory = (memory() - before) / count as f64;
    println!("{memory:.0} bytes of memory a series after {minutes} minutes");
    let stats = head.read().expect("no panic").stats();
    let bytes = (stats.chunk_bytes as u64 + spill.bytes()) as f64 / (count * rounds) as f64;
    println!("{bytes:.2} bytes of chunks a sample, {chunks} chunks in files");
    println!("{:.2} s for moving them there", spilling.as_secs_f64());
    ask(&head, rounds);
    replay(&head.read().expect("no panic"), &fleet);
    again(&dir, limits, minutes);
    cut(&head, &dir.join("blocks"), &fleet, rounds);
    std::fs::remove_dir_all(&dir).expect("gone");
}

fn ask(head: &RwLock<Head>, rounds: usize) {
    let name = Matcher::new("__name__", "=", "node_part0_seconds_total").expect("a matcher");
    let begun = Watch::start();
    let end = BEGIN + rounds as i64 * EVERY;
    let found = synod_tsdb::select(head, &[name], BEGIN, end, usize::MAX).expect("whole");
    let samples: usize = found.iter().map(|s| s.samples.len()).sum();
    let rate = per(begun.elapsed(), samples) / 1e6;
    println!("{:.0} million samples read a second, {} series", rate, found.len());
}

/// How fast a log is read.
fn replay(head: &Head, fleet: &Fleet) {
    let options = Options { segment_bytes: 4 << 20, spares_max: 0 };
    let mut other = Head::new(head.limits());
    let opened = SeriesLog::open(MemDisk::default(), options.clone(), &mut other);
    let (mut log, mut gather) = (opened.expect("empty").0, Gather::default());
    for round in 0..20 {
        for host in fleet.ids.chunks(SERIES) {
            let samples: Vec<_> = host.iter().map(|id| (*id, round as f64)).collect();
            gather.add(head, BEGIN + round * EVERY, &samples);
        }
        log.write(&gather.take(), 0).expect("memory");
    }
    // By the clock: several threads take part.
    let begun = Instant::now();
    let opened = SeriesLog::open(log.into_disk(), options, &mut Head::new(head.limits()));
    let samples = opened.expect("whole").1.samples as usize;
    let rate = per(begun.elapsed(), samples) / 1e6;
    println!("{rate:.2} million samples a second come back from the log");
}

/// How fast a start is after a life that ended suddenly: with the files of full chunks that
/// it left, and without them.
fn again(dir: &Path, limits: Limits, minutes: usize) {
    let options = Options { segment_bytes: 4 << 20, spares_max: 0 };
    let (folder, mut fresh) = (dir.join("left"), Head::new(limits));
    let mut spill = Spill::open(&folder).expect("a folder");
    let opened = SeriesLog::open(MemDisk::default(), options.clone(), &mut fresh);
    let (mut log, mut gather) = (opened.expect("empty").0, Gather::default());
    let count = limits.series;
    let mut fleet = Fleet { ids: Vec::new(), values: vec![1.0; count], rng: Rng::new(1) };
    for n in 0..count {
        fleet.ids.push(fresh.series(&labels(n / SERIES, n % SERIES)).expect("room"));
    }
    let head = RwLock::new(fresh);
    let mut spilling = Duration::ZERO;
    for round in 0..minutes {
        // A sample a minute, so that there is little but the newest chunk.
        let at = BEGIN + round as i64 * 60_000;
        for host in 0..count / SERIES {
            let mut samples = Vec::with_capacity(SERIES);
            for n in host * SERIES..(host + 1) * SERIES {
                let sample = Sample { at, value: fleet.step(n) };
                let taken = head.write().expect("no panic").append(fleet.ids[n], sample);
                assert_eq!(taken, Ok(Taken::InOrder));
                samples.push((fleet.ids[n], sample.value));
            }
            gather.add(&head.read().expect("no panic"), at, &samples);
        }
        log.write(&gather.take(), 0).expect("memory");
        let begun = Watch::start();
        if round % 10 == 9 {
            spill.run(&head).expect("space");
        }
        spilling += begun.elapsed();
    }
    let bytes = spill.bytes() as f64 / (count * minutes) as f64;
    println!("{bytes:.2} bytes a sample in files, {:.2} s for them", spilling.as_secs_f64());
    drop((head, spill));
    let disk = log.into_disk();
    for what in ["files", "no files"] {
        let (disk, mut head) = (disk.clone(), Head::new(limits));
        let (begun, busy) = (Instant::now(), all_busy());
        let mut spill = Spill::open(&folder).expect("a folder");
        let opened = SeriesLog::open_spilling(disk, options.clone(), &mut head, Some(&mut spill));
        let recovered = opened.expect("whole").1;
        println!(
            "{} samples, {} in {what}, are back in {:.2} s, {:.2} s of processors",
            recovered.samples,
            recovered.in_files,
            begun.elapsed().as_secs_f64(),
            (all_busy() - busy).as_secs_f64()
        );
        drop((head, spill));
        std::fs::remove_dir_all(&folder).expect("gone");
    }
}

/// The time that processors spent on all threads of ours, those that ended too.
fn all_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// What a block takes.
fn cut(head: &RwLock<Head>, dir: &Path, fleet: &Fleet, rounds: usize) {
    let blocks = Blocks::open(dir, Arc::new(RealFiles), 1, Box::new(|_| {})).expect("a folder");
    // So late that a block is due.
    let late = Sample { at: BEGIN + rounds as i64 * EVERY + 4 * 3_600_000, value: 1.0 };
    head.write().expect("no panic").append(fleet.ids[0], late).expect("in order");
    let (before, begun) = (memory(), Watch::start());
    while blocks.cut(head, 1).expect("space").is_some() {}
    let took = begun.elapsed();
    let samples: u64 = blocks.all().iter().map(|b| b.meta().stats.samples).sum();
    let bytes = blocks.bytes() as f64;
    println!(
        "{} blocks in {:.1} s, {:.2} bytes a sample with their index",
        blocks.all().len(),
        took.as_secs_f64(),
        bytes / samples as f64
    );
    println!("{:.0} MB more memory after it", (memory() - before) / 1e6);
    let name = Matcher::new("__name__", "=", "node_part0_seconds_total").expect("a matcher");
    for _ in 0..2 {
        let begun = Watch::start();
        let found = blocks.select(std::slice::from_ref(&name), 0, i64::MAX, usize::MAX);
        let count: usize = found.expect("whole").iter().flatten().map(|s| s.samples.len()).sum();
        println!(
            "{:.1} million samples read from blocks a second",
            per(begun.elapsed(), count) / 1e6
        );
    }
}
