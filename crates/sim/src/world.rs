//! The loop: one event at a time, in order of simulated time.

use crate::client::Client;
use crate::filer::Filer;
use crate::machine::{Clock, Job, Machine, NoStart};
use crate::network::Network;
use crate::oracle::{Found, Oracle};
use crate::picture::Picture;
use crate::scenario::{Fault, Scenario};
use crate::schedule::{Act, draw};
use crate::watcher::Watcher;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use synod_base::{NodeId, Rng};
use synod_cell::{CellEvent, CellInput, CellOutput, PeerMessage};
use synod_consensus::Role;
use synod_mvcc::KeyRange;

const TICK_US: u64 = 5_000;
/// From the arrival of something to the turn that takes it, µs.
const TURN_US: u64 = 20;

/// What happens next, to which machine; `life`: only if it still runs.
pub enum Event {
    Tick { who: usize, life: u64 },
    Turn { who: usize, life: u64 },
    Arrive(Arrival),
    Disconnect { from: NodeId, to: usize },
    Written { who: usize, life: u64 },
    Synced { who: usize, life: u64 },
    SnapshotRead { who: usize, life: u64 },
    Start { who: usize },
    Restart { who: usize, down: u64, upgrade: bool },
    Strike { act: usize },
    Relent { act: usize },
    Ambush { who: usize, life: u64 },
    Client { client: usize },
    Filer { filer: usize },
    Rejoin { who: usize },
    Retire { who: usize },
    Promote { who: usize },
}

/// A message at the end of its way.
pub struct Arrival {
    from: NodeId,
    /// The machine that sent it, when, and the one that it reaches.
    link: (usize, u64, usize),
    /// Whom it is for.
    id: NodeId,
    bytes: Bytes,
}

/// An event in the queue: the earliest is the greatest; of those at one time, the
/// first that was made.
struct Due {
    when: u64,
    number: u64,
    event: Event,
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (other.when, other.number).cmp(&(self.when, self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

/// See the file's header.
pub struct World {
    pub scenario: Scenario,
    pub rng: Rng,
    /// µs since the beginning.
    pub now: u64,
    queue: BinaryHeap<Due>,
    made: u64,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub oracle: Oracle,
    pub clients: Vec<Client>,
    pub filers: Vec<Filer>,
    pub tickets: u64,
    /// Ticket -> who waits.
    pub waiting: BTreeMap<u64, Waiter>,
    pub watchers: Vec<Watcher>,
    /// The only machine that clients ask.
    pub asked: Option<usize>,
    pub acts: Vec<(u64, Act)>,
    pub struck: usize,
    pub calm: bool,
    /// One decision in so many costs the process its life; 0: none.
    pub ambush: u64,
    pub picture: Picture,
    pub ids: u64,
    pub messages: u64,
    /// Sessions that went on after jeopardy.
    pub graces: u64,
}

#[derive(Clone, Copy)]
pub enum Waiter {
    Client(usize),
    Filer(usize),
    /// A machine that asked to be a member again.
    Joiner(usize),
    Nobody,
}

fn is_decision(event: &CellEvent) -> bool {
    use synod_consensus::Event as E;
    match event {
        CellEvent::Consensus(e) => matches!(
            e,
            E::VoteGranted { .. }
                | E::BecameLeader { .. }
                | E::MembersChanged { .. }
                | E::SnapshotAdopted { .. }
                | E::LogTruncated { .. }
        ),
        CellEvent::SnapshotInstalled { .. } => true,
        _ => false,
    }
}

impl World {
    pub fn new(scenario: Scenario, picture: Picture) -> World {
        let mut rng = Rng::new(scenario.seed);
        let drifts = scenario.faults.has(Fault::Clock) || scenario.faults.has(Fault::Drift);
        let machines = (0..scenario.nodes as usize)
            .map(|n| Machine::new(n, Clock::draw(&mut rng, drifts)))
            .collect();
        let all = KeyRange { key: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") };
        let one = KeyRange { key: crate::client::key(1), end: Bytes::new() };
        let mut world = World {
            acts: draw(&scenario),
            clients: (0..scenario.clients).map(Client::new).collect(),
            filers: (0..scenario.file_clients).map(|_| Filer::default()).collect(),
            watchers: vec![Watcher::new(all.clone()), Watcher::new(one), Watcher::new(all)],
            asked: None,
            scenario,
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            made: 0,
            machines,
            network: Network::default(),
            oracle: Oracle::new(crate::machine::TTL_MIN),
            tickets: 0,
            waiting: BTreeMap::new(),
            struck: 0,
            calm: false,
            ambush: 0,
            picture,
            ids: 100,
            messages: 0,
            graces: 0,
        };
        for who in 0..world.machines.len() {
            world.at(who as u64 * 700, Event::Start { who });
        }
        for client in 0..world.clients.len() {
            world.at(300_000 + client as u64 * 1_000, Event::Client { client });
        }
        for filer in 0..world.filers.len() {
            world.at(300_500 + filer as u64 * 1_000, Event::Filer { filer });
        }
        for act in 0..world.acts.len() {
            if !world.scenario.without.contains(&act) {
                world.at(world.acts[act].0, Event::Strike { act });
            }
        }
        world
    }

    pub fn at(&mut self, when: u64, event: Event) {
        self.made += 1;
        self.queue.push(Due { when, number: self.made, event });
    }

    pub fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    pub fn say(&mut self, who: usize, text: impl FnOnce() -> String) {
        self.picture.say(self.now, (who, self.machines[who].id), text);
    }

    /// A machine that a client may ask.
    pub fn any_machine(&mut self) -> usize {
        let any = self.rng.below(self.machines.len() as u64) as usize;
        self.asked.unwrap_or(any)
    }

    fn name(&self, who: usize) -> String {
        crate::picture::name(self.machines[who].id)
    }

    /// Runs until that time.
    pub fn run_until(&mut self, end: u64) -> Result<(), Found> {
        while self.queue.peek().is_some_and(|due| due.when <= end) {
            let Some(due) = self.queue.pop() else { break };
            self.now = due.when;
            match self.happen(due.event) {
                Err(("store", what)) => self.store_failed(what)?,
                done => done?,
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Found> {
        match event {
            Event::Tick { who, life } => {
                if self.lives(who, life) {
                    self.input(who, CellInput::Tick);
                    self.after(TICK_US, Event::Tick { who, life });
                }
            }
            Event::Turn { who, life } => {
                if self.lives(who, life) {
                    self.turn(who)?;
                }
            }
            Event::Arrive(arrival) => self.arrive(arrival)?,
            Event::Disconnect { from, to } => self.input(to, CellInput::Disconnected(from)),
            Event::Written { who, life } => {
                if self.lives(who, life) {
                    self.written(who);
                }
            }
            Event::Synced { who, life } => {
                if self.lives(who, life) {
                    self.synced(who)?;
                }
            }
            Event::SnapshotRead { who, life } => {
                if self.lives(who, life) {
                    self.snapshot_read(who);
                }
            }
            Event::Start { who } => self.start(who)?,
            Event::Restart { who, down, upgrade } => self.restart(who, down, upgrade),
            Event::Strike { act } => self.strike(act),
            Event::Relent { act } => self.relent(act),
            Event::Ambush { who, life } => {
                if self.lives(who, life) && !self.calm {
                    let power = self.rng.one_in(2);
                    self.kill(who, power);
                    let wait = self.rng.between(100, 20_000);
                    self.after(wait, Event::Start { who });
                }
            }
            Event::Client { client } => self.client(client)?,
            Event::Filer { filer } => self.filer(filer)?,
            Event::Rejoin { who } => self.rejoin(who)?,
            Event::Retire { who } => self.retire_on(who)?,
            Event::Promote { who } => self.promote(who),
        }
        Ok(())
    }

    pub fn lives(&self, who: usize, life: u64) -> bool {
        self.machines[who].up.is_some() && self.machines[who].lives == life
    }

    /// Puts something before a process; it is taken in its next turn.
    pub fn input(&mut self, who: usize, input: CellInput) {
        let life = self.machines[who].lives;
        let Some(up) = &mut self.machines[who].up else { return };
        up.inbox.push(input);
        if !up.woken && !up.paused {
            up.woken = true;
            self.after(TURN_US, Event::Turn { who, life });
        }
    }

    fn turn(&mut self, who: usize) -> Result<(), Found> {
        let now = self.machines[who].clock.read(self.now);
        let Some(up) = &mut self.machines[who].up else { return Ok(()) };
        up.woken = false;
        if up.paused {
            return Ok(());
        }
        let mut out = std::mem::take(&mut up.out);
        for input in up.inbox.drain(..) {
            up.cell.step(now, input, &mut out);
        }
        up.cell.turn(&mut out);
        let id = self.machines[who].id;
        if let Some(up) = &mut self.machines[who].up {
            for entry in up.cell.take_observed() {
                self.picture.committed(self.now, who, entry.index);
                self.oracle.applied(id, entry, self.now)?;
            }
        }
        for output in out.drain(..) {
            self.carry_out(who, output)?;
        }
        if let Some(up) = &mut self.machines[who].up {
            up.out = out;
            if up.begin_batch() {
                self.start_sync(who);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, who: usize, output: CellOutput) -> Result<(), Found> {
        let Some(up) = &mut self.machines[who].up else { return Ok(()) };
        match output {
            CellOutput::Write { seq, record } => {
                let last = up.cell.last_index();
                let record = record.to_bytes();
                up.jobs.push_back(Job::Write { seq, record, last });
            }
            CellOutput::Forget { upto } => up.jobs.push_back(Job::Forget { upto }),
            CellOutput::Send { to, message } => self.send(who, to, &message),
            CellOutput::Done { ticket, result } => self.done(who, ticket, result)?,
            CellOutput::Revisions(revisions) => {
                let (id, hash) = (up.id, up.hash_of_a_milestone(&revisions)?);
                self.oracle.revisions(id, &revisions)?;
                if let Some(hash) = hash {
                    self.oracle.hashed(id, hash)?;
                }
                for watcher in self.watchers.iter_mut().filter(|w| w.at == Some(who)) {
                    watcher.feed(&revisions, &self.oracle.model)?;
                }
            }
            CellOutput::Replaced => self.follow_anew(who)?,
            CellOutput::SyncState { index } => {
                up.syncing = Some((index, synod_mvcc::Store::syncer(up.cell.state().store())));
                let (life, took) = (self.machines[who].lives, 2_000 + self.rng.below(30_000));
                self.after(took, Event::Synced { who, life });
            }
            CellOutput::ReadSnapshot(job) => {
                up.read.push_back(job.run());
                let (life, took) = (self.machines[who].lives, 100 + self.rng.below(20_000));
                self.after(took, Event::SnapshotRead { who, life });
            }
            CellOutput::Members(_) | CellOutput::Hash { .. } => {}
            CellOutput::Event(event) => self.decided(who, &event)?,
            CellOutput::Fatal(why) if self.machines[who].rot.is_set() => {
                return Err(("store", why));
            }
            CellOutput::Fatal(why) => {
                return Err(("no node stops by itself", format!("{}: {why}", self.name(who))));
            }
        }
        Ok(())
    }

    fn decided(&mut self, who: usize, event: &CellEvent) -> Result<(), Found> {
        self.say(who, || event.to_string());
        match event {
            CellEvent::Consensus(synod_consensus::Event::BecameLeader { term, .. }) => {
                self.picture.leads(self.now, who);
                self.oracle.leads(self.machines[who].id, *term)?;
            }
            CellEvent::Consensus(synod_consensus::Event::StoodDown { .. }) => {
                self.picture.leads_no_more(self.now, who);
            }
            _ => {}
        }
        if self.ambush > 0 && is_decision(event) && self.rng.one_in(self.ambush) {
            // Some of what it sends now still leaves, some is lost with it.
            let wait = self.rng.below(1_500);
            self.after(wait, Event::Ambush { who, life: self.machines[who].lives });
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: NodeId, message: &PeerMessage) {
        let Some(target) = self.machines.iter().position(|m| m.id == to) else { return };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let bytes = Bytes::from(bytes);
        let sender = self.machines[from].id;
        let times = self.network.send(self.now, from, target, &mut self.rng);
        self.messages += 1;
        self.picture.message(self.now, from, target, times[0], message);
        for at in times.into_iter().flatten() {
            let bytes = bytes.clone();
            let link = (from, self.now, target);
            self.at(at, Event::Arrive(Arrival { from: sender, link, id: to, bytes }));
        }
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Found> {
        let Arrival { from, link: (sender, sent, to), id, bytes } = arrival;
        let there = self.machines[to].up.is_some() && self.machines[to].id == id;
        if !there || self.network.was_closed(sender, to, sent) {
            return Ok(());
        }
        let message = PeerMessage::decode(bytes);
        let message = message.map_err(|e| ("codec", format!("from {from}: {e}")))?;
        self.input(to, CellInput::Peer { from, message });
        Ok(())
    }

    fn start_sync(&mut self, who: usize) {
        let machine = &self.machines[who];
        let (life, least) = (machine.lives, machine.sync_us);
        let took = 100 + self.rng.below(300) + least;
        self.after(took, Event::Written { who, life });
    }

    fn written(&mut self, who: usize) {
        let Some(up) = &mut self.machines[who].up else { return };
        match up.write_batch() {
            Ok(done) => {
                if up.begin_batch() {
                    self.start_sync(who);
                }
                if let Some(seq) = done {
                    self.input(who, CellInput::Persisted(seq));
                }
            }
            // A node whose journal fails stops; its supervisor starts it again.
            Err(e) => {
                self.say(who, || format!("stops: {e}"));
                self.kill(who, false);
                let wait = self.rng.between(20_000, 400_000);
                self.after(wait, Event::Start { who });
            }
        }
    }

    fn synced(&mut self, who: usize) -> Result<(), Found> {
        let Some(up) = &mut self.machines[who].up else { return Ok(()) };
        if let Some((index, syncer)) = up.syncing.take() {
            syncer().map_err(|e| ("store", e.to_string()))?;
            self.input(who, CellInput::StateSynced(index));
        }
        Ok(())
    }

    fn snapshot_read(&mut self, who: usize) {
        let up = self.machines[who].up.as_mut();
        if let Some(pieces) = up.and_then(|up| up.read.pop_front()) {
            self.input(who, CellInput::SnapshotRead(pieces));
        }
    }

    fn start(&mut self, who: usize) -> Result<(), Found> {
        let machine = &self.machines[who];
        if machine.up.is_some() || machine.away || machine.held_down {
            return Ok(());
        }
        self.start_process(who)
    }

    pub fn start_process(&mut self, who: usize) -> Result<(), Found> {
        let seed = self.rng.next_u64();
        let now = self.now;
        match self.machines[who].start(&self.scenario, now, seed) {
            Ok(()) => {
                self.say(who, || "starts".into());
                self.picture.up(now, who, self.machines[who].id);
                let life = self.machines[who].lives;
                let phase = self.rng.below(TICK_US);
                self.after(phase, Event::Tick { who, life });
            }
            Err(NoStart::Damaged(what)) if self.machines[who].rotted => {
                self.say(who, || format!("refuses to start: {what}; it is rebuilt"));
                self.replace(who, 10_000);
            }
            Err(NoStart::Rotten(what)) => {
                self.say(who, || format!("cannot start: {what}; it is rebuilt"));
                self.replace(who, 10_000);
            }
            Err(NoStart::Disk(what)) => {
                self.say(who, || format!("cannot start: {what}"));
                self.after(50_000, Event::Start { who });
            }
            Err(NoStart::Damaged(what) | NoStart::Other(what)) => {
                return Err((
                    "a node starts with what it wrote",
                    format!("{}: {what}", self.name(who)),
                ));
            }
        }
        Ok(())
    }

    /// The process ends; `power`: with the whole machine.
    pub fn kill(&mut self, who: usize, power: bool) {
        if self.machines[who].up.is_none() {
            return;
        }
        self.say(who, || if power { "loses power".into() } else { "dies".into() });
        self.picture.down(self.now, who);
        let id = self.machines[who].id;
        self.machines[who].crash(&mut self.rng, power);
        for watcher in self.watchers.iter_mut().filter(|w| w.at == Some(who)) {
            watcher.at = None;
        }
        // The connections of a process that died are closed, those of a machine hang.
        for to in 0..self.machines.len() {
            if to != who && (!power || self.rng.one_in(2)) && self.network.carries(who, to) {
                self.after(400, Event::Disconnect { from: id, to });
            }
        }
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |m: &&Machine| {
            m.up.as_ref().is_some_and(|u| u.cell.consensus_status().role == Role::Leader)
        };
        let term = |m: &&Machine| m.up.as_ref().map(|u| u.cell.consensus_status().term);
        self.machines.iter().filter(leads).max_by_key(term).map(|m| m.number)
    }
}
