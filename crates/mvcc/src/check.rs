//! What is checked in a transaction before it is proposed: etcd's rules.
//!
//! **Invariant**: a pure function of the request.

use crate::command::TXN_DEPTH_MAX;
use crate::types::*;
use std::collections::BTreeSet;

/// What is wrong with a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxnProblem {
    /// One of its lists is longer than allowed (nested ones have what is left).
    TooManyOps,
    /// A key is put twice in one branch, or put within a delete's range.
    DuplicateKey,
    /// A key is empty.
    EmptyKey,
    /// A key to be put is over [`KEY_BYTES_MAX`].
    KeyTooLong,
    /// A value beside `ignore_value`.
    ValueProvided,
    /// A lease beside `ignore_lease`.
    LeaseProvided,
    /// A sort option that does not exist (found by whoever reads the wire).
    InvalidSortOption,
}

/// Checks a put.
pub fn check_put(req: &PutRequest) -> Result<(), TxnProblem> {
    if req.key.is_empty() {
        Err(TxnProblem::EmptyKey)
    } else if req.key.len() > KEY_BYTES_MAX {
        Err(TxnProblem::KeyTooLong)
    } else if req.ignore_value && !req.value.is_empty() {
        Err(TxnProblem::ValueProvided)
    } else if req.ignore_lease && req.lease != 0 {
        Err(TxnProblem::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a transaction; `max_ops` is the longest list allowed (etcd: 128).
pub fn check_txn(txn: &TxnRequest, max_ops: usize) -> Result<(), TxnProblem> {
    check_lists(txn, max_ops, 0)?;
    check_branch(&txn.success)?;
    check_branch(&txn.failure)?;
    Ok(())
}

fn check_lists(txn: &TxnRequest, max_ops: usize, depth: usize) -> Result<(), TxnProblem> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if longest > max_ops || depth > TXN_DEPTH_MAX {
        return Err(TxnProblem::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.range.key.is_empty()) {
        return Err(TxnProblem::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(req) if req.range.key.is_empty() => return Err(TxnProblem::EmptyKey),
            Op::Delete(req) if req.range.key.is_empty() => return Err(TxnProblem::EmptyKey),
            Op::Range(_) | Op::Delete(_) => {}
            Op::Put(req) => check_put(req)?,
            Op::Txn(nested) => check_lists(nested, max_ops - longest, depth + 1)?,
        }
    }
    Ok(())
}

/// What a branch writes.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Touched<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), TxnProblem> {
        let deleted = self.deletes.iter().any(|range| overlaps(range, key));
        if deleted || !self.puts.insert(key) { Err(TxnProblem::DuplicateKey) } else { Ok(()) }
    }
}

/// Whether a put of `key` collides with a delete. As in etcd, an end of `\0`
/// ("from key on") is taken literally here, and so collides with nothing:
/// clients clear a range and fill it again in one transaction.
fn overlaps(range: &KeyRange, key: &[u8]) -> bool {
    if range.end.is_empty() {
        range.key == key
    } else {
        key >= &range.key[..] && key < &range.end[..]
    }
}

/// Collects what a branch writes, in etcd's order: its deletes, its nested
/// transactions in order (both branches of each), then its puts.
fn check_branch(ops: &[Op]) -> Result<Touched<'_>, TxnProblem> {
    let mut touched = Touched::default();
    for op in ops {
        if let Op::Delete(req) = op {
            touched.deletes.push(&req.range);
        }
    }
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let success = check_branch(&nested.success)?;
        let failure = check_branch(&nested.failure)?;
        for key in &success.puts {
            touched.put(key)?;
        }
        // Only one of the two branches will run, so they may put the same key.
        for key in failure.puts.difference(&success.puts) {
            touched.put(key)?;
        }
        touched.deletes.extend(success.deletes);
        touched.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Op::Put(req) = op {
            touched.put(&req.key)?;
        }
    }
    Ok(touched)
}
