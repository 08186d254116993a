//! Queries over what other nodes have seen.
//!
//! Each node keeps the series that it scraped and that were pushed to it. A query asks the
//! others too (by remote-read, which answers from the node itself), and says with a warning
//! when one did not answer. A series that several nodes have is taken from the one that
//! saw it most often, and from others where that one has a hole: samples of two nodes are
//! not mixed closer than that, since their clocks differ, and a counter must not go back.

use crate::form::Asker;
use crate::push::histogram::received;
use crate::push::wire::{
    LabelMatcher, QueryResult, ReadQuery, ReadRequest, ReadResponse, WrittenSample,
};
use crate::store::Monitor;
use bytes::Bytes;
use http::{Request, header};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use synod_promql::{
    Histogram, HistogramSample, Labels, Matcher, ResetHint, Sample, Series, Source,
};
use tokio::task::JoinSet;

/// How long a node may take to answer.
const WITHIN: Duration = Duration::from_secs(5);
/// A node that did not answer is not asked again for so long, and for twice as long each
/// time that it does not, up to a bound.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer, packed and unpacked.
const PACKED_MAX: usize = 64 << 20;
const UNPACKED_MAX: usize = 512 << 20;
/// A gap between samples is a hole if it is so many times the usual one, and at least
/// this long, ms.
const HOLE_TIMES: i64 = 4;
const HOLE_MS: i64 = 15_000;

/// Another node that can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name, for people.
    pub name: String,
    /// Where its API is: scheme, host and port.
    pub url: String,
}

/// Nodes that did not answer of late.
#[derive(Default)]
pub(crate) struct Silent(Mutex<HashMap<String, Silence>>);

struct Silence {
    since: Instant,
    rest: Duration,
    why: String,
}

impl Silent {
    fn note(&self, url: &str, why: Option<&str>) {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(why) = why else {
            silent.remove(url);
            return;
        };
        let rest = silent.get(url).map_or(REST, |s| (s.rest * 2).min(REST_MAX));
        let silence = Silence { since: Instant::now(), rest, why: why.to_owned() };
        silent.insert(url.to_owned(), silence);
    }

    fn why(&self, url: &str) -> Option<String> {
        let silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = silent.get(url)?;
        (silence.since.elapsed() < silence.rest).then(|| silence.why.clone())
    }
}

/// Why a node has no part in an answer.
struct NoAnswer {
    why: String,
    /// It is likely to be so for others, too: it does not answer at all.
    silent: bool,
}

/// This node's series and those of others, for one query.
pub(crate) struct Fan<'a> {
    monitor: &'a Monitor,
    peers: Vec<Peer>,
    until: Instant,
    asker: Asker,
    warnings: Mutex<BTreeSet<String>>,
}

impl<'a> Fan<'a> {
    /// `local`: this node alone. For as long as the client waits, but not beyond `until`.
    pub fn new(monitor: &'a Monitor, local: bool, asker: &Asker, until: Instant) -> Fan<'a> {
        let peers = if local { Vec::new() } else { monitor.peers() };
        Fan { monitor, peers, until, asker: asker.clone(), warnings: Mutex::default() }
    }

    /// What the answer does not hold, and why.
    pub fn warnings(self) -> Vec<String> {
        let warnings = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        warnings.into_iter().collect()
    }

    fn warn(&self, peer: &Peer, why: &str) {
        let warning = format!("node {} ({}) did not answer: {why}", peer.name, peer.url);
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).insert(warning);
    }

    /// What each node that answers makes of a request, all asked at once. It blocks: not
    /// on a task's thread.
    pub fn ask<T: Send + 'static>(
        &self,
        request: impl Fn(&Peer) -> Result<Request<Bytes>, http::Error>,
        read: fn(&[u8]) -> Result<T, String>,
    ) -> Vec<T> {
        let mut asking: JoinSet<(usize, Result<T, NoAnswer>)> = JoinSet::new();
        let runtime = tokio::runtime::Handle::current();
        let within = WITHIN.min(self.until.saturating_duration_since(Instant::now()));
        for (i, peer) in self.peers.iter().enumerate() {
            if let Some(why) = self.monitor.silent().why(&peer.url) {
                self.warn(peer, &why);
                continue;
            }
            let (client, request) = (self.monitor.client().clone(), request(peer));
            let asked = async move {
                let odd = |why| NoAnswer { why, silent: false };
                let request = request.map_err(|e| odd(e.to_string()))?;
                let sent = tokio::time::timeout(within, client.send(request, PACKED_MAX)).await;
                // Whoever is in a hurry must not speak for those who are not.
                let late = |_| NoAnswer {
                    why: format!("no answer within {within:?}"),
                    silent: within == WITHIN,
                };
                let answer = sent.map_err(late)?;
                let answer = answer.map_err(|why| NoAnswer { why, silent: true })?;
                match answer.status() {
                    status if status.is_success() => read(answer.body()).map_err(odd),
                    status => Err(odd(format!("HTTP status {status}"))),
                }
            };
            asking.spawn_on(async move { (i, asked.await) }, &runtime);
        }
        let mut answers: Vec<(usize, T)> = Vec::new();
        runtime.block_on(async {
            while let Some(done) = asking.join_next().await {
                // A task that panicked has told.
                let Ok((i, answer)) = done else { continue };
                let url = &self.peers[i].url;
                match answer {
                    Ok(answer) => {
                        self.monitor.silent().note(url, None);
                        answers.push((i, answer));
                    }
                    Err(NoAnswer { why, silent }) => {
                        if silent {
                            self.monitor.silent().note(url, Some(&why));
                        }
                        self.warn(&self.peers[i], &why);
                    }
                }
            }
        });
        answers.sort_by_key(|(i, _)| *i);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn select_elsewhere(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<Vec<Series>> {
        let query = ReadQuery {
            start_timestamp_ms: from,
            end_timestamp_ms: to,
            matchers: matchers.iter().map(asked).collect(),
        };
        let body = ReadRequest { queries: vec![query] }.encode_to_vec();
        let body: Bytes = snap::raw::Encoder::new().compress_vec(&body).unwrap_or_default().into();
        let request = |peer: &Peer| {
            Request::post(format!("{}/api/v1/read?nodes=local", peer.url))
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::CONTENT_ENCODING, "snappy")
                .body(body.clone())
        };
        self.ask(request, |body| {
            let length = snap::raw::decompress_len(body).map_err(|e| e.to_string())?;
            if length > UNPACKED_MAX {
                return Err(format!("an answer of {length} bytes; the limit is {UNPACKED_MAX}"));
            }
            let body = snap::raw::Decoder::new().decompress_vec(body).map_err(|e| e.to_string())?;
            let answer = ReadResponse::decode(&*body).map_err(|e| e.to_string())?;
            Ok(answer.results.into_iter().flat_map(series_of).collect())
        })
    }
}

impl Source for Fan<'_> {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let own = self.monitor.select(matchers, from, to)?;
        if self.peers.is_empty() {
            return Ok(own);
        }
        let mut all = vec![own];
        all.extend(self.select_elsewhere(matchers, from, to));
        Ok(merged(all))
    }

    fn gives_up(&self) -> bool {
        self.asker.has_left() || Instant::now() > self.until
    }
}

fn asked(matcher: &Matcher) -> LabelMatcher {
    let kind = match matcher.op() {
        "=" => 0,
        "!=" => 1,
        "=~" => 2,
        _ => 3,
    };
    LabelMatcher { kind, name: matcher.name.clone(), value: matcher.value.clone() }
}

fn series_of(result: QueryResult) -> impl Iterator<Item = Series> {
    result.timeseries.into_iter().map(|series| {
        let labels = Labels::new(series.labels.iter().map(|l| (&*l.name, &*l.value)));
        let sample = |s: &WrittenSample| Sample { at: s.timestamp, value: s.value };
        // What another node sends was checked when that took it.
        let histogram = |w| {
            let value = Arc::new(received(w).ok()?);
            Some(HistogramSample { at: w.timestamp, value })
        };
        Series {
            labels,
            samples: series.samples.iter().map(sample).collect(),
            histograms: series.histograms.iter().filter_map(histogram).collect(),
        }
    })
}

/// The series of several nodes, each once. The first list is this node's own.
fn merged(all: Vec<Vec<Series>>) -> Vec<Series> {
    type Views = (Vec<Vec<Sample>>, Vec<Vec<HistogramSample>>);
    let mut by_labels: BTreeMap<Labels, Views> = BTreeMap::new();
    for series in all.into_iter().flatten() {
        let (samples, histograms) = by_labels.entry(series.labels).or_default();
        samples.push(series.samples);
        if !series.histograms.is_empty() {
            histograms.push(series.histograms);
        }
    }
    let one = |(labels, (samples, histograms)): (Labels, Views)| {
        let several = histograms.len() > 1;
        let mut histograms = one_of(histograms);
        for sample in
            histograms.iter_mut().filter(|h| several && h.value.hint == ResetHint::NoReset)
        {
            // Another node's may be before it now.
            let value = Histogram::clone(&sample.value);
            sample.value = Arc::new(Histogram { hint: ResetHint::Unknown, ..value });
        }
        Series { labels, samples: one_of(samples), histograms }
    };
    by_labels.into_iter().map(one).collect()
}

/// What has a time.
trait Timed: Clone {
    fn at(&self) -> i64;
}

impl Timed for Sample {
    fn at(&self) -> i64 {
        self.at
    }
}

impl Timed for HistogramSample {
    fn at(&self) -> i64 {
        self.at
    }
}

/// The samples of the view that has most of them, its holes filled from the others.
fn one_of<T: Timed>(mut views: Vec<Vec<T>>) -> Vec<T> {
    if views.len() == 1 {
        return views.pop().unwrap_or_default();
    }
    // A stable sort: of equals this node's own comes first.
    views.sort_by_key(|view| std::cmp::Reverse(view.len()));
    let mut views = views.into_iter();
    let first = views.next().unwrap_or_default();
    views.fold(first, |samples, other| filled(samples, &other))
}

/// These samples, with those of another view where they have a hole, or end.
fn filled<T: Timed>(samples: Vec<T>, other: &[T]) -> Vec<T> {
    if samples.is_empty() {
        return other.to_vec();
    }
    let usual = usual_gap(&samples);
    let hole = HOLE_MS.max(usual.saturating_mul(HOLE_TIMES));
    let mut out = Vec::with_capacity(samples.len());
    let mut rest = other;
    // Before the first, between two that are far apart, and behind the last.
    let mut last = i64::MIN;
    for next in samples.iter().map(Some).chain([None]) {
        let at = next.map_or(i64::MAX, |s| s.at());
        if at.saturating_sub(last) > hole {
            let from = rest.partition_point(|s| s.at() <= last.saturating_add(usual));
            let to = rest.partition_point(|s| s.at() < at.saturating_sub(usual));
            if from < to {
                out.extend_from_slice(&rest[from..to]);
                rest = &rest[to..];
            }
        }
        out.extend(next.cloned());
        last = at;
    }
    out
}

/// The middle of the gaps between samples.
fn usual_gap<T: Timed>(samples: &[T]) -> i64 {
    let mut gaps: Vec<i64> = samples.windows(2).map(|pair| pair[1].at() - pair[0].at()).collect();
    if gaps.is_empty() {
        return 0;
    }
    let middle = gaps.len() / 2;
    *gaps.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ranges: &[(i64, i64, i64)], value: f64) -> Vec<Sample> {
        let each = |&(from, to, step): &(i64, i64, i64)| {
            (from..to).step_by(step as usize).map(move |at| Sample { at, value })
        };
        ranges.iter().flat_map(each).collect()
    }

    #[test]
    fn the_denser_view_counts_and_the_other_fills_its_holes() {
        let dense = view(&[(0, 60_000, 1_000), (120_000, 180_000, 1_000)], 1.0);
        let sparse = view(&[(300, 240_000, 5_000)], 2.0);
        let merged = one_of(vec![sparse, dense.clone()]);
        assert!(merged.is_sorted_by_key(|s| s.at));
        let from_other: Vec<i64> = merged.iter().filter(|s| s.value == 2.0).map(|s| s.at).collect();
        // In the hole and behind the end, no closer than a gap to what is there.
        assert_eq!(from_other.first(), Some(&60_300));
        assert!(from_other.iter().all(|at| (60_000..119_000).contains(at) || *at > 180_000));
        assert_eq!(from_other.last(), Some(&235_300));
        assert_eq!(merged.iter().filter(|s| s.value == 1.0).count(), dense.len());
    }

    #[test]
    fn a_series_of_one_node_is_as_it_is() {
        let one = |name: &str, value| {
            Series::new(Labels::new([("__name__", name)]), view(&[(0, 3_000, 1_000)], value))
        };
        let all =
            merged(vec![vec![one("a", 1.0), one("b", 1.0)], vec![one("b", 2.0), one("c", 2.0)]]);
        let first: Vec<(&str, f64)> =
            all.iter().map(|s| (s.labels.get("__name__"), s.samples[0].value)).collect();
        assert_eq!(first, [("a", 1.0), ("b", 1.0), ("c", 2.0)]);
        assert!(one_of::<Sample>(vec![Vec::new(), Vec::new()]).is_empty());
    }

    #[test]
    fn histograms_come_as_they_went_and_each_once() {
        let text = "{{schema:1 count:3 sum:2 buckets:[1 2] counter_reset_hint:not_reset}}";
        let value = Arc::new(synod_promql::read_histogram(text).expect("a histogram").0);
        let one = |first: i64| {
            let mut series = Series::new(Labels::new([("__name__", "h")]), Vec::new());
            let at = |i| HistogramSample { at: (first + i) * 1_000, value: value.clone() };
            series.histograms = (0..5).map(at).collect();
            series
        };
        let sent = QueryResult { timeseries: vec![crate::read::time_series(one(0))] };
        let received: Vec<Series> = series_of(sent).collect();
        assert_eq!(received[0].histograms, one(0).histograms);
        // Another node's samples behind the end: what is known of resets may not hold there.
        let all = merged(vec![received, vec![one(30)]]);
        assert_eq!((all.len(), all[0].histograms.len()), (1, 10));
        assert!(all[0].histograms.is_sorted_by_key(|h| h.at));
        assert!(all[0].histograms.iter().all(|h| h.value.hint == ResetHint::Unknown));
    }
}
