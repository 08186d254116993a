//! One run from its beginning to the verdict.

use crate::check::linear;
use crate::oracle::Found;
use crate::picture::Picture;
use crate::scenario::Scenario;
use crate::world::World;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Simulated time in which a cluster without faults must come to rest, µs.
const REST_US: u64 = 20_000_000;
/// Requests that each client must get answered once the faults are over.
const AFTERWARDS: u64 = 3;

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which checker says so.
    pub rule: &'static str,
    /// What it found.
    pub what: String,
    /// When, simulated ms.
    pub at_ms: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// Simulated time, ms.
    pub ms: u64,
    /// Entries agreed on.
    pub agreed: u64,
    /// Requests answered.
    pub answered: u64,
    /// Faults that struck.
    pub faults: usize,
    /// Messages sent.
    pub messages: u64,
    /// Revisions that watches received.
    pub watched: u64,
    /// Reads that caches answered.
    pub cached: u64,
    /// Sessions that went on after jeopardy.
    pub graces: u64,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Report {
    run_with(scenario, Picture::none()).0
}

/// Runs a scenario; gives also a line for each event, and a space-time diagram
/// (SVG) of the stretch between the two times (simulated ms; of one millisecond at least).
pub fn run_traced(scenario: &Scenario, from_ms: u64, to_ms: u64) -> (Report, Vec<String>, String) {
    let (report, picture) =
        run_with(scenario, Picture::of(from_ms.saturating_mul(1_000), to_ms.saturating_mul(1_000)));
    let svg = picture.svg(scenario.nodes as usize);
    (report, picture.into_lines(), svg)
}

fn run_with(scenario: &Scenario, picture: Picture) -> (Report, Picture) {
    let mut world = World::new(scenario.clone(), picture);
    let done = catch_unwind(AssertUnwindSafe(|| phases(&mut world)));
    let found = match done {
        Ok(done) => done.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(("no panic", text.unwrap_or_default()))
        }
    };
    let at_ms = world.now / 1_000;
    let violation = found.map(|(rule, what)| Violation { rule, what, at_ms });
    let report = Report {
        violation,
        ms: at_ms,
        agreed: world.oracle.agreed(),
        answered: world.clients.iter().map(|c| c.answered).sum(),
        faults: world.struck,
        messages: world.messages,
        watched: world.watchers.iter().map(|w| w.received).sum(),
        cached: world.filers.iter().map(|f| f.cached).sum(),
        graces: world.graces,
    };
    (report, world.picture)
}

fn phases(world: &mut World) -> Result<(), Found> {
    world.run_until(world.scenario.ms * 1_000)?;
    if world.mend_but_one() {
        served_again(world, "all clients are served with one fault left")?;
    }
    world.mend_all();
    served_again(world, "all clients are served again")?;
    world.clients.iter_mut().for_each(|c| c.resting = true);
    world.filers.iter_mut().for_each(|f| f.resting = true);
    // Clients that wrote until now have leases that live for a while.
    let end = world.now + REST_US;
    until(world, end, "all leases end", |w| {
        !w.oracle.model.has_leases()
            && w.clients.iter().all(|c| !c.waits())
            && w.filers.iter().all(|f| !f.waits())
    })?;
    until(world, end, "all members agree", agree)?;
    same_hashes(world)?;
    watches_are_complete(world)?;
    histories(world)
}

/// All clients get answers from now on, within the bound.
fn served_again(world: &mut World, what: &'static str) -> Result<(), Found> {
    let end = world.now + REST_US;
    let answered = |w: &World| -> Vec<u64> {
        let clients = w.clients.iter().map(|c| c.answered);
        clients.chain(w.filers.iter().flat_map(|f| [f.answered, f.written])).collect()
    };
    let before = answered(world);
    let served = |w: &World| answered(w).iter().zip(&before).all(|(now, b)| *now >= b + AFTERWARDS);
    until(world, end, what, served)
}

/// Goes on until something holds; it must before the end.
fn until(
    world: &mut World,
    end: u64,
    what: &'static str,
    holds: impl Fn(&World) -> bool,
) -> Result<(), Found> {
    while !holds(world) {
        if world.now >= end {
            return Err((
                "progress once the faults are over",
                format!("not: {what}; {}", stand(world)),
            ));
        }
        let next = world.now + 20_000;
        world.run_until(next)?;
    }
    Ok(())
}

fn stand(world: &World) -> String {
    let one = |m: &crate::machine::Machine| match &m.up {
        Some(up) => {
            let s = up.cell.consensus_status();
            format!(
                "{} {:?} term {} leader {:?} last {} commit {} applied {} voters {:?} learners {:?}",
                m.id,
                s.role,
                s.term,
                s.leader,
                s.last,
                s.commit,
                up.cell.state().applied(),
                s.membership.voters,
                s.membership.learners
            )
        }
        None => format!("{} is down{}", m.id, if m.away { " (lost)" } else { "" }),
    };
    world.machines.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn agree(world: &World) -> bool {
    let agreed = world.oracle.agreed();
    world.machines.iter().all(|m| {
        let Some(up) = &m.up else { return false };
        let members = up.cell.membership();
        up.cell.state().applied() == agreed && members.voters.contains(&m.id) && !members.is_joint()
    })
}

fn same_hashes(world: &World) -> Result<(), Found> {
    let mut first = None;
    for machine in &world.machines {
        let Some(up) = &machine.up else { continue };
        let published = up.cell.reader().published();
        let hash = published.hash_kv(0).map_err(|e| ("store", e.to_string()))?;
        let hash = hash.map_err(|e| ("equal hashes", format!("{}: {e:?}", machine.id)))?;
        match &first {
            None => first = Some(hash),
            Some(known) if *known != hash => {
                let what = format!("{} has {hash:?}, others have {known:?}", machine.id);
                return Err(("equal hashes", what));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn watches_are_complete(world: &mut World) -> Result<(), Found> {
    for watcher in &mut world.watchers {
        let Some(up) = world.machines[0].up.as_ref() else { continue };
        watcher.attach(0, up, &world.oracle.model)?;
    }
    Ok(())
}

/// What the clients saw, without any help from above.
fn histories(world: &World) -> Result<(), Found> {
    let mut keys: BTreeMap<u64, Vec<linear::Op>> = BTreeMap::new();
    for (key, op) in world.clients.iter().flat_map(|c| &c.history) {
        keys.entry(*key).or_default().push(op.clone());
    }
    for (key, history) in keys {
        if !linear::is_linearizable(&history) {
            return Err(("linearizability", format!("key {key}: no order explains {history:?}")));
        }
    }
    Ok(())
}
