//! The policy on licences: what every dependency may be used under.

use std::path::Path;
use std::process::Command;

/// Licences that ask for no more than their notice. A dependency must offer at
/// least one way to be used under these alone.
const ALLOWED: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "0BSD",
    "Unicode-3.0",
    "Zlib",
];

/// The packages whose dependencies are looked at: the workspace, and what stands
/// outside it.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "benches/cores/Cargo.toml", "peers/rust/Cargo.toml"];

/// Every dependency whose licence is not allowed.
pub fn check(root: &Path, found: &mut Vec<String>) -> Result<(), String> {
    for manifest in MANIFESTS {
        let out = Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
            .current_dir(root)
            .output()
            .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
        let meta: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| {
            format!("cargo metadata: {e}: {}", String::from_utf8_lossy(&out.stderr))
        })?;
        for package in meta["packages"].as_array().into_iter().flatten() {
            let name = package["name"].as_str().unwrap_or("");
            let version = package["version"].as_str().unwrap_or("");
            match package["license"].as_str() {
                Some(licence) if is_allowed(licence) => {}
                Some(licence) => found.push(format!(
                    "{name} {version} may be used under {licence:?} only, which is not allowed in \
                     xtask/src/licences.rs"
                )),
                None => found.push(format!("{name} {version} names no licence")),
            }
        }
    }
    Ok(())
}

/// Whether an SPDX expression leaves a way that is allowed. What cannot be read
/// is not allowed.
fn is_allowed(expression: &str) -> bool {
    // The old way to write OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// One or more alternatives; `None` if it is no expression.
fn any_of(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

/// What must all be kept to.
fn all_of(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let inner = any_of(words)?;
        return (words.next()? == ")").then_some(inner);
    }
    if words.next_if_eq(&"WITH").is_some() {
        let whole = format!("{word} WITH {}", words.next()?);
        return Some(ALLOWED.contains(&whole.as_str()));
    }
    Some(ALLOWED.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "MIT AND (BSD-3-Clause OR LGPL-2.1-or-later)",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-2.0-only",
            "MIT OR GPL-2.0-only AND",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "LGPL-2.1-or-later OR MIT AND GPL-2.0-only",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
