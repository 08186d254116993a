//! What is newer than the Prometheus that `tests/prometheus` compares with, or differs
//! from it: computed by hand.

use super::{at, memory};
use crate::parse;

#[test]
fn functions_of_windows() {
    let m = memory(&["a | 1 2 3 10", "b | 1 5 3 5 1", "c | 1 3 4"]);
    // The median is 2.5; the distances from it 0.5, 0.5, 1.5 and 7.5.
    assert_eq!(at(&m, 30, "mad_over_time(a[1m])"), ["{} 1"]);
    assert_eq!(at(&m, 30, "first_over_time(a[25s])"), ["a 2"]);
    // Of equal extremes the last counts.
    assert_eq!(at(&m, 40, "ts_of_min_over_time(b[1m])"), ["{} 40"]);
    assert_eq!(at(&m, 40, "ts_of_max_over_time(b[1m])"), ["{} 30"]);
    assert_eq!(at(&m, 40, "ts_of_first_over_time(b[35s])"), ["{} 10"]);
    assert_eq!(at(&m, 45, "ts_of_last_over_time(b[35s])"), ["{} 40"]);
    // Level 3 and trend 2 after the second sample, then 4 / 2 + (3 + 2) / 2.
    assert_eq!(at(&m, 20, "double_exponential_smoothing(c[1m], 0.5, 0.5)"), ["{} 4.5"]);
}

#[test]
fn a_counter_is_extrapolated_by_half_a_spacing_at_most_far_from_the_edge() {
    let m = memory(&["c | _ _ _ _ 4 10 16"]);
    // 12 in 20 s, and 5 s more at the old end: below zero it would be after 6.67 s.
    assert_eq!(at(&m, 60, "increase(c[1m])"), ["{} 15"]);
}

#[test]
fn series_in_the_order_of_labels_and_some_of_them() {
    let m = memory(&["a{i=\"x10\"} | 1", "a{i=\"x9\"} | 2", "a{i=\"x1\"} | 3", "a{i=\"y\"} | 4"]);
    let order = |query: &str| {
        let node = parse(query).expect(query);
        let when = super::Query::instant(0);
        let answer = super::evaluate(&node, when, &m, super::Limits::default());
        let super::Answer::Vector(series) = answer.expect(query) else { panic!("{query}") };
        series.iter().map(|s| s.labels.get("i").to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order("sort_by_label(a, \"i\")"), "x1 x9 x10 y");
    assert_eq!(order("sort_by_label_desc(a, \"i\")"), "y x10 x9 x1");
    assert_eq!(order("sort_by_label(a, \"none\", \"i\")"), "x1 x9 x10 y");
    assert_eq!(at(&m, 0, "limitk(3, a)").len(), 3);
    assert_eq!(at(&m, 0, "limitk(0, a)").len(), 0);
    // All of 200 series: a ratio takes about its part, and always the same ones.
    let lines: Vec<String> = (0..200).map(|i| format!("s{{i=\"{i}\"}} | 1 1")).collect();
    let many = memory(&lines.iter().map(|l| &**l).collect::<Vec<_>>());
    let kept = at(&many, 0, "limit_ratio(0.3, s)");
    assert!((40..80).contains(&kept.len()), "{}", kept.len());
    let odd = "limit_ratio(0.3, s{i=~\".*[13579]\"})";
    assert!(at(&many, 10, odd).iter().all(|s| kept.contains(s)));
    assert_eq!(at(&many, 0, "limit_ratio(1, s)").len(), 200);
    assert_eq!(at(&many, 0, "limit_ratio(-1, s)").len(), 200);
    assert_eq!(at(&many, 0, "limit_ratio(0, s)").len(), 0);
    // A ratio and its complement share nothing and leave nothing out.
    assert_eq!(at(&m, 0, "limit_ratio(0.25, a) or limit_ratio(-0.75, a)").len(), 4);
    assert!(at(&m, 0, "limit_ratio(0.25, a) and limit_ratio(-0.75, a)").is_empty());
}

#[test]
fn fractions_of_histograms() {
    let m = memory(&[
        "h_bucket{le=\"0.1\"} | 50",
        "h_bucket{le=\"0.2\"} | 90",
        "h_bucket{le=\"+Inf\"} | 100",
        "open_bucket{le=\"0.1\"} | 50",
        "low_bucket{le=\"-1\"} | 50",
        "low_bucket{le=\"+Inf\"} | 100",
    ]);
    // A bucket without a lower end cannot be divided.
    assert_eq!(at(&m, 0, "histogram_fraction(-Inf, -5, low_bucket)"), ["{} 0.5"]);
    assert_eq!(at(&m, 0, "histogram_fraction(0, 0.15, h_bucket)"), ["{} 0.7"]);
    assert_eq!(at(&m, 0, "histogram_fraction(0.1, Inf, h_bucket)"), ["{} 0.5"]);
    assert_eq!(at(&m, 0, "histogram_fraction(-Inf, 0.05, h_bucket)"), ["{} 0.25"]);
    assert_eq!(at(&m, 0, "histogram_fraction(2, 1, h_bucket)"), ["{} 0"]);
    assert_eq!(at(&m, 0, "histogram_fraction(NaN, 1, h_bucket)"), ["{} NaN"]);
    assert_eq!(at(&m, 0, "histogram_fraction(0, 1, open_bucket)"), ["{} NaN"]);
}

#[test]
fn quantiles_of_two_names_are_two_histograms() {
    let m = memory(&[
        "a_bucket{le=\"1\"} | 1",
        "a_bucket{le=\"+Inf\"} | 2",
        "b_bucket{le=\"1\"} | 1",
        "b_bucket{le=\"+Inf\"} | 2",
    ]);
    let query = "histogram_quantile(0.5, {__name__=~\".*_bucket\"})";
    assert!(at(&m, 0, query)[0].starts_with("error: vector cannot contain"));
}

#[test]
fn numbers_and_names() {
    let m = memory(&["a{i=\"1\"} | 7 8"]);
    assert_eq!(at(&m, 0, "5m + 1_000 + 0x_1F"), ["1331"]);
    assert_eq!(at(&m, 0, "010 + 08"), ["16"]);
    assert_eq!(at(&m, 15, "a offset 10"), ["a{i=\"1\"} 7"]);
    assert_eq!(at(&m, 15, "a offset 0s"), ["a{i=\"1\"} 8"]);
    assert_eq!(at(&m, 0, "{\"a\", i=\"1\"}"), ["a{i=\"1\"} 7"]);
    assert_eq!(at(&m, 0, "a atan2 0 > 1"), ["{i=\"1\"} 1.5707963267948966"]);
    assert_eq!(at(&m, 0, "(\"text\")"), ["text"]);
    assert_eq!(at(&m, 0, "absent(b{i!=\"x\",i=\"1\"})"), ["{i=\"1\"} 1"]);
}

#[test]
fn deviations_of_infinities_are_no_numbers() {
    let m = memory(&["a | inf", "b | NaN"]);
    assert_eq!(at(&m, 0, "stddev(a)"), ["{} NaN"]);
    assert_eq!(at(&m, 0, "stdvar(b)"), ["{} NaN"]);
}

#[test]
fn dates_of_all_times() {
    let m = memory(&[]);
    // The last second of 1968, a leap year.
    let second = "vector(-31536001)";
    for (part, value) in [
        ("year", 1968),
        ("month", 12),
        ("day_of_month", 31),
        ("day_of_year", 366),
        ("days_in_month", 31),
        ("day_of_week", 2),
        ("hour", 23),
        ("minute", 59),
    ] {
        assert_eq!(at(&m, 0, &format!("{part}({second})")), [format!("{{}} {value}")], "{part}");
    }
    assert_eq!(at(&m, 0, "days_in_month(vector(-2206310400))"), ["{} 28"], "1900 was no leap year");
    assert_eq!(at(&m, 0, "year(vector(1e300))").len(), 1);
}

#[test]
fn chains_of_operators_have_a_bound() {
    let m = memory(&["a | 1"]);
    let chain = |count: usize| format!("a{}", " + 1".repeat(count));
    let nested = |call: &str, end: &str, n: usize| {
        format!("{}a{}", format!("{call}(").repeat(n), end.repeat(n))
    };
    // A test's thread has 2 MiB of stack, as a server's have.
    assert_eq!(at(&m, 0, &chain(399)), ["{} 400"]);
    assert_eq!(at(&m, 0, &nested("sum_over_time", "[5s:5s])", 98)), ["{} 1"]);
    assert_eq!(at(&m, 0, &nested("abs", ")", 98)), ["{} 1"]);
    assert_eq!(at(&m, 0, &nested("sum", ")", 98)), ["{} 1"]);
    assert_eq!(at(&m, 0, &format!("{}{}", "-".repeat(98), "a")), ["{} 1"]);
    let deep = [
        chain(401),
        chain(100_000),
        nested("sum_over_time", "[5s:5s])", 101),
        nested("", ")", 10_000),
        format!("a{}", "[5m:1m]".repeat(10_000)),
        "-".repeat(100_000) + "a",
        format!("({}){}", chain(300), " + 1".repeat(300)),
    ];
    for query in deep {
        assert!(parse(&query).is_err(), "{:.80}", query);
    }
}
