//! Whatever is asked: an answer or an error, within the limits.

use proptest::prelude::*;
use synod_promql::{
    HistogramSample, Labels, Limits, Matcher, Query, STALE, Sample, Series, Source, all_take,
    evaluate, parse, read_histogram,
};

struct Tiny(Vec<Series>);

impl Source for Tiny {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let mut found: Vec<Series> =
            self.0.iter().filter(|s| all_take(matchers, &s.labels)).cloned().collect();
        found.iter_mut().for_each(|s| {
            s.samples.retain(|s| (from..=to).contains(&s.at));
            s.histograms.retain(|h| (from..=to).contains(&h.at));
        });
        Ok(found)
    }
}

fn tiny() -> Tiny {
    let values = [0.0, 1.0, f64::NAN, -3.5, f64::INFINITY, STALE, 7.0, 1e300, f64::NEG_INFINITY];
    let series = |i: usize, name: &str, label: &str, value: &str| Series {
        labels: Labels::new([("__name__", name), (label, value)]),
        samples: (0..9)
            .map(|n| Sample { at: n as i64 * 10_000 + 7, value: values[(n * (i + 1) + i) % 9] })
            .collect(),
        histograms: Vec::new(),
    };
    let mut layouts = series(5, "c", "x", "1");
    layouts.samples.truncate(2);
    let texts = [
        "{{schema:1 count:9 sum:3 z_bucket:1 z_bucket_w:0.1 buckets:[3 0 5] offset:-1}}",
        "{{schema:0 count:2 sum:Inf buckets:[1 1] n_buckets:[2] n_offset:1000}}",
        "{{schema:-53 count:6 sum:NaN custom_values:[1 2] buckets:[1 2 3]}}",
        "{{schema:8 count:-6 sum:1 buckets:[-4 -2] offset:-9000 counter_reset_hint:gauge}}",
        "{{schema:-4 count:3 sum:1 z_bucket:3 z_bucket_w:1e300}}",
        "{{}}",
    ];
    layouts.histograms = (2..)
        .zip(texts)
        .map(|(n, text)| HistogramSample {
            at: n * 10_000 + 7,
            value: read_histogram(text).expect(text).0.into(),
        })
        .collect();
    let mut same = layouts.clone();
    same.labels = Labels::new([("__name__", "b"), ("x", "2")]);
    Tiny(vec![
        series(0, "a", "x", "1"),
        series(1, "a", "x", "2"),
        series(2, "b", "x", "1"),
        series(3, "b", "le", "0.5"),
        series(4, "b", "le", "+Inf"),
        Series::new(Labels::new([("__name__", "none")]), Vec::new()),
        layouts,
        same,
    ])
}

fn one_of(all: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(all).prop_map(str::to_owned).boxed()
}

fn function() -> BoxedStrategy<&'static synod_promql::functions::Function> {
    (0..synod_promql::functions::FUNCTIONS.len())
        .prop_map(|i| &synod_promql::functions::FUNCTIONS[i])
        .boxed()
}

fn leaf() -> BoxedStrategy<String> {
    let selector = one_of(&["a", "b", "a{x=\"1\"}", "{x=~\".+\"}", "b{le!=\"\"}", "none", "c"]);
    let number =
        one_of(&["0", "1", "-2.5", "NaN", "Inf", "-Inf", "1e300", "0.5", "9e18", "time()"]);
    let text = one_of(&["\"\"", "\"x\"", "\"$1\"", "\"(.*)\"", "\"le\"", "\"(\"", "'ä'"]);
    prop_oneof![4 => selector, 2 => number, 1 => text].boxed()
}

const RANGES: [&str; 10] = [
    "[step() + 5s]",
    "[2 * 1m - range() / 2:max(1s, 3)]",
    "[5m]",
    "[1ms]",
    "[30s:7s]",
    "[2m:]",
    "[292y]",
    "[100y:1ms]",
    "[1m:1y]",
    "[3s] @ end()",
];
const TIMES: [&str; 9] = [
    " offset 5s",
    " offset -10s",
    " offset 292y",
    " @ 0",
    " @ -9e15",
    " @ 9e15",
    " @ start()",
    " @ 30 offset -200y",
    "",
];
const OPERATORS: [&str; 27] = [
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " ^ ",
    " atan2 ",
    " == ",
    " != bool ",
    " > ",
    " <= bool ",
    " and ",
    " or ",
    " unless ",
    " and on (x) ",
    " or ignoring (x) ",
    " + on (x) ",
    " * ignoring (x) ",
    " - on (x) group_left ",
    " / ignoring (le) group_right (le) ",
    " > on () group_left (x) ",
    " < bool on () ",
    " unless on () ",
    " == on (x, le) ",
    " + fill(0) ",
    " / on (x) group_left fill_left(1) fill_right(-2) ",
    " > ignoring (le) fill_right(3) ",
];
const AGGREGATIONS: [&str; 14] = [
    "sum",
    "avg",
    "min",
    "max",
    "count",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "quantile",
    "count_values",
    "limitk",
    "limit_ratio",
];
const GROUPINGS: [&str; 5] = ["", " by (x)", " without (x)", " by ()", " without (le)"];

fn select(all: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(all)
}

/// Queries as the grammar makes them; most of them pass the parser.
fn query() -> impl Strategy<Value = String> {
    leaf().prop_recursive(5, 24, 5, |inner| {
        let ranged = (inner.clone(), select(&RANGES), select(&TIMES));
        let ranged = ranged.prop_map(|(q, range, time)| format!("{q}{range}{time}")).boxed();
        let any = prop_oneof![3 => inner.clone(), 2 => ranged.clone()];
        let call = (function(), prop::collection::vec(any, 5)).prop_map(|(f, args)| {
            let count = f.takes.len();
            let mut args: Vec<String> = args.into_iter().take(count).collect();
            if f.name == "info" {
                args[1] = ["{}", "{x=~\".+\"}", "{__name__=~\"a|b\"}"][args[0].len() % 3].into();
            }
            format!("{}({})", f.name, args.join(", "))
        });
        // A matrix where one is wanted.
        let over = (function(), ranged.clone(), leaf(), leaf()).prop_map(|(f, matrix, b, c)| {
            use synod_promql::Kind::{Matrix, Scalar};
            let args: Vec<String> = (f.takes.iter().zip([b, c, "1".into()]))
                .map(|(kind, other)| match kind {
                    Matrix => matrix.clone(),
                    Scalar => "0.5".into(),
                    _ => other,
                })
                .collect();
            format!("{}({})", f.name, args.join(", "))
        });
        let binary = (inner.clone(), select(&OPERATORS), inner.clone())
            .prop_map(|(a, op, b)| format!("({a}{op}{b})"));
        let aggregate = (select(&AGGREGATIONS), select(&GROUPINGS), leaf(), inner.clone(), any_bool())
            .prop_map(|(op, by, param, q, with)| {
                let param = if with { format!("{param}, ") } else { String::new() };
                format!("{op}{by}({param}{q})")
            });
        let unary = inner.clone().prop_map(|q| format!("-{q}"));
        let timed = (inner, select(&TIMES)).prop_map(|(q, time)| format!("{q}{time}"));
        prop_oneof![3 => call, 3 => over, 3 => binary, 3 => aggregate, 1 => unary, 1 => timed, 1 => ranged]
    })
}

fn any_bool() -> impl Strategy<Value = bool> {
    any::<bool>()
}

/// An expression without the places in the text.
fn placeless(node: &synod_promql::Node) -> String {
    let all = format!("{node:?}");
    let parts = all.split("span: ").enumerate();
    let rest = parts.map(|(i, part)| match i {
        0 => part,
        _ => part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'),
    });
    rest.collect()
}

fn ask(text: &str) -> bool {
    let Ok(node) = parse(text) else { return false };
    let printed = node.to_string();
    let again = parse(&printed).unwrap_or_else(|e| panic!("{text:?} prints {printed:?}: {e}"));
    assert_eq!(placeless(&node), placeless(&again), "{text:?} prints {printed:?}");
    let limits = Limits { samples: 20_000, ..Limits::default() };
    let ends = [i64::MIN, i64::MIN / 5, -1, 85_003, i64::MAX / 5, i64::MAX];
    for at in ends {
        let _ = evaluate(&node, Query::instant(at), &tiny(), limits);
    }
    let range = Query { start: 3, end: 95_000, step: 9_500 };
    let _ = evaluate(&node, range, &tiny(), limits);
    let _ = evaluate(&node, Query { start: 5, end: 4, step: 1 }, &tiny(), limits);
    true
}

/// Of what the grammar makes, at least a third must reach the evaluator.
#[test]
fn the_generator_makes_queries() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let made = (0..300).map(|_| query().new_tree(&mut runner).expect("a query").current());
    let passed = made.filter(|q| parse(q).is_ok()).count();
    assert!(passed >= 100, "only {passed} of 300 are queries");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn made_queries_have_an_answer_or_an_error(text in query()) {
        ask(&text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        ask(&text);
    }

    #[test]
    fn tokens_in_any_order_are_read_or_refused(
        words in prop::collection::vec(select(&[
            "a", "b", "sum", "by", "(", ")", "{", "}", "[", "]", ",", "5m", "1", "0x1_f", "\"x\"",
            "'", "`", "\\", "+", "-", "^", "==", "=", "=~", "!~", "!=", "bool", "on", "group_left",
            "offset", "@", "start", "end", ":", "rate", "#", "\n", "ä", "1e", ".", "_", "inf", "x",
            "{x=\"1\"}", "a[5m]", "rate(a[1m])", "and", "0", "00", "1y1y", "\"\\x\"", "\"\\u00\"",
        ]), 0..14),
        between in select(&["", " "]),
    ) {
        ask(&words.join(between));
    }
}
