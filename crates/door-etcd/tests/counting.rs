//! What begins also ends, in the metrics too, when a client goes away.

mod common;

use common::{Node, Plan, free, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use synod_host::ClusterState;
use tokio_stream::wrappers::ReceiverStream;

/// A series of the metrics page.
async fn series(node: &Node, name: &str) -> Option<f64> {
    let page = node.http("GET", "/metrics", "").await.1;
    page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_counted_for_as_long_as_it_lasts() {
    let plan = Plan::alone();
    let node = plan.start().await;
    node.ready().await;
    let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let (tx, rx) = tokio::sync::mpsc::channel(2);
    for _ in 0..2 {
        let request = pb::WatchRequest { request_union: Some(create.clone()) };
        tx.send(request).await.expect("room");
    }
    let mut client = WatchClient::new(node.channel().await);
    let mut watch = client.watch(ReceiverStream::new(rx)).await.expect("a watch").into_inner();
    for _ in 0..2 {
        watch.message().await.expect("an answer");
    }
    until("two watches that have caught up", || async {
        series(&node, "etcd_debugging_mvcc_watcher_total").await == Some(2.0)
            && series(&node, "etcd_debugging_mvcc_slow_watcher_total").await == Some(0.0)
    })
    .await;
    let put = pb::PutRequest { key: "a".into(), ..Default::default() };
    KvClient::new(node.channel().await).put(put).await.expect("a put");
    watch.message().await.expect("an event");
    drop((watch, tx));
    until("no watch and nothing pending", || async {
        series(&node, "etcd_debugging_mvcc_watcher_total").await == Some(0.0)
            && series(&node, "etcd_debugging_mvcc_pending_events_total").await == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_client_went_away_is_canceled() {
    let (at, other_at) = (free(), free());
    let other = |name: &str, at| vec![(name.to_owned(), format!("http://{at}"))];
    let plan = Plan::new("n1", at, other("n2", other_at), ClusterState::New);
    let other_plan = Plan::new("n2", other_at, other("n1", at), ClusterState::New);
    let (node, other) = tokio::join!(plan.start(), other_plan.start());
    node.ready().await;
    // Without the other one nothing is agreed on.
    other.handle.stop();
    other.handle.stopped().await.expect("it was told to stop");
    let mut client = KvClient::new(node.channel().await);
    let put = pb::PutRequest { key: "k".into(), ..Default::default() };
    let mut put = tonic::Request::new(put);
    let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    put.metadata_mut().insert("traceparent", traced.parse().expect("text"));
    let waited = tokio::time::timeout(Duration::from_millis(200), client.put(put)).await;
    waited.expect_err("nobody answers");
    let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    let canceled = format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}}");
    until("the call to be canceled", || async { series(&node, &canceled).await == Some(1.0) })
        .await;
    // It was slow, too, and is told of with the trace that the client named.
    assert_eq!(series(&node, "synod_slow_requests_total").await, Some(1.0));
    let (_, events) = node.http("GET", "/synod/events", "").await;
    let told = events.lines().find(|l| l.contains("slow request")).expect("an event");
    assert!(told.contains("/etcdserverpb.KV/Put took 0.") && told.contains("(Canceled)"), "{told}");
    assert!(told.ends_with("trace_id=4bf92f3577b34da6a3ce929d0e0e4736"), "{told}");
}
