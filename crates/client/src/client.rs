//! Calls that need no session.

use crate::endpoints::Endpoints;
use crate::error::{is_unanswered, reason};
use crate::session::{Session, SessionOptions};
use crate::{Error, Sequencer};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use synod_etcd_proto::synod::v1::service_client::ServiceClient;
use synod_etcd_proto::synod::v1::session_client::SessionClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// An endpoint that has not answered for so long is not waited for alone.
const HEDGE_AFTER: Duration = Duration::from_millis(500);

/// Sessions that are listed by one call, and the longest answer, bytes: each tells the
/// keys of all that it holds.
const SESSIONS_AT_ONCE: i64 = 500;
const SESSIONS_BYTES_MAX: usize = 256 << 20;

/// A client of one cluster. Cheap to clone; it connects when it is used.
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoints: Arc<Endpoints>,
}

impl Client {
    /// A client of the cluster whose members have these addresses
    /// (`http://host:port` or `host:port`). Some of them are enough; with all of
    /// them it outlives any minority. It connects when it is used, on the runtime
    /// that this is called on.
    pub async fn connect<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
    ) -> Result<Client, Error> {
        Ok(Client { endpoints: Arc::new(Endpoints::new(endpoints)?) })
    }

    /// Opens a session and keeps it alive until it is closed or dropped.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::open(self.clone(), options).await
    }

    /// Whether the holder of this sequencer holds its lock now.
    pub async fn is_good(&self, sequencer: &Sequencer) -> Result<bool, Error> {
        let check = v1::LockCheckRequest { sequencer: sequencer.to_string() };
        let check = |channel| {
            let check = check.clone();
            async move { LockClient::new(channel).check(check).await }
        };
        Ok(self.again(check).await?.good)
    }

    /// Who holds a lock, and who waits for it.
    pub async fn describe(&self, name: &str) -> Result<v1::LockDescribeResponse, Error> {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let describe = |channel| {
            let describe = v1::LockDescribeRequest { name: name.clone() };
            async move { LockClient::new(channel).describe(describe).await }
        };
        self.again(describe).await
    }

    /// All sessions of the cluster.
    pub async fn sessions(&self) -> Result<Vec<v1::SessionInfo>, Error> {
        let mut all: Vec<v1::SessionInfo> = Vec::new();
        loop {
            let after = all.last().map_or(0, |s| s.session);
            let page = v1::SessionListRequest { limit: SESSIONS_AT_ONCE, after };
            let list = |channel| async move {
                let client = SessionClient::new(channel);
                client.max_decoding_message_size(SESSIONS_BYTES_MAX).list(page).await
            };
            let found = self.again(list).await?;
            let more = found.more && !found.sessions.is_empty();
            all.extend(found.sessions);
            if !more {
                return Ok(all);
            }
        }
    }

    /// An instance of a service reports its own health, for its check of kind `ttl`.
    pub async fn report(
        &self,
        service: &str,
        instance: &str,
        health: Result<(), &str>,
    ) -> Result<(), Error> {
        let report = v1::ServiceReportRequest {
            service: service.into(),
            instance: instance.into(),
            healthy: health.is_ok(),
            why: health.err().unwrap_or_default().into(),
        };
        let report = |channel| {
            let report = report.clone();
            async move { ServiceClient::new(channel).report(report).await }
        };
        self.again(report).await.map(drop)
    }

    /// Writes a key, if the sequencer is good when the write is agreed on:
    /// [`Error::Stale`] otherwise, and nothing was written. The revision.
    pub async fn put_fenced(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        sequencer: &Sequencer,
    ) -> Result<i64, Error> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let put = pb::PutRequest { key, value: value.into(), ..Default::default() };
        let (number, channel) = self.endpoints.current();
        let done = KvClient::new(channel).put(fenced(put, sequencer)).await;
        let header = self.note(number, done)?.into_inner().header;
        Ok(header.map_or(0, |h| h.revision))
    }

    /// Writes a key that lasts as long as a session (or a lease; 0: for good). Like
    /// every write that sets a key to a value, it may be made twice.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, session: i64) -> Result<(), Error> {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), value.into());
        let put = |channel| {
            let (key, value) = (key.clone(), value.clone());
            let put = pb::PutRequest { key, value, lease: session, ..Default::default() };
            async move { KvClient::new(channel).put(put).await }
        };
        self.again(put).await.map(drop)
    }

    /// The pairs whose keys start with a prefix, in order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let range = synod_coord::prefix_range(prefix.as_bytes());
        let list = |channel| {
            let (key, range_end) = (range.key.clone(), range.end.clone());
            let get = pb::RangeRequest { key, range_end, ..Default::default() };
            async move { KvClient::new(channel).range(get).await }
        };
        let found = self.again(list).await?.kvs;
        Ok(found.into_iter().map(|kv| (kv.key, kv.value)).collect())
    }

    /// Follows what is written to a key from now on.
    pub fn follow(&self, key: &str) -> Follower {
        Follower { client: self.clone(), key: key.into(), open: None }
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let get = |channel| {
            let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
            async move { KvClient::new(channel).range(get).await }
        };
        Ok(self.again(get).await?.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Makes a call that may be made twice, at each endpoint until one answers.
    pub(crate) async fn again<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.hedged(&call).await {
                Err(Error::Unavailable(_)) if tries < 2 * self.endpoints.count() => {}
                done => return done.map(tonic::Response::into_inner),
            }
        }
    }

    /// Makes a call at the endpoint in use, and if that does not answer soon (its process
    /// may stand still, behind a connection that is well) at the next one, too.
    async fn hedged<T, F>(&self, call: &impl Fn(Channel) -> F) -> Result<tonic::Response<T>, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (number, channel) = self.endpoints.current();
        let first = call(channel);
        tokio::pin!(first);
        if self.endpoints.count() > 1 {
            if let Ok(done) = tokio::time::timeout(HEDGE_AFTER, &mut first).await {
                return self.note(number, done);
            }
            let (other, channel) = self.endpoints.after(number);
            let second = call(channel);
            tokio::select! {
                done = &mut first => return self.note(number, done),
                done = second => match self.note(other, done) {
                    // From now on that one is used.
                    Ok(answer) => {
                        self.endpoints.failed(number);
                        return Ok(answer);
                    }
                    Err(Error::Unavailable(_)) => {}
                    Err(e) => return Err(e),
                },
            }
        }
        self.note(number, first.await)
    }

    /// Remembers that an endpoint did not answer.
    pub(crate) fn note<T>(&self, number: usize, done: Result<T, Status>) -> Result<T, Error> {
        done.map_err(|status| {
            if is_unanswered(&status) {
                self.endpoints.failed(number);
                let name = self.endpoints.name(number);
                return Error::Unavailable(format!("{name}: {}", reason(&status)));
            }
            status.into()
        })
    }
}

/// Follows the writes of a key.
pub struct Follower {
    client: Client,
    key: String,
    open: Option<Watching>,
}

/// A watch at one member.
struct Watching {
    /// The endpoint's number.
    number: usize,
    /// The stream of requests stays open as long as the watch.
    _requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    /// What came and was not taken.
    values: VecDeque<Bytes>,
}

impl Follower {
    /// The next value that is written. After an error it may be called again: it goes
    /// on at another member, with what is written from then on.
    pub async fn next(&mut self) -> Result<Bytes, Error> {
        // Put back when it has answered.
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.watch().await?,
        };
        loop {
            if let Some(value) = open.values.pop_front() {
                self.open = Some(open);
                return Ok(value);
            }
            let answer = self.client.note(open.number, open.answers.message().await)?;
            let Some(answer) = answer.filter(|a| !a.canceled) else {
                return Err(Error::Unavailable("the watch ended".into()));
            };
            let written = answer.events.into_iter().filter_map(|e| e.kv);
            open.values.extend(written.map(|kv| kv.value));
        }
    }

    async fn watch(&self) -> Result<Watching, Error> {
        let (number, channel) = self.client.endpoints.current();
        let create = pb::WatchCreateRequest {
            key: Bytes::copy_from_slice(self.key.as_bytes()),
            filters: vec![pb::watch_create_request::FilterType::Nodelete.into()],
            ..Default::default()
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let create = pb::WatchRequest { request_union: Some(create) };
        let (requests, rx) = mpsc::channel(1);
        let _ = requests.try_send(create);
        let answers = WatchClient::new(channel).watch(ReceiverStream::new(rx)).await;
        let answers = self.client.note(number, answers)?.into_inner();
        Ok(Watching { number, _requests: requests, answers, values: VecDeque::new() })
    }
}

/// A message for one of etcd's writing calls (Put, DeleteRange, Txn), to be done
/// only while the sequencer is good.
pub fn fenced<T>(message: T, sequencer: &Sequencer) -> Request<T> {
    let mut request = Request::new(message);
    // Printable ASCII without blanks (`Sequencer`), so it is a header's value.
    if let Ok(value) = sequencer.to_string().parse() {
        request.metadata_mut().insert("synod-sequencer", value);
    }
    request
}
