//! Services: what their instances report of themselves.

use crate::door::Door;
use synod_coord::{InstanceRecord, Report, instance_key, report_key};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::service_server::Service;
use synod_mvcc::{Command, KeyRange, KeyValue, PutRequest, RangeRequest};
use tonic::{Request, Response, Status};

/// Longest words about what is wrong, bytes.
const WHY_BYTES_MAX: usize = 256;

impl Door {
    /// The pair of an instance, as this member has it.
    async fn instance(&self, service: &str, instance: &str) -> Result<Option<KeyValue>, Status> {
        let key = instance_key(service, instance).into();
        let range = KeyRange { key, end: Default::default() };
        let (found, _) = self.read(RangeRequest { range, ..RangeRequest::default() }).await?;
        let is_one = |kv: &KeyValue| kv.lease != 0 && InstanceRecord::decode(&kv.value).is_some();
        Ok(found.kvs.into_iter().find(is_one))
    }

    async fn report(
        &self,
        r: v1::ServiceReportRequest,
    ) -> Result<v1::ServiceReportResponse, Status> {
        if r.why.len() > WHY_BYTES_MAX {
            let why = format!("synod: what is wrong is told in at most {WHY_BYTES_MAX} bytes");
            return Err(Status::invalid_argument(why));
        }
        let unknown = || {
            let (service, instance) = (&r.service, &r.instance);
            Status::not_found(format!("synod: service {service:?} has no instance {instance:?}"))
        };
        let mut found = self.instance(&r.service, &r.instance).await?;
        if found.is_none() {
            // It may have been registered at another member a moment ago.
            self.read_barrier(false).await?;
            found = self.instance(&r.service, &r.instance).await?;
        }
        // The report lasts as long as the instance.
        let lease = found.ok_or_else(unknown)?.lease;
        let value = Report { healthy: r.healthy, why: r.why.clone() }.encode();
        let key = report_key(&r.service, &r.instance).into();
        let put = Command::Put(PutRequest { key, value, lease, ..PutRequest::default() });
        let (_, header) = self.run(put).await.map_err(|e| match e.code() {
            tonic::Code::NotFound => unknown(),
            _ => e,
        })?;
        Ok(v1::ServiceReportResponse { header: Some(header) })
    }
}

#[tonic::async_trait]
impl Service for Door {
    async fn report(
        &self,
        request: Request<v1::ServiceReportRequest>,
    ) -> Result<Response<v1::ServiceReportResponse>, Status> {
        Door::report(self, request.into_inner()).await.map(Response::new)
    }
}
