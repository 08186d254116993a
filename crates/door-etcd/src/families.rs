//! The families of the metrics page: the one place for their names, types and
//! meanings. The page takes them from here, and so can documentation.

use synod_host::page::{Family, counter, gauge, histogram};

/// All families, in the page's order.
pub const METRICS: &[Family] = &[
    gauge("etcd_server_has_leader", "Whether a leader is known."),
    gauge("etcd_server_is_leader", "Whether this member leads."),
    gauge("etcd_server_is_learner", "Whether this member is a learner."),
    counter("etcd_server_leader_changes_seen_total", "Changes of leader seen."),
    counter("etcd_server_proposals_failed_total", "Requests refused or lost."),
    gauge("etcd_server_proposals_committed_total", "Index agreed on."),
    gauge("etcd_server_proposals_applied_total", "Index applied."),
    gauge("etcd_server_proposals_pending", "Requests in flight at this member."),
    gauge("etcd_server_quota_backend_bytes", "Quota of the keyspace, +Inf: none."),
    counter(
        "etcd_server_heartbeat_send_failures_total",
        "Messages to peers dropped, heartbeats among them.",
    ),
    counter("etcd_server_slow_apply_total", "Applies that took over 100 ms."),
    counter("etcd_server_slow_read_indexes_total", "Read barriers that took over a second."),
    counter("etcd_server_read_indexes_failed_total", "Read barriers that failed."),
    gauge("etcd_server_version", "The interface's version, as a label."),
    gauge("etcd_server_id", "This member, as a label."),
    histogram("etcd_disk_wal_fsync_duration_seconds", "Journal write with its sync."),
    histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Commit of applied entries to the state.",
    ),
    gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the state on disk, no fewer than those in use.",
    ),
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Logical bytes of the keyspace."),
    counter(
        "etcd_mvcc_range_total",
        "Ranges that this member answered, and those of transactions that it applied.",
    ),
    counter(
        "etcd_mvcc_put_total",
        "Puts that this member applied, those of transactions too, whoever was asked.",
    ),
    counter(
        "etcd_mvcc_delete_total",
        "Deletes that this member applied, those of transactions too, whoever was asked.",
    ),
    counter(
        "etcd_mvcc_txn_total",
        "Transactions of more than one operation that this member applied.",
    ),
    gauge("etcd_debugging_mvcc_current_revision", "The store's revision."),
    gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision."),
    gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Watches, those of waiting locks and elections included.",
    ),
    gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches that read history: new ones, and those that were too slow.",
    ),
    gauge("etcd_debugging_mvcc_pending_events_total", "Events queued for watches."),
    counter("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer."),
    counter("etcd_network_peer_received_bytes_total", "Bytes received from a peer."),
    counter("etcd_network_peer_sent_failures_total", "Messages to a peer dropped."),
    histogram(
        "etcd_network_peer_round_trip_time_seconds",
        "Round trip of a probe every 250 ms on the connection to a peer, both ends' handling included.",
    ),
    counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received on the clients' port, pages and JSON included.",
    ),
    counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent on the clients' port, pages and JSON included.",
    ),
    counter("grpc_server_started_total", "Calls begun."),
    counter("grpc_server_handled_total", "Calls ended, by code."),
    histogram(
        "grpc_server_handling_seconds",
        "Time of a call. Slow ones are shown by exemplars with the id that their event has.",
    ),
    counter(
        "synod_slow_requests_total",
        "Calls that took slow-request-ms or longer, but for streams and calls that wait by design.",
    ),
    gauge("process_start_time_seconds", "Start of the process."),
    counter("process_cpu_seconds_total", "CPU time, user and system."),
    gauge("process_resident_memory_bytes", "Resident memory."),
    gauge("process_open_fds", "Open file descriptors."),
    gauge("process_max_fds", "Most file descriptors."),
    counter(
        "synod_host_pressure_seconds_total",
        "Time that some or all tasks of the machine waited for a resource.",
    ),
    gauge("synod_host_memory_bytes", "Memory of the machine."),
    gauge("synod_host_memory_available_bytes", "Memory of the machine that could be had."),
    gauge("synod_host_load1", "Mean number of tasks that ran or wanted to, over a minute."),
    gauge("synod_host_cpu_cores", "Logical cores that the process may use."),
    gauge("synod_host_disk_bytes", "Size of the disk with the data."),
    gauge("synod_host_disk_free_bytes", "What is free of it."),
    gauge("synod_build_info", "This program, as labels."),
    gauge("synod_consensus_term", "The present ballot."),
    gauge("synod_consensus_role", "1 for the role that this member has."),
    gauge("synod_consensus_last_index", "Last index of the log."),
    gauge("synod_consensus_persisted_index", "Last index durable here."),
    gauge("synod_consensus_peer_lag_entries", "On a leader: entries a member lacks."),
    gauge("synod_peer_connected", "Whether a peer takes messages from this member."),
    gauge(
        "synod_peer_silence_seconds",
        "Time since a peer's last heartbeat, which comes every 250 ms.",
    ),
    gauge(
        "synod_peer_phi",
        "How sure this member is, by the rhythm of its heartbeats, that a peer has failed: 8 is suspicion.",
    ),
    gauge("synod_peer_suspected", "Whether a peer is suspected to have failed."),
    counter("synod_peer_suspicions_total", "Times that a peer was suspected."),
    counter("synod_watch_fell_behind_total", "Times a watch was too slow for the hub."),
    counter("synod_journal_bytes_total", "Bytes of records appended."),
    gauge(
        "synod_journal_write_age_seconds",
        "Age of the journal write in flight, 0: none. Grows while a disk stalls.",
    ),
    counter("synod_core_turns_total", "Turns of the core's loop."),
    counter("synod_core_tick_late_seconds_total", "Lateness of ticks in all."),
    gauge("synod_store_runs", "Sorted runs of the state's store that wait to be merged."),
    gauge(
        "synod_store_sealed_buffers",
        "Full buffers of the state's store that wait to be written.",
    ),
    counter(
        "synod_store_commits_slowed_seconds_total",
        "How long commits were held back in all because merging or writing was behind.",
    ),
    counter("synod_snapshots_installed_total", "Snapshots taken over from peers."),
    gauge(
        "synod_service_silent_instances",
        "On a leader: instances of services whose agents are taken to be silent.",
    ),
    counter("synod_service_suspicions_total", "Times that one was, by this member."),
    counter("synod_file_registrations_total", "Files and listings given to caches here."),
    counter(
        "synod_file_uncached_total",
        "Those asked for by caches and not given to keep: a writer waits, or they are ephemeral.",
    ),
    counter("synod_file_invalidations_total", "Caches told here to let something go."),
    counter("synod_file_write_waits_total", "Writes of files here that waited for caches."),
    counter("synod_file_write_waits_in_vain_total", "Those that gave up."),
];
