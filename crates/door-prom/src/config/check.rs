//! From the file as it stands to what it means; errors name the place.

use super::requests::{demanding, http};
use super::yaml::{self, File, Section};
use super::{Alertmanagers, Config, Discovery, Group, Job, Record, RemoteWrite, ScrapeLimits};
use crate::relabel::{Action, Pattern, Rule};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use synod_promql::SCHEMAS;

const MINUTE: Duration = Duration::from_secs(60);
/// How long a scrape may take, unless the file says.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often files of targets are looked at: cheap, and a change is to count at once.
const FILES_EVERY: Duration = Duration::from_secs(5);
const REGISTRY_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a configuration file, at most.
const FILE_BYTES_MAX: usize = 16 << 20;
/// Samples of a request of remote-write, unless the file says.
const SEND_SAMPLES: usize = 2_000;

pub(super) type Checked<T> = Result<T, String>;

/// Reads YAML; errors name line and column.
fn read<T: serde::de::DeserializeOwned>(text: &str) -> Checked<T> {
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("{} bytes; the limit is {FILE_BYTES_MAX}", text.len()));
    }
    // Never the text around the place: passwords stand there.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let place = e.location().map(|l| format!("line {} column {}: ", l.line(), l.column()));
        let told = e.to_string();
        // The names of all fields that there are help nobody.
        let told = told.split(", expected one of").next().unwrap_or(&told);
        place.unwrap_or_default() + told
    })
}

pub(super) fn config(text: &str, base: &Path) -> Checked<Config> {
    // A file of comments is an empty mapping.
    let file: File = read::<Option<File>>(text)?.unwrap_or_default();
    let mut ignored = Vec::new();
    note(&mut ignored, "", file.ignored());
    note(&mut ignored, "global", file.global.ignored());
    if file.global.scrape_protocols.as_ref().is_some_and(|list| !list.iter().any(is_protobuf)) {
        note(&mut ignored, "global", vec!["scrape_protocols"]);
    }
    note(&mut ignored, "storage.exemplars", file.storage.exemplars.ignored());
    note(&mut ignored, "storage.tsdb.retention", file.storage.tsdb.retention.ignored());
    let global = &file.global;
    let mut scrapes: Vec<(String, &yaml::Scrape)> = Vec::new();
    scrapes.extend(file.scrape_configs.iter().map(|s| (line(s), &s.value)));
    let mut others = Vec::new();
    for pattern in &file.scrape_config_files {
        for path in crate::discovery::glob(&joined(base, pattern))? {
            let place = |e| format!("{}: {e}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|e| place(e.to_string()))?;
            let more: Option<yaml::ScrapeFile> = read(&text).map_err(place)?;
            let more = more.unwrap_or_default().scrape_configs.into_iter();
            others.extend(more.map(|s| (format!("{}: {}", path.display(), line(&s)), s.value)));
        }
    }
    scrapes.extend(others.iter().map(|(line, scrape)| (line.clone(), scrape)));
    // They are wrong whether or not a job goes by them.
    let every = or_usual(time(&global.scrape_interval, "global.scrape_interval", MINUTE)?, MINUTE);
    if time(&global.scrape_timeout, "global.scrape_timeout", every)? > every {
        return Err("global.scrape_timeout is longer than global.scrape_interval".into());
    }
    named(global.external_labels.keys(), "global.external_labels")?;
    bytes(&global.body_size_limit, "global.body_size_limit")?;
    let mut jobs: Vec<Job> = Vec::new();
    for (i, (line, scrape)) in scrapes.iter().enumerate() {
        let place = match &*scrape.job_name {
            "" => format!("scrape_configs[{i}]"),
            name => format!("scrape_configs[{i}] ({name})"),
        };
        let made = job(scrape, global, base, &mut Notes { place: &place, ignored: &mut ignored });
        let made = made.map_err(|e| format!("{line}: {place}: {e}"))?;
        if jobs.iter().any(|j| j.name == made.name) {
            return Err(format!("{line}: {place}: there is another job of this name"));
        }
        jobs.push(made);
    }
    let alerting = &file.alerting;
    let mut alertmanagers = Vec::new();
    for (i, one) in alerting.alertmanagers.iter().enumerate() {
        let place = format!("alerting.alertmanagers[{i}]");
        let mut notes = Notes { place: &place, ignored: &mut ignored };
        let made = managers(&one.value, base, &mut notes);
        alertmanagers.push(made.map_err(|e| format!("{}: {place}: {e}", line(one)))?);
    }
    let mut remote_write: Vec<RemoteWrite> = Vec::new();
    for (i, one) in file.remote_write.iter().enumerate() {
        let place = format!("remote_write[{i}]");
        let mut notes = Notes { place: &place, ignored: &mut ignored };
        let made = remote(&one.value, base, i, &mut notes);
        let made = made.map_err(|e| format!("{}: {place}: {e}", line(one)))?;
        if remote_write.iter().any(|r| r.name == made.name) {
            let name = &made.name;
            return Err(format!("{}: {place}: there is another of the name {name:?}", line(one)));
        }
        remote_write.push(made);
    }
    let every = time(&global.evaluation_interval, "global.evaluation_interval", MINUTE)?;
    let tsdb = &file.storage.tsdb;
    Ok(Config {
        jobs,
        rule_files: file.rule_files.iter().map(|p| joined(base, p)).collect(),
        evaluation_every: every,
        rule_query_offset: time(
            &global.rule_query_offset,
            "global.rule_query_offset",
            Duration::ZERO,
        )?,
        external_labels: global
            .external_labels
            .iter()
            .map(|(name, value)| (name.clone(), expanded(value)))
            .collect(),
        alertmanagers,
        alert_relabel: rules(&alerting.alert_relabel_configs, "alerting.alert_relabel_configs")?,
        remote_write,
        out_of_order: option(&tsdb.out_of_order_time_window, "out_of_order_time_window")?,
        retention: option(&tsdb.retention.time, "storage.tsdb.retention.time")?,
        retention_bytes: bytes(&tsdb.retention.size, "storage.tsdb.retention.size")?,
        ignored,
    })
}

/// Where a part of a file begins.
fn line<T>(part: &serde_saphyr::Spanned<T>) -> String {
    format!("line {}", part.defined.line())
}

/// Where we are in the file, and what had no effect so far.
pub(super) struct Notes<'a> {
    place: &'a str,
    ignored: &'a mut Vec<String>,
}

impl Notes<'_> {
    pub fn add(&mut self, fields: Vec<&'static str>) {
        note(self.ignored, self.place, fields);
    }
}

fn note(ignored: &mut Vec<String>, place: &str, fields: Vec<&'static str>) {
    let dot = if place.is_empty() { "" } else { "." };
    ignored.extend(fields.iter().map(|field| format!("{place}{dot}{field}")));
}

/// Of the protocols, this one alone is asked for or not; the others are in an order of ours.
fn is_protobuf(protocol: &String) -> bool {
    protocol == "PrometheusProto"
}

fn job(
    scrape: &yaml::Scrape,
    global: &yaml::Global,
    base: &Path,
    notes: &mut Notes<'_>,
) -> Checked<Job> {
    if scrape.job_name.is_empty() {
        return Err("job_name is missing".into());
    }
    notes.add(scrape.ignored());
    let usual = or_usual(time(&global.scrape_interval, "global.scrape_interval", MINUTE)?, MINUTE);
    let every = or_usual(time(&scrape.scrape_interval, "scrape_interval", usual)?, usual);
    let usual = time(&global.scrape_timeout, "global.scrape_timeout", TIMEOUT)?;
    let usual = or_usual(usual, TIMEOUT).min(every);
    let timeout = or_usual(time(&scrape.scrape_timeout, "scrape_timeout", usual)?, usual);
    if timeout > every {
        return Err("scrape_timeout is longer than scrape_interval".into());
    }
    let limits = ScrapeLimits {
        body: match bytes(&scrape.body_size_limit, "body_size_limit")? {
            Some(bytes) => bytes,
            None => bytes(&global.body_size_limit, "global.body_size_limit")?.unwrap_or(0),
        },
        samples: scrape.sample_limit.or(global.sample_limit).unwrap_or(0),
        labels: scrape.label_limit.or(global.label_limit).unwrap_or(0),
        label_name: scrape.label_name_length_limit.or(global.label_name_length_limit).unwrap_or(0),
        label_value: scrape
            .label_value_length_limit
            .or(global.label_value_length_limit)
            .unwrap_or(0),
        targets: scrape.target_limit.or(global.target_limit).unwrap_or(0),
        buckets: scrape.native_histogram_bucket_limit.unwrap_or(0),
        finest: finest(scrape.native_histogram_min_bucket_factor)?,
    };
    let fallback = match scrape.fallback_scrape_protocol.as_deref() {
        None => None,
        Some("PrometheusText0.0.4" | "PrometheusText1.0.0") => Some(false),
        Some("OpenMetricsText0.0.1" | "OpenMetricsText1.0.0") => Some(true),
        Some("PrometheusProto") => {
            notes.add(vec!["fallback_scrape_protocol"]);
            None
        }
        Some(other) => {
            return Err(format!(
                "fallback_scrape_protocol: {other:?} is not one that is read here"
            ));
        }
    };
    let protocols = scrape.scrape_protocols.as_ref().or(global.scrape_protocols.as_ref());
    let listed = protocols.is_some_and(|list| list.iter().any(is_protobuf));
    if scrape.scrape_protocols.is_some() && !listed {
        notes.add(vec!["scrape_protocols"]);
    }
    let native = scrape.scrape_native_histograms.or(global.scrape_native_histograms);
    let classic = scrape.always_scrape_classic_histograms;
    let found = Sources {
        fixed: &scrape.static_configs,
        file: &scrape.file_sd_configs,
        http: &scrape.http_sd_configs,
        dns: &scrape.dns_sd_configs,
        synod: &scrape.synod_sd_configs,
    };
    Ok(Job {
        name: scrape.job_name.clone(),
        every,
        timeout,
        scheme: scheme(&scrape.scheme)?,
        path: scrape.metrics_path.clone().unwrap_or_else(|| "/metrics".into()),
        params: scrape.params.clone().into_iter().collect(),
        honor_labels: scrape.honor_labels,
        honor_timestamps: scrape.honor_timestamps.unwrap_or(true),
        compressed: scrape.enable_compression.unwrap_or(true),
        end_timed: scrape.track_timestamps_staleness,
        fallback,
        protobuf: native.unwrap_or(listed),
        classic: classic.or(global.always_scrape_classic_histograms).unwrap_or(false),
        relabel: rules(&scrape.relabel_configs, "relabel_configs")?,
        metric_relabel: rules(&scrape.metric_relabel_configs, "metric_relabel_configs")?,
        limits,
        discovery: discovery(&found, base, notes)?,
        http: http(scrape.http(), base, notes)?,
    })
}

/// The finest schema whose buckets grow by this factor at least; `None`: any.
fn finest(factor: Option<f64>) -> Checked<Option<i32>> {
    match factor {
        None => Ok(None),
        Some(factor) if factor.is_nan() || factor < 0.0 => {
            Err(format!("native_histogram_min_bucket_factor: {factor} is no factor"))
        }
        // Nothing grows by less.
        Some(factor) if factor <= 1.0 => Ok(None),
        // Those of schema n grow by 2^(2^-n).
        Some(factor) => {
            let schema = (-factor.log2().log2()).floor();
            let (coarsest, finest) = (*SCHEMAS.start(), *SCHEMAS.end());
            Ok(Some((schema as i32).clamp(coarsest, finest)))
        }
    }
}

fn scheme(scheme: &Option<String>) -> Checked<String> {
    match scheme.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None => Ok("http".into()),
        Some(known @ ("http" | "https")) => Ok(known.into()),
        Some(other) => Err(format!("scheme: {other:?} is neither http nor https")),
    }
}

/// What a section says of where its targets are.
struct Sources<'a> {
    fixed: &'a [yaml::Static],
    file: &'a [yaml::FileSd],
    http: &'a [yaml::HttpSd],
    dns: &'a [yaml::DnsSd],
    synod: &'a [yaml::SynodSd],
}

fn discovery(found: &Sources<'_>, base: &Path, notes: &mut Notes<'_>) -> Checked<Vec<Discovery>> {
    let mut all = Vec::new();
    if !found.fixed.is_empty() {
        let group = |s: &yaml::Static| Group {
            targets: s.targets.clone(),
            labels: s.labels.clone().into_iter().collect(),
        };
        let groups: Vec<Group> = found.fixed.iter().map(group).collect();
        for one in found.fixed {
            named(one.labels.keys(), "static_configs.labels")?;
        }
        for target in groups.iter().flat_map(|g| &g.targets) {
            if target.contains('/') {
                return Err(format!(
                    "static_configs: {target:?} is no HOST:PORT (the path goes to metrics_path, \
                     the scheme to scheme)"
                ));
            }
        }
        all.push(Discovery::Static(groups));
    }
    for file in found.file {
        if file.files.is_empty() {
            return Err("file_sd_configs: files is empty".into());
        }
        for pattern in &file.files {
            if pattern.rsplit_once('/').is_some_and(|(folder, _)| folder.contains('*')) {
                return Err(format!("file_sd_configs: {pattern:?} has a * in a folder's name"));
            }
            let ends = [".yml", ".yaml", ".json", ".YML", ".YAML", ".JSON"];
            let known = ends.iter().any(|e| pattern.ends_with(e));
            if !known {
                return Err(format!(
                    "file_sd_configs: {pattern:?} must end with .yml, .yaml or .json"
                ));
            }
        }
        let every = time(&file.refresh_interval, "file_sd_configs.refresh_interval", FILES_EVERY)?;
        let patterns = file.files.iter().map(|p| joined(base, p)).collect();
        all.push(Discovery::File { patterns, every: every.min(FILES_EVERY) });
    }
    for one in found.http {
        notes.add(one.ignored());
        let uri: http::Uri = one
            .url
            .parse()
            .map_err(|e| format!("http_sd_configs: url {:?}: {e}", masked(&one.url)))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!(
                "http_sd_configs: url {:?} is not http or https",
                masked(&one.url)
            ));
        }
        let every = time(&one.refresh_interval, "http_sd_configs.refresh_interval", MINUTE)?;
        let http = Box::new(http(one.http(), base, notes)?);
        all.push(Discovery::Http { url: one.url.clone(), every, http });
    }
    for one in found.dns {
        all.push(dns(one)?);
    }
    for one in found.synod {
        let name = "synod_sd_configs.refresh_interval";
        let every = time(&one.refresh_interval, name, REGISTRY_EVERY)?;
        all.push(Discovery::Registry { services: one.services.clone(), every });
    }
    Ok(all)
}

fn dns(one: &yaml::DnsSd) -> Checked<Discovery> {
    if one.names.is_empty() {
        return Err("dns_sd_configs: names is empty".into());
    }
    let kind = match &*one.r#type.as_deref().unwrap_or("SRV").to_ascii_uppercase() {
        "A" => Record::A,
        "AAAA" => Record::Aaaa,
        "MX" => Record::Mx,
        "NS" => Record::Ns,
        "SRV" => Record::Srv,
        other => {
            return Err(format!("dns_sd_configs: type {other:?} is none of A, AAAA, MX, NS, SRV"));
        }
    };
    let port = match (kind, one.port) {
        (Record::Srv, _) => 0,
        (_, Some(port)) if port > 0 => port,
        _ => return Err("dns_sd_configs: records other than SRV need port".into()),
    };
    let every =
        time(&one.refresh_interval, "dns_sd_configs.refresh_interval", Duration::from_secs(30))?;
    Ok(Discovery::Dns { names: one.names.clone(), kind, port, every })
}

fn managers(
    one: &yaml::Alertmanager,
    base: &Path,
    notes: &mut Notes<'_>,
) -> Checked<Alertmanagers> {
    notes.add(one.ignored());
    if !matches!(one.api_version.as_deref(), None | Some("v2")) {
        return Err("api_version: only v2 is spoken".into());
    }
    let found = Sources {
        fixed: &one.static_configs,
        file: &one.file_sd_configs,
        http: &one.http_sd_configs,
        dns: &one.dns_sd_configs,
        synod: &one.synod_sd_configs,
    };
    Ok(Alertmanagers {
        discovery: discovery(&found, base, notes)?,
        scheme: scheme(&one.scheme)?,
        path_prefix: one.path_prefix.clone(),
        timeout: time(&one.timeout, "timeout", Duration::from_secs(10))?,
        relabel: rules(&one.relabel_configs, "relabel_configs")?,
        http: demanding(http(one.http(), base, notes)?, &[("sigv4", one.sigv4)])?,
    })
}

fn remote(
    one: &yaml::RemoteWrite,
    base: &Path,
    number: usize,
    notes: &mut Notes<'_>,
) -> Checked<RemoteWrite> {
    notes.add(one.ignored());
    notes.add(one.queue_config.ignored());
    let uri: http::Uri = one.url.parse().map_err(|e| format!("url {:?}: {e}", masked(&one.url)))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("url {:?} is not http or https", masked(&one.url)));
    }
    let version2 = match one.protobuf_message.as_deref() {
        None | Some("prometheus.WriteRequest") => false,
        Some("io.prometheus.write.v2.Request") => true,
        Some(other) => return Err(format!("protobuf_message: {other:?} is not known")),
    };
    reserved(&one.headers)?;
    let ways = [("sigv4", one.sigv4), ("azuread", one.azuread), ("google_iam", one.google_iam)];
    let queue = &one.queue_config;
    let name = if one.name.is_empty() { format!("{number}") } else { one.name.clone() };
    Ok(RemoteWrite {
        name,
        url: one.url.clone(),
        timeout: time(&one.remote_timeout, "remote_timeout", Duration::from_secs(30))?,
        headers: one.headers.clone().into_iter().collect(),
        relabel: rules(&one.write_relabel_configs, "write_relabel_configs")?,
        version2,
        // By version 2.0 they are always sent.
        histograms: one.send_native_histograms || version2,
        exemplars: one.send_exemplars,
        samples_max: queue.max_samples_per_send.unwrap_or(SEND_SAMPLES).max(1),
        deadline: time(
            &queue.batch_send_deadline,
            "queue_config.batch_send_deadline",
            Duration::from_secs(5),
        )?,
        backoff: (
            time(&queue.min_backoff, "queue_config.min_backoff", Duration::from_millis(30))?,
            time(&queue.max_backoff, "queue_config.max_backoff", Duration::from_secs(5))?,
        ),
        retry_429: queue.retry_on_http_429,
        age_max: time(&queue.sample_age_limit, "queue_config.sample_age_limit", Duration::ZERO)?,
        http: demanding(http(one.http(), base, notes)?, &ways)?,
    })
}

fn rules(all: &[yaml::Relabel], place: &str) -> Checked<Vec<Rule>> {
    let named =
        |(i, one): (usize, &yaml::Relabel)| rule(one).map_err(|e| format!("{place}[{i}]: {e}"));
    all.iter().enumerate().map(named).collect()
}

fn rule(one: &yaml::Relabel) -> Checked<Rule> {
    let action = one.action.as_deref().unwrap_or("replace");
    let action = Action::named(action).ok_or_else(|| format!("action {action:?} is not known"))?;
    let mut rule = Rule::new(action);
    rule.source = one.source_labels.clone();
    rule.target = one.target_label.clone();
    rule.modulus = one.modulus;
    if let Some(separator) = &one.separator {
        rule.separator = separator.clone();
    }
    if let Some(regex) = &one.regex {
        rule.pattern = Pattern::new(regex)?;
    }
    if let Some(replacement) = &one.replacement {
        rule.replacement = replacement.clone();
    }
    rule.check()?;
    Ok(rule)
}

pub(super) fn joined(base: &Path, file: &str) -> String {
    base.join(file).to_string_lossy().into_owned()
}

fn option(text: &Option<String>, name: &str) -> Checked<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let ms = if text == "0" { Some(0) } else { synod_promql::duration(text) };
    let ms = ms.ok_or_else(|| format!("{name}: {text:?} is no duration (such as 15s or 1m30s)"))?;
    Ok(Some(Duration::from_millis(ms.max(0) as u64)))
}

fn time(text: &Option<String>, name: &str, usual: Duration) -> Checked<Duration> {
    Ok(option(text, name)?.unwrap_or(usual))
}

fn bytes(text: &Option<String>, name: &str) -> Checked<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    size(text).map(Some).ok_or_else(|| format!("{name}: {text:?} is no size (such as 10MB)"))
}

/// What is zero is as if it were not there.
fn or_usual(length: Duration, usual: Duration) -> Duration {
    if length.is_zero() { usual } else { length }
}

/// A label has a name, whatever else it has.
fn named<'a>(mut names: impl Iterator<Item = &'a String>, place: &str) -> Checked<()> {
    match names.any(String::is_empty) {
        true => Err(format!("{place}: a label has no name")),
        false => Ok(()),
    }
}

/// Headers that are what they are, or that other fields say.
fn reserved(headers: &BTreeMap<String, String>) -> Checked<()> {
    const FIXED: [&str; 12] = [
        "host",
        "content-encoding",
        "content-length",
        "content-type",
        "user-agent",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "www-authenticate",
        "accept-encoding",
        "x-prometheus-remote-write-version",
    ];
    for name in headers.keys() {
        let lower = name.to_ascii_lowercase();
        if lower == "authorization" {
            return Err("headers: use basic_auth, authorization or oauth2 to authorise".into());
        }
        if FIXED.contains(&&*lower) {
            return Err(format!("headers: {name:?} is not to be changed"));
        }
    }
    Ok(())
}

/// Bytes with their units, each 1,024 times the one before, as Prometheus has it: `10MB`,
/// `1GB512MB`.
pub fn size(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut sum, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let letters = rest[end..unit].strip_suffix('B')?;
        let letters = letters.strip_suffix('i').filter(|l| !l.is_empty()).unwrap_or(letters);
        let power = ["", "K", "M", "G", "T", "P", "E"].iter().position(|l| *l == letters)?;
        sum += number * 1024f64.powi(power as i32);
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum as u64)
}

/// Groups of targets as files and HTTP answers have them; YAML or JSON, which is YAML.
pub(crate) fn groups(text: &str) -> Checked<Vec<Group>> {
    #[derive(serde::Deserialize, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Listed {
        targets: Vec<String>,
        labels: BTreeMap<String, String>,
    }
    let all: Option<Vec<Listed>> = read(text)?;
    let group = |g: Listed| Group { targets: g.targets, labels: g.labels.into_iter().collect() };
    Ok(all.unwrap_or_default().into_iter().map(group).collect())
}

/// An address without the name and the password that may stand in it.
pub(crate) fn masked(url: &str) -> String {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url[after..].find('/').map_or(url.len(), |at| after + at);
    match url[after..end].rfind('@') {
        Some(at) => format!("{}…{}", &url[..after], &url[after + at..]),
        None => url.to_owned(),
    }
}

/// `$NAME` and `${NAME}` are variables of the environment, `$$` is a dollar.
fn expanded(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, after) = if let Some(inner) = rest.strip_prefix('{') {
            match inner.split_once('}') {
                Some((name, after)) => (name, after),
                None => (inner, ""),
            }
        } else if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        } else {
            rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()))
        };
        out.push_str(&std::env::var(name).unwrap_or_default());
        rest = after;
    }
    out + rest
}
