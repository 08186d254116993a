//! Consensus cores on the same work in one process: Synod's three, and others'.
//! `cargo xtask bench cores` runs it; the table goes to standard output.

mod bare;
mod journal;
mod meter;
mod omni;
mod open;
mod pump;
mod synod;
mod table;
mod tikv;

use meter::{Counting, Sample, Work};
use pump::{Failure, measure};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Applied entries that every core keeps in memory (Synod's default).
const RETAINED: u64 = 20_000;

const RUNS: usize = 5;

const USAGE: &str = "usage: cores-bench [--full] [--ms MS] [--payload BYTES] [--in-flight N]
  [--core PART-OF-ITS-NAME] [--memory]";

type Run = fn(&Work) -> Result<Sample, Failure>;

/// Synod's first, and last what is none.
const CORES: [(&str, Run); 7] = [
    ("Synod Raft", measure::<synod::Synod<{ synod::RAFT }>>),
    ("Synod Multi-Paxos", measure::<synod::Synod<{ synod::PAXOS }>>),
    ("Synod Zab", measure::<synod::Synod<{ synod::ZAB }>>),
    ("raft 0.7.0", measure::<tikv::Tikv>),
    ("omnipaxos 0.2.4", measure::<omni::Omni>),
    ("openraft 0.9.24", open::measure),
    ("no protocol", measure::<bare::Bare>),
];

/// Who cannot be measured on disk (see `open.rs`).
const MEMORY_ONLY: usize = 5;

/// The payloads and windows, ms of a run, and of which cores (for a profiler:
/// one core in one cell of the table).
struct Sweep {
    payloads: Vec<usize>,
    in_flight: Vec<usize>,
    ms: u64,
    core: String,
    disk: bool,
}

fn sweep() -> Result<Sweep, Failure> {
    let (payloads, in_flight) = (vec![16, 256], vec![1, 64, 1024]);
    let mut sweep = Sweep { payloads, in_flight, ms: 250, core: String::new(), disk: true };
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut rest: &[String] = &args;
    while let [arg, tail @ ..] = rest {
        rest = tail;
        match (arg.as_str(), tail) {
            ("--full", _) => {
                sweep.payloads = vec![0, 16, 256, 1024];
                sweep.in_flight = vec![1, 64, 1024, 4096];
            }
            ("--ms", [ms, tail @ ..]) => (sweep.ms, rest) = (ms.parse()?, tail),
            ("--payload", [n, tail @ ..]) => (sweep.payloads, rest) = (vec![n.parse()?], tail),
            ("--in-flight", [n, tail @ ..]) => (sweep.in_flight, rest) = (vec![n.parse()?], tail),
            ("--core", [name, tail @ ..]) => (sweep.core, rest) = (name.clone(), tail),
            ("--memory", _) => sweep.disk = false,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(sweep)
}

/// All cores on one cell of the sweep; the order turns around from run to run.
fn cell(work: &Work, core: &str) -> Result<Vec<Vec<Sample>>, Failure> {
    let mut samples: Vec<Vec<Sample>> = CORES.iter().map(|_| Vec::new()).collect();
    for run in 0..RUNS {
        for step in 0..CORES.len() {
            let which = if run % 2 == 0 { step } else { CORES.len() - 1 - step };
            let (name, measure) = CORES[which];
            if (work.dir.is_some() && which == MEMORY_ONLY) || !name.contains(core) {
                continue;
            }
            let sample = measure(work).map_err(|e| format!("{name}: {e}"))?;
            samples[which].push(sample);
        }
    }
    Ok(samples)
}

fn main() -> Result<(), Failure> {
    let sweep = sweep()?;
    let dir = std::env::current_exe()?.with_file_name("journals-of-cores-bench");
    println!(
        "{RUNS} runs of {} ms (on disk four times that) each after a warm-up of a fifth of that, interleaved; medians (least to most).",
        sweep.ms
    );
    for store in [None, Some(dir)].into_iter().take(1 + usize::from(sweep.disk)) {
        let name = if store.is_some() { "Journals on disk" } else { "In memory" };
        let (mut figures, mut ratios) = (table::figures(name), table::ratios());
        for &payload in &sweep.payloads {
            for &in_flight in &sweep.in_flight {
                eprintln!("{name}: {payload} bytes, {in_flight} in flight");
                if let Some(dir) = &store {
                    std::fs::create_dir_all(dir)?;
                }
                // A sync takes milliseconds: a longer run sees enough of them.
                let ms = if store.is_some() { 4 * sweep.ms } else { sweep.ms };
                let time = Duration::from_millis(ms);
                let work = Work { payload, in_flight, dir: store.clone(), time };
                let samples = cell(&work, &sweep.core)?;
                table::add(&mut figures, &mut ratios, &work, &samples);
            }
        }
        print!("{figures}{ratios}");
        if let Some(dir) = &store {
            std::fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}
