//! Pulling: a task a target.

use crate::exposition::{self, Line, labels_of};
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime};
use synod_promql::{Labels, NAME, STALE};
use synod_tsdb::SeriesId;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Bytes of a page, at most.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// How often the list of targets is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the log is back.
const READY_AFTER: Duration = Duration::from_millis(20);
/// What a scraper reads, best first.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.6,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// What is scraped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Label `job`.
    pub job: String,
    /// Label `instance`.
    pub instance: String,
    /// Where its page is; `http` only.
    pub url: String,
    /// Further labels of all its series.
    pub labels: Vec<(String, String)>,
    /// How often.
    pub every: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
}

/// How a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Not scraped yet.
    Unknown,
    /// The last scrape worked.
    Up,
    /// It did not.
    Down,
}

/// What is known of a target.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// Which.
    pub target: Target,
    /// How it is.
    pub health: Health,
    /// When it was scraped last.
    pub last: Option<SystemTime>,
    /// How long that took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: String,
}

impl Target {
    pub(crate) fn labels(&self) -> Labels {
        let own = [("job", &*self.job), ("instance", &*self.instance)];
        Labels::new(self.labels.iter().map(|(n, v)| (&**n, &**v)).chain(own))
    }

    fn key(&self) -> (String, String) {
        (self.job.clone(), self.url.clone())
    }
}

/// Keeps a task for each target.
pub(crate) async fn manage(monitor: Monitor, targets: impl Fn() -> Vec<Target>) {
    let mut tasks: HashMap<(String, String), (Target, JoinHandle<()>)> = HashMap::new();
    // What is scraped is later than all that the log holds.
    while !monitor.is_ready() {
        tokio::time::sleep(READY_AFTER).await;
    }
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    loop {
        ticker.tick().await;
        let wanted: HashMap<_, _> = targets().into_iter().map(|t| (t.key(), t)).collect();
        tasks.retain(|key, (target, task)| {
            let stays = wanted.get(key) == Some(target);
            if !stays {
                task.abort();
                monitor.targets().remove(key);
            }
            stays
        });
        for (key, target) in wanted {
            tasks.entry(key).or_insert_with(|| {
                let task = tokio::spawn(follow(monitor.clone(), target.clone()));
                (target, task)
            });
        }
    }
}

/// Scrapes one target for as long as it is wanted. When that ends, so do its series.
async fn follow(monitor: Monitor, target: Target) {
    let mut scraper = Scraper::new(monitor.clone(), target.clone());
    let status = TargetStatus {
        target: target.clone(),
        health: Health::Unknown,
        last: None,
        took: Duration::ZERO,
        error: String::new(),
    };
    monitor.targets().insert(target.key(), status);
    // Not all at one moment.
    let mut hasher = DefaultHasher::new();
    target.key().hash(&mut hasher);
    let spread = hasher.finish() % target.every.as_millis().max(1) as u64;
    tokio::time::sleep(Duration::from_millis(spread)).await;
    let mut ticker = tokio::time::interval(target.every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticker.tick().await;
        let begun = Instant::now();
        let at = now_ms();
        let fetched = tokio::time::timeout(target.timeout, fetch(&target.url)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(format!("no answer within {} s", target.timeout.as_secs_f64()))
        });
        let took = begun.elapsed();
        let error = scraper.take(at, took, fetched).err().unwrap_or_default();
        if let Some(status) = monitor.targets().get_mut(&target.key()) {
            status.health = if error.is_empty() { Health::Up } else { Health::Down };
            status.last = Some(SystemTime::now());
            status.took = took;
            status.error = error;
        }
    }
}

/// A page, and whether it is OpenMetrics.
type Page = (Bytes, bool);

async fn fetch(url: &str) -> Result<Page, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url:?} is no address: {e}"))?;
    if uri.scheme_str() != Some("http") {
        return Err(format!("{url:?}: only http is built so far"));
    }
    let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.map_err(|e| e.to_string())?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::get(path)
        .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
        .header(header::ACCEPT, ACCEPT)
        .header(header::USER_AGENT, "synod")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("server returned HTTP status {status}"));
    }
    let openmetrics = is_openmetrics(response.headers())?;
    let page = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await;
    let page = page.map_err(|e| format!("reading the page: {e}"))?.to_bytes();
    connection.abort();
    Ok((page, openmetrics))
}

fn is_openmetrics(headers: &HeaderMap) -> Result<bool, String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/openmetrics-text" => Ok(true),
        "text/plain" => Ok(false),
        "" => Err("the page says no content type".into()),
        other => Err(format!("a page of type {other:?} cannot be read")),
    }
}

/// Turns pages of one target into samples.
struct Scraper {
    monitor: Monitor,
    labels: Labels,
    /// The series of lines, as they stand on the page; and the scrape that saw them last.
    known: HashMap<Box<str>, (SeriesId, u64)>,
    own: HashMap<&'static str, SeriesId>,
    round: u64,
}

impl Scraper {
    fn new(monitor: Monitor, target: Target) -> Scraper {
        let labels = target.labels();
        Scraper { monitor, labels, known: HashMap::new(), own: HashMap::new(), round: 0 }
    }

    /// The labels of a line: the target's come first, and what is on the page under their
    /// names is kept as `exported_…`.
    fn labels_of(&self, series: &str) -> Result<Labels, String> {
        let mut labels = labels_of(series)?;
        for (name, value) in self.labels.iter() {
            let theirs = labels.get(name).to_owned();
            if !theirs.is_empty() {
                labels = labels.with(&format!("exported_{name}"), &theirs);
            }
            labels = labels.with(name, value);
        }
        Ok(labels)
    }

    fn take(
        &mut self,
        at: i64,
        took: Duration,
        fetched: Result<Page, String>,
    ) -> Result<(), String> {
        self.round += 1;
        let before = self.known.len();
        let read = fetched.and_then(|(page, openmetrics)| self.read(at, &page, openmetrics));
        let scraped = *read.as_ref().unwrap_or(&0);
        let added = self.known.len().saturating_sub(before);
        self.end_what_is_gone(at, read.is_ok());
        let up = f64::from(u8::from(read.is_ok()));
        self.say(
            at,
            &[
                ("up", up),
                ("scrape_duration_seconds", took.as_secs_f64()),
                ("scrape_samples_scraped", scraped as f64),
                ("scrape_samples_post_metric_relabeling", scraped as f64),
                ("scrape_series_added", added as f64),
            ],
        );
        read.map(drop)
    }

    /// Appends a page's samples; gives how many. A page is taken whole or not at all.
    fn read(&mut self, at: i64, page: &[u8], openmetrics: bool) -> Result<usize, String> {
        let page = std::str::from_utf8(page).map_err(|_| "the page is not UTF-8".to_owned())?;
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut says = Vec::new();
        exposition::parse(
            page,
            openmetrics,
            |line| {
                lines.push(line);
                Ok(())
            },
            |what, name, text| says.push((what, name, text)),
        )
        .map_err(|e| e.to_string())?;
        let mut samples = Vec::with_capacity(lines.len());
        for line in &lines {
            let id = match self.known.get_mut(line.series) {
                Some((id, round)) => {
                    *round = self.round;
                    *id
                }
                None => {
                    let id = self.monitor.series(&self.labels_of(line.series)?);
                    let id = id.map_err(|e| e.to_string())?;
                    self.known.insert(line.series.into(), (id, self.round));
                    id
                }
            };
            samples.push((line.at.unwrap_or(at), id, line.value));
        }
        for (what, name, text) in says {
            self.monitor.learn(what, name, text);
        }
        let count = samples.len();
        self.append(at, samples);
        Ok(count)
    }

    fn append(&mut self, at: i64, samples: Vec<(i64, SeriesId, f64)>) {
        let (now, other): (Vec<_>, Vec<_>) = samples.into_iter().partition(|s| s.0 == at);
        let now: Vec<(SeriesId, f64)> = now.into_iter().map(|(_, id, v)| (id, v)).collect();
        let mut refused = self.monitor.append(at, &now);
        for (at, id, value) in other {
            refused.extend(self.monitor.append(at, &[(id, value)]));
        }
        for (id, why) in refused {
            // A series that was dropped as too old is made anew the next time.
            self.known.retain(|_, (known, _)| *known != id);
            tracing::debug!("a sample was refused: {why}");
        }
    }

    /// Series that are not on the page any more end; all of them if there is no page.
    fn end_what_is_gone(&mut self, at: i64, read: bool) {
        let round = self.round;
        let gone = |last: u64| !read || last != round;
        let ended: Vec<(SeriesId, f64)> = self
            .known
            .values()
            .filter(|(_, last)| gone(*last))
            .map(|(id, _)| (*id, STALE))
            .collect();
        if !ended.is_empty() {
            self.known.retain(|_, (_, last)| !gone(*last));
            self.monitor.append(at, &ended);
        }
    }

    /// What the scrape says of itself.
    fn say(&mut self, at: i64, facts: &[(&'static str, f64)]) {
        let mut samples = Vec::new();
        for &(name, value) in facts {
            let id = match self.own.get(name) {
                Some(id) => Ok(*id),
                None => self.monitor.series(&self.labels.with(NAME, name)),
            };
            if let Ok(id) = id {
                self.own.insert(name, id);
                samples.push((id, value));
            }
        }
        for (id, _) in self.monitor.append(at, &samples) {
            self.own.retain(|_, known| *known != id);
        }
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        // The target is not wanted any more (or the process ends).
        let at = now_ms();
        let mut ended: Vec<(SeriesId, f64)> =
            self.known.values().map(|(id, _)| (*id, STALE)).collect();
        ended.extend(self.own.values().map(|id| (*id, STALE)));
        self.monitor.append(at, &ended);
    }
}
