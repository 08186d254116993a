//! Targets and Alertmanagers behind TLS: who is trusted, by whom, and what is told when not.

mod common;

use bytes::Bytes;
use common::{Door, serve_tls, serve_tls_with, tls_dir};
use http::{Request, Response};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_door_prom::Surroundings;
use synod_host::page::Format;

const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration that scrapes this address by TLS, so.
fn config(address: SocketAddr, tls: &str) -> String {
    let dir = tls_dir();
    let tls = tls.replace("DIR", &dir.display().to_string());
    format!(
        "scrape_configs:\n- job_name: t\n  scheme: https\n  scrape_interval: 200ms\n  static_configs: \
         [{{targets: [\"{address}\"]}}]\n  tls_config: {{{tls}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_trusted_by_its_authority_only() {
    let at = serve_tls("a 1\n", false).await;
    for (tls, up, why) in [
        ("ca_file: DIR/ca.pem", "1", ""),
        ("insecure_skip_verify: true", "1", ""),
        ("ca_file: DIR/ca.pem, server_name: synod.test", "1", ""),
        ("ca_file: DIR/ca.pem, server_name: other.test", "0", "certificate"),
        ("", "0", "certificate"),
    ] {
        let door = Door::open(&config(at, tls));
        door.sees("sum(up)", &[("{}", up)]).await;
        let (_, targets) = door.get("/api/v1/targets").await;
        let error = targets["data"]["activeTargets"][0]["lastError"].to_string();
        assert!(error.contains(why), "{tls}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_wants_to_know_us_is_shown_our_certificate() {
    let at = serve_tls("a 1\n", true).await;
    let ours = "ca_file: DIR/ca.pem, cert_file: DIR/client.pem, key_file: DIR/client.key";
    for (tls, up) in [(ours, "1"), ("ca_file: DIR/ca.pem", "0")] {
        let door = Door::open(&config(at, tls));
        door.sees("sum(up)", &[("{}", up)]).await;
    }
}

/// One alert that always fires.
const RULES: &str =
    "groups: [{name: g, interval: 200ms, rules: [{alert: Always, expr: vector(1)}]}]\n";

/// The alerts that a receiver took.
type Taken = Arc<Mutex<Vec<Value>>>;

/// An Alertmanager by TLS that wants a name and a password if they are given.
async fn alertmanager(known: bool, password: &'static str) -> (SocketAddr, Taken) {
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("synod:{password}"));
    let (wanted, taken) = (format!("Basic {pair}"), Taken::default());
    let list = taken.clone();
    let at = serve_tls_with(known, move |request: Request<Bytes>| {
        let told = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        let good = password.is_empty() || told == Some(&wanted);
        if good {
            assert_eq!(request.uri().path(), "/api/v2/alerts");
            let body: Value = serde_json::from_slice(request.body()).expect("JSON");
            list.lock().expect("whole").push(body[0].clone());
        }
        let status = if good { 200 } else { 401 };
        Response::builder().status(status).body(Bytes::new()).expect("a response")
    })
    .await;
    (at, taken)
}

/// A monitor that tells this Alertmanager of its alert, so.
fn alerting(at: SocketAddr, how: &str) -> Door {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("written");
    };
    write("rules.yml", RULES);
    write("password", "secret\n");
    let how = how.replace("DIR", &tls_dir().display().to_string());
    write(
        "prometheus.yml",
        &format!(
            "rule_files: [rules.yml]\nalerting:\n  alertmanagers:\n  - scheme: https\n    \
             static_configs: [{{targets: ['{at}']}}]\n    {how}\n"
        ),
    );
    Door { monitor: common::start(dir.path(), Surroundings::none()), dir }
}

/// Whether the alert was taken; otherwise a try must have failed.
async fn is_told(door: &Door, at: SocketAddr, taken: &Taken) -> bool {
    let failed = format!(
        "synod_monitor_notifications_failed_total{{receiver=\"https://{at}/api/v2/alerts\"}} "
    );
    let begun = Instant::now();
    loop {
        if let Some(alert) = taken.lock().expect("whole").first() {
            assert_eq!(alert["labels"]["alertname"], "Always", "{alert}");
            return true;
        }
        let page = door.monitor.metrics(Format::Text);
        let count = page.lines().find_map(|line| line.strip_prefix(&failed));
        if count.is_some_and(|count| count != "0") {
            return false;
        }
        assert!(begun.elapsed() < PATIENCE, "neither told nor failed: {count:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_is_trusted_by_its_authority_only() {
    for (how, told) in [
        ("tls_config: {ca_file: DIR/ca.pem}", true),
        ("tls_config: {insecure_skip_verify: true}", true),
        ("tls_config: {ca_file: DIR/ca.pem, server_name: other.test}", false),
        ("timeout: 5s", false),
    ] {
        let (at, taken) = alertmanager(false, "").await;
        let door = alerting(at, how);
        assert_eq!(is_told(&door, at, &taken).await, told, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_that_wants_to_know_us_is_shown_our_certificate() {
    let ours = "ca_file: DIR/ca.pem, cert_file: DIR/client.pem, key_file: DIR/client.key";
    for (tls, told) in [(ours, true), ("ca_file: DIR/ca.pem", false)] {
        let (at, taken) = alertmanager(true, "").await;
        let door = alerting(at, &format!("tls_config: {{{tls}}}"));
        assert_eq!(is_told(&door, at, &taken).await, told, "{tls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_is_told_name_and_password() {
    for (auth, told) in [
        ("basic_auth: {username: synod, password: secret}", true),
        // A path is meant from the configuration's folder.
        ("basic_auth: {username: synod, password_file: password}", true),
        ("basic_auth: {username: synod, password: wrong}", false),
        ("timeout: 5s", false),
    ] {
        let (at, taken) = alertmanager(false, "secret").await;
        let door = alerting(at, &format!("tls_config: {{ca_file: DIR/ca.pem}}\n    {auth}"));
        assert_eq!(is_told(&door, at, &taken).await, told, "{auth}");
    }
}
