//! tonic's services in front of the door's functions, for every call that does
//! not run on the bare stream.

use crate::coord::fence_of;
use crate::door::Door;
use crate::{convert, error};
use std::pin::Pin;
use synod_etcd_proto::DESCRIPTORS;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::auth_server::AuthServer;
use synod_etcd_proto::etcdserverpb::cluster_server::ClusterServer;
use synod_etcd_proto::etcdserverpb::kv_server::{Kv, KvServer};
use synod_etcd_proto::etcdserverpb::lease_server::LeaseServer;
use synod_etcd_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use synod_etcd_proto::healthpb::health_server::HealthServer;
use synod_etcd_proto::synod::v1::election_server::ElectionServer as SynodElectionServer;
use synod_etcd_proto::synod::v1::file_server::FileServer;
use synod_etcd_proto::synod::v1::lock_server::LockServer as SynodLockServer;
use synod_etcd_proto::synod::v1::service_server::ServiceServer;
use synod_etcd_proto::synod::v1::session_server::SessionServer;
use synod_etcd_proto::v3electionpb::election_server::ElectionServer;
use synod_etcd_proto::v3lockpb::lock_server::LockServer;
use synod_mvcc::RangeRequest;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// All services that run through tonic.
pub(crate) fn routes(door: &Door) -> Routes {
    // etcd's own margin over the largest request: what else is in a message.
    let most = door.config().request_bytes_max + (512 << 10);
    let d = || door.clone();
    let reflection = || {
        let all = tonic_reflection::server::Builder::configure();
        all.register_encoded_file_descriptor_set(DESCRIPTORS)
    };
    // Compiled into this binary: they decode, or no test passes.
    let newer = reflection().build_v1().expect("the descriptors of this build");
    // Many tools ask by the older name only.
    let older = reflection().build_v1alpha().expect("the descriptors of this build");
    Routes::new(KvServer::new(d()).max_decoding_message_size(most))
        .add_service(LeaseServer::new(d()).max_decoding_message_size(most))
        .add_service(ClusterServer::new(d()).max_decoding_message_size(most))
        .add_service(MaintenanceServer::new(d()).max_decoding_message_size(most))
        .add_service(AuthServer::new(d()).max_decoding_message_size(most))
        .add_service(LockServer::new(d()).max_decoding_message_size(most))
        .add_service(ElectionServer::new(d()).max_decoding_message_size(most))
        .add_service(SessionServer::new(d()).max_decoding_message_size(most))
        .add_service(SynodLockServer::new(d()).max_decoding_message_size(most))
        .add_service(FileServer::new(d()).max_decoding_message_size(most))
        .add_service(SynodElectionServer::new(d()).max_decoding_message_size(most))
        .add_service(ServiceServer::new(d()).max_decoding_message_size(most))
        .add_service(HealthServer::new(d()))
        .add_service(newer)
        .add_service(older)
        .prepare()
}

/// Pairs read for one piece of a streamed range.
const STREAM_PAIRS: i64 = 500;
/// Bytes of one piece.
const STREAM_BYTES: usize = 1 << 20;

#[tonic::async_trait]
impl Kv for Door {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        Door::range(self, request.into_inner()).await.map(Response::new)
    }

    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let r = request.into_inner();
        if r.key.is_empty() {
            return Err(error::key_not_provided());
        }
        let filtered = r.min_mod_revision != 0
            || r.max_mod_revision != 0
            || r.min_create_revision != 0
            || r.max_create_revision != 0;
        if filtered || r.sort_order != 0 || r.sort_target != 0 {
            return Err(Status::unimplemented(
                "etcdserver: RangeStream neither sorts nor filters by revision",
            ));
        }
        let serializable = r.serializable;
        let request = convert::range(r)?;
        self.read_barrier(serializable).await?;
        let (tx, rx) = tokio::sync::mpsc::channel(2);
        let door = self.clone();
        tokio::task::spawn_blocking(move || stream_range(&door, request, &tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let fence = fence_of(request.metadata().as_ref())?;
        Door::put(self, request.into_inner(), fence).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let fence = fence_of(request.metadata().as_ref())?;
        Door::delete_range(self, request.into_inner(), fence).await.map(Response::new)
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let fence = fence_of(request.metadata().as_ref())?;
        Door::txn(self, request.into_inner(), fence).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Door::compact(self, request.into_inner()).await.map(Response::new)
    }
}

type Pieces = tokio::sync::mpsc::Sender<Result<pb::RangeStreamResponse, Status>>;

/// Sends a range in pieces from one pinned view. What the client does not take
/// is not read.
fn stream_range(door: &Door, request: RangeRequest, tx: &Pieces) {
    let published = door.handle().published();
    let header = door.header(published.revision(), door.handle().term());
    let wanted = if request.limit > 0 { request.limit } else { i64::MAX };
    let mut piece = request.clone();
    let (mut sent, mut total) = (0, None);
    loop {
        piece.limit = STREAM_PAIRS.min(wanted - sent).max(1);
        let result = match published.range(&piece) {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => return drop(tx.blocking_send(Err(error::of_state(e)))),
            Err(e) => return drop(tx.blocking_send(Err(error::of_store(e)))),
        };
        let total = *total.get_or_insert(result.count);
        sent += result.kvs.len() as i64;
        let last = request.count_only || !result.more || sent >= wanted;
        if let Some(kv) = result.kvs.last() {
            // Go on right behind the last key.
            let mut next = kv.key.to_vec();
            next.push(0);
            piece.range.key = next.into();
        }
        let kvs = result.kvs.into_iter().map(convert::key_value).collect();
        let mut response = pb::RangeResponse { kvs, ..Default::default() };
        if last {
            response.header = Some(header);
            response.count = total;
            response.more = sent < total && !request.count_only;
        }
        for response in split(response) {
            let piece = pb::RangeStreamResponse { range_response: Some(response) };
            if tx.blocking_send(Ok(piece)).is_err() {
                return;
            }
        }
        if last {
            return;
        }
    }
}

/// Cuts a piece whose values are large.
fn split(mut response: pb::RangeResponse) -> Vec<pb::RangeResponse> {
    let mut pieces = Vec::new();
    let mut kvs = Vec::new();
    let mut bytes = 0;
    for kv in std::mem::take(&mut response.kvs) {
        let size = kv.key.len() + kv.value.len();
        if bytes > 0 && bytes + size > STREAM_BYTES {
            let kvs = std::mem::take(&mut kvs);
            pieces.push(pb::RangeResponse { kvs, ..Default::default() });
            bytes = 0;
        }
        bytes += size;
        kvs.push(kv);
    }
    response.kvs = kvs;
    pieces.push(response);
    pieces
}
