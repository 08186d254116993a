//! Services: their instances, what those report of themselves, and which is active. The
//! rules are those of [`synod_coord`]; here they meet the keyspace.

use super::session::no_session;
use crate::door::Door;
use crate::error;
use crate::queue::unix_ms;
use std::time::Duration;
use synod_coord::{
    Instance, InstanceRecord, OFFICES, Report, SERVICES, SILENCES, ServiceMode, Unregistered,
    check_service_name, follower, handover_key, hands_over, instance_key, office, prefix_range,
    read_instances, register, report_key, silence_key,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::service_server::Service;
use synod_host::HostView;
use synod_mvcc::{Command, KeyRange, KeyValue, Published, PutRequest, RangeRequest};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

/// Longest words about what is wrong, bytes.
const WHY_BYTES_MAX: usize = 256;
/// Longest address, bytes.
const ADDRESS_BYTES_MAX: usize = 1_024;
/// How long a follower is waited for by default.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

fn bad(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("synod: {why}"))
}

fn short(what: &str, text: &str, most: usize) -> Result<(), Status> {
    let told = || bad(format!("{what} is told in at most {most} bytes"));
    if text.len() > most { Err(told()) } else { Ok(()) }
}

/// The record that a request asks for.
fn record_of(r: &v1::ServiceRegisterRequest) -> Result<InstanceRecord, Status> {
    check_service_name("service", &r.service).map_err(bad)?;
    check_service_name("instance", &r.instance).map_err(bad)?;
    short("what is wrong", &r.why, WHY_BYTES_MAX)?;
    short("an address", &r.address, ADDRESS_BYTES_MAX)?;
    if r.session <= 0 {
        return Err(bad("a session is needed: Session/Open gives one"));
    }
    let mode = match v1::ServiceMode::try_from(r.mode) {
        Ok(v1::ServiceMode::ActivePassive) => ServiceMode::ActivePassive,
        Ok(v1::ServiceMode::ActiveActive) => ServiceMode::ActiveActive,
        Err(_) => return Err(bad(format!("there is no service mode {}", r.mode))),
    };
    let healthy = match v1::InstanceHealth::try_from(r.health) {
        Ok(v1::InstanceHealth::NotChecked) => None,
        Ok(v1::InstanceHealth::Healthy) => Some(true),
        Ok(v1::InstanceHealth::Failing) => Some(false),
        Err(_) => return Err(bad(format!("there is no health {}", r.health))),
    };
    Ok(InstanceRecord {
        address: r.address.clone(),
        mode,
        healthy,
        why: r.why.clone(),
        active: r.active,
        token: r.token,
        since_ms: unix_ms(),
    })
}

fn told(i: Instance) -> v1::ServiceInstance {
    let mode = match i.record.mode {
        ServiceMode::ActivePassive => v1::ServiceMode::ActivePassive,
        ServiceMode::ActiveActive => v1::ServiceMode::ActiveActive,
    };
    let health = match i.record.healthy {
        None => v1::InstanceHealth::NotChecked,
        Some(true) => v1::InstanceHealth::Healthy,
        Some(false) => v1::InstanceHealth::Failing,
    };
    v1::ServiceInstance {
        active: i.is_active(),
        service: i.service,
        instance: i.instance,
        session: i.session,
        address: i.record.address,
        mode: mode.into(),
        health: health.into(),
        why: i.record.why,
        token: i.record.token,
        since_ms: i.record.since_ms,
        silent: i.silent.unwrap_or_default(),
        ends_ms: i.ends_ms,
    }
}

/// All pairs below a prefix.
fn pairs(published: &Published<HostView>, prefix: &str) -> Result<Vec<KeyValue>, Status> {
    let range = prefix_range(prefix.as_bytes());
    let found = published.range(&RangeRequest { range, ..RangeRequest::default() });
    Ok(found.map_err(error::of_store)?.map_err(error::of_state)?.kvs)
}

/// The instances of a service, or of all if it is empty.
fn instances(published: &Published<HostView>, service: &str) -> Result<Vec<Instance>, Status> {
    let below = |all: &str, of: String| if service.is_empty() { all.to_owned() } else { of };
    let records = pairs(published, &below(SERVICES, instance_key(service, "")))?;
    let silences = pairs(published, &below(SILENCES, silence_key(service, "")))?;
    let offices = pairs(published, &below(OFFICES, format!("{}/", office(service))))?;
    let mut all = read_instances(&records, &silences, &offices);
    for one in &mut all {
        let times = published.lease_times(one.session).map_err(error::of_store)?;
        one.ends_ms = times.map_or(0, |(_, ends)| ends);
    }
    Ok(all)
}

impl Door {
    /// The instances of a service (of all if it is empty) as this member has them.
    async fn instances(
        &self,
        service: &str,
    ) -> Result<(Vec<Instance>, pb::ResponseHeader), Status> {
        let published = self.handle().published();
        let header = self.header(published.revision(), self.handle().term());
        let service = service.to_owned();
        let read = tokio::task::spawn_blocking(move || instances(&published, &service)).await;
        Ok((read.map_err(|_| error::stopped())??, header))
    }

    async fn register(
        &self,
        r: v1::ServiceRegisterRequest,
    ) -> Result<v1::ServiceRegisterResponse, Status> {
        let record = record_of(&r)?;
        let own = (&r.service[..], &r.instance[..]);
        let mut asked_others = false;
        loop {
            let range = prefix_range(instance_key(&r.service, "").as_bytes());
            let (there, seen) = self.read(RangeRequest { range, ..Default::default() }).await?;
            match register(own, r.session, &record, &there.kvs, seen.revision) {
                Ok(txn) => {
                    let (done, header) = self.run_txn(txn).await.map_err(|e| match e.code() {
                        Code::NotFound => no_session(r.session),
                        _ => e,
                    })?;
                    if done.succeeded {
                        return Ok(v1::ServiceRegisterResponse { header: Some(header) });
                    }
                }
                Err(why) if asked_others => return Err(unregistered(&r, &why)),
                // It may have ended at another member a moment ago.
                Err(_) => asked_others = true,
            }
            self.read_barrier(false).await?;
        }
    }

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
        short("what is wrong", &r.why, WHY_BYTES_MAX)?;
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
            Code::NotFound => unknown(),
            _ => e,
        })?;
        Ok(v1::ServiceReportResponse { header: Some(header) })
    }

    async fn service_list(
        &self,
        r: v1::ServiceListRequest,
    ) -> Result<v1::ServiceListResponse, Status> {
        self.read_barrier(false).await?;
        let (all, header) = self.instances(&r.service).await?;
        let instances = all.into_iter().map(told).collect();
        Ok(v1::ServiceListResponse { header: Some(header), instances })
    }

    async fn service_health(
        &self,
        r: v1::ServiceHealthRequest,
    ) -> Result<v1::ServiceHealthResponse, Status> {
        check_service_name("service", &r.service).map_err(bad)?;
        self.read_barrier(false).await?;
        let (all, header) = self.instances(&r.service).await?;
        let count = |is: fn(&Instance) -> bool| all.iter().filter(|i| is(i)).count() as u32;
        Ok(v1::ServiceHealthResponse {
            header: Some(header),
            active: count(Instance::is_active),
            healthy: count(Instance::is_healthy),
            instances: all.len() as u32,
        })
    }

    async fn failover(
        &self,
        r: v1::ServiceFailoverRequest,
    ) -> Result<v1::ServiceFailoverResponse, Status> {
        check_service_name("service", &r.service).map_err(bad)?;
        self.read_barrier(false).await?;
        let (all, _) = self.instances(&r.service).await?;
        let refused = |why: String| Status::failed_precondition(format!("synod: {why}"));
        let before = hands_over(&r.service, &all, &r.to).map_err(refused)?;
        let (key, value) = (handover_key(&r.service).into(), r.to.clone().into());
        // It concerns the one that is active now, and lasts no longer.
        let put = PutRequest { key, value, lease: before.session, ..PutRequest::default() };
        let (_, asked) = self.run(Command::Put(put)).await.map_err(|e| match e.code() {
            Code::NotFound => refused(format!("{} has just ended by itself", before.instance)),
            _ => e,
        })?;
        let within = match r.wait_ms {
            0 => FOLLOWED_WITHIN,
            ms => Duration::from_millis(ms),
        };
        let followed = self.followed(before, &r.to, asked.revision);
        match tokio::time::timeout_at(Instant::now() + within, followed).await {
            Ok(done) => done,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "synod: {} was asked to step down, and {} followed within {within:?}",
                before.instance,
                if r.to.is_empty() { "nobody has".into() } else { format!("{} has not", r.to) },
            ))),
        }
    }

    /// Waits until another has followed the active instance.
    async fn followed(
        &self,
        before: &Instance,
        to: &str,
        mut seen: i64,
    ) -> Result<v1::ServiceFailoverResponse, Status> {
        loop {
            let range = prefix_range(instance_key(&before.service, "").as_bytes());
            self.changed(range, seen + 1, false).await;
            let (all, header) = self.instances(&before.service).await?;
            seen = header.revision;
            if let Some(after) = follower(&all, before, to) {
                return Ok(v1::ServiceFailoverResponse {
                    header: Some(header),
                    instance: after.instance.clone(),
                    token: after.record.token,
                });
            }
        }
    }
}

fn unregistered(r: &v1::ServiceRegisterRequest, why: &Unregistered) -> Status {
    let (service, instance) = (&r.service, &r.instance);
    let words = format!("synod: {service}/{instance} cannot be registered: {why}");
    match why {
        Unregistered::Taken(_) => Status::already_exists(words),
        Unregistered::Another(_) | Unregistered::OtherMode(..) => {
            Status::failed_precondition(words)
        }
    }
}

#[tonic::async_trait]
impl Service for Door {
    async fn register(
        &self,
        request: Request<v1::ServiceRegisterRequest>,
    ) -> Result<Response<v1::ServiceRegisterResponse>, Status> {
        Door::register(self, request.into_inner()).await.map(Response::new)
    }

    async fn report(
        &self,
        request: Request<v1::ServiceReportRequest>,
    ) -> Result<Response<v1::ServiceReportResponse>, Status> {
        Door::report(self, request.into_inner()).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::ServiceListRequest>,
    ) -> Result<Response<v1::ServiceListResponse>, Status> {
        Door::service_list(self, request.into_inner()).await.map(Response::new)
    }

    async fn health(
        &self,
        request: Request<v1::ServiceHealthRequest>,
    ) -> Result<Response<v1::ServiceHealthResponse>, Status> {
        Door::service_health(self, request.into_inner()).await.map(Response::new)
    }

    async fn failover(
        &self,
        request: Request<v1::ServiceFailoverRequest>,
    ) -> Result<Response<v1::ServiceFailoverResponse>, Status> {
        Door::failover(self, request.into_inner()).await.map(Response::new)
    }
}
