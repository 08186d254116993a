//! Monitoring of a node: what it scrapes without being told, and where its pages are.

use crate::Outcome;
use crate::rules::SHIPPED;
use crate::settings::{Settings, urls};
use bytes::Bytes;
use http::Request;
use std::sync::Arc;
use std::time::Duration;
use synod_coord::{InstanceRecord, ServiceMode, instance_key, prefix_range};
use synod_door_etcd::{MorePages, PageAnswer};
use synod_door_prom::config::Job;
use synod_door_prom::{
    INTERVAL, Monitor, Peer, RuleSettings, Settings as MonitorSettings, Surroundings,
};
use synod_host::Handle;
use synod_host::page::Format;
use synod_mvcc::RangeRequest;
use synod_promql::{Labels, duration_text};

/// Peers are scraped so many times less often than the node itself.
const PEERS_RARER: u32 = 5;
/// The job of all nodes: etcd's dashboards and alerts look for its name in it.
const JOB: &str = "synod-etcd";
/// Instances of a service that are looked at, at most.
const INSTANCES_MAX: i64 = 10_000;

/// A monitor's pages on the door's ports.
pub struct Pages(pub Monitor);

impl MorePages for Pages {
    fn is_mine(&self, path: &str) -> bool {
        Monitor::is_mine(path)
    }

    fn metrics(&self, format: Format) -> String {
        self.0.metrics(format)
    }

    fn answer(&self, request: Request<Bytes>) -> PageAnswer {
        let monitor = self.0.clone();
        Box::pin(async move { monitor.answer(request).await })
    }
}

/// Starts the node's monitor, if it is to have one.
pub fn start(settings: &Settings, handle: &Handle) -> Outcome<Option<Monitor>> {
    if !settings.monitor {
        return Ok(None);
    }
    let mut own = MonitorSettings::in_dir(&settings.data_dir.join("series"));
    own.limits.retention = settings.monitor_retention_s as i64 * 1_000;
    own.limits.retention_bytes = settings.monitor_retention_bytes;
    own.reserve = settings.monitor_reserve_bytes;
    own.limits.out_of_order = settings.monitor_out_of_order_s as i64 * 1_000;
    own.limits.block_range = settings.monitor_block_s as i64 * 1_000;
    own.limits.series = settings.monitor_series;
    own.sync_every = Duration::from_millis(settings.monitor_sync_ms);
    let config = &settings.monitor_config;
    own.config = (!config.as_os_str().is_empty()).then(|| config.clone());
    own.rules = rules(settings)?;
    let every = Duration::from_millis(settings.monitor_scrape_ms);
    let (looks, registered, others) = (handle.clone(), handle.clone(), handle.clone());
    let data = settings.data_dir.clone();
    let around = Surroundings {
        node: settings.name.clone(),
        job: Job::new(JOB, every),
        members: Arc::new(move || members(&looks, every)),
        registry: Arc::new(move |service| instances(&registered, service)),
        peers: Arc::new(move || peers(&others)),
        disk: Arc::new(move || synod_host::machine::disk(&data)),
    };
    Monitor::start(own, around).map(Some).map_err(|e| e.to_string())
}

/// Which rules are evaluated, and who is told of alerts.
fn rules(settings: &Settings) -> Outcome<RuleSettings> {
    let mut rules = RuleSettings {
        files: urls(&settings.monitor_rules),
        alertmanagers: urls(&settings.monitor_alertmanagers),
        webhooks: urls(&settings.monitor_webhooks),
        ..RuleSettings::default()
    };
    for url in rules.alertmanagers.iter().chain(&rules.webhooks) {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(format!("{url:?} does not begin with http:// or https://"));
        }
    }
    for pair in urls(&settings.monitor_external_labels) {
        let (name, value) = pair
            .split_once('=')
            .filter(|(n, _)| !n.is_empty())
            .ok_or_else(|| format!("monitor-external-labels: {pair:?} is not NAME=VALUE"))?;
        rules.external_labels.push((name.to_owned(), value.to_owned()));
    }
    if settings.monitor_shipped_rules {
        rules.shipped.push((SHIPPED.0.to_owned(), SHIPPED.1.to_owned()));
    }
    // Pages are on the clients' port too, which others know how to reach.
    let shown = urls(&settings.advertise_client_urls).into_iter().next().unwrap_or_default();
    rules.external_url = shown.trim_end_matches('/').to_owned();
    Ok(rules)
}

/// Reads the configuration again, if there is one; a mistake in it is told.
pub fn reload(monitor: Option<&Monitor>) {
    if let Some(Err(why)) = monitor.map(Monitor::reload) {
        tracing::error!(error = why, "the monitor's configuration stays as it was");
    }
}

/// The members of the cluster, as this one knows them.
fn members(handle: &Handle, every: Duration) -> Vec<Labels> {
    let published = handle.published();
    let labels = |(id, member): (&_, &synod_mvcc::MemberInfo)| {
        let url = member.client_urls.first()?;
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let every = if *id == handle.id() { every } else { every * PEERS_RARER };
        Some(Labels::new([
            ("__address__", address),
            (INTERVAL, &duration_text(every.as_millis() as i64)),
            ("cluster", &format!("{:x}", handle.cluster_id())),
            ("node", &member.name),
        ]))
    };
    published.members().iter().filter_map(labels).collect()
}

/// The other members, where clients reach them.
fn peers(handle: &Handle) -> Vec<Peer> {
    let published = handle.published();
    let peer = |(id, member): (&_, &synod_mvcc::MemberInfo)| {
        let url = member.client_urls.first().filter(|_| *id != handle.id())?;
        Some(Peer { name: member.name.clone(), url: url.trim_end_matches('/').to_owned() })
    };
    published.members().iter().filter_map(peer).collect()
}

/// The instances of a service, as this node's copy of the registry has them: without a
/// quorum, and perhaps a moment old.
fn instances(handle: &Handle, service: &str) -> Result<Vec<Labels>, String> {
    let prefix = instance_key(service, "");
    let range = prefix_range(prefix.as_bytes());
    let request = RangeRequest { range, limit: INSTANCES_MAX, ..RangeRequest::default() };
    let found = handle.published().range(&request).map_err(|e| e.to_string())?;
    let found = found.map_err(|e| format!("the registry of {service}: {e:?}"))?;
    let labels = |kv: &synod_mvcc::KeyValue| {
        let record = InstanceRecord::decode(&kv.value).filter(|r| !r.address.is_empty())?;
        let name = String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
        let healthy = match record.healthy {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        let mode = match record.mode {
            ServiceMode::ActivePassive => "active/passive",
            ServiceMode::ActiveActive => "active/active",
        };
        Some(Labels::new([
            ("__address__", &*record.address),
            ("__meta_synod_service", service),
            ("__meta_synod_instance", &name),
            ("__meta_synod_mode", mode),
            ("__meta_synod_active", if record.active { "true" } else { "false" }),
            ("__meta_synod_healthy", healthy),
        ]))
    };
    Ok(found.kvs.iter().filter_map(labels).collect())
}
