//! Which segments a journal still needs.
//!
//! **Invariant**: a segment is kept while it, or one before it, may hold a
//! record that concerns an index above what was forgotten.

/// Knows of each live segment the last index that its records concern. For one
/// cell; a driver of several keeps the least of what they answer.
#[derive(Debug, Default)]
pub struct Retention {
    /// (segment, last index it may hold), oldest first.
    held: Vec<(u64, u64)>,
}

impl Retention {
    /// After recovery: nothing in `segments` concerns an index above `last`.
    pub fn new(segments: &[u64], last: u64) -> Retention {
        Retention { held: segments.iter().map(|s| (*s, last)).collect() }
    }

    /// A batch that concerns indexes up to `last` went to `segment`.
    pub fn wrote(&mut self, segment: u64, last: u64) {
        match self.held.last_mut() {
            Some((s, l)) if *s == segment => *l = last.max(*l),
            _ => self.held.push((segment, last)),
        }
    }

    /// Indexes up to `upto` are not needed any more: the first segment that
    /// must stay; `current` is the one written to.
    pub fn forget(&mut self, upto: u64, current: u64) -> u64 {
        let upto = if synod_base::planted("journal: a segment is dropped too early") {
            upto + 300
        } else {
            upto
        };
        let keep = self.held.iter().find(|(_, l)| *l > upto).map_or(current, |(s, _)| *s);
        self.held.retain(|(s, _)| *s >= keep.min(current));
        keep
    }
}
