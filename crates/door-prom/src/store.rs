//! The monitor: what it takes and what it is asked for.

use crate::client::Client;
use crate::config::Config;
use crate::exposition::Meaning;
use crate::fan::{Peer, Silent};
use crate::keep::{self, Kept};
use crate::own::Own;
use crate::push::gateway::{self, Gateway};
use crate::push::otlp::Sums;
use crate::room::{Level, Room};
use crate::rules::{self, RuleSettings, Rules};
use crate::scrape::{self, Surroundings};
use crate::send::{self, Outbox, ReceiverStatus};
use crate::targets::{TargetKey, TargetStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synod_promql::{Histogram, Labels, Matcher, STALE, Sample, Series, Source};
use synod_tsdb::{Exemplar, Gather, Head, Limits, NoExemplar, Refused, SeriesId, Taken};
use tokio::sync::Semaphore;

/// How far ahead of this node's clock a sample may be, ms.
const AHEAD_MAX: i64 = 600_000;
/// Families whose meaning is kept.
const MEANINGS_MAX: usize = 20_000;

/// How a monitor works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its log is.
    pub dir: PathBuf,
    /// Bounds of what it keeps.
    pub limits: Limits,
    /// What was taken is durable after so long: a crash loses no more.
    pub sync_every: Duration,
    /// Bytes of the disk that are left to others, a tenth of it at most; 0: none.
    pub reserve: u64,
    /// What a query may take.
    pub query: synod_promql::Limits,
    /// How long a query may take, at most.
    pub query_timeout: Duration,
    /// A `prometheus.yml` with what is scraped, evaluated and sent besides.
    pub config: Option<PathBuf>,
    /// Rules, and who is told of alerts, besides.
    pub rules: RuleSettings,
}

impl Settings {
    /// The defaults, with the log in this folder.
    pub fn in_dir(dir: &Path) -> Settings {
        Settings {
            dir: dir.to_owned(),
            limits: Limits::default(),
            sync_every: Duration::from_secs(5),
            reserve: 1 << 30,
            query: synod_promql::Limits::default(),
            query_timeout: Duration::from_secs(120),
            config: None,
            rules: RuleSettings::default(),
        }
    }
}

impl Settings {
    /// Where what was pushed to the gateway is kept.
    fn pushed_file(&self) -> PathBuf {
        self.dir.with_extension("pushed")
    }
}

/// Why a monitor cannot be started.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Monitoring of this process. Cheap to clone.
#[derive(Clone)]
pub struct Monitor(pub(crate) Arc<Shared>);

/// What is known of all targets.
#[derive(Default)]
pub(crate) struct Targets {
    pub active: BTreeMap<TargetKey, TargetStatus>,
    /// By job: how many relabelling dropped, and some of them.
    pub dropped: BTreeMap<String, (usize, Vec<Labels>)>,
}

pub(crate) struct Shared {
    pub settings: Settings,
    pub head: RwLock<Head>,
    pub gather: Mutex<Gather>,
    pub kept: Kept,
    pub room: Room,
    meanings: RwLock<BTreeMap<String, Meaning>>,
    config: RwLock<Arc<Config>>,
    pub targets: Mutex<Targets>,
    own: Own,
    gateway: Gateway,
    sums: Sums,
    node: String,
    peers: Arc<dyn Fn() -> Vec<Peer> + Send + Sync>,
    silent: Silent,
    /// For the cluster's own nodes.
    client: Client,
    pub rules: Rules,
    /// Those that what is taken is sent on to.
    outboxes: RwLock<Vec<Arc<Outbox>>>,
    pub started: SystemTime,
    /// Whether the configuration was good when it was read last, and when one that counts was.
    pub loaded: Mutex<(bool, SystemTime)>,
    /// What the log holds is back.
    pub ready: AtomicBool,
    /// Samples taken.
    pub taken: AtomicU64,
    /// Why the log is not written any more.
    pub failed: Mutex<Option<String>>,
    /// Of queries that run at a time.
    pub turns: Arc<Semaphore>,
    /// They end when their channel does.
    threads: Mutex<Vec<(Sender<()>, JoinHandle<()>)>>,
}

/// Twice the processors, since some wait for other nodes.
fn queries_at_once() -> usize {
    2 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2)
}

pub(crate) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix time, ms.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Monitor {
    /// Begins to bring back what the log holds; once that is done, to scrape the cluster
    /// around it and what the configuration names. Nobody has to wait for it: until then
    /// its pages say that it is not ready. Call it within a runtime: its tasks run there.
    pub fn start(settings: Settings, around: Surroundings) -> Result<Monitor, StartError> {
        let config = read_config(&settings).map_err(StartError)?;
        let groups = rules::load(&settings, &config).map_err(StartError)?;
        let shared = Arc::new(Shared {
            head: RwLock::new(Head::new(settings.limits)),
            room: Room::new(around.disk.clone(), settings.reserve),
            settings,
            gather: Mutex::default(),
            kept: Kept::default(),
            meanings: RwLock::default(),
            config: RwLock::new(Arc::new(config)),
            targets: Mutex::default(),
            gateway: Gateway::default(),
            sums: Sums::default(),
            node: around.node.clone(),
            own: Own::default(),
            peers: around.peers.clone(),
            silent: Silent::default(),
            client: Client::new(&around.job.http).map_err(StartError)?,
            rules: Rules::default(),
            outboxes: RwLock::default(),
            started: SystemTime::now(),
            loaded: Mutex::new((true, SystemTime::now())),
            ready: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            failed: Mutex::default(),
            turns: Arc::new(Semaphore::new(queries_at_once())),
            threads: Mutex::default(),
        });
        let (stop, stopped) = channel();
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("series-log".into()).spawn(move || {
            let log = keep::bring_back(&own);
            own.gateway.load(&own.settings.pushed_file());
            own.ready.store(true, Ordering::Release);
            keep::write_loop(&own, log, &stopped);
        });
        let thread = thread.map_err(|e| StartError(format!("starting the log's thread: {e}")))?;
        let (stop_blocks, stopped) = channel();
        let own = shared.clone();
        let blocks = std::thread::Builder::new().name("series-blocks".into());
        let blocks = blocks.spawn(move || keep::block_loop(&own, &stopped));
        let blocks = blocks.map_err(|e| StartError(format!("starting the blocks' thread: {e}")))?;
        *held(&shared.threads) = vec![(stop_blocks, blocks), (stop, thread)];
        let monitor = Monitor(shared);
        monitor.0.rules.set(groups);
        tokio::spawn(rules::manage(monitor.clone(), around.clone()));
        tokio::spawn(scrape::manage(monitor.clone(), around));
        tokio::spawn(gateway::keep(monitor.clone()));
        tokio::spawn(send::manage(monitor.clone()));
        Ok(monitor)
    }

    /// Reads the configuration file and the rule files again; what they say counts from then
    /// on. If one cannot be read, all stays as it was.
    pub fn reload(&self) -> Result<(), String> {
        let done = self.load_again();
        let mut loaded = held(&self.0.loaded);
        *loaded = (done.is_ok(), if done.is_ok() { SystemTime::now() } else { loaded.1 });
        done
    }

    fn load_again(&self) -> Result<(), String> {
        let config = read_config(&self.0.settings)?;
        self.0.rules.set(rules::load(&self.0.settings, &config)?);
        *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.head_mut().set_limits(self.limits());
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.0.config()
    }

    /// Whether what the log holds is back.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Makes durable what was taken, and ends the log. Blocks.
    pub fn close(&self) {
        if let Some(blocks) = self.blocks() {
            blocks.stop();
        }
        for (stop, thread) in std::mem::take(&mut *held(&self.0.threads)) {
            drop(stop);
            // A panic there was told when it came.
            let _ = thread.join();
        }
    }

    pub(crate) fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.0.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head_mut(&self) -> RwLockWriteGuard<'_, Head> {
        self.0.head.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series with these labels.
    pub(crate) fn series(&self, labels: &Labels) -> Result<SeriesId, Refused> {
        let found = self.head_mut().series(labels);
        if found.is_err() {
            self.0.own.series_refused.inc();
        }
        found
    }

    /// Takes samples of one time; gives those that were refused.
    pub(crate) fn append(&self, at: i64, samples: &[(SeriesId, f64)]) -> Vec<(SeriesId, Refused)> {
        if let Some(why) = self.refuses(at, samples.len()) {
            return samples.iter().map(|(id, _)| (*id, why.clone())).collect();
        }
        let (mut taken, mut refused) = (Vec::with_capacity(samples.len()), Vec::new());
        let mut late = Vec::new();
        let mut head = self.head_mut();
        for &(id, value) in samples {
            match head.append(id, Sample { at, value }) {
                Ok(Taken::InOrder) => taken.push((id, value)),
                Ok(Taken::Late) => late.push((id, value)),
                Ok(Taken::Again) => {}
                Err(why) => refused.push((id, why)),
            }
        }
        self.0.taken.fetch_add((taken.len() + late.len()) as u64, Ordering::Relaxed);
        self.0.own.refused.add(refused.len() as u64);
        // Under the head's lock, so that the log has a series' samples in their order.
        let mut gather = held(&self.0.gather);
        gather.add(&head, at, &taken);
        gather.add_late(&head, at, &late);
        drop(gather);
        taken.append(&mut late);
        for outbox in self.outboxes().iter() {
            outbox.put(at, &taken);
        }
        refused
    }

    /// Why samples of this time are not taken, whatever they are.
    fn refuses(&self, at: i64, samples: usize) -> Option<Refused> {
        let why = if at > now_ms() + AHEAD_MAX {
            // It would make all that is true seem old.
            Refused::Ahead
        } else if self.0.room.level() == Level::Nothing {
            Refused::NoRoom
        } else {
            return None;
        };
        self.0.own.refused.add(samples as u64);
        Some(why)
    }

    /// Takes histograms of one time; gives those that were refused.
    pub(crate) fn append_histograms(
        &self,
        at: i64,
        all: &[(SeriesId, Arc<Histogram>)],
    ) -> Vec<(SeriesId, Refused)> {
        if let Some(why) = self.refuses(at, all.len()) {
            return all.iter().map(|(id, _)| (*id, why.clone())).collect();
        }
        // That a series ended is said by a number, whatever it is of.
        let ended = all.iter().filter(|(_, h)| h.is_stale()).map(|(id, _)| (*id, STALE));
        let ended: Vec<(SeriesId, f64)> = ended.collect();
        let mut refused = if ended.is_empty() { Vec::new() } else { self.append(at, &ended) };
        let (before, mut taken) = (refused.len(), Vec::with_capacity(all.len()));
        let mut head = self.head_mut();
        for (id, histogram) in all.iter().filter(|(_, h)| !h.is_stale()) {
            match head.append_histogram(*id, at, histogram) {
                Ok(Taken::Again) => {}
                Ok(_) => taken.push((*id, histogram.clone())),
                Err(why) => refused.push((*id, why)),
            }
        }
        self.0.taken.fetch_add(taken.len() as u64, Ordering::Relaxed);
        self.0.own.refused.add((refused.len() - before) as u64);
        held(&self.0.gather).add_histograms(&head, at, &taken);
        for outbox in self.outboxes().iter() {
            outbox.put_histograms(at, &taken);
        }
        refused
    }

    /// Takes an exemplar of a series.
    pub fn exemplar(&self, series: &Labels, exemplar: Exemplar) -> Result<(), NoExemplar> {
        if held(&self.0.kept.exemplars).add(series, exemplar.clone())? {
            for outbox in self.outboxes().iter() {
                outbox.put_exemplar(series, &exemplar);
            }
        }
        Ok(())
    }

    /// Notes what a page says about a family.
    pub(crate) fn learn(&self, what: &str, name: &str, says: &str) {
        let known = |m: &Meaning| match what {
            "TYPE" => m.kind == says,
            "HELP" => m.help == says,
            _ => m.unit == says,
        };
        let meanings = self.0.meanings.read().unwrap_or_else(PoisonError::into_inner);
        if meanings.get(name).is_some_and(known) {
            return;
        }
        drop(meanings);
        let mut meanings = self.0.meanings.write().unwrap_or_else(PoisonError::into_inner);
        if meanings.len() >= MEANINGS_MAX && !meanings.contains_key(name) {
            return;
        }
        let meaning = meanings.entry(name.to_owned()).or_default();
        match what {
            "TYPE" => meaning.kind = says.to_owned(),
            "HELP" => meaning.help = says.to_owned(),
            _ => meaning.unit = says.to_owned(),
        }
    }

    /// What is known of families, by their names. Whoever holds it keeps pages from being learnt from.
    pub(crate) fn meanings(&self) -> RwLockReadGuard<'_, BTreeMap<String, Meaning>> {
        self.0.meanings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the log is not written any more, if so.
    pub fn log_failure(&self) -> Option<String> {
        held(&self.0.failed).clone()
    }

    pub(crate) fn outboxes(&self) -> RwLockReadGuard<'_, Vec<Arc<Outbox>>> {
        self.0.outboxes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How sending on to others goes.
    pub fn receivers(&self) -> Vec<ReceiverStatus> {
        self.outboxes().iter().map(|outbox| outbox.status()).collect()
    }

    pub(crate) fn send_to(&self, outboxes: Vec<Arc<Outbox>>) {
        *self.0.outboxes.write().unwrap_or_else(PoisonError::into_inner) = outboxes;
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        (self.0.peers)()
    }

    pub(crate) fn silent(&self) -> &Silent {
        &self.0.silent
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn own(&self) -> &Own {
        &self.0.own
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.0.gateway
    }

    pub(crate) fn pushed_file(&self) -> PathBuf {
        self.0.settings.pushed_file()
    }

    /// This node's name, if there may be others.
    pub(crate) fn node(&self) -> &str {
        &self.0.node
    }

    pub(crate) fn sums(&self) -> &Sums {
        &self.0.sums
    }

    pub(crate) fn targets(&self) -> MutexGuard<'_, Targets> {
        held(&self.0.targets)
    }
}

impl Shared {
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So many samples of the log were left out.
    pub fn note_skipped(&self, samples: u64) {
        self.own.skipped.add(samples);
    }

    /// The newest sample's time.
    pub fn newest(&self) -> i64 {
        self.head.read().unwrap_or_else(PoisonError::into_inner).newest()
    }
}

impl Source for Monitor {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        self.stored(matchers, from, to)
    }
}

fn read_config(settings: &Settings) -> Result<Config, String> {
    let Some(file) = &settings.config else { return Ok(Config::default()) };
    let config = Config::load(file)?;
    let (jobs, file) = (config.jobs.len(), file.display());
    tracing::info!(%file, count = jobs, "read so many scrape jobs");
    for field in &config.ignored {
        tracing::warn!(%file, setting = field, "a setting has no effect here");
    }
    Ok(config)
}
