//! Small files: the rules are those of [`synod_coord::file`]; here they meet the
//! keyspace.

mod caches;
mod events;
mod guard;
mod service;
mod write;

pub(crate) use guard::deletes_over_files;

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use std::time::Duration;
use synod_coord::file::{
    Cached, Damaged, FilePath, LIST_MAX, Object, look, looked, register, registered_keys,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_host::Handle;
use synod_host::metrics::Counter;
use synod_mvcc::{Command, Outcome, RangeResult, TxnRequest, TxnResult};
use tokio::sync::watch;
use tonic::{Code, Status};

/// How often the leader is looked at, for whoever wants to be told of another.
const LEADER_EVERY: Duration = Duration::from_millis(100);

/// What this member counts of files.
#[derive(Default)]
pub(crate) struct FileMetrics {
    /// Registrations for caches that were made.
    pub registrations: Counter,
    /// Those that were asked for and not made.
    pub uncached: Counter,
    /// Registrations that caches were told to give up.
    pub invalidations: Counter,
    /// Writes that found caches in their way.
    pub waits: Counter,
    /// Those that waited in vain.
    pub in_vain: Counter,
}

fn bad(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("synod: {why}"))
}

fn path(text: &str) -> Result<FilePath, Status> {
    text.parse().map_err(|e| bad(format!("{text:?} is {e}")))
}

/// A path of a node: not the root's.
fn node_path(text: &str) -> Result<FilePath, Status> {
    let path = path(text)?;
    if path.is_root() {
        return Err(bad("the root has no contents: a path is needed"));
    }
    Ok(path)
}

fn damaged(e: Damaged) -> Status {
    Status::data_loss(format!("synod: {e}"))
}

fn no_session(session: i64, e: Status) -> Status {
    match e.code() {
        Code::NotFound => super::session::no_session(session),
        _ => e,
    }
}

/// An object as it was read.
struct Look {
    seen: Cached,
    /// The revision of the registration that was made; or 0.
    registered: i64,
    header: pb::ResponseHeader,
}

impl Door {
    /// Runs a transaction of File's own, whose keys nobody else writes.
    async fn file_txn(&self, txn: TxnRequest) -> Result<(TxnResult, pb::ResponseHeader), Status> {
        match self.agree(Command::Txn(txn)).await? {
            (Outcome::Txn(result), header) => Ok((result, header)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Reads an object, and registers a session for it if one is named.
    async fn look_at(&self, object: &Object, session: i64) -> Result<Look, Status> {
        if session == 0 {
            self.read_barrier(false).await?;
            let (found, header) = self.read(look(object)).await?;
            return Ok(Look { seen: whole(object, &found)?, registered: 0, header });
        }
        let registering = self.file_txn(register(object, session)).await;
        let (result, header) = registering.map_err(|e| no_session(session, e))?;
        let (registered, found) = registered_keys(result)
            .ok_or_else(|| Status::internal("a registration was answered with something else"))?;
        let seen = whole(object, &found)?;
        let metrics = self.file_metrics();
        if registered {
            metrics.registrations.inc()
        } else {
            metrics.uncached.inc()
        }
        let registered = if registered { header.revision } else { 0 };
        Ok(Look { seen, registered, header })
    }
}

fn whole(object: &Object, found: &RangeResult) -> Result<Cached, Status> {
    if found.more {
        return Err(Status::resource_exhausted(format!(
            "synod: {:?} has more than {LIST_MAX} children",
            object.path.as_str()
        )));
    }
    looked(object, found).map_err(damaged)
}

/// Follows who leads, until nobody listens: ballot and leader (0: none is known).
pub(crate) fn follow_leader(handle: Handle) -> watch::Receiver<(u64, u64)> {
    let now = move || (handle.term(), handle.leader().map_or(0, |l| l.0));
    let (tx, rx) = watch::channel(now());
    tokio::spawn(async move {
        while !tx.is_closed() {
            tokio::time::sleep(LEADER_EVERY).await;
            let seen = now();
            tx.send_if_modified(|known| std::mem::replace(known, seen) != seen);
        }
    });
    rx
}

/// The error of a stream whose door is closing.
fn stopped() -> Status {
    error::stopped()
}
