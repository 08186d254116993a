//! What clients with caches are told, and what they answer.

use super::{no_session, node_path, path};
use crate::coord::session::no_session as session_over;
use crate::door::Door;
use crate::error;
use bytes::Bytes;
use std::collections::BTreeSet;
use synod_coord::file::{Kind, Object, Registration, mark_range, marked, release};
use synod_coord::session_key;
use synod_etcd_proto::synod::v1;
use synod_mvcc::{KeyRange, RangeRequest};
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// Most registrations that one call gives up.
const RELEASES_MAX: usize = 128;

fn one(key: Bytes) -> RangeRequest {
    let range = KeyRange { key, end: Bytes::new() };
    RangeRequest { range, ..RangeRequest::default() }
}

impl Door {
    /// Tells a session which of its registrations writers wait for, until it is over.
    /// Each mark is looked at once: while it stands nobody new is registered.
    pub(super) async fn tell_invalidations(
        &self,
        session: i64,
        tx: &Sender<Result<v1::FileInvalidation, Status>>,
    ) -> Result<(), Status> {
        self.read_barrier(false).await?;
        let mut told: BTreeSet<Bytes> = BTreeSet::new();
        loop {
            let published = self.handle().published();
            let header = self.header(published.revision(), self.handle().term());
            if published.lease(session).map_err(error::of_store)?.is_none() {
                return Err(session_over(session));
            }
            let all =
                RangeRequest { range: mark_range(), keys_only: true, ..RangeRequest::default() };
            let read = |r| {
                let found = published.range(&r).map_err(error::of_store)?;
                found.map(|found| found.kvs).map_err(error::of_state)
            };
            let marks: BTreeSet<Bytes> = read(all)?.into_iter().map(|kv| kv.key).collect();
            let mut wanted = Vec::new();
            for object in marks.difference(&told).filter_map(|key| marked(key)) {
                let own = read(one(object.registration(session)))?.into_iter().next();
                wanted.extend(own.map(|kv| (object, kv.mod_revision)));
            }
            told = marks;
            for (object, revision) in wanted {
                self.file_metrics().invalidations.inc();
                let registration = Some(v1::FileRegistration {
                    path: object.path.to_string(),
                    children: object.kind == Kind::Children,
                    registered: revision,
                });
                let news = v1::FileInvalidation { header: Some(header), registration };
                if tx.send(Ok(news)).await.is_err() {
                    return Ok(());
                }
            }
            let next = header.revision + 1;
            let record = KeyRange { key: session_key(session), end: Bytes::new() };
            tokio::select! {
                () = self.changed(mark_range(), next, false) => {}
                () = self.changed(record, next, true) => {}
                () = tx.closed() => return Ok(()),
            }
        }
    }

    pub(super) async fn release_files(
        &self,
        r: v1::FileReleaseRequest,
    ) -> Result<v1::FileReleaseResponse, Status> {
        if r.registrations.len() > RELEASES_MAX {
            return Err(super::bad(format!("at most {RELEASES_MAX} registrations at a time")));
        }
        let registration = |r: v1::FileRegistration| {
            let object = match r.children {
                true => Object::children(path(&r.path)?),
                false => Object::contents(node_path(&r.path)?),
            };
            Ok(Registration { object, revision: r.registered })
        };
        let all = r.registrations.into_iter().map(registration);
        let all = all.collect::<Result<Vec<_>, Status>>()?;
        let released = self.file_txn(release(r.session, &all)).await;
        let (_, header) = released.map_err(|e| no_session(r.session, e))?;
        Ok(v1::FileReleaseResponse { header: Some(header) })
    }
}
