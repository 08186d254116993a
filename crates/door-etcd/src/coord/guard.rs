//! Sessions, candidates, offices and what they claim belong to the calls of Synod and to
//! etcd's v3lock and v3election: by a plain write anybody could take an office from its
//! holder, or make one up. Every writing call of the keyspace comes by here.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use synod_coord::{Sequencer, Touches, nothing_own, touches};
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Command, KeyRange, Op, OpResult, Outcome, TxnRequest, check_txn};
use tonic::Status;

/// Whether an operation deletes a range that keys of Synod's own could lie in; one that
/// is for them alone is refused.
fn deletes_over_own(op: &Op) -> Result<bool, Status> {
    let touched = match op {
        Op::Range(_) => return Ok(false),
        Op::Put(put) => touches(&KeyRange { key: put.key.clone(), end: Default::default() }),
        Op::Delete(delete) => touches(&delete.range),
        Op::Txn(txn) => {
            let mut over = false;
            for op in txn.success.iter().chain(&txn.failure) {
                over |= deletes_over_own(op)?;
            }
            return Ok(over);
        }
    };
    match touched {
        Touches::Theirs => Ok(false),
        Touches::Both => Ok(true),
        Touches::Own => Err(Status::invalid_argument(
            "synod: these keys are written by the calls for sessions, locks, services and elections only, \
             Synod's and etcd's; nothing was written",
        )),
    }
}

impl Door {
    /// Runs an operation of a client's, if it leaves what is Synod's own alone.
    pub(crate) async fn run_guarded(
        &self,
        op: Op,
        fence: Option<Sequencer>,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        if !deletes_over_own(&op)? {
            return self.run_op(op, fence).await;
        }
        let txn = TxnRequest { compare: nothing_own(), success: vec![op], failure: Vec::new() };
        // One level deeper than what was checked.
        check_txn(&txn, usize::MAX).map_err(error::of_problem)?;
        let (result, header) = match self.run_op(Op::Txn(txn), fence).await? {
            (Outcome::Txn(result), header) => (result, header),
            (other, _) => return Err(unexpected(&other)),
        };
        if !result.succeeded {
            return Err(Status::failed_precondition(
                "synod: sessions, or what they hold, are in the range, and only the calls for \
                 them end them; nothing was deleted",
            ));
        }
        match result.responses.into_iter().next() {
            Some(OpResult::Delete(deleted, prev)) => Ok((Outcome::Delete(deleted, prev), header)),
            Some(OpResult::Txn(inner)) => Ok((Outcome::Txn(inner), header)),
            _ => Err(Status::internal("a delete was answered with something else")),
        }
    }

    async fn run_op(
        &self,
        op: Op,
        fence: Option<Sequencer>,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        if let Some(sequencer) = fence {
            return self.run_fenced(&sequencer, op).await;
        }
        match op {
            Op::Put(put) => self.run(Command::Put(put)).await,
            Op::Delete(delete) => self.run(Command::Delete(delete)).await,
            Op::Txn(txn) => self.run(Command::Txn(txn)).await,
            Op::Range(_) => Err(Status::internal("a read is not agreed on")),
        }
    }
}
