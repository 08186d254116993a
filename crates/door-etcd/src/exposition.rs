//! The metrics page: etcd's names (so that its dashboards and alerts work) and
//! our own, in Prometheus's text format 0.0.4 or as OpenMetrics. Every value is
//! read where it arises; a name without a true value is left out.

use crate::door::{Door, ETCD_VERSION};
use crate::families::METRICS;
use crate::metrics::CODE_NAMES;
use crate::server::HOT_PATHS;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use synod_base::NodeId;
use synod_consensus::Role;
use synod_host::metrics::{Counter, PeerMetrics};
use synod_host::page::{Format, Page};

/// The whole page.
pub(crate) fn render(door: &Door, format: Format) -> String {
    let mut page = Page::new(METRICS, format);
    server(&mut page, door);
    disk_and_state(&mut page, door);
    network(&mut page, door);
    calls(&mut page, door);
    process(&mut page, door);
    machine(&mut page, door);
    ours(&mut page, door);
    page.into_text()
}

fn server(page: &mut Page, door: &Door) {
    let handle = door.handle();
    let (m, published) = (handle.metrics(), handle.published());
    let status = handle.status();
    let leader = handle.leader();
    page.number("etcd_server_has_leader", u8::from(leader.is_some()));
    page.number("etcd_server_is_leader", u8::from(handle.leads()));
    page.number("etcd_server_is_learner", u8::from(handle.is_learner()));
    page.number("etcd_server_leader_changes_seen_total", m.leader_changes.get());
    page.number("etcd_server_proposals_failed_total", m.proposals_failed.get());
    page.number(
        "etcd_server_proposals_committed_total",
        status.consensus.commit.max(published.applied()),
    );
    page.number("etcd_server_proposals_applied_total", published.applied());
    page.number("etcd_server_proposals_pending", m.pending.get());
    // etcd always has a quota, and its alerts divide by it: without one nothing is near it.
    match door.config().quota_bytes {
        0 => page.number("etcd_server_quota_backend_bytes", "+Inf"),
        bytes => page.number("etcd_server_quota_backend_bytes", bytes),
    }
    page.number("etcd_server_heartbeat_send_failures_total", m.peer_send_failures.get());
    page.number("etcd_server_slow_apply_total", m.slow_apply.get());
    page.number("etcd_server_slow_read_indexes_total", m.slow_reads.get());
    page.number("etcd_server_read_indexes_failed_total", m.reads_failed.get());
    page.head("etcd_server_version");
    page.row("etcd_server_version", &format!("server_version=\"{ETCD_VERSION}\""), 1);
    page.head("etcd_server_id");
    page.row("etcd_server_id", &format!("server_id=\"{:x}\"", handle.id().0), 1);
}

fn disk_and_state(page: &mut Page, door: &Door) {
    let handle = door.handle();
    let (m, published) = (handle.metrics(), handle.published());
    let in_use = published.logical_size();
    page.histogram("etcd_disk_wal_fsync_duration_seconds", &m.journal_sync);
    page.histogram("etcd_disk_backend_commit_duration_seconds", &m.apply);
    page.number("etcd_mvcc_db_total_size_in_bytes", door.db_size(in_use));
    page.number("etcd_mvcc_db_total_size_in_use_in_bytes", in_use);
    page.number("etcd_debugging_mvcc_current_revision", published.revision());
    page.number("etcd_debugging_mvcc_compact_revision", published.compacted());
    let counts = published.counts();
    let answered = door.call_metrics().all.get(HOT_PATHS[0]).map_or(0, |m| m.stat.handled[0].get());
    page.number("etcd_mvcc_range_total", answered + counts.ranges);
    page.number("etcd_mvcc_put_total", counts.puts);
    page.number("etcd_mvcc_delete_total", counts.deletes);
    page.number("etcd_mvcc_txn_total", counts.txns);
    let counts = door.hub().counts();
    page.number("etcd_debugging_mvcc_watcher_total", counts.watches);
    page.number("etcd_debugging_mvcc_slow_watcher_total", counts.behind);
    page.number("etcd_debugging_mvcc_pending_events_total", counts.pending);
    page.number("synod_watch_fell_behind_total", counts.fell_behind);
}

fn network(page: &mut Page, door: &Door) {
    let peers = door.handle().metrics().peers().clone();
    let mut family = |name: &str, label: &str, value: fn(&PeerMetrics) -> &Counter| {
        page.head(name);
        for (id, peer) in &peers {
            page.row(name, &format!("{label}=\"{:x}\"", id.0), value(peer).get());
        }
    };
    family("etcd_network_peer_sent_bytes_total", "To", |p| &p.sent_bytes);
    family("etcd_network_peer_received_bytes_total", "From", |p| &p.received_bytes);
    family("etcd_network_peer_sent_failures_total", "To", |p| &p.send_failures);
    page.head("etcd_network_peer_round_trip_time_seconds");
    for (id, peer) in &peers {
        let labels = format!("To=\"{:x}\"", id.0);
        page.buckets("etcd_network_peer_round_trip_time_seconds", &labels, &peer.round_trip);
    }
    peer_states(page, door, &peers);
    let traffic = &door.call_metrics().traffic;
    page.number("etcd_network_client_grpc_received_bytes_total", traffic.received.get());
    page.number("etcd_network_client_grpc_sent_bytes_total", traffic.sent.get());
}

/// Whether peers are connected, and whether they are heard.
fn peer_states(page: &mut Page, door: &Door, peers: &BTreeMap<NodeId, Arc<PeerMetrics>>) {
    let (connected, hearings) = (door.handle().connected(), door.handle().hearings());
    let published = door.handle().published();
    let mut family = |name: &str, value: &dyn Fn(&NodeId) -> f64| {
        page.head(name);
        for id in peers.keys() {
            // A name may hold anything.
            let peer = published.members().get(id).map_or("", |m| &*m.name);
            let peer = peer.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            page.row(name, &format!("peer=\"{:x}\",name=\"{peer}\"", id.0), value(id));
        }
    };
    let hearing = |id: &NodeId| hearings.get(id).copied().unwrap_or_default();
    family("synod_peer_connected", &|id| f64::from(u8::from(connected.contains(id))));
    family("synod_peer_silence_seconds", &|id| hearing(id).silence_ms as f64 / 1e3);
    family("synod_peer_phi", &|id| hearing(id).phi);
    family("synod_peer_suspected", &|id| f64::from(u8::from(hearing(id).suspected)));
    family("synod_peer_suspicions_total", &|id| peers[id].suspicions.get() as f64);
}

fn calls(page: &mut Page, door: &Door) {
    let all = door.call_metrics().all.values();
    page.head("grpc_server_started_total");
    for method in all.clone() {
        page.row("grpc_server_started_total", &method.labels, method.stat.started.get());
    }
    page.head("grpc_server_handled_total");
    for method in all.clone() {
        for (code, count) in CODE_NAMES.iter().zip(&method.stat.handled) {
            if count.get() > 0 || *code == "OK" {
                let labels = format!("grpc_code=\"{code}\",{}", method.labels);
                page.row("grpc_server_handled_total", &labels, count.get());
            }
        }
    }
    page.head("grpc_server_handling_seconds");
    for method in all.filter(|m| m.stat.started.get() > 0) {
        page.buckets("grpc_server_handling_seconds", &method.labels, &method.stat.seconds);
    }
    page.number("synod_slow_requests_total", door.call_metrics().slow.total.get());
}

fn process(page: &mut Page, door: &Door) {
    let started = door.handle().started().duration_since(UNIX_EPOCH).unwrap_or_default();
    page.number("process_start_time_seconds", started.as_secs_f64());
    let Some(p) = read_process() else { return };
    page.head("process_cpu_seconds_total");
    page.row("process_cpu_seconds_total", "", p.cpu_seconds);
    page.number("process_resident_memory_bytes", p.resident_bytes);
    page.number("process_open_fds", p.open_fds);
    page.number("process_max_fds", p.max_fds);
}

fn machine(page: &mut Page, door: &Door) {
    let machine = synod_host::machine::read(door.handle().data_dir());
    page.head("synod_host_pressure_seconds_total");
    for p in &machine.pressures {
        let labels = format!("resource=\"{}\",kind=\"{}\"", p.resource, p.kind);
        page.row("synod_host_pressure_seconds_total", &labels, p.seconds);
    }
    let mut pair = |pair: Option<(u64, u64)>, first: &str, second: &str| {
        if let Some((a, b)) = pair {
            page.number(first, a);
            page.number(second, b);
        }
    };
    pair(machine.memory, "synod_host_memory_bytes", "synod_host_memory_available_bytes");
    pair(machine.disk, "synod_host_disk_bytes", "synod_host_disk_free_bytes");
    if let Some(load) = machine.load {
        page.number("synod_host_load1", load);
    }
    page.number("synod_host_cpu_cores", machine.cores);
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
    page.head("synod_build_info");
    let version = env!("CARGO_PKG_VERSION");
    let protocol = handle.protocol();
    page.row("synod_build_info", &format!("version=\"{version}\",protocol=\"{protocol}\""), 1);
    page.number("synod_consensus_term", handle.term());
    page.head("synod_consensus_role");
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
    page.number("synod_consensus_last_index", status.consensus.last);
    page.number("synod_consensus_persisted_index", status.consensus.persisted);
    page.head("synod_consensus_peer_lag_entries");
    for (peer, matched) in &status.consensus.matched {
        let lag = status.consensus.last.saturating_sub(*matched);
        page.row("synod_consensus_peer_lag_entries", &format!("peer=\"{peer}\""), lag);
    }
    page.number("synod_journal_bytes_total", m.journal_bytes.get());
    page.number("synod_journal_write_age_seconds", m.journal_writing.age().as_secs_f64());
    page.number("synod_core_turns_total", m.turns.get());
    page.head("synod_core_tick_late_seconds_total");
    page.row("synod_core_tick_late_seconds_total", "", m.tick_late_us.get() as f64 / 1e6);
    page.number("synod_store_runs", m.store_runs.get());
    page.number("synod_store_sealed_buffers", m.store_buffers.get());
    page.head("synod_store_commits_slowed_seconds_total");
    page.row("synod_store_commits_slowed_seconds_total", "", m.store_slowed_us.get() as f64 / 1e6);
    page.number("synod_snapshots_installed_total", m.snapshots_installed.get());
    let silences = door.silence_metrics();
    page.number("synod_service_silent_instances", silences.silent.get());
    page.number("synod_service_suspicions_total", silences.suspicions.get());
    let files = door.file_metrics();
    page.number("synod_file_registrations_total", files.registrations.get());
    page.number("synod_file_uncached_total", files.uncached.get());
    page.number("synod_file_invalidations_total", files.invalidations.get());
    page.number("synod_file_write_waits_total", files.waits.get());
    page.number("synod_file_write_waits_in_vain_total", files.in_vain.get());
}
