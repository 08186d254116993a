//! Expressions to values.

mod aggregate;
mod binary;
mod call;
mod column;
mod histogram;
mod info;
mod labelling;
mod native;
mod over_time;
mod select;

use crate::ast::{Aggregation, At, BinaryOp, Expr, Kind, Node, When};
use crate::labels::{Labels, Matcher};
use crate::length::resolved;
use crate::native::HistogramSample;
use crate::{Error, ErrorKind};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use aggregate::number_text;
pub use column::Column;
pub(crate) use column::Content;

/// The value that ends a series: a NaN of these very bits.
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
/// In a column: no value at this step.
pub const ABSENT: f64 = STALE;

/// Whether a value says that the series ended (no other NaN does).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE.to_bits()
}

/// No time that a query looks at is beyond this, ms (or below its negative): room for
/// ranges and steps.
const TIME_MAX: i64 = i64::MAX / 4;

/// A value and when: Unix time, ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: i64,
    /// What.
    pub value: f64,
}

/// A series' samples, in order of time.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Its samples, those that end it among them.
    pub samples: Vec<Sample>,
    /// Those of its samples that are histograms; nearly always there are none. No two samples
    /// of either kind have the same time.
    pub histograms: Vec<HistogramSample>,
}

impl Series {
    /// One of numbers alone.
    pub fn new(labels: Labels, samples: Vec<Sample>) -> Series {
        Series { labels, samples, histograms: Vec::new() }
    }

    /// Whether it has no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }

    /// What its samples take of a limit: a histogram counts as the numbers that are in it.
    pub fn weight(&self) -> usize {
        self.samples.len() + self.histograms.iter().map(|h| h.value.weight()).sum::<usize>()
    }
}

/// Samples of windows that are looked at between two questions whether to give up: well
/// below a millisecond.
const ASK_EVERY: usize = 1 << 17;

/// Where series come from.
pub trait Source {
    /// The series that all matchers take, with their samples in `from..=to`.
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String>;

    /// Whether to give up (time is over, the client is gone).
    fn gives_up(&self) -> bool {
        false
    }
}

/// What a query may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Samples in memory at once, of sources and of results.
    pub samples: usize,
    /// How far back a selector looks for a value, ms.
    pub lookback: i64,
    /// Step of a subquery that names none, ms.
    pub subquery_step: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { samples: 50_000_000, lookback: 300_000, subquery_step: 60_000 }
    }
}

/// When a query is evaluated: at `start`, `start + step`, …, `end`; ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// First step.
    pub start: i64,
    /// No step is later.
    pub end: i64,
    /// Between two.
    pub step: i64,
}

impl Query {
    /// One step.
    pub fn instant(at: i64) -> Query {
        Query { start: at, end: at, step: 1 }
    }

    /// How many steps.
    pub fn steps(&self) -> usize {
        if self.end < self.start {
            0
        } else {
            ((self.end - self.start) / self.step.max(1)) as usize + 1
        }
    }

    /// The time of a step.
    pub fn at(&self, step: usize) -> i64 {
        self.start + step as i64 * self.step
    }
}

/// What a query gives.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A number at each step.
    Scalar(Vec<f64>),
    /// A text.
    Text(String),
    /// Series with their values; in the order of `sort`, if it was asked for.
    Vector(Vec<Series>),
    /// Series over a time (a range selector by itself).
    Matrix(Vec<Series>),
}

/// What an expression gives while a query is evaluated.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number at each step.
    Scalar(Vec<f64>),
    /// A text.
    Text(String),
    /// Series.
    Vector(Vec<Column>),
}

/// A series' samples for a range function, and where its windows are.
pub(crate) struct Windows {
    pub(crate) series: Vec<Series>,
    pub(crate) range: i64,
    /// The end of each step's window.
    pub(crate) ends: Vec<i64>,
}

/// Notes of one query, at most.
const NOTES_MAX: usize = 10;

/// One evaluation.
pub(crate) struct Eval<'a> {
    source: &'a dyn Source,
    limits: Limits,
    /// The whole query's.
    outer: Query,
    taken: Cell<usize>,
    /// Samples of windows that were looked at since somebody asked whether to give up.
    looked_at: Cell<usize>,
    /// Samples that steps looked at, if somebody wants to know.
    seen: Option<Cell<u64>>,
    given_up: Cell<bool>,
    notes: RefCell<BTreeSet<Note>>,
}

/// What a reader of an answer should be told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Note {
    /// First byte in the query of what it is about.
    pub at: usize,
    /// It is a warning; else for information.
    pub warns: bool,
    /// In words.
    pub text: String,
}

/// Evaluates a query.
pub fn evaluate(
    node: &Node,
    query: Query,
    source: &dyn Source,
    limits: Limits,
) -> Result<Answer, Error> {
    evaluate_noted(node, query, source, limits).map(|(answer, _)| answer)
}

/// Evaluates a query; gives also what readers should be told, in the query's order.
pub fn evaluate_noted(
    node: &Node,
    query: Query,
    source: &dyn Source,
    limits: Limits,
) -> Result<(Answer, Vec<Note>), Error> {
    let node = resolved(node, query)?;
    let eval = Eval::new(query, source, limits, None);
    let answer = eval.answer(&node, query)?;
    Ok((answer, eval.notes.into_inner().into_iter().collect()))
}

/// What a query went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Samples that its steps looked at, each as often as a step did.
    pub looked_at: u64,
    /// Samples that were counted against the limit.
    pub peak: u64,
}

/// As [`evaluate_noted`], and counts.
pub fn evaluate_counted(
    node: &Node,
    query: Query,
    source: &dyn Source,
    limits: Limits,
) -> Result<(Answer, Vec<Note>, Counts), Error> {
    let node = resolved(node, query)?;
    let eval = Eval::new(query, source, limits, Some(Cell::new(0)));
    let answer = eval.answer(&node, query)?;
    let looked_at = eval.seen.as_ref().map_or(0, Cell::get);
    let counts = Counts { looked_at, peak: eval.taken.get() as u64 };
    Ok((answer, eval.notes.into_inner().into_iter().collect(), counts))
}

impl<'a> Eval<'a> {
    fn new(
        outer: Query,
        source: &'a dyn Source,
        limits: Limits,
        seen: Option<Cell<u64>>,
    ) -> Eval<'a> {
        let (taken, looked_at, given_up) = (Cell::new(0), Cell::new(0), Cell::new(false));
        Eval { source, limits, outer, taken, looked_at, seen, given_up, notes: RefCell::default() }
    }
}

impl Eval<'_> {
    fn answer(&self, node: &Node, query: Query) -> Result<Answer, Error> {
        if query.start.min(query.end) < -TIME_MAX || query.start.max(query.end) > TIME_MAX {
            return Err(Error::execution("the time of the query is out of bounds"));
        }
        if node.kind() == Kind::Matrix {
            if query.steps() != 1 {
                return Err(Error {
                    kind: ErrorKind::Parse,
                    span: None,
                    why: "invalid expression type \"range vector\" for range query, must be Scalar or \
                          instant Vector"
                        .into(),
                });
            }
            return self.matrix(node, query);
        }
        let value = self.value(node, query)?;
        // What was counted last has not been told yet.
        self.take(0)?;
        Ok(match value {
            Value::Scalar(values) => Answer::Scalar(values),
            Value::Text(text) => Answer::Text(text),
            Value::Vector(columns) => Answer::Vector(
                self.merged(columns)?
                    .into_iter()
                    .map(|column| column.series(query))
                    .filter(|s| !s.is_empty())
                    .collect(),
            ),
        })
    }

    fn matrix(&self, node: &Node, query: Query) -> Result<Answer, Error> {
        let windows = self.windows(node, query)?;
        let (range, end) = (windows.range, windows.ends[0]);
        let inside = |at: i64| at > end - range && at <= end;
        let series = windows.series.into_iter().map(|mut s| {
            s.samples.retain(|s| inside(s.at) && !is_stale(s.value));
            s.histograms.retain(|h| inside(h.at));
            s
        });
        Ok(Answer::Matrix(series.filter(|s| !s.is_empty()).collect()))
    }

    /// Notes what a reader should be told of a part of the query; each once.
    pub(crate) fn note(&self, at: &Node, warns: bool, text: String) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES_MAX {
            notes.insert(Note { at: at.span.start, warns, text });
        }
    }

    /// Warns if one of these is no share of a whole.
    pub(crate) fn check_quantile(&self, at: &Node, q: &[f64]) {
        let bad = |q: &&f64| q.is_nan() || **q < 0.0 || **q > 1.0;
        if let Some(q) = q.iter().find(bad) {
            let q = aggregate::number_text(*q);
            self.note(at, true, format!("quantile value should be between 0 and 1, got {q}"));
        }
    }

    /// Counts samples that steps look at.
    fn see(&self, count: impl FnOnce() -> u64) {
        if let Some(seen) = &self.seen {
            seen.set(seen.get() + count());
        }
    }

    /// Counts samples against the limit.
    fn take(&self, samples: usize) -> Result<(), Error> {
        self.taken.set(self.taken.get().saturating_add(samples));
        if self.taken.get() > self.limits.samples {
            let why = "query processing would load too many samples into memory in query execution";
            return Err(Error::execution(why));
        }
        if self.given_up.get() || self.source.gives_up() {
            let why = "query timed out in expression evaluation".into();
            return Err(Error { kind: ErrorKind::Timeout, span: None, why });
        }
        Ok(())
    }

    /// Whether it is to give up, asked now and then, before so many more samples are looked
    /// at. Then there is no value, and the next thing that is counted tells.
    pub(crate) fn gives_up_before(&self, samples: usize) -> bool {
        let looked_at = self.looked_at.get() + samples + 1;
        self.looked_at.set(looked_at);
        if looked_at >= ASK_EVERY {
            self.looked_at.set(0);
            self.given_up.set(self.given_up.get() || self.source.gives_up());
        }
        self.given_up.get()
    }

    /// Counts a histogram that was made against the limit. Beyond it there is none, and the
    /// next thing that is counted tells.
    pub(crate) fn counted(&self, content: Content) -> Content {
        match &content {
            Content::Histogram(h) if self.take(h.weight()).is_err() => Content::Nothing,
            _ => content,
        }
    }

    /// The value of an expression at all steps.
    pub(crate) fn value(&self, node: &Node, query: Query) -> Result<Value, Error> {
        let steps = query.steps();
        self.take(steps)?;
        match &node.expr {
            Expr::Number(n) => Ok(Value::Scalar(vec![*n; steps])),
            Expr::Text(t) => Ok(Value::Text(t.clone())),
            Expr::Paren(inner) | Expr::Plus(inner) => self.value(inner, query),
            Expr::Minus(inner) => Ok(match self.value(inner, query)? {
                Value::Scalar(values) => Value::Scalar(values.into_iter().map(|v| -v).collect()),
                Value::Vector(mut columns) => {
                    for column in &mut columns {
                        let there = column.values.iter_mut().filter(|v| !is_stale(**v));
                        there.for_each(|v| *v = -*v);
                        column.each_histogram(|h| h.times(-1.0));
                        column.labels = column.labels.nameless();
                    }
                    Value::Vector(self.distinct(columns)?)
                }
                text => text,
            }),
            Expr::Vector(selector) => Ok(Value::Vector(self.instant(selector, query)?)),
            Expr::Call { function, args } => self.call(function.name, args, query),
            Expr::Aggregate { op, param, inner, grouping } => {
                let columns = self.vector(inner, query)?;
                let node = param;
                let param = node.as_ref().map(|p| self.value(p, query)).transpose()?;
                if let (Aggregation::Quantile, Some(node), Some(Value::Scalar(q))) =
                    (op, node, &param)
                {
                    self.check_quantile(node, q);
                }
                let by = aggregate::By { op: *op, grouping, node: inner };
                Ok(Value::Vector(self.aggregate(by, param, columns, query)?))
            }
            Expr::Binary { op, left, right, returns_bool, matching } => {
                let (left, right) = (self.value(left, query)?, self.value(right, query)?);
                let by = binary::By { op: *op, returns_bool: *returns_bool, matching, node };
                self.binary(by, left, right)
            }
            Expr::Matrix { .. } | Expr::Subquery { .. } => {
                Err(Error::execution("a range vector has no value at a moment"))
            }
        }
    }

    pub(crate) fn vector(&self, node: &Node, query: Query) -> Result<Vec<Column>, Error> {
        match self.value(node, query)? {
            Value::Vector(columns) => Ok(columns),
            _ => Err(Error::execution("an instant vector is expected")),
        }
    }

    pub(crate) fn scalar(&self, node: &Node, query: Query) -> Result<Vec<f64>, Error> {
        match self.value(node, query)? {
            Value::Scalar(values) => Ok(values),
            _ => Err(Error::execution("a scalar is expected")),
        }
    }

    /// Applies a function to each value; names go.
    pub(crate) fn map(
        &self,
        columns: Vec<Column>,
        with: impl Fn(f64) -> f64,
    ) -> Result<Vec<Column>, Error> {
        self.map_steps(columns, |_, v| with(v))
    }

    /// As [`Eval::map`], with the number of the step.
    pub(crate) fn map_steps(
        &self,
        columns: Vec<Column>,
        with: impl Fn(usize, f64) -> f64,
    ) -> Result<Vec<Column>, Error> {
        let mapped = columns.into_iter().map(|c| {
            let values = c.values.into_iter().enumerate();
            let values = values.map(|(i, v)| if is_stale(v) { ABSENT } else { with(i, v) });
            Column::new(c.labels.nameless(), values.collect())
        });
        self.merged(mapped.filter(|c| !c.is_empty()).collect())
    }

    /// Columns of the same labels become one, if they never have a value at one step.
    pub(crate) fn merged(&self, columns: Vec<Column>) -> Result<Vec<Column>, Error> {
        let mut places: BTreeMap<Labels, usize> = BTreeMap::new();
        let mut all: Vec<Column> = Vec::with_capacity(columns.len());
        for column in columns {
            match places.get(&column.labels) {
                None => {
                    places.insert(column.labels.clone(), all.len());
                    all.push(column);
                }
                Some(&at) => {
                    if !all[at].join(column) {
                        let why = "vector cannot contain metrics with the same labelset";
                        return Err(Error::execution(why));
                    }
                }
            }
        }
        Ok(all)
    }

    /// The columns, if no two have the same labels, not even at different steps.
    pub(crate) fn distinct(&self, columns: Vec<Column>) -> Result<Vec<Column>, Error> {
        let mut seen = BTreeSet::new();
        if columns.iter().all(|c| seen.insert(&c.labels)) {
            return Ok(columns);
        }
        Err(Error::execution("vector cannot contain metrics with the same labelset"))
    }

    /// When a selector looks, instead of at `step`.
    pub(crate) fn time(&self, when: &When, step: i64) -> i64 {
        let at = match when.at {
            None => step,
            Some(At::Time(t)) => t,
            Some(At::Start) => self.outer.start,
            Some(At::End) => self.outer.end,
        };
        at.saturating_sub(when.offset).clamp(-TIME_MAX, TIME_MAX)
    }
}

/// The result of an operator on two numbers; a comparison that fails is `None`.
pub(crate) fn operate(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    use BinaryOp::*;
    let kept = |holds: bool| holds.then_some(a);
    match op {
        Add => Some(a + b),
        Sub => Some(a - b),
        Mul => Some(a * b),
        Div => Some(a / b),
        Mod => Some(a % b),
        Pow => Some(a.powf(b)),
        Atan2 => Some(a.atan2(b)),
        Eq => kept(a == b),
        Ne => kept(a != b),
        Gt => kept(a > b),
        Lt => kept(a < b),
        Ge => kept(a >= b),
        Le => kept(a <= b),
        And | Or | Unless => None,
    }
}

#[cfg(test)]
mod tests;
