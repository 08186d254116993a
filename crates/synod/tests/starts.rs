//! How a node is started by what people start etcd with: units of systemd, flags,
//! variables.

mod common;

use common::{free_ports, output};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn synod(args: &[&str]) -> (bool, String, String) {
    output(Path::new(env!("CARGO_BIN_EXE_synod")), args)
}

/// A node alone, by `synod server` or `synod etcd`; killed when dropped.
struct Alone {
    child: Child,
    client: u16,
    dir: tempfile::TempDir,
}

impl Alone {
    fn start(how: &str, args: &[&str], variables: &[(&str, &str)]) -> Alone {
        let (dir, ports) = (tempfile::tempdir().expect("a temporary folder"), free_ports(2));
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_synod"));
        command
            .arg(how)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &url(ports[0])])
            .args(["--advertise-client-urls", &url(ports[0])])
            .args(["--listen-peer-urls", &url(ports[1])])
            .args(["--initial-advertise-peer-urls", &url(ports[1])])
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if how == "server" {
            command.args(["--listen-http-urls", ""]);
        }
        Alone { child: command.spawn().expect("the server starts"), client: ports[0], dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Until the log has this.
    fn until(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(30), "no {text:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "{status}:\n{}", self.log());
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next word that the supervisor gets.
fn word(socket: &UnixDatagram) -> io::Result<String> {
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// A supervisor hears when the doors are open and when they close, each once.
fn supervise(how: &str, socket: &UnixDatagram, name: &str) {
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let mut node = Alone::start(how, &[], &[("NOTIFY_SOCKET", name)]);
    assert_eq!(word(socket).expect(how), "READY=1");
    let endpoint = format!("127.0.0.1:{}", node.client);
    let (ok, _, err) = synod(&["put", "a", "b", "--endpoints", &endpoint]);
    assert!(ok, "{err}");
    node.terminate();
    assert_eq!(word(socket).expect(how), "STOPPING=1");
    socket.set_nonblocking(true).expect("set");
    assert_eq!(word(socket).expect_err("nothing else").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn supervisors_are_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    supervise("etcd", &socket, path.to_str().expect("a path"));

    let name = format!("synod-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("bound");
    supervise("server", &socket, &format!("@{name}"));

    // Nobody listens: the node says so and goes on.
    let gone = dir.path().join("gone");
    let node = Alone::start("server", &[], &[("NOTIFY_SOCKET", gone.to_str().expect("a path"))]);
    node.until("the supervisor could not be told");
    let endpoint = format!("127.0.0.1:{}", node.client);
    let (ok, _, err) = synod(&["put", "a", "b", "--endpoints", &endpoint]);
    assert!(ok, "{err}");
}

/// A misspelt variable is told of, once and without its value; what is read is not.
#[test]
fn unknown_variables_are_told_of() {
    let given = [
        ("ETCD_NMAE", "secret"),
        ("ETCD_MAX_WALS", "3"),
        ("SYNOD_NMAE", "secret"),
        ("SYNOD_TOKEN", "7"),
    ];
    for (how, told) in [("server", &["SYNOD_NMAE"][..]), ("etcd", &["ETCD_NMAE", "SYNOD_NMAE"])] {
        let node = Alone::start(how, &[], &given);
        node.until("ready to serve client requests");
        let log = node.log();
        let lines = log.lines().filter(|l| l.contains("unrecognized environment variable"));
        let given = |l: &&str| given.iter().any(|(name, _)| l.contains(name));
        let lines: Vec<&str> = lines.filter(given).collect();
        assert_eq!(lines.len(), told.len(), "{how}: {log}");
        for (line, name) in lines.iter().zip(told) {
            assert!(line.contains("WARN") && line.contains(name), "{how}: {line}");
        }
        assert!(!log.contains("secret"), "{how}: {log}");
    }
}
