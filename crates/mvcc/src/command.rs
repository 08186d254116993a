//! The bytes of a [`Command`]: what journal and peers carry.
//!
//! **Format**: version byte, kind byte, fields. Varints for numbers (signed
//! ones as their two's complement), length-prefixed strings, flags in one byte.
//!
//! **Invariants**: decoding shares the buffer (keys and values are not copied),
//! never panics, and never allocates more than a multiple of what it was given;
//! what encodes decodes to the same command. A command decodes only if
//! nothing is left over.

use crate::meta;
use crate::types::*;
use bytes::Bytes;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};

/// Version of the format.
const VERSION: u8 = 1;

/// How deep transactions may nest.
pub const TXN_DEPTH_MAX: usize = 64;

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.size_hint());
        self.encode_into(&mut out);
        out.into()
    }

    /// Appends the command as bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Command::Put(req) => {
                out.push(1);
                put_put(out, req);
            }
            Command::Delete(req) => {
                out.push(2);
                put_delete(out, req);
            }
            Command::Txn(req) => {
                out.push(3);
                put_txn(out, req);
            }
            Command::Compact { revision } => put_numbers(out, 4, &[*revision as u64]),
            Command::LeaseGrant { id, ttl, clock } => {
                put_numbers(out, 5, &[*id as u64, *ttl as u64, *clock]);
            }
            Command::LeaseRevoke { id } => put_numbers(out, 6, &[*id as u64]),
            Command::LeaseRenew { ids, clock } => put_ids(out, 7, ids, *clock),
            Command::LeaseExpire { ids, clock } => put_ids(out, 8, ids, *clock),
            Command::LeaseClock { clock } => put_numbers(out, 9, &[*clock]),
            Command::Alarm { raise, member, kind } => {
                let kind = u64::from(meta::alarm_number(*kind));
                put_numbers(out, 10, &[u64::from(*raise), member.0, kind]);
            }
            Command::MemberSet(member) => {
                out.push(11);
                meta::put_member(out, member);
            }
            Command::MemberRemove(id) => put_numbers(out, 12, &[id.0]),
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Command::Put(req) => 32 + req.key.len() + req.value.len(),
            Command::LeaseRenew { ids, .. } | Command::LeaseExpire { ids, .. } => {
                16 + 10 * ids.len()
            }
            _ => 128,
        }
    }

    /// The command that these bytes are.
    pub fn decode(bytes: Bytes) -> Result<Command, Malformed> {
        let total = bytes.len();
        let mut r = Reader::new(bytes);
        if r.u8("command version")? != VERSION {
            return Err(Malformed { what: "command version", at: 0 });
        }
        let command = match r.u8("command kind")? {
            1 => Command::Put(put(&mut r)?),
            2 => Command::Delete(delete(&mut r)?),
            3 => Command::Txn(txn(&mut r, 0, total)?),
            4 => Command::Compact { revision: signed(&mut r, "revision")? },
            5 => Command::LeaseGrant {
                id: signed(&mut r, "lease id")?,
                ttl: signed(&mut r, "lease ttl")?,
                clock: r.varint("lease clock")?,
            },
            6 => Command::LeaseRevoke { id: signed(&mut r, "lease id")? },
            7 => {
                let (ids, clock) = ids(&mut r)?;
                Command::LeaseRenew { ids, clock }
            }
            8 => {
                let (ids, clock) = ids(&mut r)?;
                Command::LeaseExpire { ids, clock }
            }
            9 => Command::LeaseClock { clock: r.varint("lease clock")? },
            10 => Command::Alarm {
                raise: one_of(&mut r, total, "alarm action", |n| match n {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                })?,
                member: NodeId(r.varint("alarm's member")?),
                kind: one_of(&mut r, total, "alarm kind", meta::alarm_kind)?,
            },
            11 => Command::MemberSet(meta::member(&mut r)?),
            12 => Command::MemberRemove(NodeId(r.varint("member id")?)),
            _ => {
                return Err(Malformed { what: "command kind", at: 1 });
            }
        };
        r.end("end of the command")?;
        Ok(command)
    }

    /// Whether an encoded command carries a lease clock that its proposer sets.
    pub fn has_clock(encoded: &[u8]) -> bool {
        matches!(encoded.get(1), Some(5 | 7 | 8 | 9))
    }

    /// The lease clock of a command that carries one.
    pub fn clock(&self) -> Option<u64> {
        match self {
            Command::LeaseGrant { clock, .. }
            | Command::LeaseRenew { clock, .. }
            | Command::LeaseExpire { clock, .. }
            | Command::LeaseClock { clock } => Some(*clock),
            _ => None,
        }
    }

    /// Sets the lease clock in a command that carries one.
    pub fn stamp_clock(&mut self, now: u64) {
        match self {
            Command::LeaseGrant { clock, .. }
            | Command::LeaseRenew { clock, .. }
            | Command::LeaseExpire { clock, .. }
            | Command::LeaseClock { clock } => *clock = now,
            _ => {}
        }
    }
}

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    for number in numbers {
        put_varint(out, *number);
    }
}

fn put_ids(out: &mut Vec<u8>, kind: u8, ids: &[i64], clock: u64) {
    put_numbers(out, kind, &[clock, ids.len() as u64]);
    for id in ids {
        put_varint(out, *id as u64);
    }
}

fn ids(r: &mut Reader) -> Result<(Vec<i64>, u64), Malformed> {
    let clock = r.varint("lease clock")?;
    let n = r.count("number of leases")?;
    let ids = (0..n).map(|_| signed(r, "lease id")).collect::<Result<_, _>>()?;
    Ok((ids, clock))
}

fn signed(r: &mut Reader, what: &'static str) -> Result<i64, Malformed> {
    Ok(r.varint(what)? as i64)
}

fn one_of<T>(
    r: &mut Reader,
    total: usize,
    what: &'static str,
    choose: impl Fn(u8) -> Option<T>,
) -> Result<T, Malformed> {
    let at = total - r.remaining();
    choose(r.u8(what)?).ok_or(Malformed { what, at })
}

fn put_range_bounds(out: &mut Vec<u8>, range: &KeyRange) {
    put_bytes(out, &range.key);
    put_bytes(out, &range.end);
}

fn range_bounds(r: &mut Reader) -> Result<KeyRange, Malformed> {
    Ok(KeyRange { key: r.bytes("key")?, end: r.bytes("range end")? })
}

fn put_put(out: &mut Vec<u8>, req: &PutRequest) {
    let flags =
        u8::from(req.prev_kv) | u8::from(req.ignore_value) << 1 | u8::from(req.ignore_lease) << 2;
    out.push(flags);
    put_varint(out, req.lease as u64);
    put_bytes(out, &req.key);
    put_bytes(out, &req.value);
}

fn put(r: &mut Reader) -> Result<PutRequest, Malformed> {
    let flags = r.u8("put flags")?;
    Ok(PutRequest {
        lease: signed(r, "lease id")?,
        key: r.bytes("key")?,
        value: r.bytes("value")?,
        prev_kv: flags & 1 != 0,
        ignore_value: flags & 2 != 0,
        ignore_lease: flags & 4 != 0,
    })
}

fn put_delete(out: &mut Vec<u8>, req: &DeleteRequest) {
    out.push(u8::from(req.prev_kv));
    put_range_bounds(out, &req.range);
}

fn delete(r: &mut Reader) -> Result<DeleteRequest, Malformed> {
    let prev_kv = r.u8("delete flags")? & 1 != 0;
    Ok(DeleteRequest { prev_kv, range: range_bounds(r)? })
}

const TARGETS: [SortTarget; 5] =
    [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
const ORDERS: [SortOrder; 3] = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];

fn put_range(out: &mut Vec<u8>, req: &RangeRequest) {
    out.push(u8::from(req.keys_only) | u8::from(req.count_only) << 1);
    out.push(req.order as u8);
    out.push(req.target as u8);
    put_range_bounds(out, &req.range);
    for number in [
        req.limit,
        req.revision,
        req.min_mod_revision,
        req.max_mod_revision,
        req.min_create_revision,
        req.max_create_revision,
    ] {
        put_varint(out, number as u64);
    }
}

fn range(r: &mut Reader, total: usize) -> Result<RangeRequest, Malformed> {
    let flags = r.u8("range flags")?;
    Ok(RangeRequest {
        keys_only: flags & 1 != 0,
        count_only: flags & 2 != 0,
        order: one_of(r, total, "sort order", |n| ORDERS.get(usize::from(n)).copied())?,
        target: one_of(r, total, "sort target", |n| TARGETS.get(usize::from(n)).copied())?,
        range: range_bounds(r)?,
        limit: signed(r, "limit")?,
        revision: signed(r, "revision")?,
        min_mod_revision: signed(r, "revision filter")?,
        max_mod_revision: signed(r, "revision filter")?,
        min_create_revision: signed(r, "revision filter")?,
        max_create_revision: signed(r, "revision filter")?,
    })
}

const RESULTS: [CompareResult; 4] =
    [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];

fn put_compare(out: &mut Vec<u8>, compare: &Compare) {
    out.push(compare.result as u8);
    put_range_bounds(out, &compare.range);
    match &compare.target {
        CompareTarget::Version(v) => put_numbers(out, 0, &[*v as u64]),
        CompareTarget::Create(v) => put_numbers(out, 1, &[*v as u64]),
        CompareTarget::Mod(v) => put_numbers(out, 2, &[*v as u64]),
        CompareTarget::Lease(v) => put_numbers(out, 3, &[*v as u64]),
        CompareTarget::Value(v) => {
            out.push(4);
            put_bytes(out, v);
        }
    }
}

fn compare(r: &mut Reader, total: usize) -> Result<Compare, Malformed> {
    let result = one_of(r, total, "comparison", |n| RESULTS.get(usize::from(n)).copied())?;
    let range = range_bounds(r)?;
    let at = total - r.remaining();
    let target = match r.u8("compare target")? {
        0 => CompareTarget::Version(signed(r, "version")?),
        1 => CompareTarget::Create(signed(r, "revision")?),
        2 => CompareTarget::Mod(signed(r, "revision")?),
        3 => CompareTarget::Lease(signed(r, "lease id")?),
        4 => CompareTarget::Value(r.bytes("value")?),
        _ => {
            return Err(Malformed { what: "compare target", at });
        }
    };
    Ok(Compare { range, target, result })
}

fn put_txn(out: &mut Vec<u8>, txn: &TxnRequest) {
    put_varint(out, txn.compare.len() as u64);
    for compare in &txn.compare {
        put_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        put_varint(out, ops.len() as u64);
        for op in ops {
            match op {
                Op::Range(req) => {
                    out.push(0);
                    put_range(out, req);
                }
                Op::Put(req) => {
                    out.push(1);
                    put_put(out, req);
                }
                Op::Delete(req) => {
                    out.push(2);
                    put_delete(out, req);
                }
                Op::Txn(txn) => {
                    out.push(3);
                    put_txn(out, txn);
                }
            }
        }
    }
}

fn txn(r: &mut Reader, depth: usize, total: usize) -> Result<TxnRequest, Malformed> {
    if depth > TXN_DEPTH_MAX {
        return Err(Malformed {
            what: "transaction nested at most 64 deep",
            at: total - r.remaining(),
        });
    }
    let mut request = TxnRequest::default();
    // Grown as items are read: a count alone must not make us allocate.
    for _ in 0..r.count("number of comparisons")? {
        request.compare.push(compare(r, total)?);
    }
    for ops in [&mut request.success, &mut request.failure] {
        for _ in 0..r.count("number of operations")? {
            let at = total - r.remaining();
            ops.push(match r.u8("operation kind")? {
                0 => Op::Range(range(r, total)?),
                1 => Op::Put(put(r)?),
                2 => Op::Delete(delete(r)?),
                3 => Op::Txn(txn(r, depth + 1, total)?),
                _ => {
                    return Err(Malformed { what: "operation kind", at });
                }
            });
        }
    }
    Ok(request)
}
