//! Alerts in the shape of Alertmanager's webhooks, version 4: one message for all alerts of
//! a rule group, when one of them changes.

use super::notify::{Notice, time};
use crate::json::{labels as labels_json, list, text};
use std::collections::BTreeMap;
use std::fmt::Write;
use synod_promql::{Labels, NAME};

/// A group whose alerts do not change is told of again after so long, ms.
const REPEAT: i64 = 4 * 3_600_000;
/// A firing alert has no end yet.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// What a receiver knows of a group.
#[derive(Default)]
struct Told {
    alerts: BTreeMap<Labels, Notice>,
    last: i64,
}

/// What a receiver knows.
#[derive(Default)]
pub(super) struct Known {
    groups: BTreeMap<(String, String), Told>,
}

impl Known {
    /// The messages that these make necessary, each with how many alerts it tells of.
    pub fn messages(&mut self, notices: Vec<Notice>, now: i64, url: &str) -> Vec<(usize, String)> {
        let mut changed = BTreeMap::new();
        for notice in notices {
            let told = self.groups.entry(notice.group.clone()).or_default();
            let before = told.alerts.get(&notice.labels).map(|n| n.resolved);
            // The end of what it never heard of is no news.
            let news = match before {
                Some(resolved) => resolved != notice.resolved,
                None => !notice.resolved,
            };
            let due = now - told.last >= REPEAT && !told.alerts.is_empty();
            *changed.entry(notice.group.clone()).or_insert(false) |= news || due;
            if news || before.is_some() {
                told.alerts.insert(notice.labels.clone(), notice);
            }
        }
        let mut out = Vec::new();
        for group in changed.into_iter().filter(|(_, changed)| *changed).map(|(group, _)| group) {
            let Some(told) = self.groups.get_mut(&group) else { continue };
            let alerts: Vec<&Notice> = told.alerts.values().collect();
            out.push((alerts.len(), message(&group, &alerts, url)));
            told.last = now;
            told.alerts.retain(|_, n| !n.resolved);
        }
        self.groups.retain(|_, told| !told.alerts.is_empty());
        out
    }
}

/// What all have in common.
fn common<'a>(all: impl IntoIterator<Item = Labels> + 'a) -> Labels {
    let mut all = all.into_iter();
    let first = all.next().unwrap_or_default();
    all.fold(first, |common, next| Labels::new(common.iter().filter(|(n, v)| next.get(n) == *v)))
}

/// A number that tells the alert from others, made as Alertmanager makes it.
fn fingerprint(labels: &Labels) -> String {
    let bytes = labels.iter().flat_map(|(n, v)| {
        n.bytes().chain([0xff]).chain(v.bytes()).chain([0xff]).collect::<Vec<u8>>()
    });
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn status(resolved: bool) -> &'static str {
    if resolved { "resolved" } else { "firing" }
}

fn alert(out: &mut String, notice: &Notice) {
    let _ = write!(out, "{{\"status\":\"{}\",\"labels\":", status(notice.resolved));
    labels_json(out, &notice.labels);
    out.push_str(",\"annotations\":");
    labels_json(out, &Labels::new(notice.annotations.clone()));
    let ends = if notice.resolved { time(notice.ends) } else { NO_TIME.to_owned() };
    let _ = write!(
        out,
        ",\"startsAt\":\"{}\",\"endsAt\":\"{ends}\",\"generatorURL\":{},\"fingerprint\":\"{}\"}}",
        time(notice.starts),
        text(&notice.link),
        fingerprint(&notice.labels)
    );
}

fn message(group: &(String, String), alerts: &[&Notice], url: &str) -> String {
    let of_group = Labels::new([("rule_group", &*group.1)]);
    let key = format!("{{}}:{}", Labels::new([("rule_group", format!("{};{}", group.0, group.1))]));
    let resolved = alerts.iter().all(|a| a.resolved);
    let mut out = format!(
        "{{\"version\":\"4\",\"groupKey\":{},\"truncatedAlerts\":0,\"status\":\"{}\",\
         \"receiver\":\"synod\",\"groupLabels\":",
        text(&key),
        status(resolved)
    );
    labels_json(&mut out, &of_group);
    out.push_str(",\"commonLabels\":");
    labels_json(&mut out, &common(alerts.iter().map(|a| a.labels.without(&[NAME.to_owned()]))));
    out.push_str(",\"commonAnnotations\":");
    labels_json(&mut out, &common(alerts.iter().map(|a| Labels::new(a.annotations.clone()))));
    let _ = write!(out, ",\"externalURL\":{},\"alerts\":", text(url));
    list(&mut out, alerts, |out, n| alert(out, n));
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn notice(job: &str, resolved: bool) -> Notice {
        Notice {
            labels: Labels::new([("alertname", "A"), ("job", job)]),
            annotations: vec![("summary".into(), "s".into())],
            starts: 1_000,
            ends: 2_500,
            resolved,
            link: "/graph".into(),
            group: ("f.yml".into(), "g".into()),
        }
    }

    fn told(known: &mut Known, now: i64, notices: Vec<Notice>) -> Vec<Value> {
        let messages = known.messages(notices, now, "http://x");
        messages.iter().map(|(_, m)| serde_json::from_str(m).expect("JSON")).collect()
    }

    #[test]
    fn one_message_a_group_and_only_news() {
        let mut known = Known::default();
        let first = told(&mut known, 0, vec![notice("a", false), notice("b", false)]);
        assert_eq!(first.len(), 1);
        let m = &first[0];
        assert_eq!((&m["version"], &m["status"]), (&json!("4"), &json!("firing")));
        assert_eq!(m["groupLabels"], json!({"rule_group": "g"}));
        assert_eq!(m["commonLabels"], json!({"alertname": "A"}));
        assert_eq!(m["commonAnnotations"], json!({"summary": "s"}));
        assert_eq!(m["alerts"][0]["startsAt"], "1970-01-01T00:00:01.000Z");
        assert_eq!(m["alerts"][0]["endsAt"], NO_TIME);
        assert_eq!(m["alerts"].as_array().map(Vec::len), Some(2));
        // The same again is no news; an end is, with what still fires beside it.
        assert!(told(&mut known, 60_000, vec![notice("a", false)]).is_empty());
        let second = told(&mut known, 61_000, vec![notice("a", true)]);
        assert_eq!(second[0]["status"], "firing");
        assert_eq!(second[0]["alerts"][0]["status"], "resolved");
        assert_eq!(second[0]["alerts"][0]["endsAt"], "1970-01-01T00:00:02.500Z");
        let third = told(&mut known, 62_000, vec![notice("a", true), notice("b", true)]);
        assert_eq!(third[0]["status"], "resolved");
        assert_eq!(third[0]["alerts"].as_array().map(Vec::len), Some(1));
        assert!(told(&mut known, 63_000, vec![notice("b", true)]).is_empty());
        // What goes on for hours is told of again.
        told(&mut known, 70_000, vec![notice("a", false)]);
        assert_eq!(told(&mut known, 70_000 + REPEAT, vec![notice("a", false)]).len(), 1);
    }

    #[test]
    fn the_fingerprint_is_that_of_alertmanager() {
        // Of an empty set it is the hash's beginning, 14695981039346656037.
        assert_eq!(fingerprint(&Labels::default()), "cbf29ce484222325");
        let one = fingerprint(&Labels::new([("a", "b")]));
        assert_ne!(one, fingerprint(&Labels::new([("ab", "")])));
    }
}
