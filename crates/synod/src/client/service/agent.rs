//! The agent of one instance: keeps its session, checks its health, contends for
//! the office, and promotes and demotes it.

use super::super::check::CheckFlags;
use super::super::hold::{Held, Holding};
use super::super::reports::{PhiFlags, Reports};
use super::super::say;
use super::super::shell::{self, LeftBehind};
use super::super::signals::Signals;
use super::record::{Registered, in_vain, publish, register};
use crate::Outcome;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;
use synod_client::{Client, Error, Lock, LockOptions, Session, SessionOptions, SessionState};
use synod_coord::{
    Duty, Health, InstanceRecord, Role, ServiceMode, handover_key, need_not_wait, office,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// For how long an instance that stepped aside leaves the office to others, at most.
const ASIDE: Duration = Duration::from_secs(5);
/// How long a hook may take.
const HOOK_WITHIN: Duration = Duration::from_secs(30);
/// Pause before who cannot contend tries again.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// Between two looks whether another has followed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pause before a call to the cluster is made again.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// When it is said that the cluster does not answer.
const TELL_AFTER: Duration = Duration::from_secs(2);
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
    pub fn say(&self, what: &str) {
        say::note(&format!("{}/{} {what}", self.service, self.instance));
    }
}

/// Why an agent's session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Interrupted,
    Lost,
}

/// How a command's time as the active one ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is asked to, and has time for it while nobody else can be active.
    InOrder,
    /// It is killed: another may be active.
    AtOnce,
}

/// What comes from outside: check results (the failure's words), requests to step
/// down (for whom), and the interruption.
struct Inbox {
    checks: mpsc::Receiver<Result<(), String>>,
    /// That it reports itself no more (check kind `ttl`), for sure.
    silences: mpsc::Receiver<String>,
    handovers: mpsc::Receiver<String>,
    interrupt: watch::Receiver<bool>,
}

/// Runs the agent until it is interrupted. A session that is lost is followed by
/// another: the instance comes back as a passive one.
pub(crate) async fn run(client: Client, plan: Plan) -> Outcome {
    let reports = Reports::follow(&client, &plan.service, &plan.instance, &plan.phi);
    let mut inbox = Inbox {
        silences: reports.silences(plan.checks.ttl()),
        checks: plan.checks.run(Some(reports)),
        handovers: follow_handovers(client.clone(), &plan),
        interrupt: interruptions()?,
    };
    let mut health = plan.checks.health();
    let (mut said, mut before) = (String::new(), None);
    loop {
        let options = SessionOptions {
            ttl: plan.ttl,
            heartbeat: Some(plan.heartbeat),
            // What is active stops at the deadline; a session is worth nothing then.
            grace: Duration::ZERO,
            ..SessionOptions::named(&format!("{}/{}", plan.service, plan.instance))
        };
        let session = tokio::select! {
            session = client.open_session(options) => session,
            never = tell_of_silence(&plan, &mut said) => match never {},
            _ = inbox.interrupt.wait_for(|i| *i) => return Ok(()),
        };
        let session = match session {
            Ok(session) => session,
            Err(e) => {
                if let Some(why) = in_vain(&e) {
                    return Err(why);
                }
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
        let end = one_life(&client, &plan, &session, before, &mut inbox, &mut health).await;
        before = Some(session.id());
        // It has stopped what it did: if anything is held still, the next may have it.
        let closing = tokio::time::timeout(RELEASE_WITHIN, session.close());
        if end != Ok(End::Lost) {
            let _ = closing.await;
            return end.map(drop);
        }
        tokio::spawn(closing);
        plan.say("lost its session");
    }
}

/// Says, once, that there is no answer.
async fn tell_of_silence(plan: &Plan, said: &mut String) -> Infallible {
    tokio::time::sleep(TELL_AFTER).await;
    let why = "the cluster does not answer; has it a quorum?";
    if why != said {
        plan.say(&format!("has no session, and goes on trying: {why}"));
        why.clone_into(said);
    }
    std::future::pending().await
}

/// What the agent does with one session.
async fn one_life(
    client: &Client,
    plan: &Plan,
    session: &Session,
    before: Option<i64>,
    inbox: &mut Inbox,
    health: &mut Health,
) -> Outcome<End> {
    let record = InstanceRecord {
        address: plan.address.clone(),
        mode: plan.mode,
        healthy: health.healthy(),
        ..InstanceRecord::default()
    };
    let registered = tokio::select! {
        registered = register(client, plan, session, before, &record) => registered?,
        _ = inbox.interrupt.wait_for(|i| *i) => return Ok(End::Interrupted),
    };
    match registered {
        Registered::Yes => Ok(Agent::new(client, plan, session, record).live(inbox, health).await),
        Registered::Lost => Ok(End::Lost),
    }
}

fn interruptions() -> Outcome<watch::Receiver<bool>> {
    let mut signals = Signals::listen()?;
    let (tx, rx) = watch::channel(false);
    tokio::spawn(async move {
        signals.end().await;
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

/// Something that is waited for, if there is anything.
type Awaited<'a> = Option<Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// One life of an instance: as long as its session.
struct Agent<'a> {
    client: &'a Client,
    plan: &'a Plan,
    session: &'a Session,
    role: Role,
    begun: Instant,
    office: Option<Lock>,
    /// The office's end that nobody here caused.
    deposed: Awaited<'a>,
    /// The end of stepping aside for another.
    followed: Awaited<'a>,
    active: bool,
    /// It could not be made active, and has not tried again.
    unfit: bool,
    child: Option<Held>,
    record: watch::Sender<InstanceRecord>,
}

impl<'a> Agent<'a> {
    fn new(
        client: &'a Client,
        plan: &'a Plan,
        session: &'a Session,
        record: InstanceRecord,
    ) -> Agent<'a> {
        let record = watch::Sender::new(record);
        let name = (plan.service.clone(), plan.instance.clone());
        tokio::spawn(publish(client.clone(), name, session.id(), record.subscribe()));
        Agent {
            client,
            plan,
            session,
            role: Role::new(plan.mode),
            begun: Instant::now(),
            office: None,
            deposed: None,
            followed: None,
            active: false,
            unfit: false,
            child: None,
            record,
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Tells the cell, in the background: nothing here may wait for it.
    fn tell(&self, change: impl FnOnce(&mut InstanceRecord)) {
        self.record.send_modify(change);
    }

    async fn live(mut self, inbox: &mut Inbox, health: &mut Health) -> End {
        if let Some(healthy) = health.healthy() {
            self.believes(healthy, "");
        }
        let mut contending: Option<Contending<'a>> = None;
        loop {
            self.recover(health);
            let duty = self.role.duty(self.now_ms());
            if self.active && duty != Duty::Serve {
                self.demote(Ending::InOrder).await;
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
                    self.demote(Ending::AtOnce).await;
                    return End::Lost;
                }
                _ = inbox.interrupt.wait_for(|i| *i) => {
                    self.demote(Ending::InOrder).await;
                    return End::Interrupted;
                }
                Some(to) = inbox.handovers.recv() => self.hand_over(&to),
                won = maybe(&mut contending) => {
                    contending = None;
                    match won {
                        Ok(lock) => self.enter(lock),
                        Err(Error::SessionOver) => return End::Lost,
                        Err(e) => {
                            self.plan.say(&format!("cannot contend: {e}"));
                            self.steps_aside(AFTER_REFUSAL);
                        }
                    }
                }
                () = maybe(&mut self.deposed) => {
                    self.plan.say("has lost the office: it was taken from it");
                    // Others may be active already.
                    self.demote(Ending::AtOnce).await;
                }
                () = maybe(&mut self.followed) => {
                    self.followed = None;
                    self.role.returns();
                }
                Some(result) = inbox.checks.recv() => self.checked(result, health),
                Some(why) = inbox.silences.recv() => {
                    if health.fails() {
                        self.believes(false, &why);
                    }
                }
                code = ended(&mut self.child, self.session) => {
                    self.plan.say(&format!("is no longer active: its command ended ({code})"));
                    self.child = None;
                    // Without an office to leave, it begins again sooner.
                    self.steps_aside(match self.plan.mode {
                        ServiceMode::ActivePassive => ASIDE,
                        ServiceMode::ActiveActive => AFTER_FAILURE,
                    });
                }
                () = tokio::time::sleep_until(rested), if rested > Instant::now() => {}
            }
        }
    }

    /// It has the office.
    fn enter(&mut self, lock: Lock) {
        let (client, sequencer) = (self.client, lock.sequencer().clone());
        self.deposed = Some(Box::pin(async move { client.lost(&sequencer).await }));
        self.office = Some(lock);
        self.role.holds(true);
    }

    /// A check ended.
    fn checked(&mut self, result: Outcome, health: &mut Health) {
        let why = result.err().unwrap_or_default();
        match health.checked(why.is_empty()) {
            Some(healthy) => self.believes(healthy, &why),
            // It fails as before, but for another reason.
            None if health.healthy() == Some(false) && !why.is_empty() => {
                self.tell(|record| record.why = short(&why));
            }
            None => {}
        }
    }

    fn believes(&mut self, healthy: bool, why: &str) {
        self.role.is_healthy(healthy);
        self.plan.say(if healthy { "is healthy" } else { "is failing" });
        let unfit = self.unfit;
        self.tell(|record| {
            record.healthy = Some(healthy && !unfit);
            if !(healthy && unfit) {
                record.why = short(why);
            }
        });
    }

    /// An operator wants another instance to be active.
    fn hand_over(&mut self, to: &str) {
        let may_follow = to == self.plan.instance || (to.is_empty() && self.office.is_none());
        if may_follow {
            // What was wished before is over.
            if self.followed.take().is_some() {
                self.role.returns();
            }
        } else {
            self.steps_aside(ASIDE);
            let (client, plan, to) = (self.client, self.plan, to.to_owned());
            self.followed = Some(Box::pin(async move { followed(client, plan, &to).await }));
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
        if let Some(hook) = &self.plan.on_promote
            && let Err(e) = self.on_promote(hook, interrupt.clone()).await
        {
            return self.refuse(&format!("could not be promoted: {e}"));
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
        self.steps_aside(ASIDE);
        // Nobody waits for one that cannot follow.
        self.unfit = true;
        self.followed = None;
        self.tell(|record| (record.healthy, record.why) = (Some(false), short(why)));
    }

    /// Who could not serve tries again when it has rested.
    fn recover(&mut self, health: &Health) {
        if self.unfit && self.now_ms() >= self.role.rests_until_ms() {
            self.unfit = false;
            let healthy = health.healthy();
            self.tell(|record| {
                record.healthy = healthy;
                if healthy == Some(true) {
                    record.why.clear();
                }
            });
        }
    }

    fn steps_aside(&mut self, time: Duration) {
        self.role.steps_aside(self.now_ms() + time.as_millis() as u64);
    }

    /// Ends what it does as the active one, and only then gives the office back.
    async fn demote(&mut self, how: Ending) {
        if let Some(mut child) = self.child.take() {
            match how {
                Ending::InOrder => child.end(self.session, maybe(&mut self.deposed)).await,
                Ending::AtOnce => child.kill().await,
            }
        }
        if std::mem::take(&mut self.active) {
            if let Some(hook) = &self.plan.on_demote
                && let Err(e) = self.on_demote(hook).await
            {
                self.plan.say(&format!("on-demote: {e}"));
            }
            self.plan.say("is passive");
        }
        self.deposed = None;
        self.role.holds(false);
        self.tell(|record| (record.active, record.token) = (false, 0));
        if let Some(lock) = self.office.take()
            && *self.session.state().borrow() == SessionState::Safe
        {
            let _ = tokio::time::timeout(RELEASE_WITHIN, lock.release()).await;
        }
    }

    /// Runs the hook like a command that is held: guarded by a watchdog, and killed with
    /// all that it started unless it succeeds.
    async fn on_promote(&mut self, hook: &str, mut interrupt: watch::Receiver<bool>) -> Outcome {
        let holding = Holding { environment: self.environment(), says: String::new() };
        let args = ["-c".to_owned(), format!("exec </dev/null; {hook}")];
        let mut held = Held::spawn("sh", &args, &holding, Some(self.session))?;
        let late = Instant::now() + HOOK_WITHIN;
        let why = loop {
            tokio::select! {
                status = held.child.wait() => match status {
                    Ok(status) if status.success() => return Ok(()),
                    Ok(status) => break format!("{hook}: {status}"),
                    Err(e) => break format!("sh: {e}"),
                },
                () = held.watchdog.keep_quiet(Some(self.session)) => {}
                () = self.session.closer_than(self.session.kill_margin()) => {
                    break "the session is in doubt".to_owned();
                }
                () = maybe(&mut self.deposed) => break "the office was taken from it".to_owned(),
                _ = interrupt.wait_for(|i| *i) => break "interrupted".to_owned(),
                () = tokio::time::sleep_until(late) => break self.late(hook),
            }
        };
        held.kill().await;
        Err(why)
    }

    /// A hook took too long.
    fn late(&self, hook: &str) -> String {
        format!("{hook}: not done within {} s", HOOK_WITHIN.as_secs())
    }

    /// Runs the other hook: nobody guards it, and nothing but its time cuts it short.
    async fn on_demote(&self, command: &str) -> Outcome {
        let environment = self.environment();
        let run = shell::run(command, &environment, Stdio::inherit(), LeftBehind::Stays);
        match tokio::time::timeout(HOOK_WITHIN, run).await {
            Ok(done) => done,
            Err(_) => Err(self.late(command)),
        }
    }
}

/// The future's end; never, if there is none.
async fn maybe<F: Future + Unpin>(awaited: &mut Option<F>) -> F::Output {
    match awaited {
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

/// Returns when another has followed, or cannot any more.
async fn followed(client: &Client, plan: &Plan, to: &str) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let all = client.instances(Some(&plan.service)).await;
        if all.is_ok_and(|all| need_not_wait(&all, &plan.instance, to)) {
            return;
        }
    }
}

/// What is wrong, as long as the record may tell it.
fn short(why: &str) -> String {
    let end = (0..=why.len().min(200)).rev().find(|at| why.is_char_boundary(*at));
    why[..end.unwrap_or(0)].to_owned()
}
