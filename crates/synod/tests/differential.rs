//! The same random requests to Synod and to a real etcd, one node each: every
//! answer is compared field by field. What cannot be the same is made the same
//! first ([`Plain`]): ids of cluster and member, terms, the seconds a lease has
//! left, and orders that etcd leaves to chance.

mod common;

use common::differ::{Request, Requests};
use common::{Cluster, Etcd, block_on};
use std::collections::BTreeMap;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

const REQUESTS: usize = 400;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Silence after which a watch is thought to have said everything.
const QUIET: Duration = Duration::from_millis(400);

/// What two servers cannot have in common, taken out.
trait Plain {
    fn plain(&mut self);
}

impl Plain for Option<pb::ResponseHeader> {
    fn plain(&mut self) {
        if let Some(header) = self {
            *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
        }
    }
}

macro_rules! only_the_header {
    ($($name:ident)*) => {
        $(impl Plain for pb::$name {
            fn plain(&mut self) {
                self.header.plain();
            }
        })*
    };
}

only_the_header! {
    RangeResponse PutResponse DeleteRangeResponse CompactionResponse LeaseGrantResponse
    LeaseRevokeResponse LeaseKeepAliveResponse WatchResponse
}

impl Plain for pb::TxnResponse {
    fn plain(&mut self) {
        use pb::response_op::Response;
        self.header.plain();
        for op in &mut self.responses {
            match op.response.as_mut() {
                Some(Response::ResponseRange(r)) => r.plain(),
                Some(Response::ResponsePut(r)) => r.plain(),
                Some(Response::ResponseDeleteRange(r)) => r.plain(),
                Some(Response::ResponseTxn(r)) => r.plain(),
                None => {}
            }
        }
    }
}

impl Plain for pb::LeaseTimeToLiveResponse {
    fn plain(&mut self) {
        self.header.plain();
        self.ttl = self.ttl.signum();
        self.keys.sort();
    }
}

impl Plain for pb::LeaseLeasesResponse {
    fn plain(&mut self) {
        self.header.plain();
        self.leases.sort_by_key(|l| l.id);
    }
}

/// An answer as text that must be equal, and the revision it tells of.
fn text<T: Plain + std::fmt::Debug>(answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            answer.plain();
            format!("{answer:#?}")
        }
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// One of the two servers, and the watches that stay open on it.
struct Server {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    create: mpsc::UnboundedSender<pb::WatchRequest>,
    watched: Streaming<pb::WatchResponse>,
}

impl Server {
    async fn new(channel: Channel) -> Server {
        let mut watch = WatchClient::new(channel.clone());
        let all = pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        };
        let (create, watched) = stream(&mut watch, all).await;
        Server {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel),
            watch,
            create,
            watched,
        }
    }

    async fn answer(&mut self, request: Request) -> String {
        match request {
            Request::Range(r) => text(self.kv.range(r).await),
            Request::Put(r) => text(self.kv.put(r).await),
            Request::Delete(r) => text(self.kv.delete_range(r).await),
            Request::Txn(r) => text(self.kv.txn(r).await),
            Request::Compact(r) => text(self.kv.compact(r).await),
            Request::Grant(r) => text(self.lease.lease_grant(r).await),
            Request::Revoke(r) => text(self.lease.lease_revoke(r).await),
            Request::TimeToLive(r) => text(self.lease.lease_time_to_live(r).await),
            Request::Leases(r) => text(self.lease.lease_leases(r).await),
            Request::KeepAlive(r) => {
                let answers = self.lease.lease_keep_alive(tokio_stream::once(r)).await;
                let mut answers = answers.expect("a stream").into_inner();
                text(answers.message().await.map(|a| Response::new(a.expect("an answer"))))
            }
            Request::Watch(r) => {
                let (_create, mut watched) = stream(&mut self.watch, r).await;
                seen(&mut watched).await
            }
            Request::StayingWatch(r) => {
                self.create.send(create_request(r)).expect("the stream is open");
                // What it finds is compared at the end. etcd reads history in its own
                // time, and a compaction before that would end the watch.
                tokio::time::sleep(QUIET).await;
                String::new()
            }
        }
    }
}

/// Opens a stream with one watch: etcd does not open it before the first.
async fn stream(
    watch: &mut WatchClient<Channel>,
    first: pb::WatchCreateRequest,
) -> (mpsc::UnboundedSender<pb::WatchRequest>, Streaming<pb::WatchResponse>) {
    let (create, requests) = mpsc::unbounded_channel();
    create.send(create_request(first)).expect("the receiver is here");
    let answers = watch.watch(UnboundedReceiverStream::new(requests)).await.expect("a stream");
    (create, answers.into_inner())
}

fn create_request(r: pb::WatchCreateRequest) -> pb::WatchRequest {
    use pb::watch_request::RequestUnion;
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(r)) }
}

/// Everything that a stream says until it is quiet: for each watch its events in
/// order, whatever the answers that they came in, and the other answers.
async fn seen(stream: &mut Streaming<pb::WatchResponse>) -> String {
    let mut events: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    let mut others: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    while let Ok(Some(answer)) = tokio::time::timeout(QUIET, stream.next()).await {
        let mut answer = answer.expect("the stream goes on");
        let id = answer.watch_id;
        if answer.events.is_empty() {
            answer.plain();
            others.entry(id).or_default().push(answer);
        } else {
            events.entry(id).or_default().extend(answer.events);
        }
    }
    format!("{others:#?}\n{events:#?}")
}

/// The lines in which two texts differ.
fn difference(synod: &str, etcd: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (synod.lines().collect(), etcd.lines().collect());
    let first = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let part = |lines: &[&str]| {
        lines[first.saturating_sub(3).min(lines.len())..]
            .iter()
            .take(12)
            .map(|l| format!("    {l}\n"))
            .collect::<String>()
    };
    format!("  from line {first}\n  synod:\n{}  etcd:\n{}", part(&a), part(&b))
}

fn compare(seed: u64) {
    let (cluster, etcd) = (Cluster::start(1), Etcd::start());
    block_on(async {
        let mut synod = Server::new(cluster.channel(0)).await;
        let mut etcd = Server::new(etcd.channel().await).await;
        let mut requests = Requests::new(seed);
        let mut refused = 0;
        for n in 0..REQUESTS {
            let request = requests.next();
            let both =
                async { tokio::join!(synod.answer(request.clone()), etcd.answer(request.clone())) };
            let both = tokio::time::timeout(ANSWER_WITHIN, both).await;
            let (ours, theirs) =
                both.unwrap_or_else(|_| panic!("seed {seed}: no answer to {request:#?}"));
            assert!(
                ours == theirs,
                "seed {seed}, request {n}: {request:#?}\n{}",
                difference(&ours, &theirs)
            );
            refused += usize::from(theirs.contains("etcdserver: "));
            requests.learn(&theirs);
        }
        let (ours, theirs) = tokio::join!(seen(&mut synod.watched), seen(&mut etcd.watched));
        assert!(
            ours == theirs,
            "seed {seed}, the watches that stayed\n{}",
            difference(&ours, &theirs)
        );
        // Both what is served and what is refused was compared, and history grew.
        println!("seed {seed}: {refused} of {REQUESTS} refused, revision {}", requests.revision());
        assert!(refused > REQUESTS / 20 && refused < REQUESTS / 2, "{refused} refused");
        assert!(requests.revision() > REQUESTS as i64 / 8, "{}", requests.revision());
        assert!(theirs.matches("mod_revision").count() > 20, "the watches saw too little");
    });
}

#[test]
fn answers_are_etcds() {
    let seeds = match std::env::var("SYNOD_SEEDS") {
        // FROM..TO, for a longer hunt.
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("FROM..TO");
            from.parse().expect("a number")..to.parse().expect("a number")
        }
        Err(_) => 1..5,
    };
    seeds.for_each(compare);
}
