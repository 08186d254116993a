//! The request loads: each client asks, waits, and asks again.

use super::conn::{Conn, frame};
use super::{Common, Report, histogram, show_progress};
use crate::Outcome;
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::v3lockpb;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes a key.
    Put,
    /// Reads a key.
    Get,
    /// Reads several.
    Range,
    /// Compares and writes.
    Txn,
    /// Grants and revokes a lease.
    Lease,
    /// Takes and gives back a lock, etcd's way.
    Lock,
    /// The same with a sequencer.
    FencedLock,
}

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const OPEN: &str = "/synod.v1.Session/Open";
const ACQUIRE: &str = "/synod.v1.Lock/Acquire";
const RELEASE: &str = "/synod.v1.Lock/Release";
/// Time to live of what holds a client's locks, seconds: longer than a load lasts.
const HOLDER_TTL_S: i64 = 3_600;

struct Shared {
    args: Common,
    kind: Kind,
    value: Bytes,
    begun: Instant,
    count_from: Instant,
    end: Instant,
    /// Requests begun, over all clients.
    begun_count: Cell<u64>,
    done: Cell<u64>,
    failed: Cell<u64>,
    latencies: RefCell<Histogram<u64>>,
    error: RefCell<Option<String>>,
}

pub(crate) fn key(n: u64) -> Bytes {
    Bytes::from(format!("bench/{n:012}"))
}

/// Connections to all endpoints, in turn.
async fn connect(args: &Common) -> Outcome<Vec<Conn>> {
    let mut conns = Vec::new();
    for _ in 0..args.connections {
        for endpoint in &args.endpoints {
            conns.push(Conn::open(endpoint).await?);
        }
    }
    Ok(conns)
}

pub async fn run(name: &'static str, args: Common, kind: Kind) -> Outcome {
    let conns = connect(&args).await?;
    if matches!(kind, Kind::Get | Kind::Range) {
        let fill = Common { fill: true, rate: 0.0, clients: 128, ..args.clone() };
        drive("fill", fill, Kind::Put, &conns).await?;
    }
    let output = args.output;
    let report = drive(name, args, kind, &conns).await?;
    report.print(output);
    if report.ok == 0 {
        return Err(report.error.unwrap_or_else(|| "no request was answered".into()));
    }
    Ok(())
}

async fn drive(name: &'static str, args: Common, kind: Kind, conns: &[Conn]) -> Outcome<Report> {
    let begun = Instant::now();
    // What is to be counted by number has none, or it would take what is to be measured.
    let counted = args.fill || args.requests > 0;
    let warmup = Duration::from_secs_f64(if counted { 0.0 } else { args.warmup });
    let seconds = if args.fill { 3_600.0 } else { args.seconds };
    let clients = args.clients;
    let shared = Rc::new(Shared {
        value: (0..args.value_bytes).map(|i| b'a' + (i % 26) as u8).collect(),
        begun,
        count_from: begun + warmup,
        end: begun + warmup + Duration::from_secs_f64(seconds),
        args,
        kind,
        begun_count: Cell::new(0),
        done: Cell::new(0),
        failed: Cell::new(0),
        latencies: RefCell::new(histogram()),
        error: RefCell::new(None),
    });
    let local = tokio::task::LocalSet::new();
    for i in 0..clients {
        let conn = conns[i % conns.len()].clone();
        local.spawn_local(client(shared.clone(), conn, i as u64));
    }
    let total = warmup + Duration::from_secs_f64(seconds);
    let progress = shared.clone();
    tokio::select! {
        () = local => {}
        () = show_progress(name, total, move || progress.done.get()) => {}
    }
    let counted = Instant::now().min(shared.end).saturating_duration_since(shared.count_from);
    let latencies = shared.latencies.borrow();
    Ok(Report::new(
        name,
        clients,
        &latencies,
        shared.failed.get(),
        counted.as_secs_f64(),
        shared.error.borrow().clone(),
    ))
}

async fn client(shared: Rc<Shared>, conn: Conn, number: u64) {
    let mut rng = Rng::new(number + 1);
    let holder = match holder(shared.kind, &conn).await {
        Ok(holder) => holder,
        Err(e) => {
            shared.failed.set(shared.failed.get() + 1);
            *shared.error.borrow_mut() = Some(e);
            return;
        }
    };
    loop {
        let n = shared.begun_count.get();
        if shared.args.fill && n >= shared.args.keys
            || shared.args.requests > 0 && n >= shared.args.requests
        {
            return;
        }
        shared.begun_count.set(n + 1);
        let mut intended = Instant::now();
        if shared.args.rate > 0.0 {
            intended = shared.begun + Duration::from_secs_f64(n as f64 / shared.args.rate);
            tokio::time::sleep_until(intended.into()).await;
        }
        if intended >= shared.end {
            return;
        }
        let which = if shared.args.fill { n } else { rng.below(shared.args.keys) };
        match one(&shared, &conn, which, holder).await {
            Ok(()) => shared.succeeded(intended),
            Err(e) => {
                shared.failed.set(shared.failed.get() + 1);
                *shared.error.borrow_mut() = Some(e);
                if conn.is_closed() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

impl Shared {
    fn succeeded(&self, intended: Instant) {
        self.done.set(self.done.get() + 1);
        let now = Instant::now();
        if intended >= self.count_from && now <= self.end {
            let us = now.duration_since(intended).as_micros() as u64;
            // Longer than ten minutes would not fit; no request waits so long.
            let _ = self.latencies.borrow_mut().record(us.max(1));
        }
    }
}

/// What a client of the lock loads holds its locks by.
async fn holder(kind: Kind, conn: &Conn) -> Result<i64, String> {
    let ttl = HOLDER_TTL_S;
    match kind {
        Kind::Lock => {
            let grant = frame(&pb::LeaseGrantRequest { ttl, id: 0 });
            Ok(conn.unary::<pb::LeaseGrantResponse>(GRANT, grant).await?.id)
        }
        Kind::FencedLock => {
            let open = frame(&v1::SessionOpenRequest { ttl_s: ttl, ..Default::default() });
            Ok(conn.unary::<v1::SessionOpenResponse>(OPEN, open).await?.session)
        }
        _ => Ok(0),
    }
}

async fn one(shared: &Shared, conn: &Conn, which: u64, holder: i64) -> Result<(), String> {
    let put =
        || pb::PutRequest { key: key(which), value: shared.value.clone(), ..Default::default() };
    let get = || pb::RangeRequest {
        key: key(which),
        serializable: shared.args.serializable,
        ..Default::default()
    };
    match shared.kind {
        Kind::Put => conn.unary::<pb::PutResponse>(PUT, frame(&put())).await.map(drop),
        Kind::Get => {
            let r = conn.unary::<pb::RangeResponse>(RANGE, frame(&get())).await?;
            if r.count == 1 { Ok(()) } else { Err(format!("key {which} is not there")) }
        }
        Kind::Range => {
            let from = which.min(shared.args.keys.saturating_sub(shared.args.limit as u64));
            let range = pb::RangeRequest {
                key: key(from),
                range_end: key(from + shared.args.limit as u64),
                ..get()
            };
            let r = conn.unary::<pb::RangeResponse>(RANGE, frame(&range)).await?;
            if r.kvs.is_empty() { Err("an empty range".into()) } else { Ok(()) }
        }
        Kind::Txn => {
            let txn = compare_and_put(put());
            conn.unary::<pb::TxnResponse>(TXN, frame(&txn)).await.map(drop)
        }
        Kind::Lease => {
            let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
            let lease = conn.unary::<pb::LeaseGrantResponse>(GRANT, frame(&grant)).await?;
            let revoke = pb::LeaseRevokeRequest { id: lease.id };
            conn.unary::<pb::LeaseRevokeResponse>(REVOKE, frame(&revoke)).await.map(drop)
        }
        Kind::Lock => {
            let lock = v3lockpb::LockRequest { name: key(which), lease: holder };
            let held = conn.unary::<v3lockpb::LockResponse>(LOCK, frame(&lock)).await?;
            let unlock = v3lockpb::UnlockRequest { key: held.key };
            conn.unary::<v3lockpb::UnlockResponse>(UNLOCK, frame(&unlock)).await.map(drop)
        }
        Kind::FencedLock => {
            let (name, session) = (key(which), holder);
            let acquire = v1::LockAcquireRequest { name, session, ..Default::default() };
            let held = conn.unary::<v1::LockAcquireResponse>(ACQUIRE, frame(&acquire)).await?;
            let release = v1::LockReleaseRequest { sequencer: held.sequencer };
            conn.unary::<v1::LockReleaseResponse>(RELEASE, frame(&release)).await.map(drop)
        }
    }
}

/// If the key's version is above −1 (always) then put.
fn compare_and_put(put: pb::PutRequest) -> pb::TxnRequest {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let compare = pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: put.key.clone(),
        target_union: Some(TargetUnion::Version(-1)),
        ..Default::default()
    };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    pb::TxnRequest { compare: vec![compare], success: vec![op], failure: vec![] }
}
