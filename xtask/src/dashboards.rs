//! Grafana's dashboards, from the lists here: `dashboards/*.json`.

use serde_json::{Value, json};
use std::path::Path;

/// A panel: title, unit (Grafana's name), width of 24, and what it shows: a query and how
/// its series are called.
struct Panel {
    title: &'static str,
    unit: &'static str,
    width: u32,
    shows: &'static [(&'static str, &'static str)],
}

/// A dashboard.
struct Dashboard {
    file: &'static str,
    title: &'static str,
    says: &'static str,
    panels: &'static [Panel],
}

const fn panel(
    title: &'static str,
    unit: &'static str,
    width: u32,
    shows: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, unit, width, shows }
}

/// What every query selects: the nodes that the variables at the top name.
const ALL: &str = "cluster=~\"$cluster\",node=~\"$node\"";

const DASHBOARDS: &[Dashboard] = &[
    Dashboard {
        file: "cluster",
        title: "Synod: cluster",
        says: "Is it up, does it lead, how much does it do, what does that cost.",
        panels: &[
            panel("Nodes up", "short", 4, &[("count(up{ALL} == 1)", "up")]),
            panel("Leader known by", "short", 4, &[("sum(etcd_server_has_leader{ALL})", "nodes")]),
            panel(
                "Changes of leader, 1 h",
                "short",
                4,
                &[("max(increase(etcd_server_leader_changes_seen_total{ALL}[1h]))", "changes")],
            ),
            panel(
                "Leader",
                "short",
                6,
                &[("max by (node) (etcd_server_is_leader{ALL})", "{{node}}")],
            ),
            panel(
                "Running since",
                "dateTimeFromNow",
                6,
                &[("1000 * max by (node) (process_start_time_seconds{ALL})", "{{node}}")],
            ),
            panel(
                "Calls",
                "reqps",
                12,
                &[(
                    "sum by (grpc_method) (rate(grpc_server_handled_total{ALL}[$__rate_interval])) > 0",
                    "{{grpc_method}}",
                )],
            ),
            panel(
                "Calls that failed",
                "reqps",
                12,
                &[(
                    "sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{ALL,grpc_code!~\"OK|Canceled\"}[$__rate_interval])) > 0",
                    "{{grpc_method}} {{grpc_code}}",
                )],
            ),
            panel(
                "Time of a unary call, p50 and p99",
                "s",
                12,
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(grpc_server_handling_seconds_bucket{ALL,grpc_type=\"unary\"}[$__rate_interval])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(grpc_server_handling_seconds_bucket{ALL,grpc_type=\"unary\"}[$__rate_interval])))",
                        "p99",
                    ),
                ],
            ),
            panel(
                "CPU",
                "percentunit",
                6,
                &[("rate(process_cpu_seconds_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel("Memory", "bytes", 6, &[("process_resident_memory_bytes{ALL}", "{{node}}")]),
            panel(
                "Clients' bytes in and out",
                "Bps",
                12,
                &[
                    (
                        "rate(etcd_network_client_grpc_received_bytes_total{ALL}[$__rate_interval])",
                        "{{node}} in",
                    ),
                    (
                        "rate(etcd_network_client_grpc_sent_bytes_total{ALL}[$__rate_interval])",
                        "{{node}} out",
                    ),
                ],
            ),
            panel(
                "Who reaches whom",
                "short",
                12,
                &[("synod_peer_connected{ALL}", "{{node}} to {{name}}")],
            ),
        ],
    },
    Dashboard {
        file: "consensus",
        title: "Synod: consensus",
        says: "Terms and roles, what is agreed on and applied, the disk under it, the links between the nodes.",
        panels: &[
            panel("Role", "short", 12, &[("synod_consensus_role{ALL} == 1", "{{node}} {{role}}")]),
            panel("Term", "short", 6, &[("synod_consensus_term{ALL}", "{{node}}")]),
            panel(
                "Changes of leader",
                "short",
                6,
                &[(
                    "increase(etcd_server_leader_changes_seen_total{ALL}[$__rate_interval])",
                    "{{node}}",
                )],
            ),
            panel(
                "Agreed on, entries a second",
                "ops",
                12,
                &[(
                    "rate(etcd_server_proposals_committed_total{ALL}[$__rate_interval])",
                    "{{node}}",
                )],
            ),
            panel(
                "Agreed on and not applied",
                "short",
                12,
                &[(
                    "etcd_server_proposals_committed_total{ALL} - etcd_server_proposals_applied_total{ALL}",
                    "{{node}}",
                )],
            ),
            panel(
                "Requests in flight",
                "short",
                8,
                &[("etcd_server_proposals_pending{ALL}", "{{node}}")],
            ),
            panel(
                "Requests that failed",
                "ops",
                8,
                &[("rate(etcd_server_proposals_failed_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Entries that a member lacks",
                "short",
                8,
                &[("synod_consensus_peer_lag_entries{ALL}", "{{node}}: {{peer}}")],
            ),
            panel(
                "Journal write, p99",
                "s",
                12,
                &[(
                    "histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket{ALL}[$__rate_interval]))",
                    "{{node}}",
                )],
            ),
            panel(
                "Age of the journal write in flight",
                "s",
                12,
                &[("synod_journal_write_age_seconds{ALL}", "{{node}}")],
            ),
            panel(
                "Commit to the state, p99",
                "s",
                12,
                &[(
                    "histogram_quantile(0.99, rate(etcd_disk_backend_commit_duration_seconds_bucket{ALL}[$__rate_interval]))",
                    "{{node}}",
                )],
            ),
            panel(
                "Journal",
                "Bps",
                12,
                &[("rate(synod_journal_bytes_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Round trip between nodes, p99",
                "s",
                12,
                &[(
                    "histogram_quantile(0.99, rate(etcd_network_peer_round_trip_time_seconds_bucket{ALL}[$__rate_interval]))",
                    "{{node}} to {{To}}",
                )],
            ),
            panel(
                "Bytes between nodes",
                "Bps",
                12,
                &[(
                    "rate(etcd_network_peer_sent_bytes_total{ALL}[$__rate_interval])",
                    "{{node}} to {{To}}",
                )],
            ),
            panel(
                "Messages dropped",
                "ops",
                8,
                &[(
                    "rate(etcd_network_peer_sent_failures_total{ALL}[$__rate_interval])",
                    "{{node}} to {{To}}",
                )],
            ),
            panel(
                "Lateness of ticks, seconds a second",
                "short",
                8,
                &[("rate(synod_core_tick_late_seconds_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Snapshots installed",
                "short",
                8,
                &[("synod_snapshots_installed_total{ALL}", "{{node}}")],
            ),
        ],
    },
    Dashboard {
        file: "keyspace",
        title: "Synod: keyspace and watches",
        says: "What clients do with keys, how large they are, whether watches keep up.",
        panels: &[
            panel(
                "Puts",
                "ops",
                6,
                &[("rate(etcd_mvcc_put_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Ranges",
                "ops",
                6,
                &[("rate(etcd_mvcc_range_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Transactions",
                "ops",
                6,
                &[("rate(etcd_mvcc_txn_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Deletions",
                "ops",
                6,
                &[("rate(etcd_mvcc_delete_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Size: logical and on disk",
                "bytes",
                12,
                &[
                    ("etcd_mvcc_db_total_size_in_use_in_bytes{ALL}", "{{node}} logical"),
                    ("etcd_mvcc_db_total_size_in_bytes{ALL}", "{{node}} on disk"),
                ],
            ),
            panel(
                "Share of the quota",
                "percentunit",
                12,
                &[(
                    "etcd_mvcc_db_total_size_in_use_in_bytes{ALL} / (etcd_server_quota_backend_bytes{ALL} > 0)",
                    "{{node}}",
                )],
            ),
            panel(
                "Revision",
                "short",
                6,
                &[
                    ("max(etcd_debugging_mvcc_current_revision{ALL})", "present"),
                    ("max(etcd_debugging_mvcc_compact_revision{ALL})", "compacted"),
                ],
            ),
            panel(
                "Revisions kept",
                "short",
                6,
                &[(
                    "etcd_debugging_mvcc_current_revision{ALL} - etcd_debugging_mvcc_compact_revision{ALL}",
                    "{{node}}",
                )],
            ),
            panel("Watches", "short", 6, &[("etcd_debugging_mvcc_watcher_total{ALL}", "{{node}}")]),
            panel(
                "Watches that read history",
                "short",
                6,
                &[("etcd_debugging_mvcc_slow_watcher_total{ALL}", "{{node}}")],
            ),
            panel(
                "Events queued for watches",
                "short",
                12,
                &[("etcd_debugging_mvcc_pending_events_total{ALL}", "{{node}}")],
            ),
            panel(
                "Watches that fell behind",
                "ops",
                12,
                &[("rate(synod_watch_fell_behind_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Read barriers: slow and failed",
                "ops",
                12,
                &[
                    (
                        "rate(etcd_server_slow_read_indexes_total{ALL}[$__rate_interval])",
                        "{{node}} slow",
                    ),
                    (
                        "rate(etcd_server_read_indexes_failed_total{ALL}[$__rate_interval])",
                        "{{node}} failed",
                    ),
                ],
            ),
            panel(
                "Slow applies",
                "ops",
                12,
                &[("rate(etcd_server_slow_apply_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
        ],
    },
    Dashboard {
        file: "locks",
        title: "Synod: locks, elections, sessions, files",
        says: "What clients ask of locks and elections, how leases are renewed, what caches of files cost.",
        panels: &[
            panel(
                "Calls",
                "reqps",
                12,
                &[(
                    "sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total{ALL,grpc_service=~\"synod.v1.*|v3lockpb.*|v3electionpb.*\"}[$__rate_interval])) > 0",
                    "{{grpc_service}} {{grpc_method}}",
                )],
            ),
            panel(
                "Calls that failed",
                "reqps",
                12,
                &[(
                    "sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{ALL,grpc_service=~\"synod.v1.*|v3lockpb.*|v3electionpb.*\",grpc_code!~\"OK|Canceled\"}[$__rate_interval])) > 0",
                    "{{grpc_method}} {{grpc_code}}",
                )],
            ),
            panel(
                "Time of a call, p99",
                "s",
                12,
                &[(
                    "histogram_quantile(0.99, sum by (le, grpc_method) (rate(grpc_server_handling_seconds_bucket{ALL,grpc_service=~\"synod.v1.*|v3lockpb.*|v3electionpb.*\"}[$__rate_interval])))",
                    "{{grpc_method}}",
                )],
            ),
            panel(
                "Leases granted and revoked",
                "ops",
                12,
                &[(
                    "sum by (grpc_method) (rate(grpc_server_handled_total{ALL,grpc_method=~\"LeaseGrant|LeaseRevoke\"}[$__rate_interval]))",
                    "{{grpc_method}}",
                )],
            ),
            panel(
                "Streams that keep leases alive",
                "short",
                12,
                &[(
                    "sum by (node) (grpc_server_started_total{ALL,grpc_method=~\"LeaseKeepAlive|KeepAlive\"}) - sum by (node) (grpc_server_handled_total{ALL,grpc_method=~\"LeaseKeepAlive|KeepAlive\"})",
                    "{{node}}",
                )],
            ),
            panel(
                "Files: given to caches, told to let go",
                "ops",
                12,
                &[
                    (
                        "rate(synod_file_registrations_total{ALL}[$__rate_interval])",
                        "{{node}} given",
                    ),
                    (
                        "rate(synod_file_invalidations_total{ALL}[$__rate_interval])",
                        "{{node}} let go",
                    ),
                ],
            ),
            panel(
                "Writes of files that waited for caches",
                "ops",
                12,
                &[
                    ("rate(synod_file_write_waits_total{ALL}[$__rate_interval])", "{{node}}"),
                    (
                        "rate(synod_file_write_waits_in_vain_total{ALL}[$__rate_interval])",
                        "{{node}} in vain",
                    ),
                ],
            ),
        ],
    },
    Dashboard {
        file: "host",
        title: "Synod: hosts and monitoring",
        says: "The machines under the nodes, and what monitoring itself costs.",
        panels: &[
            panel(
                "Process CPU",
                "percentunit",
                8,
                &[("rate(process_cpu_seconds_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Load for each core",
                "short",
                8,
                &[("synod_host_load1{ALL} / synod_host_cpu_cores{ALL}", "{{node}}")],
            ),
            panel(
                "Share of file descriptors in use",
                "percentunit",
                8,
                &[("process_open_fds{ALL} / process_max_fds{ALL}", "{{node}}")],
            ),
            panel(
                "Waiting for CPU",
                "percentunit",
                8,
                &[(
                    "rate(synod_host_pressure_seconds_total{ALL,resource=\"cpu\",kind=\"some\"}[$__rate_interval])",
                    "{{node}}",
                )],
            ),
            panel(
                "Waiting for disks",
                "percentunit",
                8,
                &[(
                    "rate(synod_host_pressure_seconds_total{ALL,resource=\"io\"}[$__rate_interval])",
                    "{{node}} {{kind}}",
                )],
            ),
            panel(
                "Waiting for memory",
                "percentunit",
                8,
                &[(
                    "rate(synod_host_pressure_seconds_total{ALL,resource=\"memory\"}[$__rate_interval])",
                    "{{node}} {{kind}}",
                )],
            ),
            panel(
                "Memory available",
                "percentunit",
                8,
                &[(
                    "synod_host_memory_available_bytes{ALL} / synod_host_memory_bytes{ALL}",
                    "{{node}}",
                )],
            ),
            panel(
                "Disk free",
                "percentunit",
                8,
                &[("synod_host_disk_free_bytes{ALL} / synod_host_disk_bytes{ALL}", "{{node}}")],
            ),
            panel(
                "Memory of the process",
                "bytes",
                8,
                &[("process_resident_memory_bytes{ALL}", "{{node}}")],
            ),
            panel("Series", "short", 8, &[("synod_monitor_series{ALL}", "{{node}}")]),
            panel(
                "Samples taken",
                "ops",
                8,
                &[("rate(synod_monitor_samples_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Samples refused",
                "ops",
                8,
                &[("rate(synod_monitor_samples_refused_total{ALL}[$__rate_interval])", "{{node}}")],
            ),
            panel(
                "Targets",
                "short",
                8,
                &[("sum by (health) (synod_monitor_targets{ALL})", "{{health}}")],
            ),
            panel(
                "Time of a scrape",
                "s",
                8,
                &[("max by (instance) (scrape_duration_seconds{ALL})", "{{instance}}")],
            ),
            panel(
                "Time of a query, p99",
                "s",
                8,
                &[(
                    "histogram_quantile(0.99, rate(synod_monitor_request_seconds_bucket{ALL}[$__rate_interval]))",
                    "{{node}}",
                )],
            ),
        ],
    },
];

/// Writes them; with `check`: says which are not as they should be.
pub fn write(root: &Path, check: bool) -> Result<(), String> {
    let dir = root.join("dashboards");
    for dashboard in DASHBOARDS {
        let path = dir.join(format!("{}.json", dashboard.file));
        let text = serde_json::to_string_pretty(&json_of(dashboard)).map_err(|e| e.to_string())?;
        let text = text + "\n";
        if check {
            if std::fs::read_to_string(&path).is_ok_and(|have| have == text) {
                continue;
            }
            return Err(format!("{} is old: run `cargo xtask dashboards`", path.display()));
        }
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn json_of(dashboard: &Dashboard) -> Value {
    let (mut x, mut y, mut panels) = (0, 0, Vec::new());
    for (i, panel) in dashboard.panels.iter().enumerate() {
        if x + panel.width > 24 {
            (x, y) = (0, y + 7);
        }
        panels.push(panel_json(panel, i, x, y));
        x += panel.width;
    }
    json!({
        "uid": format!("synod-{}", dashboard.file),
        "title": dashboard.title,
        "description": dashboard.says,
        "tags": ["synod"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
            variable("cluster", "label_values(etcd_server_has_leader, cluster)"),
            variable("node", "label_values(etcd_server_has_leader{cluster=~\"$cluster\"}, node)"),
        ]},
        "links": [{"type": "dashboards", "tags": ["synod"], "title": "Synod", "asDropdown": true}],
        "panels": panels,
    })
}

fn variable(name: &str, query: &str) -> Value {
    json!({
        "name": name,
        "label": name,
        "type": "query",
        "datasource": source(),
        "query": {"query": query, "refId": "variable"},
        "definition": query,
        "includeAll": true,
        "allValue": ".*",
        "multi": true,
        "refresh": 2,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn panel_json(panel: &Panel, number: usize, x: u32, y: u32) -> Value {
    // A narrow panel is one figure, a wide one a picture over time.
    let kind = if panel.width <= 4 { "stat" } else { "timeseries" };
    let targets: Vec<Value> = panel
        .shows
        .iter()
        .zip(b'A'..)
        .map(|((query, legend), letter)| {
            json!({
                "refId": char::from(letter).to_string(),
                "datasource": source(),
                "expr": query.replace("ALL", ALL),
                "legendFormat": legend,
                "range": true,
                "instant": false,
                "editorMode": "code",
            })
        })
        .collect();
    json!({
        "id": number + 1,
        "type": kind,
        "title": panel.title,
        "datasource": source(),
        "gridPos": {"h": 7, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": match kind {
            "stat" => json!({"reduceOptions": {"calcs": ["lastNotNull"]}}),
            _ => json!({"legend": {"displayMode": "list", "placement": "bottom"},
                        "tooltip": {"mode": "multi", "sort": "desc"}}),
        },
        "targets": targets,
    })
}
