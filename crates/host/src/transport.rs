//! Connections to peers. Each member dials every other and sends on what it
//! dialled; what it accepted, it reads. Losing messages is allowed, so a full
//! queue drops and a broken connection forgets.

use crate::core_loop::ToCore;
use crate::mailbox::Mailbox;
use crate::metrics::{Metrics, PeerMetrics};
use crate::wire::{Answer, MAGIC, Opening, address, put_frame, read_json, take_frame, write_json};
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_base::NodeId;
use synod_cell::{CellEvent, PeerMessage};
use synod_coord::{Hearing, Listener, PhiOptions, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Most bytes queued for one peer; beyond it messages are dropped.
const QUEUE_BYTES_MAX: usize = 32 << 20;
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_000);
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Unacknowledged data older than this breaks a connection, so that after a
/// silent partition a new one is dialled instead of waiting for TCP's backoff.
const UNACKED_MAX: Duration = Duration::from_millis(2_000);

/// Between two probes of a peer: their echoes are its heartbeats, and tell the time of
/// the round trip.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// What is taken for the time between echoes before there was one: a peer may have yet
/// to start.
const FIRST_ECHO_MS: u64 = 1_000;
/// The number of no cell: its frames are probes, and answered with one byte.
const PROBE_CELL: u32 = u32::MAX;

struct Link {
    urls: Vec<String>,
    queue: Rc<Queue>,
    metrics: Arc<PeerMetrics>,
    task: JoinHandle<()>,
}

struct Queue {
    bytes: RefCell<Vec<u8>>,
    connected: Cell<bool>,
    /// When the peer first and last said that we were removed, and nothing else
    /// since.
    removed: Cell<Option<(Instant, Instant)>>,
    notify: Notify,
}

/// How long a majority of the peers must go on saying that we were removed: one
/// that is only behind catches up within it.
const REMOVED_FOR: Duration = Duration::from_secs(2);

/// Whose echoes come, and how regularly.
struct Echoes {
    listener: RefCell<Listener>,
    begun: Instant,
}

impl Echoes {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn heard(&self, peer: u64) {
        self.listener.borrow_mut().heard(peer, self.now_ms());
    }
}

/// Links to all peers; lives on the core's thread.
pub(crate) struct Links {
    cluster: u64,
    id: NodeId,
    links: BTreeMap<NodeId, Link>,
    metrics: Arc<Metrics>,
    echoes: Rc<Echoes>,
}

impl Links {
    /// No links yet; [`Links::look`] will be called so often.
    pub fn new(cluster: u64, id: NodeId, metrics: Arc<Metrics>, look_every: Duration) -> Links {
        let listener = Listener::new(PhiOptions::default(), look_every.as_millis() as u64);
        let echoes = Echoes { listener: RefCell::new(listener), begun: Instant::now() };
        Links { cluster, id, links: BTreeMap::new(), metrics, echoes: Rc::new(echoes) }
    }

    /// Who is suspected since the last look, and who is not any more.
    pub fn look(&self) -> Vec<CellEvent> {
        let verdicts = self.echoes.listener.borrow_mut().look(self.echoes.now_ms());
        let event = |verdict| match verdict {
            Verdict::Suspected(peer, hearing) => {
                let peer = NodeId(peer);
                if let Some(link) = self.links.get(&peer) {
                    link.metrics.suspicions.inc();
                }
                CellEvent::PeerSuspected {
                    peer,
                    silence_ms: hearing.silence_ms,
                    usual_ms: hearing.usual_ms,
                    phi: hearing.phi,
                }
            }
            Verdict::Heard(peer, silence_ms) => {
                CellEvent::PeerHeard { peer: NodeId(peer), silence_ms }
            }
        };
        verdicts.into_iter().map(event).collect()
    }

    /// What is thought of each peer.
    pub fn hearings(&self) -> BTreeMap<NodeId, Hearing> {
        let now = self.echoes.now_ms();
        let all = self.echoes.listener.borrow().hearings(now);
        all.into_iter().map(|(peer, hearing)| (NodeId(peer), hearing)).collect()
    }

    /// Makes the links fit this address book.
    pub fn update(&mut self, book: &BTreeMap<NodeId, Vec<String>>) {
        self.links.retain(|id, link| {
            let stays = book.get(id).is_some_and(|urls| *urls == link.urls);
            if !stays {
                link.task.abort();
            }
            stays
        });
        for (id, urls) in book {
            if *id == self.id || urls.is_empty() || self.links.contains_key(id) {
                continue;
            }
            let queue = Rc::new(Queue {
                bytes: RefCell::new(Vec::new()),
                connected: Cell::new(false),
                removed: Cell::new(None),
                notify: Notify::new(),
            });
            let metrics = self.metrics.peers().entry(*id).or_default().clone();
            let opening = Opening::Stream { cluster: self.cluster, from: self.id.0, to: id.0 };
            let now = self.echoes.now_ms();
            self.echoes.listener.borrow_mut().expect(id.0, FIRST_ECHO_MS, now);
            let line = Line {
                peer: id.0,
                queue: queue.clone(),
                metrics: metrics.clone(),
                echoes: self.echoes.clone(),
            };
            let task = tokio::task::spawn_local(keep_dialling(urls.clone(), opening, line));
            self.links.insert(*id, Link { urls: urls.clone(), queue, metrics, task });
        }
        self.metrics.peers().retain(|id, _| self.links.contains_key(id));
        self.echoes.listener.borrow_mut().retain(|id| self.links.contains_key(&NodeId(id)));
    }

    /// The peers that take messages now.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        self.links.iter().filter(|(_, l)| l.queue.connected.get()).map(|(id, _)| *id).collect()
    }

    /// Whether a majority of the peers refuses us, and has for a while, because
    /// we were removed. Silence does not count.
    pub fn is_removed(&self) -> bool {
        let says = |link: &&Link| {
            link.queue.removed.get().is_some_and(|(first, last)| last - first > REMOVED_FOR)
        };
        self.links.values().filter(says).count() > self.links.len() / 2
    }

    /// Queues a message; it leaves when the present turn ends.
    pub fn send(&self, to: NodeId, cell: u32, message: &PeerMessage) {
        let Some(link) = self.links.get(&to) else {
            self.metrics.peer_send_failures.inc();
            return;
        };
        let mut bytes = link.queue.bytes.borrow_mut();
        if !link.queue.connected.get() || bytes.len() > QUEUE_BYTES_MAX {
            self.metrics.peer_send_failures.inc();
            link.metrics.send_failures.inc();
            return;
        }
        let empty = bytes.is_empty();
        put_frame(&mut bytes, cell, |out| message.encode(out));
        if empty {
            link.queue.notify.notify_one();
        }
    }
}

/// What a connection to a peer works with.
struct Line {
    peer: u64,
    queue: Rc<Queue>,
    metrics: Arc<PeerMetrics>,
    echoes: Rc<Echoes>,
}

async fn keep_dialling(urls: Vec<String>, opening: Opening, line: Line) {
    let queue = &line.queue;
    let mut pause = DIAL_PAUSE_MIN;
    for url in urls.iter().cycle() {
        match dial(url, &opening).await {
            Ok(Dialled::Open(stream)) => {
                pause = DIAL_PAUSE_MIN;
                queue.removed.set(None);
                queue.bytes.borrow_mut().clear();
                queue.connected.set(true);
                let end = pump(stream, &line).await;
                queue.connected.set(false);
                tracing::debug!(url = %url, error = %end, "the connection to a peer ended");
            }
            Ok(Dialled::Removed) => {
                let now = Instant::now();
                let before = queue.removed.get();
                if before.is_none() {
                    tracing::warn!(url = %url, "the peer says that this member was removed");
                }
                queue.removed.set(Some((before.map_or(now, |(first, _)| first), now)));
            }
            Err(e) => tracing::debug!(url = %url, error = %e, "cannot reach a peer"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(DIAL_PAUSE_MAX);
    }
}

/// What came of dialling a peer that answered.
enum Dialled {
    Open(TcpStream),
    Removed,
}

/// Opens a connection to a peer URL and says what it is for.
async fn dial(url: &str, opening: &Opening) -> io::Result<Dialled> {
    let (stream, answer) = timeout(DIAL_TIMEOUT, ask_on(url, opening))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match answer {
        Answer::Welcome => Ok(Dialled::Open(stream)),
        Answer::Removed => Ok(Dialled::Removed),
        Answer::Refused { why } => Err(io::Error::other(why)),
        other => Err(io::Error::other(format!("not ready: {other:?}"))),
    }
}

async fn ask_on(url: &str, opening: &Opening) -> io::Result<(TcpStream, Answer)> {
    let mut stream = TcpStream::connect(address(url)).await?;
    tune(&stream)?;
    stream.write_all(MAGIC).await?;
    write_json(&mut stream, opening).await?;
    let answer = read_json(&mut stream).await?;
    Ok((stream, answer))
}

/// Asks a peer one thing.
pub(crate) async fn ask(url: &str, opening: &Opening, within: Duration) -> io::Result<Answer> {
    let asked = timeout(within, ask_on(url, opening)).await;
    Ok(asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.1)
}

pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKED_MAX))
}

/// Sends what is queued, one write for all that gathered, until it breaks. Four
/// times a second a probe goes with it, whose echo says that the peer lives; the
/// other side writes nothing else on this connection.
async fn pump(mut stream: TcpStream, line: &Line) -> io::Error {
    let Line { queue, metrics, .. } = line;
    let mut sending = Vec::new();
    let mut byte = [0u8; 1];
    let mut probes = tokio::time::interval(PROBE_EVERY);
    probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut probed: Option<Instant> = None;
    loop {
        let mut probe = false;
        tokio::select! {
            () = queue.notify.notified() => {}
            _ = probes.tick(), if probed.is_none() => probe = true,
            read = stream.read(&mut byte) => match (read, probed.take()) {
                (Ok(1), Some(at)) => {
                    metrics.round_trip.observe_us(at.elapsed().as_micros() as u64);
                    line.echoes.heard(line.peer);
                    continue;
                }
                (Ok(1), None) => return io::Error::other("an echo without a probe"),
                (Ok(_), _) => return io::ErrorKind::ConnectionReset.into(),
                (Err(e), _) => return e,
            },
        }
        std::mem::swap(&mut *queue.bytes.borrow_mut(), &mut sending);
        if probe {
            put_frame(&mut sending, PROBE_CELL, |_| ());
            probed = Some(Instant::now());
        }
        if let Err(e) = stream.write_all(&sending).await {
            return e;
        }
        metrics.sent_bytes.add(sending.len() as u64);
        sending.clear();
        if sending.capacity() > 1 << 20 {
            sending = Vec::new();
        }
        if !queue.bytes.borrow().is_empty() {
            queue.notify.notify_one();
        }
    }
}

/// Reads a peer's frames until its connection ends.
pub(crate) async fn read_stream(
    mut stream: TcpStream,
    from: NodeId,
    mailbox: Arc<Mailbox<ToCore>>,
    metrics: Arc<Metrics>,
) {
    let end = match read_frames(&mut stream, from, &mailbox, &metrics).await {
        Ok(()) => "it was closed".to_owned(),
        Err(e) => e.to_string(),
    };
    tracing::debug!(peer = %from, error = end, "the connection from a peer ended");
    mailbox.push(ToCore::Disconnected(from));
}

async fn read_frames(
    stream: &mut TcpStream,
    from: NodeId,
    mailbox: &Mailbox<ToCore>,
    metrics: &Metrics,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    let mut batch = Vec::new();
    // Not there before this member dials that one too.
    let mut peer = None;
    loop {
        buffer.reserve(16 << 10);
        let n = stream.read_buf(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        if peer.is_none() {
            peer = metrics.peers().get(&from).cloned();
        }
        if let Some(peer) = &peer {
            peer.received_bytes.add(n as u64);
        }
        while let Some((cell, payload)) = take_frame(&mut buffer)? {
            if cell == PROBE_CELL {
                // Never blocks: a peer has one probe on its way at most.
                stream.write_all(&[0]).await?;
                continue;
            }
            let message = PeerMessage::decode(payload).map_err(io::Error::other)?;
            batch.push(ToCore::Peer { from, cell, message });
        }
        if !batch.is_empty() {
            mailbox.push_all(&mut batch);
        }
    }
}
