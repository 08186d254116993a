//! Where targets come from: each source is asked by a task of its own, and what it said
//! last counts until it says something else.

use crate::client::Client;
use crate::config::{Discovery, Group, Record, groups, masked};
use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use http::{Request, StatusCode, header};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use synod_promql::Labels;
use tokio::task::JoinHandle;

/// The label that holds a target's address.
pub(crate) const ADDRESS: &str = "__address__";
/// Bytes of an answer that lists targets, at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long such an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Files of one pattern, at most.
const FILES_MAX: usize = 1_000;

/// What gives the instances of a service of the cluster's registry: their labels, with
/// `__address__` and what is known besides.
pub type Registry = Arc<dyn Fn(&str) -> Result<Vec<Labels>, String> + Send + Sync>;

/// A source of targets, and what it said last.
pub(crate) struct Source {
    said: Arc<Mutex<Vec<Labels>>>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Source {
    /// Begins to ask.
    pub fn start(what: &Discovery, job: &str, registry: &Registry) -> Result<Source, String> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let asker = match what {
            Discovery::Static(groups) => {
                let found = groups.iter().flat_map(|g| of_group(g, &[])).collect();
                return Ok(Source { said: Arc::new(Mutex::new(found)), task: None });
            }
            Discovery::File { patterns, .. } => Asker::File(patterns.clone()),
            Discovery::Http { url, http, .. } => Asker::Http(Client::new(http)?, url.clone()),
            Discovery::Dns { names, kind, port, .. } => {
                let resolver = TokioResolver::builder_tokio().and_then(|b| b.build());
                let resolver = resolver.map_err(|e| format!("the system's resolver: {e}"))?;
                Asker::Dns { resolver, names: names.clone(), kind: *kind, port: *port }
            }
            Discovery::Registry { services, .. } => {
                Asker::Registry(registry.clone(), services.clone())
            }
        };
        let every = match what {
            Discovery::Static(_) => Duration::MAX,
            Discovery::File { every, .. }
            | Discovery::Http { every, .. }
            | Discovery::Dns { every, .. }
            | Discovery::Registry { every, .. } => *every,
        };
        let task = tokio::spawn(ask(asker, every, said.clone(), job.to_owned()));
        Ok(Source { said, task: Some(task) })
    }

    /// The labels of the targets, before relabelling.
    pub fn targets(&self) -> Vec<Labels> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

enum Asker {
    File(Vec<String>),
    Http(Client, String),
    Dns { resolver: TokioResolver, names: Vec<String>, kind: Record, port: u16 },
    Registry(Registry, Vec<String>),
}

/// What parts of a source say: a file, a name, a service.
type Said = Vec<(String, Result<Vec<Labels>, String>)>;

/// A part that fails keeps what it said before; each new failure is told once.
async fn ask(asker: Asker, every: Duration, said: Arc<Mutex<Vec<Labels>>>, job: String) {
    let mut every = every.max(Duration::from_secs(1));
    let mut failed: HashMap<String, String> = HashMap::new();
    let mut known: BTreeMap<String, Vec<Labels>> = BTreeMap::new();
    loop {
        let parts = asker.ask(&mut every).await;
        let mut latest = BTreeMap::new();
        for (part, found) in parts {
            match found {
                Ok(found) => {
                    failed.remove(&part);
                    latest.insert(part, found);
                }
                Err(why) => {
                    if failed.insert(part.clone(), why.clone()).as_ref() != Some(&why) {
                        let why = format!("{part}: {why}");
                        tracing::warn!(
                            job,
                            error = why,
                            "looking for targets: those known before stay"
                        );
                    }
                    latest.extend(known.remove_entry(&part));
                }
            }
        }
        known = latest;
        let all = known.values().flatten().cloned().collect();
        *said.lock().unwrap_or_else(PoisonError::into_inner) = all;
        tokio::time::sleep(every).await;
    }
}

impl Asker {
    async fn ask(&self, every: &mut Duration) -> Said {
        match self {
            Asker::File(patterns) => {
                let patterns = patterns.clone();
                let read = tokio::task::spawn_blocking(move || files(&patterns)).await;
                read.unwrap_or_default()
            }
            Asker::Http(client, url) => {
                let asked = tokio::time::timeout(ANSWER_WITHIN, by_http(client, url, every)).await;
                let asked =
                    asked.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WITHIN:?}")));
                vec![(masked(url), asked)]
            }
            Asker::Dns { resolver, names, kind, port } => {
                let mut said = Vec::new();
                for name in names {
                    said.push((name.clone(), by_dns(resolver, name, *kind, *port).await));
                }
                said
            }
            Asker::Registry(registry, services) => {
                services.iter().map(|service| (service.clone(), registry(service))).collect()
            }
        }
    }
}

/// The targets of a group, with its labels and those of its source.
fn of_group(group: &Group, source: &[(&str, &str)]) -> Vec<Labels> {
    let labels = |target: &String| {
        let group = group.labels.iter().map(|(n, v)| (&**n, &**v));
        Labels::new(source.iter().copied().chain(group).chain([(ADDRESS, &**target)]))
    };
    group.targets.iter().map(labels).collect()
}

/// The files that a pattern names, in order.
pub(crate) fn glob(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let found = glob::glob(pattern).map_err(|e| format!("pattern {pattern:?}: {e}"))?;
    let mut all = Vec::new();
    for path in found {
        all.push(path.map_err(|e| e.to_string())?);
        if all.len() > FILES_MAX {
            return Err(format!("pattern {pattern:?} names more than {FILES_MAX} files"));
        }
    }
    all.sort();
    Ok(all)
}

fn files(patterns: &[String]) -> Said {
    let mut said = Vec::new();
    for pattern in patterns {
        match glob(pattern) {
            Ok(paths) => said.extend(paths.into_iter().map(|path| {
                let name = path.to_string_lossy().into_owned();
                let found = file(&path, &name);
                (name, found)
            })),
            Err(why) => said.push((pattern.clone(), Err(why))),
        }
    }
    said
}

fn file(path: &Path, name: &str) -> Result<Vec<Labels>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let groups = groups(&text)?;
    Ok(groups.iter().flat_map(|group| of_group(group, &[("__meta_filepath", name)])).collect())
}

async fn by_http(client: &Client, url: &str, every: &mut Duration) -> Result<Vec<Labels>, String> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/json")
        .header("X-Prometheus-Refresh-Interval-Seconds", every.as_secs_f64().to_string())
        .body(Bytes::new())
        .map_err(|e| e.to_string())?;
    let answer = client.send(request, ANSWER_BYTES_MAX).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("server returned HTTP status {}", answer.status()));
    }
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if !kind.is_some_and(|k| k.starts_with("application/json")) {
        return Err(format!("content type {:?} is not JSON", kind.unwrap_or_default()));
    }
    let text = std::str::from_utf8(answer.body()).map_err(|e| e.to_string())?;
    let groups = groups(text)?;
    Ok(groups.iter().flat_map(|g| of_group(g, &[("__meta_url", url)])).collect())
}

async fn by_dns(
    resolver: &TokioResolver,
    name: &str,
    kind: Record,
    port: u16,
) -> Result<Vec<Labels>, String> {
    let wanted = match kind {
        Record::A => RecordType::A,
        Record::Aaaa => RecordType::AAAA,
        Record::Mx => RecordType::MX,
        Record::Ns => RecordType::NS,
        Record::Srv => RecordType::SRV,
    };
    let answer = match resolver.lookup(name, wanted).await {
        Ok(answer) => answer,
        // It is known that there is none: not a failure.
        Err(e) if e.is_nx_domain() || e.is_no_records_found() => return Ok(Vec::new()),
        Err(e) => return Err(e.to_string()),
    };
    let mut found = Vec::new();
    let host = |name: &str| name.trim_end_matches('.').to_owned();
    for record in answer.answers() {
        let base = [("__meta_dns_name", name.to_owned())];
        let (address, more) = match &record.data {
            RData::A(a) => (format!("{}:{port}", a.0), vec![]),
            RData::AAAA(a) => (format!("[{}]:{port}", a.0), vec![]),
            RData::MX(mx) => {
                let target = mx.exchange.to_utf8();
                let address = format!("{}:{port}", host(&target));
                (address, vec![("__meta_dns_mx_record_target", target)])
            }
            RData::NS(ns) => {
                let target = ns.0.to_utf8();
                let address = format!("{}:{port}", host(&target));
                (address, vec![("__meta_dns_ns_record_target", target)])
            }
            RData::SRV(srv) => {
                let (target, port) = (srv.target.to_utf8(), srv.port.to_string());
                let more = vec![
                    ("__meta_dns_srv_record_target", target.clone()),
                    ("__meta_dns_srv_record_port", port.clone()),
                ];
                (format!("{}:{port}", host(&target)), more)
            }
            _ => continue,
        };
        found.push(Labels::new(base.into_iter().chain(more).chain([(ADDRESS, address)])));
    }
    Ok(found)
}
