//! `fill`, `fill_left` and `fill_right`, by what their documentation says.

use super::{at, memory};
use crate::parse;

#[test]
fn what_a_side_lacks_is_filled_in() {
    let m = memory(&[
        "good{i=\"1\"} | 5 5",
        "good{i=\"2\"} | 7 _",
        "bad{i=\"1\"} | 1 1",
        "bad{i=\"3\"} | 2 2",
        "many{i=\"1\", c=\"x\"} | 10 10",
        "many{i=\"1\", c=\"y\"} | 20 20",
        "many{i=\"4\", c=\"x\"} | 30 30",
        "one{i=\"1\", zone=\"z\"} | 2 2",
        "one{i=\"5\", zone=\"z\"} | 3 3",
    ]);
    let is = |query: &str, wanted: &[&str]| assert_eq!(at(&m, 0, query), wanted, "{query}");
    is("good + bad", &["{i=\"1\"} 6"]);
    is("good + fill(0) bad", &["{i=\"1\"} 6", "{i=\"2\"} 7", "{i=\"3\"} 2"]);
    is("good + fill_right(10) bad", &["{i=\"1\"} 6", "{i=\"2\"} 17"]);
    is("good - fill_left(-1) bad", &["{i=\"1\"} 4", "{i=\"3\"} -3"]);
    is("good - fill_right(1) fill_left(2) bad", &["{i=\"1\"} 4", "{i=\"2\"} 6", "{i=\"3\"} 0"]);
    is("good + fill(1) none", &["{i=\"1\"} 6", "{i=\"2\"} 8"]);
    is("none + fill(1) good", &["{i=\"1\"} 6", "{i=\"2\"} 8"]);
    is("none + fill(1) none", &[]);
    is("good > fill(6) bad", &["good{i=\"1\"} 5", "good{i=\"2\"} 7", "{i=\"3\"} 6"]);
    is("good > bool fill(6) bad", &["{i=\"1\"} 1", "{i=\"2\"} 1", "{i=\"3\"} 1"]);
    // On the side with one, and on that with many, which has no more than the matched labels.
    is(
        "many * on (i) group_left (zone) fill_right(0) one",
        &[
            "{c=\"x\", i=\"1\", zone=\"z\"} 20",
            "{c=\"x\", i=\"4\"} 0",
            "{c=\"y\", i=\"1\", zone=\"z\"} 40",
        ],
    );
    is(
        "many + on (i) group_left fill_left(100) one",
        &["{c=\"x\", i=\"1\"} 12", "{c=\"y\", i=\"1\"} 22", "{i=\"5\"} 103"],
    );
    is(
        "one + on (i) group_right fill_right(100) many",
        &["{c=\"x\", i=\"1\"} 12", "{c=\"y\", i=\"1\"} 22", "{i=\"5\"} 103"],
    );
    // At each step by itself.
    assert_eq!(at(&m, 305, "good + fill(0) bad"), ["{i=\"1\"} 6", "{i=\"3\"} 2"]);
    for (query, why) in [
        ("good and fill(0) bad", "not allowed for set operators"),
        ("good + fill(bad) bad", "expected number"),
        ("good + fill(1) fill_left(2) bad", "unexpected <fill_left>"),
        ("good + fill(1) 2", "only allowed between instant vectors"),
    ] {
        let told = parse(query).expect_err(query).to_string();
        assert!(told.contains(why), "{query}: {told}");
    }
    // It is no word of its own.
    assert!(parse("good + fill").is_ok() && parse("fill * fill").is_ok());
    for (query, printed) in [
        ("a+fill(0)b", "a + fill (0) b"),
        (
            "a+on(i)group_left fill_left(-1.5)fill_right(2)b",
            "a + on (i) group_left () fill_left (-1.5) fill_right (2) b",
        ),
    ] {
        assert_eq!(parse(query).expect(query).to_string(), printed);
        assert_eq!(parse(printed).expect(printed).to_string(), printed);
    }
}
