//! Groups of rules, and one evaluation of them.

use crate::alert::{Alert, Alerts, FOR_STATE};
use crate::file::{GroupSpec, Place, RuleKind, RuleSpec};
use crate::template::{Context, Template};
use crate::{Observed, observed, samples};
use std::collections::BTreeSet;
use std::sync::Arc;
use synod_promql::{Histogram, Labels, Limits, Matcher, NAME, Query, STALE, Source, is_stale};

/// Label with an alert's name.
const ALERTNAME: &str = "alertname";

/// Where series come from and go to.
pub trait Store: Source {
    /// Takes samples of one time; gives how many were refused.
    fn append(&self, at: i64, samples: &[(Labels, f64)]) -> usize;

    /// The same of histograms.
    fn append_histograms(&self, at: i64, all: &[(Labels, Arc<Histogram>)]) -> usize;
}

/// What all groups have in common.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$externalLabels`.
    pub external_labels: Labels,
    /// `$externalURL`: where this server's pages are.
    pub external_url: String,
    /// What the queries of a rule may take.
    pub limits: Limits,
}

/// How the last evaluation of a rule went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// There was none.
    Unknown,
    /// It worked.
    Good,
    /// It failed.
    Bad,
}

impl Health {
    /// As Prometheus writes it.
    pub fn name(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Good => "ok",
            Health::Bad => "err",
        }
    }
}

/// How states are brought back after a restart; ms.
#[derive(Clone, Copy, Debug)]
pub struct Restore {
    /// A longer outage begins all alerts anew.
    pub tolerance: i64,
    /// An alert that was pending does not fire sooner than that; rules whose `for` is
    /// shorter are not restored.
    pub grace: i64,
}

impl Default for Restore {
    fn default() -> Restore {
        Restore { tolerance: 3_600_000, grace: 600_000 }
    }
}

/// A rule and what is known of it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its labels, expression and so on.
    pub spec: RuleSpec,
    /// How its last evaluation went.
    pub health: Health,
    /// Why that failed; empty if it did not.
    pub error: String,
    /// When it was evaluated last, Unix ms.
    pub last: Option<i64>,
    /// Samples that the store refused in all evaluations.
    pub refused: u64,
    /// The series that it gave last.
    given: BTreeSet<Labels>,
    alerts: Alerts,
    /// Its alerts' states are back from before the restart, or there was none.
    restored: bool,
}

impl Rule {
    fn new(spec: RuleSpec) -> Rule {
        let alerts = match &spec.kind {
            RuleKind::Alert { hold, keep, .. } => Alerts::new(*hold, *keep),
            RuleKind::Record(_) => Alerts::default(),
        };
        Rule {
            spec,
            health: Health::Unknown,
            error: String::new(),
            last: None,
            refused: 0,
            given: BTreeSet::new(),
            alerts,
            restored: true,
        }
    }

    /// Its alerts that are pending or firing.
    pub fn active(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.active()
    }

    /// Whether it is the same rule, so that what is known of the one holds for the other.
    fn is(&self, other: &Rule) -> bool {
        let texts = |all: &[(String, Template)]| -> Vec<(String, String)> {
            all.iter().map(|(n, t)| (n.clone(), t.text().to_owned())).collect()
        };
        let alerts = |r: &Rule| matches!(r.spec.kind, RuleKind::Alert { .. });
        self.spec.name() == other.spec.name()
            && alerts(self) == alerts(other)
            && texts(&self.spec.labels) == texts(&other.spec.labels)
    }
}

/// A group of rules that are evaluated one after the other.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name, once in a file.
    pub name: String,
    /// The file.
    pub file: String,
    /// How often it is evaluated, ms.
    pub interval: i64,
    /// How far back from now it looks, ms.
    pub offset: i64,
    /// Series or alerts of a rule, at most; 0: as many as there are.
    pub limit: usize,
    /// In their order.
    pub rules: Vec<Rule>,
    environment: Arc<Environment>,
}

/// The last moment at or before `now` at which a group is due: groups of one interval are
/// spread over it, always in the same way.
pub fn slot(file: &str, group: &str, interval: i64, now: i64) -> i64 {
    let interval = interval.max(1);
    // FNV-1a.
    let hash =
        file.bytes().chain([0xff]).chain(group.bytes()).fold(0xcbf2_9ce4_8422_2325, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3u64)
        });
    let shift = (hash % interval as u64) as i64;
    (now - shift).div_euclid(interval) * interval + shift
}

impl Group {
    /// A group of a file; `interval` and `offset` hold where the file says nothing.
    pub fn new(
        spec: GroupSpec,
        file: &str,
        interval: i64,
        offset: i64,
        environment: Arc<Environment>,
    ) -> Group {
        Group {
            name: spec.name,
            file: file.to_owned(),
            interval: spec.interval.unwrap_or(interval).max(1),
            offset: spec.query_offset.unwrap_or(offset),
            limit: spec.limit,
            rules: spec.rules.into_iter().map(Rule::new).collect(),
            environment,
        }
    }

    /// Takes over what is known of the rules that another group, read before, has too; the
    /// series of those that are not here any more end.
    pub fn take_over(&mut self, mut old: Group, at: i64, store: &dyn Store) {
        for rule in &mut self.rules {
            let Some(place) = old.rules.iter().position(|r| r.is(rule)) else { continue };
            let known = old.rules.swap_remove(place);
            let (hold, keep) = (rule.alerts.hold, rule.alerts.keep);
            rule.health = known.health;
            rule.error = known.error;
            rule.last = known.last;
            rule.refused = known.refused;
            rule.given = known.given;
            rule.restored = known.restored;
            rule.alerts = known.alerts;
            (rule.alerts.hold, rule.alerts.keep) = (hold, keep);
        }
        old.end(at, store);
    }

    /// The series of all rules end: the group is not wanted any more.
    pub fn end(&mut self, at: i64, store: &dyn Store) {
        for rule in &mut self.rules {
            let ended: Vec<(Labels, f64)> =
                std::mem::take(&mut rule.given).into_iter().map(|l| (l, STALE)).collect();
            if !ended.is_empty() {
                store.append(at - self.offset, &ended);
            }
        }
    }

    /// From now on, until [`Group::restore`], alerting rules write no series: those of before
    /// the restart are to be read first.
    pub fn await_restore(&mut self) {
        for rule in &mut self.rules {
            rule.restored = !matches!(rule.spec.kind, RuleKind::Alert { .. });
        }
    }

    /// Evaluates all rules.
    pub fn eval(&mut self, at: i64, store: &dyn Store) {
        for rule in 0..self.rules.len() {
            self.eval_rule(rule, at, store);
        }
    }

    /// Evaluates one rule; what it gives is in the store before this returns.
    pub fn eval_rule(&mut self, index: usize, at: i64, store: &dyn Store) {
        let environment = self.environment.clone();
        let (limit, offset) = (self.limit, self.offset);
        let Some(rule) = self.rules.get_mut(index) else { return };
        rule.last = Some(at);
        let given = match &rule.spec.kind {
            RuleKind::Record(name) => {
                record(&rule.spec, name, at - offset, store, &environment, limit)
            }
            RuleKind::Alert { .. } => {
                let given = rule.alert(at, offset, store, &environment, limit);
                let number = |(labels, value)| (labels, Observed::Number(value));
                given.map(|given| given.into_iter().map(number).collect())
            }
        };
        let given = match given {
            Ok(given) => given,
            Err(why) => {
                (rule.health, rule.error) = (Health::Bad, why);
                return;
            }
        };
        (rule.health, rule.error) = (Health::Good, String::new());
        let labels: BTreeSet<Labels> = given.iter().map(|(l, _)| l.clone()).collect();
        let gone = rule.given.difference(&labels).map(|l| (l.clone(), STALE));
        let (mut numbers, mut histograms) = (Vec::with_capacity(given.len()), Vec::new());
        for (labels, observed) in given {
            match observed {
                Observed::Number(value) => numbers.push((labels, value)),
                Observed::Histogram(histogram) => histograms.push((labels, histogram)),
            }
        }
        numbers.extend(gone);
        rule.refused += store.append(at - offset, &numbers) as u64;
        if !histograms.is_empty() {
            rule.refused += store.append_histograms(at - offset, &histograms) as u64;
        }
        rule.given = labels;
    }

    /// Brings back since when alerts are active, from the series that were written before a
    /// restart. To be called after an evaluation, so that it is known which are.
    pub fn restore(&mut self, at: i64, store: &dyn Store, how: &Restore) -> Result<(), String> {
        for rule in &mut self.rules {
            if rule.restored {
                continue;
            }
            if rule.alerts.hold >= how.grace && rule.alerts.active().next().is_some() {
                rule.restore(at, store, how)?;
            }
            rule.restored = true;
        }
        Ok(())
    }

    /// The alerts that somebody is to be told of now; again if they were told longer ago than
    /// `resend` ms.
    pub fn take_due(&mut self, at: i64, resend: i64) -> Vec<(usize, Alert)> {
        let (mut out, interval) = (Vec::new(), self.interval);
        for (index, rule) in self.rules.iter_mut().enumerate() {
            let alerts = rule.alerts.take_due(at, resend, interval);
            out.extend(alerts.into_iter().map(|a| (index, a)));
        }
        out
    }
}

fn over(limit: usize, count: usize, what: &str) -> Result<(), String> {
    if limit > 0 && count > limit {
        return Err(format!("exceeded limit of {limit} with {count} {what}"));
    }
    Ok(())
}

/// The series of a recording rule.
fn record(
    spec: &RuleSpec,
    name: &str,
    at: i64,
    source: &dyn Source,
    environment: &Environment,
    limit: usize,
) -> Result<Vec<(Labels, Observed)>, String> {
    let found = observed(&spec.expr, Query::instant(at), source, environment.limits)?;
    let mut seen = BTreeSet::new();
    let mut out = Vec::with_capacity(found.len());
    for (labels, value) in found {
        let mut labels = labels.with(NAME, name);
        for (label, text) in &spec.labels {
            labels = labels.with(label, text.text());
        }
        if !seen.insert(labels.clone()) {
            return Err("vector contains metrics with the same labelset after applying rule \
                        labels"
                .into());
        }
        out.push((labels, value));
    }
    over(limit, out.len(), "series")?;
    Ok(out)
}

impl Rule {
    /// The series of an alerting rule.
    fn alert(
        &mut self,
        at: i64,
        offset: i64,
        source: &dyn Source,
        environment: &Environment,
        limit: usize,
    ) -> Result<Vec<(Labels, f64)>, String> {
        let RuleKind::Alert { name, annotations, .. } = &self.spec.kind else {
            return Ok(Vec::new());
        };
        let limits = environment.limits;
        let found = samples(&self.spec.expr, Query::instant(at - offset), source, limits)?;
        let mut seen = BTreeSet::new();
        let mut alerts = Vec::with_capacity(found.len());
        for (series, value) in found {
            let context = Context {
                labels: &series,
                value,
                external_labels: &environment.external_labels,
                external_url: &environment.external_url,
                at,
                source,
                limits,
            };
            let expand = |t: &Template| {
                t.expand(&context).unwrap_or_else(|e| format!("<error expanding template: {e}>"))
            };
            let mut labels = series.nameless();
            for (label, template) in &self.spec.labels {
                labels = labels.with(label, &expand(template));
            }
            let labels = labels.with(ALERTNAME, name);
            let texts = annotations.iter().map(|(n, t)| (n.clone(), expand(t))).collect();
            if !seen.insert(labels.clone()) {
                return Err("vector contains metrics with the same labelset after applying alert \
                            labels"
                    .into());
            }
            alerts.push(Alert::new(labels, texts, value, at));
        }
        let active = self.alerts.update(at, alerts);
        if let Err(why) = over(limit, active, "alerts") {
            self.alerts.clear();
            return Err(why);
        }
        Ok(if self.restored { self.alerts.series() } else { Vec::new() })
    }

    fn restore(&mut self, at: i64, store: &dyn Store, how: &Restore) -> Result<(), String> {
        let matchers =
            [Matcher::new(NAME, "=", FOR_STATE)?, Matcher::new(ALERTNAME, "=", self.spec.name())?];
        let found = store.select(&matchers, at - how.tolerance, at)?;
        let hold = self.alerts.hold;
        for alert in self.alerts.active_mut() {
            let wanted = alert.labels.with(NAME, FOR_STATE);
            let series = found.iter().find(|s| s.labels == wanted);
            let Some(last) = series.and_then(|s| s.samples.last()) else { continue };
            if is_stale(last.value) || !last.value.is_finite() {
                continue;
            }
            let since = (last.value as i64).saturating_mul(1_000);
            let left = hold - (last.at - since);
            alert.active_at = if left <= 0 {
                // It fired: it does so again at the next evaluation.
                since
            } else if left < how.grace {
                at + how.grace - hold
            } else {
                // The outage does not count.
                since + (at - last.at)
            };
        }
        Ok(())
    }

    /// Where it stands in its file.
    pub fn place(&self) -> Place {
        self.spec.place
    }
}

#[cfg(test)]
mod tests;
