//! The Pushgateway's API: batch jobs push groups of metrics, which stay until they are
//! deleted. A group is kept on disk before its push is answered, and its samples are
//! appended to the series again and again, as if somebody scraped a gateway.

use crate::exposition::{self, labels_of};
use crate::fan::{Fan, Peer};
use crate::form::{Asker, Form};
use crate::json::plain;
use crate::push::families::{self, Family};
use crate::room::Level;
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use synod_promql::{Labels, NAME, STALE};

const TEXT: &str = "text/plain; charset=utf-8";
/// Groups, at most.
const GROUPS_MAX: usize = 10_000;
/// How long others may take to hear of a change.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Samples of all groups, at most.
const SAMPLES_MAX: usize = 200_000;
/// How often what was pushed is appended again.
const AGAIN_EVERY: Duration = Duration::from_secs(15);
/// First word of the file; a number for its version.
const MAGIC: &str = "synod-pushed-1";

/// What was pushed and not deleted.
#[derive(Default)]
pub(crate) struct Gateway {
    groups: Mutex<Groups>,
    /// Which generation of the groups is on disk.
    saved: Mutex<u64>,
}

#[derive(Default)]
struct Groups {
    all: BTreeMap<Labels, Group>,
    generation: u64,
}

/// The metrics of a job, or of what else is in its address.
#[derive(Clone, Default)]
struct Group {
    families: BTreeMap<String, Family>,
    /// When it was pushed last, and when a push failed last; unix time, s.
    pushed: f64,
    failed: f64,
}

/// A group as the file has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    labels: BTreeMap<String, String>,
    pushed: f64,
    failed: f64,
    families: BTreeMap<String, StoredFamily>,
}

#[derive(Serialize, Deserialize)]
struct StoredFamily {
    kind: String,
    help: String,
    /// Labels, and the value's bits.
    samples: Vec<(BTreeMap<String, String>, u64)>,
}

type Told = (StatusCode, String);

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a request to `/metrics/job…`.
pub(crate) fn answer(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    match act(monitor, request) {
        Ok(status) => plain(status, TEXT, String::new()),
        Err((status, why)) => plain(status, TEXT, why + "\n"),
    }
}

fn act(monitor: &Monitor, request: &Request<Bytes>) -> Result<StatusCode, Told> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let key = group_of(request.uri().path()).map_err(bad)?;
    let form = Form::new(request.uri().query().unwrap_or_default(), &[]);
    let (gateway, now) = (monitor.gateway(), now_ms());
    let (ended, forgotten, status) = match *request.method() {
        Method::PUT | Method::POST => {
            monitor.has_room(false).map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why))?;
            let whole = request.method() == Method::PUT;
            let new = match read(request, &key) {
                Ok(new) => new,
                Err(why) => {
                    if gateway.note_failure(&key, now) {
                        append(monitor, &key, &[], now);
                        gateway.save(monitor.pushed_file()).map_err(internal)?;
                    }
                    return Err(bad(why));
                }
            };
            let names: Vec<String> = new.keys().cloned().collect();
            let ended = gateway.push(&key, new, whole, now).map_err(bad)?;
            (ended, (!whole).then_some(names), StatusCode::OK)
        }
        Method::DELETE => match form.get("families") {
            // Another node took a push of these.
            Some(names) => {
                let names: Vec<&str> = names.split(',').collect();
                (gateway.forget(&key, &names), None, StatusCode::ACCEPTED)
            }
            None => (gateway.delete(&key), None, StatusCode::ACCEPTED),
        },
        // The API's routes have no other.
        _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".into())),
    };
    append(monitor, &key, &ended, now);
    gateway.save(monitor.pushed_file()).map_err(internal)?;
    if form.get("nodes") != Some("local") {
        tell_others(monitor, request.uri().path(), forgotten.as_deref());
    }
    Ok(status)
}

/// A group is what was pushed last, to whichever node: the others forget what they have
/// of it, or its families of these names. A node that does not hear of it is logged.
fn tell_others(monitor: &Monitor, path: &str, families: Option<&[String]>) {
    let fan = Fan::new(monitor, false, &Asker::default(), Instant::now() + TOLD_WITHIN);
    let mut query = form_urlencoded::Serializer::new(String::from("nodes=local"));
    if let Some(names) = families {
        query.append_pair("families", &names.join(","));
    }
    let query = query.finish();
    let forget =
        |peer: &Peer| Request::delete(format!("{}{path}?{query}", peer.url)).body(Bytes::new());
    fan.ask(forget, |_| Ok(()));
    for warning in fan.warnings() {
        tracing::warn!(
            path,
            error = warning,
            "a node may still show what it had of a group pushed here"
        );
    }
}

fn internal(why: String) -> Told {
    (StatusCode::INTERNAL_SERVER_ERROR, why)
}

/// The labels in an address `/metrics/job/J{/L/V}`, each as it is or with `@base64`.
fn group_of(path: &str) -> Result<Labels, String> {
    let mut parts = path.strip_prefix("/metrics/").unwrap_or_default().split('/');
    let mut labels = Labels::default();
    while let Some(name) = parts.next() {
        let decoded = |part: &str| {
            let text = percent_decode_str(part).decode_utf8();
            text.map(|t| t.into_owned()).map_err(|_| format!("{part:?} is not UTF-8"))
        };
        let name = decoded(name)?;
        let value = match parts.next() {
            Some(value) => value,
            // A slash at the end is none too many.
            None if name.is_empty() && !labels.is_empty() => break,
            None => return Err(format!("label {name:?} in the address has no value")),
        };
        let (name, value) = match name.strip_suffix("@base64") {
            Some(name) => (name.to_owned(), base64(value)?),
            None => (name, decoded(value)?),
        };
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.starts_with(|c: char| !c.is_ascii_digit());
        if !plain || name == NAME || name.starts_with("__") {
            return Err(format!("{name:?} in the address is no name for a label"));
        }
        if labels.is_empty() && (name != "job" || value.is_empty()) {
            return Err("the address must begin with /metrics/job/NAME, the name not empty".into());
        }
        labels = labels.with(&name, &value);
    }
    Ok(labels)
}

fn base64(text: &str) -> Result<String, String> {
    use base64::Engine;
    // An empty value is written as a padding alone.
    let text = text.trim_end_matches('=');
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
    let bytes = bytes.map_err(|e| format!("base64 {text:?}: {e}"))?;
    String::from_utf8(bytes).map_err(|_| format!("base64 {text:?} is not UTF-8"))
}

/// The families of a push, with the group's labels in each series.
fn read(request: &Request<Bytes>, key: &Labels) -> Result<BTreeMap<String, Family>, String> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let kind = kind.unwrap_or_default();
    let mut families = if kind.starts_with("application/vnd.google.protobuf") {
        families::decode(request.body())?
    } else {
        let text = std::str::from_utf8(request.body()).map_err(|_| "the body is not UTF-8")?;
        of_text(text, kind.starts_with("application/openmetrics-text"))?
    };
    let mut seen = BTreeSet::new();
    for family in families.values_mut() {
        for (labels, _) in &mut family.samples {
            for (name, value) in key.iter() {
                *labels = labels.with(name, value);
            }
            if !seen.insert(labels.clone()) {
                return Err(format!("{labels} is pushed twice"));
            }
        }
    }
    Ok(families)
}

fn of_text(text: &str, openmetrics: bool) -> Result<BTreeMap<String, Family>, String> {
    let (mut lines, mut families) = (Vec::new(), BTreeMap::<String, Family>::new());
    let sample = |line: exposition::Line<'_>| {
        if line.at.is_some() {
            return Err("pushed metrics must not have timestamps".into());
        }
        lines.push((labels_of(line.series)?, line.value));
        Ok(())
    };
    exposition::parse(text, openmetrics, sample, |what, name, says| {
        let family = families.entry(name.to_owned()).or_default();
        match what {
            "TYPE" => family.kind = says.to_owned(),
            "HELP" => family.help = says.to_owned(),
            _ => {}
        }
    })
    .map_err(|e| e.to_string())?;
    for (labels, value) in lines {
        let name =
            families::family_of(labels.get(NAME), |name| families.get(name).map(|f| &*f.kind));
        families.entry(name).or_default().samples.push((labels, value));
    }
    families.retain(|_, family| !family.samples.is_empty());
    Ok(families)
}

impl Gateway {
    /// Takes a push; gives the series that are no more.
    fn push(
        &self,
        key: &Labels,
        new: BTreeMap<String, Family>,
        whole: bool,
        now: i64,
    ) -> Result<Vec<Labels>, String> {
        let mut groups = held(&self.groups);
        for (name, family) in &new {
            let other = groups.all.iter().filter(|(k, _)| *k != key);
            let other = other.filter_map(|(_, g)| g.families.get(name));
            let kind = |f: &Family| match &*f.kind {
                "untyped" | "unknown" => String::new(),
                kind => kind.to_owned(),
            };
            if let Some(other) = other.into_iter().find(|o| kind(o) != kind(family)) {
                return Err(format!(
                    "{name} is a {:?} here and a {:?} in another group",
                    family.kind, other.kind
                ));
            }
        }
        let before = groups.all.get(key).cloned().unwrap_or_default();
        let mut after = if whole { BTreeMap::new() } else { before.families.clone() };
        after.extend(new);
        let count =
            |f: &BTreeMap<String, Family>| f.values().map(|f| f.samples.len()).sum::<usize>();
        let others: usize =
            groups.all.iter().filter(|(k, _)| *k != key).map(|(_, g)| count(&g.families)).sum();
        if others + count(&after) > SAMPLES_MAX {
            return Err(format!("there would be more than {SAMPLES_MAX} pushed samples"));
        }
        let left = |families: &BTreeMap<String, Family>| -> BTreeSet<Labels> {
            families.values().flat_map(|f| f.samples.iter().map(|(l, _)| l.clone())).collect()
        };
        let ended = left(&before.families).difference(&left(&after)).cloned().collect();
        if groups.all.len() >= GROUPS_MAX && !groups.all.contains_key(key) {
            return Err(format!("there are {GROUPS_MAX} groups already"));
        }
        let group = Group { families: after, pushed: now as f64 / 1e3, failed: before.failed };
        groups.all.insert(key.clone(), group);
        groups.generation += 1;
        Ok(ended)
    }

    /// Whether there is such a group at all.
    fn note_failure(&self, key: &Labels, now: i64) -> bool {
        let mut groups = held(&self.groups);
        let Some(group) = groups.all.get_mut(key) else { return false };
        group.failed = now as f64 / 1e3;
        groups.generation += 1;
        true
    }

    /// Drops families of a group, and when it was pushed here; gives what ended.
    fn forget(&self, key: &Labels, names: &[&str]) -> Vec<Labels> {
        let mut groups = held(&self.groups);
        let Some(group) = groups.all.get_mut(key) else { return Vec::new() };
        let before: Vec<Labels> = group.samples(key).into_iter().map(|(l, _)| l).collect();
        group.families.retain(|name, _| !names.contains(&&**name));
        group.pushed = 0.0;
        let after: BTreeSet<Labels> = match group.families.is_empty() {
            true => BTreeSet::new(),
            false => group.samples(key).into_iter().map(|(l, _)| l).collect(),
        };
        if group.families.is_empty() {
            groups.all.remove(key);
        }
        groups.generation += 1;
        before.into_iter().filter(|labels| !after.contains(labels)).collect()
    }

    fn delete(&self, key: &Labels) -> Vec<Labels> {
        let mut groups = held(&self.groups);
        let Some(gone) = groups.all.remove(key) else { return Vec::new() };
        groups.generation += 1;
        gone.samples(key).into_iter().map(|(labels, _)| labels).collect()
    }

    /// Puts on disk what is newer than it; one write for all who wait.
    fn save(&self, file: PathBuf) -> Result<(), String> {
        let wanted = held(&self.groups).generation;
        let mut saved = held(&self.saved);
        if *saved >= wanted {
            return Ok(());
        }
        let (text, generation) = {
            let groups = held(&self.groups);
            (groups.to_text(), groups.generation)
        };
        write(&file, &text).map_err(|e| format!("writing {}: {e}", file.display()))?;
        *saved = generation;
        Ok(())
    }

    /// Brings back what the file holds. A file that cannot be read is set aside.
    pub fn load(&self, file: &Path) {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => {
                return tracing::error!(file = %file.display(), error = %e, "what was pushed cannot be read");
            }
        };
        match Groups::of_text(&text) {
            Ok(groups) => *held(&self.groups) = groups,
            Err(why) => {
                let aside = file.with_extension(format!("damaged-{}", now_ms() / 1_000));
                let moved = std::fs::rename(file, &aside);
                tracing::error!(
                    file = %file.display(),
                    error = why,
                    aside = %match moved {
                        Ok(()) => aside.display().to_string(),
                        Err(e) => format!("it cannot be moved: {e}"),
                    },
                    "what was pushed is damaged; it is begun anew"
                );
            }
        }
    }
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let new = file.with_extension("new");
    let mut open = std::fs::File::create(&new)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    std::fs::rename(&new, file)?;
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)?.sync_all()
}

fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn of_pairs(pairs: BTreeMap<String, String>) -> Labels {
    Labels::new(pairs)
}

impl Groups {
    /// A line with a checksum, then JSON.
    fn to_text(&self) -> String {
        let stored = |(labels, group): (&Labels, &Group)| Stored {
            labels: pairs(labels),
            pushed: group.pushed,
            failed: group.failed,
            families: group.families.iter().map(|(n, f)| (n.clone(), stored_family(f))).collect(),
        };
        let all: Vec<Stored> = self.all.iter().map(stored).collect();
        let json = serde_json::to_string(&all).unwrap_or_default();
        format!("{MAGIC} {:08x}\n{json}\n", synod_base::crc32c(json.as_bytes()))
    }

    fn of_text(text: &str) -> Result<Groups, String> {
        let (head, json) = text.split_once('\n').ok_or("it has no second line")?;
        let json = json.trim_end_matches('\n');
        let sum = head.strip_prefix(MAGIC).ok_or("it is of another version")?.trim();
        if u32::from_str_radix(sum, 16) != Ok(synod_base::crc32c(json.as_bytes())) {
            return Err("its checksum is wrong".into());
        }
        let all: Vec<Stored> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let group = |s: Stored| {
            let families = s.families.into_iter().map(|(n, f)| (n, of_stored(f))).collect();
            (of_pairs(s.labels), Group { families, pushed: s.pushed, failed: s.failed })
        };
        Ok(Groups { all: all.into_iter().map(group).collect(), generation: 0 })
    }
}

fn stored_family(family: &Family) -> StoredFamily {
    let sample = |(labels, value): &(Labels, f64)| (pairs(labels), value.to_bits());
    StoredFamily {
        kind: family.kind.clone(),
        help: family.help.clone(),
        samples: family.samples.iter().map(sample).collect(),
    }
}

fn of_stored(family: StoredFamily) -> Family {
    let samples = family.samples.into_iter().map(|(l, bits)| (of_pairs(l), f64::from_bits(bits)));
    Family { kind: family.kind, help: family.help, samples: samples.collect() }
}

impl Group {
    /// All its samples, and when it was pushed.
    fn samples(&self, key: &Labels) -> Vec<(Labels, f64)> {
        let mut all: Vec<(Labels, f64)> =
            self.families.values().flat_map(|f| f.samples.iter().cloned()).collect();
        // Another node has taken a later push: its times count.
        if self.pushed > 0.0 {
            all.push((key.with(NAME, "push_time_seconds"), self.pushed));
            all.push((key.with(NAME, "push_failure_time_seconds"), self.failed));
        }
        all
    }
}

/// Appends a group's samples, and the ends of series that are no more.
fn append(monitor: &Monitor, key: &Labels, ended: &[Labels], now: i64) {
    let group = held(&monitor.gateway().groups).all.get(key).cloned();
    let mut samples = group.map(|g| g.samples(key)).unwrap_or_default();
    if let Some(group) = held(&monitor.gateway().groups).all.get(key) {
        for (name, family) in &group.families {
            monitor.learn("TYPE", name, &family.kind);
            monitor.learn("HELP", name, &family.help);
        }
    }
    samples.extend(ended.iter().map(|labels| (labels.clone(), STALE)));
    let mut known = Vec::with_capacity(samples.len());
    for (labels, value) in samples {
        match monitor.series(&labels) {
            Ok(id) => known.push((id, value)),
            Err(why) => {
                tracing::warn!(series = %labels, error = %why, "a pushed series was refused")
            }
        }
    }
    for (_, why) in monitor.append(now, &known) {
        tracing::debug!(error = %why, "a pushed sample was refused");
    }
}

/// Appends what was pushed again and again.
pub(crate) async fn keep(monitor: Monitor) {
    let mut ticker = tokio::time::interval(AGAIN_EVERY);
    loop {
        ticker.tick().await;
        if !monitor.is_ready() || monitor.0.room.level() != Level::All {
            continue;
        }
        let keys: Vec<Labels> = held(&monitor.gateway().groups).all.keys().cloned().collect();
        for key in keys {
            append(&monitor, &key, &[], now_ms());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_group() {
        let of = |path: &str| group_of(path).map(|l| l.to_string());
        assert_eq!(of("/metrics/job/a").as_deref(), Ok("{job=\"a\"}"));
        assert_eq!(
            of("/metrics/job/some%20job/instance/x").as_deref(),
            Ok("{instance=\"x\", job=\"some job\"}")
        );
        assert_eq!(
            of("/metrics/job/d/path@base64/L3Zhci90bXA").as_deref(),
            Ok("{job=\"d\", path=\"/var/tmp\"}")
        );
        assert_eq!(of("/metrics/job@base64/YQ==/none@base64/=").as_deref(), Ok("{job=\"a\"}"));
        for bad in ["/metrics/job/", "/metrics/jobs/a", "/metrics/job/a/x", "/metrics/job/a/1/2"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_pushed_comes_back_from_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("pushed");
        let key = Labels::new([("job", "a")]);
        let text = "# TYPE t counter\nt{l=\"1\"} NaN\nu 0.1\n";
        let gateway = Gateway::default();
        let families = of_text(text, false).expect("a page");
        gateway.push(&key, families, true, 1_500).expect("taken");
        gateway.save(file.clone()).expect("written");
        let back = Gateway::default();
        back.load(&file);
        let all = |g: &Gateway| format!("{:?}", held(&g.groups).all[&key].samples(&key));
        assert_eq!(all(&back), all(&gateway));
        // A flipped bit is seen, and the file kept for whoever wants to look.
        let mut bytes = std::fs::read(&file).expect("a file");
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).expect("written");
        let back = Gateway::default();
        back.load(&file);
        assert!(held(&back.groups).all.is_empty());
        assert!(!file.exists() && std::fs::read_dir(dir.path()).expect("a folder").count() == 1);
    }
}
