//! From the pages of one target to samples.

use crate::config::ScrapeLimits;
use crate::exposition::{self, Line, Taker, exemplar_of, pairs_of};
use crate::json::with_exponent;
use crate::lines::{Lines, Place};
use crate::protobuf::Native;
use crate::relabel::relabel;
use crate::store::{Monitor, now_ms};
use crate::targets::Target;
use bytes::Bytes;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use synod_promql::{Histogram, Labels, NAME, SCHEMAS, STALE};
use synod_tsdb::{Exemplar, Refused, SeriesId};

/// A page, and whether it is OpenMetrics.
pub(crate) struct Page {
    pub text: Bytes,
    pub openmetrics: bool,
    /// Those that the text cannot have.
    pub histograms: Vec<Native>,
}

/// A sample of a page.
struct Row<'a> {
    /// None: its line was not there before.
    place: Option<Place>,
    series: &'a str,
    value: f64,
    at: Option<i64>,
}

/// A page as it is read.
struct Rows<'a, 'b> {
    known: &'b Lines,
    /// The last line's.
    place: Option<Place>,
    rows: Vec<Row<'a>>,
    /// By the row's number.
    exemplars: Vec<(usize, &'a str)>,
    says: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> Taker<'a> for Rows<'a, '_> {
    fn expects(&self) -> &str {
        self.known.behind(self.place).map_or("", |(_, known)| &known.text)
    }

    fn sample(&mut self, line: Line<'a>) -> Result<(), String> {
        let Line { series, value, at, exemplar } = line;
        self.place = match self.known.behind(self.place) {
            Some((place, known)) if *known.text == *series => Some(place),
            _ => self.known.find(series),
        };
        self.exemplars.extend(exemplar.map(|text| (self.rows.len(), text)));
        self.rows.push(Row { place: self.place, series, value, at });
        Ok(())
    }

    fn meaning(&mut self, what: &'a str, name: &'a str, text: &'a str) {
        self.says.push((what, name, text));
    }
}

/// Turns pages of one target into samples.
pub(crate) struct Scraper {
    monitor: Monitor,
    target: Target,
    known: Lines,
    own: HashMap<&'static str, SeriesId>,
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
        Scraper { monitor, target, known: Lines::default(), own: HashMap::new() }
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
        let mut read = Rows {
            known: &self.known,
            place: None,
            rows: Vec::new(),
            exemplars: Vec::new(),
            says: Vec::new(),
        };
        exposition::read(text, page.openmetrics, &mut read).map_err(|e| e.to_string())?;
        let Rows { mut rows, exemplars, says, .. } = read;
        // Histograms are rows behind those of the text.
        let numbers = rows.len();
        rows.extend(page.histograms.iter().map(|h| Row {
            place: self.known.find(&h.series),
            series: &h.series,
            value: 0.0,
            at: h.at,
        }));
        count.read = rows.len();
        let types = says.iter().filter(|(what, _, _)| *what == "TYPE");
        let kinds: Kinds<'_> = types.map(|(_, name, kind)| (*name, *kind)).collect();
        let new = self.relabelled(&rows, &kinds, count)?;
        let mut natives = Vec::with_capacity(page.histograms.len());
        for (row, native) in rows[numbers..].iter().zip(&page.histograms) {
            natives.push(match self.keeps(row, &new) {
                true => bounded(&native.value, &self.target.job.limits)?,
                false => native.value.clone(),
            });
        }
        let most = self.target.job.limits.samples;
        if most > 0 && count.kept > most {
            return Err(format!("sample limit exceeded: {} samples, limit {most}", count.kept));
        }
        let exemplars = exemplars.into_iter().map(|(row, text)| Ok((row, exemplar_of(text)?)));
        let exemplars = exemplars.collect::<Result<Vec<_>, String>>()?;
        self.know(new, &mut rows, count)?;
        for (what, name, text) in says {
            // OpenMetrics names counters' families without the suffix of their series.
            if page.openmetrics && kinds.get(name) == Some(&"counter") {
                self.monitor.learn(what, &format!("{name}_total"), text);
            } else {
                self.monitor.learn(what, name, text);
            }
        }
        let ids = self.append(at, &rows, count.kept, numbers);
        for ((value, row), id) in natives.into_iter().zip(&rows[numbers..]).zip(&ids[numbers..]) {
            let theirs = row.at.filter(|_| self.target.job.honor_timestamps);
            let Some(id) = *id else { continue };
            for (_, why) in self.monitor.append_histograms(theirs.unwrap_or(at), &[(id, value)]) {
                tracing::debug!(url = self.target.url, error = %why, "a histogram was refused");
            }
        }
        for (row, (labels, value, own)) in exemplars {
            let Some(of) = ids[row].and_then(|id| self.monitor.head().labels(id)) else { continue };
            let theirs = rows[row].at.filter(|_| self.target.job.honor_timestamps);
            let exemplar = Exemplar { labels, value, at: own.or(theirs).unwrap_or(at) };
            if let Err(why) = self.monitor.exemplar(&of, exemplar) {
                tracing::debug!(series = %of, error = %why, "an exemplar was refused");
            }
        }
        Ok(())
    }

    /// The labels of lines that were not there before, and how many are kept in all. No
    /// series is made: the page may be refused yet.
    fn relabelled<'a>(
        &self,
        rows: &[Row<'a>],
        kinds: &Kinds<'_>,
        count: &mut Count,
    ) -> Result<HashMap<&'a str, Option<Labels>>, String> {
        let mut new = HashMap::new();
        for row in rows {
            let kept = match row.place.and_then(|place| self.known.get(place)) {
                Some(known) => known.id.is_some(),
                None => match new.entry(row.series) {
                    Entry::Occupied(seen) => Option::is_some(seen.get()),
                    Entry::Vacant(vacant) => {
                        vacant.insert(self.labels_of(row.series, kinds)?).is_some()
                    }
                },
            };
            count.kept += usize::from(kept);
        }
        Ok(new)
    }

    /// Whether a line is kept, one of these if it was not there before.
    fn keeps(&self, row: &Row<'_>, new: &HashMap<&str, Option<Labels>>) -> bool {
        match row.place.and_then(|place| self.known.get(place)) {
            Some(known) => known.id.is_some(),
            None => new.get(row.series).is_some_and(Option::is_some),
        }
    }

    /// Makes series of the lines that were not there before.
    fn know(
        &mut self,
        mut new: HashMap<&str, Option<Labels>>,
        rows: &mut [Row<'_>],
        count: &mut Count,
    ) -> Result<(), String> {
        for row in rows.iter_mut().filter(|row| row.place.is_none()) {
            let Some(labels) = new.remove(row.series) else {
                // It is there twice.
                row.place = self.known.find(row.series);
                continue;
            };
            let id = match labels {
                Some(labels) => Some(self.monitor.series(&labels).map_err(|e| e.to_string())?),
                None => None,
            };
            count.added += usize::from(id.is_some());
            let timed = row.at.is_some() && self.target.job.honor_timestamps;
            row.place = Some(self.known.insert(row.series, id, timed));
        }
        Ok(())
    }

    /// Appends samples, of which so many are kept; gives their series. Those behind the
    /// numbers are seen, but not appended.
    fn append(
        &mut self,
        at: i64,
        rows: &[Row<'_>],
        kept: usize,
        numbers: usize,
    ) -> Vec<Option<SeriesId>> {
        let mut now = Vec::with_capacity(kept);
        let mut by_time: BTreeMap<i64, Vec<(SeriesId, f64)>> = BTreeMap::new();
        self.known.begin();
        let see = |(place, row): (usize, &Row<'_>)| {
            let id = self.known.see(row.place?)?;
            if place >= numbers {
                return Some(id);
            }
            match row.at.filter(|_| self.target.job.honor_timestamps) {
                Some(theirs) if theirs != at => {
                    by_time.entry(theirs).or_default().push((id, row.value));
                }
                _ => now.push((id, row.value)),
            }
            Some(id)
        };
        let ids = rows.iter().enumerate().map(see).collect();
        let (mut gone, mut why) = (HashSet::new(), None);
        for (at, samples) in by_time.into_iter().chain([(at, now)]) {
            for (id, refused) in self.monitor.append(at, &samples) {
                if refused == Refused::Gone {
                    gone.insert(id);
                }
                why.get_or_insert(refused);
            }
        }
        if let Some(why) = why {
            tracing::debug!(url = self.target.url, error = %why, "samples were refused: the first");
        }
        if !gone.is_empty() {
            // They are made anew the next time.
            self.known.forget(|known| known.id.is_some_and(|id| gone.contains(&id)), |_| {});
        }
        ids
    }

    /// Series that are not on the page any more end; all of them if there is no page.
    /// Those with times of their own just stop, unless the job says otherwise.
    fn end_what_is_gone(&mut self, at: i64, read: bool) {
        if !read {
            self.known.begin();
        }
        let (mut ended, end_timed) = (Vec::new(), self.target.job.end_timed);
        self.known.forget_unseen(|known| {
            ended.extend(known.id.filter(|_| end_timed || !known.timed).map(|id| (id, STALE)));
        });
        if !ended.is_empty() {
            self.monitor.append(at, &ended);
        }
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
        return with_exponent(v);
    }
    let point = if v == v.trunc() { ".0" } else { "" };
    format!("{v}{point}")
}

/// A histogram within the job's bounds: made as coarse as that takes.
fn bounded(value: &Arc<Histogram>, limits: &ScrapeLimits) -> Result<Arc<Histogram>, String> {
    let most = if limits.buckets == 0 { usize::MAX } else { limits.buckets };
    let finest = limits.finest.unwrap_or(*SCHEMAS.end());
    let mut bounded = value.clone();
    if !value.is_custom() && value.schema > finest {
        bounded = Arc::new(value.as_ref().clone().reduced(finest));
    }
    while bounded.len() > most {
        if bounded.is_custom() || bounded.schema <= *SCHEMAS.start() {
            let (is, limit) = (bounded.len(), limits.buckets);
            return Err(format!("native_histogram_bucket_limit exceeded: {is}, limit {limit}"));
        }
        let coarser = bounded.schema - 1;
        bounded = Arc::new(bounded.as_ref().clone().reduced(coarser));
    }
    Ok(bounded)
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
        let end_timed = self.target.job.end_timed;
        let ends = self.known.iter().filter(|known| end_timed || !known.timed);
        let mut ended: Vec<_> = ends.filter_map(|known| Some((known.id?, STALE))).collect();
        ended.extend(self.own.values().map(|id| (*id, STALE)));
        self.monitor.append(now_ms(), &ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_as_coarse_as_the_bounds_want() {
        let histogram = |text: &str| Arc::new(synod_promql::read_histogram(text).expect(text).0);
        let fine = histogram("{{schema:3 count:16 sum:9 buckets:[1 1 1 1 1 1 1 1] n_buckets:[8]}}");
        let of = |buckets: usize, finest: Option<i32>, value: &Arc<Histogram>| {
            let limits = ScrapeLimits { buckets, finest, ..ScrapeLimits::default() };
            bounded(value, &limits).map(|h| (h.schema, h.len(), h.count))
        };
        assert_eq!(of(0, None, &fine), Ok((3, 9, 16.0)));
        assert_eq!(of(9, Some(8), &fine), Ok((3, 9, 16.0)));
        assert_eq!(of(0, Some(1), &fine), Ok((1, 4, 16.0)));
        assert_eq!(of(5, None, &fine), Ok((1, 4, 16.0)));
        assert_eq!(of(3, Some(1), &fine), Ok((0, 3, 16.0)));
        // However coarse, three are left.
        let over = of(1, None, &fine).expect_err("too many");
        assert!(over.contains("bucket_limit exceeded") && over.contains("limit 1"), "{over}");
        let custom =
            histogram("{{schema:-53 count:3 sum:2 buckets:[1 1 1] custom_values:[0.5 7]}}");
        assert_eq!(of(3, Some(-4), &custom), Ok((-53, 3, 3.0)));
        assert!(of(2, None, &custom).is_err());
    }

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
