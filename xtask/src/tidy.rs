//! What a compiler does not check: the layers, calls that the pure layers must
//! not make, the map, lines of the log, and sizes that may only shrink.

use crate::logs;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Layer of each crate, and the crates of its own layer that it may see.
const LAYERS: [(&str, u8, &[&str]); 18] = [
    ("synod-base", 0, &[]),
    ("synod-consensus", 1, &[]),
    ("synod-mvcc", 1, &[]),
    ("synod-coord", 1, &["synod-mvcc"]),
    ("synod-promql", 1, &[]),
    ("synod-rules", 1, &["synod-promql"]),
    ("synod-wal", 2, &[]),
    ("synod-tsdb", 2, &["synod-wal"]),
    ("synod-store", 2, &[]),
    ("synod-etcd-proto", 2, &[]),
    ("synod-cell", 3, &[]),
    ("synod-host", 3, &["synod-cell"]),
    ("synod-door-etcd", 4, &[]),
    ("synod-door-prom", 4, &[]),
    ("synod-sim", 4, &[]),
    ("synod-client", 4, &[]),
    ("synod", 5, &[]),
    ("xtask", 6, &[]),
];

/// Crates without clock, entropy, socket, file or thread.
const PURE: [&str; 8] = ["base", "consensus", "mvcc", "coord", "promql", "rules", "cell", "sim"];

/// What a pure crate must not name, and why.
const BANNED: [(&str, &str); 10] = [
    ("std::time", "time comes in as a Tick"),
    ("Instant::now", "time comes in as a Tick"),
    ("SystemTime", "time comes in as a Tick"),
    ("std::fs", "files belong to the host"),
    ("std::net", "sockets belong to the host"),
    ("std::thread", "threads belong to the host"),
    ("tokio", "runtimes belong to the host"),
    ("HashMap::new", "its order differs from run to run: BTreeMap"),
    ("thread_rng", "randomness is seeded: synod_base::Rng"),
    ("getrandom", "randomness is seeded: synod_base::Rng"),
];

/// Lines of a source file and of a function beyond which it must be split.
const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 90;

/// Checks everything; the error lists every finding.
pub fn run(root: &Path) -> Result<(), String> {
    let mut found = Vec::new();
    layers(root, &mut found)?;
    let (fields, mut used) = (logs::names(root)?, BTreeSet::new());
    for file in sources(root) {
        let text =
            std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        banned(&name, &text, &mut found);
        sizes(&name, &text, &mut found);
        logs::check(&name, &text, &fields, &mut used, &mut found);
    }
    logs::unused(&fields, &used, &mut found);
    map(root, &mut found)?;
    crate::licences::check(root, &mut found)?;
    found.extend(crate::dashboards::write(root, true).err());
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("tidy found {}:\n  {}", found.len(), found.join("\n  ")))
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["benches", "crates", "xtask", "peers", "fuzz"] {
        walk(&root.join(dir), &mut files);
    }
    files.sort();
    files
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.ends_with("target") {
            // What stands outside the workspace may have been built in its place.
        } else if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn layers(root: &Path, found: &mut Vec<String>) -> Result<(), String> {
    let out = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout)
        .map_err(|e| format!("cargo metadata: {e}: {}", String::from_utf8_lossy(&out.stderr)))?;
    let known: BTreeMap<&str, (u8, &[&str])> =
        LAYERS.iter().map(|(n, l, same)| (*n, (*l, *same))).collect();
    let packages = || meta["packages"].as_array().into_iter().flatten();
    let run: Vec<_> = packages().filter_map(|p| p["default_run"].as_str()).collect();
    if run != ["synod"] {
        found.push(format!("`cargo run`, as the README has it, would run {run:?}: not synod"));
    }
    for package in packages() {
        let name = package["name"].as_str().unwrap_or("");
        let Some((layer, same)) = known.get(name) else {
            found.push(format!("crate {name} has no layer in xtask/src/tidy.rs"));
            continue;
        };
        for dep in package["dependencies"].as_array().into_iter().flatten() {
            let to = dep["name"].as_str().unwrap_or("");
            let Some((below, _)) = known.get(to) else { continue };
            let dev = dep["kind"].as_str() == Some("dev");
            if below >= layer && !same.contains(&to) && !dev {
                found.push(format!("{name} (L{layer}) must not depend on {to} (L{below})"));
            }
        }
    }
    Ok(())
}

fn banned(name: &str, text: &str, found: &mut Vec<String>) {
    let pure = PURE.iter().any(|p| name.starts_with(&format!("crates/{p}/src")));
    // The conformance suite is a test that stores outside the crate run too.
    if !pure || name.ends_with("conformance.rs") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or("");
        for (call, why) in BANNED {
            if code.contains(call) {
                found.push(format!("{name}:{}: {call} in a pure crate: {why}", number + 1));
            }
        }
    }
}

fn sizes(name: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !name.contains("/tests") {
        found
            .push(format!("{name}: {lines} lines (at most {FILE_LINES_MAX}): split it by concern"));
    }
    // rustfmt closes a function on its own line, indented as it began.
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let code = line.trim_start();
        if let Some((at, depth, title)) = &open {
            if indent == *depth && code.starts_with('}') {
                let length = number - at + 1;
                if length > FUNCTION_LINES_MAX {
                    found.push(format!(
                        "{name}:{}: {title} has {length} lines (at most {FUNCTION_LINES_MAX})",
                        at + 1
                    ));
                }
                open = None;
            }
        } else if is_function(code) && !code.ends_with('}') && !code.ends_with(';') {
            let title = code.split('(').next().unwrap_or(code).to_owned();
            open = Some((number, indent, title));
        }
    }
}

fn is_function(code: &str) -> bool {
    let words =
        ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "pub(crate) async fn "];
    words.iter().any(|w| code.starts_with(w))
}

/// Every path that the map names exists, and every crate is on the map.
fn map(root: &Path, found: &mut Vec<String>) -> Result<(), String> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))
        .map_err(|e| format!("ARCHITECTURE.md: {e}"))?;
    let named: BTreeSet<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|p| p.contains('/') && !p.contains(' ') && !p.starts_with('/') && !p.contains("::"))
        .collect();
    for path in &named {
        if !root.join(path.trim_end_matches('/')).exists() {
            found.push(format!("ARCHITECTURE.md names `{path}`, which does not exist"));
        }
    }
    for entry in std::fs::read_dir(root.join("crates")).map_err(|e| e.to_string())?.flatten() {
        let name = format!("crates/{}", entry.file_name().to_string_lossy());
        if !named.iter().any(|n| n.trim_end_matches('/') == name) {
            found.push(format!("ARCHITECTURE.md does not mention `{name}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_workspace_is_tidy() {
        if let Err(e) = super::run(&crate::root()) {
            panic!("{e}");
        }
    }

    #[test]
    fn a_banned_call_and_a_long_function_are_found() {
        let mut found = Vec::new();
        super::banned("crates/cell/src/x.rs", "let t = Instant::now();", &mut found);
        super::banned("crates/host/src/x.rs", "let t = Instant::now();", &mut found);
        assert_eq!(found.len(), 1, "{found:?}");
        let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(100));
        super::sizes("crates/cell/src/x.rs", &long, &mut found);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
