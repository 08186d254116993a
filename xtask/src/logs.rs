//! Lines of the log: values are fields, whose names are in `docs/logs.md`, and messages are
//! constant.

use std::collections::BTreeSet;
use std::path::Path;

const LEVELS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
/// The one message that is no constant: an event's own sentence.
const SENTENCE: &str = "\"{event}\"";

/// The names that the page lists.
pub fn names(root: &Path) -> Result<BTreeSet<String>, String> {
    let page = root.join("docs/logs.md");
    let text = std::fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    Ok(text.lines().filter_map(name).collect())
}

/// Checks the lines that a source file writes; notes the names that they use.
pub fn check(
    name: &str,
    text: &str,
    names: &BTreeSet<String>,
    used: &mut BTreeSet<String>,
    found: &mut Vec<String>,
) {
    if !name.starts_with("crates/") || name.contains("/tests/") {
        return;
    }
    // Tests stand at a file's end.
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    for (at, _) in text.match_indices("tracing::") {
        let rest = &text[at + "tracing::".len()..];
        let Some(level) = LEVELS.iter().find(|level| rest.starts_with(**level)) else { continue };
        let line = text[..at].matches('\n').count() + 1;
        let mut message = None;
        for argument in arguments(&rest[level.len()..]) {
            if argument.starts_with('"') {
                message = Some(argument);
            } else if !argument.starts_with("target:") {
                let field = field(argument);
                if !names.contains(field) {
                    found.push(format!("{name}:{line}: {field:?} is no field of docs/logs.md"));
                }
                used.insert(field.to_owned());
            }
        }
        match message {
            None => found.push(format!("{name}:{line}: an entry of the log without a message")),
            Some(m) if m.contains('{') && m != SENTENCE => {
                found
                    .push(format!("{name}:{line}: a value is in the message {m}: make it a field"));
            }
            Some(_) => {}
        }
    }
}

/// Names that are listed and not used.
pub fn unused(names: &BTreeSet<String>, used: &BTreeSet<String>, found: &mut Vec<String>) {
    found.extend(
        names.difference(used).map(|n| format!("docs/logs.md: {n:?} is no field any more")),
    );
}

/// The name of `name = value`, `%name` and `?name`.
fn field(argument: &str) -> &str {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    name.trim().trim_start_matches(['%', '?'])
}

/// What stands between commas up to the closing parenthesis.
fn arguments(text: &str) -> Vec<&str> {
    let (mut all, mut from, mut depth) = (Vec::new(), 0, 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                all.push(text[from..at].trim());
                break;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    all.retain(|argument| !argument.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str) -> Vec<String> {
        let names: BTreeSet<String> = ["error", "peer", "count"].map(str::to_owned).into();
        let (mut used, mut found) = (BTreeSet::new(), Vec::new());
        check("crates/x/src/y.rs", code, &names, &mut used, &mut found);
        found
    }

    #[test]
    fn values_are_fields_of_the_list() {
        for good in [
            "tracing::info!(\"stopping\");",
            "tracing::warn!(error = %f(a, \"x, )\"), \"it failed\");",
            "tracing::warn!(\n    target: \"synod::x\",\n    %peer,\n    count,\n    \"a, b\"\n);",
            "tracing::info!(\"{event}\");",
            "fn f() {}\n#[cfg(test)]\nmod tests { tracing::info!(\"{x}\"); }",
        ] {
            assert_eq!(found(good), Vec::<String>::new(), "{good}");
        }
        for (bad, why) in [
            ("\n\ntracing::info!(\"read {file}\");", "crates/x/src/y.rs:3: a value is in"),
            ("tracing::info!(error = %e);", "without a message"),
            ("tracing::info!(why = %e, \"x\");", "\"why\" is no field"),
            ("tracing::info!(?other, \"x\");", "\"other\" is no field"),
        ] {
            let found = found(bad);
            assert!(found.len() == 1 && found[0].contains(why), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_name_that_nobody_uses_is_found() {
        let (names, mut found) = (["a", "b"].map(str::to_owned).into(), Vec::new());
        unused(&names, &["a".to_owned()].into(), &mut found);
        assert!(found.len() == 1 && found[0].contains("\"b\""), "{found:?}");
    }
}
