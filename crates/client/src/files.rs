//! Small files, and the cache of them.

use crate::session::Shared as Life;
use crate::{Client, Error, Sequencer};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use synod_coord::file::{
    Cache, CacheLimits, CacheStats, Cached, Child, Expect, FilePath, Fill, Kind, Node, Object,
    Registration,
};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::file_client::FileClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Pause before a stream is opened again.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How often a stream looks whether other calls have gone to another endpoint.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Registrations given up by one call.
const RELEASES: usize = 128;

/// How a file is written.
#[derive(Clone, Debug, Default)]
pub struct SetOptions {
    /// What must be there: otherwise [`Error::Changed`].
    pub expect: Expect,
    /// Makes a node that ends with the session of these files.
    pub ephemeral: bool,
    /// Make the nodes above it that there are not.
    pub parents: bool,
    /// Write only while the holder of this sequencer holds its lock.
    pub sequencer: Option<Sequencer>,
    /// For how long to wait for others' caches (by the millisecond, at most a minute);
    /// `None`: 15 s. Then [`Error::Cached`].
    pub wait: Option<Duration>,
}

/// The files of a cluster, read through a cache that stays coherent: a read never tells
/// what was there before a write that had ended when the read began. Ephemeral nodes,
/// and listings with one among them, are read from the servers each time.
pub struct Files {
    shared: Arc<Shared>,
    listens: tokio::task::JoinHandle<()>,
}

struct Shared {
    client: Client,
    session: i64,
    /// Whether the session is safe.
    life: Arc<Life>,
    cache: Mutex<Cache>,
}

/// A read on its way; dropped, its answer will not count.
struct Filling<'a> {
    shared: &'a Shared,
    fill: Fill,
    object: Object,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.shared.cache().filled(self.fill, self.object.clone(), None, true);
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives registrations up. What cannot be reached ends with the session, or is
    /// asked for again by whoever waits for it.
    async fn release(&self, registrations: Vec<Registration>) {
        for some in registrations.chunks(RELEASES) {
            let wire = |r: &Registration| v1::FileRegistration {
                path: r.object.path.to_string(),
                children: r.object.kind == Kind::Children,
                registered: r.revision,
            };
            let registrations: Vec<_> = some.iter().map(wire).collect();
            let release = v1::FileReleaseRequest { session: self.session, registrations };
            let release = |channel| {
                let release = release.clone();
                async move { FileClient::new(channel).release(release).await }
            };
            let _ = self.client.again(release).await;
        }
    }

    /// What stands on the stream is given up, and then said to be.
    fn invalidated(self: &Arc<Shared>, news: v1::FileInvalidation) {
        let Some(r) = news.registration else { return };
        let Ok(path) = r.path.parse() else { return };
        let object = if r.children { Object::children(path) } else { Object::contents(path) };
        let registration = self.cache().invalidated(&object, r.registered);
        let shared = self.clone();
        tokio::spawn(async move { shared.release(vec![registration]).await });
    }

    /// Hears of writers until the session is over.
    async fn listen(self: Arc<Shared>) {
        loop {
            let (number, channel) = self.client.endpoints.current();
            match self.hear(number, channel).await {
                Err(Error::SessionOver) => return self.cache().flush(),
                _ => tokio::time::sleep(AFTER_FAILURE).await,
            }
        }
    }

    /// One stream, until it ends or other calls have gone to another endpoint.
    async fn hear(self: &Arc<Shared>, number: usize, channel: Channel) -> Result<(), Error> {
        let client = &self.client;
        let request = v1::FileInvalidationsRequest { session: self.session };
        let opened = FileClient::new(channel).invalidations(request).await;
        let mut news = client.note(number, opened)?.into_inner();
        loop {
            tokio::select! {
                told = news.message() => match client.note(number, told)? {
                    Some(told) => self.invalidated(told),
                    None => return Ok(()),
                },
                () = moved(client, number) => return Ok(()),
            }
        }
    }

    async fn ask(&self, object: &Object, cache_for: i64) -> Result<(Cached, i64), Error> {
        let path = object.path.to_string();
        if object.kind == Kind::Contents {
            let get = |channel| {
                let get = v1::FileGetRequest { path: path.clone(), cache_for, lock: false };
                async move { FileClient::new(channel).get(get).await }
            };
            let answer = self.client.again(get).await?;
            return Ok((Cached::Node(answer.node.map(node)), answer.registered));
        }
        let list = |channel| {
            let list = v1::FileListRequest { path: path.clone(), cache_for };
            async move { FileClient::new(channel).max_decoding_message_size(8 << 20).list(list).await }
        };
        let answer = self.client.again(list).await?;
        let child =
            |c: v1::FileChild| Child { name: c.name, instance: c.instance, session: c.session };
        let children = answer.children.into_iter().map(child).collect();
        Ok((Cached::Children(children), answer.registered))
    }

    async fn read(self: &Arc<Shared>, object: Object) -> Result<Cached, Error> {
        if let Some(seen) = self.cache().get(&object, self.life.is_safe()) {
            return Ok(seen.clone());
        }
        if !self.life.is_safe() {
            return Ok(self.ask(&object, 0).await?.0);
        }
        let fill = self.cache().fill(object.clone());
        let filling = Filling { shared: self, fill, object: object.clone() };
        let (seen, registered) = match self.ask(&object, self.session).await {
            Err(Error::SessionOver) => self.ask(&object, 0).await?,
            answer => answer?,
        };
        let answer = (registered > 0).then(|| (registered, seen.clone()));
        let gone = self.cache().filled(fill, object, answer, self.life.is_safe());
        drop(filling);
        if !gone.is_empty() {
            let shared = self.clone();
            tokio::spawn(async move { shared.release(gone).await });
        }
        Ok(seen)
    }

    /// What a write is about to change is not kept from it by this cache.
    async fn make_way(&self, path: &FilePath) {
        let parent = path.parent().map(Object::children);
        let objects = std::iter::once(Object::contents(path.clone())).chain(parent);
        let mine: Vec<_> = {
            let mut cache = self.cache();
            objects.filter_map(|o| cache.forget(&o)).collect()
        };
        self.release(mine).await;
    }
}

/// Returns when other calls have found that this endpoint does not answer.
pub(crate) async fn moved(client: &Client, number: usize) {
    while client.endpoints.current().0 == number {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn node(n: v1::FileNode) -> Node {
    Node {
        contents: n.contents,
        instance: n.instance,
        generation: n.generation,
        writes: n.writes,
        acl_generation: n.acl_generation,
        checksum: n.checksum,
        session: n.session,
    }
}

fn path(text: &str) -> Result<FilePath, Error> {
    let bad = |e| Error::Refused(Status::invalid_argument(format!("{text:?} is {e}")));
    text.parse().map_err(bad)
}

impl Files {
    /// The one cache of a session: two would take each other's registrations away.
    pub(crate) fn new(client: Client, session: i64, life: Arc<Life>, limits: CacheLimits) -> Files {
        let cache = Mutex::new(Cache::new(limits));
        let shared = Arc::new(Shared { client, session, life, cache });
        let listens = tokio::spawn(shared.clone().listen());
        Files { shared, listens }
    }

    /// A node; `None` if there is none.
    pub async fn get(&self, at: &str) -> Result<Option<Node>, Error> {
        match self.shared.read(Object::contents(path(at)?)).await? {
            Cached::Node(node) => Ok(node),
            Cached::Children(_) => Ok(None),
        }
    }

    /// The children of a node, by name; of the root, for the empty path.
    pub async fn list(&self, at: &str) -> Result<Vec<Child>, Error> {
        match self.shared.read(Object::children(path(at)?)).await? {
            Cached::Children(all) => Ok(all),
            Cached::Node(_) => Ok(Vec::new()),
        }
    }

    /// Writes a node's contents, and makes the node if there is none; its generation.
    pub async fn set(&self, at: &str, contents: impl Into<Bytes>) -> Result<i64, Error> {
        self.set_with(at, contents, SetOptions::default()).await
    }

    /// The same, if things are as expected. It is not made again when no server
    /// answers: then its end is not known.
    pub async fn set_with(
        &self,
        at: &str,
        contents: impl Into<Bytes>,
        options: SetOptions,
    ) -> Result<i64, Error> {
        self.shared.make_way(&path(at)?).await;
        let (absent, generation) = match options.expect {
            Expect::Anything => (false, 0),
            Expect::Absent => (true, 0),
            Expect::Generation(generation) => (false, generation),
        };
        let set = v1::FileSetRequest {
            path: at.into(),
            contents: contents.into(),
            absent,
            generation,
            session: if options.ephemeral { self.shared.session } else { 0 },
            sequencer: options.sequencer.map_or(String::new(), |s| s.to_string()),
            parents: options.parents,
            wait_ms: options.wait.map_or(0, |w| (w.as_millis() as u64).max(1)),
        };
        let (number, channel) = self.shared.client.endpoints.current();
        let done = FileClient::new(channel).set(set).await;
        Ok(self.shared.client.note(number, done)?.into_inner().generation)
    }

    /// Deletes a node without children, if its contents are of this generation (0:
    /// whatever they are). Like a write, it is not made again.
    pub async fn delete(&self, at: &str, generation: i64) -> Result<(), Error> {
        self.shared.make_way(&path(at)?).await;
        let delete = v1::FileDeleteRequest { path: at.into(), generation, ..Default::default() };
        let (number, channel) = self.shared.client.endpoints.current();
        let done = FileClient::new(channel).delete(delete).await;
        self.shared.client.note(number, done).map(drop)
    }

    /// What happens to a node, its children and its lock from now on.
    pub fn events(&self, at: &str) -> Events {
        self.shared.client.file_events(at)
    }

    /// What the cache has counted.
    pub fn stats(&self) -> CacheStats {
        self.shared.cache().stats()
    }
}

impl Drop for Files {
    /// What was cached is in writers' way until the session is over: the two end
    /// together.
    fn drop(&mut self) {
        self.listens.abort();
    }
}

impl Client {
    /// What happens to a file, those below it and its lock from now on.
    pub fn file_events(&self, at: &str) -> Events {
        Events { client: self.clone(), path: at.into(), stream: None }
    }
}

/// Events of a node. When its server is lost it goes on at another, and begins there
/// with [`v1::file_event::Kind::Begun`] again.
pub struct Events {
    client: Client,
    path: String,
    stream: Option<(usize, Streaming<v1::FileEvent>)>,
}

impl Events {
    /// The next one. An error says that no server answers, or that there can be no such
    /// node; it may be asked again.
    pub async fn next(&mut self) -> Result<v1::FileEvent, Error> {
        let mut failures = 0;
        loop {
            match self.next_here().await {
                Ok(Some(event)) => return Ok(event),
                Err(Error::Unavailable(e)) if failures >= 2 * self.client.endpoints.count() => {
                    return Err(Error::Unavailable(e));
                }
                Ok(None) | Err(Error::Unavailable(_)) => {
                    self.stream = None;
                    failures += 1;
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn next_here(&mut self) -> Result<Option<v1::FileEvent>, Error> {
        if self.stream.is_none() {
            let (number, channel) = self.client.endpoints.current();
            let request = v1::FileEventsRequest { path: self.path.clone() };
            let opened = FileClient::new(channel).events(request).await;
            self.stream = Some((number, self.client.note(number, opened)?.into_inner()));
        }
        let Some((number, stream)) = &mut self.stream else { return Ok(None) };
        tokio::select! {
            event = stream.message() => self.client.note(*number, event),
            () = moved(&self.client, *number) => Ok(None),
        }
    }
}
