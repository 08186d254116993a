//! The agent of one instance: keeps its session, checks its health, contends for
//! the office, and promotes and demotes it.

use super::super::check::CheckFlags;
use super::super::hold::{Held, Holding};
use super::super::locks::unix_ms;
use super::super::reports::{PhiFlags, Reports};
use super::super::say;
use super::super::shell::{self, LeftBehind};
use crate::Outcome;
use rustix::process::Signal;
use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;
use synod_client::{Client, Error, Lock, LockOptions, Session, SessionOptions, SessionState};
use synod_coord::{
    Duty, Health, InstanceRecord, Role, ServiceMode, handover_key, instance_key, office,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// For how long an instance that stepped aside leaves the office to others.
const ASIDE: Duration = Duration::from_secs(5);
/// How long a hook may take.
const HOOK_WITHIN: Duration = Duration::from_secs(30);
/// Pause before a call to the cluster is made again.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// How long the cluster is waited for when a lock is given back.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// What an agent was asked to do.
pub(crate) struct Plan {
    pub service: String,
    pub instance: String,
    pub address: String,
    pub mode: ServiceMode,
    pub checks: CheckFlags,
    pub phi: PhiFlags,
    pub on_promote: Option<String>,
    pub on_demote: Option<String>,
    pub ttl: Duration,
    pub heartbeat: Duration,
    pub command: Vec<String>,
}

impl Plan {
    fn say(&self, what: &str) {
        say::note(&format!("{}/{} {what}", self.service, self.instance));
    }
}

/// Why an agent's session ended.
#[derive(PartialEq, Eq)]
enum End {
    Interrupted,
    Lost,
}

/// What comes from outside: check results (the failure's words), requests to step
/// down (for whom), and the interruption.
struct Inbox {
    checks: mpsc::Receiver<Result<(), String>>,
    handovers: mpsc::Receiver<String>,
    interrupt: watch::Receiver<bool>,
}

/// Runs the agent until it is interrupted. A session that is lost is followed by
/// another: the instance comes back as a passive one.
pub(crate) async fn run(client: Client, plan: Plan) -> Outcome {
    let reports = Reports::follow(&client, &plan.service, &plan.instance, &plan.phi);
    let mut inbox = Inbox {
        checks: plan.checks.run(Some(reports)),
        handovers: follow_handovers(client.clone(), &plan),
        interrupt: interruptions()?,
    };
    let mut health = plan.checks.health();
    let mut said = String::new();
    loop {
        let options = SessionOptions {
            ttl: plan.ttl,
            heartbeat: Some(plan.heartbeat),
            grace: Duration::ZERO,
            ..SessionOptions::named(&format!("{}/{}", plan.service, plan.instance))
        };
        let session = tokio::select! {
            session = client.open_session(options) => session,
            _ = inbox.interrupt.wait_for(|i| *i) => return Ok(()),
        };
        let session = match session {
            Ok(session) => session,
            Err(e) => {
                // Once, not with every try.
                let why = e.to_string();
                if why != said {
                    plan.say(&format!("has no session, and goes on trying: {why}"));
                    said = why;
                }
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        said.clear();
        let end = Agent::new(&client, &plan, &session).live(&mut inbox, &mut health).await;
        if end == End::Interrupted {
            let _ = tokio::time::timeout(RELEASE_WITHIN, session.close()).await;
            return Ok(());
        }
        plan.say("lost its session");
    }
}

fn interruptions() -> Outcome<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (tx, rx) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let _ = tx.send(true);
        // Dropped, the sender would end who still waits.
        std::future::pending::<()>().await;
    });
    Ok(rx)
}

fn follow_handovers(client: Client, plan: &Plan) -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel(1);
    let key = handover_key(&plan.service);
    tokio::spawn(async move {
        let mut asked = client.follow(&key);
        loop {
            match asked.next().await {
                Ok(to) => {
                    if tx.send(String::from_utf8_lossy(&to).into_owned()).await.is_err() {
                        return;
                    }
                }
                Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
            }
        }
    });
    rx
}

type Contending<'a> = Pin<Box<dyn Future<Output = Result<Lock, Error>> + 'a>>;

/// One life of an instance: as long as its session.
struct Agent<'a> {
    plan: &'a Plan,
    session: &'a Session,
    role: Role,
    begun: Instant,
    office: Option<Lock>,
    active: bool,
    child: Option<Held>,
    record: watch::Sender<InstanceRecord>,
}

impl<'a> Agent<'a> {
    fn new(client: &Client, plan: &'a Plan, session: &'a Session) -> Agent<'a> {
        let record = InstanceRecord {
            address: plan.address.clone(),
            mode: plan.mode,
            since_ms: unix_ms(),
            ..InstanceRecord::default()
        };
        let record = watch::Sender::new(record);
        let key = instance_key(&plan.service, &plan.instance);
        tokio::spawn(publish(client.clone(), key, session.id(), record.subscribe()));
        let role = Role::new(plan.mode);
        let (begun, office, child) = (Instant::now(), None, None);
        Agent { plan, session, role, begun, office, active: false, child, record }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Tells the cell, in the background: nothing here may wait for it.
    fn tell(&self, change: impl FnOnce(&mut InstanceRecord)) {
        self.record.send_modify(|record| {
            change(record);
            record.since_ms = unix_ms();
        });
    }

    async fn live(mut self, inbox: &mut Inbox, health: &mut Health) -> End {
        if let Some(healthy) = health.healthy() {
            self.believes(healthy, "");
        }
        let mut contending: Option<Contending<'a>> = None;
        loop {
            let duty = self.role.duty(self.now_ms());
            if self.active && duty != Duty::Serve {
                self.demote(Signal::TERM).await;
                continue;
            }
            if !self.active && duty == Duty::Serve {
                self.promote(&inbox.interrupt).await;
                continue;
            }
            match duty {
                Duty::Contend if contending.is_none() => {
                    let (session, name) = (self.session, office(&self.plan.service));
                    let options = LockOptions {
                        // What etcd's clients see as the leader of an election.
                        value: self.plan.instance.clone().into(),
                        ..LockOptions::default()
                    };
                    contending =
                        Some(Box::pin(async move { session.lock_with(&name, options).await }));
                }
                Duty::Rest => contending = None,
                _ => {}
            }
            let rested = self.begun + Duration::from_millis(self.role.rests_until_ms());
            tokio::select! {
                biased;
                () = self.session.closer_than(self.session.kill_margin()) => {
                    self.demote(Signal::KILL).await;
                    return End::Lost;
                }
                _ = inbox.interrupt.wait_for(|i| *i) => {
                    self.demote(Signal::TERM).await;
                    return End::Interrupted;
                }
                Some(to) = inbox.handovers.recv() => self.hand_over(&to),
                won = maybe(&mut contending) => {
                    contending = None;
                    match won {
                        Ok(lock) => {
                            self.office = Some(lock);
                            self.role.holds(true);
                        }
                        Err(Error::SessionOver) => return End::Lost,
                        Err(e) => {
                            self.plan.say(&format!("cannot contend: {e}"));
                            self.role.steps_aside(self.now_ms() + 1_000);
                        }
                    }
                }
                Some(result) = inbox.checks.recv() => {
                    if let Some(healthy) = health.checked(result.is_ok()) {
                        self.believes(healthy, result.err().as_deref().unwrap_or(""));
                    }
                }
                code = ended(&mut self.child, self.session) => {
                    self.plan.say(&format!("is no longer active: its command ended ({code})"));
                    self.child = None;
                    self.role.steps_aside(self.now_ms() + ASIDE.as_millis() as u64);
                    // Without an office to leave, it begins again after the same pause.
                    if self.plan.mode == ServiceMode::ActiveActive {
                        self.demote(Signal::TERM).await;
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                }
                () = tokio::time::sleep_until(rested), if rested > Instant::now() => {}
            }
        }
    }

    fn believes(&mut self, healthy: bool, why: &str) {
        self.role.is_healthy(healthy);
        self.plan.say(if healthy { "is healthy" } else { "is failing" });
        self.tell(|record| {
            record.healthy = Some(healthy);
            record.why = why.chars().take(200).collect();
        });
    }

    /// An operator wants another instance to be active.
    fn hand_over(&mut self, to: &str) {
        let concerned = self.office.is_some() || !to.is_empty();
        if concerned && to != self.plan.instance {
            self.role.steps_aside(self.now_ms() + ASIDE.as_millis() as u64);
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("SYNOD_SERVICE", self.plan.service.clone()),
            ("SYNOD_INSTANCE", self.plan.instance.clone()),
            ("SYNOD_SESSION", format!("{:x}", self.session.id())),
        ];
        if let Some(lock) = &self.office {
            all.push(("SYNOD_TOKEN", lock.token().to_string()));
            all.push(("SYNOD_SEQUENCER", lock.sequencer().to_string()));
        }
        all
    }

    async fn promote(&mut self, interrupt: &watch::Receiver<bool>) {
        self.active = true;
        let mut interrupt = interrupt.clone();
        if let Some(hook) = &self.plan.on_promote {
            let done = tokio::select! {
                done = self.hook(hook) => done,
                () = self.session.closer_than(self.session.kill_margin()) => {
                    Err("the session is in doubt".into())
                }
                _ = interrupt.wait_for(|i| *i) => Err("interrupted".into()),
            };
            if let Err(e) = done {
                return self.refuse(&format!("could not be promoted: {e}"));
            }
        }
        if let Some((program, args)) = self.plan.command.split_first() {
            let holding = Holding { environment: self.environment(), says: String::new() };
            match Held::spawn(program, args, &holding, Some(self.session)) {
                Ok(child) => self.child = Some(child),
                Err(e) => return self.refuse(&e),
            }
        }
        let token = self.office.as_ref().map_or(0, Lock::token);
        self.plan.say(&format!("is active, token {token}"));
        self.tell(|record| (record.active, record.token) = (true, token));
    }

    /// It cannot serve: others shall try.
    fn refuse(&mut self, why: &str) {
        self.plan.say(why);
        self.role.steps_aside(self.now_ms() + ASIDE.as_millis() as u64);
        if self.plan.mode == ServiceMode::ActiveActive {
            // Checked again, it is healthy only after it has passed anew.
            self.role.is_healthy(false);
        }
    }

    /// Ends what it does as the active one, and only then gives the office back.
    async fn demote(&mut self, with: Signal) {
        if let Some(child) = self.child.take() {
            child.end(with, self.session).await;
        }
        if std::mem::take(&mut self.active) {
            if let Some(hook) = &self.plan.on_demote
                && let Err(e) = self.hook(hook).await
            {
                self.plan.say(&format!("on-demote: {e}"));
            }
            self.plan.say("is passive");
        }
        self.role.holds(false);
        self.tell(|record| (record.active, record.token) = (false, 0));
        if let Some(lock) = self.office.take()
            && *self.session.state().borrow() == SessionState::Safe
        {
            let _ = tokio::time::timeout(RELEASE_WITHIN, lock.release()).await;
        }
    }

    async fn hook(&self, command: &str) -> Outcome {
        let environment = self.environment();
        let run = shell::run(command, &environment, Stdio::inherit(), LeftBehind::Stays);
        match tokio::time::timeout(HOOK_WITHIN, run).await {
            Ok(done) => done,
            Err(_) => Err(format!("{command}: not done within {} s", HOOK_WITHIN.as_secs())),
        }
    }
}

/// The future's end; never, if there is none.
async fn maybe(contending: &mut Option<Contending<'_>>) -> Result<Lock, Error> {
    match contending {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The command's end; never, if none runs. Meanwhile its watchdog is kept quiet.
async fn ended(child: &mut Option<Held>, session: &Session) -> String {
    let Some(held) = child else { return std::future::pending().await };
    loop {
        tokio::select! {
            status = held.child.wait() => {
                held.end_group();
                return status.map_or_else(|e| e.to_string(), |s| s.to_string());
            }
            () = held.watchdog.keep_quiet(Some(session)) => {}
        }
    }
}

/// Writes the record whenever it changes, until the session is over.
async fn publish(
    client: Client,
    key: String,
    session: i64,
    mut record: watch::Receiver<InstanceRecord>,
) {
    loop {
        let value = record.borrow_and_update().encode();
        match client.put(&key, value, session).await {
            Ok(()) => {
                if record.changed().await.is_err() {
                    return;
                }
            }
            Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
            // The lease is gone.
            Err(_) => return,
        }
    }
}
