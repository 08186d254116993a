mod fill;
mod info;
mod length;
mod native;
mod newer;

use super::*;
use crate::labels::all_take;
use crate::parse;

/// Series in memory.
struct Memory(Vec<Series>);

impl Source for Memory {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let mut found: Vec<Series> =
            self.0.iter().filter(|s| all_take(matchers, &s.labels)).cloned().collect();
        for series in &mut found {
            series.samples.retain(|s| (from..=to).contains(&s.at));
            series.histograms.retain(|h| (from..=to).contains(&h.at));
        }
        found.retain(|s| !s.is_empty());
        Ok(found)
    }
}

/// `name{a="b"} 1 2 _ 4`: a value every ten seconds from 0 on, `_` none, `stale` the end.
fn memory(lines: &[&str]) -> Memory {
    let series = |line: &&str| {
        let (selector, values) = line.split_once(" | ").expect("a bar before the values");
        let matchers = crate::parse_selector(selector).expect("a selector");
        let labels = Labels::new(matchers.iter().map(|m| (&*m.name, &*m.value)));
        let values = values.split(' ').enumerate().filter(|(_, v)| *v != "_");
        let samples = values.map(|(i, v)| Sample {
            at: i as i64 * 10_000,
            value: if v == "stale" { STALE } else { v.parse().expect("a number") },
        });
        Series::new(labels, samples.collect())
    };
    Memory(lines.iter().map(series).collect())
}

/// Time is over when it was asked so often.
struct Impatient(Cell<usize>);

impl Source for Impatient {
    fn select(&self, _: &[Matcher], _: i64, _: i64) -> Result<Vec<Series>, String> {
        Ok(Vec::new())
    }

    fn gives_up(&self) -> bool {
        self.0.set(self.0.get().saturating_sub(1));
        self.0.get() == 0
    }
}

#[test]
fn a_query_gives_up_amid_its_windows() {
    // Nothing is counted while these are gone through: 86,400 windows of as many samples.
    let node =
        parse("max_over_time(max_over_time(vector(time())[1d:1s])[1d:1s])").expect("a query");
    let source = Impatient(Cell::new(100));
    let given_up = evaluate(&node, Query::instant(1_000_000_000), &source, Limits::default());
    assert_eq!(given_up.expect_err("no answer").kind, ErrorKind::Timeout);
}

fn shown(answer: Answer) -> Vec<String> {
    let of = |s: Series| {
        let values: Vec<String> = s.samples.iter().map(|s| format!("{}", s.value)).collect();
        format!("{} {}", s.labels, values.join(" "))
    };
    match answer {
        Answer::Scalar(values) => values.iter().map(f64::to_string).collect(),
        Answer::Text(text) => vec![text],
        Answer::Vector(series) | Answer::Matrix(series) => {
            let mut all: Vec<String> = series.into_iter().map(of).collect();
            all.sort();
            all
        }
    }
}

fn ask(memory: &Memory, query: &str, when: Query) -> Vec<String> {
    let node = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
    match evaluate(&node, when, memory, Limits::default()) {
        Ok(answer) => shown(answer),
        Err(e) => vec![format!("error: {e}")],
    }
}

fn at(memory: &Memory, seconds: i64, query: &str) -> Vec<String> {
    ask(memory, query, Query::instant(seconds * 1_000))
}

#[test]
fn selectors_see_the_newest_value_until_it_is_stale_or_old() {
    let m = memory(&["up{job=\"a\"} | 1 2 stale", "up{job=\"b\"} | 5"]);
    assert_eq!(at(&m, 15, "up"), ["up{job=\"a\"} 2", "up{job=\"b\"} 5"]);
    assert_eq!(at(&m, 20, "up"), ["up{job=\"b\"} 5"]);
    assert_eq!(at(&m, 299, "up{job!=\"a\"}"), ["up{job=\"b\"} 5"]);
    // The lookback is open at its old end.
    assert!(at(&m, 300, "up").is_empty());
    assert_eq!(at(&m, 400, "up @ 10"), ["up{job=\"a\"} 2", "up{job=\"b\"} 5"]);
    assert_eq!(at(&m, 25, "up offset 10s"), ["up{job=\"a\"} 2", "up{job=\"b\"} 5"]);
}

#[test]
fn rates_are_extrapolated_and_count_resets() {
    let m = memory(&["c | 0 10 20 30 5 15"]);
    // Windows are open at their old end: 10 to 50 s without the sample at 10 s.
    assert_eq!(at(&m, 50, "increase(c[40s])"), ["{} 33.33333333333333"]);
    assert_eq!(at(&m, 50, "resets(c[1m])"), ["{} 1"]);
    assert_eq!(at(&m, 50, "irate(c[1m])"), ["{} 1"]);
    assert_eq!(at(&m, 50, "changes(c[1m])"), ["{} 5"]);
    assert!(at(&m, 50, "rate(c[5s])").is_empty());
}

#[test]
fn sides_match_by_their_labels() {
    let m = memory(&[
        "a{i=\"1\",j=\"x\"} | 6",
        "a{i=\"2\",j=\"x\"} | 8",
        "b{i=\"1\",j=\"x\"} | 2",
        "k{j=\"x\",v=\"9\"} | 10",
    ]);
    assert_eq!(at(&m, 0, "a / b"), ["{i=\"1\", j=\"x\"} 3"]);
    assert_eq!(
        at(&m, 0, "a * on(j) group_left(v) k"),
        ["{i=\"1\", j=\"x\", v=\"9\"} 60", "{i=\"2\", j=\"x\", v=\"9\"} 80"]
    );
    assert!(at(&m, 0, "k * on(j) a")[0].starts_with("error: found duplicate series"));
    assert!(at(&m, 0, "a * on(j) k")[0].starts_with("error: multiple matches for labels"));
    assert_eq!(at(&m, 0, "a > 6"), ["a{i=\"2\", j=\"x\"} 8"]);
    assert_eq!(at(&m, 0, "a > bool 6"), ["{i=\"1\", j=\"x\"} 0", "{i=\"2\", j=\"x\"} 1"]);
    assert_eq!(at(&m, 0, "a unless b"), ["a{i=\"2\", j=\"x\"} 8"]);
    assert_eq!(at(&m, 0, "a and b"), ["a{i=\"1\", j=\"x\"} 6"]);
    assert_eq!(at(&m, 0, "b or a").len(), 2);
}

#[test]
fn groups_are_aggregated() {
    let m = memory(&["a{i=\"1\",j=\"x\"} | 1", "a{i=\"2\",j=\"x\"} | 3", "a{i=\"3\",j=\"y\"} | 5"]);
    assert_eq!(at(&m, 0, "sum by (j) (a)"), ["{j=\"x\"} 4", "{j=\"y\"} 5"]);
    assert_eq!(at(&m, 0, "sum(a) without (i)"), ["{j=\"x\"} 4", "{j=\"y\"} 5"]);
    assert_eq!(at(&m, 0, "stddev(a)"), ["{} 1.632993161855452"]);
    assert_eq!(at(&m, 0, "topk(1, a)"), ["a{i=\"3\", j=\"y\"} 5"]);
    assert_eq!(at(&m, 0, "bottomk by (j) (1, a)").len(), 2);
    assert_eq!(at(&m, 0, "quantile(0.5, a)"), ["{} 3"]);
    assert_eq!(at(&m, 0, "count_values(\"v\", a)"), ["{v=\"1\"} 1", "{v=\"3\"} 1", "{v=\"5\"} 1"]);
}

#[test]
fn a_range_is_evaluated_step_by_step() {
    let m = memory(&["c | 0 10 20 30 40 50"]);
    let range = Query { start: 0, end: 50_000, step: 10_000 };
    assert_eq!(ask(&m, "c + 1", range), ["{} 1 11 21 31 41 51"]);
    assert_eq!(ask(&m, "sum_over_time(c[20s])", range), ["{} 0 10 30 50 70 90"]);
    assert_eq!(ask(&m, "time()", range), ["0", "10", "20", "30", "40", "50"]);
    assert_eq!(ask(&m, "max_over_time(c[20s:10s] @ end())", range), ["{} 50 50 50 50 50 50"]);
    assert_eq!(ask(&m, "absent(c > 20)", range), ["{} 1 1 1"]);
}

#[test]
fn quantiles_of_histograms() {
    let m = memory(&[
        "h_bucket{le=\"0.1\"} | 50",
        "h_bucket{le=\"0.2\"} | 100",
        "h_bucket{le=\"+Inf\"} | 100",
    ]);
    assert_eq!(at(&m, 0, "histogram_quantile(0.75, h_bucket)"), ["{} 0.15000000000000002"]);
    assert_eq!(at(&m, 0, "histogram_quantile(1.5, h_bucket)"), ["{} inf"]);
}

#[test]
fn labels_dates_and_scalars() {
    let m = memory(&["a{i=\"web-7\"} | 2"]);
    let replaced = "label_replace(a, \"n\", \"$1\", \"i\", \".*-(.*)\")";
    assert_eq!(at(&m, 0, replaced), ["a{i=\"web-7\", n=\"7\"} 2"]);
    assert_eq!(
        at(&m, 0, "label_join(a, \"n\", \"+\", \"i\", \"i\")"),
        ["a{i=\"web-7\", n=\"web-7+web-7\"} 2"]
    );
    assert_eq!(at(&m, 951_782_400, "day_of_year()"), ["{} 60"]);
    assert_eq!(at(&m, 951_782_400, "days_in_month() + month() * 100 + year()"), ["{} 2229"]);
    assert_eq!(at(&m, 0, "day_of_week()"), ["{} 4"]);
    assert_eq!(at(&m, 0, "scalar(a) ^ 3 ^ 0 - -1"), ["3"]);
    assert_eq!(at(&m, 0, "-2 ^ 2"), ["-4"]);
    assert_eq!(at(&m, 0, "1 == bool 1"), ["1"]);
}

#[test]
fn what_is_no_query_is_told_with_its_place() {
    for (query, told) in [
        ("", "1:1: parse error: no expression found in input"),
        ("sum(", "1:5: parse error: unexpected end of input"),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("foo(1)", "1:1: parse error: unknown function with name \"foo\""),
        ("a offset 1m[5m]", "1:1: parse error: no offset or @ modifiers allowed before range"),
        (
            "rate(a)",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
        ),
    ] {
        assert_eq!(parse(query).expect_err(query).to_string(), told, "{query}");
    }
    let deep = "(".repeat(100_000);
    assert!(parse(&deep).expect_err("too deep").to_string().contains("nests deeper"));
}

#[test]
fn expressions_print_as_they_are_read() {
    for (query, printed) in [
        ("sum(a{x='1'})by(y)", "sum by (y) (a{x=\"1\"})"),
        ("topk without() (3,a)", "topk without () (3, a)"),
        ("a+on(x)group_left b*-c^2", "a + on (x) group_left () b * -c ^ 2"),
        ("(a>bool 1)[90m:10]@end()offset-5s", "(a > bool 1)[1h30m:10s] @ end() offset -5s"),
        ("rate(a[1d1ms]@ -1.5)", "rate(a[1d1ms] @ -1.500)"),
        ("a offset 1w and ignoring(x) b", "a offset 1w and ignoring (x) b"),
        ("{__name__='on'}", "{__name__=\"on\"}"),
        ("{__name__='',x='1'}", "{__name__=\"\", x=\"1\"}"),
        ("{'a','ä b'!~'c'}", "a{\"ä b\"!~\"c\"}"),
        ("0x10 + 1e3 - -inf", "16 + 1000 - -Inf"),
        ("time() * 5m + nan", "time() * 300 + NaN"),
    ] {
        let node = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
        assert_eq!(node.to_string(), printed, "{query}");
        assert_eq!(parse(printed).expect(printed).to_string(), printed);
    }
}

#[test]
fn what_a_reader_should_know_is_told_with_its_place() {
    let m = memory(&[
        "up | 1 1 1 1",
        "a_total | 1 2 3 4",
        "h_bucket{le=\"1\"} | 5 5 5 5",
        "h_bucket{le=\"+Inf\"} | 3 3 3 3",
        "bad_bucket{le=\"x\"} | 1 1 1 1",
    ]);
    let told = |query: &str| {
        let node = parse(query).expect(query);
        let (_, notes) = evaluate_noted(&node, Query::instant(30_000), &m, Limits::default())
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        let one = |n: Note| {
            let kind = if n.warns { "warning" } else { "info" };
            format!("{kind} {}: {}", crate::place(query, n.at), n.text)
        };
        notes.into_iter().map(one).collect::<Vec<_>>()
    };
    assert!(
        told("sum(rate(a_total[30s])) + histogram_quantile(0.9, a_total{le=\"1\"})").is_empty()
    );
    let counter =
        "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"up\"";
    assert_eq!(told("sum(\n  rate(up[30s]))"), [format!("info 2:8: {counter}")]);
    let share = |got: &str| format!("quantile value should be between 0 and 1, got {got}");
    assert_eq!(told("quantile(1.5, up)"), [format!("warning 1:10: {}", share("1.5"))]);
    assert_eq!(told("quantile_over_time(-1, up[1m])"), [format!("warning 1:20: {}", share("-1"))]);
    assert_eq!(
        told("histogram_quantile(NaN, h_bucket)")[0],
        format!("warning 1:20: {}", share("NaN"))
    );
    let fell = told("histogram_quantile(0.5, h_bucket)");
    assert!(fell.len() == 1 && fell[0].contains("info 1:25") && fell[0].contains("\"h_bucket\""));
    assert_eq!(
        told("histogram_quantile(0.5, bad_bucket)"),
        [
            "warning 1:25: bucket label \"le\" is missing or has a malformed value of \"x\" for metric name \
          \"bad_bucket\""
        ]
    );
    // Places are those of lines and characters, as clients count.
    let error = parse("up +\n é").expect_err("no query");
    assert!(error.told("up +\n é").starts_with("2:2: parse error"), "{}", error.told("up +\n é"));
}
