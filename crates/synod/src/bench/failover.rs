//! Steady writes through every endpoint; what is the longest time in which none
//! succeeded? Somebody else kills the leader meanwhile.

use super::Output;
use super::conn::{Conn, frame};
use super::loads::key;
use crate::Outcome;
use clap::Args;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;

/// Arguments of `synod bench failover`.
#[derive(Args, Clone)]
pub struct FailoverArgs {
    /// Endpoints, separated by commas; one client writes through each
    #[arg(
        long,
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// A request that takes longer is given up and tried anew, ms
    #[arg(long, default_value_t = 2_000)]
    timeout_ms: u64,
    /// Pause between two writes of a client, ms
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Serialize)]
struct Gap {
    load: &'static str,
    ok: u64,
    failed: u64,
    longest_gap_ms: f64,
    /// When the longest gap began, seconds after the start.
    at_s: f64,
}

struct Seen {
    begun: Instant,
    last: Cell<Instant>,
    longest: Cell<(Duration, Instant)>,
    ok: Cell<u64>,
    failed: Cell<u64>,
    error: RefCell<Option<String>>,
}

pub async fn run(args: FailoverArgs) -> Outcome {
    let now = Instant::now();
    let seen = Rc::new(Seen {
        begun: now,
        last: Cell::new(now),
        longest: Cell::new((Duration::ZERO, now)),
        ok: Cell::new(0),
        failed: Cell::new(0),
        error: RefCell::new(None),
    });
    let end = now + Duration::from_secs_f64(args.seconds);
    let local = tokio::task::LocalSet::new();
    for (i, endpoint) in args.endpoints.iter().enumerate() {
        local.spawn_local(client(seen.clone(), endpoint.clone(), i as u64, end, args.clone()));
    }
    local.await;
    if seen.ok.get() == 0 {
        return Err(seen.error.borrow().clone().unwrap_or_else(|| "no write succeeded".into()));
    }
    let (gap, at) = seen.longest.get();
    let gap = Gap {
        load: "failover",
        ok: seen.ok.get(),
        failed: seen.failed.get(),
        longest_gap_ms: gap.as_secs_f64() * 1e3,
        at_s: at.duration_since(seen.begun).as_secs_f64(),
    };
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&gap).unwrap_or_default()),
        Output::Text => println!(
            "longest time without a write: {:.0} ms, {:.1} s after the start ({} written, {} failed)",
            gap.longest_gap_ms, gap.at_s, gap.ok, gap.failed
        ),
    }
    Ok(())
}

async fn client(seen: Rc<Seen>, endpoint: String, number: u64, end: Instant, args: FailoverArgs) {
    let mut conn: Option<Conn> = None;
    let put = pb::PutRequest { key: key(number), value: "x".into(), ..Default::default() };
    let message = frame(&put);
    while Instant::now() < end {
        let open = match conn.take().filter(|c| !c.is_closed()) {
            Some(open) => open,
            None => match Conn::open(&endpoint).await {
                Ok(open) => open,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
        };
        let put = open.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", message.clone());
        match tokio::time::timeout(Duration::from_millis(args.timeout_ms), put).await {
            Ok(Ok(_)) => success(&seen),
            Ok(Err(e)) => {
                seen.failed.set(seen.failed.get() + 1);
                *seen.error.borrow_mut() = Some(e);
            }
            Err(_) => seen.failed.set(seen.failed.get() + 1),
        }
        conn = Some(open);
        tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
    }
}

fn success(seen: &Seen) {
    let now = Instant::now();
    let before = seen.last.replace(now);
    let gap = now.duration_since(before);
    if gap > seen.longest.get().0 {
        seen.longest.set((gap, before));
    }
    seen.ok.set(seen.ok.get() + 1);
}
