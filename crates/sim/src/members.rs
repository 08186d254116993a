//! An operator who removes a member, the leader too, and has the machine join again under a new
//! id: as a learner first, and promoted when it is in sync.

use crate::oracle::Found;
use crate::world::{Event, Waiter, World};
use std::collections::BTreeSet;
use synod_base::NodeId;
use synod_cell::{CellInput, Work};
use synod_consensus::Change;
use synod_mvcc::Command;

/// How often the operator asks again, µs.
const AGAIN_US: u64 = 500_000;

impl World {
    /// A member is to go; `leader`: whoever leads, instead.
    pub fn retire(&mut self, who: usize, leader: bool) {
        let who = self.leader().filter(|_| leader).unwrap_or(who);
        if self.may_lose(who) {
            self.machines[who].retiring = true;
            self.say(who, || "is to be removed".into());
            self.after(1, Event::Retire { who });
        }
    }

    /// Asks for the removal until it is done; then the machine comes back as another member.
    pub fn retire_on(&mut self, who: usize) -> Result<(), Found> {
        let id = self.machines[who].id;
        let gone =
            self.machines.iter().filter(|m| m.number != who).any(|m| {
                m.up.as_ref().is_some_and(|up| !up.cell.state().members().contains_key(&id))
            });
        if gone {
            self.machines[who].retiring = false;
            self.machines[who].joining = true;
            self.replace(who, 10_000);
            self.after(AGAIN_US, Event::Promote { who });
            return Ok(());
        }
        let change = Change { remove: [id].into(), ..Change::default() };
        self.propose_change(change, vec![Command::MemberRemove(id).encode()]);
        self.after(AGAIN_US, Event::Retire { who });
        Ok(())
    }

    /// Asks for the promotion of a machine that joined, until it votes.
    pub fn promote(&mut self, who: usize) {
        let id = self.machines[who].id;
        let votes = |m: &&crate::machine::Machine| {
            m.up.as_ref().is_some_and(|up| up.cell.membership().voters.contains(&id))
        };
        if self.machines.iter().filter(votes).count() > self.machines.len() / 2 {
            self.machines[who].joining = false;
            return;
        }
        if !self.machines[who].away {
            let change = Change { promote: BTreeSet::from([id]), ..Change::default() };
            self.propose_change(change, Vec::new());
        }
        self.after(AGAIN_US, Event::Promote { who });
    }

    /// To any member that runs; nobody waits for the answer.
    fn propose_change(&mut self, change: Change, commands: Vec<bytes::Bytes>) {
        let ups = self.machines.iter().filter(|m| m.up.is_some() && !m.away);
        let ups: Vec<(usize, NodeId)> = ups.map(|m| (m.number, m.id)).collect();
        if ups.is_empty() {
            return;
        }
        let (via, _) = ups[self.rng.below(ups.len() as u64) as usize];
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting.insert(ticket, Waiter::Nobody);
        self.input(via, CellInput::Propose { ticket, work: Work::Change(change, commands) });
    }
}
