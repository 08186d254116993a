//! A simulated machine: its disk and clock outlive the process that runs on it.

use crate::disk::SimDisk;
use crate::oracle::Found;
use crate::scenario::{Scenario, is_newer};
use bytes::Bytes;
use std::collections::VecDeque;
use synod_base::{NodeId, Rng, Tick};
use synod_cell::{Cell, CellInput, CellLimits, CellOutput, SnapshotPieces};
use synod_consensus::{Limits, Membership, Recovered, SnapshotMeta, WriteSeq};
use synod_mvcc::{HashKv, MemStore, MemberInfo, Revision, Rot, State, StateLimits, Store, Syncer};
use synod_wal::{Journal, JournalError, Options, Retention};

/// The least time to live of a lease, s.
pub const TTL_MIN: i64 = 1;
const SEGMENT_BYTES: u64 = 32 << 10;
const CELL: u32 = 1;

/// What the journal is asked.
pub enum Job {
    Write { seq: WriteSeq, record: Bytes, last: u64 },
    Forget { upto: u64 },
}

/// A process that runs.
pub struct Up {
    pub id: NodeId,
    pub cell: Cell<MemStore>,
    pub journal: Journal<SimDisk>,
    retention: Retention,
    pub jobs: VecDeque<Job>,
    /// What the sync in flight will make durable.
    pub batch: Vec<Job>,
    pub inbox: Vec<CellInput>,
    pub out: Vec<CellOutput>,
    /// A turn is scheduled.
    pub woken: bool,
    pub paused: bool,
    pub syncing: Option<(u64, Syncer)>,
    /// For snapshots, not told yet.
    pub read: VecDeque<SnapshotPieces>,
}

/// A clock that runs at its own rate and never goes back.
#[derive(Default)]
pub struct Clock {
    offset: u64,
    ppm: u64,
    jumped: u64,
}

impl Clock {
    pub fn draw(rng: &mut Rng, drifts: bool) -> Clock {
        // Rates from 1 to 1.004 of the world's: a hundred times a quartz.
        let ppm = if drifts { rng.below(4_000) } else { 0 };
        Clock { offset: rng.below(1 << 40), ppm, jumped: 0 }
    }

    pub fn jump(&mut self, by: u64) {
        self.jumped += by;
    }

    pub fn read(&self, now: u64) -> Tick {
        Tick((self.offset + self.jumped + now + now / 1_000 * self.ppm / 1_000) / 1_000)
    }
}

pub struct Machine {
    pub number: usize,
    pub id: NodeId,
    pub disk: SimDisk,
    /// The state while no process has it.
    store: Option<MemStore>,
    pub up: Option<Up>,
    pub clock: Clock,
    /// Processes that ran so far.
    pub lives: u64,
    /// One of the first members; `false` for one that joined later.
    founder: bool,
    /// How long a sync takes at least, µs.
    pub sync_us: u64,
    /// A bit was flipped, or a write went astray: damage is no surprise.
    pub rotted: bool,
    /// What of its state cannot be read.
    pub rot: Rot,
    /// In which the program writes the journal.
    version: u32,
    /// It lost its disk and is not yet a member again.
    pub away: bool,
    /// It is being removed.
    pub retiring: bool,
    /// It came back after that, and is to be promoted.
    pub joining: bool,
    /// It stays down until the last fault ends.
    pub held_down: bool,
}

/// Why a process did not start.
pub enum NoStart {
    /// The journal says that it is damaged.
    Damaged(String),
    /// It cannot read or write its disk now.
    Disk(String),
    /// The state cannot be read.
    Rotten(String),
    Other(String),
}

pub fn peer_url(number: usize) -> Vec<String> {
    vec![format!("machine-{number}")]
}

/// Small ones, so that every bound is met; and different from seed to seed.
pub fn limits(scenario: &Scenario) -> CellLimits {
    let seed = scenario.seed;
    let steady = !scenario.faults.has(crate::scenario::Fault::Clock);
    let drifts = scenario.faults.has(crate::scenario::Fault::Drift);
    let pick = |of: [usize; 3], salt: u64| of[Rng::new(seed ^ salt).below(3) as usize];
    // The state is a few KiB: a snapshot of it is to have many pieces.
    let pieces = if is_newer(seed) { pick([64, 300, 2 << 10], 5) } else { 256 << 10 };
    CellLimits {
        consensus: Limits {
            append_bytes_max: pick([150, 700, 4 << 10], 1),
            inflight_messages_max: pick([2, 8, 64], 2),
            inflight_bytes_max: 16 << 10,
            uncommitted_bytes_max: 16 << 10,
            retained_entries_max: pick([20, 150, 2_000], 3),
            retained_bytes_max: 64 << 10,
            // They assume clocks that differ in rate by little, and do not jump.
            lease_reads: steady && pick([0, 1, 1], 4) == 1,
            // With clocks that drift the bound is near what they do.
            lease_drift_percent: if drifts { 1 } else { 10 },
            ..Limits::default()
        },
        snapshot_piece_bytes: pieces,
        request_ms: 1_500,
        sync_bytes: 6 << 10,
        sync_ms: 400,
        compact_budget: 20,
        ..CellLimits::default()
    }
}

impl Machine {
    pub fn new(number: usize, clock: Clock) -> Machine {
        let store = MemStore::new();
        Machine {
            number,
            id: NodeId(number as u64 + 1),
            disk: SimDisk::default(),
            rot: store.rot(),
            store: Some(store),
            up: None,
            clock,
            lives: 0,
            founder: true,
            sync_us: 0,
            rotted: false,
            version: synod_wal::VERSION,
            away: false,
            retiring: false,
            joining: false,
            held_down: false,
        }
    }

    /// From its next start on, its program writes the other of the journal's versions.
    pub fn change_version(&mut self) {
        self.version = synod_wal::VERSION_OLDEST + synod_wal::VERSION - self.version;
    }

    /// A new disk, and so a new member.
    pub fn lose_everything(&mut self, id: NodeId) {
        self.up = None;
        self.disk = SimDisk::default();
        let store = MemStore::new();
        self.rot = store.rot();
        self.store = Some(store);
        self.id = id;
        self.founder = false;
        self.rotted = false;
        self.away = true;
    }

    pub fn start(&mut self, scenario: &Scenario, now: u64, seed: u64) -> Result<(), NoStart> {
        self.lives += 1;
        self.disk.settle();
        let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::default() };
        let opened = Journal::open(self.disk.clone(), self.id.0, options);
        let (mut journal, recovery) = opened.map_err(|e| match e {
            JournalError::Damaged { .. } | JournalError::Foreign { .. } => {
                NoStart::Damaged(e.to_string())
            }
            _ => NoStart::Disk(e.to_string()),
        })?;
        journal.set_version(self.version);
        let store = self.store.take().unwrap_or_default();
        let limits_of_state = StateLimits { quota_bytes: 0, lease_ttl_min: TTL_MIN };
        let rotten = self.rot.is_set();
        let other = |e: &dyn std::fmt::Display| match rotten {
            true => NoStart::Rotten(e.to_string()),
            false => NoStart::Other(e.to_string()),
        };
        let mut state = State::open(store, limits_of_state).map_err(|e| other(&e))?;
        let mut snapshot = SnapshotMeta::default();
        if self.founder {
            let voters = (1..=scenario.nodes).map(NodeId);
            let membership = Membership::of_voters(voters);
            snapshot = SnapshotMeta { index: 1, term: 1, membership, ..snapshot };
            if state.applied() == 0 {
                found(&mut state, scenario.nodes).map_err(|e| other(&e))?;
            }
        }
        let records = recovery.records.into_iter().map(|r| r.bytes).collect();
        let recovered = Recovered { snapshot, records, applied: 0 };
        let tick = self.clock.read(now);
        let mut cell =
            Cell::new(scenario.protocol, self.id, limits(scenario), state, recovered, seed, tick)
                .map_err(|e| other(&e))?;
        cell.observe();
        let retention = Retention::new(journal.segments(), cell.last_index());
        self.up = Some(Up {
            id: self.id,
            cell,
            journal,
            retention,
            jobs: VecDeque::new(),
            batch: Vec::new(),
            inbox: Vec::new(),
            out: Vec::new(),
            woken: false,
            paused: false,
            syncing: None,
            read: VecDeque::new(),
        });
        Ok(())
    }

    /// The process ends; with it what was not durable. `power`: the whole
    /// machine goes down, so that what was being written is torn.
    pub fn crash(&mut self, rng: &mut Rng, power: bool) {
        let Some(mut up) = self.up.take() else { return };
        if power {
            if !up.batch.is_empty() {
                self.disk.cut_power_after(rng.below(4));
                // What it says does not matter any more.
                let _ = up.write_batch();
            }
            self.disk.lose_power(rng);
        }
        if let Some((_, syncer)) = up.syncing.take()
            && rng.one_in(3)
        {
            let _ = syncer();
        }
        let mut store = up.cell.into_state().into_store();
        store.lose_unsynced();
        self.store = Some(store);
    }
}

/// The state that all first members begin with: index 1.
fn found(state: &mut State<MemStore>, nodes: u64) -> Result<(), synod_mvcc::StoreError> {
    state.bootstrap((0..nodes).map(|n| MemberInfo {
        id: NodeId(n + 1),
        name: format!("m{n}"),
        peer_urls: peer_url(n as usize),
        client_urls: Vec::new(),
    }));
    state.skip(1, 1);
    state.commit()?;
    state.store_mut().sync()
}

/// Hashes are compared at every so many revisions.
const MILESTONE: i64 = 16;

impl Up {
    /// What HashKV says of the last revision that is a milestone, if one is among these.
    pub fn hash_of_a_milestone(&self, made: &[Revision]) -> Result<Option<HashKv>, Found> {
        let last = made.iter().rev().map(|r| r.revision).find(|r| r % MILESTONE == 0);
        let Some(revision) = last else { return Ok(None) };
        let hash = self.cell.reader().published().hash_kv(revision);
        // It may have been compacted at once.
        hash.map(Result::ok).map_err(|e| ("store", e.to_string()))
    }

    /// Begins a sync of everything that waits; says whether there is something.
    pub fn begin_batch(&mut self) -> bool {
        if self.batch.is_empty() {
            self.batch.extend(self.jobs.drain(..));
            return !self.batch.is_empty();
        }
        false
    }

    /// Ends it: one append, then what may be forgotten.
    pub fn write_batch(&mut self) -> Result<Option<WriteSeq>, JournalError> {
        let batch = std::mem::take(&mut self.batch);
        let (mut done, mut last, mut forget) = (None, 0, None);
        for job in &batch {
            match job {
                Job::Write { seq, last: l, .. } => (done, last) = (Some(*seq), last.max(*l)),
                Job::Forget { upto } => forget = Some(*upto),
            }
        }
        if done.is_some() {
            let records = batch.iter().filter_map(|job| match job {
                Job::Write { record, .. } => Some((CELL, record.as_ref())),
                Job::Forget { .. } => None,
            });
            let segment = self.journal.append(records)?;
            self.retention.wrote(segment, last);
        }
        if let Some(upto) = forget {
            let keep = self.retention.forget(upto, self.journal.segment());
            self.journal.drop_before(keep)?;
        }
        Ok(done)
    }
}
