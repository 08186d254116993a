//! What sessions cost the servers that only keep them: nobody asks for anything.

use super::Output;
use super::servers::Servers;
use crate::Outcome;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};
use synod_client::{Client, Session, SessionOptions};
use tokio::task::JoinSet;

/// Sessions that are opened at the same time.
const OPENING: usize = 64;
/// After the last was opened, and before that with none, the servers come to rest.
const SETTLE: Duration = Duration::from_secs(3);

/// Arguments of `synod bench session`.
#[derive(Args, Clone)]
pub struct SessionArgs {
    /// Endpoints, separated by commas; sessions are spread over them
    #[arg(
        long,
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// Sessions, each with a stream of renewals of its own
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Connections to each endpoint that the sessions share
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Time to live of a session
    #[arg(long, default_value_t = 12, value_name = "SECONDS")]
    ttl: u64,
    /// How long to measure, in seconds, without sessions and with them
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Serialize)]
struct Cost {
    load: &'static str,
    sessions: usize,
    connections: usize,
    ttl_s: u64,
    /// Server processes that were seen on this machine.
    servers: usize,
    /// How long it took to open all sessions.
    opened_s: f64,
    /// CPU of all servers in percent of one core: without sessions, and what came
    /// with them and their connections.
    idle_cpu_percent: f64,
    cpu_percent: f64,
    /// Memory of all servers: without sessions, and what came with them and their
    /// connections.
    idle_memory_mib: f64,
    memory_mib: f64,
    /// Sessions that were not safe at the end.
    unsafe_sessions: usize,
}

pub async fn run(args: SessionArgs) -> Outcome {
    let servers = Servers::of(&args.endpoints);
    if servers.count() == 0 {
        return Err(format!("no process of this machine listens at {}", args.endpoints.join(",")));
    }
    // What the servers make once is made by a session on each of them.
    let mut clients = connect(&args.endpoints).await?;
    let warm = open(&clients, clients.len(), &args).await?;
    tokio::time::sleep(SETTLE).await;
    let (idle_cpu_percent, idle_memory_mib) = watch(&servers, args.seconds).await;
    let begun = Instant::now();
    for _ in 1..args.connections {
        clients.extend(connect(&args.endpoints).await?);
    }
    let sessions = open(&clients, args.sessions, &args).await?;
    let opened_s = begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let (cpu, memory) = watch(&servers, args.seconds).await;
    let cost = Cost {
        load: "session",
        sessions: sessions.len(),
        connections: clients.len(),
        ttl_s: args.ttl,
        servers: servers.count(),
        opened_s,
        idle_cpu_percent,
        cpu_percent: cpu - idle_cpu_percent,
        idle_memory_mib,
        memory_mib: memory - idle_memory_mib,
        unsafe_sessions: sessions.iter().filter(|s| !s.is_safe()).count(),
    };
    print(&cost, args.output);
    // They end by themselves when nobody keeps them alive.
    drop((warm, sessions));
    Ok(())
}

/// A connection to each.
async fn connect(endpoints: &[String]) -> Outcome<Vec<Client>> {
    let mut clients = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        clients.push(Client::connect([endpoint]).await.map_err(|e| e.to_string())?);
    }
    Ok(clients)
}

async fn open(clients: &[Client], count: usize, args: &SessionArgs) -> Outcome<Vec<Session>> {
    let (mut opening, mut sessions) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        if opening.len() >= OPENING {
            sessions.extend(opened(opening.join_next().await)?);
        }
        let client = clients[number % clients.len()].clone();
        let ttl = Duration::from_secs(args.ttl.max(1));
        let options = SessionOptions { ttl, ..SessionOptions::named("bench") };
        opening.spawn(async move { client.open_session(options).await });
    }
    while !opening.is_empty() {
        sessions.extend(opened(opening.join_next().await)?);
    }
    Ok(sessions)
}

type Opened = Option<Result<Result<Session, synod_client::Error>, tokio::task::JoinError>>;

fn opened(done: Opened) -> Outcome<Option<Session>> {
    match done {
        None => Ok(None),
        Some(Ok(Ok(session))) => Ok(Some(session)),
        Some(Ok(Err(e))) => Err(e.to_string()),
        Some(Err(e)) => Err(e.to_string()),
    }
}

/// CPU in percent of one core over so long, and memory at its end.
async fn watch(servers: &Servers, seconds: f64) -> (f64, f64) {
    let (begun, before) = (Instant::now(), servers.cpu_s());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let cpu = servers.cpu_s() - before;
    (cpu * 100.0 / begun.elapsed().as_secs_f64(), servers.memory_mib())
}

fn print(cost: &Cost, output: Output) {
    match output {
        Output::Json => println!("{}", serde_json::to_string(cost).unwrap_or_default()),
        Output::Text => {
            println!(
                "{} idle sessions of {} s on {} connections, opened in {:.1} s, {} not safe",
                cost.sessions, cost.ttl_s, cost.connections, cost.opened_s, cost.unsafe_sessions
            );
            println!(
                "  {} servers: {:.2} % of a core and {:.1} MiB more than the {:.2} % and {:.1} MiB without",
                cost.servers,
                cost.cpu_percent,
                cost.memory_mib,
                cost.idle_cpu_percent,
                cost.idle_memory_mib
            );
        }
    }
}
