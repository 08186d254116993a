//! Decisions as lines of the log: the sentence that they are, and what it is about as
//! fields, by the names that all lines use (`docs/logs.md`).

use synod_base::NodeId;
use synod_cell::CellEvent;
use synod_consensus::Event;

/// What a decision is about.
#[derive(Default)]
struct About<'a> {
    peer: Option<NodeId>,
    leader: Option<NodeId>,
    member: Option<NodeId>,
    term: Option<u64>,
    index: Option<u64>,
    revision: Option<i64>,
    count: Option<u64>,
    silence_ms: Option<u64>,
    stalled_ms: Option<u64>,
    error: Option<&'a str>,
}

/// Writes the line.
pub(crate) fn log(event: &CellEvent) {
    let about = match event {
        CellEvent::Consensus(event) => of_protocol(event),
        event => of_cell(event),
    };
    tracing::info!(
        target: "synod::event",
        event = name(event),
        peer = about.peer.map(tracing::field::display),
        leader = about.leader.map(tracing::field::display),
        member = about.member.map(tracing::field::display),
        term = about.term,
        index = about.index,
        revision = about.revision,
        count = about.count,
        silence_ms = about.silence_ms,
        stalled_ms = about.stalled_ms,
        error = about.error,
        "{event}"
    );
}

/// The kind of decision: `BecameLeader` is `became_leader`.
fn name(event: &CellEvent) -> String {
    let text = match event {
        CellEvent::Consensus(event) => format!("{event:?}"),
        event => format!("{event:?}"),
    };
    let mut name = String::new();
    for c in text.chars().take_while(char::is_ascii_alphanumeric) {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn of_protocol(event: &Event) -> About<'_> {
    let mut about = About::default();
    match event {
        Event::Campaigned { term, .. }
        | Event::CampaignLost { term, .. }
        | Event::StoodDown { term, .. } => about.term = Some(*term),
        Event::BecameLeader { term, index } => {
            (about.term, about.index) = (Some(*term), Some(*index));
        }
        Event::VoteGranted { to, term } | Event::VoteRefused { to, term, .. } => {
            (about.peer, about.term) = (Some(*to), Some(*term));
        }
        Event::FollowsLeader { leader, term } | Event::EpochEntered { leader, epoch: term } => {
            (about.leader, about.term) = (Some(*leader), Some(*term));
        }
        Event::LeaderLost { leader, silent_ms } => {
            (about.leader, about.silence_ms) = (Some(*leader), Some(*silent_ms));
        }
        Event::Starved { gap_ms: ms, .. } | Event::DiskStalled { age_ms: ms, .. } => {
            about.stalled_ms = Some(*ms);
        }
        Event::TransferStarted { to, .. }
        | Event::TransferDone { to }
        | Event::SnapshotNeeded { to, .. } => about.peer = Some(*to),
        Event::TransferAborted { to, behind } => {
            (about.peer, about.count) = (Some(*to), Some(*behind));
        }
        Event::SnapshotAdopted { index, .. }
        | Event::SnapshotStale { index, .. }
        | Event::MembersChanged { index, .. }
        | Event::HistoryTaken { upto: index } => about.index = Some(*index),
        Event::LogTruncated { from, leader, .. } => {
            (about.index, about.leader) = (Some(*from), Some(*leader));
        }
        Event::HistoryBehind { newest, last, term } => {
            about.term = Some(*term);
            (about.peer, about.index) = (Some(*newest), Some(*last));
        }
        Event::Synchronised { to: peer, after: index, .. }
        | Event::Borrowed { from: peer, upto: index } => {
            (about.peer, about.index) = (Some(*peer), Some(*index));
        }
        Event::ReadsRefused { count, .. } => about.count = Some(*count as u64),
        Event::Recovered { term, from, .. } => {
            (about.term, about.index) = (Some(*term), Some(*from));
        }
        Event::BadMessage { from, what } => {
            about.peer = Some(*from);
            about.error = Some(what);
        }
        Event::DiskRecovered | Event::Overloaded { .. } => {}
    }
    about
}

fn of_cell(event: &CellEvent) -> About<'_> {
    let mut about = About::default();
    match event {
        CellEvent::SnapshotStarted { to, index } => {
            (about.peer, about.index) = (Some(*to), Some(*index));
        }
        CellEvent::SnapshotEnded { to, installed } => {
            (about.peer, about.index) = (Some(*to), *installed);
        }
        CellEvent::SnapshotInstalled { from, index, revision } => {
            about.revision = Some(*revision);
            (about.peer, about.index) = (Some(*from), Some(*index));
        }
        CellEvent::SnapshotRefused { from, why } => {
            about.peer = Some(*from);
            about.error = Some(why);
        }
        CellEvent::LeasesExpired { count } => about.count = Some(*count as u64),
        CellEvent::AlarmProposed { member, .. } | CellEvent::AutoPromoted { member, .. } => {
            about.member = Some(*member);
        }
        CellEvent::PeerSuspected { peer, silence_ms, .. }
        | CellEvent::PeerHeard { peer, silence_ms } => {
            (about.peer, about.silence_ms) = (Some(*peer), Some(*silence_ms));
        }
        CellEvent::Slowed { ended_ms, .. } => about.stalled_ms = *ended_ms,
        CellEvent::Consensus(_) | CellEvent::RequestTimedOut { .. } => {}
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_name_of_its_kind() {
        let led = CellEvent::Consensus(Event::BecameLeader { term: 2, index: 7 });
        assert_eq!(name(&led), "became_leader");
        assert_eq!(name(&CellEvent::Consensus(Event::DiskRecovered)), "disk_recovered");
        assert_eq!(name(&CellEvent::LeasesExpired { count: 1 }), "leases_expired");
    }
}
