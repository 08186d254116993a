//! Rows of entries, shared by whoever holds them: the log, messages, commits.

use crate::contract::{Entry, EntryKind, Proposal};
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Entries in order of their indexes, and without a gap in a message, a commit
/// or a log. Clones and parts share the memory: what was proposed as one batch
/// stays one on its way through the cell.
#[derive(Clone, Default)]
pub struct Entries {
    all: Arc<[Entry]>,
    from: u32,
    to: u32,
}

impl Entries {
    /// Those at these places of the row (not indexes of the log).
    pub fn part(&self, places: Range<usize>) -> Entries {
        assert!(places.start <= places.end && places.end <= self.len(), "a part of the row");
        let from = self.from + places.start as u32;
        Entries { all: self.all.clone(), from, to: from + places.len() as u32 }
    }

    /// Those from this place on.
    pub fn skip(&self, places: usize) -> Entries {
        self.part(places.min(self.len())..self.len())
    }

    /// A leader's batch from index `first` on, and the tickets of it.
    pub(crate) fn propose(batch: Vec<Proposal>, first: u64, term: u64) -> (Vec<u64>, Entries) {
        let tickets = batch.iter().map(|p| p.ticket).collect();
        let entry = |(p, index): (Proposal, u64)| Entry {
            index,
            term,
            kind: EntryKind::Command,
            data: p.data,
        };
        (tickets, batch.into_iter().zip(first..).map(entry).collect())
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.all[self.from as usize..self.to as usize]
    }
}

impl From<Arc<[Entry]>> for Entries {
    fn from(all: Arc<[Entry]>) -> Entries {
        assert!(u32::try_from(all.len()).is_ok(), "a row of entries fits memory");
        Entries { from: 0, to: all.len() as u32, all }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        Entries::from(Arc::<[Entry]>::from(entries))
    }
}

impl From<Entry> for Entries {
    fn from(entry: Entry) -> Entries {
        Entries::from(Arc::<[Entry]>::from([entry]))
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Entries {
        Entries::from(entries.into_iter().collect::<Arc<[Entry]>>())
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Entries) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
