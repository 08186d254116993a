//! Native histograms in expressions. What a histogram alone can do is tested beside it.

use super::*;
use crate::native::{HistogramSample, read_histogram};

/// `name{a="b"} | 1; {{…}}; _`: a value every ten seconds from 0 on, `_` none.
fn memory(lines: &[&str]) -> Memory {
    let series = |line: &&str| {
        let (selector, values) = line.split_once(" | ").expect("a bar before the values");
        let matchers = crate::parse_selector(selector).expect("a selector");
        let labels = Labels::new(matchers.iter().map(|m| (&*m.name, &*m.value)));
        let mut series = Series::new(labels, Vec::new());
        for (i, value) in values.split("; ").enumerate().filter(|(_, v)| *v != "_") {
            let at = i as i64 * 10_000;
            match value {
                "stale" => series.samples.push(Sample { at, value: STALE }),
                histogram if histogram.starts_with('{') => {
                    let value = read_histogram(histogram).expect(histogram).0.into();
                    series.histograms.push(HistogramSample { at, value });
                }
                number => {
                    let value = number.parse().expect("a number");
                    series.samples.push(Sample { at, value });
                }
            }
        }
        series
    };
    Memory(lines.iter().map(series).collect())
}

fn shown(answer: Answer) -> Vec<String> {
    let of = |s: &Series| {
        let mut all: Vec<(i64, String)> =
            s.samples.iter().map(|s| (s.at, s.value.to_string())).collect();
        all.extend(s.histograms.iter().map(|h| (h.at, h.value.to_string())));
        all.sort();
        let all: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
        format!("{} {}", s.labels, all.join("; "))
    };
    match answer {
        Answer::Vector(series) | Answer::Matrix(series) => {
            let mut all: Vec<String> = series.iter().map(of).collect();
            all.sort();
            all
        }
        other => vec![format!("{other:?}")],
    }
}

fn noted(memory: &Memory, seconds: i64, query: &str) -> (Vec<String>, Vec<String>) {
    let node = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
    let when = Query::instant(seconds * 1_000);
    let (answer, notes) = evaluate_noted(&node, when, memory, Limits::default()).expect(query);
    (shown(answer), notes.into_iter().map(|n| n.text).collect())
}

fn at(memory: &Memory, seconds: i64, query: &str) -> Vec<String> {
    let (found, notes) = noted(memory, seconds, query);
    assert!(notes.is_empty(), "{query}: {notes:?}");
    found
}

/// Nothing is found, and this is why.
fn nothing(memory: &Memory, seconds: i64, query: &str, why: &str) {
    let (found, notes) = noted(memory, seconds, query);
    assert!(found.is_empty(), "{query}: {found:?}");
    assert!(notes.iter().any(|n| n.contains(why)), "{query}: {notes:?}");
}

const A: &str = "h{x=\"a\"} | {{count:3 sum:4 buckets:[1 2]}}; {{count:6 sum:8 buckets:[2 4]}}; \
                 {{count:9 sum:12 buckets:[3 6]}}";
const B: &str = "h{x=\"b\"} | {{count:1 sum:1 buckets:[1]}}; {{count:2 sum:2 buckets:[2]}}; \
                 {{count:1 sum:1 buckets:[1]}}";
const C: &str = "c | {{schema:-53 count:3 sum:4 custom_values:[2] buckets:[1 2]}}";
const FLOAT: &str = "f | 1; 2; 3";
const BOTH: &str = "m | 1; {{count:1 sum:2 buckets:[1]}}; 3; {{count:2 sum:4 buckets:[2]}}";

#[test]
fn selectors_see_the_newest_value_of_either_kind() {
    let m = memory(&[BOTH, "gone | {{count:1 sum:2 buckets:[1]}}; stale"]);
    assert_eq!(at(&m, 5, "m"), ["m 1"]);
    assert_eq!(at(&m, 10, "m"), ["m {count:1, sum:2, (0.5,1]:1}"]);
    assert_eq!(at(&m, 25, "m"), ["m 3"]);
    assert_eq!(at(&m, 9, "gone"), ["gone {count:1, sum:2, (0.5,1]:1}"]);
    assert!(at(&m, 10, "gone").is_empty());
    assert!(at(&m, 330, "m").is_empty());
    assert_eq!(at(&m, 12, "timestamp(m)"), ["{} 10"]);
    assert!(at(&m, 10, "absent(m)").is_empty());
    assert_eq!(
        at(&m, 30, "m[25s]"),
        ["m {count:1, sum:2, (0.5,1]:1}; 3; {count:2, sum:4, (0.5,1]:2}"]
    );
    let node = parse("histogram_count(m) or m").expect("a query");
    let range = Query { start: 0, end: 30_000, step: 10_000 };
    let found = shown(evaluate(&node, range, &m, Limits::default()).expect("an answer"));
    assert_eq!(found, ["m 1; 3", "{} 1; 2"]);
}

#[test]
fn operators_take_histograms_where_that_has_a_meaning() {
    let m = memory(&[A, B, C, FLOAT]);
    assert_eq!(at(&m, 0, "h{x='a'} * 2"), ["{x=\"a\"} {count:6, sum:8, (0.5,1]:2, (1,2]:4}"]);
    assert_eq!(at(&m, 0, "2 * h{x='b'} / 4"), ["{x=\"b\"} {count:0.5, sum:0.5, (0.5,1]:0.5}"]);
    assert_eq!(at(&m, 0, "-h{x='b'}"), ["{x=\"b\"} {count:-1, sum:-1, (0.5,1]:-1}"]);
    assert_eq!(
        at(&m, 0, "h{x='a'} + ignoring(x) h{x='b'}"),
        ["{} {count:4, sum:5, (0.5,1]:2, (1,2]:2}"]
    );
    assert_eq!(at(&m, 10, "h{x='a'} - ignoring(x) h{x='b'}"), ["{} {count:4, sum:6, (1,2]:4}"]);
    assert_eq!(at(&m, 0, "h == h").len(), 2);
    assert!(at(&m, 0, "h != h").is_empty());
    assert_eq!(at(&m, 0, "h == bool h"), ["{x=\"a\"} 1", "{x=\"b\"} 1"]);
    assert_eq!(at(&m, 0, "h and h{x='a'}").len(), 1);
    assert_eq!(at(&m, 0, "h unless h{x='a'} or c").len(), 2);
    let types = "incompatible sample types encountered for binary operator";
    nothing(&m, 0, "h + 1", &format!("{types} \"+\": histogram + float"));
    nothing(&m, 0, "1 / h", &format!("{types} \"/\": float / histogram"));
    nothing(&m, 0, "h > 1", types);
    nothing(&m, 0, "h{x='a'} > ignoring(x) h{x='b'}", "\">\": histogram > histogram");
    nothing(&m, 0, "f * on() group_left() (f - h{x='a'} or c + on() h{x='a'})", "layout");
    nothing(&m, 0, "c + on() h{x='a'}", "incompatible bucket layout encountered for binary");
}

#[test]
fn aggregations_add_up_or_leave_out_histograms() {
    let m = memory(&[A, B, C, FLOAT, BOTH]);
    assert_eq!(at(&m, 0, "sum(h)"), ["{} {count:4, sum:5, (0.5,1]:2, (1,2]:2}"]);
    assert_eq!(at(&m, 0, "avg(h)"), ["{} {count:2, sum:2.5, (0.5,1]:1, (1,2]:1}"]);
    assert_eq!(at(&m, 0, "count(h)"), ["{} 2"]);
    assert_eq!(at(&m, 0, "group by (x) (h)"), ["{x=\"a\"} 1", "{x=\"b\"} 1"]);
    assert_eq!(at(&m, 0, "limitk(1, h)").len(), 1);
    assert_eq!(at(&m, 0, "count_values('v', h{x='b'})"), ["{v=\"{count:1, sum:1, (0.5,1]:1}\"} 1"]);
    let floats = "encountered a mix of histograms and floats for aggregation";
    nothing(&m, 0, "sum({__name__=~'h|f'})", floats);
    nothing(&m, 0, "avg({__name__=~'h|f'})", floats);
    nothing(&m, 0, "sum({__name__=~'h|c'})", "exponential and custom buckets schemas");
    assert_eq!(at(&m, 0, "count({__name__=~'h|f'})"), ["{} 3"]);
    for op in ["min", "max", "stddev", "stdvar"] {
        nothing(&m, 0, &format!("{op}(h)"), &format!("ignored histogram in {op} aggregation"));
    }
    let (found, notes) = noted(&m, 0, "topk(5, {__name__=~'h|f'})");
    assert_eq!(found, ["f 1"]);
    assert_eq!(notes, ["ignored histogram in topk aggregation"]);
    let (found, _) = noted(&m, 0, "max({__name__=~'h|f'})");
    assert_eq!(found, ["{} 1"]);
    assert!(at(&m, 0, "abs(h)").is_empty() && at(&m, 0, "sort(h)").is_empty());
    assert_eq!(at(&m, 0, "label_replace(h{x='b'}, 'y', '$1', 'x', '(.*)')").len(), 1);
}

#[test]
fn range_functions_know_resets_and_layouts() {
    let m = memory(&[
        A,
        B,
        C,
        BOTH,
        "g | {{count:9 sum:9 buckets:[9] counter_reset_hint:gauge}}; \
        {{count:4 sum:4 buckets:[4] counter_reset_hint:gauge}}",
    ]);
    // 6 in 20 s, and a quarter more for the 5 s before.
    assert_eq!(
        at(&m, 20, "increase(h{x='a'}[25s])"),
        ["{x=\"a\"} {count:7.5, sum:10, (0.5,1]:2.5, (1,2]:5}"]
    );
    // From 1 to 2, and after a reset to 1.
    assert_eq!(
        at(&m, 20, "increase(h{x='b'}[25s])"),
        ["{x=\"b\"} {count:2.5, sum:2.5, (0.5,1]:2.5}"]
    );
    assert_eq!(at(&m, 20, "histogram_count(irate(h[1m]))"), ["{x=\"a\"} 0.3", "{x=\"b\"} 0.1"]);
    assert_eq!(at(&m, 20, "resets(h[1m])"), ["{x=\"a\"} 0", "{x=\"b\"} 1"]);
    assert_eq!(at(&m, 20, "changes(h[1m])"), ["{x=\"a\"} 2", "{x=\"b\"} 2"]);
    assert_eq!(at(&m, 30, "changes(m[1m])"), ["{} 3"]);
    assert_eq!(at(&m, 30, "resets(m[1m])"), ["{} 3"]);
    assert_eq!(
        at(&m, 20, "sum_over_time(h{x='b'}[1m])"),
        ["{x=\"b\"} {count:4, sum:4, (0.5,1]:4}"]
    );
    assert_eq!(
        at(&m, 20, "avg_over_time(h{x='a'}[15s])"),
        ["{x=\"a\"} {count:7.5, sum:10, (0.5,1]:2.5, (1,2]:5}"]
    );
    assert_eq!(at(&m, 30, "count_over_time(m[1m])"), ["{} 4"]);
    assert_eq!(at(&m, 30, "present_over_time(m[1m])"), ["{} 1"]);
    assert_eq!(at(&m, 30, "last_over_time(m[1m])"), ["m {count:2, sum:4, (0.5,1]:2}"]);
    assert_eq!(at(&m, 29, "last_over_time(m[1m])"), ["m 3"]);
    assert_eq!(at(&m, 30, "first_over_time(m[25s])"), ["m {count:1, sum:2, (0.5,1]:1}"]);
    let mix = "encountered a mix of histograms and floats for metric name \"m\"";
    for function in ["rate", "increase", "delta", "irate", "idelta", "sum_over_time"] {
        nothing(&m, 30, &format!("{function}(m[1m])"), mix);
    }
    let (found, notes) = noted(&m, 30, "max_over_time(m[1m])");
    assert_eq!(found, ["{} 3"]);
    assert!(notes[0].starts_with("ignored histograms in a range"), "{notes:?}");
    let (found, notes) = noted(&m, 10, "rate(g[1m])");
    assert!(!found.is_empty() && notes[0].contains("is not a counter: \"g\""), "{notes:?}");
    assert_eq!(at(&m, 10, "idelta(g[1m])"), ["{} {count:-5, sum:-5, (0.5,1]:-5}"]);
    let (found, notes) = noted(&m, 20, "delta(h{x='a'}[25s])");
    assert!(!found.is_empty() && notes[0].contains("is not a gauge: \"h\""), "{notes:?}");
    assert_eq!(
        at(&m, 20, "sum_over_time(sum(h)[30s:10s])"),
        ["{} {count:22, sum:28, (0.5,1]:10, (1,2]:12}"]
    );
}

#[test]
fn functions_of_histograms_take_both_kinds() {
    let m = memory(&[A, C, FLOAT, "k_bucket{le=\"1\"} | 4", "k_bucket{le=\"+Inf\"} | 8"]);
    assert_eq!(at(&m, 0, "histogram_count(h)"), ["{x=\"a\"} 3"]);
    assert_eq!(at(&m, 0, "histogram_sum(h)"), ["{x=\"a\"} 4"]);
    assert_eq!(at(&m, 0, "histogram_avg(c)"), ["{} 1.3333333333333333"]);
    assert!(at(&m, 0, "histogram_count(f)").is_empty());
    assert_eq!(at(&m, 0, "histogram_quantile(1, h)"), ["{x=\"a\"} 2"]);
    assert_eq!(
        at(&m, 0, "histogram_quantile(0.25, {__name__=~'h|k_bucket'})"),
        ["{x=\"a\"} 0.8408964152537145", "{} 0.5"]
    );
    assert_eq!(at(&m, 0, "histogram_fraction(1, 2, h)"), ["{x=\"a\"} 0.6666666666666666"]);
    nothing(
        &m,
        0,
        "histogram_quantile(0.5, {__name__=~'c|k_bucket'})",
        "mix of classic and native",
    );
    let of_bucket = |name: &str| at(&m, 0, &format!("{name}(h)"));
    // In the middle of their buckets: 1 of √½, 2 of √2, and the mean is 4/3.
    let mean = 4.0 / 3.0;
    let variance = ((0.5f64.sqrt() - mean).powi(2) + 2.0 * (2f64.sqrt() - mean).powi(2)) / 3.0;
    assert_eq!(of_bucket("histogram_stdvar"), [format!("{{x=\"a\"}} {variance}")]);
    assert_eq!(of_bucket("histogram_stddev"), [format!("{{x=\"a\"}} {}", variance.sqrt())]);
}

#[test]
fn histograms_that_are_made_count_against_the_limit() {
    let m = memory(&[A, B]);
    let range = Query { start: 0, end: 290_000, step: 1_000 };
    // 2 × 3 samples of some ten numbers are read; each step makes more.
    let limits = Limits { samples: 2_500, ..Limits::default() };
    for query in ["h * 2", "sum(h)", "rate(h[5m])", "h + h", "sum_over_time(h[5m])"] {
        let node = parse(query).expect("a query");
        let told = evaluate(&node, range, &m, limits).expect_err(query).to_string();
        assert!(told.contains("too many samples"), "{query}: {told}");
        evaluate(&node, Query::instant(20_000), &m, limits).expect(query);
    }
}
