//! Tries a cluster through the crate etcd-client: `rust-client ENDPOINTS PEER-URL`.
//! It prints `added` when the learner at PEER-URL may be started, and `done`
//! when all was as it should be; else it panics.

use etcd_client::*;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let endpoints: Vec<&str> = args[1].split(',').collect();
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(20));
    let mut client = Client::connect(&endpoints, Some(options)).await?;
    keys(&mut client).await?;
    ranges(&mut client).await?;
    transactions(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    locks(&mut client).await?;
    elections(&mut client).await?;
    maintenance(&mut client).await?;
    // Its answers are of the member asked, so of one alone.
    members(&mut client, &args[2]).await?;
    println!("done");
    Ok(())
}

/// What the server refused, in its words.
fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::GRpcStatus(status)) => status.message().to_owned(),
        other => panic!("expected a refusal: {other:?}"),
    }
}

async fn keys(client: &mut Client) -> Result<(), Error> {
    assert!(client.put("r/a", "1", None).await?.prev_key().is_none());
    let put = client.put("r/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(put.prev_key().expect("the old pair").value(), b"1");
    let revision = put.header().expect("a header").revision();
    let got = client.get("r/a", None).await?;
    let pair = &got.kvs()[0];
    assert_eq!((pair.value(), pair.version(), pair.mod_revision()), (&b"2"[..], 2, revision));
    let old = GetOptions::new().with_revision(revision - 1);
    assert_eq!(client.get("r/a", Some(old)).await?.kvs()[0].value(), b"1");
    let future = GetOptions::new().with_revision(revision + 1_000);
    assert_eq!(
        refusal(client.get("r/a", Some(future)).await),
        "etcdserver: mvcc: required revision is a future revision"
    );
    let ignore = PutOptions::new().with_ignore_value();
    assert_eq!(
        refusal(client.put("r/a", "x", Some(ignore)).await),
        "etcdserver: value is provided"
    );
    let deleted = client.delete("r/a", Some(DeleteOptions::new().with_prev_key())).await?;
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value()), (1, &b"2"[..]));
    assert_eq!(client.get("r/a", None).await?.count(), 0);
    Ok(())
}

async fn ranges(client: &mut Client) -> Result<(), Error> {
    for i in 0..10 {
        client.put(format!("r/k{i}"), (9 - i).to_string(), None).await?;
    }
    let page = GetOptions::new().with_prefix().with_limit(3);
    let page = client.get("r/k", Some(page)).await?;
    assert_eq!((page.kvs().len(), page.count(), page.more()), (3, 10, true));
    let sorted = GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Ascend);
    let sorted = client.get("r/k", Some(sorted)).await?;
    assert_eq!(sorted.kvs()[0].key(), b"r/k9");
    let keys = GetOptions::new().with_range("r/k5").with_keys_only().with_serializable();
    // A serializable read of a follower may trail what was just acknowledged.
    let mut found = client.get("r/k2", Some(keys.clone())).await?;
    for _ in 0..100 {
        if found.kvs().len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = client.get("r/k2", Some(keys.clone())).await?;
    }
    assert!(found.kvs().len() == 3 && found.kvs().iter().all(|kv| kv.value().is_empty()));
    let count = GetOptions::new().with_prefix().with_count_only();
    let count = client.get("r/k", Some(count)).await?;
    assert_eq!((count.kvs().len(), count.count()), (0, 10));
    let from = sorted.header().expect("a header").revision() - 1;
    let recent = GetOptions::new().with_prefix().with_min_mod_revision(from);
    assert_eq!(client.get("r/k", Some(recent)).await?.kvs().len(), 2);
    let gone = client.delete("r/k", Some(DeleteOptions::new().with_prefix())).await?;
    assert_eq!(gone.deleted(), 10);
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<(), Error> {
    client.put("r/t", "old", None).await?;
    let swap = Txn::new()
        .when([Compare::value("r/t", CompareOp::Equal, "old")])
        .and_then([TxnOp::put("r/t", "new", None), TxnOp::get("r/t", None)])
        .or_else([TxnOp::get("r/t", None)]);
    let first = client.txn(swap.clone()).await?;
    let responses = first.op_responses();
    let [TxnOpResponse::Put(_), TxnOpResponse::Get(seen)] = responses.as_slice() else {
        panic!("{responses:?}");
    };
    assert!(first.succeeded());
    assert_eq!(seen.kvs()[0].value(), b"new", "a read sees the writes before it");
    assert!(!client.txn(swap).await?.succeeded());
    let inner = Txn::new()
        .when([Compare::version("r/none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("r/nested", "yes", None)]);
    client.txn(Txn::new().and_then([TxnOp::txn(inner)])).await?;
    assert_eq!(client.get("r/nested", None).await?.kvs()[0].value(), b"yes");
    let twice = [TxnOp::put("r/t", "1", None), TxnOp::put("r/t", "2", None)];
    assert_eq!(
        refusal(client.txn(Txn::new().and_then(twice)).await),
        "etcdserver: duplicate key given in txn request"
    );
    Ok(())
}

/// The next answer that has events: their keys, values and kinds.
async fn events(stream: &mut WatchStream) -> Result<Vec<String>, Error> {
    loop {
        let answer = stream.message().await?.expect("the stream goes on");
        assert!(!answer.canceled(), "{}", answer.cancel_reason());
        let text = |e: &Event| {
            let kv = e.kv().expect("a pair");
            let kind = if e.event_type() == EventType::Put { "put" } else { "delete" };
            let value = String::from_utf8_lossy(kv.value()).into_owned();
            format!("{kind} {} {value}", String::from_utf8_lossy(kv.key())).trim().to_owned()
        };
        if !answer.events().is_empty() {
            return Ok(answer.events().iter().map(text).collect());
        }
    }
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    let before = client.put("w/a", "1", None).await?.header().expect("a header").revision();
    client.put("w/b", "2", None).await?;
    client.delete("w/a", None).await?;
    let history = WatchOptions::new().with_prefix().with_start_revision(before);
    let mut stream = client.watch("w/", Some(history)).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(events(&mut stream).await?);
    }
    assert_eq!(seen, ["put w/a 1", "put w/b 2", "delete w/a"]);
    client.put("w/c", "3", None).await?;
    assert_eq!(events(&mut stream).await?, ["put w/c 3"]);
    // Another watch on the same stream, and progress of both.
    stream.watch("w/d", Some(WatchOptions::new().with_prev_key().with_watch_id(7))).await?;
    let created = stream.message().await?.expect("an answer");
    assert_eq!((created.watch_id(), created.created()), (7, true));
    stream.request_progress().await?;
    let progress = stream.message().await?.expect("progress");
    assert!(progress.events().is_empty() && progress.watch_id() == -1);
    stream.cancel(7).await?;
    let canceled = stream.message().await?.expect("an answer");
    assert_eq!((canceled.watch_id(), canceled.canceled()), (7, true));
    Ok(())
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    let id = client.lease_grant(2, None).await?.id();
    client.put("l/short", "x", Some(PutOptions::new().with_lease(id))).await?;
    let kept = client.lease_grant(2, None).await?.id();
    client.put("l/kept", "x", Some(PutOptions::new().with_lease(kept))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(kept).await?;
    for _ in 0..5 {
        keeper.keep_alive().await?;
        assert_eq!(answers.message().await?.expect("an answer").ttl(), 2);
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    assert_eq!(client.get("l/short", None).await?.count(), 0, "it expired");
    assert_eq!(client.get("l/kept", None).await?.count(), 1, "it was kept alive");
    assert_eq!(client.lease_time_to_live(id, None).await?.ttl(), -1);
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    assert_eq!(client.lease_time_to_live(kept, keys).await?.keys(), [b"l/kept".to_vec()]);
    assert!(client.leases().await?.leases().iter().any(|l| l.id() == kept));
    client.lease_revoke(kept).await?;
    assert_eq!(client.get("l/kept", None).await?.count(), 0);
    assert_eq!(refusal(client.lease_revoke(kept).await), "etcdserver: requested lease not found");
    Ok(())
}

async fn locks(client: &mut Client) -> Result<(), Error> {
    let key = client.lock("mutex", None).await?.key().to_vec();
    let mut other = client.clone();
    let waiting = tokio::spawn(async move {
        let key = other.lock("mutex", None).await?.key().to_vec();
        other.unlock(key).await.map(drop)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "two hold one lock");
    client.unlock(key).await?;
    waiting.await.expect("the waiter")
}

async fn elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(30, None).await?.id();
    let won = client.campaign("who", "one", lease).await?;
    let leader = won.leader().expect("a leader").clone();
    assert_eq!(client.leader("who").await?.kv().expect("a pair").value(), b"one");
    let mut observed = client.observe("who").await?;
    let first = observed.message().await?.expect("an answer");
    assert_eq!(first.kv().expect("a pair").value(), b"one");
    let proclaim = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("two", Some(proclaim)).await?;
    let second = observed.message().await?.expect("an answer");
    assert_eq!(second.kv().expect("a pair").value(), b"two");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    assert_eq!(refusal(client.leader("who").await), "election: no leader");
    client.lease_revoke(lease).await?;
    Ok(())
}

async fn maintenance(client: &mut Client) -> Result<(), Error> {
    let status = client.status().await?;
    assert!(status.leader() != 0 && !status.version().is_empty() && status.db_size() > 0);
    assert!(client.hash_kv(0).await?.hash() != 0);
    client.defragment().await?;
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    assert!(alarms.alarms().is_empty());
    alarm(client).await?;
    let (mut bytes, mut promised) = (0, None);
    let mut snapshot = client.snapshot().await?;
    while let Some(part) = snapshot.message().await? {
        bytes += part.blob().len() as u64;
        promised.get_or_insert(part.remaining_bytes() + part.blob().len() as u64);
    }
    assert!(bytes > 32, "{bytes} bytes of snapshot");
    assert_eq!(bytes % 512, 32, "etcdctl tells by this that a hash is at the end");
    assert!(promised.is_some_and(|p| p == bytes || p + 32 == bytes), "{promised:?} of {bytes}");
    let at = client.put("c", "1", None).await?.header().expect("a header").revision();
    client.put("c", "2", None).await?;
    client.compact(at, Some(CompactionOptions::new().with_physical())).await?;
    let early = GetOptions::new().with_revision(at - 1);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(refusal(client.get("c", Some(early)).await), compacted);
    let kept = GetOptions::new().with_revision(at);
    assert_eq!(client.get("c", Some(kept)).await?.kvs()[0].value(), b"1");
    Ok(())
}

/// NOSPACE raised by hand refuses writes until it is taken back.
async fn alarm(client: &mut Client) -> Result<(), Error> {
    let me = client.status().await?;
    let mut options = AlarmOptions::new();
    options.with_member(me.header().expect("a header").member_id());
    let raise = client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options.clone()));
    assert_eq!(raise.await?.alarms().len(), 1);
    assert_eq!(
        refusal(client.put("c", "x", None).await),
        "etcdserver: mvcc: database space exceeded"
    );
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await?;
    client.put("c", "x", None).await?;
    Ok(())
}

async fn members(client: &mut Client, url: &str) -> Result<(), Error> {
    assert_eq!(client.member_list().await?.members().len(), 3);
    let learner = Some(MemberAddOptions::new().with_is_learner());
    let added = client.member_add([url], learner).await?;
    let id = added.member().expect("the member").id();
    assert_eq!(
        refusal(client.member_promote(id).await),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    println!("added");
    let mut tries = 0;
    while let Err(e) = client.member_promote(id).await {
        tries += 1;
        assert!(tries < 200, "never in sync: {e}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait_for_members(client, (4, 4)).await?;
    client.member_remove(id).await?;
    wait_for_members(client, (3, 3)).await?;
    client.put("after", "1", None).await?;
    Ok(())
}

/// Until the list shows so many members and voters. This client asks for the
/// list without `linearizable`, of each endpoint in turn, so a follower may
/// answer with what it knew a moment ago.
async fn wait_for_members(client: &mut Client, want: (usize, usize)) -> Result<(), Error> {
    let mut seen = (0, 0);
    for _ in 0..100 {
        let list = client.member_list().await?;
        let voters = list.members().iter().filter(|m| !m.is_learner()).count();
        seen = (list.members().len(), voters);
        if seen == want {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("wants {want:?} (members, voters), sees {seen:?}");
}
