//! Protobuf messages to the keyspace's words and back. Byte strings are shared.

use crate::error;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::mvccpb;
use synod_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRequest, Event, KeyRange, KeyValue, Op, OpResult,
    PutRequest, RangeRequest, RangeResult, SortOrder, SortTarget, TxnRequest, TxnResult, check_txn,
};
use tonic::Status;

pub(crate) fn range(r: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use pb::range_request::{SortOrder as PbOrder, SortTarget as PbTarget};
    let order = match PbOrder::try_from(r.sort_order) {
        Ok(PbOrder::None) => SortOrder::None,
        Ok(PbOrder::Ascend) => SortOrder::Ascend,
        Ok(PbOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(error::bad_sort()),
    };
    let target = match PbTarget::try_from(r.sort_target) {
        Ok(PbTarget::Key) => SortTarget::Key,
        Ok(PbTarget::Version) => SortTarget::Version,
        Ok(PbTarget::Create) => SortTarget::Create,
        Ok(PbTarget::Mod) => SortTarget::Mod,
        Ok(PbTarget::Value) => SortTarget::Value,
        Err(_) => return Err(error::bad_sort()),
    };
    Ok(RangeRequest {
        range: KeyRange { key: r.key, end: r.range_end },
        limit: r.limit,
        revision: r.revision,
        order,
        target,
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod_revision: r.min_mod_revision,
        max_mod_revision: r.max_mod_revision,
        min_create_revision: r.min_create_revision,
        max_create_revision: r.max_create_revision,
    })
}

pub(crate) fn put(r: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: r.key,
        value: r.value,
        lease: r.lease,
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    }
}

pub(crate) fn delete(r: pb::DeleteRangeRequest) -> DeleteRequest {
    DeleteRequest { range: KeyRange { key: r.key, end: r.range_end }, prev_kv: r.prev_kv }
}

fn txn(r: pb::TxnRequest) -> Result<TxnRequest, Status> {
    let ops = |list: Vec<pb::RequestOp>| list.into_iter().map(op).collect::<Result<Vec<_>, _>>();
    Ok(TxnRequest {
        compare: r.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(r.success)?,
        failure: ops(r.failure)?,
    })
}

/// A transaction as the command to propose, checked; `ops_max` is the longest
/// list allowed.
pub fn txn_request(r: pb::TxnRequest, ops_max: usize) -> Result<TxnRequest, Status> {
    let request = txn(r)?;
    check_txn(&request, ops_max).map_err(error::of_problem)?;
    Ok(request)
}

fn op(op: pb::RequestOp) -> Result<Op, Status> {
    use pb::request_op::Request;
    match op.request {
        Some(Request::RequestRange(r)) => Ok(Op::Range(range(r)?)),
        Some(Request::RequestPut(r)) => Ok(Op::Put(put(r))),
        Some(Request::RequestDeleteRange(r)) => Ok(Op::Delete(delete(r))),
        Some(Request::RequestTxn(r)) => Ok(Op::Txn(txn(r)?)),
        None => Err(error::key_not_found()),
    }
}

fn compare(c: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as PbResult, CompareTarget as PbTarget, TargetUnion};
    let unknown =
        |what: &str| Status::invalid_argument(format!("etcdserver: unknown compare {what}"));
    let result = match PbResult::try_from(c.result) {
        Ok(PbResult::Equal) => CompareResult::Equal,
        Ok(PbResult::Greater) => CompareResult::Greater,
        Ok(PbResult::Less) => CompareResult::Less,
        Ok(PbResult::NotEqual) => CompareResult::NotEqual,
        Err(_) => return Err(unknown("result")),
    };
    // The named target decides; an operand of another kind counts as absent.
    let number =
        |of: fn(&TargetUnion) -> Option<i64>| c.target_union.as_ref().and_then(of).unwrap_or(0);
    let target = match PbTarget::try_from(c.target) {
        Ok(PbTarget::Version) => CompareTarget::Version(number(|t| match t {
            TargetUnion::Version(v) => Some(*v),
            _ => None,
        })),
        Ok(PbTarget::Create) => CompareTarget::Create(number(|t| match t {
            TargetUnion::CreateRevision(v) => Some(*v),
            _ => None,
        })),
        Ok(PbTarget::Mod) => CompareTarget::Mod(number(|t| match t {
            TargetUnion::ModRevision(v) => Some(*v),
            _ => None,
        })),
        Ok(PbTarget::Lease) => CompareTarget::Lease(number(|t| match t {
            TargetUnion::Lease(v) => Some(*v),
            _ => None,
        })),
        Ok(PbTarget::Value) => CompareTarget::Value(match &c.target_union {
            Some(TargetUnion::Value(v)) => v.clone(),
            _ => bytes::Bytes::new(),
        }),
        Err(_) => return Err(unknown("target")),
    };
    Ok(Compare { range: KeyRange { key: c.key, end: c.range_end }, target, result })
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

pub(crate) fn event(e: &Event, prev: bool) -> mvccpb::Event {
    let kind =
        if e.deleted { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(e.kv.clone())),
        prev_kv: e.prev.clone().filter(|_| prev).map(key_value),
    }
}

pub(crate) fn range_response(
    r: RangeResult,
    header: Option<pb::ResponseHeader>,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: r.kvs.into_iter().map(key_value).collect(),
        more: r.more,
        count: r.count,
    }
}

pub(crate) fn txn_response(r: TxnResult, header: &pb::ResponseHeader) -> pb::TxnResponse {
    // Inner headers carry the revision only, as etcd's do: the one before the
    // transaction until its first write.
    let mut revision = header.revision - i64::from(wrote(&r));
    pb::TxnResponse { header: Some(*header), ..inner_txn(r, &mut revision, header.revision) }
}

/// Whether a transaction wrote anything.
fn wrote(r: &TxnResult) -> bool {
    r.responses.iter().any(|op| match op {
        OpResult::Range(_) => false,
        OpResult::Put(_) => true,
        OpResult::Delete(deleted, _) => *deleted > 0,
        OpResult::Txn(t) => wrote(t),
    })
}

/// The responses of one list; `revision` becomes `after` at the first write.
fn inner_txn(r: TxnResult, revision: &mut i64, after: i64) -> pb::TxnResponse {
    use pb::response_op::Response;
    let mut answer = |op| {
        if matches!(op, OpResult::Put(_)) || matches!(op, OpResult::Delete(n, _) if n > 0) {
            *revision = after;
        }
        let header = Some(pb::ResponseHeader { revision: *revision, ..Default::default() });
        let response = match op {
            OpResult::Range(r) => Response::ResponseRange(range_response(r, header)),
            OpResult::Put(prev) => {
                Response::ResponsePut(pb::PutResponse { header, prev_kv: prev.map(key_value) })
            }
            OpResult::Delete(deleted, prev) => {
                Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header,
                    deleted,
                    prev_kvs: prev.into_iter().map(key_value).collect(),
                })
            }
            OpResult::Txn(t) => Response::ResponseTxn(inner_txn(t, revision, after)),
        };
        pb::ResponseOp { response: Some(response) }
    };
    pb::TxnResponse {
        header: Some(pb::ResponseHeader::default()),
        succeeded: r.succeeded,
        responses: r.responses.into_iter().map(&mut answer).collect(),
    }
}
