//! What happens to a node, its children and its lock: told from the difference between
//! what was last seen and what is now. So nothing is told that is not so (or was so a
//! moment ago), and whoever is slow is told less, not later.

use super::node_path;
use crate::coord::lock::owner;
use crate::door::Door;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_coord::file::{FilePath, LIST_MAX};
use synod_coord::{Contender, contenders, holders, prefix_range};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::file_event::Kind;
use synod_mvcc::{KeyRange, RangeRequest};
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// Instance and generation of a node.
type Version = (i64, i64);

/// What there is to tell of.
#[derive(Default)]
struct Seen {
    node: Option<Version>,
    children: BTreeMap<String, Version>,
    /// By token: who holds the lock, and who waits for it.
    holders: BTreeMap<i64, Contender>,
    waiters: BTreeMap<i64, Contender>,
}

impl Seen {
    fn generation(&self) -> i64 {
        self.node.map_or(0, |(_, generation)| generation)
    }

    /// What must have happened to come from here to `now`.
    fn changes(&self, now: &Seen, name: &[u8]) -> Vec<v1::FileEvent> {
        let mut events = Vec::new();
        let mut tell = |kind: Kind, event: v1::FileEvent| {
            events.push(v1::FileEvent { kind: kind.into(), ..event });
        };
        let generation = now.generation();
        let of_node = v1::FileEvent { generation, ..Default::default() };
        match (self.node, now.node) {
            (Some(_), None) => tell(Kind::Deleted, of_node),
            (None, Some(_)) => tell(Kind::Created, of_node),
            (Some(old), Some(new)) if old.0 != new.0 => tell(Kind::Created, of_node),
            (Some(old), Some(new)) if old != new => tell(Kind::Changed, of_node),
            _ => {}
        }
        for (name, (instance, generation)) in &now.children {
            let of_child =
                v1::FileEvent { name: name.clone(), generation: *generation, ..Default::default() };
            match self.children.get(name) {
                Some(old) if old.0 != *instance => {
                    let gone = v1::FileEvent { name: name.clone(), ..Default::default() };
                    tell(Kind::ChildRemoved, gone);
                    tell(Kind::ChildAdded, of_child);
                }
                Some(old) if old.1 != *generation => tell(Kind::ChildChanged, of_child),
                Some(_) => {}
                None => tell(Kind::ChildAdded, of_child),
            }
        }
        for name in self.children.keys().filter(|n| !now.children.contains_key(*n)) {
            let gone = v1::FileEvent { name: name.clone(), ..Default::default() };
            tell(Kind::ChildRemoved, gone);
        }
        for holder in now.holders.iter().filter(|(t, _)| !self.holders.contains_key(t)) {
            let (sequencer, owner) = (holder.1.sequencer(name).to_string(), owner(holder.1));
            let taken = v1::FileEvent { sequencer, owner, ..Default::default() };
            tell(Kind::LockAcquired, taken);
        }
        for waiter in now.waiters.iter().filter(|(t, _)| !self.waiters.contains_key(t)) {
            let waits = v1::FileEvent { owner: owner(waiter.1), ..Default::default() };
            tell(Kind::LockConflict, waits);
        }
        events
    }
}

impl Door {
    /// A node as this member has it, not older than the header's revision.
    async fn see(&self, path: &FilePath) -> Result<(Seen, pb::ResponseHeader), Status> {
        let header = self.header_now();
        let key = KeyRange { key: path.key(), end: Bytes::new() };
        let range = |range, limit| RangeRequest {
            range,
            limit,
            keys_only: true,
            ..RangeRequest::default()
        };
        let (found, _) = self.read(range(key, 1)).await?;
        let node = found.kvs.first().map(|kv| (kv.create_revision, kv.mod_revision));
        let (found, _) = self.read(range(path.children(), LIST_MAX)).await?;
        if found.more {
            let many = format!("synod: {:?} has more than {LIST_MAX} children", path.as_str());
            return Err(Status::resource_exhausted(many));
        }
        let child = |kv: &synod_mvcc::KeyValue| {
            let name = FilePath::of_key(&kv.key)?.name().to_owned();
            Some((name, (kv.create_revision, kv.mod_revision)))
        };
        let children = found.kvs.iter().filter_map(child).collect();
        let (queue, _) = self.queue(path.as_str().as_bytes()).await?;
        let by_token = |c: &Contender| (c.kv.create_revision, c.clone());
        let held: BTreeMap<i64, Contender> = holders(&queue).map(by_token).collect();
        let waits = |c: &&Contender| {
            c.claim.guards().is_none() && !held.contains_key(&c.kv.create_revision)
        };
        let waiters = queue.iter().filter(waits).map(by_token).collect();
        Ok((Seen { node, children, holders: held, waiters }, header))
    }

    pub(super) async fn tell_events(
        &self,
        text: &str,
        tx: &Sender<Result<v1::FileEvent, Status>>,
    ) -> Result<(), Status> {
        let path = node_path(text)?;
        let mut leader = self.leadership();
        leader.mark_unchanged();
        self.read_barrier(false).await?;
        // The one that answered; what is followed is looked at only now and then, and
        // may not have heard of it.
        let mut led_by = (self.handle().term(), self.handle().leader().map_or(0, |l| l.0));
        let (mut seen, mut header) = self.see(&path).await?;
        let begun = v1::FileEvent {
            kind: Kind::Begun.into(),
            generation: seen.generation(),
            ..Default::default()
        };
        let mut news = vec![begun];
        let (name, key) = (path.as_str().as_bytes(), path.key());
        let key = KeyRange { key, end: Bytes::new() };
        loop {
            for event in news.drain(..) {
                if tx.send(Ok(v1::FileEvent { header: Some(header), ..event })).await.is_err() {
                    return Ok(());
                }
            }
            let next = header.revision + 1;
            tokio::select! {
                () = self.changed(key.clone(), next, false) => {}
                () = self.changed(path.children(), next, false) => {}
                () = self.changed(prefix_range(&contenders(name)), next, false) => {}
                changed = leader.changed() => changed.map_err(|_| super::stopped())?,
                () = tx.closed() => return Ok(()),
            }
            let leads = *leader.borrow_and_update();
            // While nobody is known to lead there is nothing to tell yet.
            if leads.1 != 0 && leads.1 != led_by.1 {
                let over = led_by.1 != 0;
                led_by = leads;
                let kind = Kind::FailedOver.into();
                news.extend(over.then(|| v1::FileEvent { kind, ..Default::default() }));
            }
            let now;
            (now, header) = self.see(&path).await?;
            news.extend(seen.changes(&now, name));
            seen = now;
        }
    }
}
