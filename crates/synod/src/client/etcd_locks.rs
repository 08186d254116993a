//! Locks and elections on a server that has only etcd's: a lease kept alive, and
//! nothing that proves to others that it is held.

use super::hold::{Holding, run_held};
use super::leases::keep_alive;
use super::signals::{Signals, while_waiting};
use super::{Connect, show, words};
use crate::Outcome;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use synod_etcd_proto::v3lockpb::lock_client::LockClient;
use synod_etcd_proto::{v3electionpb, v3lockpb};
use tonic::transport::Channel;

/// A lease kept alive until it is ended; the task ends when it was lost.
pub(crate) struct EtcdSession {
    channel: Channel,
    id: i64,
    alive: tokio::task::JoinHandle<String>,
}

/// What a candidate wants.
pub(crate) struct EtcdOffice {
    pub name: String,
    pub value: String,
}

impl EtcdSession {
    pub async fn open(c: &Connect, ttl: i64) -> Outcome<EtcdSession> {
        let channel = c.open().await?;
        let mut client = LeaseClient::new(channel.clone());
        let lease = c.call(client.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 })).await?;
        let (id, ttl) = (lease.id, lease.ttl);
        let alive = tokio::spawn(async move {
            let mut since = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(ttl as u64 * 1_000 / 3)).await;
                let asked = tokio::time::Instant::now();
                let left = Duration::from_secs(ttl as u64).saturating_sub(since.elapsed());
                match tokio::time::timeout(left, keep_alive(&mut client, id)).await {
                    Ok(Ok(_)) => since = asked,
                    Ok(Err(e)) if since.elapsed() >= Duration::from_secs(ttl as u64) => return e,
                    Ok(Err(e)) if e.contains("is gone") => return e,
                    Ok(Err(_)) => {}
                    Err(_) => return format!("lease {id:x} could not be kept alive in time"),
                }
            }
        });
        Ok(EtcdSession { channel, id, alive })
    }

    /// Runs the command while holding the lock.
    pub async fn lock(self, name: &str, command: &[String]) -> Outcome {
        let mut client = LockClient::new(self.channel.clone());
        let request = v3lockpb::LockRequest { name: name.to_owned().into(), lease: self.id };
        let locked = async move {
            let held = client.lock(request).await.map_err(|e| words(&e))?.into_inner();
            Ok(show(&held.key))
        };
        self.hold(locked, command).await
    }

    /// Runs the command while elected.
    pub async fn campaign(self, office: EtcdOffice, command: &[String]) -> Outcome {
        let mut client = ElectionClient::new(self.channel.clone());
        let EtcdOffice { name, value } = office;
        let request = v3electionpb::CampaignRequest {
            name: name.into(),
            lease: self.id,
            value: value.into(),
        };
        let elected = async move {
            let won = client.campaign(request).await.map_err(|e| words(&e))?.into_inner();
            Ok(won.leader.map(|l| show(&l.key)).unwrap_or_default())
        };
        self.hold(elected, command).await
    }

    async fn hold(
        mut self,
        taking: impl Future<Output = Outcome<String>>,
        command: &[String],
    ) -> Outcome {
        let mut signals = Signals::listen()?;
        let taken = tokio::select! {
            key = taking => key,
            lost = &mut self.alive => return Err(lost.unwrap_or_default()),
            signal = signals.end() => Err(while_waiting(signal)),
        };
        let ended = match taken {
            Ok(key) => {
                let environment = vec![("SYNOD_LOCK_KEY", key.clone())];
                let holding = Holding { environment, says: key };
                let doubt = async { (&mut self.alive).await.unwrap_or_default() };
                run_held(command, &holding, None, &mut signals, doubt).await
            }
            Err(e) => Err(e),
        };
        self.alive.abort();
        let revoke = pb::LeaseRevokeRequest { id: self.id };
        // It ends by itself at the latest when its time is up.
        let _ = LeaseClient::new(self.channel).lease_revoke(revoke).await;
        match ended? {
            0 => Ok(()),
            code => super::terminal::exit(code),
        }
    }
}
