//! Elections with priorities: candidates stand, and the best healthy one enters the
//! office's queue when it is free.

use super::fence::stale;
use super::lock::{OWNER_BYTES_MAX, check_name, same_attempt, sequencer};
use crate::door::Door;
use crate::error;
use crate::queue::{Taken, unix_ms};
use bytes::Bytes;
use std::pin::Pin;
use synod_coord::{
    Candidate, CandidateRecord, Choice, Claim, Contender, Mode, Place, Sequencer, Standing,
    candidate_key, candidates, choice, contenders, holders, key_of, prefix_range, read_candidates,
    resign, standing,
};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::election_server::Election;
use synod_mvcc::{Command, DeleteRequest, KeyRange, Op, PutRequest, RangeRequest};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

/// Most candidates for one office.
const CANDIDATES_MAX: i64 = 10_000;

/// An office as a member has it at one revision.
struct Office {
    queue: Vec<Contender>,
    candidates: Vec<Candidate>,
    revision: i64,
}

fn check(name: &[u8], session: i64) -> Result<(), Status> {
    check_name(name)?;
    if session <= 0 {
        let why = "synod: a session is needed: Session/Open gives one";
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

impl Door {
    /// The queue is read first: a candidacy that is newer than it does no harm, since
    /// [`Door::take_office`] goes by the older revision.
    async fn office(&self, name: &[u8]) -> Result<Office, Status> {
        let (queue, revision) = self.queue(name).await?;
        let range = prefix_range(&candidates(name));
        let all = RangeRequest { range, limit: CANDIDATES_MAX, ..RangeRequest::default() };
        let (found, _) = self.read(all).await?;
        Ok(Office { queue, candidates: read_candidates(name, found.kvs), revision })
    }

    async fn stand(
        &self,
        r: v1::ElectionStandRequest,
    ) -> Result<v1::ElectionStandResponse, Status> {
        check(&r.name, r.session)?;
        if r.owner.len() > OWNER_BYTES_MAX {
            let why = format!("synod: an owner has at most {OWNER_BYTES_MAX} bytes");
            return Err(Status::invalid_argument(why));
        }
        let session = self.session(r.session).await?.unwrap_or_default();
        let record = CandidateRecord {
            owner: if r.owner.is_empty() { session.name } else { r.owner },
            priority: r.priority,
            healthy: !r.failing,
            preempts: r.preempts,
            since_ms: unix_ms(),
        };
        let (key, value) = (candidate_key(&r.name, r.session), record.encode());
        let put = PutRequest { key, value, lease: r.session, ..PutRequest::default() };
        let (_, header) = self.run(Command::Put(put)).await.map_err(|e| over(e, r.session))?;
        Ok(v1::ElectionStandResponse { header: Some(header) })
    }

    async fn campaign(
        &self,
        r: v1::ElectionCampaignRequest,
    ) -> Result<v1::ElectionCampaignResponse, Status> {
        check(&r.name, r.session)?;
        let record = self.session(r.session).await?.unwrap_or_default();
        let claim = Claim::new(Mode::Exclusive, &record.name, unix_ms()).attempt(r.attempt);
        let (name, session, guard) = (r.name.to_vec(), r.session, record.guard());
        let place = Place { name, session, guard, claim, value: Some(r.value) };
        let taken = self.win(place).await?;
        let taken = self.note_held(taken).await?;
        let (token, header) = (taken.token, Some(self.header_now()));
        let (name, mode) = (taken.place.name.clone(), Mode::Exclusive);
        let sequencer = Sequencer { token, mode, session, name }.to_string();
        Ok(v1::ElectionCampaignResponse { header, sequencer, token, key: taken.keep() })
    }

    /// Waits until the office is this candidate's.
    async fn win(&self, mut place: Place) -> Result<Taken, Status> {
        let mut asked_others = false;
        loop {
            let office = self.office(&place.name).await?;
            match choice(&place.name, &office.queue, &office.candidates, place.session) {
                Choice::Take(since) => {
                    place.claim.asked_ms = unix_ms();
                    let taking = self.take_office(place.clone(), since, office.revision);
                    let taken = taking.await.map_err(|e| over(e, place.session))?;
                    match taken {
                        Some(taken) => {
                            if let Some(taken) = self.holds_now(taken).await? {
                                return Ok(taken);
                            }
                        }
                        // This member may be behind what the others agreed on.
                        None => self.read_barrier(false).await?,
                    }
                }
                Choice::Wait => self.changed_office(&place.name, office.revision).await,
                // It may stand by a call at another member a moment ago.
                Choice::Stranger if !asked_others => {
                    asked_others = true;
                    self.read_barrier(false).await?;
                }
                Choice::Stranger => {
                    self.session(place.session).await?;
                    return Err(Status::failed_precondition(format!(
                        "synod: session {:x} is no candidate in election {:?}",
                        place.session,
                        String::from_utf8_lossy(&place.name)
                    )));
                }
            }
        }
    }

    /// A place that was entered when the office was free: it holds, unless somebody
    /// who is no candidate (an etcd client) was faster; then it is given up.
    async fn holds_now(&self, mut taken: Taken) -> Result<Option<Taken>, Status> {
        same_attempt(&taken)?;
        if taken.before.is_some() && !self.resume_place(&mut taken).await? {
            return Ok(None);
        }
        if taken.at_once {
            return Ok(Some(taken));
        }
        if self.handle().published().revision() < taken.token {
            self.handle().barrier().await.map_err(error::of_request)?;
        }
        let (queue, _) = self.queue(&taken.place.name).await?;
        if standing(&queue, &taken.place.key(), taken.token) == Standing::Holds {
            return Ok(Some(taken));
        }
        taken.give_up().await?;
        Ok(None)
    }

    /// Returns when the office or its candidates have changed after a revision.
    async fn changed_office(&self, name: &[u8], revision: i64) {
        tokio::select! {
            () = self.changed(prefix_range(&contenders(name)), revision + 1, false) => {}
            () = self.changed(prefix_range(&candidates(name)), revision + 1, false) => {}
        }
    }

    async fn proclaim(
        &self,
        r: v1::ElectionProclaimRequest,
    ) -> Result<v1::ElectionProclaimResponse, Status> {
        let s = sequencer(&r.sequencer)?;
        if s.mode != Mode::Exclusive {
            return Err(stale(&s));
        }
        let (key, lease) = (key_of(&s.name, s.session), s.session);
        let put = PutRequest { key, value: r.value, lease, ..PutRequest::default() };
        let done = self.run_fenced(&s, Op::Put(put)).await;
        let (_, header) = done.map_err(|e| match e.code() {
            Code::NotFound => stale(&s),
            _ => e,
        })?;
        Ok(v1::ElectionProclaimResponse { header: Some(header) })
    }

    async fn withdraw(
        &self,
        r: v1::ElectionWithdrawRequest,
    ) -> Result<v1::ElectionWithdrawResponse, Status> {
        check(&r.name, r.session)?;
        let range = KeyRange { key: candidate_key(&r.name, r.session), end: Bytes::new() };
        let delete = Command::Delete(DeleteRequest { range, prev_kv: false });
        let (_, header) = self.run(delete).await?;
        Ok(v1::ElectionWithdrawResponse { header: Some(header) })
    }

    async fn observe_office(
        &self,
        name: &[u8],
        tx: &mpsc::Sender<Result<v1::ElectionObserveResponse, Status>>,
    ) -> Result<(), Status> {
        self.read_barrier(false).await?;
        let mut told = None;
        loop {
            let mut office = self.office(name).await?;
            self.read_claims(name, &mut office.queue).await?;
            let seen = seen(&office);
            if told.as_ref() != Some(&seen) {
                let header = Some(self.header(office.revision, self.handle().term()));
                let answer = v1::ElectionObserveResponse { header, ..seen.clone() };
                if tx.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
                told = Some(seen);
            }
            tokio::select! {
                () = self.changed_office(name, office.revision) => {}
                () = tx.closed() => return Ok(()),
            }
        }
    }
}

/// What an observer sees of an office.
fn seen(office: &Office) -> v1::ElectionObserveResponse {
    let leader = holders(&office.queue).next().map(|c| v1::ElectionLeader {
        session: c.kv.lease,
        token: c.kv.create_revision,
        value: c.kv.value.clone(),
        owner: c.claim.owner.clone(),
        since_ms: c.claim.held_ms,
    });
    let candidate = |c: &Candidate| v1::ElectionCandidate {
        session: c.session,
        owner: c.record.owner.clone(),
        priority: c.record.priority,
        failing: !c.record.healthy,
        preempts: c.record.preempts,
        since_ms: c.record.since_ms,
    };
    let candidates = office.candidates.iter().map(candidate).collect();
    v1::ElectionObserveResponse { header: None, leader, candidates }
}

/// What is bound to a session that is over fails for that reason.
fn over(e: Status, session: i64) -> Status {
    match e.code() {
        Code::NotFound => super::session::no_session(session),
        _ => e,
    }
}

#[tonic::async_trait]
impl Election for Door {
    async fn stand(
        &self,
        request: Request<v1::ElectionStandRequest>,
    ) -> Result<Response<v1::ElectionStandResponse>, Status> {
        Door::stand(self, request.into_inner()).await.map(Response::new)
    }

    async fn campaign(
        &self,
        request: Request<v1::ElectionCampaignRequest>,
    ) -> Result<Response<v1::ElectionCampaignResponse>, Status> {
        Door::campaign(self, request.into_inner()).await.map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<v1::ElectionProclaimRequest>,
    ) -> Result<Response<v1::ElectionProclaimResponse>, Status> {
        Door::proclaim(self, request.into_inner()).await.map(Response::new)
    }

    async fn resign(
        &self,
        request: Request<v1::ElectionResignRequest>,
    ) -> Result<Response<v1::ElectionResignResponse>, Status> {
        let s = sequencer(&request.into_inner().sequencer)?;
        let header = self.give_back(&s, resign).await?;
        Ok(Response::new(v1::ElectionResignResponse { header: Some(header) }))
    }

    async fn withdraw(
        &self,
        request: Request<v1::ElectionWithdrawRequest>,
    ) -> Result<Response<v1::ElectionWithdrawResponse>, Status> {
        Door::withdraw(self, request.into_inner()).await.map(Response::new)
    }

    type ObserveStream =
        Pin<Box<dyn Stream<Item = Result<v1::ElectionObserveResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<v1::ElectionObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let name = request.into_inner().name;
        check_name(&name)?;
        let (tx, rx) = mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            if let Err(status) = door.observe_office(&name, &tx).await {
                let _ = tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}
