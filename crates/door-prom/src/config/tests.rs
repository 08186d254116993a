use super::*;
use crate::relabel::Action;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/conf"))
}

/// Much of what real files hold.
const WHOLE: &str = r#"
global:
  scrape_interval: 15s
  evaluation_interval: 30s
  external_labels: {cluster: a, replica: "1"}
  scrape_protocols: [OpenMetricsText1.0.0]
rule_files: ["rules/*.yml", /abs/x.yml]
alerting:
  alertmanagers:
  - static_configs: [{targets: ["am:9093"]}]
    path_prefix: /am
    timeout: 5s
scrape_configs:
- job_name: node
  scrape_interval: 1m30s
  scrape_timeout: 20s
  honor_labels: true
  params: {module: [a, b]}
  basic_auth: {username: u, password_file: secret}
  tls_config: {ca_file: ca.pem, insecure_skip_verify: true}
  body_size_limit: 10MB
  sample_limit: 1000
  fallback_scrape_protocol: OpenMetricsText1.0.0
  static_configs:
  - targets: ["a:1", "b:2"]
    labels: {env: prod}
  file_sd_configs: [{files: ["targets/*.json"]}]
  http_sd_configs: [{url: "http://sd/x", refresh_interval: 10s}]
  dns_sd_configs: [{names: [_p._tcp.x], refresh_interval: 1m}]
  synod_sd_configs: [{services: [web]}]
  relabel_configs:
  - source_labels: [__address__]
    regex: '(.*):\d+'
    target_label: host
  metric_relabel_configs:
  - {action: drop, source_labels: [__name__], regex: 'go_.*'}
  kubernetes_sd_configs: [{role: pod}]
remote_write:
- url: https://far/api/v1/write
  bearer_token: t
  protobuf_message: io.prometheus.write.v2.Request
  queue_config: {max_samples_per_send: 500, max_shards: 3}
storage:
  tsdb: {out_of_order_time_window: 10m, retention: {time: 30d, size: 1GB}}
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse(WHOLE).expect("a configuration");
    let job = &config.jobs[0];
    let s = Duration::from_secs;
    assert_eq!((job.every, job.timeout), (s(90), s(20)));
    assert_eq!((job.limits.body, job.limits.samples), (10 << 20, 1_000));
    assert_eq!(job.http.tls_config.ca_file, "/conf/ca.pem");
    assert_eq!(job.http.basic_auth.as_ref().expect("there").password_file, "/conf/secret");
    assert_eq!(job.discovery.len(), 5);
    let Discovery::Static(groups) = &job.discovery[0] else { panic!("{:?}", job.discovery) };
    assert_eq!(groups[0].targets, ["a:1", "b:2"]);
    assert_eq!(job.metric_relabel[0].action, Action::Drop);
    assert_eq!(config.rule_files, ["/conf/rules/*.yml", "/abs/x.yml"]);
    assert_eq!(config.evaluation_every, s(30));
    assert_eq!(config.alertmanagers[0].path_prefix, "/am");
    let remote = &config.remote_write[0];
    assert!(remote.version2 && remote.samples_max == 500 && remote.name == "0");
    assert_eq!(config.out_of_order, Some(s(600)));
    assert_eq!((config.retention, config.retention_bytes), (Some(s(30 * 86_400)), Some(1 << 30)));
    assert_eq!(
        config.ignored,
        [
            "global.scrape_protocols",
            "scrape_configs[0] (node).kubernetes_sd_configs",
            "remote_write[0].max_shards"
        ]
    );
    // Nothing secret is shown.
    let shown = config.shown();
    assert!(shown.contains("job_name: \"node\"") && !shown.contains("secret"), "{shown}");
    assert!(parse(&shown).is_ok(), "{shown}");
}

#[test]
fn what_is_in_effect_can_be_read_back() {
    assert!(parse(&Config::default().shown()).is_ok(), "{}", Config::default().shown());
    let text = "remote_write: [{url: 'http://u:hush@h.example:9090/x'}]\n";
    let shown = parse(text).expect(text).shown();
    assert!(shown.contains("http://h.example:9090/x") && !shown.contains("hush"), "{shown}");
}

#[test]
fn an_empty_file_is_a_configuration() {
    for text in ["", "# nothing\n", "global: {}\n"] {
        assert!(parse(text).expect(text).jobs.is_empty());
    }
}

#[test]
fn fields_without_a_value_are_as_if_they_were_not_there() {
    // As Prometheus's own example has them, with comments beneath.
    let config = parse(
        "global:\nalerting:\n  alertmanagers:\n  - static_configs:\n    - targets:\n      # - a:1\n\
         rule_files:\n# - x\nscrape_configs:\n- job_name: a\n  relabel_configs:\n  params:\n  tls_config:\n  \
         basic_auth:\n  static_configs: [{targets: ['a:1'], labels: }]\n",
    )
    .expect("a configuration");
    assert_eq!(config.jobs.len(), 1);
}

#[test]
fn secrets_are_in_no_error() {
    for text in [
        "scrape_configs:\n- job_name: a\n  basic_auth: {username: u, password: hush}\n  nonsense: 1\n",
        "scrape_configs:\n- job_name: a\n  bearer_token: hush\n  scheme: [\n",
        "scrape_configs: [{job_name: a, http_sd_configs: [{url: 'htp://u:hush@h/x'}]}]",
        "remote_write: [{url: 'htp://u:hush@h/x'}]",
    ] {
        let told = parse(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(!told.contains("hush"), "{told}");
    }
    let told = parse("scrape_configs:\n- job_name: a\n  nonsense: 1\n").err().expect("refused");
    assert!(told.contains("nonsense") && told.contains('3') && told.len() < 120, "{told}");
    assert_eq!(masked("http://u:p@h:1/x@y"), "http://…@h:1/x@y");
    assert_eq!(masked("http://h/x@y"), "http://h/x@y");
}

#[test]
fn external_labels_may_be_of_the_environment() {
    let path = std::env::var("PATH").expect("there is one");
    let config =
        parse("global: {external_labels: {a: '${PATH}!', b: '$PATH', c: '$$x', d: '$NO_SUCH_1'}}");
    let config = config.expect("a configuration");
    let wanted = [("a", format!("{path}!")), ("b", path), ("c", "$x".into()), ("d", String::new())];
    assert_eq!(config.external_labels, wanted.map(|(n, v)| (n.to_owned(), v)));
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let job = |more: &str| format!("scrape_configs:\n- job_name: a\n  {more}\n");
    for (text, why) in [
        ("globl: {}".to_owned(), "globl"),
        (job("scrape_intervall: 1s"), "scrape_intervall"),
        (job("scrape_interval: 1x"), "scrape_configs[0] (a): scrape_interval: \"1x\""),
        (job("scrape_interval: 1s\n  scrape_timeout: 2s"), "longer than scrape_interval"),
        ("global: {scrape_interval: soon}".into(), "global.scrape_interval: \"soon\""),
        ("global: {scrape_timeout: soon}".into(), "global.scrape_timeout: \"soon\""),
        ("global: {body_size_limit: 3X}".into(), "global.body_size_limit"),
        (job("native_histogram_min_bucket_factor: -1"), "is no factor"),
        (job("scheme: ftp"), "neither http nor https"),
        (job("static_configs: [{targets: ['http://a:1']}]"), "is no HOST:PORT"),
        (job("static_configs: [{targets: a}]"), "line 3"),
        (job("file_sd_configs: [{files: [a.txt]}]"), "must end with"),
        (job("http_sd_configs: [{url: 'ftp://x/y'}]"), "not http or https"),
        (job("dns_sd_configs: [{names: [x], type: A}]"), "need port"),
        (job("relabel_configs: [{action: x}]"), "relabel_configs[0]: action \"x\""),
        (job("relabel_configs: [{regex: '(', target_label: x}]"), "pattern \"(\""),
        (job("relabel_configs: [{source_labels: [x]}]"), "needs target_label"),
        (job("body_size_limit: 3X"), "is no size"),
        (job("bearer_token: x\n  basic_auth: {username: u}"), "only one of"),
        ("scrape_configs: [{scheme: http}]".into(), "scrape_configs[0]: job_name is missing"),
        ("scrape_configs: [{job_name: a}, {job_name: a}]".into(), "another job of this name"),
        ("remote_write: [{url: x}]".into(), "remote_write[0]: url \"x\""),
        ("alerting: {alertmanagers: [{api_version: v1}]}".into(), "only v2"),
    ] {
        let told = parse(&text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(told.contains(why), "{text}:\n{told}");
    }
}

#[test]
fn a_factor_of_buckets_is_a_schema() {
    let finest = |factor: &str| {
        let text = format!(
            "scrape_configs:\n- job_name: a\n  native_histogram_bucket_limit: 160\n  \
             native_histogram_min_bucket_factor: {factor}\n"
        );
        let config = parse(&text).expect("a configuration");
        assert_eq!(config.jobs[0].limits.buckets, 160);
        assert!(config.ignored.is_empty(), "{:?}", config.ignored);
        config.jobs[0].limits.finest
    };
    // Those of Prometheus's documentation: just below the growth of each schema.
    for (factor, schema) in [
        ("65536", -4),
        ("256", -3),
        ("16", -2),
        ("4", -1),
        ("2", 0),
        ("1.4", 1),
        ("1.1", 2),
        ("1.09", 3),
        ("1.04", 4),
        ("1.02", 5),
        ("1.01", 6),
        ("1.005", 7),
        ("1.002", 8),
        ("1e300", -4),
    ] {
        assert_eq!(finest(factor), Some(schema), "{factor}");
    }
    assert_eq!((finest("0"), finest("1")), (None, None));
}

#[test]
fn sizes_have_units() {
    assert_eq!(size("0"), Some(0));
    assert_eq!(size("1GB512MB"), Some(3 << 29));
    assert_eq!(size("10B"), Some(10));
    assert_eq!(size("1KB"), Some(1_024));
    assert_eq!(size("1.5MiB"), Some(3 << 19));
    for bad in ["", "x", "10", "10M", "10 MB", "-1MB", "1GB5"] {
        assert_eq!(size(bad), None, "{bad}");
    }
    assert_eq!(size("1XB"), None);
}

#[test]
fn lists_of_targets_are_yaml_or_json() {
    let json = r#"[{"targets": ["a:1"], "labels": {"x": "y"}}]"#;
    let yaml = "- targets: [\"a:1\"]\n  labels:\n    x: y\n";
    let wanted = Group { targets: vec!["a:1".into()], labels: vec![("x".into(), "y".into())] };
    for text in [json, yaml] {
        assert_eq!(groups(text).expect("groups"), std::slice::from_ref(&wanted));
    }
    assert!(groups("[{\"target\": []}]").is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
        let _ = parse(&text);
        let _ = groups(&text);
    }

    #[test]
    fn no_line_of_a_real_file_changed_makes_it_panic(at in 0usize..1_700, with in "[ -~\n]{0,3}") {
        let mut text = WHOLE.to_owned();
        let at = at.min(text.len() - 1);
        text.replace_range(at..=at, &with);
        let _ = parse(&text);
    }
}
