//! The instances that a service has: who may register, what is seen of them, and who
//! follows whom when an operator asks for another.

use crate::prefix_range;
use crate::queue::key_of;
use crate::service::{InstanceRecord, SERVICES, SILENCES, ServiceMode, instance_key, office};
use crate::steps::is;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use synod_mvcc::{Compare, CompareResult, CompareTarget, KeyValue, Op, PutRequest, TxnRequest};

/// Longest name of a service or an instance, bytes.
const NAME_BYTES_MAX: usize = 128;

/// Whether a service or an instance can be called so; the words say why not.
pub fn check_service_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
        return Err(format!(
            "{what} {name:?}: 1 to {NAME_BYTES_MAX} printable ASCII characters, without / and blanks"
        ));
    }
    Ok(())
}

/// An instance, as the whole cell has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Instance {
    /// Its service.
    pub service: String,
    /// What it is called.
    pub instance: String,
    /// Its session.
    pub session: i64,
    /// When that ends unless it is renewed: ms of the cell's lease clock; 0: not known.
    pub ends_ms: u64,
    /// What its agent says of it.
    pub record: InstanceRecord,
    /// Why its agent is taken to be silent, if it is.
    pub silent: Option<String>,
    /// Whether it has the office by the token that its record tells.
    pub in_office: bool,
}

impl Instance {
    /// Whether it is one of those that clients should be sent to. Of an active one of
    /// active/passive a silence says nothing for certain, and there is no other; but
    /// who has lost the office is none. In active/active a silence is enough.
    pub fn is_active(&self) -> bool {
        let fit = match self.record.mode {
            ServiceMode::ActivePassive => self.in_office,
            ServiceMode::ActiveActive => self.silent.is_none(),
        };
        self.record.active && fit
    }

    /// Whether it could serve.
    pub fn is_healthy(&self) -> bool {
        self.record.healthy == Some(true) && self.silent.is_none()
    }
}

/// A pair that is an instance's record: bound to a session.
fn record_of(kv: &KeyValue) -> Option<InstanceRecord> {
    InstanceRecord::decode(&kv.value).filter(|_| kv.lease != 0)
}

/// The instances, of the pairs below [`SERVICES`], [`SILENCES`] and [`office`] (of all
/// services or of one) at one revision.
pub fn read_instances(
    records: &[KeyValue],
    silences: &[KeyValue],
    offices: &[KeyValue],
) -> Vec<Instance> {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let marks: BTreeMap<&[u8], &KeyValue> =
        silences.iter().filter_map(|kv| Some((kv.key.get(SILENCES.len()..)?, kv))).collect();
    let tokens: BTreeMap<&[u8], i64> =
        offices.iter().map(|kv| (&kv.key[..], kv.create_revision)).collect();
    let instance = |kv: &KeyValue| {
        let own = kv.key.get(SERVICES.len()..)?;
        let (service, instance) = std::str::from_utf8(own).ok()?.split_once('/')?;
        let record = record_of(kv)?;
        let place = key_of(office(service).as_bytes(), kv.lease);
        Some(Instance {
            service: service.to_owned(),
            instance: instance.to_owned(),
            session: kv.lease,
            ends_ms: 0,
            in_office: record.token != 0 && tokens.get(&place[..]) == Some(&record.token),
            record,
            silent: marks.get(own).map(|mark| words(&mark.value)),
        })
    };
    records.iter().filter_map(instance).collect()
}

/// Why an instance cannot be registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unregistered {
    /// Another session is this instance.
    Taken(i64),
    /// The session is another instance of the service.
    Another(String),
    /// The service's instances, this one among them, are of another mode.
    OtherMode(String, ServiceMode),
}

/// Registers a session as an instance, or changes what is known of it. `there`: the
/// pairs of the service's instances at the revision `seen`. If they have changed since,
/// the transaction fails.
pub fn register(
    (service, instance): (&str, &str),
    session: i64,
    record: &InstanceRecord,
    there: &[KeyValue],
    seen: i64,
) -> Result<TxnRequest, Unregistered> {
    let key = Bytes::from(instance_key(service, instance));
    let of_service = instance_key(service, "");
    let own = there.iter().find(|kv| kv.key == key).and_then(|kv| Some((kv, record_of(kv)?)));
    let put = PutRequest {
        key: key.clone(),
        value: record.encode(),
        lease: session,
        ..PutRequest::default()
    };
    let success = vec![Op::Put(put)];
    let failure = Vec::new();
    match own {
        // The others do not matter to one that stays what it is.
        Some((kv, before)) if kv.lease == session && before.mode == record.mode => {
            let compare = vec![is(&key, CompareTarget::Lease(session))];
            return Ok(TxnRequest { compare, success, failure });
        }
        Some((kv, _)) if kv.lease != session => {
            return Err(Unregistered::Taken(kv.lease));
        }
        _ => {}
    }
    let name = |kv: &KeyValue| String::from_utf8_lossy(&kv.key[of_service.len()..]).into_owned();
    let others = || there.iter().filter(|kv| kv.key != key);
    if let Some(kv) = others().find(|kv| kv.lease == session && record_of(kv).is_some()) {
        return Err(Unregistered::Another(name(kv)));
    }
    let other =
        others().find_map(|kv| Some((kv, record_of(kv)?)).filter(|o| o.1.mode != record.mode));
    if let Some((kv, other)) = other {
        return Err(Unregistered::OtherMode(name(kv), other.mode));
    }
    let unchanged = Compare {
        range: prefix_range(of_service.as_bytes()),
        target: CompareTarget::Mod(seen + 1),
        result: CompareResult::Less,
    };
    Ok(TxnRequest { compare: vec![unchanged], success, failure })
}

impl fmt::Display for Unregistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unregistered::Taken(session) => {
                write!(f, "another session, {session:x}, is this instance")
            }
            Unregistered::Another(instance) => {
                write!(f, "its session is the instance {instance:?} already")
            }
            Unregistered::OtherMode(instance, mode) => {
                write!(f, "the service is {mode}: its instance {instance:?} is")
            }
        }
    }
}

/// The instance that shall step down when an operator wants `to` to be active (or, if
/// that is empty, whichever follows); the words say why none can.
pub fn hands_over<'a>(
    service: &str,
    instances: &'a [Instance],
    to: &str,
) -> Result<&'a Instance, String> {
    if instances.is_empty() {
        return Err(format!("there is no service {service}"));
    }
    if instances.iter().any(|i| i.record.mode == ServiceMode::ActiveActive) {
        return Err(format!(
            "service {service} is active/active: all its healthy instances are active"
        ));
    }
    let active = instances.iter().find(|i| i.is_active());
    let before = active
        .ok_or_else(|| format!("service {service} has no active instance that could step down"))?;
    let mut fit = instances.iter().filter(|i| i.instance != before.instance && i.is_healthy());
    if to == before.instance {
        return Err(format!("{to} is active already"));
    }
    if to.is_empty() {
        return match fit.next() {
            Some(_) => Ok(before),
            None => Err(format!("{service} has no other healthy instance")),
        };
    }
    match fit.any(|i| i.instance == to) {
        true => Ok(before),
        false => Err(format!("{service} has no healthy instance {to}")),
    }
}

/// The instance that has followed `before`: `to`, or any other if that is empty.
pub fn follower<'a>(
    instances: &'a [Instance],
    before: &Instance,
    to: &str,
) -> Option<&'a Instance> {
    let wanted = |i: &Instance| match to {
        "" => i.instance != before.instance,
        to => i.instance == to,
    };
    let later = |i: &Instance| i.in_office && i.record.token > before.record.token;
    instances.iter().find(|i| wanted(i) && later(i) && i.is_active())
}

/// Whether `own` need not leave the office to `to` (to any other, if that is empty) any
/// longer: that is active, or cannot be.
pub fn need_not_wait(instances: &[Instance], own: &str, to: &str) -> bool {
    let wanted = |i: &&Instance| match to {
        "" => i.instance != own,
        to => i.instance == to,
    };
    let others = || instances.iter().filter(wanted);
    others().any(Instance::is_active) || !others().any(Instance::is_healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: String, value: Bytes, lease: i64, created: i64) -> KeyValue {
        let (key, mod_revision) = (key.into(), created);
        KeyValue { key, value, lease, create_revision: created, mod_revision, version: 1 }
    }

    fn record(mode: ServiceMode, active: bool, token: i64) -> InstanceRecord {
        let healthy = Some(true);
        InstanceRecord { mode, healthy, active, token, ..InstanceRecord::default() }
    }

    fn pair(instance: &str, session: i64, record: &InstanceRecord) -> KeyValue {
        kv(instance_key("web", instance), record.encode(), session, session)
    }

    use ServiceMode::{ActiveActive, ActivePassive};

    #[test]
    fn an_instance_is_one_session_of_the_mode_that_its_service_has() {
        let passive = record(ActivePassive, false, 0);
        let there = [pair("a", 1, &passive), pair("b", 2, &passive)];
        let ask = |instance, session, mode, there: &[KeyValue]| {
            register(("web", instance), session, &record(mode, false, 0), there, 9)
        };
        assert_eq!(ask("a", 3, ActivePassive, &there), Err(Unregistered::Taken(1)));
        let other = Unregistered::OtherMode("a".into(), ActivePassive);
        assert_eq!(ask("c", 3, ActiveActive, &there), Err(other));
        assert_eq!(ask("c", 2, ActivePassive, &there), Err(Unregistered::Another("b".into())));
        // One that stays what it is depends on nobody; one that is new, on all.
        let again = ask("a", 1, ActivePassive, &there).expect("its own");
        assert_eq!(again.compare[0].target, CompareTarget::Lease(1));
        let new = ask("c", 3, ActivePassive, &there).expect("free");
        assert_eq!(new.compare[0].target, CompareTarget::Mod(10));
        // Alone, it may be of another mode.
        assert!(ask("a", 1, ActiveActive, &there[..1]).is_ok());
        assert!(ask("a", 1, ActiveActive, &there).is_err());
        // What is bound to no session is no instance.
        let stray = [kv(instance_key("web", "a"), passive.encode(), 0, 5)];
        assert!(ask("a", 1, ActiveActive, &stray).is_ok());
    }

    /// Instances: (name, session, active by token).
    fn read(all: &[(&str, i64, i64)], office: (i64, i64)) -> Vec<Instance> {
        let one = |(name, session, token): &(&str, i64, i64)| {
            pair(name, *session, &record(ActivePassive, *token != 0, *token))
        };
        let place = String::from_utf8(key_of(office_of_web().as_bytes(), office.0).to_vec());
        let places = [kv(place.expect("text"), Bytes::new(), office.0, office.1)];
        read_instances(&all.iter().map(one).collect::<Vec<_>>(), &[], &places)
    }

    fn office_of_web() -> String {
        office("web")
    }

    fn active(all: &[Instance]) -> Vec<&str> {
        all.iter().filter(|i| i.is_active()).map(|i| &i.instance[..]).collect()
    }

    #[test]
    fn who_has_lost_the_office_is_not_active_whatever_it_says() {
        let all = read(&[("a", 1, 10), ("b", 2, 20)], (2, 20));
        assert_eq!(active(&all), ["b"]);
        assert!(active(&read(&[("a", 1, 10)], (1, 11))).is_empty(), "by another token");
    }

    #[test]
    fn a_silent_one_of_many_is_not_offered() {
        let records = [pair("a", 1, &record(ActiveActive, true, 0))];
        let mark = kv(crate::silence_key("web", "a"), Bytes::from("late"), 1, 5);
        assert_eq!(active(&read_instances(&records, &[], &[])), ["a"]);
        let silent = read_instances(&records, &[mark], &[]);
        assert!(active(&silent).is_empty() && !silent[0].is_healthy());
        assert_eq!(silent[0].silent.as_deref(), Some("late"));
    }

    #[test]
    fn an_operator_is_told_why_nobody_can_follow() {
        let why = |all: &[Instance], to| hands_over("web", all, to).expect_err("nobody");
        assert!(why(&[], "").contains("no service"));
        let alone = read(&[("a", 1, 10)], (1, 10));
        assert!(why(&alone, "").contains("no other"));
        let mut both = read(&[("a", 1, 10), ("b", 2, 0)], (1, 10));
        assert_eq!(hands_over("web", &both, "b").map(|i| &i.instance[..]), Ok("a"));
        assert!(why(&both, "a").contains("already"));
        assert!(why(&both, "x").contains("no healthy instance x"));
        both[1].record.healthy = Some(false);
        assert!(why(&both, "").contains("no other") && why(&both, "b").contains("no healthy"));
        both[1].record.mode = ActiveActive;
        assert!(why(&both, "b").contains("active/active"));
        assert!(why(&read(&[("a", 1, 10)], (3, 10)), "").contains("no active"));
    }

    #[test]
    fn who_follows_has_the_office_by_a_greater_token() {
        let before = read(&[("a", 1, 10), ("b", 2, 0)], (1, 10));
        let after =
            |all: &[Instance], to| follower(all, &before[0], to).map(|i| i.instance.clone());
        assert_eq!(after(&before, ""), None);
        let b = read(&[("a", 1, 0), ("b", 2, 20)], (2, 20));
        assert_eq!(after(&b, ""), Some("b".into()));
        assert_eq!((after(&b, "b"), after(&b, "c")), (Some("b".into()), None));
        // It took the office back: nobody else has followed.
        assert_eq!(after(&read(&[("a", 1, 30), ("b", 2, 0)], (1, 30)), ""), None);
    }

    #[test]
    fn stepping_aside_ends_when_another_is_active_or_none_can_be() {
        let mut all = read(&[("a", 1, 10), ("b", 2, 0), ("c", 3, 0)], (1, 10));
        assert!(!need_not_wait(&all, "a", "") && !need_not_wait(&all, "a", "b"));
        assert!(need_not_wait(&all, "a", "gone"));
        all[1].record.healthy = Some(false);
        assert!(need_not_wait(&all, "a", "b") && !need_not_wait(&all, "a", ""));
        all[2].silent = Some("late".into());
        assert!(need_not_wait(&all, "a", ""));
        let b = read(&[("a", 1, 0), ("b", 2, 20)], (2, 20));
        assert!(need_not_wait(&b, "a", "b") && need_not_wait(&b, "a", ""));
    }
}
