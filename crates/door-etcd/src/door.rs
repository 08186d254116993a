//! What all services of the door share.

use crate::coord::{
    FileMetrics, SilenceMetrics, deletes_over_files, follow_leader, watch_instances,
};
use crate::error;
use crate::lease::Renewals;
use crate::metrics::CallMetrics;
use crate::watch::hub::Hub;
use std::sync::Arc;
use synod_cell::Work;
use synod_etcd_proto::etcdserverpb as pb;
use synod_host::Handle;
use synod_mvcc::{Command, Outcome};
use tokio::sync::watch;
use tonic::Status;

/// The version of etcd whose interface this is; clients choose features by it.
pub const ETCD_VERSION: &str = "3.7.0";

/// Bounds and timings of the door.
#[derive(Clone, Debug)]
pub struct DoorConfig {
    /// Largest request, bytes (etcd's --max-request-bytes).
    pub request_bytes_max: usize,
    /// Most operations in a list of a transaction (etcd's --max-txn-ops).
    pub txn_ops_max: usize,
    /// Interval of progress notes on idle watches that asked for them, ms.
    pub progress_ms: u64,
    /// Bytes of answers that may wait for one slow watch stream.
    pub watch_buffer_bytes: usize,
    /// The quota that the cell was given, told by Status; 0: none.
    pub quota_bytes: u64,
    /// Most concurrent streams of one HTTP/2 connection.
    pub streams_max: u32,
    /// Requests that take so long are told of as slow, ms; 0: none is.
    pub slow_ms: u64,
    /// Origins whose pages a browser may let ask over HTTP (etcd's --cors); `*`: all.
    pub cors: Vec<String>,
}

impl Default for DoorConfig {
    fn default() -> DoorConfig {
        DoorConfig {
            request_bytes_max: 1536 << 10,
            txn_ops_max: 128,
            progress_ms: 600_000,
            watch_buffer_bytes: 1 << 20,
            quota_bytes: 2 << 30,
            streams_max: u32::MAX,
            slow_ms: 100,
            cors: vec!["*".into()],
        }
    }
}

/// One member's etcd door. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    handle: Handle,
    config: DoorConfig,
    hub: Arc<Hub>,
    renewals: Renewals,
    metrics: CallMetrics,
    file_metrics: FileMetrics,
    silence_metrics: Arc<SilenceMetrics>,
    leadership: watch::Receiver<(u64, u64)>,
}

impl Door {
    /// A door in front of this member. Call it within a runtime: its tasks run there.
    pub fn new(handle: Handle, config: DoorConfig) -> Door {
        let hub = Hub::new(handle.clone());
        tokio::spawn(hub.clone().run());
        let (renewals, metrics) = (Renewals::default(), CallMetrics::new(config.slow_ms));
        let (file_metrics, leadership) = (FileMetrics::default(), follow_leader(handle.clone()));
        let silence_metrics = Arc::new(SilenceMetrics::default());
        tokio::spawn(watch_instances(handle.clone(), silence_metrics.clone()));
        Door(Arc::new(Inner {
            handle,
            config,
            hub,
            renewals,
            metrics,
            file_metrics,
            silence_metrics,
            leadership,
        }))
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    pub(crate) fn renewals(&self) -> &Renewals {
        &self.0.renewals
    }

    pub(crate) fn call_metrics(&self) -> &CallMetrics {
        &self.0.metrics
    }

    pub(crate) fn file_metrics(&self) -> &FileMetrics {
        &self.0.file_metrics
    }

    pub(crate) fn silence_metrics(&self) -> &SilenceMetrics {
        &self.0.silence_metrics
    }

    /// Ballot and leader (0: none is known), and how they change.
    pub(crate) fn leadership(&self) -> watch::Receiver<(u64, u64)> {
        self.0.leadership.clone()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    pub(crate) fn config(&self) -> &DoorConfig {
        &self.0.config
    }

    pub(crate) fn header(&self, revision: i64, term: u64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.0.handle.cluster_id(),
            member_id: self.0.handle.id().0,
            revision,
            raft_term: term,
        }
    }

    /// A header with the present revision and ballot.
    pub(crate) fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.0.handle.published().revision(), self.0.handle.term())
    }

    /// Has a command of a client's agreed on; gives its outcome and the header. It
    /// touches no files.
    pub(crate) async fn run(
        &self,
        command: Command,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        match deletes_over_files(&command)? {
            false => self.agree(command).await,
            true => self.run_over_files(command).await,
        }
    }

    /// Has a command agreed on, whatever it touches.
    pub(crate) async fn agree(
        &self,
        command: Command,
    ) -> Result<(Outcome, pb::ResponseHeader), Status> {
        self.refuse_on_learner()?;
        let encoded = command.encode();
        if encoded.len() > self.0.config.request_bytes_max {
            return Err(error::request_too_large());
        }
        let done = self.0.handle.propose(Work::Command(encoded)).await;
        let (outcome, revision, term) = done.map_err(error::of_request)?;
        Ok((outcome, self.header(revision, term)))
    }

    /// A learner serves serializable reads and status only.
    pub(crate) fn refuse_on_learner(&self) -> Result<(), Status> {
        if self.0.handle.is_learner() { Err(error::not_for_learner()) } else { Ok(()) }
    }
}
