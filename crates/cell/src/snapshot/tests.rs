//! Streams between cells that are held by hand: two that have something to send
//! (each by itself, with learners that it never hears), one that has nothing.

use crate::cell::{Cell, CellInput, CellLimits, CellOutput};
use crate::envelope::Work;
use crate::event::CellEvent;
use crate::message::PeerMessage;
use synod_base::{NodeId, Tick};
use synod_consensus::{Membership, Protocol, Recovered, Role, SnapshotMeta};
use synod_mvcc::{Command, MemStore, PutRequest, State, StateLimits};

const RECEIVER: NodeId = NodeId(9);
const VALUE_BYTES: usize = 100 << 10;

/// A cell and what it wants done.
struct Member {
    cell: Cell<MemStore>,
    now: u64,
    out: Vec<PeerMessage>,
    events: Vec<CellEvent>,
    jobs: usize,
}

impl Member {
    fn new(id: NodeId, membership: Membership) -> Member {
        let state = State::open(MemStore::new(), StateLimits::default()).unwrap();
        let snapshot = SnapshotMeta { membership, ..SnapshotMeta::default() };
        let recovered = Recovered { snapshot, ..Recovered::default() };
        let cell = Cell::new(
            Protocol::Raft,
            id,
            CellLimits::default(),
            state,
            recovered,
            id.0 << 20,
            Tick(0),
        );
        let (out, events) = (Vec::new(), Vec::new());
        Member { cell: cell.unwrap(), now: 0, out, events, jobs: 0 }
    }

    /// One that has applied that many puts.
    fn source(id: u64, puts: u64) -> Member {
        let mut membership = Membership::of_voters([NodeId(id)]);
        membership.learners.insert(RECEIVER);
        let mut member = Member::new(NodeId(id), membership);
        while member.cell.status().consensus.role != Role::Leader {
            member.wait(50);
        }
        for ticket in 0..puts {
            let key = format!("k{ticket}").into();
            let value = vec![b'v'; VALUE_BYTES].into();
            let put = Command::Put(PutRequest { key, value, ..PutRequest::default() });
            member.step(CellInput::Propose { ticket, work: Work::Command(put.encode()) });
        }
        member.out.clear();
        member
    }

    fn step(&mut self, input: CellInput) {
        let mut out = Vec::new();
        self.cell.step(Tick(self.now), input, &mut out);
        self.cell.turn(&mut out);
        self.take(out);
    }

    /// Does what is asked for, but for messages, and snapshots that are to be read.
    fn take(&mut self, out: Vec<CellOutput>) {
        for output in out {
            match output {
                CellOutput::Write { seq, .. } => self.step(CellInput::Persisted(seq)),
                CellOutput::ReadSnapshot(job) => {
                    self.jobs += 1;
                    self.step(CellInput::SnapshotRead(job.run()));
                }
                CellOutput::Send {
                    message: message @ PeerMessage::SnapshotChunk { .. }, ..
                }
                | CellOutput::Send { message: message @ PeerMessage::SnapshotAck { .. }, .. } => {
                    self.out.push(message);
                }
                CellOutput::Event(e) => self.events.push(e),
                CellOutput::Fatal(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += 10;
            self.step(CellInput::Tick);
        }
    }

    fn begin(&mut self) {
        let mut out = Vec::new();
        self.cell.start_transfer(RECEIVER, &mut out);
        self.take(out);
    }

    /// What it sends next reaches the other; false if there is nothing.
    fn one_to(&mut self, other: &mut Member) -> bool {
        if self.out.is_empty() {
            return false;
        }
        let message = self.out.remove(0);
        other.step(CellInput::Peer { from: self.cell.id, message });
        true
    }

    fn receives_from(&self) -> Option<NodeId> {
        self.cell.transfers.receiving.as_ref().map(|r| r.from)
    }

    fn is_sending(&self) -> bool {
        !self.cell.transfers.sending.is_empty()
    }

    fn refused(&self) -> Vec<NodeId> {
        let from = |e: &CellEvent| match e {
            CellEvent::SnapshotRefused { from, .. } => Some(*from),
            _ => None,
        };
        self.events.iter().filter_map(from).collect()
    }

    fn installed(&self) -> Option<(NodeId, u64)> {
        self.events.iter().find_map(|e| match e {
            CellEvent::SnapshotInstalled { from, index, .. } => Some((*from, *index)),
            _ => None,
        })
    }
}

fn receiver() -> Member {
    Member::new(RECEIVER, Membership::default())
}

/// Moves what the two have for each other; answers first, as they come.
fn flow(a: &mut Member, b: &mut Member, messages: usize) {
    for _ in 0..messages {
        if !b.one_to(a) && !a.one_to(b) {
            return;
        }
    }
}

#[test]
fn a_living_stream_is_kept_and_others_are_refused() {
    let (mut one, mut two, mut to) = (Member::source(1, 30), Member::source(2, 40), receiver());
    one.begin();
    flow(&mut one, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(1)));
    for _ in 0..5 {
        two.begin();
        flow(&mut two, &mut to, 100);
        assert!(!two.is_sending(), "it was told");
        assert_eq!(to.receives_from(), Some(NodeId(1)));
        assert_eq!(two.jobs, 0, "nothing is read for a stream that nobody wants");
        flow(&mut one, &mut to, 2);
    }
    assert_eq!(to.refused(), [NodeId(2); 5]);
    flow(&mut one, &mut to, 1_000);
    assert_eq!(to.installed(), Some((NodeId(1), one.cell.status().applied)));
    assert!(!one.is_sending() && to.receives_from().is_none());
}

#[test]
fn a_stream_of_which_nothing_comes_makes_room() {
    let (mut one, mut two, mut to) = (Member::source(1, 30), Member::source(2, 40), receiver());
    one.begin();
    flow(&mut one, &mut to, 9);
    to.wait(to.cell.living_ms() - 10);
    two.begin();
    flow(&mut two, &mut to, 100);
    assert_eq!(to.receives_from(), Some(NodeId(1)), "not yet");
    to.wait(10);
    two.begin();
    flow(&mut two, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(2)));
    // What still comes of the first one changes nothing and ends it.
    flow(&mut one, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(2)));
    assert!(!one.is_sending());
    flow(&mut two, &mut to, 1_000);
    assert_eq!(to.installed(), Some((NodeId(2), two.cell.status().applied)));
}

#[test]
fn a_stream_whose_sender_disconnected_goes_on_or_makes_room() {
    let (mut one, mut two, mut to) = (Member::source(1, 30), Member::source(2, 40), receiver());
    one.begin();
    flow(&mut one, &mut to, 9);
    to.step(CellInput::Disconnected(NodeId(2)));
    to.step(CellInput::Disconnected(NodeId(1)));
    // It is back before anybody else came.
    one.out.clear();
    one.step(CellInput::Disconnected(RECEIVER));
    one.wait(10);
    flow(&mut one, &mut to, 3);
    two.begin();
    flow(&mut two, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(1)));
    to.step(CellInput::Disconnected(NodeId(1)));
    two.begin();
    flow(&mut two, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(2)));
    flow(&mut two, &mut to, 1_000);
    assert_eq!(to.installed(), Some((NodeId(2), two.cell.status().applied)));
}

#[test]
fn a_new_stream_of_the_same_sender_replaces_its_old_one() {
    let (mut one, mut to) = (Member::source(1, 30), receiver());
    one.begin();
    flow(&mut one, &mut to, 9);
    let old = to.cell.transfers.receiving.as_ref().map(|r| r.stream);
    one.cell.transfers.sending.clear();
    one.out.clear();
    one.begin();
    flow(&mut one, &mut to, 1_000);
    assert!(old.is_some() && to.refused().is_empty());
    assert_eq!(to.installed(), Some((NodeId(1), one.cell.status().applied)));
}

/// The store may look for the next pair for long: the stream lives all the same, but not
/// for ever.
#[test]
fn a_sender_that_reads_for_long_says_that_it_lives() {
    let (mut one, mut two, mut to) = (Member::source(1, 30), Member::source(2, 40), receiver());
    one.begin();
    flow(&mut one, &mut to, 3);
    // The next job takes its time, and all that was sent is acknowledged.
    one.cell.transfers.sending.get_mut(&RECEIVER).unwrap().reading = true;
    flow(&mut one, &mut to, 1_000);
    assert!(one.cell.transfers.sending[&RECEIVER].unacked.is_empty());
    let (half, idle) = (to.cell.living_ms() / 2, CellLimits::default().snapshot_idle_ms);
    let go_on = |one: &mut Member, to: &mut Member, ms: u64| {
        for _ in 0..ms / half {
            one.wait(half);
            to.wait(half);
            flow(one, to, 100);
            assert!(one.is_sending());
        }
    };
    go_on(&mut one, &mut to, idle - half);
    two.begin();
    flow(&mut two, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(1)));
    go_on(&mut one, &mut to, 4 * half);
    two.begin();
    flow(&mut two, &mut to, 9);
    assert_eq!(to.receives_from(), Some(NodeId(2)));
}
