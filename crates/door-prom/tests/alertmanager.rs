//! A real Alertmanager (Debian's package): it takes our alerts, tells its receiver, silences
//! them, and hears of their end.

mod common;

use bytes::Bytes;
use common::{Door, serve};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use synod_door_prom::Surroundings;

const PATIENCE: Duration = Duration::from_secs(40);

/// The process; ended when dropped.
struct Alertmanager {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Alertmanager {
    fn start(receiver: &str) -> Alertmanager {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let package = root.join("target/peers/deb/prometheus-alertmanager/usr");
        let package = package.canonicalize().unwrap_or(package);
        let program = package.join("bin/prometheus-alertmanager");
        assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!(
            "route: {{receiver: hook, group_by: [alertname], group_wait: 100ms, group_interval: 500ms, \
             repeat_interval: 1h}}\nreceivers: [{{name: hook, webhook_configs: [{{url: '{receiver}'}}]}}]\n"
        );
        std::fs::write(dir.path().join("am.yml"), config).expect("the settings");
        let port = free_port();
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        // The package's program wants its templates where the package puts them; nothing is
        // installed, so it sees its own `/usr/share`, in namespaces of its own.
        let within = "mount --bind \"$1\" /usr/share && shift && exec \"$@\"";
        let process = Command::new("unshare")
            .current_dir(dir.path())
            .args(["--map-root-user", "--mount", "sh", "-c", within, "sh"])
            .args([package.join("share"), program])
            .args(["--config.file=am.yml", "--storage.path=data", "--cluster.listen-address="])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        let server = Alertmanager { process, port, dir };
        let begun = Instant::now();
        while server.ask("GET", "/-/ready", "").is_none() {
            let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The body of a good answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(
            connection,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    fn alerts(&self) -> Vec<Value> {
        let body = self.ask("GET", "/api/v2/alerts", "").expect("an answer");
        serde_json::from_str(&body).expect("a list")
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago, below those of outgoing connections.
fn free_port() -> u16 {
    let first = std::process::id().wrapping_mul(137);
    let ports = (0..20_000).map(|i| 10_500 + (first.wrapping_add(i) % 20_000) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).expect("a free port")
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn it_takes_groups_silences_and_resolves_our_alerts() {
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let list = heard.clone();
    let hook = serve(move |request: Request<Bytes>| {
        let body = serde_json::from_slice(request.body()).expect("JSON");
        list.lock().expect("whole").push(body);
        Response::new(Bytes::new())
    })
    .await;
    let server = Alertmanager::start(&format!("http://{hook}/"));
    let dir = tempfile::tempdir().expect("a folder");
    let rules = "groups: [{name: g, interval: 200ms, rules: [{alert: High, expr: x > 5, \
                 labels: {severity: page}, annotations: {summary: '{{ $labels.job }}: {{ $value }}'}}]}]";
    std::fs::write(dir.path().join("r.yml"), rules).expect("the rules");
    let config = format!(
        "global: {{external_labels: {{region: eu}}}}\nrule_files: [r.yml]\nalerting:\n  alertmanagers:\n  \
         - static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
        server.port
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).expect("the configuration");
    let door = Door { monitor: common::start(dir.path(), Surroundings::none()), dir };
    let push = async |job: &str, value: u32| {
        let text = format!("x {value}\n");
        let answer = door.send(Method::PUT, &format!("/metrics/job/{job}"), &[], text).await;
        assert_eq!(answer.status(), StatusCode::OK);
    };

    push("a", 6).await;
    let told =
        until("its receiver is told", || heard.lock().expect("whole").first().cloned()).await;
    assert_eq!(
        (&told["status"], &told["groupLabels"]),
        (&json!("firing"), &json!({"alertname": "High"}))
    );
    let labels = json!({"alertname": "High", "job": "a", "region": "eu", "severity": "page"});
    assert_eq!(told["alerts"][0]["labels"], labels);
    assert_eq!(told["alerts"][0]["annotations"], json!({"summary": "a: 6"}));
    let known = server.alerts();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0]["status"]["state"], "active");
    // What identifies an alert is made as ours is made for webhooks.
    assert_eq!(known[0]["fingerprint"], told["alerts"][0]["fingerprint"]);

    let time = |from_now: u64| {
        let at = SystemTime::now() + Duration::from_secs(from_now);
        humantime::format_rfc3339_millis(at).to_string()
    };
    let silence = json!({
        "matchers": [{"name": "job", "value": "b", "isRegex": false, "isEqual": true}],
        "startsAt": time(0), "endsAt": time(600), "createdBy": "a test", "comment": "not b",
    });
    server.ask("POST", "/api/v2/silences", &silence.to_string()).expect("a silence");
    push("b", 7).await;
    until("the other is silenced", || {
        let all = server.alerts();
        let b = all.iter().find(|a| a["labels"]["job"] == "b")?;
        (b["status"]["state"] == "suppressed").then_some(())
    })
    .await;

    push("a", 1).await;
    let end = until("its receiver hears of the end", || {
        let heard = heard.lock().expect("whole");
        heard.iter().find(|m| m["status"] == "resolved").cloned()
    })
    .await;
    assert_eq!(end["alerts"][0]["labels"], labels);
    let heard = heard.lock().expect("whole");
    let of_b = heard.iter().any(|m| m["alerts"].to_string().contains("\"job\":\"b\""));
    assert!(!of_b, "the silenced one was told of: {heard:?}");
}
