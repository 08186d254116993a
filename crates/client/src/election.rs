//! Candidates of elections, leaders, and those who watch them.

use crate::lock::Acquisitions;
use crate::{Client, Error, Sequencer, Session};
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use synod_coord::{CandidateRecord, outranked};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::election_client::ElectionClient;
use tokio::runtime::Handle;
use tonic::{Code, Status, Streaming};

/// Pause before a call is made again at another endpoint.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// What a candidate says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidacy {
    /// The greatest wins; of equal ones, who stands longer.
    pub priority: i64,
    /// It is not to be chosen for now.
    pub failing: bool,
    /// It wants the office even from a leader that is there, if that has a smaller
    /// priority.
    pub preempts: bool,
    /// Who stands, for people to read; the session's name if empty.
    pub owner: String,
    /// What its observers see when it leads.
    pub value: Bytes,
}

/// A candidate of an election.
pub struct Candidate<'a> {
    session: &'a Session,
    name: String,
    candidacy: Mutex<Candidacy>,
    withdrawn: bool,
    runtime: Handle,
}

/// Why a leader has to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Its session's deadline is near: what it does must have ended by then, for
    /// others may lead afterwards.
    Deadline,
    /// It leads no more, though its session lives: somebody gave the office back by its
    /// sequencer, or deleted its key. Others may lead already.
    Deposed,
    /// A better candidate, of this name, wants the office: it shall resign.
    Outranked(String),
}

impl<'a> Candidate<'a> {
    pub(crate) async fn stand(
        session: &'a Session,
        name: &str,
        candidacy: Candidacy,
    ) -> Result<Candidate<'a>, Error> {
        let (name, candidacy) = (name.to_owned(), Mutex::new(candidacy));
        let runtime = Handle::current();
        let candidate = Candidate { session, name, candidacy, withdrawn: false, runtime };
        candidate.tell().await?;
        Ok(candidate)
    }

    fn candidacy(&self) -> MutexGuard<'_, Candidacy> {
        self.candidacy.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn tell(&self) -> Result<(), Error> {
        let c = self.candidacy().clone();
        let stand = v1::ElectionStandRequest {
            name: self.name.clone().into(),
            session: self.session.id(),
            priority: c.priority,
            failing: c.failing,
            preempts: c.preempts,
            owner: c.owner,
        };
        let stand = |channel| {
            let stand = stand.clone();
            async move { ElectionClient::new(channel).stand(stand).await }
        };
        self.session.client().again(stand).await.map(drop)
    }

    /// Changes whether it may be chosen, while it campaigns or before. (Who leads and
    /// fails resigns.)
    pub async fn set_failing(&self, failing: bool) -> Result<(), Error> {
        self.candidacy().failing = failing;
        self.tell().await
    }

    /// Waits until it has the office. When the call is dropped, the candidate still
    /// stands: others wait for it to campaign again or to withdraw. Who has resigned
    /// stands again by this.
    pub async fn campaign(&self) -> Result<Leadership<'a>, Error> {
        self.tell().await?;
        let (session, client) = (self.session, self.session.client());
        let (acquisitions, value) = (session.acquisitions(), self.candidacy().value.clone());
        let request = v1::ElectionCampaignRequest {
            name: self.name.clone().into(),
            session: session.id(),
            value: value.clone(),
            attempt: acquisitions.next(),
        };
        // The office is a lock: what is not known to be won is given back as one.
        let mut unanswered = acquisitions.unanswered(
            client,
            v1::LockAcquireRequest {
                name: request.name.clone(),
                session: request.session,
                attempt: request.attempt,
                value,
                ..Default::default()
            },
        );
        let won = tokio::select! {
            won = ask(client, acquisitions, request) => won,
            () = session.over() => Err(Error::SessionOver),
        };
        unanswered.answered();
        let bad = |e| Error::Refused(Status::internal(format!("{e}")));
        let sequencer = won?.parse::<Sequencer>().map_err(bad)?;
        let (name, runtime) = (self.name.clone(), self.runtime.clone());
        Ok(Leadership { session, name, sequencer, leads: true, runtime })
    }

    /// Is no candidate any more. (After a candidate that was only dropped, the session
    /// must not stand in the same election again: that is withdrawn in the background.)
    pub async fn withdraw(mut self) -> Result<(), Error> {
        let done = withdraw(self.session.client(), &self.name, self.session.id()).await;
        self.withdrawn = !matches!(done, Err(Error::Unavailable(_)));
        done
    }
}

impl Drop for Candidate<'_> {
    fn drop(&mut self) {
        if !self.withdrawn {
            let (client, id) = (self.session.client().clone(), self.session.id());
            let name = std::mem::take(&mut self.name);
            // If it fails, the candidacy ends with its session.
            self.runtime.spawn(async move { withdraw(&client, &name, id).await });
        }
    }
}

/// Asks until a server has decided; the sequencer. A call that is made again finds its
/// own place by its number.
async fn ask(
    client: &Client,
    acquisitions: &Acquisitions,
    request: v1::ElectionCampaignRequest,
) -> Result<String, Error> {
    loop {
        let (number, channel) = client.endpoints.current();
        let cleaned = acquisitions.cleaned();
        let done = ElectionClient::new(channel).campaign(request.clone()).await;
        match client.note(number, done) {
            Ok(answer) => return Ok(answer.into_inner().sequencer),
            Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
            // It may be the place of a call that was given up a moment ago.
            Err(Error::Refused(s)) if s.code() == Code::AlreadyExists => {
                if !acquisitions.left(cleaned).await {
                    return Err(Error::Refused(s));
                }
            }
            Err(e) => return Err(e),
        }
    }
}

async fn withdraw(client: &Client, name: &str, session: i64) -> Result<(), Error> {
    let withdraw = |channel| {
        let withdraw = v1::ElectionWithdrawRequest { name: name.to_owned().into(), session };
        async move { ElectionClient::new(channel).withdraw(withdraw).await }
    };
    client.again(withdraw).await.map(drop)
}

/// An office that was won. It is held as long as its session is safe and it was not
/// given back; who must be sure shows its [`Sequencer`]. Dropping it resigns in the
/// background.
pub struct Leadership<'a> {
    session: &'a Session,
    name: String,
    sequencer: Sequencer,
    leads: bool,
    runtime: Handle,
}

impl Leadership<'_> {
    /// What proves that it leads.
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The fencing token: greater than that of every earlier leader.
    pub fn token(&self) -> i64 {
        self.sequencer.token
    }

    /// Changes what its observers see: [`Error::Stale`] if it leads no more.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        let (sequencer, value) = (self.sequencer.to_string(), value.into());
        let proclaim = |channel| {
            let (sequencer, value) = (sequencer.clone(), value.clone());
            let proclaim = v1::ElectionProclaimRequest { sequencer, value };
            async move { ElectionClient::new(channel).proclaim(proclaim).await }
        };
        self.session.client().again(proclaim).await.map(drop)
    }

    /// Returns, with the reason, when it has to stop: when less than `margin` is left
    /// before the deadline of its session, which is when it must have ended what it
    /// does; when the office was taken from it; or when a better candidate wants it.
    pub async fn must_stop(&self, margin: Duration) -> Stop {
        tokio::select! {
            () = self.session.closer_than(margin) => Stop::Deadline,
            () = self.session.client().lost(&self.sequencer) => Stop::Deposed,
            owner = self.outranked() => Stop::Outranked(owner),
        }
    }

    async fn outranked(&self) -> String {
        loop {
            let mut seen = self.session.client().observe(&self.name);
            while let Ok(office) = seen.next().await {
                let candidates: Vec<_> = office.candidates.into_iter().map(candidate).collect();
                if let Some(better) = outranked(&candidates, self.session.id()) {
                    return better.record.owner.clone();
                }
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// Gives the office back, and is no candidate any more: [`Error::Stale`] if it had
    /// been lost before.
    pub async fn resign(mut self) -> Result<(), Error> {
        let resigned = resign(self.session.client(), &self.sequencer).await;
        // Otherwise it is tried again in the background.
        self.leads = matches!(resigned, Err(Error::Unavailable(_)));
        resigned
    }
}

/// A candidate as the rules of [`synod_coord`] take it; they come in order.
fn candidate(c: v1::ElectionCandidate) -> synod_coord::Candidate {
    let record = CandidateRecord {
        owner: c.owner,
        priority: c.priority,
        healthy: !c.failing,
        preempts: c.preempts,
        since_ms: c.since_ms,
    };
    synod_coord::Candidate { session: c.session, since: 0, record }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        if self.leads {
            let (client, s) = (self.session.client().clone(), self.sequencer.clone());
            // If it fails, the office ends with its session.
            self.runtime.spawn(async move { resign(&client, &s).await });
        }
    }
}

async fn resign(client: &Client, sequencer: &Sequencer) -> Result<(), Error> {
    let sequencer = sequencer.to_string();
    let mut tries = 0;
    loop {
        tries += 1;
        let (number, channel) = client.endpoints.current();
        let resign = v1::ElectionResignRequest { sequencer: sequencer.clone() };
        let done = ElectionClient::new(channel).resign(resign).await;
        match client.note(number, done) {
            Ok(_) => return Ok(()),
            // An earlier try may have done it.
            Err(Error::Stale(_)) if tries > 1 => return Ok(()),
            Err(Error::Unavailable(e)) if tries > 2 * client.endpoints.count() => {
                return Err(Error::Unavailable(e));
            }
            Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
            Err(e) => return Err(e),
        }
    }
}

/// Follows an election.
pub struct Observer {
    client: Client,
    name: String,
    /// The endpoint's number, and what comes from it.
    stream: Option<(usize, Streaming<v1::ElectionObserveResponse>)>,
}

impl Observer {
    /// Who leads and who stands: first as it is, then whenever that changes. After an
    /// error it may be called again: it goes on at another member.
    pub async fn next(&mut self) -> Result<v1::ElectionObserveResponse, Error> {
        let (number, mut stream) = match self.stream.take() {
            Some(open) => open,
            None => {
                let (number, channel) = self.client.endpoints.current();
                let request = v1::ElectionObserveRequest { name: self.name.clone().into() };
                let opened = ElectionClient::new(channel).observe(request).await;
                (number, self.client.note(number, opened)?.into_inner())
            }
        };
        let seen = self.client.note(number, stream.message().await)?;
        let seen = seen.ok_or_else(|| Error::Unavailable("the stream ended".into()))?;
        self.stream = Some((number, stream));
        Ok(seen)
    }
}

impl Client {
    /// Follows who leads, and who stands, in an election.
    pub fn observe(&self, name: &str) -> Observer {
        Observer { client: self.clone(), name: name.into(), stream: None }
    }
}
