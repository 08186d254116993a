//! The view from above: what was agreed on, what it must have answered, and
//! what each client was promised.
//!
//! **Checked here**: all members apply the same entries; each request takes
//! effect at most once, and never after it was refused; answers and the
//! revisions of every member are the model's; nothing takes effect before what
//! had ended when it began; leases do not end early. Locks are in
//! [`crate::locks`], elections and services in [`crate::office`].

use crate::locks::Locks;
use crate::model::Model;
use crate::office::{Active, the_best_was_elected};
use std::collections::{BTreeMap, BTreeSet};
use synod_base::NodeId;
use synod_cell::Agreed;
use synod_mvcc::{Command, Error, HashKv, Outcome, Revision};

/// Which rule was broken, and how.
pub type Found = (&'static str, String);

struct Effect {
    index: u64,
    result: Result<Outcome, Error>,
    revision: i64,
}

/// See the file's header.
pub struct Oracle {
    pub model: Model,
    /// Applied entries from [`FIRST_INDEX`] on.
    log: Vec<Agreed>,
    effects: BTreeMap<(NodeId, u64), Effect>,
    /// Requests whose client was told that nothing was changed.
    refused: BTreeSet<(NodeId, u64)>,
    /// Everything up to this index was seen by some client.
    pub frontier: u64,
    /// Lease -> it must live at least until then (µs).
    promises: BTreeMap<i64, u64>,
    pub locks: Locks,
    pub active: Active,
    leaders: BTreeMap<u64, NodeId>,
    /// Revision and compacted revision -> what HashKV said of it, and who was first.
    hashes: BTreeMap<(i64, i64), (u32, NodeId)>,
    /// By how much clocks have jumped, µs.
    pub jumped: u64,
}

/// Index 1 is what all members begin with.
const FIRST_INDEX: u64 = 2;

impl Oracle {
    pub fn new(ttl_min: i64) -> Oracle {
        Oracle {
            model: Model::new(ttl_min),
            log: Vec::new(),
            effects: BTreeMap::new(),
            refused: BTreeSet::new(),
            frontier: FIRST_INDEX - 1,
            promises: BTreeMap::new(),
            locks: Locks::default(),
            active: Active::default(),
            leaders: BTreeMap::new(),
            hashes: BTreeMap::new(),
            jumped: 0,
        }
    }

    pub fn agreed(&self) -> u64 {
        FIRST_INDEX - 1 + self.log.len() as u64
    }

    /// A member says that it leads a ballot.
    pub fn leads(&mut self, who: NodeId, term: u64) -> Result<(), Found> {
        match self.leaders.insert(term, who) {
            Some(other) if other != who => {
                Err(("one leader a ballot", format!("{other} and {who} both lead ballot {term}")))
            }
            _ => Ok(()),
        }
    }

    /// A member applied an entry.
    pub fn applied(&mut self, at: NodeId, entry: Agreed, now: u64) -> Result<(), Found> {
        let place = (entry.index - FIRST_INDEX) as usize;
        if let Some(known) = self.log.get(place) {
            if *known != entry {
                let what = format!("{at} applied {entry:?}, others applied {known:?}");
                return Err(("state machine safety", what));
            }
            return Ok(());
        }
        if place != self.log.len() {
            let what = format!("{at} applied {} first, {} is next", entry.index, self.agreed() + 1);
            return Err(("state machine safety", what));
        }
        if self.log.last().is_some_and(|last| last.term > entry.term) {
            let what = format!("ballots go back at index {}: {entry:?}", entry.index);
            return Err(("ballots in order", what));
        }
        let result = self.take_effect(&entry, now);
        self.log.push(entry);
        result
    }

    fn take_effect(&mut self, entry: &Agreed, now: u64) -> Result<(), Found> {
        let mut result = Ok(Outcome::Done);
        for bytes in &entry.commands {
            let command = Command::decode(bytes.clone())
                .map_err(|e| ("state machine safety", format!("entry {}: {e}", entry.index)))?;
            let before = self.model.revision();
            result = self.model.apply(&command);
            if self.model.revision() > before {
                the_best_was_elected(&self.model)?;
            }
            for lease in std::mem::take(&mut self.model.expired) {
                let promised = self.promises.remove(&lease).unwrap_or(0);
                if now < promised {
                    let early = (promised - now) / 1_000;
                    return Err(("lease", format!("lease {lease} ended {early} ms early")));
                }
            }
        }
        if !entry.origin.is_some() {
            return Ok(());
        }
        let ticket = (entry.origin, entry.ticket);
        if self.refused.contains(&ticket) {
            let what = format!("request {ticket:?} was refused and took effect at {}", entry.index);
            return Err(("refused means nothing changed", what));
        }
        let effect = Effect { index: entry.index, result, revision: self.model.revision() };
        if let Some(before) = self.effects.insert(ticket, effect) {
            let what =
                format!("request {ticket:?} took effect at {} and {}", before.index, entry.index);
            return Err(("exactly once", what));
        }
        Ok(())
    }

    /// A client was answered: what was applied for its request, which began
    /// when `frontier` had been seen.
    pub fn answered(
        &mut self,
        ticket: (NodeId, u64),
        frontier: u64,
        result: &Result<(Outcome, i64), Error>,
    ) -> Result<(), Found> {
        let Some(effect) = self.effects.get(&ticket) else {
            return Err(("answers", format!("{ticket:?} was answered and never applied")));
        };
        let expected = match &effect.result {
            Ok(outcome) => Ok((outcome.clone(), effect.revision)),
            Err(e) => Err(*e),
        };
        if *result != expected {
            let what = format!("{ticket:?} was answered {result:?}, expected {expected:?}");
            return Err(("answers", what));
        }
        if effect.index <= frontier {
            let what = format!(
                "{ticket:?} took effect at {}, and {frontier} was seen before it began",
                effect.index
            );
            return Err(("linearizability", what));
        }
        self.frontier = self.frontier.max(effect.index);
        Ok(())
    }

    /// A client was told that its request changed nothing.
    pub fn was_refused(&mut self, ticket: (NodeId, u64)) -> Result<(), Found> {
        if let Some(effect) = self.effects.get(&ticket) {
            let what =
                format!("request {ticket:?} took effect at {}, then was refused", effect.index);
            return Err(("refused means nothing changed", what));
        }
        self.refused.insert(ticket);
        Ok(())
    }

    /// A linearizable read looked at the state of `applied`.
    pub fn read(&mut self, applied: u64, frontier: u64) -> Result<(), Found> {
        if applied < frontier {
            let what = format!("a read saw {applied}, and {frontier} was seen before it began");
            return Err(("linearizability", what));
        }
        self.frontier = self.frontier.max(applied);
        Ok(())
    }

    /// A member made these revisions.
    pub fn revisions(&self, at: NodeId, revisions: &[Revision]) -> Result<(), Found> {
        for revision in revisions {
            let expected = self.model.at(revision.revision);
            if expected != Some(revision) {
                let what = format!("{at} made {revision:?}, expected {expected:?}");
                return Err(("revisions", what));
            }
        }
        Ok(())
    }

    /// What a member's HashKV says: the same as any other's at the same revisions.
    pub fn hashed(&mut self, at: NodeId, hash: HashKv) -> Result<(), Found> {
        let place = (hash.hash_revision, hash.compact_revision);
        let (known, first) = *self.hashes.entry(place).or_insert((hash.hash, at));
        if known != hash.hash {
            let what = format!("{at} has {hash:?}, {first} has {known}");
            return Err(("equal hashes", what));
        }
        Ok(())
    }

    /// A client may rely on a lease until then.
    pub fn promise(&mut self, lease: i64, until: u64) {
        let promised = self.promises.entry(lease).or_default();
        *promised = until.max(*promised);
    }

    /// All clocks moved forward against the world: promises shrink with them.
    pub fn jump(&mut self, by: u64) {
        self.jumped += by;
        for until in self.promises.values_mut() {
            *until = until.saturating_sub(by);
        }
        self.locks.jump(by);
        self.active.jump(by);
    }
}
