//! Whether what a sequencer stands for is still held: by following its key.

use crate::files::moved;
use crate::{Client, Error, Sequencer};
use bytes::Bytes;
use std::time::Duration;
use synod_coord::key_of;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use synod_etcd_proto::mvccpb::KeyValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Pause before the key is followed at another member.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

impl Client {
    /// Returns when the holder of this sequencer holds its lock no more, as the servers
    /// tell: it was given back, by whomever, or its session ended. As long as no server
    /// answers it does not return: then the session's deadline counts.
    pub async fn lost(&self, sequencer: &Sequencer) {
        let key = key_of(&sequencer.name, sequencer.session);
        let place = (sequencer.token, sequencer.session);
        while !matches!(self.gone(&key, place).await, Ok(true)) {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// Follows the key at one member: `true` when it is not there by this token, or does
    /// not belong to this session (somebody wrote over it).
    async fn gone(&self, key: &Bytes, (token, session): (i64, i64)) -> Result<bool, Error> {
        let (number, channel) = self.endpoints.current();
        let create = pb::WatchCreateRequest { key: key.clone(), ..Default::default() };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let (requests, rx) = mpsc::channel(1);
        let _ = requests.try_send(pb::WatchRequest { request_union: Some(create) });
        let opened = WatchClient::new(channel.clone()).watch(ReceiverStream::new(rx)).await;
        let mut answers = self.note(number, opened)?.into_inner();
        // The watch is there before the key is read: nothing is missed between the two.
        let created = self.message(number, &mut answers).await?;
        if created.canceled {
            return Ok(false);
        }
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let found = self.note(number, KvClient::new(channel).range(get).await)?.into_inner();
        let holds = |kv: &KeyValue| kv.create_revision == token && kv.lease == session;
        if !found.kvs.first().is_some_and(holds) {
            return Ok(true);
        }
        loop {
            let news = self.message(number, &mut answers).await?;
            let gone = |e: &synod_etcd_proto::mvccpb::Event| {
                let kv = e.kv.as_ref();
                // What is older than the key's making tells of another before it.
                kv.is_some_and(|kv| kv.mod_revision > token && !holds(kv))
            };
            if news.events.iter().any(gone) {
                return Ok(true);
            }
            if news.canceled {
                return Ok(false);
            }
        }
    }

    async fn message(
        &self,
        number: usize,
        answers: &mut Streaming<pb::WatchResponse>,
    ) -> Result<pb::WatchResponse, Error> {
        let answer = tokio::select! {
            answer = answers.message() => self.note(number, answer)?,
            // A member that others gave up may hear of nothing.
            () = moved(self, number) => None,
        };
        answer.ok_or_else(|| Error::Unavailable("the watch ended".into()))
    }
}
