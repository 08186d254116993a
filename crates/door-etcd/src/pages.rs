//! Pages for people, probes and monitoring.

use crate::door::{Door, ETCD_VERSION};
use http::{HeaderMap, Method, StatusCode, header};
use std::collections::BTreeSet;
use std::time::SystemTime;
use synod_cell::CellEvent;
use synod_consensus::Event;
use synod_host::page::Format;
use synod_mvcc::{AlarmKind, KeyRange, RangeRequest};

/// A page: status, type, text.
pub(crate) type Page = (StatusCode, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Text format of Prometheus, version 0.0.4.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const LIVE_CHECKS: [&str; 1] = ["serializable_read"];
const READY_CHECKS: [&str; 4] =
    ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

impl Door {
    /// The page at this path, if it is one of ours.
    pub(crate) async fn page(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        format: Format,
    ) -> Option<Page> {
        let known = matches!(
            path,
            "/version"
                | "/health"
                | "/metrics"
                | "/synod/cell"
                | "/synod/leadership"
                | "/synod/events"
        ) || path == "/livez"
            || path == "/readyz"
            || path.starts_with("/livez/")
            || path.starts_with("/readyz/");
        if !known {
            return None;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Some((StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into()));
        }
        Some(match path {
            "/version" => (StatusCode::OK, JSON, versions()),
            "/metrics" => {
                let kind = if format == Format::Text { METRICS } else { OPENMETRICS };
                (StatusCode::OK, kind, crate::exposition::render(self, format))
            }
            "/health" => self.health(query).await,
            "/synod/cell" => (StatusCode::OK, JSON, format!("{}\n", self.cell())),
            "/synod/events" => self.events(values(query, "id").into_iter().next()),
            "/synod/leadership" => (StatusCode::OK, TEXT, listed(self.decisions(about_leadership))),
            _ => self.checks(path, query).await,
        })
    }

    /// What the cell runs, and what this member thinks of its peers.
    fn cell(&self) -> serde_json::Value {
        let published = self.handle().published();
        let connected = self.handle().connected();
        let peers = self.handle().hearings().into_iter().map(|(id, h)| {
            let name = published.members().get(&id).map_or("", |m| &*m.name);
            serde_json::json!({
                "id": format!("{:x}", id.0), "name": name, "connected": connected.contains(&id),
                "suspected": h.suspected, "silence_ms": h.silence_ms, "usual_ms": h.usual_ms,
                "phi": (h.phi * 10.0).round() / 10.0,
            })
        });
        let peers: Vec<_> = peers.collect();
        serde_json::json!({ "protocol": self.handle().protocol().to_string(), "peers": peers })
    }

    /// Decisions that this member saw, and when.
    fn decisions(&self, wanted: fn(&CellEvent) -> bool) -> Vec<(SystemTime, String)> {
        let events = self.handle().events();
        let wanted = events.iter().filter(|e| wanted(&e.event));
        wanted.map(|e| (e.at, e.event.to_string())).collect()
    }

    /// Decisions and slow requests; with the id of one of these, it and what was decided
    /// from its begin to its end.
    fn events(&self, id: Option<&str>) -> Page {
        let mut slow = self.call_metrics().slow.recent();
        let mut events = self.decisions(|_| true);
        if let Some(id) = id {
            slow.retain(|r| r.id.id == id);
            if slow.is_empty() {
                let why = format!("no slow request of late has the id {id}\n");
                return (StatusCode::NOT_FOUND, TEXT, why);
            }
            let within = |at: SystemTime| slow.iter().any(|r| at <= r.at && at + r.took >= r.at);
            events.retain(|(at, _)| within(*at));
        }
        events.extend(slow.iter().map(|r| (r.at, r.to_string())));
        (StatusCode::OK, TEXT, listed(events))
    }

    async fn health(&self, query: &str) -> Page {
        let serializable = values(query, "serializable").contains("true");
        let exclude = values(query, "exclude");
        let published = self.handle().published();
        let alarm = published.alarms().iter().map(|(_, kind)| match kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        });
        let alarm = { alarm }.find(|name| !exclude.contains(*name));
        let reason = if let Some(name) = alarm {
            format!("ALARM {name}")
        } else if !serializable && self.handle().leader().is_none() {
            "RAFT NO LEADER".into()
        } else if let Err(e) = self.probe(serializable).await {
            format!("RANGE ERROR:{}", e.message())
        } else {
            String::new()
        };
        let ok = reason.is_empty();
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, JSON, format!("{{\"health\":\"{ok}\",\"reason\":\"{}\"}}", escape(&reason)))
    }

    /// Reads one key, as a client would.
    async fn probe(&self, serializable: bool) -> Result<(), tonic::Status> {
        self.read_barrier(serializable).await?;
        let key = bytes::Bytes::from_static(b"health");
        let range = KeyRange { key, end: bytes::Bytes::new() };
        self.read(RangeRequest { range, ..RangeRequest::default() }).await.map(drop)
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        let published = self.handle().published();
        match name {
            "serializable_read" => self.probe(true).await.map_err(|e| e.message().to_owned()),
            "linearizable_read" => self.probe(false).await.map_err(|e| e.message().to_owned()),
            "non_learner" if self.handle().is_learner() => Err("this member is a learner".into()),
            "data_corruption" if published.alarms().iter().any(|a| a.1 == AlarmKind::Corrupt) => {
                Err("alarm CORRUPT is raised".into())
            }
            _ => Ok(()),
        }
    }

    async fn checks(&self, path: &str, query: &str) -> Page {
        let live = path.starts_with("/livez");
        let all: &[&str] = if live { &LIVE_CHECKS } else { &READY_CHECKS };
        let one = path.splitn(3, '/').nth(2);
        let exclude = values(query, "exclude");
        let mut lines = String::new();
        let (mut failed, mut ran) = (false, false);
        for name in all {
            if exclude.contains(*name) || one.is_some_and(|o| o != *name) {
                continue;
            }
            ran = true;
            match self.check(name).await {
                Ok(()) => lines += &format!("[+]{name} ok\n"),
                Err(why) => {
                    failed = true;
                    lines += &format!("[-]{name} failed: {why}\n");
                }
            }
        }
        if one.is_some() && !ran {
            let names = all.join(", ");
            return (StatusCode::NOT_FOUND, TEXT, format!("no such check; there are {names}\n"));
        }
        if failed {
            return (StatusCode::SERVICE_UNAVAILABLE, TEXT, lines);
        }
        let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
        let text = if verbose { format!("{lines}ok\n") } else { "ok\n".into() };
        (StatusCode::OK, TEXT, text)
    }
}

/// Newest first, with their age.
fn listed(mut events: Vec<(SystemTime, String)>) -> String {
    events.sort_by_key(|(at, _)| *at);
    let line = |(at, text): &(SystemTime, String)| {
        let age = at.elapsed().unwrap_or_default().as_secs_f64();
        format!("{age:.1} s ago: {text}\n")
    };
    events.iter().rev().map(line).collect()
}

/// The format of the metrics page that a client prefers: OpenMetrics if it says so.
pub(crate) fn format_wanted(headers: &HeaderMap) -> Format {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let (mut open, mut text) = (0.0_f32, 0.0_f32);
    for kind in accept.flat_map(|value| value.split(',')) {
        let mut parts = kind.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parts: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
        let of = |name: &str| parts.iter().find(|p| p.0 == name).map(|p| p.1.trim_matches('"'));
        let weight = of("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        match &*name {
            "application/openmetrics-text" if of("version").is_none_or(|v| v == "1.0.0") => {
                open = open.max(weight);
            }
            "text/plain" | "text/*" | "*/*" => text = text.max(weight),
            _ => {}
        }
    }
    if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
}

fn about_leadership(event: &CellEvent) -> bool {
    let CellEvent::Consensus(event) = event else { return false };
    matches!(
        event,
        Event::Campaigned { .. }
            | Event::BecameLeader { .. }
            | Event::StoodDown { .. }
            | Event::LeaderLost { .. }
            | Event::TransferStarted { .. }
            | Event::TransferDone { .. }
            | Event::DiskStalled { .. }
    )
}

fn versions() -> String {
    format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{ETCD_VERSION}\",\"storage\":\"{ETCD_VERSION}\"}}"
    )
}

/// The values of a query's parameter.
fn values<'a>(query: &'a str, name: &str) -> BTreeSet<&'a str> {
    query
        .split('&')
        .filter_map(|p| p.split_once('='))
        .filter(|p| p.0 == name)
        .map(|p| p.1)
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

/// What stands at a path that is nobody's.
pub(crate) fn not_found(path: &str) -> Page {
    let text = format!(
        "404 page not found: {path}\nThere are /v3/... and /synod/v1/... (JSON), /version, /health, /livez, /readyz \
         and /metrics; gRPC is on the same port.\n"
    );
    (StatusCode::NOT_FOUND, TEXT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_preferred() {
        let wanted = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            format_wanted(&headers)
        };
        assert_eq!(format_wanted(&HeaderMap::new()), Format::Text);
        for (accept, format) in [
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=0.0.1", Format::Text),
            ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
            ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.4", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(wanted(accept), format, "{accept}");
        }
    }
}
