//! Elections with priorities, over gRPC and JSON, beside etcd's.

mod common;

use common::{Node, Plan, until};
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::election_client::ElectionClient;
use synod_etcd_proto::synod::v1::session_client::SessionClient;
use synod_etcd_proto::v3electionpb;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient as EtcdClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

struct Doors {
    sessions: SessionClient<Channel>,
    elections: ElectionClient<Channel>,
    etcd: EtcdClient<Channel>,
    kv: KvClient<Channel>,
    node: Node,
    _plan: Plan,
}

type Campaign = JoinHandle<Result<v1::ElectionCampaignResponse, Status>>;

impl Doors {
    async fn open() -> Doors {
        let plan = Plan::alone();
        let node = plan.start().await;
        node.ready().await;
        let channel = node.channel().await;
        Doors {
            sessions: SessionClient::new(channel.clone()),
            elections: ElectionClient::new(channel.clone()),
            etcd: EtcdClient::new(channel.clone()),
            kv: KvClient::new(channel),
            node,
            _plan: plan,
        }
    }

    async fn session(&mut self, name: &str, ttl_s: i64, lock_delay_s: i64) -> i64 {
        let open = v1::SessionOpenRequest { ttl_s, lock_delay_s, name: name.into() };
        self.sessions.open(open).await.expect("a session").into_inner().session
    }

    async fn stand(&mut self, session: i64, priority: i64, failing: bool) {
        let name = "boss".into();
        let stand =
            v1::ElectionStandRequest { name, session, priority, failing, ..Default::default() };
        self.elections.stand(stand).await.expect("a candidate");
    }

    fn campaign(&self, session: i64) -> Campaign {
        let mut elections = self.elections.clone();
        tokio::spawn(
            async move { elections.campaign(campaign(session)).await.map(|a| a.into_inner()) },
        )
    }

    async fn resign(&mut self, sequencer: &str) -> Result<(), Status> {
        let resign = v1::ElectionResignRequest { sequencer: sequencer.into() };
        self.elections.resign(resign).await.map(drop)
    }

    async fn seen(&self) -> v1::ElectionObserveResponse {
        let observe = v1::ElectionObserveRequest { name: "boss".into() };
        let mut seen = self.elections.clone().observe(observe).await.expect("a stream");
        seen.get_mut().message().await.expect("an answer").expect("one at once")
    }
}

fn campaign(session: i64) -> v1::ElectionCampaignRequest {
    let value = format!("{session:x}").into();
    v1::ElectionCampaignRequest { name: "boss".into(), session, value, attempt: 1 }
}

async fn elected(campaign: Campaign) -> v1::ElectionCampaignResponse {
    let within = Duration::from_secs(20);
    let done = tokio::time::timeout(within, campaign).await.expect("in time");
    done.expect("the task").expect("elected")
}

fn refused<T: std::fmt::Debug>(done: Result<T, Status>, code: Code, words: &str) {
    let status = done.expect_err(words);
    assert!(status.code() == code && status.message().contains(words), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_healthy_candidate_gets_the_office_when_it_is_free() {
    let mut doors = Doors::open().await;
    let mut sessions = Vec::new();
    for name in ["first", "low", "high", "failing", "high too"] {
        sessions.push(doors.session(name, 60, 0).await);
    }
    let [first, low, high, failing, high_too] = sessions[..] else { panic!("five") };
    doors.stand(first, 0, false).await;
    let first = elected(doors.campaign(first)).await;
    for (session, priority, fails) in
        [(low, 1, false), (high, 5, false), (failing, 9, true), (high_too, 5, false)]
    {
        doors.stand(session, priority, fails).await;
    }
    let waiting = [low, high, failing, high_too].map(|s| (s, doors.campaign(s)));
    let seen = doors.seen().await;
    let order: Vec<i64> = seen.candidates.iter().map(|c| c.session).collect();
    assert_eq!(order[..3], [high, high_too, low], "{seen:?}");
    assert_eq!(seen.leader.expect("a leader").token, first.token);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(waiting.iter().all(|(_, c)| !c.is_finished()), "the office is not free");

    let [low, high, failing, high_too] = waiting;
    doors.resign(&first.sequencer).await.expect("it led");
    let second = elected(high.1).await;
    assert!(second.token > first.token);
    refused(doors.resign(&first.sequencer).await, Code::FailedPrecondition, "stale");
    // It is well again: now it is the best.
    doors.stand(failing.0, 9, false).await;
    doors.resign(&second.sequencer).await.expect("it led");
    let third = elected(failing.1).await;
    assert!(!high_too.1.is_finished() && !low.1.is_finished());
    // A leader that is lost is followed by the best of the others.
    let close = v1::SessionCloseRequest { session: failing.0 };
    doors.sessions.close(close).await.expect("closed");
    let fourth = elected(high_too.1).await;
    assert!(fourth.token > third.token);
    let withdraw = v1::ElectionWithdrawRequest { name: "boss".into(), session: low.0 };
    doors.elections.withdraw(withdraw).await.expect("an answer");
    refused(low.1.await.expect("the task"), Code::FailedPrecondition, "is no candidate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_proclaims_and_who_campaigns_again_finds_its_office() {
    let mut doors = Doors::open().await;
    let a = doors.session("a", 60, 30).await;
    refused(doors.campaign(a).await.expect("the task"), Code::FailedPrecondition, "no candidate");
    doors.stand(a, 0, false).await;
    let led = elected(doors.campaign(a)).await;
    assert_eq!(elected(doors.campaign(a)).await.sequencer, led.sequencer);
    let other = v1::ElectionCampaignRequest { attempt: 2, ..campaign(a) };
    refused(doors.elections.campaign(other).await, Code::AlreadyExists, "has a place");
    let proclaim =
        v1::ElectionProclaimRequest { sequencer: led.sequencer.clone(), value: "v".into() };
    doors.elections.proclaim(proclaim.clone()).await.expect("it leads");
    // etcd's observers see it; its client looks for the first key, and a session with
    // a lock-delay has two.
    let leader = v3electionpb::LeaderRequest { name: "boss".into() };
    let leader = doors.etcd.leader(leader).await.expect("a leader").into_inner();
    assert_eq!(leader.kv.expect("its key").value, "v");
    let first = pb::RangeRequest {
        key: "boss/".into(),
        range_end: "boss0".into(),
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        limit: 1,
        ..Default::default()
    };
    let first = doors.kv.range(first).await.expect("a read").into_inner();
    assert!(first.more && first.kvs[0].value == "v", "{first:?}");
    doors.resign(&led.sequencer).await.expect("it led");
    refused(doors.elections.proclaim(proclaim).await, Code::FailedPrecondition, "stale");
    let seen = doors.seen().await;
    assert!(seen.leader.is_none() && seen.candidates.is_empty(), "{seen:?}");
    // What stood for it is gone: others are elected at once.
    let b = doors.session("b", 60, 0).await;
    doors.stand(b, 0, false).await;
    elected(doors.campaign(b)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcds_candidates_and_ours_wait_for_each_other() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 60, 0).await, doors.session("b", 60, 0).await);
    let theirs = |value: &'static str, lease| v3electionpb::CampaignRequest {
        name: "boss".into(),
        lease,
        value: value.into(),
    };
    let led = doors.etcd.campaign(theirs("etcd", b)).await.expect("free").into_inner();
    doors.stand(a, 7, false).await;
    let ours = doors.campaign(a);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!ours.is_finished(), "an etcd client leads");
    let seen = doors.seen().await;
    assert_eq!(seen.leader.expect("a leader").value, "etcd");
    let resign = v3electionpb::ResignRequest { leader: led.leader };
    doors.etcd.resign(resign).await.expect("resigned");
    let ours = elected(ours).await;
    let mut etcd = doors.etcd.clone();
    let waits = theirs("etcd again", b);
    let waits = tokio::spawn(async move { etcd.campaign(waits).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished(), "ours leads");
    doors.resign(&ours.sequencer).await.expect("it led");
    waits.await.expect("the task").expect("elected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_delay_keeps_the_office_closed_and_a_guard_that_stays_behind_does_not() {
    let mut doors = Doors::open().await;
    let (lost, next) = (doors.session("lost", 1, 2).await, doors.session("next", 60, 30).await);
    doors.stand(lost, 0, false).await;
    elected(doors.campaign(lost)).await;
    doors.stand(next, 0, false).await;
    let begun = tokio::time::Instant::now();
    let led = elected(doors.campaign(next)).await;
    assert!(begun.elapsed() > Duration::from_millis(2_500), "{:?}", begun.elapsed());
    // An etcd client that deletes the leader's key leaves its guard's behind.
    let delete = pb::DeleteRangeRequest { key: led.key, ..Default::default() };
    doors.kv.delete_range(delete).await.expect("deleted");
    let other = doors.session("other", 60, 0).await;
    doors.stand(other, 1, false).await;
    elected(doors.campaign(other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_is_given_up_does_not_get_the_office() {
    let mut doors = Doors::open().await;
    let (a, b) = (doors.session("a", 60, 0).await, doors.session("b", 60, 0).await);
    doors.stand(a, 0, false).await;
    let led = elected(doors.campaign(a)).await;
    doors.stand(b, 0, false).await;
    let waiting = doors.campaign(b);
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    doors.resign(&led.sequencer).await.expect("it led");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(doors.seen().await.leader.is_none());
    elected(doors.campaign(b)).await;
    until("its office", || async { doors.seen().await.leader.is_some() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_as_json_and_an_instance_reports_itself() {
    let mut doors = Doors::open().await;
    let session = doors.session("curl", 60, 0).await;
    let node = &doors.node;
    let stand = format!(r#"{{"name":"Ym9zcw==","session":"{session}","priority":"3"}}"#);
    let (code, text) = node.post("/synod/v1/election/stand", "", &stand).await;
    assert_eq!(code, 200, "{text}");
    let campaign = format!(r#"{{"name":"Ym9zcw==","session":"{session}","value":"djE="}}"#);
    let (code, text) = node.post("/synod/v1/election/campaign", "", &campaign).await;
    assert!(code == 200 && text.contains("sequencer"), "{code} {text}");
    let report = r#"{"service":"web","instance":"a","healthy":true}"#;
    let (code, text) = node.post("/synod/v1/service/report", "", report).await;
    assert!(code == 404 && text.contains("no instance"), "{code} {text}");
    let register = format!(r#"{{"service":"web","instance":"a","session":"{session}"}}"#);
    let (code, text) = node.post("/synod/v1/service/register", "", &register).await;
    assert_eq!(code, 200, "{text}");
    let (code, text) = doors.node.post("/synod/v1/service/report", "", report).await;
    assert_eq!(code, 200, "{text}");
    let get = pb::RangeRequest { key: "synod/report/web/a".into(), ..Default::default() };
    let found = doors.kv.range(get).await.expect("a read").into_inner().kvs;
    assert_eq!(found[0].lease, session, "it lasts as long as its instance");
}
