//! The locks of a ZooKeeper, to compare with: as much of its protocol as its lock recipe
//! needs (create in order, list, watch the one before, delete), on bare connections.

use super::{Common, Report, histogram, show_progress};
use crate::Outcome;
use bytes::{Buf, BufMut, Bytes};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use synod_base::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CREATE: i32 = 1;
const DELETE: i32 = 2;
/// Reads a node; the watch stays only if it is there.
const READ: i32 = 4;
const LIST: i32 = 8;
/// The number of no request: a watch fired.
const FIRED: i32 = -1;
const NO_NODE: i32 = -101;
const NODE_EXISTS: i32 = -110;
/// Flags of a node that ends with its session and has the next number in its name.
const EPHEMERAL_IN_ORDER: i32 = 3;
const PERSISTENT: i32 = 0;
/// As long as a server with default settings allows.
const SESSION_MS: i32 = 40_000;
/// No answer here is longer.
const PACKET_MAX: usize = 16 << 20;

struct Shared {
    args: Common,
    count_from: Instant,
    end: Instant,
    done: Cell<u64>,
    failed: Cell<u64>,
    latencies: RefCell<Histogram<u64>>,
    error: RefCell<Option<String>>,
}

/// `synod bench zookeeper-lock`: each client has a session on a connection of its own.
pub async fn run(args: Common) -> Outcome {
    let warmup = Duration::from_secs_f64(args.warmup);
    let count_from = Instant::now() + warmup;
    let (clients, output) = (args.clients, args.output);
    let shared = Rc::new(Shared {
        count_from,
        end: count_from + Duration::from_secs_f64(args.seconds),
        args,
        done: Cell::new(0),
        failed: Cell::new(0),
        latencies: RefCell::new(histogram()),
        error: RefCell::new(None),
    });
    let local = tokio::task::LocalSet::new();
    for number in 0..clients {
        let shared = shared.clone();
        local.spawn_local(async move {
            if let Err(e) = client(&shared, number).await {
                shared.failed.set(shared.failed.get() + 1);
                *shared.error.borrow_mut() = Some(e);
            }
        });
    }
    let (total, progress) = (shared.end - Instant::now(), shared.clone());
    tokio::select! {
        () = local => {}
        () = show_progress("zookeeper-lock", total, move || progress.done.get()) => {}
    }
    let counted = Instant::now().min(shared.end).saturating_duration_since(count_from);
    let report = Report::new(
        "zookeeper-lock",
        clients,
        &shared.latencies.borrow(),
        shared.failed.get(),
        counted.as_secs_f64(),
        shared.error.borrow().clone(),
    );
    report.print(output);
    if report.ok == 0 {
        return Err(report.error.unwrap_or_else(|| "no request was answered".into()));
    }
    Ok(())
}

async fn client(shared: &Shared, number: usize) -> Outcome {
    let args = &shared.args;
    let mut rng = Rng::new(number as u64 + 1);
    let mut session = Session::open(&args.endpoints[number % args.endpoints.len()]).await?;
    session.make("/bench").await?;
    for lock in 0..args.keys {
        session.make(&format!("/bench/{lock}")).await?;
    }
    loop {
        let begun = Instant::now();
        if begun >= shared.end {
            return Ok(());
        }
        let lock = format!("/bench/{}", rng.below(args.keys));
        let node = session.acquire(&lock).await?;
        session.call(DELETE, |out| put_text_and(out, &node, |out| out.put_i32(-1))).await?;
        shared.done.set(shared.done.get() + 1);
        let now = Instant::now();
        if begun >= shared.count_from && now <= shared.end {
            let us = now.duration_since(begun).as_micros() as u64;
            // Longer than ten minutes would not fit; no request waits so long.
            let _ = shared.latencies.borrow_mut().record(us.max(1));
        }
    }
}

struct Session {
    stream: TcpStream,
    asked: i32,
    /// Paths whose watches have fired.
    fired: BTreeSet<String>,
}

impl Session {
    async fn open(endpoint: &str) -> Outcome<Session> {
        let at = endpoint.trim_start_matches("http://");
        let words = |e: std::io::Error| format!("{at}: {e}");
        let stream = TcpStream::connect(at).await.map_err(words)?;
        stream.set_nodelay(true).map_err(words)?;
        let mut session = Session { stream, asked: 0, fired: BTreeSet::new() };
        let mut hello = Vec::new();
        hello.put_i32(0); // The protocol's version.
        hello.put_i64(0); // Nothing was seen yet.
        hello.put_i32(SESSION_MS);
        hello.put_i64(0); // A new session,
        put_bytes(&mut hello, &[0; 16]); // without a password,
        hello.put_u8(0); // that writes.
        session.send(&hello).await?;
        let mut welcome = session.packet().await?;
        if welcome.remaining() < 16 || welcome.get_i64() as i32 <= 0 {
            return Err(format!("{at}: the session was refused"));
        }
        Ok(session)
    }

    async fn send(&mut self, packet: &[u8]) -> Outcome {
        let mut out = Vec::with_capacity(packet.len() + 4);
        put_bytes(&mut out, packet);
        self.stream.write_all(&out).await.map_err(|e| e.to_string())
    }

    async fn packet(&mut self) -> Outcome<Bytes> {
        let length = self.stream.read_i32().await.map_err(|e| e.to_string())?;
        let length = usize::try_from(length).ok().filter(|l| *l <= PACKET_MAX);
        let mut packet = vec![0; length.ok_or("a packet of no sensible length")?];
        self.stream.read_exact(&mut packet).await.map_err(|e| e.to_string())?;
        Ok(packet.into())
    }

    /// The next answer, or that a watch fired: (number, error, the rest).
    async fn answer(&mut self) -> Outcome<(i32, i32, Bytes)> {
        let mut packet = self.packet().await?;
        if packet.remaining() < 16 {
            return Err("an answer without a head".into());
        }
        let (number, _, error) = (packet.get_i32(), packet.get_i64(), packet.get_i32());
        if number == FIRED && packet.remaining() >= 8 {
            packet.advance(8);
            self.fired.insert(take_text(&mut packet)?);
        }
        Ok((number, error, packet))
    }

    /// One request; the error is the server's.
    async fn try_call(
        &mut self,
        kind: i32,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Outcome<Result<Bytes, i32>> {
        self.asked += 1;
        let mut request = Vec::new();
        request.put_i32(self.asked);
        request.put_i32(kind);
        fill(&mut request);
        self.send(&request).await?;
        loop {
            let (number, error, rest) = self.answer().await?;
            if number == self.asked {
                return Ok(if error == 0 { Ok(rest) } else { Err(error) });
            }
        }
    }

    async fn call(&mut self, kind: i32, fill: impl FnOnce(&mut Vec<u8>)) -> Outcome<Bytes> {
        self.try_call(kind, fill).await?.map_err(|e| format!("request of kind {kind}: error {e}"))
    }

    async fn create(&mut self, path: &str, flags: i32) -> Outcome<Result<Bytes, i32>> {
        let fill = |out: &mut Vec<u8>| {
            put_bytes(out, path.as_bytes());
            put_bytes(out, b"");
            out.put_i32(1); // One entry in its list: everything, to everybody.
            out.put_i32(31);
            put_bytes(out, b"world");
            put_bytes(out, b"anyone");
            out.put_i32(flags);
        };
        self.try_call(CREATE, fill).await
    }

    /// A node that stays, if it is not there.
    async fn make(&mut self, path: &str) -> Outcome {
        match self.create(path, PERSISTENT).await? {
            Ok(_) | Err(NODE_EXISTS) => Ok(()),
            Err(e) => Err(format!("cannot create {path}: error {e}")),
        }
    }

    /// ZooKeeper's recipe: a node in the queue, and a watch on the one before it.
    async fn acquire(&mut self, lock: &str) -> Outcome<String> {
        let created = self.create(&format!("{lock}/lock-"), EPHEMERAL_IN_ORDER).await?;
        let mut created = created.map_err(|e| format!("cannot queue at {lock}: error {e}"))?;
        let node = take_text(&mut created)?;
        let own = node.rsplit_once('/').map_or("", |(_, name)| name).to_owned();
        loop {
            let list = self.call(LIST, |out| put_text_and(out, lock, |out| out.put_u8(0))).await?;
            let queue = take_list(list)?;
            let Some(before) = queue.range(..own.clone()).next_back() else { return Ok(node) };
            let before = format!("{lock}/{before}");
            self.fired.clear();
            let watch = |out: &mut Vec<u8>| put_text_and(out, &before, |out| out.put_u8(1));
            match self.try_call(READ, watch).await? {
                Ok(_) => {
                    while !self.fired.contains(&before) {
                        self.answer().await?;
                    }
                }
                Err(NO_NODE) => {}
                Err(e) => return Err(format!("cannot watch {before}: error {e}")),
            }
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

fn put_text_and(out: &mut Vec<u8>, text: &str, rest: impl FnOnce(&mut Vec<u8>)) {
    put_bytes(out, text.as_bytes());
    rest(out);
}

fn take_text(packet: &mut Bytes) -> Outcome<String> {
    let short = || "an answer that ends too early".to_owned();
    if packet.remaining() < 4 {
        return Err(short());
    }
    let length = usize::try_from(packet.get_i32()).map_err(|_| short())?;
    if packet.remaining() < length {
        return Err(short());
    }
    String::from_utf8(packet.split_to(length).to_vec()).map_err(|e| e.to_string())
}

fn take_list(mut packet: Bytes) -> Outcome<BTreeSet<String>> {
    if packet.remaining() < 4 {
        return Err("an answer that ends too early".into());
    }
    let count = packet.get_i32();
    (0..count).map(|_| take_text(&mut packet)).collect()
}
