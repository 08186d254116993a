//! One writer, many watchers of its key: events delivered a second, none lost.

use super::conn::{Conn, frame};
use super::{Output, Report, histogram};
use crate::Outcome;
use clap::Args;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use tonic::transport::Endpoint;

/// Arguments of `synod bench watch`.
#[derive(Args, Clone)]
pub struct WatchArgs {
    /// Endpoints, separated by commas; watchers are spread over them
    #[arg(
        long,
        env = "SYNOD_ENDPOINTS",
        default_value = "127.0.0.1:2379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// Watchers of the one key, each with a stream of its own
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Connections to each endpoint that the watchers share
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Writers, each with one request in flight
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of a value (at least 8: the time of the write stands in it)
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

struct Seen {
    begun: Instant,
    events: Cell<u64>,
    writes: Cell<u64>,
    latencies: RefCell<hdrhistogram::Histogram<u64>>,
    error: RefCell<Option<String>>,
}

const KEY: &[u8] = b"bench/watched";

pub async fn run(args: WatchArgs) -> Outcome {
    let seen = Rc::new(Seen {
        begun: Instant::now(),
        events: Cell::new(0),
        writes: Cell::new(0),
        latencies: RefCell::new(histogram()),
        error: RefCell::new(None),
    });
    let local = tokio::task::LocalSet::new();
    let report = local.run_until(drive(args.clone(), seen.clone())).await?;
    report.print(args.output);
    let (want, got) = (seen.writes.get() * args.watchers as u64, seen.events.get());
    if want != got {
        return Err(format!("{want} events were due and {got} came"));
    }
    Ok(())
}

async fn drive(args: WatchArgs, seen: Rc<Seen>) -> Outcome<Report> {
    let mut channels = Vec::new();
    for _ in 0..args.connections {
        for e in &args.endpoints {
            let url = format!("http://{}", e.trim_start_matches("http://"));
            let endpoint = Endpoint::from_shared(url).map_err(|e| e.to_string())?;
            let endpoint = endpoint
                .tcp_nodelay(true)
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(64 << 20);
            channels.push(endpoint.connect().await.map_err(|e| format!("cannot reach it: {e}"))?);
        }
    }
    let mut ready = Vec::new();
    for i in 0..args.watchers {
        let client = WatchClient::new(channels[i % channels.len()].clone());
        let (tx, rx) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(watcher(client, seen.clone(), tx));
        ready.push(rx);
    }
    for rx in ready {
        if rx.await.is_err() {
            let error = seen.error.borrow().clone();
            return Err(error.unwrap_or_else(|| "a watch was not created".into()));
        }
    }
    let begun = Instant::now();
    let mut writers = Vec::new();
    for i in 0..args.clients {
        let conn = Conn::open(&args.endpoints[i % args.endpoints.len()]).await?;
        writers.push(tokio::task::spawn_local(writer(conn, seen.clone(), args.clone(), begun)));
    }
    for w in writers {
        w.await.map_err(|e| e.to_string())?;
    }
    // What is on its way still counts as delivered, and its time too.
    let want = seen.writes.get() * args.watchers as u64;
    let patience = Instant::now() + Duration::from_secs(20);
    while seen.events.get() < want && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let latencies = seen.latencies.borrow();
    let missing = want - seen.events.get().min(want);
    let error = seen.error.borrow().clone();
    Ok(Report::new("watch", args.watchers, &latencies, missing, seconds, error))
}

async fn writer(conn: Conn, seen: Rc<Seen>, args: WatchArgs, begun: Instant) {
    while begun.elapsed().as_secs_f64() < args.seconds {
        let mut value = vec![0; args.value_bytes.max(8)];
        value[..8].copy_from_slice(&(seen.begun.elapsed().as_micros() as u64).to_le_bytes());
        let put = pb::PutRequest { key: KEY.into(), value: value.into(), ..Default::default() };
        match conn.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", frame(&put)).await {
            Ok(_) => seen.writes.set(seen.writes.get() + 1),
            Err(e) => {
                *seen.error.borrow_mut() = Some(e);
                return;
            }
        }
    }
}

async fn watcher(
    mut client: WatchClient<tonic::transport::Channel>,
    seen: Rc<Seen>,
    created: tokio::sync::oneshot::Sender<()>,
) {
    let create = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    // The request stream must stay open, or the watch ends.
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let _ = tx.send(request).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
    let answer = match client.watch(stream).await {
        Ok(answer) => answer,
        Err(e) => {
            *seen.error.borrow_mut() = Some(e.to_string());
            return;
        }
    };
    let mut answers = answer.into_inner();
    let mut created = Some(created);
    while let Ok(Some(response)) = answers.message().await {
        if response.created
            && let Some(created) = created.take()
        {
            let _ = created.send(());
        }
        let now = seen.begun.elapsed().as_micros() as u64;
        for event in &response.events {
            let value = event.kv.as_ref().map(|kv| &kv.value);
            if let Some(Ok(sent)) = value.and_then(|v| v.get(..8)).map(<[u8; 8]>::try_from) {
                let us = now.saturating_sub(u64::from_le_bytes(sent));
                let _ = seen.latencies.borrow_mut().record(us.max(1));
            }
            seen.events.set(seen.events.get() + 1);
        }
    }
}
