//! From the pages of one target to samples.

use crate::config::ScrapeLimits;
use crate::exposition::{self, Line, exemplar_of, pairs_of};
use crate::relabel::relabel;
use crate::store::{Monitor, now_ms};
use crate::targets::Target;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use synod_promql::{Labels, NAME, STALE};
use synod_tsdb::{Exemplar, Refused, SeriesId};

/// A page, and whether it is OpenMetrics.
pub(crate) struct Page {
    pub text: Bytes,
    pub openmetrics: bool,
}

/// What a line stands for.
struct Known {
    /// None: relabelling drops it.
    id: Option<SeriesId>,
    /// The scrape that saw it last.
    round: u64,
    /// It came with a time of its own.
    timed: bool,
}

/// Turns pages of one target into samples.
pub(crate) struct Scraper {
    monitor: Monitor,
    target: Target,
    /// By the line's name and labels, as they stand on the page.
    known: HashMap<Box<str>, Known>,
    own: HashMap<&'static str, SeriesId>,
    round: u64,
}

/// What a page held.
#[derive(Default)]
struct Count {
    read: usize,
    kept: usize,
    added: usize,
}

impl Scraper {
    pub fn new(monitor: Monitor, target: Target) -> Scraper {
        Scraper { monitor, target, known: HashMap::new(), own: HashMap::new(), round: 0 }
    }

    /// The labels of a line; `None`: relabelling drops it. The target's labels come first,
    /// and what is on the page under their names is kept as `exported_…`; unless the job
    /// honours the page's.
    fn labels_of(&self, series: &str, kinds: &Kinds<'_>) -> Result<Option<Labels>, String> {
        let job = &self.target.job;
        let pairs = pairs_of(series)?;
        let own = Labels::new(pairs.iter().map(|(n, v)| (&**n, &**v)));
        let mut labels = with_even_bounds(own, kinds);
        for (name, value) in self.target.labels.iter() {
            // An empty one says that there is to be none.
            if job.honor_labels && pairs.iter().any(|(n, _)| n == name) {
                continue;
            }
            let theirs = labels.get(name).to_owned();
            if !theirs.is_empty() {
                let mut moved = format!("exported_{name}");
                while !labels.get(&moved).is_empty() {
                    moved.insert_str(0, "exported_");
                }
                labels = labels.with(&moved, &theirs);
            }
            labels = labels.with(name, value);
        }
        let Some(labels) = relabel(labels, &job.metric_relabel) else { return Ok(None) };
        if labels.get(NAME).is_empty() {
            return Err(format!("{series}: no name is left after relabelling"));
        }
        check(&labels, &job.limits)?;
        Ok(Some(labels))
    }

    /// Takes a page, or why there is none.
    pub fn take(
        &mut self,
        at: i64,
        took: Duration,
        fetched: Result<Page, String>,
    ) -> Result<(), String> {
        self.round += 1;
        let mut count = Count::default();
        let read = fetched.and_then(|page| self.read(at, &page, &mut count));
        self.end_what_is_gone(at, read.is_ok());
        let up = f64::from(u8::from(read.is_ok()));
        self.say(
            at,
            &[
                ("up", up),
                ("scrape_duration_seconds", took.as_secs_f64()),
                ("scrape_samples_scraped", count.read as f64),
                ("scrape_samples_post_metric_relabeling", count.kept as f64),
                ("scrape_series_added", count.added as f64),
            ],
        );
        read
    }

    /// Appends a page's samples. A page is taken whole or not at all.
    fn read(&mut self, at: i64, page: &Page, count: &mut Count) -> Result<(), String> {
        let text =
            std::str::from_utf8(&page.text).map_err(|_| "the page is not UTF-8".to_owned())?;
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut says = Vec::new();
        exposition::parse(
            text,
            page.openmetrics,
            |line| {
                lines.push(line);
                Ok(())
            },
            |what, name, text| says.push((what, name, text)),
        )
        .map_err(|e| e.to_string())?;
        count.read = lines.len();
        let types = says.iter().filter(|(what, _, _)| *what == "TYPE");
        let kinds: Kinds<'_> = types.map(|(_, name, kind)| (*name, *kind)).collect();
        let new = self.relabelled(&lines, &kinds, count)?;
        let most = self.target.job.limits.samples;
        if most > 0 && count.kept > most {
            return Err(format!("sample limit exceeded: {} samples, limit {most}", count.kept));
        }
        self.know(new, count)?;
        let mut samples = Vec::with_capacity(count.kept);
        let mut exemplars = Vec::new();
        for line in &lines {
            let Some(known) = self.known.get_mut(line.series) else { continue };
            known.round = self.round;
            let Some(id) = known.id else { continue };
            let theirs = line.at.filter(|_| self.target.job.honor_timestamps);
            samples.push((theirs.unwrap_or(at), id, line.value));
            if let Some(text) = line.exemplar {
                let (labels, value, own) = exemplar_of(text)?;
                exemplars.push((id, Exemplar { labels, value, at: own.or(theirs).unwrap_or(at) }));
            }
        }
        for (what, name, text) in says {
            self.monitor.learn(what, name, text);
        }
        self.append(samples);
        for (id, exemplar) in exemplars {
            let Some(labels) = self.monitor.head().labels(id) else { continue };
            if let Err(why) = self.monitor.exemplar(&labels, exemplar) {
                tracing::debug!("an exemplar of {labels} was refused: {why}");
            }
        }
        Ok(())
    }

    /// The labels of lines that were not there before, and how many are kept in all. No
    /// series is made: the page may be refused yet.
    fn relabelled<'a>(
        &self,
        lines: &[Line<'a>],
        kinds: &Kinds<'_>,
        count: &mut Count,
    ) -> Result<Vec<(Line<'a>, Option<Labels>)>, String> {
        let (mut new, mut seen) = (Vec::new(), HashMap::new());
        for line in lines {
            let kept = match (self.known.get(line.series), seen.get(line.series)) {
                (Some(known), _) => known.id.is_some(),
                (None, Some(kept)) => *kept,
                (None, None) => {
                    let labels = self.labels_of(line.series, kinds)?;
                    let kept = labels.is_some();
                    seen.insert(line.series, kept);
                    new.push((*line, labels));
                    kept
                }
            };
            count.kept += usize::from(kept);
        }
        Ok(new)
    }

    fn know(
        &mut self,
        new: Vec<(Line<'_>, Option<Labels>)>,
        count: &mut Count,
    ) -> Result<(), String> {
        for (line, labels) in new {
            let id = match labels {
                Some(labels) => Some(self.monitor.series(&labels).map_err(|e| e.to_string())?),
                None => None,
            };
            count.added += usize::from(id.is_some());
            let timed = line.at.is_some() && self.target.job.honor_timestamps;
            self.known.insert(line.series.into(), Known { id, round: self.round, timed });
        }
        Ok(())
    }

    fn append(&mut self, samples: Vec<(i64, SeriesId, f64)>) {
        let mut by_time: BTreeMap<i64, Vec<(SeriesId, f64)>> = BTreeMap::new();
        for (at, id, value) in samples {
            by_time.entry(at).or_default().push((id, value));
        }
        let (mut gone, mut why) = (HashSet::new(), None);
        for (at, samples) in by_time {
            for (id, refused) in self.monitor.append(at, &samples) {
                if refused == Refused::Gone {
                    gone.insert(id);
                }
                why.get_or_insert(refused);
            }
        }
        if let Some(why) = why {
            tracing::debug!(url = self.target.url, "samples were refused, the first: {why}");
        }
        if !gone.is_empty() {
            // They are made anew the next time.
            self.known.retain(|_, known| known.id.is_none_or(|id| !gone.contains(&id)));
        }
    }

    /// Series that are not on the page any more end; all of them if there is no page.
    /// Those with times of their own just stop, unless the job says otherwise.
    fn end_what_is_gone(&mut self, at: i64, read: bool) {
        let round = self.round;
        let gone = |known: &Known| !read || known.round != round;
        let ended = self.endings(gone);
        self.known.retain(|_, known| !gone(known));
        if !ended.is_empty() {
            self.monitor.append(at, &ended);
        }
    }

    fn endings(&self, gone: impl Fn(&Known) -> bool) -> Vec<(SeriesId, f64)> {
        let end_timed = self.target.job.end_timed;
        let ends = |k: &&Known| gone(k) && (end_timed || !k.timed);
        let ids = self.known.values().filter(ends).filter_map(|known| known.id);
        ids.map(|id| (id, STALE)).collect()
    }

    /// What the scrape says of itself.
    fn say(&mut self, at: i64, facts: &[(&'static str, f64)]) {
        let mut samples = Vec::new();
        for &(name, value) in facts {
            let id = match self.own.get(name) {
                Some(id) => Ok(*id),
                None => self.monitor.series(&self.target.labels.with(NAME, name)),
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

/// What families of a page are.
type Kinds<'a> = HashMap<&'a str, &'a str>;

/// The bounds of histograms and the ranks of summaries as Prometheus 3 writes them, however
/// the page does: `1` and `1.0` are one series.
fn with_even_bounds(labels: Labels, kinds: &Kinds<'_>) -> Labels {
    let name = labels.get(NAME);
    let bound = match name.strip_suffix("_bucket") {
        Some(family) if kinds.get(family) == Some(&"histogram") => "le",
        _ if kinds.get(name) == Some(&"summary") => "quantile",
        _ => return labels,
    };
    match labels.get(bound).parse::<f64>() {
        Ok(v) if v.is_finite() => labels.with(bound, &even(v)),
        _ => labels,
    }
}

/// As OpenMetrics wants it: always with a point or an exponent, the latter of two digits.
fn even(v: f64) -> String {
    let size = v.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{v:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let point = if v == v.trunc() { ".0" } else { "" };
    format!("{v}{point}")
}

fn check(labels: &Labels, limits: &ScrapeLimits) -> Result<(), String> {
    let over = |limit: usize, is: usize| limit > 0 && is > limit;
    if over(limits.labels, labels.len()) {
        return Err(format!(
            "label_limit exceeded: {labels} has more than {} labels",
            limits.labels
        ));
    }
    for (name, value) in labels.iter() {
        if over(limits.label_name, name.len()) {
            let limit = limits.label_name;
            return Err(format!("label_name_length_limit exceeded: {name:?}, limit {limit}"));
        }
        if over(limits.label_value, value.len()) {
            let limit = limits.label_value;
            return Err(format!(
                "label_value_length_limit exceeded: {name} of {labels}, limit {limit}"
            ));
        }
    }
    Ok(())
}

impl Drop for Scraper {
    fn drop(&mut self) {
        // The target is not wanted any more (or the process ends).
        let mut ended = self.endings(|_| true);
        ended.extend(self.own.values().map(|id| (*id, STALE)));
        self.monitor.append(now_ms(), &ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_even() {
        let kinds: Kinds<'_> = [("h", "histogram"), ("s", "summary")].into();
        let of = |labels: &str| {
            with_even_bounds(crate::exposition::labels_of(labels).expect(labels), &kinds)
                .to_string()
        };
        assert_eq!(of("h_bucket{le=\"1\"}"), "h_bucket{le=\"1.0\"}");
        assert_eq!(of("h_bucket{le=\"0.00001\"}"), "h_bucket{le=\"1e-05\"}");
        assert_eq!(of("h_bucket{le=\"2.5e+22\"}"), "h_bucket{le=\"2.5e+22\"}");
        assert_eq!(of("h_bucket{le=\"+Inf\"}"), "h_bucket{le=\"+Inf\"}");
        assert_eq!(of("s{quantile=\"0.50\"}"), "s{quantile=\"0.5\"}");
        assert_eq!(of("other_bucket{le=\"1\"}"), "other_bucket{le=\"1\"}");
    }
}
