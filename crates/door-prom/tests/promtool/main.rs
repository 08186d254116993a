//! The real promtool (2.42, from Debian's package) says the same of the same configurations:
//! which are right, and which are not.

mod cases;

use cases::{FILES, JOBS, MANAGERS, REMOTES, RULES};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use synod_door_prom::config::Config;

/// Files that configurations name.
const NAMED: &[(&str, &str)] = &[
    ("good.yml", "groups:\n- name: g\n  rules: [{record: a, expr: up}]\n"),
    ("bad.yml", "groups:\n- name: g\n  rules: [{record: a, expr: 'up('}]\n"),
    ("good.json", "[{\"targets\":[\"a:1\"],\"labels\":{\"x\":\"y\"}}]"),
    ("bad.json", "[{\"targets\":\"a:1\"}]"),
    ("badl.json", "[{\"targets\":[\"a:1\"],\"labels\":{\"x-y\":\"y\"}}]"),
];

/// What differs: why, and how the configurations end that are right by one and wrong by the
/// other.
const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "3.x: any text is a label's name",
        &[
            "external_labels: {a-b: c}}",
            "external_labels: {1a: c}}",
            "labels: {a-b: b}}]",
            "labels: {1a: b}}]",
            "file_sd_configs: [{files: ['badl.json']}]",
            "{target_label: 'a-b'}",
            "{target_label: '1a'}",
            "{target_label: ' a'}",
            "source_labels: [a-b]}",
            "source_labels: ['1']}",
            "replacement: 'x-$1'}",
            "replacement: '$1 b'}",
            "target_label: 'a-b', source_labels: [b]}",
        ],
    ),
    (
        "3.x: a field of the HTTP client",
        &["proxy_url: 'http://p:1'\n  no_proxy: x", "  proxy_from_environment: true"],
    ),
    (
        "Debian's promtool knows few kinds of discovery",
        &[
            "consul_sd_configs: [{server: 'a:1'}]",
            "kubernetes_sd_configs: [{role: pod}]",
            "kubernetes_sd_configs: [{role: x}]",
        ],
    ),
    (
        "not acted on, so not looked into",
        &[
            "max_exemplars: x}}",
            "tracing: {nonsense: 1}",
            "remote_read: [{nonsense: 1}]",
            "remote_read: 3",
            "metadata_config: {nonsense: 1}}",
        ],
    ),
    ("one document is meant", &["---\nglobal: {}\n---\nglobal: {}"]),
    ("a tab is taken for spaces", &["\tglobal: {}"]),
    ("a quoted word is taken for true", &["honor_labels: 'true'"]),
    ("it would be cut off", &["sample_limit: 1.5"]),
    ("less than nothing", &["body_size_limit: -1MB"]),
    ("there is no such port", &["port: 99999}]", "port: -1}]"]),
    (
        "nothing could be asked",
        &["scheme: ftp", "[{scheme: ftp}]", "url: ''}", "url: 'ftp://a/'}", "- {url: a}"],
    ),
    (
        "files that are missing or hold no certificate",
        &[
            "client_secret_file: none, token_url: 'http://x/'}",
            "tls_config: {ca_file: none}}",
            "  tls_config: {ca_file: none}",
            "ca_file: good.yml}",
            "server_name: 'a b'}",
        ],
    ),
    (
        "no such proxy can be used",
        &[
            "proxy_url: 'a b'",
            "proxy_url: 'p:1'",
            "proxy_url: 'ftp://x'",
            "proxy_url: 'socks5://x:1'",
        ],
    ),
    ("a way to authorise that is not built", &["sigv4: {}}"]),
    ("3.x: only version 2 is spoken", &["api_version: v1}]"]),
    (
        "more patterns are taken",
        &[
            "'a{1001}', target_label: a}",
            "'a**', target_label: a}",
            "'(?x) a', target_label: a}",
            "'(?R)a', target_label: a}",
            "'\\u{61}', target_label: a}",
            "'(?<n>a)', target_label: a}",
        ],
    ),
    ("it would be a label's name", &["lowercase, target_label: '$1', source_labels: [b]}"]),
];

fn differs(text: &str) -> bool {
    let text = text.trim_end();
    DIFFERENT.iter().any(|(_, ends)| ends.iter().any(|end| text.ends_with(end)))
}

fn promtool() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program: PathBuf = root.join("target/peers/deb/prometheus/usr/bin/promtool");
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    program
}

fn all() -> Vec<String> {
    let job = "scrape_configs:\n- job_name: a\n  ";
    let jobs = JOBS.iter().map(|fields| format!("{job}{fields}\n"));
    let rules = RULES.iter().map(|rule| format!("{job}relabel_configs:\n  - {rule}\n"));
    let managers = MANAGERS.iter().map(|fields| format!("alerting:\n  {fields}\n"));
    let remotes = REMOTES.iter().map(|one| format!("remote_write:\n- {one}\n"));
    let files = FILES.iter().map(|file| (*file).to_owned());
    files.chain(jobs).chain(rules).chain(managers).chain(remotes).collect()
}

#[test]
fn configurations_are_right_or_wrong_as_promtool_says() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in NAMED {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let (all, next, odd) = (all(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let promtool = promtool();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(text) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = tempfile::Builder::new().suffix(".yml").tempfile_in(dir.path());
                    let file = file.expect("a file");
                    std::fs::write(file.path(), text).expect("written");
                    let mut check = Command::new(&promtool);
                    let out = check.args(["check", "config"]).arg(file.path()).output();
                    let out = out.expect("promtool runs");
                    let ours = Config::examine(file.path()).wrong;
                    let same = out.status.success() == ours.is_empty();
                    if same == differs(text) {
                        let theirs = String::from_utf8_lossy(&out.stderr).into_owned();
                        odd.lock().expect("held").push(format!("{text}\n{theirs}\n{ours:?}"));
                    }
                }
            });
        }
    });
    let odd = odd.into_inner().expect("held");
    assert!(odd.is_empty(), "{} of {}:\n{}", odd.len(), all.len(), odd.join("\n----\n"));
    for end in DIFFERENT.iter().flat_map(|(_, ends)| *ends) {
        assert!(all.iter().any(|text| text.trim_end().ends_with(end)), "no such case: {end}");
    }
}
