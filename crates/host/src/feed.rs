//! Recent revisions for watches: a ring that the core fills and doors follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use synod_mvcc::{Event, KeyValue, Revision};
use tokio::sync::watch;

/// The last revisions, bounded in bytes; who falls behind reads history.
pub struct Feed {
    ring: Mutex<Ring>,
    latest: watch::Sender<i64>,
}

struct Ring {
    revisions: VecDeque<Arc<Revision>>,
    bytes: usize,
    bytes_max: usize,
    /// Everything after this revision and up to the newest is in the ring.
    after: i64,
    newest: i64,
}

/// What a revision takes: its events with both pairs, and what is around them.
fn size(r: &Revision) -> usize {
    let pair = |kv: &KeyValue| kv.key.len() + kv.value.len();
    let event = |e: &Event| 400 + pair(&e.kv) + e.prev.as_ref().map_or(0, pair);
    r.events.iter().map(event).sum()
}

impl Feed {
    /// An empty feed that begins after `revision`.
    pub fn new(revision: i64, bytes_max: usize) -> Feed {
        let ring = Ring {
            revisions: VecDeque::new(),
            bytes: 0,
            bytes_max,
            after: revision,
            newest: revision,
        };
        Feed { ring: Mutex::new(ring), latest: watch::Sender::new(revision) }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn push(&self, revisions: Vec<Revision>) {
        let newest = {
            let mut ring = self.lock();
            for revision in revisions {
                ring.newest = revision.revision;
                ring.bytes += size(&revision);
                ring.revisions.push_back(Arc::new(revision));
            }
            while ring.bytes > ring.bytes_max && ring.revisions.len() > 1 {
                if let Some(old) = ring.revisions.pop_front() {
                    ring.bytes -= size(&old);
                    ring.after = old.revision;
                }
            }
            ring.newest
        };
        self.latest.send_replace(newest);
    }

    /// The state was replaced: what came before is not in here.
    pub(crate) fn reset(&self, revision: i64) {
        let mut ring = self.lock();
        ring.revisions.clear();
        ring.bytes = 0;
        ring.after = revision;
        ring.newest = revision;
        drop(ring);
        self.latest.send_replace(revision);
    }

    /// Everything after `revision`, and the newest revision that this covers;
    /// `None` when some of it has left the ring.
    pub fn since(&self, revision: i64) -> Option<(Vec<Arc<Revision>>, i64)> {
        let ring = self.lock();
        if revision < ring.after {
            return None;
        }
        let from = ring.revisions.partition_point(|r| r.revision <= revision);
        Some((ring.revisions.range(from..).cloned().collect(), ring.newest))
    }

    /// Wakes whenever there is something new; holds the newest revision.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.latest.subscribe()
    }
}
