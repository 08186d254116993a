//! Is a history of one register linearizable? (Wing and Gong's search with
//! Lowe's memory of visited states.) Times are any growing numbers; an
//! operation without an end may take effect at any time after its start.

use std::collections::BTreeSet;

/// Something that a client did.
#[derive(Clone, Debug)]
pub struct Op {
    /// When it began.
    pub start: u64,
    /// `None`: its outcome is not known.
    pub end: Option<u64>,
    /// What it was.
    pub kind: Kind,
}

/// What a client did, or would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrote this value (values are unique; 0 is the state before any write).
    Write(u64),
    /// Read this value.
    Read(u64),
    /// Wrote the second where it found the first (without an outcome: or found
    /// another, and wrote nothing).
    Swap(u64, u64),
}

/// Whether some order explains the history.
pub fn is_linearizable(history: &[Op]) -> bool {
    // A read without an answer says nothing, and a write without one that nobody
    // read can always be thought to come after everything.
    let read = |v| history.iter().any(|o| o.end.is_some() && o.kind == Kind::Read(v));
    let swapped = |v| history.iter().any(|o| matches!(o.kind, Kind::Swap(from, _) if from == v));
    let counts = |o: &&Op| {
        let (Kind::Write(v) | Kind::Swap(_, v)) = o.kind else { return o.end.is_some() };
        o.end.is_some() || read(v) || swapped(v)
    };
    let mut ops: Vec<&Op> = history.iter().filter(counts).collect();
    ops.sort_by_key(|o| o.start);
    let mut done = vec![false; ops.len()];
    search(&ops, &mut done, 0, &mut BTreeSet::new())
}

fn search(
    ops: &[&Op],
    done: &mut Vec<bool>,
    value: u64,
    seen: &mut BTreeSet<(Vec<u64>, u64)>,
) -> bool {
    if ops.iter().zip(done.iter()).all(|(o, d)| *d || o.end.is_none()) {
        return true;
    }
    let open: Vec<u64> =
        done.iter().enumerate().filter(|(_, d)| !**d).map(|(i, _)| i as u64).collect();
    if !seen.insert((open, value)) {
        return false;
    }
    // Only an operation that starts before every open one has ended can be next.
    let first_end =
        ops.iter().zip(done.iter()).filter(|(_, d)| !**d).filter_map(|(o, _)| o.end).min();
    for i in 0..ops.len() {
        if done[i] || first_end.is_some_and(|end| ops[i].start > end) {
            continue;
        }
        let next = match ops[i].kind {
            Kind::Write(v) => v,
            Kind::Read(v) if v == value => value,
            Kind::Swap(from, to) if from == value => to,
            Kind::Swap(..) if ops[i].end.is_none() => value,
            Kind::Read(_) | Kind::Swap(..) => continue,
        };
        done[i] = true;
        if search(ops, done, next, seen) {
            return true;
        }
        done[i] = false;
    }
    false
}

#[test]
fn the_checker_tells_good_from_bad() {
    let op = |start, end, kind| Op { start, end: Some(end), kind };
    let w = Kind::Write;
    let r = Kind::Read;
    assert!(is_linearizable(&[op(1, 2, w(1)), op(3, 4, r(1))]));
    // Overlapping: either order.
    assert!(is_linearizable(&[op(1, 5, w(1)), op(2, 6, w(2)), op(7, 8, r(1))]));
    assert!(is_linearizable(&[op(1, 5, w(1)), op(2, 3, r(0)), op(4, 6, r(1))]));
    // A stale read, a lost write, a value from nowhere, a value that comes back.
    assert!(!is_linearizable(&[op(1, 2, w(1)), op(3, 4, w(2)), op(5, 6, r(1))]));
    assert!(!is_linearizable(&[op(1, 2, w(1)), op(3, 4, r(0))]));
    assert!(!is_linearizable(&[op(1, 2, w(1)), op(3, 4, r(9))]));
    assert!(!is_linearizable(&[op(1, 9, w(1)), op(2, 3, r(1)), op(4, 5, r(0))]));
    // An unknown write may count late, or never.
    let unknown = Op { start: 1, end: None, kind: w(1) };
    assert!(is_linearizable(&[unknown.clone(), op(2, 3, r(0)), op(4, 5, r(1))]));
    assert!(!is_linearizable(&[unknown, op(2, 3, r(1)), op(4, 5, r(0))]));
    // Swaps: one of two from the same value, and never from a value that is gone.
    let s = Kind::Swap;
    assert!(is_linearizable(&[op(1, 2, w(1)), op(3, 4, s(1, 2)), op(5, 6, r(2))]));
    assert!(!is_linearizable(&[op(1, 2, w(1)), op(3, 4, s(1, 2)), op(5, 6, s(1, 3))]));
    assert!(!is_linearizable(&[op(1, 2, w(1)), op(3, 4, s(7, 2))]));
    let unknown = Op { start: 1, end: None, kind: s(0, 4) };
    assert!(is_linearizable(&[unknown.clone(), op(2, 3, w(1)), op(4, 5, r(1))]));
    assert!(is_linearizable(&[unknown.clone(), op(2, 3, r(4)), op(4, 5, w(1))]));
    assert!(!is_linearizable(&[unknown, op(2, 3, w(1)), op(4, 5, r(4))]));
}
