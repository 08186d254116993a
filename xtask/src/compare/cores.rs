//! The cores by themselves, beside others' crates: the package `benches/cores`.

use super::{machine, write_part};
use crate::peers;
use std::path::Path;
use std::process::{Command, Stdio};

/// `cargo xtask bench cores [--full] [--ms MS]`.
pub fn cores(root: &Path, args: &[&str]) -> Result<(), String> {
    // The build script of the crate raft calls a protoc.
    let protox = peers::protox(&peers::dir(root))?;
    let out = Command::new("cargo")
        .args(["run", "--release", "--locked", "--manifest-path", "benches/cores/Cargo.toml"])
        .args(["--target-dir", "target/bench-cores", "--"])
        .args(args)
        .current_dir(root)
        .env("PROTOC", protox)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !out.status.success() {
        return Err("benches/cores failed".into());
    }
    let text = format!("Machine: {}. {}\n", machine(), String::from_utf8_lossy(&out.stdout));
    write_part(&root.join("docs/benchmarks.md"), "bench cores", &text)
}
