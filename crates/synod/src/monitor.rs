//! Monitoring of a node: what it scrapes without being told, and where its pages are.

use crate::Outcome;
use crate::settings::Settings;
use bytes::Bytes;
use http::Request;
use std::time::Duration;
use synod_door_etcd::{MorePages, PageAnswer};
use synod_door_prom::{Monitor, Settings as MonitorSettings, Target};
use synod_host::Handle;

/// Peers are scraped so many times less often than the node itself.
const PEERS_RARER: u32 = 5;
/// The job of all nodes: etcd's dashboards and alerts look for its name in it.
const JOB: &str = "synod-etcd";

/// A monitor's pages on the door's ports.
pub struct Pages(pub Monitor);

impl MorePages for Pages {
    fn is_mine(&self, path: &str) -> bool {
        Monitor::is_mine(path)
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
    own.limits.series = settings.monitor_series;
    own.sync_every = Duration::from_millis(settings.monitor_sync_ms);
    let (handle, every) = (handle.clone(), Duration::from_millis(settings.monitor_scrape_ms));
    let monitor = Monitor::start(own, move || members(&handle, every));
    monitor.map(Some).map_err(|e| e.to_string())
}

/// The members of the cluster, as this one knows them.
fn members(handle: &Handle, every: Duration) -> Vec<Target> {
    let published = handle.published();
    let target = |(id, member): (&_, &synod_mvcc::MemberInfo)| {
        let url = member.client_urls.first()?;
        let instance = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let every = if *id == handle.id() { every } else { every * PEERS_RARER };
        Some(Target {
            job: JOB.into(),
            url: format!("http://{instance}/metrics"),
            instance,
            labels: vec![
                ("cluster".into(), format!("{:x}", handle.cluster_id())),
                ("node".into(), member.name.clone()),
            ],
            every,
            timeout: every.min(Duration::from_secs(10)),
        })
    };
    published.members().iter().filter_map(target).collect()
}
