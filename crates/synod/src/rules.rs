//! Files of rules and of their tests, on this machine; and the rules in this program.

use crate::Outcome;
use crate::progress::Progress;
use std::io::Read;
use std::path::{Path, PathBuf};
use synod_rules::unit::{TestFile, run};
use synod_rules::{RuleFile, duplicates, modern_names};

/// Name and text of the rules about a cluster itself.
pub const SHIPPED: (&str, &str) = ("synod.yml", include_str!("../../../alerts/synod.yml"));
/// promtool's code for files that are right but doubtful.
const DOUBTFUL: i32 = 3;

fn read(path: &Path) -> Outcome<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text)
}

/// A rule file; all that is wrong with it, a line each.
fn rule_file(path: &Path) -> Result<RuleFile, Vec<String>> {
    let name = path.display();
    let text = read(path).map_err(|why| vec![why])?;
    RuleFile::parse(&text).map_err(|errors| errors.iter().map(|e| format!("{name}: {e}")).collect())
}

/// `synod rules check`.
pub fn check(paths: &[PathBuf], lint_fatal: bool) -> Outcome {
    let (mut wrong, mut doubtful) = (0, 0);
    for path in paths {
        println!("Checking {}", path.display());
        let file = match rule_file(path) {
            Ok(file) => file,
            Err(errors) => {
                println!("  FAILED:");
                errors.iter().for_each(|e| println!("    {e}"));
                wrong += 1;
                continue;
            }
        };
        let count: usize = file.groups.iter().map(|g| g.rules.len()).sum();
        println!("  SUCCESS: {count} rules found");
        let twice = duplicates([&file]);
        for (name, labels) in &twice {
            println!("  there is more than one rule {name} with the labels {labels}");
        }
        let modern = modern_names([&file]);
        for name in &modern {
            println!("  {name:?} is a name only for Prometheus 3.0 and later");
        }
        doubtful += twice.len() + modern.len();
    }
    if wrong > 0 {
        return Err(format!("{wrong} of {} files cannot be used", paths.len()));
    }
    if lint_fatal && doubtful > 0 {
        eprintln!("synod: {doubtful} doubtful rules or names");
        std::process::exit(DOUBTFUL);
    }
    Ok(())
}

/// `synod rules test`.
pub fn test(paths: &[PathBuf]) -> Outcome {
    let mut failed = 0;
    for path in paths {
        println!("Unit Testing:  {}", path.display());
        let failures = test_file(path);
        if failures.is_empty() {
            println!("  SUCCESS");
        } else {
            println!("  FAILED:");
            for failure in &failures {
                println!("    {}", failure.replace('\n', "\n    "));
            }
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(format!("the tests of {failed} of {} files failed", paths.len())),
    }
}

fn test_file(path: &Path) -> Vec<String> {
    let file = match read(path).and_then(|text| TestFile::parse(&text).map_err(|e| e.to_string())) {
        Ok(file) => file,
        Err(why) => return vec![why],
    };
    let (mut rules, mut failures) = (Vec::new(), Vec::new());
    for pattern in &file.rule_files {
        let base = path.parent().unwrap_or(Path::new(""));
        let pattern = base.join(pattern).display().to_string();
        let found: Vec<PathBuf> = match glob::glob(&pattern) {
            Ok(found) => found.flatten().collect(),
            Err(e) => return vec![format!("pattern {pattern:?}: {e}")],
        };
        if found.is_empty() {
            println!("  WARNING: no file match pattern {pattern}");
        }
        for path in found {
            match rule_file(&path) {
                Ok(file) => rules.push((path.display().to_string(), file)),
                Err(errors) => failures.extend(errors),
            }
        }
    }
    if !failures.is_empty() {
        return failures;
    }
    let (progress, total) = (Progress::new("tests"), file.tests.len() as u64);
    for (i, test) in file.tests.iter().enumerate() {
        progress.count(i as u64, total);
        let name = match test.name.as_str() {
            "" => format!("test {} (line {})", i + 1, test.place.line),
            name => format!("test {name:?} (line {})", test.place.line),
        };
        let outcome = run(&file, test, &rules);
        failures.extend(outcome.failures.into_iter().map(|f| format!("{name}: {f}")));
    }
    if total > 20 {
        progress.end();
    }
    failures
}
