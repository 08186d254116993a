//! Lengths that are computed, by what their documentation says.

use super::{Limits, Query, at, evaluate, memory};
use crate::parse;

#[test]
fn lengths_are_computed() {
    let m = memory(&["a | 1 2 3 4 5 6 7 8 9 10"]);
    let same = |query: &str, plain: &str| {
        assert_eq!(at(&m, 90, query), at(&m, 90, plain), "{query}");
        assert!(!at(&m, 90, query).is_empty(), "{query}");
    };
    same("count_over_time(a[10s * 3])", "count_over_time(a[30s])");
    same("count_over_time(a[(5+2) * 10s])", "count_over_time(a[70s])");
    same("count_over_time(a[1m / 2 + 10s])", "count_over_time(a[40s])");
    same("count_over_time(a[100s % 60])", "count_over_time(a[40s])");
    same("count_over_time(a[2 ^ 3 ^ 1 * 10])", "count_over_time(a[80s])");
    same("count_over_time(a[-10s + 1m])", "count_over_time(a[50s])");
    same("count_over_time(a[min(1m, 20s) + max(0, 10)])", "count_over_time(a[30s])");
    same("count_over_time(a[1m * 1:5s * 2])", "count_over_time(a[1m:10s])");
    same("a offset (1m / 2)", "a offset 30s");
    same("a @ 40 offset -(5s * 4)", "a @ 40 offset -20s");
    // Without parentheses the offset is the first duration.
    same("a offset 10s * 2", "(a offset 10s) * 2");
    // Of an instant query these are 0.
    same("a offset step()", "a");
    same("count_over_time(a[range() + 20s])", "count_over_time(a[20s])");
    let node = parse("count_over_time(a[max(step() * 2, 5s)]) + sum_over_time(a[range()] @ end())");
    let query = Query { start: 30_000, end: 60_000, step: 10_000 };
    let answer = evaluate(&node.expect("a query"), query, &m, Limits::default());
    let super::Answer::Vector(series) = answer.expect("an answer") else { panic!("no series") };
    let values: Vec<f64> = series[0].samples.iter().map(|s| s.value).collect();
    // Two samples in 20 s, and those of the last 30 s at the end: 5 + 6 + 7.
    assert_eq!(values, [20.0; 4]);
    let node = parse("vector(end() - start() - range() + step())").expect("a query");
    let answer = evaluate(&node, query, &m, Limits::default());
    let super::Answer::Vector(series) = answer.expect("an answer") else { panic!("no series") };
    assert!(series[0].samples.len() == 4 && series[0].samples.iter().all(|s| s.value == 10.0));
    assert_eq!(at(&m, 90, "vector(start() + end() + step() + range())"), ["{} 180"]);
    for (query, why) in [
        ("a[step()]", "duration must be greater than 0"),
        ("a[range() - 1s]", "duration must be greater than 0"),
        ("a[5s / step()]", "division by zero"),
        ("a[5s % range()]", "modulo by zero"),
        ("a offset ((1 + range()) * 9y * 9y)", "duration out of range"),
    ] {
        let node = parse(query).expect(query);
        let failed = evaluate(&node, Query::instant(90_000), &m, Limits::default());
        let told = failed.expect_err(query).to_string();
        assert!(told.contains(why), "{query}: {told}");
    }
}

#[test]
fn lengths_that_are_wrong_anyway_are_told_at_once() {
    for (query, why) in [
        ("a[1m - 1m]", "duration must be greater than 0"),
        ("a[1m / 0]", "division by zero"),
        ("a[5m *]", "expected duration"),
        ("a[b]", "expected duration"),
        ("a[(5m]", "expected"),
        ("a[min(5m)]", "expected"),
        ("a[step]", "expected"),
        ("a[100y * 100y]", "duration out of range"),
        ("a offset offset", "expected duration"),
    ] {
        let told = parse(query).expect_err(query).to_string();
        assert!(told.contains(why), "{query}: {told}");
    }
    let many = format!("a[{}1]", "1+".repeat(300));
    assert!(parse(&many).expect_err("too many").to_string().contains("more than"));
    let deep = format!("a[{}1{}]", "(".repeat(300), ")".repeat(300));
    assert!(parse(&deep).expect_err("too deep").to_string().contains("nests deeper"));
    for (query, printed) in [
        ("a[5m*2]", "a[5m * 2]"),
        (
            "a[(step()+5)^2:range()/3] offset -min(1m,-5s)",
            "a[(step() + 5) ^ 2:range() / 3] offset -min(1m, -5s)",
        ),
        ("a offset (5m)", "a offset (5m)"),
    ] {
        assert_eq!(parse(query).expect(query).to_string(), printed);
        assert_eq!(parse(printed).expect(printed).to_string(), printed);
    }
}
