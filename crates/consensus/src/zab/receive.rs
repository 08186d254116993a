//! Whose messages are heard.
//!
//! **Invariants**
//! - A leader is heard only by those who have accepted its epoch from it; others
//!   say so, if the epoch is not a later one (which asks for a promise by itself).
//! - What a follower says is heard only by the leader of that epoch, and only
//!   from a member.

use super::message::{Body, Message};
use super::{Zab, message_to, no_read};
use crate::contract::WriteSeq;
use crate::event::VoteRefusal;
use synod_base::NodeId;

impl Zab {
    pub(super) fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.id || !from.is_some() {
            return;
        }
        let Message { epoch, body } = message;
        match body {
            Body::Look(look) => self.on_look(from, epoch, look),
            Body::LookRefused { round } => self.on_look_refused(from, epoch, round),
            Body::LeaderInfo { won, transfer } => self.on_leader_info(from, epoch, won, transfer),
            Body::Refused { asked, why } => self.on_refused(from, epoch, asked, why),
            _ if body.of_leader() => {
                if self.lead.is_none() && (epoch, Some(from)) == (self.accepted, self.accepted_from)
                {
                    self.hear_leader(from);
                    self.receive_from_leader(from, body);
                } else if epoch <= self.accepted {
                    // Its sender may be a leader that a partition left behind.
                    // (A later epoch asks for a promise by itself.)
                    let old = epoch < self.accepted;
                    let why = if old { VoteRefusal::OldTerm } else { VoteRefusal::AlreadyVoted };
                    self.send(from, Body::Refused { asked: epoch, why }, self.hard_seq);
                }
            }
            _ => self.receive_as_leader(from, epoch, body),
        }
    }

    /// From the leader whose epoch this node has accepted.
    fn receive_from_leader(&mut self, from: NodeId, body: Body) {
        match body {
            Body::Fetch { index, term } => self.on_fetch(from, index, term),
            Body::Sync { prev_index, prev_term, entries, .. } => {
                self.on_sync(from, prev_index, prev_term, entries);
            }
            Body::NewLeader { last } => self.on_new_leader(from, last),
            Body::UpToDate { commit } => {
                self.epoch_established(from);
                self.learn_commit(commit);
            }
            Body::Propose { prev_index, commit, entries } => {
                self.on_propose(from, prev_index, commit, entries);
            }
            Body::Commit { commit } => self.learn_commit(commit),
            Body::Ping { round, commit, established } => {
                self.on_ping(from, round, commit, established);
            }
            Body::ReadAnswer { batch, index } => self.on_read_answer(from, batch, index),
            Body::TakeOver => self.on_take_over(),
            _ => {}
        }
    }

    /// What a follower tells its leader.
    fn receive_as_leader(&mut self, from: NodeId, epoch: u64, body: Body) {
        let known = self.lead.as_mut().filter(|_| epoch == self.accepted);
        let Some(peer) = known.and_then(|l| l.peers.get_mut(&from)) else {
            if let Body::ReadAsk { batch } = body {
                self.out.push(message_to(epoch, from, no_read(batch), WriteSeq(0)));
            }
            return;
        };
        peer.heard = self.now;
        match body {
            Body::AckEpoch(rank) => self.on_ack_epoch(from, rank),
            Body::History { prev_index, prev_term, entries } => {
                self.on_history(from, prev_index, prev_term, entries);
            }
            Body::Diverged { index, term } => self.on_diverged(from, index, term),
            Body::SyncAck { matched } => self.on_ack(from, matched, false),
            Body::NewLeaderAck { matched } => self.on_new_leader_ack(from, matched),
            Body::Ack { matched } => self.on_ack(from, matched, true),
            Body::Pong { round, active } => self.on_pong(from, round, active),
            Body::ReadAsk { batch } => self.on_read_ask(from, batch),
            _ => {}
        }
    }
}
