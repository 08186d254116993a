//! Active/passive services whose active instance fails, again and again: its agent is
//! killed, or its check refused. How long until another is active, and whether two ever
//! are.

use super::{Output, histogram};
use crate::Outcome;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_client::Client;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How long anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `synod bench service`.
#[derive(Args, Clone)]
pub struct ServiceArgs {
    /// Endpoints, separated by commas
    #[arg(
        long,
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// How often the active instance fails
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// What fails of it
    #[arg(long, value_enum, default_value_t = Kill::Agent)]
    kill: Kill,
    /// Instances of the service, each with an agent of its own
    #[arg(long, default_value_t = 3)]
    instances: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How an active instance fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kill {
    /// Its agent is killed (kill -9)
    Agent,
    /// Nobody listens any more where its check (tcp) connects to
    Check,
}

/// Arguments of what the agents run.
#[derive(Args, Clone)]
pub struct WorkerArgs {
    /// Where it notes that it began
    log: PathBuf,
}

#[derive(Serialize)]
struct Switches {
    load: &'static str,
    instances: usize,
    kill: Kill,
    kills: u64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Switches by time: up to so many ms, how many.
    by_ms: Vec<(u64, u64)>,
    /// Times that an instance was active beside another.
    doubles: u64,
    /// Times that a token was not greater than the one before.
    stale_tokens: u64,
    /// Switches that no kill was the reason of.
    unasked: u64,
}

/// Milliseconds of the machine's monotonic clock, the same in all its processes.
fn monotonic_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// The active instance's work: it alone may have the file's lock, which ends with it.
pub async fn work(args: WorkerArgs) -> Outcome {
    let words = |e: &dyn std::fmt::Display| format!("{}: {e}", args.log.display());
    let lock = File::create(args.log.with_extension("lock")).map_err(|e| words(&e))?;
    let alone = lock.try_lock().is_ok();
    let began = monotonic_ms();
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let line = format!("{began} {} {} {alone}\n", of("SYNOD_INSTANCE"), of("SYNOD_TOKEN"));
    let mut log = OpenOptions::new().append(true).create(true).open(&args.log);
    let log = log.as_mut().map_err(|e| words(&e))?;
    log.write_all(line.as_bytes()).map_err(|e| words(&e))?;
    std::future::pending().await
}

/// One line of the log.
struct Began {
    at_ms: f64,
    instance: usize,
    token: i64,
    alone: bool,
}

fn read(log: &Path) -> Vec<Began> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| {
        let mut words = line.split(' ');
        Some(Began {
            at_ms: words.next()?.parse().ok()?,
            instance: words.next()?.parse().ok()?,
            token: words.next()?.parse().ok()?,
            alone: words.next()? == "true",
        })
    };
    whole.lines().filter_map(line).collect()
}

/// What an instance's check connects to.
struct Listening {
    port: u16,
    task: Option<JoinHandle<()>>,
}

impl Listening {
    /// Listens at this port, or at any if it is 0.
    async fn at(port: u16) -> Outcome<Listening> {
        let words = |e: std::io::Error| format!("cannot listen: {e}");
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(words)?;
        let port = listener.local_addr().map_err(words)?.port();
        let accept = async move { while listener.accept().await.is_ok() {} };
        Ok(Listening { port, task: Some(tokio::spawn(accept)) })
    }

    async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Aborted is what it shall be.
            let _ = task.await;
        }
    }
}

struct Agents {
    service: String,
    endpoints: String,
    dir: PathBuf,
    children: Vec<Child>,
    /// Of those that are checked.
    listening: Vec<Listening>,
}

impl Agents {
    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn start(&self, instance: usize) -> Outcome<Child> {
        let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let check =
            self.listening.get(instance).map(|l| format!("--check=tcp:127.0.0.1:{}", l.port));
        Command::new(&own)
            .args(["service", "register", &self.service, "--endpoints", &self.endpoints])
            .args(["--instance", &instance.to_string()])
            .args(check)
            .arg("--")
            .arg(&own)
            .args(["bench", "worker"])
            .arg(self.log())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start an agent: {e}"))
    }

    /// Until all instances are healthy again and one of them works.
    async fn settle(&self, client: &Client, count: usize, began: usize) -> Outcome {
        let begun = Instant::now();
        loop {
            let found = client.instances(Some(&self.service)).await.map_err(|e| e.to_string())?;
            if found.iter().filter(|i| i.is_healthy()).count() == count
                && read(&self.log()).len() >= began
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the instances are not ready: {} are known", found.len()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub async fn run(args: ServiceArgs) -> Outcome {
    if args.instances < 2 {
        return Err("a service that can fail over has two instances at least".into());
    }
    let id = std::process::id();
    let dir = std::env::temp_dir().join(format!("synod-bench-{id}"));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let endpoints = args.endpoints.join(",");
    let (service, children) = (format!("bench-{id}"), Vec::new());
    let mut agents = Agents { service, endpoints, dir, children, listening: Vec::new() };
    for _ in (0..args.instances).filter(|_| args.kill == Kill::Check) {
        agents.listening.push(Listening::at(0).await?);
    }
    for instance in 0..args.instances {
        let child = agents.start(instance)?;
        agents.children.push(child);
    }
    let client = Client::connect(&args.endpoints).await.map_err(|e| e.to_string())?;
    let mut took = histogram();
    let mut rng = Rng::new(1);
    for kill in 1..=args.kills {
        agents.settle(&client, args.instances, kill).await?;
        // At any moment between two renewals.
        tokio::time::sleep(Duration::from_millis(rng.between(100, 1_100))).await;
        took.saturating_record(switch(&mut agents).await?);
        if args.output == Output::Text && kill % 20 == 0 {
            eprintln!("{kill} of {} kills", args.kills);
        }
    }
    print(&report(&args, &took, &read(&agents.log())), args.output);
    Ok(())
}

/// Lets the active instance fail; microseconds until another works.
async fn switch(agents: &mut Agents) -> Outcome<u64> {
    let log = read(&agents.log());
    let (active, began) = (log.last().map(|b| b.instance).ok_or("nobody is active")?, log.len());
    let killed = monotonic_ms();
    match agents.listening.get_mut(active) {
        Some(listening) => listening.stop().await,
        None => {
            let child = agents.children.get_mut(active).ok_or("an instance of another service")?;
            child.kill().await.map_err(|e| format!("cannot kill an agent: {e}"))?;
        }
    }
    let begun = Instant::now();
    let next = loop {
        let log = read(&agents.log());
        if let Some(next) = log.get(began) {
            break next.at_ms;
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("nobody follows instance {active}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    match agents.listening.get(active).map(|l| l.port) {
        Some(port) => agents.listening[active] = Listening::at(port).await?,
        None => agents.children[active] = agents.start(active)?,
    }
    Ok(((next - killed).max(0.0) * 1e3) as u64)
}

fn report(args: &ServiceArgs, took: &hdrhistogram::Histogram<u64>, log: &[Began]) -> Switches {
    let at = |q: f64| took.value_at_quantile(q) as f64 / 1e3;
    let steps = [400, 500, 600, 700, 800, 900, 1_000, 1_100, 1_200, 1_300, 1_400, 1_500];
    let mut by_ms: Vec<(u64, u64)> = Vec::new();
    let mut counted = 0;
    for ms in steps {
        let upto = took.count_between(0, ms * 1_000);
        by_ms.push((ms, upto - counted));
        counted = upto;
    }
    Switches {
        load: "service",
        instances: args.instances,
        kill: args.kill,
        kills: took.len(),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        max_ms: took.max() as f64 / 1e3,
        by_ms,
        doubles: log.iter().filter(|b| !b.alone).count() as u64,
        unasked: (log.len() as u64).saturating_sub(1 + took.len()),
        stale_tokens: log.windows(2).filter(|w| w[1].token <= w[0].token).count() as u64,
    }
}

fn print(s: &Switches, output: Output) {
    match output {
        Output::Json => println!("{}", serde_json::to_string(s).unwrap_or_default()),
        Output::Text => {
            println!(
                "{} failures ({}) of the active one of {}: {} times two were active, {} tokens did not grow, \
                 {} switches without one",
                s.kills,
                match s.kill {
                    Kill::Agent => "agent killed",
                    Kill::Check => "check refused",
                },
                s.instances,
                s.doubles,
                s.stale_tokens,
                s.unasked
            );
            println!(
                "  until the next was active, ms: p50 {:.0}  p90 {:.0}  p99 {:.0}  max {:.0}",
                s.p50_ms, s.p90_ms, s.p99_ms, s.max_ms
            );
            let steps = s.by_ms.iter().filter(|(_, count)| *count > 0);
            let steps: Vec<_> = steps.map(|(ms, count)| format!("to {ms} ms {count}")).collect();
            println!("  {}", steps.join(", "));
        }
    }
}
