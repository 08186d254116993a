//! `synod service`: instances of services, their health, and which is active.

mod agent;
mod record;

use super::check::CheckFlags;
use super::locks::bounded;
use super::reports::PhiFlags;
use super::{Connect, show_in_line};
use crate::Outcome;
use agent::Plan;
use clap::{Args, Subcommand, ValueEnum};
use std::time::Duration;
use synod_client::{Client, Error, Instance};
use synod_coord::{ServiceMode, check_service_name};
use tonic::Code;

/// Between two looks whether an instance can follow.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Exit code of a command that the cluster did not answer (as sysexits.h has it).
const NO_ANSWER: i32 = 69;

/// Arguments of `synod service`.
#[derive(Args)]
pub struct ServiceArgs {
    #[command(subcommand)]
    what: ServiceCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// Be the agent of one instance: register it, check its health, and make it
    /// active or passive, until interrupted
    Register(Register),
    /// All instances, or those of one service
    List {
        /// The service
        name: Option<String>,
    },
    /// Whether a service has an active instance (exit code 0) or not (1); 69: the cluster
    /// does not answer
    Health {
        /// The service
        name: String,
    },
    /// Report an instance's health from within it, for its check of kind ttl
    Report {
        /// The service
        name: String,
        /// The instance
        #[arg(long)]
        instance: String,
        /// How it is
        #[arg(value_enum)]
        health: Reported,
        /// What is wrong, for people who look
        #[arg(long, default_value = "")]
        why: String,
    },
    /// Ask the active instance to step down for another
    Failover {
        /// The service
        name: String,
        /// The instance that shall follow; otherwise, whichever is next
        #[arg(long, value_name = "INSTANCE")]
        to: Option<String>,
        /// Seconds to wait for it
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        within: u64,
    },
}

/// Which instances are active.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Exactly one of the healthy ones
    #[value(name = "active/passive")]
    ActivePassive,
    /// All healthy ones
    #[value(name = "active/active")]
    ActiveActive,
}

/// What an instance says of itself.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reported {
    /// It is well
    Healthy,
    /// It is not
    Unhealthy,
}

/// Arguments of `synod service register`.
#[derive(Args)]
struct Register {
    /// The service
    name: String,
    /// What to call this instance [default: host and process id]
    #[arg(long)]
    instance: Option<String>,
    /// Where clients find it
    #[arg(long, default_value = "")]
    address: String,
    /// Which instances are active
    #[arg(long, value_enum, default_value = "active/passive")]
    mode: Mode,
    #[command(flatten)]
    checks: CheckFlags,
    #[command(flatten)]
    phi: PhiFlags,
    /// Run by `sh -c` when it becomes active; if it fails, another instance takes over
    #[arg(long, value_name = "COMMAND")]
    on_promote: Option<String>,
    /// Run by `sh -c` when it becomes passive
    #[arg(long, value_name = "COMMAND")]
    on_demote: Option<String>,
    /// Time after which an instance whose agent is silent is replaced
    #[arg(
        long, default_value_t = 1, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    ttl: u64,
    /// How often the agent says that it lives, so that it is seen to be silent before that
    #[arg(
        long, default_value_t = 333, value_name = "MS",
        value_parser = clap::value_parser!(u64).range(10..)
    )]
    heartbeat: u64,
    /// What to run while it is active (after --); when it ends, another instance takes over
    #[arg(last = true)]
    command: Vec<String>,
}

impl ServiceArgs {
    /// Whether it is the agent of an instance, which goes on without a reader.
    pub fn registers(&self) -> bool {
        matches!(self.what, ServiceCommand::Register(_))
    }

    pub async fn run(self) -> Outcome {
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        match self.what {
            ServiceCommand::Register(r) => {
                let instance = r.instance.unwrap_or_else(super::locks::own_name);
                check_service_name("service", &r.name)?;
                check_service_name("instance", &instance)?;
                let plan = Plan {
                    service: r.name,
                    instance,
                    address: r.address,
                    mode: match r.mode {
                        Mode::ActivePassive => ServiceMode::ActivePassive,
                        Mode::ActiveActive => ServiceMode::ActiveActive,
                    },
                    checks: r.checks,
                    phi: r.phi,
                    on_promote: r.on_promote,
                    on_demote: r.on_demote,
                    ttl: Duration::from_secs(r.ttl.max(1)),
                    heartbeat: Duration::from_millis(r.heartbeat.max(10)),
                    command: r.command,
                };
                agent::run(client, plan).await
            }
            ServiceCommand::List { name } => list(&self.connect, &client, name.as_deref()).await,
            ServiceCommand::Health { name } => health(&self.connect, &client, &name).await,
            ServiceCommand::Report { name, instance, health, why } => {
                let health = if health == Reported::Healthy { Ok(()) } else { Err(why.as_str()) };
                let report = client.report(&name, &instance, health);
                bounded(&self.connect, report).await
            }
            ServiceCommand::Failover { name, to, within } => {
                failover(&self.connect, &client, &name, to.as_deref(), Duration::from_secs(within))
                    .await
            }
        }
    }
}

/// Makes a call; a cluster that does not answer ends the program with a code of its own,
/// for those who must tell it from an answer that is no.
async fn answered<T>(within: Duration, call: impl Future<Output = Result<T, Error>>) -> Outcome<T> {
    let why = match tokio::time::timeout(within, call).await {
        Ok(Err(e @ Error::Unavailable(_))) => e.to_string(),
        Err(_) => format!("no answer within {} s; has the cluster a quorum?", within.as_secs()),
        Ok(Err(Error::Refused(s))) if s.code() == Code::Unimplemented => {
            return Err("this server knows no services: it is not Synod".into());
        }
        Ok(done) => return done.map_err(|e| e.to_string()),
    };
    eprintln!("synod: {why}");
    std::process::exit(NO_ANSWER)
}

impl Connect {
    fn within(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

async fn list(connect: &Connect, client: &Client, name: Option<&str>) -> Outcome {
    for i in answered(connect.within(), client.instances(name)).await? {
        let Instance { service, instance, record: r, silent, .. } = &i;
        if connect.json() {
            println!(
                "{}",
                serde_json::json!({
                    "service": service, "instance": instance, "address": r.address,
                    "mode": r.mode, "healthy": r.healthy, "active": i.is_active(), "token": r.token,
                    "why": r.why, "silent": silent, "since_ms": r.since_ms,
                    "session": format!("{:x}", i.session),
                })
            );
            continue;
        }
        let role = if i.is_active() { "active" } else { "passive" };
        let (address, health) = (show_in_line(r.address.as_bytes()), in_words(&i));
        println!("{service:<16} {instance:<24} {address:<22} {role:<8} {health}");
    }
    Ok(())
}

/// An instance's health.
fn in_words(i: &Instance) -> String {
    match (&i.silent, i.record.healthy) {
        (Some(why), _) => format!("silent: {}", show_in_line(why.as_bytes())),
        (None, None) => "unknown".to_owned(),
        (None, Some(true)) => "healthy".to_owned(),
        (None, Some(false)) => format!("failing: {}", show_in_line(i.record.why.as_bytes())),
    }
}

async fn health(connect: &Connect, client: &Client, name: &str) -> Outcome {
    let h = answered(connect.within(), client.service_health(name)).await?;
    if connect.json() {
        println!(
            "{}",
            serde_json::json!({
                "active": h.active, "healthy": h.healthy, "instances": h.instances,
            })
        );
    } else {
        println!("{} active, {} healthy, {} instances", h.active, h.healthy, h.instances);
    }
    if h.active == 0 {
        return Err(format!("service {name} has no active instance"));
    }
    Ok(())
}

/// Returns when the instance that shall follow, and could, cannot any more, with the reason.
async fn cannot_follow(client: &Client, name: &str, to: Option<&str>) -> String {
    let Some(to) = to else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(all) = client.instances(Some(name)).await else { continue };
        match all.iter().find(|i| i.instance == to) {
            Some(i) if i.is_healthy() => {}
            Some(i) => return format!("{to} has not followed: {}", in_words(i)),
            None => return format!("{to} has not followed: it is gone"),
        }
    }
}

async fn failover(
    connect: &Connect,
    client: &Client,
    name: &str,
    to: Option<&str>,
    within: Duration,
) -> Outcome {
    // Whether the cluster answers is known before it is waited for.
    let before = answered(connect.within(), client.instances(Some(name))).await?;
    // One that cannot be asked for is refused by the call, with better words.
    let could = to.filter(|to| before.iter().any(|i| i.instance == **to && i.is_healthy()));
    let moving = answered(within + connect.within(), client.failover(name, to, within));
    let (after, token) = tokio::select! {
        biased;
        moved = moving => moved?,
        why = cannot_follow(client, name, could) => return Err(why),
    };
    if connect.json() {
        println!("{}", serde_json::json!({ "instance": after, "token": token }));
    } else {
        println!("{after} is active by token {token}");
    }
    Ok(())
}
