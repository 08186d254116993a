//! Starting a member: find out who it is, open what it has, start its threads.
//!
//! A member that has no data asks its peers before it takes part: it may be
//! new, or it may have lost its disk. In the second case its promises are lost
//! too, so it comes back under a new id as a learner, and takes the place of
//! its former self once it is in sync (`docs/decisions/0004-lost-disk.md`).

use crate::check::Checker;
use crate::core_loop::{CoreLoop, MAIN_CELL, STATUS_EVERY, Slowed, TICK, ToCore, give_out};
use crate::disk::FileDisk;
use crate::feed::Feed;
use crate::handle::{Handle, Shared};
use crate::identity::{Identity, first_members, has_journal, member_id, read_identity};
use crate::journal::{self, SpareMaker};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::rebuild;
use crate::transport::{Links, ask};
use crate::wire::{Answer, Opening, PeerInfo};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use synod_base::{NodeId, Tick};
use synod_cell::{Cell, CellLimits, Work};
use synod_consensus::{Membership, Protocol, Recovered, SnapshotMeta};
use synod_mvcc::{Command, MemberInfo, State, StateLimits, Store};
use synod_store::{DiskOptions, DiskStore};
use synod_wal::{Journal, Options};
use tokio::sync::{mpsc, oneshot, watch};

/// Whether the cluster is being made or joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    /// All members of `initial_cluster` start it together.
    New,
    /// It exists, and this member was added to it before.
    Existing,
}

/// What a member needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// Its data directory, made if need be.
    pub data_dir: PathBuf,
    /// Where it listens for peers.
    pub listen_peers: Vec<SocketAddr>,
    /// Where peers find it.
    pub peer_urls: Vec<String>,
    /// Where clients find it.
    pub client_urls: Vec<String>,
    /// Name and peer URL of every first member.
    pub initial_cluster: Vec<(String, String)>,
    /// See [`ClusterState`].
    pub cluster_state: ClusterState,
    /// Tells apart clusters with equal URLs.
    pub token: String,
    /// What the cell must run; `None`: what it was made with, for a new one Raft.
    pub protocol: Option<Protocol>,
    /// Bounds and timings of the cell.
    pub cell: CellLimits,
    /// Least time to live granted to a lease, s.
    pub lease_ttl_min: i64,
    /// Bytes of memory for the store's cache.
    pub cache_bytes: u64,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Bytes of recent revisions kept in memory for watches.
    pub feed_bytes: usize,
    /// Interval of the comparison of all members' data, ms; 0: only after elections.
    pub check_ms: u64,
    /// If the data are damaged: set them aside and fetch everything from the peers.
    pub rebuild: bool,
}

/// Why a member did not start.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

pub(crate) fn fail<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> StartError {
    move |e| StartError(format!("{what}: {e}"))
}

const ASK_TIMEOUT: Duration = Duration::from_millis(1_000);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Starts a member on threads of its own; ready when it can take requests.
/// Those must come from the runtime that this runs on: answers are given out there.
pub async fn start(config: Config) -> Result<Handle, StartError> {
    let (tx, rx) = oneshot::channel();
    let doors = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("core".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, run(config, doors, tx));
                }
                Err(e) => drop(tx.send(Err(StartError(format!("cannot start a runtime: {e}"))))),
            }
        })
        .map_err(fail("cannot start the core's thread"))?;
    rx.await.map_err(|_| StartError("the core's thread ended at its start".into()))?
}

async fn run(
    config: Config,
    doors: tokio::runtime::Handle,
    ready: oneshot::Sender<Result<Handle, StartError>>,
) {
    match prepare(config).await {
        Ok((core, _lock)) => {
            let handle = core.handle.clone();
            let (answers, turns) = mpsc::unbounded_channel();
            doors.spawn(give_out(turns));
            drop(ready.send(Ok(handle.clone())));
            let end = core.run(answers).await;
            if let Err(why) = &end {
                tracing::error!(error = why, "the node stops");
            }
            handle.0.stopped.send_replace(Some(end));
        }
        Err(e) => drop(ready.send(Err(e))),
    }
}

/// The data directory is ours as long as this lives.
struct DirLock(#[allow(dead_code)] File);

fn lock_dir(dir: &Path) -> Result<DirLock, StartError> {
    std::fs::create_dir_all(dir)
        .map_err(fail(format!("cannot make the data directory {}", dir.display())))?;
    let path = dir.join("LOCK");
    let file = File::create(&path).map_err(fail(format!("cannot open {}", path.display())))?;
    file.try_lock().map_err(|_| {
        StartError(format!("another process uses the data directory {}", dir.display()))
    })?;
    Ok(DirLock(file))
}

async fn prepare(config: Config) -> Result<(CoreLoop, DirLock), StartError> {
    let dir = config.data_dir.clone();
    let lock = lock_dir(&dir)?;
    let rebuilding = rebuild::begin(&config)?;
    let server = crate::peer_server::listen(&config).await?;
    let identity = match read_identity(&dir)? {
        Some(identity) => {
            agree_on_protocol(&config, &identity.protocol, &dir.display().to_string())?;
            identity
        }
        None => {
            if !rebuilding && has_journal(&dir) {
                return Err(StartError(format!(
                    "{} has a journal and no member.json that says whose: put the file back, or \
                     start with --rebuild to fetch everything from the peers",
                    dir.display()
                )));
            }
            let identity = find_identity(&config, rebuilding).await?;
            identity.write(&dir)?;
            identity
        }
    };
    if rebuilding {
        rebuild::end(&dir)?;
    }
    let core = open(&config, identity)?;
    server.serve(core.handle.clone());
    tokio::task::spawn_local(publish_self(core.handle.clone(), config));
    Ok((core, lock))
}

/// A cell runs the protocol that it was made with.
fn agree_on_protocol(config: &Config, made: &str, whose: &str) -> Result<(), StartError> {
    match config.protocol {
        Some(wanted) if wanted.to_string() != made => Err(StartError(format!(
            "the cell of {whose} was made with protocol {made} and cannot run {wanted}: leave \
             --protocol out, or restore a snapshot of it into a new cell"
        ))),
        _ => Ok(()),
    }
}

/// `lost`: this was a member, and its data are gone.
async fn find_identity(config: &Config, lost: bool) -> Result<Identity, StartError> {
    let members = first_members(&config.initial_cluster, &config.token);
    let fresh = Identity::first(
        &config.name,
        &members,
        &config.token,
        config.protocol.unwrap_or_default(),
    )?;
    let own_id = fresh.id;
    let others: Vec<String> = members
        .iter()
        .filter(|(id, _)| **id != own_id)
        .flat_map(|(_, (_, urls))| urls.clone())
        .collect();
    let quorum = members.len() / 2 + 1;
    let mut said = Instant::now();
    loop {
        let answers = ask_all(&others, &Opening::Info).await;
        for (url, answer) in &answers {
            if let Answer::Info { cluster, members, protocol, .. } = answer {
                agree_on_protocol(config, protocol, url)?;
                let known = Known { url, cluster: *cluster, members, protocol };
                return settle(config, fresh, known, lost).await;
            }
        }
        if !lost && config.cluster_state == ClusterState::New && answers.len() + 1 >= quorum {
            return Ok(fresh);
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let (count, url) = (answers.len(), others.join(", "));
            match lost {
                false => tracing::warn!(count, url, "waiting until enough peers answer"),
                true => tracing::warn!(
                    count,
                    url,
                    "waiting for a peer that has the cluster's data: this member set its own aside; if a \
                     majority did, restore a snapshot"
                ),
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// A cluster that exists, as one of its members tells.
struct Known<'a> {
    url: &'a str,
    cluster: u64,
    members: &'a [PeerInfo],
    protocol: &'a str,
}

async fn settle(
    config: &Config,
    mut fresh: Identity,
    known: Known<'_>,
    lost: bool,
) -> Result<Identity, StartError> {
    if config.cluster_state == ClusterState::New && known.cluster != fresh.cluster {
        return Err(StartError(format!(
            "{} belongs to cluster {:x}, not to {:x} which this initial cluster makes: check the \
             initial cluster and its token, or join with --initial-cluster-state existing",
            known.url, known.cluster, fresh.cluster
        )));
    }
    fresh.protocol = known.protocol.to_owned();
    let mut urls = config.peer_urls.clone();
    urls.sort();
    let same = |m: &&PeerInfo| {
        let mut theirs = m.peer_urls.clone();
        theirs.sort();
        theirs == urls
    };
    let mut mine: Vec<&PeerInfo> = known.members.iter().filter(same).collect();
    mine.sort_by_key(|m| m.learner);
    let Some(me) = mine.first() else {
        return Err(StartError(format!(
            "the cluster of {} has no member with peer URLs {}: add it first (`member add`)",
            known.url,
            urls.join(",")
        )));
    };
    let started = lost || !me.client_urls.is_empty();
    if !started && known.cluster == fresh.cluster && me.id == fresh.id {
        return Ok(fresh);
    }
    fresh.cluster = known.cluster;
    fresh.voters = Vec::new();
    fresh.seeds = known.members.to_vec();
    fresh.id = me.id;
    if started {
        fresh.id = rejoin(config, &known).await?;
    }
    Ok(fresh)
}

/// Asks the cluster to take this member, which lost its data, under a new id.
async fn rejoin(config: &Config, known: &Known<'_>) -> Result<u64, StartError> {
    let life = getrandom::u64().map_err(fail("no entropy"))?;
    let id = member_id(&config.peer_urls, &config.token, life);
    let member = NodeId(id);
    tracing::warn!(%member, "this member was in the cluster and has lost its data: it rejoins");
    let member = PeerInfo {
        id,
        name: config.name.clone(),
        peer_urls: config.peer_urls.clone(),
        client_urls: Vec::new(),
        learner: true,
    };
    let mut said = Instant::now();
    loop {
        for peer in known.members.iter().filter(|m| m.peer_urls != config.peer_urls) {
            for url in &peer.peer_urls {
                let opening = Opening::Rejoin { cluster: known.cluster, member: member.clone() };
                match ask(url, &opening, Duration::from_secs(8)).await {
                    Ok(Answer::Welcome) => return Ok(id),
                    Ok(other) => {
                        tracing::info!(url, error = ?other, "a peer does not let us rejoin yet")
                    }
                    Err(e) => tracing::info!(url, error = %e, "a peer does not let us rejoin yet"),
                }
            }
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            tracing::warn!(
                "still asking to rejoin; the cluster needs a quorum for that: if it has lost that for \
                 good, restore a snapshot"
            );
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ask_all(urls: &[String], opening: &Opening) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    for url in urls {
        if let Ok(answer) = ask(url, opening, ASK_TIMEOUT).await {
            answers.push((url.clone(), answer));
        }
    }
    answers
}

/// Opens journal and state, and makes the core of them.
fn open(config: &Config, mut identity: Identity) -> Result<CoreLoop, StartError> {
    let id = NodeId(identity.id);
    if let Some(what) = identity.missing(&config.data_dir) {
        return Err(StartError(format!(
            "{what}; this node may have voted and acknowledged with it, and will do neither. If the \
             cluster has a quorum without it, start it with --rebuild to fetch everything from its \
             peers, else restore from a snapshot"
        )));
    }
    let begun = Instant::now();
    let store = DiskStore::open(
        config.data_dir.join("state"),
        DiskOptions { cache_bytes: config.cache_bytes, ..DiskOptions::default() },
    )
    .map_err(fail("cannot open the state"))?;
    let limits =
        StateLimits { quota_bytes: config.cell.quota_bytes, lease_ttl_min: config.lease_ttl_min };
    let mut state = State::open(store, limits).map_err(fail("cannot read the state"))?;
    let mut snapshot = SnapshotMeta::default();
    if !identity.voters.is_empty() {
        let voters = identity.voters.iter().map(|id| NodeId(*id));
        let membership = Membership::of_voters(voters);
        snapshot = SnapshotMeta { index: 1, term: 1, membership, ..SnapshotMeta::default() };
        if state.applied() == 0 {
            found(config, &mut state)?;
        }
    }
    let disk = FileDisk::open(&config.data_dir.join("journal"))
        .map_err(fail("cannot open the journal's directory"))?;
    let options = Options { segment_bytes: config.segment_bytes, ..Options::default() };
    let (journal, recovery) =
        Journal::open(disk, identity.id, options).map_err(|e| StartError(e.to_string()))?;
    if let Some((file, offset)) = &recovery.cut {
        tracing::warn!(file, offset, "a torn write of the journal was cut");
    }
    if !identity.journal {
        // Before anything is voted or acknowledged with it.
        identity.journal = true;
        identity.write(&config.data_dir)?;
    }
    let records: Vec<_> =
        recovery.records.into_iter().filter(|r| r.cell == MAIN_CELL).map(|r| r.bytes).collect();
    tracing::info!(
        file = %config.data_dir.display(),
        index = state.applied(),
        revision = state.revision(),
        count = records.len(),
        seconds = begun.elapsed().as_secs_f64(),
        "opened the data with so many records of the journal"
    );
    let recovered = Recovered { snapshot, records, applied: 0 };
    let seed = getrandom::u64().map_err(fail("no entropy"))?;
    let protocol = identity.protocol.parse().map_err(StartError)?;
    let cell = Cell::new(protocol, id, config.cell.clone(), state, recovered, seed, Tick(0))
        .map_err(fail("cannot recover"))?;
    assemble(config, &identity, cell, journal)
}

/// The state that all first members begin with: index 1.
fn found(config: &Config, state: &mut State<DiskStore>) -> Result<(), StartError> {
    let members = first_members(&config.initial_cluster, &config.token).into_iter().map(
        |(id, (name, peer_urls))| MemberInfo {
            id: NodeId(id),
            name,
            peer_urls,
            client_urls: Vec::new(),
        },
    );
    state.bootstrap(members);
    state.skip(1, 1);
    state.commit().map_err(fail("cannot write the first state"))?;
    state.store_mut().sync().map_err(fail("cannot sync the first state"))
}

fn assemble(
    config: &Config,
    identity: &Identity,
    cell: Cell<DiskStore>,
    journal: Journal<FileDisk>,
) -> Result<CoreLoop, StartError> {
    let id = NodeId(identity.id);
    let mailbox = Arc::new(Mailbox::<ToCore>::new());
    let metrics = Arc::new(Metrics::default());
    let shared = Shared {
        mailbox: mailbox.clone(),
        reader: cell.reader(),
        feed: Feed::new(cell.state().revision(), config.feed_bytes),
        metrics: metrics.clone(),
        id,
        cluster: identity.cluster,
        protocol: identity.protocol.parse().map_err(StartError)?,
        started: SystemTime::now(),
        data: config.data_dir.clone(),
        leader: AtomicU64::new(0),
        term: AtomicU64::new(0),
        leads: AtomicBool::new(false),
        learner: AtomicBool::new(identity.voters.is_empty()),
        reads_alone: AtomicBool::new(false),
        status: Mutex::new(Arc::new(cell.status())),
        lease_clock: Mutex::new((cell.lease_clock(Tick(0)), Instant::now())),
        events: Mutex::new(VecDeque::new()),
        stopped: watch::Sender::new(None),
        store_disk: AtomicU64::new(0),
        connected: Mutex::default(),
        hearings: Mutex::default(),
    };
    let spares = SpareMaker::new(config.data_dir.join("journal"), config.segment_bytes);
    let (jobs, _thread) =
        journal::start(journal, spares, cell.last_index(), mailbox, metrics.clone())
            .map_err(fail("cannot start the journal's thread"))?;
    let seeds = identity.seeds.iter().map(|p| (NodeId(p.id), p.peer_urls.clone())).collect();
    // Tickets of one life never meet those of another in the log.
    let life = getrandom::u32().map_err(fail("no entropy"))?;
    Ok(CoreLoop {
        cell,
        handle: Handle(Arc::new(shared)),
        links: Links::new(identity.cluster, id, metrics, TICK * STATUS_EVERY as u32),
        journal: jobs,
        checker: Checker::new(id, config.check_ms),
        seeds,
        start: Instant::now(),
        next_ticket: u64::from(life >> 1) << 32,
        waiting: HashMap::new(),
        answered: Vec::new(),
        members_changed: true,
        was_member: !identity.voters.is_empty(),
        ticks: 0,
        slowed: Slowed::default(),
        end: None,
    })
}

/// Tells the cluster this member's name and addresses, until it knows them.
async fn publish_self(handle: Handle, config: Config) {
    let me = MemberInfo {
        id: handle.id(),
        name: config.name,
        peer_urls: config.peer_urls,
        client_urls: config.client_urls,
    };
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let members = handle.published().members().clone();
        match members.get(&me.id) {
            Some(known) if known.name == me.name && known.client_urls == me.client_urls => return,
            // Not a member as far as is known here: nothing to publish yet.
            None if handle.leader().is_none() => continue,
            _ => {}
        }
        let mut info = me.clone();
        if let Some(known) = members.get(&me.id) {
            // Peer URLs may have been changed since by a member update.
            info.peer_urls.clone_from(&known.peer_urls);
        }
        let work = Work::Command(Command::MemberSet(info).encode());
        if let Err(e) = handle.propose(work).await {
            tracing::debug!(error = ?e, "publishing this member's addresses failed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
