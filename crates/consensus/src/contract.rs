//! What a host gives a protocol and what it gets back.

use crate::config::{Change, Membership};
use crate::entries::Entries;
use crate::event::Event;
use crate::protocol::{Message, Record};
use bytes::Bytes;
use std::sync::Arc;
use synod_base::{NodeId, Tick};

/// The number of a journal write of one cell. Minted by the protocol, one per
/// [`Output::Write`], growing by one from 1 in each life of the process, so
/// that a truncation and a rewrite of the same index cannot be mistaken for
/// each other. 0 stands for "nothing to wait for".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteSeq(pub u64);

/// What a log entry carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A command for the state machine.
    Command,
    /// Nothing: a new leader's first entry, or a filled hole.
    Noop,
    /// A membership (encoded [`Membership`] then the proposer's context).
    Config,
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place, from 1, without gaps.
    pub index: u64,
    /// The ballot in which it was *first* proposed (Raft: term; Zab: epoch). The
    /// same on every node, and it never decreases with the index: so once an
    /// entry of a later ballot is applied, nothing of an earlier one follows.
    pub term: u64,
    /// What it carries.
    pub kind: EntryKind,
    /// The command's bytes; for [`EntryKind::Config`] see [`Membership::decode_entry`].
    pub data: Bytes,
}

/// A command that a client wants agreed on.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The driver's own number; it comes back in a refusal or in
    /// [`Output::Accepted`].
    pub ticket: u64,
    /// The command.
    pub data: Bytes,
}

/// The prefix of the log that a snapshot stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotMeta {
    /// Last index it covers.
    pub index: u64,
    /// Ballot of that entry.
    pub term: u64,
    /// Membership in force after that index.
    pub membership: Membership,
    /// Multi-Paxos, whose memberships take effect a window of slots late: while
    /// `membership` has outgoing voters, they alone choose up to this index, and
    /// the new ones after it. 0 elsewhere.
    pub joint_until: u64,
}

/// What the journal and the state of an earlier life still hold.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The snapshot boundary: the state holds everything up to here.
    pub snapshot: SnapshotMeta,
    /// Every record of this cell that [`Output::Write`] produced and that was
    /// not dropped below the boundary, in the order written.
    pub records: Vec<Bytes>,
    /// Applied index stored with the state (`>= snapshot.index`).
    pub applied: u64,
}

/// What happens to a protocol.
#[derive(Debug)]
pub enum Input {
    /// Time passed. Expected at least every quarter of a heartbeat interval.
    Tick,
    /// A message from a peer arrived.
    Receive {
        /// Who sent it (authenticated by the transport).
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Clients want these agreed on, in this order. On a node that does not
    /// lead, every one is refused with a hint at the leader.
    Propose(Vec<Proposal>),
    /// A linearizable read wants to know what it must wait for. Also on a
    /// follower, which asks the leader.
    Read {
        /// The driver's own number.
        ticket: u64,
    },
    /// Hand leadership to `to`, or to the most up to date voter.
    Transfer {
        /// The driver's own number, answered by `Accepted` (on completion) or `Refused`.
        ticket: u64,
        /// The wanted leader.
        to: Option<NodeId>,
    },
    /// Change the membership.
    Reconfigure {
        /// The driver's own number.
        ticket: u64,
        /// The change.
        change: Box<Change>,
        /// Bytes that travel in the configuration entry (addresses, names).
        context: Bytes,
    },
    /// Every write up to and including this one is durable (contiguous).
    Persisted(WriteSeq),
    /// The state machine has applied up to `index` and the state's own copy is
    /// durable up to `durable`: entries at or below `durable` may leave memory
    /// and journal when no peer needs them within the limits.
    Applied {
        /// Applied index.
        index: u64,
        /// Applied index that a crash of the machine cannot take back.
        durable: u64,
    },
    /// The state of `meta` was received, installed and is durable.
    SnapshotInstalled(SnapshotMeta),
    /// The stream of a snapshot to `to` ended. `installed` is the index that
    /// the peer now holds, or `None` when it failed.
    SnapshotSent {
        /// The peer.
        to: NodeId,
        /// What it installed.
        installed: Option<u64>,
    },
    /// The transport lost its connection to a peer (a hint, never proof).
    Disconnected(NodeId),
}

/// What a protocol wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Append this record to the journal.
    Write {
        /// Its number.
        seq: WriteSeq,
        /// What it holds; whoever writes it encodes it, into its own buffer.
        record: Record,
    },
    /// Send to a peer once every write up to `after` is durable. Sends to one
    /// peer may be lost; they should keep their order.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// The write it relies on; `WriteSeq(0)`: none.
        after: WriteSeq,
    },
    /// Proposals, a transfer or a reconfiguration of this node were taken. For
    /// proposals and a reconfiguration: they will be at `index` and those that
    /// follow, with `term`, if they commit at all; if another entry is applied
    /// at an index, that one was lost.
    Accepted {
        /// The driver's numbers, in the order of the indexes.
        tickets: Vec<u64>,
        /// Where the first is.
        index: u64,
        /// In which ballot.
        term: u64,
    },
    /// These entries are agreed on and durable here: apply them in order.
    Commit(Entries),
    /// Reads may be answered once the state has applied `index`.
    ReadReady {
        /// Whose barrier it was.
        tickets: Vec<u64>,
        /// What must be applied first.
        index: u64,
    },
    /// A request was not taken, and nothing was changed by it.
    Refused {
        /// The driver's number.
        ticket: u64,
        /// Why.
        why: Refusal,
        /// Who may know better.
        leader: Option<NodeId>,
    },
    /// A peer needs the state: stream a snapshot taken at or above the
    /// retained log's start, then report [`Input::SnapshotSent`].
    NeedSnapshot {
        /// The peer.
        to: NodeId,
    },
    /// Records of the journal that only concern indexes at or below this one
    /// are not needed any more.
    Forget {
        /// Last index that may be dropped.
        upto: u64,
    },
    /// A membership took effect (Raft: when appended; again when truncated).
    Members(Membership),
    /// A decision was made.
    Event(Event),
}

/// Where outputs gather; the driver drains it after each step.
pub type Outputs = Vec<Output>;

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This node does not lead; see the hint.
    NotLeader,
    /// Nobody leads as far as this node knows.
    NoLeader,
    /// Leadership was lost before the request could be settled.
    LeaderChanged,
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes or entries are not yet committed ([`Limits`]).
    Overloaded,
    /// Another membership change is under way.
    ChangeInProgress,
    /// No entry of the own ballot is committed yet.
    NotReady,
    /// The change or transfer names somebody who cannot take that part.
    UnknownMember,
    /// The learner is too far behind to be promoted.
    LearnerBehind,
    /// The member is no learner.
    NotLearner,
    /// The change would leave no voter, or is empty.
    BadChange,
    /// The transfer did not end in time.
    TransferTimedOut,
}

/// What a node is in its cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win, changing nothing (Raft: pre-vote).
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Receives the log and does not count.
    Learner,
}

/// Where a protocol stands; for status, metrics and tests.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// The current ballot.
    pub term: u64,
    /// Whom it holds for the leader.
    pub leader: Option<NodeId>,
    /// Last index of the log.
    pub last: u64,
    /// Last index known to be agreed on.
    pub commit: u64,
    /// Last index applied by the driver.
    pub applied: u64,
    /// Last index durable in the own journal.
    pub persisted: u64,
    /// First index still held in memory.
    pub first: u64,
    /// Membership in force.
    pub membership: Arc<Membership>,
    /// On a leader: what each peer is known to hold durably.
    pub matched: Vec<(NodeId, u64)>,
    /// Whether a linearizable read needs no other node (a single voter that
    /// leads and has committed in its own ballot).
    pub reads_alone: bool,
}

/// Timings and bounds. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A leader sends a heartbeat this often. Sane: 10 to 1,000.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for this long (plus up to as much again,
    /// drawn at random) campaigns. At least 3 × `heartbeat_ms`.
    pub election_ms: u64,
    /// A leader whose oldest unfinished journal write is older than this hands
    /// over, or steps down if nobody can take over. At least `election_ms`.
    pub disk_stall_ms: u64,
    /// Whether a leader may answer reads within a lease instead of a quorum
    /// round. Assumes that no clock runs faster than another by more than
    /// `lease_drift_percent`.
    pub lease_reads: bool,
    /// Bound on the difference of the rates of two members' clocks.
    pub lease_drift_percent: u64,
    /// Most bytes of entries in one append message (at least one entry goes).
    pub append_bytes_max: usize,
    /// Most unacknowledged append messages per peer.
    pub inflight_messages_max: usize,
    /// Most unacknowledged bytes per peer.
    pub inflight_bytes_max: usize,
    /// Most bytes proposed and not yet committed; beyond it: `Overloaded`.
    pub uncommitted_bytes_max: usize,
    /// Most reads waiting for a barrier; beyond it: `Overloaded`.
    pub reads_waiting_max: usize,
    /// Applied and durable entries kept in memory for slow peers, in bytes.
    pub retained_bytes_max: usize,
    /// The same in entries.
    pub retained_entries_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            heartbeat_ms: 20,
            election_ms: 150,
            disk_stall_ms: 1_000,
            lease_reads: false,
            lease_drift_percent: 10,
            append_bytes_max: 256 << 10,
            inflight_messages_max: 256,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            reads_waiting_max: 100_000,
            retained_bytes_max: 16 << 20,
            retained_entries_max: 20_000,
        }
    }
}

/// A replicated log's protocol.
pub trait Consensus: Send + std::fmt::Debug {
    /// Takes one input. Outputs are pushed in the order in which the driver
    /// must begin them.
    fn step(&mut self, now: Tick, input: Input, out: &mut Outputs);

    /// Where it stands.
    fn status(&self) -> Status;

    /// Membership in force at an applied index (for a snapshot taken there)
    /// and that entry's ballot; `None` if the log no longer knows.
    fn boundary(&self, index: u64) -> Option<SnapshotMeta>;
}
