//! etcd's elections: the queue of [`crate::lock`], whose head leads and whose
//! key holds the leader's value.

use crate::convert;
use crate::coord::lock::not_reserved;
use crate::door::Door;
use crate::error;
use bytes::Bytes;
use std::pin::Pin;
use synod_coord::{contenders, holders, prefix_range};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::v3electionpb as v3;
use synod_etcd_proto::v3electionpb::election_server::Election;
use synod_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, KeyValue, Op, PutRequest,
    TxnRequest,
};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

fn no_leader() -> Status {
    Status::unknown("election: no leader")
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

/// Compares a key's create revision.
fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        range: KeyRange { key: key.clone(), end: Bytes::new() },
        target: CompareTarget::Create(revision),
        result: CompareResult::Equal,
    }
}

impl Door {
    /// The head of the queue under `name`.
    async fn head(&self, name: &[u8]) -> Result<(Option<KeyValue>, pb::ResponseHeader), Status> {
        self.handle().barrier().await.map_err(error::of_request)?;
        let (queue, revision) = self.queue(name).await?;
        let first = holders(&queue).next().map(|c| c.kv.clone());
        Ok((first, self.header(revision, self.handle().term())))
    }

    /// Changes the value of a key that was created at `revision`.
    async fn set_value(
        &self,
        key: Bytes,
        revision: i64,
        lease: i64,
        value: Bytes,
    ) -> Result<pb::ResponseHeader, Status> {
        not_reserved(&key)?;
        let compare = vec![created_at(&key, revision)];
        let put = PutRequest { key, value, lease, ..PutRequest::default() };
        let txn = TxnRequest { compare, success: vec![Op::Put(put)], failure: Vec::new() };
        let (result, header) = self.run_txn(txn).await?;
        if result.succeeded { Ok(header) } else { Err(not_leader()) }
    }

    async fn observe_leader(
        &self,
        name: &[u8],
        tx: &tokio::sync::mpsc::Sender<Result<v3::LeaderResponse, Status>>,
    ) -> Result<(), Status> {
        let mut last = 0;
        loop {
            let (head, header) = self.head(name).await?;
            if let Some(kv) = head.filter(|kv| kv.mod_revision != last) {
                last = kv.mod_revision;
                let answer =
                    v3::LeaderResponse { header: Some(header), kv: Some(convert::key_value(kv)) };
                if tx.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = self.changed(prefix_range(&contenders(name)), header.revision + 1, false) => {}
                () = tx.closed() => return Ok(()),
            }
        }
    }
}

fn leader_key(r: Option<v3::LeaderKey>) -> Result<v3::LeaderKey, Status> {
    r.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))
}

#[tonic::async_trait]
impl Election for Door {
    async fn campaign(
        &self,
        request: Request<v3::CampaignRequest>,
    ) -> Result<Response<v3::CampaignResponse>, Status> {
        let r = request.into_inner();
        let taken = self.contend(&r.name, r.lease, r.value.clone()).await?;
        let (rev, lease) = (taken.token, taken.place.session);
        if taken.before.as_ref().is_some_and(|(kv, _)| kv.value != r.value) {
            self.set_value(taken.place.key(), rev, lease, r.value).await?;
        }
        self.wait_turn(&taken).await?;
        let leader = v3::LeaderKey { name: r.name, key: taken.keep(), rev, lease };
        let header = Some(self.header_now());
        Ok(Response::new(v3::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<v3::ProclaimRequest>,
    ) -> Result<Response<v3::ProclaimResponse>, Status> {
        let r = request.into_inner();
        let leader = leader_key(r.leader)?;
        let header = self.set_value(leader.key, leader.rev, leader.lease, r.value).await?;
        Ok(Response::new(v3::ProclaimResponse { header: Some(header) }))
    }

    async fn leader(
        &self,
        request: Request<v3::LeaderRequest>,
    ) -> Result<Response<v3::LeaderResponse>, Status> {
        let (head, header) = self.head(&request.into_inner().name).await?;
        let kv = head.ok_or_else(no_leader)?;
        Ok(Response::new(v3::LeaderResponse {
            header: Some(header),
            kv: Some(convert::key_value(kv)),
        }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<v3::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<v3::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let name = request.into_inner().name;
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            if let Err(status) = door.observe_leader(&name, &tx).await {
                let _ = tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn resign(
        &self,
        request: Request<v3::ResignRequest>,
    ) -> Result<Response<v3::ResignResponse>, Status> {
        let leader = leader_key(request.into_inner().leader)?;
        not_reserved(&leader.key)?;
        let compare = vec![created_at(&leader.key, leader.rev)];
        let range = KeyRange { key: leader.key, end: Bytes::new() };
        let delete = Op::Delete(DeleteRequest { range, prev_kv: false });
        let txn = TxnRequest { compare, success: vec![delete], failure: Vec::new() };
        let (_, header) = self.run_txn(txn).await?;
        Ok(Response::new(v3::ResignResponse { header: Some(header) }))
    }
}
