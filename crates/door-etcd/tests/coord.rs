//! Sessions, locks and fenced writes, over gRPC and JSON, beside etcd's locks.

mod common;

use common::{Node, Plan, three, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use synod_etcd_proto::synod::v1::session_client::SessionClient;
use synod_etcd_proto::v3electionpb as v3;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use synod_etcd_proto::v3lockpb;
use synod_etcd_proto::v3lockpb::lock_client::LockClient as EtcdLockClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

struct Doors {
    sessions: SessionClient<Channel>,
    locks: LockClient<Channel>,
    kv: KvClient<Channel>,
    leases: LeaseClient<Channel>,
    etcd: EtcdLockClient<Channel>,
    elections: ElectionClient<Channel>,
    node: Node,
    _plan: Plan,
}

impl Doors {
    async fn open() -> Doors {
        let plan = Plan::alone();
        let node = plan.start().await;
        node.ready().await;
        let channel = node.channel().await;
        Doors {
            sessions: SessionClient::new(channel.clone()),
            locks: LockClient::new(channel.clone()),
            kv: KvClient::new(channel.clone()),
            leases: LeaseClient::new(channel.clone()),
            etcd: EtcdLockClient::new(channel.clone()),
            elections: ElectionClient::new(channel),
            node,
            _plan: plan,
        }
    }

    async fn session(&mut self, name: &str, ttl_s: i64, lock_delay_s: i64) -> i64 {
        let open = v1::SessionOpenRequest { ttl_s, lock_delay_s, name: name.into() };
        self.sessions.open(open).await.expect("a session").into_inner().session
    }

    async fn put(&mut self, value: &str, sequencer: &str) -> Result<(), Status> {
        let put = pb::PutRequest {
            key: "data".into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let mut request = Request::new(put);
        request.metadata_mut().insert("synod-sequencer", sequencer.parse().expect("ASCII"));
        self.kv.put(request).await.map(drop)
    }

    async fn value(&mut self) -> String {
        let get = pb::RangeRequest { key: "data".into(), ..Default::default() };
        let found = self.kv.range(get).await.expect("a read").into_inner().kvs;
        found.first().map_or(String::new(), |kv| String::from_utf8_lossy(&kv.value).into())
    }

    async fn revision(&mut self) -> i64 {
        let get = pb::RangeRequest { key: "data".into(), ..Default::default() };
        let header = self.kv.range(get).await.expect("a read").into_inner().header;
        header.expect("a header").revision
    }

    async fn is_good(&mut self, sequencer: &str) -> bool {
        let check = v1::LockCheckRequest { sequencer: sequencer.into() };
        self.locks.check(check).await.expect("an answer").into_inner().good
    }

    async fn release(&mut self, sequencer: &str) -> Result<(), Status> {
        let release = v1::LockReleaseRequest { sequencer: sequencer.into() };
        self.locks.release(release).await.map(drop)
    }
}

fn lock(session: i64) -> v1::LockAcquireRequest {
    v1::LockAcquireRequest { name: "jobs".into(), session, ..Default::default() }
}

fn shared(session: i64) -> v1::LockAcquireRequest {
    v1::LockAcquireRequest { mode: v1::LockMode::Shared.into(), ..lock(session) }
}

fn refused<T: std::fmt::Debug>(done: Result<T, Status>, code: Code, words: &str) {
    let status = done.expect_err(words);
    assert!(status.code() == code && status.message().contains(words), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lock_is_not_slow() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("first", 60, 0).await, doors.session("second", 60, 0).await);
    let held = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
    let begun = std::time::Instant::now();
    let waits = v1::LockAcquireRequest { wait_ms: 300, ..lock(b) };
    refused(doors.locks.acquire(waits).await, Code::DeadlineExceeded, "waited 300 ms");
    assert!(begun.elapsed() > Duration::from_millis(250));
    doors.release(&held.sequencer).await.expect("it was held");
    // Anything else may have been slow on a busy machine.
    let (_, events) = doors.node.http("GET", "/synod/events", "").await;
    assert!(!events.contains("/synod.v1.Lock/Acquire"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_from_one_to_the_next_and_the_first_cannot_write_any_more() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("first", 60, 0).await, doors.session("second", 60, 0).await);
    let first = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
    assert!(first.sequencer.starts_with(&format!("{}:exclusive:{a:x}:jobs", first.token)));
    refused(
        doors.locks.acquire(v1::LockAcquireRequest { r#try: true, ..lock(b) }).await,
        Code::Aborted,
        "is held by first (session",
    );
    refused(
        doors.locks.acquire(v1::LockAcquireRequest { wait_ms: 50, ..lock(b) }).await,
        Code::DeadlineExceeded,
        "waited 50 ms",
    );
    refused(doors.locks.acquire(lock(a)).await, Code::AlreadyExists, "has a place");
    doors.put("1", &first.sequencer).await.expect("the holder writes");

    let mut waiting = doors.locks.clone();
    let second = tokio::spawn(async move { waiting.acquire(lock(b)).await });
    let locks = &doors.locks;
    let described = async || {
        let describe = v1::LockDescribeRequest { name: "jobs".into() };
        locks.clone().describe(describe).await.expect("a description").into_inner()
    };
    until("a waiter", || async { described().await.waiters.len() == 1 }).await;
    let seen = described().await;
    assert_eq!(
        (seen.holders[0].owner.as_str(), seen.waiters[0].owner.as_str()),
        ("first", "second")
    );
    assert!(seen.holders[0].held_ms > 0 && seen.waiters[0].held_ms == 0);
    doors.release(&first.sequencer).await.expect("it held it");
    let second = second.await.expect("the task").expect("its turn").into_inner();
    assert!(second.token > first.token);
    assert!(!doors.is_good(&first.sequencer).await && doors.is_good(&second.sequencer).await);
    doors.put("2", &second.sequencer).await.expect("the holder writes");
    refused(doors.put("3", &first.sequencer).await, Code::FailedPrecondition, "stale");
    refused(doors.release(&first.sequencer).await, Code::FailedPrecondition, "stale");
    refused(doors.put("3", "what").await, Code::InvalidArgument, "not a sequencer");
    assert_eq!(doors.value().await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_and_transactions_are_fenced_too() {
    let mut doors = Doors::open().await;
    let a = doors.session("", 60, 0).await;
    let held = doors.locks.acquire(shared(a)).await.expect("free").into_inner();
    let put = pb::PutRequest { key: "data".into(), value: "1".into(), ..Default::default() };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
    let with = |sequencer: &str, message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("synod-sequencer", sequencer.parse().expect("ASCII"));
        request
    };
    let done = doors.kv.txn(with(&held.sequencer, txn.clone())).await.expect("it holds");
    let done = done.into_inner();
    assert!(done.succeeded && done.responses.len() == 1, "{done:?}");
    doors.release(&held.sequencer).await.expect("it held it");
    refused(doors.kv.txn(with(&held.sequencer, txn)).await, Code::FailedPrecondition, "stale");
    let delete = pb::DeleteRangeRequest { key: "data".into(), ..Default::default() };
    let mut request = Request::new(delete);
    request.metadata_mut().insert("synod-sequencer", held.sequencer.parse().expect("ASCII"));
    refused(doors.kv.delete_range(request).await, Code::FailedPrecondition, "stale");
    assert_eq!(doors.value().await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcds_clients_and_ours_exclude_each_other() {
    let mut doors = Doors::open().await;
    let a = doors.session("ours", 60, 0).await;
    let theirs = v3lockpb::LockRequest { name: "jobs".into(), lease: 0 };
    let theirs = doors.etcd.lock(theirs).await.expect("free").into_inner();
    refused(
        doors.locks.acquire(v1::LockAcquireRequest { r#try: true, ..shared(a) }).await,
        Code::Aborted,
        "is held by a client",
    );
    let unlock = v3lockpb::UnlockRequest { key: theirs.key };
    doors.etcd.unlock(unlock).await.expect("unlocked");
    let ours = doors.locks.acquire(shared(a)).await.expect("free").into_inner();
    let mut etcd = doors.etcd.clone();
    let lease = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    let lease = doors.leases.lease_grant(lease).await.expect("a lease").into_inner().id;
    let waiting = tokio::spawn(async move {
        etcd.lock(v3lockpb::LockRequest { name: "jobs".into(), lease }).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "an etcd client waits for those that share");
    doors.release(&ours.sequencer).await.expect("it held it");
    waiting.await.expect("the task").expect("its turn");
    // A lease that no session was opened for can hold a lock as well.
    refused(
        doors.locks.acquire(v1::LockAcquireRequest { r#try: true, ..lock(a) }).await,
        Code::Aborted,
        &format!("session {lease:x}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_closes_its_locks_for_the_lock_delay() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("lost", 1, 2).await, doors.session("next", 60, 0).await);
    let first = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
    let begun = tokio::time::Instant::now();
    let next = doors.locks.acquire(lock(b)).await.expect("its turn").into_inner();
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(2_500), "{waited:?}");
    assert!(!doors.is_good(&first.sequencer).await && doors.is_good(&next.sequencer).await);
    refused(doors.locks.acquire(lock(a)).await, Code::NotFound, "there is no session");
    // Given back, it is free at once.
    doors.release(&next.sequencer).await.expect("it held it");
    let c = doors.session("closed", 60, 30).await;
    doors.locks.acquire(lock(c)).await.expect("free");
    let close = v1::SessionCloseRequest { session: c };
    doors.sessions.close(close).await.expect("closed");
    let close = v1::SessionCloseRequest { session: c };
    refused(doors.sessions.close(close).await, Code::NotFound, "there is no session");
    let begun = tokio::time::Instant::now();
    doors.locks.acquire(lock(b)).await.expect("free");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_while_they_are_kept_alive_and_are_listed() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("kept", 2, 3).await, doors.session("left", 1, 0).await);
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(rx);
    let mut answers = doors.sessions.keep_alive(requests).await.expect("a stream").into_inner();
    for _ in 0..8 {
        tx.send(v1::SessionKeepAliveRequest { session: a }).await.expect("open");
        let answer = answers.message().await.expect("an answer").expect("one for each");
        assert_eq!((answer.session, answer.ttl_s), (a, 2));
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    tx.send(v1::SessionKeepAliveRequest { session: b }).await.expect("open");
    let answer = answers.message().await.expect("an answer").expect("one for each");
    assert_eq!((answer.session, answer.ttl_s), (b, 0), "it is over");
    doors.locks.acquire(lock(a)).await.expect("free");
    let list = doors.sessions.list(v1::SessionListRequest::default()).await.expect("a list");
    let list = list.into_inner().sessions;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((list[0].name.as_str(), list[0].lock_delay_s, list[0].ttl_s), ("kept", 3, 2));
    assert!(list[0].left_ms > 0 && list[0].left_ms <= 2_000);
    assert_eq!(list[0].keys, [format!("jobs/{a:x}")]);
}

/// Many sessions that do nothing must not fill the log.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_that_have_time_to_wait_share_an_entry_of_the_log() {
    const SESSIONS: usize = 50;
    let mut doors = Doors::open().await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(doors.session("", 60, 0).await);
    }
    let mut maintenance = MaintenanceClient::new(doors.node.channel().await);
    let mut index = async || {
        let status = maintenance.status(pb::StatusRequest {}).await.expect("a status");
        status.into_inner().raft_index
    };
    let before = index().await;
    let renew = |session: i64| {
        let mut client = doors.sessions.clone();
        tokio::spawn(async move {
            let (tx, rx) = tokio::sync::mpsc::channel(1);
            tx.send(v1::SessionKeepAliveRequest { session }).await.expect("open");
            let requests = tokio_stream::wrappers::ReceiverStream::new(rx);
            let mut answers = client.keep_alive(requests).await.expect("a stream").into_inner();
            let answer = answers.message().await.expect("an answer").expect("one for each");
            (answer.session, answer.ttl_s)
        })
    };
    let renewals: Vec<_> = sessions.iter().map(|s| renew(*s)).collect();
    for (session, renewal) in sessions.iter().zip(renewals) {
        assert_eq!(renewal.await.expect("the task"), (*session, 60));
    }
    let entries = index().await - before;
    assert!(entries <= 10, "{entries} entries for {SESSIONS} renewals");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_client_goes_leaves_the_queue() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 60, 0).await, doors.session("b", 60, 0).await);
    doors.locks.acquire(lock(a)).await.expect("free");
    let mut waiting = doors.locks.clone();
    let waits = waiting.acquire(lock(b));
    assert!(tokio::time::timeout(Duration::from_millis(300), waits).await.is_err());
    let locks = &doors.locks;
    let left = || async {
        let describe = v1::LockDescribeRequest { name: "jobs".into() };
        let seen = locks.clone().describe(describe).await.expect("a description");
        seen.into_inner().waiters.is_empty()
    };
    until("the waiter to leave", left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_as_json() {
    let doors = Doors::open().await;
    let node = &doors.node;
    let (code, opened) =
        node.post("/synod/v1/session/open", "", r#"{"ttl_s":60,"name":"curl"}"#).await;
    assert_eq!(code, 200, "{opened}");
    let session = opened.split("\"session\":\"").nth(1).and_then(|s| s.split('"').next());
    let session = session.expect("a session").to_owned();
    let acquire = format!(r#"{{"name":"am9icw==","session":"{session}"}}"#);
    let (code, held) = node.post("/synod/v1/lock/acquire", "", &acquire).await;
    assert_eq!(code, 200, "{held}");
    let sequencer = held.split("\"sequencer\":\"").nth(1).and_then(|s| s.split('"').next());
    let sequencer = sequencer.expect("a sequencer").to_owned();
    let header = format!("synod-sequencer: {sequencer}\r\n");
    let put = r#"{"key":"ZGF0YQ==","value":"MQ=="}"#;
    let (code, text) = node.post("/v3/kv/put", &header, put).await;
    assert_eq!(code, 200, "{text}");
    let release = format!(r#"{{"sequencer":"{sequencer}"}}"#);
    let (code, text) = node.post("/synod/v1/lock/release", "", &release).await;
    assert_eq!(code, 200, "{text}");
    let (code, text) = node.post("/v3/kv/put", &header, put).await;
    assert!(code == 400 && text.contains("stale"), "{code} {text}");
    let (code, text) = node.post("/synod/v1/nothing", "", "{}").await;
    assert_eq!(code, 404, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_made_again_finds_its_own_place_and_no_other() {
    let mut doors = Doors::open().await;
    let a = doors.session("a", 60, 0).await;
    let numbered = |attempt| v1::LockAcquireRequest { attempt, ..lock(a) };
    let first = doors.locks.acquire(numbered(7)).await.expect("free").into_inner();
    let again = doors.locks.acquire(numbered(7)).await.expect("its own").into_inner();
    assert_eq!(again.sequencer, first.sequencer);
    refused(doors.locks.acquire(numbered(8)).await, Code::AlreadyExists, "has a place");
    refused(doors.locks.acquire(numbered(0)).await, Code::AlreadyExists, "has a place");
    doors.release(&first.sequencer).await.expect("it held it");
    // A candidate's number stands beside its value.
    let candidate = v1::LockAcquireRequest { value: "me".into(), ..numbered(9) };
    let first = doors.locks.acquire(candidate.clone()).await.expect("free").into_inner();
    let again = doors.locks.acquire(candidate).await.expect("its own").into_inner();
    assert_eq!(again.sequencer, first.sequencer);
    doors.release(&first.sequencer).await.expect("it held it");
    let left = doors.sessions.list(v1::SessionListRequest::default()).await.expect("a list");
    assert!(left.into_inner().sessions[0].keys.is_empty(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hold_has_no_sequencer() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 1, 30).await, doors.session("b", 60, 0).await);
    doors.locks.acquire(lock(a)).await.expect("free");
    let mut waiting = doors.locks.clone();
    let waits = tokio::spawn(async move { waiting.acquire(lock(b)).await });
    let locks = &doors.locks;
    let described = async || {
        let describe = v1::LockDescribeRequest { name: "jobs".into() };
        locks.clone().describe(describe).await.expect("a description").into_inner()
    };
    until("a waiter", || async { described().await.waiters.len() == 1 }).await;
    let seen = described().await;
    assert!(!seen.holders[0].sequencer.is_empty() && seen.waiters[0].sequencer.is_empty());
    until("the loss", || async { described().await.delays.len() == 1 }).await;
    let guard = described().await.delays[0].clone();
    assert!(guard.sequencer.is_empty() && guard.session == a);
    waits.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_etcd_client_gives_back_is_free_at_once() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 60, 60).await, doors.session("b", 60, 0).await);
    let held = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
    doors.etcd.unlock(v3lockpb::UnlockRequest { key: held.key }).await.expect("unlocked");
    let next = doors.locks.acquire(lock(b)).await.expect("free").into_inner();
    doors.release(&next.sequencer).await.expect("it held it");
    let again = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
    assert!(doors.is_good(&again.sequencer).await);
}

/// A lease's key in a queue has one name, whenever it is made: a waiter must not take
/// the holder's next place, behind its own, for the one that it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_a_lock_back_and_asks_again_at_once_waits_behind_the_others() {
    let (_plans, nodes) = three().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..24 {
        let channel = nodes[i % 3].channel().await;
        let lease = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        let granted = LeaseClient::new(channel.clone()).lease_grant(lease).await;
        let lease = granted.expect("a lease").into_inner().id;
        tasks.spawn(async move {
            let mut etcd = EtcdLockClient::new(channel);
            for _ in 0..25 {
                let lock = v3lockpb::LockRequest { name: "jobs".into(), lease };
                let key = etcd.lock(lock).await.expect("its turn").into_inner().key;
                etcd.unlock(v3lockpb::UnlockRequest { key }).await.expect("unlocked");
            }
        });
    }
    let all = tokio::time::timeout(Duration::from_secs(30), tasks.join_all());
    all.await.expect("nobody waits for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_leaves_nothing_behind() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 60, 0).await, doors.session("b", 60, 60).await);
    for round in 0..20 {
        let held = doors.locks.acquire(lock(a)).await.expect("free").into_inner();
        let mut waiting = doors.locks.clone();
        let wait_ms = 20;
        let waits = tokio::spawn(async move {
            waiting.acquire(v1::LockAcquireRequest { wait_ms, ..lock(b) }).await
        });
        tokio::time::sleep(Duration::from_millis(10 + round % 12)).await;
        doors.release(&held.sequencer).await.expect("it held it");
        match waits.await.expect("the task") {
            Ok(held) => {
                doors.release(&held.into_inner().sequencer).await.expect("it held it");
            }
            Err(e) => assert_eq!(e.code(), Code::DeadlineExceeded, "{e}"),
        }
        let describe = v1::LockDescribeRequest { name: "jobs".into() };
        let seen = doors.locks.describe(describe).await.expect("a description").into_inner();
        assert!(seen.holders.is_empty() && seen.delays.is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_synods_own_and_calls_that_check_no_sequencer_are_refused() {
    let mut doors = Doors::open().await;
    let a = doors.session("a", 60, 0).await;
    for name in ["", "synod", "synod/session", "synod/session/1", "synod/service/x"] {
        let request = v1::LockAcquireRequest { name: name.into(), ..lock(a) };
        let why = if name.is_empty() { "from 1 to" } else { "Synod's own" };
        refused(doors.locks.acquire(request).await, Code::InvalidArgument, why);
        let describe = v1::LockDescribeRequest { name: name.into() };
        refused(doors.locks.describe(describe).await, Code::InvalidArgument, why);
    }
    // Nor through etcd's doors, which take any key.
    let record = format!("synod/session/{a:x}");
    for name in ["synod/session", &record, "synod/service/web", "synod/claim", "synod/file/x"] {
        let own = (Code::InvalidArgument, "Synod's own");
        let lock = v3lockpb::LockRequest { name: name.to_owned().into(), lease: a };
        refused(doors.etcd.lock(lock).await, own.0, own.1);
        let unlock = v3lockpb::UnlockRequest { key: name.to_owned().into() };
        refused(doors.etcd.unlock(unlock).await, own.0, own.1);
        let name = bytes::Bytes::from(name.to_owned());
        let campaign = v3::CampaignRequest { name: name.clone(), lease: a, value: "v".into() };
        refused(doors.elections.campaign(campaign).await, own.0, own.1);
        let leader = Some(v3::LeaderKey { name: name.clone(), key: name, rev: 1, lease: a });
        let proclaim = v3::ProclaimRequest { leader: leader.clone(), value: "v".into() };
        refused(doors.elections.proclaim(proclaim).await, own.0, own.1);
        let resign = v3::ResignRequest { leader };
        refused(doors.elections.resign(resign).await, own.0, own.1);
    }
    refused(doors.locks.acquire(lock(0)).await, Code::InvalidArgument, "a session is needed");
    let mut request = Request::new(pb::LeaseGrantRequest { ttl: 9, id: 0 });
    request.metadata_mut().insert("synod-sequencer", "5:shared:1f:x".parse().expect("ASCII"));
    refused(doors.leases.lease_grant(request).await, Code::InvalidArgument, "checks no");
    let mut request = Request::new(pb::RangeRequest { key: "x".into(), ..Default::default() });
    request.metadata_mut().insert("synod-sequencer", "5:shared:1f:x".parse().expect("ASCII"));
    refused(doors.kv.range(request).await, Code::InvalidArgument, "checks no");
    let long =
        v1::SessionOpenRequest { ttl_s: 9_000_000_000, lock_delay_s: 1, ..Default::default() };
    refused(doors.sessions.open(long).await, Code::OutOfRange, "too large lease TTL");
}

/// What Synod itself keeps is no plain write's; etcd's own lock calls work on it.
#[tokio::test]
async fn offices_and_sessions_are_not_written_past_their_calls() {
    let mut doors = Doors::open().await;
    let holder = doors.session("holder", 60, 0).await;
    let office = v1::LockAcquireRequest { name: "synod/office/web".into(), ..lock(holder) };
    let held = doors.locks.acquire(office).await.expect("free").into_inner();
    let delete = |key: &[u8], range_end: &[u8]| pb::DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: range_end.to_vec().into(),
        ..Default::default()
    };
    let own = format!("synod/session/{holder:x}");
    for key in [
        &held.key[..],
        own.as_bytes(),
        b"synod/candidate/x/1",
        b"synod/claim/1/x",
        b"synod/service/web/a",
        b"synod/handover/web",
    ] {
        let put = pb::PutRequest { key: key.to_vec().into(), ..Default::default() };
        refused(doors.kv.put(put.clone()).await, Code::InvalidArgument, "elections only");
        let done = doors.kv.delete_range(delete(key, b"")).await;
        refused(done, Code::InvalidArgument, "elections only");
        let request = Some(pb::request_op::Request::RequestPut(put));
        let txn = pb::TxnRequest { failure: vec![pb::RequestOp { request }], ..Default::default() };
        refused(doors.kv.txn(txn).await, Code::InvalidArgument, "elections only");
    }
    // Over all keys: only when nothing is held.
    let all = || delete(b"\0", b"\0");
    let done = doors.kv.delete_range(all()).await;
    refused(done, Code::FailedPrecondition, "nothing was deleted");
    assert!(doors.is_good(&held.sequencer).await);
    doors.put("fenced", &held.sequencer).await.expect("it holds");
    doors.release(&held.sequencer).await.expect("it held");
    // An etcd client in the office's queue.
    let etcds = v3lockpb::LockRequest { name: "synod/office/web".into(), lease: 0 };
    let key = doors.etcd.lock(etcds).await.expect("free").into_inner().key;
    let unlock = v3lockpb::UnlockRequest { key };
    doors.etcd.unlock(unlock).await.expect("unlocked");
    let close = v1::SessionCloseRequest { session: holder };
    doors.sessions.close(close).await.expect("closed");
    let deleted = doors.kv.delete_range(all()).await.expect("nothing is held").into_inner();
    assert_eq!((deleted.deleted, doors.value().await), (1, String::new()));
}

/// A sequencer tells how its holder holds: one that says something else is none.
#[tokio::test]
async fn a_sequencer_of_another_mode_fences_nothing() {
    let mut doors = Doors::open().await;
    let holder = doors.session("holder", 60, 0).await;
    for (request, wrong) in [(lock(holder), "shared"), (shared(holder), "exclusive")] {
        let held = doors.locks.acquire(request).await.expect("free").into_inner();
        let right = if wrong == "shared" { "exclusive" } else { "shared" };
        let other = held.sequencer.replace(right, wrong);
        refused(doors.put("x", &other).await, Code::FailedPrecondition, "stale");
        assert!(!doors.is_good(&other).await && doors.is_good(&held.sequencer).await);
        doors.put("y", &held.sequencer).await.expect("it holds");
        doors.release(&held.sequencer).await.expect("it held");
    }
}

/// Locks whose names go on behind a lock's do not stand in its queue, however many.
#[tokio::test]
async fn a_lock_above_many_others() {
    let mut doors = Doors::open().await;
    for page in 0..21 {
        let put = |n: usize| {
            // One lock with half of the keys, and many with one.
            let key = match n % 2 {
                0 => format!("big/0/{page:02}{n:04}"),
                _ => format!("big/1{page:02}{n:04}/a"),
            };
            let put = pb::PutRequest { key: key.into(), ..Default::default() };
            let request = Some(pb::request_op::Request::RequestPut(put));
            pb::RequestOp { request }
        };
        for some in 0..10 {
            let success = (some * 100..some * 100 + 100).map(put).collect();
            let txn = pb::TxnRequest { success, ..Default::default() };
            doors.kv.txn(txn).await.expect("written");
        }
    }
    let (one, two) = (doors.session("one", 60, 0).await, doors.session("two", 60, 0).await);
    let big = |session| v1::LockAcquireRequest { name: "big".into(), ..lock(session) };
    let held = doors.locks.acquire(big(one)).await.expect("nobody is in the way").into_inner();
    assert!(doors.is_good(&held.sequencer).await);
    let before = doors.revision().await;
    let tried = v1::LockAcquireRequest { r#try: true, ..big(two) };
    refused(doors.locks.acquire(tried).await, Code::Aborted, "is held by one");
    assert_eq!(doors.revision().await, before, "who only tries writes nothing");
    let describe = v1::LockDescribeRequest { name: "big".into() };
    let seen = doors.locks.describe(describe).await.expect("an answer").into_inner();
    assert_eq!((seen.holders.len(), seen.waiters.len()), (1, 0));
    assert_eq!(seen.holders[0].key, held.key);
}

#[tokio::test]
async fn sessions_are_listed_page_by_page() {
    let mut doors = Doors::open().await;
    let mut opened = Vec::new();
    for n in 0..5 {
        opened.push(doors.session(&format!("s{n}"), 60, 0).await);
    }
    let (mut listed, mut after, mut pages) = (Vec::new(), 0, 0);
    loop {
        let page = v1::SessionListRequest { limit: 2, after };
        let found = doors.sessions.list(page).await.expect("a list").into_inner();
        listed.extend(found.sessions.iter().map(|s| s.session));
        (after, pages) = (*listed.last().expect("sessions"), pages + 1);
        if !found.more {
            break;
        }
    }
    opened.sort();
    listed.sort();
    assert_eq!((listed, pages), (opened, 3));
}
