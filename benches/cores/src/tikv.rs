//! The crate `raft` (TiKV's), with the memory storage that it brings.

use crate::RETAINED;
use crate::journal::Journal;
use crate::meter::State;
use crate::pump::{Failure, Replica};
use prost::Message as _;
use raft::prelude::{ConfState, Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

/// A replica.
pub struct Tikv {
    node: RawNode<MemStorage>,
    journal: Journal,
    term: u64,
    compacted: u64,
}

/// As in Synod's limits: a heartbeat is 20 ms, an election 150 ms. An append may
/// hold all that Synod has in flight to a peer, since the crate copies the whole
/// unstable log for each append that it cuts from it.
fn config(id: u64) -> Config {
    Config {
        id,
        election_tick: 30,
        heartbeat_tick: 4,
        max_size_per_msg: 8 << 20,
        max_inflight_msgs: 256,
        check_quorum: true,
        pre_vote: true,
        batch_append: true,
        ..Config::default()
    }
}

/// Applies commands: all but the first entry of each term, a new leader's own.
fn apply(state: &mut State, term: &mut u64, entries: &[Entry]) {
    for entry in entries {
        if entry.term == *term {
            state.apply(&entry.data);
        }
        *term = entry.term;
    }
}

fn send(sent: &mut Vec<(u64, Message)>, messages: Vec<Message>) {
    sent.extend(messages.into_iter().map(|message| (message.to, message)));
}

impl Replica for Tikv {
    type Message = Message;

    fn new(id: u64, journal: Journal) -> Result<Self, Failure> {
        let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], vec![])));
        let quiet = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config(id), storage, &quiet)?;
        Ok(Tikv { node, journal, term: 0, compacted: 0 })
    }

    fn tick(&mut self) {
        self.node.tick();
    }

    fn leads(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader && raft.commit_to_current_term()
    }

    fn receive(&mut self, _from: u64, message: Message) -> Result<(), Failure> {
        Ok(self.node.step(message)?)
    }

    fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<(), Failure> {
        // All in one message, as the crate allows and which is its fastest way.
        let entry = |data| Entry { data, ..Entry::default() };
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = commands.into_iter().map(entry).collect();
        Ok(self.node.step(message)?)
    }

    fn turn(&mut self, state: &mut State, sent: &mut Vec<(u64, Message)>) -> Result<(), Failure> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            send(sent, ready.take_messages());
            apply(state, &mut self.term, &ready.take_committed_entries());
            let store = self.node.mut_store();
            store.wl().append(ready.entries())?;
            for entry in ready.entries() {
                self.journal.append(true, |buffer| entry.encode(buffer).unwrap_or_default());
            }
            if let Some(hard) = ready.hs() {
                let encode = |buffer: &mut Vec<u8>| hard.encode(buffer).unwrap_or_default();
                self.journal.append(ready.must_sync(), encode);
                store.wl().set_hardstate(hard.clone());
            }
            self.journal.sync()?;
            send(sent, ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().wl().mut_hard_state().commit = commit;
            }
            send(sent, light.take_messages());
            apply(state, &mut self.term, &light.take_committed_entries());
            self.node.advance_apply();
        }
        let applied = self.node.raft.raft_log.applied;
        if applied > self.compacted + 2 * RETAINED {
            self.compacted = applied - RETAINED;
            self.node.mut_store().wl().compact(self.compacted)?;
        }
        Ok(())
    }
}
