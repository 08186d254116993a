//! Rules of files, evaluated on what is pushed; those who are told of alerts.

mod common;

use bytes::Bytes;
use common::{Door, serve};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_door_prom::{Monitor, Settings, Surroundings};
use synod_host::page::Format;

const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str = r#"
groups:
  - name: quick
    interval: 200ms
    rules:
      - {record: 'x:double', expr: 'x * 2', labels: {by: rule}}
      - alert: High
        expr: 'x:double > 10'
        labels: {severity: page}
        annotations: {summary: '{{ $labels.job }} has {{ $value }} in {{ $externalLabels.region }}'}
  - name: slow
    interval: 1h
    rules: [{alert: Never, expr: 'x == 99', for: 5m}]
"#;

/// A folder with a configuration that names the rules, and them.
fn door(config: &str, rules: &str) -> Door {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("rules")).expect("a folder");
    std::fs::write(dir.path().join("rules/a.yml"), rules).expect("the rules");
    let config = format!(
        "global: {{external_labels: {{region: eu}}}}\nrule_files: ['rules/*.yml']\n{config}"
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).expect("the configuration");
    let monitor = common::start(dir.path(), Surroundings::none());
    Door { monitor, dir }
}

async fn push(door: &Door, text: &str) {
    let answer = door.send(Method::PUT, "/metrics/job/a", &[], text.to_owned()).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a server was sent: bodies, in their order.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// A server that fails so many times first; its address, and what it was sent.
async fn listener(failures: usize) -> (String, Heard) {
    let (heard, asked) = (Heard::default(), AtomicUsize::new(0));
    let list = heard.clone();
    let at = serve(move |request: Request<Bytes>| {
        let status = if asked.fetch_add(1, Ordering::Relaxed) < failures { 503 } else { 200 };
        if status == 200 {
            let body = serde_json::from_slice(request.body()).expect("JSON");
            list.lock().expect("whole").push((request.uri().path().to_owned(), body));
        }
        Response::builder().status(status).body(Bytes::new()).expect("a response")
    })
    .await;
    (format!("{at}"), heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_evaluated_and_an_alertmanager_is_told() {
    let (at, heard) = listener(1).await;
    let door = door(
        &format!(
            "alerting:\n  alert_relabel_configs:\n  - {{regex: by, action: labeldrop}}\n  \
             alertmanagers:\n  - path_prefix: /am\n    static_configs: [{{targets: ['{at}']}}]\n"
        ),
        RULES,
    );
    push(&door, "x 6\n").await;
    let series = "{\"__name__\":\"x:double\",\"by\":\"rule\",\"job\":\"a\"}";
    door.sees("x:double", &[(series, "12")]).await;
    let firing = until("a firing alert", async || {
        let (_, body) = door.get("/api/v1/alerts").await;
        Some(body["data"]["alerts"][0].clone()).filter(|a| a["state"] == "firing")
    })
    .await;
    let labels = json!({"alertname": "High", "by": "rule", "job": "a", "severity": "page"});
    assert_eq!(firing["labels"], labels);
    assert_eq!(firing["annotations"]["summary"], "a has 12 in eu");
    assert_eq!(firing["value"], "1.2e+01");
    assert!(firing["activeAt"].as_str().is_some_and(|t| t.ends_with('Z')), "{firing}");
    let (_, known) = door.get("/api/v1/alertmanagers").await;
    let url = format!("http://{at}/am/api/v2/alerts");
    assert_eq!(known["data"]["activeAlertmanagers"], json!([{"url": url}]));

    let told = until("a notice", async || heard.lock().expect("whole").first().cloned()).await;
    assert_eq!(told.0, "/am/api/v2/alerts");
    let alert = &told.1[0];
    let labels = json!({"alertname": "High", "job": "a", "region": "eu", "severity": "page"});
    assert_eq!(alert["labels"], labels, "relabelled, and with the external label");
    assert_eq!(alert["annotations"]["summary"], "a has 12 in eu");
    let link = alert["generatorURL"].as_str().expect("a link");
    assert!(link.ends_with("/graph?g0.expr=x%3Adouble+%3E+10&g0.tab=1"), "{link}");
    assert!(alert["endsAt"].as_str() > alert["startsAt"].as_str());

    push(&door, "x 1\n").await;
    let end = until("the end", async || {
        let heard = heard.lock().expect("whole");
        heard
            .last()
            .map(|(_, body)| body[0].clone())
            .filter(|a| a["endsAt"].as_str() < alert["endsAt"].as_str())
    })
    .await;
    assert_eq!((&end["labels"], &end["startsAt"]), (&alert["labels"], &alert["startsAt"]));
    assert!(door.query("ALERTS").await.is_empty(), "the series ended with the alert");
    let shown = |text: &str| door.monitor.metrics(Format::Text).contains(text).then_some(());
    let url = format!("receiver=\"http://{at}/am/api/v2/alerts\"");
    let sent = format!("synod_monitor_notifications_sent_total{{{url}}} ");
    let failed = format!("synod_monitor_notifications_failed_total{{{url}}} 1\n");
    until("the count of a failed try", async || shown(&failed)).await;
    assert!(shown(&sent).is_some() && shown(&format!("{sent}0\n")).is_none());
    assert!(shown("synod_monitor_rule_evaluation_failures_total{rule_group=").is_some());
    let none = "synod_monitor_alerts{state=\"firing\"} 0\n";
    until("the page says that none fires", async || shown(none)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_rules_is_filtered_and_paged() {
    let door = door("", RULES);
    push(&door, "x 6\n").await;
    door.sees("count(ALERTS{alertstate=\"firing\"})", &[("{}", "1")]).await;
    let rules = async |query: &str| {
        let (status, body) = door.get(&format!("/api/v1/rules{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}: {body}");
        body["data"].clone()
    };
    let all = rules("").await;
    let groups = all["groups"].as_array().expect("a list");
    assert_eq!((groups.len(), &groups[0]["name"]), (2, &json!("quick")));
    assert!(groups[0]["file"].as_str().is_some_and(|f| f.ends_with("rules/a.yml")), "{all}");
    assert_eq!((&groups[0]["interval"], &groups[0]["limit"]), (&json!(0.2), &json!(0)));
    let record = &groups[0]["rules"][0];
    assert_eq!((&record["type"], &record["health"]), (&json!("recording"), &json!("ok")));
    assert_eq!((&record["query"], &record["labels"]), (&json!("x * 2"), &json!({"by": "rule"})));
    let alert = &groups[0]["rules"][1];
    assert_eq!((&alert["type"], &alert["state"]), (&json!("alerting"), &json!("firing")));
    assert_eq!((&alert["duration"], &alert["keepFiringFor"]), (&json!(0), &json!(0)));
    assert_eq!(alert["alerts"][0]["labels"]["job"], "a");
    let never = &groups[1]["rules"][0];
    assert_eq!((&never["state"], &never["duration"]), (&json!("inactive"), &json!(300)));
    assert_eq!((&never["health"], &never["alerts"]), (&json!("unknown"), &json!([])));
    assert_eq!(never["lastEvaluation"], "0001-01-01T00:00:00Z");

    let names = |data: &Value| -> Vec<String> {
        let groups = data["groups"].as_array().expect("a list").iter();
        let rules = groups.flat_map(|g| g["rules"].as_array().expect("a list").clone());
        rules.map(|r| r["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&rules("?type=alert").await), ["High", "Never"]);
    assert_eq!(names(&rules("?type=record").await), ["x:double"]);
    assert_eq!(names(&rules("?rule_name[]=Never&rule_name[]=none").await), ["Never"]);
    assert_eq!(names(&rules("?rule_group[]=slow").await), ["Never"]);
    assert_eq!(names(&rules("?file[]=none").await), Vec::<String>::new());
    assert_eq!(names(&rules("?match[]=%7Bseverity=%22page%22%7D").await), ["High"]);
    let without = rules("?exclude_alerts=true").await;
    assert_eq!(without["groups"][0]["rules"][1]["alerts"], json!([]));
    let first = rules("?group_limit=1").await;
    assert_eq!(names(&first), ["x:double", "High"]);
    let token = first["groupNextToken"].as_str().expect("a token");
    let second = rules(&format!("?group_limit=1&group_next_token={token}")).await;
    assert_eq!(
        (names(&second), &second["groupNextToken"]),
        (vec!["Never".to_owned()], &Value::Null)
    );
    for bad in [
        "?type=x",
        "?match[]=%7B",
        "?group_limit=x",
        "?group_next_token=x",
        "?exclude_alerts=x",
        "?group_limit=1&group_next_token=x",
    ] {
        assert_eq!(
            door.get(&format!("/api/v1/rules{bad}")).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_read_again_and_a_mistake_changes_nothing() {
    let door = door("", RULES);
    push(&door, "x 6\n").await;
    door.sees("count(x:double)", &[("{}", "1")]).await;
    let file = door.dir.path().join("rules/a.yml");
    std::fs::write(&file, "groups: [{name: g, rules: [{record: y, expr: 'x +'}]}]")
        .expect("written");
    let why = door.monitor.reload().expect_err("a mistake");
    assert!(why.contains("a.yml: 1:") && why.contains("could not parse expression"), "{why}");
    door.sees("count(x:double)", &[("{}", "1")]).await;
    let other = "groups: [{name: quick, interval: 200ms, rules: [{record: y, expr: 'x + 1'}]}]";
    std::fs::write(&file, other).expect("written");
    door.monitor.reload().expect("read");
    door.sees("y", &[("{\"__name__\":\"y\",\"job\":\"a\"}", "7")]).await;
    door.sees("{__name__=~\"x:double|ALERTS\"}", &[]).await;
    // A monitor does not start with rules that are wrong.
    std::fs::write(&file, "groups: 3").expect("written");
    let mut settings = Settings::in_dir(&door.dir.path().join("other"));
    settings.rules.files = vec![file.display().to_string()];
    let failed = Monitor::start(settings, Surroundings::none()).err().expect("a mistake");
    assert!(failed.to_string().contains("a.yml: 1:"), "{failed}");
}

fn start(dir: &Path, webhooks: Vec<String>) -> Monitor {
    let mut settings = Settings::in_dir(&dir.join("series"));
    settings.sync_every = Duration::from_millis(20);
    settings.rules.files = vec![dir.join("*.yml").display().to_string()];
    settings.rules.webhooks = webhooks;
    settings.rules.external_url = "http://node:7070".into();
    settings.rules.restore.grace = 0;
    let monitor = Monitor::start(settings, Surroundings::none()).expect("it starts");
    while !monitor.is_ready() {
        std::thread::sleep(Duration::from_millis(5));
    }
    monitor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_of_changes_and_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("r.yml"), RULES).expect("the rules");
    let (at, heard) = listener(2).await;
    let monitor = start(dir.path(), vec![format!("http://{at}/hook")]);
    let door = Door { monitor, dir };
    push(&door, "x{i=\"1\"} 6\nx{i=\"2\"} 7\n").await;
    let told = until("a message", async || heard.lock().expect("whole").first().cloned()).await;
    assert_eq!(told.0, "/hook");
    let message = told.1;
    assert_eq!((&message["version"], &message["status"]), (&json!("4"), &json!("firing")));
    assert_eq!(message["groupLabels"], json!({"rule_group": "quick"}));
    assert_eq!(message["externalURL"], "http://node:7070");
    push(&door, "x{i=\"1\"} 1\nx{i=\"2\"} 1\n").await;
    until("the end", async || {
        let heard = heard.lock().expect("whole");
        heard.last().filter(|(_, body)| body["status"] == "resolved").map(drop)
    })
    .await;
    let count = heard.lock().expect("whole").len();
    assert!(count <= 3, "{count} messages for what fired once and ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let rules =
        "groups: [{name: g, interval: 200ms, rules: [{alert: Held, expr: x > 5, for: 1h}]}]";
    std::fs::write(dir.path().join("r.yml"), rules).expect("the rules");
    let mut door = Door { monitor: start(dir.path(), Vec::new()), dir };
    push(&door, "x 6\n").await;
    let since = |door: &Door| {
        let monitor = door.monitor.clone();
        async move {
            let request = Request::get("/api/v1/alerts").body(Bytes::new()).expect("a request");
            let answer = monitor.answer(request).await;
            let body: Value = serde_json::from_slice(answer.body()).expect("JSON");
            let at = body["data"]["alerts"][0]["activeAt"].as_str()?.to_owned();
            let at = humantime::parse_rfc3339(&at).expect("a time");
            Some(at.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64())
        }
    };
    let before = until("an alert", async || since(&door).await).await;
    // Long enough that a fresh beginning would be told apart.
    door.sees(
        "time() - ALERTS_FOR_STATE > bool 4",
        &[("{\"alertname\":\"Held\",\"job\":\"a\"}", "1")],
    )
    .await;
    let pause = Instant::now();
    door.monitor.close();
    door.monitor = start(door.dir.path(), Vec::new());
    push(&door, "x 6\n").await;
    let outage = pause.elapsed().as_secs_f64();
    let after = until("a restored alert", async || {
        since(&door).await.filter(|after| *after < before + outage + 3.0)
    })
    .await;
    assert!(after >= before - 1.0, "active since {before}, then {after}");
    until("the series", async || door.query("ALERTS_FOR_STATE").await.pop()).await;
}
