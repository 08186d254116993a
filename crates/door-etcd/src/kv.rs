//! The keyspace's calls.

use crate::door::Door;
use crate::{convert, error};
use synod_coord::Sequencer;
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{Command, Op, Outcome, RangeRequest, check_put};
use tonic::Status;

/// Ranges of more pairs than this are read on another thread.
const INLINE_MAX: usize = 1_000;

impl Door {
    pub(crate) async fn range(&self, r: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        if r.key.is_empty() {
            return Err(error::key_not_provided());
        }
        let serializable = r.serializable;
        let request = convert::range(r)?;
        self.read_barrier(serializable).await?;
        let (result, header) = self.read(request).await?;
        Ok(convert::range_response(result, Some(header)))
    }

    pub(crate) async fn read_barrier(&self, serializable: bool) -> Result<(), Status> {
        if serializable {
            return Ok(());
        }
        self.refuse_on_learner()?;
        self.handle().barrier().await.map_err(error::of_request)
    }

    /// Reads what is published; if that is much, on a thread for it.
    pub(crate) async fn read(
        &self,
        request: RangeRequest,
    ) -> Result<(synod_mvcc::RangeResult, pb::ResponseHeader), Status> {
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        let few = published.range_of_few(&request, INLINE_MAX).map_err(error::of_store)?;
        let result = match few {
            Some(result) => result,
            None => {
                let read = tokio::task::spawn_blocking(move || published.range(&request)).await;
                read.map_err(|_| error::stopped())?.map_err(error::of_store)?
            }
        };
        let result = result.map_err(error::of_state)?;
        Ok((result, header))
    }

    pub(crate) async fn put(
        &self,
        r: pb::PutRequest,
        fence: Option<Sequencer>,
    ) -> Result<pb::PutResponse, Status> {
        let request = convert::put(r);
        check_put(&request).map_err(error::of_problem)?;
        let (outcome, header) = self.run_guarded(Op::Put(request), fence).await?;
        match outcome {
            Outcome::Put(prev) => {
                Ok(pb::PutResponse { header: Some(header), prev_kv: prev.map(convert::key_value) })
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn delete_range(
        &self,
        r: pb::DeleteRangeRequest,
        fence: Option<Sequencer>,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        if r.key.is_empty() {
            return Err(error::key_not_provided());
        }
        let request = convert::delete(r);
        let (outcome, header) = self.run_guarded(Op::Delete(request), fence).await?;
        match outcome {
            Outcome::Delete(deleted, prev) => Ok(pb::DeleteRangeResponse {
                header: Some(header),
                deleted,
                prev_kvs: prev.into_iter().map(convert::key_value).collect(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn txn(
        &self,
        r: pb::TxnRequest,
        fence: Option<Sequencer>,
    ) -> Result<pb::TxnResponse, Status> {
        let serializable = only_serializable(&r);
        let txn = convert::txn_request(r, self.config().txn_ops_max)?;
        if fence.is_none() && txn.only_reads() {
            return self.read_txn(txn, serializable).await;
        }
        let (outcome, header) = self.run_guarded(Op::Txn(txn), fence).await?;
        match outcome {
            Outcome::Txn(result) => Ok(convert::txn_response(result, &header)),
            other => Err(unexpected(&other)),
        }
    }

    /// Nothing is agreed on for a transaction that only reads.
    async fn read_txn(
        &self,
        txn: synod_mvcc::TxnRequest,
        serializable: bool,
    ) -> Result<pb::TxnResponse, Status> {
        self.read_barrier(serializable).await?;
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        // Its ranges may be large.
        let read = tokio::task::spawn_blocking(move || published.read_txn(&txn)).await;
        let result = read.map_err(|_| error::stopped())?;
        let result = result.map_err(error::of_store)?.map_err(error::of_state)?;
        Ok(convert::txn_response(result, &header))
    }

    pub(crate) async fn compact(
        &self,
        r: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, Status> {
        let (_, header) = self.run(Command::Compact { revision: r.revision }).await?;
        Ok(pb::CompactionResponse { header: Some(header) })
    }
}

/// Whether a transaction holds ranges only, and all of them take what the member has.
fn only_serializable(r: &pb::TxnRequest) -> bool {
    r.success.iter().chain(&r.failure).all(|op| {
        matches!(&op.request, Some(pb::request_op::Request::RequestRange(r)) if r.serializable)
    })
}

pub(crate) fn unexpected(outcome: &Outcome) -> Status {
    Status::internal(format!("the state answered with something else: {outcome:?}"))
}
