//! What a transaction will do: its conditions, and transactions that only read.
//!
//! **Invariants**
//! - All conditions, nested ones too, are decided against the state before the
//!   transaction's first write (as etcd does).
//! - A transaction that only reads is answered from one published state, like
//!   any read; nothing is agreed on for it.

use crate::read::At;
use crate::reader::Published;
use crate::records::{Live, bounds};
use crate::store::{Read, Space, StoreError, View};
use crate::types::*;
use std::cmp::Ordering;

/// The conditions of a transaction and those nested in its chosen branch, decided.
pub(crate) struct Decided {
    pub succeeded: bool,
    /// One for each nested transaction of the branch, in order.
    pub nested: Vec<Decided>,
}

impl<V: Read> At<'_, V> {
    /// Decides the conditions before anything is written.
    pub(crate) fn decide(&self, txn: &TxnRequest) -> Result<Decided, StoreError> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let mut nested = Vec::new();
        for op in branch(txn, succeeded) {
            if let Op::Txn(txn) = op {
                nested.push(self.decide(txn)?);
            }
        }
        Ok(Decided { succeeded, nested })
    }

    /// The live pairs of a range.
    pub(crate) fn lives(&self, range: &KeyRange) -> Result<Vec<Live>, StoreError> {
        match bounds(range) {
            None => Ok(self.live(&range.key)?.into_iter().collect()),
            Some((from, to)) => {
                let scan = self.view.scan(Space::Latest, from, to, false);
                let decode = |item: crate::store::Item| {
                    let (key, record) = item?;
                    Live::decode(key, record)
                };
                scan.map(decode).collect()
            }
        }
    }

    /// Reads no further than to the first pair that does not satisfy it.
    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let mut none = true;
        let Some((from, to)) = bounds(&compare.range) else {
            return Ok(match self.live(&compare.range.key)? {
                Some(live) => satisfies(compare, &live.kv),
                None => satisfied_by_none(compare),
            });
        };
        for item in self.view.scan(Space::Latest, from, to, false) {
            let (key, record) = item?;
            none = false;
            if !satisfies(compare, &Live::decode(key, record)?.kv) {
                return Ok(false);
            }
        }
        Ok(!none || satisfied_by_none(compare))
    }

    /// Whether the ranges among `ops` can be answered.
    pub(crate) fn check_ranges(&self, ops: &[&Op]) -> Result<(), Error> {
        for op in ops {
            let Op::Range(req) = op else { continue };
            // Unlike a lone read, one here takes a negative revision for a number,
            // below whatever was compacted.
            let negative = req.revision < 0 && (self.compacted > 0 || req.revision < -1);
            if negative {
                return Err(Error::Compacted);
            }
            self.check_revision(req.revision)?;
        }
        Ok(())
    }
}

impl TxnRequest {
    /// Whether both branches hold nothing but ranges.
    pub fn only_reads(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }
}

impl<V: View> Published<V> {
    /// Answers a transaction that [only reads](TxnRequest::only_reads).
    pub fn read_txn(&self, txn: &TxnRequest) -> Result<Result<TxnResult, Error>, StoreError> {
        let at = self.at();
        let decided = at.decide(txn)?;
        let mut ops = Vec::new();
        chosen(txn, &decided, &mut ops);
        if let Err(e) = at.check_ranges(&ops) {
            return Ok(Err(e));
        }
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            if let Op::Range(req) = op {
                responses.push(OpResult::Range(at.range(req)?.unwrap_or_default()));
            }
        }
        Ok(Ok(TxnResult { succeeded: decided.succeeded, responses }))
    }
}

pub(crate) fn branch(txn: &TxnRequest, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// The operations of the chosen branches, nested ones in their places.
pub(crate) fn chosen<'a>(txn: &'a TxnRequest, decided: &Decided, ops: &mut Vec<&'a Op>) {
    let mut nested = decided.nested.iter();
    for op in branch(txn, decided.succeeded) {
        match op {
            Op::Txn(txn) => {
                if let Some(decided) = nested.next() {
                    chosen(txn, decided, ops);
                }
            }
            other => ops.push(other),
        }
    }
}

/// A missing key has no value to compare; all else of it is 0.
fn satisfied_by_none(compare: &Compare) -> bool {
    match compare.target {
        CompareTarget::Value(_) => false,
        _ => satisfies(compare, &KeyValue::default()),
    }
}

fn satisfies(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(v) => kv.version.cmp(v),
        CompareTarget::Create(r) => kv.create_revision.cmp(r),
        CompareTarget::Mod(r) => kv.mod_revision.cmp(r),
        CompareTarget::Value(v) => kv.value.cmp(v),
        CompareTarget::Lease(l) => kv.lease.cmp(l),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}
