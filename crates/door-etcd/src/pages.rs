//! Pages for people, probes and monitoring.

use crate::door::{Door, ETCD_VERSION};
use http::{Method, StatusCode};
use std::collections::BTreeSet;
use synod_cell::CellEvent;
use synod_consensus::Event;
use synod_mvcc::{AlarmKind, KeyRange, RangeRequest};

/// A page: status, type, text.
pub(crate) type Page = (StatusCode, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Text format of Prometheus, version 0.0.4.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const LIVE_CHECKS: [&str; 1] = ["serializable_read"];
const READY_CHECKS: [&str; 4] =
    ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

impl Door {
    /// The page at this path, if it is one of ours.
    pub(crate) async fn page(&self, method: &Method, path: &str, query: &str) -> Option<Page> {
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
            "/metrics" => (StatusCode::OK, METRICS, crate::exposition::render(self)),
            "/health" => self.health(query).await,
            "/synod/cell" => (StatusCode::OK, JSON, format!("{}\n", self.cell())),
            "/synod/events" => (StatusCode::OK, TEXT, self.events(|_| true)),
            "/synod/leadership" => (StatusCode::OK, TEXT, self.events(about_leadership)),
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

    /// Decisions that this member saw, newest first, with their age.
    fn events(&self, wanted: fn(&CellEvent) -> bool) -> String {
        let mut text = String::new();
        for e in self.handle().events().iter().rev().filter(|e| wanted(&e.event)) {
            let age = e.at.elapsed().unwrap_or_default().as_secs_f64();
            text += &format!("{age:.1} s ago: {}\n", e.event);
        }
        text
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
