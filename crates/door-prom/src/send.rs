//! Remote-write out: what this node takes is sent on to other systems.
//!
//! Each receiver has a queue of its own, bounded in samples: when a receiver is gone for
//! longer than that lasts, the oldest are dropped and counted. What waits is lost when the
//! node ends; it is in this node's own series all the same.

use crate::client::Client;
use crate::config::{Config, RemoteWrite};
use crate::exposition::Meaning;
use crate::push::histogram::{WrittenHistogram, written};
use crate::push::wire::{
    Exemplar2, KINDS, Label, Metadata, Metadata1, TimeSeries, TimeSeries2, WriteRequest,
    WriteRequest2, WrittenExemplar, WrittenSample,
};
use crate::push::{VERSION1, VERSION2};
use crate::relabel::relabel;
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use prost::Message;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use synod_promql::{Histogram, HistogramSample, Labels, NAME};
use synod_tsdb::{Exemplar, SeriesId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Samples that wait for one receiver, at most.
const WAITING_MAX: usize = 2_000_000;
/// How often it is looked whether the configuration changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How often a receiver is told again what a metric is.
const MEANINGS_EVERY: Duration = Duration::from_secs(60);
/// Names of series that are remembered as they are sent.
const NAMES_MAX: usize = 500_000;

/// Samples of one time.
type Batch = (i64, Values);

/// What a request has of a series.
#[derive(Default)]
struct Content {
    samples: Vec<WrittenSample>,
    histograms: Vec<WrittenHistogram>,
    exemplars: Vec<Exemplar>,
}

/// Samples of one kind.
enum Values {
    Numbers(Vec<(SeriesId, f64)>),
    Histograms(Vec<(SeriesId, Arc<Histogram>)>),
    /// One, with its series' labels.
    Exemplar(Box<(Labels, Exemplar)>),
}

impl Values {
    /// How many they are; a histogram counts as the numbers that are in it.
    fn len(&self) -> usize {
        match self {
            Values::Numbers(all) => all.len(),
            Values::Histograms(all) => all.iter().map(|(_, h)| h.weight()).sum(),
            Values::Exemplar(_) => 1,
        }
    }
}

/// What waits for a receiver, and what became of the rest.
pub(crate) struct Outbox {
    name: String,
    /// It gets histograms.
    histograms: bool,
    /// It gets exemplars.
    exemplars: bool,
    waiting: Mutex<Waiting>,
    more: Notify,
    sent: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    retried: AtomicU64,
}

/// How sending on to a receiver goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiverStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Samples that it took.
    pub sent: u64,
    /// Samples that it refused for good.
    pub refused: u64,
    /// Samples that were dropped since too many waited.
    pub dropped: u64,
    /// Samples that wait.
    pub pending: usize,
    /// Requests that were tried again.
    pub retried: u64,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    samples: usize,
}

impl Outbox {
    fn new(settings: &RemoteWrite) -> Outbox {
        Outbox {
            name: settings.name.clone(),
            histograms: settings.histograms,
            exemplars: settings.exemplars,
            waiting: Mutex::default(),
            more: Notify::new(),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            retried: AtomicU64::new(0),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> ReceiverStatus {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ReceiverStatus {
            name: self.name.clone(),
            sent: count(&self.sent),
            refused: count(&self.refused),
            dropped: count(&self.dropped),
            pending: self.pending(),
            retried: count(&self.retried),
        }
    }

    /// How many samples wait.
    fn pending(&self) -> usize {
        self.waiting().samples
    }

    pub fn put(&self, at: i64, samples: &[(SeriesId, f64)]) {
        if !samples.is_empty() {
            self.queue((at, Values::Numbers(samples.to_vec())));
        }
    }

    /// Histograms, if the receiver is to have them.
    pub fn put_histograms(&self, at: i64, all: &[(SeriesId, Arc<Histogram>)]) {
        if !all.is_empty() && self.histograms {
            self.queue((at, Values::Histograms(all.to_vec())));
        }
    }

    /// An exemplar of a series, if the receiver is to have them.
    pub fn put_exemplar(&self, series: &Labels, exemplar: &Exemplar) {
        if self.exemplars {
            let one = Box::new((series.clone(), exemplar.clone()));
            self.queue((exemplar.at, Values::Exemplar(one)));
        }
    }

    fn queue(&self, batch: Batch) {
        let mut waiting = self.waiting();
        waiting.samples += batch.1.len();
        waiting.batches.push_back(batch);
        while waiting.samples > WAITING_MAX {
            let Some((_, oldest)) = waiting.batches.pop_front() else { break };
            waiting.samples -= oldest.len();
            self.dropped.fetch_add(oldest.len() as u64, Ordering::Relaxed);
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// The oldest samples, this many at most.
    fn take(&self, most: usize) -> Vec<Batch> {
        let mut waiting = self.waiting();
        let (mut taken, mut room) = (Vec::new(), most);
        while room > 0 {
            let Some((at, mut values)) = waiting.batches.pop_front() else { break };
            if let Values::Numbers(samples) = &mut values
                && samples.len() > room
            {
                let rest = samples.split_off(room);
                waiting.batches.push_front((at, Values::Numbers(rest)));
            }
            room = room.saturating_sub(values.len());
            waiting.samples -= values.len();
            taken.push((at, values));
        }
        taken
    }

    /// Waits until a request's worth is there, or until what is there has waited so long.
    async fn wait(&self, enough: usize, deadline: Duration) {
        while self.pending() == 0 {
            self.more.notified().await;
        }
        let filled = async {
            while self.pending() < enough {
                self.more.notified().await;
            }
        };
        // Time is up: what there is goes.
        let _ = tokio::time::timeout(deadline, filled).await;
    }
}

/// Keeps a sender for each receiver that the configuration names.
pub(crate) async fn manage(monitor: Monitor) {
    let mut running: Vec<(RemoteWrite, Arc<Outbox>, JoinHandle<()>)> = Vec::new();
    let mut failed: HashMap<String, String> = HashMap::new();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    loop {
        ticker.tick().await;
        let config = monitor.config();
        let wanted = &config.remote_write;
        let before = running.len();
        running.retain(|(settings, _, task)| {
            let stays = wanted.contains(settings);
            if !stays {
                task.abort();
            }
            stays
        });
        let mut changed = before != running.len();
        for settings in wanted {
            if running.iter().any(|(r, ..)| r == settings) {
                continue;
            }
            // What waits for a receiver goes to it, however it is reached now.
            let gets = |o: &Outbox| (o.histograms, o.exemplars);
            let wants = (settings.histograms, settings.exemplars);
            let same = |o: &&Arc<Outbox>| o.name == settings.name && gets(o) == wants;
            let known = monitor.outboxes().iter().find(same).cloned();
            let outbox = known.unwrap_or_else(|| Arc::new(Outbox::new(settings)));
            let sender = match Client::new(&settings.http) {
                Ok(client) => Sender {
                    monitor: monitor.clone(),
                    client,
                    settings: settings.clone(),
                    outbox: outbox.clone(),
                    names: HashMap::new(),
                    named_by: config.clone(),
                    meant: HashMap::new(),
                    failed: false,
                },
                Err(why) => {
                    if failed.insert(settings.name.clone(), why.clone()) != Some(why.clone()) {
                        tracing::error!(receiver = settings.name, error = why, "nothing is sent");
                    }
                    continue;
                }
            };
            failed.remove(&settings.name);
            changed = true;
            running.push((settings.clone(), outbox, tokio::spawn(sender.run())));
        }
        if changed {
            monitor.send_to(running.iter().map(|(_, outbox, _)| outbox.clone()).collect());
        }
    }
}

struct Sender {
    monitor: Monitor,
    client: Client,
    settings: RemoteWrite,
    outbox: Arc<Outbox>,
    /// As they are sent; none: relabelling drops the series.
    names: HashMap<SeriesId, Option<Labels>>,
    /// The configuration whose external labels they have.
    named_by: Arc<Config>,
    /// When it was told last what a metric is, by its name.
    meant: HashMap<String, Instant>,
    failed: bool,
}

/// What became of a request.
enum Sent {
    Taken,
    Refused(String),
    Again(String),
}

impl Sender {
    async fn run(mut self) {
        loop {
            let (enough, deadline) = (self.settings.samples_max, self.settings.deadline);
            self.outbox.wait(enough, deadline).await;
            let batches = self.outbox.take(enough);
            if let Some((body, samples)) = self.request(&batches) {
                self.deliver(body, samples).await;
            }
        }
    }

    /// Tries until the receiver has decided.
    async fn deliver(&mut self, body: Bytes, samples: u64) {
        let (mut pause, longest) = self.settings.backoff;
        loop {
            let within = tokio::time::timeout(self.settings.timeout, self.send(body.clone())).await;
            let sent = within.unwrap_or_else(|_| Sent::Again("no answer in time".into()));
            match sent {
                Sent::Taken => {
                    self.outbox.sent.fetch_add(samples, Ordering::Relaxed);
                    if std::mem::take(&mut self.failed) {
                        tracing::info!(receiver = self.settings.name, "takes samples again");
                    }
                    return;
                }
                Sent::Refused(why) => {
                    self.outbox.refused.fetch_add(samples, Ordering::Relaxed);
                    let name = &self.settings.name;
                    tracing::warn!(receiver = name, samples, error = why, "samples were refused");
                    return;
                }
                Sent::Again(why) => {
                    self.outbox.retried.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.failed, true) {
                        let name = &self.settings.name;
                        tracing::warn!(
                            receiver = name,
                            error = why,
                            "does not take samples: trying on"
                        );
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    async fn send(&self, body: Bytes) -> Sent {
        let (proto, version) = match self.settings.version2 {
            true => (VERSION2, "2.0.0"),
            false => (VERSION1, "0.1.0"),
        };
        let kind = match self.settings.version2 {
            true => format!("application/x-protobuf;proto={proto}"),
            false => "application/x-protobuf".into(),
        };
        let mut request = Request::post(&*self.settings.url)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_ENCODING, "snappy")
            .header("X-Prometheus-Remote-Write-Version", version);
        for (name, value) in &self.settings.headers {
            request = request.header(&**name, &**value);
        }
        let request = match request.body(body) {
            Ok(request) => request,
            Err(e) => return Sent::Refused(e.to_string()),
        };
        match self.client.send(request, ANSWER_BYTES_MAX).await {
            Err(why) => Sent::Again(why),
            Ok(answer) => {
                let status = answer.status();
                // A redirect that is not followed is a mistake that somebody will mend.
                let again = status.is_server_error()
                    || status.is_redirection()
                    || status == StatusCode::TOO_MANY_REQUESTS && self.settings.retry_429;
                let why = || {
                    let text = String::from_utf8_lossy(answer.body());
                    format!("{status}: {}", text.lines().next().unwrap_or_default())
                };
                match (status.is_success(), again) {
                    (true, _) => Sent::Taken,
                    (_, true) => Sent::Again(why()),
                    _ => Sent::Refused(why()),
                }
            }
        }
    }

    /// The request for some samples, and how many are in it; `None`: nothing is sent of them.
    fn request(&mut self, batches: &[Batch]) -> Option<(Bytes, u64)> {
        let oldest = match self.settings.age_max.as_millis() as i64 {
            0 => i64::MIN,
            age => now_ms() - age,
        };
        let mut by_series: HashMap<SeriesId, Content> = HashMap::new();
        let (mut order, mut exemplars) = (Vec::new(), Vec::new());
        let mut of = |id: SeriesId, put: &dyn Fn(&mut Content)| {
            let content = by_series.entry(id).or_insert_with(|| {
                order.push(id);
                Content::default()
            });
            put(content);
        };
        for (at, values) in batches.iter().filter(|(at, _)| *at >= oldest) {
            let timestamp = *at;
            match values {
                Values::Numbers(all) => all.iter().for_each(|&(id, value)| {
                    of(id, &|c| c.samples.push(WrittenSample { value, timestamp }));
                }),
                Values::Histograms(all) => all.iter().for_each(|(id, value)| {
                    let sample = HistogramSample { at: timestamp, value: value.clone() };
                    of(*id, &|c| c.histograms.push(written(&sample)));
                }),
                Values::Exemplar(one) => exemplars.push(&**one),
            }
        }
        let (mut all, mut count) = (Vec::with_capacity(order.len()), 0);
        for id in order {
            let Some(labels) = self.name(id) else { continue };
            let content = by_series.remove(&id).unwrap_or_default();
            count += (content.samples.len() + content.histograms.len()) as u64;
            all.push((labels, content));
        }
        self.exemplify(&mut all, exemplars);
        if all.is_empty() {
            return None;
        }
        let monitor = self.monitor.clone();
        let meanings = monitor.meanings();
        let body = match self.settings.version2 {
            true => version2(all, &meanings).encode_to_vec(),
            false => {
                let metadata = self.metadata(&all, &meanings);
                version1(all, metadata).encode_to_vec()
            }
        };
        Some((packed(&body), count))
    }

    /// Puts exemplars to their series, which are there with samples or else alone.
    fn exemplify(&mut self, all: &mut Vec<(Labels, Content)>, exemplars: Vec<&(Labels, Exemplar)>) {
        if exemplars.is_empty() {
            return;
        }
        let places = all.iter().enumerate().map(|(place, (labels, _))| (labels.clone(), place));
        let mut places: HashMap<Labels, usize> = places.collect();
        for (series, exemplar) in exemplars {
            let Some(labels) = self.as_sent(series.clone()) else { continue };
            let place = *places.entry(labels.clone()).or_insert_with(|| {
                all.push((labels, Content::default()));
                all.len() - 1
            });
            all[place].1.exemplars.push(exemplar.clone());
        }
    }

    /// What the receiver was not told of late of the metrics that these are of.
    fn metadata(&mut self, all: &[(Labels, Content)], meanings: &Meanings) -> Vec<Metadata1> {
        if self.meant.len() > NAMES_MAX {
            self.meant.clear();
        }
        let mut said = Vec::new();
        for (labels, _) in all {
            let Some((name, meaning)) = meaning_of(meanings, labels.get(NAME)) else { continue };
            if self.meant.get(name).is_some_and(|told| told.elapsed() < MEANINGS_EVERY) {
                continue;
            }
            self.meant.insert(name.to_owned(), Instant::now());
            said.push(Metadata1 {
                kind: kind_of(meaning),
                name: name.to_owned(),
                help: meaning.help.clone(),
                unit: meaning.unit.clone(),
            });
        }
        said
    }

    /// A series' labels as they are sent.
    fn name(&mut self, id: SeriesId) -> Option<Labels> {
        self.follow_config();
        if let Some(known) = self.names.get(&id) {
            return known.clone();
        }
        // A series that is no more by now has no name to be sent by.
        let labels = self.monitor.head().labels(id)?;
        let labels = self.as_sent(labels);
        self.names.insert(id, labels.clone());
        labels
    }

    /// What names were made by may have changed.
    fn follow_config(&mut self) {
        let config = self.monitor.config();
        if self.names.len() > NAMES_MAX || !Arc::ptr_eq(&config, &self.named_by) {
            self.names.clear();
            self.named_by = config;
        }
    }

    /// With the external labels, relabelled; `None`: the series is not sent.
    fn as_sent(&self, mut labels: Labels) -> Option<Labels> {
        for (name, value) in &self.named_by.external_labels {
            if labels.get(name).is_empty() {
                labels = labels.with(name, value);
            }
        }
        relabel(labels, &self.settings.relabel)
    }
}

/// A request of remote-write 1.0 with these series and their samples (time in ms, value),
/// as it is sent.
pub fn packed_write(all: impl IntoIterator<Item = (Labels, Vec<(i64, f64)>)>) -> Bytes {
    let sample = |(timestamp, value)| WrittenSample { value, timestamp };
    let one = |(labels, samples): (Labels, Vec<(i64, f64)>)| {
        let samples = samples.into_iter().map(sample).collect();
        (labels, Content { samples, ..Content::default() })
    };
    packed(&version1(all.into_iter().map(one).collect(), Vec::new()).encode_to_vec())
}

fn packed(body: &[u8]) -> Bytes {
    // Bodies are far below what the format can hold.
    snap::raw::Encoder::new().compress_vec(body).unwrap_or_default().into()
}

pub(crate) type Meanings = BTreeMap<String, Meaning>;

/// What is known of a series' metric: of a classic histogram's parts, or a counter's total,
/// it is known by the family's name.
pub(crate) fn meaning_of<'a>(
    meanings: &'a Meanings,
    series: &str,
) -> Option<(&'a str, &'a Meaning)> {
    let parts = ["_bucket", "_sum", "_count", "_total"];
    let family = parts.into_iter().find_map(|part| series.strip_suffix(part));
    let known = |name: &str| meanings.get_key_value(name).map(|(name, m)| (&**name, m));
    known(series).or_else(|| known(family?))
}

/// Its type's number.
fn kind_of(meaning: &Meaning) -> i32 {
    KINDS.iter().position(|kind| *kind == meaning.kind).unwrap_or(0) as i32
}

fn version1(all: Vec<(Labels, Content)>, metadata: Vec<Metadata1>) -> WriteRequest {
    let label = |(n, v): (&str, &str)| Label { name: n.to_owned(), value: v.to_owned() };
    let exemplar = |e: Exemplar| WrittenExemplar {
        labels: e.labels.iter().map(label).collect(),
        value: e.value,
        timestamp: e.at,
    };
    let series = |(labels, content): (Labels, Content)| TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: content.samples,
        exemplars: content.exemplars.into_iter().map(exemplar).collect(),
        histograms: content.histograms,
    };
    WriteRequest { timeseries: all.into_iter().map(series).collect(), metadata }
}

fn version2(all: Vec<(Labels, Content)>, meanings: &Meanings) -> WriteRequest2 {
    let mut numbers: HashMap<String, u32> = HashMap::from([(String::new(), 0)]);
    let mut symbols = vec![String::new()];
    let mut number = |text: &str| {
        if let Some(number) = numbers.get(text) {
            return *number;
        }
        let number = symbols.len() as u32;
        symbols.push(text.to_owned());
        numbers.insert(text.to_owned(), number);
        number
    };
    let refs = |labels: &Labels, number: &mut dyn FnMut(&str) -> u32| {
        labels.iter().flat_map(|(name, value)| [number(name), number(value)]).collect::<Vec<u32>>()
    };
    let mut timeseries = Vec::with_capacity(all.len());
    for (labels, Content { samples, histograms, exemplars }) in all {
        let labels_refs = refs(&labels, &mut number);
        let exemplar = |e: &Exemplar| Exemplar2 {
            labels_refs: refs(&e.labels, &mut number),
            value: e.value,
            timestamp: e.at,
        };
        let exemplars = exemplars.iter().map(exemplar).collect();
        let metadata = meaning_of(meanings, labels.get(NAME)).map(|(_, meaning)| Metadata {
            kind: kind_of(meaning),
            help_ref: number(&meaning.help),
            unit_ref: number(&meaning.unit),
        });
        timeseries.push(TimeSeries2 { labels_refs, samples, histograms, exemplars, metadata });
    }
    WriteRequest2 { symbols, timeseries }
}
