//! `synod bench`: load on any etcd endpoint, ours or another's.
//!
//! A closed loop keeps every client busy; with `--rate` requests begin at fixed
//! times, and a latency counts from the time at which its request should have
//! begun (so a stall of the server is not hidden by the client's waiting).

mod conn;
mod detector;
mod failover;
mod loads;
mod nothing;
mod series;
mod servers;
mod service;
mod session;
mod watch;
mod zookeeper;

use crate::Outcome;
use clap::{Args, Subcommand, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Arguments of `synod bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Write one key a request
    Put(Common),
    /// Read one key a request (writes the keys first)
    Get(Common),
    /// Read --limit keys a request (writes the keys first)
    Range(Common),
    /// Compare, then write, one transaction a request
    Txn(Common),
    /// Grant and revoke a lease, as one request
    Lease(Common),
    /// Take and give back one of --keys locks, by etcd's interface
    Lock(Common),
    /// The same by Synod's own interface, with sequencers
    FencedLock(Common),
    /// The locks of a ZooKeeper, by its recipe, with a connection for each client
    #[command(hide = true)]
    ZookeeperLock(Common),
    /// Keep many sessions that do nothing, and see what they cost the servers
    Session(session::SessionArgs),
    /// Kill the active instance of a service again and again, and time the switch
    Service(service::ServiceArgs),
    /// What the instances of that service do
    #[command(hide = true)]
    Worker(service::WorkerArgs),
    /// Judge an instance's reports: false suspicions, and time to a true one
    Detector(detector::DetectorArgs),
    /// The process that reports
    #[command(hide = true)]
    Reporter(detector::ReporterArgs),
    /// A server that does nothing, to compare with
    #[command(hide = true)]
    Nothing(nothing::NothingArgs),
    /// Push the series of a made-up fleet by remote-write
    Series(series::SeriesArgs),
    /// Show them as a page to scrape
    #[command(hide = true)]
    Page(series::PageArgs),
    /// Deliver each write to many watchers
    Watch(watch::WatchArgs),
    /// Write steadily and report the longest time without a success
    Failover(failover::FailoverArgs),
}

/// What all loads share.
#[derive(Args, Clone)]
pub struct Common {
    /// Endpoints, separated by commas; clients are spread over them
    #[arg(
        long,
        env = "SYNOD_ENDPOINTS",
        default_value = "127.0.0.1:2379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub endpoints: Vec<String>,
    /// Clients, each with one request in flight
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Connections to each endpoint that the clients share
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Stop after so many requests (0: after --seconds only)
    #[arg(long, default_value_t = 0)]
    pub requests: u64,
    /// Requests per second at fixed times (0: as fast as answers come)
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Different keys
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Write every key once, in order, and stop
    #[arg(long)]
    pub fill: bool,
    /// Keys of a range
    #[arg(long, default_value_t = 100)]
    pub limit: i64,
    /// Read what the member has, without asking the others
    #[arg(long)]
    pub serializable: bool,
    /// Seconds before counting starts
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object on one line
    Json,
}

/// What a load came to. Latencies in milliseconds.
#[derive(Serialize, Debug)]
pub struct Report {
    /// Which load.
    pub load: &'static str,
    /// Clients.
    pub clients: usize,
    /// Requests answered.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Seconds counted.
    pub seconds: f64,
    /// Answers a second.
    pub per_second: f64,
    /// Half were faster.
    pub p50_ms: f64,
    /// Nine in ten were faster.
    pub p90_ms: f64,
    /// 99 in 100 were faster.
    pub p99_ms: f64,
    /// 999 in 1,000 were faster.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// One of the errors.
    pub error: Option<String>,
}

/// `synod bench`.
pub fn run(args: BenchArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start a runtime: {e}"))?;
    runtime.block_on(async {
        match args.load {
            Load::Nothing(a) => nothing::run(a).await,
            Load::Put(c) => loads::run("put", c, loads::Kind::Put).await,
            Load::Get(c) => loads::run("get", c, loads::Kind::Get).await,
            Load::Range(c) => loads::run("range", c, loads::Kind::Range).await,
            Load::Txn(c) => loads::run("txn", c, loads::Kind::Txn).await,
            Load::Lease(c) => loads::run("lease", c, loads::Kind::Lease).await,
            Load::Lock(c) => loads::run("lock", c, loads::Kind::Lock).await,
            Load::FencedLock(c) => loads::run("fenced-lock", c, loads::Kind::FencedLock).await,
            Load::ZookeeperLock(c) => zookeeper::run(c).await,
            Load::Session(s) => session::run(s).await,
            Load::Service(s) => service::run(s).await,
            Load::Worker(w) => service::work(w).await,
            Load::Detector(d) => detector::run(d).await,
            Load::Reporter(r) => detector::report(r).await,
            Load::Series(s) => s.run().await,
            Load::Page(p) => p.run().await,
            Load::Watch(w) => watch::run(w).await,
            Load::Failover(f) => failover::run(f).await,
        }
    })
}

/// Latencies in microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    // One microsecond to ten minutes, three digits: these bounds are valid.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds")
}

impl Report {
    pub(crate) fn new(
        load: &'static str,
        clients: usize,
        h: &Histogram<u64>,
        failed: u64,
        seconds: f64,
        error: Option<String>,
    ) -> Report {
        let at = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
        Report {
            load,
            clients,
            ok: h.len(),
            failed,
            seconds,
            per_second: h.len() as f64 / seconds,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: h.max() as f64 / 1e3,
            error,
        }
    }

    pub(crate) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", serde_json::to_string(self).unwrap_or_default()),
            Output::Text => {
                println!(
                    "{} {} clients: {:.0}/s  ({} answered, {} failed, {:.1} s)",
                    self.load, self.clients, self.per_second, self.ok, self.failed, self.seconds
                );
                println!(
                    "  latency ms: p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
                    self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms
                );
                if let Some(e) = &self.error {
                    println!("  an error: {e}");
                }
            }
        }
    }
}

/// A line on the terminal that tells how far a load is.
pub(crate) async fn show_progress(what: &'static str, total: Duration, count: impl Fn() -> u64) {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let begun = Instant::now();
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (now, done) = (count(), begun.elapsed().as_secs_f64());
        let total = total.as_secs_f64();
        eprint!("\r{what}: {done:.0} of {total:.0} s, {now} done, {}/s  ", (now - before) * 2);
        before = now;
    }
}
