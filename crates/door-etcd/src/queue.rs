//! Places in queues: what etcd's locks and elections and Synod's own share. The
//! rules are those of [`synod_coord`]; here they meet the keyspace.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use crate::watch::hub::{Joined, Watcher};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synod_coord::{
    Claim, Contender, Entered, Place, Standing, contenders, enter, entered, mark_held,
    prefix_range, read_queue, resume, standing, withdraw,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Command, KeyRange, KeyValue, Outcome, RangeRequest, TxnRequest, TxnResult};
use tonic::Status;

/// A waiter looks again after this long, whatever it has heard.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Unix time, ms.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The session of a place ended while its call waited.
pub(crate) fn session_ended() -> Status {
    Status::unknown("mutex: session is expired")
}

/// A place that was taken in a queue. It is given up again when the call ends
/// before it is kept (the client went away).
pub(crate) struct Taken {
    door: Door,
    pub place: Place,
    /// The key's create revision.
    pub token: i64,
    /// The key's revision when this call last wrote it.
    modified: i64,
    /// Whether the queue was empty before.
    pub at_once: bool,
    /// What stood there already, if the session had the place before.
    pub before: Option<KeyValue>,
    armed: bool,
    /// Renews a lease that the call itself made, until the call ends.
    pub renewing: Option<tokio::task::JoinHandle<()>>,
}

impl Taken {
    /// The key stays: its owner has what it wanted.
    pub fn keep(mut self) -> Bytes {
        self.armed = false;
        self.place.key()
    }

    /// Gives the place up, if this call took it, and waits until that is agreed on.
    pub async fn give_up(mut self) -> Result<(), Status> {
        if !std::mem::take(&mut self.armed) {
            return Ok(());
        }
        let txn = withdraw(&self.place, self.token, self.modified);
        self.door.run_txn(txn).await.map(drop)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(task) = &self.renewing {
            task.abort();
        }
        if self.armed {
            let txn = withdraw(&self.place, self.token, self.modified);
            let door = self.door.clone();
            tokio::spawn(async move {
                if let Err(e) = door.run_txn(txn).await {
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
    ) -> Result<(TxnResult, pb::ResponseHeader), Status> {
        match self.run(Command::Txn(txn)).await? {
            (Outcome::Txn(result), header) => Ok((result, header)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Takes a place, or finds the one that the session has already.
    pub(crate) async fn take_place(&self, place: Place) -> Result<Taken, Status> {
        let (result, header) = self.run_txn(enter(&place)).await?;
        let entered = entered(result)
            .ok_or_else(|| Status::internal("entering a queue was answered with something else"))?;
        let mut taken = Taken {
            door: self.clone(),
            place,
            token: header.revision,
            modified: header.revision,
            at_once: entered == Entered::Holds,
            before: None,
            armed: true,
            renewing: None,
        };
        if let Entered::Already(kv) = entered {
            taken.token = kv.create_revision;
            taken.place.claim = Claim::decode(&kv.value);
            // A key that stood there before this call is not this call's to delete.
            taken.armed = false;
            taken.before = Some(kv);
        }
        Ok(taken)
    }

    /// Goes on with a place that the session had before. `false`: it was given up.
    pub(crate) async fn resume_place(&self, taken: &mut Taken) -> Result<bool, Status> {
        let (result, header) = self.run_txn(resume(&taken.place, taken.token)).await?;
        (taken.modified, taken.armed) = (header.revision, result.succeeded);
        Ok(result.succeeded)
    }

    /// The contenders for a lock, as this member has them; and at which revision.
    pub(crate) async fn queue(&self, name: &[u8]) -> Result<(Vec<Contender>, i64), Status> {
        let all =
            RangeRequest { range: prefix_range(&contenders(name)), ..RangeRequest::default() };
        let (found, header) = self.read(all).await?;
        Ok((read_queue(name, found.kvs), header.revision))
    }

    /// Waits until the place holds. What is older than a place can only vanish, so
    /// this member's own state will do, once the place is in it.
    pub(crate) async fn wait_turn(&self, taken: &Taken) -> Result<(), Status> {
        if taken.at_once {
            return Ok(());
        }
        let key = taken.place.key();
        if self.handle().published().revision() < taken.token {
            self.handle().barrier().await.map_err(error::of_request)?;
        }
        loop {
            let (queue, revision) = self.queue(&taken.place.name).await?;
            match standing(&queue, &key, taken.token) {
                Standing::Holds => break,
                Standing::Gone => return Err(session_ended()),
                Standing::WaitsFor(ahead) => {
                    let range = KeyRange { key: ahead, end: Bytes::new() };
                    self.changed(range, revision + 1, true).await;
                }
            }
        }
        self.note_held(taken).await
    }

    /// Notes that the place holds. A guard stands in only for a holder, so with
    /// one the note must be there before the holder is told; without, it is for
    /// people who look, and nobody waits for it.
    async fn note_held(&self, taken: &Taken) -> Result<(), Status> {
        let place = &taken.place;
        let note = mark_held(place, taken.token, unix_ms());
        if place.guard != 0 {
            let (noted, _) = self.run_txn(note).await?;
            return if noted.succeeded { Ok(()) } else { Err(session_ended()) };
        }
        if place.value.is_none() && place.claim.asked_ms > 0 {
            let door = self.clone();
            tokio::spawn(async move {
                if let Err(e) = door.run_txn(note).await {
                    tracing::debug!("noting since when a lock is held: {e}");
                }
            });
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
}

/// Leaves the hub even when the waiting call is dropped.
struct Leave(Door, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.hub().leave(self.1);
    }
}
