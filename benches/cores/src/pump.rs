//! The single-threaded pump: moves messages between three replicas, offers
//! commands to the leader, and measures.

use crate::journal::Journal;
use crate::meter::{Meter, Sample, State, Work, command};
use std::error::Error;
use std::time::{Duration, Instant};

pub type Failure = Box<dyn Error>;

/// Milliseconds of one tick, by the wall clock while measuring.
pub const TICK_MS: u64 = 5;

/// One replica of a core that is driven step by step.
pub trait Replica: Sized {
    /// What replicas send each other. Handed over by value: no core encodes it.
    type Message;

    /// Replica `id` (1 to 3) of three.
    fn new(id: u64, journal: Journal) -> Result<Self, Failure>;

    /// [`TICK_MS`] passed.
    fn tick(&mut self);

    /// Whether it leads and takes commands.
    fn leads(&self) -> bool;

    /// A message arrived.
    fn receive(&mut self, from: u64, message: Self::Message) -> Result<(), Failure>;

    /// Commands for the leader, in this order.
    fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<(), Failure>;

    /// Does what the inputs since the last turn led to: writes and syncs,
    /// applies to `state`, and pushes what is sent, to whom.
    fn turn(
        &mut self,
        state: &mut State,
        sent: &mut Vec<(u64, Self::Message)>,
    ) -> Result<(), Failure>;
}

struct Node<R: Replica> {
    replica: R,
    state: State,
    inbox: Vec<(u64, R::Message)>,
}

struct Cluster<R: Replica> {
    nodes: Vec<Node<R>>,
    sent: Vec<(u64, R::Message)>,
    messages: u64,
}

impl<R: Replica> Cluster<R> {
    fn new(work: &Work) -> Result<Cluster<R>, Failure> {
        let node = |id| {
            let replica = R::new(id, work.journal(id)?)?;
            Ok(Node { replica, state: State::default(), inbox: Vec::new() })
        };
        let nodes = (1..=3).map(node).collect::<Result<_, Failure>>()?;
        Ok(Cluster { nodes, sent: Vec::new(), messages: 0 })
    }

    fn tick(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.replica.tick());
    }

    /// Delivers what waits for the node at `at`.
    fn deliver(&mut self, at: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        let mut inbox = std::mem::take(&mut node.inbox);
        for (from, message) in inbox.drain(..) {
            node.replica.receive(from, message)?;
        }
        node.inbox = inbox;
        self.turn(at)
    }

    fn turn(&mut self, at: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        node.replica.turn(&mut node.state, &mut self.sent)?;
        self.messages += self.sent.len() as u64;
        for (to, message) in self.sent.drain(..) {
            self.nodes[to as usize - 1].inbox.push((at as u64 + 1, message));
        }
        Ok(())
    }

    /// Turns with time passing until `done`.
    fn settle(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        for _ in 0..100_000 {
            if done(self) {
                return Ok(());
            }
            self.tick();
            for at in 0..self.nodes.len() {
                self.deliver(at)?;
            }
        }
        Err(format!("{what} did not come").into())
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.replica.leads())
    }
}

/// One run of `work`: what was measured after the warm-up.
pub fn measure<R: Replica>(work: &Work) -> Result<Sample, Failure> {
    let mut cluster = Cluster::<R>::new(work)?;
    cluster.settle("a leader", |c| c.leader().is_some())?;
    let leader = cluster.leader().ok_or("no leader")?;
    let mut meter = Meter::new(work);
    let mut ticked = Instant::now();
    let mut next = 0;
    loop {
        let now = Instant::now();
        if !meter.goes_on(now, cluster.messages)? {
            break;
        }
        if now.duration_since(ticked) >= Duration::from_millis(TICK_MS) {
            // One tick, however long the disk took: nobody is called dead for that.
            ticked = now;
            cluster.tick();
        }
        let before = cluster.nodes[leader].state.count;
        cluster.deliver(leader)?;
        meter.applied(cluster.nodes[leader].state.count - before);
        let room = meter.room();
        if room > 0 {
            meter.offered(room);
            let commands = (next..).take(room).map(|n| command(n, work.payload)).collect();
            next += room as u64;
            cluster.nodes[leader].replica.propose(commands)?;
            cluster.turn(leader)?;
        }
        for at in (0..cluster.nodes.len()).filter(|&at| at != leader) {
            cluster.deliver(at)?;
        }
    }
    let all = |c: &Cluster<R>| c.nodes.iter().all(|node| node.state.count == next);
    cluster.settle("the end of the log on all replicas", all)?;
    let state = |at: usize| &cluster.nodes[at].state;
    if state(0) != state(1) || state(0) != state(2) {
        return Err("the replicas differ".into());
    }
    Ok(meter.sample())
}
