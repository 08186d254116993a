//! The templates of labels and annotations: the part of Go's `text/template` that alerts
//! use, with Prometheus's functions. What is read, run and written is bounded.

mod builtin;
mod exec;
mod format;
mod functions;
mod lex;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use synod_promql::{Labels, Query, Source};

pub use format::exponential;
pub(crate) use format::general;

/// Bytes of a template, at most.
const TEXT_MAX: usize = 64 << 10;

/// Why a template cannot be read or expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Line of the template, from 1.
    pub line: usize,
    /// Why.
    pub why: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for TemplateError {}

/// A template that was read.
#[derive(Clone, Debug)]
pub struct Template {
    tree: parse::Tree,
    text: String,
}

/// What a template may look at.
pub struct Context<'a> {
    /// `$labels`.
    pub labels: &'a Labels,
    /// `$value`.
    pub value: f64,
    /// `$externalLabels`.
    pub external_labels: &'a Labels,
    /// `$externalURL`: where this server's pages are.
    pub external_url: &'a str,
    /// The time of the evaluation, Unix ms.
    pub at: i64,
    /// What `query` asks.
    pub source: &'a dyn Source,
    /// What such a query may take.
    pub limits: synod_promql::Limits,
}

/// Variables that every template of an alert begins with.
const VARIABLES: [&str; 4] = ["labels", "externalLabels", "externalURL", "value"];

impl Template {
    /// Reads a template.
    pub fn new(text: &str) -> Result<Template, TemplateError> {
        if text.len() > TEXT_MAX {
            let why = format!("longer than {TEXT_MAX} bytes");
            return Err(TemplateError { line: 1, why });
        }
        Ok(Template { tree: parse::parse(text, &VARIABLES)?, text: text.to_owned() })
    }

    /// A text that is no template: it stands for itself.
    pub(crate) fn plain(text: &str) -> Template {
        let body = vec![parse::Node::Text(text.to_owned())];
        Template { tree: parse::Tree { body, ..parse::Tree::default() }, text: text.to_owned() }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text that it gives.
    pub fn expand(&self, context: &Context<'_>) -> Result<String, TemplateError> {
        exec::expand(&self.tree, context)
    }
}

/// What a template works with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Labels(Labels),
    Map(Rc<BTreeMap<String, Value>>),
    List(Rc<Vec<Value>>),
    Sample(Labels, f64),
    /// The root's fields.
    Data(Rc<Data>),
    /// Unix ms.
    Time(i64),
}

/// The dot at the beginning.
#[derive(Debug, PartialEq)]
pub(crate) struct Data {
    labels: Labels,
    external_labels: Labels,
    external_url: String,
    value: f64,
}

impl Value {
    /// What Go calls its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Labels(_) => "map[string]string",
            Value::Map(_) => "map[string]interface {}",
            Value::List(_) => "template.queryResult",
            Value::Sample(..) => "*template.sample",
            Value::Data(_) => "struct",
            Value::Time(_) => "*time.Time",
        }
    }

    /// Whether `if` takes it as true.
    pub fn holds(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Text(t) => !t.is_empty(),
            Value::Labels(l) => !l.is_empty(),
            Value::Map(m) => !m.is_empty(),
            Value::List(l) => !l.is_empty(),
            Value::Sample(..) | Value::Data(_) | Value::Time(_) => true,
        }
    }

    /// As an action writes it.
    pub fn printed(&self) -> String {
        let pairs = |all: Vec<String>| format!("map[{}]", all.join(" "));
        match self {
            Value::Nil => "<no value>".into(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => general(*n, None),
            Value::Text(t) => t.clone(),
            Value::Labels(l) => pairs(l.iter().map(|(n, v)| format!("{n}:{v}")).collect()),
            Value::Map(m) => pairs(m.iter().map(|(n, v)| format!("{n}:{}", v.printed())).collect()),
            Value::List(l) => {
                let all: Vec<String> = l.iter().map(Value::printed).collect();
                format!("[{}]", all.join(" "))
            }
            Value::Sample(labels, value) => {
                format!("{{{} {}}}", Value::Labels(labels.clone()).printed(), general(*value, None))
            }
            Value::Data(_) => "{}".into(),
            Value::Time(ms) => functions::time_text(*ms),
        }
    }
}

/// The samples that a query gives at a time.
pub(crate) fn query(
    text: &str,
    at: i64,
    source: &dyn Source,
    limits: synod_promql::Limits,
) -> Result<Vec<(Labels, f64)>, String> {
    let node = synod_promql::parse(text).map_err(|e| e.to_string())?;
    crate::samples(&node, Query::instant(at), source, limits)
}

#[cfg(test)]
mod tests;
