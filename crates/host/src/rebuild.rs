//! Rebuilding a member whose data are damaged: they are set aside, and everything comes from
//! the peers, under a new id (`docs/decisions/0004-lost-disk.md`).
//!
//! **Invariants**
//! - Whole data are never set aside, however often a member is started so.
//! - A member that set its data aside knows that it was a member, also after a crash: a mark,
//!   durable before anything is moved, stays until it is one again. So it never takes part
//!   in making a new cluster, which would forget what the old one acknowledged.

use crate::bootstrap::{Config, StartError, fail};
use crate::disk::{FileDisk, sync_dir, write_atomically};
use crate::identity::{Identity, LAYOUT, has_journal};
use std::io::ErrorKind;
use std::path::Path;
use synod_mvcc::{Read, Space, State, StateLimits, Store, StoreError};
use synod_store::{DiskOptions, DiskStore};
use synod_wal::{Journal, JournalError, Options};

const MARK: &str = "REBUILDING";

/// Whether this member must get everything from its peers. Sets its data aside if that was
/// asked for and they are damaged.
pub(crate) fn begin(config: &Config) -> Result<bool, StartError> {
    let dir = &config.data_dir;
    let mark = dir.join(MARK);
    if mark.exists() {
        tracing::warn!("the rebuilding that was begun goes on");
        set_aside(dir)?;
        return Ok(true);
    }
    if !config.rebuild {
        return Ok(false);
    }
    let Some(what) = damage(config)? else {
        tracing::info!("nothing to rebuild: the data are whole");
        return Ok(false);
    };
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    if others.count() == 0 {
        return Err(StartError(format!(
            "the data cannot be rebuilt ({what}): the initial cluster names no other member to \
             fetch them from. Name the present members, or restore a snapshot (`synod snapshot \
             restore`)"
        )));
    }
    tracing::warn!(error = what, "the data are damaged");
    write_atomically(&mark, b"").map_err(fail("cannot mark that the data are set aside"))?;
    sync_dir(dir).map_err(fail("cannot sync the data directory"))?;
    set_aside(dir)?;
    Ok(true)
}

/// The member has a new id, durably.
pub(crate) fn end(dir: &Path) -> Result<(), StartError> {
    std::fs::remove_file(dir.join(MARK)).map_err(fail("cannot take the mark away"))?;
    sync_dir(dir).map_err(fail("cannot sync the data directory"))
}

/// What is damaged of a member's data, if anything is. Reads all of them. That something
/// cannot be read for another reason (a disk that fails, another process) is an error.
fn damage(config: &Config) -> Result<Option<String>, StartError> {
    let dir = &config.data_dir;
    let identity = match std::fs::read(dir.join("member.json")) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // One that has nothing is new, or lost its disk: its peers know.
            let lost = has_journal(dir);
            return Ok(lost.then(|| "member.json is missing".into()));
        }
        Err(e) => return Err(fail("cannot read member.json")(e)),
    };
    let identity: Identity = match serde_json::from_slice(&identity) {
        Ok(identity) => identity,
        Err(e) => return Ok(Some(format!("member.json: {e}"))),
    };
    if identity.format != LAYOUT {
        // Another version's, which is no damage: the start says so.
        return Ok(None);
    }
    if let Some(what) = identity.missing(dir) {
        return Ok(Some(what));
    }
    let disk = FileDisk::open(&dir.join("journal")).map_err(fail("cannot open the journal"))?;
    let options = Options { segment_bytes: config.segment_bytes, ..Options::default() };
    match Journal::open_each(disk, identity.id, options, |_, _| {}) {
        Err(e @ JournalError::Damaged { .. }) => return Ok(Some(e.to_string())),
        Err(e) => return Err(StartError(e.to_string())),
        Ok(_) => {}
    }
    match read_state(config) {
        Err(e) if e.is_damage() => Ok(Some(e.to_string())),
        Err(e) => Err(StartError(e.to_string())),
        Ok(()) => Ok(None),
    }
}

fn read_state(config: &Config) -> Result<(), StoreError> {
    let options = DiskOptions { cache_bytes: config.cache_bytes, ..DiskOptions::default() };
    let store = DiskStore::open(config.data_dir.join("state"), options)?;
    let view = store.view();
    for space in Space::ALL {
        for pair in view.scan(space, &[], None, false) {
            pair?;
        }
    }
    drop(view);
    State::open(store, StateLimits::default()).map(drop)
}

/// Moves what is there out of the way, losing nothing.
fn set_aside(dir: &Path) -> Result<(), StartError> {
    let names = ["journal", "state", "member.json"];
    let there = || names.iter().filter(|name| dir.join(name).exists());
    if there().count() == 0 {
        return Ok(());
    }
    let aside = (1..).map(|n| dir.join(format!("damaged-{n}"))).find(|p| !p.exists());
    let aside = aside.unwrap_or_else(|| dir.join("damaged"));
    std::fs::create_dir(&aside).map_err(fail("cannot set the damaged data aside"))?;
    for name in there() {
        let from = dir.join(name);
        std::fs::rename(&from, aside.join(name))
            .map_err(fail(format!("cannot set {} aside", from.display())))?;
    }
    let aside = aside.display();
    tracing::warn!(%aside, "rebuilding from the peers; the old data are kept");
    sync_dir(dir).map_err(fail("cannot sync the data directory"))
}
