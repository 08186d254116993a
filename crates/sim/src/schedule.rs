//! When which fault strikes whom: drawn from the seed before the run begins,
//! so that a fault can be left out without moving the others.

use crate::scenario::{Fault, Scenario};
use synod_base::Rng;

/// Something that is done to the cluster. Machines by number, times in µs.
#[derive(Clone, Debug)]
pub enum Act {
    /// Lose one message in `loss`, repeat one in `twice`, delay up to `late`.
    Storm { loss: u64, twice: u64, late: u64, lasts: u64 },
    /// Delay what goes from one to the other.
    SlowLink { from: usize, to: usize, delay: u64, lasts: u64 },
    /// Cut a machine off.
    Isolate { who: usize, lasts: u64 },
    /// Cut a link in one direction, or both.
    Cut { from: usize, to: usize, both: bool, lasts: u64 },
    /// Kill a machine.
    Crash { who: usize, down: u64 },
    /// For a while, kill whoever decides something, one time in `odds`.
    Ambush { odds: u64, lasts: u64 },
    /// Kill them all.
    Blackout { down: u64 },
    /// Stop a process for a while.
    Pause { who: usize, lasts: u64 },
    /// A clock jumps forward.
    Jump { who: usize, by: u64 },
    /// Syncs of a machine take this long.
    SlowDisk { who: usize, each: u64, lasts: u64 },
    /// The next write or sync fails.
    BadDisk { who: usize },
    /// No file can be made.
    FullDisk { who: usize, lasts: u64 },
    /// A bit of the journal flips while the machine is down.
    Rot { who: usize, place: u64, down: u64 },
    /// One pair of the state in `odds` cannot be read.
    StateRot { who: usize, odds: u64, salt: u64 },
    /// The next write of a machine's journal goes elsewhere; after a while it dies.
    Astray { who: usize, place: u64, lives: u64, down: u64 },
    /// One after another they are restarted with the journal's other version.
    Upgrade { gap: u64, down: u64 },
    /// A machine loses its disk and comes back as a new member.
    Replace { who: usize, down: u64 },
    /// Leadership is to go to somebody else.
    Transfer { to: usize },
    /// A connection closes, and both ends are told.
    Close { from: usize, to: usize },
    /// Everybody reaches this machine, and nobody else.
    Star { hub: usize, lasts: u64 },
    /// A member is removed, or whoever leads, and joins again.
    Retire { who: usize, leader: bool },
    /// Each reaches only its neighbours, from this machine on.
    Chain { first: usize, lasts: u64 },
}

impl Act {
    /// Whom it strikes; `None`: all.
    pub fn strikes(&self) -> Option<Vec<usize>> {
        match self {
            Act::SlowLink { from, to, .. }
            | Act::Cut { from, to, .. }
            | Act::Close { from, to } => Some(vec![*from, *to]),
            Act::Isolate { who, .. }
            | Act::Crash { who, .. }
            | Act::Pause { who, .. }
            | Act::Jump { who, .. }
            | Act::SlowDisk { who, .. }
            | Act::BadDisk { who }
            | Act::FullDisk { who, .. }
            | Act::Rot { who, .. }
            | Act::StateRot { who, .. }
            | Act::Astray { who, .. }
            | Act::Replace { who, .. } => Some(vec![*who]),
            Act::Retire { who, leader: false } => Some(vec![*who]),
            Act::Transfer { to } => Some(vec![*to]),
            Act::Storm { .. } | Act::Ambush { .. } | Act::Blackout { .. } => None,
            Act::Star { .. } | Act::Chain { .. } | Act::Upgrade { .. } => None,
            Act::Retire { leader: true, .. } => None,
        }
    }

    /// Whether nobody puts an end to it: it shows in what follows from it.
    pub fn is_over_at_once(&self) -> bool {
        !matches!(
            self,
            Act::Storm { .. }
                | Act::SlowLink { .. }
                | Act::Isolate { .. }
                | Act::Cut { .. }
                | Act::Star { .. }
                | Act::Chain { .. }
                | Act::Ambush { .. }
                | Act::Pause { .. }
                | Act::SlowDisk { .. }
                | Act::FullDisk { .. }
        )
    }

    /// Told to a person.
    pub fn words(&self, name: impl Fn(usize) -> String) -> String {
        let ms = |us: &u64| match us {
            0..10_000 => format!("{} ms", *us as f64 / 1_000.0),
            _ => format!("{} ms", us / 1_000),
        };
        match self {
            Act::Storm { loss, twice, late, lasts } => {
                let (lasts, late) = (ms(lasts), ms(late));
                format!("storm for {lasts}: loses 1 in {loss}, repeats 1 in {twice}, {late} late")
            }
            Act::SlowLink { from, to, delay, lasts } => {
                let (from, to) = (name(*from), name(*to));
                format!("slow link {from}→{to}, by {} for {}", ms(delay), ms(lasts))
            }
            Act::Isolate { who, lasts } => format!("{} is cut off for {}", name(*who), ms(lasts)),
            Act::Cut { from, to, both, lasts } => {
                let arrow = if *both { '↔' } else { '→' };
                format!("cut {}{arrow}{} for {}", name(*from), name(*to), ms(lasts))
            }
            Act::Crash { who, down } => format!("{} crashes, back in {}", name(*who), ms(down)),
            Act::Ambush { odds, lasts } => {
                format!("ambush for {}: one decision in {odds} is the last", ms(lasts))
            }
            Act::Blackout { down } => format!("blackout, back in {}", ms(down)),
            Act::Pause { who, lasts } => format!("{} is paused for {}", name(*who), ms(lasts)),
            Act::Jump { who, by } => format!("clock of {} jumps by {}", name(*who), ms(by)),
            Act::SlowDisk { who, each, lasts } => {
                format!("slow disk of {}: {} a sync, for {}", name(*who), ms(each), ms(lasts))
            }
            Act::BadDisk { who } => format!("disk of {} fails once", name(*who)),
            Act::FullDisk { who, lasts } => {
                format!("disk of {} is full for {}", name(*who), ms(lasts))
            }
            Act::Rot { who, .. } => format!("the journal of {} rots", name(*who)),
            Act::StateRot { who, odds, .. } => {
                format!("the state of {} rots, one pair in {odds}", name(*who))
            }
            Act::Astray { who, .. } => format!("a write of {} goes astray", name(*who)),
            Act::Upgrade { gap, .. } => format!("upgrade of all, one each {}", ms(gap)),
            Act::Replace { who, .. } => format!("{} is lost for good", name(*who)),
            Act::Transfer { to } => format!("{} is to lead", name(*to)),
            Act::Close { from, to } => format!("{}↔{} closes", name(*from), name(*to)),
            Act::Retire { leader: true, .. } => "whoever leads is removed".into(),
            Act::Retire { who, .. } => format!("{} is removed", name(*who)),
            Act::Star { hub, lasts } => {
                format!("only {} is reached, for {}", name(*hub), ms(lasts))
            }
            Act::Chain { first, lasts } => {
                format!("a chain from {} on, for {}", name(*first), ms(lasts))
            }
        }
    }
}

const FIRST: u64 = 600_000;

/// The faults of a scenario in order of time.
pub fn draw(scenario: &Scenario) -> Vec<(u64, Act)> {
    let mut rng = Rng::new(scenario.seed ^ 0x5eed_fa17);
    let strikes = |f: &Fault| !matches!(f, Fault::Clock | Fault::Minority | Fault::Drift);
    let kinds: Vec<Fault> = scenario.faults.0.iter().copied().filter(strikes).collect();
    let jumps = scenario.faults.has(Fault::Clock);
    let mut acts = Vec::new();
    if kinds.is_empty() && !jumps {
        return acts;
    }
    // Some runs are calm, some are not.
    let gap = [120_000, 300_000, 900_000][rng.below(3) as usize];
    let mut at = FIRST;
    while at < scenario.ms * 1_000 {
        let pick = rng.below((kinds.len() + usize::from(jumps)) as u64) as usize;
        let act = match kinds.get(pick) {
            Some(kind) => one(*kind, scenario.nodes, &mut rng),
            None => Act::Jump { who: rng.below(scenario.nodes) as usize, by: lasts(&mut rng) },
        };
        acts.push((at, act));
        at += rng.between(gap / 10, gap * 2);
    }
    acts
}

/// Short ones are below a time-out, long ones well above.
fn lasts(rng: &mut Rng) -> u64 {
    match rng.below(3) {
        0 => rng.between(5_000, 100_000),
        1 => rng.between(100_000, 600_000),
        _ => rng.between(600_000, 2_500_000),
    }
}

fn one(kind: Fault, nodes: u64, rng: &mut Rng) -> Act {
    let who = rng.below(nodes) as usize;
    let to = ((who as u64 + 1 + rng.below(nodes.saturating_sub(1).max(1))) % nodes) as usize;
    match kind {
        Fault::Storm => Act::Storm {
            loss: rng.between(3, 40),
            twice: rng.between(3, 40),
            late: rng.between(1_000, 300_000),
            lasts: lasts(rng),
        },
        Fault::SlowLink => {
            Act::SlowLink { from: who, to, delay: rng.between(1_000, 120_000), lasts: lasts(rng) }
        }
        Fault::Isolate => Act::Isolate { who, lasts: lasts(rng) },
        Fault::Cut => Act::Cut { from: who, to, both: rng.one_in(2), lasts: lasts(rng) },
        Fault::Crash => Act::Crash { who, down: lasts(rng) },
        Fault::Ambush => Act::Ambush { odds: rng.between(1, 6), lasts: lasts(rng) },
        Fault::Blackout => Act::Blackout { down: rng.between(10_000, 500_000) },
        Fault::Pause => Act::Pause { who, lasts: lasts(rng) },
        Fault::Clock => Act::Jump { who, by: lasts(rng) },
        Fault::SlowDisk => {
            Act::SlowDisk { who, each: rng.between(5_000, 1_500_000), lasts: lasts(rng) }
        }
        Fault::BadDisk => Act::BadDisk { who },
        Fault::FullDisk => Act::FullDisk { who, lasts: lasts(rng) },
        Fault::Rot => Act::Rot { who, place: rng.next_u64(), down: rng.between(10_000, 300_000) },
        Fault::StateRot => {
            Act::StateRot { who, odds: [2, 10, 100][rng.below(3) as usize], salt: rng.next_u64() }
        }
        Fault::Astray => Act::Astray {
            who,
            place: rng.next_u64(),
            lives: rng.between(500, 300_000),
            down: rng.between(10_000, 300_000),
        },
        Fault::Upgrade => {
            Act::Upgrade { gap: rng.between(100_000, 900_000), down: rng.between(1_000, 200_000) }
        }
        Fault::Replace => Act::Replace { who, down: lasts(rng) },
        Fault::Transfer => Act::Transfer { to },
        Fault::Close => Act::Close { from: who, to },
        Fault::Partial if rng.one_in(2) => Act::Star { hub: who, lasts: lasts(rng) },
        Fault::Partial => Act::Chain { first: who, lasts: lasts(rng) },
        Fault::Members => Act::Retire { who, leader: rng.one_in(2) },
        Fault::Minority | Fault::Drift => unreachable!("they strike nobody at a time"),
    }
}
