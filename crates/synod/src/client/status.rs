//! How the cluster stands, member by member.

use super::page::page;
use super::{Connect, Format, endpoint};
use crate::Outcome;
use clap::Args;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;

/// Arguments of `synod status`.
#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    connect: Connect,
}

struct Line {
    member: pb::Member,
    status: Option<pb::StatusResponse>,
    /// Of the leader: since when it leads, and why it stood for election.
    why: Option<String>,
    protocol: Option<String>,
    /// What it thinks of its peers, as its page tells.
    peers: Vec<serde_json::Value>,
}

impl StatusArgs {
    pub async fn run(self) -> Outcome {
        let mut client = ClusterClient::new(self.connect.open().await?);
        // Not linearizable: the answer must come without a quorum too.
        let list = self.connect.call(client.member_list(pb::MemberListRequest::default())).await?;
        let mut lines = Vec::new();
        for member in list.members {
            lines.push(look(member).await);
        }
        let last = lines.iter().filter_map(|l| Some(l.status.as_ref()?.raft_index)).max();
        for line in &lines {
            print(line, last.unwrap_or(0), self.connect.output);
        }
        if self.connect.output == Format::Text {
            explain(&lines);
        }
        Ok(())
    }
}

async fn look(member: pb::Member) -> Line {
    let mut line = Line { member, status: None, why: None, protocol: None, peers: Vec::new() };
    for url in &line.member.client_ur_ls {
        let Ok(endpoint) = endpoint(url) else { continue };
        let Ok(channel) = endpoint.connect().await else { continue };
        let mut client = MaintenanceClient::new(channel);
        let asked = client.status(pb::StatusRequest {});
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(2), asked).await {
            let status = status.into_inner();
            if status.leader == line.member.id {
                line.why = leadership_reason(url, status.raft_term).await;
            }
            line.status = Some(status);
            if let Some(cell) = cell(url).await {
                line.protocol = cell["protocol"].as_str().map(str::to_owned);
                line.peers = cell["peers"].as_array().cloned().unwrap_or_default();
            }
            break;
        }
    }
    line
}

/// Only Synod has this page; another etcd's members are shown without it.
async fn leadership_reason(url: &str, term: u64) -> Option<String> {
    reason_of(&page(url, "/synod/leadership").await?, term)
}

/// From a leader's events, the newest first: when it won this term, and why it asked for it.
fn reason_of(events: &str, term: u64) -> Option<String> {
    let won = events.lines().find(|l| l.contains(&format!(": leads term {term} ")))?;
    let (ago, won) = won.split_once(": ")?;
    let asked = |kind: &str| {
        let asks = format!("asks for a {kind} of term {term}: ");
        events.lines().find_map(|l| Some(l.split_once(&asks)?.1.to_owned()))
    };
    let why = asked("pre-vote").or_else(|| asked("vote"));
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    Some(format!("{won} since {}{why}", ago.trim_end_matches(" ago")))
}

/// What the member's cell runs and what it thinks of its peers; of another etcd it is
/// not known.
async fn cell(url: &str) -> Option<serde_json::Value> {
    serde_json::from_str(&page(url, "/synod/cell").await?).ok()
}

fn role(status: &pb::StatusResponse, id: u64) -> &'static str {
    if status.leader == id {
        "leader"
    } else if status.is_learner {
        "learner"
    } else {
        "follower"
    }
}

fn print(line: &Line, last: u64, output: Format) {
    let m = &line.member;
    if output == Format::Json {
        let status = line.status.as_ref().map(|s| {
            serde_json::json!({
                "role": role(s, m.id), "term": s.raft_term, "index": s.raft_index,
                "applied": s.raft_applied_index, "lag": last.saturating_sub(s.raft_applied_index),
                "revision": s.header.as_ref().map_or(0, |h| h.revision),
                "bytes": s.db_size_in_use, "bytes_on_disk": s.db_size, "errors": s.errors,
            })
        });
        let value = serde_json::json!({
            "id": format!("{:x}", m.id), "name": m.name, "client_urls": m.client_ur_ls,
            "protocol": line.protocol, "reachable": status.is_some(), "status": status, "last_change_of_leader": line.why,
            "peers": line.peers,
        });
        println!("{value}");
        return;
    }
    let Some(s) = &line.status else {
        println!("{:016x}  {:<8}  does not answer  ({})", m.id, m.name, m.client_ur_ls.join(","));
        return;
    };
    println!(
        "{:016x}  {:<8}  {:<8}  {} term {}  index {}  lag {}  revision {}  {} KiB{}",
        m.id,
        m.name,
        role(s, m.id),
        line.protocol.as_deref().unwrap_or(""),
        s.raft_term,
        s.raft_applied_index,
        last.saturating_sub(s.raft_applied_index),
        s.header.as_ref().map_or(0, |h| h.revision),
        s.db_size_in_use / 1024,
        if s.errors.is_empty() { String::new() } else { format!("  {}", s.errors.join("; ")) },
    );
}

fn explain(lines: &[Line]) {
    for line in lines {
        if let Some(why) = &line.why {
            println!("{:<8}  {why}", line.member.name);
        }
        for peer in line.peers.iter().filter(|p| p["suspected"] == true) {
            let name = peer["name"].as_str().filter(|n| !n.is_empty());
            println!(
                "{:<8}  suspects {}: silent for {} ms, usually {} ms (phi {})",
                line.member.name,
                name.or(peer["id"].as_str()).unwrap_or("?"),
                peer["silence_ms"],
                peer["usual_ms"],
                peer["phi"],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reason_of;

    #[test]
    fn the_reason_is_that_of_the_term_that_lasts() {
        let events = "1.0 s ago: holds 7 for lost after 261 ms of silence\n\
                      3.2 s ago: leads term 6 from index 93\n\
                      3.2 s ago: asks for a vote of term 6: a quorum would vote for it\n\
                      3.3 s ago: asks for a pre-vote of term 6: the connection to the leader dropped\n\
                      9.0 s ago: leads term 5 from index 80\n\
                      9.1 s ago: asks for a vote of term 5: the leader hands over\n";
        let six = "leads term 6 from index 93 since 3.2 s: the connection to the leader dropped";
        assert_eq!(reason_of(events, 6).as_deref(), Some(six));
        let five = "leads term 5 from index 80 since 9.0 s: the leader hands over";
        assert_eq!(reason_of(events, 5).as_deref(), Some(five));
        assert_eq!(reason_of(events, 4), None);
    }
}
