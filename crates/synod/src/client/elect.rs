//! `synod elect`: a candidate whose command runs while it leads.

use super::check::{Check, CheckFlags};
use super::etcd_locks::{EtcdOffice, EtcdSession};
use super::hold::{Ended, Holding, run_until};
use super::locks::{
    AFTER_FAILURE, CLOSE_WITHIN, SessionFlags, in_doubt, is_certain, open, open_again,
};
use super::office;
use super::signals::{Signals, while_waiting};
use super::{Connect, say, terminal};
use crate::Outcome;
use clap::Args;
use synod_client::{Candidacy, Candidate, Client, Error, Leadership, Session, Stop};
use synod_coord::Health;
use tokio::sync::mpsc;

/// Arguments of `synod elect`.
#[derive(Args)]
pub struct ElectArgs {
    /// The election's name
    name: String,
    /// What to proclaim when elected [default, with a command: host and process id];
    /// without it and without a command, follow who leads
    value: Option<String>,
    /// The greatest wins when the office is free; of equal ones, who stands longer
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    priority: i64,
    /// Take the office over from a leader with a smaller priority: it resigns
    #[arg(long)]
    preempt: bool,
    /// Do not stand: show who leads and who stands
    #[arg(long, conflicts_with_all = ["value", "preempt", "check", "command"])]
    show: bool,
    #[command(flatten)]
    checks: CheckFlags,
    #[command(flatten)]
    session: SessionFlags,
    #[command(flatten)]
    connect: Connect,
    /// What to run while elected (after --); without it, stay until interrupted
    #[arg(last = true)]
    command: Vec<String>,
}

impl ElectArgs {
    /// Whether it is a candidate, and no observer.
    pub fn stands(&self) -> bool {
        self.value.is_some() || !self.command.is_empty()
    }

    pub async fn run(self) -> Outcome {
        let own = (!self.command.is_empty()).then(|| self.session.owner());
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        let Some(value) = self.value.clone().or(own) else {
            return office::follow(&self.connect, &client, &self.name, self.show).await;
        };
        if value.is_empty() {
            return Err("a candidate's value must not be empty".into());
        }
        if self.checks.check.iter().any(|c| matches!(c, Check::Ttl(_))) {
            return Err("a check of kind ttl is for services: a candidate cannot report".into());
        }
        let mut signals = Signals::listen()?;
        let Some(mut session) = open(&self.connect, &client, &self.session).await? else {
            return self.run_on_etcd(value).await;
        };
        let mut checked = Checked {
            results: (!self.checks.check.is_empty()).then(|| self.checks.run(None)),
            health: self.checks.health(),
        };
        loop {
            let ended = self.stand(&client, &session, &value, &mut checked, &mut signals).await;
            if !matches!(ended, Err(Unelected::SessionOver)) {
                // It ends by itself at the latest when its time is up.
                let _ = tokio::time::timeout(CLOSE_WITHIN, session.close()).await;
            }
            match ended {
                Ok(0) => return Ok(()),
                Ok(code) => terminal::exit(code),
                Err(Unelected::Why(why)) => return Err(why),
                // It led nobody: it stands anew.
                Err(Unelected::SessionOver) => {
                    say::note("the session ended while waiting: another begins");
                    session = open_again(&client, &self.session, &mut signals).await?;
                }
            }
        }
    }

    async fn run_on_etcd(self, value: String) -> Outcome {
        if self.priority != 0 || self.preempt || !self.checks.check.is_empty() {
            return Err(
                "this server has only etcd's elections: neither --priority, --preempt nor --check"
                    .into(),
            );
        }
        let session = EtcdSession::open(&self.connect, self.session.ttl as i64).await?;
        session.campaign(EtcdOffice { name: self.name, value }, &self.command).await
    }

    /// Stands until the command has ended by itself; its exit code.
    async fn stand(
        &self,
        client: &Client,
        session: &Session,
        value: &str,
        checked: &mut Checked,
        signals: &mut Signals,
    ) -> Result<i32, Unelected> {
        let candidacy = Candidacy {
            priority: self.priority,
            // Who is checked is healthy once it has passed.
            failing: checked.fails_now(),
            preempts: self.preempt,
            owner: self.session.owner(),
            value: value.to_owned().into(),
        };
        let candidate = session.stand(&self.name, candidacy).await?;
        let ended = loop {
            let leads = match win(&candidate, session, checked, signals).await {
                Ok(leads) => leads,
                Err(e) => break Err(e),
            };
            match self.lead(client, session, &leads, checked, signals).await {
                Ok(Ended::Code(code)) => {
                    give_back(leads, session).await;
                    break Ok(code);
                }
                Ok(Ended::Asked(why)) => {
                    say::note(&format!("{} resigns: {why}", self.session.owner()));
                    give_back(leads, session).await;
                }
                // The office was taken from it: it is a candidate again.
                Ok(Ended::Lost(why)) if session.is_safe() => say::note(&why),
                Ok(Ended::Lost(why)) | Err(why) => break Err(Unelected::Why(why)),
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, candidate.withdraw()).await;
        ended
    }

    /// Runs the command as long as it leads.
    async fn lead(
        &self,
        client: &Client,
        session: &Session,
        leads: &Leadership<'_>,
        checked: &mut Checked,
        signals: &mut Signals,
    ) -> Outcome<Ended> {
        let sequencer = leads.sequencer().to_string();
        let holding = Holding {
            environment: vec![
                ("SYNOD_LOCK_NAME", self.name.clone()),
                ("SYNOD_LOCK_KEY", format!("{}/{:x}", self.name, session.id())),
                ("SYNOD_TOKEN", leads.token().to_string()),
                ("SYNOD_SEQUENCER", sequencer.clone()),
                ("SYNOD_SESSION", format!("{:x}", session.id())),
            ],
            says: sequencer,
        };
        let doubt = async {
            tokio::select! {
                why = in_doubt(session, "lead") => why,
                () = client.lost(leads.sequencer()) => {
                    "the office was taken from it, others may lead".to_owned()
                }
            }
        };
        let leave = async {
            tokio::select! {
                why = checked.fails() => format!("it is failing: {why}"),
                stop = leads.must_stop(session.kill_margin()) => match stop {
                    Stop::Outranked(by) => format!("{by} has a greater priority"),
                    // What is in doubt is ended by force.
                    Stop::Deadline | Stop::Deposed => std::future::pending().await,
                },
            }
        };
        run_until(&self.command, &holding, Some(session), signals, doubt, leave).await
    }
}

/// Why it does not lead any more, or never did.
enum Unelected {
    /// Its session ended while it led nobody.
    SessionOver,
    Why(String),
}

impl From<Error> for Unelected {
    fn from(e: Error) -> Unelected {
        match e {
            Error::SessionOver => Unelected::SessionOver,
            e => Unelected::Why(e.to_string()),
        }
    }
}

/// What the checks came to so far.
struct Checked {
    /// `None`: there are no checks.
    results: Option<mpsc::Receiver<Outcome>>,
    health: Health,
}

impl Checked {
    fn fails_now(&self) -> bool {
        self.results.is_some() && self.health.healthy() != Some(true)
    }

    /// Returns when another health is to be believed, with what failed.
    async fn changes(&mut self) -> (bool, String) {
        let Some(results) = &mut self.results else { return std::future::pending().await };
        loop {
            let Some(result) = results.recv().await else { return std::future::pending().await };
            if let Some(healthy) = self.health.checked(result.is_ok()) {
                return (healthy, result.err().unwrap_or_default());
            }
        }
    }

    /// Returns when it is to be believed that it fails, with what failed.
    async fn fails(&mut self) -> String {
        loop {
            if let (false, why) = self.changes().await {
                return why;
            }
        }
    }
}

/// Campaigns until it has won, however long the cluster does not answer. Meanwhile the
/// cell is told of its health.
async fn win<'a>(
    candidate: &Candidate<'a>,
    session: &Session,
    checked: &mut Checked,
    signals: &mut Signals,
) -> Result<Leadership<'a>, Unelected> {
    loop {
        let won = tokio::select! {
            won = campaign(candidate, checked) => won,
            () = session.over() => Err(Error::SessionOver),
            signal = signals.end() => return Err(Unelected::Why(while_waiting(signal))),
        };
        match won {
            Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
            done => return Ok(done?),
        }
    }
}

async fn campaign<'a>(
    candidate: &Candidate<'a>,
    checked: &mut Checked,
) -> Result<Leadership<'a>, Error> {
    candidate.set_failing(checked.fails_now()).await?;
    let campaign = candidate.campaign();
    tokio::pin!(campaign);
    loop {
        tokio::select! {
            won = &mut campaign => return won,
            (healthy, _) = checked.changes() => candidate.set_failing(!healthy).await?,
        }
    }
}

/// Resigns; what is lost cannot be given back.
async fn give_back(leads: Leadership<'_>, session: &Session) {
    if !is_certain(session) {
        return;
    }
    match tokio::time::timeout(CLOSE_WITHIN, leads.resign()).await {
        Ok(Ok(())) => {}
        Ok(Err(Error::Stale(_))) => {}
        Ok(Err(e)) => say::note(&format!("resigning: {e}")),
        Err(_) => say::note("it could not resign: the office ends with the session"),
    }
}
