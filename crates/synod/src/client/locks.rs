//! Locks and sessions.
//!
//! A server that has not Synod's own interface (etcd) is asked for etcd's lock:
//! then there is no sequencer, and no shared mode.

use super::etcd_locks::EtcdSession;
use super::hold::{Holding, run_held};
use super::signals::{Signals, while_waiting};
use super::{Connect, say, show_in_line as show, terminal};
use crate::Outcome;
use clap::{Args, Subcommand};
use std::convert::Infallible;
use std::time::Duration;
use synod_client::{
    Client, Error, Lock, LockOptions, Mode, Session, SessionOptions, SessionState, Wait,
};
use synod_etcd_proto::synod::v1;
use tokio::time::Instant;
use tonic::Code;

/// How long the cluster is waited for when something is given back.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Pause before a session is asked for again.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// A wait that takes so long may be in vain.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// Exit code when somebody else has the lock (`EX_TEMPFAIL`: it may be tried again).
const HELD: i32 = 75;

/// How a session is opened for a command.
#[derive(Args, Clone)]
pub struct SessionFlags {
    /// For how long the cluster keeps what is held without a sign of life from here
    #[arg(
        long, default_value_t = 10, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub ttl: u64,
    /// For how long the lock stays closed when it is lost (not when it is given back)
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    lock_delay: u64,
    /// For how long a place in the queue is not given up when the cluster does not answer
    /// and the ttl is over. A command never runs on so long: it is killed before the ttl
    /// is over
    #[arg(long, default_value_t = 45, value_name = "SECONDS")]
    grace: u64,
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
            ttl: Duration::from_secs(self.ttl),
            lock_delay: Duration::from_secs(self.lock_delay),
            // For who waits. A command is ended when it is not known whether it may go on.
            grace: Duration::from_secs(self.grace),
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
    /// Whether it takes the lock.
    pub fn holds(&self) -> bool {
        !self.show
    }

    pub async fn run(self) -> Outcome {
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        if self.show {
            return describe(&self.connect, &client, &self.name).await;
        }
        let mut signals = Signals::listen()?;
        let until = self.wait.flatten().map(|s| Instant::now() + Duration::from_secs(s));
        let Some(mut session) = open(&self.connect, &client, &self.session).await? else {
            return self.run_on_etcd().await;
        };
        loop {
            match self.take(&client, &session, until, &mut signals).await {
                Ok(lock) => {
                    return hold(session, lock, (&self.name, &self.command), &mut signals).await;
                }
                // It held nothing: its place in the queue is lost, and it takes another.
                Err(Untaken::Not(Error::SessionOver)) if !self.try_only => {
                    say::note("the session ended while waiting: another begins");
                    let again = open_again(&client, &self.session, &mut signals);
                    session = tokio::select! {
                        session = again => session?,
                        () = at(until) => return Err("the cluster did not answer in time".into()),
                    };
                }
                Err(why) => {
                    // It ends by itself at the latest when its time is up.
                    let _ = tokio::time::timeout(CLOSE_WITHIN, session.close()).await;
                    if let Untaken::Not(Error::Held(why)) = &why {
                        say::note(why);
                        std::process::exit(HELD);
                    }
                    return Err(why.words());
                }
            }
        }
    }

    async fn take(
        &self,
        client: &Client,
        session: &Session,
        until: Option<Instant>,
        signals: &mut Signals,
    ) -> Result<Lock, Untaken> {
        let wait = match until {
            _ if self.try_only => Wait::Never,
            Some(until) => Wait::AtMost(until.saturating_duration_since(Instant::now())),
            None => Wait::Forever,
        };
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        let options = LockOptions { mode, wait, ..LockOptions::default() };
        tokio::select! {
            lock = session.lock_with(&self.name, options) => lock.map_err(Untaken::Not),
            never = tell_obstacle(client, &self.name) => match never {},
            signal = signals.end() => Err(Untaken::Asked(while_waiting(signal))),
        }
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

/// Why a lock was not taken.
enum Untaken {
    Not(Error),
    /// This process was asked to end.
    Asked(String),
}

impl Untaken {
    fn words(self) -> String {
        match self {
            Untaken::Not(e) => e.to_string(),
            Untaken::Asked(why) => why,
        }
    }
}

/// Says so if what is in the way ends by itself with no session: then nobody's end will
/// free the lock.
async fn tell_obstacle(client: &Client, name: &str) -> Infallible {
    tokio::time::sleep(TELL_AFTER).await;
    if let Ok(seen) = client.describe(name).await
        && let Some(key) = seen.holders.iter().find(|h| h.session == 0).map(|h| show(&h.key))
    {
        say::note(&format!(
            "waiting for lock {name:?}: key {key:?} is in the way, and no session ends it \
             (`synod del {key}` does)"
        ));
    }
    std::future::pending().await
}

/// Returns at that time; never, if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Opens another session for one that waits, however long the cluster does not answer.
pub(crate) async fn open_again(
    client: &Client,
    flags: &SessionFlags,
    signals: &mut Signals,
) -> Outcome<Session> {
    let opening = async {
        loop {
            match client.open_session(flags.options()).await {
                Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
                done => return done.map_err(|e| e.to_string()),
            }
        }
    };
    tokio::select! {
        session = opening => session,
        signal = signals.end() => Err(while_waiting(signal)),
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

/// Runs the command, and gives the lock back.
async fn hold(
    session: Session,
    lock: Lock,
    (name, command): (&str, &[String]),
    signals: &mut Signals,
) -> Outcome {
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
        tokio::select! {
            why = in_doubt(&session, "have the lock") => why,
            () = lock.lost() => "the lock was taken from it, others may have it".to_owned(),
        }
    };
    let ended = run_held(command, &holding, Some(&session), signals, doubt).await;
    // What is lost cannot be given back.
    if is_certain(&session) {
        let back = async {
            match lock.release().await {
                // It was taken from it: that has been said.
                Err(e) if !matches!(e, Error::Stale(_)) => Err(e),
                _ => session.close().await,
            }
        };
        match tokio::time::timeout(CLOSE_WITHIN, back).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => say::note(&format!("giving {name} back: {e}")),
            Err(_) => {
                say::note(&format!("{name} could not be given back: it ends with its session"))
            }
        }
    }
    let code = ended?;
    if code != 0 {
        // What the command says is what the caller wants to know.
        terminal::exit(code);
    }
    Ok(())
}

/// Returns, with the reason, when a command must not rely on its session any more.
pub(crate) async fn in_doubt(session: &Session, others: &str) -> String {
    session.closer_than(session.kill_margin()).await;
    match *session.state().borrow() {
        SessionState::Expired => format!("the session is over, others may {others}"),
        _ => format!("the session could not be kept alive in time, others may {others}"),
    }
}

/// Whether a command may rely on its session yet.
pub(crate) fn is_certain(session: &Session) -> bool {
    let left = session.deadline().saturating_duration_since(Instant::now());
    session.is_safe() && left > session.kill_margin()
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
