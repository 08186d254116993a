//! Who hears of what: the index of all synced watches of the door.

use crate::convert;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use synod_host::Handle;
use synod_host::metrics::Gauge;
use synod_mvcc::{Event, KeyRange, Revision, WatchIndex};
use tokio::sync::Notify;

/// A watch, over all streams of the door.
pub(crate) type WatchKey = u64;

/// An event as it stands in a response, encoded once for all who hear of it.
pub(crate) struct Encoded {
    pub plain: Bytes,
    /// With the pair before it; made when somebody wants it.
    pub with_prev: Option<Bytes>,
}

/// What waits for a stream's task.
pub(crate) enum Item {
    /// Events of one revision for one watch.
    Events { watch: WatchKey, revision: i64, events: Vec<Bytes> },
    /// The watch left the hub: it has everything before this revision.
    Behind { watch: WatchKey, next: i64 },
    /// Everything up to this revision was handed over to every watch.
    Progress { revision: i64 },
}

/// The queue between the hub and one stream.
pub(crate) struct Queue {
    items: Mutex<Items>,
    pub notify: Notify,
    bytes_max: usize,
    /// Events in the queues of all streams.
    pending: Arc<Gauge>,
}

#[derive(Default)]
struct Items {
    queue: VecDeque<Item>,
    bytes: usize,
    events: i64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// False when it is full; notes without events always find room.
    fn push(&self, item: Item) -> bool {
        let (bytes, count) = match &item {
            Item::Events { events, .. } => {
                (events.iter().map(|e| e.len() + 64).sum(), events.len() as i64)
            }
            _ => (0, 0),
        };
        let mut items = self.lock();
        if bytes > 0 && items.bytes > 0 && items.bytes + bytes > self.bytes_max {
            return false;
        }
        items.bytes += bytes;
        items.events += count;
        self.pending.add(count);
        items.queue.push_back(item);
        drop(items);
        self.notify.notify_one();
        true
    }

    /// Everything that waits.
    pub fn take(&self) -> VecDeque<Item> {
        let taken = std::mem::take(&mut *self.lock());
        self.pending.add(-taken.events);
        taken.queue
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // What a stream that ended has not taken is pending no more.
        self.take();
    }
}

/// What the hub knows of a watch.
pub(crate) struct Watcher {
    pub queue: Arc<Queue>,
    pub range: KeyRange,
    /// The first revision that it wants.
    pub next: i64,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

impl Watcher {
    fn wants(&self, revision: i64, event: &Event) -> bool {
        revision >= self.next && !(if event.deleted { self.no_delete } else { self.no_put })
    }
}

#[derive(Default)]
struct State {
    index: WatchIndex<WatchKey>,
    watchers: HashMap<WatchKey, Watcher>,
    /// Everything up to this revision was dispatched.
    position: i64,
    next_key: WatchKey,
    /// Watches that there are, here or not.
    alive: usize,
    slow: u64,
}

/// Numbers for the metrics.
pub(crate) struct Counts {
    /// Watches.
    pub watches: usize,
    /// Those of them that read history.
    pub behind: usize,
    /// Events in the queues of all streams.
    pub pending: i64,
    /// How often a watch fell behind.
    pub fell_behind: u64,
}

/// See the file's header.
pub(crate) struct Hub {
    handle: Handle,
    state: Mutex<State>,
    pending: Arc<Gauge>,
    /// Told when the first watch joins.
    joined: Notify,
}

/// What came of an attempt to join.
pub(crate) enum Joined {
    /// From now on the hub delivers.
    Yes,
    /// The watch is too far behind: read history first.
    Behind(Watcher),
}

impl Hub {
    pub fn new(handle: Handle) -> Arc<Hub> {
        let position = handle.feed().since(i64::MAX).map_or(0, |(_, newest)| newest);
        let state = State { position, ..State::default() };
        let (pending, joined) = (Arc::default(), Notify::new());
        Arc::new(Hub { handle, state: Mutex::new(state), pending, joined })
    }

    /// The queue of a new stream.
    pub fn new_queue(&self, bytes_max: usize) -> Queue {
        let (items, notify) = (Mutex::default(), Notify::new());
        Queue { items, notify, bytes_max, pending: self.pending.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Follows the feed for as long as the door is open. While nobody watches it
    /// sleeps, so that writes do not wake the door for nothing.
    pub async fn run(self: Arc<Hub>) {
        let mut news = self.handle.feed().subscribe();
        loop {
            if self.lock().watchers.is_empty() {
                self.joined.notified().await;
            }
            self.dispatch_news();
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    fn dispatch_news(&self) {
        let mut state = self.lock();
        match self.handle.feed().since(state.position) {
            Some((revisions, newest)) => {
                for revision in &revisions {
                    dispatch(&mut state, revision);
                }
                state.position = state.position.max(newest);
            }
            // The feed was reset, or ran away from us: everybody reads history.
            None => {
                let keys: Vec<WatchKey> = state.watchers.keys().copied().collect();
                let next = state.position + 1;
                for key in keys {
                    drop_out(&mut state, key, next);
                }
                let (_, newest) = self.handle.feed().since(i64::MAX).unwrap_or_default();
                state.position = newest;
            }
        }
    }

    /// A number for a new watch, to be given back by one [`Hub::leave`].
    pub fn new_key(&self) -> WatchKey {
        let mut state = self.lock();
        state.alive += 1;
        state.next_key += 1;
        state.next_key
    }

    /// Lets a watch in that has everything before `watcher.next`.
    pub fn join(&self, key: WatchKey, watcher: Watcher) -> Joined {
        let mut state = self.lock();
        self.skip_unwatched(&mut state);
        if watcher.next <= state.position {
            let Some((missed, _)) = self.handle.feed().since(watcher.next - 1) else {
                return Joined::Behind(watcher);
            };
            for revision in missed.iter().filter(|r| r.revision <= state.position) {
                let events = select(&watcher, revision);
                let (watch, at) = (key, revision.revision);
                if !events.is_empty()
                    && !watcher.queue.push(Item::Events { watch, revision: at, events })
                {
                    return Joined::Behind(Watcher { next: at, ..watcher });
                }
            }
        }
        state.index.add(key, watcher.range.clone());
        state.watchers.insert(key, watcher);
        self.joined.notify_one();
        Joined::Yes
    }

    /// What came while nobody watched needs no dispatch.
    fn skip_unwatched(&self, state: &mut State) {
        if state.watchers.is_empty()
            && let Some((_, newest)) = self.handle.feed().since(i64::MAX)
        {
            state.position = state.position.max(newest);
        }
    }

    /// Forgets a watch.
    pub fn leave(&self, key: WatchKey) {
        let mut state = self.lock();
        state.alive = state.alive.saturating_sub(1);
        state.index.remove(key);
        state.watchers.remove(&key);
    }

    /// Queues a progress note behind all events, if all of the stream's watches
    /// are here and none of them starts in the future.
    pub fn progress(&self, queue: &Queue, keys: &[WatchKey]) -> bool {
        let mut state = self.lock();
        self.skip_unwatched(&mut state);
        let revision = state.position;
        let all =
            keys.iter().all(|k| state.watchers.get(k).is_some_and(|w| w.next <= revision + 1));
        all && queue.push(Item::Progress { revision })
    }

    /// The revision up to which this watch has everything, if it is here.
    pub fn progress_of(&self, key: WatchKey) -> Option<i64> {
        let state = self.lock();
        let revision = state.position;
        state.watchers.get(&key).filter(|w| w.next <= revision + 1).map(|_| revision)
    }

    /// Numbers for the metrics.
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            watches: state.alive,
            behind: state.alive.saturating_sub(state.watchers.len()),
            pending: self.pending.get(),
            fell_behind: state.slow,
        }
    }
}

/// The events of a revision that a watch wants.
pub(crate) fn select(watcher: &Watcher, revision: &Revision) -> Vec<Bytes> {
    let wanted = revision
        .events
        .iter()
        .filter(|e| watcher.wants(revision.revision, e) && in_range(&watcher.range, &e.kv.key));
    wanted.map(|e| encode(e, watcher.prev_kv)).collect()
}

fn in_range(range: &KeyRange, key: &[u8]) -> bool {
    match &range.end[..] {
        [] => range.key == key,
        [0] => *range.key <= *key,
        end => *range.key <= *key && key < end,
    }
}

fn encode(event: &Event, prev: bool) -> Bytes {
    convert::event(event, prev).encode_to_vec().into()
}

fn dispatch(state: &mut State, revision: &Revision) {
    let mut hits: BTreeMap<WatchKey, Vec<usize>> = BTreeMap::new();
    for (i, event) in revision.events.iter().enumerate() {
        state.index.matches(&event.kv.key, &mut |key| hits.entry(key).or_default().push(i));
    }
    let mut encoded: Vec<Option<Encoded>> = revision.events.iter().map(|_| None).collect();
    for (key, numbers) in hits {
        let Some(watcher) = state.watchers.get(&key) else { continue };
        let mut events = Vec::with_capacity(numbers.len());
        for i in numbers {
            let event = &revision.events[i];
            if !watcher.wants(revision.revision, event) {
                continue;
            }
            let once = encoded[i]
                .get_or_insert_with(|| Encoded { plain: encode(event, false), with_prev: None });
            events.push(if watcher.prev_kv {
                once.with_prev.get_or_insert_with(|| encode(event, true)).clone()
            } else {
                once.plain.clone()
            });
        }
        let item = Item::Events { watch: key, revision: revision.revision, events };
        let wanted = matches!(&item, Item::Events { events, .. } if !events.is_empty());
        if wanted && !watcher.queue.push(item) {
            state.slow += 1;
            drop_out(state, key, revision.revision);
        }
    }
}

fn drop_out(state: &mut State, key: WatchKey, next: i64) {
    state.index.remove(key);
    if let Some(watcher) = state.watchers.remove(&key) {
        let next = next.max(watcher.next);
        watcher.queue.push(Item::Behind { watch: key, next });
    }
}
