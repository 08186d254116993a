//! A write, from the request to its end.

use super::{bad, no_session, node_path};
use crate::coord::fence::{parse, stale};
use crate::door::Door;
use bytes::Bytes;
use std::time::Duration;
use synod_coord::Sequencer;
use synod_coord::file::{CONTENTS_BYTES_MAX, Change, Expect, FilePath, Need, Object, Refused};
use synod_coord::file::{Write, Writer};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::synod::v1;
use synod_mvcc::{Command, KeyRange, RangeRequest};
use tokio::time::Instant;
use tonic::Status;

/// For how long a write waits for caches that do not answer: longer than a session
/// lives by default, so that a client that died is not in the way.
const WAIT_MS: u64 = 15_000;
/// The longest that may be asked for.
const WAIT_MS_MAX: u64 = 60_000;
/// By how much marks outlive the wait.
const MARKS_MORE_S: i64 = 5;

/// The lease of a write's marks, ended with the write.
struct Marks {
    door: Door,
    lease: i64,
}

impl Drop for Marks {
    fn drop(&mut self) {
        let (door, id) = (self.door.clone(), self.lease);
        if id == 0 {
            return;
        }
        tokio::spawn(async move {
            // Otherwise it ends by itself a little later.
            if let Err(e) = door.run(Command::LeaseRevoke { id }).await {
                tracing::debug!(error = %e, "ending the marks of a write failed");
            }
        });
    }
}

/// What came of a write.
struct Written {
    revision: i64,
    names_changed: bool,
    header: pb::ResponseHeader,
}

fn wait(ms: u64) -> Result<Duration, Status> {
    match ms {
        0 => Ok(Duration::from_millis(WAIT_MS)),
        ms if ms > WAIT_MS_MAX => Err(bad(format!("wait_ms is at most {WAIT_MS_MAX}"))),
        ms => Ok(Duration::from_millis(ms)),
    }
}

impl Door {
    async fn file_sequencer(&self, text: &str) -> Result<Option<Sequencer>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let sequencer = parse(text)?;
        self.check_mode(&sequencer).await?;
        Ok(Some(sequencer))
    }

    pub(super) async fn set_file(
        &self,
        r: v1::FileSetRequest,
    ) -> Result<v1::FileSetResponse, Status> {
        let path = node_path(&r.path)?;
        if r.contents.len() > CONTENTS_BYTES_MAX {
            return Err(bad(format!("contents have at most {CONTENTS_BYTES_MAX} bytes")));
        }
        let expect = match (r.absent, r.generation) {
            (false, 0) => Expect::Anything,
            (true, 0) => Expect::Absent,
            (false, generation) if generation > 0 => Expect::Generation(generation),
            _ => return Err(bad("either a generation (above 0) is expected, or no node")),
        };
        let sequencer = self.file_sequencer(&r.sequencer).await?;
        let until = Instant::now() + wait(r.wait_ms)?;
        // A node that has a generation has nodes above it, too.
        if r.parents && !matches!(expect, Expect::Generation(_)) {
            if r.session != 0 {
                // Nothing is made for a session that is over.
                self.session(r.session).await?;
            }
            self.make_parents(&path, sequencer.as_ref(), until).await?;
        }
        let (change, session) = (Change::Set(r.contents), r.session);
        let write = Write { path, change, expect, session, sequencer };
        let done = self.write_file(write, until).await?;
        let (generation, created) = (done.revision, done.names_changed);
        Ok(v1::FileSetResponse { header: Some(done.header), generation, created })
    }

    pub(super) async fn delete_file(
        &self,
        r: v1::FileDeleteRequest,
    ) -> Result<v1::FileDeleteResponse, Status> {
        let path = node_path(&r.path)?;
        let expect = match r.generation {
            0 => Expect::Anything,
            generation if generation > 0 => Expect::Generation(generation),
            _ => return Err(bad("a generation is above 0")),
        };
        let until = Instant::now() + wait(r.wait_ms)?;
        let sequencer = self.file_sequencer(&r.sequencer).await?;
        let write = Write { path, change: Change::Delete, expect, session: 0, sequencer };
        let done = self.write_file(write, until).await?;
        Ok(v1::FileDeleteResponse { header: Some(done.header) })
    }

    /// Makes the nodes above a path that there are not, from the top; each of them only
    /// while the sequencer, if there is one, is good.
    async fn make_parents(
        &self,
        path: &FilePath,
        sequencer: Option<&Sequencer>,
        until: Instant,
    ) -> Result<(), Status> {
        let above = std::iter::successors(path.parent(), FilePath::parent);
        let mut above: Vec<FilePath> = above.filter(|p| !p.is_root()).collect();
        above.reverse();
        for path in above {
            if self.is_key(path.key()).await? {
                continue;
            }
            let (change, expect) = (Change::Set(Bytes::new()), Expect::Absent);
            let sequencer = sequencer.cloned();
            let write = Write { path, change, expect, session: 0, sequencer };
            match self.write_file(write, until).await {
                Err(e) if e.code() != tonic::Code::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether this member knows the key.
    async fn is_key(&self, key: Bytes) -> Result<bool, Status> {
        let range = KeyRange { key, end: Bytes::new() };
        let one = RangeRequest { range, keys_only: true, ..RangeRequest::default() };
        Ok(!self.read(one).await?.0.kvs.is_empty())
    }

    async fn write_file(&self, write: Write, until: Instant) -> Result<Written, Status> {
        let (path, session) = (write.path.clone(), write.session);
        let sequencer = write.sequencer.clone();
        let there = self.is_key(path.key()).await?;
        let mut writer = Writer::new(write, there);
        let mut marks = Marks { door: self.clone(), lease: 0 };
        let mut header = self.header_now();
        loop {
            match writer.need() {
                Need::Run(txn) => {
                    let ran = self.file_txn(txn).await.map_err(|e| no_session(session, e));
                    let (result, after) = ran?;
                    header = after;
                    writer.ran(&result, header.revision).ok_or_else(|| {
                        Status::internal("a write was answered with something else")
                    })?;
                }
                Need::Lease => {
                    self.file_metrics().waits.inc();
                    let left = until.saturating_duration_since(Instant::now());
                    let ttl = left.as_secs() as i64 + MARKS_MORE_S;
                    let grant = pb::LeaseGrantRequest { ttl, id: 0 };
                    marks.lease = self.lease_grant(grant).await?.id;
                    writer.leased(marks.lease);
                }
                Need::Quiet(objects) => {
                    let quiet = tokio::time::timeout_at(until, self.quiet(&objects)).await;
                    let Ok(quiet) = quiet else {
                        self.file_metrics().in_vain.inc();
                        return Err(in_vain(&path, self.registered(&objects).await?));
                    };
                    quiet?;
                    writer.quiet();
                }
                Need::Done { revision, names_changed } => {
                    return Ok(Written { revision, names_changed, header });
                }
                Need::Refused(Refused::Stale) => {
                    let stale = sequencer.as_ref().map(stale);
                    return Err(stale.unwrap_or_else(|| Status::internal("no sequencer is stale")));
                }
                Need::Refused(why) => return Err(refused(&path, &why)),
            }
        }
    }

    /// Returns when nobody is registered for these any more.
    async fn quiet(&self, objects: &[Object]) -> Result<(), Status> {
        for object in objects {
            loop {
                let range = object.registrations();
                let some = RangeRequest {
                    range: range.clone(),
                    limit: 1,
                    keys_only: true,
                    ..RangeRequest::default()
                };
                let (found, header) = self.read(some).await?;
                if found.kvs.is_empty() {
                    break;
                }
                self.changed(range, header.revision + 1, true).await;
            }
        }
        Ok(())
    }

    /// How many registrations there are for these, and the session of one.
    async fn registered(&self, objects: &[Object]) -> Result<(i64, i64), Status> {
        let (mut count, mut session) = (0, 0);
        for object in objects {
            let range = object.registrations();
            let all = RangeRequest { range, limit: 1, keys_only: true, ..RangeRequest::default() };
            let found = self.read(all).await?.0;
            count += found.count;
            session = found.kvs.first().map_or(session, |kv| kv.lease);
        }
        Ok((count, session))
    }
}

/// Caches did not answer.
fn in_vain(path: &FilePath, (count, session): (i64, i64)) -> Status {
    let path = path.as_str();
    Status::deadline_exceeded(format!(
        "synod: caches that did not let go of {path:?} in time: {count} (session {session:x} is \
         one); nothing was written"
    ))
}

fn refused(path: &FilePath, why: &Refused) -> Status {
    let path = path.as_str();
    let precondition = |why: String| Status::failed_precondition(format!("synod: {why}"));
    match why {
        Refused::Missing => Status::not_found(format!("synod: there is no node {path:?}")),
        Refused::Exists(generation) => Status::already_exists(format!(
            "synod: node {path:?} is there, and is of generation {generation}"
        )),
        Refused::Generation(generation) => {
            precondition(format!("node {path:?} is of generation {generation}"))
        }
        Refused::NoParent => precondition(format!(
            "there is no node above {path:?}: make it first, or ask for parents"
        )),
        Refused::EphemeralParent => precondition(format!(
            "the node above {path:?} ends with a session, and so has no children"
        )),
        Refused::HasChildren => precondition(format!("node {path:?} has children")),
        Refused::OtherSession(0) => precondition(format!("node {path:?} ends with no session")),
        Refused::OtherSession(session) => {
            precondition(format!("node {path:?} ends with session {session:x}"))
        }
        Refused::Stale => precondition("the sequencer is stale".into()),
    }
}
