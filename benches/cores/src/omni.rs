//! The crate `omnipaxos`, over the memory storage of `omnipaxos_storage`, with
//! the journal in between.

use crate::RETAINED;
use crate::journal::Journal;
use crate::meter::State;
use crate::pump::{Failure, Replica};
use bytes::Bytes;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::storage::{Entry, NoSnapshot, StopSign, Storage, StorageOp, StorageResult};
use omnipaxos::util::LogEntry;
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};
use omnipaxos_storage::memory_storage::MemoryStorage;

/// A command: clones share the bytes.
#[derive(Clone, Debug)]
pub struct Command(Bytes);

impl Entry for Command {
    type Snapshot = NoSnapshot;
}

/// Journals what is written before the memory storage takes it.
struct Journaled {
    memory: MemoryStorage<Command>,
    journal: Journal,
}

impl Journaled {
    fn entries(&self, from: Option<usize>, entries: &[Command]) {
        self.journal.append(true, |buffer| {
            buffer.extend_from_slice(&from.unwrap_or(usize::MAX).to_le_bytes());
            for Command(bytes) in entries {
                buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                buffer.extend_from_slice(bytes);
            }
        });
    }

    fn number(&self, must_sync: bool, what: u8, number: usize) {
        self.journal.append(must_sync, |buffer| {
            buffer.push(what);
            buffer.extend_from_slice(&number.to_le_bytes());
        });
    }

    fn ballot(&self, what: u8, ballot: Ballot) {
        self.number(true, what, ballot.n as usize);
        self.number(true, what, ballot.pid as usize);
    }

    fn note(&self, op: &StorageOp<Command>) {
        match op {
            StorageOp::AppendEntry(entry) => self.entries(None, std::slice::from_ref(entry)),
            StorageOp::AppendEntries(entries) => self.entries(None, entries),
            StorageOp::AppendOnPrefix(from, entries) => self.entries(Some(*from), entries),
            StorageOp::SetPromise(ballot) => self.ballot(b'p', *ballot),
            StorageOp::SetAcceptedRound(ballot) => self.ballot(b'a', *ballot),
            // A hint, as the commit index is to the others.
            StorageOp::SetDecidedIndex(index) => self.number(false, b'd', *index),
            StorageOp::SetCompactedIdx(index) | StorageOp::Trim(index) => {
                self.number(false, b't', *index);
            }
            StorageOp::SetStopsign(_) | StorageOp::SetSnapshot(_) => {}
        }
    }

    fn write(&mut self, op: StorageOp<Command>) -> StorageResult<()> {
        self.write_atomically(vec![op])
    }
}

impl Storage<Command> for Journaled {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Command>>) -> StorageResult<()> {
        ops.iter().for_each(|op| self.note(op));
        self.memory.write_atomically(ops)
    }
    fn append_entry(&mut self, entry: Command) -> StorageResult<()> {
        self.entries(None, std::slice::from_ref(&entry));
        self.memory.append_entry(entry)
    }
    fn append_entries(&mut self, entries: Vec<Command>) -> StorageResult<()> {
        self.entries(None, &entries);
        self.memory.append_entries(entries)
    }
    fn append_on_prefix(&mut self, from: usize, entries: Vec<Command>) -> StorageResult<()> {
        self.entries(Some(from), &entries);
        self.memory.append_on_prefix(from, entries)
    }
    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write(StorageOp::SetPromise(ballot))
    }
    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        self.number(false, b'd', index);
        self.memory.set_decided_idx(index)
    }
    fn get_decided_idx(&self) -> StorageResult<usize> {
        self.memory.get_decided_idx()
    }
    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write(StorageOp::SetAcceptedRound(ballot))
    }
    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        self.memory.get_accepted_round()
    }
    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Command>> {
        self.memory.get_entries(from, to)
    }
    fn get_log_len(&self) -> StorageResult<usize> {
        self.memory.get_log_len()
    }
    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Command>> {
        self.memory.get_suffix(from)
    }
    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        self.memory.get_promise()
    }
    fn set_stopsign(&mut self, stop: Option<StopSign>) -> StorageResult<()> {
        self.memory.set_stopsign(stop)
    }
    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        self.memory.get_stopsign()
    }
    fn trim(&mut self, index: usize) -> StorageResult<()> {
        self.write(StorageOp::Trim(index))
    }
    fn set_compacted_idx(&mut self, index: usize) -> StorageResult<()> {
        self.write(StorageOp::SetCompactedIdx(index))
    }
    fn get_compacted_idx(&self) -> StorageResult<usize> {
        self.memory.get_compacted_idx()
    }
    fn set_snapshot(&mut self, snapshot: Option<NoSnapshot>) -> StorageResult<()> {
        self.memory.set_snapshot(snapshot)
    }
    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        self.memory.get_snapshot()
    }
}

/// A replica.
pub struct Omni {
    id: u64,
    core: OmniPaxos<Command, Journaled>,
    journal: Journal,
    messages: Vec<Message<Command>>,
    applied: usize,
    trimmed: usize,
}

impl Replica for Omni {
    type Message = Message<Command>;

    fn new(id: u64, journal: Journal) -> Result<Self, Failure> {
        let config = OmniPaxosConfig {
            cluster_config: ClusterConfig {
                configuration_id: 1,
                nodes: vec![1, 2, 3],
                ..ClusterConfig::default()
            },
            server_config: ServerConfig {
                pid: id,
                // A batch ends with the turn that it began in, by a tick; so a
                // tick is no unit of time here, and these are many.
                batch_size: 4096,
                flush_batch_tick_timeout: 1,
                election_tick_timeout: 1_000,
                resend_message_tick_timeout: 10_000,
                ..ServerConfig::default()
            },
        };
        let storage = Journaled { memory: MemoryStorage::default(), journal: journal.clone() };
        let core = config.build(storage)?;
        Ok(Omni { id, core, journal, messages: Vec::new(), applied: 0, trimmed: 0 })
    }

    fn tick(&mut self) {
        self.core.tick();
    }

    fn leads(&self) -> bool {
        self.core.get_current_leader() == Some((self.id, true))
    }

    fn receive(&mut self, _from: u64, message: Message<Command>) -> Result<(), Failure> {
        self.core.handle_incoming(message);
        Ok(())
    }

    fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<(), Failure> {
        for command in commands {
            self.core.append(Command(command.into())).map_err(|e| format!("{e:?}"))?;
        }
        Ok(())
    }

    fn turn(
        &mut self,
        state: &mut State,
        sent: &mut Vec<(u64, Message<Command>)>,
    ) -> Result<(), Failure> {
        if self.core.get_batched_len() > 0 {
            self.core.tick();
        }
        self.journal.sync()?;
        self.core.take_outgoing_messages(&mut self.messages);
        sent.extend(self.messages.drain(..).map(|message| (message.get_receiver(), message)));
        if self.core.get_decided_idx() > self.applied {
            for entry in self.core.read_decided_suffix(self.applied).unwrap_or_default() {
                let LogEntry::Decided(Command(bytes)) = entry else {
                    return Err(format!("{entry:?} is no decided command").into());
                };
                state.apply(&bytes);
                self.applied += 1;
            }
        }
        let kept = RETAINED as usize;
        if self.leads() && self.applied > self.trimmed + 2 * kept {
            // Refused while a follower is further behind: then later.
            if self.core.trim(Some(self.applied - kept)).is_ok() {
                self.trimmed = self.applied - kept;
            }
        }
        Ok(())
    }
}
