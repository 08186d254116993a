//! What the API says of targets, and of what they say.

use crate::form::Form;
use crate::json::{Failure, labels, list, text};
use crate::send::meaning_of;
use crate::store::{Monitor, now_ms};
use crate::targets::{Health, TargetStatus};
use http::StatusCode;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::SystemTime;
use synod_promql::{Labels, Matcher, NAME, all_take, duration_text, parse_selector};

/// A family counts as a target's if it had a sample of it so long ago, ms.
const OF_LATE: i64 = 300_000;

impl Monitor {
    pub(crate) fn targets_api(&self, form: &Form) -> Result<String, Failure> {
        let (active, dropped) = match form.get("state").unwrap_or("any") {
            "active" => (true, false),
            "dropped" => (false, true),
            "any" => (true, true),
            other => return Err(Failure::bad_data(format!("state {other:?} is not known"))),
        };
        let job = form.get("scrapePool");
        let targets = self.targets();
        let mut out = String::from("{\"activeTargets\":");
        let wanted = targets
            .active
            .values()
            .filter(|s| active && job.is_none_or(|job| job == s.target.job.name));
        list(&mut out, wanted, target);
        out.push_str(",\"droppedTargets\":");
        let shown =
            targets.dropped.iter().filter(|(j, _)| dropped && job.is_none_or(|job| job == **j));
        let shown = shown.flat_map(|(job, (_, some))| some.iter().map(move |labels| (job, labels)));
        list(&mut out, shown, |out, (job, discovered)| {
            out.push_str("{\"discoveredLabels\":");
            labels(out, discovered);
            let _ = write!(out, ",\"scrapePool\":{}}}", text(job));
        });
        out.push_str(",\"droppedTargetCounts\":{");
        for (i, (job, (count, _))) in targets.dropped.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}:{count}", text(job));
        }
        Ok(out + "}}")
    }

    /// The names of jobs.
    pub(crate) fn scrape_pools(&self) -> String {
        let config = self.config();
        let mut names: BTreeSet<String> = config.jobs.iter().map(|j| j.name.clone()).collect();
        names.extend(self.targets().dropped.keys().cloned());
        let mut out = String::from("{\"scrapePools\":");
        list(&mut out, &names, |out, name| out.push_str(&text(name)));
        out + "}"
    }

    /// What targets say of metrics: `match_target`, `metric`, `limit`.
    pub(crate) fn targets_metadata(&self, form: &Form) -> Result<String, Failure> {
        let limit = form.limit().map_err(Failure::bad_data)?;
        let wanted = match form.get("match_target").filter(|m| !m.is_empty()) {
            None => Vec::new(),
            Some(selector) => parse_selector(selector).map_err(|e| {
                Failure::bad_data(format!("invalid parameter \"match_target\": {e}"))
            })?,
        };
        let metric = form.get("metric").filter(|m| !m.is_empty());
        let active = self.targets().active.values().map(|s| s.target.labels.clone()).collect();
        let active: Vec<Labels> = active;
        let (mut found, meanings) = (Vec::new(), self.meanings());
        for target in active.iter().filter(|labels| all_take(&wanted, labels)) {
            for name in self.families_of(target) {
                let Some((name, meaning)) = meaning_of(&meanings, &name) else { continue };
                if metric.is_none_or(|metric| metric == name) {
                    found.push((target, name, meaning));
                }
            }
        }
        found.dedup_by_key(|(target, name, _)| (*target, *name));
        if found.is_empty() {
            let why = "specified metadata not found".into();
            return Err(Failure { status: StatusCode::NOT_FOUND, kind: "not_found", why });
        }
        let mut out = String::new();
        list(&mut out, found.iter().take(limit), |out, (target, name, meaning)| {
            out.push_str("{\"target\":");
            labels(out, target);
            if metric.is_none() {
                let _ = write!(out, ",\"metric\":{}", text(name));
            }
            let kind = if meaning.kind.is_empty() { "unknown" } else { &meaning.kind };
            let (help, unit) = (text(&meaning.help), text(&meaning.unit));
            let _ = write!(out, ",\"type\":{},\"help\":{help},\"unit\":{unit}}}", text(kind));
        });
        Ok(out)
    }

    /// The names of the series that a target had of late.
    fn families_of(&self, target: &Labels) -> BTreeSet<String> {
        let matcher = |(name, value): (&str, &str)| Matcher::new(name, "=", value).ok();
        let matchers: Vec<Matcher> = target.iter().filter_map(matcher).collect();
        let now = now_ms();
        let series = self.head().labels_of(&[matchers], now - OF_LATE, now + OF_LATE);
        series.iter().map(|labels| labels.get(NAME).to_owned()).collect()
    }
}

fn target(out: &mut String, status: &TargetStatus) {
    let health = match status.health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "down",
    };
    out.push_str("{\"discoveredLabels\":");
    labels(out, &status.target.discovered);
    out.push_str(",\"labels\":");
    labels(out, &status.target.labels);
    let last = status.last.unwrap_or(SystemTime::UNIX_EPOCH);
    let _ = write!(
        out,
        ",\"scrapePool\":{},\"scrapeUrl\":{url},\"globalUrl\":{url},\"lastError\":{},\
         \"lastScrape\":\"{}\",\"lastScrapeDuration\":{},\"health\":\"{health}\",\
         \"scrapeInterval\":\"{}\",\"scrapeTimeout\":\"{}\"}}",
        text(&status.target.job.name),
        text(&status.error),
        humantime::format_rfc3339_millis(last),
        status.took.as_secs_f64(),
        duration_text(status.target.every.as_millis() as i64),
        duration_text(status.target.timeout.as_millis() as i64),
        url = text(&status.target.url),
    );
}
