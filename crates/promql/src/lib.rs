//! PromQL: parser and evaluator.
//!
//! **What it is**: the query language of Prometheus 3.x over series of numbers and of
//! native histograms ([`Histogram`]). A query is parsed to a [`Node`], and evaluated for all steps of a range at once: each
//! sub-expression is computed once, as columns with one value a step.
//!
//! **Why a crate**: it is pure. Series come from a [`Source`]; the clock is an argument.
//!
//! **Invariants**
//! - A query never takes more samples than [`Limits`] says, and its recursion is bounded
//!   by the parser.
//! - [`ABSENT`] never leaves the evaluator, and no arithmetic is done on it.
//!
//! **Must not know**: HTTP, storage, scraping.
//!
//! Source of the language: the Prometheus documentation, "Querying Prometheus".

pub mod ast;
mod eval;
pub mod functions;
mod labels;
pub mod length;
mod lex;
mod native;
mod parse;
pub mod pattern;
mod print;

pub use ast::{Kind, Node};
pub use eval::{
    ABSENT, Answer, Counts, Limits, Note, Query, STALE, Sample, Series, Source, Value, evaluate,
    evaluate_counted, evaluate_noted, is_stale,
};
pub use labels::{Labels, Matcher, NAME, all_take, quoted};
pub use lex::duration;
pub use native::{
    BUCKETS_MAX, Bucket, CUSTOM, Histogram, HistogramSample, NoHistogram, ResetHint, SCHEMAS, Span,
    read_histogram,
};
pub use parse::{parse, parse_selector};
pub use print::duration_text;

use std::fmt;
use std::ops::Range;

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What sort of error.
    pub kind: ErrorKind,
    /// Where in the query, if that is known.
    pub span: Option<Range<usize>>,
    /// Why.
    pub why: String,
}

/// See [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It is no query.
    Parse,
    /// The series do not allow it.
    Execution,
    /// It took too long.
    Timeout,
    /// A source failed.
    Source,
}

impl Error {
    pub(crate) fn parse(span: Range<usize>, why: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Parse, span: Some(span), why: why.into() }
    }

    pub(crate) fn execution(why: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Execution, span: None, why: why.into() }
    }
}

/// Where a byte of a query is: line and column, both from 1, as clients count.
pub fn place(query: &str, at: usize) -> String {
    let before = query.get(..at).unwrap_or(query);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    format!("{line}:{column}")
}

impl Error {
    /// As text, with the place in this query if it is known.
    pub fn told(&self, query: &str) -> String {
        match (&self.span, self.kind) {
            (Some(span), ErrorKind::Parse) => {
                format!("{}: parse error: {}", place(query, span.start), self.why)
            }
            _ => self.why.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.span, self.kind) {
            // Clients count characters from 1.
            (Some(span), ErrorKind::Parse) => {
                write!(f, "1:{}: parse error: {}", span.start + 1, self.why)
            }
            _ => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for Error {}
