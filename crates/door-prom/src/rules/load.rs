//! Rule files to groups.

use super::{RuleSettings, environment};
use crate::config::Config;
use crate::discovery::glob;
use crate::store::Settings;
use std::sync::Arc;
use synod_promql::Labels;
use synod_rules::{Group, RuleFile};

/// The labels that alerts get besides their own: the settings' come before the
/// configuration file's.
pub(super) fn external_labels(settings: &RuleSettings, config: &Config) -> Labels {
    let all = config.external_labels.iter().chain(&settings.external_labels);
    Labels::new(all.map(|(n, v)| (n.as_str(), v.as_str())))
}

/// All groups that the settings and the configuration name. One file that is wrong makes
/// all of it wrong: the error names what and where.
pub(crate) fn load(settings: &Settings, config: &Config) -> Result<Vec<Group>, String> {
    let mut files: Vec<(String, String)> = settings.rules.shipped.clone();
    for pattern in config.rule_files.iter().chain(&settings.rules.files) {
        for path in glob(pattern)? {
            let name = path.display().to_string();
            if files.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
            files.push((name, text));
        }
    }
    let external = external_labels(&settings.rules, config);
    let environment = Arc::new(environment(&settings.rules, &external, settings.query));
    let every = match config.evaluation_every {
        every if every.is_zero() || settings.config.is_none() => settings.rules.every,
        every => every,
    };
    let offset = config.rule_query_offset.as_millis() as i64;
    let mut groups = Vec::new();
    for (name, text) in files {
        let file = RuleFile::parse(&text).map_err(|errors| {
            let all: Vec<String> = errors.iter().map(|e| format!("{name}: {e}")).collect();
            all.join("; ")
        })?;
        groups.extend(file.groups.into_iter().map(|spec| {
            Group::new(spec, &name, every.as_millis() as i64, offset, environment.clone())
        }));
    }
    Ok(groups)
}
