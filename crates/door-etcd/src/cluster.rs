//! Who belongs to the cluster.

use crate::door::Door;
use crate::error;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use synod_base::{NodeId, hash64};
use synod_cell::{Failure, Work};
use synod_consensus::{Change, Refusal};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::cluster_server::Cluster;
use synod_host::RequestError;
use synod_mvcc::{Command, MemberInfo};
use tonic::{Request, Response, Status};

/// Most learners at once, as in etcd: each costs the leader a copy of the log.
const LEARNERS_MAX: usize = 1;
/// How long a change waits for the one before it.
const CHANGE_WAITS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Door {
    fn member_list(&self) -> Vec<pb::Member> {
        let published = self.handle().published();
        let learners = &self.handle().status().consensus.membership.learners;
        let member = |m: &MemberInfo| pb::Member {
            id: m.id.0,
            name: m.name.clone(),
            peer_ur_ls: m.peer_urls.clone(),
            client_ur_ls: m.client_urls.clone(),
            is_learner: learners.contains(&m.id),
        };
        published.members().values().map(member).collect()
    }

    /// Has a change of the members agreed on. One that is under way is waited for:
    /// its second half follows by itself after its client was answered.
    async fn change(&self, change: Change, commands: Vec<Command>) -> Result<(), Status> {
        self.refuse_on_learner()?;
        let commands: Vec<_> = commands.iter().map(Command::encode).collect();
        let begun = Instant::now();
        loop {
            let work = Work::Change(change.clone(), commands.clone());
            let done = self.handle().propose(work).await;
            let busy = RequestError::Failed(Failure::Refused(Refusal::ChangeInProgress));
            if done.as_ref().is_err_and(|e| *e == busy) && begun.elapsed() < CHANGE_WAITS {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            return done.map(drop).map_err(error::of_request);
        }
    }

    fn member(&self, id: u64) -> Result<MemberInfo, Status> {
        let published = self.handle().published();
        published.members().get(&NodeId(id)).cloned().ok_or_else(error::member_not_found)
    }

    /// Refuses peer URLs that are malformed or another member's.
    fn check_urls(&self, urls: &[String], but: Option<NodeId>) -> Result<(), Status> {
        let valid = |u: &String| {
            let rest = u.strip_prefix("http://").or_else(|| u.strip_prefix("https://"));
            rest.and_then(|r| r.trim_end_matches('/').rsplit_once(':'))
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if urls.is_empty() || !urls.iter().all(valid) {
            return Err(error::bad_member_urls());
        }
        let published = self.handle().published();
        let taken = published
            .members()
            .values()
            .filter(|m| Some(m.id) != but)
            .any(|m| m.peer_urls.iter().any(|u| urls.contains(u)));
        if taken { Err(error::peer_urls_exist()) } else { Ok(()) }
    }

    /// Would the voters that have started be a quorum of these?
    fn check_started(&self, voters: &BTreeSet<NodeId>) -> Result<(), Status> {
        let published = self.handle().published();
        let started =
            |id: &&NodeId| published.members().get(id).is_some_and(|m| !m.client_urls.is_empty());
        let count = voters.iter().filter(started).count();
        if count > voters.len() / 2 { Ok(()) } else { Err(error::not_enough_started()) }
    }

    /// How many of these does this member reach, itself included?
    fn count_connected(&self, voters: &BTreeSet<NodeId>) -> usize {
        let (own, connected) = (self.handle().id(), self.handle().connected());
        voters.iter().filter(|id| **id == own || connected.contains(id)).count()
    }

    /// A voter may be added when all others take part, and those that have
    /// started are a quorum with it. Other than in etcd a single member's second
    /// voter is refused: the new quorum counts from the moment that it is
    /// proposed, so the change would wait for a member that cannot start before
    /// it is agreed on. Such a member is added as a learner and then promoted.
    fn check_added(&self, now: &BTreeSet<NodeId>, id: NodeId) -> Result<(), Status> {
        let mut voters = now.clone();
        voters.insert(id);
        self.check_started(&voters)?;
        if self.count_connected(now) < now.len() { Err(error::unhealthy()) } else { Ok(()) }
    }

    /// A voter may be removed when those that stay and have started are a
    /// quorum, and, unless it is down itself, those that are up are one too.
    fn check_removed(&self, now: &BTreeSet<NodeId>, id: NodeId) -> Result<(), Status> {
        let mut voters = now.clone();
        if !voters.remove(&id) {
            return Ok(());
        }
        self.check_started(&voters)?;
        let is_up = id == self.handle().id() || self.handle().connected().contains(&id);
        if is_up && self.count_connected(&voters) <= voters.len() / 2 {
            return Err(error::unhealthy());
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Cluster for Door {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let r = request.into_inner();
        self.read_barrier(false).await?;
        self.check_urls(&r.peer_ur_ls, None)?;
        let membership = self.handle().status().consensus.membership.clone();
        let life = getrandom::u64().map_err(|e| Status::internal(format!("no entropy: {e}")))?;
        let id = NodeId(hash64(&[r.peer_ur_ls.join(",").as_bytes(), &life.to_le_bytes()]).max(1));
        let mut change = Change::default();
        if r.is_learner {
            if membership.learners.len() >= LEARNERS_MAX {
                return Err(error::too_many_learners());
            }
            change.add_learners.insert(id);
        } else {
            self.check_added(&membership.voters, id)?;
            change.add_voters.insert(id);
        }
        let peer_urls = r.peer_ur_ls.clone();
        let info = MemberInfo { id, peer_urls, ..MemberInfo::default() };
        self.change(change, vec![Command::MemberSet(info)]).await?;
        let member = pb::Member {
            id: id.0,
            peer_ur_ls: r.peer_ur_ls,
            is_learner: r.is_learner,
            ..Default::default()
        };
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(self.header_now()),
            member: Some(member),
            members: self.member_list(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.read_barrier(false).await?;
        let member = self.member(request.into_inner().id)?;
        let voters = self.handle().status().consensus.membership.voters.clone();
        self.check_removed(&voters, member.id)?;
        let change = Change { remove: [member.id].into(), ..Change::default() };
        self.change(change, vec![Command::MemberRemove(member.id)]).await?;
        Ok(Response::new(pb::MemberRemoveResponse {
            header: Some(self.header_now()),
            members: self.member_list(),
        }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let r = request.into_inner();
        self.read_barrier(false).await?;
        let member = self.member(r.id)?;
        self.check_urls(&r.peer_ur_ls, Some(member.id))?;
        let info = MemberInfo { peer_urls: r.peer_ur_ls, ..member };
        self.run(Command::MemberSet(info)).await?;
        Ok(Response::new(pb::MemberUpdateResponse {
            header: Some(self.header_now()),
            members: self.member_list(),
        }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.read_barrier(false).await?;
        }
        Ok(Response::new(pb::MemberListResponse {
            header: Some(self.header_now()),
            members: Door::member_list(self),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.read_barrier(false).await?;
        let member = self.member(request.into_inner().id)?;
        let membership = self.handle().status().consensus.membership.clone();
        if !membership.learners.contains(&member.id) {
            return Err(error::not_learner());
        }
        if member.client_urls.is_empty() {
            // Never started, so it cannot be in sync.
            return Err(error::learner_not_ready());
        }
        let mut voters = membership.voters.clone();
        voters.insert(member.id);
        self.check_started(&voters)?;
        let change = Change { promote: [member.id].into(), ..Change::default() };
        self.change(change, vec![Command::MemberSet(member)]).await?;
        Ok(Response::new(pb::MemberPromoteResponse {
            header: Some(self.header_now()),
            members: self.member_list(),
        }))
    }
}
