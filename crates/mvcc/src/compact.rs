//! Compaction: the command moves a number, the removal follows in steps.
//!
//! To compact to `c` means that nothing below `c` is read any more. A version
//! superseded at or below `c` goes, and so do deletions strictly below `c`
//! (those at `c` are for watches that start there; etcd #19179). Both are found
//! by walking the events from the last compaction to this one, so the cost is
//! that of the changes since, not of the keyspace.
//!
//! **Invariants**: a walk keeps its target until it is done; the next one
//! starts with the events at the last target, for its deletions.

use crate::meta::{self, Sweep};
use crate::records::{self, Past};
use crate::state::State;
use crate::store::{Read, Space, Store, StoreError};
use crate::types::{Error, MemberInfo, Outcome};
use bytes::Bytes;
use synod_base::planted;

/// By how much a restore moves the revision up, unless told otherwise: more
/// than a cell writes between a backup and its loss.
pub const REVISION_BUMP: i64 = 1_000_000_000;

impl<S: Store> State<S> {
    pub(crate) fn apply_compact(
        &mut self,
        revision: i64,
    ) -> Result<Result<Outcome, Error>, StoreError> {
        if revision <= self.meta.compacted {
            return Ok(Err(Error::Compacted));
        }
        if revision > self.meta.revision {
            return Ok(Err(Error::FutureRevision));
        }
        // Revision 1 is that of the empty store and has no event.
        let first = self.overlay().get(Space::History, &records::place_key((revision, 0)))?;
        if let Some(record) = first {
            self.meta.freed = Past::decode((revision, 0), record)?.garbage;
        }
        self.meta.compacted = revision;
        Ok(Ok(Outcome::Done))
    }

    /// Whether a compaction has left something to remove, and the store has time for it.
    /// A removal costs it about as much as a change: what clients write comes first.
    pub fn compaction_due(&self) -> bool {
        (self.meta.sweep.is_some() || self.meta.swept < self.meta.compacted)
            && !self.store.is_behind()
    }

    /// Removes what a compaction left behind, looking at no more than `budget`
    /// events; says whether there is more to do. Buffered like a command: the
    /// next [`State::commit`] writes it, and a restart goes on from there.
    pub fn compact_step(&mut self, budget: usize) -> Result<bool, StoreError> {
        let sweep = match self.meta.sweep {
            Some(sweep) => sweep,
            None if self.meta.swept < self.meta.compacted => {
                Sweep { target: self.meta.compacted, cursor: (self.meta.swept, 0) }
            }
            None => return Ok(false),
        };
        let from = records::place_key(sweep.cursor);
        let end = records::place_key((sweep.target + 1, 0));
        let (pasts, next) = {
            let view = self.overlay();
            let mut scan = view.scan(Space::History, &from, Some(&end), false);
            let mut pasts = Vec::new();
            for item in scan.by_ref().take(budget.max(1)) {
                let (key, record) = item?;
                pasts.push(Past::decode(records::place_of(&key)?, record)?);
            }
            (pasts, scan.next().transpose()?)
        };
        for past in &pasts {
            self.sweep(past, sweep.target);
        }
        match next {
            Some((key, _)) => {
                self.meta.sweep = Some(Sweep { cursor: records::place_of(&key)?, ..sweep });
            }
            None => {
                self.meta.sweep = None;
                self.meta.swept = sweep.target;
            }
        }
        Ok(self.meta.sweep.is_some() || self.meta.swept < self.meta.compacted)
    }

    /// Makes a restored state that of a new cell: its revision moves up by
    /// `bump` (so that no revision that clients saw after the backup comes
    /// again with another content; etcd #16028) with all before it compacted,
    /// its applied index and term and its members are the new cell's. Live
    /// pairs and leases stay. Commit afterwards.
    pub fn rebase(
        &mut self,
        bump: i64,
        applied: u64,
        term: u64,
        members: impl IntoIterator<Item = MemberInfo>,
    ) {
        let meta = &mut self.meta;
        (meta.applied, meta.term) = (applied, term);
        if bump > 0 {
            meta.revision = meta.revision.saturating_add(bump);
            meta.compacted = meta.revision;
            meta.garbage += std::mem::take(&mut meta.tombs);
            meta.freed = meta.garbage;
        }
        let old: Vec<_> = self.members.keys().copied().collect();
        for member in old {
            self.remove_member(member);
        }
        self.bootstrap(members);
        self.writes.remove(Space::Meta, Bytes::from_static(meta::BOUNDARY));
    }

    /// Removes what this event made unreadable.
    fn sweep(&mut self, past: &Past, target: i64) {
        if let Some(place) = past.prev {
            self.writes.remove(Space::History, records::place_key(place));
            self.writes.remove(Space::Versions, records::version_key(&past.kv.key, place));
        }
        if planted("state: a compaction takes a live pair")
            && !past.deleted
            && past.sub == 0
            && past.kv.mod_revision % 7 == 0
        {
            self.writes.remove(Space::Latest, past.kv.key.clone());
            self.hot.forget(&past.kv.key);
        }
        if past.deleted && past.kv.mod_revision < target {
            let place = (past.kv.mod_revision, past.sub);
            self.writes.remove(Space::History, records::place_key(place));
        }
    }
}
