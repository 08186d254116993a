//! One campaign of this node: who said what.

use crate::config::Membership;
use crate::event::VoteRefusal;
use std::collections::{BTreeMap, BTreeSet};
use synod_base::NodeId;

/// A campaign for one ballot.
#[derive(Debug)]
pub struct Poll {
    /// The ballot (Raft: term) that is wanted.
    pub term: u64,
    pub granted: BTreeSet<NodeId>,
    pub refused: BTreeMap<NodeId, VoteRefusal>,
}

impl Poll {
    /// Begins with the own vote.
    pub fn new(term: u64, id: NodeId) -> Poll {
        Poll { term, granted: BTreeSet::from([id]), refused: BTreeMap::new() }
    }

    /// Takes note of an answer; a yes is never taken back.
    pub fn note(&mut self, from: NodeId, refused: Option<VoteRefusal>) {
        match refused {
            None => {
                self.refused.remove(&from);
                self.granted.insert(from);
            }
            Some(why) if !self.granted.contains(&from) => {
                self.refused.insert(from, why);
            }
            Some(_) => {}
        }
    }

    pub fn won(&self, members: &Membership) -> bool {
        members.quorum(|id| self.granted.contains(&id))
    }

    /// Whether no answer still to come can win it. Nobody waits for that of
    /// `gone`: it would turn a split vote into a full time-out.
    pub fn lost(&self, members: &Membership, gone: Option<NodeId>) -> bool {
        let may_come = |id| !self.refused.contains_key(&id) && gone != Some(id);
        !self.refused.is_empty() && !members.quorum(may_come)
    }
}
