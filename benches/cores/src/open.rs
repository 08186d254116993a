//! The crate openraft on a current-thread runtime, over a log in memory; a call
//! goes straight to the other replica's handle. Not on disk: the core awaits the
//! sync of each proposal before it takes the next, so a window is no batch.

use crate::RETAINED;
use crate::meter::{Meter, Sample, State, Work, command};
use crate::pump::Failure;
use bytes::Bytes;
use openraft::error::{
    Fatal, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::responder::Responder;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, ClientWriteResult, SnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, Config, EmptyNode, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, LogState,
    Raft, RaftLogId, RaftLogReader, RaftNetwork, RaftNetworkFactory, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError, StoredMembership, Vote,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

openraft::declare_raft_types!(
    /// The types of this cluster.
    pub Types: D = Bytes, R = (), Node = EmptyNode, SnapshotData = (), Responder = Nobody
);

type Stored<T> = Result<T, StorageError<u64>>;

/// Who proposes looks at the state, not for an answer to each command.
pub struct Nobody;

impl Responder<Types> for Nobody {
    type Receiver = ();

    fn from_app_data(command: Bytes) -> (Bytes, Nobody, ()) {
        (command, Nobody, ())
    }

    fn send(self, _result: ClientWriteResult<Types>) {}
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

#[derive(Clone, Default)]
struct Log(Rc<RefCell<Kept>>);

impl Kept {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry<Types>>> {
        let kept = self.0.borrow();
        let at = |index: u64| (index.saturating_sub(kept.first()) as usize).min(kept.entries.len());
        let from = match range.start_bound() {
            Bound::Included(&from) => at(from),
            Bound::Excluded(&from) => at(from + 1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&to) => at(to + 1),
            Bound::Excluded(&to) => at(to),
            Bound::Unbounded => kept.entries.len(),
        };
        Ok(kept.entries.range(from..to).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        let kept = self.0.borrow();
        let last = kept.entries.back().map(|entry| *entry.get_log_id()).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.0.borrow_mut().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(self.0.borrow().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>>,
    {
        self.0.borrow_mut().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Stored<()> {
        let mut kept = self.0.borrow_mut();
        let left = from.index.saturating_sub(kept.first());
        kept.entries.truncate(left as usize);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Stored<()> {
        let mut kept = self.0.borrow_mut();
        while kept.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            kept.entries.pop_front();
        }
        kept.purged = Some(upto);
        Ok(())
    }
}

#[derive(Default)]
struct Applied {
    state: RefCell<State>,
    last: Cell<Option<LogId<u64>>>,
    members: RefCell<StoredMembership<u64, EmptyNode>>,
    changed: Notify,
}

#[derive(Clone, Default)]
struct Machine(Rc<Applied>);

impl RaftSnapshotBuilder<Types> for Machine {
    /// Where the log may be purged, and nothing else: nobody is ever so far
    /// behind that it is sent.
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        let meta = SnapshotMeta {
            last_log_id: self.0.last.get(),
            last_membership: self.0.members.borrow().clone(),
            snapshot_id: self.0.state.borrow().count.to_string(),
        };
        Ok(Snapshot { meta, snapshot: Box::new(()) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Stored<(Option<LogId<u64>>, StoredMembership<u64, EmptyNode>)> {
        Ok((self.0.last.get(), self.0.members.borrow().clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>>,
    {
        let mut answers = Vec::new();
        let mut state = self.0.state.borrow_mut();
        for entry in entries {
            self.0.last.set(Some(entry.log_id));
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => state.apply(&command),
                EntryPayload::Membership(members) => {
                    *self.0.members.borrow_mut() =
                        StoredMembership::new(Some(entry.log_id), members);
                }
            }
            answers.push(());
        }
        self.0.changed.notify_one();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<()>> {
        Ok(Box::new(()))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, EmptyNode>,
        _snapshot: Box<()>,
    ) -> Stored<()> {
        let why = AnyError::error("the state is never sent");
        Err(StorageIOError::new(ErrorSubject::Snapshot(None), ErrorVerb::Write, why).into())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        Ok(None)
    }
}

#[derive(Default)]
struct Wires {
    nodes: RefCell<BTreeMap<u64, Raft<Types>>>,
    messages: Cell<u64>,
}

impl Wires {
    /// The other replica, to which a message goes.
    fn to(&self, target: u64) -> Result<Raft<Types>, Unreachable> {
        self.messages.set(self.messages.get() + 1);
        let node = self.nodes.borrow().get(&target).cloned();
        node.ok_or_else(|| Unreachable::from(AnyError::error("not started yet")))
    }
}

#[derive(Clone, Default)]
struct Wire(Rc<Wires>, u64);

impl RaftNetworkFactory<Types> for Wire {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Wire {
        Wire(self.0.clone(), target)
    }
}

type Called<T> = Result<T, RPCError<u64, EmptyNode, RaftError<u64>>>;

impl RaftNetwork<Types> for Wire {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Called<AppendEntriesResponse<u64>> {
        let answer = self.0.to(self.1)?.append_entries(request).await;
        self.0.messages.set(self.0.messages.get() + 1);
        answer.map_err(|e| RemoteError::new(self.1, e).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Called<VoteResponse<u64>> {
        let answer = self.0.to(self.1)?.vote(request).await;
        self.0.messages.set(self.0.messages.get() + 1);
        answer.map_err(|e| RemoteError::new(self.1, e).into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<u64>,
        _snapshot: Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        Err(Unreachable::from(AnyError::error("the state is never sent")).into())
    }
}

/// The time of this one is the real one; the election timeout is long enough for
/// a machine that is busy with something else.
fn config() -> Config {
    Config {
        heartbeat_interval: 50,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(RETAINED),
        max_in_snapshot_log_to_keep: RETAINED,
        ..Config::default()
    }
}

/// One run of `work`, as the pump does it for the others.
pub fn measure(work: &Work) -> Result<Sample, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let local = tokio::task::LocalSet::new();
    let limit = 2 * work.time + Duration::from_secs(20);
    local.block_on(&runtime, async { tokio::time::timeout(limit, run(work)).await })?
}

async fn run(work: &Work) -> Result<Sample, Failure> {
    let (wire, config) = (Wire::default(), Arc::new(config().validate()?));
    let mut machines = Vec::new();
    for id in 1..=3 {
        let (log, machine) = (Log::default(), Machine::default());
        machines.push(machine.0.clone());
        let node = Raft::new(id, config.clone(), wire.clone(), log, machine).await?;
        wire.0.nodes.borrow_mut().insert(id, node);
    }
    let nodes: Vec<Raft<Types>> = wire.0.nodes.borrow().values().cloned().collect();
    nodes[0].initialize(BTreeMap::from([1, 2, 3].map(|id| (id, EmptyNode {})))).await?;
    let elected = |m: &openraft::RaftMetrics<u64, EmptyNode>| m.current_leader.is_some();
    let seen = nodes[0].wait(None).metrics(elected, "a leader").await?;
    let at = seen.current_leader.ok_or("no leader")? as usize - 1;
    let (leader, machine) = (&nodes[at], &machines[at]);
    let mut meter = Meter::new(work);
    let (mut next, mut counted) = (0, 0);
    while meter.goes_on(Instant::now(), wire.0.messages.get())? {
        let count = machine.state.borrow().count;
        meter.applied(count - counted);
        counted = count;
        let room = meter.room();
        if room > 0 {
            meter.offered(room);
        }
        for n in (next..).take(room) {
            leader.client_write_ff(command(n, work.payload).into()).await?;
        }
        next += room as u64;
        machine.changed.notified().await;
    }
    while machines.iter().any(|machine| machine.state.borrow().count < next) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if machines.iter().any(|other| other.state != machine.state) {
        return Err("the replicas differ".into());
    }
    for node in &nodes {
        node.shutdown().await?;
    }
    wire.0.nodes.borrow_mut().clear();
    Ok(meter.sample())
}
