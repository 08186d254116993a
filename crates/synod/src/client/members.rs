//! Members, and forgetting the past.

use super::Connect;
use crate::Outcome;
use clap::{Args, Subcommand};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;

/// Arguments of `synod member`.
#[derive(Args)]
pub struct MemberArgs {
    #[command(subcommand)]
    what: MemberCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// All members
    List,
    /// Add a member; then start it with --initial-cluster-state existing
    Add {
        /// Where peers will reach it
        peer_url: String,
        /// As a learner, to be promoted once it is in sync (safer)
        #[arg(long)]
        learner: bool,
    },
    /// Let a learner count
    Promote {
        /// Which (hexadecimal)
        id: String,
    },
    /// Change where peers reach a member
    Update {
        /// Which (hexadecimal)
        id: String,
        /// The new address
        peer_url: String,
    },
    /// Remove a member
    Remove {
        /// Which (hexadecimal)
        id: String,
    },
}

fn parse(id: &str) -> Outcome<u64> {
    u64::from_str_radix(id.trim_start_matches("0x"), 16)
        .map_err(|_| format!("{id:?} is not a member id (hexadecimal)"))
}

impl MemberArgs {
    pub async fn run(self) -> Outcome {
        let c = &self.connect;
        let mut client = ClusterClient::new(c.open().await?);
        match self.what {
            MemberCommand::List => {
                let request = pb::MemberListRequest { linearizable: true };
                let all = c.call(client.member_list(request)).await?.members;
                all.iter().for_each(|m| print(c, m));
            }
            MemberCommand::Add { peer_url, learner } => {
                let request =
                    pb::MemberAddRequest { peer_ur_ls: vec![peer_url], is_learner: learner };
                let added = c.call(client.member_add(request)).await?;
                added.member.iter().for_each(|m| print(c, m));
            }
            MemberCommand::Promote { id } => {
                let request = pb::MemberPromoteRequest { id: parse(&id)? };
                c.call(client.member_promote(request)).await?;
            }
            MemberCommand::Update { id, peer_url } => {
                let request =
                    pb::MemberUpdateRequest { id: parse(&id)?, peer_ur_ls: vec![peer_url] };
                c.call(client.member_update(request)).await?;
            }
            MemberCommand::Remove { id } => {
                let request = pb::MemberRemoveRequest { id: parse(&id)? };
                c.call(client.member_remove(request)).await?;
            }
        }
        Ok(())
    }
}

fn print(c: &Connect, m: &pb::Member) {
    let started = !m.client_ur_ls.is_empty();
    if c.json() {
        let value = serde_json::json!({
            "id": format!("{:x}", m.id), "name": m.name, "peer_urls": m.peer_ur_ls,
            "client_urls": m.client_ur_ls, "learner": m.is_learner, "started": started,
        });
        println!("{value}");
        return;
    }
    let state = match (m.is_learner, started) {
        (true, _) => "learner",
        (false, true) => "voter",
        (false, false) => "not started",
    };
    let (peers, clients) = (m.peer_ur_ls.join(","), m.client_ur_ls.join(","));
    println!("{:016x}  {:<8}  {state:<11}  {peers}  {clients}", m.id, m.name);
}

/// Arguments of `synod compact`.
#[derive(Args)]
pub struct CompactArgs {
    /// Forget superseded versions at and below this revision
    revision: i64,
    #[command(flatten)]
    connect: Connect,
}

impl CompactArgs {
    pub async fn run(self) -> Outcome {
        let mut client = KvClient::new(self.connect.open().await?);
        let request = pb::CompactionRequest { revision: self.revision, physical: false };
        self.connect.call(client.compact(request)).await.map(drop)
    }
}
