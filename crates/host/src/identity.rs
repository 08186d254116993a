//! Who a member is: `member.json` of its data directory.

use crate::bootstrap::{StartError, fail};
use crate::disk::{sync_dir, write_atomically};
use crate::wire::PeerInfo;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use synod_base::hash64;
use synod_consensus::Protocol;

/// Version of the data directory's layout.
pub(crate) const LAYOUT: u32 = 1;

/// Who a member is, kept in `member.json` of its data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the directory's layout.
    pub format: u32,
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub id: u64,
    /// Its protocol.
    pub protocol: String,
    /// The first voters; empty for one that joined later.
    pub(crate) voters: Vec<u64>,
    /// Who was there when it joined.
    pub(crate) seeds: Vec<PeerInfo>,
    /// Whether its journal was begun: from then on it must be there.
    #[serde(default)]
    pub(crate) journal: bool,
}

/// What it says, if it is there.
pub(crate) fn read_identity(dir: &Path) -> Result<Option<Identity>, StartError> {
    let path = dir.join("member.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StartError(format!("cannot read {}: {e}", path.display()))),
    };
    let identity: Identity = serde_json::from_slice(&bytes)
        .map_err(fail(format!("{} is damaged; start with --rebuild", path.display())))?;
    if identity.format != LAYOUT {
        return Err(StartError(format!(
            "{} has layout {}, and this program knows {LAYOUT}: use the version that wrote it",
            dir.display(),
            identity.format
        )));
    }
    Ok(Some(identity))
}

pub(crate) fn member_id(urls: &[String], token: &str, life: u64) -> u64 {
    let mut sorted = urls.to_vec();
    sorted.sort();
    hash64(&[sorted.join(",").as_bytes(), token.as_bytes(), &life.to_le_bytes()]).max(1)
}

/// The first members by id: (id, name, peer URLs).
pub(crate) fn first_members(initial_cluster: &[(String, String)], token: &str) -> FirstMembers {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, url) in initial_cluster {
        by_name.entry(name).or_default().push(url.clone());
    }
    by_name
        .into_iter()
        .map(|(name, urls)| (member_id(&urls, token, 0), (name.to_owned(), urls)))
        .collect()
}

pub(crate) type FirstMembers = BTreeMap<u64, (String, Vec<String>)>;

/// Whether anything of a journal is in a data directory.
pub(crate) fn has_journal(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir.join("journal"));
    entries.is_ok_and(|all| all.flatten().any(|e| e.path().extension().is_some_and(|x| x == "seg")))
}

impl Identity {
    /// What is missing of what this member had written, if anything is.
    pub(crate) fn missing(&self, dir: &Path) -> Option<String> {
        let journal = dir.join("journal");
        (self.journal && !has_journal(dir))
            .then(|| format!("the journal is gone: no segments are in {}", journal.display()))
    }

    /// Makes it durable.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), StartError> {
        let json = serde_json::to_vec_pretty(self).map_err(fail("member.json"))?;
        write_atomically(&dir.join("member.json"), &json)
            .map_err(fail("cannot write member.json"))?;
        sync_dir(dir).map_err(fail("cannot sync the data directory"))
    }

    /// That of a first member of a new cluster.
    pub(crate) fn first(
        name: &str,
        members: &FirstMembers,
        token: &str,
        protocol: Protocol,
    ) -> Result<Identity, StartError> {
        let Some((&id, _)) = members.iter().find(|(_, (n, _))| n == name) else {
            let names: Vec<_> = members.values().map(|(n, _)| n.as_str()).collect();
            return Err(StartError(format!(
                "the member's name {name:?} is not in the initial cluster ({})",
                names.join(", ")
            )));
        };
        let voters: Vec<u64> = members.keys().copied().collect();
        let all = voters.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        // First members that were given different protocols must not meet.
        let protocol_name = protocol.to_string();
        let cluster = hash64(&[&all, token.as_bytes(), protocol_name.as_bytes()]).max(1);
        Ok(Identity {
            format: LAYOUT,
            cluster,
            id,
            protocol: protocol_name,
            voters,
            seeds: Vec::new(),
            journal: false,
        })
    }
}
