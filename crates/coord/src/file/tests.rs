//! The rules of files, their caches and their writers.

use super::*;
use crate::tests::{Cell, place, sequencer};
use crate::{Mode, Sequencer, leave};
use bytes::Bytes;
use proptest::prelude::*;
use synod_mvcc::{KeyRange, KeyValue, RangeRequest, TxnRequest};

fn path(text: &str) -> FilePath {
    text.parse().expect(text)
}

fn set(at: &str, contents: &str) -> Write {
    let change = Change::Set(contents.to_owned().into());
    Write { path: path(at), change, expect: Expect::Anything, session: 0, sequencer: None }
}

fn delete(at: &str) -> Write {
    Write { change: Change::Delete, ..set(at, "") }
}

impl Cell {
    fn read(&self, range: KeyRange) -> Vec<KeyValue> {
        let all = RangeRequest { range, ..RangeRequest::default() };
        self.state.reader().published().range(&all).expect("memory").expect("read").kvs
    }

    /// Drives a writer until it needs something from outside.
    fn drive(&mut self, writer: &mut Writer) -> Need {
        loop {
            match writer.need() {
                Need::Run(txn) => {
                    let result = self.txn(txn);
                    writer.ran(&result, self.revision()).expect("an answer to it");
                }
                other => return other,
            }
        }
    }

    /// A write that nobody's cache is in the way of; its generation.
    fn write(&mut self, write: Write) -> Result<i64, Refused> {
        // A wrong guess is set right.
        match self.drive(&mut Writer::new(write, self.revision() % 2 == 0)) {
            Need::Done { revision, .. } => Ok(revision),
            Need::Refused(why) => Err(why),
            other => panic!("{other:?}"),
        }
    }

    fn node(&self, at: &str) -> Option<Node> {
        let kvs = self.read(Object::contents(path(at)).range());
        kvs.first().map(|kv| Node::decode(kv).expect("whole"))
    }

    fn names(&self, at: &str) -> Vec<String> {
        let kvs = self.read(path(at).children());
        kvs.iter().filter_map(Child::of).map(|c| c.name).collect()
    }

    /// Reads and registers; the revision, if it was registered, and what was read.
    fn register(&mut self, object: &Object, session: i64) -> (Option<i64>, Cached) {
        let result = self.txn(register(object, session));
        let (done, found) = registered_keys(result).expect("an answer to it");
        let seen = looked(object, &found).expect("whole");
        (done.then(|| self.revision()), seen)
    }
}

#[test]
fn nodes_stand_below_nodes() {
    let mut cell = Cell::new();
    assert_eq!(cell.write(set("a/b", "x")), Err(Refused::NoParent));
    let a = cell.write(set("a", "1")).expect("free");
    cell.write(set("a/b", "x")).expect("its parent is there");
    cell.write(set("a/c", "y")).expect("its parent is there");
    cell.write(set("a/b/d", "z")).expect("its parent is there");
    cell.write(set("ab", "")).expect("free");
    assert_eq!(cell.names(""), ["a", "ab"]);
    assert_eq!(cell.names("a"), ["b", "c"]);
    assert_eq!((cell.names("a/b"), cell.names("a/c")), (vec!["d".into()], vec![]));
    assert_eq!(cell.write(delete("a/b")), Err(Refused::HasChildren));
    cell.write(delete("a/b/d")).expect("there");
    cell.write(delete("a/b")).expect("empty");
    assert_eq!(cell.write(delete("a/b")), Err(Refused::Missing));
    let node = cell.node("a").expect("there");
    assert_eq!((&node.contents[..], node.instance, node.generation), (&b"1"[..], a, a));
    assert_eq!((node.writes, node.acl_generation, node.session), (1, 0, 0));
}

#[test]
fn generations_only_grow_and_can_be_expected() {
    let mut cell = Cell::new();
    let first = cell.write(set("a", "1")).expect("free");
    let if_it_is = |generation| Write { expect: Expect::Generation(generation), ..set("a", "2") };
    let second = cell.write(if_it_is(first)).expect("as expected");
    assert!(second > first);
    assert_eq!(cell.write(if_it_is(first)), Err(Refused::Generation(second)));
    let new = Write { expect: Expect::Absent, ..set("a", "3") };
    assert_eq!(cell.write(new.clone()), Err(Refused::Exists(second)));
    let gone = Write { expect: Expect::Generation(first), ..delete("a") };
    assert_eq!(cell.write(gone), Err(Refused::Generation(second)));
    cell.write(delete("a")).expect("there");
    assert_eq!(cell.write(if_it_is(second)), Err(Refused::Missing));
    let third = cell.write(new).expect("free");
    assert!(third > second && cell.node("a").expect("there").instance == third);
}

#[test]
fn an_ephemeral_ends_with_its_session_and_has_no_children() {
    let mut cell = Cell::new();
    (1..=2).for_each(|id| cell.lease(id, 10));
    let of = |session, contents| Write { session, ..set("a", contents) };
    cell.write(of(1, "x")).expect("free");
    assert_eq!(cell.write(set("a/b", "")), Err(Refused::EphemeralParent));
    assert_eq!(cell.write(of(2, "y")), Err(Refused::OtherSession(1)));
    cell.write(of(1, "y")).expect("its own");
    cell.write(set("a", "z")).expect("whoever");
    assert_eq!(cell.node("a").expect("there").session, 1, "whose it is stays");
    cell.pass(11, &[1]);
    assert_eq!(cell.node("a"), None);
    cell.write(set("a", "stays")).expect("free");
    assert_eq!(cell.write(of(2, "y")), Err(Refused::OtherSession(0)));
}

#[test]
fn a_write_with_a_stale_sequencer_is_refused() {
    let mut cell = Cell::new();
    cell.lease(1, 10);
    let place = place(1, Mode::Exclusive);
    let (_, token) = cell.enter(&place);
    let held: Sequencer = sequencer(&place, token);
    let fenced = |at| Write { sequencer: Some(held.clone()), ..set(at, "x") };
    cell.write(fenced("a")).expect("it holds");
    cell.txn(leave(&place, token));
    assert_eq!(cell.write(fenced("a")), Err(Refused::Stale));
    assert_eq!(cell.write(fenced("b")), Err(Refused::Stale));
    let gone = Write { sequencer: Some(held.clone()), ..delete("a") };
    assert_eq!(cell.write(gone), Err(Refused::Stale));
}

#[test]
fn a_writer_waits_for_those_who_cache_what_it_changes() {
    let mut cell = Cell::new();
    (1..=3).for_each(|id| cell.lease(id, 60));
    let (names, contents) = (Object::children(path("")), Object::contents(path("a")));
    // The absence of a node and a listing without it.
    let (absent, seen) = cell.register(&contents, 1);
    assert_eq!(seen, Cached::Node(None));
    let (empty, seen) = cell.register(&names, 2);
    assert_eq!(seen, Cached::Children(Vec::new()));
    let mut writer = Writer::new(set("a", "x"), true);
    assert_eq!(cell.drive(&mut writer), Need::Lease);
    writer.leased(3);
    assert_eq!(cell.drive(&mut writer), Need::Quiet(vec![contents.clone(), names.clone()]));
    let marks: Vec<_> = cell.read(mark_range()).iter().filter_map(|kv| marked(&kv.key)).collect();
    assert_eq!(marks, [names.clone(), contents.clone()]);
    // While it waits nobody new is registered, and nothing is written.
    assert_eq!(cell.register(&contents, 2), (None, Cached::Node(None)));
    writer.quiet();
    assert!(matches!(cell.drive(&mut writer), Need::Quiet(_)), "both are there still");
    let give = |object: &Object, revision: Option<i64>| Registration {
        object: object.clone(),
        revision: revision.expect("registered"),
    };
    cell.txn(release(1, &[give(&contents, absent)]));
    writer.quiet();
    assert_eq!(cell.drive(&mut writer), Need::Quiet(vec![names.clone()]));
    cell.txn(release(2, &[give(&names, empty)]));
    writer.quiet();
    let end = cell.drive(&mut writer);
    assert!(matches!(end, Need::Done { names_changed: true, .. }), "{end:?}");
    assert!(cell.read(mark_range()).is_empty());
    assert!(matches!(cell.register(&contents, 1), (Some(_), Cached::Node(Some(_)))));
    // The same name again: only who caches the contents is in the way.
    let (_, _) = cell.register(&names, 2);
    let mut writer = Writer::new(set("a", "y"), true);
    assert_eq!(cell.drive(&mut writer), Need::Lease);
    writer.leased(3);
    assert_eq!(cell.drive(&mut writer), Need::Quiet(vec![contents]));
}

#[test]
fn a_session_that_ends_is_in_nobodys_way() {
    let mut cell = Cell::new();
    (1..=2).for_each(|id| cell.lease(id, 10));
    cell.write(set("a", "x")).expect("free");
    cell.register(&Object::contents(path("a")), 1);
    let mut writer = Writer::new(set("a", "y"), true);
    assert_eq!(cell.drive(&mut writer), Need::Lease);
    writer.leased(2);
    assert!(matches!(cell.drive(&mut writer), Need::Quiet(_)));
    cell.pass(11, &[1]);
    writer.quiet();
    assert!(matches!(cell.drive(&mut writer), Need::Done { names_changed: false, .. }));
}

#[test]
fn what_ends_with_a_session_is_not_cached() {
    let mut cell = Cell::new();
    (1..=2).for_each(|id| cell.lease(id, 10));
    cell.write(Write { session: 1, ..set("a", "x") }).expect("free");
    assert_eq!(cell.register(&Object::contents(path("a")), 2).0, None);
    assert_eq!(cell.register(&Object::children(path("")), 2).0, None);
    cell.pass(11, &[1]);
    cell.lease(3, 10);
    assert!(cell.register(&Object::children(path("")), 3).0.is_some());
}

#[test]
fn a_release_takes_no_newer_registration() {
    let mut cell = Cell::new();
    cell.lease(1, 10);
    let object = Object::contents(path("a"));
    let first = cell.register(&object, 1).0.expect("registered");
    let second = cell.register(&object, 1).0.expect("registered");
    let give = |revision| release(1, &[Registration { object: object.clone(), revision }]);
    cell.txn(give(first));
    assert_eq!(cell.read(object.registrations()).len(), 1);
    cell.txn(give(second));
    assert!(cell.read(object.registrations()).is_empty());
}

fn node(generation: i64) -> Cached {
    let contents = Bytes::from_static(b"x");
    let (instance, writes, acl_generation, checksum, session) = (generation, 1, 0, 0, 0);
    Cached::Node(Some(Node {
        contents,
        instance,
        generation,
        writes,
        acl_generation,
        checksum,
        session,
    }))
}

#[test]
fn a_cache_tells_only_what_it_may() {
    let mut cache = Cache::default();
    let object = Object::contents(path("a"));
    assert_eq!(cache.get(&object, true), None);
    let fill = cache.fill(object.clone());
    assert!(cache.filled(fill, object.clone(), Some((7, node(3))), true).is_empty());
    assert_eq!(cache.get(&object, true), Some(&node(3)));
    // A writer wants it.
    let gives = cache.invalidated(&object, 7);
    assert_eq!(gives, Registration { object: object.clone(), revision: 7 });
    assert_eq!(cache.get(&object, true), None);
    // It comes while an answer is on its way.
    let fill = cache.fill(object.clone());
    cache.invalidated(&object, 8);
    let gives = cache.filled(fill, object.clone(), Some((9, node(3))), true);
    assert_eq!(gives, [Registration { object: object.clone(), revision: 9 }]);
    assert_eq!(cache.get(&object, true), None);
    // The session is in doubt, and turns out to live.
    let fill = cache.fill(object.clone());
    cache.filled(fill, object.clone(), Some((9, Cached::Node(None))), true);
    let late = cache.fill(object.clone());
    assert_eq!(cache.get(&object, true), Some(&Cached::Node(None)));
    assert_eq!(cache.get(&object, false), None);
    assert_eq!(cache.get(&object, true), None);
    assert_eq!(cache.filled(late, object.clone(), Some((10, node(3))), true).len(), 1);
    // Nobody was registered.
    let fill = cache.fill(object.clone());
    assert!(cache.filled(fill, object.clone(), None, true).is_empty());
    assert_eq!(cache.get(&object, true), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.negative_hits, stats.misses), (2, 1, 6));
    assert_eq!((stats.invalidations, stats.flushes), (2, 1));
}

#[test]
fn a_cache_is_bounded() {
    let limits = CacheLimits { entries_max: 2, bytes_max: 100 };
    let mut cache = Cache::new(limits);
    let objects = ["a", "b", "c"].map(|p| Object::contents(path(p)));
    let put = |cache: &mut Cache, n: usize| {
        let fill = cache.fill(objects[n].clone());
        cache.filled(fill, objects[n].clone(), Some((n as i64, node(1))), true)
    };
    assert!(put(&mut cache, 0).is_empty() && put(&mut cache, 1).is_empty());
    cache.get(&objects[0], true);
    let gone = put(&mut cache, 2);
    assert_eq!(gone, [Registration { object: objects[1].clone(), revision: 1 }]);
    assert_eq!(cache.forget(&objects[0]).map(|r| r.revision), Some(0));
    assert_eq!(cache.forget(&objects[0]), None);
}

#[test]
fn what_is_no_path_is_refused_with_the_reason() {
    for (text, why) in [
        ("/a", "is empty"),
        ("a/", "is empty"),
        ("a//b", "is empty"),
        ("a/../b", ". and .."),
        ("a\n", "control characters"),
        ("synod/x", "Synod's own"),
    ] {
        let e = text.parse::<FilePath>().expect_err(text).to_string();
        assert!(e.contains(why), "{text:?}: {e}");
    }
    let long = "x".repeat(1_025);
    assert!(long.parse::<FilePath>().is_err() && "a/".repeat(64).parse::<FilePath>().is_err());
    assert_eq!(path("a/b").parent(), Some(path("a")));
    assert_eq!((path("a").parent(), path("").parent()), (Some(path("")), None));
}

/// Names that try to look like keys.
fn paths() -> impl Strategy<Value = String> {
    let name = "[a-c0-9%:]{1,3}";
    proptest::collection::vec(name, 0..4).prop_map(|names| names.join("/"))
}

proptest! {
    #[test]
    fn contents_survive_their_key(contents in proptest::collection::vec(any::<u8>(), 0..300)) {
        let value = Node::encode(&contents);
        let kv = KeyValue { value, mod_revision: 5, ..KeyValue::default() };
        let node = Node::decode(&kv).expect("whole");
        prop_assert_eq!((&node.contents[..], node.generation), (&contents[..], 5));
    }

    #[test]
    fn damage_is_seen(
        contents in proptest::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let mut value = Node::encode(&contents).to_vec();
        let at = at.index(value.len());
        value[at] ^= 1u8 << bit;
        let kv = KeyValue { value: value.into(), ..KeyValue::default() };
        prop_assert!(Node::decode(&kv).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..30)) {
        let kv = KeyValue { value: value.clone().into(), ..KeyValue::default() };
        let _ = Node::decode(&kv);
        let _ = FilePath::of_key(&value);
        let _ = marked(&value);
    }

    /// No two objects share a key, and no object's keys lie in another's ranges.
    #[test]
    fn keys_belong_to_one_object(a in paths(), b in paths(), x in 1i64..99, y in 1i64..99) {
        let (a, b) = (path(&a), path(&b));
        let inside = |range: &KeyRange, key: &[u8]| match range.end.is_empty() {
            true => range.key == key,
            false => key >= &range.key[..] && key < &range.end[..],
        };
        for one in [Object::contents(a.clone()), Object::children(a.clone())] {
            prop_assert_eq!(marked(&one.mark(x)), Some(one.clone()));
            for other in [Object::contents(b.clone()), Object::children(b.clone())] {
                let same = one == other;
                prop_assert_eq!(inside(&one.registrations(), &other.registration(y)), same);
                prop_assert_eq!(inside(&one.marks(), &other.mark(y)), same);
                let (ours, theirs) = (one.registration(x), other.registration(y));
                prop_assert_eq!(ours == theirs, same && x == y);
            }
        }
        if !b.is_root() {
            prop_assert_eq!(FilePath::of_key(&b.key()), Some(b.clone()));
            prop_assert_eq!(inside(&a.children(), &b.key()), b.parent() == Some(a.clone()));
        }
    }

    /// Whatever order answers, writers' wishes and doubts come in, the cache tells
    /// nothing that it has given up.
    #[test]
    fn a_cache_never_tells_what_it_gave_up(steps in proptest::collection::vec(0..7u8, 1..60)) {
        let object = Object::contents(path("a"));
        let mut cache = Cache::default();
        // Fills on their way, and whether something was given up since.
        let mut filling: Vec<(Fill, bool)> = Vec::new();
        let (mut revision, mut may_tell) = (0, false);
        for step in steps {
            revision += 1;
            let give_up = |filling: &mut Vec<(Fill, bool)>| {
                filling.iter_mut().for_each(|f| f.1 = true);
                false
            };
            match step {
                0 | 1 => filling.push((cache.fill(object.clone()), false)),
                2 | 3 if !filling.is_empty() => {
                    let (fill, overtaken) = filling.remove(0);
                    let answer = Some((revision, node(revision)));
                    let gone = cache.filled(fill, object.clone(), answer, true);
                    prop_assert_eq!(gone.is_empty(), !overtaken);
                    may_tell |= !overtaken;
                }
                4 => {
                    cache.invalidated(&object, revision);
                    may_tell = give_up(&mut filling);
                }
                5 => {
                    cache.forget(&object);
                    may_tell = give_up(&mut filling);
                }
                6 => {
                    prop_assert_eq!(cache.get(&object, false), None);
                    may_tell = give_up(&mut filling);
                }
                _ => {}
            }
            prop_assert_eq!(cache.get(&object, true).is_some(), may_tell);
        }
    }
}

#[test]
fn a_delete_over_everything_is_seen() {
    let mut cell = Cell::new();
    let none = |cell: &mut Cell| {
        let txn = TxnRequest { compare: vec![no_files()], ..TxnRequest::default() };
        cell.txn(txn).succeeded
    };
    assert!(none(&mut cell));
    cell.write(set("a", "")).expect("free");
    assert!(!none(&mut cell));
}
