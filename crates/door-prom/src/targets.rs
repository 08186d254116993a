//! What is scraped: from the labels that a source gives to a target with an address.

use crate::config::Job;
use crate::discovery::ADDRESS;
use crate::relabel::relabel;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use synod_promql::{Labels, duration, duration_text};

/// Labels that a job and relabelling set to say how a target is scraped.
pub const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PATH: &str = "__metrics_path__";
const SCHEME: &str = "__scheme__";
const PARAM: &str = "__param_";

/// What is scraped.
#[derive(Clone, Debug)]
pub struct Target {
    /// The job it belongs to.
    pub job: Arc<Job>,
    /// As its source gave it, with the job's defaults.
    pub discovered: Labels,
    /// Labels of all its series.
    pub labels: Labels,
    /// Where its page is.
    pub url: String,
    /// How often.
    pub every: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
}

impl PartialEq for Target {
    /// Whether it is scraped the same way with the same result.
    fn eq(&self, other: &Target) -> bool {
        self.job == other.job
            && self.labels == other.labels
            && self.url == other.url
            && self.every == other.every
            && self.timeout == other.timeout
    }
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

impl TargetStatus {
    pub(crate) fn new(target: Target) -> TargetStatus {
        let (took, error) = (Duration::ZERO, String::new());
        TargetStatus { target, health: Health::Unknown, last: None, took, error }
    }
}

/// Which target: one job scrapes no page twice for the same labels.
pub(crate) type TargetKey = (String, Labels, String);

impl Target {
    pub(crate) fn key(&self) -> TargetKey {
        (self.job.name.clone(), self.labels.clone(), self.url.clone())
    }

    /// The target that a source's labels stand for; `None`: relabelling drops it.
    pub(crate) fn new(job: &Arc<Job>, discovered: &Labels) -> Result<Option<Target>, String> {
        let discovered = with_defaults(job, discovered);
        let Some(labels) = relabel(discovered.clone(), &job.relabel) else { return Ok(None) };
        let address = labels.get(ADDRESS);
        if address.is_empty() || address.contains('/') {
            return Err(format!("target {discovered}: {address:?} is no HOST:PORT"));
        }
        let scheme = labels.get(SCHEME);
        if !matches!(scheme, "http" | "https") {
            return Err(format!(
                "target {discovered}: scheme {scheme:?} is neither http nor https"
            ));
        }
        let time = |name: &str| {
            let ms = duration(labels.get(name)).filter(|ms| *ms > 0);
            let bad = || format!("target {discovered}: {name} {:?}", labels.get(name));
            ms.map(|ms| Duration::from_millis(ms as u64)).ok_or_else(bad)
        };
        let (every, timeout) = (time(INTERVAL)?, time(TIMEOUT)?);
        if timeout > every {
            return Err(format!("target {discovered}: its time-out is longer than its interval"));
        }
        let url = format!("{scheme}://{address}{}", path_and_query(job, &labels));
        let own: Vec<String> = labels
            .iter()
            .filter(|(name, _)| name.starts_with("__"))
            .map(|(name, _)| name.to_owned())
            .collect();
        let mut kept = labels.without(&own);
        if kept.get("instance").is_empty() {
            kept = kept.with("instance", address);
        }
        Ok(Some(Target { job: job.clone(), discovered, labels: kept, url, every, timeout }))
    }
}

fn with_defaults(job: &Job, discovered: &Labels) -> Labels {
    let mut labels = discovered.clone();
    let mut usually = |name: &str, value: &str| {
        if labels.get(name).is_empty() {
            labels = labels.with(name, value);
        }
    };
    usually("job", &job.name);
    usually(INTERVAL, &duration_text(job.every.as_millis() as i64));
    usually(PATH, &job.path);
    usually(SCHEME, &job.scheme);
    for (name, values) in &job.params {
        if let Some(first) = values.first() {
            usually(&format!("{PARAM}{name}"), first);
        }
    }
    // A target that is scraped more often than its job has less time.
    let every = duration(labels.get(INTERVAL)).unwrap_or(i64::MAX);
    let timeout = every.min(job.timeout.as_millis() as i64);
    if labels.get(TIMEOUT).is_empty() {
        labels = labels.with(TIMEOUT, &duration_text(timeout));
    }
    labels
}

fn path_and_query(job: &Job, labels: &Labels) -> String {
    let path = labels.get(PATH);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut named: Vec<&str> = job.params.iter().map(|(name, _)| &**name).collect();
    let set = labels.iter().filter_map(|(name, _)| name.strip_prefix(PARAM));
    for name in set {
        if !named.contains(&name) {
            named.push(name);
        }
    }
    for name in named {
        let first = labels.get(&format!("{PARAM}{name}"));
        let rest = job.params.iter().find(|(n, _)| n == name).map_or(&[][..], |(_, v)| v);
        if !first.is_empty() {
            query.append_pair(name, first);
        }
        for value in rest.iter().skip(1) {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    let mark = match (query.is_empty(), path.contains('?')) {
        (true, _) => "",
        (false, true) => "&",
        (false, false) => "?",
    };
    format!("{slash}{path}{mark}{query}")
}
