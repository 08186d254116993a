//! Writes that carry a sequencer: etcd's own calls, with one more header.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use http::HeaderMap;
use synod_coord::{Sequencer, fenced};
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Command, Op, OpResult, Outcome, check_txn};
use tonic::Status;

/// The header (gRPC metadata, or HTTP in front of the JSON gateway) that carries
/// a sequencer.
pub(crate) const FENCE_HEADER: &str = "synod-sequencer";

/// The sequencer among a request's headers, if there is one.
pub(crate) fn fence_of(headers: &HeaderMap) -> Result<Option<Sequencer>, Status> {
    let mut values = headers.get_all(FENCE_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Status::invalid_argument(format!("synod: more than one {FENCE_HEADER}")));
    }
    parse(value.to_str().unwrap_or_default()).map(Some)
}

/// Whether a call takes a sequencer. One that does not must not seem to check it.
pub(crate) fn check_fence(headers: &HeaderMap, path: &str) -> Result<(), Status> {
    let fenced = ["Put", "DeleteRange", "Txn"];
    let takes = path.strip_prefix("/etcdserverpb.KV/").is_some_and(|call| fenced.contains(&call));
    if takes || !headers.contains_key(FENCE_HEADER) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "synod: {path} checks no {FENCE_HEADER}: only Put, DeleteRange and Txn do; nothing was done"
    )))
}

/// Reads a sequencer that a client sent.
pub(crate) fn parse(text: &str) -> Result<Sequencer, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("synod: {text:?} is {e}")))
}

/// The holder has lost its lock.
pub(crate) fn stale(s: &Sequencer) -> Status {
    let name = String::from_utf8_lossy(&s.name);
    Status::failed_precondition(format!(
        "synod: the sequencer is stale: session {:x} does not hold lock {name:?} by token {} any more",
        s.session, s.token
    ))
}

impl Door {
    /// Whether the holder of a sequencer holds its lock in another mode: that is no
    /// sequencer of it. What the transaction compares does not tell, and never changes.
    pub(crate) async fn check_mode(&self, sequencer: &Sequencer) -> Result<(), Status> {
        let (mut found, _) = self.place_of(sequencer).await?;
        if found.is_none() {
            // This member may be behind what the others agreed on.
            self.read_barrier(false).await?;
            found = self.place_of(sequencer).await?.0;
        }
        match found {
            Some(claim) if claim.mode() == sequencer.mode => Ok(()),
            _ => Err(stale(sequencer)),
        }
    }

    /// Does one operation if the sequencer is good when it is agreed on, and
    /// otherwise nothing.
    pub(crate) async fn run_fenced(
        &self,
        sequencer: &Sequencer,
        op: Op,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        self.check_mode(sequencer).await?;
        let txn = fenced(sequencer, op);
        // One level deeper than what was checked.
        check_txn(&txn, usize::MAX).map_err(error::of_problem)?;
        let (result, header) = match self.run(Command::Txn(txn)).await? {
            (Outcome::Txn(result), header) => (result, header),
            (other, _) => return Err(unexpected(&other)),
        };
        if !result.succeeded {
            return Err(stale(sequencer));
        }
        let outcome = match result.responses.into_iter().next() {
            Some(OpResult::Put(prev)) => Outcome::Put(prev),
            Some(OpResult::Delete(deleted, prev)) => Outcome::Delete(deleted, prev),
            Some(OpResult::Txn(inner)) => Outcome::Txn(inner),
            _ => return Err(Status::internal("a fenced operation was answered with nothing")),
        };
        Ok((outcome, header))
    }
}
