//! Groups on a store in memory.

use super::*;
use crate::alert::State;
use crate::file::RuleFile;
use crate::unit::MemoryStore;

const MINUTE: i64 = 60_000;

fn group(rules: &str) -> Group {
    let text = format!("groups:\n  - name: g\n    rules:\n{rules}");
    let file = RuleFile::parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let spec = file.groups.into_iter().next().expect("a group");
    Group::new(spec, "f.yml", MINUTE, 0, Arc::default())
}

fn put(store: &MemoryStore, at: i64, series: &[(&str, f64)]) {
    let samples: Vec<_> = series
        .iter()
        .map(|(job, v)| (Labels::new([("__name__", "x"), ("job", job)]), *v))
        .collect();
    store.append(at, &samples);
}

fn values(store: &MemoryStore, query: &str, at: i64) -> Vec<(String, f64)> {
    let node = synod_promql::parse(query).expect("a query");
    let found = samples(&node, Query::instant(at), store, Limits::default()).expect("a value");
    found.into_iter().map(|(l, v)| (l.to_string(), v)).collect()
}

#[test]
fn a_rule_sees_what_the_one_before_it_gave_and_series_end_when_they_are_gone() {
    let store = MemoryStore::default();
    let mut group = group(
        "    - {record: 'y', expr: 'x * 2', labels: {by: rule}}\n    - {record: z, expr: 'sum(y)'}\n",
    );
    put(&store, 0, &[("a", 1.0), ("b", 2.0)]);
    group.eval(0, &store);
    assert_eq!(values(&store, "z", 0), [("z".to_owned(), 6.0)]);
    put(&store, MINUTE, &[("a", STALE), ("b", 3.0)]);
    group.eval(MINUTE, &store);
    assert_eq!(values(&store, "y", MINUTE), [("y{by=\"rule\", job=\"b\"}".to_owned(), 6.0)]);
    group.end(2 * MINUTE, &store);
    assert_eq!(values(&store, "{__name__=~\"y|z\"}", 2 * MINUTE), []);
}

#[test]
fn a_failure_is_kept_with_its_reason_and_the_next_evaluation_heals() {
    let store = MemoryStore::default();
    let mut group =
        group("    - {record: y, expr: 'label_replace(x, \"job\", \"\", \"\", \"\")'}\n");
    put(&store, 0, &[("a", 1.0), ("b", 2.0)]);
    group.eval(0, &store);
    assert_eq!(group.rules[0].health, Health::Bad);
    assert!(group.rules[0].error.contains("same labelset"), "{}", group.rules[0].error);
    put(&store, MINUTE, &[("a", STALE), ("b", 3.0)]);
    group.eval(MINUTE, &store);
    assert_eq!((group.rules[0].health, group.rules[0].error.as_str()), (Health::Good, ""));
    group.limit = 1;
    put(&store, 2 * MINUTE, &[("a", 1.0), ("b", 3.0)]);
    let mut limited = self::group("    - {alert: A, expr: x}\n");
    limited.limit = 1;
    limited.eval(2 * MINUTE, &store);
    assert_eq!(limited.rules[0].error, "exceeded limit of 1 with 2 alerts");
    assert_eq!(limited.rules[0].active().count(), 0);
}

const HELD: &str = "    - {alert: A, expr: x, for: 30m}\n";

/// Runs until a minute, then restarts after an outage and evaluates twice; gives since when
/// the alert is taken as active, in minutes.
fn restarted(until: i64, outage: i64) -> f64 {
    let store = MemoryStore::default();
    let mut before = group(HELD);
    for minute in 0..=until {
        put(&store, minute * MINUTE, &[("a", 1.0)]);
        before.eval(minute * MINUTE, &store);
    }
    let mut after = group(HELD);
    after.await_restore();
    let at = (until + outage) * MINUTE;
    put(&store, at, &[("a", 1.0)]);
    after.eval(at, &store);
    let written = values(&store, "count_over_time(ALERTS_FOR_STATE[1m])", at);
    assert_eq!(written.len(), usize::from(outage < 1), "not before it was restored: {written:?}");
    after.restore(at, &store, &Restore::default()).expect("restored");
    let active = after.rules[0].active().next().expect("an alert").active_at;
    active as f64 / MINUTE as f64
}

#[test]
fn for_goes_on_after_a_restart() {
    // It had 20 minutes to go; the outage of 5 does not count.
    assert_eq!(restarted(10, 5), 5.0);
    // It fired: it does so again at once.
    assert_eq!(restarted(40, 5), 0.0);
    // It had 5 minutes to go: it gets the grace of 10.
    assert_eq!(restarted(25, 5), 30.0 + 10.0 - 30.0);
    // More than the tolerance: from the beginning.
    assert_eq!(restarted(10, 70), 80.0);
}

#[test]
fn what_is_known_outlives_a_reload() {
    let store = MemoryStore::default();
    let mut old = group("    - {alert: A, expr: x, for: 2m}\n    - {record: gone, expr: x}\n");
    for minute in 0..3 {
        put(&store, minute * MINUTE, &[("a", 1.0)]);
        old.eval(minute * MINUTE, &store);
    }
    assert_eq!(values(&store, "gone", 2 * MINUTE).len(), 1);
    let mut new = group("    - {alert: B, expr: x}\n    - {alert: A, expr: 'x > 0', for: 2m}\n");
    new.take_over(old, 2 * MINUTE + 1, &store);
    assert_eq!(values(&store, "gone", 2 * MINUTE + 1).len(), 0);
    put(&store, 3 * MINUTE, &[("a", 1.0)]);
    new.eval(3 * MINUTE, &store);
    let states: Vec<_> = new.rules.iter().flat_map(Rule::active).map(|a| a.state).collect();
    assert_eq!(states, [State::Firing, State::Firing]);
    assert_eq!(new.rules[1].active().next().map(|a| a.active_at), Some(0));
}

#[test]
fn groups_are_spread_over_their_interval_in_a_steady_way() {
    let slots: BTreeSet<i64> =
        (0..50).map(|i| slot("f", &format!("g{i}"), MINUTE, 1_000_000_000) % MINUTE).collect();
    assert!(slots.len() > 40, "{slots:?}");
    for now in 0..1_000 {
        let due = slot("f", "g", MINUTE, now * 1_234);
        assert!(due <= now * 1_234 && due > now * 1_234 - MINUTE);
        assert_eq!(slot("f", "g", MINUTE, due), due);
        assert_eq!(slot("f", "g", MINUTE, due + MINUTE), due + MINUTE);
    }
}
