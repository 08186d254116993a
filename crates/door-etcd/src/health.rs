//! gRPC's standard health check: serving means that a leader is known.

use crate::door::Door;
use crate::gateway::POOL;
use std::pin::Pin;
use std::time::Duration;
use synod_etcd_proto::healthpb::health_check_response::ServingStatus;
use synod_etcd_proto::healthpb::health_server::Health;
use synod_etcd_proto::healthpb::{HealthCheckRequest, HealthCheckResponse};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Door {
    fn serving(&self) -> HealthCheckResponse {
        let up = self.handle().leader().is_some();
        let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status.into() }
    }
}

/// The server as a whole, or one of its services.
fn is_known(service: &str) -> bool {
    service.is_empty() || POOL.get_service_by_name(service).is_some()
}

#[tonic::async_trait]
impl Health for Door {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.into_inner().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(self.serving()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        let (door, known) = (self.clone(), is_known(&request.into_inner().service));
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
                let now = if known { door.serving() } else { unknown };
                if last != Some(now.status) && tx.send(Ok(now)).await.is_err() {
                    return;
                }
                last = Some(now.status);
                tokio::select! {
                    () = tx.closed() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}
