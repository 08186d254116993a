//! Every order of events, up to a depth, in the smallest cells: who is
//! delivered what first, whose time runs out, whose disk finishes, who crashes.
//!
//! A state is the whole of all members, their disks and the network; two paths
//! that lead to the same one are followed once. Each path is played again from
//! the start, so that members need not be copied. Asserted in every state: one
//! leader a ballot, who holds all that was applied anywhere; what is applied at
//! an index is the same everywhere, in order of ballots.
//!
//! `SYNOD_DEPTH=n` goes deeper than the default.

mod support;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use support::{Effect, Node};
use synod_base::{NodeId, Tick};
use synod_consensus::{
    Entry, Event, Input, Limits, Membership, Message, Proposal, Protocol, Role, SnapshotMeta,
};

const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: u64 = 300;

/// How often each kind of event may happen on one path.
#[derive(Clone, Copy)]
struct Bounds {
    members: u64,
    time_outs: u32,
    crashes: u32,
    proposals: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
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
}

struct World {
    nodes: Vec<Node>,
    network: BTreeSet<(u64, u64, Vec<u8>)>,
    leaders: BTreeMap<u64, NodeId>,
    applied: Vec<Entry>,
    bounds: Bounds,
    tickets: u64,
}

impl World {
    fn new(protocol: Protocol, bounds: Bounds) -> World {
        let membership = Membership::of_voters((1..=bounds.members).map(NodeId));
        let first = SnapshotMeta { membership, ..SnapshotMeta::default() };
        let limits =
            Limits { heartbeat_ms: HEARTBEAT_MS, election_ms: ELECTION_MS, ..Limits::default() };
        let node = |id| {
            let mut node = Node::new(protocol, NodeId(id), limits.clone(), first.clone());
            node.disk_runs = false;
            node.start(id);
            node
        };
        let nodes = (1..=bounds.members).map(node).collect();
        World {
            nodes,
            network: BTreeSet::new(),
            leaders: BTreeMap::new(),
            applied: Vec::new(),
            bounds,
            tickets: 0,
        }
    }

    fn acts(&self) -> Vec<Act> {
        let mut acts: Vec<Act> = (0..self.network.len() as u16).map(Act::Deliver).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            let i = i as u8;
            if node.unwritten() > 0 {
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

    fn role(&self, i: u8) -> Role {
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
                    let held = self.applied.len() as u64;
                    assert!(index > held, "{from:?} leads from {index}, {held} are applied");
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

    fn act(&mut self, act: Act) {
        match act {
            Act::Deliver(place) => {
                let packet = self.network.iter().nth(place as usize).expect("it is there").clone();
                self.network.remove(&packet);
                let (from, to, bytes) = packet;
                let message = Message::decode(bytes.into()).expect("own messages can be read");
                self.step(to as u8 - 1, Input::Receive { from: NodeId(from), message });
            }
            Act::TimeOut(i) => {
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
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for node in &self.nodes {
            node.describe().hash(&mut hasher);
        }
        self.network.hash(&mut hasher);
        let Bounds { time_outs, crashes, proposals, .. } = self.bounds;
        (time_outs, crashes, proposals, &self.leaders).hash(&mut hasher);
        hasher.finish()
    }
}

fn play(protocol: Protocol, bounds: Bounds, path: &[Act]) -> World {
    let mut world = World::new(protocol, bounds);
    path.iter().for_each(|act| world.act(*act));
    world
}

/// All states within `depth` events of `start`.
fn explore(protocol: Protocol, bounds: Bounds, start: &[Act], depth: usize) -> usize {
    let mut seen = HashSet::new();
    let mut frontier = vec![start.to_vec()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for path in frontier {
            for act in play(protocol, bounds, &path).acts() {
                let longer = [&path[..], &[act]].concat();
                let outcome = std::panic::catch_unwind(|| play(protocol, bounds, &longer));
                let Ok(world) = outcome else { panic!("{protocol}: {longer:?}") };
                if seen.insert(world.fingerprint()) {
                    next.push(longer);
                }
            }
        }
        frontier = next;
    }
    seen.len()
}

/// The events that make member 1 the leader, all of them delivered.
fn elected(protocol: Protocol, bounds: Bounds) -> Vec<Act> {
    let mut path = vec![Act::TimeOut(0)];
    loop {
        let world = play(protocol, bounds, &path);
        let act = world.acts().into_iter().find(|a| matches!(a, Act::Deliver(_) | Act::Persist(_)));
        match act {
            Some(act) => path.push(act),
            None => return path,
        }
    }
}

fn depth(default: usize) -> usize {
    std::env::var("SYNOD_DEPTH").ok().and_then(|d| d.parse().ok()).unwrap_or(default)
}

fn explore_all(protocol: Protocol, depths: (usize, usize)) {
    // From nothing: elections of three, with crashes.
    let bounds = Bounds { members: 3, time_outs: 3, crashes: 1, proposals: 0 };
    let elections = explore(protocol, bounds, &[], depth(depths.0));
    // From a leader: proposals, its crash, the next leader.
    let bounds = Bounds { members: 3, time_outs: 3, crashes: 1, proposals: 2 };
    let start = elected(protocol, bounds);
    let led = play(protocol, bounds, &start);
    assert_eq!(led.role(0), Role::Leader, "{start:?}");
    let changes = explore(protocol, bounds, &start, depth(depths.1));
    println!("{protocol}: {elections} states of elections, {changes} from a leader on");
    assert!(elections > 1_000 && changes > 1_000);
}

#[test]
fn paxos() {
    explore_all(Protocol::Paxos, (7, 6));
}

#[test]
fn raft() {
    explore_all(Protocol::Raft, (7, 6));
}

/// Who looks for a leader tells everybody: more messages, so fewer steps.
#[test]
fn zab() {
    explore_all(Protocol::Zab, (5, 5));
}
