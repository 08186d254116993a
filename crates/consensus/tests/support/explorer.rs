//! Every order of events, up to a depth, in the smallest cells: who is
//! delivered what first, whose time runs out, whose disk finishes, who crashes.
//!
//! It begins where a script has led, so that what takes many events to come
//! about (a second leader, an entry that is half replicated, a change half done)
//! is a few events away. It is breadth first: what it finds is shortest.
//!
//! A state is the whole of all members, their disks and the network; two paths
//! that lead to the same one are followed once. Each path is played again from
//! the start, so that members need not be copied. Asserted in every state: one
//! leader a ballot, who holds all that was applied anywhere; what is applied at
//! an index is the same everywhere, in order of ballots.

use super::{Effect, Node};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use synod_base::{NodeId, Tick};
use synod_consensus::{
    Change, Entry, Event, Input, Limits, Membership, Message, Proposal, Protocol, Role,
    SnapshotMeta,
};

const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: u64 = 300;
const MEMBERS: u8 = 3;

/// How often each kind of event may happen on one path, behind the script.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub time_outs: u32,
    pub crashes: u32,
    pub proposals: u32,
}

/// What may happen. Members are counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// The message at this place of the network arrives.
    Deliver(u16),
    /// It waits in vain: a follower until it stands, a leader for one heartbeat.
    TimeOut(u8),
    /// The disk finishes what it was given.
    Persist(u8),
    /// It dies and starts again without what was not durable.
    Crash(u8),
    /// A client asks the leader.
    Propose(u8),
    /// All that is on its way from one to another is lost. Only in scripts.
    Lose(u8, u8),
    /// The leader is asked to remove both others. Only in scripts.
    Shrink(u8),
}

/// Where to begin, and what may happen from there.
pub struct Scenario {
    pub name: &'static str,
    pub protocol: Protocol,
    pub bounds: Bounds,
    /// How many events from there.
    pub depth: usize,
    pub script: Vec<Act>,
}

pub struct World {
    nodes: Vec<Node>,
    network: BTreeSet<(u64, u64, Vec<u8>)>,
    leaders: BTreeMap<u64, NodeId>,
    applied: Vec<Entry>,
    bounds: Bounds,
    tickets: u64,
}

impl World {
    fn new(protocol: Protocol) -> World {
        let voters = (1..=u64::from(MEMBERS)).map(NodeId);
        let membership = Membership::of_voters(voters.clone());
        let first = SnapshotMeta { membership, ..SnapshotMeta::default() };
        // One entry a message: more of what can be half done.
        let limits = Limits {
            heartbeat_ms: HEARTBEAT_MS,
            election_ms: ELECTION_MS,
            append_bytes_max: 1,
            ..Limits::default()
        };
        let node = |id: NodeId| {
            let mut node = Node::new(protocol, id, limits.clone(), first.clone());
            node.disk_runs = false;
            node.start(id.0);
            node
        };
        World {
            nodes: voters.map(node).collect(),
            network: BTreeSet::new(),
            leaders: BTreeMap::new(),
            applied: Vec::new(),
            bounds: Bounds { time_outs: 99, crashes: 99, proposals: 99 },
            tickets: 0,
        }
    }

    /// After the script and some more; the bounds count what is behind the script.
    fn play(scenario: &Scenario, path: &[Act]) -> World {
        let mut world = World::new(scenario.protocol);
        scenario.script.iter().for_each(|act| world.act(*act));
        world.bounds = scenario.bounds;
        path.iter().for_each(|act| world.act(*act));
        world
    }

    fn acts(&self) -> Vec<Act> {
        let mut acts: Vec<Act> = (0..self.network.len() as u16).map(Act::Deliver).collect();
        for i in 0..MEMBERS {
            if self.nodes[i as usize].unwritten() > 0 {
                acts.push(Act::Persist(i));
            }
            if self.bounds.time_outs > 0 {
                acts.push(Act::TimeOut(i));
            }
            if self.bounds.crashes > 0 {
                acts.push(Act::Crash(i));
            }
            if self.bounds.proposals > 0 && self.role(i) == Role::Leader {
                acts.push(Act::Propose(i));
            }
        }
        acts
    }

    pub fn role(&self, i: u8) -> Role {
        self.nodes[i as usize].core.as_ref().expect("it is up").status().role
    }

    fn step(&mut self, i: u8, input: Input) {
        let effects = self.nodes[i as usize].step(input);
        self.take(i, effects);
    }

    fn take(&mut self, i: u8, effects: Vec<Effect>) {
        let from = self.nodes[i as usize].id;
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    self.network.insert((from.0, to.0, bytes));
                }
                Effect::Applied(entries) => entries.into_iter().for_each(|e| self.check(from, e)),
                Effect::Event(Event::BecameLeader { term, index }) => {
                    let other = self.leaders.insert(term, from);
                    assert!(other.is_none_or(|o| o == from), "{other:?} and {from:?} lead {term}");
                    self.check_leader(i, index);
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, at: NodeId, entry: Entry) {
        match self.applied.get(entry.index as usize - 1) {
            Some(known) => assert_eq!(*known, entry, "{at:?} applied something else"),
            None => {
                assert_eq!(self.applied.len() as u64 + 1, entry.index);
                let before = self.applied.last().map_or(0, |e| e.term);
                assert!(before <= entry.term, "ballots decrease at {}", entry.index);
                self.applied.push(entry);
            }
        }
    }

    /// A leader holds all that was applied anywhere, from its first entry on.
    fn check_leader(&self, i: u8, index: u64) {
        let node = &self.nodes[i as usize];
        let held = node.held();
        for entry in &self.applied {
            let at = entry.index;
            assert_eq!(held.get(&at), Some(entry), "{:?} leads without what was applied", node.id);
            assert!(index > at, "{:?} leads from {index}, {at} is applied", node.id);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Deliver(place) => {
                let packet = self.network.iter().nth(place as usize).expect("it is there").clone();
                self.network.remove(&packet);
                let (from, to, bytes) = packet;
                let message = Message::decode(bytes.into()).expect("own messages can be read");
                self.step(to as u8 - 1, Input::Receive { from: NodeId(from), message });
            }
            Act::TimeOut(i) => self.time_out(i),
            Act::Persist(i) => {
                let effects = self.nodes[i as usize].persist(usize::MAX);
                self.take(i, effects);
            }
            Act::Crash(i) => {
                self.bounds.crashes -= 1;
                self.nodes[i as usize].crash(0);
                self.nodes[i as usize].start(u64::from(i) + 1);
            }
            Act::Propose(i) => {
                self.bounds.proposals -= 1;
                self.tickets += 1;
                let ticket = self.tickets;
                let data = format!("p{ticket}").into();
                self.step(i, Input::Propose(vec![Proposal { ticket, data }]));
            }
            Act::Lose(from, to) => {
                let link = (u64::from(from) + 1, u64::from(to) + 1);
                self.network.retain(|(a, b, _)| (*a, *b) != link);
            }
            Act::Shrink(i) => {
                let others = (0..MEMBERS).filter(|&o| o != i).map(|o| NodeId(u64::from(o) + 1));
                let change = Box::new(Change { remove: others.collect(), ..Change::default() });
                let (ticket, context) = (0, bytes::Bytes::new());
                self.step(i, Input::Reconfigure { ticket, change, context });
            }
        }
    }

    fn time_out(&mut self, i: u8) {
        self.bounds.time_outs -= 1;
        let (was, steps) = match self.role(i) {
            Role::Leader => (Role::Leader, HEARTBEAT_MS / 50),
            role => (role, 2 * ELECTION_MS / 50),
        };
        for _ in 0..steps {
            let node = &mut self.nodes[i as usize];
            node.now = Tick(node.now.0 + 50);
            self.step(i, Input::Tick);
            if self.role(i) != was {
                break;
            }
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for node in &self.nodes {
            node.describe().hash(&mut hasher);
        }
        self.network.hash(&mut hasher);
        format!("{:?}", self.applied).hash(&mut hasher);
        let Bounds { time_outs, crashes, proposals } = self.bounds;
        (time_outs, crashes, proposals, &self.leaders).hash(&mut hasher);
        hasher.finish()
    }
}

/// A script in the making.
pub struct Script {
    protocol: Protocol,
    world: World,
    pub acts: Vec<Act>,
}

impl Script {
    pub fn new(protocol: Protocol) -> Script {
        Script { protocol, world: World::new(protocol), acts: Vec::new() }
    }

    pub fn act(&mut self, act: Act) -> &mut Script {
        self.world.act(act);
        self.acts.push(act);
        self
    }

    /// What comes next among these: a message, or a write that becomes durable.
    fn next_among(&self, ids: &[u8]) -> Option<Act> {
        let among = |id: &u64| ids.contains(&(*id as u8 - 1));
        let message = self.world.network.iter().position(|(a, b, _)| among(a) && among(b));
        let unwritten = |i: &&u8| self.world.nodes[**i as usize].unwritten() > 0;
        let write = || ids.iter().find(unwritten).map(|i| Act::Persist(*i));
        message.map(|place| Act::Deliver(place as u16)).or_else(write)
    }

    /// Messages and writes among these, until nothing is left.
    pub fn among(&mut self, ids: &[u8]) -> &mut Script {
        while let Some(act) = self.next_among(ids) {
            self.act(act);
        }
        self
    }

    /// What is on its way from one to another, but not what follows from it.
    pub fn deliver(&mut self, from: u8, to: u8) -> &mut Script {
        let link = (u64::from(from) + 1, u64::from(to) + 1);
        let waiting = |w: &World| -> Vec<_> {
            w.network.iter().filter(|(a, b, _)| (*a, *b) == link).cloned().collect()
        };
        for packet in waiting(&self.world) {
            let place = self.world.network.iter().position(|p| *p == packet);
            let place = place.expect("it is still there");
            self.act(Act::Deliver(place as u16));
        }
        self
    }

    /// The same, until one of them has that role.
    pub fn until(&mut self, ids: &[u8], i: u8, role: Role) -> &mut Script {
        while self.world.role(i) != role {
            let act = self.next_among(ids);
            self.act(act.unwrap_or_else(|| panic!("{i} never becomes {role:?}: {:?}", self.acts)));
        }
        self
    }

    /// Loses what is on its way between these, both ways.
    pub fn lose(&mut self, a: u8, b: u8) -> &mut Script {
        self.act(Act::Lose(a, b)).act(Act::Lose(b, a))
    }

    /// One whose time has run out stands with the other's support; its request for the
    /// ballot is on its way.
    pub fn stand(&mut self, i: u8, with: u8) -> &mut Script {
        self.lose(i, with).ask(i).until(&[i, with], i, Role::Candidate).act(Act::Persist(i))
    }

    /// It is that many messages and writes short of leading.
    pub fn nearly_lead(&mut self, i: u8, with: u8, short: usize) -> &mut Script {
        self.lead(i, with);
        let mut acts = std::mem::take(&mut self.acts);
        acts.truncate(acts.len() - short);
        *self = Script::new(self.protocol);
        for act in acts {
            self.act(act);
        }
        self
    }

    /// The same, and it leads with the other's vote.
    pub fn lead(&mut self, i: u8, with: u8) -> &mut Script {
        self.lose(i, with).ask(i).until(&[i, with], i, Role::Leader)
    }

    /// Waits until it asks whether it could win. (Who has heard a long silence is patient.)
    fn ask(&mut self, i: u8) -> &mut Script {
        for _ in 0..5 {
            self.act(Act::TimeOut(i));
            if self.world.role(i) != Role::Follower {
                break;
            }
        }
        self
    }
}

/// All states within the scenario's depth: how many, or a path that broke a rule.
pub fn explore(scenario: &Scenario) -> Result<usize, Vec<Act>> {
    let mut seen = HashSet::new();
    let mut frontier = vec![Vec::new()];
    for _ in 0..scenario.depth {
        let mut next = Vec::new();
        for path in frontier {
            for act in World::play(scenario, &path).acts() {
                let longer = [&path[..], &[act]].concat();
                let run = || World::play(scenario, &longer).fingerprint();
                let Ok(state) = catch_unwind(AssertUnwindSafe(run)) else { return Err(longer) };
                if seen.insert(state) {
                    next.push(longer);
                }
            }
        }
        frontier = next;
    }
    Ok(seen.len())
}

/// Whether `docs/explorer.md` has that row, or one that begins so.
pub fn documented(row: &str) -> bool {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/explorer.md");
    std::fs::read_to_string(page).is_ok_and(|page| page.lines().any(|l| l.starts_with(row)))
}
