//! Telling others of alerts: Alertmanagers by their API, webhooks in their shape.
//!
//! Each receiver has a bounded queue and a task, so that one that is gone holds up nobody.
//! What it did not take is tried again; what became old meanwhile is left out, since alerts
//! that go on firing are told of again each minute.

use super::{RESEND, load, webhook};
use crate::client::Client;
use crate::config::{Alertmanagers, Config, yaml::Http};
use crate::discovery::{ADDRESS, Source};
use crate::json::{labels as labels_json, list, text};
use crate::relabel::relabel;
use crate::scrape::Surroundings;
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synod_promql::Labels;
use synod_rules::{Alert, Group, link};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Alerts that wait for one receiver, at most.
const WAITING_MAX: usize = 10_000;
/// Alerts of a request, at most.
const BATCH_MAX: usize = 64;
/// How long a request may take, if nothing says.
const WITHIN: Duration = Duration::from_secs(10);
/// Pauses between tries: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Where Alertmanagers take alerts.
const ALERTS_PATH: &str = "/api/v2/alerts";

/// An alert as others are told of it. Times are Unix ms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub labels: Labels,
    pub annotations: Vec<(String, String)>,
    pub starts: i64,
    pub ends: i64,
    pub resolved: bool,
    pub link: String,
    /// File and name of its group.
    pub group: (String, String),
}

/// An RFC 3339 time.
pub(crate) fn time(ms: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(at.min(SystemTime::UNIX_EPOCH + MAX_SHOWN)).to_string()
}

/// The library shows times up to the year 9999.
const MAX_SHOWN: Duration = Duration::from_secs(253_402_300_799);

impl Notice {
    /// As an Alertmanager takes it.
    fn json(&self, out: &mut String) {
        out.push_str("{\"labels\":");
        labels_json(out, &self.labels);
        out.push_str(",\"annotations\":");
        labels_json(out, &Labels::new(self.annotations.clone()));
        let _ = write!(
            out,
            ",\"startsAt\":\"{}\",\"endsAt\":\"{}\",\"generatorURL\":{}}}",
            time(self.starts),
            time(self.ends),
            text(&self.link)
        );
    }

    /// Whether nobody needs to be told any more: it was firing, and was to be told of again
    /// since.
    fn is_old(&self, now: i64) -> bool {
        !self.resolved && self.ends < now
    }
}

/// How a receiver is reached, and what it wants.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// Alertmanager's API.
    Alertmanager,
    /// A webhook.
    Webhook,
}

/// One receiver.
pub(crate) struct Receiver {
    pub url: String,
    pub kind: Kind,
    waiting: Mutex<VecDeque<Notice>>,
    more: Notify,
    /// Alerts that it took.
    pub sent: AtomicU64,
    /// Alerts in requests that it did not take, each try counted.
    pub failed: AtomicU64,
    /// Alerts that it is not told of: too many waited, or they were too old.
    pub dropped: AtomicU64,
}

impl Receiver {
    fn new(url: &str, kind: Kind) -> Receiver {
        Receiver {
            url: url.to_owned(),
            kind,
            waiting: Mutex::default(),
            more: Notify::new(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Notice>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many alerts wait.
    pub fn pending(&self) -> usize {
        self.waiting().len()
    }

    fn put(&self, notices: &[Notice]) {
        let mut waiting = self.waiting();
        waiting.extend(notices.iter().cloned());
        let over = waiting.len().saturating_sub(WAITING_MAX);
        waiting.drain(..over);
        self.dropped.fetch_add(over as u64, Ordering::Relaxed);
        drop(waiting);
        self.more.notify_one();
    }

    fn take(&self) -> Vec<Notice> {
        let mut waiting = self.waiting();
        let most = match self.kind {
            Kind::Alertmanager => BATCH_MAX.min(waiting.len()),
            Kind::Webhook => waiting.len(),
        };
        let now = now_ms();
        waiting.drain(..most).filter(|n| !n.is_old(now)).collect()
    }
}

/// Those that are told of alerts.
#[derive(Default)]
pub(crate) struct Notifier {
    receivers: Mutex<Vec<Arc<Receiver>>>,
}

impl Notifier {
    pub fn receivers(&self) -> Vec<Arc<Receiver>> {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells everybody of a group's alerts.
    pub fn tell(&self, monitor: &Monitor, group: &Group, alerts: Vec<(usize, Alert)>) {
        let config = monitor.config();
        let settings = &monitor.0.settings.rules;
        let external = load::external_labels(settings, &config);
        let notice = |(rule, alert): (usize, Alert)| {
            let mut labels = alert.labels.clone();
            for (name, value) in external.iter().filter(|(n, _)| alert.labels.get(n).is_empty()) {
                labels = labels.with(name, value);
            }
            let expr = group.rules[rule].spec.expr.to_string();
            Some(Notice {
                labels: relabel(labels, &config.alert_relabel)?,
                starts: alert.fired_at.unwrap_or(alert.active_at),
                ends: alert.ends_at(),
                resolved: alert.resolved_at.is_some(),
                annotations: alert.annotations,
                link: format!("{}{}", settings.external_url, link(&expr, true)),
                group: (group.file.clone(), group.name.clone()),
            })
        };
        let notices: Vec<Notice> = alerts.into_iter().filter_map(notice).collect();
        for receiver in self.receivers() {
            receiver.put(&notices);
        }
    }
}

/// A section of the configuration, and where it finds Alertmanagers.
struct Section {
    of: Alertmanagers,
    sources: Vec<Source>,
}

/// How requests to a receiver are made.
type Way = (Kind, Http, Duration);

/// Keeps a task for each receiver.
#[derive(Default)]
pub(super) struct Receivers {
    config: Option<Arc<Config>>,
    sections: Vec<Section>,
    tasks: BTreeMap<String, (Way, Arc<Receiver>, JoinHandle<()>)>,
    /// Those that cannot be told of anything, and why: said once.
    failed: BTreeMap<String, String>,
}

impl Receivers {
    /// Brings the tasks in line with the settings and what the sources say.
    pub fn follow(&mut self, monitor: &Monitor, around: &Surroundings) {
        let config = monitor.config();
        if !self.config.as_ref().is_some_and(|c| Arc::ptr_eq(c, &config)) {
            self.sections = config.alertmanagers.iter().map(|of| section(of, around)).collect();
            self.config = Some(config);
        }
        let wanted = self.wanted(monitor);
        let before = self.tasks.len();
        let mut changed = false;
        self.tasks.retain(|url, (way, _, task)| {
            let stays = wanted.get(url).is_some_and(|w| w == way);
            if !stays {
                task.abort();
            }
            stays
        });
        changed |= before != self.tasks.len();
        for (url, way) in wanted {
            if self.tasks.contains_key(&url) {
                continue;
            }
            let client = match Client::new(&way.1) {
                Ok(client) => client,
                Err(why) => {
                    if self.failed.insert(url.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::error!(url, error = why, "a receiver is not told of alerts");
                    }
                    continue;
                }
            };
            self.failed.remove(&url);
            let receiver = Arc::new(Receiver::new(&url, way.0.clone()));
            let task = tokio::spawn(serve(receiver.clone(), client, way.2, monitor.clone()));
            self.tasks.insert(url, (way, receiver, task));
            changed = true;
        }
        if changed {
            let all = self.tasks.values().map(|(_, receiver, _)| receiver.clone()).collect();
            let known = &monitor.0.rules.notifier.receivers;
            *known.lock().unwrap_or_else(PoisonError::into_inner) = all;
        }
    }

    fn wanted(&self, monitor: &Monitor) -> BTreeMap<String, Way> {
        let plain = |kind| (kind, Http { follow_redirects: true, ..Http::default() }, WITHIN);
        let settings = &monitor.0.settings.rules;
        let mut wanted = BTreeMap::new();
        for url in &settings.alertmanagers {
            let url = format!("{}{ALERTS_PATH}", url.trim_end_matches('/'));
            wanted.insert(url, plain(Kind::Alertmanager));
        }
        for url in &settings.webhooks {
            wanted.insert(url.clone(), plain(Kind::Webhook));
        }
        for section in &self.sections {
            for labels in section.sources.iter().flat_map(Source::targets) {
                if let Some(url) = address(&section.of, &labels) {
                    let way = (Kind::Alertmanager, section.of.http.clone(), section.of.timeout);
                    wanted.insert(url, way);
                }
            }
        }
        wanted
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        for (_, _, task) in self.tasks.values() {
            task.abort();
        }
    }
}

fn section(of: &Alertmanagers, around: &Surroundings) -> Section {
    let mut sources = Vec::new();
    for discovery in &of.discovery {
        match Source::start(discovery, "alertmanagers", &around.registry) {
            Ok(source) => sources.push(source),
            Err(why) => tracing::error!(error = why, "looking for Alertmanagers failed"),
        }
    }
    Section { of: of.clone(), sources }
}

/// Where an Alertmanager that was found takes alerts; `None`: relabelling dropped it.
fn address(of: &Alertmanagers, found: &Labels) -> Option<String> {
    let path = format!("/{}", of.path_prefix.trim_matches('/'));
    let path = format!("{}{ALERTS_PATH}", path.trim_end_matches('/'));
    let mut labels = found.clone();
    for (name, value) in [("__scheme__", &of.scheme), ("__alerts_path__", &path)] {
        if labels.get(name).is_empty() {
            labels = labels.with(name, value);
        }
    }
    let labels = relabel(labels, &of.relabel)?;
    let address = labels.get(ADDRESS);
    if address.is_empty() {
        return None;
    }
    Some(format!("{}://{address}{}", labels.get("__scheme__"), labels.get("__alerts_path__")))
}

/// Sends what waits for a receiver, for as long as it is wanted.
async fn serve(receiver: Arc<Receiver>, client: Client, within: Duration, monitor: Monitor) {
    let mut known = webhook::Known::default();
    loop {
        let batch = receiver.take();
        if batch.is_empty() {
            if receiver.waiting().is_empty() {
                receiver.more.notified().await;
            }
            continue;
        }
        let requests = match receiver.kind {
            Kind::Alertmanager => {
                let mut body = String::new();
                list(&mut body, &batch, |out, n| n.json(out));
                vec![(batch.len(), body)]
            }
            Kind::Webhook => {
                let url = &monitor.0.settings.rules.external_url;
                known.messages(batch, now_ms(), url)
            }
        };
        for (count, body) in requests {
            deliver(&receiver, &client, within, count, body.into()).await;
        }
    }
}

/// Tries until it is taken, refused for good, or told anew anyhow.
async fn deliver(
    receiver: &Receiver,
    client: &Client,
    within: Duration,
    count: usize,
    body: Bytes,
) {
    let begun = std::time::Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let why = match tokio::time::timeout(within, send(client, &receiver.url, &body)).await {
            Ok(Ok(())) => {
                receiver.sent.fetch_add(count as u64, Ordering::Relaxed);
                return;
            }
            Ok(Err(Refusal { why, again: false })) => {
                receiver.failed.fetch_add(count as u64, Ordering::Relaxed);
                tracing::error!(url = receiver.url, error = why, "alerts were refused");
                return;
            }
            Ok(Err(Refusal { why, .. })) => why,
            Err(_) => format!("no answer within {within:?}"),
        };
        receiver.failed.fetch_add(count as u64, Ordering::Relaxed);
        tracing::warn!(url = receiver.url, error = why, "alerts could not be sent");
        // An Alertmanager hears of what still fires again; a webhook only of changes.
        let old = begun.elapsed() > Duration::from_millis(4 * RESEND as u64);
        if old && receiver.kind == Kind::Alertmanager {
            receiver.dropped.fetch_add(count as u64, Ordering::Relaxed);
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Why a request was not taken.
struct Refusal {
    why: String,
    /// Whether it may be taken later.
    again: bool,
}

async fn send(client: &Client, url: &str, body: &Bytes) -> Result<(), Refusal> {
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.clone())
        .map_err(|e| Refusal { why: e.to_string(), again: false })?;
    let answer = client.send(request, ANSWER_BYTES_MAX).await;
    let answer = answer.map_err(|why| Refusal { why, again: true })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let says = String::from_utf8_lossy(answer.body());
    let why = format!("HTTP status {status}: {}", says.chars().take(200).collect::<String>());
    let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Err(Refusal { why, again })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(number: usize, ends: i64, resolved: bool) -> Notice {
        Notice {
            labels: Labels::new([("alertname", "A".to_owned()), ("i", number.to_string())]),
            annotations: Vec::new(),
            starts: 0,
            ends,
            resolved,
            link: String::new(),
            group: (String::new(), String::new()),
        }
    }

    #[test]
    fn the_oldest_go_when_too_many_wait_and_what_is_old_is_left_out() {
        let receiver = Receiver::new("http://x", Kind::Alertmanager);
        let later = now_ms() + 60_000;
        let all: Vec<Notice> = (0..WAITING_MAX + 5).map(|i| notice(i, later, false)).collect();
        receiver.put(&all);
        assert_eq!(receiver.pending(), WAITING_MAX);
        assert_eq!(receiver.dropped.load(Ordering::Relaxed), 5);
        let first = receiver.take();
        assert_eq!((first.len(), first[0].labels.get("i")), (BATCH_MAX, "5"));
        let receiver = Receiver::new("http://x", Kind::Webhook);
        receiver.put(&[notice(0, 1, false), notice(1, 1, true), notice(2, later, false)]);
        let kept: Vec<String> =
            receiver.take().iter().map(|n| n.labels.get("i").to_owned()).collect();
        assert_eq!(kept, ["1", "2"], "a firing one that was to be told of again is old");
        assert_eq!(receiver.pending(), 0);
    }

    #[test]
    fn an_alertmanagers_address_is_made_as_prometheus_makes_it() {
        let of = |path_prefix: &str| Alertmanagers {
            discovery: Vec::new(),
            scheme: "https".into(),
            path_prefix: path_prefix.into(),
            timeout: WITHIN,
            relabel: Vec::new(),
            http: Http::default(),
        };
        let found = Labels::new([(ADDRESS, "am:9093")]);
        let at = |prefix: &str| address(&of(prefix), &found);
        assert_eq!(at(""), Some("https://am:9093/api/v2/alerts".into()));
        assert_eq!(at("/"), Some("https://am:9093/api/v2/alerts".into()));
        assert_eq!(at("/a/b/"), Some("https://am:9093/a/b/api/v2/alerts".into()));
        assert_eq!(address(&of(""), &Labels::default()), None);
        let plain = found.with("__scheme__", "http");
        assert_eq!(address(&of(""), &plain), Some("http://am:9093/api/v2/alerts".into()));
    }

    #[test]
    fn times_are_shown_within_what_can_be_shown() {
        assert_eq!(time(1_500), "1970-01-01T00:00:01.500Z");
        assert_eq!(time(-5), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(i64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
