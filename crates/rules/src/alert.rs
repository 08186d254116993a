//! The states of an alerting rule's alerts.

use std::collections::{BTreeMap, BTreeSet};
use synod_promql::{Labels, NAME};

/// The series that say which alerts are pending or firing.
pub const ALERTS: &str = "ALERTS";
/// The series that say since when: what `for` is restored from after a restart.
pub const FOR_STATE: &str = "ALERTS_FOR_STATE";
/// How long an alert that ended is kept, so that those who were told of it are told of
/// its end, ms.
const KEPT: i64 = 15 * 60_000;
/// What was sent is valid for so many times the interval between two sendings.
const VALID_FOR: i64 = 4;

/// What an alert is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its condition does not hold.
    Inactive,
    /// It holds, but not for long enough.
    Pending,
    /// It fires.
    Firing,
}

impl State {
    /// As Prometheus writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Pending => "pending",
            State::Firing => "firing",
        }
    }
}

/// One alert of a rule. Times are Unix ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What it is doing.
    pub state: State,
    /// Its labels, `alertname` among them.
    pub labels: Labels,
    /// Its texts, in order of their names.
    pub annotations: Vec<(String, String)>,
    /// The expression's value when it held last.
    pub value: f64,
    /// Since when the condition holds.
    pub active_at: i64,
    /// Since when it fires, once it does.
    pub fired_at: Option<i64>,
    /// When it ended, if it did.
    pub resolved_at: Option<i64>,
    /// When it was handed out for sending last.
    pub sent_at: Option<i64>,
    /// Until when those who were told of it take it as firing.
    pub valid_until: i64,
    /// Since when it fires only because of `keep_firing_for`.
    pub kept_since: Option<i64>,
}

impl Alert {
    /// One whose condition holds since now.
    pub(crate) fn new(
        labels: Labels,
        annotations: Vec<(String, String)>,
        value: f64,
        at: i64,
    ) -> Alert {
        Alert {
            state: State::Pending,
            labels,
            annotations,
            value,
            active_at: at,
            fired_at: None,
            resolved_at: None,
            sent_at: None,
            valid_until: 0,
            kept_since: None,
        }
    }

    fn wants_sending(&self, at: i64, resend: i64) -> bool {
        if self.state == State::Pending {
            return false;
        }
        match self.sent_at {
            None => true,
            Some(sent) => self.resolved_at.is_some_and(|r| r > sent) || sent + resend < at,
        }
    }

    /// When it ended or, while it fires, until when it is taken as firing.
    pub fn ends_at(&self) -> i64 {
        self.resolved_at.unwrap_or(self.valid_until)
    }
}

/// All alerts of a rule, those that ended lately among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerts {
    all: BTreeMap<Labels, Alert>,
    /// How long a condition holds before its alert fires.
    pub hold: i64,
    /// How long it fires after that.
    pub keep: i64,
}

impl Alerts {
    /// None.
    pub fn new(hold: i64, keep: i64) -> Alerts {
        Alerts { all: BTreeMap::new(), hold, keep }
    }

    /// Takes what the expression gave; returns how many are active.
    pub fn update(&mut self, at: i64, found: Vec<Alert>) -> usize {
        let mut seen = BTreeSet::new();
        for new in found {
            seen.insert(new.labels.clone());
            match self.all.get_mut(&new.labels) {
                Some(known) if known.state != State::Inactive => {
                    known.value = new.value;
                    known.annotations = new.annotations;
                }
                _ => {
                    self.all.insert(new.labels.clone(), new);
                }
            }
        }
        let (hold, keep) = (self.hold, self.keep);
        self.all.retain(|labels, alert| {
            if seen.contains(labels) {
                alert.kept_since = None;
            } else if !kept(alert, at, keep) {
                let old = alert.resolved_at.is_some_and(|r| at - r > KEPT);
                if alert.state == State::Pending || old {
                    return false;
                }
                if alert.state != State::Inactive {
                    alert.state = State::Inactive;
                    alert.resolved_at = Some(at);
                }
                return true;
            }
            if alert.state == State::Pending && at - alert.active_at >= hold {
                alert.state = State::Firing;
                alert.fired_at = Some(at);
            }
            true
        });
        self.active().count()
    }

    /// Forgets all: the rule gave more than its limit.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Those that are pending or firing.
    pub fn active(&self) -> impl Iterator<Item = &Alert> {
        self.all.values().filter(|a| a.state != State::Inactive)
    }

    /// As [`Alerts::active`], to be changed.
    pub fn active_mut(&mut self) -> impl Iterator<Item = &mut Alert> {
        self.all.values_mut().filter(|a| a.state != State::Inactive)
    }

    /// Those that somebody is to be told of now, with how long they are valid.
    pub fn take_due(&mut self, at: i64, resend: i64, interval: i64) -> Vec<Alert> {
        let mut out = Vec::new();
        for alert in self.all.values_mut().filter(|a| a.wants_sending(at, resend)) {
            alert.sent_at = Some(at);
            alert.valid_until = at + VALID_FOR * resend.max(interval);
            out.push(alert.clone());
        }
        out
    }

    /// The series about the active ones.
    pub fn series(&self) -> Vec<(Labels, f64)> {
        let mut out = Vec::new();
        for alert in self.active() {
            let named = alert.labels.with(NAME, ALERTS).with("alertstate", alert.state.name());
            out.push((named, 1.0));
            let since = alert.active_at.div_euclid(1_000) as f64;
            out.push((alert.labels.with(NAME, FOR_STATE), since));
        }
        out
    }
}

/// Whether it fires on although its condition does not hold any more.
fn kept(alert: &mut Alert, at: i64, keep: i64) -> bool {
    if alert.state != State::Firing || keep == 0 {
        return false;
    }
    at - *alert.kept_since.get_or_insert(at) < keep
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn found(at: i64) -> Vec<Alert> {
        vec![Alert::new(Labels::new([("alertname", "A")]), Vec::new(), 1.0, at)]
    }

    fn states(alerts: &Alerts) -> Vec<State> {
        alerts.all.values().map(|a| a.state).collect()
    }

    #[test]
    fn an_alert_is_pending_for_so_long_and_then_fires_until_it_is_gone() {
        let mut alerts = Alerts::new(2 * MINUTE, 0);
        for (minute, state) in [(0, State::Pending), (1, State::Pending), (2, State::Firing)] {
            alerts.update(minute * MINUTE, found(minute * MINUTE));
            assert_eq!(states(&alerts), [state], "{minute}");
        }
        let fired = alerts.active().next().expect("one").clone();
        assert_eq!((fired.active_at, fired.fired_at), (0, Some(2 * MINUTE)));
        assert_eq!(alerts.update(3 * MINUTE, Vec::new()), 0);
        assert_eq!(states(&alerts), [State::Inactive]);
        // It comes back: from the beginning.
        alerts.update(4 * MINUTE, found(4 * MINUTE));
        assert_eq!(states(&alerts), [State::Pending]);
        // What only was pending leaves nothing.
        alerts.update(5 * MINUTE, Vec::new());
        assert_eq!(states(&alerts), []);
    }

    #[test]
    fn it_fires_on_for_as_long_as_it_is_to_be_kept() {
        let mut alerts = Alerts::new(0, 3 * MINUTE);
        alerts.update(0, found(0));
        for minute in 1..=3 {
            alerts.update(minute * MINUTE, Vec::new());
            assert_eq!(states(&alerts), [State::Firing], "{minute}");
        }
        // The condition holds again, so that the time begins anew.
        alerts.update(4 * MINUTE, found(4 * MINUTE));
        for (minute, state) in [(5, State::Firing), (7, State::Firing), (8, State::Inactive)] {
            alerts.update(minute * MINUTE, Vec::new());
            assert_eq!(states(&alerts), [state], "{minute}");
        }
    }

    #[test]
    fn they_are_sent_when_they_change_and_each_minute_and_for_a_while_after_the_end() {
        let mut alerts = Alerts::new(0, 0);
        let mut sent = Vec::new();
        for second in 0..1_300 {
            let at = second * 1_000;
            alerts.update(at, if second < 100 { found(at) } else { Vec::new() });
            let all = alerts.take_due(at, MINUTE, 1_000);
            sent.extend(all.into_iter().map(|a| (second, a.resolved_at.is_some(), a.ends_at())));
        }
        let firing: Vec<_> = sent.iter().filter(|s| !s.1).map(|s| (s.0, s.2)).collect();
        assert_eq!(firing, [(0, 240_000), (61, 301_000)]);
        let resolved: Vec<_> = sent.iter().filter(|s| s.1).map(|s| (s.0, s.2)).collect();
        assert_eq!(resolved[..2], [(100, 100_000), (161, 100_000)]);
        assert_eq!(resolved.last().map(|s| s.0 <= 1_000), Some(true), "{resolved:?}");
        assert_eq!(states(&alerts), []);
    }
}
