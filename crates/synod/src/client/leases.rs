//! Leases.

use super::{Connect, say, show, words};
use crate::Outcome;
use clap::{Args, Subcommand};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;
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
    /// Whether it keeps a lease alive, which goes on without a reader.
    pub fn keeps_alive(&self) -> bool {
        matches!(self.what, LeaseCommand::KeepAlive { .. })
    }

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
    match c.json() {
        true => say::out(&serde_json::json!({ "id": format!("{id:x}"), "ttl_s": ttl }).to_string()),
        false => say::out(&format!("{id:x}  {ttl} s")),
    }
}

pub(crate) async fn keep_alive(client: &mut LeaseClient<Channel>, id: i64) -> Outcome<i64> {
    let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease_keep_alive(once).await.map_err(|e| words(&e))?.into_inner();
    let answer = answers.message().await.map_err(|e| words(&e))?;
    match answer.map_or(0, |a| a.ttl) {
        0 => Err(format!("lease {id:x} is gone")),
        ttl => Ok(ttl),
    }
}
