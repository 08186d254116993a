//! The real promtool (2.42, from Debian's package) says the same of the same files: which
//! rule files are right, which unit tests pass, and what templates give.

use std::path::{Path, PathBuf};
use std::process::Command;
use synod_promql::{Labels, Limits, Matcher, Sample, Series, Source, all_take};
use synod_rules::{Context, RuleFile, Template, unit};

fn promtool() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program: PathBuf = root.join("target/peers/deb/prometheus/usr/bin/promtool");
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    Command::new(program)
}

/// What promtool says, and whether it is content.
fn says(dir: &Path, args: &[&str]) -> (bool, String) {
    let out = promtool().args(args).current_dir(dir).output().expect("promtool runs");
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A file with one group of one rule.
fn rule(line: &str) -> String {
    format!("groups:\n  - name: g\n    rules:\n      - {line}\n")
}

/// Files of which both must say the same.
const FILES: &[&str] = &[
    "",
    "groups:\n",
    "groups: []\n",
    "{}\n",
    "# nothing\n",
    "a: b\n",
    "groups: 3\n",
    "groups: [3]\n",
    "- groups\n",
    "groups:\n  - name: g\n",
    "groups:\n  - name: ''\n",
    "groups:\n  - rules: []\n",
    "groups:\n  - name: g\n    rules: []\n  - name: g\n",
    "groups:\n  - name: g\n  - name: h\n",
    "groups:\n  - name: g\n    interval: 10s\n    limit: 5\n",
    "groups:\n  - name: g\n    interval: ten\n",
    "groups:\n  - name: g\n    interval: 10\n",
    "groups:\n  - name: g\n    interval: ''\n",
    "groups:\n  - name: g\n    interval: 0s\n",
    "groups:\n  - name: g\n    limit: many\n",
    "groups:\n  - name: g\n    partial: x\n",
    "groups:\n  - name: 5\n",
    "groups:\n  - {name: g, name: h}\n",
    "groups: [",
    "groups:\n\t- name: g\n",
    "groups:\n  - name: g\n    rules:\n      record: a\n",
];

/// Rules in a file of which both must say the same.
const RULES_IN_FILES: &[&str] = &[
    "{record: a, expr: up}",
    "{record: a, expr: 1}",
    "{record: a, expr: '1 + up'}",
    "{alert: A, expr: up == 0}",
    "{record: 'a:b:c', expr: 'sum by (x) (rate(y[5m]))', labels: {d: e}}",
    "{record: a}",
    "{expr: up}",
    "{}",
    "{record: a, alert: A, expr: up}",
    "{record: '', expr: up}",
    "{alert: '', expr: up}",
    "{record: a, expr: ''}",
    "{record: a, expr: 'up ='}",
    "{record: a, expr: 'nope(up)'}",
    "{record: a, expr: 'sum(rate(up))'}",
    "{record: a, expr: up, for: 5m}",
    "{record: a, expr: up, for: 0s}",
    "{record: a, expr: up, annotations: {a: b}}",
    "{record: a, expr: up, annotations: {}}",
    "{record: 'a{b=\"c\"}', expr: up}",
    "{record: a, exp: up}",
    "{record: a, expr: up, labels: {__name__: x}}",
    "{record: a, expr: up, labels: {'': x}}",
    "{record: a, expr: up, labels: {a: 5, b: true, c: 1.5}}",
    "{record: a, expr: up, labels: [a]}",
    "{record: a, expr: up, labels: {a: [b]}}",
    "{record: a, expr: up, labels: {a: '{{ nope }}'}}",
    "{alert: A, expr: up, for: 5m, keep_firing_for: 1h}",
    "{alert: A, expr: up, for: 1.5m}",
    "{alert: A, expr: up, for: 0}",
    "{alert: A, expr: up, for: 5}",
    "{alert: A, expr: up, for: -5m}",
    "{alert: A, expr: up, for: 1h30m}",
    "{alert: A, expr: up, for: 30m1h}",
    "{alert: A, expr: up, keep_firing_for: x}",
    "{alert: 'A b-c', expr: up}",
    "{alert: A, expr: up, labels: {a: '{{ $labels.x }}', alertname: y}}",
    "{alert: A, expr: up, labels: {a: '{{ $nope }}'}}",
    "{alert: A, expr: up, labels: {a: '{{ .Nope }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ if true }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ query \"sum(\" }}'}}",
    "{alert: A, expr: up, annotations: {a: }}",
    "{alert: A, expr: up, annotations: {a: '{{ nope }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ humanize }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ $x := 1 }}{{ $x }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ $x = 1 }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ 1 | 2 }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ \"a\" \"b\" }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ range }}{{ end }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ end }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ (1 }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ 1) }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{/* x */}}{{- 1 -}}'}}",
    "{alert: A, expr: up, annotations: {a: '{{/* x }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ break }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ template \"x\" }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ define \"x\" }}{{ end }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ .a.b.c }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ 1.a }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ nil }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{'}}",
    "{alert: A, expr: up, annotations: {a: '}}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ \"\\q\" }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ $labels.a-b }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ $value | }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ if gt $value 5 }}x{{ else if true }}y{{ else }}z{{ end }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ if true }}{{ else }}{{ else }}{{ end }}'}}",
    "{alert: A, expr: up, fro: 5m}",
    "{alert: A, expr: up, annotations: {a: '{{ $value $value }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{.}}{{$}}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ 0x1G }}'}}",
    "{alert: A, expr: up, annotations: {a: '{{ $labels.job|toUpper}}'}}",
];

fn rule_files() -> Vec<String> {
    let files = FILES.iter().map(|f| (*f).to_owned());
    files.chain(RULES_IN_FILES.iter().map(|r| rule(r))).collect()
}

#[test]
fn rule_files_are_right_or_wrong_as_promtool_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut right, mut differ) = (0, Vec::new());
    for text in rule_files() {
        std::fs::write(dir.path().join("rules.yml"), &text).expect("the rules");
        let (theirs, says) = says(dir.path(), &["check", "rules", "--lint=none", "rules.yml"]);
        let ours = RuleFile::parse(&text);
        if ours.is_ok() != theirs {
            differ.push(format!("{text}\n{:?}\npromtool: {says}", ours.err()));
        }
        right += usize::from(theirs);
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(right > 25, "only {right} are right");
}

/// What 3.x takes and 2.42 refuses.
#[test]
fn what_promtool_does_not_know_yet() {
    let dir = tempfile::tempdir().expect("a folder");
    let newer = [
        rule("{record: 'a b', expr: up}"),
        rule("{record: a, expr: up, labels: {b-c: x}}"),
        rule("{alert: A, expr: up, annotations: {b-c: x}}"),
        "groups:\n  - name: g\n    query_offset: 1m\n".to_owned(),
        "groups:\n  - name: g\n    labels: {a: b}\n".to_owned(),
        rule(
            "{alert: A, expr: up, annotations: {a: '{{ toDuration 1.5 }} {{ now }} {{ urlQueryEscape \"a\" }}'}}",
        ),
        rule("{alert: A, expr: up, annotations: {a: '{{ with 1 }}{{ else with 2 }}{{ end }}'}}"),
    ];
    for text in newer {
        std::fs::write(dir.path().join("rules.yml"), &text).expect("the rules");
        let (theirs, _) = says(dir.path(), &["check", "rules", "--lint=none", "rules.yml"]);
        assert!(!theirs && RuleFile::parse(&text).is_ok(), "{text}");
    }
    // The other way round: 2.42 takes it and every evaluation fails.
    let text = rule("{record: a, expr: 'up[5m]'}");
    std::fs::write(dir.path().join("rules.yml"), &text).expect("the rules");
    assert!(says(dir.path(), &["check", "rules", "rules.yml"]).0);
    assert!(RuleFile::parse(&text).is_err());
}

/// Series for templates: those of the test file beside.
struct Two;

impl Source for Two {
    fn select(&self, matchers: &[Matcher], _: i64, to: i64) -> Result<Vec<Series>, String> {
        let all = [("b", 1_234_567.5), ("a", 0.25)].map(|(job, value)| {
            let labels = Labels::new([("__name__", "x"), ("job", job)]);
            Series::new(labels, vec![Sample { at: to, value }])
        });
        Ok(all.into_iter().filter(|s| all_take(matchers, &s.labels)).collect())
    }
}

const TEMPLATES: [&str; 62] = [
    "{{ $value }} {{ 1234567.0 }} {{ -0.00001 }} {{ 1e21 }} {{ 100000.0 }} {{ 1e-5 }} {{ 3.0 }} {{ 1_000 }} {{ 0x10 }} {{ 'a' }}",
    "{{ printf \"%d|%5.2f|%e|%s|%v|%x\" 42 3.14159 12345.678 \"q\" 1.5 \"hi\" }}",
    "{{ printf \"%v %5t|%-5d|%+d|%05.1f|%q|%c|%U\" true true 3 3 2.55 \"x\\n\" 65 8364 }}",
    "{{ printf \"%6.3v|%.3g|%g|%G|%08.3f|%+.2e|% d\" 3.14159 1234567.0 1e10 1e-10 3.14159 12345.0 5 }}",
    "{{ printf \"%d %s\" $value 3 }} {{ printf \"%s\" }} {{ printf \"x\" 1 }} {{ printf \"%z\" 1 }} {{ printf \"%\" }}",
    "{{ printf \"%T %T %T %T\" $value $labels 1 \"a\" }} {{ printf \"%5s|%-5s|%.2s|%05d\" \"ab\" \"ab\" \"abc\" -42 }}",
    "{{ printf \"%*d|%.*f\" 5 42 2 3.14159 }} {{ printf \"%6.2f%%\" 12.345 }} {{ printf \"%x %X %o %b\" 255 255 8 5 }}",
    "{{ printf \"%s %v\" $labels $labels }} {{ printf \"%v\" nil }} {{ printf \"%q\" 'a' }} {{ printf \"%t\" 1 }}",
    "{{ printf \"%f %.0f %g %v\" 1e20 0.5 1e20 1e20 }} {{ printf \"%g %g\" 0.0001 0.00001 }} {{ printf \"%5.1f|%-8.2f|\" 2.25 2.5 }}",
    "{{ len (query \"x\") }} {{ range query \"x\" | sortByLabel \"job\" }}{{ .Labels.job }}={{ .Value }} {{ end }}",
    "{{ range query \"x\" | sortByLabel \"job\" }}{{ . | label \"job\" }}{{ . | value | humanize }}{{ strvalue . }};{{ end }}",
    "{{ with query \"x{job='a'}\" }}{{ . | first | value | humanizePercentage }}{{ end }}",
    "{{ with query \"nope\" }}some{{ else }}none{{ end }}{{ range query \"nope\" }}some{{ else }}none{{ end }}",
    "{{ humanizeTimestamp 1600000000.1234 }} {{ humanizeTimestamp 0 }} {{ humanizeTimestamp -1.5 }} {{ humanizeTimestamp 4102444800.0 }}",
    "{{ humanize 0.00012345 }} {{ humanize 0.0 }} {{ humanize 999.99 }} {{ humanize 999999.0 }} {{ humanize -1234.5 }} {{ humanize 1e30 }}",
    "{{ humanize \"12\" }} {{ humanize 5 }} {{ humanize \"+Inf\" }} {{ humanize \"NaN\" }} {{ humanize 1e-30 }}",
    "{{ humanize1024 123456789.0 }} {{ humanize1024 -2048 }} {{ humanize1024 0.5 }} {{ humanize1024 1 }} {{ humanize1024 1023.99 }}",
    "{{ humanizeDuration 1e9 }} {{ humanizeDuration 0.000123 }} {{ humanizeDuration -90.5 }} {{ humanizeDuration 59.999 }}",
    "{{ humanizeDuration 86400 }} {{ humanizeDuration 3600.7 }} {{ humanizeDuration 0 }} {{ humanizeDuration -0.5 }} {{ humanizeDuration \"61\" }}",
    "{{ humanizePercentage 0.5 }} {{ humanizePercentage 0.123456 }} {{ humanizePercentage 12.5 }} {{ humanizePercentage 0 }}",
    "{{ print 1 2 \"a\" 3.5 nil }} {{ print \"a\" \"b\" 1 true }} {{ println 1 \"a\" 2.5 }}|",
    "{{ title \"hello wORLD foo_bar baz-qux 2a\" }} {{ toUpper \"aßé\" }} {{ toLower \"AÉ\" }}",
    "{{ stripDomain \"a.b:1\" }} {{ stripDomain \"a.b.c\" }} {{ stripDomain \"1.2.3.4:5\" }} {{ stripDomain \"[::1]:80\" }}",
    "{{ stripPort \"a:b:c\" }} {{ stripPort \"a.b:80\" }} {{ stripPort \"[::1]:80\" }} {{ stripPort \"plain\" }} {{ stripPort \"[::1]\" }}",
    "{{ parseDuration \"1h\" }} {{ parseDuration \"1d12h\" }} {{ parseDuration \"150ms\" }} {{ parseDuration \"0\" }}",
    "{{ $labels }} {{ (args 1 \"b\").arg0 }} {{ (args 1).arg5 }} {{ index $labels \"nope\" }}|{{ index $labels \"job\" }}",
    "{{ toTime 951782400 }} {{ (toTime 951782400).Month }} {{ (toTime 951782400).Year }} {{ (toTime 1e9).Weekday }} {{ (1e9 | toTime).Hour }}",
    "{{ html \"<a href='x'>&\\\"\" }} {{ js \"it's <b> \\\"x\\\" =\" }} {{ urlquery \"a b&c/d\" }} {{ safeHtml \"<b>\" }}",
    "{{ reReplaceAll \"(.*)b\" \"$1x\" \"ab\" }} {{ reReplaceAll \"(.*)b\" \"${1}x\" \"ab\" }} {{ match \"^a\" \"xax\" }} {{ match \"a\" \"xax\" }}",
    "{{ reReplaceAll \"\" \"-\" \"abc\" }} {{ reReplaceAll \"a(b)?\" \"[$1]\" \"ab a\" }} {{ reReplaceAll \"(?i)X\" \"$$\" \"axX\" }}",
    "{{ tableLink \"up{a=\\\"b\\\"}\" }} {{ graphLink \"a+b c\" }} {{ graphLink \"a~b-c_d.e*\" }}",
    "{{ with $x := 5 }}{{ $x }}{{ end }}{{ range $i, $e := args \"a\" \"b\" }}{{$i}}={{$e}};{{ end }}",
    "{{ slice \"hello\" 1 2 }} {{ slice \"hello\" 3 }} {{ index \"abc\" 1 }} {{ len \"aé\" }} {{ len $labels }}",
    "{{ eq 1 1 }} {{ eq 1 2 3 1 }} {{ ne \"a\" \"b\" }} {{ lt 1 2 }} {{ le 2.0 2.0 }} {{ gt \"b\" \"a\" }} {{ ge 1 2 }} {{ eq $value 1234567.5 }}",
    "{{ and 1 0 }} {{ or 0 \"x\" }} {{ not 0 }} {{ and true \"x\" 2.5 }} {{ or false \"\" 0 }}|{{ not \"\" }} {{ 1 | and 2 }}",
    "{{ $labels.job | toUpper | printf \"%s-%s\" \"a\" }} {{ \"quoted\" | printf \"%q\" }} {{ `raw\\n` | len }}",
    "{{ if gt $value 5.0 }}big{{ else }}small{{ end }} {{ if lt $value 5.0 }}a{{ else if eq $labels.job \"b\" }}b{{ else }}c{{ end }}",
    "{{ if eq $value 1.0 }}one{{ else }}{{ if $labels.none }}x{{ else }}y{{ end }}{{ end }}",
    "a {{- 1 -}} b {{/* c */}} d {{- /* e */ -}} f {{ 2 -}}\n g",
    "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}",
    "{{ $n := 0 }}{{ range query \"x\" }}{{ $n = 1 }}{{ break }}{{ end }}{{ $n }}",
    "{{ range $i, $s := query \"x\" | sortByLabel \"job\" }}{{ if eq $i 0 }}{{ continue }}{{ end }}{{ $i }}{{ $s.Labels.job }}{{ end }}",
    "{{ range $k, $v := $labels }}{{ $k }}:{{ $v }},{{ end }}{{ range $labels }}{{ . }};{{ end }}{{ range $v := $labels }}{{ $v }}{{ end }}",
    "{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" $value }}{{ template \"t\" \"x\" }}{{ template \"t\" }}",
    "{{ define \"t\" }}{{ .arg0 }}/{{ .arg1 }}{{ end }}{{ template \"t\" (args $labels.job 2) }}",
    "{{ block \"b\" $labels }}[{{ .job }}]{{ end }}",
    "{{ .Labels.job }} {{ .Value }} {{ .ExternalLabels.region }} {{ $externalLabels.region }} {{ $externalLabels }} {{ $.Labels.job }}",
    "{{ $externalURL }} {{ .ExternalURL }}|",
    "{{ with $labels }}{{ .job }}{{ end }} {{ with $labels.none }}x{{ else }}{{ $value }}{{ end }}",
    "{{ (index (query \"x{job='a'}\") 0).Value }} {{ (query \"x{job='a'}\" | first).Labels.job }}",
    "{{ $s := query \"x\" | sortByLabel \"job\" | first }}{{ $s.Value }} {{ $s.Labels }}",
    "{{ \"a\\tb\\u00e9\\x41\\101\" }} {{ `a\"b` }} {{ '\\n' }} {{ true }} {{ false }}",
    "{{ printf \"%.2f\" $value }}{{ printf \"%10.3f|\" $value }}{{ printf \"%-12.1f|\" $value }}{{ printf \"%+.1f\" $value }}",
    "{{ query \"sum(x)\" | first | value }} {{ query \"scalar(x{job='a'})\" | first | value }} {{ query \"1 + 1\" | first | value }}",
    "{{ query \"x * 0\" | len }} {{ query \"x{job='a'}\" | first | printf \"%T\" }}",
    "no template at all: } } % {",
    "{{ and (gt $value 1.0) (lt $value 1e9) }} {{ or (eq $labels.job \"q\") (ne $labels.job \"q\") }}",
    "{{ $a := \"x\" }}{{ $b := print $a \"y\" }}{{ $b }}{{ len $b | printf \"%03d\" }}",
    "{{ 1 | printf \"%d-%d\" 2 }} {{ \"b\" | eq \"a\" \"b\" }} {{ 5 | lt 4 }}",
    "{{ range $i, $c := args 1.5 \"s\" true }}{{ printf \"%v;\" $c }}{{ end }}",
    "{{ if not (query \"nope\") }}empty{{ end }}{{ if query \"x\" }}full{{ end }}",
    "{{- range query \"x\" | sortByLabel \"job\" }}\n  {{ .Labels.job }}: {{ .Value | humanize }}\n{{- end }}",
];

#[test]
fn templates_give_what_promtool_gives() {
    let dir = tempfile::tempdir().expect("a folder");
    let labels = Labels::new([("__name__", "x"), ("job", "b")]);
    let external = Labels::new([("region", "eu")]);
    let context = Context {
        labels: &labels,
        value: 1_234_567.5,
        external_labels: &external,
        external_url: "",
        at: 0,
        source: &Two,
        limits: Limits::default(),
    };
    let (mut rules, mut tests) = (String::from("groups:\n- name: g\n  rules:\n"), String::new());
    for (i, text) in TEMPLATES.iter().enumerate() {
        let template = Template::new(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let gives = template.expand(&context).unwrap_or_else(|e| panic!("{text}: {e}"));
        let quoted = |t: &str| serde_json::Value::from(t).to_string();
        rules += &format!(
            "  - {{alert: A{i}, expr: 'x{{job=\"b\"}}', annotations: {{a: {}}}}}\n",
            quoted(text)
        );
        tests += &format!(
            "    - {{eval_time: 0m, alertname: A{i}, exp_alerts: [{{exp_labels: {{job: b}}, \
             exp_annotations: {{a: {}}}}}]}}\n",
            quoted(&gives)
        );
    }
    let tests = format!(
        "rule_files: [rules.yml]\ntests:\n- interval: 1m\n  external_labels: {{region: eu}}\n  \
         input_series:\n  - {{series: 'x{{job=\"b\"}}', values: '1234567.5'}}\n  \
         - {{series: 'x{{job=\"a\"}}', values: '0.25'}}\n  alert_rule_test:\n{tests}"
    );
    std::fs::write(dir.path().join("rules.yml"), &rules).expect("the rules");
    std::fs::write(dir.path().join("tests.yml"), &tests).expect("the tests");
    let (theirs, says) = says(dir.path(), &["test", "rules", "tests.yml"]);
    assert!(theirs, "{says}");
    // Ours, through the runner, says so too.
    assert_eq!(failures(&tests, &rules), Ok(Vec::new()));
}

/// What our runner finds.
fn failures(tests: &str, rules: &str) -> Result<Vec<String>, String> {
    let rules = RuleFile::parse(rules).map_err(|e| format!("{e:?}"))?;
    let file = unit::TestFile::parse(tests).map_err(|e| e.to_string())?;
    let rules = [("rules.yml".to_owned(), rules)];
    Ok(file.tests.iter().flat_map(|t| unit::run(&file, t, &rules).failures).collect())
}

const RULES: &str = r#"
groups:
  - name: first
    rules:
      - {record: 'job:x:sum', expr: 'sum by (job) (x)', labels: {from: rule}}
      - {alert: High, expr: 'job:x:sum > 10', for: 2m, labels: {severity: page}, annotations: {s: '{{ $labels.job }} {{ $value }}'}}
  - name: second
    rules:
      - {record: 'all:x:sum', expr: 'sum(job:x:sum)'}
      - {alert: Kept, expr: 'x > 20', keep_firing_for: 3m}
"#;

/// Tests of those rules, each on the same series; both must say the same of each.
const TESTS: [&str; 26] = [
    "alert_rule_test: [{eval_time: 0m, alertname: High}]",
    "alert_rule_test: [{eval_time: 3m, alertname: High}]",
    "alert_rule_test: [{eval_time: 3m, alertname: Nobody}]",
    "alert_rule_test: [{eval_time: 6m, alertname: High, exp_alerts: [{exp_labels: {job: a, severity: page, from: rule}, exp_annotations: {s: 'a 16'}}]}]",
    "alert_rule_test: [{eval_time: 6m30s, alertname: High, exp_alerts: [{exp_labels: {job: a, severity: page, from: rule}, exp_annotations: {s: 'a 16'}}]}]",
    "alert_rule_test: [{eval_time: 6m, alertname: High, exp_alerts: [{exp_labels: {job: a, severity: page}, exp_annotations: {s: 'a 16'}}]}]",
    "alert_rule_test: [{eval_time: 6m, alertname: High, exp_alerts: [{exp_labels: {job: a, severity: page, from: rule}}]}]",
    "alert_rule_test: [{eval_time: 10m, alertname: Kept, exp_alerts: [{exp_labels: {job: b, i: '2'}}]}]",
    "alert_rule_test: [{eval_time: 12m, alertname: Kept, exp_alerts: [{exp_labels: {job: b, i: '2'}}]}]",
    "alert_rule_test: [{eval_time: 13m, alertname: Kept, exp_alerts: [{exp_labels: {job: b, i: '2'}}]}]",
    "alert_rule_test: [{eval_time: 14m, alertname: Kept}]",
    "alert_rule_test: [{eval_time: 15m, alertname: Kept}]",
    "promql_expr_test: [{expr: 'job:x:sum', eval_time: 4m, exp_samples: [{labels: 'job:x:sum{job=\"a\", from=\"rule\"}', value: 12}, {labels: 'job:x:sum{job=\"b\", from=\"rule\"}', value: 9}]}]",
    "promql_expr_test: [{expr: 'job:x:sum', eval_time: 4m, exp_samples: [{labels: 'job:x:sum{job=\"a\", from=\"rule\"}', value: 12}]}]",
    "promql_expr_test: [{expr: 'all:x:sum', eval_time: 4m, exp_samples: [{labels: 'all:x:sum', value: 21}]}]",
    "promql_expr_test: [{expr: 'all:x:sum', eval_time: 4m, exp_samples: [{labels: '{}', value: 21}]}]",
    "promql_expr_test: [{expr: 'all:x:sum + 1', eval_time: 4m, exp_samples: [{labels: '{}', value: 22}]}]",
    "promql_expr_test: [{expr: 'nope', eval_time: 4m}]",
    "promql_expr_test: [{expr: '7', eval_time: 4m, exp_samples: [{value: 7}]}]",
    "promql_expr_test: [{expr: 'rate(x{i=\"1\"}[3m1s])', eval_time: 4m, exp_samples: [{labels: '{job=\"a\", i=\"1\"}', value: 0.03333333333333333}]}]",
    "promql_expr_test: [{expr: 'gone', eval_time: 2m, exp_samples: [{labels: gone, value: 3}]}]",
    "promql_expr_test: [{expr: 'gone', eval_time: 3m}]",
    "promql_expr_test: [{expr: 'gone', eval_time: 9m, exp_samples: [{labels: gone, value: 5}]}]",
    "promql_expr_test: [{expr: 'ALERTS{alertname=\"High\"}', eval_time: 4m, exp_samples: [{labels: 'ALERTS{alertname=\"High\", alertstate=\"pending\", job=\"a\", severity=\"page\", from=\"rule\"}', value: 1}]}]",
    "promql_expr_test: [{expr: 'ALERTS_FOR_STATE', eval_time: 5m, exp_samples: [{labels: 'ALERTS_FOR_STATE{alertname=\"High\", job=\"a\", severity=\"page\", from=\"rule\"}', value: 240}]}]",
    "promql_expr_test: [{expr: 'time()', eval_time: 90s, exp_samples: [{labels: '{}', value: 90}]}]",
];

#[test]
fn unit_tests_pass_or_fail_as_with_promtool() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("rules.yml"), RULES).expect("the rules");
    let (mut passed, mut failed, mut differ) = (0, 0, Vec::new());
    for test in TESTS {
        let text = format!(
            "rule_files: [rules.yml]\nevaluation_interval: 1m\n\
             group_eval_order: [first, second]\ntests:\n- interval: 1m\n  \
             input_series:\n  - {{series: 'x{{job=\"a\", i=\"1\"}}', values: '4+2x20'}}\n  \
             - {{series: 'x{{job=\"b\", i=\"2\"}}', values: '9x7 _ 30 30 1 1x9'}}\n  \
             - {{series: gone, values: '3x2 stale _x5 5'}}\n  {test}\n"
        );
        std::fs::write(dir.path().join("tests.yml"), &text).expect("the tests");
        let (theirs, says) = says(dir.path(), &["test", "rules", "tests.yml"]);
        let ours = failures(&text, RULES).expect("files");
        if ours.is_empty() != theirs {
            differ.push(format!("{test}\n{}\npromtool: {says}", ours.join("\n")));
        }
        *(if theirs { &mut passed } else { &mut failed }) += 1;
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(passed >= 15 && failed >= 5, "{passed} passed and {failed} failed");
}
