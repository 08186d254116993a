//! `info`, by what its documentation says.

use super::{Limits, Query, at, evaluate, memory};
use crate::parse;

#[test]
fn series_get_the_labels_of_their_job_and_instance() {
    let m = memory(&[
        "up{job=\"a\", instance=\"1\", zone=\"own\"} | 1 2 3",
        "up{job=\"b\", instance=\"1\"} | 5 5 5",
        "up{job=\"none\", instance=\"1\"} | 7 7 7",
        "alone | 9 9 9",
        "target_info{job=\"a\", instance=\"1\", cluster=\"x\", zone=\"z\"} | 1 1 1",
        "target_info{job=\"b\", instance=\"1\", os=\"linux\"} | 1 1 1",
        "build_info{job=\"a\", instance=\"1\", version=\"1.0\"} | 1 1 1",
    ]);
    let all = at(&m, 20, "info(up)");
    assert_eq!(
        all,
        [
            "up{cluster=\"x\", instance=\"1\", job=\"a\", zone=\"own\"} 3",
            "up{instance=\"1\", job=\"b\", os=\"linux\"} 5",
            "up{instance=\"1\", job=\"none\"} 7",
        ]
    );
    assert_eq!(at(&m, 20, "info(up, {})"), all);
    assert_eq!(at(&m, 20, "info(alone)"), ["alone 9"]);
    // Conditions choose series and labels; what cannot be empty has to be there.
    let some = ["up{cluster=\"x\", instance=\"1\", job=\"a\", zone=\"own\"} 3"];
    assert_eq!(at(&m, 20, "info(up, {cluster=~\".+\"})"), some);
    assert_eq!(at(&m, 20, "info(up, {cluster=\"other\"})"), [""; 0]);
    assert_eq!(at(&m, 20, "info(up, {cluster=~\".*\"})").len(), 3);
    // Others are asked for by their names, several at a time.
    assert_eq!(
        at(&m, 20, "info(up{job=\"a\"}, {__name__=~\"(target|build)_info\"})"),
        ["up{cluster=\"x\", instance=\"1\", job=\"a\", version=\"1.0\", zone=\"own\"} 3"]
    );
    // It works on what is computed, too; and what is known stays as it is.
    assert_eq!(at(&m, 20, "sum by (os) (info(up{job=\"b\"} * 2))"), ["{os=\"linux\"} 10"]);
    let target = "target_info{instance=\"1\", job=\"b\", os=\"linux\"} 1";
    assert_eq!(at(&m, 20, "info(target_info{job=\"b\"})"), [target]);
}

#[test]
fn the_newest_counts_at_each_step() {
    let m = memory(&[
        "up{job=\"a\"} | 1 2 3 4",
        "target_info{job=\"a\", version=\"1\"} | 1 1 _ _",
        "target_info{job=\"a\", version=\"2\"} | _ _ 1 1",
        "both{job=\"a\", x=\"1\"} | 1 1 1 1",
        "both{job=\"a\", x=\"2\"} | 1 1 1 1",
        "more{job=\"a\", version=\"3\"} | 1 1 1 1",
    ]);
    assert_eq!(at(&m, 10, "info(up)"), ["up{job=\"a\", version=\"1\"} 2"]);
    assert_eq!(at(&m, 30, "info(up)"), ["up{job=\"a\", version=\"2\"} 4"]);
    let node = parse("info(up)").expect("a query");
    let query = Query { start: 0, end: 30_000, step: 10_000 };
    let answer = evaluate(&node, query, &m, Limits::default()).expect("an answer");
    let super::Answer::Vector(series) = answer else { panic!("{answer:?}") };
    let counts: Vec<(&str, usize)> =
        series.iter().map(|s| (s.labels.get("version"), s.samples.len())).collect();
    assert_eq!(counts, [("1", 2), ("2", 2)]);
    for (query, why) in [
        ("info(up, {__name__=\"both\"})", "duplicate series for info metric"),
        ("info(up, {__name__=~\"target_info|more\"})", "conflicting label: version"),
    ] {
        let node = parse(query).expect(query);
        let failed = evaluate(&node, Query::instant(30_000), &m, Limits::default());
        let told = failed.expect_err(query).to_string();
        assert!(told.contains(why), "{told}");
    }
    for (query, why) in [
        ("info()", "unexpected"),
        ("info(up, up)", "expected label selectors only"),
        ("info(up, {}, {})", "unexpected"),
        ("info(1)", "expected type instant vector"),
    ] {
        let told = parse(query).expect_err(query).to_string();
        assert!(told.contains(why), "{query}: {told}");
    }
    for query in ["info(up)", "info(up, {})", "info(up, {a=~\".*\", __name__=\"b\"})"] {
        assert_eq!(parse(query).expect(query).to_string(), query);
    }
}
