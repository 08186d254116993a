//! Looking a configuration over without a server: the file, and those that it names.

use super::yaml::Http;
use super::{Config, Discovery, Job, groups};
use crate::client::Client;
use crate::discovery::glob;
use crate::targets::Target;
use std::path::Path;
use std::sync::Arc;
use synod_promql::Labels;
use synod_rules::RuleFile;

/// What there is to say of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Why it cannot be used: file, place, field.
    pub wrong: Vec<String>,
    /// Fields that are right and have no effect here.
    pub ignored: Vec<String>,
    /// What is likely to be a mistake.
    pub doubtful: Vec<String>,
    /// Jobs in it.
    pub jobs: usize,
    /// Rule files that it names, and the rules in each.
    pub rule_files: Vec<(String, usize)>,
}

impl Config {
    /// Looks a file over.
    pub fn examine(path: &Path) -> Findings {
        let mut findings = Findings::default();
        let config = match Config::load(path) {
            Ok(config) => config,
            Err(why) => {
                findings.wrong.push(why);
                return findings;
            }
        };
        findings.jobs = config.jobs.len();
        findings.ignored.clone_from(&config.ignored);
        for pattern in &config.rule_files {
            rule_files(pattern, &mut findings);
        }
        let mut sections = Vec::new();
        for job in &config.jobs {
            sections.push((format!("scrape_configs ({})", job.name), &job.http));
            found(&job.discovery, &format!("scrape_configs ({})", job.name), &mut findings);
            targets(job, &mut findings);
        }
        for (i, one) in config.alertmanagers.iter().enumerate() {
            sections.push((format!("alerting.alertmanagers[{i}]"), &one.http));
            found(&one.discovery, &format!("alerting.alertmanagers[{i}]"), &mut findings);
        }
        let remotes = config.remote_write.iter();
        sections.extend(remotes.map(|r| (format!("remote_write ({})", r.name), &r.http)));
        for (place, http) in sections {
            findings.wrong.extend(requests(http).into_iter().map(|why| format!("{place}: {why}")));
        }
        findings
    }
}

/// The targets that stand in the file itself.
fn targets(job: &Job, findings: &mut Findings) {
    let shared = Arc::new(job.clone());
    let groups = job.discovery.iter().filter_map(|d| match d {
        Discovery::Static(groups) => Some(groups),
        _ => None,
    });
    for group in groups.flatten() {
        for address in &group.targets {
            let pairs = group.labels.iter().map(|(n, v)| (&**n, &**v));
            let labels = Labels::new(pairs.chain([("__address__", &**address)]));
            if let Err(why) = Target::new(&shared, &labels) {
                findings.wrong.push(format!("scrape_configs ({}): {why}", job.name));
            }
        }
    }
}

/// The rules in the files that a pattern names.
fn rule_files(pattern: &str, findings: &mut Findings) {
    let files = match glob(pattern) {
        Ok(files) => files,
        Err(why) => return findings.wrong.push(format!("rule_files: {why}")),
    };
    if files.is_empty() {
        match pattern.contains(['*', '?', '[']) {
            true => findings.doubtful.push(format!("rule_files: no file is named {pattern}")),
            false => findings.wrong.push(format!("rule_files: {pattern} is not there")),
        }
    }
    for path in files {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) => {
                findings.wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        match RuleFile::parse(&text) {
            Ok(file) => {
                let count = file.groups.iter().map(|g| g.rules.len()).sum();
                findings.rule_files.push((name, count));
            }
            Err(errors) => {
                findings.wrong.extend(errors.iter().map(|e| format!("{name}: {e}")));
            }
        }
    }
}

/// Files of targets, and how servers of targets are asked.
fn found(discovery: &[Discovery], place: &str, findings: &mut Findings) {
    for one in discovery {
        match one {
            Discovery::Http { http, .. } => {
                let wrong = requests(http).into_iter();
                findings.wrong.extend(wrong.map(|why| format!("{place}.http_sd_configs: {why}")));
            }
            Discovery::File { patterns, .. } => {
                for pattern in patterns {
                    target_files(pattern, &format!("{place}.file_sd_configs"), findings);
                }
            }
            _ => {}
        }
    }
}

fn target_files(pattern: &str, place: &str, findings: &mut Findings) {
    let files = match glob(pattern) {
        Ok(files) => files,
        Err(why) => return findings.wrong.push(format!("{place}: {why}")),
    };
    if files.is_empty() {
        findings.doubtful.push(format!("{place}: no file is named {pattern}"));
    }
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string());
        if let Err(why) = text.and_then(|text| groups(&text).map(|_| ())) {
            findings.wrong.push(format!("{}: {why}", path.display()));
        }
    }
}

/// Why requests cannot be made so.
fn requests(http: &Http) -> Vec<String> {
    let mut files = vec![&http.bearer_token_file];
    if let Some(basic) = &http.basic_auth {
        files.extend([&basic.username_file, &basic.password_file]);
    }
    files.extend(http.authorization.iter().map(|a| &a.credentials_file));
    files.extend(http.oauth2.iter().map(|o| &o.client_secret_file));
    files.extend(http.http_headers.values().flat_map(|h| &h.files));
    let files = files.into_iter().filter(|file| !file.is_empty());
    let missing =
        files.filter_map(|file| Some(format!("{file}: {}", std::fs::metadata(file).err()?)));
    missing.chain(Client::new(http).err()).collect()
}
