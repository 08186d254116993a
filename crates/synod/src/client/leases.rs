//! Leases, and what is held by them: locks and elections.

use super::{Connect, show, words};
use crate::Outcome;
use clap::{Args, Subcommand};
use std::process::Stdio;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use synod_etcd_proto::v3lockpb::lock_client::LockClient;
use synod_etcd_proto::{v3electionpb, v3lockpb};
use tonic::transport::Channel;

pub(crate) fn parse_id(text: &str) -> Outcome<i64> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16)
        .map(|id| id as i64)
        .map_err(|_| format!("{text:?} is not a lease id (hexadecimal)"))
}

/// Arguments of `synod lease`.
#[derive(Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    what: LeaseCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum LeaseCommand {
    /// Make a lease
    Grant {
        /// Its time to live
        seconds: i64,
    },
    /// End a lease and delete its keys
    Revoke {
        /// Which
        id: String,
    },
    /// Keep a lease alive until interrupted
    KeepAlive {
        /// Which
        id: String,
        /// Once only
        #[arg(long)]
        once: bool,
    },
    /// How long a lease has left, and its keys
    Show {
        /// Which
        id: String,
    },
    /// All leases
    List,
}

impl LeaseArgs {
    pub async fn run(self) -> Outcome {
        let c = &self.connect;
        let mut client = LeaseClient::new(c.open().await?);
        match self.what {
            LeaseCommand::Grant { seconds } => {
                let request = pb::LeaseGrantRequest { ttl: seconds, id: 0 };
                let lease = c.call(client.lease_grant(request)).await?;
                print_lease(c, lease.id, lease.ttl);
            }
            LeaseCommand::Revoke { id } => {
                let id = parse_id(&id)?;
                c.call(client.lease_revoke(pb::LeaseRevokeRequest { id })).await?;
            }
            LeaseCommand::KeepAlive { id, once } => {
                let id = parse_id(&id)?;
                loop {
                    let ttl = keep_alive(&mut client, id).await?;
                    print_lease(c, id, ttl);
                    if once {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(ttl as u64 * 1_000 / 3)).await;
                }
            }
            LeaseCommand::Show { id } => {
                let request = pb::LeaseTimeToLiveRequest { id: parse_id(&id)?, keys: true };
                let lease = c.call(client.lease_time_to_live(request)).await?;
                if lease.ttl < 0 {
                    return Err(format!("there is no lease {id}"));
                }
                let keys: Vec<String> = lease.keys.iter().map(|k| show(k)).collect();
                if c.json() {
                    let (left, granted) = (lease.ttl, lease.granted_ttl);
                    println!(
                        "{}",
                        serde_json::json!({ "id": id, "left_s": left, "granted_s": granted, "keys": keys })
                    );
                } else {
                    println!(
                        "{} of {} s left; keys: {}",
                        lease.ttl,
                        lease.granted_ttl,
                        keys.join(" ")
                    );
                }
            }
            LeaseCommand::List => {
                let all = c.call(client.lease_leases(pb::LeaseLeasesRequest {})).await?;
                all.leases.iter().for_each(|l| println!("{:x}", l.id));
            }
        }
        Ok(())
    }
}

fn print_lease(c: &Connect, id: i64, ttl: i64) {
    if c.json() {
        println!("{}", serde_json::json!({ "id": format!("{id:x}"), "ttl_s": ttl }));
    } else {
        println!("{id:x}  {ttl} s");
    }
}

async fn keep_alive(client: &mut LeaseClient<Channel>, id: i64) -> Outcome<i64> {
    let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease_keep_alive(once).await.map_err(|e| words(&e))?.into_inner();
    let answer = answers.message().await.map_err(|e| words(&e))?;
    match answer.map_or(0, |a| a.ttl) {
        0 => Err(format!("lease {id:x} is gone")),
        ttl => Ok(ttl),
    }
}

/// A lease kept alive until it is ended; the task ends when it was lost.
struct Session {
    channel: Channel,
    id: i64,
    alive: tokio::task::JoinHandle<String>,
}

impl Session {
    async fn open(c: &Connect, ttl: i64) -> Outcome<Session> {
        let channel = c.open().await?;
        let mut client = LeaseClient::new(channel.clone());
        let lease = c.call(client.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 })).await?;
        let (id, ttl) = (lease.id, lease.ttl);
        let alive = tokio::spawn(async move {
            let mut since = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(ttl as u64 * 1_000 / 3)).await;
                let asked = tokio::time::Instant::now();
                let left = Duration::from_secs(ttl as u64).saturating_sub(since.elapsed());
                match tokio::time::timeout(left, keep_alive(&mut client, id)).await {
                    Ok(Ok(_)) => since = asked,
                    Ok(Err(e)) if since.elapsed() >= Duration::from_secs(ttl as u64) => return e,
                    Ok(Err(e)) if e.contains("is gone") => return e,
                    Ok(Err(_)) => {}
                    Err(_) => return format!("lease {id:x} could not be kept alive in time"),
                }
            }
        });
        Ok(Session { channel, id, alive })
    }

    async fn end(self) {
        self.alive.abort();
        let revoke = pb::LeaseRevokeRequest { id: self.id };
        // It ends by itself at the latest when its time is up.
        let _ = LeaseClient::new(self.channel).lease_revoke(revoke).await;
    }
}

/// Arguments of `synod lock`.
#[derive(Args)]
pub struct LockArgs {
    /// The lock's name
    name: String,
    /// Time to live of the lease that holds it
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    ttl: i64,
    #[command(flatten)]
    connect: Connect,
    /// What to run while it is held (after --); without it, wait until interrupted
    #[arg(last = true)]
    command: Vec<String>,
}

impl LockArgs {
    pub async fn run(self) -> Outcome {
        let mut session = Session::open(&self.connect, self.ttl).await?;
        let mut client = LockClient::new(session.channel.clone());
        let request = v3lockpb::LockRequest { name: self.name.clone().into(), lease: session.id };
        let held = tokio::select! {
            held = client.lock(request) => held.map_err(|e| words(&e))?.into_inner(),
            lost = &mut session.alive => return Err(lost.unwrap_or_default()),
            _ = tokio::signal::ctrl_c() => {
                session.end().await;
                return Err("interrupted while waiting".into());
            }
        };
        let result = hold(&mut session, &self.command, &show(&held.key)).await;
        session.end().await;
        result
    }
}

/// Runs the command (or waits) while the session lives.
async fn hold(session: &mut Session, command: &[String], key: &str) -> Outcome {
    let Some((program, args)) = command.split_first() else {
        println!("{key}");
        return tokio::select! {
            lost = &mut session.alive => Err(lost.unwrap_or_default()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("SYNOD_LOCK_KEY", key)
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    tokio::select! {
        status = child.wait() => match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program}: {status}")),
            Err(e) => Err(format!("{program}: {e}")),
        },
        lost = &mut session.alive => {
            // Nobody may act on a lock that others can have.
            let _ = child.kill().await;
            Err(format!("{program} was killed: {}", lost.unwrap_or_default()))
        }
    }
}

/// Arguments of `synod elect`.
#[derive(Args)]
pub struct ElectArgs {
    /// The election's name
    name: String,
    /// What to proclaim when elected; without it, follow who leads
    value: Option<String>,
    /// Time to live of the lease that holds the office
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    ttl: i64,
    #[command(flatten)]
    connect: Connect,
    /// What to run while elected (after --); without it, wait until interrupted
    #[arg(last = true)]
    command: Vec<String>,
}

impl ElectArgs {
    pub async fn run(self) -> Outcome {
        let Some(value) = self.value.clone() else { return self.follow().await };
        let mut session = Session::open(&self.connect, self.ttl).await?;
        let mut client = ElectionClient::new(session.channel.clone());
        let request = v3electionpb::CampaignRequest {
            name: self.name.clone().into(),
            lease: session.id,
            value: value.into(),
        };
        let won = tokio::select! {
            won = client.campaign(request) => won.map_err(|e| words(&e))?.into_inner(),
            lost = &mut session.alive => return Err(lost.unwrap_or_default()),
            _ = tokio::signal::ctrl_c() => {
                session.end().await;
                return Err("interrupted while waiting".into());
            }
        };
        let key = won.leader.map(|l| show(&l.key)).unwrap_or_default();
        let result = hold(&mut session, &self.command, &key).await;
        session.end().await;
        result
    }

    async fn follow(self) -> Outcome {
        let mut client = ElectionClient::new(self.connect.open().await?);
        let request = v3electionpb::LeaderRequest { name: self.name.clone().into() };
        let mut seen = client.observe(request).await.map_err(|e| words(&e))?.into_inner();
        while let Some(answer) = seen.message().await.map_err(|e| words(&e))? {
            if let Some(kv) = answer.kv {
                println!("{}\t{}", show(&kv.key), show(&kv.value));
            }
        }
        Ok(())
    }
}
