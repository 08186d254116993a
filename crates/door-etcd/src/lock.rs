//! etcd's lock: a key in a queue. The owner is the key with the lowest create
//! revision under the name; everybody else waits for the one before.

use crate::coord::lock::not_reserved;
use crate::door::Door;
use crate::error;
use crate::queue::{OwnLease, Taken};
use bytes::Bytes;
use std::time::Duration;
use synod_coord::{Claim, Place};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::v3lockpb;
use synod_etcd_proto::v3lockpb::lock_server::Lock;
use synod_mvcc::{Command, DeleteRequest, KeyRange};
use tonic::{Request, Response, Status};

/// Time to live of the lease that a call without one gets.
const SESSION_TTL_S: i64 = 60;

impl Door {
    /// Enters the queue under `name` with a value, as etcd's clients do; a lease
    /// has one place in it.
    pub(crate) async fn contend(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Taken, Status> {
        not_reserved(name)?;
        let mut session = lease;
        let mut own_lease = None;
        if session == 0 {
            let grant = pb::LeaseGrantRequest { ttl: SESSION_TTL_S, id: 0 };
            session = self.lease_grant(grant).await?.id;
            let door = self.clone();
            own_lease = Some(OwnLease(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(SESSION_TTL_S as u64 / 3)).await;
                    if !matches!(door.renew(session).await, Ok(1..) | Err(_)) {
                        return;
                    }
                }
            })));
        }
        let claim = Claim::default();
        let place = Place { name: name.to_vec(), session, guard: 0, claim, value: Some(value) };
        let mut taken = self.take_place(place).await?;
        taken.own_lease = own_lease;
        Ok(taken)
    }
}

#[tonic::async_trait]
impl Lock for Door {
    async fn lock(
        &self,
        request: Request<v3lockpb::LockRequest>,
    ) -> Result<Response<v3lockpb::LockResponse>, Status> {
        let r = request.into_inner();
        let taken = self.contend(&r.name, r.lease, Bytes::new()).await?;
        self.wait_turn(&taken).await?;
        let key = taken.keep();
        Ok(Response::new(v3lockpb::LockResponse { header: Some(self.header_now()), key }))
    }

    async fn unlock(
        &self,
        request: Request<v3lockpb::UnlockRequest>,
    ) -> Result<Response<v3lockpb::UnlockResponse>, Status> {
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(error::key_not_provided());
        }
        not_reserved(&key)?;
        // No plain write: the key may be that of an office.
        let range = KeyRange { key, end: Bytes::new() };
        let delete = Command::Delete(DeleteRequest { range, prev_kv: false });
        let (_, header) = self.run(delete).await?;
        Ok(Response::new(v3lockpb::UnlockResponse { header: Some(header) }))
    }
}
