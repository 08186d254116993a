//! One Watch stream: its watches, and the answers it sends.

use super::hub::{Hub, Item, Joined, Queue, WatchKey, Watcher};
use crate::door::Door;
use crate::{convert, error};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Error, KeyRange};
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes of history read at once for a watch that is behind.
const HISTORY_BYTES: usize = 512 << 10;
/// Bytes of events joined into one answer.
const ANSWER_BYTES: usize = 512 << 10;
/// How often a stream that wants a leader looks for one.
const LEADER_EVERY: Duration = Duration::from_millis(500);

/// One answer, encoded, or the end of the stream.
pub(crate) type Answer = Result<Bytes, Status>;

struct Watch {
    key: WatchKey,
    range: KeyRange,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    progress: bool,
    last_sent: Instant,
    /// Behind the hub: the first revision that it still needs.
    behind: Option<i64>,
}

/// The task of one stream. Ends when the client or the door goes.
pub(crate) struct WatchStream {
    door: Door,
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    watches: BTreeMap<i64, Watch>,
    ids: BTreeMap<WatchKey, i64>,
    next_id: i64,
    out: mpsc::Sender<Answer>,
    wants_leader: bool,
}

/// The client or the server is gone.
struct Gone;

impl WatchStream {
    pub fn new(door: Door, wants_leader: bool, out: mpsc::Sender<Answer>) -> WatchStream {
        let queue = Arc::new(door.hub().new_queue(door.config().watch_buffer_bytes));
        WatchStream {
            hub: door.hub().clone(),
            door,
            queue,
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            out,
            wants_leader,
        }
    }

    /// Serves until either side ends.
    pub async fn run(mut self, mut requests: mpsc::Receiver<pb::WatchRequest>) {
        let _ = self.serve(&mut requests).await;
        for watch in self.watches.values() {
            self.hub.leave(watch.key);
        }
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<pb::WatchRequest>) -> Result<(), Gone> {
        let progress_every = Duration::from_millis(self.door.config().progress_ms.max(10));
        let mut progress = tokio::time::interval(progress_every.min(Duration::from_secs(600)));
        let mut leader = tokio::time::interval(LEADER_EVERY);
        let queue = self.queue.clone();
        loop {
            let behind = self.watches.values().any(|w| w.behind.is_some());
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.take(request).await?,
                    None => return Err(Gone),
                },
                () = queue.notify.notified() => self.deliver().await?,
                () = std::future::ready(()), if behind => self.catch_up().await?,
                _ = progress.tick() => self.tell_progress(progress_every).await?,
                _ = leader.tick(), if self.wants_leader => {
                    if self.door.handle().leader().is_none() {
                        let _ = self.out.send(Err(error::no_leader())).await;
                        return Err(Gone);
                    }
                }
                () = self.out.closed() => return Err(Gone),
            }
        }
    }

    async fn send(&mut self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.out.send(Ok(response.encode_to_vec().into())).await.map_err(|_| Gone)
    }

    async fn take(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                // What was queued before the cancellation goes out before it.
                self.deliver().await?;
                self.cancel(cancel.watch_id, 0, None).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                let keys: Vec<WatchKey> = self.watches.values().map(|w| w.key).collect();
                self.hub.progress(&self.queue, &keys);
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn refuse_creation(&mut self, why: &str) -> Result<(), Gone> {
        let response = pb::WatchResponse {
            header: Some(self.door.header_now()),
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: why.to_owned(),
            ..Default::default()
        };
        self.send(response).await
    }

    async fn create(&mut self, mut r: pb::WatchCreateRequest) -> Result<(), Gone> {
        if r.key.is_empty() {
            // etcd: no key means from the first one.
            r.key = Bytes::from_static(&[0]);
        }
        let bounded = !r.range_end.is_empty() && r.range_end[..] != [0];
        if bounded && r.range_end <= r.key {
            return self.refuse_creation("mvcc: watcher range is empty").await;
        }
        if r.start_revision < 0 {
            return self.refuse_creation("mvcc: negative start revision").await;
        }
        let id = match r.watch_id {
            0 => {
                while self.watches.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            id if self.watches.contains_key(&id) => {
                return self
                    .refuse_creation("mvcc: duplicate watch ID provided on the WatchStream")
                    .await;
            }
            id => id,
        };
        let header = self.door.header_now();
        let next = if r.start_revision == 0 { header.revision + 1 } else { r.start_revision };
        let key = self.hub.new_key();
        let filtered = |f: pb::watch_create_request::FilterType| r.filters.contains(&f.into());
        let watch = Watch {
            key,
            no_put: filtered(pb::watch_create_request::FilterType::Noput),
            no_delete: filtered(pb::watch_create_request::FilterType::Nodelete),
            range: KeyRange { key: r.key, end: r.range_end },
            prev_kv: r.prev_kv,
            fragment: r.fragment,
            progress: r.progress_notify,
            last_sent: Instant::now(),
            behind: Some(next),
        };
        self.watches.insert(id, watch);
        self.ids.insert(key, id);
        let created = pb::WatchResponse {
            header: Some(header),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        self.send(created).await?;
        self.try_join(id);
        Ok(())
    }

    /// Hands a watch to the hub, which may find it too far behind.
    fn try_join(&mut self, id: i64) {
        let Some(w) = self.watches.get_mut(&id) else { return };
        let Some(next) = w.behind else { return };
        if next < self.door.handle().published().compacted() {
            // Memory may still have it, but the answer must not depend on that.
            return;
        }
        let watcher = Watcher {
            queue: self.queue.clone(),
            range: w.range.clone(),
            next,
            no_put: w.no_put,
            no_delete: w.no_delete,
            prev_kv: w.prev_kv,
        };
        match self.hub.join(w.key, watcher) {
            Joined::Yes => w.behind = None,
            // Items that were queued on the way are a part of what it has now.
            Joined::Behind(watcher) => w.behind = Some(watcher.next),
        }
    }

    async fn cancel(&mut self, id: i64, compacted: i64, why: Option<&str>) -> Result<(), Gone> {
        let Some(watch) = self.watches.remove(&id) else { return Ok(()) };
        self.hub.leave(watch.key);
        self.ids.remove(&watch.key);
        let mut header = self.door.header_now();
        if compacted > 0 {
            header.revision = 0;
        }
        let response = pb::WatchResponse {
            header: Some(header),
            watch_id: id,
            canceled: true,
            compact_revision: compacted,
            cancel_reason: why.unwrap_or_default().to_owned(),
            ..Default::default()
        };
        self.send(response).await
    }

    /// Sends what the hub has queued, revisions of one watch joined.
    async fn deliver(&mut self) -> Result<(), Gone> {
        let mut items = self.queue.take().into_iter().peekable();
        while let Some(item) = items.next() {
            match item {
                Item::Progress { revision } => {
                    let header = self.door.header(revision, self.door.handle().term());
                    let note = pb::WatchResponse {
                        header: Some(header),
                        watch_id: -1,
                        ..Default::default()
                    };
                    self.send(note).await?;
                }
                Item::Behind { watch, next } => {
                    if let Some(w) = self.ids.get(&watch).and_then(|id| self.watches.get_mut(id)) {
                        w.behind = Some(next);
                    }
                }
                Item::Events { watch, mut revision, mut events } => {
                    let mut bytes: usize = events.iter().map(Bytes::len).sum();
                    while let Some(Item::Events { watch: w, revision: r, events: more }) = items
                        .next_if(|i| matches!(i, Item::Events { watch: w, .. } if *w == watch && bytes < ANSWER_BYTES))
                    {
                        debug_assert!(w == watch && r > revision);
                        revision = r;
                        bytes += more.iter().map(Bytes::len).sum::<usize>();
                        events.extend(more);
                    }
                    self.send_events(watch, revision, events).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_events(
        &mut self,
        key: WatchKey,
        revision: i64,
        events: Vec<Bytes>,
    ) -> Result<(), Gone> {
        let Some(&id) = self.ids.get(&key) else { return Ok(()) };
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.last_sent = Instant::now();
        let most = if watch.fragment { self.door.config().request_bytes_max } else { usize::MAX };
        // The revision of an answer is that up to which its events reach; the
        // store may be further, which the next answer will tell.
        let header = self.door.header(revision, self.door.handle().term());
        let mut from = 0;
        while from < events.len() {
            let mut to = from;
            let mut bytes = 0;
            while to < events.len() && (to == from || bytes + events[to].len() + 8 <= most) {
                bytes += events[to].len() + 8;
                to += 1;
            }
            let answer = encode_answer(&header, id, to < events.len(), &events[from..to]);
            self.out.send(Ok(answer)).await.map_err(|_| Gone)?;
            from = to;
        }
        Ok(())
    }

    /// Reads one chunk of history for each watch that is behind.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        // What was queued before it fell behind comes first.
        self.deliver().await?;
        let ids: Vec<i64> =
            self.watches.iter().filter(|(_, w)| w.behind.is_some()).map(|(id, _)| *id).collect();
        for id in ids {
            self.try_join(id);
            self.deliver().await?;
            let Some((watch, next)) =
                self.watches.get(&id).and_then(|w| w.behind.map(|next| (w, next)))
            else {
                continue;
            };
            let published = self.door.handle().published();
            let (range, prev) = (watch.range.clone(), watch.prev_kv);
            let to = published.revision();
            let read = tokio::task::spawn_blocking(move || {
                published.history(next, to, &range, HISTORY_BYTES, prev)
            });
            match read.await {
                Ok(Ok(Ok(history))) => self.send_history(id, history).await?,
                Ok(Ok(Err(Error::Compacted))) => {
                    let compacted = self.door.handle().published().compacted();
                    // The compacted revision is the reason, as in etcd.
                    self.cancel(id, compacted, None).await?;
                }
                Ok(Ok(Err(e))) => {
                    let why = error::of_state(e);
                    self.cancel(id, 0, Some(why.message())).await?;
                }
                Ok(Err(e)) => {
                    let _ = self.out.send(Err(error::of_store(e))).await;
                    return Err(Gone);
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    async fn send_history(&mut self, id: i64, history: synod_mvcc::History) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.behind = Some(history.next_revision);
        let (key, prev) = (watch.key, watch.prev_kv);
        let (no_put, no_delete) = (watch.no_put, watch.no_delete);
        let mut events = Vec::new();
        let mut revision = 0;
        for r in &history.revisions {
            revision = r.revision;
            let wanted = r.events.iter().filter(|e| !(if e.deleted { no_delete } else { no_put }));
            events.extend(wanted.map(|e| Bytes::from(convert::event(e, prev).encode_to_vec())));
        }
        if !events.is_empty() {
            self.send_events(key, revision, events).await?;
        }
        Ok(())
    }

    /// Notes to watches that asked for them and had nothing for a while.
    async fn tell_progress(&mut self, every: Duration) -> Result<(), Gone> {
        let idle: Vec<(i64, WatchKey)> = self
            .watches
            .iter()
            .filter(|(_, w)| w.progress && w.behind.is_none() && w.last_sent.elapsed() >= every / 2)
            .map(|(id, w)| (*id, w.key))
            .collect();
        for (id, key) in idle {
            // Read before what is queued is sent: it cannot pass an event.
            let Some(revision) = self.hub.progress_of(key) else { continue };
            self.deliver().await?;
            let header = self.door.header(revision, self.door.handle().term());
            let note =
                pb::WatchResponse { header: Some(header), watch_id: id, ..Default::default() };
            self.send(note).await?;
        }
        Ok(())
    }
}

/// A response with events that are encoded already.
fn encode_answer(header: &pb::ResponseHeader, id: i64, fragment: bool, events: &[Bytes]) -> Bytes {
    const EVENTS_TAG: u64 = 11 << 3 | 2;
    let head =
        pb::WatchResponse { header: Some(*header), watch_id: id, fragment, ..Default::default() };
    let size = |e: &Bytes| 1 + encoded_len_varint(e.len() as u64) + e.len();
    let total = head.encoded_len() + events.iter().map(size).sum::<usize>();
    let mut out = BytesMut::with_capacity(total);
    // Only a full buffer can fail, and this one was sized for all.
    let _ = head.encode(&mut out);
    for event in events {
        encode_varint(EVENTS_TAG, &mut out);
        encode_varint(event.len() as u64, &mut out);
        out.put_slice(event);
    }
    out.freeze()
}
