//! Sessions: a lease with a record, and a guard that outlives it by the
//! lock-delay.

use crate::door::Door;
use crate::error;
use crate::grpc::{Answers, MessageReader};
use crate::lease::{patience, random_id};
use crate::queue::unix_ms;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::pin::Pin;
use synod_coord::{SESSIONS, SessionRecord, prefix_range, session_key};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::session_server::Session;
use synod_mvcc::{Command, KeyRange, LEASE_TTL_MAX, PutRequest, RangeRequest};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Time to live of a session that names none, seconds (Chubby's).
const TTL_S: i64 = 12;
/// Longest lock-delay, seconds.
const LOCK_DELAY_MAX_S: i64 = 3_600;
/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 256;

/// What a stream of renewals remembers of a session: neither ever changes.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    guard: i64,
    ttl_s: i64,
}

/// There is no such session.
pub(crate) fn no_session(session: i64) -> Status {
    Status::not_found(format!("synod: there is no session {session:x}: it ended or never was"))
}

/// Leases for a session and its guard. Their keys in a queue are created by one step;
/// etcd's own client takes the first of them by name for the leader of an election,
/// and that must be the session's.
fn session_and_guard() -> Result<(i64, i64), Status> {
    let (a, b) = (random_id()?, random_id()?);
    let a_is_first = format!("{a:x}") <= format!("{b:x}");
    Ok(if a_is_first { (a, b) } else { (b, a) })
}

impl Door {
    /// The record of a session, as the whole cell has it; `None` for a lease that
    /// was granted without one.
    pub(crate) async fn session(&self, session: i64) -> Result<Option<SessionRecord>, Status> {
        if let Some(record) = self.session_here(session).await? {
            return Ok(Some(record));
        }
        // It may have been opened at another member a moment ago.
        self.read_barrier(false).await?;
        if let Some(record) = self.session_here(session).await? {
            return Ok(Some(record));
        }
        let lease = self.handle().published().lease(session).map_err(error::of_store)?;
        if lease.is_some() { Ok(None) } else { Err(no_session(session)) }
    }

    async fn session_here(&self, session: i64) -> Result<Option<SessionRecord>, Status> {
        let range = KeyRange { key: session_key(session), end: Default::default() };
        let (found, _) = self.read(RangeRequest { range, ..RangeRequest::default() }).await?;
        // Anybody may write there; only what is bound to the lease is its record.
        let own = found.kvs.into_iter().find(|kv| kv.lease == session);
        Ok(own.and_then(|kv| SessionRecord::decode(&kv.value)))
    }

    async fn open(&self, r: v1::SessionOpenRequest) -> Result<v1::SessionOpenResponse, Status> {
        if r.ttl_s < 0 || !(0..=LOCK_DELAY_MAX_S).contains(&r.lock_delay_s) {
            return Err(Status::invalid_argument(format!(
                "synod: ttl_s must not be negative, and lock_delay_s from 0 to {LOCK_DELAY_MAX_S}"
            )));
        }
        if r.name.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "synod: a session's name has at most {NAME_BYTES_MAX} bytes"
            )));
        }
        let ttl = if r.ttl_s == 0 { TTL_S } else { r.ttl_s };
        if ttl > LEASE_TTL_MAX - LOCK_DELAY_MAX_S {
            return Err(error::lease_ttl_too_large());
        }
        let guarded = r.lock_delay_s > 0;
        let (id, guard) = if guarded { session_and_guard()? } else { (0, 0) };
        let granted = self.lease_grant(pb::LeaseGrantRequest { ttl, id }).await?;
        let mut record = SessionRecord {
            name: r.name,
            ttl_s: granted.ttl,
            lock_delay_s: r.lock_delay_s,
            guard: String::new(),
            opened_ms: unix_ms(),
        };
        if guarded {
            let ttl = granted.ttl + r.lock_delay_s;
            let guard = self.lease_grant(pb::LeaseGrantRequest { ttl, id: guard }).await?;
            record.guard = format!("{:x}", guard.id);
        }
        let (session, value) = (granted.id, record.encode());
        let key = session_key(session);
        let put = PutRequest { key, value, lease: session, ..PutRequest::default() };
        let (_, header) = self.run(Command::Put(put)).await?;
        Ok(v1::SessionOpenResponse { header: Some(header), session, ttl_s: granted.ttl })
    }

    /// Renews a session and its guard; the time to live granted, or 0. Without its
    /// guard a session is as good as over: it could not hold what it holds.
    async fn renew_session(&self, session: i64, known: Known) -> Result<i64, Status> {
        let patience = patience(known.ttl_s);
        if known.guard == 0 {
            let [ttl] = self.renew_together([session], patience).await?;
            return Ok(ttl);
        }
        let [ttl, guarded] = self.renew_together([session, known.guard], patience).await?;
        Ok(if guarded == 0 { 0 } else { ttl })
    }

    /// Answers one renewal; `known`: what its stream has learnt of its sessions.
    async fn keep_alive(
        &self,
        session: i64,
        known: &mut BTreeMap<i64, Known>,
    ) -> Result<v1::SessionKeepAliveResponse, Status> {
        // Taken before the renewal, so that it never claims more than was seen.
        let header = Some(self.header_now());
        let found = match known.get(&session) {
            Some(known) => Some(*known),
            None => match self.session(session).await {
                Ok(Some(r)) => {
                    let found = Known { guard: r.guard(), ttl_s: r.ttl_s };
                    known.insert(session, found);
                    Some(found)
                }
                Ok(None) => Some(Known { guard: 0, ttl_s: 0 }),
                Err(e) if e.code() == tonic::Code::NotFound => None,
                Err(e) => return Err(e),
            },
        };
        let ttl_s = match found {
            Some(found) => self.renew_session(session, found).await?,
            None => 0,
        };
        if ttl_s == 0 {
            known.remove(&session);
        }
        Ok(v1::SessionKeepAliveResponse { header, session, ttl_s })
    }

    /// The answers to a stream of renewals, on the bare connection: a stream that is
    /// idle most of the time must cost little.
    pub(crate) fn keep_alive_stream(
        self,
        mut requests: MessageReader,
        mut known: BTreeMap<i64, Known>,
    ) -> Answers {
        Answers::from(async move {
            let answer = match requests.next::<v1::SessionKeepAliveRequest>().await {
                // In a box: the room that it takes is needed seldom.
                Ok(Some(request)) => Box::pin(self.keep_alive(request.session, &mut known)).await,
                Ok(None) => return None,
                Err(e) => Err(e),
            };
            let answer = answer.map(|a| Bytes::from(a.encode_to_vec()));
            Some((answer, self.keep_alive_stream(requests, known)))
        })
    }

    async fn close(&self, session: i64) -> Result<pb::ResponseHeader, Status> {
        let record = self.session(session).await?;
        // Its locks are given back, not lost. The guard goes first: a call that ends
        // in between can be made again.
        if let Some(guard) = record.map(|r| r.guard()).filter(|g| *g != 0) {
            match self.run(Command::LeaseRevoke { id: guard }).await {
                Err(e) if e.code() != tonic::Code::NotFound => return Err(e),
                _ => {}
            }
        }
        let revoked = self.run(Command::LeaseRevoke { id: session }).await;
        let (_, header) = revoked.map_err(|e| match e.code() {
            tonic::Code::NotFound => no_session(session),
            _ => e,
        })?;
        Ok(header)
    }

    async fn list(&self, r: v1::SessionListRequest) -> Result<v1::SessionListResponse, Status> {
        if r.limit < 0 || r.after < 0 {
            return Err(Status::invalid_argument("synod: neither limit nor after is negative"));
        }
        self.read_barrier(false).await?;
        let mut range = prefix_range(SESSIONS.as_bytes());
        if r.after != 0 {
            range.key = [&session_key(r.after)[..], &[0]].concat().into();
        }
        let page = RangeRequest { range, limit: r.limit, ..RangeRequest::default() };
        let (found, header) = self.read(page).await?;
        let more = found.more;
        let published = self.handle().published();
        let clock = self.handle().lease_clock();
        let mut sessions = Vec::new();
        for kv in found.kvs {
            let Some(record) = SessionRecord::decode(&kv.value) else { continue };
            let Some(lease) = published.lease(kv.lease).map_err(error::of_store)? else { continue };
            if kv.key != session_key(kv.lease) {
                continue;
            }
            sessions.push(v1::SessionInfo {
                session: kv.lease,
                name: record.name,
                ttl_s: lease.granted_ttl,
                left_ms: lease.expiry_clock.saturating_sub(clock) as i64,
                lock_delay_s: record.lock_delay_s,
                opened_ms: record.opened_ms,
                keys: lease.keys.into_iter().filter(|k| *k != kv.key).collect(),
            });
        }
        Ok(v1::SessionListResponse { header: Some(header), sessions, more })
    }
}

#[tonic::async_trait]
impl Session for Door {
    async fn open(
        &self,
        request: Request<v1::SessionOpenRequest>,
    ) -> Result<Response<v1::SessionOpenResponse>, Status> {
        Door::open(self, request.into_inner()).await.map(Response::new)
    }

    type KeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<v1::SessionKeepAliveResponse, Status>> + Send>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::SessionKeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let door = self.clone();
        let answers = request.into_inner().then(move |message| {
            let door = door.clone();
            async move { door.keep_alive(message?.session, &mut BTreeMap::new()).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn close(
        &self,
        request: Request<v1::SessionCloseRequest>,
    ) -> Result<Response<v1::SessionCloseResponse>, Status> {
        let header = Door::close(self, request.into_inner().session).await?;
        Ok(Response::new(v1::SessionCloseResponse { header: Some(header) }))
    }

    async fn list(
        &self,
        request: Request<v1::SessionListRequest>,
    ) -> Result<Response<v1::SessionListResponse>, Status> {
        Door::list(self, request.into_inner()).await.map(Response::new)
    }
}
