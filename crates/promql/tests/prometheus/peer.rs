//! A real Prometheus with the same samples.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take until it is ready.
const START_MAX: Duration = Duration::from_secs(30);

/// The process; ended when dropped.
pub struct Prometheus {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Makes blocks of an OpenMetrics text and starts a server on them.
    pub fn start(text: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a folder");
        let input = dir.path().join("samples.txt");
        std::fs::write(&input, text).expect("the samples");
        std::fs::write(dir.path().join("prometheus.yml"), "global: {}\n").expect("the settings");
        let made = Command::new(program("promtool"))
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([&input, &dir.path().join("data")])
            .output()
            .expect("promtool runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let process = Command::new(program("prometheus"))
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let mut server = Prometheus { process, port, dir };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        loop {
            let ended = self.process.try_wait().expect("the process");
            let ready = self.ask("GET", "/-/ready", "").is_ok_and(|a| a.contains("Ready"));
            if ready && ended.is_none() {
                return;
            }
            if ended.is_some() || begun.elapsed() > START_MAX {
                let log = std::fs::read_to_string(self.dir.path().join("log"));
                panic!("prometheus is not ready: {ended:?}: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its JSON answer to a form.
    pub fn json(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let pairs = form.iter().map(|(name, value)| format!("{name}={}", escaped(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let answer = self.ask("POST", path, &body).expect("an answer");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// The body of an answer. HTTP/1.0: it ends where the connection ends.
    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (kind, length) = ("application/x-www-form-urlencoded", body.len());
        write!(
            connection,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = root.join("target/peers/deb/prometheus/usr/bin").join(name);
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    program
}

/// A port that was free a moment ago, below those of outgoing connections.
fn free_port() -> u16 {
    let first = std::process::id().wrapping_mul(101);
    let ports = (0..22_000).map(|i| 10_240 + (first.wrapping_add(i) % 22_000) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).expect("a free port")
}
