//! Test files that pass, and that fail as they should.

use super::*;
use crate::file::RuleFile;

const RULES: &str = r#"
groups:
  - name: one
    rules:
      - record: job:up:count
        expr: count by (job) (up == 1)
      - alert: Down
        expr: up == 0
        for: 2m
        keep_firing_for: 1m
        labels: {severity: page, where: '{{ $externalLabels.region }}'}
        annotations:
          summary: '{{ $labels.job }} is down: {{ $value }}'
"#;

const TESTS: &str = r#"
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    external_labels: {region: eu}
    input_series:
      - series: 'up{job="a"}'
        values: '1 0x4 1x10'
      - series: 'up{job="b"}'
        values: '1x20'
    alert_rule_test:
      - {eval_time: 2m, alertname: Down}
      - eval_time: 3m30s
        alertname: Down
        exp_alerts:
          - exp_labels: {job: a, severity: page, where: eu}
            exp_annotations: {summary: 'a is down: 0'}
      - eval_time: 6m
        alertname: Down
        exp_alerts:
          - exp_labels: {job: a, severity: page, where: eu}
            exp_annotations: {summary: 'a is down: 0'}
      - {eval_time: 7m, alertname: Down}
    promql_expr_test:
      - expr: job:up:count
        eval_time: 5m
        exp_samples:
          - {labels: 'job:up:count{job="b"}', value: 1}
      - expr: ALERTS_FOR_STATE
        eval_time: 2m
        exp_samples:
          - {labels: 'ALERTS_FOR_STATE{alertname="Down", job="a", severity="page", where="eu"}', value: 60}
      - expr: count(up) + 1
        eval_time: 1m
        exp_samples: [{labels: '{}', value: 3}]
"#;

fn failures(tests: &str) -> Vec<String> {
    let rules = RuleFile::parse(RULES).expect("rules");
    let file = TestFile::parse(tests).expect("tests");
    let rules = [("rules.yml".to_owned(), rules)];
    file.tests.iter().flat_map(|t| run(&file, t, &rules).failures).collect()
}

#[test]
fn a_test_passes_if_all_is_as_expected() {
    assert_eq!(failures(TESTS), Vec::<String>::new());
}

#[test]
fn a_difference_is_told() {
    let told = failures(
        &TESTS.replace("'a is down: 0'}\n      - eval_time: 6m", "'?'}\n      - eval_time: 6m"),
    );
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("alert Down at 3m30s: 1 expected, 1 given"), "{}", told[0]);
    assert!(told[0].contains("- {") && told[0].contains("summary: ?"), "{}", told[0]);
    let told = failures(&TESTS.replace("value: 60", "value: 61"));
    assert!(told[0].contains("query \"ALERTS_FOR_STATE\" at 2m: 1 expected, 1 given"), "{told:?}");
    // One minute earlier it does not fire yet.
    assert_eq!(failures(&TESTS.replace("3m30s", "2m30s")).len(), 1);
}

#[test]
fn what_is_no_test_file_is_refused_with_its_place() {
    let fail = |text: &str| TestFile::parse(text).expect_err(text).to_string();
    assert!(fail("tests:\n  - intervall: 1m\n").contains("intervall"));
    assert!(fail("tests:\n  - interval: x\n").starts_with("2:5: not a valid duration"));
    assert!(fail("group_eval_order: [a, a]").contains("repeated"));
    let series = "tests:\n  - input_series:\n      - {series: 'a{', values: '1'}\n";
    assert!(fail(series).starts_with("3:9: "), "{}", fail(series));
    let alert = "tests:\n  - alert_rule_test:\n      - {eval_time: 1m}\n";
    assert!(fail(alert).contains("alertname is missing"));
    let far = "tests:\n  - promql_expr_test:\n      - {expr: up, eval_time: 290y}\n";
    assert!(fail(far).contains("evaluations"));
}

#[test]
fn groups_are_evaluated_in_the_order_that_is_named() {
    let rules = "groups:\n  - name: late\n    rules: [{record: b, expr: a * 2}]\n  - name: early\n    rules: [{record: a, expr: x + 1}]\n";
    let rules = [("r".to_owned(), RuleFile::parse(rules).expect("rules"))];
    let tests = "group_eval_order: [early, late]\ntests:\n  - input_series: [{series: x, values: '1 1'}]\n    promql_expr_test: [{expr: b, eval_time: 0m, exp_samples: [{labels: b, value: 4}]}]\n";
    let result = |tests: &str| {
        let file = TestFile::parse(tests).expect("tests");
        run(&file, &file.tests[0], &rules).failures
    };
    assert_eq!(result(tests), Vec::<String>::new());
    assert_eq!(result(&tests.replace("group_eval_order: [early, late]\n", "")).len(), 1);
}

#[test]
fn recording_rules_yield_histograms() {
    let rules = RuleFile::parse(
        "groups: [{name: one, rules: [{record: all, expr: sum(took)}, {record: n, expr: \
         histogram_count(all)}]}]\n",
    );
    let rules = [("rules.yml".to_owned(), rules.expect("rules"))];
    let test = |wanted: &str| {
        let text = format!(
            r#"
rule_files: [rules.yml]
tests:
  - interval: 1m
    input_series:
      - series: 'took{{path="a"}}'
        values: '{{{{sum:1 count:3 buckets:[1 2]}}}}+{{{{sum:1 count:1 buckets:[1]}}}}x5'
      - series: 'took{{path="b"}}'
        values: '{{{{sum:2 count:2 buckets:[2]}}}}x5'
    promql_expr_test:
      - expr: all
        eval_time: 2m
        exp_samples:
          - {{labels: 'all', histogram: '{wanted}'}}
      - expr: n
        eval_time: 1m
        exp_samples: [{{labels: 'n', value: 6}}]
"#
        );
        let file = TestFile::parse(&text).expect("tests");
        run(&file, &file.tests[0], &rules).failures
    };
    assert_eq!(test("{{sum:5 count:7 buckets:[5 2]}}"), Vec::<String>::new());
    let told = test("{{sum:5 count:7 buckets:[4 3]}}");
    assert!(told[0].contains("all {count:7, sum:5, (0.5,1]:5, (1,2]:2}"), "{told:?}");
}
