//! What is done to the cluster from outside: the faults, and the operator who
//! puts a new machine in the place of a lost one.

use crate::disk::Failing;
use crate::filer::Filer;
use crate::machine::Machine;
use crate::oracle::Found;
use crate::scenario::Fault;
use crate::schedule::Act;
use crate::world::{Event, Waiter, World};
use synod_base::{NodeId, Rng};
use synod_cell::{CellInput, Failure, Reply, Work};
use synod_consensus::{Change, Membership};
use synod_mvcc::{Command, MemberInfo};

impl World {
    pub fn strike(&mut self, number: usize) {
        if self.calm {
            return;
        }
        self.struck += 1;
        let act = self.acts[number].1.clone();
        let relent = |lasts: u64| (lasts, Event::Relent { act: number });
        self.show_fault(number, &act);
        let (wait, then) = match act {
            Act::Storm { .. }
            | Act::SlowLink { .. }
            | Act::Isolate { .. }
            | Act::Cut { .. }
            | Act::Close { .. }
            | Act::Star { .. }
            | Act::Chain { .. } => match self.strike_links(&act) {
                Some(lasts) => relent(lasts),
                None => return,
            },
            Act::Crash { who, down } => {
                let power = self.rng.one_in(2);
                self.kill(who, power);
                (down, Event::Start { who })
            }
            Act::Ambush { odds, lasts } => {
                self.ambush = odds;
                relent(lasts)
            }
            Act::Blackout { down } => {
                for who in 0..self.machines.len() {
                    self.kill(who, true);
                    let wait = down + self.rng.below(50_000);
                    self.after(wait, Event::Start { who });
                }
                return;
            }
            Act::Pause { who, lasts } => {
                if let Some(up) = &mut self.machines[who].up {
                    up.paused = true;
                }
                relent(lasts)
            }
            Act::Jump { who, by } => {
                self.machines[who].clock.jump(by);
                self.oracle.jump(by);
                self.clients.iter_mut().for_each(|c| c.jump(by));
                self.filers.iter_mut().for_each(Filer::jump);
                return;
            }
            Act::SlowDisk { who, each, lasts } => {
                self.machines[who].sync_us = each;
                relent(lasts)
            }
            Act::BadDisk { who } => {
                // By its number, so that seeds from before syncs failed draw what they drew.
                let what = if number.is_multiple_of(2) { Failing::Sync } else { Failing::Any };
                return self.machines[who].disk.fail_next(what);
            }
            Act::FullDisk { who, lasts } => {
                self.machines[who].disk.set_full(true);
                relent(lasts)
            }
            Act::Rot { .. }
            | Act::StateRot { .. }
            | Act::Astray { .. }
            | Act::Upgrade { .. }
            | Act::Retire { .. }
            | Act::Replace { .. } => return self.strike_disk(act),
            Act::Transfer { to } => return self.transfer(to),
        };
        self.after(wait, then);
    }

    /// What befalls the network. Says for how long, if it has an end.
    fn strike_links(&mut self, act: &Act) -> Option<u64> {
        match *act {
            Act::Storm { loss, twice, late, lasts } => {
                self.network.storm(Some((loss, twice, late)));
                Some(lasts)
            }
            Act::SlowLink { from, to, delay, lasts } => {
                self.network.slow(from, to, delay);
                Some(lasts)
            }
            Act::Isolate { who, lasts } => {
                for other in 0..self.machines.len() {
                    self.network.cut(who, other);
                    self.network.cut(other, who);
                }
                Some(lasts)
            }
            Act::Cut { from, to, both, lasts } => {
                self.network.cut(from, to);
                if both {
                    self.network.cut(to, from);
                }
                Some(lasts)
            }
            Act::Close { from, to } => {
                self.hang_up(from, to);
                None
            }
            Act::Star { hub, lasts } => {
                self.star(hub);
                Some(lasts)
            }
            Act::Chain { first, lasts } => {
                let count = self.machines.len();
                let place = |who: usize| (who + count - first) % count;
                self.network.keep_only(count, |a, b| place(a).abs_diff(place(b)) == 1);
                Some(lasts)
            }
            _ => None,
        }
    }

    /// It is told in words, and drawn on the lanes of those whom it strikes.
    fn show_fault(&mut self, number: usize, act: &Act) {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let lanes = act.strikes().unwrap_or(all);
        let text = act.words(|who| crate::picture::name(self.machines[who].id));
        self.picture.fault(self.now, number, lanes, text);
        if act.is_over_at_once() {
            self.picture.fault_ends(self.now, number);
        }
    }

    /// What befalls disks, and those who write them.
    fn strike_disk(&mut self, act: Act) {
        match act {
            Act::Rot { who, place, down } => self.rot(who, place, down),
            Act::StateRot { who, odds, salt } if self.may_lose(who) => {
                self.machines[who].rot.set(odds, salt);
            }
            Act::Astray { who, place, lives, down } if self.may_lose(who) => {
                self.machines[who].rotted = true;
                self.machines[who].disk.lead_astray(place);
                self.after(lives, Event::Restart { who, down, upgrade: false });
            }
            Act::Upgrade { gap, down } => {
                for who in 0..self.machines.len() {
                    let wait = who as u64 * gap;
                    self.after(wait, Event::Restart { who, down, upgrade: true });
                }
            }
            Act::Replace { who, down } if self.may_lose(who) => self.replace(who, down),
            Act::Retire { who, leader } => self.retire(who, leader),
            _ => {}
        }
    }

    pub fn relent(&mut self, number: usize) {
        self.picture.fault_ends(self.now, number);
        match self.acts[number].1 {
            Act::Storm { .. } => self.network.storm(None),
            Act::SlowLink { from, to, .. } => self.network.quicken(from, to),
            Act::Isolate { who, .. } => {
                for other in 0..self.machines.len() {
                    self.network.mend(who, other);
                    self.network.mend(other, who);
                }
            }
            Act::Cut { from, to, .. } => {
                self.network.mend(from, to);
                self.network.mend(to, from);
            }
            Act::Star { .. } | Act::Chain { .. } => {
                self.network.keep_only(self.machines.len(), |_, _| true);
            }
            Act::Pause { who, .. } => self.resume(who),
            Act::Ambush { .. } => self.ambush = 0,
            Act::SlowDisk { who, .. } => self.machines[who].sync_us = 0,
            Act::FullDisk { who, .. } => self.machines[who].disk.set_full(false),
            _ => {}
        }
    }

    /// Everybody reaches `hub`, and nobody else.
    fn star(&mut self, hub: usize) {
        self.network.keep_only(self.machines.len(), |a, b| a == hub || b == hub);
    }

    fn hang_up(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        self.network.close(self.now, from, to);
        for (one, other) in [(from, to), (to, from)] {
            let id = self.machines[other].id;
            if self.network.carries(other, one) {
                self.after(50, Event::Disconnect { from: id, to: one });
            }
        }
    }

    fn resume(&mut self, who: usize) {
        let life = self.machines[who].lives;
        let Some(up) = &mut self.machines[who].up else { return };
        up.paused = false;
        if !up.woken {
            up.woken = true;
            self.after(1, Event::Turn { who, life });
        }
    }

    /// The faults end, but for one that stays: a minority is down, or only one node reaches a
    /// majority. Says whether there is such a one.
    pub fn mend_but_one(&mut self) -> bool {
        let mut rng = Rng::new(self.scenario.seed ^ 0x57a7);
        let faults = &self.scenario.faults;
        let (partial, minority) = (faults.has(Fault::Partial), faults.has(Fault::Minority));
        if self.machines.len() < 3 || !(partial || minority) {
            return false;
        }
        let sound = |m: &Machine| self.is_a_voter(m) && !m.retiring && !m.rotted && !m.rot.is_set();
        let first = rng.below(self.machines.len() as u64) as usize;
        let order = (0..self.machines.len()).map(|n| (first + n) % self.machines.len());
        let sound: Vec<usize> = order.filter(|w| sound(&self.machines[*w])).collect();
        self.mend_all();
        if partial && (!minority || rng.one_in(2)) {
            let Some(hub) = sound.into_iter().find(|w| self.machines[*w].up.is_some()) else {
                return false;
            };
            self.say(hub, || "is the only one that the others reach".into());
            self.star(hub);
            // Another one may lead, and then not all reach it; the hub does.
            self.asked = Some(hub);
            return true;
        }
        // Those that are lost, or may be found to be, count among them.
        let (most, all) = ((self.machines.len() - 1) / 2, self.machines.len());
        for who in sound.iter().take(most.saturating_sub(all - sound.len())) {
            self.kill(*who, false);
            self.machines[*who].held_down = true;
        }
        true
    }

    /// Whether everybody who is up takes it for a voter, and a majority is up. Not while a
    /// change is under way: that takes a majority of the old voters too, of which one may be
    /// lost already.
    fn is_a_voter(&self, machine: &Machine) -> bool {
        let ups: Vec<_> = self.machines.iter().filter_map(|m| m.up.as_ref()).collect();
        let settled = |m: &Membership| !m.is_joint() && m.voters.contains(&machine.id);
        !machine.away
            && ups.len() > self.machines.len() / 2
            && ups.iter().all(|up| settled(up.cell.membership()))
    }

    /// Everything that was broken works again.
    pub fn mend_all(&mut self) {
        self.calm = true;
        self.asked = None;
        self.machines.iter_mut().for_each(|m| m.held_down = false);
        self.picture.faults_end(self.now);
        self.ambush = 0;
        self.network.heal();
        for who in 0..self.machines.len() {
            self.machines[who].disk.set_full(false);
            self.machines[who].sync_us = 0;
            // What nobody has met by now would only be met by the checkers.
            self.machines[who].rot.set(0, 0);
            self.resume(who);
            self.after(1_000, Event::Start { who });
        }
    }

    /// A minority may lose its disks, and no further one before it is whole again.
    pub fn may_lose(&mut self, who: usize) -> bool {
        let whole = |m: &crate::machine::Machine| {
            !m.away && !m.retiring && !m.joining && !m.rotted && !m.rot.is_set()
        };
        self.machines.len() >= 3
            && self.machines.iter().all(whole)
            && self.leader().is_some_and(|l| {
                let Some(up) = &self.machines[l].up else { return false };
                let (members, status) = (up.cell.membership(), up.cell.consensus_status());
                // The end of a change must be agreed on, not only be in a log; and those
                // that are left must know it, or they still ask the old voters.
                let knows = |m: &&crate::machine::Machine| {
                    m.up.as_ref().is_some_and(|up| up.cell.membership() == members)
                };
                let left = self.machines.iter().filter(|m| m.number != who);
                !members.is_joint()
                    && status.commit == status.last
                    && left.filter(knows).count() > self.machines.len() / 2
                    && self.machines.iter().all(|m| members.voters.contains(&m.id))
                    && members.all().len() == self.machines.len()
            })
            && self.machines[who].up.is_some()
    }

    fn rot(&mut self, who: usize, place: u64, down: u64) {
        if !self.may_lose(who) {
            return;
        }
        self.kill(who, false);
        if let Some(what) = self.machines[who].disk.damage(place) {
            self.machines[who].rotted = true;
            self.say(who, || what);
        }
        self.after(down, Event::Start { who });
    }

    /// The process ends and comes back, of another release if that is meant.
    pub fn restart(&mut self, who: usize, down: u64, upgrade: bool) {
        if self.calm {
            return;
        }
        let power = !upgrade && self.rng.one_in(2);
        self.kill(who, power);
        if upgrade {
            self.machines[who].change_version();
            self.say(who, || "is of another release".into());
        }
        self.after(down, Event::Start { who });
    }

    /// Somebody met what cannot be read: the process ends, and an operator looks after it.
    pub fn store_failed(&mut self, what: String) -> Result<(), Found> {
        let Some(who) = self.machines.iter().position(|m| m.rot.is_set()) else {
            return Err(("store", what));
        };
        self.say(who, || format!("stops: {what}; it is rebuilt"));
        self.replace(who, 10_000);
        Ok(())
    }

    fn transfer(&mut self, to: usize) {
        let Some(leader) = self.leader() else { return };
        let to = self.machines[to].id;
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting.insert(ticket, Waiter::Nobody);
        self.input(leader, CellInput::Transfer { ticket, to: Some(to) });
    }

    /// The machine is lost with its disk; another takes its place.
    pub fn replace(&mut self, who: usize, down: u64) {
        self.kill(who, false);
        self.ids += 1;
        let id = NodeId(self.ids);
        self.say(who, || format!("is lost; {id} will take its place"));
        self.machines[who].lose_everything(id);
        self.after(down, Event::Rejoin { who });
    }

    /// Asks a member to take this machine, as a wiped node does when it starts.
    pub fn rejoin(&mut self, who: usize) -> Result<(), Found> {
        if !self.machines[who].away {
            return Ok(());
        }
        self.after(700_000, Event::Rejoin { who });
        let ups = self.machines.iter().filter(|m| m.up.is_some());
        let ups: Vec<usize> = ups.map(|m| m.number).collect();
        if ups.is_empty() {
            return Ok(());
        }
        let via = ups[self.rng.below(ups.len() as u64) as usize];
        let id = self.machines[who].id;
        let Some(up) = &self.machines[via].up else { return Ok(()) };
        let membership = up.cell.membership();
        // What is only in a log may be cut off again.
        if up.cell.state().members().contains_key(&id) {
            return self.joined(who);
        }
        let url = crate::machine::peer_url(who);
        let twins = up.cell.state().members().values().filter(|m| m.peer_urls == url);
        let stale: std::collections::BTreeSet<NodeId> =
            twins.map(|m| m.id).filter(|t| *t != id && membership.learners.contains(t)).collect();
        let info =
            MemberInfo { id, name: format!("m{who}"), peer_urls: url, client_urls: Vec::new() };
        let mut commands = vec![Command::MemberSet(info).encode()];
        commands.extend(stale.iter().map(|id| Command::MemberRemove(*id).encode()));
        let change =
            Change { add_learners: [id].into(), remove_learners: stale, ..Change::default() };
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting.insert(ticket, Waiter::Joiner(who));
        self.input(via, CellInput::Propose { ticket, work: Work::Change(change, commands) });
        Ok(())
    }

    fn joined(&mut self, who: usize) -> Result<(), Found> {
        if self.machines[who].away {
            self.machines[who].away = false;
            self.start_process(who)?;
        }
        Ok(())
    }

    /// A request was answered: whose it was decides what that means.
    pub fn done(
        &mut self,
        who: usize,
        ticket: u64,
        result: Result<Reply, Failure>,
    ) -> Result<(), Found> {
        match self.waiting.remove(&ticket) {
            Some(Waiter::Client(client)) => self.client_done(client, who, ticket, result),
            Some(Waiter::Filer(filer)) => self.filer_done(filer, ticket, result),
            Some(Waiter::Joiner(who)) if result.is_ok() => self.joined(who),
            Some(Waiter::Joiner(_) | Waiter::Nobody) => Ok(()),
            // Its client has given up meanwhile; what it was told must hold all the same.
            None => match result {
                Err(Failure::Refused(_) | Failure::TimedOut) => {
                    self.oracle.was_refused((self.machines[who].id, ticket))
                }
                _ => Ok(()),
            },
        }
    }
}
