//! Status, alarms, hashes, snapshots, leadership, health and auth, over gRPC.

mod common;

use common::{Node, Plan};
use sha2::{Digest, Sha256};
use synod_etcd_proto::etcdserverpb::auth_client::AuthClient;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_etcd_proto::etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction};
use synod_etcd_proto::healthpb::health_client::HealthClient;
use synod_etcd_proto::healthpb::{HealthCheckRequest, health_check_response::ServingStatus};
use synod_mvcc::SnapshotReader;
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn start() -> (Plan, Node, Channel) {
    let plan = Plan::alone();
    let node = plan.start().await;
    node.ready().await;
    let channel = node.channel().await;
    (plan, node, channel)
}

async fn put(channel: &Channel, key: &str, value: Vec<u8>) -> Result<(), Status> {
    let key = key.to_owned().into_bytes().into();
    let request = pb::PutRequest { key, value: value.into(), ..Default::default() };
    KvClient::new(channel.clone()).put(request).await.map(drop)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_where_the_member_stands() {
    let (_plan, node, channel) = start().await;
    put(&channel, "a", vec![1; 1000]).await.expect("a put");
    let mut client = MaintenanceClient::new(channel.clone());
    let s = client.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(s.version, synod_door_etcd::ETCD_VERSION);
    assert_eq!((s.leader, s.is_learner), (node.handle.id().0, false));
    assert!(s.raft_index >= s.raft_applied_index && s.raft_applied_index > 1, "{s:?}");
    assert!(s.raft_term >= 1 && s.db_size > 0 && s.db_size_in_use >= 1000, "{s:?}");
    assert_eq!(s.db_size_quota, 2 << 30);
    assert!(s.errors.is_empty(), "{:?}", s.errors);
    client.defragment(pb::DefragmentRequest {}).await.expect("nothing to do");
}

/// What is in use is a part of the whole, whatever is written out, packed or measured late:
/// etcd's users work out from the two what a defragmentation would give back.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_in_use_than_there_is() {
    let (_plan, node, channel) = start().await;
    let mut client = MaintenanceClient::new(channel.clone());
    for i in 0..40 {
        put(&channel, &format!("k/{i}"), vec![b'x'; 100_000]).await.expect("a put");
        let s = client.status(pb::StatusRequest {}).await.expect("a status").into_inner();
        assert!(s.db_size >= s.db_size_in_use, "{i}: {s:?}");
        assert!(s.db_size_in_use >= 100_000 * i, "{i}: {s:?}");
    }
    let page = node.http("GET", "/metrics", "").await.1;
    let number = |name: &str| {
        let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|n| n.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name}"))
    };
    let (all, used) = (
        number("etcd_mvcc_db_total_size_in_bytes"),
        number("etcd_mvcc_db_total_size_in_use_in_bytes"),
    );
    assert!(all >= used && used >= 4e6, "{all} {used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_told_and_cleared() {
    let (_plan, node, channel) = start().await;
    let mut client = MaintenanceClient::new(channel.clone());
    let id = node.handle.id().0;
    let ask = |action: AlarmAction| pb::AlarmRequest {
        action: action.into(),
        member_id: id,
        alarm: AlarmType::Nospace.into(),
    };
    let cleared = client.alarm(ask(AlarmAction::Deactivate)).await.expect("an answer");
    assert!(cleared.into_inner().alarms.is_empty(), "nothing was raised");
    client.alarm(ask(AlarmAction::Activate)).await.expect("an alarm");
    let space = "etcdserver: mvcc: database space exceeded";
    refused(put(&channel, "a", vec![1]).await, Code::ResourceExhausted, space);
    let all = client.alarm(pb::AlarmRequest::default()).await.expect("a list").into_inner();
    let nospace = pb::AlarmMember { member_id: id, alarm: AlarmType::Nospace.into() };
    assert_eq!(all.alarms, [nospace]);
    let s = client.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(s.errors, [format!("memberID:{id} alarm:NOSPACE ")]);
    let (status, health) = node.http("GET", "/health", "").await;
    assert_eq!((status, &*health), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(node.http("GET", "/health?exclude=NOSPACE", "").await.0, 200);
    let cleared = client.alarm(ask(AlarmAction::Deactivate)).await.expect("an answer");
    assert_eq!(cleared.into_inner().alarms, [nospace]);
    put(&channel, "a", vec![1]).await.expect("writes go on");

    let corrupt =
        pb::AlarmRequest { alarm: AlarmType::Corrupt.into(), ..ask(AlarmAction::Activate) };
    client.alarm(corrupt).await.expect("an alarm");
    let (status, text) = node.http("GET", "/readyz/data_corruption", "").await;
    assert!(status == 503 && text.contains("[-]data_corruption failed"), "{status} {text}");
    assert_eq!(node.http("GET", "/livez", "").await.0, 200);
}

/// Many write as fast as they can: the alarm is raised when the quota is used up, not when
/// it is looked at next.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_hardly_overshot() {
    const QUOTA: u64 = 4 << 20;
    const VALUE: usize = 100_000;
    const WRITERS: u64 = 8;
    let mut plan = Plan::alone();
    plan.cell.quota_bytes = QUOTA;
    let node = plan.start().await;
    node.ready().await;
    let channel = node.channel().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    if let Err(status) =
                        put(&channel, &format!("{writer}/{n}"), vec![0; VALUE]).await
                    {
                        return (n, status);
                    }
                }
                unreachable!("writes without end")
            })
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        let (count, status) = writer.await.expect("a writer");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        written += count * VALUE as u64;
    }
    // What was on its way when it was used up, and before the alarm was agreed on.
    let late = 4 * WRITERS * VALUE as u64;
    assert!((QUOTA * 9 / 10..QUOTA + late).contains(&written), "{written} bytes for {QUOTA}");

    let all = pb::DeleteRangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let gone = KvClient::new(channel.clone()).delete_range(all).await.expect("space is made");
    let revision = gone.into_inner().header.expect("a header").revision;
    let compaction = pb::CompactionRequest { revision, physical: true };
    KvClient::new(channel.clone()).compact(compaction).await.expect("compacted");
    common::until("writes again", async || put(&channel, "again", vec![1]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_counts_exactly_and_reads_back() {
    let (_plan, _node, channel) = start().await;
    for n in 0..200 {
        put(&channel, &format!("key{n:03}"), vec![n as u8; 3000]).await.expect("a put");
    }
    let mut client = MaintenanceClient::new(channel.clone());
    let mut pieces = client.snapshot(pb::SnapshotRequest {}).await.expect("a stream").into_inner();
    let (mut all, mut before) = (Vec::new(), None);
    while let Some(piece) = pieces.message().await.expect("a piece") {
        if let Some(before) = before {
            assert_eq!(before, piece.remaining_bytes + piece.blob.len() as u64);
        }
        before = Some(piece.remaining_bytes);
        all.extend_from_slice(&piece.blob);
    }
    assert_eq!(before, Some(0));
    assert_eq!(all.len() % 512, 32);
    let (body, hash) = all.split_at(all.len() - 32);
    assert_eq!(&Sha256::digest(body)[..], hash);
    let (padded, length) = body.split_at(body.len() - 8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
    assert!(padded[length..].iter().all(|b| *b == 0));
    let mut reader = SnapshotReader::new();
    let pairs = reader.feed(&padded[..length]).expect("our format");
    let kept = pairs.iter().filter(|(_, _, value)| value.len() >= 3000).count();
    assert!(kept >= 200, "{kept} of 200 values");
    assert_eq!(reader.finish().expect("it is whole").revision, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_fit_the_revision() {
    let (_plan, _node, channel) = start().await;
    put(&channel, "a", vec![1]).await.expect("a put");
    let mut client = MaintenanceClient::new(channel.clone());
    let first =
        client.hash_kv(pb::HashKvRequest { revision: 2 }).await.expect("a hash").into_inner();
    assert_eq!((first.hash_revision, first.compact_revision), (2, 0));
    let whole = client.hash(pb::HashRequest {}).await.expect("a hash").into_inner().hash;
    put(&channel, "a", vec![2]).await.expect("a put");
    let again =
        client.hash_kv(pb::HashKvRequest { revision: 2 }).await.expect("a hash").into_inner();
    assert_eq!(first.hash, again.hash);
    let newer = client.hash_kv(pb::HashKvRequest::default()).await.expect("a hash").into_inner();
    assert!(newer.hash != first.hash && newer.hash_revision == 3);
    assert_ne!(client.hash(pb::HashRequest {}).await.expect("a hash").into_inner().hash, whole);
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(client.hash_kv(pb::HashKvRequest { revision: 9 }).await, Code::OutOfRange, future);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_and_versions_are_refused_in_etcds_words() {
    use pb::downgrade_request::DowngradeAction;
    let (_plan, node, channel) = start().await;
    let mut client = MaintenanceClient::new(channel.clone());
    let bad = client.move_leader(pb::MoveLeaderRequest { target_id: 7 }).await;
    refused(bad, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    let own = pb::MoveLeaderRequest { target_id: node.handle.id().0 };
    client.move_leader(own).await.expect("it leads already");
    let ask = |action: DowngradeAction, version: &str| pb::DowngradeRequest {
        action: action.into(),
        version: version.into(),
    };
    for wrong in ["", "3", "3.x", "3.6.y", "3.6.0.1"] {
        let answer = client.downgrade(ask(DowngradeAction::Validate, wrong)).await;
        let text = "etcdserver: wrong downgrade target version format";
        refused(answer, Code::InvalidArgument, text);
    }
    let answer = client.downgrade(ask(DowngradeAction::Enable, "3.6.0")).await;
    refused(answer, Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    let answer = client.downgrade(ask(DowngradeAction::Cancel, "")).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_is_disabled_and_says_so() {
    let (_plan, _node, channel) = start().await;
    let mut client = AuthClient::new(channel);
    let status = client.auth_status(pb::AuthStatusRequest {}).await.expect("a status");
    assert!(!status.into_inner().enabled);
    client.auth_disable(pb::AuthDisableRequest {}).await.expect("it is disabled");
    let answer = client.authenticate(pb::AuthenticateRequest::default()).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    let enabled = client.auth_enable(pb::AuthEnableRequest {}).await.expect_err("not built");
    assert!(enabled.code() == Code::Unimplemented && enabled.message().contains("not built"));
    let added = client.user_add(pb::AuthUserAddRequest::default()).await.expect_err("not built");
    assert_eq!(added.code(), Code::Unimplemented);
    let users = client.user_list(pb::AuthUserListRequest {}).await.expect("a list");
    assert!(users.into_inner().users.is_empty());
    let answer = client.role_get(pb::AuthRoleGetRequest::default()).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: role name not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_service_knows_its_services() {
    let (_plan, _node, channel) = start().await;
    let mut client = HealthClient::new(channel);
    for service in ["", "etcdserverpb.KV"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = client.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest { service: "nobody".into() };
    refused(client.check(unknown.clone()).await, Code::NotFound, "unknown service");
    let mut watched = client.watch(unknown).await.expect("a stream").into_inner();
    let first = watched.message().await.expect("an answer").expect("one");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response as answer};
    let (_plan, _node, channel) = start().await;
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let first = answers.expect("a stream").into_inner().message().await.expect("an answer");
    let Some(answer::MessageResponse::ListServicesResponse(list)) =
        first.and_then(|r| r.message_response)
    else {
        panic!("not a list");
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"] {
        assert!(names.contains(&&*format!("etcdserverpb.{name}")), "{names:?}");
    }
    // Under the name by which older tools ask.
    use tonic_reflection::pb::v1alpha as older;
    let list = older::server_reflection_request::MessageRequest::ListServices(String::new());
    let request =
        older::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut client = older::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await;
    let first = answers.expect("a stream").into_inner().message().await.expect("an answer");
    assert!(format!("{first:?}").contains("synod.v1.Lock"), "{first:?}");
}
