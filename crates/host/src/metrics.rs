//! Counters, gauges and histograms: plain atomics that any thread may touch and
//! the metrics page reads. Names are given where they are rendered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use synod_base::NodeId;

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Default, Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, v: i64) {
        self.0.store(v, Relaxed);
    }

    /// Adds (or takes away).
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Seconds in buckets.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in microseconds, ascending.
    bounds_us: Vec<u64>,
    buckets: Vec<AtomicU64>,
    sum_us: AtomicU64,
    /// One a bucket, if it is to have any.
    exemplars: Vec<Mutex<Option<Exemplar>>>,
}

/// One of the things that a bucket counts, and the label by which to find more about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exemplar {
    /// The label's name.
    pub label: &'static str,
    /// Its value, which needs no escapes.
    pub id: String,
    /// How long it took, microseconds.
    pub us: u64,
    /// When it ended.
    pub at: SystemTime,
}

impl Histogram {
    /// Buckets with these upper bounds (microseconds); larger values count only
    /// in the total.
    pub fn with_bounds(bounds_us: &[u64]) -> Histogram {
        let buckets = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        let sum_us = AtomicU64::new(0);
        Histogram { bounds_us: bounds_us.to_vec(), buckets, sum_us, exemplars: Vec::new() }
    }

    /// The same with room for exemplars.
    pub fn with_exemplars(mut self) -> Histogram {
        self.exemplars = (0..self.buckets.len()).map(|_| Mutex::default()).collect();
        self
    }

    /// `count` buckets from `first_us` up, each twice the one before, as etcd's
    /// disk histograms.
    pub fn doubling(first_us: u64, count: u32) -> Histogram {
        Histogram::with_bounds(&(0..count).map(|i| first_us << i).collect::<Vec<_>>())
    }

    /// Counts one value.
    pub fn observe_us(&self, us: u64) {
        self.buckets[self.bucket_of(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Shows one of the values counted, in its bucket instead of the one before.
    pub fn exemplify(&self, exemplar: Exemplar) {
        if let Some(slot) = self.exemplars.get(self.bucket_of(exemplar.us)) {
            *slot.lock().unwrap_or_else(|e| e.into_inner()) = Some(exemplar);
        }
    }

    /// The exemplar of a bucket, by its number.
    pub(crate) fn exemplar(&self, number: usize) -> Option<Exemplar> {
        self.exemplars.get(number)?.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn bucket_of(&self, us: u64) -> usize {
        self.bounds_us.partition_point(|bound| *bound < us)
    }

    /// (upper bound in seconds, cumulative count) of each bucket, then the
    /// total count and the sum in seconds.
    pub fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut rows = Vec::new();
        let mut total = 0;
        for (bound, bucket) in self.bounds_us.iter().zip(&self.buckets) {
            total += bucket.load(Relaxed);
            rows.push((*bound as f64 / 1e6, total));
        }
        total += self.buckets[self.bounds_us.len()].load(Relaxed);
        (rows, total, self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

/// Since when something runs of which there is one at a time.
#[derive(Default, Debug)]
pub struct InFlight(Mutex<Option<Instant>>);

impl InFlight {
    /// It begins.
    pub fn begin(&self) {
        self.set(Some(Instant::now()));
    }

    /// It has ended.
    pub fn end(&self) {
        self.set(None);
    }

    /// How long it runs by now; zero if it does not.
    pub fn age(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(|e| e.into_inner());
        since.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = since;
    }
}

/// What is counted of one peer.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Bytes sent to it.
    pub sent_bytes: Counter,
    /// Bytes received from it.
    pub received_bytes: Counter,
    /// Messages to it that were dropped: its queue was full, or it was not connected.
    pub send_failures: Counter,
    /// Round trips of probes on the connection to it.
    pub round_trip: Histogram,
    /// Times that it was suspected to have failed.
    pub suspicions: Counter,
}

impl Default for PeerMetrics {
    fn default() -> PeerMetrics {
        PeerMetrics {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            send_failures: Counter::default(),
            // etcd's bounds.
            round_trip: Histogram::doubling(100, 14),
            suspicions: Counter::default(),
        }
    }
}

/// What the host counts.
#[derive(Debug)]
pub struct Metrics {
    /// Time of a journal write with its sync.
    pub journal_sync: Histogram,
    /// The journal write that is not done yet: a stalled disk completes none, so
    /// the histogram does not show it.
    pub journal_writing: InFlight,
    /// Bytes of records appended to the journal.
    pub journal_bytes: Counter,
    /// Time of an atomic commit of applied entries to the store.
    pub apply: Histogram,
    /// Changes of leader seen.
    pub leader_changes: Counter,
    /// Requests that were refused or lost.
    pub proposals_failed: Counter,
    /// Linearizable reads that were refused or timed out.
    pub reads_failed: Counter,
    /// Requests in flight.
    pub pending: Gauge,
    /// Turns of the core's loop.
    pub turns: Counter,
    /// How late ticks come (the machine's starvation), microseconds in all.
    pub tick_late_us: Counter,
    /// Messages dropped because a peer's queue was full or it is not connected.
    pub peer_send_failures: Counter,
    /// The peers that this member dials.
    peers: Mutex<BTreeMap<NodeId, Arc<PeerMetrics>>>,
    /// Snapshots installed here.
    pub snapshots_installed: Counter,
    /// Applies of committed entries that took longer than 100 ms.
    pub slow_apply: Counter,
    /// Runs of the store that wait to be merged.
    pub store_runs: Gauge,
    /// Full buffers of the store that wait to be written.
    pub store_buffers: Gauge,
    /// How long commits were held back for them, µs.
    pub store_slowed_us: Counter,
    /// Linearizable reads that waited longer than a second for their barrier.
    pub slow_reads: Counter,
}

impl Metrics {
    /// The peers that this member dials.
    pub fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<PeerMetrics>>> {
        self.peers.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            journal_sync: Histogram::doubling(1_000, 14),
            journal_writing: InFlight::default(),
            apply: Histogram::doubling(1_000, 14),
            journal_bytes: Counter::default(),
            leader_changes: Counter::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
            pending: Gauge::default(),
            turns: Counter::default(),
            tick_late_us: Counter::default(),
            peer_send_failures: Counter::default(),
            peers: Mutex::default(),
            snapshots_installed: Counter::default(),
            slow_apply: Counter::default(),
            store_runs: Gauge::default(),
            store_buffers: Gauge::default(),
            store_slowed_us: Counter::default(),
            slow_reads: Counter::default(),
        }
    }
}
