//! What rules and notices show of themselves on the metrics page.

use super::Shown;
use super::notify::Receiver;
use crate::store::Monitor;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_host::page::Page;
use synod_promql::quoted;

impl Monitor {
    /// The families about rules and those who are told of alerts.
    pub(crate) fn show_rules(&self, page: &mut Page) {
        let groups = self.0.rules.running();
        let all: Vec<(String, Shown)> = groups
            .iter()
            .map(|g| {
                (format!("rule_group={}", quoted(&format!("{};{}", g.file, g.name))), g.shown())
            })
            .collect();
        let mut family = |name: &str, value: fn(&Shown) -> f64| {
            page.head(name);
            for (labels, shown) in &all {
                page.row(name, labels, value(shown));
            }
        };
        family("synod_monitor_rule_evaluations_total", |s| s.evaluations as f64);
        family("synod_monitor_rule_evaluation_failures_total", |s| s.failures as f64);
        family("synod_monitor_rule_missed_total", |s| s.missed as f64);
        family("synod_monitor_rule_last_duration_seconds", |s| s.took.as_secs_f64());
        page.head("synod_monitor_alerts");
        let pending: usize = all.iter().map(|(_, s)| s.pending).sum();
        let firing: usize = all.iter().map(|(_, s)| s.firing).sum();
        page.row("synod_monitor_alerts", "state=\"pending\"", pending);
        page.row("synod_monitor_alerts", "state=\"firing\"", firing);
        let receivers = self.0.rules.notifier.receivers();
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut family = |name: &str, value: &dyn Fn(&Receiver) -> u64| {
            page.head(name);
            for r in &receivers {
                page.row(name, &format!("receiver={}", quoted(&r.url)), value(r));
            }
        };
        family("synod_monitor_notifications_sent_total", &|r| read(&r.sent));
        family("synod_monitor_notifications_failed_total", &|r| read(&r.failed));
        family("synod_monitor_notifications_dropped_total", &|r| read(&r.dropped));
        family("synod_monitor_notifications_pending", &|r| r.pending() as u64);
    }
}
