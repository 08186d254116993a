//! Reading, writing, deleting, watching keys.

use super::{Connect, Fence, bounds, kv_json, show, words};
use crate::Outcome;
use clap::Args;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// Arguments of `synod get`.
#[derive(Args)]
pub struct GetArgs {
    /// The key, or the start of a range
    key: String,
    /// The end of the range (not included)
    end: Option<String>,
    /// All keys that start with KEY
    #[arg(long)]
    prefix: bool,
    /// At most so many (0: all)
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// As of this revision (0: now)
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Keys only
    #[arg(long)]
    keys_only: bool,
    /// Only how many
    #[arg(long)]
    count: bool,
    /// What the member has, without asking the others
    #[arg(long)]
    serializable: bool,
    #[command(flatten)]
    connect: Connect,
}

impl GetArgs {
    pub async fn run(self) -> Outcome {
        let (key, range_end) = bounds(&self.key, self.prefix, self.end.as_deref());
        let request = pb::RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            limit: self.limit,
            revision: self.rev,
            keys_only: self.keys_only,
            count_only: self.count,
            serializable: self.serializable,
            ..Default::default()
        };
        let mut client =
            KvClient::new(self.connect.open().await?).max_decoding_message_size(usize::MAX);
        let answer = self.connect.call(client.range(request)).await?;
        if self.count {
            println!("{}", answer.count);
            return Ok(());
        }
        for kv in &answer.kvs {
            if self.connect.json() {
                println!("{}", kv_json(kv));
            } else if self.keys_only {
                println!("{}", show(&kv.key));
            } else if self.prefix || self.end.is_some() {
                println!("{}\t{}", show(&kv.key), show(&kv.value));
            } else {
                println!("{}", show(&kv.value));
            }
        }
        if answer.kvs.is_empty() && !self.prefix && self.end.is_none() {
            return Err(format!("there is no key {:?}", self.key));
        }
        Ok(())
    }
}

/// Arguments of `synod put`.
#[derive(Args)]
pub struct PutArgs {
    /// The key
    key: String,
    /// The value
    value: String,
    /// Bind it to this lease (hexadecimal, as `lease grant` prints it)
    #[arg(long)]
    lease: Option<String>,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    connect: Connect,
}

impl PutArgs {
    pub async fn run(self) -> Outcome {
        let lease = self.lease.as_deref().map_or(Ok(0), super::leases::parse_id)?;
        let request = pb::PutRequest {
            key: self.key.into(),
            value: self.value.into(),
            lease,
            ..Default::default()
        };
        let channel = self.connect.open().await?;
        let request = self.fence.around(&self.connect, &channel, request).await?;
        let answer = self.connect.call(KvClient::new(channel).put(request)).await?;
        let revision = answer.header.map_or(0, |h| h.revision);
        if self.connect.json() {
            println!("{}", serde_json::json!({ "revision": revision }));
        } else {
            println!("revision {revision}");
        }
        Ok(())
    }
}

/// Arguments of `synod del`.
#[derive(Args)]
pub struct DelArgs {
    /// The key, or the start of a range
    key: String,
    /// The end of the range (not included)
    end: Option<String>,
    /// All keys that start with KEY
    #[arg(long)]
    prefix: bool,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    connect: Connect,
}

impl DelArgs {
    pub async fn run(self) -> Outcome {
        let (key, range_end) = bounds(&self.key, self.prefix, self.end.as_deref());
        let request = pb::DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        let channel = self.connect.open().await?;
        let request = self.fence.around(&self.connect, &channel, request).await?;
        let answer = self.connect.call(KvClient::new(channel).delete_range(request)).await?;
        if self.connect.json() {
            println!("{}", serde_json::json!({ "deleted": answer.deleted }));
        } else {
            println!("{} deleted", answer.deleted);
        }
        Ok(())
    }
}

/// Between two tries to watch on.
const AGAIN: Duration = Duration::from_millis(200);

/// Why a watch ended.
enum Ended {
    /// Its member or the way to it was lost.
    Lost(String),
    /// Another try would end alike.
    ForGood(String),
}

impl Ended {
    fn of(status: tonic::Status) -> Ended {
        use tonic::Code::{Cancelled, Internal, Unavailable, Unknown};
        match status.code() {
            Cancelled | Internal | Unavailable | Unknown => Ended::Lost(words(&status)),
            _ => Ended::ForGood(words(&status)),
        }
    }
}

/// Arguments of `synod watch`.
#[derive(Args)]
pub struct WatchArgs {
    /// The key, or the start of a range
    key: String,
    /// The end of the range (not included)
    end: Option<String>,
    /// All keys that start with KEY
    #[arg(long)]
    prefix: bool,
    /// From this revision on (0: from now)
    #[arg(long, default_value_t = 0)]
    from: i64,
    /// Stop after so many events (0: never)
    #[arg(long, default_value_t = 0)]
    events: u64,
    #[command(flatten)]
    connect: Connect,
}

impl WatchArgs {
    pub async fn run(self) -> Outcome {
        let (mut next, mut seen) = (self.from, 0);
        loop {
            let channel = self.connect.open().await?;
            match self.follow(channel, &mut next, &mut seen).await {
                Ok(()) => return Ok(()),
                Err(Ended::ForGood(why)) => return Err(why),
                // Its member may have ended: another one goes on behind what was shown.
                Err(Ended::Lost(why)) => eprintln!("{why}; going on from revision {next}"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Shows what comes from revision `next` on, which moves on with it.
    async fn follow(&self, channel: Channel, next: &mut i64, seen: &mut u64) -> Result<(), Ended> {
        let (key, range_end) = bounds(&self.key, self.prefix, self.end.as_deref());
        let create = pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: *next,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let stream = tokio_stream::once(request).chain(tokio_stream::pending());
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut answers = client.watch(stream).await.map_err(Ended::of)?.into_inner();
        while let Some(answer) = answers.message().await.map_err(Ended::of)? {
            if answer.canceled {
                return Err(Ended::ForGood(match answer.compact_revision {
                    0 => format!("the watch was ended: {}", answer.cancel_reason),
                    r => format!("revisions up to {r} were compacted: watch from {r} on"),
                }));
            }
            if *next == 0 {
                *next = answer.header.as_ref().map_or(0, |header| header.revision + 1);
            }
            for event in &answer.events {
                self.print(event);
                *next = event.kv.as_ref().map_or(*next, |kv| kv.mod_revision + 1);
                *seen += 1;
                if self.events > 0 && *seen >= self.events {
                    return Ok(());
                }
            }
        }
        Err(Ended::Lost("the server ended the watch".into()))
    }

    fn print(&self, event: &synod_etcd_proto::mvccpb::Event) {
        let Some(kv) = &event.kv else { return };
        let kind = if event.r#type == 1 { "delete" } else { "put" };
        if self.connect.json() {
            println!("{}", serde_json::json!({ "event": kind, "kv": kv_json(kv) }));
        } else {
            println!("{} {kind} {}\t{}", kv.mod_revision, show(&kv.key), show(&kv.value));
        }
    }
}
