//! Locks and sessions.
//!
//! A server that has not Synod's own interface (etcd) is asked for etcd's lock:
//! then there is no sequencer, and no shared mode.

use super::etcd_locks::EtcdSession;
use super::hold::{Holding, run_held};
use super::{Connect, show};
use crate::Outcome;
use clap::{Args, Subcommand};
use std::time::Duration;
use synod_client::{Client, Error, Lock, LockOptions, Mode, Session, SessionOptions, Wait};
use synod_etcd_proto::synod::v1;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

/// How long the cluster is waited for when something is given back.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// How a session is opened for a command.
#[derive(Args, Clone)]
pub struct SessionFlags {
    /// For how long the cluster keeps what is held without a sign of life from here
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub ttl: u64,
    /// For how long the lock stays closed when it is lost (not when it is given back)
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    lock_delay: u64,
    /// What to call this holder, for people who look [default: host and process id]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

impl SessionFlags {
    pub fn owner(&self) -> String {
        self.owner.clone().unwrap_or_else(own_name)
    }

    fn options(&self) -> SessionOptions {
        SessionOptions {
            ttl: Duration::from_secs(self.ttl.max(1)),
            lock_delay: Duration::from_secs(self.lock_delay),
            // A command is ended when it is not known whether it may go on.
            grace: Duration::ZERO,
            ..SessionOptions::named(&self.owner())
        }
    }
}

/// `host:process`.
pub(crate) fn own_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}:{}", std::process::id())
}

/// Arguments of `synod lock`.
#[derive(Args)]
pub struct LockArgs {
    /// The lock's name
    name: String,
    /// Hold it together with others that share it
    #[arg(long)]
    shared: bool,
    /// Fail if it is not free
    #[arg(long = "try", conflicts_with = "wait")]
    try_only: bool,
    /// Wait for it: as long as it takes (the default), or with =SECONDS at most so long
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "SECONDS")]
    wait: Option<Option<u64>>,
    /// Do not take it: show who holds it and who waits
    #[arg(long, conflicts_with_all = ["shared", "try_only", "wait", "command"])]
    show: bool,
    #[command(flatten)]
    session: SessionFlags,
    #[command(flatten)]
    connect: Connect,
    /// What to run while it is held (after --); without it, hold it until interrupted
    #[arg(last = true)]
    command: Vec<String>,
}

impl LockArgs {
    pub async fn run(self) -> Outcome {
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        if self.show {
            return describe(&self.connect, &client, &self.name).await;
        }
        let Some(session) = open(&self.connect, &client, &self.session).await? else {
            return self.run_on_etcd().await;
        };
        let wait = match self.wait.flatten() {
            _ if self.try_only => Wait::Never,
            Some(seconds) => Wait::AtMost(Duration::from_secs(seconds)),
            None => Wait::Forever,
        };
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        let options = LockOptions { mode, wait, ..LockOptions::default() };
        hold(session, &self.name, options, &self.command).await
    }

    async fn run_on_etcd(self) -> Outcome {
        if self.shared || self.try_only || self.wait.flatten().is_some() {
            return Err(
                "this server has only etcd's lock: neither --shared, --try nor --wait".into()
            );
        }
        eprintln!("synod: this server has only etcd's lock: there is no fencing token");
        let session = EtcdSession::open(&self.connect, self.session.ttl as i64).await?;
        session.lock(&self.name, &self.command).await
    }
}

/// Opens a session; `None` if the server does not know what that is.
pub(crate) async fn open(
    connect: &Connect,
    client: &Client,
    flags: &SessionFlags,
) -> Outcome<Option<Session>> {
    let opening = client.open_session(flags.options());
    match tokio::time::timeout(Duration::from_secs(connect.timeout), opening).await {
        Ok(Ok(session)) => Ok(Some(session)),
        Ok(Err(Error::Refused(status))) if status.code() == Code::Unimplemented => Ok(None),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => {
            Err(format!("no session within {} s; has the cluster a quorum?", connect.timeout))
        }
    }
}

/// Takes the lock, runs the command, gives the lock back.
async fn hold(session: Session, name: &str, options: LockOptions, command: &[String]) -> Outcome {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let mut terminate = listen(SignalKind::terminate())?;
    let lock = tokio::select! {
        lock = session.lock_with(name, options) => lock.map_err(|e| e.to_string()),
        _ = tokio::signal::ctrl_c() => Err("interrupted while waiting".into()),
        _ = terminate.recv() => Err("terminated while waiting".into()),
    };
    let lock: Lock = match lock {
        Ok(lock) => lock,
        Err(e) => {
            // It ends by itself at the latest when its time is up.
            let _ = tokio::time::timeout(CLOSE_WITHIN, session.close()).await;
            return Err(e);
        }
    };
    let key = format!("{name}/{:x}", session.id());
    let holding = Holding {
        environment: vec![
            ("SYNOD_LOCK_NAME", name.to_owned()),
            ("SYNOD_LOCK_KEY", key),
            ("SYNOD_TOKEN", lock.token().to_string()),
            ("SYNOD_SEQUENCER", lock.sequencer().to_string()),
            ("SYNOD_SESSION", format!("{:x}", session.id())),
        ],
        says: lock.sequencer().to_string(),
    };
    let doubt = async {
        session.closer_than(session.kill_margin()).await;
        "the session could not be kept alive in time, others may have the lock".to_owned()
    };
    let ended = run_held(command, &holding, Some(&session), doubt).await;
    // What is lost cannot be given back.
    if session.is_safe() {
        let back = async {
            lock.release().await?;
            session.close().await
        };
        match tokio::time::timeout(CLOSE_WITHIN, back).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => eprintln!("synod: giving {name} back: {e}"),
            Err(_) => eprintln!("synod: {name} could not be given back: it ends with its session"),
        }
    }
    let code = ended?;
    if code != 0 {
        // What the command says is what the caller wants to know.
        std::process::exit(code);
    }
    Ok(())
}

/// Bounds a call in time and words its error.
pub(crate) async fn bounded<T>(
    connect: &Connect,
    call: impl Future<Output = Result<T, Error>>,
) -> Outcome<T> {
    match tokio::time::timeout(Duration::from_secs(connect.timeout), call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Refused(s))) if s.code() == Code::Unimplemented => {
            Err("this server has no sessions: it is not Synod".into())
        }
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {} s; has the cluster a quorum?", connect.timeout)),
    }
}

async fn describe(connect: &Connect, client: &Client, name: &str) -> Outcome {
    let seen = bounded(connect, client.describe(name)).await?;
    let now = unix_ms();
    let mode = |p: &v1::LockParty| {
        if p.mode() == v1::LockMode::Shared { "shared" } else { "exclusive" }
    };
    if connect.json() {
        let party = |p: &v1::LockParty| {
            serde_json::json!({
                "sequencer": p.sequencer, "token": p.token, "session": format!("{:x}", p.session),
                "mode": mode(p), "owner": p.owner, "asked_ms": p.asked_ms, "held_ms": p.held_ms,
            })
        };
        let all = |parties: &[v1::LockParty]| parties.iter().map(party).collect::<Vec<_>>();
        let (holders, waiters, delays) =
            (all(&seen.holders), all(&seen.waiters), all(&seen.delays));
        println!(
            "{}",
            serde_json::json!({ "holders": holders, "waiters": waiters, "delays": delays })
        );
        return Ok(());
    }
    let line = |role: &str, p: &v1::LockParty, since: u64| {
        let owner = match p.owner.is_empty() {
            true => "(an etcd client)".to_owned(),
            false => show(p.owner.as_bytes()),
        };
        let ago = match since {
            0 => "-".into(),
            since => format!("{} s", now.saturating_sub(since) / 1_000),
        };
        println!("{role:<8} {owner:<24} {:<10} {ago:>8}  token {}", mode(p), p.token);
    };
    seen.holders.iter().for_each(|p| line("holds", p, p.held_ms));
    seen.delays.iter().for_each(|p| line("lost", p, p.held_ms));
    seen.waiters.iter().for_each(|p| line("waits", p, p.asked_ms));
    if seen.holders.is_empty() && seen.delays.is_empty() {
        println!("free");
    }
    Ok(())
}

/// Unix time, ms.
pub(crate) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}

/// Arguments of `synod session`.
#[derive(Args)]
pub struct SessionArgs {
    #[command(subcommand)]
    what: SessionCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum SessionCommand {
    /// All sessions, what is left of their time and what they hold
    List,
}

impl SessionArgs {
    pub async fn run(self) -> Outcome {
        let SessionCommand::List = self.what;
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        let sessions = bounded(&self.connect, client.sessions()).await?;
        for s in &sessions {
            let keys: Vec<String> = s.keys.iter().map(|k| show(k)).collect();
            if self.connect.json() {
                println!(
                    "{}",
                    serde_json::json!({
                        "session": format!("{:x}", s.session), "name": s.name, "ttl_s": s.ttl_s,
                        "left_ms": s.left_ms, "lock_delay_s": s.lock_delay_s,
                        "opened_ms": s.opened_ms, "keys": keys,
                    })
                );
            } else {
                let left = format!("{:.1} of {} s", s.left_ms as f64 / 1_000.0, s.ttl_s);
                let name = show(s.name.as_bytes());
                println!("{:<17x} {name:<24} {left:<14} {}", s.session, keys.join(" "));
            }
        }
        Ok(())
    }
}
