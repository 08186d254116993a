//! Rules: which there are, and a task for each group that evaluates it on its interval.

mod api;
mod load;
mod notify;
mod own;
mod webhook;

pub(crate) use load::load;

use crate::scrape::Surroundings;
use crate::store::{Monitor, now_ms};
use notify::Notifier;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use synod_promql::{Histogram, Labels, Matcher, Series, Source};
use synod_rules::{Environment, Group, Restore, Rule, State, Store, slot};
use tokio::task::JoinHandle;

/// How often it is looked whether there are other rules.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An alert that fires is told of again after so long.
const RESEND: i64 = 60_000;

/// What is evaluated, and who is told of alerts, besides what the configuration file names.
#[derive(Clone, Debug)]
pub struct RuleSettings {
    /// Patterns of rule files.
    pub files: Vec<String>,
    /// Rule files that are in the program itself: name and text.
    pub shipped: Vec<(String, String)>,
    /// Alertmanagers: their addresses, without the API's path.
    pub alertmanagers: Vec<String>,
    /// Addresses that get alerts in the shape of Alertmanager's webhooks.
    pub webhooks: Vec<String>,
    /// Labels that alerts get, unless they have them.
    pub external_labels: Vec<(String, String)>,
    /// Where this server's pages are, for links in alerts.
    pub external_url: String,
    /// How often groups are evaluated that say nothing, if the configuration says nothing.
    pub every: Duration,
    /// How states of alerts are brought back after a restart.
    pub restore: Restore,
}

impl Default for RuleSettings {
    fn default() -> RuleSettings {
        RuleSettings {
            files: Vec::new(),
            shipped: Vec::new(),
            alertmanagers: Vec::new(),
            webhooks: Vec::new(),
            external_labels: Vec::new(),
            external_url: String::new(),
            every: Duration::from_secs(60),
            restore: Restore::default(),
        }
    }
}

/// A group that is evaluated.
pub(crate) struct Running {
    pub group: Group,
    /// How long the last evaluation of each rule took.
    pub rules_took: Vec<Duration>,
    /// How long the last evaluation took.
    pub took: Duration,
}

/// What the metrics page shows of a group. Apart from the group, which is locked while a
/// rule is evaluated: the page waits for nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shown {
    /// Times it was due and not evaluated.
    pub missed: u64,
    /// Evaluations of rules.
    pub evaluations: u64,
    /// Those that failed.
    pub failures: u64,
    /// How long the last evaluation took.
    pub took: Duration,
    /// Alerts that are pending.
    pub pending: usize,
    /// Alerts that fire.
    pub firing: usize,
}

/// A group, its state and what is shown of it.
pub(crate) struct Evaluated {
    pub file: String,
    pub name: String,
    running: Mutex<Running>,
    shown: Mutex<Shown>,
}

impl Evaluated {
    /// Waits for a rule that is evaluated: not for the runtime's own threads.
    pub fn running(&self) -> MutexGuard<'_, Running> {
        held(&self.running)
    }

    pub fn shown(&self) -> Shown {
        *held(&self.shown)
    }
}

/// A monitor's rules.
#[derive(Default)]
pub(crate) struct Rules {
    /// As they were read last.
    read: RwLock<Arc<Vec<Group>>>,
    running: RwLock<Vec<Arc<Evaluated>>>,
    pub notifier: Notifier,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rules {
    /// Takes groups that were read; they are evaluated from the next look on.
    pub fn set(&self, groups: Vec<Group>) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(groups);
    }

    fn read(&self) -> Arc<Vec<Group>> {
        self.read.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that are evaluated, in order of file and name.
    pub fn running(&self) -> Vec<Arc<Evaluated>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A monitor's series as rules see them.
struct Stored<'a> {
    monitor: &'a Monitor,
    until: Instant,
}

impl Source for Stored<'_> {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        self.monitor.select(matchers, from, to)
    }

    fn gives_up(&self) -> bool {
        Instant::now() > self.until
    }
}

impl Store for Stored<'_> {
    fn append(&self, at: i64, samples: &[(Labels, f64)]) -> usize {
        let (mut refused, mut known) = (0, Vec::with_capacity(samples.len()));
        for (labels, value) in samples {
            match self.monitor.series(labels) {
                Ok(id) => known.push((id, *value)),
                Err(why) => {
                    refused += 1;
                    tracing::debug!(series = %labels, error = %why, "a rule's series was refused");
                }
            }
        }
        refused + self.monitor.append(at, &known).len()
    }

    fn append_histograms(&self, at: i64, all: &[(Labels, Arc<Histogram>)]) -> usize {
        let id = |(labels, h): &(Labels, Arc<Histogram>)| {
            self.monitor.series(labels).ok().map(|id| (id, h.clone()))
        };
        let known: Vec<_> = all.iter().filter_map(id).collect();
        all.len() - known.len() + self.monitor.append_histograms(at, &known).len()
    }
}

impl Monitor {
    fn rule_store(&self) -> Stored<'_> {
        Stored { monitor: self, until: Instant::now() + self.0.settings.query_timeout }
    }
}

type Key = (String, String);

/// Keeps a task for each group, and the receivers of alerts.
pub(crate) async fn manage(monitor: Monitor, around: Surroundings) {
    while !monitor.is_ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut tasks: HashMap<Key, (Arc<Evaluated>, JoinHandle<()>)> = HashMap::new();
    let mut receivers = notify::Receivers::default();
    let mut taken: Option<Arc<Vec<Group>>> = None;
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    loop {
        ticker.tick().await;
        receivers.follow(&monitor, &around);
        let read = monitor.0.rules.read();
        if taken.as_ref().is_some_and(|t| Arc::ptr_eq(t, &read)) {
            continue;
        }
        let first = taken.is_none();
        let mut before = tasks;
        tasks = HashMap::new();
        for (_, task) in before.values() {
            task.abort();
        }
        for group in read.iter() {
            let key = (group.file.clone(), group.name.clone());
            let old = before.remove(&key).map(|(old, _)| old);
            let started = start(&monitor, group.clone(), old, first);
            let task = tokio::spawn(follow(monitor.clone(), started.clone(), group.interval));
            tasks.insert(key, (started, task));
        }
        for (gone, _) in before.into_values() {
            gone.running().group.end(now_ms(), &monitor.rule_store());
        }
        let sorted: BTreeMap<&Key, _> = tasks.iter().map(|(k, (group, _))| (k, group)).collect();
        let running = sorted.into_values().cloned().collect();
        *monitor.0.rules.running.write().unwrap_or_else(PoisonError::into_inner) = running;
        taken = Some(read);
    }
}

fn start(
    monitor: &Monitor,
    mut group: Group,
    old: Option<Arc<Evaluated>>,
    first: bool,
) -> Arc<Evaluated> {
    let mut shown = Shown::default();
    if first {
        group.await_restore();
    }
    if let Some(old) = old {
        let known = old.running().group.clone();
        group.take_over(known, now_ms(), &monitor.rule_store());
        shown = old.shown();
    }
    let (file, name) = (group.file.clone(), group.name.clone());
    let rules_took = vec![Duration::ZERO; group.rules.len()];
    let running = Mutex::new(Running { group, rules_took, took: Duration::ZERO });
    Arc::new(Evaluated { file, name, running, shown: Mutex::new(shown) })
}

/// Evaluates a group whenever it is due.
async fn follow(monitor: Monitor, group: Arc<Evaluated>, interval: i64) {
    let (file, name) = (&group.file, &group.name);
    let mut last = slot(file, name, interval, now_ms());
    let mut rounds = 0u32;
    loop {
        // Not longer than the interval, also when the clock was set back.
        let wait = (last + interval - now_ms()).clamp(0, interval);
        tokio::time::sleep(Duration::from_millis(wait as u64)).await;
        let due = slot(file, name, interval, now_ms());
        if due == last {
            continue;
        }
        // Those that passed while it was busy are left out.
        let missed = ((due - last) / interval - 1).max(0) as u64;
        last = due;
        rounds = rounds.saturating_add(1);
        // The second look: by then what it needs was scraped, and recorded by other rules.
        let restores = rounds == 2;
        let (own, evaluated) = (monitor.clone(), group.clone());
        let evaluating = tokio::task::spawn_blocking(move || {
            evaluate(&own, &evaluated, due, missed);
            if restores {
                restore(&own, &evaluated);
            }
        });
        if let Err(e) = evaluating.await {
            tracing::error!(file, group = name, error = %e, "evaluating a group failed");
        }
    }
}

fn restore(monitor: &Monitor, group: &Evaluated) {
    let how = monitor.0.settings.rules.restore;
    let restored = group.running().group.restore(now_ms(), &monitor.rule_store(), &how);
    if let Err(why) = restored {
        tracing::error!(group = group.name, error = %why, "states of alerts cannot be restored");
    }
}

fn evaluate(monitor: &Monitor, evaluated: &Evaluated, at: i64, missed: u64) {
    let begun = Instant::now();
    let rules = evaluated.running().group.rules.len();
    let mut failures = 0;
    for index in 0..rules {
        // Only for one rule, so that the pages can be read in between.
        let mut running = evaluated.running();
        let begun = Instant::now();
        let before = running.group.rules[index].error.clone();
        running.group.eval_rule(index, at, &monitor.rule_store());
        running.rules_took[index] = begun.elapsed();
        let rule = &running.group.rules[index];
        if !rule.error.is_empty() {
            if rule.error != before {
                let (group, rule, why) = (&evaluated.name, rule.spec.name(), &rule.error);
                tracing::warn!(group, rule, error = why, "evaluating a rule failed");
            }
            failures += 1;
        }
    }
    let mut running = evaluated.running();
    running.took = begun.elapsed();
    let due = running.group.take_due(at, RESEND);
    if !due.is_empty() {
        monitor.0.rules.notifier.tell(monitor, &running.group, due);
    }
    let active = || running.group.rules.iter().flat_map(Rule::active);
    let firing = active().filter(|a| a.state == State::Firing).count();
    let pending = active().count() - firing;
    let mut shown = held(&evaluated.shown);
    let (evaluations, failures) = (shown.evaluations + rules as u64, shown.failures + failures);
    let (missed, took) = (shown.missed + missed, running.took);
    *shown = Shown { missed, evaluations, failures, took, pending, firing };
}

/// What the groups of a monitor have in common.
fn environment(
    settings: &RuleSettings,
    external: &Labels,
    limits: synod_promql::Limits,
) -> Environment {
    Environment {
        external_labels: external.clone(),
        external_url: settings.external_url.clone(),
        limits,
    }
}
