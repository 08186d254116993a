//! The metrics page: etcd's names (so that its dashboards and alerts work) and
//! our own, in Prometheus's text format 0.0.4. Every value is read where it
//! arises; a name without a true value is left out.

use crate::door::{Door, ETCD_VERSION};
use crate::gateway::POOL;
use crate::server::HOT_PATHS;
use crate::traffic::Traffic;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, UNIX_EPOCH};
use synod_consensus::Role;
use synod_host::metrics::{Counter, Histogram, PeerMetrics};
use tonic::{Code, Status};

/// Prometheus's customary buckets for request times, microseconds.
const CALL_BOUNDS_US: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
const CODES: usize = 17;
const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Counts of one method.
pub(crate) struct CallStat {
    started: Counter,
    handled: [Counter; CODES],
    seconds: Histogram,
}

impl Default for CallStat {
    fn default() -> CallStat {
        CallStat {
            started: Counter::default(),
            handled: Default::default(),
            seconds: Histogram::with_bounds(&CALL_BOUNDS_US),
        }
    }
}

/// A gRPC method and its counts.
pub(crate) struct Method {
    /// Its labels: name, service and kind, as etcd's server has them.
    labels: String,
    stat: Arc<CallStat>,
}

/// Counts of all methods that there are; others, which a client may make up,
/// are not counted.
pub(crate) struct CallMetrics {
    hot: [Arc<CallStat>; HOT_PATHS.len()],
    all: BTreeMap<String, Method>,
    /// Bytes on clients' connections.
    pub traffic: Arc<Traffic>,
}

impl Default for CallMetrics {
    fn default() -> CallMetrics {
        let mut all = BTreeMap::new();
        for method in POOL.services().flat_map(|s| s.methods().collect::<Vec<_>>()) {
            let (service, name) = (method.parent_service().full_name(), method.name());
            let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                (true, true) => "bidi_stream",
                (true, false) => "client_stream",
                (false, true) => "server_stream",
                (false, false) => "unary",
            };
            let labels =
                format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let stat = Arc::default();
            all.insert(format!("/{service}/{name}"), Method { labels, stat });
        }
        let hot = HOT_PATHS.map(|p| all.get(p).map_or_else(Arc::default, |m| m.stat.clone()));
        CallMetrics { hot, all, traffic: Arc::default() }
    }
}

/// A call that has begun.
pub(crate) struct Started {
    stat: Option<Arc<CallStat>>,
    at: Instant,
}

impl CallMetrics {
    /// One of [`HOT_PATHS`].
    pub fn start_hot(&self, number: usize) -> Started {
        Started::new(self.hot[number].clone())
    }

    /// Any.
    pub fn start(&self, path: &str) -> Started {
        match self.all.get(path) {
            Some(method) => Started::new(method.stat.clone()),
            None => Started { stat: None, at: Instant::now() },
        }
    }
}

impl Started {
    fn new(stat: Arc<CallStat>) -> Started {
        stat.started.inc();
        Started { stat: Some(stat), at: Instant::now() }
    }

    /// It ended so.
    pub fn handled(&self, code: Code) {
        if let Some(stat) = &self.stat {
            stat.handled[code as usize % CODES].inc();
            stat.seconds.observe_us(self.at.elapsed().as_micros() as u64);
        }
    }
}

/// A body that tells how its call ended.
pub(crate) struct Counted<B> {
    body: B,
    started: Option<Started>,
}

impl<B> Counted<B> {
    pub fn new(body: B, started: Started) -> Counted<B> {
        Counted { body, started: Some(started) }
    }

    fn end(&mut self, code: Code) {
        if let Some(started) = self.started.take() {
            started.handled(code);
        }
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        // Dropped before its trailers: the client went away.
        if let Some(started) = self.started.take() {
            started.handled(Code::Cancelled);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(f)) => {
                if let Some(trailers) = f.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.end(status.map_or(Code::Ok, |s| s.code()));
                }
            }
            Some(Err(_)) => self.end(Code::Unknown),
            None => self.end(Code::Ok),
        }
        Poll::Ready(frame)
    }
}

/// Writes families of the text format.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn row(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            l => writeln!(self.0, "{name}{{{l}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.row(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.row(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        self.head(name, "histogram", help);
        self.buckets(name, "", h);
    }

    fn buckets(&mut self, name: &str, labels: &str, h: &Histogram) {
        let (rows, total, sum) = h.read();
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in rows {
            self.row(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.row(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), total);
        self.row(&format!("{name}_sum"), labels, sum);
        self.row(&format!("{name}_count"), labels, total);
    }
}

/// The whole page.
pub(crate) fn render(door: &Door) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    server(&mut page, door);
    disk_and_state(&mut page, door);
    network(&mut page, door);
    calls(&mut page, door);
    process(&mut page, door);
    ours(&mut page, door);
    page.0
}

fn server(page: &mut Page, door: &Door) {
    let handle = door.handle();
    let (m, published) = (handle.metrics(), handle.published());
    let status = handle.status();
    let leader = handle.leader();
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", u8::from(leader.is_some()));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", u8::from(handle.leads()));
    page.gauge("etcd_server_is_learner", "Whether it is a learner.", u8::from(handle.is_learner()));
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen.",
        m.leader_changes.get(),
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "Requests refused or lost.",
        m.proposals_failed.get(),
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "Index agreed on.",
        status.consensus.commit.max(published.applied()),
    );
    page.gauge("etcd_server_proposals_applied_total", "Index applied.", published.applied());
    page.gauge(
        "etcd_server_proposals_pending",
        "Requests in flight at this member.",
        m.pending.get(),
    );
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Quota of the keyspace, 0: none.",
        door.config().quota_bytes,
    );
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "Messages to peers dropped.",
        m.peer_send_failures.get(),
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "Applies that took over 100 ms.",
        m.slow_apply.get(),
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "Read barriers that took over a second.",
        m.slow_reads.get(),
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "Read barriers that failed.",
        m.reads_failed.get(),
    );
    page.head("etcd_server_version", "gauge", "The interface's version.");
    page.row("etcd_server_version", &format!("server_version=\"{ETCD_VERSION}\""), 1);
    page.head("etcd_server_id", "gauge", "This member.");
    page.row("etcd_server_id", &format!("server_id=\"{:x}\"", handle.id().0), 1);
}

fn disk_and_state(page: &mut Page, door: &Door) {
    let handle = door.handle();
    let (m, published) = (handle.metrics(), handle.published());
    let in_use = published.logical_size();
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "Journal write with its sync.",
        &m.journal_sync,
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Commit of applied entries to the state.",
        &m.apply,
    );
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the state on disk.", door.db_size());
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Logical bytes of the keyspace.", in_use);
    let (watchers, slow) = door.hub().counts();
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watches that are up to date.", watchers);
    page.counter("synod_watch_fell_behind_total", "Times a watch was too slow for the hub.", slow);
    page.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The store's revision.",
        published.revision(),
    );
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The compacted revision.",
        published.compacted(),
    );
    for (name, path) in [("range", 0), ("put", 1), ("delete", 2), ("txn", 3)] {
        let count = door.call_metrics().hot[path].handled[0].get();
        let help = format!("Calls of {name} that this member answered.");
        page.counter(&format!("etcd_mvcc_{name}_total"), &help, count);
    }
}

fn network(page: &mut Page, door: &Door) {
    let peers = door.handle().metrics().peers().clone();
    let mut family = |name: &str, help: &str, label: &str, value: fn(&PeerMetrics) -> &Counter| {
        page.head(name, "counter", help);
        for (id, peer) in &peers {
            page.row(name, &format!("{label}=\"{:x}\"", id.0), value(peer).get());
        }
    };
    family("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", "To", |p| &p.sent_bytes);
    let help = "Bytes received from a peer.";
    family("etcd_network_peer_received_bytes_total", help, "From", |p| &p.received_bytes);
    let help = "Messages to a peer dropped.";
    family("etcd_network_peer_sent_failures_total", help, "To", |p| &p.send_failures);
    let connected = door.handle().connected();
    page.head("synod_peer_connected", "gauge", "Whether a peer takes messages from this member.");
    for id in peers.keys() {
        let is = u8::from(connected.contains(id));
        page.row("synod_peer_connected", &format!("peer=\"{:x}\"", id.0), is);
    }
    let traffic = &door.call_metrics().traffic;
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received on the clients' port, pages and JSON included.",
        traffic.received.get(),
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent on the clients' port, pages and JSON included.",
        traffic.sent.get(),
    );
}

fn calls(page: &mut Page, door: &Door) {
    let all = door.call_metrics().all.values();
    page.head("grpc_server_started_total", "counter", "Calls begun.");
    for method in all.clone() {
        page.row("grpc_server_started_total", &method.labels, method.stat.started.get());
    }
    page.head("grpc_server_handled_total", "counter", "Calls ended, by code.");
    for method in all.clone() {
        for (code, count) in CODE_NAMES.iter().zip(&method.stat.handled) {
            if count.get() > 0 || *code == "OK" {
                let labels = format!("grpc_code=\"{code}\",{}", method.labels);
                page.row("grpc_server_handled_total", &labels, count.get());
            }
        }
    }
    page.head("grpc_server_handling_seconds", "histogram", "Time of a call.");
    for method in all.filter(|m| m.stat.started.get() > 0) {
        page.buckets("grpc_server_handling_seconds", &method.labels, &method.stat.seconds);
    }
}

fn process(page: &mut Page, door: &Door) {
    let started = door.handle().started().duration_since(UNIX_EPOCH).unwrap_or_default();
    page.gauge("process_start_time_seconds", "Start of the process.", started.as_secs_f64());
    let Some(p) = read_process() else { return };
    page.head("process_cpu_seconds_total", "counter", "CPU time, user and system.");
    page.row("process_cpu_seconds_total", "", p.cpu_seconds);
    page.gauge("process_resident_memory_bytes", "Resident memory.", p.resident_bytes);
    page.gauge("process_open_fds", "Open file descriptors.", p.open_fds);
    page.gauge("process_max_fds", "Most file descriptors.", p.max_fds);
}

struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_fds: usize,
    max_fds: u64,
}

/// From /proc; `None` where there is none.
fn read_process() -> Option<Process> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces: count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let files = limits.lines().find(|l| l.starts_with("Max open files"))?;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(Process {
        cpu_seconds: ticks as f64 / per_second,
        resident_bytes: pages * rustix::param::page_size() as u64,
        open_fds: std::fs::read_dir("/proc/self/fd").ok()?.count(),
        max_fds: files.split_whitespace().nth(3)?.parse().unwrap_or(u64::MAX),
    })
}

fn ours(page: &mut Page, door: &Door) {
    let handle = door.handle();
    let (m, status) = (handle.metrics(), handle.status());
    page.head("synod_build_info", "gauge", "This program.");
    let version = env!("CARGO_PKG_VERSION");
    page.row("synod_build_info", &format!("version=\"{version}\",protocol=\"raft\""), 1);
    page.gauge("synod_consensus_term", "The present ballot.", handle.term());
    page.head("synod_consensus_role", "gauge", "1 for the role that this member has.");
    for (name, role) in [
        ("follower", Role::Follower),
        ("precandidate", Role::PreCandidate),
        ("candidate", Role::Candidate),
        ("leader", Role::Leader),
        ("learner", Role::Learner),
    ] {
        let is = u8::from(status.consensus.role == role);
        page.row("synod_consensus_role", &format!("role=\"{name}\""), is);
    }
    page.gauge("synod_consensus_last_index", "Last index of the log.", status.consensus.last);
    page.gauge(
        "synod_consensus_persisted_index",
        "Last index durable here.",
        status.consensus.persisted,
    );
    page.head("synod_consensus_peer_lag_entries", "gauge", "On a leader: entries a member lacks.");
    for (peer, matched) in &status.consensus.matched {
        let lag = status.consensus.last.saturating_sub(*matched);
        page.row("synod_consensus_peer_lag_entries", &format!("peer=\"{peer}\""), lag);
    }
    page.counter("synod_journal_bytes_total", "Bytes of records appended.", m.journal_bytes.get());
    page.counter("synod_core_turns_total", "Turns of the core's loop.", m.turns.get());
    page.head("synod_core_tick_late_seconds_total", "counter", "Lateness of ticks in all.");
    page.row("synod_core_tick_late_seconds_total", "", m.tick_late_us.get() as f64 / 1e6);
    page.counter(
        "synod_snapshots_installed_total",
        "Snapshots taken over from peers.",
        m.snapshots_installed.get(),
    );
}
