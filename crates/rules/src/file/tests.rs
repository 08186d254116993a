//! Files that are read, and what is said about those that are not.

use super::*;

fn errors(text: &str) -> Vec<String> {
    RuleFile::parse(text).expect_err(text).iter().map(FileError::to_string).collect()
}

/// A file with one rule, which these lines are.
fn rule(lines: &str) -> String {
    format!("groups:\n  - name: g\n    rules:\n{lines}")
}

#[test]
fn a_file_is_read_with_all_its_fields() {
    let text = "groups:\n  - name: g\n    interval: 1m30s\n    limit: 3\n    query_offset: 10s\n    labels: {team: a, severity: low}\n    rules:\n      - alert: A\n        expr: |\n          up == 0\n        for: 5m\n        keep_firing_for: 1m\n        labels: {severity: page, code: 7}\n        annotations: {summary: '{{ $value }}'}\n      - record: a:b\n        expr: 1\n";
    let file = RuleFile::parse(text).expect("a file");
    let g = &file.groups[0];
    assert_eq!((g.interval, g.query_offset, g.limit), (Some(90_000), Some(10_000), 3));
    let labels: Vec<_> = g.rules[0].labels.iter().map(|(n, t)| (&**n, t.text())).collect();
    assert_eq!(labels, [("team", "a"), ("code", "7"), ("severity", "page")]);
    assert!(matches!(g.rules[0].kind, RuleKind::Alert { hold: 300_000, keep: 60_000, .. }));
    assert_eq!(g.rules[0].place, Place { line: 8, column: 9 });
    assert_eq!(g.rules[1].name(), "a:b");
    assert!(RuleFile::parse("").expect("nothing").groups.is_empty());
    assert!(RuleFile::parse("groups:\n").expect("nothing").groups.is_empty());
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let cases = [
        (
            rule("      - {alert: A, record: b, expr: up}"),
            "4:9: group \"g\", rule 1, \"b\": only one of 'record' and 'alert' must be set",
        ),
        (
            rule("      - {expr: up}"),
            "4:9: group \"g\", rule 1, \"\": one of 'record' or 'alert' must be set",
        ),
        (rule("      - {alert: A}"), "group \"g\", rule 1, \"A\": field 'expr' must be set"),
        (
            rule("      - alert: A\n        expr: up ="),
            "5:15: group \"g\", rule 1, \"A\": could not parse expression: 1:",
        ),
        (rule("      - {alert: A, expr: 'up[5m]'}"), "range vector has no value"),
        (
            rule("      - {record: a, expr: up, for: 5m}"),
            "4:18: group \"g\", rule 1, \"a\": invalid field 'for'",
        ),
        (rule("      - {record: a, expr: up, annotations: {a: b}}"), "invalid field 'annotations'"),
        (rule("      - {record: 'a{b=\"c\"}', expr: up}"), "braces"),
        (
            rule("      - {alert: A, expr: up, labels: {__name__: b}}"),
            "invalid label name: __name__",
        ),
        (
            rule("      - {alert: A, expr: up, labels: {a: '{{ $x }}'}}"),
            "label \"a\": template line 1: undefined variable \"$x\"",
        ),
        (
            rule("      - {alert: A, expr: up, annotations: {a: '{{ nope }}'}}"),
            "function \"nope\" not defined",
        ),
        (rule("      - {alert: A, expr: up, for: 5}"), "not a valid duration string: \"5\""),
        (rule("      - {alert: A, expr: up, fro: 5m}"), "4:30: unknown field"),
        ("groups:\n  - name: ''\n".to_owned(), "2:5: Groupname must not be empty"),
        (
            "groups:\n  - name: a\n  - name: a\n".to_owned(),
            "3:5: groupname: \"a\" is repeated in the same file",
        ),
        ("groups: [".to_owned(), "1:"),
        ("group: []".to_owned(), "unknown field"),
    ];
    for (text, wanted) in cases {
        let found = errors(&text);
        assert!(found.len() == 1 && found[0].contains(wanted), "{text}\n{found:?}\nnot {wanted}");
        assert!(!found[0].contains('\n'), "{found:?}");
    }
    // All at once.
    assert_eq!(errors(&rule("      - {expr: up}\n      - {alert: A}")).len(), 2);
}

#[test]
fn what_is_there_twice_is_found() {
    let text = rule(
        "      - {record: a, expr: up}\n      - {record: a, expr: down}\n      - {record: a, expr: up, labels: {x: y}}\n      - {alert: A, expr: up}",
    );
    let file = RuleFile::parse(&text).expect("a file");
    assert_eq!(duplicates([&file]), [("a".to_owned(), Labels::default())]);
    assert_eq!(duplicates([&file, &file]).len(), 3);
    let text = rule("      - {record: 'a b', expr: up, labels: {c-d: x}}");
    let file = RuleFile::parse(&text).expect("names of 3.0");
    assert_eq!(modern_names([&file]), ["a b", "c-d"]);
}
