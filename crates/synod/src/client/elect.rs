//! `synod elect`: a candidate whose command runs while it leads.

use super::check::{Check, CheckFlags};
use super::etcd_locks::{EtcdOffice, EtcdSession};
use super::hold::{Ended, Holding, run_until};
use super::locks::{CLOSE_WITHIN, SessionFlags, open};
use super::{Connect, show, words};
use crate::Outcome;
use clap::Args;
use synod_client::{Candidacy, Candidate, Client, Error, Leadership, Session, Stop};
use synod_coord::Health;
use synod_etcd_proto::v3electionpb;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
    pub async fn run(self) -> Outcome {
        let own = (!self.command.is_empty()).then(|| self.session.owner());
        let Some(value) = self.value.clone().or(own) else { return self.follow().await };
        if value.is_empty() {
            return Err("a candidate's value must not be empty".into());
        }
        if self.checks.check.iter().any(|c| matches!(c, Check::Ttl(_))) {
            return Err("a check of kind ttl is for services: a candidate cannot report".into());
        }
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        let Some(session) = open(&self.connect, &client, &self.session).await? else {
            return self.run_on_etcd(value).await;
        };
        let ended = self.stand(&session, value).await;
        // It ends by itself at the latest when its time is up.
        let _ = tokio::time::timeout(CLOSE_WITHIN, session.close()).await;
        match ended? {
            0 => Ok(()),
            code => std::process::exit(code),
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
    async fn stand(&self, session: &Session, value: String) -> Outcome<i32> {
        let candidacy = Candidacy {
            priority: self.priority,
            // Who is checked is healthy once it has passed.
            failing: !self.checks.check.is_empty(),
            preempts: self.preempt,
            owner: self.session.owner(),
            value: value.into(),
        };
        let candidate = session.stand(&self.name, candidacy).await.map_err(|e| e.to_string())?;
        let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
        let mut checked = Checked {
            results: (!self.checks.check.is_empty()).then(|| self.checks.run(None)),
            health: self.checks.health(),
        };
        let mut signals = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let ended = loop {
            let leads = match win(&candidate, &mut checked, &mut signals).await {
                Ok(leads) => leads,
                Err(e) => break Err(e),
            };
            match self.lead(session, &leads, &mut checked).await {
                Ok(Ended::Code(code)) => {
                    give_back(leads, session).await;
                    break Ok(code);
                }
                Ok(Ended::Asked(why)) => {
                    eprintln!("synod: {} resigns: {why}", self.session.owner());
                    give_back(leads, session).await;
                }
                Err(e) => break Err(e),
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, candidate.withdraw()).await;
        ended
    }

    /// Runs the command as long as it leads.
    async fn lead(
        &self,
        session: &Session,
        leads: &Leadership<'_>,
        checked: &mut Checked,
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
            session.closer_than(session.kill_margin()).await;
            "the session could not be kept alive in time, others may lead".to_owned()
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
        run_until(&self.command, &holding, Some(session), doubt, leave).await
    }

    async fn follow(self) -> Outcome {
        let mut client = ElectionClient::new(self.connect.open().await?);
        let request = v3electionpb::LeaderRequest { name: self.name.clone().into() };
        let mut seen = client.observe(request).await.map_err(|e| words(&e))?.into_inner();
        while let Some(answer) = seen.message().await.map_err(|e| words(&e))? {
            if let Some(kv) = answer.kv {
                println!("{}\t{}", show(&kv.key), show(&kv.value));
            }
        }
        Ok(())
    }
}

/// What the checks came to so far.
struct Checked {
    /// `None`: there are no checks.
    results: Option<mpsc::Receiver<Outcome>>,
    health: Health,
}

impl Checked {
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

/// Campaigns until it has won. Meanwhile the cell is told of its health.
async fn win<'a>(
    candidate: &Candidate<'a>,
    checked: &mut Checked,
    (interrupt, terminate): &mut (Signal, Signal),
) -> Outcome<Leadership<'a>> {
    let failing = checked.results.is_some() && checked.health.healthy() != Some(true);
    candidate.set_failing(failing).await.map_err(|e| e.to_string())?;
    let campaign = candidate.campaign();
    tokio::pin!(campaign);
    loop {
        tokio::select! {
            won = &mut campaign => return won.map_err(|e: Error| e.to_string()),
            (healthy, _) = checked.changes() => {
                candidate.set_failing(!healthy).await.map_err(|e| e.to_string())?;
            }
            _ = interrupt.recv() => return Err("interrupted while waiting".into()),
            _ = terminate.recv() => return Err("terminated while waiting".into()),
        }
    }
}

/// Resigns; what is lost cannot be given back.
async fn give_back(leads: Leadership<'_>, session: &Session) {
    if !session.is_safe() {
        return;
    }
    match tokio::time::timeout(CLOSE_WITHIN, leads.resign()).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => eprintln!("synod: resigning: {e}"),
        Err(_) => eprintln!("synod: it could not resign: the office ends with the session"),
    }
}
