//! Three members: leadership moves on demand, and a leader may be removed.

mod common;

use common::{Node, three, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Code;

async fn leader(nodes: &[Node]) -> usize {
    until("one leader", || async { nodes.iter().any(|n| n.handle.leads()) }).await;
    nodes.iter().position(|n| n.handle.leads()).expect("a leader")
}

async fn move_to(node: &Node, to: u64) -> Result<(), tonic::Status> {
    let mut client = MaintenanceClient::new(node.channel().await);
    client.move_leader(pb::MoveLeaderRequest { target_id: to }).await.map(drop)
}

/// A series of the metrics page.
async fn series(node: &Node, name: &str) -> Option<f64> {
    let page = node.http("GET", "/metrics", "").await.1;
    page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_whom_it_is_asked() {
    let (_plans, nodes) = three().await;
    let at = leader(&nodes).await;
    let (from, to) = (&nodes[at], &nodes[(at + 1) % 3]);
    let target = to.handle.id().0;
    let refused = move_to(to, target).await.expect_err("only the leader can");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "etcdserver: not leader")
    );
    move_to(from, target).await.expect("it moves");
    until("the other to lead", || async { to.handle.leads() && !from.handle.leads() }).await;

    let third = &nodes[(at + 2) % 3];
    until("the third to know", || async {
        let mut client = MaintenanceClient::new(third.channel().await);
        let status = client.status(pb::StatusRequest {}).await;
        status.is_ok_and(|s| s.into_inner().leader == target)
    })
    .await;
    // Its peers' round trips are measured, and nothing is amiss with its disk.
    let peer = format!(
        "etcd_network_peer_round_trip_time_seconds_count{{To=\"{:x}\"}}",
        from.handle.id().0
    );
    until("a probe's echo", || async { series(to, &peer).await.is_some_and(|n| n > 0.0) }).await;
    let sum = peer.replace("_count", "_sum");
    assert!(series(to, &sum).await.is_some_and(|s| s > 0.0));
    let writing = series(to, "synod_journal_write_age_seconds").await;
    assert!(writing.is_some_and(|age| age < 5.0), "{writing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_may_be_removed() {
    let (_plans, nodes) = three().await;
    let at = leader(&nodes).await;
    let (gone, left) = (&nodes[at], &nodes[(at + 1) % 3]);
    let id = gone.handle.id().0;
    until("the leader to be removed", || async {
        let mut client = ClusterClient::new(left.channel().await);
        let listed = client.member_list(pb::MemberListRequest { linearizable: true }).await;
        if listed.is_ok_and(|l| l.into_inner().members.iter().all(|m| m.id != id)) {
            return true;
        }
        // Whatever it answers: the list decides.
        let _ = client.member_remove(pb::MemberRemoveRequest { id }).await;
        false
    })
    .await;
    let end = tokio::time::timeout(Duration::from_secs(20), gone.handle.stopped()).await;
    let why = end.expect("it stops").expect_err("it has to");
    assert!(why.contains("was removed"), "{why}");
    until("the two to go on", || async {
        let mut kv = KvClient::new(left.channel().await);
        let put = pb::PutRequest { key: "k".into(), ..Default::default() };
        kv.put(put).await.is_ok()
    })
    .await;
}
