//! Functions.

use super::over_time::{extrapolated, instantaneous, plain, quantile, regression, smoothed};
use super::{ABSENT, Column, Content, Eval, Query, Sample, Value, Windows, is_stale};
use crate::Error;
use crate::ast::{Expr, Node};
use crate::labels::{Labels, Matcher, NAME};
use crate::length::Length;
use std::cell::Cell;
use std::collections::BTreeMap;

impl Eval<'_> {
    pub(super) fn call(&self, name: &str, args: &[Node], query: Query) -> Result<Value, Error> {
        let steps = query.steps();
        let column = |values| Column::new(Labels::default(), values);
        Ok(Value::Vector(match name {
            "time" => return Ok(Value::Scalar((0..steps).map(|i| seconds(query.at(i))).collect())),
            "start" | "end" | "step" | "range" => {
                return Ok(Value::Scalar(vec![self.of_query(name); steps]));
            }
            "pi" => return Ok(Value::Scalar(vec![std::f64::consts::PI; steps])),
            "scalar" => return Ok(Value::Scalar(alone(&self.vector(&args[0], query)?, steps))),
            "vector" => vec![column(self.scalar(&args[0], query)?)],
            "timestamp" => self.timestamp(&args[0], query)?,
            "absent" => {
                let found = self.vector(&args[0], query)?;
                absent(&args[0], &found, steps)
            }
            "absent_over_time" => {
                let windows = self.windows(&args[0], query)?;
                let found = windows.each(true, |_, _, _| Some(1.0), |_, _| Content::Number(1.0));
                absent(&args[0], &found, steps)
            }
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(name, args, query)?,
            "round" => self.round(args, query)?,
            "sort" | "sort_desc" => {
                let numbers = self.vector(&args[0], query)?.into_iter().map(Column::numbers);
                sorted(numbers.filter(|c| !c.is_empty()).collect(), name == "sort_desc")
            }
            "sort_by_label" | "sort_by_label_desc" => {
                let names = texts(self, &args[1..], query)?;
                super::labelling::sorted_by(
                    self.vector(&args[0], query)?,
                    &names,
                    name.ends_with("desc"),
                )
            }
            "label_replace" | "label_join" => {
                let columns = self.vector(&args[0], query)?;
                let texts = texts(self, &args[1..], query)?;
                let done = match name {
                    "label_join" => super::labelling::join(columns, &texts)?,
                    _ => super::labelling::replace(columns, &texts)?,
                };
                self.merged(done)?
            }
            "info" => self.info(args, query)?,
            "histogram_quantile" => {
                let q = self.scalar(&args[0], query)?;
                self.check_quantile(&args[0], &q);
                self.histogram_quantile(&args[1], &q, query)?
            }
            "histogram_fraction" => {
                let (lower, upper) = (self.scalar(&args[0], query)?, self.scalar(&args[1], query)?);
                self.histogram_fraction(&args[2], &lower, &upper, query)?
            }
            "histogram_avg" | "histogram_count" | "histogram_sum" | "histogram_stddev"
            | "histogram_stdvar" => self.of_histograms(name, &args[0], query)?,
            "minute" | "hour" | "day_of_week" | "day_of_month" | "day_of_year"
            | "days_in_month" | "month" | "year" => {
                let of = match args.first() {
                    Some(node) => self.vector(node, query)?,
                    None => vec![column((0..steps).map(|i| seconds(query.at(i))).collect())],
                };
                self.map(of, |t| super::labelling::of_date(name, t))?
            }
            _ => match of_number(name) {
                Some(function) => self.map(self.vector(&args[0], query)?, function)?,
                None => self.of_windows(name, args, query)?,
            },
        }))
    }

    /// Of the whole query, s: where it begins and ends, and how far apart that is and its steps
    /// are.
    fn of_query(&self, name: &str) -> f64 {
        let query = self.outer;
        let length = |of: Length| of.seconds(query).unwrap_or(0.0);
        match name {
            "start" => seconds(query.start),
            "end" => seconds(query.end),
            "step" => length(Length::Step),
            _ => length(Length::Range),
        }
    }

    /// Of a selector, the samples' own times; of anything else, the step's.
    fn timestamp(&self, node: &Node, query: Query) -> Result<Vec<Column>, Error> {
        let mut inner = node;
        while let Expr::Paren(next) = &inner.expr {
            inner = next;
        }
        match &inner.expr {
            Expr::Vector(selector) => self.map(self.timestamps(selector, query)?, |t| t),
            _ => {
                let mut columns = self.vector(node, query)?;
                for column in columns.iter_mut().filter(|c| c.has_histograms()) {
                    let at = |step| column.has(step).then_some(0.0).into();
                    let contents: Vec<Content> = (0..query.steps()).map(at).collect();
                    *column = Column::mixed(column.labels.clone(), contents);
                }
                self.map_steps(columns, |i, _| seconds(query.at(i)))
            }
        }
    }

    fn clamp(&self, name: &str, args: &[Node], query: Query) -> Result<Vec<Column>, Error> {
        let columns = self.vector(&args[0], query)?;
        let first = self.scalar(&args[1], query)?;
        match name {
            "clamp_min" => self.map_steps(columns, |i, v| greater(v, first[i])),
            "clamp_max" => self.map_steps(columns, |i, v| smaller(v, first[i])),
            _ => {
                let last = self.scalar(&args[2], query)?;
                let mut columns = columns;
                for column in &mut columns {
                    for (i, v) in column.values.iter_mut().enumerate() {
                        if first[i] > last[i] {
                            *v = ABSENT;
                        }
                    }
                }
                columns.retain(|c| !c.is_empty());
                self.map_steps(columns, |i, v| greater(first[i], smaller(last[i], v)))
            }
        }
    }

    fn round(&self, args: &[Node], query: Query) -> Result<Vec<Column>, Error> {
        let columns = self.vector(&args[0], query)?;
        let to = args.get(1).map(|n| self.scalar(n, query)).transpose()?;
        self.map_steps(columns, |i, v| {
            let inverse = 1.0 / to.as_ref().map_or(1.0, |to| to[i]);
            (v * inverse + 0.5).floor() / inverse
        })
    }

    /// The columns that have an upper bound; of others it is warned.
    pub(super) fn buckets(&self, node: &Node, mut columns: Vec<Column>) -> Vec<Column> {
        columns.retain(|column| {
            if column.has_histograms() && column.values.iter().all(|v| is_stale(*v)) {
                return false;
            }
            let le = column.labels.get("le");
            let has = super::histogram::bound(le).is_ok();
            if !has {
                let text = format!(
                    "bucket label \"le\" is missing or has a malformed value of {} for metric name {}",
                    crate::quoted(le),
                    crate::quoted(column.labels.get(NAME))
                );
                self.note(node, true, text);
            }
            has
        });
        columns
    }

    /// A rate of what does not look like a counter is told.
    fn check_counters(&self, node: &Node, windows: &Windows) {
        const ENDS: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];
        for series in &windows.series {
            let name = series.labels.get(NAME);
            let numbers = !series.samples.is_empty();
            if numbers && !name.is_empty() && !ENDS.iter().any(|end| name.ends_with(end)) {
                let text = format!(
                    "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
                    crate::quoted(name)
                );
                self.note(node, false, text);
            }
        }
    }

    fn of_windows(&self, name: &str, args: &[Node], query: Query) -> Result<Vec<Column>, Error> {
        let scalar = |i: usize| match args.get(i) {
            Some(node) => self.scalar(node, query),
            None => Ok(Vec::new()),
        };
        let (param, matrix) = match name {
            "quantile_over_time" => (scalar(0)?, &args[1]),
            _ => (scalar(1)?, &args[0]),
        };
        let second = scalar(2)?;
        let windows = self.windows(matrix, query)?;
        match name {
            "rate" | "increase" => self.check_counters(matrix, &windows),
            "quantile_over_time" => self.check_quantile(&args[0], &param),
            _ => {}
        }
        let range = windows.range;
        let named = matches!(name, "last_over_time" | "first_over_time");
        // A bad factor matters only at a step that has samples.
        let bad = Cell::new(None);
        let of_numbers = |step: usize, window: &[Sample], end: i64| match name {
            _ if self.gives_up_before(window.len()) => None,
            "rate" => extrapolated(window, end, range, true, true),
            "increase" => extrapolated(window, end, range, true, false),
            "delta" => extrapolated(window, end, range, false, false),
            "irate" => instantaneous(window, true),
            "idelta" => instantaneous(window, false),
            "deriv" => regression(window, window[0].at).map(|(slope, _)| slope),
            "predict_linear" => {
                let at = query.at(step);
                regression(window, at).map(|(slope, now)| slope * param[step] + now)
            }
            "quantile_over_time" => {
                Some(quantile(param[step], window.iter().map(|s| s.value).collect()))
            }
            "double_exponential_smoothing" | "holt_winters" => {
                // NaN passes, as in Prometheus.
                let bad_factor = |v: &f64| *v <= 0.0 || *v >= 1.0;
                let factors = [param[step], second[step]];
                bad.set(factors.into_iter().find(bad_factor).or(bad.get()));
                smoothed(window, factors[0], factors[1])
            }
            _ => plain(name, window),
        };
        let columns = windows.each(named, of_numbers, |labels, window| {
            self.counted(self.of_both_kinds(name, matrix, labels, window, of_numbers))
        });
        if let Some(bad) = bad.get() {
            let why = format!("invalid smoothing factor. Expected: 0 < sf < 1, got: {bad}");
            return Err(Error::execution(why));
        }
        self.distinct(columns)
    }
}

/// The greater one: an infinity even beside NaN, else NaN if either is.
fn greater(a: f64, b: f64) -> f64 {
    let infinite = a == f64::INFINITY || b == f64::INFINITY;
    match (infinite, a.is_nan() || b.is_nan()) {
        (true, _) => f64::INFINITY,
        (false, true) => f64::NAN,
        (false, false) => a.max(b),
    }
}

/// The smaller one; as [`greater`].
fn smaller(a: f64, b: f64) -> f64 {
    -greater(-a, -b)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

fn texts(eval: &Eval<'_>, nodes: &[Node], query: Query) -> Result<Vec<String>, Error> {
    let text = |node: &Node| match eval.value(node, query)? {
        Value::Text(text) => Ok(text),
        _ => Err(Error::execution("a string is expected")),
    };
    nodes.iter().map(text).collect()
}

/// The value of the only series at each step, or NaN.
fn alone(columns: &[Column], steps: usize) -> Vec<f64> {
    let at = |step: usize| {
        let mut there = columns.iter().map(|c| c.values[step]).filter(|v| !is_stale(*v));
        match (there.next(), there.next()) {
            (Some(v), None) => v,
            _ => f64::NAN,
        }
    };
    (0..steps).map(at).collect()
}

/// 1 where there is nothing, under the labels that the selector asks to be equal.
fn absent(node: &Node, found: &[Column], steps: usize) -> Vec<Column> {
    let none = |step: usize| !found.iter().any(|c| c.has(step));
    let values: Vec<f64> = (0..steps).map(|i| if none(i) { 1.0 } else { ABSENT }).collect();
    let column = Column::new(labels_asked_for(node), values);
    if column.is_empty() { Vec::new() } else { vec![column] }
}

fn labels_asked_for(node: &Node) -> Labels {
    let matchers: &[Matcher] = match &node.expr {
        Expr::Paren(inner) => return labels_asked_for(inner),
        Expr::Vector(s) | Expr::Matrix { selector: s, .. } => &s.matchers,
        _ => return Labels::default(),
    };
    // Only the first equality of a label counts; what comes after it takes it away.
    let mut asked: BTreeMap<&str, &str> = BTreeMap::new();
    for matcher in matchers.iter().filter(|m| m.name != NAME) {
        match matcher.equal_to() {
            Some(value) if !equal_before(matchers, matcher) => asked.insert(&matcher.name, value),
            _ => asked.remove(&*matcher.name),
        };
    }
    Labels::new(asked)
}

fn equal_before(matchers: &[Matcher], matcher: &Matcher) -> bool {
    let before = matchers.iter().take_while(|m| !std::ptr::eq(*m, matcher));
    before.filter(|m| m.name == matcher.name).any(|m| m.equal_to().is_some())
}

/// By the value at the only step of an instant query; NaN last.
fn sorted(mut columns: Vec<Column>, down: bool) -> Vec<Column> {
    let value = |c: &Column| c.values.first().copied().unwrap_or(ABSENT);
    columns.sort_by(|a, b| {
        let (a, b) = (value(a), value(b));
        match (a.is_nan(), b.is_nan()) {
            (false, false) if down => b.total_cmp(&a),
            (false, false) => a.total_cmp(&b),
            (a, b) => a.cmp(&b),
        }
    });
    columns
}

/// Functions of one number.
fn of_number(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sqrt" => f64::sqrt,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "deg" => f64::to_degrees,
        "rad" => f64::to_radians,
        "sgn" => |v| {
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                v
            }
        },
        _ => return None,
    })
}
