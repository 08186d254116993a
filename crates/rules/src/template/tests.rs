//! Templates as alerts write them, and what they give.

use super::*;
use proptest::prelude::*;
use synod_promql::{Matcher, Sample, Series};

/// Series for `query`.
struct Fixed;

impl Source for Fixed {
    fn select(&self, matchers: &[Matcher], _: i64, to: i64) -> Result<Vec<Series>, String> {
        let all = [("a", 2.0), ("c", 1.0), ("b", 3.0)].map(|(job, value)| {
            let labels = Labels::new([("__name__", "up"), ("job", job)]);
            Series::new(labels, vec![Sample { at: to, value }])
        });
        Ok(all.into_iter().filter(|s| synod_promql::all_take(matchers, &s.labels)).collect())
    }
}

fn expand(text: &str) -> Result<String, TemplateError> {
    let labels =
        Labels::new([("__name__", "up"), ("instance", "db-1.example.org:9100"), ("job", "node")]);
    let external_labels = Labels::new([("region", "eu")]);
    let context = Context {
        labels: &labels,
        value: 1234.5,
        external_labels: &external_labels,
        external_url: "http://127.0.0.1:7070/mon",
        at: 1_600_000_000_500,
        source: &Fixed,
        limits: synod_promql::Limits::default(),
    };
    Template::new(text)?.expand(&context)
}

#[track_caller]
fn gives(text: &str, wanted: &str) {
    assert_eq!(expand(text).as_deref(), Ok(wanted), "{text}");
}

#[track_caller]
fn fails(text: &str, part: &str) {
    let why = expand(text).expect_err(text).to_string();
    assert!(why.contains(part), "{text}: {why}");
}

#[test]
fn labels_and_values() {
    gives(
        "{{ $labels.instance }} of {{ .Labels.job }}: {{ $value }}",
        "db-1.example.org:9100 of node: 1234.5",
    );
    gives(
        "{{$externalLabels.region}} {{.ExternalLabels.none}}|{{$externalURL}}",
        "eu |http://127.0.0.1:7070/mon",
    );
    gives("{{ index $labels \"job\" }} {{ $.Labels.job }} {{ len $labels }}", "node node 3");
    gives("{{ $labels }}", "map[__name__:up instance:db-1.example.org:9100 job:node]");
    fails("{{ $nothing }}", "undefined variable");
    fails("{{ $nothing = 1 }}", "undefined variable");
    fails("{{ .Nothing }}", "can't evaluate field Nothing");
    fails("{{ $value.x }}", "can't evaluate field x in type float64");
}

#[test]
fn conditions_and_loops() {
    gives("{{ if gt $value 1000.0 }}much{{ else }}little{{ end }}", "much");
    gives("{{ if eq .Labels.job \"x\" \"node\" }}yes{{ end }}", "yes");
    gives("{{ if eq .Labels.job \"x\" }}a{{ else if .Labels.none }}b{{ else }}c{{ end }}", "c");
    fails("{{ if gt $value 1000 }}{{ end }}", "incompatible types for comparison");
    gives("{{ if and $value (not false) (or \"\" \"x\") }}x{{ end }}", "x");
    gives(
        "{{ with $labels.job }}{{ . }}!{{ end }}{{ with .Labels.none }}{{ . }}{{ else }}-{{ end }}",
        "node!-",
    );
    gives(
        "{{ range query \"up\" | sortByLabel \"job\" }}{{ .Labels.job }}={{ .Value }} {{ end }}",
        "a=2 b=3 c=1 ",
    );
    gives(
        "{{ range $i, $s := query \"up\" }}{{ if $i }},{{ end }}{{ $s | label \"job\" }}{{ end }}",
        "a,c,b",
    );
    gives("{{ range query \"none\" }}x{{ else }}none{{ end }}", "none");
    gives("{{ range $n, $v := $externalLabels }}{{ $n }}:{{ $v }}{{ end }}", "region:eu");
    gives(
        "{{ range 5 }}{{ if eq . 3 }}{{ break }}{{ end }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ . }}{{ end }}",
        "02",
    );
    gives("{{ with query \"up{job='b'}\" }}{{ . | first | value }}{{ end }}", "3");
    gives("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ end }}{{ $x }}", "2");
    fails("{{ query \"up{job='z'}\" | first }}", "first() called on vector with no elements");
    fails("{{ query \"sum(\" }}", "parse error");
}

#[test]
fn templates_within() {
    gives(
        "{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" $value }}{{ template \"t\" \"x\" }}",
        "<1234.5><x>",
    );
    gives(
        "{{ define \"t\" }}{{ .arg0 }}-{{ .arg1 }}{{ end }}{{ template \"t\" (args 1 \"b\") }}",
        "1-b",
    );
    gives("{{ block \"b\" .Labels.job }}[{{ . }}]{{ end }}", "[node]");
    fails("{{ define \"t\" }}{{ template \"t\" }}{{ end }}{{ template \"t\" }}", "nested deeper");
    fails("{{ template \"none\" }}", "not defined");
}

#[test]
fn functions_of_prometheus() {
    let humanized = [
        ("humanize 0.0", "0"),
        ("humanize 1234567.0", "1.235M"),
        ("humanize 0.0123", "12.3m"),
        ("humanize \"12\"", "12"),
        ("humanize1024 1048576", "1Mi"),
        ("humanize1024 0.5", "0.5"),
        ("humanizeDuration 0", "0s"),
        ("humanizeDuration 90061.5", "1d 1h 1m 1s"),
        ("humanizeDuration 3661", "1h 1m 1s"),
        ("humanizeDuration -61", "-1m 1s"),
        ("humanizeDuration 12.3456", "12.35s"),
        ("humanizeDuration 0.0012", "1.2ms"),
        ("humanizePercentage 0.1234567", "12.35%"),
        ("humanizeTimestamp 1600000000.5", "2020-09-13 12:26:40.5 +0000 UTC"),
        ("humanizeTimestamp -1.5", "1969-12-31 23:59:58.5 +0000 UTC"),
        ("(toTime 951782400).Month", "February"),
        ("(toTime 951782400).Day", "29"),
        ("toUpper \"ab\"", "AB"),
        ("toLower \"AB\"", "ab"),
        ("title \"ab cd-ef\"", "Ab Cd-Ef"),
        ("match \"b+\" \"abbc\"", "true"),
        ("reReplaceAll \"(a)b\" \"${1}x\" \"abab\"", "axax"),
        ("stripPort \"h.x:80\"", "h.x"),
        ("stripPort \"[::1]:80\"", "::1"),
        ("stripPort \"::1\"", "::1"),
        ("stripDomain \"h.x.y:80\"", "h:80"),
        ("stripDomain \"10.0.0.1:80\"", "10.0.0.1:80"),
        ("stripDomain \"h.x\"", "h"),
        ("parseDuration \"1h30m\"", "5400"),
        ("pathPrefix", "/mon"),
        ("graphLink \"up == 0\"", "/graph?g0.expr=up+%3D%3D+0&g0.tab=0"),
        ("tableLink \"up\"", "/graph?g0.expr=up&g0.tab=1"),
        ("externalURL", "http://127.0.0.1:7070/mon"),
        ("safeHtml \"<b>\"", "<b>"),
        ("toDuration 5400.25", "1h30m0.25s"),
        ("toDuration 0.0015", "1.5ms"),
        ("now", "1.6000000005e+09"),
    ];
    for (call, wanted) in humanized {
        gives(&format!("{{{{ {call} }}}}"), wanted);
    }
    gives(
        "{{ $value | humanize }} {{ $labels.instance | stripPort | stripDomain | toUpper }}",
        "1.234k DB-1",
    );
    fails("{{ toUpper $value }}", "expected string; got float64");
    fails("{{ reReplaceAll \"(\" \"\" \"\" }}", "error parsing regexp");
    fails("{{ humanize }}", "wrong number of args");
    fails("{{ humanizeTimestamp 1e300 }}", "beyond the times");
}

#[test]
fn functions_of_go() {
    gives("{{ printf \"%.1f|%s|%d\" $value \"a\" 3 }}", "1234.5|a|3");
    gives("{{ print 1 2 \"a\" 3 \"b\" }}{{ println 1 \"x\" }}", "1 2a3b1 x\n");
    gives(
        "{{ html \"<a&'>\" }} {{ urlquery \"a b&\" }} {{ js \"'<\" }}",
        "&lt;a&amp;&#39;&gt; a+b%26 \\'\\u003C",
    );
    gives("{{ lt 1 2 }} {{ le 2 2 }} {{ ge \"b\" \"a\" }} {{ ne 1.0 2.0 }}", "true true true true");
    gives("{{ slice \"hello\" 1 3 }} {{ index (query \"up\") 1 | value }}", "el 1");
    gives("{{- /* a comment */ -}} x {{- \" y\" -}}  z", "x yz");
}

#[test]
fn what_is_no_template_is_refused() {
    let bad = [
        "{{",
        "{{ if }}x{{ end }}",
        "{{ if true }}",
        "{{ end }}",
        "{{ else }}",
        "{{ foo }}",
        "{{ (1 }}",
        "{{ 1) }}",
        "{{ 1 | 2 }}",
        "{{ range }}{{ end }}",
        "{{ break }}",
        "{{ template x }}",
        "{{ define \"a\" }}{{ end }}{{ define \"a\" }}{{ end }}",
        "{{ . || . }}",
        "{{ | . }}",
        "{{ 1.x }}",
        "{{ /* x }}",
        "{{ \"a\"\"b\" }}",
        "{{ if true }}{{ else }}{{ else }}{{ end }}",
        "{{ }}",
    ];
    for text in bad {
        assert!(Template::new(text).is_err(), "{text}");
    }
    let deep = format!("{}{}", "{{ if true }}".repeat(1_000), "{{ end }}".repeat(1_000));
    assert!(Template::new(&deep).is_err());
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(1_000), ")".repeat(1_000));
    assert!(Template::new(&deep).is_err());
}

#[test]
fn what_runs_too_long_or_gives_too_much_is_stopped() {
    fails("{{ range 1000 }}{{ range 1000 }}x{{ end }}{{ end }}", "more than");
    fails("{{ $x := \"0123456789\" }}{{ range 30 }}{{ $x = print $x $x }}{{ end }}", "more than");
    fails("{{ range 99999999999 }}{{ end }}", "more than");
    fails(
        "{{ $x := printf \"%0900d\" 1 }}{{ range 9 }}{{ $x = reReplaceAll \"\" $x $x }}{{ end }}",
        "more than",
    );
}

proptest! {
    #[test]
    fn any_text_is_read_and_run_within_bounds(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{{", "}}", "{{-", "-}}", " ", "if", "else", "end", "range", "with", "$x", ":=", "=", "|", "(",
            ")", ".", ".Labels", "$value", "$labels", "query", "\"up\"", "first", "value", "label", "1", "2.5",
            "printf", "\"%5d %s\"", "template", "define", "\"t\"", "block", "humanize", "eq", "and", ",", "`a`",
            "'c'", "index", "slice", "break", "text", "args", "html", "/*", "*/", "é", "reReplaceAll", "sortByLabel",
        ]), 0..40)
    ) {
        let text = pieces.concat();
        if let Ok(given) = expand(&text) {
            prop_assert!(given.len() <= 256 << 10);
        }
    }
}
