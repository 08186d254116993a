//! Who belongs to a cell, and who counts.

use bytes::Bytes;
use std::collections::BTreeSet;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};

/// The members of a cell. While `outgoing` is not empty the membership is
/// *joint* (Raft thesis 4.3): a decision needs a majority of `voters` and one
/// of `outgoing`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Those who count (when joint: the new ones).
    pub voters: BTreeSet<NodeId>,
    /// The old voters of a joint membership.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive and do not count. Never also in `voters`.
    pub learners: BTreeSet<NodeId>,
}

/// A wanted change, all parts at once. Two or more voters changed, or a voter
/// replaced, pass through a joint membership by themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Added as learners. One that votes already makes the change bad: a word
    /// about a joiner that comes late must not take the vote from it again.
    pub add_learners: BTreeSet<NodeId>,
    /// Learners that become voters; they must be in sync.
    pub promote: BTreeSet<NodeId>,
    /// Added as voters at once, without being learners first.
    pub add_voters: BTreeSet<NodeId>,
    /// Removed altogether.
    pub remove: BTreeSet<NodeId>,
    /// Removed if they are learners. One that votes by now makes the change bad:
    /// whoever asked for it did not know.
    pub remove_learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A membership of voters only.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership { voters: voters.into_iter().collect(), ..Membership::default() }
    }

    /// Whether a change is half-way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` counts.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` belongs to it in any part.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Everybody, in order.
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    /// Whether those for whom `has` holds are a quorum (of both halves when joint).
    pub fn quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority = |set: &BTreeSet<NodeId>| {
            set.is_empty() || set.iter().filter(|&&id| has(id)).count() * 2 > set.len()
        };
        !self.voters.is_empty() && majority(&self.voters) && majority(&self.outgoing)
    }

    /// The greatest value that a quorum has reached, given each one's value.
    pub fn quorum_value(&self, value: impl Fn(NodeId) -> u64) -> u64 {
        let reached = |set: &BTreeSet<NodeId>| {
            // Asked for at every step: no memory for a cell of the usual size.
            let (mut few, mut many) = ([0; 8], Vec::new());
            let all = match few.get_mut(..set.len()) {
                Some(all) => all,
                None => {
                    many.resize(set.len(), 0);
                    &mut many[..]
                }
            };
            all.iter_mut().zip(set).for_each(|(v, &id)| *v = value(id));
            all.sort_unstable();
            // With n values in ascending order a majority is at or above [(n-1)/2].
            all.get(all.len().wrapping_sub(1) / 2).copied()
        };
        match (reached(&self.voters), reached(&self.outgoing)) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) => a,
            (None, _) => 0,
        }
    }

    /// Appends the encoded membership.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for set in [&self.voters, &self.outgoing, &self.learners] {
            put_varint(out, set.len() as u64);
            for id in set {
                put_varint(out, id.0);
            }
        }
    }

    /// Reads an encoded membership.
    pub fn decode(r: &mut Reader) -> Result<Membership, Malformed> {
        let mut set = || -> Result<BTreeSet<NodeId>, Malformed> {
            let n = r.count("member count")?;
            (0..n).map(|_| Ok(NodeId(r.varint("member id")?))).collect()
        };
        Ok(Membership { voters: set()?, outgoing: set()?, learners: set()? })
    }

    /// The data of an [`EntryKind::Config`](crate::EntryKind) entry.
    pub fn encode_entry(&self, context: &[u8]) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        put_bytes(&mut out, context);
        out.into()
    }

    /// Reads back a membership and its context.
    pub fn decode_entry(data: Bytes) -> Result<(Membership, Bytes), Malformed> {
        let mut r = Reader::new(data);
        let m = Membership::decode(&mut r)?;
        let context = r.bytes("context")?;
        r.end("end of the configuration entry")?;
        Ok((m, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(bits: u64) -> BTreeSet<NodeId> {
        (0..5).filter(|i| bits >> i & 1 == 1).map(|i| NodeId(i + 1)).collect()
    }

    fn memberships() -> impl Iterator<Item = Membership> {
        let sets = (0..32).flat_map(|new| (0..32).map(move |old| (ids(new), ids(old))));
        sets.map(|(voters, outgoing)| Membership { voters, outgoing, learners: [NodeId(9)].into() })
    }

    /// openraft #1802. Every membership of five, joint or not, and everybody who may have it.
    #[test]
    fn a_quorum_is_more_than_half_of_the_voters_and_of_those_who_leave() {
        let half = |set: &BTreeSet<NodeId>, has: &BTreeSet<NodeId>| {
            set.is_empty() || set.intersection(has).count() > set.len() / 2
        };
        for m in memberships() {
            for has in (0..32).map(ids) {
                let wanted =
                    !m.voters.is_empty() && half(&m.voters, &has) && half(&m.outgoing, &has);
                let learner = NodeId(9);
                assert_eq!(m.quorum(|id| id == learner || has.contains(&id)), wanted, "{m:?}");
            }
        }
    }

    /// openraft #1802: the value is one that a quorum has reached, and no greater one is. A
    /// learner that is ahead changes nothing.
    #[test]
    fn the_value_of_a_quorum_is_the_greatest_that_a_quorum_has_reached() {
        for m in memberships() {
            for values in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [7, 0, 7, 3, 0], [2, 9, 2, 9, 1]] {
                let value = |id: NodeId| if id.0 == 9 { 99 } else { values[id.0 as usize - 1] };
                let reached = m.quorum_value(value);
                let by_quorum = |least: u64| m.quorum(|id| value(id) >= least);
                assert_eq!(by_quorum(reached), !m.voters.is_empty(), "{m:?} {values:?}");
                assert!(!by_quorum(reached + 1), "{m:?} {values:?}: {reached}");
            }
        }
    }

    /// Many voters take another way through memory.
    #[test]
    fn the_value_of_a_quorum_of_many() {
        for count in [7, 8, 9, 10, 31] {
            let m = Membership::of_voters((1..=count).map(NodeId));
            assert_eq!(m.quorum_value(|id| id.0), count.div_ceil(2), "of {count}");
        }
    }
}
