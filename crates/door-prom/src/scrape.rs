//! Pulling: which targets there are, and a task for each.

use crate::client::Client;
use crate::config::Job;
use crate::discovery::{Registry, Source};
use crate::fan::Peer;
use crate::protobuf;
use crate::room::Disk;
use crate::scraper::{Page, Scraper};
use crate::store::{Monitor, Targets, now_ms};
use crate::targets::{Health, Target, TargetKey, TargetStatus};
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use synod_promql::Labels;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Bytes of a page, at most, if its job says nothing.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// How often the list of targets is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A job that could not be started is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether the log is back.
const READY_AFTER: Duration = Duration::from_millis(20);
/// Targets that relabelling dropped, of which the labels are shown.
const DROPPED_SHOWN: usize = 100;
/// What a scraper reads, best first.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.6,\
                      application/openmetrics-text;version=0.0.1;q=0.5,\
                      text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";

/// The cluster around a monitor.
#[derive(Clone)]
pub struct Surroundings {
    /// This node's name; empty: there is no other.
    pub node: String,
    /// How the members of the cluster are scraped.
    pub job: Job,
    /// Their labels, with `__address__`; asked again every second.
    pub members: Arc<dyn Fn() -> Vec<Labels> + Send + Sync>,
    /// The cluster's registry of services.
    pub registry: Registry,
    /// The other nodes, which queries ask too.
    pub peers: Arc<dyn Fn() -> Vec<Peer> + Send + Sync>,
    /// The disk with the data.
    pub disk: Disk,
}

impl Surroundings {
    /// No cluster at all: what is pushed and configured is all there is.
    pub fn none() -> Surroundings {
        Surroundings {
            node: String::new(),
            job: Job::new("synod", Duration::from_secs(1)),
            members: Arc::new(Vec::new),
            registry: Arc::new(|_| Ok(Vec::new())),
            peers: Arc::new(Vec::new),
            disk: Arc::new(|| None),
        }
    }
}

/// What requests to a job's targets are made by; or why there can be none at present: then
/// they are down.
type Reach = Arc<RwLock<Result<Client, String>>>;

/// The targets of a job, and what scrapes them.
struct Pool {
    job: Arc<Job>,
    /// They are the cluster's nodes.
    own: bool,
    client: Reach,
    sources: Vec<Source>,
    tasks: HashMap<TargetKey, (Target, JoinHandle<()>)>,
    failed: String,
    /// What the sources said at the last look.
    found: Vec<Labels>,
    /// There are more targets than the job allows: none is scraped, and each says so.
    too_many: Arc<AtomicBool>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

/// Keeps a task for each target.
pub(crate) async fn manage(monitor: Monitor, around: Surroundings) {
    // What is scraped is later than all that the log holds.
    while !monitor.is_ready() {
        tokio::time::sleep(READY_AFTER).await;
    }
    let mut config = monitor.config();
    let mut own = Pool::start(&Arc::new(around.job.clone()), &around.registry).ok();
    own.iter_mut().for_each(|pool| pool.own = true);
    let (mut pools, mut failed) =
        started(&config.jobs, Vec::new(), true, &around.registry, &monitor);
    tell(&failed, &Failed::new());
    let mut tried = Instant::now();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    loop {
        ticker.tick().await;
        let latest = monitor.config();
        let again = !failed.is_empty() && tried.elapsed() > TRY_AGAIN;
        let other = !Arc::ptr_eq(&latest, &config);
        if other || again {
            let before = failed;
            (pools, failed) = started(&latest.jobs, pools, other, &around.registry, &monitor);
            tell(&failed, &before);
            (config, tried) = (latest, Instant::now());
        }
        if let Some(own) = &mut own {
            own.follow((around.members)(), &monitor);
        }
        for pool in &mut pools {
            let found = pool.sources.iter().flat_map(Source::targets).collect();
            pool.follow(found, &monitor);
        }
    }
}

/// Says which jobs cannot be started that could before, or for another reason.
fn tell(failed: &Failed, before: &Failed) {
    for (job, why) in failed.iter().filter(|f| !before.contains(f)) {
        tracing::error!(job, error = why, "the job is not scraped");
    }
}

/// Jobs that cannot be started, and why.
type Failed = Vec<(String, String)>;

/// A pool for each job; those of jobs that are as before stay. `read`: the configuration was
/// read again.
fn started(
    jobs: &[Job],
    before: Vec<Pool>,
    read: bool,
    registry: &Registry,
    monitor: &Monitor,
) -> (Vec<Pool>, Failed) {
    let mut before: HashMap<String, Pool> =
        before.into_iter().map(|pool| (pool.job.name.clone(), pool)).collect();
    let (mut pools, mut failed) = (Vec::new(), Failed::new());
    for job in jobs {
        match before.remove(&job.name) {
            // Files may hold something else by now.
            Some(pool) if *pool.job == *job && !(read && job.http.tls_config.reads_files()) => {
                failed.extend(pool.try_again().map(|why| (job.name.clone(), why)));
                pools.push(pool);
            }
            old => {
                if let Some(mut old) = old {
                    old.follow(Vec::new(), monitor);
                }
                match Pool::start(&Arc::new(job.clone()), registry) {
                    Ok(pool) => {
                        failed.extend(pool.unreachable().map(|why| (job.name.clone(), why)));
                        pools.push(pool);
                    }
                    Err(why) => failed.push((job.name.clone(), why)),
                }
            }
        }
    }
    for (_, mut gone) in before {
        gone.follow(Vec::new(), monitor);
    }
    (pools, failed)
}

impl Pool {
    fn start(job: &Arc<Job>, registry: &Registry) -> Result<Pool, String> {
        let sources = job.discovery.iter().map(|d| Source::start(d, &job.name, registry));
        Ok(Pool {
            job: job.clone(),
            own: false,
            client: Arc::new(RwLock::new(Client::new(&job.http))),
            sources: sources.collect::<Result<_, _>>()?,
            tasks: HashMap::new(),
            failed: String::new(),
            found: Vec::new(),
            too_many: Arc::default(),
        })
    }

    /// Why its targets cannot be asked at present, if so.
    fn unreachable(&self) -> Option<String> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).as_ref().err().cloned()
    }

    /// Looks whether that is so still.
    fn try_again(&self) -> Option<String> {
        self.unreachable()?;
        let client = Client::new(&self.job.http);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.unreachable()
    }

    /// Brings the tasks in line with what the sources say.
    fn follow(&mut self, found: Vec<Labels>, monitor: &Monitor) {
        if found == self.found {
            return;
        }
        let (mut wanted, mut dropped, mut failed) = (HashMap::new(), Vec::new(), String::new());
        for labels in &found {
            match Target::new(&self.job, labels) {
                Ok(Some(target)) => {
                    wanted.insert(target.key(), target);
                }
                Ok(None) => dropped.push(labels.clone()),
                Err(why) => failed = why,
            }
        }
        if failed != self.failed {
            if !failed.is_empty() {
                tracing::warn!(job = self.job.name, error = failed, "targets are left out");
            }
            self.failed = failed;
        }
        let limit = self.job.limits.targets;
        self.too_many.store(limit > 0 && wanted.len() > limit, Ordering::Relaxed);
        let mut targets = monitor.targets();
        let count = dropped.len();
        dropped.truncate(DROPPED_SHOWN);
        targets.dropped.insert(self.job.name.clone(), (count, dropped));
        self.tasks.retain(|key, (target, task)| {
            let stays = wanted.get(key).is_some_and(|w| w == target);
            if !stays {
                task.abort();
                targets.active.remove(key);
            }
            stays
        });
        let unreachable = self.unreachable();
        for (key, target) in wanted {
            self.tasks.entry(key.clone()).or_insert_with(|| {
                targets.active.insert(key, TargetStatus::new(target.clone()));
                let (client, over) = (self.client.clone(), self.too_many.clone());
                if let Some(why) = &unreachable {
                    note_in(&mut targets, &target, Duration::ZERO, why.clone());
                }
                let task = follow(monitor.clone(), client, over, target.clone(), self.own);
                (target, tokio::spawn(task))
            });
        }
        drop(targets);
        self.found = found;
    }
}

/// Scrapes one target for as long as it is wanted. When that ends, so do its series.
async fn follow(
    monitor: Monitor,
    client: Reach,
    too_many: Arc<AtomicBool>,
    target: Target,
    own: bool,
) {
    let mut scraper = Scraper::new(monitor.clone(), target.clone());
    // Not all at one moment.
    let mut hasher = DefaultHasher::new();
    target.url.hash(&mut hasher);
    let spread = hasher.finish() % target.every.as_millis().max(1) as u64;
    tokio::time::sleep(Duration::from_millis(spread)).await;
    let mut ticker = tokio::time::interval(target.every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticker.tick().await;
        let begun = Instant::now();
        let at = now_ms();
        if let Err(why) = monitor.has_room(own) {
            note(&monitor, &target, begun.elapsed(), why);
            continue;
        }
        let client = client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fetched = if too_many.load(Ordering::Relaxed) {
            let limit = target.job.limits.targets;
            Err(format!("target_limit exceeded: the job has more than {limit} targets"))
        } else {
            within(&target, async { fetch(&client?, &target).await }).await
        };
        let took = begun.elapsed();
        let error = scraper.take(at, took, fetched).err().unwrap_or_default();
        note(&monitor, &target, took, error);
    }
}

/// What comes in the target's time, or that nothing did.
async fn within<T>(
    target: &Target,
    fetching: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let fetched = tokio::time::timeout(target.timeout, fetching).await;
    let late = |_| Err(format!("no answer within {} s", target.timeout.as_secs_f64()));
    fetched.unwrap_or_else(late)
}

/// Notes how a scrape went.
fn note(monitor: &Monitor, target: &Target, took: Duration, error: String) {
    note_in(&mut monitor.targets(), target, took, error);
}

fn note_in(targets: &mut Targets, target: &Target, took: Duration, error: String) {
    if let Some(status) = targets.active.get_mut(&target.key()) {
        status.health = if error.is_empty() { Health::Up } else { Health::Down };
        status.last = Some(SystemTime::now());
        status.took = took;
        status.error = error;
    }
}

async fn fetch(client: &Client, target: &Target) -> Result<Page, String> {
    let accept = match target.job.protobuf {
        true => format!("{},{ACCEPT}", protobuf::ACCEPT),
        false => ACCEPT.to_owned(),
    };
    let encoding = if target.job.compressed { "gzip" } else { "identity" };
    let request = Request::get(&*target.url)
        .header(header::ACCEPT, accept)
        .header(header::ACCEPT_ENCODING, encoding)
        .header("X-Prometheus-Scrape-Timeout-Seconds", target.timeout.as_secs_f64().to_string())
        .body(Bytes::new())
        .map_err(|e| e.to_string())?;
    let limit = match target.job.limits.body {
        0 => PAGE_BYTES_MAX,
        limit => limit,
    };
    let mut response = client.send(request, limit as usize).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("server returned HTTP status {status}"));
    }
    if response.headers().get(header::CONTENT_ENCODING).is_some_and(|how| how == "gzip") {
        *response.body_mut() = unpacked(response.body(), limit)?;
    }
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if target.job.protobuf && kind.is_some_and(|kind| kind.starts_with(protobuf::KIND)) {
        let (text, histograms) = protobuf::read(response.body(), target.job.classic)?;
        return Ok(Page { text: text.into(), openmetrics: false, histograms });
    }
    let openmetrics = is_openmetrics(response.headers(), target.job.fallback)?;
    Ok(Page { text: response.into_body(), openmetrics, histograms: Vec::new() })
}

/// A compressed page, of so many bytes at most.
fn unpacked(packed: &[u8], limit: u64) -> Result<Bytes, String> {
    let mut page = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(packed).take(limit + 1).read_to_end(&mut page);
    read.map_err(|e| format!("the page says that it is compressed by gzip: {e}"))?;
    if page.len() as u64 > limit {
        return Err(format!("body size limit exceeded: more than {limit} bytes"));
    }
    Ok(page.into())
}

fn is_openmetrics(headers: &HeaderMap, fallback: Option<bool>) -> Result<bool, String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/openmetrics-text" => Ok(true),
        "text/plain" => Ok(false),
        _ if fallback.is_some() => Ok(fallback == Some(true)),
        "" => Err("the page says no content type, and the job no fallback_scrape_protocol".into()),
        other => Err(format!("a page of type {other:?} cannot be read")),
    }
}
