//! Services: their instances, and which of them are active.

use crate::{Client, Error};
use std::time::Duration;
use synod_coord::{Instance, InstanceRecord, ServiceMode};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::service_client::ServiceClient;

/// How many instances a service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceHealth {
    /// Those that clients are to be sent to.
    pub active: u32,
    /// Those that could serve.
    pub healthy: u32,
    /// All.
    pub instances: u32,
}

impl Client {
    /// Makes a session an instance of a service, or changes what is known of it as one
    /// (all of the record but its time, which is the server's); it is one as long as the
    /// session lasts. [`Error::Taken`] if another session is this instance.
    ///
    /// In mode active/passive an instance that is healthy contends for the lock
    /// `synod/office/SERVICE`; its holder is active, and tells so with the lock's token.
    pub async fn register(
        &self,
        service: &str,
        instance: &str,
        session: i64,
        record: &InstanceRecord,
    ) -> Result<(), Error> {
        let (mode, health) = words(record);
        let register = v1::ServiceRegisterRequest {
            service: service.into(),
            instance: instance.into(),
            session,
            address: record.address.clone(),
            mode: mode.into(),
            health: health.into(),
            why: record.why.clone(),
            active: record.active,
            token: record.token,
        };
        let register = |channel| {
            let register = register.clone();
            async move { ServiceClient::new(channel).register(register).await }
        };
        self.again(register).await.map(drop)
    }

    /// All instances, or those of one service, as the whole cluster has them.
    pub async fn instances(&self, service: Option<&str>) -> Result<Vec<Instance>, Error> {
        let list = v1::ServiceListRequest { service: service.unwrap_or_default().into() };
        let list = |channel| {
            let list = list.clone();
            async move { ServiceClient::new(channel).list(list).await }
        };
        Ok(self.again(list).await?.instances.into_iter().map(instance).collect())
    }

    /// How many instances of a service there are, and how they are.
    pub async fn service_health(&self, service: &str) -> Result<ServiceHealth, Error> {
        let health = |channel| {
            let health = v1::ServiceHealthRequest { service: service.into() };
            async move { ServiceClient::new(channel).health(health).await }
        };
        let r = self.again(health).await?;
        Ok(ServiceHealth { active: r.active, healthy: r.healthy, instances: r.instances })
    }

    /// Asks the active instance of a service to leave the office to another (to `to`, if
    /// it is given), and waits until that has followed: its name and its token.
    pub async fn failover(
        &self,
        service: &str,
        to: Option<&str>,
        within: Duration,
    ) -> Result<(String, i64), Error> {
        let failover = v1::ServiceFailoverRequest {
            service: service.into(),
            to: to.unwrap_or_default().into(),
            wait_ms: (within.as_millis() as u64).max(1),
        };
        // It is not made twice, since that might move it twice: first a call that may,
        // to find a member that answers.
        self.service_health(service).await?;
        let (number, channel) = self.endpoints.current();
        let done = ServiceClient::new(channel).failover(failover).await;
        let after = self.note(number, done)?.into_inner();
        Ok((after.instance, after.token))
    }
}

fn words(record: &InstanceRecord) -> (v1::ServiceMode, v1::InstanceHealth) {
    let mode = match record.mode {
        ServiceMode::ActivePassive => v1::ServiceMode::ActivePassive,
        ServiceMode::ActiveActive => v1::ServiceMode::ActiveActive,
    };
    let health = match record.healthy {
        None => v1::InstanceHealth::NotChecked,
        Some(true) => v1::InstanceHealth::Healthy,
        Some(false) => v1::InstanceHealth::Failing,
    };
    (mode, health)
}

fn instance(i: v1::ServiceInstance) -> Instance {
    let mode = match i.mode() {
        v1::ServiceMode::ActivePassive => ServiceMode::ActivePassive,
        v1::ServiceMode::ActiveActive => ServiceMode::ActiveActive,
    };
    let healthy = match i.health() {
        v1::InstanceHealth::NotChecked => None,
        health => Some(health == v1::InstanceHealth::Healthy),
    };
    let record = InstanceRecord {
        address: i.address,
        mode,
        healthy,
        why: i.why,
        active: i.active,
        token: i.token,
        since_ms: i.since_ms,
    };
    let in_office = i.active && mode == ServiceMode::ActivePassive;
    let silent = Some(i.silent).filter(|why| !why.is_empty());
    let (service, instance) = (i.service, i.instance);
    Instance {
        service,
        instance,
        session: i.session,
        ends_ms: i.ends_ms,
        record,
        silent,
        in_office,
    }
}
