//! The keys of files belong to the calls of File: whoever wrote them past those would
//! write past the caches. Every command of every other call comes by here.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use synod_coord::file::{FILES, no_files};
use synod_coord::prefix_range;
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Command, KeyRange, Op, OpResult, Outcome, TxnRequest, check_txn};
use tonic::Status;

/// Whether a command deletes a range that files could lie in; one that writes among
/// them is refused.
pub(crate) fn deletes_over_files(command: &Command) -> Result<bool, Status> {
    match command {
        Command::Put(put) => may_put(&put.key).map(|()| false),
        Command::Delete(delete) => Ok(overlaps(&delete.range)),
        Command::Txn(txn) => in_txn(txn),
        _ => Ok(false),
    }
}

fn may_put(key: &[u8]) -> Result<(), Status> {
    if !key.starts_with(FILES.as_bytes()) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "synod: keys below {FILES} are written by Synod's File calls only, or caches would not \
         hear of it"
    )))
}

fn in_txn(txn: &TxnRequest) -> Result<bool, Status> {
    let mut over = false;
    for op in txn.success.iter().chain(&txn.failure) {
        over |= match op {
            Op::Range(_) => false,
            Op::Put(put) => may_put(&put.key).map(|()| false)?,
            Op::Delete(delete) => overlaps(&delete.range),
            Op::Txn(nested) => in_txn(nested)?,
        };
    }
    Ok(over)
}

fn overlaps(range: &KeyRange) -> bool {
    let files = prefix_range(FILES.as_bytes());
    match &range.end[..] {
        [] => range.key.starts_with(FILES.as_bytes()),
        [0] => range.key < files.end,
        end => range.key < files.end && end > &files.key[..],
    }
}

impl Door {
    /// Runs a command that deletes over the keys of files: only if there are none, as
    /// is decided in the log.
    pub(crate) async fn run_over_files(
        &self,
        command: Command,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        let op = match command {
            Command::Delete(delete) => Op::Delete(delete),
            Command::Txn(txn) => Op::Txn(txn),
            other => return self.agree(other).await,
        };
        let txn = TxnRequest { compare: vec![no_files()], success: vec![op], failure: Vec::new() };
        // One level deeper than what was checked.
        check_txn(&txn, usize::MAX).map_err(error::of_problem)?;
        let (result, header) = match self.agree(Command::Txn(txn)).await? {
            (Outcome::Txn(result), header) => (result, header),
            (other, _) => return Err(unexpected(&other)),
        };
        if !result.succeeded {
            return Err(Status::failed_precondition(format!(
                "synod: files (keys below {FILES}) are in the range, and only Synod's File calls delete \
                 them; nothing was deleted"
            )));
        }
        match result.responses.into_iter().next() {
            Some(OpResult::Delete(deleted, prev)) => Ok((Outcome::Delete(deleted, prev), header)),
            Some(OpResult::Txn(inner)) => Ok((Outcome::Txn(inner), header)),
            _ => Err(Status::internal("a delete was answered with something else")),
        }
    }
}
