//! The transactions that files are made of.

use super::{Cached, Child, Damaged, FILES, FilePath, Node, Object};
use crate::prefix_range;
use crate::queue::key_of;
use crate::sequencer::Sequencer;
use crate::steps::fence;
use bytes::Bytes;
use synod_base::planted;
use synod_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, KeyValue, Op, OpResult,
    PutRequest, RangeRequest, RangeResult, TxnRequest, TxnResult,
};

/// Most children that a listing tells.
pub const LIST_MAX: i64 = 10_000;

/// What becomes of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It has these contents from now on.
    Set(Bytes),
    /// It is no more.
    Delete,
}

/// What a writer expects of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expect {
    /// Nothing: whatever is there is replaced.
    #[default]
    Anything,
    /// That there is none.
    Absent,
    /// That its contents are of this generation.
    Generation(i64),
}

/// A change of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Which; not the root.
    pub path: FilePath,
    /// What.
    pub change: Change,
    /// If what.
    pub expect: Expect,
    /// Makes an ephemeral node, which ends with this session; 0: one that stays. A
    /// node that is there must be of the same session, if one is named.
    pub session: i64,
    /// Only while its holder holds its lock.
    pub sequencer: Option<Sequencer>,
}

/// Why a change was not made; nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The sequencer is stale.
    Stale,
    /// There is no node above it.
    NoParent,
    /// The node above it is ephemeral: it has no children.
    EphemeralParent,
    /// It has children.
    HasChildren,
    /// There is no such node.
    Missing,
    /// There is one, by this generation.
    Exists(i64),
    /// Its contents are of this generation.
    Generation(i64),
    /// It ends with this session, not with that of the writer (0: it stays).
    OtherSession(i64),
}

/// What came of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Settled {
    /// It is done.
    Done,
    /// Whether the node is there was guessed wrong: try again with this.
    Guess(bool),
    /// These objects are cached.
    Cached(Vec<Object>),
    /// It must not be done.
    Refused(Refused),
}

fn compare(range: KeyRange, target: CompareTarget, result: CompareResult) -> Compare {
    Compare { range, target, result }
}

fn one(key: Bytes) -> KeyRange {
    KeyRange { key, end: Bytes::new() }
}

/// That a range has no keys.
fn nothing_in(range: KeyRange) -> Compare {
    compare(range, CompareTarget::Create(1), CompareResult::Less)
}

/// That a key is there.
fn is_there(key: Bytes) -> Compare {
    compare(one(key), CompareTarget::Create(0), CompareResult::Greater)
}

fn is(key: Bytes, target: CompareTarget) -> Compare {
    compare(one(key), target, CompareResult::Equal)
}

/// Whether a range has keys, and the first of them.
fn first_of(range: KeyRange) -> Op {
    Op::Range(RangeRequest { range, limit: 1, keys_only: true, ..RangeRequest::default() })
}

fn delete(key: Bytes) -> Op {
    Op::Delete(DeleteRequest { range: one(key), prev_kv: false })
}

impl Write {
    /// What it changes, if the node is there or not.
    fn objects(&self, there: bool) -> Vec<Object> {
        let mut objects = vec![Object::contents(self.path.clone())];
        let names_change = there == (self.change == Change::Delete);
        if names_change && let Some(parent) = self.path.parent() {
            objects.push(Object::children(parent));
        }
        objects
    }

    /// Whether the node must be there for the write to make sense.
    pub(super) fn needs_node(&self) -> bool {
        self.change == Change::Delete || matches!(self.expect, Expect::Generation(_))
    }

    /// The node above, unless that is the root, which is always there.
    fn parent_key(&self) -> Option<Bytes> {
        self.path.parent().filter(|p| !p.is_root()).map(|p| p.key())
    }

    fn conditions(&self, there: bool) -> Vec<Compare> {
        let key = self.path.key();
        let mut all = self.sequencer.as_ref().map(fence).unwrap_or_default();
        for object in self.objects(there) {
            let forgets = match object.kind {
                super::Kind::Contents => planted("file: a write does not wait for caches"),
                super::Kind::Children => planted("file: a new name does not wait for caches"),
            };
            if !forgets {
                all.push(nothing_in(object.registrations()));
            }
        }
        all.push(match there {
            true => is_there(key.clone()),
            false => is(key.clone(), CompareTarget::Create(0)),
        });
        if let Expect::Generation(generation) = self.expect {
            all.push(is(key.clone(), CompareTarget::Mod(generation)));
        }
        match (&self.change, there) {
            (Change::Delete, _) => all.push(nothing_in(self.path.children())),
            (Change::Set(_), true) if self.session != 0 => {
                all.push(is(key, CompareTarget::Lease(self.session)));
            }
            (Change::Set(_), true) => {}
            (Change::Set(_), false) => {
                if let Some(parent) = self.parent_key() {
                    all.push(is_there(parent.clone()));
                    all.push(is(parent, CompareTarget::Lease(0)));
                }
            }
        }
        all
    }

    /// Makes the change, as if the node is there or not, and takes the writer's marks
    /// away; or tells what is in the way.
    pub(super) fn attempt(&self, there: bool, marks: Vec<Bytes>) -> TxnRequest {
        let key = self.path.key();
        let change = match &self.change {
            Change::Delete => delete(key.clone()),
            Change::Set(contents) => Op::Put(PutRequest {
                key: key.clone(),
                value: Node::encode(contents),
                lease: if there { 0 } else { self.session },
                ignore_lease: there,
                ..PutRequest::default()
            }),
        };
        let objects = [
            Object::contents(self.path.clone()),
            Object::children(self.path.parent().unwrap_or_default()),
        ];
        let holder = self.sequencer.as_ref().map(|s| key_of(&s.name, s.session));
        let mut failure = vec![
            first_of(one(key.clone())),
            first_of(one(self.parent_key().unwrap_or_else(|| key.clone()))),
            first_of(self.path.children()),
            first_of(one(holder.unwrap_or(key))),
        ];
        failure.extend(objects.iter().map(|o| first_of(o.registrations())));
        TxnRequest {
            compare: self.conditions(there),
            success: std::iter::once(change).chain(marks.into_iter().map(delete)).collect(),
            failure,
        }
    }

    /// Reads what came of an attempt; `None` if it is of something else.
    pub(super) fn settle(&self, there: bool, result: &TxnResult) -> Option<Settled> {
        if result.succeeded {
            return Some(Settled::Done);
        }
        let found: Vec<Option<&KeyValue>> = result.responses.iter().map(first).collect();
        let [node, parent, child, holder, contents, names] = found[..] else { return None };
        if let Some(refused) = self.refused(node, parent, child, holder) {
            return Some(Settled::Refused(refused));
        }
        let is_there = node.is_some();
        let registered = [contents, names].map(|r| r.is_some());
        let mut cached = self.objects(is_there);
        let mut number = 0..;
        cached.retain(|_| number.next().is_some_and(|n| registered[n]));
        if is_there != there || cached.is_empty() {
            return Some(Settled::Guess(is_there));
        }
        Some(Settled::Cached(cached))
    }

    fn refused(
        &self,
        node: Option<&KeyValue>,
        parent: Option<&KeyValue>,
        child: Option<&KeyValue>,
        holder: Option<&KeyValue>,
    ) -> Option<Refused> {
        if let Some(s) = &self.sequencer
            && !holder.is_some_and(|kv| kv.create_revision == s.token && kv.lease == s.session)
        {
            return Some(Refused::Stale);
        }
        match (node, self.expect) {
            (Some(kv), Expect::Absent) => return Some(Refused::Exists(kv.mod_revision)),
            (Some(kv), Expect::Generation(g)) if kv.mod_revision != g => {
                return Some(Refused::Generation(kv.mod_revision));
            }
            (None, _) if self.needs_node() => return Some(Refused::Missing),
            _ => {}
        }
        let sets = self.change != Change::Delete;
        match node {
            Some(_) if !sets => child.map(|_| Refused::HasChildren),
            Some(kv) if self.session != 0 && kv.lease != self.session => {
                Some(Refused::OtherSession(kv.lease))
            }
            Some(_) => None,
            None => match (self.parent_key(), parent) {
                (None, _) => None,
                (Some(_), None) => Some(Refused::NoParent),
                (Some(_), Some(kv)) => (kv.lease != 0).then_some(Refused::EphemeralParent),
            },
        }
    }
}

fn first(result: &OpResult) -> Option<&KeyValue> {
    match result {
        OpResult::Range(found) => found.kvs.first(),
        _ => None,
    }
}

/// Reads an object.
pub fn look(object: &Object) -> RangeRequest {
    let keys_only = object.kind == super::Kind::Children;
    let limit = if keys_only { LIST_MAX } else { 1 };
    RangeRequest { range: object.range(), limit, keys_only, ..RangeRequest::default() }
}

/// What [`look`] found.
pub fn looked(object: &Object, found: &RangeResult) -> Result<Cached, Damaged> {
    match object.kind {
        super::Kind::Contents => found.kvs.first().map(Node::decode).transpose().map(Cached::Node),
        super::Kind::Children => {
            Ok(Cached::Children(found.kvs.iter().filter_map(Child::of).collect()))
        }
    }
}

/// Reads an object and registers the session for it: unless a writer waits, or part
/// of it ends with a session.
pub fn register(object: &Object, session: i64) -> TxnRequest {
    let mut conditions = vec![nothing_in(object.marks())];
    if !planted("file: what ends with a session is cached") {
        conditions.push(compare(object.range(), CompareTarget::Lease(0), CompareResult::Equal));
    }
    let key = object.registration(session);
    let put = Op::Put(PutRequest { key, lease: session, ..PutRequest::default() });
    let put = match planted("file: absence is cached without a registration") {
        true => Op::Txn(TxnRequest {
            compare: vec![is_there(object.path.key())],
            success: vec![put],
            failure: Vec::new(),
        }),
        false => put,
    };
    let read = || Op::Range(look(object));
    TxnRequest { compare: conditions, success: vec![put, read()], failure: vec![read()] }
}

/// What [`register`] read, and whether the session is registered since then; `None`
/// if it is of something else.
pub fn registered_keys(result: TxnResult) -> Option<(bool, RangeResult)> {
    match result.responses.into_iter().next_back()? {
        OpResult::Range(found) => Some((result.succeeded, found)),
        _ => None,
    }
}

/// That a session is registered for an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// What for.
    pub object: Object,
    /// Since which revision. A later one under the same key is another.
    pub revision: i64,
}

/// Gives registrations up, unless they were renewed since.
pub fn release(session: i64, registrations: &[Registration]) -> TxnRequest {
    let one = |r: &Registration| {
        let key = r.object.registration(session);
        let mine = is(key.clone(), CompareTarget::Mod(r.revision));
        let any = planted("file: a release takes a newer registration");
        Op::Txn(TxnRequest {
            compare: if any { Vec::new() } else { vec![mine] },
            success: vec![delete(key)],
            failure: Vec::new(),
        })
    };
    let success = registrations.iter().map(one).collect();
    TxnRequest { compare: Vec::new(), success, failure: Vec::new() }
}

/// Sets a writer's marks.
pub(super) fn mark(objects: &[Object], lease: i64) -> TxnRequest {
    let put =
        |o: &Object| Op::Put(PutRequest { key: o.mark(lease), lease, ..PutRequest::default() });
    let success = objects.iter().map(put).collect();
    TxnRequest { compare: Vec::new(), success, failure: Vec::new() }
}

/// All marks of all writers.
pub fn mark_range() -> KeyRange {
    prefix_range(format!("{FILES}mark/").as_bytes())
}

/// What a mark is on; `None` if the key is no mark's.
pub fn marked(key: &[u8]) -> Option<Object> {
    Object::of_key(key, "mark")
}

/// That there are no files at all: what a delete over their keys must show.
pub fn no_files() -> Compare {
    nothing_in(prefix_range(FILES.as_bytes()))
}
