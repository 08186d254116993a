//! Recording and alerting rules as Prometheus has them.
//!
//! **What it is**: rule files ([`RuleFile`]), the templates of alerts ([`Template`]), groups of
//! rules that are evaluated ([`Group`]) with the states of their alerts, and the unit tests
//! of rule files ([`mod@unit`]).
//!
//! **Why a crate**: it is pure. Series come from a [`Store`] and go to it; time is an
//! argument; where alerts are sent is the caller's concern.
//!
//! **Invariants**
//! - What is read from a file is bounded before it is read, and a template's steps, depth and
//!   output are bounded while it runs: neither panics, whatever it holds.
//! - An alert fires only after its condition held at every evaluation for as long as its
//!   `for` says.
//! - A series that a rule gave and gives no more ends at the evaluation that saw it gone.
//!
//! **Must not know**: HTTP, files, clocks.
//!
//! **Absences**: native histograms as values of templates (they see 0); templates of consoles.
//!
//! Source of the semantics: the Prometheus documentation, "Defining recording rules",
//! "Alerting rules", "Template reference", "Unit testing for rules".

mod alert;
mod file;
mod group;
mod template;
pub mod unit;

pub use alert::{ALERTS, Alert, FOR_STATE, State};
pub use file::{
    FileError, GroupSpec, Place, RuleFile, RuleKind, RuleSpec, duplicates, modern_names,
};
pub use group::{Environment, Group, Health, Restore, Rule, Store, slot};
pub use template::{Context, Template, TemplateError, exponential};

use std::sync::Arc;
use synod_promql::{Answer, Histogram, Labels, Limits, Node, Query, Series, Source, evaluate};

/// What a sample holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Observed {
    /// A number.
    Number(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// The samples of an instant query as alerts and templates see them: a histogram as 0.
fn samples(
    node: &Node,
    query: Query,
    source: &dyn Source,
    limits: Limits,
) -> Result<Vec<(Labels, f64)>, String> {
    let number = |(labels, observed)| match observed {
        Observed::Number(value) => (labels, value),
        Observed::Histogram(_) => (labels, 0.0),
    };
    Ok(observed(node, query, source, limits)?.into_iter().map(number).collect())
}

/// The samples of an instant query; a scalar is one without labels.
fn observed(
    node: &Node,
    query: Query,
    source: &dyn Source,
    limits: Limits,
) -> Result<Vec<(Labels, Observed)>, String> {
    let one = |s: Series| {
        let number = s.samples.first().map(|s| Observed::Number(s.value));
        let histogram = s.histograms.first().map(|h| Observed::Histogram(h.value.clone()));
        Some((s.labels, number.or(histogram)?))
    };
    match evaluate(node, query, source, limits).map_err(|e| e.to_string())? {
        Answer::Scalar(values) => {
            let value = values.first().map(|v| (Labels::default(), Observed::Number(*v)));
            Ok(value.into_iter().collect())
        }
        Answer::Vector(series) => Ok(series.into_iter().filter_map(one).collect()),
        Answer::Text(_) | Answer::Matrix(_) => {
            Err("the result of a rule must be a vector or a scalar".into())
        }
    }
}

/// As a form's value in an address.
fn query_escaped(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b));
            }
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// The path of Prometheus's page that shows an expression, as a table or a graph.
pub fn link(expression: &str, table: bool) -> String {
    format!("/graph?g0.expr={}&g0.tab={}", query_escaped(expression), u8::from(table))
}
