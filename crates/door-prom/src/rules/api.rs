//! The pages about rules, alerts and who is told of them, in Prometheus's shapes.

use super::Running;
use super::notify::{Kind, time};
use crate::form::Form;
use crate::json::{Failure, labels as labels_json, list, text};
use crate::store::Monitor;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;
use synod_promql::{Labels, Matcher, all_take, parse_selector};
use synod_rules::{Alert, Rule, RuleKind, State, exponential};

/// The time of what did not happen yet.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What a request wants to see.
struct Wanted {
    alerting: bool,
    recording: bool,
    names: BTreeSet<String>,
    groups: BTreeSet<String>,
    files: BTreeSet<String>,
    matchers: Vec<Vec<Matcher>>,
    with_alerts: bool,
    limit: usize,
    from: Option<String>,
}

impl Wanted {
    fn new(form: &Form) -> Result<Wanted, Failure> {
        let kind = form.get("type").unwrap_or_default();
        if !["", "alert", "record"].contains(&kind) {
            return Err(Failure::bad_data(format!("not supported value {kind:?}")));
        }
        let set = |name: &str| form.all(name).map(str::to_owned).collect::<BTreeSet<_>>();
        let mut matchers = Vec::new();
        for selector in form.all("match[]") {
            let parsed = parse_selector(selector);
            matchers.push(
                parsed.map_err(|e| {
                    Failure::bad_data(format!("invalid parameter \"match[]\": {e}"))
                })?,
            );
        }
        let flag = |name: &str| match form.get(name).unwrap_or("") {
            "" | "false" | "0" | "f" => Ok(false),
            "true" | "1" | "t" => Ok(true),
            other => Err(Failure::bad_data(format!(
                "invalid parameter {name:?}: {other:?} is no boolean"
            ))),
        };
        let limit = match form.get("group_limit").filter(|l| !l.is_empty()) {
            None => 0,
            Some(limit) => limit.parse().ok().filter(|l| *l > 0).ok_or_else(|| {
                let why = "needs to be a valid number greater than zero";
                Failure::bad_data(format!("invalid parameter \"group_limit\": {why}"))
            })?,
        };
        let from = form.get("group_next_token").filter(|t| !t.is_empty()).map(str::to_owned);
        if from.is_some() && limit == 0 {
            let why = "group_limit needs to be present in order to paginate over the groups";
            return Err(Failure::bad_data(format!("invalid parameter \"group_limit\": {why}")));
        }
        Ok(Wanted {
            alerting: kind != "record",
            recording: kind != "alert",
            names: set("rule_name[]"),
            groups: set("rule_group[]"),
            files: set("file[]"),
            matchers,
            with_alerts: !flag("exclude_alerts")?,
            limit,
            from,
        })
    }

    fn takes(&self, rule: &Rule) -> bool {
        let of_kind = match rule.spec.kind {
            RuleKind::Alert { .. } => self.alerting,
            RuleKind::Record(_) => self.recording,
        };
        let matched = self.matchers.is_empty() || {
            let labels = labels_of(rule);
            self.matchers.iter().any(|m| all_take(m, &labels))
        };
        of_kind && matched && (self.names.is_empty() || self.names.contains(rule.spec.name()))
    }
}

fn labels_of(rule: &Rule) -> Labels {
    Labels::new(rule.spec.labels.iter().map(|(n, t)| (n.as_str(), t.text())))
}

/// What stands for a group between two pages.
fn token(file: &str, name: &str) -> String {
    let bytes = file.bytes().chain([0xff]).chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Monitor {
    /// `/api/v1/rules`.
    pub(crate) fn rules_api(&self, form: &Form) -> Result<String, Failure> {
        let wanted = Wanted::new(form)?;
        let (mut shown, mut next, mut begun) = (Vec::new(), None, wanted.from.is_none());
        for evaluated in self.0.rules.running() {
            let running = evaluated.running();
            let group = &running.group;
            let own = token(&group.file, &group.name);
            begun |= wanted.from.as_deref() == Some(&own);
            let named =
                |set: &BTreeSet<String>, name: &String| set.is_empty() || set.contains(name);
            let in_it = named(&wanted.groups, &group.name) && named(&wanted.files, &group.file);
            if !begun || !in_it {
                continue;
            }
            if wanted.limit > 0 && shown.len() == wanted.limit {
                next = Some(own);
                break;
            }
            // A filter leaves groups out in which nothing is left.
            let rules: Vec<usize> =
                (0..group.rules.len()).filter(|i| wanted.takes(&group.rules[*i])).collect();
            if !rules.is_empty() || group.rules.is_empty() {
                shown.push(group_json(&running, &rules, wanted.with_alerts));
            }
        }
        if !begun {
            let why = "the group that it names is not there any more: begin anew";
            return Err(Failure::bad_data(format!("invalid group_next_token: {why}")));
        }
        let mut out = String::from("{\"groups\":");
        list(&mut out, shown, |out, one| out.push_str(&one));
        if let Some(next) = next {
            let _ = write!(out, ",\"groupNextToken\":\"{next}\"");
        }
        Ok(out + "}")
    }

    /// `/api/v1/alerts`.
    pub(crate) fn alerts_api(&self) -> String {
        let mut all = Vec::new();
        for evaluated in self.0.rules.running() {
            let running = evaluated.running();
            all.extend(running.group.rules.iter().flat_map(Rule::active).map(alert_json));
        }
        let mut out = String::from("{\"alerts\":");
        list(&mut out, all, |out, one| out.push_str(&one));
        out + "}"
    }

    /// `/api/v1/alertmanagers`.
    pub(crate) fn alertmanagers_api(&self) -> String {
        let receivers = self.0.rules.notifier.receivers();
        let mut out = String::from("{\"activeAlertmanagers\":");
        list(&mut out, receivers.iter().filter(|r| r.kind == Kind::Alertmanager), |out, r| {
            let _ = write!(out, "{{\"url\":{}}}", text(&r.url));
        });
        out + ",\"droppedAlertmanagers\":[]}"
    }
}

fn when(at: Option<i64>) -> String {
    at.map_or_else(|| NEVER.to_owned(), time)
}

fn group_json(running: &Running, rules: &[usize], with_alerts: bool) -> String {
    let group = &running.group;
    let mut out =
        format!("{{\"name\":{},\"file\":{},\"rules\":", text(&group.name), text(&group.file));
    list(&mut out, rules, |out, i| {
        rule_json(out, &group.rules[*i], running.rules_took[*i], with_alerts);
    });
    let last = group.rules.iter().filter_map(|r| r.last).max();
    let _ = write!(
        out,
        ",\"interval\":{},\"limit\":{},\"evaluationTime\":{},\"lastEvaluation\":\"{}\"}}",
        group.interval as f64 / 1_000.0,
        group.limit,
        running.took.as_secs_f64(),
        when(last)
    );
    out
}

fn state(rule: &Rule) -> State {
    rule.active().map(|a| a.state).max().unwrap_or(State::Inactive)
}

fn rule_json(out: &mut String, rule: &Rule, took: Duration, with_alerts: bool) {
    out.push('{');
    if let RuleKind::Alert { hold, keep, .. } = &rule.spec.kind {
        let _ = write!(
            out,
            "\"state\":\"{}\",\"duration\":{},\"keepFiringFor\":{},",
            state(rule).name(),
            *hold as f64 / 1_000.0,
            *keep as f64 / 1_000.0
        );
    }
    let (name, query) = (text(rule.spec.name()), text(&rule.spec.expr.to_string()));
    let _ = write!(out, "\"name\":{name},\"query\":{query},\"labels\":");
    labels_json(out, &labels_of(rule));
    let kind = match &rule.spec.kind {
        RuleKind::Record(_) => "recording",
        RuleKind::Alert { annotations, .. } => {
            out.push_str(",\"annotations\":");
            let texts = annotations.iter().map(|(n, t)| (n.as_str(), t.text()));
            labels_json(out, &Labels::new(texts));
            out.push_str(",\"alerts\":");
            let shown = rule.active().filter(|_| with_alerts);
            list(out, shown, |out, a| out.push_str(&alert_json(a)));
            "alerting"
        }
    };
    let _ = write!(out, ",\"health\":\"{}\"", rule.health.name());
    if !rule.error.is_empty() {
        let _ = write!(out, ",\"lastError\":{}", text(&rule.error));
    }
    let _ = write!(
        out,
        ",\"evaluationTime\":{},\"lastEvaluation\":\"{}\",\"type\":\"{kind}\"}}",
        took.as_secs_f64(),
        when(rule.last)
    );
}

fn alert_json(alert: &Alert) -> String {
    let mut out = String::from("{\"labels\":");
    labels_json(&mut out, &alert.labels);
    out.push_str(",\"annotations\":");
    labels_json(&mut out, &Labels::new(alert.annotations.clone()));
    let _ = write!(
        out,
        ",\"state\":\"{}\",\"activeAt\":\"{}\"",
        alert.state.name(),
        time(alert.active_at)
    );
    if let Some(since) = alert.kept_since {
        let _ = write!(out, ",\"keepFiringSince\":\"{}\"", time(since));
    }
    let _ = write!(out, ",\"value\":\"{}\"}}", exponential(alert.value));
    out
}
