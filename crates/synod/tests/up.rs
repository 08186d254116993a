//! `synod up`, on its ports, in a network namespace of the test's own.

mod common;

use common::{flip_bits, output};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Brings the namespace's loopback up, then becomes the command.
const IN_NAMESPACE: &str = "import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14s', b'lo', 0x1, b''))
os.execv(sys.argv[1], sys.argv[1:])";

struct Up {
    process: Child,
    log: std::path::PathBuf,
    dir: std::path::PathBuf,
}

impl Up {
    /// Until it says so.
    fn start(dir: &Path, more: &[&str], until: &str) -> Up {
        let log = dir.join("up.log");
        let process = Command::new("unshare")
            .args(["--net", "python3", "-c", IN_NAMESPACE, env!("CARGO_BIN_EXE_synod"), "up"])
            .args(["--data-dir", dir.to_str().expect("a path")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("a log"))
            .stderr(File::options().append(true).open(&log).expect("a log"))
            .spawn()
            .expect("unshare and python3, as root");
        let up = Up { process, log, dir: dir.to_owned() };
        up.says(until);
        up
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn says(&self, what: &str) {
        let begun = Instant::now();
        while !self.said().contains(what) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command beside it.
    fn run(&self, args: &[&str]) -> String {
        let (pid, synod) = (self.process.id().to_string(), env!("CARGO_BIN_EXE_synod"));
        let inside = [&["--net", "-t", &pid, synod][..], args].concat();
        let (ok, out, err) = output(Path::new("nsenter"), &inside);
        assert!(ok, "{args:?}: {out}{err}");
        out
    }

    /// Nodes that run, by what they were started with.
    fn nodes(&self) -> usize {
        let dir = self.dir.to_str().expect("a path");
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = all.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
        lines.filter(|l| l.contains("server\0") && l.contains(dir)).count()
    }

    /// Its nodes go with it.
    fn end(mut self, signal: &str) {
        assert!(self.nodes() >= 2);
        let pid = self.process.id().to_string();
        assert!(output(Path::new("kill"), &[&format!("-{signal}"), &pid]).0);
        self.process.wait().expect("it ends");
        let begun = Instant::now();
        while self.nodes() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{signal}: nodes go on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn up_goes_on_without_a_damaged_node_and_takes_its_nodes_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = &folder.path().join("my data");
    std::fs::create_dir(dir).expect("a folder");
    let up = Up::start(dir, &[], "3 nodes are up");
    let value = "v".repeat(400);
    for n in 0..20 {
        up.run(&["put", &format!("k{n}"), &value]);
    }
    up.end("INT");
    flip_bits(&dir.join("n2"));

    let up = Up::start(dir, &[], "2 of 3 nodes are up");
    let path = dir.join("n2").display().to_string();
    let hint = format!("{} server --name n2 --data-dir '{path}' ", env!("CARGO_BIN_EXE_synod"));
    up.says(&format!("start it again:  {hint}"));
    assert!(up.said().contains("is damaged at byte"), "{}", up.said());
    up.run(&["put", "k0", "new"]);
    assert_eq!(up.run(&["get", "k0"]).trim(), "new");
    up.end("HUP");

    let up = Up::start(dir, &["--", "--rebuild"], "3 nodes are up");
    assert_eq!(up.run(&["get", "k0"]).trim(), "new");
    let status = up.run(&["status"]);
    assert!(status.contains("leads term") && status.contains(" since "), "{status}");
    assert!(dir.join("n2/damaged-1").exists() && !dir.join("n1/damaged-1").exists());
    up.end("KILL");
}

/// Somebody reads the first lines only, or the terminal is closed.
#[test]
fn up_goes_on_when_nobody_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let mut process = Command::new("unshare")
        .args(["--net", "python3", "-c", IN_NAMESPACE, env!("CARGO_BIN_EXE_synod"), "up"])
        .args(["--data-dir", dir.to_str().expect("a path")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare and python3, as root");
    let mut line = String::new();
    let mut reader = BufReader::new(process.stdout.take().expect("a pipe"));
    reader.read_line(&mut line).expect("a line");
    assert!(line.starts_with("3 nodes are up"), "{line}");
    drop(reader);
    let up = Up { process, log: dir.join("up.log"), dir: dir.to_owned() };
    let newest = std::fs::read_dir("/proc").expect("/proc").flatten().find_map(|p| {
        let line = std::fs::read_to_string(p.path().join("cmdline")).ok()?;
        let ours = line.contains("server\0") && line.contains(dir.join("n3").to_str()?);
        ours.then(|| p.file_name().to_string_lossy().into_owned())
    });
    assert!(output(Path::new("kill"), &["-9", &newest.expect("a node")]).0);
    // It looks after them every 300 ms, and tells.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(up.nodes(), 2);
    up.run(&["put", "k", "v"]);
    up.end("HUP");
}

#[test]
fn a_wrong_setting_ends_up_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut up = Up::start(folder.path(), &["--", "--election-ms", "10"], "three times");
    assert!(!up.process.wait().expect("it ends").success());
    assert!(up.said().contains("election-ms (10)"), "{}", up.said());
}
