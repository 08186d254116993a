//! Small files: reads, writes, ephemerals, events and caches, over gRPC and JSON.

mod common;

use common::{Node, Plan, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::file_client::FileClient;
use synod_etcd_proto::synod::v1::file_event::Kind;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use synod_etcd_proto::synod::v1::session_client::SessionClient;
use synod_etcd_proto::v3electionpb as election;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use synod_etcd_proto::v3lockpb;
use synod_etcd_proto::v3lockpb::lock_client::LockClient as EtcdLockClient;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

struct Doors {
    files: FileClient<Channel>,
    sessions: SessionClient<Channel>,
    locks: LockClient<Channel>,
    kv: KvClient<Channel>,
    channel: Channel,
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
            files: FileClient::new(channel.clone()),
            sessions: SessionClient::new(channel.clone()),
            locks: LockClient::new(channel.clone()),
            kv: KvClient::new(channel.clone()),
            channel,
            node,
            _plan: plan,
        }
    }

    async fn session(&mut self, ttl_s: i64) -> i64 {
        let open = v1::SessionOpenRequest { ttl_s, ..Default::default() };
        self.sessions.open(open).await.expect("a session").into_inner().session
    }

    async fn set(&mut self, path: &str, contents: &str) -> Result<v1::FileSetResponse, Status> {
        self.files.set(set(path, contents)).await.map(tonic::Response::into_inner)
    }

    async fn delete(&mut self, path: &str) -> Result<(), Status> {
        let delete = v1::FileDeleteRequest { path: path.into(), ..Default::default() };
        self.files.delete(delete).await.map(drop)
    }

    async fn get(&mut self, path: &str, cache_for: i64) -> v1::FileGetResponse {
        let get = v1::FileGetRequest { path: path.into(), cache_for, lock: true };
        self.files.get(get).await.expect("a read").into_inner()
    }

    async fn list(&mut self, path: &str, cache_for: i64) -> (Vec<String>, i64) {
        let list = v1::FileListRequest { path: path.into(), cache_for };
        let found = self.files.list(list).await.expect("a list").into_inner();
        (found.children.into_iter().map(|c| c.name).collect(), found.registered)
    }

    async fn release(&mut self, session: i64, path: &str, registered: i64) {
        let one = v1::FileRegistration { path: path.into(), children: false, registered };
        let release = v1::FileReleaseRequest { session, registrations: vec![one] };
        self.files.release(release).await.expect("released");
    }
}

fn set(path: &str, contents: &str) -> v1::FileSetRequest {
    let contents = contents.to_owned().into();
    v1::FileSetRequest { path: path.into(), contents, ..Default::default() }
}

fn refused<T: std::fmt::Debug>(done: Result<T, Status>, code: Code, words: &str) {
    let status = done.expect_err(words);
    assert!(status.code() == code && status.message().contains(words), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_listed_and_deleted() {
    let mut doors = Doors::open().await;
    refused(doors.set("a/b", "x").await, Code::FailedPrecondition, "no node above");
    let made = doors.set("a", "1").await.expect("free");
    assert!(made.created && made.generation > 0);
    doors
        .files
        .set(v1::FileSetRequest { parents: true, ..set("a/b/c", "deep") })
        .await
        .expect("made");
    let node = doors.get("a/b/c", 0).await.node.expect("there");
    assert_eq!((&node.contents[..], node.acl_generation, node.session), (&b"deep"[..], 0, 0));
    // RFC 3720's polynomial, by a calculator of its own.
    doors.set("a", "123456789").await.expect("there");
    let node = doors.get("a", 0).await.node.expect("there");
    assert_eq!((node.checksum, node.writes, node.instance), (0xe306_9283, 2, made.generation));
    assert!(node.generation > made.generation);
    assert_eq!(doors.list("", 0).await.0, ["a"]);
    assert_eq!(doors.list("a/b", 0).await.0, ["c"]);
    assert!(doors.list("nothing", 0).await.0.is_empty());
    assert_eq!(doors.get("nothing", 0).await.node, None);

    let stale = v1::FileSetRequest { generation: made.generation, ..set("a", "no") };
    refused(doors.files.set(stale).await, Code::FailedPrecondition, "is of generation");
    let new = v1::FileSetRequest { absent: true, ..set("a", "no") };
    refused(doors.files.set(new).await, Code::AlreadyExists, "is of generation");
    let good = v1::FileSetRequest { generation: node.generation, ..set("a", "yes") };
    doors.files.set(good).await.expect("as expected");
    refused(doors.delete("a").await, Code::FailedPrecondition, "has children");
    refused(doors.delete("b").await, Code::NotFound, "there is no node");
    doors.delete("a/b/c").await.expect("there");
    assert!(doors.list("a/b", 0).await.0.is_empty());

    let most = "x".repeat(256 << 10);
    doors.set("big", &most).await.expect("as much as there may be");
    assert_eq!(doors.get("big", 0).await.node.expect("there").contents.len(), 256 << 10);
    refused(doors.set("big", &(most + "x")).await, Code::InvalidArgument, "at most 262144");
    for path in ["", "/a", "a/", "a//b", "a/../b", "synod/x"] {
        let why = if path.is_empty() { "a path is needed" } else { "not a path" };
        refused(doors.set(path, "").await, Code::InvalidArgument, why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemerals_end_with_their_session_and_locks_are_the_nodes() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session(60).await, doors.session(1).await);
    doors.set("members", "").await.expect("free");
    let of = |session| v1::FileSetRequest { session, ..set("members/b", "10.0.0.2") };
    doors.files.set(of(b)).await.expect("free");
    assert_eq!(doors.get("members/b", 0).await.node.expect("there").session, b);
    refused(doors.files.set(of(a)).await, Code::FailedPrecondition, &format!("session {b:x}"));
    refused(doors.set("members/b/x", "").await, Code::FailedPrecondition, "no children");
    let of_nobody = v1::FileSetRequest { session: 77, ..set("members/c", "") };
    refused(doors.files.set(of_nobody).await, Code::NotFound, "there is no session");
    let acquire =
        v1::LockAcquireRequest { name: "members".into(), session: a, ..Default::default() };
    let held = doors.locks.acquire(acquire).await.expect("free").into_inner();
    let node = doors.get("members", 0).await.node.expect("there");
    assert_eq!(node.lock_generation, held.token);
    let fenced = v1::FileSetRequest { sequencer: held.sequencer.clone(), ..set("members", "by a") };
    doors.files.set(fenced.clone()).await.expect("it holds");
    let release = v1::LockReleaseRequest { sequencer: held.sequencer };
    doors.locks.release(release).await.expect("it held it");
    refused(doors.files.set(fenced).await, Code::FailedPrecondition, "the sequencer is stale");
    assert_eq!(doors.get("members", 0).await.node.expect("there").lock_generation, 0);
    let files = doors.files.clone();
    until("the end of the ephemeral", || {
        let list = v1::FileListRequest { path: "members".into(), cache_for: 0 };
        let mut files = files.clone();
        async move { files.list(list).await.expect("a list").into_inner().children.is_empty() }
    })
    .await;
}

/// The next event, which must come soon.
async fn next(events: &mut Streaming<v1::FileEvent>) -> v1::FileEvent {
    let next = tokio::time::timeout(Duration::from_secs(10), events.message());
    next.await.expect("in time").expect("an event").expect("no end")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happened() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session(60).await, doors.session(60).await);
    let first = doors.set("n", "1").await.expect("free").generation;
    let events = v1::FileEventsRequest { path: "n".into() };
    let mut events = doors.files.events(events).await.expect("a stream").into_inner();
    let begun = next(&mut events).await;
    assert_eq!((begun.kind(), begun.generation), (Kind::Begun, first));
    let second = doors.set("n", "2").await.expect("there").generation;
    let changed = next(&mut events).await;
    assert_eq!((changed.kind(), changed.generation), (Kind::Changed, second));
    doors.set("n/x", "").await.expect("free");
    let added = next(&mut events).await;
    assert_eq!((added.kind(), added.name.as_str()), (Kind::ChildAdded, "x"));
    doors.set("n/x", "1").await.expect("there");
    assert_eq!(next(&mut events).await.kind(), Kind::ChildChanged);
    // What is further down is of no interest.
    doors.set("n/x/y", "").await.expect("free");
    doors.delete("n/x/y").await.expect("there");
    doors.delete("n/x").await.expect("there");
    let removed = next(&mut events).await;
    assert_eq!((removed.kind(), removed.name.as_str()), (Kind::ChildRemoved, "x"));
    let lock = |session, owner: &str| v1::LockAcquireRequest {
        name: "n".into(),
        session,
        owner: owner.into(),
        ..Default::default()
    };
    let held = doors.locks.acquire(lock(a, "first")).await.expect("free").into_inner();
    let taken = next(&mut events).await;
    assert_eq!((taken.kind(), taken.owner.as_str()), (Kind::LockAcquired, "first"));
    assert_eq!(taken.sequencer, held.sequencer, "it can be checked without a call");
    let mut waiting = doors.locks.clone();
    let wait = tokio::spawn(async move { waiting.acquire(lock(b, "second")).await });
    let conflict = next(&mut events).await;
    assert_eq!((conflict.kind(), conflict.owner.as_str()), (Kind::LockConflict, "second"));
    let release = v1::LockReleaseRequest { sequencer: held.sequencer };
    doors.locks.release(release).await.expect("it held it");
    let taken = next(&mut events).await;
    assert_eq!((taken.kind(), taken.owner.as_str()), (Kind::LockAcquired, "second"));
    wait.await.expect("the task").expect("its turn");
    doors.delete("n").await.expect("there");
    assert_eq!(next(&mut events).await.kind(), Kind::Deleted);
    doors.set("n", "").await.expect("free");
    assert_eq!(next(&mut events).await.kind(), Kind::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_caches_and_tells_them() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session(60).await, doors.session(60).await);
    let told = v1::FileInvalidationsRequest { session: a };
    let mut told = doors.files.invalidations(told).await.expect("a stream").into_inner();
    // The absence is cached.
    let absent = doors.get("n", a).await;
    assert!(absent.node.is_none() && absent.registered > 0);
    let mut files = doors.files.clone();
    let write = tokio::spawn(async move { files.set(set("n", "1")).await });
    let news = told.message().await.expect("a message").expect("no end");
    let one = news.registration.expect("one");
    assert_eq!((one.path.as_str(), one.children), ("n", false));
    assert_eq!(one.registered, absent.registered);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!write.is_finished(), "it waits");
    // Nobody new is registered meanwhile; who only reads, reads.
    assert_eq!((doors.get("n", b).await.registered, doors.get("n", 0).await.node), (0, None));
    doors.release(a, "n", one.registered).await;
    write.await.expect("the task").expect("written");
    let there = doors.get("n", b).await;
    assert!(there.node.is_some() && there.registered > 0);

    // A listing waits for names, not for contents.
    let (names, registered) = doors.list("", a).await;
    assert!(names == ["n"] && registered > 0);
    doors.release(b, "n", there.registered).await;
    doors.set("n", "2").await.expect("no name changes");
    let late = v1::FileSetRequest { wait_ms: 300, ..set("m", "") };
    refused(doors.files.set(late).await, Code::DeadlineExceeded, "nothing was written");
    assert_eq!((doors.get("m", 0).await.node, doors.list("", 0).await.0), (None, names));
    // A session that ends is in nobody's way, and its stream ends.
    let close = v1::SessionCloseRequest { session: a };
    doors.sessions.close(close).await.expect("closed");
    doors.set("m", "").await.expect("written");
    let mut last = told.message().await;
    while let Ok(Some(_)) = last {
        last = told.message().await;
    }
    refused(last, Code::NotFound, "there is no session");
    let (_, page) = doors.node.http("GET", "/metrics", "").await;
    let value = |name: &str| {
        let line = page.lines().find(|l| l.starts_with(name)).expect(name);
        line.rsplit(' ').next().and_then(|v| v.parse::<u64>().ok()).expect("a number")
    };
    assert_eq!(value("synod_file_registrations_total"), 3);
    assert_eq!(value("synod_file_uncached_total"), 1);
    assert_eq!(value("synod_file_write_waits_total"), 2);
    assert_eq!(value("synod_file_write_waits_in_vain_total"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ephemeral_is_not_cached_and_registrations_end_with_sessions() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session(60).await, doors.session(1).await);
    doors.files.set(v1::FileSetRequest { session: a, ..set("e", "") }).await.expect("free");
    assert_eq!(doors.get("e", b).await.registered, 0);
    assert_eq!(doors.list("", b).await.1, 0);
    assert!(doors.get("n", b).await.registered > 0);
    // Session b is not kept alive: the write waits for its end.
    let begun = std::time::Instant::now();
    doors.set("n", "").await.expect("written");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let over = v1::FileGetRequest { path: "n".into(), cache_for: b, lock: false };
    refused(doors.files.get(over).await, Code::NotFound, "there is no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcds_calls_leave_files_alone() {
    let mut doors = Doors::open().await;
    let everything = pb::DeleteRangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let put = |key: &str| pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
    doors.kv.put(put("x")).await.expect("a put");
    let deleted = doors.kv.delete_range(everything.clone()).await.expect("there are no files");
    assert!(deleted.into_inner().deleted >= 1);
    let a = doors.session(60).await;
    doors.set("n", "1").await.expect("free");
    assert!(doors.get("n", a).await.registered > 0);
    let key = "synod/file/node/01/n";
    refused(doors.kv.put(put(key)).await, Code::InvalidArgument, "File calls only");
    refused(doors.kv.put(put("synod/file/x")).await, Code::InvalidArgument, "File calls only");
    for (from, end) in
        [("synod/file/", "synod/file0"), (key, ""), ("a", "t"), ("synod/file/z", "\0")]
    {
        let delete = pb::DeleteRangeRequest {
            key: from.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        let done = doors.kv.delete_range(delete.clone()).await;
        refused(done, Code::FailedPrecondition, "nothing was deleted");
        let op = pb::request_op::Request::RequestDeleteRange(delete);
        let nested = pb::TxnRequest {
            failure: vec![pb::RequestOp { request: Some(op) }],
            ..Default::default()
        };
        let op = pb::request_op::Request::RequestTxn(nested);
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(op) }],
            ..Default::default()
        };
        refused(doors.kv.txn(txn).await, Code::FailedPrecondition, "nothing was deleted");
    }
    let beside = pb::DeleteRangeRequest {
        key: "synod/file0".into(),
        range_end: "synod/g".into(),
        ..Default::default()
    };
    doors.kv.delete_range(beside).await.expect("no files are there");
    // Nor by way of etcd's locks and elections.
    let mut etcd = EtcdLockClient::new(doors.channel.clone());
    let lock = v3lockpb::LockRequest { name: "synod/file/node/01".into(), lease: a };
    refused(etcd.lock(lock).await, Code::InvalidArgument, "Synod's own");
    let unlock = v3lockpb::UnlockRequest { key: key.into() };
    refused(etcd.unlock(unlock).await, Code::InvalidArgument, "Synod's own");
    let rev = doors.get("n", 0).await.node.expect("there").instance;
    let leader = election::LeaderKey { name: "n".into(), key: key.into(), rev, lease: 0 };
    let proclaim = election::ProclaimRequest { leader: Some(leader), value: "bad".into() };
    let mut elections = ElectionClient::new(doors.channel.clone());
    refused(elections.proclaim(proclaim).await, Code::InvalidArgument, "Synod's own");
    assert_eq!(doors.get("n", 0).await.node.expect("there").contents, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_as_json() {
    let doors = Doors::open().await;
    let node = &doors.node;
    let set = r#"{"path":"a/b","contents":"aGVsbG8=","parents":true}"#;
    let (code, text) = node.post("/synod/v1/file/set", "", set).await;
    assert!(code == 200 && text.contains("\"created\":true"), "{code} {text}");
    let (code, text) = node.post("/synod/v1/file/get", "", r#"{"path":"a/b"}"#).await;
    assert!(code == 200 && text.contains("\"contents\":\"aGVsbG8=\""), "{code} {text}");
    let (code, text) = node.post("/synod/v1/file/list", "", "{}").await;
    assert!(code == 200 && text.contains("\"name\":\"a\""), "{code} {text}");
    let (code, text) = node.post("/synod/v1/file/set", "", r#"{"path":"a","absent":true}"#).await;
    assert!(code == 409 && text.contains("is there"), "{code} {text}");
    let (code, text) = node.post("/synod/v1/file/delete", "", r#"{"path":"a/b"}"#).await;
    assert_eq!(code, 200, "{text}");
    let (code, text) = node.post("/synod/v1/file/delete", "", r#"{"path":"a/b"}"#).await;
    assert!(code == 404 && text.contains("there is no node"), "{code} {text}");
}
