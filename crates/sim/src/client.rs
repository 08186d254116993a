//! Clients that use the keyspace as real ones do: one request at a time, at any
//! member, giving up after a while without knowing what became of it.

use crate::check::linear;
use crate::holder::{self, Holder};
use crate::oracle::Found;
use crate::world::{Event, Waiter, World};
use bytes::Bytes;
use synod_base::NodeId;
use synod_cell::{CellInput, Failure, Reply, Work};
use synod_mvcc::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, Op, OpResult, Outcome,
    PutRequest, RangeRequest, TxnRequest,
};

/// Keys that all clients share.
const KEYS: u64 = 6;
/// A client gives up after this, µs.
pub(crate) const PATIENCE_US: u64 = 4_000_000;

pub fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{n}"))
}

/// What a request was for.
#[derive(Clone, Debug)]
pub(crate) enum Aim {
    Put { key: u64, value: u64 },
    Delete { key: u64 },
    Swap { key: u64, from: u64, to: u64 },
    Get { key: u64 },
    All,
    Grant { lease: i64, ttl: i64 },
    Renew { lease: i64, guard: i64 },
    Revoke { lease: i64 },
    Bind { lease: i64 },
    Lock(holder::Step),
    Compact,
}

pub(crate) struct Pending {
    ticket: (NodeId, u64),
    pub aim: Aim,
    pub start: u64,
    /// What some client had seen when it began.
    frontier: u64,
    /// How far clocks had jumped then.
    pub jumped: u64,
    deadline: u64,
}

pub struct Client {
    number: u64,
    pub(crate) pending: Option<Pending>,
    /// Its session, and what it holds by it.
    pub holder: Holder,
    /// What it last read of each key.
    known: Vec<u64>,
    /// Requests that were answered.
    pub answered: u64,
    /// Takes no more requests up.
    pub resting: bool,
    /// What it did and saw of each key, for the checker.
    pub history: Vec<(u64, linear::Op)>,
}

impl Client {
    pub fn new(number: u64) -> Client {
        Client {
            number,
            pending: None,
            holder: Holder::default(),
            known: vec![0; KEYS as usize],
            answered: 0,
            resting: false,
            history: Vec::new(),
        }
    }

    /// A server's clock jumped: what it promised ends that much earlier.
    pub fn jump(&mut self, by: u64) {
        self.holder.jump(by);
    }

    pub fn waits(&self) -> bool {
        self.pending.is_some()
    }
}

fn value_of(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|s| s.trim_end_matches('.').parse().ok()).unwrap_or(0)
}

pub(crate) fn put(key: Bytes, value: u64, pad: u64, lease: i64) -> PutRequest {
    let value = format!("{value}{}", ".".repeat(pad as usize));
    PutRequest {
        key,
        value: value.into(),
        lease,
        prev_kv: pad.is_multiple_of(2),
        ..Default::default()
    }
}

fn one(key: Bytes) -> KeyRange {
    KeyRange { key, end: Bytes::new() }
}

impl World {
    /// A client looks what to do next.
    pub fn client(&mut self, number: usize) -> Result<(), Found> {
        let think = self.rng.between(2_000, 40_000);
        self.after(think, Event::Client { client: number });
        self.look_at_the_session(number)?;
        let now = self.now;
        if let Some(pending) = &self.clients[number].pending {
            if now < pending.deadline {
                return Ok(());
            }
            self.waiting.remove(&pending.ticket.1);
            self.close(number, None);
        }
        if self.clients[number].resting {
            return Ok(());
        }
        let who = self.any_machine();
        if self.machines[who].up.is_none() {
            return Ok(());
        }
        if self.rng.one_in(12) {
            self.look_at_once(who)?;
        }
        if self.rng.one_in(20) {
            self.move_a_watch(who)?;
        }
        self.look_at_the_queue(number, who)?;
        self.look_at_the_office(number, who)?;
        let aim = self.choose(number);
        self.ask(number, who, aim);
        Ok(())
    }

    /// A weak read: what it sees must have been so once.
    fn look_at_once(&mut self, who: usize) -> Result<(), Found> {
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        let published = up.cell.reader().published();
        self.same_as_model(&published)
    }

    fn same_as_model(
        &self,
        published: &synod_mvcc::Published<<synod_mvcc::MemStore as synod_mvcc::Store>::View>,
    ) -> Result<(), Found> {
        let everything = KeyRange { key: b"\0"[..].into(), end: b"\0"[..].into() };
        let request = RangeRequest { range: everything.clone(), ..Default::default() };
        let seen = published.range(&request).map_err(|e| ("store", e.to_string()))?;
        let kvs = seen.map(|r| r.kvs).unwrap_or_default();
        let expected = self.oracle.model.range(&everything, published.revision());
        if kvs != expected {
            let what =
                format!("at revision {}: {kvs:?}, expected {expected:?}", published.revision());
            return Err(("reads", what));
        }
        Ok(())
    }

    fn move_a_watch(&mut self, who: usize) -> Result<(), Found> {
        let which = self.rng.below(self.watchers.len() as u64) as usize;
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        self.watchers[which].attach(who, up, &self.oracle.model)
    }

    /// The state of a member was replaced: who follows it reads its history.
    pub fn follow_anew(&mut self, who: usize) -> Result<(), Found> {
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        for watcher in self.watchers.iter_mut().filter(|w| w.at == Some(who)) {
            watcher.attach(who, up, &self.oracle.model)?;
        }
        Ok(())
    }

    fn choose(&mut self, number: usize) -> Aim {
        self.tickets += 1;
        let unique = self.tickets;
        let key = self.rng.below(KEYS);
        let now = self.now;
        let client = &self.clients[number];
        if let Some(lease) = client.holder.lease.as_ref().filter(|l| l.in_jeopardy(now)) {
            return Aim::Renew { lease: lease.id, guard: lease.guard };
        }
        let lease = client.holder.alive(now).map(|l| (l.id, l.guard));
        match (self.rng.below(20), lease) {
            (0..=4, _) => Aim::Put { key, value: unique },
            (5, _) => Aim::Delete { key },
            (6 | 7, _) => Aim::Swap { key, from: client.known[key as usize], to: unique },
            (8 | 9, _) => Aim::Get { key },
            (10, _) => Aim::All,
            (11, _) if self.rng.one_in(4) => Aim::Compact,
            // A process that was paused goes on: it does not know that it is too late.
            (12..=14, None) if client.holder.remembers() => Aim::Lock(holder::Step::LateWrite),
            (_, None) => {
                let ttl = self.rng.between(1, 3) as i64;
                Aim::Grant { lease: unique as i64, ttl }
            }
            (12, Some((lease, _))) if self.rng.one_in(3) => Aim::Revoke { lease },
            (13, Some((lease, _))) => Aim::Bind { lease },
            (12..=16, Some((lease, guard))) => match self.next_step(number) {
                Some(step) => Aim::Lock(step),
                None => Aim::Renew { lease, guard },
            },
            (_, Some((lease, guard))) => Aim::Renew { lease, guard },
        }
    }

    fn command(&mut self, number: usize, aim: &Aim) -> Option<Command> {
        let pad = self.rng.below(60);
        let me = self.clients[number].number;
        Some(match *aim {
            Aim::Get { .. } | Aim::All => return None,
            Aim::Put { key: k, value } => Command::Put(put(key(k), value, pad, 0)),
            Aim::Delete { key: k } => {
                Command::Delete(DeleteRequest { range: one(key(k)), prev_kv: true })
            }
            Aim::Swap { key: k, from, to } => {
                // Values are padded, so the key's pair is compared by what it begins with.
                let old = self.oracle.model.get(&key(k), i64::MAX);
                let old = old.filter(|kv| value_of(&kv.value) == from).map(|kv| kv.value.clone());
                let compare = match (from, old) {
                    (0, _) => {
                        let target = CompareTarget::Create(0);
                        Compare { range: one(key(k)), target, result: CompareResult::Equal }
                    }
                    (_, old) => {
                        let value = old.unwrap_or_else(|| from.to_string().into());
                        let target = CompareTarget::Value(value);
                        Compare { range: one(key(k)), target, result: CompareResult::Equal }
                    }
                };
                Command::Txn(TxnRequest {
                    compare: vec![compare],
                    success: vec![Op::Put(put(key(k), to, pad, 0))],
                    failure: vec![Op::Range(RangeRequest {
                        range: one(key(k)),
                        ..Default::default()
                    })],
                })
            }
            Aim::Grant { lease, ttl } => Command::LeaseGrant { id: lease, ttl, clock: 0 },
            Aim::Renew { lease, guard } => {
                let ids = if guard == 0 { vec![lease] } else { vec![lease, guard] };
                Command::LeaseRenew { ids, clock: 0 }
            }
            Aim::Revoke { lease } => Command::LeaseRevoke { id: lease },
            Aim::Bind { lease } => {
                Command::Put(put(format!("session-{me}").into(), me, pad, lease))
            }
            Aim::Lock(step) => self.step_command(number, step),
            Aim::Compact => Command::Compact { revision: self.oracle.model.revision() - 15 },
        })
    }

    fn ask(&mut self, number: usize, who: usize, aim: Aim) {
        self.tickets += 1;
        let ticket = self.tickets;
        let input = match self.command(number, &aim) {
            Some(command) => CellInput::Propose { ticket, work: Work::Command(command.encode()) },
            None => CellInput::Read { ticket },
        };
        // Before the request leaves: from then on the lock may be somebody else's.
        match aim {
            Aim::Lock(holder::Step::Leave) => self.leaves(number),
            Aim::Revoke { .. } => self.drop_lease(number),
            _ => {}
        }
        self.clients[number].pending = Some(Pending {
            ticket: (self.machines[who].id, ticket),
            aim,
            start: self.now,
            frontier: self.oracle.frontier,
            jumped: self.oracle.jumped,
            deadline: self.now + PATIENCE_US,
        });
        self.waiting.insert(ticket, Waiter::Client(number));
        self.input(who, input);
    }

    /// A client's request was answered.
    pub fn client_done(
        &mut self,
        number: usize,
        who: usize,
        ticket: u64,
        result: Result<Reply, Failure>,
    ) -> Result<(), Found> {
        let Some(pending) = &self.clients[number].pending else { return Ok(()) };
        if pending.ticket.1 != ticket {
            return Ok(());
        }
        let (id, frontier) = (pending.ticket, pending.frontier);
        match result {
            Ok(Reply::Applied { outcome, revision, .. }) => {
                let answer = (outcome, revision);
                self.oracle.answered(id, frontier, &Ok(answer.clone()))?;
                self.clients[number].answered += 1;
                self.learn(number, &answer)
            }
            Err(Failure::State(e)) => {
                self.oracle.answered(id, frontier, &Err(e))?;
                self.clients[number].answered += 1;
                self.clients[number].pending = None;
                Ok(())
            }
            Ok(Reply::ReadNow) => {
                self.clients[number].answered += 1;
                self.read_now(number, who, frontier)
            }
            Ok(Reply::Done) => Ok(()),
            Err(Failure::Refused(_) | Failure::TimedOut) => {
                let read = matches!(pending.aim, Aim::Get { .. } | Aim::All);
                self.clients[number].pending = None;
                if read { Ok(()) } else { self.oracle.was_refused(id) }
            }
            Err(Failure::Unknown) => {
                self.close(number, None);
                Ok(())
            }
        }
    }

    /// Ends the pending request; `seen`: how it is to be remembered.
    fn close(&mut self, number: usize, seen: Option<linear::Kind>) -> Option<Pending> {
        let end = seen.is_some().then_some(self.now);
        let client = &mut self.clients[number];
        let pending = client.pending.take()?;
        let (key, kind) = match (&pending.aim, seen) {
            (Aim::Put { key, .. } | Aim::Delete { key } | Aim::Get { key }, Some(kind))
            | (Aim::Swap { key, .. }, Some(kind)) => (*key, kind),
            // Nobody knows what became of it.
            (Aim::Put { key, value }, None) => (*key, linear::Kind::Write(*value)),
            (Aim::Delete { key }, None) => (*key, linear::Kind::Write(0)),
            (Aim::Swap { key, from, to }, None) => (*key, linear::Kind::Swap(*from, *to)),
            _ => return Some(pending),
        };
        client.history.push((key, linear::Op { start: pending.start, end, kind }));
        Some(pending)
    }

    /// A write was applied.
    fn learn(&mut self, number: usize, answer: &(Outcome, i64)) -> Result<(), Found> {
        use linear::Kind;
        let aim = self.clients[number].pending.as_ref().map(|p| p.aim.clone());
        let seen = match (&aim, &answer.0) {
            (Some(Aim::Put { value, .. }), _) => Some(Kind::Write(*value)),
            (Some(Aim::Delete { .. }), _) => Some(Kind::Write(0)),
            (Some(Aim::Swap { from, to, .. }), Outcome::Txn(txn)) if txn.succeeded => {
                Some(Kind::Swap(*from, *to))
            }
            (Some(Aim::Swap { .. }), Outcome::Txn(txn)) => match txn.responses.first() {
                Some(OpResult::Range(r)) => {
                    Some(Kind::Read(r.kvs.first().map_or(0, |kv| value_of(&kv.value))))
                }
                _ => None,
            },
            _ => Some(Kind::Read(0)),
        };
        let Some(pending) = self.close(number, seen) else { return Ok(()) };
        let client = &mut self.clients[number];
        match (pending.aim.clone(), &answer.0) {
            (Aim::Put { key, value }, _) => client.known[key as usize] = value,
            (Aim::Swap { key, .. }, _) => {
                if let Some(Kind::Read(v) | Kind::Swap(_, v)) = seen {
                    client.known[key as usize] = v;
                }
            }
            (Aim::Delete { key }, _) => client.known[key as usize] = 0,
            (Aim::Grant { lease, ttl }, Outcome::LeaseGranted(granted)) => {
                self.drop_lease(number);
                let until = self.until(&pending, (*granted).max(ttl));
                let graced = self.graced(pending.start, pending.jumped, *granted);
                self.clients[number].holder.opened(lease, *granted, until, graced);
                self.oracle.promise(lease, until);
            }
            (Aim::Renew { lease, .. }, Outcome::LeaseRenewed(list)) => {
                return self.renewed(number, &pending, lease, list);
            }
            (Aim::Lock(step), outcome) => {
                return self.stepped(number, &pending, step, outcome, answer.1);
            }
            _ => {}
        }
        Ok(())
    }

    /// A linearizable read may look.
    fn read_now(&mut self, number: usize, who: usize, frontier: u64) -> Result<(), Found> {
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        let published = up.cell.reader().published();
        self.oracle.read(published.applied(), frontier)?;
        self.same_as_model(&published)?;
        let aim = self.clients[number].pending.as_ref().map(|p| p.aim.clone());
        let Some(Aim::Get { key: k }) = aim else {
            self.clients[number].pending = None;
            return Ok(());
        };
        let request = RangeRequest { range: one(key(k)), ..Default::default() };
        let found = published.range(&request).map_err(|e| ("store", e.to_string()))?;
        let kvs = found.map(|r| r.kvs).unwrap_or_default();
        let value = kvs.first().map_or(0, |kv| value_of(&kv.value));
        self.clients[number].known[k as usize] = value;
        self.close(number, Some(linear::Kind::Read(value)));
        Ok(())
    }
}
