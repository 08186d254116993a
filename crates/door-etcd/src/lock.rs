//! etcd's lock: a key in a queue. The owner is the key with the lowest create
//! revision under the name; everybody else waits for the one before.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use crate::watch::hub::{Joined, Watcher};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::v3lockpb;
use synod_etcd_proto::v3lockpb::lock_server::Lock;
use synod_mvcc::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, KeyValue, Op,
    OpResult, Outcome, PutRequest, RangeRequest, SortOrder, SortTarget, TxnRequest,
};
use tonic::{Request, Response, Status};

/// Time to live of the lease that a call without one gets.
const SESSION_TTL_S: i64 = 60;
/// A waiter looks again after this long, whatever it has heard.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// All keys that start with `prefix`.
pub(crate) fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return KeyRange { key: Bytes::copy_from_slice(prefix), end: end.into() };
        }
    }
    KeyRange { key: Bytes::copy_from_slice(prefix), end: Bytes::from_static(&[0]) }
}

/// `name/`: under which the contenders' keys stand.
pub(crate) fn contenders(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Compares a key's create revision.
pub(crate) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        range: KeyRange { key: key.clone(), end: Bytes::new() },
        target: CompareTarget::Create(revision),
        result: CompareResult::Equal,
    }
}

/// Deletes a contender's key when its call ends before it is done (the client
/// went away), and renews the call's own lease meanwhile.
pub(crate) struct Contender {
    door: Door,
    pub key: Bytes,
    pub revision: i64,
    pub lease: i64,
    armed: bool,
    renewing: Option<tokio::task::JoinHandle<()>>,
}

impl Contender {
    /// The key stays: its owner has what it wanted.
    pub fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(task) = &self.renewing {
            task.abort();
        }
        if self.armed {
            let (door, key, revision) = (self.door.clone(), self.key.clone(), self.revision);
            tokio::spawn(async move {
                if let Err(e) = door.delete_created(&key, revision).await {
                    tracing::debug!("giving up a place in a queue: {e}");
                }
            });
        }
    }
}

impl Door {
    /// Runs a transaction whose outcome must be one.
    pub(crate) async fn run_txn(
        &self,
        txn: TxnRequest,
    ) -> Result<(synod_mvcc::TxnResult, pb::ResponseHeader), Status> {
        match self.run(Command::Txn(txn)).await? {
            (Outcome::Txn(result), header) => Ok((result, header)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Enters the queue under `name` with a value; a lease has one place in it.
    pub(crate) async fn contend(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<(Contender, Option<KeyValue>), Status> {
        let mut renewing = None;
        let mut lease = lease;
        if lease == 0 {
            let grant = pb::LeaseGrantRequest { ttl: SESSION_TTL_S, id: 0 };
            lease = self.lease_grant(grant).await?.id;
            let door = self.clone();
            renewing = Some(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(SESSION_TTL_S as u64 / 3)).await;
                    if !matches!(door.renew(lease).await, Ok(1..) | Err(_)) {
                        return;
                    }
                }
            }));
        }
        let key = Bytes::from([&contenders(name)[..], format!("{lease:x}").as_bytes()].concat());
        let get = RangeRequest {
            range: KeyRange { key: key.clone(), end: Bytes::new() },
            ..RangeRequest::default()
        };
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![Op::Put(put)],
            failure: vec![Op::Range(get)],
        };
        let (result, header) = self.run_txn(txn).await?;
        let before = match result.responses.into_iter().next() {
            Some(OpResult::Range(r)) => r.kvs.into_iter().next(),
            _ => None,
        };
        let revision = before.as_ref().map_or(header.revision, |kv| kv.create_revision);
        // A key that stood there before this call is not this call's to delete.
        let armed = before.is_none();
        let door = self.clone();
        Ok((Contender { door, key, revision, lease, armed, renewing }, before))
    }

    /// Waits until no older contender is left.
    pub(crate) async fn wait_turn(&self, name: &[u8], me: &Contender) -> Result<(), Status> {
        let all = prefix_range(&contenders(name));
        loop {
            self.handle().barrier().await.map_err(error::of_request)?;
            let before = RangeRequest {
                range: all.clone(),
                limit: 1,
                order: SortOrder::Descend,
                target: SortTarget::Create,
                max_create_revision: me.revision - 1,
                keys_only: true,
                ..RangeRequest::default()
            };
            let (found, header) = self.read(before).await?;
            let Some(ahead) = found.kvs.into_iter().next() else { break };
            let range = KeyRange { key: ahead.key, end: Bytes::new() };
            self.changed(range, header.revision + 1, true).await;
        }
        let own = RangeRequest {
            range: KeyRange { key: me.key.clone(), end: Bytes::new() },
            ..RangeRequest::default()
        };
        let (found, _) = self.read(own).await?;
        if found.kvs.first().is_none_or(|kv| kv.create_revision != me.revision) {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(())
    }

    /// Returns when something in the range has changed at or after `from` (or
    /// may have): the caller looks again.
    pub(crate) async fn changed(&self, range: KeyRange, from: i64, deletes_only: bool) {
        let queue = Arc::new(self.hub().new_queue(64 << 10));
        let key = self.hub().new_key();
        let watcher = Watcher {
            queue: queue.clone(),
            range,
            next: from,
            no_put: deletes_only,
            no_delete: false,
            prev_kv: false,
        };
        let joined = self.hub().join(key, watcher);
        let leave = Leave(self.clone(), key);
        if matches!(joined, Joined::Yes) {
            let _ = tokio::time::timeout(LOOK_AGAIN, queue.notify.notified()).await;
        }
        drop(leave);
    }

    /// Deletes the key if it is still the one that was created then.
    pub(crate) async fn delete_created(
        &self,
        key: &Bytes,
        revision: i64,
    ) -> Result<pb::ResponseHeader, Status> {
        let delete = DeleteRequest {
            range: KeyRange { key: key.clone(), end: Bytes::new() },
            prev_kv: false,
        };
        let txn = TxnRequest {
            compare: vec![created_at(key, revision)],
            success: vec![Op::Delete(delete)],
            failure: Vec::new(),
        };
        Ok(self.run_txn(txn).await?.1)
    }
}

/// Leaves the hub even when the waiting call is dropped.
struct Leave(Door, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.hub().leave(self.1);
    }
}

#[tonic::async_trait]
impl Lock for Door {
    async fn lock(
        &self,
        request: Request<v3lockpb::LockRequest>,
    ) -> Result<Response<v3lockpb::LockResponse>, Status> {
        let r = request.into_inner();
        let (me, _) = self.contend(&r.name, r.lease, Bytes::new()).await?;
        self.wait_turn(&r.name, &me).await?;
        let key = me.key.clone();
        me.keep();
        Ok(Response::new(v3lockpb::LockResponse { header: Some(self.header_now()), key }))
    }

    async fn unlock(
        &self,
        request: Request<v3lockpb::UnlockRequest>,
    ) -> Result<Response<v3lockpb::UnlockResponse>, Status> {
        let key = request.into_inner().key;
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        let header = self.delete_range(delete).await?.header;
        Ok(Response::new(v3lockpb::UnlockResponse { header }))
    }
}
