//! Unit tests of rule files, in promtool's format.

mod notation;
mod run;
mod store;

pub use run::{Outcome, run};
#[cfg(test)]
pub(crate) use store::MemoryStore;

use crate::Observed;
use crate::file::{FileError, Place, duration, yaml};
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use synod_promql::{Labels, Node, parse};

/// How often rules are evaluated where nothing is said, ms.
const INTERVAL: i64 = 60_000;
/// Evaluations of one test, at most.
const STEPS_MAX: i64 = 1_000_000;

/// A file of tests, checked.
#[derive(Clone, Debug)]
pub struct TestFile {
    /// Patterns of rule files, relative ones by this file's folder.
    pub rule_files: Vec<String>,
    /// How often rules are evaluated, ms.
    pub interval: i64,
    /// The order of groups, where it matters.
    pub order: Vec<String>,
    /// Numbers are compared with a tolerance.
    pub fuzzy: bool,
    /// In their order.
    pub tests: Vec<Test>,
}

/// One test: its series, and what rules and queries make of them.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name; may be empty.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    pub(crate) interval: i64,
    pub(crate) start: i64,
    pub(crate) series: Vec<(Labels, Vec<Option<Observed>>)>,
    pub(crate) alerts: Vec<AlertTest>,
    pub(crate) queries: Vec<QueryTest>,
    pub(crate) external_labels: Labels,
    pub(crate) external_url: String,
}

/// Which alerts of a name fire at a time.
#[derive(Clone, Debug)]
pub(crate) struct AlertTest {
    pub at: i64,
    pub name: String,
    pub expected: Vec<(Labels, Labels)>,
}

/// What a query gives at a time.
#[derive(Clone, Debug)]
pub(crate) struct QueryTest {
    pub at: i64,
    pub text: String,
    pub node: Node,
    pub expected: Vec<(Labels, Observed)>,
}

type Texts = Option<BTreeMap<String, Option<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule_files: Option<Vec<String>>,
    #[serde(default)]
    evaluation_interval: Option<String>,
    #[serde(default)]
    group_eval_order: Option<Vec<String>>,
    #[serde(default)]
    fuzzy_compare: Option<bool>,
    #[serde(default)]
    tests: Option<Vec<Spanned<RawTest>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    interval: Option<String>,
    #[serde(default)]
    start_timestamp: Option<f64>,
    #[serde(default)]
    input_series: Option<Vec<Spanned<RawSeries>>>,
    #[serde(default)]
    alert_rule_test: Option<Vec<Spanned<RawAlertTest>>>,
    #[serde(default)]
    promql_expr_test: Option<Vec<Spanned<RawQueryTest>>>,
    #[serde(default)]
    external_labels: Texts,
    #[serde(default)]
    external_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSeries {
    series: String,
    #[serde(default)]
    values: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlertTest {
    #[serde(default)]
    eval_time: Option<String>,
    #[serde(default)]
    alertname: Option<String>,
    #[serde(default)]
    exp_alerts: Option<Vec<RawAlert>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlert {
    #[serde(default)]
    exp_labels: Texts,
    #[serde(default)]
    exp_annotations: Texts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQueryTest {
    expr: String,
    #[serde(default)]
    eval_time: Option<String>,
    #[serde(default)]
    exp_samples: Option<Vec<RawSample>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSample {
    #[serde(default)]
    labels: Option<String>,
    #[serde(default)]
    value: Option<f64>,
    #[serde(default)]
    histogram: Option<String>,
}

fn fail(place: Place, why: String) -> FileError {
    FileError { place: Some(place), rule: None, why }
}

fn place<T>(of: &Spanned<T>) -> Place {
    Place { line: of.referenced.line(), column: of.referenced.column() }
}

fn labels_of(texts: Texts) -> Labels {
    let all = texts.unwrap_or_default().into_iter();
    Labels::new(all.map(|(n, v)| (n, v.unwrap_or_default())))
}

fn length(text: Option<&str>, default: i64) -> Result<i64, String> {
    match text.filter(|t| !t.is_empty()) {
        None => Ok(default),
        Some(text) => {
            duration(text).ok_or_else(|| format!("not a valid duration string: {text:?}"))
        }
    }
}

impl TestFile {
    /// Reads a file of tests.
    pub fn parse(text: &str) -> Result<TestFile, FileError> {
        let raw: Option<RawFile> = yaml(text)?;
        let Some(raw) = raw else {
            return Err(fail(Place { line: 1, column: 1 }, "the file is empty".into()));
        };
        let top = |why| FileError { place: None, rule: None, why };
        let interval = length(raw.evaluation_interval.as_deref(), 0).map_err(top)?;
        let interval = if interval == 0 { INTERVAL } else { interval };
        let order = raw.group_eval_order.unwrap_or_default();
        let mut seen = BTreeSet::new();
        if let Some(twice) = order.iter().find(|name| !seen.insert(*name)) {
            return Err(top(format!("group name repeated in evaluation order: {twice}")));
        }
        let tests = raw.tests.unwrap_or_default().into_iter().map(|t| test(t, interval));
        Ok(TestFile {
            rule_files: raw.rule_files.unwrap_or_default(),
            interval,
            order,
            fuzzy: raw.fuzzy_compare.unwrap_or(false),
            tests: tests.collect::<Result<_, _>>()?,
        })
    }
}

fn test(raw: Spanned<RawTest>, evaluation: i64) -> Result<Test, FileError> {
    let at = place(&raw);
    let raw = raw.value;
    let interval = length(raw.interval.as_deref(), 0).map_err(|why| fail(at, why))?;
    let interval = if interval == 0 { evaluation } else { interval };
    let mut series = Vec::new();
    for one in raw.input_series.unwrap_or_default() {
        let at = place(&one);
        let labels = notation::labels(&one.value.series).map_err(|why| fail(at, why))?;
        let values = notation::values(one.value.values.as_deref().unwrap_or_default());
        series.push((labels, values.map_err(|why| fail(at, why))?));
    }
    let alerts = raw.alert_rule_test.unwrap_or_default().into_iter().map(alert_test);
    let alerts: Vec<AlertTest> = alerts.collect::<Result<_, _>>()?;
    let queries = raw.promql_expr_test.unwrap_or_default().into_iter().map(query_test);
    let queries: Vec<QueryTest> = queries.collect::<Result<_, _>>()?;
    let last = alerts.iter().map(|t| t.at).chain(queries.iter().map(|t| t.at)).max().unwrap_or(0);
    if last / evaluation > STEPS_MAX {
        return Err(fail(at, format!("more than {STEPS_MAX} evaluations")));
    }
    let start = raw.start_timestamp.unwrap_or(0.0) * 1_000.0;
    if !start.is_finite() || start.abs() > 1e15 {
        return Err(fail(at, "start_timestamp is out of bounds".into()));
    }
    Ok(Test {
        name: raw.name.unwrap_or_default(),
        place: at,
        interval,
        start: start as i64,
        series,
        alerts,
        queries,
        external_labels: labels_of(raw.external_labels),
        external_url: raw.external_url.unwrap_or_default(),
    })
}

fn alert_test(raw: Spanned<RawAlertTest>) -> Result<AlertTest, FileError> {
    let at = place(&raw);
    let time = length(raw.value.eval_time.as_deref(), 0).map_err(|why| fail(at, why))?;
    let name = raw.value.alertname.filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| fail(at, "alertname is missing".into()))?;
    let expected = raw.value.exp_alerts.unwrap_or_default().into_iter();
    let expected = expected
        .map(|e| (labels_of(e.exp_labels).with("alertname", &name), labels_of(e.exp_annotations)));
    Ok(AlertTest { at: time, expected: expected.collect(), name })
}

fn query_test(raw: Spanned<RawQueryTest>) -> Result<QueryTest, FileError> {
    let at = place(&raw);
    let raw = raw.value;
    let time = length(raw.eval_time.as_deref(), 0).map_err(|why| fail(at, why))?;
    let node =
        parse(&raw.expr).map_err(|e| fail(at, format!("{:?}: {}", raw.expr, e.told(&raw.expr))))?;
    let mut expected = Vec::new();
    for sample in raw.exp_samples.unwrap_or_default() {
        let observed = match &sample.histogram {
            None => Observed::Number(sample.value.unwrap_or(0.0)),
            Some(text) => {
                let histogram = notation::histogram(text).map_err(|why| fail(at, why))?;
                Observed::Histogram(histogram.into())
            }
        };
        let labels = notation::labels(sample.labels.as_deref().unwrap_or_default());
        expected.push((labels.map_err(|why| fail(at, why))?, observed));
    }
    Ok(QueryTest { at: time, text: raw.expr, node, expected })
}

#[cfg(test)]
mod tests;
