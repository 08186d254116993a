//! Alerts of real clusters: those that are in the program, those that people bring, and the
//! commands about them.

mod common;

use common::Cluster;
use common::http::http;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use synod_promql::ast::Expr;
use synod_promql::{NAME, Node};
use synod_rules::RuleFile;

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn synod(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod")).args(args).output().expect("synod runs")
}

fn promtool(args: &[&str]) -> Output {
    let program = root().join("target/peers/deb/prometheus/usr/bin/promtool");
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    Command::new(program).args(args).output().expect("promtool runs")
}

fn text(out: &Output) -> String {
    let all = [&out.stdout[..], &out.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// The names of series in an expression.
fn names(node: &Node, found: &mut BTreeSet<String>) {
    let of = |s: &synod_promql::ast::Selector, found: &mut BTreeSet<String>| {
        let name = s.matchers.iter().find(|m| m.name == NAME).and_then(|m| m.equal_to());
        found.insert(name.expect("a selector with a name").to_owned());
    };
    match &node.expr {
        Expr::Number(_) | Expr::Text(_) => {}
        Expr::Vector(selector) | Expr::Matrix { selector, .. } => of(selector, found),
        Expr::Subquery { inner, .. }
        | Expr::Minus(inner)
        | Expr::Plus(inner)
        | Expr::Paren(inner) => {
            names(inner, found);
        }
        Expr::Call { args, .. } => args.iter().for_each(|a| names(a, found)),
        Expr::Aggregate { param, inner, .. } => {
            param.iter().for_each(|p| names(p, found));
            names(inner, found);
        }
        Expr::Binary { left, right, .. } => {
            names(left, found);
            names(right, found);
        }
    }
}

fn names_of(file: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).expect("the rules");
    let rules = RuleFile::parse(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
    let mut found = BTreeSet::new();
    for rule in rules.groups.iter().flat_map(|g| &g.rules) {
        names(&rule.expr, &mut found);
    }
    found
}

fn get(cluster: &Cluster, path: &str) -> Option<Value> {
    let (status, body) = http(&cluster.endpoint(0), "GET", path, "");
    (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        let why = match look() {
            Ok(found) => return found,
            Err(why) => why,
        };
        assert!(begun.elapsed() < PATIENCE, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// All rules were evaluated, without an error.
fn healthy(cluster: &Cluster) -> Result<usize, String> {
    let answer = get(cluster, "/api/v1/rules").ok_or("not ready")?;
    let groups = answer["data"]["groups"].as_array().expect("a list").clone();
    let rules = groups.iter().flat_map(|g| g["rules"].as_array().expect("a list").clone());
    let rules: Vec<Value> = rules.collect();
    match rules.iter().find(|r| r["health"] != "ok") {
        Some(rule) => Err(format!("{rule}")),
        None => Ok(rules.len()),
    }
}

#[test]
fn shipped_and_etcds_alerts_evaluate_on_a_live_cluster_and_a_lost_node_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let quick = "groups: [{name: quick, interval: 500ms, rules: [{alert: Down, expr: up == 0, \
                 for: 1s, labels: {severity: page}, annotations: {summary: '{{ $labels.node }} is gone'}}]}]";
    std::fs::write(dir.path().join("quick.yml"), quick).expect("the rules");
    let mixin = root().join("crates/synod/tests/alerts/etcd_mixin.yml");
    let rules = format!("{},{}", dir.path().join("*.yml").display(), mixin.display());
    // Nobody listens there: the families about receivers are there all the same.
    let settings = [
        "--monitor-scrape-ms",
        "200",
        "--monitor-rules",
        &rules,
        "--monitor-webhooks",
        "http://127.0.0.1:1/",
    ];
    let mut cluster = Cluster::with_settings(3, &settings);
    let endpoint = cluster.endpoint(0);
    let put = synod(&["put", "a", "b", "--endpoints", &endpoint]);
    assert!(put.status.success(), "{}", text(&put));
    let shipped = root().join("alerts/synod.yml");
    for name in names_of(&shipped).union(&names_of(&mixin)) {
        until("every name is exported", || {
            let path = format!("/api/v1/query?nodes=local&query=count({name})");
            let answer = get(&cluster, &path).ok_or("not ready")?;
            let count = answer["data"]["result"][0]["value"][1].as_str();
            count.map(drop).ok_or_else(|| format!("no series {name}"))
        });
    }
    let count = until("all rules evaluate", || healthy(&cluster));
    assert!(count > 45, "{count} rules");
    let firing = || -> Vec<String> {
        let answer = get(&cluster, "/api/v1/alerts").expect("ready");
        let alerts = answer["data"]["alerts"].as_array().expect("a list").clone();
        let firing = alerts.iter().filter(|a| a["state"] == "firing");
        firing.map(|a| a["labels"]["alertname"].as_str().expect("a name").to_owned()).collect()
    };
    let mut wrong = firing();
    // The machine that this runs on may be short of either.
    wrong.retain(|n| !["SynodDiskNearlyFull", "SynodMemoryLow"].contains(&n.as_str()));
    assert_eq!(wrong, Vec::<String>::new(), "nothing is wrong with a new cluster");
    let listed = text(&synod(&["rules", "list", "--endpoints", &endpoint]));
    assert!(listed.contains("synod-disk of synod.yml, every 15s"), "{listed}");
    let listed: Vec<String> =
        listed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let wanted = "ok inactive SynodNodeDown up{job=~\".*synod.*\"} == 0".to_owned();
    assert!(listed.contains(&wanted), "{listed:?}");
    cluster.kill(2);
    let told = until("the loss is told", || {
        let told = text(&synod(&["alerts", "--endpoints", &endpoint]));
        let page = told.lines().any(|l| l.starts_with("firing") && l.contains("page"));
        if page { Ok(told) } else { Err(told) }
    });
    assert!(told.contains("n2 is gone"), "{told}");
    let json = synod(&["alerts", "--output", "json", "--endpoints", &endpoint]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(json["alerts"].to_string().contains("\"alertname\":\"Down\""), "{json}");
}

#[test]
fn the_shipped_alerts_pass_their_tests_here_and_with_promtool() {
    let file = root().join("alerts/synod_test.yml");
    let path = file.to_str().expect("a name");
    for out in [synod(&["rules", "test", path]), promtool(&["test", "rules", path])] {
        assert!(out.status.success(), "{}", text(&out));
    }
    let tests = std::fs::read_to_string(&file).expect("the tests");
    let rules = root().join("alerts/synod.yml");
    let checked = synod(&["rules", "check", "--lint-fatal", rules.to_str().expect("a name")]);
    assert!(checked.status.success(), "{}", text(&checked));
    let rules = std::fs::read_to_string(&rules).expect("the rules");
    assert_eq!(text(&synod(&["rules", "shipped"])), rules, "what is in the program");
    for rule in RuleFile::parse(&rules).expect("rules").groups.iter().flat_map(|g| &g.rules) {
        assert!(tests.contains(rule.name()), "{} has no test", rule.name());
    }
}

#[test]
fn check_and_test_end_with_promtools_codes() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let write =
        |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write(
        "good.yml",
        "groups: [{name: g, rules: [{record: a, expr: up}, {alert: A, expr: a == 0}]}]",
    );
    write(
        "twice.yml",
        "groups: [{name: g, rules: [{record: a, expr: up}, {record: a, expr: down}]}]",
    );
    write(
        "bad.yml",
        "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up ==\n  - record: b\n",
    );
    let test = |rules: &str, value: u32| {
        format!(
            "rule_files: [{rules}]\ntests:\n- name: one\n  interval: 1m\n  \
             input_series: [{{series: up, values: '3 4'}}]\n  promql_expr_test:\n  \
             - {{expr: a, eval_time: 1m, exp_samples: [{{labels: a, value: {value}}}]}}\n"
        )
    };
    write("pass.yml", &test("good.yml", 4));
    write("fail.yml", &test("good.yml", 5));
    write("none.yml", &test("bad.yml", 4));
    let cases: [(&[&str], &[&str]); 9] = [
        (&["check", "good.yml"], &["SUCCESS: 2 rules found"]),
        (
            &["check", "bad.yml"],
            &["bad.yml: 5:11: group \"g\", rule 1, \"A\": could not parse expression"],
        ),
        (&["check", "good.yml", "bad.yml"], &["1 of 2 files cannot be used"]),
        (&["check", "missing.yml"], &["No such file"]),
        (&["check", "twice.yml"], &["more than one rule a"]),
        (&["check", "twice.yml", "--lint-fatal"], &[]),
        (&["test", "pass.yml"], &["SUCCESS"]),
        (&["test", "fail.yml"], &["test \"one\" (line 3): query \"a\" at 1m", "- a 5", "+ a 4"]),
        (&["test", "none.yml", "pass.yml"], &["the tests of 1 of 2 files failed"]),
    ];
    for (args, wanted) in cases {
        let full: Vec<String> = args[1..]
            .iter()
            .map(|a| if a.starts_with("--") { (*a).to_owned() } else { at(a) })
            .collect();
        let rest: Vec<&str> = full.iter().map(String::as_str).collect();
        let ours = synod(&[&["rules", args[0]], &rest[..]].concat());
        let theirs = promtool(&[&[args[0], "rules"], &rest[..]].concat());
        let (ours_says, theirs_says) = (text(&ours), text(&theirs));
        assert_eq!(
            ours.status.code(),
            theirs.status.code(),
            "{args:?}\n{ours_says}\n{theirs_says}"
        );
        for part in wanted {
            assert!(ours_says.contains(part), "{args:?}: {ours_says}");
        }
    }
}
