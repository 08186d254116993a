//! What monitoring shows of itself.

use crate::store::Monitor;
use crate::targets::Health;
use std::sync::atomic::Ordering;
use std::time::Instant;
use synod_host::metrics::{Counter, Histogram};
use synod_host::page::{Family, Format, Page, counter, gauge, histogram};

/// Prometheus's customary buckets, microseconds.
const BOUNDS_US: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// All families, in the page's order.
pub const METRICS: &[Family] = &[
    gauge("synod_monitor_series", "Series in memory."),
    gauge("synod_monitor_series_limit", "Series that there may be."),
    gauge("synod_monitor_chunk_bytes", "Bytes of samples in memory."),
    counter("synod_monitor_samples_total", "Samples taken."),
    counter(
        "synod_monitor_samples_refused_total",
        "Samples refused: too old, twice, too many series.",
    ),
    counter(
        "synod_monitor_series_refused_total",
        "Times that a new series was refused: too many series, or too many labels.",
    ),
    counter(
        "synod_monitor_recovery_skipped_samples_total",
        "Samples of the log that the last start left out: older than what its series had.",
    ),
    gauge(
        "synod_monitor_disk_reserve_bytes",
        "Bytes of the disk that monitoring leaves free for the keyspace.",
    ),
    gauge(
        "synod_monitor_disk_short",
        "1: less is free, and only what the cluster says of itself is taken; 2: nothing is taken.",
    ),
    counter(
        "synod_monitor_disk_refusals_total",
        "Scrapes and pushes refused since less than the reserve is free.",
    ),
    gauge("synod_monitor_blocks", "Blocks of series on disk."),
    gauge("synod_monitor_block_bytes", "Bytes of blocks of series on disk."),
    gauge("synod_monitor_blocks_write", "Whether blocks of series are written: 0 after a failure."),
    gauge("synod_monitor_log_writes", "Whether the series' log is written: 0 after a failure."),
    gauge("synod_monitor_targets", "Targets, by how their last scrape went."),
    counter(
        "synod_monitor_requests_total",
        "Requests to the monitoring API, by what became of them.",
    ),
    histogram("synod_monitor_request_seconds", "Time to answer a request to the monitoring API."),
    counter("synod_monitor_sent_samples_total", "Samples that a receiver of remote-write took."),
    counter(
        "synod_monitor_send_refused_samples_total",
        "Samples that a receiver refused for good.",
    ),
    counter(
        "synod_monitor_send_dropped_samples_total",
        "Samples dropped since too many waited for a receiver.",
    ),
    gauge("synod_monitor_send_pending_samples", "Samples that wait for a receiver."),
    counter("synod_monitor_send_retries_total", "Requests to a receiver that were tried again."),
    counter("synod_monitor_rule_evaluations_total", "Evaluations of a group's rules."),
    counter("synod_monitor_rule_evaluation_failures_total", "Those that failed."),
    counter("synod_monitor_rule_missed_total", "Times that a group was due and still busy."),
    gauge("synod_monitor_rule_last_duration_seconds", "Time of a group's last evaluation."),
    gauge("synod_monitor_alerts", "Alerts that are pending or firing."),
    counter("synod_monitor_notifications_sent_total", "Alerts that a receiver took."),
    counter(
        "synod_monitor_notifications_failed_total",
        "Alerts in requests that a receiver did not take, each try counted.",
    ),
    counter(
        "synod_monitor_notifications_dropped_total",
        "Alerts that a receiver is not told of: too many waited, or they became too old.",
    ),
    gauge("synod_monitor_notifications_pending", "Alerts that wait for a receiver."),
];

/// Counts of the monitor.
pub(crate) struct Own {
    pub refused: Counter,
    pub series_refused: Counter,
    pub skipped: Counter,
    /// Scrapes and pushes without room on the disk.
    pub no_room: Counter,
    answered: Counter,
    failed: Counter,
    seconds: Histogram,
}

impl Default for Own {
    fn default() -> Own {
        Own {
            refused: Counter::default(),
            series_refused: Counter::default(),
            skipped: Counter::default(),
            no_room: Counter::default(),
            answered: Counter::default(),
            failed: Counter::default(),
            seconds: Histogram::with_bounds(&BOUNDS_US),
        }
    }
}

impl Own {
    /// A request that began then has been answered.
    pub fn answered(&self, begun: Instant, well: bool) {
        if well {
            self.answered.inc()
        } else {
            self.failed.inc()
        }
        self.seconds.observe_us(begun.elapsed().as_micros() as u64);
    }
}

impl Monitor {
    /// The monitor's own families, as text.
    pub fn metrics(&self, format: Format) -> String {
        let mut page = Page::new(METRICS, format);
        let (stats, own) = (self.head().stats(), self.own());
        page.number("synod_monitor_series", stats.series);
        page.number("synod_monitor_series_limit", self.0.settings.limits.series);
        page.number("synod_monitor_chunk_bytes", stats.chunk_bytes);
        page.number("synod_monitor_samples_total", self.0.taken.load(Ordering::Relaxed));
        page.number("synod_monitor_samples_refused_total", own.refused.get());
        page.number("synod_monitor_series_refused_total", own.series_refused.get());
        page.number("synod_monitor_recovery_skipped_samples_total", own.skipped.get());
        page.number("synod_monitor_disk_reserve_bytes", self.0.room.reserve());
        page.number("synod_monitor_disk_short", self.0.room.level() as u8);
        page.number("synod_monitor_disk_refusals_total", own.no_room.get());
        let blocks = self.blocks();
        page.number("synod_monitor_blocks", blocks.map_or(0, |b| b.all().len()));
        page.number("synod_monitor_block_bytes", blocks.map_or(0, |b| b.bytes()));
        page.number("synod_monitor_blocks_write", u8::from(self.blocks_failure().is_none()));
        page.number("synod_monitor_log_writes", u8::from(self.log_failure().is_none()));
        self.show_targets(&mut page);
        page.head("synod_monitor_requests_total");
        for (result, count) in [("success", &own.answered), ("error", &own.failed)] {
            let labels = format!("result=\"{result}\"");
            page.row("synod_monitor_requests_total", &labels, count.get());
        }
        page.histogram("synod_monitor_request_seconds", &own.seconds);
        let receivers = self.receivers();
        let mut family = |name: &str, value: fn(&crate::send::ReceiverStatus) -> u64| {
            page.head(name);
            for r in &receivers {
                page.row(name, &format!("receiver={}", synod_promql::quoted(&r.name)), value(r));
            }
        };
        family("synod_monitor_sent_samples_total", |r| r.sent);
        family("synod_monitor_send_refused_samples_total", |r| r.refused);
        family("synod_monitor_send_dropped_samples_total", |r| r.dropped);
        family("synod_monitor_send_pending_samples", |r| r.pending as u64);
        family("synod_monitor_send_retries_total", |r| r.retried);
        self.show_rules(&mut page);
        page.into_text()
    }

    fn show_targets(&self, page: &mut Page) {
        let targets = self.targets();
        let count = |health: Health| {
            targets.active.values().filter(|status| status.health == health).count()
        };
        page.head("synod_monitor_targets");
        for (name, health) in
            [("up", Health::Up), ("down", Health::Down), ("unknown", Health::Unknown)]
        {
            page.row("synod_monitor_targets", &format!("health=\"{name}\""), count(health));
        }
    }
}
