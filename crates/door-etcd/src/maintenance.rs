//! Looking after a cluster: status, alarms, hashes, snapshots, leadership.

use crate::door::{Door, ETCD_VERSION};
use crate::error;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use synod_base::NodeId;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::maintenance_server::Maintenance;
use synod_host::HostView;
use synod_mvcc::{AlarmKind, Command, Published, SnapshotCursor, SnapshotWriter};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Bytes of one piece of a snapshot.
const CHUNK_BYTES: usize = 64 << 10;
/// Clients tell a whole snapshot by its size: a multiple of this, and a hash.
const BLOCK: u64 = 512;

impl Door {
    /// Bytes that the state takes: on disk, but no fewer than those in use. What was written
    /// last is only in memory yet, and tables on disk are packed.
    pub(crate) fn db_size(&self, in_use: u64) -> u64 {
        self.handle().disk_bytes().max(in_use)
    }

    /// What is wrong with the cluster, in etcd's words.
    pub(crate) fn alarm_words(&self) -> Vec<String> {
        let published = self.handle().published();
        let words = published.alarms().iter().map(|(member, kind)| {
            let kind = match kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            format!("memberID:{} alarm:{kind} ", member.0)
        });
        words.collect()
    }

    fn alarms(&self, wanted: pb::AlarmType) -> Vec<pb::AlarmMember> {
        let published = self.handle().published();
        let all = published.alarms().iter().map(|(member, kind)| pb::AlarmMember {
            member_id: member.0,
            alarm: alarm_type(*kind).into(),
        });
        all.filter(|a| wanted == pb::AlarmType::None || a.alarm == i32::from(wanted)).collect()
    }
}

fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

type SnapshotPieces = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

/// Streams the state: our export format, zeros up to a block less eight bytes,
/// the format's length (u64, little-endian), then the SHA-256 of all before.
fn stream_snapshot(
    published: Arc<Published<HostView>>,
    header: pb::ResponseHeader,
    tx: &SnapshotPieces,
) -> Result<(), Status> {
    let writer = SnapshotWriter::new(published, CHUNK_BYTES);
    // A first pass counts, so that "remaining" is exact.
    let mut cursor = SnapshotCursor::default();
    while let Some((_, next)) = writer.chunk(&cursor).map_err(error::of_store)? {
        cursor = next;
    }
    let length = cursor.offset();
    let padded = (length + 8).div_ceil(BLOCK) * BLOCK;
    let mut remaining = padded + 32;
    let mut hash = Sha256::new();
    let mut send = |blob: Bytes| {
        remaining -= blob.len() as u64;
        let response = pb::SnapshotResponse {
            header: Some(header),
            remaining_bytes: remaining,
            blob,
            version: ETCD_VERSION.into(),
        };
        tx.blocking_send(Ok(response)).map_err(|_| Status::cancelled("the client is gone"))
    };
    let mut cursor = SnapshotCursor::default();
    while let Some((chunk, next)) = writer.chunk(&cursor).map_err(error::of_store)? {
        hash.update(&chunk);
        send(chunk)?;
        cursor = next;
    }
    let mut padding = vec![0; (padded - length) as usize];
    let at = padding.len() - 8;
    padding[at..].copy_from_slice(&length.to_le_bytes());
    hash.update(&padding);
    send(padding.into())?;
    send(Bytes::copy_from_slice(&hash.finalize()))
}

/// A version is `major.minor` or `major.minor.patch`.
fn check_version(version: &str) -> Result<(), Status> {
    let parts: Vec<&str> = version.split('.').collect();
    let numbers = parts.iter().all(|p| p.parse::<u64>().is_ok());
    if numbers && (2..=3).contains(&parts.len()) {
        Ok(())
    } else {
        Err(error::bad_version_format())
    }
}

#[tonic::async_trait]
impl Maintenance for Door {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        let r = request.into_inner();
        let kind = pb::AlarmType::try_from(r.alarm).unwrap_or(pb::AlarmType::None);
        let action = AlarmAction::try_from(r.action).unwrap_or(AlarmAction::Get);
        if action == AlarmAction::Get {
            let header = Some(self.header_now());
            return Ok(Response::new(pb::AlarmResponse { header, alarms: self.alarms(kind) }));
        }
        let raise = action == AlarmAction::Activate;
        let (member, kind) = match kind {
            pb::AlarmType::Nospace => (NodeId(r.member_id), AlarmKind::NoSpace),
            pb::AlarmType::Corrupt => (NodeId(r.member_id), AlarmKind::Corrupt),
            pb::AlarmType::None => {
                let header = Some(self.header_now());
                return Ok(Response::new(pb::AlarmResponse { header, alarms: Vec::new() }));
            }
        };
        // What was not raised is not among the alarms that were cleared.
        let was_raised = self.handle().published().alarms().contains(&(member, kind));
        let (_, header) = self.run(Command::Alarm { raise, member, kind }).await?;
        let alarm = pb::AlarmMember { member_id: member.0, alarm: alarm_type(kind).into() };
        let alarms = if raise || was_raised { vec![alarm] } else { Vec::new() };
        Ok(Response::new(pb::AlarmResponse { header: Some(header), alarms }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let handle = self.handle();
        let (status, published) = (handle.status(), handle.published());
        let in_use = published.logical_size();
        let mut errors = self.alarm_words();
        if handle.leader().is_none() {
            errors.push("etcdserver: no leader".into());
        }
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.header_now()),
            version: ETCD_VERSION.into(),
            db_size: self.db_size(in_use) as i64,
            leader: handle.leader().map_or(0, |l| l.0),
            raft_index: status.consensus.commit.max(published.applied()),
            raft_term: handle.term(),
            raft_applied_index: published.applied(),
            errors,
            db_size_in_use: in_use as i64,
            is_learner: handle.is_learner(),
            storage_version: ETCD_VERSION.into(),
            db_size_quota: self.config().quota_bytes as i64,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    /// Space is reclaimed all the time, beside the writers: nothing is left to do.
    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(pb::DefragmentResponse { header: Some(self.header_now()) }))
    }

    async fn hash(
        &self,
        _: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        let hash = tokio::task::spawn_blocking(move || published.hash()).await;
        let hash = hash.map_err(|_| error::stopped())?.map_err(error::of_store)?;
        Ok(Response::new(pb::HashResponse { header: Some(header), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        let at = if revision == 0 { published.revision() } else { revision };
        let hash = tokio::task::spawn_blocking(move || published.hash_kv(at)).await;
        let hash = hash.map_err(|_| error::stopped())?.map_err(error::of_store)?;
        let hash = hash.map_err(error::of_state)?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(header),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        let (tx, rx) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            if let Err(status) = stream_snapshot(published, header, &tx) {
                let _ = tx.blocking_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = NodeId(request.into_inner().target_id);
        if !self.handle().leads() {
            return Err(error::not_leader());
        }
        if !self.handle().status().consensus.membership.voters.contains(&target) {
            return Err(error::bad_transferee());
        }
        if target != self.handle().id() {
            self.handle().transfer(Some(target)).await.map_err(error::of_request)?;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: Some(self.header_now()) }))
    }

    /// There is one version of the format, so nothing to go down to.
    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        use pb::downgrade_request::DowngradeAction;
        let r = request.into_inner();
        match DowngradeAction::try_from(r.action) {
            Ok(DowngradeAction::Cancel) => Err(error::no_downgrade()),
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                check_version(&r.version)?;
                Err(error::bad_downgrade_target())
            }
            Err(_) => Err(Status::invalid_argument("etcdserver: unknown downgrade action")),
        }
    }
}
