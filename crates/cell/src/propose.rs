//! Writes on their way: taken here, placed in the log by the leader, answered
//! when applied here.

use crate::cell::{Cell, CellOutput, Failure, Reply};
use crate::envelope::{ConfigContext, Work, seal};
use crate::event::CellEvent;
use crate::message::{ForwardId, PeerMessage, Verdict};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_base::{NodeId, Tick, planted};
use synod_consensus::{Change, Input, Proposal, Refusal};
use synod_mvcc::{Command, Store};

/// Where a request of this node is.
enum Place {
    /// Here, until there is a leader to give it to.
    Here,
    /// With the leader of this ballot, by this message; it has not said where it put it.
    Sent(NodeId, u64, ForwardId),
    /// In the log at this index, in this ballot.
    Log(u64, u64),
}

struct Pending {
    deadline: Tick,
    work: Work,
    place: Place,
}

/// Who asked for something that was handed to the protocol.
#[derive(Clone, Copy)]
enum Asker {
    /// A request of this node.
    Own(u64),
    /// A request of another node.
    Peer(NodeId, ForwardId, u64),
    /// The leader's own duties.
    Nobody,
}

/// Requests of this node, and those of others that this leader places.
#[derive(Default)]
pub(crate) struct Requests {
    pending: BTreeMap<u64, Pending>,
    bytes: usize,
    /// Not yet given to anybody, in order of arrival.
    fresh: Vec<u64>,
    /// (index) -> (ballot, ticket) of what this node waits for.
    placed: BTreeMap<u64, (u64, u64)>,
    /// Deadlines in order.
    deadlines: BTreeSet<(Tick, u64)>,
    transfers: BTreeMap<u64, u64>,
    /// Work of other nodes, for the next turn.
    foreign: Vec<(NodeId, ForwardId, u64, Work)>,
    own: Vec<Bytes>,
    askers: BTreeMap<u64, Asker>,
    next_core_ticket: u64,
    /// What to tell other nodes at the end of the turn.
    verdicts: BTreeMap<NodeId, Vec<Verdict>>,
    /// The newest message with which this node forwarded.
    forwarded: ForwardId,
    /// Messages of others that were taken in ballot `taken_in`.
    taken: BTreeMap<(NodeId, u64), Taken>,
    taken_in: u64,
}

/// Which messages of one life of a sender were taken: a window that ends with
/// the newest (RFC 4303, 3.4.3); what is older than it is not taken.
#[derive(Default)]
struct Taken {
    newest: u64,
    /// Bit `i`: number `newest - i` was taken.
    window: u128,
}

impl Taken {
    /// Whether it was not taken before; from now on it was.
    fn first_time(&mut self, number: u64) -> bool {
        if number > self.newest {
            let ahead = number - self.newest;
            self.window = if ahead < 128 { self.window << ahead } else { 0 };
            self.window |= 1;
            self.newest = number;
            return true;
        }
        let bit = 1u128.checked_shl(u32::try_from(self.newest - number).unwrap_or(128));
        match bit {
            Some(bit) if self.window & bit == 0 => {
                self.window |= bit;
                true
            }
            _ => false,
        }
    }
}

/// Lives of senders remembered within one ballot: a sender that restarts more
/// often than that has its oldest forgotten.
const LIVES_MAX: usize = 1_000;

impl Requests {
    /// `life` differs between two lives of a node.
    pub fn new(life: u64) -> Requests {
        Requests { forwarded: ForwardId { life, number: 0 }, ..Requests::default() }
    }

    /// Whether this message is to be taken in this ballot: each once.
    fn takes(&mut self, from: NodeId, id: ForwardId, term: u64) -> bool {
        if term != self.taken_in {
            self.taken_in = term;
            self.taken.clear();
        }
        if self.taken.len() >= LIVES_MAX && !self.taken.contains_key(&(from, id.life)) {
            self.taken.pop_first();
        }
        self.taken.entry((from, id.life)).or_default().first_time(id.number)
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// The number under which the protocol hears of a transfer: its own numbers
    /// and the requests' must not meet.
    pub fn expect_transfer(&mut self, ticket: u64) -> u64 {
        self.next_core_ticket += 1;
        self.transfers.insert(self.next_core_ticket, ticket);
        self.next_core_ticket
    }

    /// A change of the membership that the leader itself wants.
    pub fn push_own_change(&mut self, change: Change, commands: Vec<Bytes>) {
        self.foreign.push((NodeId::NONE, ForwardId::default(), 0, Work::Change(change, commands)));
    }

    pub fn push_own(&mut self, command: Bytes) {
        self.own.push(command);
    }

    fn remove(&mut self, ticket: u64) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        self.bytes -= pending.work.size();
        self.deadlines.remove(&(pending.deadline, ticket));
        if let Place::Log(index, _) = pending.place
            && self.placed.get(&index).is_some_and(|(_, t)| *t == ticket)
        {
            self.placed.remove(&index);
        }
        Some(pending)
    }

    fn core_ticket(&mut self, asker: Asker) -> u64 {
        self.next_core_ticket += 1;
        self.askers.insert(self.next_core_ticket, asker);
        self.next_core_ticket
    }

    fn place(&mut self, ticket: u64, index: u64, term: u64) {
        if let Some(pending) = self.pending.get_mut(&ticket) {
            pending.place = Place::Log(index, term);
            self.placed.insert(index, (term, ticket));
        }
    }

    /// The request of this node that the entry at `index` answers, and one that
    /// it shows to be lost.
    pub fn settle(&mut self, index: u64, ours: Option<u64>) -> (Option<u64>, Option<u64>) {
        let placed = self.placed.remove(&index).map(|(_, ticket)| ticket);
        let answered = ours.filter(|t| self.remove(*t).is_some());
        let lost = placed.filter(|t| Some(*t) != ours && self.remove(*t).is_some());
        (answered, lost)
    }

    /// An entry of ballot `term` was applied: whatever was given to an earlier
    /// leader and is still open stands nowhere below it, and will never be agreed
    /// on (a forward is bound to its ballot). It goes back to the start.
    pub fn lost_before(&mut self, term: u64) {
        for (ticket, p) in &mut self.pending {
            let old = match p.place {
                Place::Here => false,
                Place::Sent(_, t, _) | Place::Log(_, t) => {
                    t < term || planted("cell: an open request is proposed again too early")
                }
            };
            if old {
                p.place = Place::Here;
                self.fresh.push(*ticket);
            }
        }
        self.placed.retain(|_, (t, _)| *t >= term);
    }

    /// Requests whose outcome a snapshot up to `index` may have swallowed: those
    /// placed there, and those of which it is not known where they were placed.
    pub fn swallowed(&mut self, index: u64) -> Vec<u64> {
        let gone = |p: &Pending| match p.place {
            Place::Here => false,
            Place::Sent(..) => true,
            Place::Log(i, _) => i <= index,
        };
        let tickets: Vec<u64> =
            self.pending.iter().filter(|(_, p)| gone(p)).map(|(t, _)| *t).collect();
        tickets.into_iter().filter(|t| self.remove(*t).is_some()).collect()
    }
}

impl<S: Store> Cell<S> {
    pub(crate) fn take_request(&mut self, ticket: u64, work: Work, out: &mut Vec<CellOutput>) {
        let full = self.requests.pending.len() >= self.limits.waiting_max
            || self.requests.bytes + work.size() > self.limits.waiting_bytes_max;
        if full {
            let result = Err(Failure::Refused(Refusal::Overloaded));
            out.push(CellOutput::Done { ticket, result });
            return;
        }
        let deadline = self.now.plus(self.limits.request_ms);
        self.requests.bytes += work.size();
        self.requests.deadlines.insert((deadline, ticket));
        self.requests.pending.insert(ticket, Pending { deadline, work, place: Place::Here });
        self.requests.fresh.push(ticket);
    }

    pub(crate) fn take_forwarded(
        &mut self,
        from: NodeId,
        term: u64,
        id: ForwardId,
        items: Vec<(u64, Work)>,
    ) {
        self.refresh();
        let leads = term == self.status.term && self.leads();
        // Whoever sent it knows that this node leads that ballot, or led it: then
        // the message may be a second copy, and the first one stands in the log.
        // "No" may be said only by the life that would remember that. Else the
        // sender finds out by the next ballot.
        let remembers = leads || term == self.requests.taken_in;
        let first = remembers && self.requests.takes(from, id, term);
        if !first && !planted("cell: a forwarded request is taken twice") {
            return;
        }
        for (ticket, work) in items {
            if leads {
                self.requests.foreign.push((from, id, ticket, work));
            } else {
                self.verdict(from, id, ticket, Err(Refusal::NotLeader));
            }
        }
    }

    /// End of a turn: everything gathered goes into the log or to the leader.
    pub(crate) fn flush_requests(&mut self, out: &mut Vec<CellOutput>) {
        // In order of arrival, and none twice: it would be proposed twice.
        self.requests.fresh.sort_unstable();
        self.requests.fresh.dedup();
        if self.leads() {
            self.propose_all(out);
        } else {
            self.forward_fresh(out);
            self.requests.own.clear();
            for (from, id, ticket, _) in std::mem::take(&mut self.requests.foreign) {
                self.verdict(from, id, ticket, Err(Refusal::NotLeader));
            }
        }
        for (to, items) in std::mem::take(&mut self.requests.verdicts) {
            out.push(CellOutput::Send { to, message: PeerMessage::Forwarded(items) });
        }
    }

    fn propose_all(&mut self, out: &mut Vec<CellOutput>) {
        let mut batch = Vec::new();
        for command in std::mem::take(&mut self.requests.own) {
            let ticket = self.requests.core_ticket(Asker::Nobody);
            batch.push(Proposal { ticket, data: seal(NodeId::NONE, 0, &command) });
        }
        let fresh = std::mem::take(&mut self.requests.fresh);
        let own = fresh.into_iter().filter_map(|ticket| {
            let work = self.requests.pending.get(&ticket)?.work.clone();
            Some((self.id, ForwardId::default(), ticket, work))
        });
        let mut all: Vec<_> = own.collect();
        all.append(&mut self.requests.foreign);
        if !self.leads_caught_up() && !planted("lease: a new leader's clock is ahead of the stamps")
        {
            // A clock cannot be set before all earlier ones were heard.
            let has_clock = |w: &Work| matches!(w, Work::Command(c) if Command::has_clock(c));
            let (later, now): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|(_, _, _, work)| has_clock(work));
            all = now;
            for request in later {
                if request.0 == self.id {
                    self.requests.fresh.push(request.2);
                } else {
                    self.requests.foreign.push(request);
                }
            }
        }
        for (origin, forward, ticket, work) in all {
            let asker = match origin {
                NodeId::NONE => Asker::Nobody,
                id if id == self.id => Asker::Own(ticket),
                id => Asker::Peer(id, forward, ticket),
            };
            match work {
                Work::Command(command) => {
                    let Some(data) = self.stamp(origin, ticket, command) else {
                        self.answer(asker, Err(Refusal::BadChange), out);
                        continue;
                    };
                    let ticket = self.requests.core_ticket(asker);
                    batch.push(Proposal { ticket, data });
                }
                Work::Change(change, commands) => {
                    let context = ConfigContext { origin, ticket, commands }.encode();
                    let ticket = self.requests.core_ticket(asker);
                    self.drive(
                        Input::Reconfigure { ticket, change: Box::new(change), context },
                        out,
                    );
                }
            }
        }
        if !batch.is_empty() {
            self.drive(Input::Propose(batch), out);
        }
    }

    /// Seals a command, setting the lease clock where it has one. `None` if it
    /// cannot be read.
    fn stamp(&self, origin: NodeId, ticket: u64, command: Bytes) -> Option<Bytes> {
        if !Command::has_clock(&command) {
            return Some(seal(origin, ticket, &command));
        }
        let mut command = Command::decode(command).ok()?;
        command.stamp_clock(self.duties.clock(self.now));
        Some(seal(origin, ticket, &command.encode()))
    }

    fn forward_fresh(&mut self, out: &mut Vec<CellOutput>) {
        let Some(leader) = self.status.leader.filter(|l| *l != self.id) else { return };
        let term = self.status.term;
        self.requests.forwarded.number += 1;
        let id = self.requests.forwarded;
        let mut items = Vec::new();
        for ticket in std::mem::take(&mut self.requests.fresh) {
            if let Some(pending) = self.requests.pending.get_mut(&ticket) {
                pending.place = Place::Sent(leader, term, id);
                items.push((ticket, pending.work.clone()));
            }
        }
        if !items.is_empty() {
            let message = PeerMessage::Forward { term, id, items };
            out.push(CellOutput::Send { to: leader, message });
        }
    }

    fn verdict(
        &mut self,
        to: NodeId,
        id: ForwardId,
        ticket: u64,
        result: Result<(u64, u64), Refusal>,
    ) {
        self.requests.verdicts.entry(to).or_default().push((id, ticket, result));
    }

    /// The leader placed what this node forwarded, or did not.
    pub(crate) fn forwarded(
        &mut self,
        from: NodeId,
        items: Vec<Verdict>,
        out: &mut Vec<CellOutput>,
    ) {
        for (id, ticket, result) in items {
            // A word about an earlier message says nothing about the latest.
            let sent = self.requests.pending.get(&ticket).is_some_and(
                |p| matches!(p.place, Place::Sent(leader, _, by) if leader == from && by == id),
            );
            if sent {
                self.answer(Asker::Own(ticket), result, out);
            }
        }
    }

    pub(crate) fn accepted(
        &mut self,
        core_ticket: u64,
        index: u64,
        term: u64,
        out: &mut Vec<CellOutput>,
    ) {
        if let Some(ticket) = self.requests.transfers.remove(&core_ticket) {
            out.push(CellOutput::Done { ticket, result: Ok(Reply::Done) });
            return;
        }
        if let Some(asker) = self.requests.askers.remove(&core_ticket) {
            self.answer(asker, Ok((index, term)), out);
        }
    }

    pub(crate) fn refused(
        &mut self,
        core_ticket: u64,
        why: Refusal,
        _leader: Option<NodeId>,
        out: &mut Vec<CellOutput>,
    ) {
        if let Some(ticket) = self.requests.transfers.remove(&core_ticket) {
            let result = Err(Failure::Refused(why));
            out.push(CellOutput::Done { ticket, result });
        } else if let Some(asker) = self.requests.askers.remove(&core_ticket) {
            self.answer(asker, Err(why), out);
        } else {
            self.read_refused(core_ticket, why, out);
        }
    }

    /// A request was placed or refused. A refusal that another leader may mend
    /// sends it back to the start; nothing was proposed, so that is safe.
    fn answer(
        &mut self,
        asker: Asker,
        result: Result<(u64, u64), Refusal>,
        out: &mut Vec<CellOutput>,
    ) {
        match (asker, result) {
            (Asker::Nobody, _) => {}
            (Asker::Peer(from, id, ticket), result) => self.verdict(from, id, ticket, result),
            (Asker::Own(ticket), Ok((index, term))) => {
                self.requests.place(ticket, index, term);
                if index <= self.state.applied() {
                    self.already_applied(ticket, out);
                }
            }
            (Asker::Own(ticket), Err(why)) if may_wait(why) => {
                // Not again in this turn: whoever refused it (a leader that hands
                // over, say) would do so as often as it is asked.
                if let Some(p) = self.requests.pending.get_mut(&ticket) {
                    p.place = Place::Here;
                }
            }
            (Asker::Own(ticket), Err(why)) => {
                if self.requests.remove(ticket).is_some() {
                    let result = Err(Failure::Refused(why));
                    out.push(CellOutput::Done { ticket, result });
                }
            }
        }
    }

    /// The entry at the place that the leader named was applied here before its
    /// word came; had it been this request, it would have been answered then.
    fn already_applied(&mut self, ticket: u64, out: &mut Vec<CellOutput>) {
        if self.requests.remove(ticket).is_some() {
            let result = Err(Failure::Unknown);
            out.push(CellOutput::Done { ticket, result });
        }
    }

    pub(crate) fn expire_requests(&mut self, out: &mut Vec<CellOutput>) {
        // What waits for a leader is tried again at each tick.
        if self.status.leader.is_some() {
            let here = self.requests.pending.iter().filter(|(_, p)| matches!(p.place, Place::Here));
            let here: Vec<u64> = here.map(|(t, _)| *t).collect();
            self.requests.fresh = here;
        }
        while let Some(&(deadline, ticket)) = self.requests.deadlines.first() {
            if deadline > self.now {
                break;
            }
            let Some(pending) = self.requests.remove(ticket) else { break };
            let placed = !matches!(pending.place, Place::Here);
            let failure = if placed { Failure::Unknown } else { Failure::TimedOut };
            out.push(CellOutput::Event(CellEvent::RequestTimedOut { placed }));
            out.push(CellOutput::Done { ticket, result: Err(failure) });
        }
        self.requests.fresh.retain(|t| self.requests.pending.contains_key(t));
    }
}

/// Whether a refused request had better wait for another leader than fail.
fn may_wait(why: Refusal) -> bool {
    matches!(
        why,
        Refusal::NotLeader | Refusal::NoLeader | Refusal::LeaderChanged | Refusal::Transferring
    )
}
