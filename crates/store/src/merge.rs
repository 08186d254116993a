//! A scan of a memtable over the scan of what lies beneath it.
//!
//! **Invariants**: both go the same way and each key occurs at most once in
//! either; what the memtable says of a key hides what is beneath.

use crate::memtable::Scan;
use std::cmp::Ordering;
use std::iter::Peekable;
use synod_mvcc::Item;

/// Pairs of a view, in order.
pub(crate) type Pairs<'a> = Box<dyn Iterator<Item = Item> + 'a>;

/// See the file's header.
pub(crate) struct Merge<'a> {
    under: Peekable<Pairs<'a>>,
    over: Peekable<Scan<'a>>,
    reverse: bool,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(under: Pairs<'a>, over: Scan<'a>, reverse: bool) -> Merge<'a> {
        Merge { under: under.peekable(), over: over.peekable(), reverse }
    }
}

impl Iterator for Merge<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let order = match (self.under.peek(), self.over.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok((under, _))), Some((over, _))) => {
                    let order = under.cmp(over);
                    if self.reverse { order.reverse() } else { order }
                }
            };
            if order == Ordering::Less {
                return self.under.next();
            }
            if order == Ordering::Equal {
                self.under.next();
            }
            if let Some((key, Some(value))) = self.over.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}
