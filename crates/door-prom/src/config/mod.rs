//! `prometheus.yml`: read, checked, and turned into what this crate acts on.

mod check;
mod examine;
mod requests;
pub(crate) mod yaml;

use crate::relabel::Rule;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use synod_promql::{duration_text, quoted};

pub use check::size;
pub(crate) use check::{groups, masked};
pub use examine::Findings;

/// What a configuration says, checked.
#[derive(Clone, Default)]
pub struct Config {
    /// What is scraped.
    pub jobs: Vec<Job>,
    /// Patterns of rule files, relative ones by the configuration's folder.
    pub rule_files: Vec<String>,
    /// How often rules are evaluated.
    pub evaluation_every: Duration,
    /// How far back from now rules look.
    pub rule_query_offset: Duration,
    /// Labels that alerts and remote systems get, unless a series has them.
    pub external_labels: Vec<(String, String)>,
    /// Where alerts go.
    pub alertmanagers: Vec<Alertmanagers>,
    /// Rules for alerts before they go there.
    pub alert_relabel: Vec<Rule>,
    /// Where samples are sent on to.
    pub remote_write: Vec<RemoteWrite>,
    /// How old a sample may be that comes late, if the file says.
    pub out_of_order: Option<Duration>,
    /// How long series are kept, if the file says.
    pub retention: Option<Duration>,
    /// Bytes of series that are kept, if the file says.
    pub retention_bytes: Option<u64>,
    /// Fields of the file that have no effect here, with their place.
    pub ignored: Vec<String>,
}

/// A scrape job.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Label `job` of its targets.
    pub name: String,
    /// How often.
    pub every: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
    /// `http` or `https`.
    pub scheme: String,
    /// Where the page is.
    pub path: String,
    /// Parameters of the request.
    pub params: Vec<(String, Vec<String>)>,
    /// Labels on the page come before the target's.
    pub honor_labels: bool,
    /// Times on the page count.
    pub honor_timestamps: bool,
    /// Series with times on the page end when they vanish, as the others do.
    pub end_timed: bool,
    /// How a page that says no content type is read: as OpenMetrics, or as text.
    pub fallback: Option<bool>,
    /// Pages are asked for in the protobuf form, for their native histograms.
    pub protobuf: bool,
    /// Pages may come compressed.
    pub compressed: bool,
    /// What has native buckets keeps its classic ones.
    pub classic: bool,
    /// For targets.
    pub relabel: Vec<Rule>,
    /// For samples.
    pub metric_relabel: Vec<Rule>,
    /// Bounds.
    pub limits: ScrapeLimits,
    /// Where targets come from.
    pub discovery: Vec<Discovery>,
    /// How requests are made.
    pub(crate) http: yaml::Http,
}

/// Bounds of a job; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrapeLimits {
    /// Bytes of a page.
    pub body: u64,
    /// Samples of a page.
    pub samples: usize,
    /// Labels of a series.
    pub labels: usize,
    /// Bytes of a label's name.
    pub label_name: usize,
    /// Bytes of a label's value.
    pub label_value: usize,
    /// Targets of the job.
    pub targets: usize,
    /// Buckets of a native histogram; it is made coarser to have no more.
    pub buckets: usize,
    /// Schema of the finest native histograms; finer ones are made coarser.
    pub finest: Option<i32>,
}

/// Where targets come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Discovery {
    /// The configuration itself.
    Static(Vec<Group>),
    /// Files, YAML or JSON, read again when they change.
    File {
        /// Names, with `*` and `?` in the last part.
        patterns: Vec<String>,
        /// They are looked at this often.
        every: Duration,
    },
    /// An address that answers with a JSON list of groups.
    Http {
        /// The address.
        url: String,
        /// It is asked this often.
        every: Duration,
        /// How.
        #[allow(private_interfaces)]
        http: Box<yaml::Http>,
    },
    /// Names of the domain name system.
    Dns {
        /// The names.
        names: Vec<String>,
        /// What kind of record.
        kind: Record,
        /// The port of targets; none for SRV records, which say it.
        port: u16,
        /// They are asked for this often.
        every: Duration,
    },
    /// Services of the cluster's own registry.
    Registry {
        /// Names of services.
        services: Vec<String>,
        /// It is read this often.
        every: Duration,
    },
}

/// Kinds of records that name targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// Addresses of version 4.
    A,
    /// Of version 6.
    Aaaa,
    /// Mail exchangers.
    Mx,
    /// Name servers.
    Ns,
    /// Host and port of a service.
    Srv,
}

/// Targets with labels in common.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Addresses, HOST:PORT.
    pub targets: Vec<String>,
    /// Labels of all of them.
    pub labels: Vec<(String, String)>,
}

/// Alertmanagers that are reached the same way.
#[derive(Clone, PartialEq, Debug)]
pub struct Alertmanagers {
    /// Where they are named.
    pub discovery: Vec<Discovery>,
    /// `http` or `https`.
    pub scheme: String,
    /// In front of their API's path.
    pub path_prefix: String,
    /// How long a request may take.
    pub timeout: Duration,
    /// For their addresses.
    pub relabel: Vec<Rule>,
    /// How requests are made.
    pub(crate) http: yaml::Http,
}

/// Another system that samples are sent on to.
#[derive(Clone, PartialEq, Debug)]
pub struct RemoteWrite {
    /// Its name in metrics and logs.
    pub name: String,
    /// Where.
    pub url: String,
    /// How long a request may take.
    pub timeout: Duration,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// For samples.
    pub relabel: Vec<Rule>,
    /// By version 2.0.
    pub version2: bool,
    /// It gets native histograms.
    pub histograms: bool,
    /// It gets exemplars.
    pub exemplars: bool,
    /// Samples of a request, at most.
    pub samples_max: usize,
    /// What waits is sent after so long.
    pub deadline: Duration,
    /// Pauses between tries: the first, and the longest.
    pub backoff: (Duration, Duration),
    /// "Too many requests" is tried again.
    pub retry_429: bool,
    /// Older samples are not sent; zero: all are.
    pub age_max: Duration,
    /// How requests are made.
    pub(crate) http: yaml::Http,
}

impl Job {
    /// A job with Prometheus's defaults, and no target.
    pub fn new(name: &str, every: Duration) -> Job {
        Job {
            name: name.to_owned(),
            every,
            timeout: every.min(Duration::from_secs(10)),
            scheme: "http".into(),
            path: "/metrics".into(),
            params: Vec::new(),
            honor_labels: false,
            honor_timestamps: true,
            compressed: false,
            end_timed: false,
            fallback: None,
            protobuf: false,
            classic: false,
            relabel: Vec::new(),
            metric_relabel: Vec::new(),
            limits: ScrapeLimits::default(),
            discovery: Vec::new(),
            http: yaml::Http { follow_redirects: true, ..yaml::Http::default() },
        }
    }
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Config, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("reading {}: {e}", path.display()))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty());
        let config = Config::parse(&text, base.unwrap_or(Path::new(".")));
        config.map_err(|e| format!("{}: {e}", path.display()))
    }

    /// What is in effect, as YAML, without anything secret.
    pub(crate) fn shown(&self) -> String {
        let every = |d: Duration| duration_text(d.as_millis() as i64);
        let mut out = String::from("global:\n");
        // Without a file there are no rules but the shipped ones, which have intervals of
        // their own.
        if !self.evaluation_every.is_zero() {
            let _ = writeln!(out, "  evaluation_interval: {}", every(self.evaluation_every));
        }
        if !self.external_labels.is_empty() {
            out += "  external_labels:\n";
        }
        for (name, value) in &self.external_labels {
            let _ = writeln!(out, "    {}: {}", quoted(name), quoted(value));
        }
        if !self.jobs.is_empty() {
            out += "scrape_configs:\n";
        }
        for job in &self.jobs {
            let _ = writeln!(
                out,
                "- job_name: {}\n  scrape_interval: {}\n  scrape_timeout: {}\n  metrics_path: {}\n  \
                 scheme: {}",
                quoted(&job.name),
                every(job.every),
                every(job.timeout),
                quoted(&job.path),
                job.scheme
            );
        }
        if !self.rule_files.is_empty() {
            out += "rule_files:\n";
        }
        for file in &self.rule_files {
            let _ = writeln!(out, "- {}", quoted(file));
        }
        if !self.remote_write.is_empty() {
            out += "remote_write:\n";
        }
        for one in &self.remote_write {
            // Whoever puts a password into an address does not mean to show it.
            let url: http::Uri = one.url.parse().unwrap_or_default();
            let scheme = url.scheme_str().unwrap_or("http");
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let host = url.host().unwrap_or_default();
            let shown = format!("{scheme}://{host}{port}{}", url.path());
            let _ = writeln!(out, "- name: {}\n  url: {}", quoted(&one.name), quoted(&shown));
        }
        out
    }

    /// Reads a text; relative file names in it are by `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Config, String> {
        check::config(text, base)
    }
}

#[cfg(test)]
mod tests;
