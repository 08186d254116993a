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
    Claim, Contender, Entered, Place, Standing, behind, contenders, enter, entered, is_ahead,
    is_contender, mark_held, prefix_range, read_queue, resume, standing, take_office, took_office,
    withdraw, without_idle_guards,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_host::HostView;
use synod_mvcc::{
    Command, KeyRange, KeyValue, Outcome, Published, RangeRequest, TxnRequest, TxnResult,
};
use tonic::Status;

/// A waiter looks again after this long, whatever it has heard.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Most keys in a lock's queue.
const QUEUE_MAX: usize = 20_000;
/// Keys read at once.
const PAGE: i64 = 1_000;
/// A node that stops says so.
const STOPPED: &str = "etcdserver: server stopped";

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
    /// What stood there already, if the session had the place before, and its claim.
    pub before: Option<(KeyValue, Claim)>,
    armed: bool,
    /// A lease that the call itself made, renewed until the call ends.
    pub own_lease: Option<OwnLease>,
}

/// A task that ends with what it serves.
pub(crate) struct OwnLease(pub tokio::task::JoinHandle<()>);

impl Drop for OwnLease {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Taken {
    /// The key stays: its owner has what it wanted.
    pub fn keep(mut self) -> Bytes {
        self.armed = false;
        self.place.key()
    }

    /// Gives the place up, if this call took it, and waits until that is agreed on.
    pub async fn give_up(mut self) -> Result<(), Status> {
        if self.armed {
            let txn = withdraw(&self.place, self.token, self.modified);
            self.door.run_txn(txn).await?;
            self.armed = false;
        }
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.armed {
            let txn = withdraw(&self.place, self.token, self.modified);
            tokio::spawn(withdraw_at_last(self.door.clone(), txn));
        }
    }
}

/// Clients go away just when the cluster hangs: a place is given up as soon as that
/// can be agreed on. It does nothing if the place is gone or another's by then.
async fn withdraw_at_last(door: Door, txn: TxnRequest) {
    let mut pause = Duration::from_millis(100);
    loop {
        match door.run_txn(txn.clone()).await {
            Err(e) if e.code() == tonic::Code::Unavailable && e.message() != STOPPED => {}
            Err(e) => return tracing::debug!(error = %e, "giving up a place in a queue failed"),
            Ok(_) => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN);
    }
}

/// The keys of a lock's queue. Other locks below its name may have any number of keys:
/// they do not count, and those of one of them are passed by together.
fn read_pages(published: &Published<HostView>, name: &[u8]) -> Result<Vec<KeyValue>, Status> {
    let mut range = prefix_range(&contenders(name));
    let mut all = Vec::new();
    loop {
        let page = RangeRequest { range: range.clone(), limit: PAGE, ..RangeRequest::default() };
        let found = published.range(&page).map_err(error::of_store)?.map_err(error::of_state)?;
        let next = found.kvs.last().map(|kv| behind(name, &kv.key));
        all.extend(found.kvs.into_iter().filter(|kv| is_contender(name, &kv.key)));
        if all.len() > QUEUE_MAX {
            return Err(Status::resource_exhausted(format!(
                "synod: more than {QUEUE_MAX} keys stand under {:?}/: it is no lock's queue",
                String::from_utf8_lossy(name)
            )));
        }
        match next {
            Some(next) if found.more => range.key = next,
            _ => return Ok(all),
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

    /// Takes a place, or finds the one that the session has already. Runs to its end
    /// even if the caller does not wait for it: then the place is given up.
    pub(crate) async fn take_place(&self, place: Place) -> Result<Taken, Status> {
        let door = self.clone();
        let taking = tokio::spawn(async move { door.take_place_now(place).await });
        taking.await.map_err(|_| error::stopped())?
    }

    async fn take_place_now(&self, place: Place) -> Result<Taken, Status> {
        let (result, header) = self.run_txn(enter(&place)).await?;
        let entered = entered(result)
            .ok_or_else(|| Status::internal("entering a queue was answered with something else"))?;
        Ok(self.taken(place, entered, header.revision))
    }

    fn taken(&self, place: Place, entered: Entered, revision: i64) -> Taken {
        let mut taken = Taken {
            door: self.clone(),
            place,
            token: revision,
            modified: revision,
            at_once: entered == Entered::Holds,
            before: None,
            armed: true,
            own_lease: None,
        };
        if let Entered::Already(kv, claim) = entered {
            taken.token = kv.create_revision;
            // A key that stood there before this call is not this call's to delete.
            taken.armed = false;
            taken.before = Some((kv, claim));
        }
        taken
    }

    /// Takes an office for a candidate that was found to be the best at the revision
    /// `seen`; `None` if the candidates have changed since. Runs to its end like
    /// [`Door::take_place`].
    pub(crate) async fn take_office(
        &self,
        place: Place,
        since: i64,
        seen: i64,
    ) -> Result<Option<Taken>, Status> {
        let door = self.clone();
        let taking = tokio::spawn(async move {
            let (result, header) = door.run_txn(take_office(&place, since, seen)).await?;
            let entered = took_office(result);
            Ok(entered.map(|entered| door.taken(place, entered, header.revision)))
        });
        taking.await.map_err(|_| error::stopped())?
    }

    /// Goes on with a place that the session had before. `false`: it was given up.
    pub(crate) async fn resume_place(&self, taken: &mut Taken) -> Result<bool, Status> {
        let (result, header) = self.run_txn(resume(&taken.place, taken.token)).await?;
        (taken.modified, taken.armed) = (header.revision, result.succeeded);
        Ok(result.succeeded)
    }

    /// The contenders for a lock, as this member has them; and at which revision.
    pub(crate) async fn queue(&self, name: &[u8]) -> Result<(Vec<Contender>, i64), Status> {
        let (published, name) = (self.handle().published(), name.to_vec());
        let revision = published.revision();
        let read = move || {
            let mut queue = read_queue(&name, read_pages(&published, &name)?);
            without_idle_guards(&mut queue, |s| matches!(published.lease(s), Ok(Some(_))));
            Ok((queue, revision))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| error::stopped())?
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
            let (queue, mut revision) = self.queue(&taken.place.name).await?;
            let ahead = match standing(&queue, &key, taken.token) {
                Standing::Holds => return Ok(()),
                Standing::Gone => return Err(session_ended()),
                Standing::WaitsFor(ahead) => KeyRange { key: ahead, end: Bytes::new() },
            };
            // The whole queue is read again only when the one ahead is gone.
            loop {
                self.changed(ahead.clone(), revision + 1, true).await;
                let one = RangeRequest { range: ahead.clone(), ..RangeRequest::default() };
                let (found, header) = self.read(one).await?;
                if !is_ahead(found.kvs.first(), taken.token)
                    || !self.is_there(&key, taken.token).await?
                {
                    break;
                }
                revision = header.revision;
            }
        }
    }

    async fn is_there(&self, key: &Bytes, token: i64) -> Result<bool, Status> {
        let range = KeyRange { key: key.clone(), end: Bytes::new() };
        let (found, _) = self.read(RangeRequest { range, ..RangeRequest::default() }).await?;
        Ok(found.kvs.first().is_some_and(|kv| kv.create_revision == token))
    }

    /// Notes that the place holds. A guard stands in only for a holder, so with
    /// one the note must be there before the holder is told; without, it is for
    /// people who look, and nobody waits for it.
    pub(crate) async fn note_held(&self, mut taken: Taken) -> Result<Taken, Status> {
        if taken.at_once {
            return Ok(taken);
        }
        let (door, note) = (self.clone(), mark_held(&taken.place, taken.token, unix_ms()));
        if taken.place.guard == 0 {
            if taken.place.value.is_none() {
                tokio::spawn(async move {
                    if let Err(e) = door.run_txn(note).await {
                        tracing::debug!(error = %e, "noting since when a lock is held failed");
                    }
                });
            }
            return Ok(taken);
        }
        // To its end, whoever waits: what is given up must know what it wrote.
        let noting = tokio::spawn(async move {
            let (noted, header) = door.run_txn(note).await?;
            taken.modified = header.revision;
            if noted.succeeded { Ok(taken) } else { Err(session_ended()) }
        });
        noting.await.map_err(|_| error::stopped())?
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
