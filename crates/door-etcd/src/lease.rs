//! Leases. Renewals are agreed on like writes (so a new leader knows of them),
//! but all that wait at this door share one command; and who has time to wait
//! does, so that there are few of them.

use crate::door::Door;
use crate::error;
use crate::kv::unexpected;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::lease_server::Lease;
use synod_mvcc::{Command, LEASE_TTL_MAX, Outcome};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// The least time to live that etcd grants at its default timings, seconds.
const ETCD_TTL_MIN: i64 = 2;
/// Which part of its time to live a session's renewal may wait for others.
const PATIENCE_PART: u32 = 50;
/// And for how long at most.
const PATIENCE_MAX: Duration = Duration::from_millis(250);

/// For how long the renewal of a session that lives so long may wait for others.
pub(crate) fn patience(ttl_s: i64) -> Duration {
    let ttl = Duration::from_secs(ttl_s.clamp(0, 3_600) as u64);
    (ttl / PATIENCE_PART).min(PATIENCE_MAX)
}

type Answer = oneshot::Sender<Result<i64, Status>>;

#[derive(Default)]
struct Waiting {
    leases: Vec<(i64, Answer)>,
    /// When the first of them has waited long enough.
    until: Option<Instant>,
    /// Somebody proposes them.
    running: bool,
}

/// Renewals that wait for the one in flight, and for others.
#[derive(Default)]
pub(crate) struct Renewals {
    waiting: Mutex<Waiting>,
    /// One came that cannot wait as long as those before.
    sooner: Notify,
}

impl Renewals {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes all that wait once the first of them has waited long enough; `None` if
    /// there are none.
    async fn take(&self) -> Option<Vec<(i64, Answer)>> {
        loop {
            let until = {
                let mut waiting = self.lock();
                match waiting.until {
                    None => {
                        waiting.running = false;
                        return None;
                    }
                    Some(until) if until <= Instant::now() => {
                        waiting.until = None;
                        return Some(std::mem::take(&mut waiting.leases));
                    }
                    Some(until) => until,
                }
            };
            let _ = tokio::time::timeout_at(until, self.sooner.notified()).await;
        }
    }
}

impl Door {
    pub(crate) async fn lease_grant(
        &self,
        r: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, Status> {
        if r.ttl > LEASE_TTL_MAX {
            return Err(error::lease_ttl_too_large());
        }
        loop {
            let id = if r.id == 0 { random_id()? } else { r.id };
            let command = Command::LeaseGrant { id, ttl: r.ttl, clock: 0 };
            match self.run(command).await {
                Ok((Outcome::LeaseGranted(ttl), header)) => {
                    let header = Some(header);
                    return Ok(pb::LeaseGrantResponse { header, id, ttl, error: String::new() });
                }
                Ok((other, _)) => return Err(unexpected(&other)),
                // A drawn number that was taken: draw again.
                Err(e) if r.id == 0 && e.message() == error::lease_exists().message() => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Renews a lease; the time to live granted, or 0 if there is no such lease.
    pub(crate) async fn renew(&self, id: i64) -> Result<i64, Status> {
        let [ttl] = self.renew_together([id], Duration::ZERO).await?;
        Ok(ttl)
    }

    /// Renews leases by one command, so that they count from the same moment; the
    /// command may wait so long for others.
    pub(crate) async fn renew_together<const N: usize>(
        &self,
        ids: [i64; N],
        patience: Duration,
    ) -> Result<[i64; N], Status> {
        let until = Instant::now() + patience;
        let mut answers = Vec::with_capacity(N);
        let begin = {
            let mut waiting = self.renewals().lock();
            for id in ids {
                let (tx, rx) = oneshot::channel();
                waiting.leases.push((id, tx));
                answers.push(rx);
            }
            if waiting.until.is_none_or(|u| until < u) {
                waiting.until = Some(until);
                self.renewals().sooner.notify_one();
            }
            !std::mem::replace(&mut waiting.running, true)
        };
        if begin {
            let door = self.clone();
            tokio::spawn(async move { door.renew_all().await });
        }
        let mut ttls = [0; N];
        for (ttl, answer) in ttls.iter_mut().zip(answers) {
            *ttl = answer.await.map_err(|_| error::stopped())??;
        }
        Ok(ttls)
    }

    /// One command after another, each for all that waited.
    async fn renew_all(&self) {
        while let Some(waiting) = self.renewals().take().await {
            let mut ids: Vec<i64> = waiting.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids.dedup();
            let answer = self.run(Command::LeaseRenew { ids, clock: 0 }).await;
            for (id, tx) in waiting {
                let result = match &answer {
                    // In the order that they were named in.
                    Ok((Outcome::LeaseRenewed(ttls), _)) => {
                        let found = ttls.binary_search_by_key(&id, |(id, _)| *id);
                        Ok(found.map_or(0, |at| ttls[at].1))
                    }
                    Ok((other, _)) => Err(unexpected(other)),
                    Err(e) => Err(e.clone()),
                };
                let _ = tx.send(result);
            }
        }
    }

    async fn time_to_live(
        &self,
        r: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        self.read_barrier(false).await?;
        let published = self.handle().published();
        let header = Some(self.header(published.revision(), self.handle().term()));
        let Some(lease) = published.lease(r.id).map_err(error::of_store)? else {
            return Ok(pb::LeaseTimeToLiveResponse {
                header,
                id: r.id,
                ttl: -1,
                ..Default::default()
            });
        };
        let left_ms = lease.expiry_clock.saturating_sub(self.handle().lease_clock());
        Ok(pb::LeaseTimeToLiveResponse {
            header,
            id: r.id,
            ttl: (left_ms / 1_000) as i64,
            granted_ttl: lease.granted_ttl,
            keys: if r.keys { lease.keys } else { Vec::new() },
        })
    }
}

pub(crate) fn random_id() -> Result<i64, Status> {
    let bits = getrandom::u64().map_err(|e| Status::internal(format!("no entropy: {e}")))?;
    // Positive and not zero.
    Ok(((bits >> 1) as i64).max(1))
}

#[tonic::async_trait]
impl Lease for Door {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let mut request = request.into_inner();
        request.ttl = request.ttl.max(ETCD_TTL_MIN);
        Door::lease_grant(self, request).await.map(Response::new)
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let (_, header) = self.run(Command::LeaseRevoke { id }).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(header) }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let wants_leader =
            request.metadata().get("hasleader").is_some_and(|v| v.as_bytes() == b"true");
        let door = self.clone();
        let answers = request.into_inner().then(move |message| {
            let door = door.clone();
            async move {
                let id = message?.id;
                if wants_leader && door.handle().leader().is_none() {
                    return Err(error::no_leader());
                }
                // Taken before the renewal, so that it never claims more than was seen.
                let header = Some(door.header_now());
                let ttl = door.renew(id).await?;
                Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.time_to_live(request.into_inner()).await.map(Response::new)
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.read_barrier(false).await?;
        let published = self.handle().published();
        let header = Some(self.header(published.revision(), self.handle().term()));
        let ids = published.leases().map_err(error::of_store)?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}
