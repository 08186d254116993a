//! A data directory made from a snapshot.

use crate::bootstrap::StartError;
use crate::disk::{sync_dir, write_atomically};
use crate::identity::{Identity, first_members};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use synod_base::NodeId;
use synod_consensus::Protocol;
use synod_mvcc::{MemberInfo, Space, State, StateLimits, Store};
use synod_store::{DiskOptions, DiskStore};

/// A data directory being filled.
pub struct RestoreTarget {
    dir: PathBuf,
    store: DiskStore,
    identity: Identity,
    members: Vec<MemberInfo>,
}

fn fail<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> StartError {
    let what = what.to_owned();
    move |e| StartError(format!("{what}: {e}"))
}

impl RestoreTarget {
    /// Begins a data directory for the member `name` of a new cluster.
    pub fn create(
        dir: &Path,
        name: &str,
        initial_cluster: &[(String, String)],
        token: &str,
        protocol: Protocol,
    ) -> Result<RestoreTarget, StartError> {
        if dir.join("member.json").exists() || dir.join("state").exists() {
            let what = format!("{} already holds a node's data: name another", dir.display());
            return Err(StartError(what));
        }
        let first = first_members(initial_cluster, token);
        let identity = Identity::first(name, &first, token, protocol)?;
        let members = first.into_iter().map(|(id, (name, peer_urls))| MemberInfo {
            id: NodeId(id),
            name,
            peer_urls,
            client_urls: Vec::new(),
        });
        std::fs::create_dir_all(dir).map_err(fail("cannot make the data directory"))?;
        let mut store = DiskStore::open(dir.join("state"), DiskOptions::default())
            .map_err(fail("cannot make the state"))?;
        store.stage_begin().map_err(fail("cannot fill the state"))?;
        Ok(RestoreTarget { dir: dir.to_owned(), store, identity, members: members.collect() })
    }

    /// Adds what a snapshot holds, piece by piece.
    pub fn put(&mut self, pairs: Vec<(Space, Bytes, Bytes)>) -> Result<(), StartError> {
        self.store.stage_put(pairs).map_err(fail("cannot fill the state"))
    }

    /// Completes it; gives the revision that the new cluster begins with.
    pub fn finish(mut self, bump: i64) -> Result<i64, StartError> {
        self.store.stage_swap().map_err(fail("cannot complete the state"))?;
        let mut state = State::open(self.store, StateLimits::default())
            .map_err(fail("cannot read the state"))?;
        state.rebase(bump, 1, 1, self.members);
        state.commit().map_err(fail("cannot write the state"))?;
        state.store_mut().sync().map_err(fail("cannot sync the state"))?;
        // Last: without it the directory does not count as a node's.
        let json = serde_json::to_vec_pretty(&self.identity).map_err(fail("member.json"))?;
        write_atomically(&self.dir.join("member.json"), &json)
            .map_err(fail("cannot write member.json"))?;
        sync_dir(&self.dir).map_err(fail("cannot sync the data directory"))?;
        Ok(state.revision())
    }
}
