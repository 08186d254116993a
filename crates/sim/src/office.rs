//! An office that clients stand for, by the rules of [`synod_coord`]: candidates with
//! priorities that are healthy or failing, and the instances of a service that are
//! active while they are in office.
//!
//! **Checked here**: whoever was elected was the best healthy candidate at that
//! revision, by a second writing of the rule; and no two instances are active at a
//! time.

use crate::holder::{Step, Taken};
use crate::model::Model;
use crate::oracle::Found;
use crate::world::World;
use std::collections::BTreeMap;
use synod_coord::{
    CandidateRecord, Choice, Claim, Duty, Mode, Place, Role, ServiceMode, candidate_key,
    candidates, choice, contenders, prefix_range, read_candidates, read_queue, take_office,
    took_office, without_idle_guards,
};
use synod_mvcc::{Command, PutRequest, RangeRequest, TxnResult};

/// The office's name.
pub(crate) const OFFICE: &[u8] = b"office";
/// What stands in the key of who was elected; others may enter the queue too, as
/// etcd's clients do.
const ELECTED: &[u8] = b"elected";

/// A client as a candidate, and as an instance of a service.
pub(crate) struct Official {
    role: Role,
    healthy: bool,
    /// It was found to be the best: since when it stands, and the revision at which
    /// that was seen.
    chance: Option<(i64, i64)>,
}

impl Default for Official {
    fn default() -> Official {
        let role = Role::new(ServiceMode::ActivePassive);
        Official { role, healthy: false, chance: None }
    }
}

/// Which instances are active.
#[derive(Default)]
pub struct Active {
    /// Client -> it stops by then at the latest, µs.
    until: BTreeMap<usize, u64>,
}

impl Active {
    /// All clocks moved forward against the world.
    pub fn jump(&mut self, by: u64) {
        self.until.values_mut().for_each(|until| *until = until.saturating_sub(by));
    }

    /// It is not active any more.
    pub fn rests(&mut self, client: usize) {
        self.until.remove(&client);
    }

    /// It is active now, and until then unless it stops before.
    fn serves(&mut self, client: usize, now: u64, until: u64) -> Result<(), Found> {
        let other = self.until.iter().find(|(c, until)| **c != client && **until > now);
        if let Some((other, until)) = other {
            let more = (until - now) / 1_000;
            let what = format!("client {client} is active, and {other} for {more} ms more");
            return Err(("exactly one active", what));
        }
        self.until.insert(client, until);
        Ok(())
    }
}

/// If the latest revision made somebody the leader: nobody better stood before it.
pub fn the_best_was_elected(model: &Model) -> Result<(), Found> {
    let revision = model.revision();
    let Some(made) = model.at(revision) else { return Ok(()) };
    let own = contenders(OFFICE);
    let elected = made.events.iter().find(|e| {
        let new = !e.deleted && e.kv.create_revision == revision;
        new && e.kv.key.starts_with(&own) && e.kv.value == ELECTED
    });
    let Some(elected) = elected.map(|e| &e.kv) else { return Ok(()) };
    let mut own = None;
    let mut best: Option<(i64, Reversed)> = None;
    for kv in model.range(&prefix_range(&candidates(OFFICE)), revision - 1) {
        let Some(record) = CandidateRecord::decode(&kv.value) else { continue };
        let rank = (record.priority, Reversed(kv.create_revision));
        if kv.lease == elected.lease {
            own = Some((record.healthy, rank));
        }
        if record.healthy && best.is_none_or(|b| rank > b) {
            best = Some(rank);
        }
    }
    let session = elected.lease;
    match own {
        Some((true, rank)) if Some(rank) == best => Ok(()),
        Some((true, rank)) => {
            let what = format!("session {session} is elected by {rank:?}, and {best:?} stood");
            Err(("election", what))
        }
        Some((false, _)) => Err(("election", format!("session {session} is elected, and fails"))),
        None => Err(("election", format!("session {session} is elected, and did not stand"))),
    }
}

/// The smaller is the greater.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reversed(i64);

impl Ord for Reversed {
    fn cmp(&self, other: &Reversed) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Reversed {
    fn partial_cmp(&self, other: &Reversed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl World {
    /// Some seeds have an election. (Those that found bugs before there was one have
    /// none, and stay what they were.)
    fn has_election(&self) -> bool {
        matches!(self.scenario.seed % 8, 2 | 4 | 5)
    }

    /// What to do next about the office, if anything.
    pub(crate) fn office_step(&mut self, number: usize) -> Option<Step> {
        if !self.has_election() {
            return None;
        }
        let (stands, priority) = (self.rng.one_in(2), self.rng.below(4) as i64);
        let failing = self.rng.one_in(4);
        let now = self.now;
        let holder = &mut self.clients[number].holder;
        holder.lease.as_ref()?;
        if let Some(taken) = &holder.taken {
            // Who may not serve gives the office back.
            let in_office = holder.in_office(now) && taken.place.name == OFFICE;
            let rests = in_office && holder.office.role.duty(now / 1_000) == Duty::Rest;
            return rests.then_some(Step::Leave);
        }
        if let Some((since, seen)) = holder.office.chance.take() {
            return Some(Step::Take { since, seen });
        }
        stands.then_some(Step::Stand { priority, failing })
    }

    /// The command of a step about the office; `None` if there is nothing to do.
    pub(crate) fn office_command(&mut self, number: usize, step: Step) -> Option<Command> {
        let holder = &mut self.clients[number].holder;
        let (session, guard) = holder.lease.as_ref().map(|l| (l.id, l.guard))?;
        match step {
            Step::Stand { priority, failing } => {
                holder.office.healthy = !failing;
                let record = CandidateRecord {
                    owner: format!("c{number}"),
                    priority,
                    healthy: !failing,
                    preempts: false,
                    since_ms: 1,
                };
                let (key, value) = (candidate_key(OFFICE, session), record.encode());
                let put = PutRequest { key, value, lease: session, ..PutRequest::default() };
                Some(Command::Put(put))
            }
            Step::Take { since, seen } => {
                holder.lease_is_used();
                let claim = Claim::new(Mode::Exclusive, &format!("c{number}"), 1);
                let (name, value) = (OFFICE.to_vec(), Some(ELECTED.into()));
                let place = Place { name, session, guard, claim, value };
                let txn = take_office(&place, since, seen);
                holder.taken = Some(Taken { place, token: 0, held: false, turn: false });
                Some(Command::Txn(txn))
            }
            _ => None,
        }
    }

    /// A try to take the office was answered.
    pub(crate) fn took(
        &mut self,
        number: usize,
        result: TxnResult,
        revision: i64,
    ) -> Result<(), Found> {
        match took_office(result) {
            // The candidates had changed: it looks again.
            None => {
                self.clients[number].holder.taken = None;
                Ok(())
            }
            entered => self.entered(number, entered, revision),
        }
    }

    /// A client looks, at any member, whether the office is to be its own; and serves
    /// if it is in office and healthy.
    pub(crate) fn look_at_the_office(&mut self, number: usize, who: usize) -> Result<(), Found> {
        if !self.has_election() {
            return Ok(());
        }
        self.serve(number)?;
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        let holder = &self.clients[number].holder;
        let Some(session) = holder.lease.as_ref().map(|l| l.id) else { return Ok(()) };
        let published = up.cell.reader().published();
        let read = |prefix: &[u8]| {
            let range = prefix_range(prefix);
            let all = RangeRequest { range, ..RangeRequest::default() };
            let found = published.range(&all).map_err(|e| ("store", e.to_string()))?;
            Ok::<_, Found>(found.map(|r| r.kvs).unwrap_or_default())
        };
        let mut queue = read_queue(OFFICE, read(&contenders(OFFICE))?);
        without_idle_guards(&mut queue, |session| matches!(published.lease(session), Ok(Some(_))));
        let all = read_candidates(OFFICE, read(&candidates(OFFICE))?);
        let seen = published.revision();
        self.clients[number].holder.office.chance = match choice(OFFICE, &queue, &all, session) {
            Choice::Take(since) => Some((since, seen)),
            Choice::Wait | Choice::Stranger => None,
        };
        Ok(())
    }

    fn serve(&mut self, number: usize) -> Result<(), Found> {
        let (now, fails) = (self.now, self.rng.one_in(40));
        let holder = &mut self.clients[number].holder;
        let in_office = holder.in_office(now);
        let official = &mut holder.office;
        official.healthy &= !(in_office && fails);
        official.role.holds(in_office);
        official.role.is_healthy(official.healthy);
        let until = holder.lease.as_ref().map_or(0, |l| l.until);
        if holder.office.role.duty(now / 1_000) != Duty::Serve {
            self.oracle.active.rests(number);
            return Ok(());
        }
        self.oracle.active.serves(number, now, until)
    }
}
