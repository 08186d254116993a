//! What is done with histograms at a step, and with those of a window.

use super::aggregate::{Group, number_of};
use super::over_time::Sampled;
use super::select::Window;
use super::{Column, Content, Eval, Query, Sample, aggregate, binary, is_stale};
use crate::ast::{Aggregation, BinaryOp, Node};
use crate::labels::{Labels, NAME};
use crate::native::{Histogram, HistogramSample, ResetHint, Unlike};
use crate::{Error, quoted};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where more than one kind of value comes together.
enum Mix {
    Floats,
    Layouts,
}

impl Eval<'_> {
    fn note_mix(&self, node: &Node, mix: Mix, labels: &Labels) {
        let what = match mix {
            Mix::Floats => "encountered a mix of histograms and floats for",
            Mix::Layouts => {
                "vector contains a mix of histograms with exponential and custom buckets schemas for"
            }
        };
        let name = quoted(labels.get(NAME));
        self.note(node, true, format!("{what} metric name {name}"));
    }

    /// Adds one histogram to another, and notes what is remarkable about it.
    fn add(
        &self,
        node: &Node,
        to: &mut Histogram,
        other: &Histogram,
        subtract: bool,
    ) -> Result<(), Unlike> {
        let (remarks, what) = match subtract {
            true => (to.subtract(other)?, "subtraction"),
            false => (to.add(other)?, "addition"),
        };
        if remarks.collision {
            self.note(node, true, format!("conflicting counter resets during histogram {what}"));
        }
        if remarks.fewer_bounds {
            let text = format!(
                "mismatched custom buckets were reconciled during histogram {what} by keeping \
                 the bounds that both have"
            );
            self.note(node, false, text);
        }
        Ok(())
    }

    /// The sum or the mean.
    fn total(&self, node: &Node, all: &[&Arc<Histogram>], mean: bool) -> Result<Histogram, Unlike> {
        let mut total = all.first().map(|h| Histogram::clone(h)).unwrap_or_default();
        for other in all.iter().skip(1) {
            self.add(node, &mut total, other, false)?;
        }
        let total = if mean { total.divided(all.len() as f64) } else { total };
        Ok(total.compacted())
    }

    /// An aggregation of a group in which there are histograms, at one step.
    pub(super) fn of_both(
        &self,
        by: aggregate::By<'_>,
        group: &Group,
        step: usize,
        param: Option<f64>,
    ) -> Content {
        use Aggregation::{Avg, Count, Group as GroupOnly, Sum};
        let histograms: Vec<&Arc<Histogram>> =
            group.members.iter().filter_map(|c| c.histogram(step)).collect();
        let numbers = group.members.iter().map(|c| c.values[step]).filter(|v| !is_stale(*v));
        let numbers: Vec<f64> = numbers.collect();
        match by.op {
            _ if histograms.is_empty() && numbers.is_empty() => Content::Nothing,
            _ if histograms.is_empty() => Content::Number(number_of(by.op, numbers, param)),
            Count => Content::Number((histograms.len() + numbers.len()) as f64),
            GroupOnly => Content::Number(1.0),
            Sum | Avg if numbers.is_empty() => {
                match self.total(by.node, &histograms, by.op == Avg) {
                    Ok(total) => total.into(),
                    Err(Unlike) => {
                        self.note_mix(by.node, Mix::Layouts, &Labels::default());
                        Content::Nothing
                    }
                }
            }
            Sum | Avg => {
                let text = "encountered a mix of histograms and floats for aggregation";
                self.note(by.node, true, text.into());
                Content::Nothing
            }
            _ => {
                self.note_ignored(by, group);
                match numbers.is_empty() {
                    true => Content::Nothing,
                    false => Content::Number(number_of(by.op, numbers, param)),
                }
            }
        }
    }

    /// Tells that an aggregation has nothing to do with histograms.
    pub(super) fn note_ignored(&self, by: aggregate::By<'_>, group: &Group) {
        if group.members.iter().any(Column::has_histograms) {
            let text = format!("ignored histogram in {} aggregation", by.op.name());
            self.note(by.node, false, text);
        }
    }

    /// An operator of which one side at least is a histogram.
    pub(super) fn operate_mixed(&self, by: binary::By<'_>, a: Content, b: Content) -> Content {
        use BinaryOp::{Add, Div, Eq, Mul, Ne, Sub};
        let kept = |holds: bool, h: Arc<Histogram>| match (by.returns_bool, holds) {
            (true, _) => Content::Number(f64::from(u8::from(holds))),
            (false, true) => Content::Histogram(h),
            (false, false) => Content::Nothing,
        };
        let kind = |content: &Content| match content {
            Content::Histogram(_) => "histogram",
            _ => "float",
        };
        let kinds = (kind(&a), kind(&b));
        match (by.op, a, b) {
            (Mul, Content::Histogram(h), Content::Number(v))
            | (Mul, Content::Number(v), Content::Histogram(h)) => {
                Histogram::clone(&h).times(v).into()
            }
            (Div, Content::Histogram(h), Content::Number(v)) => {
                Histogram::clone(&h).divided(v).into()
            }
            (Add | Sub, Content::Histogram(a), Content::Histogram(b)) => {
                let mut result = Histogram::clone(&a);
                match self.add(by.node, &mut result, &b, by.op == Sub) {
                    Ok(()) => {
                        if by.op == Sub {
                            result.hint = ResetHint::Gauge;
                        }
                        result.compacted().into()
                    }
                    Err(Unlike) => {
                        let text = format!(
                            "incompatible bucket layout encountered for binary operator {}",
                            by.op.sign()
                        );
                        self.note(by.node, true, text);
                        Content::Nothing
                    }
                }
            }
            (Eq, Content::Histogram(a), Content::Histogram(b)) => kept(a.same(&b), a),
            (Ne, Content::Histogram(a), Content::Histogram(b)) => kept(!a.same(&b), a),
            _ => {
                let (op, (a, b)) = (by.op.sign(), kinds);
                let text = format!(
                    "incompatible sample types encountered for binary operator {}: {a} {op} {b}",
                    quoted(op)
                );
                self.note(by.node, false, text);
                match by.returns_bool {
                    true => Content::Number(0.0),
                    false => Content::Nothing,
                }
            }
        }
    }

    /// A number of each histogram; what is no histogram gives none.
    pub(super) fn of_histograms(
        &self,
        name: &str,
        node: &Node,
        query: Query,
    ) -> Result<Vec<Column>, Error> {
        let of = |h: &Histogram| match name {
            "histogram_avg" => h.sum / h.count,
            "histogram_count" => h.count,
            "histogram_sum" => h.sum,
            "histogram_stddev" => h.variance().sqrt(),
            _ => h.variance(),
        };
        let found = numbers(&self.vector(node, query)?, |_, h| of(h));
        self.merged(found)
    }

    pub(super) fn histogram_quantile(
        &self,
        node: &Node,
        q: &[f64],
        query: Query,
    ) -> Result<Vec<Column>, Error> {
        let columns = self.vector(node, query)?;
        let native = numbers(&columns, |step, h| h.quantile(q[step]));
        let (classic, fixed) = super::histogram::quantiles(q, self.buckets(node, columns));
        for name in fixed {
            let text = format!(
                "input to histogram_quantile needed to be fixed for monotonicity (see \
                 https://prometheus.io/docs/prometheus/latest/querying/functions/\
                 #histogram_quantile) for metric name {}",
                quoted(&name)
            );
            self.note(node, false, text);
        }
        self.both_kinds(node, native, classic)
    }

    pub(super) fn histogram_fraction(
        &self,
        node: &Node,
        lower: &[f64],
        upper: &[f64],
        query: Query,
    ) -> Result<Vec<Column>, Error> {
        let columns = self.vector(node, query)?;
        let native = numbers(&columns, |step, h| h.fraction(lower[step], upper[step]));
        let columns = self.buckets(node, columns);
        let classic = super::histogram::fractions(lower, upper, columns);
        self.both_kinds(node, native, classic)
    }

    /// What native and classic histograms give; where both are of the same labels, neither
    /// counts.
    fn both_kinds(
        &self,
        node: &Node,
        mut native: Vec<Column>,
        mut classic: Vec<Column>,
    ) -> Result<Vec<Column>, Error> {
        if !native.is_empty() {
            let mut places = BTreeMap::<Labels, Vec<usize>>::new();
            for (i, column) in native.iter().enumerate() {
                places.entry(column.labels.clone()).or_default().push(i);
            }
            for column in &mut classic {
                let same = places.get(&column.labels).into_iter().flatten();
                for &i in same {
                    for step in 0..column.values.len() {
                        if column.has(step) && native[i].has(step) {
                            column.clear(step);
                            native[i].clear(step);
                            let text = "vector contains a mix of classic and native histograms";
                            self.note(node, true, text.into());
                        }
                    }
                }
            }
            classic.append(&mut native);
            classic.retain(|c| !c.is_empty());
        }
        self.merged(classic)
    }

    /// A range function of a window with histograms; `of_numbers` is the same of numbers.
    pub(super) fn of_both_kinds(
        &self,
        name: &str,
        node: &Node,
        labels: &Labels,
        window: Window<'_>,
        of_numbers: impl Fn(usize, &[Sample], i64) -> Option<f64>,
    ) -> Content {
        let Window { step, end, numbers, histograms, .. } = window;
        let count = numbers.len() + histograms.len();
        let newest = (numbers.last().map(|s| s.at), histograms.last().map(|h| h.at));
        let oldest = (numbers.first().map(|s| s.at), histograms.first().map(|h| h.at));
        let seconds = |at: Option<i64>| Content::Number(at.unwrap_or(0) as f64 / 1_000.0);
        match name {
            "count_over_time" => Content::Number(count as f64),
            "present_over_time" => Content::Number(1.0),
            "last_over_time" if newest.0 > newest.1 => number(numbers.last()),
            "last_over_time" => histogram(histograms.last()),
            "first_over_time" if oldest.0.is_some() && oldest.0 < oldest.1 => {
                number(numbers.first())
            }
            "first_over_time" => histogram(histograms.first()),
            "ts_of_last_over_time" => seconds(newest.0.max(newest.1)),
            "ts_of_first_over_time" => seconds(oldest.0.into_iter().chain(oldest.1).min()),
            "changes" => Content::Number(pairs(&window, |a, b| a != b, |a, b| !a.same(b))),
            "resets" => Content::Number(pairs(&window, |a, b| b < a, |a, b| b.is_reset_since(a))),
            "irate" | "idelta" => self.instantaneous(name == "irate", node, labels, &window),
            "rate" | "increase" | "delta" | "sum_over_time" | "avg_over_time"
                if !numbers.is_empty() =>
            {
                self.note_mix(node, Mix::Floats, labels);
                Content::Nothing
            }
            "rate" | "increase" | "delta" => self.extrapolated(name, node, labels, &window),
            "sum_over_time" | "avg_over_time" => {
                let all: Vec<&Arc<Histogram>> = histograms.iter().map(|h| &h.value).collect();
                match self.total(node, &all, name == "avg_over_time") {
                    Ok(total) => total.into(),
                    Err(Unlike) => {
                        self.note_mix(node, Mix::Layouts, labels);
                        Content::Nothing
                    }
                }
            }
            _ if numbers.is_empty() => Content::Nothing,
            _ => {
                let text = format!(
                    "ignored histograms in a range containing both floats and histograms for \
                     metric name {}",
                    quoted(labels.get(NAME))
                );
                self.note(node, false, text);
                of_numbers(step, numbers, end).into()
            }
        }
    }

    /// Notes if some are no counters, or no gauges, but should be.
    fn check_hints(&self, node: &Node, counter: bool, labels: &Labels, all: &[HistogramSample]) {
        let gauge = |h: &HistogramSample| h.value.hint == ResetHint::Gauge;
        let told = match counter {
            true if all.iter().any(gauge) => "this native histogram metric is not a counter:",
            false if !all.first().is_some_and(gauge) || !all.last().is_some_and(gauge) => {
                "this native histogram metric is not a gauge:"
            }
            _ => return,
        };
        self.note(node, true, format!("{told} {}", quoted(labels.get(NAME))));
    }

    fn extrapolated(
        &self,
        name: &str,
        node: &Node,
        labels: &Labels,
        window: &Window<'_>,
    ) -> Content {
        let all = window.histograms;
        let [first, .., last] = all else { return Content::Nothing };
        let counter = name != "delta";
        self.check_hints(node, counter, labels, all);
        let Ok(difference) = self.difference(node, counter, all) else {
            self.note_mix(node, Mix::Layouts, labels);
            return Content::Nothing;
        };
        let begun = first.value.count;
        let zero =
            (counter && difference.count > 0.0 && begun >= 0.0).then(|| begun / difference.count);
        let sampled = Sampled { first: first.at, last: last.at, count: all.len() };
        let factor = sampled.stretch(window.end, window.range, zero, name == "rate");
        difference.times(factor).into()
    }

    /// The last one without the first, and with what resets of a counter took away.
    fn difference(
        &self,
        node: &Node,
        counter: bool,
        all: &[HistogramSample],
    ) -> Result<Histogram, Unlike> {
        let [first, .., last] = all else { return Err(Unlike) };
        // Of a first one that was reset at once nothing counts, not even its layout.
        let reset_at_once = counter && all[1].value.is_reset_since(&first.value);
        let nothing = Histogram {
            schema: all[1].value.schema,
            bounds: all[1].value.bounds.clone(),
            zero_threshold: all[1].value.zero_threshold,
            ..Histogram::default()
        };
        let begun = if reset_at_once { &nothing } else { &*first.value };
        let coarsest = match counter {
            true => all[1..].iter().map(|h| h.value.schema).min().unwrap_or(begun.schema),
            false => last.value.schema,
        };
        if counter && all[1..].iter().any(|h| h.value.is_custom() != begun.is_custom()) {
            return Err(Unlike);
        }
        let mut result = Histogram::clone(&last.value).reduced(coarsest.min(begun.schema));
        // Resets may contradict each other here; nobody has to be told.
        result.hint = ResetHint::Gauge;
        self.add(node, &mut result, begun, true)?;
        if counter {
            let mut before = begun;
            for next in &all[1..] {
                if next.value.is_reset_since(before) {
                    self.add(node, &mut result, before, false)?;
                }
                before = &next.value;
            }
        }
        result.hint = ResetHint::Gauge;
        Ok(result.compacted())
    }

    /// Of the last two samples.
    fn instantaneous(
        &self,
        rate: bool,
        node: &Node,
        labels: &Labels,
        window: &Window<'_>,
    ) -> Content {
        let numbers = window.numbers.iter().rev().take(2).map(|s| (s.at, None));
        let histograms = window.histograms.iter().rev().take(2).map(|h| (h.at, Some(&h.value)));
        let mut all: Vec<(i64, Option<&Arc<Histogram>>)> = numbers.chain(histograms).collect();
        all.sort_by_key(|(at, _)| *at);
        let [.., (begun, before), (ended, last)] = all[..] else { return Content::Nothing };
        let (before, last) = match (before, last) {
            (Some(before), Some(last)) => (before, last),
            (None, None) => {
                let value = super::over_time::instantaneous(window.numbers, rate);
                return value.into();
            }
            _ => {
                self.note_mix(node, Mix::Floats, labels);
                return Content::Nothing;
            }
        };
        let pair = &window.histograms[window.histograms.len() - 2..];
        self.check_hints(node, rate, labels, pair);
        let mut result = Histogram::clone(last);
        result.hint = ResetHint::Gauge;
        if !rate || !last.is_reset_since(before) {
            if self.add(node, &mut result, before, true).is_err() {
                self.note_mix(node, Mix::Layouts, labels);
                return Content::Nothing;
            }
            result.hint = ResetHint::Gauge;
        }
        let result = result.compacted();
        match rate {
            true => result.divided((ended - begun) as f64 / 1_000.0).into(),
            false => result.into(),
        }
    }
}

/// A number of each histogram, under the labels without a name.
fn numbers(columns: &[Column], of: impl Fn(usize, &Histogram) -> f64) -> Vec<Column> {
    let with = columns.iter().filter(|c| c.has_histograms());
    let column = |c: &Column| {
        let at = |step| c.histogram(step).map(|h| of(step, h)).into();
        let contents: Vec<Content> = (0..c.values.len()).map(at).collect();
        Column::mixed(c.labels.nameless(), contents)
    };
    with.map(column).collect()
}

fn number(sample: Option<&Sample>) -> Content {
    sample.map(|s| s.value).into()
}

fn histogram(sample: Option<&HistogramSample>) -> Content {
    sample.map_or(Content::Nothing, |h| Content::Histogram(h.value.clone()))
}

/// How many samples of a window differ in this way from the one before; those of another
/// kind always do.
fn pairs(
    window: &Window<'_>,
    of_numbers: impl Fn(f64, f64) -> bool,
    of_histograms: impl Fn(&Histogram, &Histogram) -> bool,
) -> f64 {
    enum Either<'a> {
        Number(f64),
        Histogram(&'a Histogram),
    }
    let numbers = window.numbers.iter().map(|s| (s.at, Either::Number(s.value)));
    let histograms = window.histograms.iter().map(|h| (h.at, Either::Histogram(&h.value)));
    let mut all: Vec<(i64, Either<'_>)> = numbers.chain(histograms).collect();
    all.sort_by_key(|(at, _)| *at);
    let differs = |pair: &&[(i64, Either<'_>)]| match (&pair[0].1, &pair[1].1) {
        (Either::Number(a), Either::Number(b)) => of_numbers(*a, *b) && !(a.is_nan() && b.is_nan()),
        (Either::Histogram(a), Either::Histogram(b)) => of_histograms(a, b),
        _ => true,
    };
    all.windows(2).filter(differs).count() as f64
}
