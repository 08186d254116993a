//! Decisions and their reasons.
//!
//! One stream of these feeds the log, the metrics, the recorder, the console
//! and the diagnosis. **Invariants**: an event is a decision, never a message
//! (steady traffic emits none); its reason is taken where it was decided; its
//! `Display` is one line.

use std::fmt;
use synod_base::NodeId;

/// Why a node stands for election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CampaignReason {
    /// Nothing was heard from a leader for the drawn time.
    LeaderSilent,
    /// The connection to the leader dropped.
    LeaderDisconnected,
    /// It is the only voter.
    Alone,
    /// The leader asked it to take over.
    Transfer,
    /// A quorum answered the pre-vote with yes.
    PreVoteWon,
    /// Another one looks for a leader, and this node hears none either.
    PeerLooks,
}

/// Why a vote was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteRefusal {
    /// The voter has recently heard from a leader.
    LeaderAlive,
    /// The candidate's log misses entries that the voter holds.
    LogBehind,
    /// The voter's vote of that term is given to another.
    AlreadyVoted,
    /// The asked term is over.
    OldTerm,
}

/// Why a leader or candidate is one no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StandDownReason {
    /// Too few voters were heard from.
    QuorumLost {
        /// Voters that were silent.
        silent: Vec<NodeId>,
    },
    /// A message of a later term arrived.
    LaterTerm {
        /// Who sent it.
        from: NodeId,
    },
    /// Members that came to light after the election would not promise (Multi-Paxos).
    NoPromise {
        /// They.
        refused: Vec<NodeId>,
    },
    /// What was proposed in earlier ballots could not be proposed again in time
    /// (Multi-Paxos).
    RecoveryStuck {
        /// The first slot that is not known to be chosen.
        slot: u64,
        /// Voters whose promise, or acceptance of that slot, has not come.
        missing: Vec<NodeId>,
    },
    /// A snapshot replaced the history that it was going to lead with (Zab).
    HistoryReplaced {
        /// The snapshot's last index.
        index: u64,
    },
    /// The own journal does not finish its writes and nobody took over in time.
    DiskStalled,
    /// The membership that removes this leader is committed.
    Removed,
}

/// Why leadership is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferReason {
    /// Somebody asked for it.
    Asked,
    /// The leader's own journal does not finish its writes.
    DiskStalled,
}

/// Why a peer cannot be brought up to date from the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotReason {
    /// It needs an entry that the retained log no longer has.
    BelowLog {
        /// The entry it needs.
        next: u64,
        /// The first one retained.
        first: u64,
    },
}

/// How a leader brings a peer's history in line with its own (Zab).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncMethod {
    /// What it lacks is sent.
    Diff,
    /// What it has besides is cut first.
    Trunc,
}

/// A decision of a protocol, with its reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This node asks for votes.
    Campaigned {
        /// The term it wants to lead.
        term: u64,
        /// Only asks whether it could win; nothing is changed by it.
        pre: bool,
        /// Why.
        why: CampaignReason,
    },
    /// A campaign cannot win any more.
    CampaignLost {
        /// The term it wanted.
        term: u64,
        /// Whether it was the pre-vote.
        pre: bool,
        /// Who refused, and why.
        refused: Vec<(NodeId, VoteRefusal)>,
    },
    /// This node gave its vote (never for a pre-vote).
    VoteGranted {
        /// The candidate.
        to: NodeId,
        /// The term.
        term: u64,
    },
    /// This node refused a vote or pre-vote.
    VoteRefused {
        /// The candidate.
        to: NodeId,
        /// The term it wanted.
        term: u64,
        /// Whether it was a pre-vote.
        pre: bool,
        /// Why.
        why: VoteRefusal,
    },
    /// This node leads.
    BecameLeader {
        /// The term.
        term: u64,
        /// The index of its first entry; reads and changes wait for it.
        index: u64,
    },
    /// This node follows a (new) leader.
    FollowsLeader {
        /// The leader.
        leader: NodeId,
        /// The term.
        term: u64,
    },
    /// This node leads or stands no more.
    StoodDown {
        /// The term it had.
        term: u64,
        /// Why.
        why: StandDownReason,
    },
    /// A follower holds the leader for lost.
    LeaderLost {
        /// The leader.
        leader: NodeId,
        /// How long it was silent.
        silent_ms: u64,
    },
    /// The process did not run for so long that silence proves nothing; the
    /// election or quorum check is put off.
    Starved {
        /// The gap between two ticks.
        gap_ms: u64,
        /// By how much it was put off.
        extended_ms: u64,
    },
    /// The journal does not finish a write.
    DiskStalled {
        /// Age of the oldest unfinished write.
        age_ms: u64,
        /// Whether this node leads (and so hands over).
        leading: bool,
    },
    /// The journal finishes its writes again.
    DiskRecovered,
    /// Leadership is being handed over.
    TransferStarted {
        /// To whom.
        to: NodeId,
        /// Why.
        why: TransferReason,
    },
    /// The wanted node leads.
    TransferDone {
        /// The new leader.
        to: NodeId,
    },
    /// The wanted node did not take over.
    TransferAborted {
        /// Who should have.
        to: NodeId,
        /// How far its log was behind.
        behind: u64,
    },
    /// A peer needs a snapshot.
    SnapshotNeeded {
        /// The peer.
        to: NodeId,
        /// Why.
        why: SnapshotReason,
    },
    /// An installed snapshot became the start of the log.
    SnapshotAdopted {
        /// Its last index.
        index: u64,
        /// Whether entries beyond it were kept (they matched).
        kept_log: bool,
    },
    /// An installed snapshot is older than what is held.
    SnapshotStale {
        /// Its last index.
        index: u64,
        /// What is already held.
        held: u64,
    },
    /// Entries that conflict with the leader's were cut off.
    LogTruncated {
        /// First index removed.
        from: u64,
        /// Last index removed.
        to: u64,
        /// The leader who has others there.
        leader: NodeId,
    },
    /// Among those who promised the epoch, one holds a newer history than the
    /// leader to be, which fetches it (Zab's discovery).
    HistoryBehind {
        /// Who holds it.
        newest: NodeId,
        /// Its last index.
        last: u64,
        /// The epoch of that.
        term: u64,
    },
    /// That history is here.
    HistoryTaken {
        /// Its last index.
        upto: u64,
    },
    /// A leader brings a peer in line (Zab's synchronisation).
    Synchronised {
        /// The peer.
        to: NodeId,
        /// How.
        how: SyncMethod,
        /// The last index that both have.
        after: u64,
    },
    /// This node holds all that an epoch begins with, and acknowledges that.
    EpochEntered {
        /// The epoch.
        epoch: u64,
        /// Its leader.
        leader: NodeId,
    },
    /// A membership took effect.
    MembersChanged {
        /// Index of its entry.
        index: u64,
        /// Voters.
        voters: Vec<NodeId>,
        /// Old voters while joint.
        outgoing: Vec<NodeId>,
        /// Learners.
        learners: Vec<NodeId>,
        /// Whether it came back because a later one was cut off.
        fell_back: bool,
    },
    /// Proposals are refused: too much is uncommitted. Once, until one is taken again.
    Overloaded {
        /// Uncommitted bytes.
        uncommitted_bytes: u64,
    },
    /// A number of reads were refused together.
    ReadsRefused {
        /// How many.
        count: usize,
        /// Why.
        why: crate::Refusal,
    },
    /// Values of earlier ballots were proposed again (Multi-Paxos).
    Recovered {
        /// The ballot.
        term: u64,
        /// First slot.
        from: u64,
        /// Last slot.
        to: u64,
        /// Slots of which nothing was found: they became no-ops.
        holes: u64,
        /// Values that were found and cannot have been chosen.
        dropped: usize,
    },
    /// Entries of a voter whose log is newer were taken over, to be fit to lead.
    Borrowed {
        /// The voter.
        from: NodeId,
        /// Last index taken over.
        upto: u64,
    },
    /// A message from a peer made no sense and was dropped.
    BadMessage {
        /// The peer.
        from: NodeId,
        /// What was wrong.
        what: &'static str,
    },
}

impl fmt::Display for CampaignReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CampaignReason::LeaderSilent => "no leader was heard in time",
            CampaignReason::LeaderDisconnected => "the connection to the leader dropped",
            CampaignReason::Alone => "it is the only voter",
            CampaignReason::Transfer => "the leader hands over",
            CampaignReason::PreVoteWon => "a quorum would vote for it",
            CampaignReason::PeerLooks => "a peer looks for a leader",
        })
    }
}

impl fmt::Display for VoteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VoteRefusal::LeaderAlive => "a leader is alive",
            VoteRefusal::LogBehind => "its log is behind",
            VoteRefusal::AlreadyVoted => "the vote is given to another",
            VoteRefusal::OldTerm => "that term is over",
        })
    }
}

impl fmt::Display for StandDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandDownReason::QuorumLost { silent } => {
                write!(f, "no quorum was heard; silent: {silent:?}")
            }
            StandDownReason::LaterTerm { from } => write!(f, "a later term came from {from:?}"),
            StandDownReason::NoPromise { refused } => {
                write!(f, "members that came to light would not promise: {refused:?}")
            }
            StandDownReason::RecoveryStuck { slot, missing } => {
                write!(
                    f,
                    "slot {slot} and on could not be proposed again in time; missing: {missing:?}"
                )
            }
            StandDownReason::HistoryReplaced { index } => {
                write!(f, "a snapshot at {index} replaced its history")
            }
            StandDownReason::DiskStalled => f.write_str("the own disk is stalled"),
            StandDownReason::Removed => f.write_str("it is a voter no more"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |pre: &bool| if *pre { "pre-vote" } else { "vote" };
        match self {
            Event::Campaigned { term, pre, why } => {
                write!(f, "asks for a {} of term {term}: {why}", kind(pre))
            }
            Event::CampaignLost { term, pre, refused } => {
                write!(f, "lost the {} of term {term}:", kind(pre))?;
                refused.iter().try_for_each(|(id, why)| write!(f, " {id:?} says {why};"))
            }
            Event::VoteGranted { to, term } => write!(f, "votes for {to:?} in term {term}"),
            Event::VoteRefused { to, term, pre, why } => {
                write!(f, "refuses {to:?} a {} of term {term}: {why}", kind(pre))
            }
            Event::BecameLeader { term, index } => {
                write!(f, "leads term {term} from index {index}")
            }
            Event::FollowsLeader { leader, term } => write!(f, "follows {leader:?} in term {term}"),
            Event::StoodDown { term, why } => write!(f, "stands down in term {term}: {why}"),
            Event::LeaderLost { leader, silent_ms } => {
                write!(f, "holds {leader:?} for lost after {silent_ms} ms of silence")
            }
            Event::Starved { gap_ms, extended_ms } => {
                write!(f, "did not run for {gap_ms} ms; waits {extended_ms} ms more")
            }
            Event::DiskStalled { age_ms, leading } => {
                let who = if *leading { "leader's " } else { "" };
                write!(f, "the {who}oldest journal write is {age_ms} ms old")
            }
            Event::DiskRecovered => f.write_str("the journal finishes its writes again"),
            Event::TransferStarted { to, why } => {
                let why = match why {
                    TransferReason::Asked => "asked for",
                    TransferReason::DiskStalled => "the own disk is stalled",
                };
                write!(f, "hands leadership to {to:?}: {why}")
            }
            Event::TransferDone { to } => write!(f, "{to:?} has taken over"),
            Event::TransferAborted { to, behind } => {
                write!(f, "{to:?} did not take over in time ({behind} entries behind)")
            }
            Event::SnapshotNeeded { to, why: SnapshotReason::BelowLog { next, first } } => {
                write!(f, "{to:?} needs a snapshot: wants {next}, the log starts at {first}")
            }
            Event::SnapshotAdopted { index, kept_log } => {
                let log = if *kept_log { "the log beyond it kept" } else { "the log replaced" };
                write!(f, "starts from the snapshot at {index}, {log}")
            }
            Event::SnapshotStale { index, held } => {
                write!(f, "ignores a snapshot at {index}: holds {held} already")
            }
            Event::LogTruncated { from, to, leader } => {
                write!(f, "cuts entries {from} to {to}: {leader:?} has others")
            }
            Event::HistoryBehind { newest, last, term } => {
                write!(f, "fetches the newer history of {newest:?}, up to {last}:{term}")
            }
            Event::HistoryTaken { upto } => write!(f, "has the newest history, up to {upto}"),
            Event::Synchronised { to, how, after } => {
                let how = match how {
                    SyncMethod::Diff => "by a diff after",
                    SyncMethod::Trunc => "by a truncation to",
                };
                write!(f, "brings {to:?} in line {how} {after}")
            }
            Event::EpochEntered { epoch, leader } => {
                write!(f, "enters epoch {epoch} with {leader:?}'s history")
            }
            Event::MembersChanged { .. } => self.fmt_members(f),
            Event::Recovered { term, from, to, holes, dropped } => {
                write!(f, "proposes {from} to {to} again in {term}: {holes} holes filled, ")?;
                write!(f, "{dropped} values dropped that cannot have been chosen")
            }
            Event::Borrowed { from, upto } => {
                write!(f, "takes over entries up to {upto} from {from:?}, whose log is newer")
            }
            Event::Overloaded { uncommitted_bytes } => {
                write!(f, "refuses proposals: {uncommitted_bytes} bytes are uncommitted")
            }
            Event::ReadsRefused { count, why } => write!(f, "refuses {count} reads: {why:?}"),
            Event::BadMessage { from, what } => write!(f, "drops a message of {from:?}: {what}"),
        }
    }
}

impl Event {
    fn fmt_members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event::MembersChanged { index, voters, outgoing, learners, fell_back } = self else {
            return Ok(());
        };
        let back = if *fell_back { "fell back to" } else { "took" };
        write!(f, "{back} the membership of {index}: voters {voters:?}")?;
        if !outgoing.is_empty() {
            write!(f, " outgoing {outgoing:?}")?;
        }
        if !learners.is_empty() {
            write!(f, " learners {learners:?}")?;
        }
        Ok(())
    }
}
