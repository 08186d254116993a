//! Members come, are promoted, and go.

mod common;

use common::{Node, Plan, free, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_host::ClusterState;
use tonic::transport::Channel;
use tonic::{Code, Status};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

fn add(url: &str, is_learner: bool) -> pb::MemberAddRequest {
    pb::MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner }
}

/// A further voter: a learner at first.
async fn grow(one: &Plan, client: &ClusterClient<Channel>, name: &str) -> (Plan, Node) {
    let at = free();
    let added = client.clone().member_add(add(&format!("http://{at}"), true)).await;
    let id = added.expect("a learner").into_inner().member.expect("the member").id;
    let (plan, node) = joined(one, name, at).await;
    node.ready().await;
    assert_eq!(node.handle.id().0, id);
    until("the learner to be in sync", || {
        let mut client = client.clone();
        async move { client.member_promote(pb::MemberPromoteRequest { id }).await.is_ok() }
    })
    .await;
    (plan, node)
}

async fn joined(one: &Plan, name: &str, at: std::net::SocketAddr) -> (Plan, Node) {
    let plan = Plan::new(name, at, one.first.clone(), ClusterState::Existing);
    let node = plan.start().await;
    (plan, node)
}

async fn put(channel: &Channel) -> Result<(), Status> {
    let request = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    KvClient::new(channel.clone()).put(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_cannot_be_are_refused() {
    let plan = Plan::alone();
    let node = plan.start().await;
    node.ready().await;
    let mut client = ClusterClient::new(node.channel().await);
    let list = client.member_list(pb::MemberListRequest { linearizable: true }).await;
    let list = list.expect("a list").into_inner();
    assert_eq!((list.members.len(), list.members[0].id), (1, node.handle.id().0));
    assert_eq!(list.members[0].name, "n1");

    let exists = "etcdserver: Peer URLs already exists";
    refused(client.member_add(add(&plan.url(), false)).await, Code::FailedPrecondition, exists);
    for bad in ["", "ftp://a:1", "http://a", "http://:1", "http://a:70000"] {
        let text = "etcdserver: given member URLs are invalid";
        refused(client.member_add(add(bad, false)).await, Code::InvalidArgument, text);
    }
    let unknown = "etcdserver: member not found";
    let none = pb::MemberRemoveRequest { id: 7 };
    refused(client.member_remove(none).await, Code::NotFound, unknown);
    let none = pb::MemberPromoteRequest { id: 7 };
    refused(client.member_promote(none).await, Code::NotFound, unknown);
    let own = pb::MemberPromoteRequest { id: node.handle.id().0 };
    let text = "etcdserver: can only promote a learner member";
    refused(client.member_promote(own).await, Code::FailedPrecondition, text);
    let last = pb::MemberRemoveRequest { id: node.handle.id().0 };
    let text = "etcdserver: re-configuration failed due to not enough started members";
    refused(client.member_remove(last).await, Code::FailedPrecondition, text);

    // Its quorum would wait for a member that has not started.
    let second = client.member_add(add("http://127.0.0.1:1", false)).await;
    refused(second, Code::FailedPrecondition, text);
    // A learner that never starts.
    let added = client.member_add(add("http://127.0.0.1:1", true)).await.expect("a learner");
    let added = added.into_inner();
    let id = added.member.as_ref().expect("the member").id;
    assert!(added.members.iter().any(|m| m.id == id && m.is_learner), "{added:?}");
    let text = "etcdserver: too many learner members in cluster";
    let second = client.member_add(add("http://127.0.0.1:2", true)).await;
    refused(second, Code::FailedPrecondition, text);
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    let promoted = client.member_promote(pb::MemberPromoteRequest { id }).await;
    refused(promoted, Code::FailedPrecondition, text);
    let update = |url: &str| pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.into()] };
    refused(client.member_update(update(&plan.url())).await, Code::FailedPrecondition, exists);
    let updated = client.member_update(update("http://127.0.0.1:3")).await.expect("an update");
    let urls = updated.into_inner().members.into_iter().find(|m| m.id == id).map(|m| m.peer_ur_ls);
    assert_eq!(urls, Some(vec!["http://127.0.0.1:3".to_owned()]));
    let left = client.member_remove(pb::MemberRemoveRequest { id }).await.expect("it goes");
    assert_eq!(left.into_inner().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_serves_little_until_it_is_promoted() {
    let one = Plan::alone();
    let first = one.start().await;
    first.ready().await;
    let mut client = ClusterClient::new(first.channel().await);
    let at = free();
    let added = client.member_add(add(&format!("http://{at}"), true)).await.expect("a learner");
    let id = added.into_inner().member.expect("the member").id;
    let (_two, second) = joined(&one, "n2", at).await;
    second.ready().await;
    assert_eq!(second.handle.id().0, id);
    let channel = second.channel().await;
    let text = "etcdserver: rpc not supported for learner";
    refused(put(&channel).await, Code::FailedPrecondition, text);
    let mut theirs = ClusterClient::new(channel.clone());
    let list = theirs.member_list(pb::MemberListRequest::default()).await;
    refused(list, Code::FailedPrecondition, text);
    let range =
        |serializable| pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
    let mut kv = KvClient::new(channel.clone());
    refused(kv.range(range(false)).await, Code::FailedPrecondition, text);
    kv.range(range(true)).await.expect("a serializable read");
    let status = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await;
    assert!(status.expect("a status").into_inner().is_learner);
    assert_eq!(second.http("GET", "/readyz/non_learner", "").await.0, 503);
    assert_eq!(second.http("POST", "/v3/cluster/member/list", "").await.0, 400);

    until("the learner to be in sync", || {
        let mut client = client.clone();
        async move { client.member_promote(pb::MemberPromoteRequest { id }).await.is_ok() }
    })
    .await;
    // What the answer to the promotion says is so at once.
    let list = client.member_list(pb::MemberListRequest { linearizable: true }).await;
    assert!(list.expect("a list").into_inner().members.iter().all(|m| !m.is_learner));
    until("the promoted member to write", || async { put(&channel).await.is_ok() }).await;
    assert_eq!(second.http("GET", "/readyz", "").await.0, 200);
}

/// Two members, then three; the third is removed while it is away, and stops
/// when it comes back and its peers say why.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_stops() {
    let one = Plan::alone();
    let first = one.start().await;
    first.ready().await;
    let channel = first.channel().await;
    let mut client = ClusterClient::new(channel.clone());
    let (_two, second) = grow(&one, &client, "n2").await;
    // Beside two voters a third may be added at once.
    let at = free();
    let wanted = add(&format!("http://{at}"), false);
    until("the third to be added", || {
        let (mut client, wanted) = (client.clone(), wanted.clone());
        async move { client.member_add(wanted).await.is_ok() }
    })
    .await;
    let (three, third) = joined(&one, "n3", at).await;
    third.ready().await;
    let id = third.handle.id().0;
    third.handle.stop();
    third.handle.stopped().await.expect("it was told to stop");
    drop(third);
    client.member_remove(pb::MemberRemoveRequest { id }).await.expect("it is removed");
    let back = three.start().await;
    let why = tokio::time::timeout(Duration::from_secs(20), back.handle.stopped()).await;
    let why = why.expect("it stops").expect_err("it has to");
    assert!(why.contains("was removed from the cluster"), "{why}");

    // One that is up goes by itself, and the rest goes on.
    let id = second.handle.id().0;
    until("the second to be removed", || {
        let mut client = client.clone();
        async move { client.member_remove(pb::MemberRemoveRequest { id }).await.is_ok() }
    })
    .await;
    let why = tokio::time::timeout(Duration::from_secs(20), second.handle.stopped()).await;
    assert!(why.expect("it stops").expect_err("it has to").contains("was removed"));
    put(&channel).await.expect("the first goes on alone");
}

/// A quorum's silence is no word: the member waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_peers_are_away_waits() {
    let one = Plan::alone();
    let first = one.start().await;
    first.ready().await;
    let client = ClusterClient::new(first.channel().await);
    let (_two, second) = grow(&one, &client, "n2").await;
    first.handle.stop();
    first.handle.stopped().await.expect("it was told to stop");
    let stopped = tokio::time::timeout(Duration::from_secs(4), second.handle.stopped()).await;
    assert!(stopped.is_err(), "it stopped: {stopped:?}");
}
