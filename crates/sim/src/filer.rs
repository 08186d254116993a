//! Clients of small files, each with a cache, by the rules of [`synod_coord::file`],
//! which the door and the real client use too. They read from their caches all the
//! time, hear of writers from any member, early or late, and stand still now and then.

use crate::client::PATIENCE_US;
use crate::files::check_cached;
use crate::oracle::Found;
use crate::world::{Event, Waiter, World};
use synod_base::NodeId;
use synod_cell::{CellInput, Failure, Reply, Work};
use synod_coord::file::{
    Cache, CacheLimits, Change, Expect, FilePath, Fill, Need, Object, Registration, Write, Writer,
    looked, mark_range, marked, register, registered_keys, release,
};
use synod_coord::{SessionClock, SessionState};
use synod_mvcc::{Command, KeyRange, KeyValue, Outcome, RangeRequest};

/// The nodes that there may be; the first is above the next two.
const PATHS: [&str; 4] = ["d", "d/0", "d/1", "e"];
/// For how long a writer waits for caches, µs: longer than a session lives.
const WAIT_US: u64 = 6_000_000;
/// The time to live of a writer's marks, s.
const MARKS_TTL_S: i64 = 8;
/// How long a session in doubt is not given up, ms.
const GRACE_MS: u64 = 2_000;

/// What a request was for.
enum Ask {
    Open { lease: i64 },
    Renew { lease: i64 },
    Fill { lease: i64, fill: Fill, object: Object },
    MarksLease { lease: i64 },
    Write,
}

struct Busy {
    ticket: (NodeId, u64),
    ask: Ask,
    start: u64,
    frontier: u64,
    /// How far clocks had jumped when it began.
    jumped: u64,
    deadline: u64,
    /// An answer that takes its time to the client: when it is there.
    answer: Option<(u64, Outcome, i64)>,
}

struct Session {
    lease: i64,
    clock: SessionClock,
}

/// See the file's header.
#[derive(Default)]
pub struct Filer {
    session: Option<Session>,
    cache: Cache,
    busy: Option<Busy>,
    /// Registrations that were given up, and when the servers are told.
    later: Vec<(u64, i64, Vec<Registration>)>,
    /// A write under way, and until when it waits.
    writing: Option<(Writer, u64)>,
    /// Reads that its caches answered.
    pub cached: u64,
    /// Reads and writes that came to an end.
    pub answered: u64,
    /// Writes among them: none waits for ever.
    pub written: u64,
    /// Takes nothing more up.
    pub resting: bool,
}

fn path(text: &str) -> FilePath {
    text.parse().unwrap_or_default()
}

fn ms(us: u64) -> u64 {
    us / 1_000
}

impl Filer {
    pub fn waits(&self) -> bool {
        self.busy.is_some()
    }

    /// A server's clock jumped: what was promised holds no more.
    pub fn jump(&mut self) {
        self.begin_anew();
    }

    /// Without a session there is nothing to rely on.
    fn begin_anew(&mut self) {
        self.session = None;
        // Small, so that it is full now and then.
        self.cache = Cache::new(CacheLimits { entries_max: 3, bytes_max: 1 << 20 });
    }

    fn lease(&self) -> Option<i64> {
        self.session.as_ref().map(|s| s.lease)
    }

    fn is_safe(&self, now: u64) -> bool {
        self.session.as_ref().is_some_and(|s| {
            s.clock.state() == SessionState::Safe && ms(now) < s.clock.deadline_ms()
        })
    }
}

impl World {
    /// A client of files looks what to do next.
    pub fn filer(&mut self, number: usize) -> Result<(), Found> {
        let stands_still = self.rng.one_in(100);
        let think = match stands_still {
            true => self.rng.between(400_000, 2_500_000),
            false => self.rng.between(1_000, 20_000),
        };
        self.after(think, Event::Filer { filer: number });
        let now = self.now;
        let filer = &mut self.filers[number];
        if let Some(session) = &mut filer.session
            && session.clock.tick(ms(now)) == Some(SessionState::Expired)
        {
            filer.begin_anew();
        }
        let who = self.any_machine();
        self.read_cached(number)?;
        if !self.rng.one_in(4) {
            self.hear_of_writers(number, who)?;
        }
        self.release_what_is_due(number);
        self.hear_the_answer(number)?;
        let filer = &mut self.filers[number];
        if let Some(busy) = &filer.busy {
            if now < busy.deadline {
                return Ok(());
            }
            let ticket = busy.ticket.1;
            self.waiting.remove(&ticket);
            self.give_up_asking(number);
        }
        if self.machines[who].up.is_some() {
            self.go_on(number, who)?;
        }
        Ok(())
    }

    /// Nobody knows what became of the request.
    fn give_up_asking(&mut self, number: usize) {
        let filer = &mut self.filers[number];
        match filer.busy.take().map(|b| b.ask) {
            Some(Ask::Fill { fill, object, .. }) => {
                filer.cache.filled(fill, object, None, true);
            }
            Some(Ask::Write | Ask::MarksLease { .. }) => self.end_writing(number),
            _ => {}
        }
    }

    fn end_writing(&mut self, number: usize) {
        let Some((writer, _)) = self.filers[number].writing.take() else { return };
        if let Some(id) = writer.lease() {
            self.tell(Command::LeaseRevoke { id });
        }
    }

    /// Sends a request whose answer nobody waits for, to any member.
    fn tell(&mut self, command: Command) {
        let who = self.any_machine();
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting.insert(ticket, Waiter::Nobody);
        self.input(who, CellInput::Propose { ticket, work: Work::Command(command.encode()) });
    }

    /// Tells the servers what was given up; now and then much later.
    fn release(&mut self, number: usize, lease: i64, registrations: Vec<Registration>) {
        if registrations.is_empty() {
            return;
        }
        let wait = if self.rng.one_in(3) { self.rng.between(20_000, 600_000) } else { 0 };
        self.filers[number].later.push((self.now + wait, lease, registrations));
        self.release_what_is_due(number);
    }

    fn release_what_is_due(&mut self, number: usize) {
        let now = self.now;
        let due = self.filers[number].later.extract_if(.., |(when, ..)| *when <= now);
        for (_, lease, registrations) in due.collect::<Vec<_>>() {
            self.tell(Command::Txn(release(lease, &registrations)));
        }
    }

    fn any_object(&mut self) -> Object {
        let one = PATHS[self.rng.below(PATHS.len() as u64) as usize];
        match self.rng.below(6) {
            0 => Object::children(path("")),
            1 => Object::children(path(PATHS[0])),
            _ => Object::contents(path(one)),
        }
    }

    fn read_cached(&mut self, number: usize) -> Result<(), Found> {
        let (object, now) = (self.any_object(), self.now);
        let filer = &mut self.filers[number];
        let safe = filer.is_safe(now);
        let Some(seen) = filer.cache.get(&object, safe) else { return Ok(()) };
        filer.cached += 1;
        check_cached(&object, seen, &self.oracle.model)
    }

    fn read_at(&self, who: usize, request: &RangeRequest) -> Result<Vec<KeyValue>, Found> {
        let Some(up) = &self.machines[who].up else { return Ok(Vec::new()) };
        let found = up.cell.reader().published().range(request);
        let found = found.map_err(|e| ("store", e.to_string()))?;
        Ok(found.map(|r| r.kvs).unwrap_or_default())
    }

    /// As from the stream of a member: the marks that it has, on what this session has
    /// registered there.
    fn hear_of_writers(&mut self, number: usize, who: usize) -> Result<(), Found> {
        let Some(lease) = self.filers[number].lease() else { return Ok(()) };
        let marks = RangeRequest { range: mark_range(), ..RangeRequest::default() };
        for object in self.read_at(who, &marks)?.iter().filter_map(|kv| marked(&kv.key)) {
            let range = KeyRange { key: object.registration(lease), end: Default::default() };
            let own = RangeRequest { range, ..RangeRequest::default() };
            if let Some(kv) = self.read_at(who, &own)?.first() {
                let mine = self.filers[number].cache.invalidated(&object, kv.mod_revision);
                self.release(number, lease, vec![mine]);
            }
        }
        Ok(())
    }

    fn go_on(&mut self, number: usize, who: usize) -> Result<(), Found> {
        let (now, unique) = (self.now, self.tickets as i64 + 1);
        let filer = &self.filers[number];
        if filer.resting {
            return Ok(());
        }
        let Some(session) = &filer.session else {
            let ttl = self.rng.between(1, 2) as i64;
            let command = Command::LeaseGrant { id: unique, ttl, clock: 0 };
            self.ask_for(number, who, Ask::Open { lease: unique }, command);
            return Ok(());
        };
        let lease = session.lease;
        if session.clock.renew_at_ms() <= ms(now) {
            // One that stands still in between may be too late.
            let command = Command::LeaseRenew { ids: vec![lease], clock: 0 };
            self.ask_for(number, who, Ask::Renew { lease }, command);
            return Ok(());
        }
        if filer.writing.is_some() {
            return self.go_on_writing(number, who);
        }
        if self.rng.one_in(3) {
            self.begin_writing(number);
            return self.go_on_writing(number, who);
        }
        let object = self.any_object();
        if self.filers[number].is_safe(now) {
            let fill = self.filers[number].cache.fill(object.clone());
            let command = Command::Txn(register(&object, lease));
            self.ask_for(number, who, Ask::Fill { lease, fill, object }, command);
        }
        Ok(())
    }

    fn begin_writing(&mut self, number: usize) {
        let at = path(PATHS[self.rng.below(PATHS.len() as u64) as usize]);
        let change = match self.rng.one_in(3) {
            true => Change::Delete,
            false => Change::Set(format!("{}", self.tickets).into()),
        };
        let expect = if self.rng.one_in(6) { Expect::Absent } else { Expect::Anything };
        let lease = self.filers[number].lease().unwrap_or(0);
        let session = if self.rng.one_in(5) { lease } else { 0 };
        let parent = Object::children(at.parent().unwrap_or_default());
        for object in [Object::contents(at.clone()), parent] {
            let mine = self.filers[number].cache.forget(&object);
            self.release(number, lease, mine.into_iter().collect());
        }
        let write = Write { path: at, change, expect, session, sequencer: None };
        let guess = self.rng.one_in(2);
        let until = self.now + WAIT_US;
        self.filers[number].writing = Some((Writer::new(write, guess), until));
    }

    fn go_on_writing(&mut self, number: usize, who: usize) -> Result<(), Found> {
        let unique = self.tickets as i64 + 1;
        let Some((writer, until)) = &self.filers[number].writing else { return Ok(()) };
        let late = self.now >= *until;
        match writer.need() {
            Need::Run(txn) => self.ask_for(number, who, Ask::Write, Command::Txn(txn)),
            Need::Lease => {
                let command = Command::LeaseGrant { id: unique, ttl: MARKS_TTL_S, clock: 0 };
                self.ask_for(number, who, Ask::MarksLease { lease: unique }, command);
            }
            Need::Quiet(_) if late => self.end_writing(number),
            Need::Quiet(objects) => {
                for object in objects {
                    let range = object.registrations();
                    let some = RangeRequest { range, ..RangeRequest::default() };
                    if !self.read_at(who, &some)?.is_empty() {
                        return Ok(());
                    }
                }
                if let Some((writer, _)) = &mut self.filers[number].writing {
                    writer.quiet();
                }
            }
            Need::Done { .. } | Need::Refused(_) => {
                self.filers[number].answered += 1;
                self.filers[number].written += 1;
                self.end_writing(number);
            }
        }
        Ok(())
    }

    fn ask_for(&mut self, number: usize, who: usize, ask: Ask, command: Command) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.filers[number].busy = Some(Busy {
            ticket: (self.machines[who].id, ticket),
            ask,
            start: self.now,
            frontier: self.oracle.frontier,
            jumped: self.oracle.jumped,
            deadline: self.now + PATIENCE_US,
            answer: None,
        });
        self.waiting.insert(ticket, Waiter::Filer(number));
        self.input(who, CellInput::Propose { ticket, work: Work::Command(command.encode()) });
    }

    /// A request of a client of files was answered.
    pub fn filer_done(
        &mut self,
        number: usize,
        ticket: u64,
        result: Result<Reply, Failure>,
    ) -> Result<(), Found> {
        let busy = self.filers[number].busy.as_ref().filter(|b| b.ticket.1 == ticket);
        let Some(busy) = busy else { return Ok(()) };
        let (id, frontier) = (busy.ticket, busy.frontier);
        match result {
            Ok(Reply::Applied { outcome, revision, .. }) => {
                self.oracle.answered(id, frontier, &Ok((outcome.clone(), revision)))?;
                let wait = if self.rng.one_in(3) { self.rng.between(1_000, 200_000) } else { 0 };
                let when = self.now + wait;
                if let Some(busy) = &mut self.filers[number].busy {
                    busy.answer = Some((when, outcome, revision));
                }
                self.hear_the_answer(number)
            }
            Err(Failure::State(e)) => {
                self.oracle.answered(id, frontier, &Err(e))?;
                // There is no such session any more.
                self.give_up_asking(number);
                self.filers[number].begin_anew();
                Ok(())
            }
            Err(Failure::Refused(_) | Failure::TimedOut) => {
                self.give_up_asking(number);
                self.oracle.was_refused(id)
            }
            Ok(Reply::ReadNow | Reply::Done) | Err(Failure::Unknown) => {
                self.give_up_asking(number);
                Ok(())
            }
        }
    }

    /// What was answered, if the answer is there.
    fn hear_the_answer(&mut self, number: usize) -> Result<(), Found> {
        let now = self.now;
        let there = |b: &mut Busy| b.answer.as_ref().is_some_and(|(when, ..)| *when <= now);
        match self.filers[number].busy.take_if(there) {
            Some(busy) => self.filer_learns(number, busy),
            None => Ok(()),
        }
    }

    fn filer_learns(&mut self, number: usize, busy: Busy) -> Result<(), Found> {
        let now = self.now;
        let filer = &mut self.filers[number];
        let Some((_, outcome, revision)) = busy.answer else { return Ok(()) };
        let (sent, holds) = (ms(busy.start), busy.jumped == self.oracle.jumped);
        match (busy.ask, &outcome) {
            (Ask::Open { lease }, Outcome::LeaseGranted(ttl)) if holds => {
                filer.begin_anew();
                let clock = SessionClock::new(sent, *ttl as u64 * 1_000, GRACE_MS);
                self.oracle.promise(lease, clock.deadline_ms() * 1_000);
                filer.session = Some(Session { lease, clock });
            }
            (Ask::Renew { lease }, Outcome::LeaseRenewed(list)) => {
                let lives = list.iter().any(|(id, ttl)| *id == lease && *ttl > 0);
                let Some(session) = filer.session.as_mut().filter(|s| s.lease == lease) else {
                    return Ok(());
                };
                if !lives || !holds {
                    filer.begin_anew();
                    return Ok(());
                }
                session.clock.renewed(sent, ms(now));
                self.oracle.promise(lease, session.clock.deadline_ms() * 1_000);
            }
            (Ask::Fill { lease, fill, object }, Outcome::Txn(result)) => {
                let what = || ("files", "a registration was answered with something else".into());
                let (done, found) = registered_keys(result.clone()).ok_or_else(what)?;
                let seen = looked(&object, &found).map_err(|e| ("files", e.to_string()))?;
                filer.answered += 1;
                // It was for a session that is given up: nobody relies on it.
                if filer.lease() == Some(lease) {
                    let safe = filer.is_safe(now);
                    let answer = done.then_some((revision, seen));
                    let gone = filer.cache.filled(fill, object, answer, safe);
                    self.release(number, lease, gone);
                }
            }
            (Ask::MarksLease { lease }, Outcome::LeaseGranted(_)) => {
                if let Some((writer, _)) = &mut filer.writing {
                    writer.leased(lease);
                }
            }
            (Ask::Write, Outcome::Txn(result)) => {
                if let Some((writer, _)) = &mut filer.writing {
                    let what = || ("files", "a write was answered with something else".into());
                    writer.ran(result, revision).ok_or_else(what)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
