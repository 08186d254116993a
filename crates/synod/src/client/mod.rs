//! A client for any etcd endpoint: `get`, `put`, `del`, `txn`, `watch`, `lease`,
//! `lock`, `elect`, `session`, `file`, `service`, `member`, `status`, `compact`.

mod alerts;
mod check;
mod elect;
mod etcd_locks;
mod files;
mod hold;
mod keys;
mod leases;
mod locks;
mod members;
mod office;
mod page;
mod query;
mod reports;
mod say;
mod service;
mod shell;
mod signals;
mod status;
mod terminal;
mod top;
mod txn;
mod watchdog;

pub use alerts::{AlertsArgs, RulesArgs};
pub use elect::ElectArgs;
pub use files::FileArgs;
pub use keys::{DelArgs, GetArgs, PutArgs, WatchArgs};
pub use leases::LeaseArgs;
pub use locks::{LockArgs, SessionArgs};
pub use members::{CompactArgs, MemberArgs};
pub use query::{QueryArgs, TargetsArgs};
pub(crate) use say::note;
pub use service::ServiceArgs;
pub use status::StatusArgs;
pub use top::TopArgs;
pub use txn::TxnArgs;
pub use watchdog::WatchdogArgs;

use crate::Outcome;
use base64::prelude::{BASE64_STANDARD, Engine};
use clap::{Args, Subcommand, ValueEnum};
use rustix::process::Signal;
use std::time::Duration;
use synod_client::Sequencer;
use synod_coord::prefix_range;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// An endpoint that has not answered for so long is not waited for alone.
const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// The client's commands.
#[derive(Subcommand)]
pub enum ClientCommand {
    /// Read keys
    Get(GetArgs),
    /// Write a key
    Put(PutArgs),
    /// Delete keys
    Del(DelArgs),
    /// Compare, then do one thing or the other, at once
    Txn(TxnArgs),
    /// Follow changes of keys
    Watch(WatchArgs),
    /// Leases: keys that vanish when nobody keeps them alive
    Lease(LeaseArgs),
    /// Run a command while holding a lock
    Lock(LockArgs),
    /// Take part in an election
    Elect(ElectArgs),
    /// Sessions: who is there, and what they hold
    Session(SessionArgs),
    /// Small files: read, write, list and follow them
    File(FileArgs),
    /// Services: instances, their health, and which of them is active
    Service(ServiceArgs),
    /// Ends a command whose holder died
    #[command(hide = true)]
    Watchdog(WatchdogArgs),
    /// Members of the cluster
    Member(MemberArgs),
    /// Each member, its role, indexes and lag
    Status(StatusArgs),
    /// Forget superseded versions up to a revision
    Compact(CompactArgs),
    /// Ask the series that the nodes keep, in PromQL
    Query(QueryArgs),
    /// What a node scrapes, and how that goes
    Targets(TargetsArgs),
    /// Show the cluster live: nodes, load, links, alerts
    Top(TopArgs),
    /// Alerts that are pending or firing
    Alerts(AlertsArgs),
    /// Recording and alerting rules: list a node's, check files, run their tests
    Rules(RulesArgs),
}

impl ClientCommand {
    /// Whether it holds something, which must not go with the reader of what it prints.
    pub fn holds(&self) -> bool {
        match self {
            ClientCommand::Lock(a) => a.holds(),
            ClientCommand::Elect(a) => a.stands(),
            ClientCommand::Service(a) => a.registers(),
            ClientCommand::Lease(a) => a.keeps_alive(),
            _ => false,
        }
    }

    /// Runs it.
    pub fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("cannot start a runtime: {e}"))?;
        let done = runtime.block_on(async {
            match self {
                ClientCommand::Get(a) => a.run().await,
                ClientCommand::Put(a) => a.run().await,
                ClientCommand::Del(a) => a.run().await,
                ClientCommand::Txn(a) => a.run().await,
                ClientCommand::Watch(a) => a.run().await,
                ClientCommand::Lease(a) => a.run().await,
                ClientCommand::Lock(a) => a.run().await,
                ClientCommand::Elect(a) => a.run().await,
                ClientCommand::Session(a) => a.run().await,
                ClientCommand::File(a) => a.run().await,
                ClientCommand::Service(a) => a.run().await,
                ClientCommand::Watchdog(a) => a.run().await,
                ClientCommand::Member(a) => a.run().await,
                ClientCommand::Status(a) => a.run().await,
                ClientCommand::Compact(a) => a.run().await,
                ClientCommand::Query(a) => a.run().await,
                ClientCommand::Targets(a) => a.run().await,
                ClientCommand::Top(a) => a.run().await,
                ClientCommand::Alerts(a) => a.run().await,
                ClientCommand::Rules(a) => a.run().await,
            }
        });
        let interrupted = signals::while_waiting(Signal::INT);
        let typed = signals::came_from_terminal(Signal::INT);
        if typed && done.as_ref().is_err_and(|why| *why == interrupted) {
            note(&interrupted);
            terminal::exit(terminal::INTERRUPTED);
        }
        done
    }
}

/// Where to connect and how to print.
#[derive(Args, Clone)]
pub struct Connect {
    /// Endpoints, separated by commas; the first that answers is used
    #[arg(
        long,
        global = true,
        env = "SYNOD_ENDPOINTS",
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub endpoints: Vec<String>,
    /// How to print the answer
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Give up after so many seconds
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
}

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// JSON, one value a line
    Json,
}

pub(crate) fn endpoint(address: &str) -> Outcome<Endpoint> {
    let address = address.trim_start_matches("http://");
    Endpoint::from_shared(format!("http://{address}"))
        .map(|e| e.connect_timeout(Duration::from_secs(2)).tcp_nodelay(true))
        .map_err(|e| format!("{address:?} is not HOST:PORT: {e}"))
}

/// Connects, and has the server say something of itself: whether it knows a leader. (A
/// connection is made by the system that the server runs on.) The only endpoint is not
/// asked: there is none to be chosen.
async fn reach(
    address: String,
    endpoint: Endpoint,
    within: Duration,
    alone: bool,
) -> Outcome<(Channel, bool)> {
    let channel = endpoint.connect().await.map_err(|e| format!("{address}: {}", source(&e)))?;
    if alone {
        return Ok((channel, true));
    }
    let mut server = MaintenanceClient::new(channel.clone());
    let status = server.status(pb::StatusRequest {});
    match tokio::time::timeout(within, status).await {
        Ok(Ok(status)) => Ok((channel, status.into_inner().leader != 0)),
        Ok(Err(e)) if std::error::Error::source(&e).is_some() => {
            Err(format!("{address}: {}", words(&e)))
        }
        // It does not tell (there may be access rules), but it is there.
        Ok(Err(_)) => Ok((channel, true)),
        Err(_) => Err(format!("{address}: no answer within {} s", within.as_secs())),
    }
}

impl Connect {
    /// A connection to the first endpoint that answers, best one that knows a leader. One
    /// that takes long (its process may stand still) is not waited for alone.
    pub async fn open(&self) -> Outcome<Channel> {
        let mut last = String::from("no endpoint was given");
        let (mut asked, mut leaderless) = (JoinSet::new(), None);
        let mut others = self.endpoints.iter();
        let alone = self.endpoints.len() == 1;
        loop {
            let next = others.next();
            if let Some(address) = next {
                let (within, endpoint) = (Duration::from_secs(self.timeout), endpoint(address)?);
                asked.spawn(reach(address.clone(), endpoint, within, alone));
            }
            tokio::select! {
                done = asked.join_next() => match done {
                    Some(Ok(Ok((channel, true)))) => return Ok(channel),
                    Some(Ok(Ok((channel, false)))) => leaderless = leaderless.or(Some(channel)),
                    Some(Ok(Err(e))) => last = e,
                    Some(Err(e)) => last = e.to_string(),
                    None => break,
                },
                () = tokio::time::sleep(HEDGE_AFTER), if next.is_some() => {}
            }
        }
        leaderless.ok_or_else(|| {
            format!("no endpoint answers ({last}); is the cluster up? `synod up` starts one here")
        })
    }

    pub fn json(&self) -> bool {
        self.output == Format::Json
    }

    /// Bounds a call in time and words its error.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Outcome<T> {
        match tokio::time::timeout(Duration::from_secs(self.timeout), call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(words(&status)),
            Err(_) => {
                Err(format!("no answer within {} s; has the cluster a quorum?", self.timeout))
            }
        }
    }
}

/// The proof that a lock is held, for a command that writes.
#[derive(Args, Clone)]
pub struct Fence {
    /// Write only while the lock of this sequencer is held (as `lock` passes it in
    /// SYNOD_SEQUENCER)
    #[arg(long, value_name = "TOKEN:MODE:SESSION:NAME")]
    sequencer: Option<Sequencer>,
}

impl Fence {
    /// The message with the sequencer, if there is one. A server that does not
    /// know sequencers would not check it, so it is asked first.
    pub async fn around<T>(
        &self,
        connect: &Connect,
        channel: &Channel,
        message: T,
    ) -> Outcome<tonic::Request<T>> {
        let Some(sequencer) = &self.sequencer else { return Ok(tonic::Request::new(message)) };
        let check = v1::LockCheckRequest { sequencer: sequencer.to_string() };
        let mut locks = LockClient::new(channel.clone());
        let known = async {
            match locks.check(check).await {
                Err(e) if e.code() == tonic::Code::Unimplemented => Err(tonic::Status::new(
                    e.code(),
                    "this server does not check sequencers; nothing was written",
                )),
                known => known,
            }
        };
        connect.call(known).await?;
        Ok(synod_client::fenced(message, sequencer))
    }
}

fn source(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(next) = e.source() {
        e = next;
    }
    e.to_string()
}

pub(crate) fn words(status: &tonic::Status) -> String {
    let words = status.message();
    // This program's name stands before it already.
    words.strip_prefix("synod: ").unwrap_or(words).to_owned()
}

/// A key or value for a person: as text where it is text.
pub(crate) fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
            text.to_owned()
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The same where a line stands for one thing: nothing in it can look like another line.
pub(crate) fn show_in_line(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Key and range end for "one key", "a prefix" or "from key on".
pub(crate) fn bounds(key: &str, prefix: bool, end: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    match (prefix, end) {
        (true, _) if key.is_empty() => (vec![0], vec![0]),
        (true, _) => (key.into(), prefix_range(key.as_bytes()).end.to_vec()),
        (false, Some(end)) => (key.into(), end.into()),
        (false, None) => (key.into(), Vec::new()),
    }
}

/// A key or value for a program: what is no text is `{"base64": …}`.
fn text_or_base64(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

pub(crate) fn kv_json(kv: &synod_etcd_proto::mvccpb::KeyValue) -> serde_json::Value {
    serde_json::json!({
        "key": text_or_base64(&kv.key),
        "value": text_or_base64(&kv.value),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": if kv.lease == 0 { serde_json::Value::Null } else { format!("{:x}", kv.lease).into() },
    })
}
