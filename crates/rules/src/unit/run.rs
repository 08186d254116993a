//! Running a test: all evaluations up to the last moment that is asked about.

use super::store::MemoryStore;
use super::{AlertTest, QueryTest, Test, TestFile};
use crate::Observed;
use crate::alert::State;
use crate::file::RuleFile;
use crate::group::{Environment, Group, Health};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_promql::{Labels, Limits, Query, duration_text};

/// Relative difference of numbers that are compared with a tolerance.
const TOLERANCE: f64 = 1e-6;

/// What became of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was not as expected; each may have several lines.
    pub failures: Vec<String>,
}

/// Runs one test of a file on rule files, each with its name.
pub fn run(file: &TestFile, test: &Test, rules: &[(String, RuleFile)]) -> Outcome {
    let store = MemoryStore::default();
    let mut failures = Vec::new();
    for (labels, values) in &test.series {
        for (i, value) in values.iter().enumerate() {
            if let Some(value) = value {
                store.put(test.start + i as i64 * test.interval, labels, value.clone());
            }
        }
    }
    let environment = Arc::new(Environment {
        external_labels: test.external_labels.clone(),
        external_url: test.external_url.clone(),
        limits: Limits::default(),
    });
    let mut groups: Vec<Group> = rules
        .iter()
        .flat_map(|(name, rules)| rules.groups.iter().map(move |g| (name, g.clone())))
        .map(|(name, spec)| Group::new(spec, name, file.interval, 0, environment.clone()))
        .collect();
    groups.sort_by_key(|g| file.order.iter().position(|name| *name == g.name).unwrap_or(0));
    let mut asked: BTreeMap<i64, Vec<&AlertTest>> = BTreeMap::new();
    for alert in &test.alerts {
        asked.entry(alert.at).or_default().push(alert);
    }
    let asked_last = asked.keys().max().copied();
    let last = asked_last.max(test.queries.iter().map(|q| q.at).max()).unwrap_or(0);
    let mut told = BTreeSet::new();
    let mut at = 0;
    while at <= last {
        for group in &mut groups {
            group.eval(test.start + at, &store);
            for rule in group.rules.iter().filter(|r| r.health == Health::Bad) {
                let (name, time) = (rule.spec.name(), duration_text(at));
                // Once; it most likely fails at each time.
                if told.insert((group.name.clone(), name.to_owned())) {
                    failures.push(format!("rule {name}, at {time}: {}", rule.error));
                }
            }
        }
        for test in asked.range(at..at + file.interval).flat_map(|(_, tests)| tests) {
            failures.extend(alerts(test, &groups));
        }
        at += file.interval;
    }
    for query in &test.queries {
        failures.extend(query_failure(query, test.start, &store, file.fuzzy));
    }
    Outcome { failures }
}

fn alerts(test: &AlertTest, groups: &[Group]) -> Option<String> {
    let mut got = Vec::new();
    for rule in groups.iter().flat_map(|g| &g.rules).filter(|r| r.spec.name() == test.name) {
        for alert in rule.active().filter(|a| a.state == State::Firing) {
            got.push((alert.labels.clone(), Labels::new(alert.annotations.clone())));
        }
    }
    let mut expected = test.expected.clone();
    got.sort();
    expected.sort();
    if got == expected {
        return None;
    }
    let show = |(labels, texts): &(Labels, Labels)| {
        let texts = texts.iter().map(|(n, v)| format!("\n        {n}: {v}"));
        format!("{labels}{}", texts.collect::<String>())
    };
    let (got, expected) = (got.iter().map(show).collect(), expected.iter().map(show).collect());
    Some(difference(&format!("alert {} at {}", test.name, time(test.at)), expected, got))
}

/// As a duration; `duration_text` writes nothing for 0.
fn time(ms: i64) -> String {
    if ms == 0 { "0s".into() } else { duration_text(ms) }
}

/// What is on one side only: `-` was expected, `+` was given.
fn difference(title: &str, expected: Vec<String>, mut got: Vec<String>) -> String {
    let mut out = format!("{title}: {} expected, {} given", expected.len(), got.len());
    for one in expected {
        match got.iter().position(|g| *g == one) {
            Some(at) => {
                got.remove(at);
                out += &format!("\n      {one}");
            }
            None => out += &format!("\n    - {one}"),
        }
    }
    for one in got {
        out += &format!("\n    + {one}");
    }
    out
}

fn query_failure(test: &QueryTest, start: i64, store: &MemoryStore, fuzzy: bool) -> Option<String> {
    let title = format!("query {:?} at {}", test.text, time(test.at));
    let query = Query::instant(start + test.at);
    let mut got = match crate::observed(&test.node, query, store, Limits::default()) {
        Ok(got) => got,
        Err(why) => return Some(format!("{title}: {why}")),
    };
    let mut expected = test.expected.clone();
    got.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let same = |a: f64, b: f64| {
        a.to_bits() == b.to_bits()
            || a == b
            || (a.is_nan() && b.is_nan())
            || (fuzzy && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()))
    };
    let same = |a: &Observed, b: &Observed| match (a, b) {
        (Observed::Number(a), Observed::Number(b)) => same(*a, *b),
        (Observed::Histogram(a), Observed::Histogram(b)) => a.same(b),
        _ => false,
    };
    let equal = got.len() == expected.len()
        && got.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1));
    if equal {
        return None;
    }
    let show = |(labels, v): &(Labels, Observed)| match v {
        Observed::Number(v) => format!("{labels} {v}"),
        Observed::Histogram(h) => format!("{labels} {h}"),
    };
    Some(difference(&title, expected.iter().map(show).collect(), got.iter().map(show).collect()))
}
