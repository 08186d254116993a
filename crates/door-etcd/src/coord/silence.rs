//! Instances of services whose agents have fallen silent. Their renewals are their
//! heartbeats: the leader judges each by its rhythm, long before the session ends, and
//! writes what it thinks beside the instance's record, bound to the same session.
//!
//! That takes an instance out of what is offered to clients. It takes no office away: a
//! suspicion is no knowledge, and an active instance may act until its own deadline.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_cell::Work;
use synod_coord::{
    InstanceRecord, Listener, PhiOptions, SERVICES, SILENCES, Verdict, prefix_range,
};
use synod_host::metrics::{Counter, Gauge};
use synod_host::{Handle, HostView};
use synod_mvcc::{Command, DeleteRequest, KeyRange, KeyValue, Published, PutRequest, RangeRequest};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two readings of what instances there are, if something was written.
const READ_EVERY: Duration = Duration::from_millis(300);

/// What is counted of it.
#[derive(Default)]
pub(crate) struct SilenceMetrics {
    /// Instances that are suspected now, by this member if it leads.
    pub silent: Gauge,
    /// Times that one was suspected.
    pub suspicions: Counter,
}

/// Follows the instances as long as the member runs; only a leader has something to say.
pub(crate) async fn watch_instances(handle: Handle, metrics: Arc<SilenceMetrics>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stopped = handle.stopped();
    tokio::pin!(stopped);
    let mut watch = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = &mut stopped => return,
        }
        if !handle.leads() {
            watch = None;
            metrics.silent.set(0);
            continue;
        }
        watch.get_or_insert_with(Watch::new).look(&handle, &metrics).await;
    }
}

/// One instance: its key below [`SERVICES`], and its session's lease.
struct Instance {
    key: Bytes,
    lease: i64,
}

/// What a leader has seen.
struct Watch {
    begun: Instant,
    /// When the instances and the marks were read, and the store's revision then.
    read: Option<(Instant, i64)>,
    instances: Vec<Instance>,
    /// What is marked as silent, by its key below [`SERVICES`].
    marked: BTreeSet<Bytes>,
    /// When each lease ends unless it is renewed: a change is a renewal.
    ends: BTreeMap<i64, u64>,
    /// Leases that were renewed since this member leads.
    heard: BTreeSet<i64>,
    suspected: BTreeSet<i64>,
    listener: Listener,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            begun: Instant::now(),
            read: None,
            instances: Vec::new(),
            marked: BTreeSet::new(),
            ends: BTreeMap::new(),
            heard: BTreeSet::new(),
            suspected: BTreeSet::new(),
            listener: Listener::new(PhiOptions::default(), LOOK_EVERY.as_millis() as u64),
        }
    }

    async fn look(&mut self, handle: &Handle, metrics: &SilenceMetrics) {
        // While nothing can be agreed on no renewal can: that is nobody's silence.
        let unsaid = self.instances.iter().any(|i| self.is_unsaid(i));
        if unsaid && handle.barrier().await.is_err() {
            return;
        }
        let published = handle.published();
        let fresh = |(at, revision): &(Instant, i64)| {
            *revision == published.revision() || at.elapsed() < READ_EVERY
        };
        if !self.read.as_ref().is_some_and(fresh) {
            self.read(&published);
        }
        self.listen(&published, metrics);
        metrics.silent.set(self.suspected.len() as i64);
        for command in self.commands() {
            // What fails is tried again at a later look; what is done, read at the next.
            self.read = None;
            if handle.propose(Work::Command(command.encode())).await.is_err() {
                return;
            }
        }
    }

    /// Suspected, and not marked yet.
    fn is_unsaid(&self, instance: &Instance) -> bool {
        self.suspected.contains(&instance.lease) && !self.marked.contains(&instance.key)
    }

    fn read(&mut self, published: &Published<HostView>) {
        let Some(found) = pairs(published, SERVICES) else { return };
        let Some(marks) = pairs(published, SILENCES) else { return };
        let is_instance =
            |kv: &KeyValue| kv.lease != 0 && InstanceRecord::decode(&kv.value).is_some();
        self.instances = found
            .into_iter()
            .filter(is_instance)
            .map(|kv| Instance { key: kv.key.slice(SERVICES.len()..), lease: kv.lease })
            .collect();
        self.marked = marks.into_iter().map(|kv| kv.key.slice(SILENCES.len()..)).collect();
        let leases: BTreeSet<i64> = self.instances.iter().map(|i| i.lease).collect();
        self.ends.retain(|lease, _| leases.contains(lease));
        self.heard.retain(|lease| leases.contains(lease));
        self.suspected.retain(|lease| leases.contains(lease));
        self.listener.retain(|lease| leases.contains(&(lease as i64)));
        self.read = Some((Instant::now(), published.revision()));
    }

    fn listen(&mut self, published: &Published<HostView>, metrics: &SilenceMetrics) {
        let now = self.begun.elapsed().as_millis() as u64;
        for instance in &self.instances {
            let Ok(Some((ttl_s, ends))) = published.lease_times(instance.lease) else { continue };
            match self.ends.insert(instance.lease, ends) {
                None => {
                    // Until a rhythm is known: half its time to live, as clients do by default.
                    let first = (ttl_s.max(1) as u64).saturating_mul(500);
                    self.listener.expect(instance.lease as u64, first, now);
                }
                Some(before) if before != ends => {
                    self.heard.insert(instance.lease);
                    self.listener.heard(instance.lease as u64, now);
                }
                Some(_) => {}
            }
        }
        for verdict in self.listener.look(now) {
            match verdict {
                Verdict::Suspected(lease, hearing) => {
                    metrics.suspicions.inc();
                    self.suspected.insert(lease as i64);
                    for name in self.names(lease as i64) {
                        tracing::info!(
                            instance = name,
                            silence_ms = hearing.silence_ms,
                            usual_ms = hearing.usual_ms,
                            phi = hearing.phi,
                            "suspects an instance: its agent is silent"
                        );
                    }
                }
                Verdict::Heard(lease, silence) => {
                    self.suspected.remove(&(lease as i64));
                    for name in self.names(lease as i64) {
                        tracing::info!(
                            instance = name,
                            silence_ms = silence,
                            "heard an instance again"
                        );
                    }
                }
            }
        }
    }

    fn names(&self, lease: i64) -> Vec<String> {
        let own = self.instances.iter().filter(|i| i.lease == lease);
        own.map(|i| String::from_utf8_lossy(&i.key).into_owned()).collect()
    }

    /// What brings the marks to what is thought.
    fn commands(&self) -> Vec<Command> {
        let now = self.begun.elapsed().as_millis() as u64;
        let mut commands = Vec::new();
        for instance in &self.instances {
            let key = Bytes::from([SILENCES.as_bytes(), &instance.key].concat());
            if self.is_unsaid(instance) {
                let hearing = self.listener.hearing(instance.lease as u64, now).unwrap_or_default();
                let why = format!(
                    "its agent is silent for {} ms, usually {} ms (phi {:.1})",
                    hearing.silence_ms, hearing.usual_ms, hearing.phi
                );
                let (value, lease) = (Bytes::from(why), instance.lease);
                commands.push(Command::Put(PutRequest {
                    key,
                    value,
                    lease,
                    ..PutRequest::default()
                }));
            } else if self.marked.contains(&instance.key)
                && !self.suspected.contains(&instance.lease)
                && self.heard.contains(&instance.lease)
            {
                let range = KeyRange { key, end: Bytes::new() };
                commands.push(Command::Delete(DeleteRequest { range, prev_kv: false }));
            }
        }
        commands
    }
}

/// All pairs below a prefix; `None` if they cannot be read.
fn pairs(published: &Published<HostView>, prefix: &str) -> Option<Vec<KeyValue>> {
    let range = prefix_range(prefix.as_bytes());
    let found = published.range(&RangeRequest { range, ..RangeRequest::default() });
    Some(found.ok()?.ok()?.kvs)
}
