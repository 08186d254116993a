//! What a message is about, in words that hold for all protocols.

use synod_cell::PeerMessage;
use synod_consensus::{Message, paxos, raft, zab};

/// See the file's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Election,
    Entries,
    Answer,
    Commit,
    Request,
    Read,
    Snapshot,
    Heartbeat,
}

impl Kind {
    /// All of them, in the order of the legend.
    pub const ALL: [Kind; 8] = [
        Kind::Election,
        Kind::Entries,
        Kind::Answer,
        Kind::Commit,
        Kind::Request,
        Kind::Read,
        Kind::Snapshot,
        Kind::Heartbeat,
    ];

    pub fn of(message: &PeerMessage) -> Kind {
        match message {
            PeerMessage::Consensus(m) if m.is_heartbeat() => Kind::Heartbeat,
            PeerMessage::Consensus(Message::Raft(m)) => of_raft(&m.body),
            PeerMessage::Consensus(Message::Paxos(m)) => of_paxos(&m.body),
            PeerMessage::Consensus(Message::Zab(m)) => of_zab(&m.body),
            PeerMessage::Forward { .. } | PeerMessage::Forwarded(_) => Kind::Request,
            PeerMessage::SnapshotChunk { .. } | PeerMessage::SnapshotAck { .. } => Kind::Snapshot,
            PeerMessage::HashAsk { .. } | PeerMessage::HashTell { .. } => Kind::Read,
        }
    }

    /// In the legend.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Election => "election: votes, promises, epochs, who leads",
            Kind::Entries => "entries of the log",
            Kind::Answer => "answer to entries",
            Kind::Commit => "notice of what is committed",
            Kind::Request => "a client's request on its way to the leader, or its answer",
            Kind::Read => "barrier of a read, hashes",
            Kind::Snapshot => "piece of a snapshot, or its answer",
            Kind::Heartbeat => "heartbeat, or its answer",
        }
    }

    /// Colour, and dashes for those who see no colours.
    pub fn look(self) -> (&'static str, &'static str) {
        match self {
            Kind::Election => ("#7d3c98", "none"),
            Kind::Entries => ("#1f5fa8", "none"),
            Kind::Answer => ("#5fa8d3", "5 2"),
            Kind::Commit => ("#1e8449", "2 2"),
            Kind::Request => ("#d68910", "none"),
            Kind::Read => ("#b03a78", "1 3"),
            Kind::Snapshot => ("#7b4a12", "8 3"),
            Kind::Heartbeat => ("#dddddd", "none"),
        }
    }
}

fn of_raft(body: &raft::Body) -> Kind {
    use raft::Body as B;
    match body {
        B::Append { .. } | B::Lend { .. } => Kind::Entries,
        B::Appended { .. } | B::Conflict { .. } | B::Borrow { .. } => Kind::Answer,
        B::Committed { .. } => Kind::Commit,
        B::ReadAsk { .. } | B::ReadAnswer { .. } => Kind::Read,
        _ => Kind::Election,
    }
}

fn of_paxos(body: &paxos::Body) -> Kind {
    use paxos::Body as B;
    match body {
        B::Accept { .. } | B::Chosen { .. } => Kind::Entries,
        B::Accepted { .. } | B::Fetch { .. } => Kind::Answer,
        B::Committed { .. } => Kind::Commit,
        B::ReadAsk { .. } | B::ReadAnswer { .. } => Kind::Read,
        _ => Kind::Election,
    }
}

fn of_zab(body: &zab::Body) -> Kind {
    use zab::Body as B;
    match body {
        B::Propose { .. } | B::Sync { .. } | B::History { .. } => Kind::Entries,
        B::Ack { .. } | B::SyncAck { .. } | B::Fetch { .. } | B::Diverged { .. } => Kind::Answer,
        B::Commit { .. } => Kind::Commit,
        B::ReadAsk { .. } | B::ReadAnswer { .. } => Kind::Read,
        _ => Kind::Election,
    }
}

/// The name of the innermost thing in what `Debug` says of a message.
pub fn word(debug: &str) -> String {
    let body = debug.split_once("body: ").map_or(debug, |(_, body)| body);
    body.chars().take_while(|c| c.is_alphanumeric()).collect()
}
