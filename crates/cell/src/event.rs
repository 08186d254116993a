use std::fmt;
use synod_base::NodeId;
use synod_consensus::Event;
use synod_mvcc::{AlarmKind, Backlog};

/// A decision of a cell, with its reason.
#[derive(Clone, PartialEq, Debug)]
pub enum CellEvent {
    /// The protocol's.
    Consensus(Event),
    /// A snapshot is being streamed to a peer that needs entries this node no
    /// longer holds.
    SnapshotStarted {
        /// The peer.
        to: NodeId,
        /// What it stands for.
        index: u64,
    },
    /// A stream of a snapshot ended.
    SnapshotEnded {
        /// The peer.
        to: NodeId,
        /// The index installed there; `None`: it failed.
        installed: Option<u64>,
    },
    /// This node replaced its state by a peer's.
    SnapshotInstalled {
        /// The peer.
        from: NodeId,
        /// What it stands for.
        index: u64,
        /// The revision it holds.
        revision: i64,
    },
    /// A received snapshot was given up.
    SnapshotRefused {
        /// The peer.
        from: NodeId,
        /// Why.
        why: String,
    },
    /// Leases whose time is up are being ended.
    LeasesExpired {
        /// How many.
        count: usize,
    },
    /// An alarm is being raised or cleared.
    AlarmProposed {
        /// Raised (or cleared).
        raise: bool,
        /// Whose.
        member: NodeId,
        /// Which.
        kind: AlarmKind,
        /// Why.
        why: String,
    },
    /// A request was given up unanswered at its deadline.
    RequestTimedOut {
        /// Whether a leader had placed it in the log.
        placed: bool,
    },
    /// Commits are held back for the store's upkeep, or not any more.
    Slowed {
        /// What it has before it.
        backlog: Backlog,
        /// For how long that went on, ms; `None`: it begins.
        ended_ms: Option<u64>,
    },
    /// A peer's heartbeats have stopped, as far as their rhythm tells: it has failed, or is
    /// cut off. Nothing is decided by that.
    PeerSuspected {
        /// The peer.
        peer: NodeId,
        /// How long nothing was heard of it.
        silence_ms: u64,
        /// The usual time between its heartbeats.
        usual_ms: u64,
        /// How sure it is: minus the logarithm of the probability that it is only late.
        phi: f64,
    },
    /// A peer that was suspected was heard again.
    PeerHeard {
        /// The peer.
        peer: NodeId,
        /// After how long.
        silence_ms: u64,
    },
    /// A joining member is in sync and becomes a voter.
    AutoPromoted {
        /// Who.
        member: NodeId,
        /// The lost member whose place it takes.
        replaces: Option<NodeId>,
    },
}

impl fmt::Display for CellEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CellEvent::Consensus(e) => write!(f, "{e}"),
            CellEvent::SnapshotStarted { to, index } => {
                write!(
                    f,
                    "sending a snapshot at index {index} to {to}: it needs entries that are no longer held"
                )
            }
            CellEvent::SnapshotEnded { to, installed: Some(i) } => {
                write!(f, "{to} installed the snapshot at index {i}")
            }
            CellEvent::SnapshotEnded { to, installed: None } => {
                write!(f, "the snapshot for {to} was not installed")
            }
            CellEvent::SnapshotInstalled { from, index, revision } => {
                write!(f, "installed a snapshot from {from}: index {index}, revision {revision}")
            }
            CellEvent::SnapshotRefused { from, why } => {
                write!(f, "gave up a snapshot from {from}: {why}")
            }
            CellEvent::LeasesExpired { count } => write!(f, "{count} leases ran out"),
            CellEvent::AlarmProposed { raise, member, kind, why } => {
                let verb = if *raise { "raising" } else { "clearing" };
                write!(f, "{verb} alarm {kind:?} of {member}: {why}")
            }
            CellEvent::RequestTimedOut { placed } => {
                let where_ = if *placed { "placed in the log" } else { "never placed in the log" };
                write!(f, "a request ran out of time; it was {where_}")
            }
            CellEvent::Slowed { backlog, ended_ms: None } => write!(
                f,
                "holds commits back: {} runs of the store wait to be merged, {} buffers to be written",
                backlog.runs, backlog.buffers
            ),
            CellEvent::Slowed { ended_ms: Some(ms), .. } => {
                write!(f, "commits go as fast as they can again, after {ms} ms")
            }
            CellEvent::PeerSuspected { peer, silence_ms, usual_ms, phi } => write!(
                f,
                "suspects {peer}: silent for {silence_ms} ms, usually {usual_ms} ms (phi {phi:.1})"
            ),
            CellEvent::PeerHeard { peer, silence_ms } => {
                write!(f, "heard {peer} again after {silence_ms} ms")
            }
            CellEvent::AutoPromoted { member, replaces } => match replaces {
                Some(old) => write!(f, "{member} is in sync and takes the place of {old}"),
                None => write!(f, "{member} is in sync and becomes a voter"),
            },
        }
    }
}
