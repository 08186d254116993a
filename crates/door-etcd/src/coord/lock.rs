//! Locks that can be proven to be held.

use super::fence::{parse, stale};
use crate::door::Door;
use crate::queue::{Taken, session_ended, unix_ms};
use bytes::Bytes;
use std::time::Duration;
use synod_coord::{
    Claim, Contender, Mode, Place, Sequencer, Standing, claim_key, delays, holders, is_reserved,
    key_of, leave, standing, would_hold,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_server::Lock;
use synod_mvcc::{KeyRange, KeyValue, RangeRequest, TxnRequest};
use tonic::{Code, Request, Response, Status};

/// Longest name of a lock, bytes.
const NAME_BYTES_MAX: usize = 1_024;
/// Longest name of who asks, bytes.
pub(super) const OWNER_BYTES_MAX: usize = 256;

/// Most candidates whose claims are looked up.
const CANDIDATES_TOLD: usize = 100;

pub(super) fn check_name(name: &[u8]) -> Result<(), Status> {
    let bad = |why: String| Err(Status::invalid_argument(format!("synod: {why}")));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return bad(format!("a lock's name has from 1 to {NAME_BYTES_MAX} bytes"));
    }
    not_reserved(name)
}

/// That neither a lock's name nor a key in its queue is among what Synod itself keeps.
pub(crate) fn not_reserved(name: &[u8]) -> Result<(), Status> {
    match is_reserved(name) {
        true => Err(Status::invalid_argument("synod: names below synod/ are Synod's own")),
        false => Ok(()),
    }
}

/// A sequencer that a client sent, of a lock that can be.
pub(super) fn sequencer(text: &str) -> Result<Sequencer, Status> {
    let s = parse(text)?;
    check_name(&s.name)?;
    Ok(s)
}

fn check(r: &v1::LockAcquireRequest) -> Result<Mode, Status> {
    let bad = |why: String| Err(Status::invalid_argument(format!("synod: {why}")));
    check_name(&r.name)?;
    if r.session <= 0 {
        return bad("a session is needed: Session/Open gives one".into());
    }
    if r.owner.len() > OWNER_BYTES_MAX {
        return bad(format!("an owner has at most {OWNER_BYTES_MAX} bytes"));
    }
    match v1::LockMode::try_from(r.mode) {
        Ok(v1::LockMode::Exclusive) => Ok(Mode::Exclusive),
        Ok(v1::LockMode::Shared) if !r.value.is_empty() => {
            bad("a candidate of an election, which has a value, cannot share the office".into())
        }
        Ok(v1::LockMode::Shared) => Ok(Mode::Shared),
        Err(_) => bad(format!("there is no lock mode {}", r.mode)),
    }
}

/// A place that the session had before is this call's only if it is an earlier try of
/// the same acquisition.
pub(super) fn same_attempt(taken: &Taken) -> Result<(), Status> {
    let Some((_, there)) = &taken.before else { return Ok(()) };
    let (place, wanted) = (&taken.place, &taken.place.claim);
    let again = wanted.attempt != 0 && wanted.attempt == there.attempt;
    if again && wanted.mode() == there.mode() {
        return Ok(());
    }
    Err(Status::already_exists(format!(
        "synod: session {:x} has a place in the queue of lock {:?} already, by token {}",
        place.session,
        String::from_utf8_lossy(&place.name),
        taken.token
    )))
}

impl Door {
    async fn acquire(&self, r: v1::LockAcquireRequest) -> Result<v1::LockAcquireResponse, Status> {
        let mode = check(&r)?;
        let record = self.session(r.session).await?.unwrap_or_default();
        let owner = if r.owner.is_empty() { &record.name } else { &r.owner };
        let claim = Claim::new(mode, owner, unix_ms()).attempt(r.attempt);
        let value = (!r.value.is_empty()).then_some(r.value);
        let (name, session, guard) = (r.name.to_vec(), r.session, record.guard());
        if r.r#try {
            self.look_first(&name, session, mode).await?;
        }
        let taken = self.place_for(Place { name, session, guard, claim, value }).await?;
        if let Err(e) = self.wait_within(&taken, r.r#try, r.wait_ms).await {
            taken.give_up().await?;
            return Err(e);
        }
        let taken = self.note_held(taken).await?;
        let (token, header) = (taken.token, Some(self.header_now()));
        let sequencer =
            Sequencer { token, mode, session, name: taken.place.name.clone() }.to_string();
        Ok(v1::LockAcquireResponse { header, sequencer, token, key: taken.keep() })
    }

    /// Whoever only tries a lock that is held writes nothing.
    async fn look_first(&self, name: &[u8], session: i64, mode: Mode) -> Result<(), Status> {
        self.read_barrier(false).await?;
        let (queue, _) = self.queue(name).await?;
        // It may be an earlier try of the same call.
        let own = key_of(name, session);
        if queue.iter().any(|c| c.kv.key == own) || would_hold(&queue, mode) {
            return Ok(());
        }
        Err(Status::aborted(held_by(name, &queue)))
    }

    /// A place of this call's own: a new one, or that of an earlier call for the same
    /// acquisition.
    async fn place_for(&self, place: Place) -> Result<Taken, Status> {
        loop {
            let taken = self.take_place(place.clone()).await;
            let mut taken = taken.map_err(|e| match e.code() {
                Code::NotFound => super::session::no_session(place.session),
                _ => e,
            })?;
            if taken.before.is_none() {
                return Ok(taken);
            }
            same_attempt(&taken)?;
            // Otherwise it was given up in between: there is a new one to take.
            if self.resume_place(&mut taken).await? {
                return Ok(taken);
            }
        }
    }

    /// Waits as long as was asked for.
    async fn wait_within(&self, taken: &Taken, try_only: bool, wait_ms: u64) -> Result<(), Status> {
        let turn = async {
            match self.wait_turn(taken).await {
                Err(e) if e.message() == session_ended().message() => {
                    // The session's end took the place, or else another call did.
                    self.session(taken.place.session).await?;
                    Err(Status::unavailable("synod: another call gave the place up; ask again"))
                }
                done => done,
            }
        };
        if try_only {
            if !taken.at_once {
                let (queue, _) = self.queue(&taken.place.name).await?;
                if standing(&queue, &taken.place.key(), taken.token) != Standing::Holds {
                    return Err(Status::aborted(held_by(&taken.place.name, &queue)));
                }
            }
            return turn.await;
        }
        if wait_ms == 0 {
            return turn.await;
        }
        match tokio::time::timeout(Duration::from_millis(wait_ms), turn).await {
            Ok(done) => done,
            Err(_) => {
                let (queue, _) = self.queue(&taken.place.name).await?;
                let why = held_by(&taken.place.name, &queue);
                Err(Status::deadline_exceeded(format!("{why}; waited {wait_ms} ms")))
            }
        }
    }

    async fn release(&self, text: &str) -> Result<v1::LockReleaseResponse, Status> {
        let s = sequencer(text)?;
        let header = self.give_back(&s, leave).await?;
        Ok(v1::LockReleaseResponse { header: Some(header) })
    }

    /// Gives back what this sequencer holds, by a transaction on its place.
    pub(super) async fn give_back(
        &self,
        s: &Sequencer,
        by: fn(&Place, i64) -> TxnRequest,
    ) -> Result<pb::ResponseHeader, Status> {
        let record = self.session(s.session).await;
        let guard = match record {
            Ok(record) => record.map_or(0, |r| r.guard()),
            Err(e) if e.code() == Code::NotFound => return Err(stale(s)),
            Err(e) => return Err(e),
        };
        let (name, claim) = (s.name.clone(), Claim::default());
        // As a candidate's: its claim goes too, if it has one.
        let value = Some(Bytes::new());
        let place = Place { name, session: s.session, guard, claim, value };
        let (left, header) = self.run_txn(by(&place, s.token)).await?;
        if left.succeeded { Ok(header) } else { Err(stale(s)) }
    }

    async fn check_lock(&self, text: &str) -> Result<v1::LockCheckResponse, Status> {
        let s = sequencer(text)?;
        self.read_barrier(false).await?;
        let (found, header) = self.place_of(&s).await?;
        let good = match found {
            Some(claim) if claim.mode() != s.mode => false,
            // Once it was granted it is held as long as the key is there.
            Some(claim) if claim.held_ms > 0 => true,
            // The note of that may be on its way.
            Some(_) => {
                let (queue, _) = self.queue(&s.name).await?;
                standing(&queue, &key_of(&s.name, s.session), s.token) == Standing::Holds
            }
            None => false,
        };
        Ok(v1::LockCheckResponse { header: Some(header), good })
    }

    /// What the place of this sequencer claims, as this member has it; `None`: it is gone,
    /// or this member has not heard of it.
    pub(super) async fn place_of(
        &self,
        s: &Sequencer,
    ) -> Result<(Option<Claim>, pb::ResponseHeader), Status> {
        let range = KeyRange { key: key_of(&s.name, s.session), end: Bytes::new() };
        let (found, header) = self.read(RangeRequest { range, ..RangeRequest::default() }).await?;
        let mine = |kv: &KeyValue| kv.create_revision == s.token && kv.lease == s.session;
        let Some(kv) = found.kvs.into_iter().find(mine) else { return Ok((None, header)) };
        let claim = Claim::decode(&kv.value);
        let guards = claim.guards().is_some();
        let mut queue = [Contender { kv, claim }];
        self.read_claims(&s.name, &mut queue).await?;
        let [Contender { claim, .. }] = queue;
        Ok(((!guards).then_some(claim), header))
    }

    /// The key of a candidate shows its value: what it claims stands elsewhere.
    pub(super) async fn read_claims(
        &self,
        name: &[u8],
        queue: &mut [Contender],
    ) -> Result<(), Status> {
        let candidates = queue.iter_mut().filter(|c| c.claim.asked_ms == 0 && c.kv.lease != 0);
        for c in candidates.take(CANDIDATES_TOLD) {
            let range = KeyRange { key: claim_key(name, c.kv.lease), end: Bytes::new() };
            let (found, _) = self.read(RangeRequest { range, ..RangeRequest::default() }).await?;
            // Bound to the same session, or it is somebody else's writing.
            let own = found.kvs.first().filter(|kv| kv.lease == c.kv.lease);
            c.claim = own.map_or_else(Claim::default, |kv| Claim::decode(&kv.value));
        }
        Ok(())
    }

    async fn describe(&self, name: &[u8]) -> Result<v1::LockDescribeResponse, Status> {
        check_name(name)?;
        self.read_barrier(false).await?;
        let (mut queue, revision) = self.queue(name).await?;
        self.read_claims(name, &mut queue).await?;
        let held: Vec<i64> = holders(&queue).map(|c| c.kv.create_revision).collect();
        let waits =
            |c: &&Contender| c.claim.guards().is_none() && !held.contains(&c.kv.create_revision);
        Ok(v1::LockDescribeResponse {
            header: Some(self.header(revision, self.handle().term())),
            holders: holders(&queue)
                .map(|c| v1::LockParty { sequencer: c.sequencer(name).to_string(), ..party(c) })
                .collect(),
            waiters: queue.iter().filter(waits).map(party).collect(),
            delays: delays(&queue).map(party).collect(),
        })
    }
}

/// Why a lock is not free.
fn held_by(name: &[u8], queue: &[Contender]) -> String {
    let name = String::from_utf8_lossy(name);
    let first = holders(queue).next();
    match (first, delays(queue).next()) {
        (Some(c), _) if c.kv.lease == 0 => format!(
            "synod: key {:?} holds lock {name:?}, and no lease ends it",
            String::from_utf8_lossy(&c.kv.key)
        ),
        (Some(c), _) => {
            let owner = Some(owner(c)).filter(|o| !o.is_empty());
            let owner = owner.as_deref().unwrap_or("a client");
            let (session, token) = (c.kv.lease, c.kv.create_revision);
            format!("synod: lock {name:?} is held by {owner} (session {session:x}, token {token})")
        }
        (None, Some(_)) => format!(
            "synod: lock {name:?} is closed until the lock-delay of the session that was lost with it is over"
        ),
        (None, None) => format!("synod: lock {name:?} was held a moment ago"),
    }
}

/// Who a contender is, for people: its claim says it, or else a candidate's value.
pub(super) fn owner(c: &Contender) -> String {
    let value = std::str::from_utf8(&c.kv.value).unwrap_or_default();
    match c.claim.asked_ms {
        0 => value.chars().filter(|c| !c.is_control()).take(OWNER_BYTES_MAX).collect(),
        _ => c.claim.owner.clone(),
    }
}

fn party(c: &Contender) -> v1::LockParty {
    let mode = match c.claim.mode() {
        Mode::Exclusive => v1::LockMode::Exclusive,
        Mode::Shared => v1::LockMode::Shared,
    };
    v1::LockParty {
        sequencer: String::new(),
        token: c.kv.create_revision,
        session: c.claim.guards().unwrap_or(c.kv.lease),
        mode: mode.into(),
        owner: owner(c),
        asked_ms: c.claim.asked_ms,
        held_ms: c.claim.held_ms,
        key: c.kv.key.clone(),
    }
}

#[tonic::async_trait]
impl Lock for Door {
    async fn acquire(
        &self,
        request: Request<v1::LockAcquireRequest>,
    ) -> Result<Response<v1::LockAcquireResponse>, Status> {
        Door::acquire(self, request.into_inner()).await.map(Response::new)
    }

    async fn release(
        &self,
        request: Request<v1::LockReleaseRequest>,
    ) -> Result<Response<v1::LockReleaseResponse>, Status> {
        Door::release(self, &request.into_inner().sequencer).await.map(Response::new)
    }

    async fn check(
        &self,
        request: Request<v1::LockCheckRequest>,
    ) -> Result<Response<v1::LockCheckResponse>, Status> {
        self.check_lock(&request.into_inner().sequencer).await.map(Response::new)
    }

    async fn describe(
        &self,
        request: Request<v1::LockDescribeRequest>,
    ) -> Result<Response<v1::LockDescribeResponse>, Status> {
        Door::describe(self, &request.into_inner().name).await.map(Response::new)
    }
}
