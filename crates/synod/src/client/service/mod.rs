//! `synod service`: instances of services, their health, and which is active.

mod agent;

use super::check::CheckFlags;
use super::locks::bounded;
use super::reports::PhiFlags;
use super::{Connect, show};
use crate::Outcome;
use agent::Plan;
use clap::{Args, Subcommand, ValueEnum};
use std::time::Duration;
use synod_client::Client;
use synod_coord::{
    InstanceRecord, SERVICES, SILENCES, ServiceMode, handover_key, instance_key, silence_key,
};

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
    /// Whether a service has an active instance (exit code 0) or not (1)
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

fn check_name(what: &str, name: &str) -> Outcome {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return Err(format!(
            "{what} {name:?}: 1 to 128 printable ASCII characters, without / and blanks"
        ));
    }
    Ok(())
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
                check_name("service", &r.name)?;
                check_name("instance", &instance)?;
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
                failover(&client, &name, to.as_deref(), Duration::from_secs(within)).await
            }
        }
    }
}

/// An instance, and what the cell knows of it.
struct Known {
    service: String,
    instance: String,
    record: InstanceRecord,
    /// Why its agent is taken to be silent, if it is.
    silent: Option<String>,
}

impl Known {
    /// Whether it is one of those that clients should be sent to. Of an active one of
    /// active/passive a silence says nothing for certain, and there is no other.
    fn is_active(&self) -> bool {
        let alone = self.record.mode == ServiceMode::ActivePassive;
        self.record.active && (alone || self.silent.is_none())
    }

    fn is_healthy(&self) -> bool {
        self.record.healthy == Some(true) && self.silent.is_none()
    }
}

async fn instances(client: &Client, name: Option<&str>) -> Outcome<Vec<Known>> {
    let below = |all: &str, key: String| name.map_or(all.to_owned(), |_| key);
    let records = below(SERVICES, instance_key(name.unwrap_or_default(), ""));
    let silences = below(SILENCES, silence_key(name.unwrap_or_default(), ""));
    let found = client.list(&records).await.map_err(|e| e.to_string())?;
    let silent = client.list(&silences).await.map_err(|e| e.to_string())?;
    let known = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let own = key.get(SERVICES.len()..)?;
        let mark = silent.iter().find(|(key, _)| key.get(SILENCES.len()..) == Some(own));
        let key = show(own);
        let (service, instance) = key.split_once('/')?;
        Some(Known {
            service: service.to_owned(),
            instance: instance.to_owned(),
            record: InstanceRecord::decode(&value)?,
            silent: mark.map(|(_, why)| show(why).to_string()),
        })
    };
    Ok(found.into_iter().filter_map(known).collect())
}

async fn list(connect: &Connect, client: &Client, name: Option<&str>) -> Outcome {
    for known in instances(client, name).await? {
        let Known { service, instance, record: r, silent } = &known;
        if connect.json() {
            println!(
                "{}",
                serde_json::json!({
                    "service": service, "instance": instance, "address": r.address,
                    "mode": r.mode, "healthy": r.healthy, "active": known.is_active(), "token": r.token,
                    "why": r.why, "silent": silent, "since_ms": r.since_ms,
                })
            );
            continue;
        }
        let role = if known.is_active() { "active" } else { "passive" };
        let health = match (silent, r.healthy) {
            (Some(why), _) => format!("silent: {why}"),
            (None, None) => "unknown".to_owned(),
            (None, Some(true)) => "healthy".to_owned(),
            (None, Some(false)) => format!("failing: {}", r.why),
        };
        println!("{service:<16} {instance:<24} {:<22} {role:<8} {health}", r.address);
    }
    Ok(())
}

async fn health(connect: &Connect, client: &Client, name: &str) -> Outcome {
    let all = instances(client, Some(name)).await?;
    let count = |is: fn(&Known) -> bool| all.iter().filter(|known| is(known)).count();
    let (active, healthy) = (count(Known::is_active), count(Known::is_healthy));
    if connect.json() {
        let total = all.len();
        println!(
            "{}",
            serde_json::json!({ "active": active, "healthy": healthy, "instances": total })
        );
    } else {
        println!("{active} active, {healthy} healthy, {} instances", all.len());
    }
    if active == 0 {
        return Err(format!("service {name} has no active instance"));
    }
    Ok(())
}

async fn failover(client: &Client, name: &str, to: Option<&str>, within: Duration) -> Outcome {
    let all = instances(client, Some(name)).await?;
    let active =
        all.iter().find(|k| k.record.active && k.record.mode == ServiceMode::ActivePassive);
    let Some(Known { instance: before, .. }) = active else {
        return Err(if all.is_empty() {
            format!("there is no service {name}")
        } else if all.iter().any(|k| k.record.mode == ServiceMode::ActiveActive) {
            format!("service {name} is active/active: all its healthy instances are active")
        } else {
            format!("service {name} has no active instance that could step down")
        });
    };
    let fit = |i: &str| i != before && all.iter().any(|k| k.instance == i && k.is_healthy());
    match to {
        Some(to) if to == before => return Err(format!("{to} is active already")),
        Some(to) if !fit(to) => return Err(format!("{name} has no healthy instance {to}")),
        None if !all.iter().any(|k| fit(&k.instance)) => {
            return Err(format!("{name} has no other healthy instance"));
        }
        _ => {}
    }
    let asked = client.put(&handover_key(name), to.unwrap_or_default().to_owned(), 0).await;
    asked.map_err(|e| e.to_string())?;
    let until = tokio::time::Instant::now() + within;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = instances(client, Some(name)).await?;
        let next = |k: &&Known| k.record.active && k.instance != *before;
        if let Some(Known { instance: after, record, .. }) = now.iter().find(next) {
            println!("{after} is active by token {}", record.token);
            return Ok(());
        }
    }
    Err(format!("{before} was asked to step down, and nobody followed within {within:?}"))
}
