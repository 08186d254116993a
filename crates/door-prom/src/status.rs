//! `/api/v1/status/…`: what a monitor is and holds.

use crate::form::Form;
use crate::json::{Failure, list, text};
use crate::store::{Monitor, held};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use synod_promql::{NAME, duration_text};

/// Entries of each list of `status/tsdb`, unless the request says.
const ENTRIES: usize = 10;

impl Monitor {
    pub(crate) fn runtime_info(&self) -> String {
        let (loaded, at) = *held(&self.0.loaded);
        let place = std::env::current_dir().unwrap_or_default().display().to_string();
        format!(
            "{{\"startTime\":\"{}\",\"CWD\":{},\"serverTime\":\"{}\",\"reloadConfigSuccess\":{loaded},\
             \"lastConfigTime\":\"{}\",\"corruptionCount\":0,\"timeSeriesCount\":{},\
             \"storageRetention\":{}}}",
            humantime::format_rfc3339_seconds(self.0.started),
            text(&place),
            humantime::format_rfc3339_millis(SystemTime::now()),
            humantime::format_rfc3339_seconds(at),
            self.head().stats().series,
            text(&self.retention()),
        )
    }

    /// How much is kept, as Prometheus says it: a time, and a size if there is one.
    fn retention(&self) -> String {
        let limits = self.limits();
        let time = duration_text(limits.retention);
        match limits.retention_bytes {
            0 => time,
            bytes => format!("{time} or {}", size_text(bytes)),
        }
    }

    pub(crate) fn flags(&self) -> String {
        let (s, limits) = (&self.0.settings, self.limits());
        let flags = [
            ("query.lookback-delta", duration_text(s.query.lookback)),
            ("query.max-samples", s.query.samples.to_string()),
            ("query.timeout", duration_text(s.query_timeout.as_millis() as i64)),
            ("storage.tsdb.path", s.dir.display().to_string()),
            ("storage.tsdb.retention.size", size_text(limits.retention_bytes)),
            ("storage.tsdb.retention.time", duration_text(limits.retention)),
        ];
        let pairs = flags.map(|(name, value)| format!("\"{name}\":{}", text(&value)));
        format!("{{{}}}", pairs.join(","))
    }

    pub(crate) fn tsdb(&self, form: &Form) -> Result<String, Failure> {
        let most = match form.get("limit") {
            None => ENTRIES,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Failure::bad_data("limit must be a positive number"))?,
        };
        let head = self.head();
        let stats = head.stats();
        let (mut names, mut pairs) = (BTreeMap::new(), BTreeMap::new());
        for labels in head.labels_of(&[], i64::MIN, i64::MAX) {
            *names.entry(labels.get(NAME).to_owned()).or_insert(0) += 1;
            for (name, value) in labels.iter() {
                *pairs.entry((name.to_owned(), value.to_owned())).or_insert(0usize) += 1;
            }
        }
        let (mut values, mut bytes) = (BTreeMap::new(), BTreeMap::new());
        for ((name, value), series) in &pairs {
            *values.entry(name.clone()).or_insert(0) += 1;
            *bytes.entry(name.clone()).or_insert(0) += value.len() * series;
        }
        let pairs = pairs.into_iter().map(|((n, v), series)| (format!("{n}={v}"), series));
        Ok(format!(
            "{{\"headStats\":{{\"numSeries\":{},\"numLabelPairs\":{},\"chunkCount\":{},\"minTime\":{},\
             \"maxTime\":{}}},\"seriesCountByMetricName\":{},\"labelValueCountByLabelName\":{},\
             \"memoryInBytesByLabelName\":{},\"seriesCountByLabelValuePair\":{},\
             \"samplesTaken\":{},\"chunkBytes\":{}}}",
            stats.series,
            stats.pairs,
            stats.chunks,
            stats.oldest,
            stats.newest,
            top(names, most),
            top(values, most),
            top(bytes, most),
            top(pairs, most),
            self.0.taken.load(Ordering::Relaxed),
            stats.chunk_bytes,
        ))
    }
}

/// The largest, so many of them, each as a name with its value.
fn top(all: impl IntoIterator<Item = (String, usize)>, most: usize) -> String {
    let mut all: Vec<(String, usize)> = all.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut out = String::new();
    list(&mut out, all.iter().take(most), |out, (name, value)| {
        let _ = write!(out, "{{\"name\":{},\"value\":{value}}}", text(name));
    });
    out
}

/// A size in the largest unit of which it has a whole number.
fn size_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10) as usize };
    let power = power.min(units.len() - 1);
    format!("{}{}", bytes >> (10 * power), units[power])
}

/// Grafana takes a server with a map of features for another product: there is none here.
pub(crate) fn build_info() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{{\"version\":\"3.0.0\",\"revision\":\"synod-{version}\",\"branch\":\"\",\"buildUser\":\"\",\
         \"buildDate\":\"\",\"goVersion\":\"\"}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole() {
        let of = [0, 1_000, 1 << 10, 1 << 30, 3 << 29, 5 << 40].map(size_text);
        assert_eq!(of, ["0B", "1000B", "1KiB", "1GiB", "1536MiB", "5TiB"]);
    }
}
