//! The same samples and the same queries to our evaluator and to a real Prometheus.
//!
//! The peer is Prometheus 2.42, ours is the language of 3.x. What differs between the two
//! is kept out of the data and the queries, or listed in [`ALLOWED`]:
//!
//! - Ranges and the lookback are left-closed in 2.42 and left-open in 3.x: no sample lies
//!   on a window's edge here.
//! - Where a window begins long before its first sample and that is near zero, 3.x
//!   extrapolates a counter by half a spacing, 2.42 further: counters with gaps are far from zero here.
//! - `stddev` and `stdvar` of a single infinity or NaN are 0 in 2.42 and NaN in 3.x.
//! - `stddev_over_time` and `stdvar_over_time` whose squares overflow are NaN in 2.42 and
//!   infinite in 3.x.
//! - `atan2` keeps the series' name in 2.42 and drops it since 2.47, as other arithmetic.
//! - Functions, aggregations and literals newer than 2.42 are tested beside the evaluator.

mod data;
mod peer;
mod queries;
mod random;

use data::{BASE, Data};
use peer::Prometheus;
use serde_json::Value;
use std::collections::BTreeMap;
use synod_promql::{Answer, Kind, Limits, Query, Series, evaluate, parse};

/// Relative difference of two values that are taken for one.
const TOLERANCE: f64 = 1e-9;
/// Below this, values are taken for zero: what is left where terms cancel out depends on
/// the order of additions.
const ZERO: f64 = 1e-11;
/// At least so many queries.
const QUERIES_MIN: usize = 600;
/// Queries that 3.x answers in another way than 2.42, and why.
const ALLOWED: [(&str, &str); 3] = [
    ("(\"text\")", "2.42 fails inside on a text in parentheses"),
    ("heat offset 5", "3.x takes a number for seconds where a duration is expected"),
    ("5m", "3.x takes a duration for a number of seconds"),
];

/// Functions that 2.42 has not; [`synod_promql::functions`] has all.
const NEWER: [&str; 17] = [
    "double_exponential_smoothing",
    "end",
    "first_over_time",
    "histogram_avg",
    "histogram_stddev",
    "histogram_stdvar",
    "info",
    "mad_over_time",
    "range",
    "sort_by_label",
    "sort_by_label_desc",
    "start",
    "step",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

/// A series: its labels, and its values by time.
type Row = (BTreeMap<String, String>, Vec<(i64, f64)>);

/// An answer of either side.
#[derive(Debug)]
enum Told {
    Error(#[allow(dead_code)] String),
    Text(String),
    Rows(Vec<Row>),
}

fn rows(series: Vec<Series>) -> Vec<Row> {
    let row = |s: Series| {
        let labels = s.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        (labels, s.samples.iter().map(|s| (s.at, s.value)).collect())
    };
    series.into_iter().map(row).collect()
}

fn ours(data: &Data, text: &str, when: Query, ranged: bool) -> Told {
    let node = match parse(text) {
        Ok(node) => node,
        Err(e) => return Told::Error(e.to_string()),
    };
    if ranged && matches!(node.kind(), Kind::Matrix | Kind::Text) {
        return Told::Error("no values by step".into());
    }
    match evaluate(&node, when, data, Limits::default()) {
        Err(e) => Told::Error(e.to_string()),
        Ok(Answer::Text(text)) => Told::Text(text),
        Ok(Answer::Scalar(values)) => {
            let values = values.into_iter().enumerate().map(|(i, v)| (when.at(i), v));
            Told::Rows(vec![(BTreeMap::new(), values.collect())])
        }
        Ok(Answer::Vector(series) | Answer::Matrix(series)) => Told::Rows(rows(series)),
    }
}

fn theirs(server: &Prometheus, text: &str, when: Query, ranged: bool) -> Told {
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
    let (start, end) = (seconds(when.start), seconds(when.end));
    let answer = if ranged {
        let step = seconds(when.step);
        let form = [("query", text), ("start", &start), ("end", &end), ("step", &step)];
        server.json("/api/v1/query_range", &form)
    } else {
        server.json("/api/v1/query", &[("query", text), ("time", &start)])
    };
    if answer["status"] != "success" {
        return Told::Error(answer["error"].as_str().unwrap_or_default().to_owned());
    }
    let result = &answer["data"]["result"];
    let pair = |p: &Value| {
        let at = (p[0].as_f64().expect("a time") * 1_000.0).round() as i64;
        (at, p[1].as_str().and_then(|v| v.parse().ok()).expect("a value"))
    };
    match answer["data"]["resultType"].as_str() {
        Some("string") => Told::Text(result[1].as_str().expect("a text").to_owned()),
        Some("scalar") => Told::Rows(vec![(BTreeMap::new(), vec![pair(result)])]),
        _ => {
            let row = |r: &Value| {
                let labels = r["metric"].as_object().expect("labels").iter();
                let labels = labels.map(|(n, v)| (n.clone(), v.as_str().expect("a value").into()));
                let values = match r.get("values") {
                    Some(values) => values.as_array().expect("values").iter().map(pair).collect(),
                    None => vec![pair(&r["value"])],
                };
                (labels.collect(), values)
            };
            Told::Rows(result.as_array().expect("series").iter().map(row).collect())
        }
    }
}

fn same_value(a: f64, b: f64) -> bool {
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    let size = a.abs().max(b.abs());
    a == b || (a - b).abs() <= (TOLERANCE * size).max(ZERO) && (a - b).is_finite()
}

fn same_values(a: &[(i64, f64)], b: &[(i64, f64)]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.0 == y.0 && same_value(x.1, y.1))
}

/// What differs; `None` if nothing does.
fn difference(ours: &Told, theirs: &Told, ordered: bool) -> Option<String> {
    let (ours, theirs) = match (ours, theirs) {
        (Told::Error(_), Told::Error(_)) => return None,
        (Told::Text(a), Told::Text(b)) if a == b => return None,
        (Told::Rows(a), Told::Rows(b)) => (a, b),
        _ => return Some(format!("ours {ours:?}\ntheirs {theirs:?}")),
    };
    let by_labels = |rows: &[Row]| rows.iter().cloned().collect::<BTreeMap<_, _>>();
    let (a, b) = (by_labels(ours), by_labels(theirs));
    if ours.len() != theirs.len() || a.len() != ours.len() || !a.keys().eq(b.keys()) {
        let only = |a: &BTreeMap<_, _>, b: &BTreeMap<_, _>| {
            a.iter()
                .filter(|(k, _)| !b.contains_key(*k))
                .map(|p| format!("{p:?}"))
                .collect::<Vec<_>>()
        };
        return Some(format!("only ours {:?}\nonly theirs {:?}", only(&a, &b), only(&b, &a)));
    }
    for (labels, values) in &a {
        if !same_values(values, &b[labels]) {
            let other = &b[labels];
            let at =
                values.iter().zip(other).position(|(x, y)| x.0 != y.0 || !same_value(x.1, y.1));
            let at = at.unwrap_or(values.len().min(other.len()));
            let (count, others) = (values.len(), other.len());
            let (x, y) = (values.get(at), other.get(at));
            return Some(format!("{labels:?}: ours {x:?} of {count}, theirs {y:?} of {others}"));
        }
    }
    // Of equal values either may come first.
    let in_order = ours.iter().zip(theirs).all(|(a, b)| same_values(&a.1, &b.1));
    (ordered && !in_order).then(|| format!("another order: ours {ours:?}\ntheirs {theirs:?}"))
}

#[test]
fn every_function_is_asked_for() {
    let queries = queries::all();
    for function in &synod_promql::functions::FUNCTIONS {
        let call = format!("{}(", function.name);
        // Behind `@` they are no functions.
        let called = |q: &String| q.replace("@ start()", "").replace("@ end()", "").contains(&call);
        let asked = queries.iter().any(called);
        assert_eq!(asked, !NEWER.contains(&function.name), "{}", function.name);
    }
}

#[test]
fn printed_queries_are_the_same_queries() {
    let mut read = 0;
    for text in queries::all().into_iter().chain(random::all()) {
        let Ok(node) = parse(&text) else { continue };
        let printed = node.to_string();
        let again = parse(&printed).unwrap_or_else(|e| panic!("{text}: {printed}: {e}"));
        assert_eq!(again.to_string(), printed, "{text}");
        assert_eq!(again.kind(), node.kind(), "{text}: {printed}");
        read += 1;
    }
    assert!(read > 2_500, "{read}");
}

#[test]
fn queries_answer_as_in_prometheus() {
    let data = Data::new();
    let server = Prometheus::start(&data.text());
    let mut queries = queries::all();
    assert!(queries.len() >= QUERIES_MIN, "only {} queries", queries.len());
    queries.extend(random::all());
    let instants = [613, 1_700, 2_105, 3_500, 3_807].map(|s| Query::instant(BASE + s * 1_000 + 13));
    let ranges = [(300, 3_900, 97), (1_207, 2_300, 31)]
        .map(|(from, to, step)| (BASE + from * 1_000 + 13, BASE + to * 1_000 + 13, step * 1_000))
        .map(|(start, end, step)| Query { start, end, step });
    let (mut compared, mut errors, mut empty, mut wrong) = (0, 0, 0, Vec::new());
    for (i, text) in queries.iter().enumerate() {
        if ALLOWED.iter().any(|(allowed, _)| allowed == text) {
            continue;
        }
        let sorts = ["sort", "topk", "bottomk"].iter().any(|s| text.starts_with(s));
        let twice = [instants[i % 5], instants[(i + 2) % 5]].map(|when| (when, false));
        for (when, ranged) in twice.into_iter().chain([(ranges[i % 2], true)]) {
            let (ours, theirs) =
                (ours(&data, text, when, ranged), theirs(&server, text, when, ranged));
            let ordered = sorts && !ranged && !text.contains(" by ") && !text.contains(" without ");
            compared += 1;
            errors += usize::from(matches!(theirs, Told::Error(_)));
            empty += usize::from(matches!(&theirs, Told::Rows(rows) if rows.is_empty()));
            if let Some(why) = difference(&ours, &theirs, ordered) {
                wrong.push(format!("{text}\n  at {when:?} (range: {ranged})\n{why}"));
            }
        }
    }
    println!(
        "{} series, {} queries, {compared} answers compared ({errors} of them errors, {empty} \
         empty), {} differ",
        data.len(),
        queries.len(),
        wrong.len()
    );
    let told = compared - errors - empty;
    assert!(told > 5_000, "only {told} answers have values");
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
}
