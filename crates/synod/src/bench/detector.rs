//! The failure detector that adapts, on real heartbeats: an instance reports itself
//! through the cluster while all is quiet, while the machine is busy, and while it is
//! paused now and then. How often is it suspected, though it lives? And how soon would
//! it have been, had it died?

use crate::Outcome;
use clap::Args;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_client::{Client, SessionOptions};
use synod_coord::{InstanceRecord, PhiDetector, PhiOptions, report_key};
use tokio::process::Command;

/// Arguments of `synod bench detector`.
#[derive(Args, Clone)]
pub struct DetectorArgs {
    /// Endpoints, separated by commas
    #[arg(
        long,
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// How long each of the three conditions lasts, in seconds
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Time between reports
    #[arg(long, default_value_t = 100, value_name = "MS")]
    every: u64,
}

/// Arguments of the process that reports.
#[derive(Args, Clone)]
pub struct ReporterArgs {
    service: String,
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    #[arg(long)]
    every: u64,
}

const INSTANCE: &str = "a";

/// Reports until it is killed.
pub async fn report(args: ReporterArgs) -> Outcome {
    let client = Client::connect(&args.endpoints).await.map_err(|e| e.to_string())?;
    let mut rounds = tokio::time::interval(Duration::from_millis(args.every.max(1)));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let done = client.report(&args.service, INSTANCE, Ok(())).await;
        done.map_err(|e| e.to_string())?;
    }
}

/// What is done to the machine, or to the process that reports.
#[derive(Clone, Copy, PartialEq)]
enum Condition {
    Quiet,
    /// Twice as many busy threads as cores.
    Busy,
    /// The process stands still for 50 to 500 ms, about every 2 s.
    Paused,
}

/// What judges.
enum Judge {
    Phi(PhiOptions),
    Fixed(u64),
}

fn judges(every: u64) -> Vec<(String, Judge)> {
    let mut all = Vec::new();
    for acceptable_pause_ms in [0.0, 200.0, 500.0] {
        for threshold in [1.0, 3.0, 8.0, 12.0] {
            let options = PhiOptions { threshold, acceptable_pause_ms, ..PhiOptions::default() };
            let name = format!("phi {threshold}, pause {acceptable_pause_ms} ms");
            all.push((name, Judge::Phi(options)));
        }
    }
    for times in [3, 5, 10] {
        all.push((format!("fixed, {} ms", every * times), Judge::Fixed(every * times)));
    }
    all
}

/// Suspicions of a living sender, and the mean time until a dead one is suspected.
fn judge(judge: &Judge, heard: &[u64]) -> (u64, f64) {
    let (mut wrong, mut sum, mut count) = (0, 0, 0u64);
    let mut phi = match judge {
        Judge::Phi(options) => Some(PhiDetector::new(*options)),
        Judge::Fixed(_) => None,
    };
    for (i, at) in heard.iter().enumerate() {
        let Some(phi) = &mut phi else { break };
        // The first ones teach it the rhythm.
        if i > 10 {
            wrong += u64::from(phi.is_suspect(*at));
        }
        phi.heard(*at);
        if i > 10 && i % 10 == 0 {
            sum += phi.suspect_at_ms().map_or(0, |s| s - at);
            count += 1;
        }
    }
    if let Judge::Fixed(ms) = judge {
        wrong = heard.windows(2).skip(10).filter(|w| w[1] - w[0] > *ms).count() as u64;
        (sum, count) = (*ms, 1);
    }
    (wrong, sum as f64 / count.max(1) as f64)
}

pub async fn run(args: DetectorArgs) -> Outcome {
    println!(
        "An instance that reports every {} ms, {} s a condition. Suspected though it lives, times an \
         hour; and ms until it is, had it died.\n",
        args.every, args.seconds
    );
    println!("| judged by | quiet | busy machine | paused now and then |\n|---|---|---|---|");
    let mut columns = Vec::new();
    for condition in [Condition::Quiet, Condition::Busy, Condition::Paused] {
        columns.push(listen(&args, condition).await?);
    }
    let hours = args.seconds / 3_600.0;
    for (name, by) in judges(args.every) {
        let cell = |heard: &Vec<u64>| {
            let (wrong, after) = judge(&by, heard);
            format!("{:.0} an hour, {after:.0} ms", wrong as f64 / hours)
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    let longest = |heard: &Vec<u64>| heard.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    let longest: Vec<String> = columns.iter().map(|h| format!("{} ms", longest(h))).collect();
    println!("| longest silence | {} |", longest.join(" | "));
    Ok(())
}

/// When the reports came, ms.
async fn listen(args: &DetectorArgs, condition: Condition) -> Outcome<Vec<u64>> {
    let client = Client::connect(&args.endpoints).await.map_err(|e| e.to_string())?;
    let session = client.open_session(SessionOptions::named("bench")).await;
    let session = session.map_err(|e| e.to_string())?;
    let service = format!("bench-{}", std::process::id());
    let record = InstanceRecord::default();
    let registered = client.register(&service, INSTANCE, session.id(), &record).await;
    registered.map_err(|e| e.to_string())?;
    let mut reports = client.follow(&report_key(&service, INSTANCE));
    let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    let mut child = Command::new(own)
        .args(["bench", "reporter", &service, "--every", &args.every.to_string()])
        .args(["--endpoints", &args.endpoints.join(",")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start the process that reports: {e}"))?;
    let busy = Busy::start(if condition == Condition::Busy { 2 } else { 0 });
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
    let pauses = tokio::spawn(pause(pid.filter(|_| condition == Condition::Paused)));
    let (begun, mut heard) = (Instant::now(), Vec::new());
    let end = tokio::time::Instant::now() + Duration::from_secs_f64(args.seconds);
    loop {
        match tokio::time::timeout_at(end, reports.next()).await {
            Ok(Ok(_)) => heard.push(begun.elapsed().as_millis() as u64),
            Ok(Err(e)) => return Err(e.to_string()),
            Err(_) => break,
        }
    }
    pauses.abort();
    drop(busy);
    let _ = child.kill().await;
    let _ = session.close().await;
    Ok(heard)
}

async fn pause(pid: Option<rustix::process::Pid>) {
    use rustix::process::{Signal, kill_process};
    let Some(pid) = pid else { return };
    let mut rng = Rng::new(7);
    loop {
        tokio::time::sleep(Duration::from_millis(rng.between(1_000, 3_000))).await;
        let _ = kill_process(pid, Signal::STOP);
        tokio::time::sleep(Duration::from_millis(rng.between(50, 500))).await;
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Threads that do nothing but take time, until dropped.
struct Busy(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Busy {
    /// So many for each core.
    fn start(times: usize) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..cores * times).map(spin).collect();
        Busy(stop, threads)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}
