//! A tonic server that does nothing: it decodes a request and answers with a value. What
//! it reaches is the bound of any server on tonic, measured by the same load.

use crate::Outcome;
use clap::Args;
use std::net::SocketAddr;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_server::{Kv, KvServer};
use synod_etcd_proto::mvccpb::KeyValue;
use tonic::{Request, Response, Status};

/// Arguments of `synod bench nothing`.
#[derive(Args)]
pub struct NothingArgs {
    /// Where it listens
    #[arg(
        long,
        env = "SYNOD_ENDPOINTS",
        default_value = "127.0.0.1:2379",
        value_name = "HOST:PORT"
    )]
    listen: SocketAddr,
}

struct Nothing(pb::RangeResponse);

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("this server answers ranges and puts, and does nothing"))
}

#[tonic::async_trait]
impl Kv for Nothing {
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        Ok(Response::new(self.0.clone()))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        Ok(Response::new(pb::PutResponse::default()))
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        not_here()
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        not_here()
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        not_here()
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        not_here()
    }
}

/// Serves until it is ended.
pub async fn run(args: NothingArgs) -> Outcome {
    let kv = KeyValue {
        key: super::loads::key(0),
        value: vec![b'a'; 256].into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        ..Default::default()
    };
    let answer = pb::RangeResponse { count: 1, kvs: vec![kv], ..Default::default() };
    let server = tonic::transport::Server::builder().tcp_nodelay(true);
    let mut server = server.initial_connection_window_size(16 << 20);
    let served = server.add_service(KvServer::new(Nothing(answer))).serve(args.listen).await;
    served.map_err(|e| format!("cannot serve on {}: {e}", args.listen))
}
