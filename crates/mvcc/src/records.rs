//! The records in the store: keys that sort as they must, and values.
//!
//! **Formats** (varints are LEB128, `be` big-endian)
//! - `Latest`: user key → create, mod, sub, version, lease (varints), value
//! - `History`: rev be64, sub be32 → flags; garbage varint (sub 0 only); key;
//!   prev rev, prev sub (if any); the record in `Latest` (unless deleted)
//! - `Versions`: escaped user key, !rev be64, !sub be32 → superseding revision
//! - `Leases`: id be64 → granted ttl (s), expiry (ms of the lease clock)
//! - `LeaseKeys`: id be64, user key → nothing
//!
//! **Escaping** keeps the order: 00 becomes 00 FF, the end is 00 00.

use crate::store::StoreError;
use crate::types::{KeyRange, KeyValue};
use bytes::Bytes;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};

/// What a version of a key costs beside its key and value; in the order of
/// what the indexes need, and the same on every node.
const RECORD_OVERHEAD: u64 = 64;

/// A place in history: (revision, sub-revision).
pub(crate) type Place = (i64, u32);

/// What a version of a key adds to the logical size.
pub(crate) fn cost(key: &[u8], value: &[u8]) -> u64 {
    key.len() as u64 + value.len() as u64 + RECORD_OVERHEAD
}

/// The scan bounds of a range: `None` for a single key.
pub(crate) fn bounds(range: &KeyRange) -> Option<(&[u8], Option<&[u8]>)> {
    match &range.end[..] {
        [] => None,
        [0] => Some((&range.key, None)),
        end => Some((&range.key, Some(end))),
    }
}

/// Whether a range holds a key.
pub(crate) fn contains(range: &KeyRange, key: &[u8]) -> bool {
    match bounds(range) {
        None => range.key == key,
        Some((from, to)) => key >= from && to.is_none_or(|to| key < to),
    }
}

/// The first key after `key`.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// A live pair with the place of its last change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Live {
    pub(crate) kv: KeyValue,
    pub(crate) sub: u32,
}

impl Live {
    pub(crate) fn place(&self) -> Place {
        (self.kv.mod_revision, self.sub)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32 + self.kv.value.len());
        put_live(&mut out, &self.kv, self.sub);
        out.into()
    }

    pub(crate) fn decode(key: Bytes, record: Bytes) -> Result<Live, StoreError> {
        Live::read(key, Reader::new(record))
    }

    fn read(key: Bytes, mut r: Reader) -> Result<Live, StoreError> {
        let create_revision = r.varint("create revision")? as i64;
        let mod_revision = r.varint("modification revision")? as i64;
        let sub = sub_of(&mut r)?;
        let version = r.varint("version")? as i64;
        let lease = r.varint("lease")? as i64;
        let value = r.rest();
        let kv = KeyValue { key, create_revision, mod_revision, version, value, lease };
        Ok(Live { kv, sub })
    }
}

fn put_live(out: &mut Vec<u8>, kv: &KeyValue, sub: u32) {
    put_varint(out, kv.create_revision as u64);
    put_varint(out, kv.mod_revision as u64);
    put_varint(out, u64::from(sub));
    put_varint(out, kv.version as u64);
    put_varint(out, kv.lease as u64);
    out.extend_from_slice(&kv.value);
}

fn sub_of(r: &mut Reader) -> Result<u32, StoreError> {
    let sub = r.varint("sub-revision")?;
    u32::try_from(sub).map_err(|_| StoreError::corrupt("a sub-revision is beyond 32 bits"))
}

const DELETED: u8 = 1;
const SUPERSEDES: u8 = 2;
const FIRST: u8 = 4;

/// One event as history keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Past {
    /// Whether the key was deleted; then `kv` has key and `mod_revision` only.
    pub(crate) deleted: bool,
    pub(crate) kv: KeyValue,
    pub(crate) sub: u32,
    /// The version of the key that this event replaced.
    pub(crate) prev: Option<Place>,
    /// In the first event of a revision: how many bytes a compaction at that
    /// revision frees, all in all.
    pub(crate) garbage: u64,
}

/// An event as it is stored. All share one buffer: key and value are in memory
/// once, and do not keep the message that brought them.
pub(crate) struct Stored {
    /// What goes into `History`.
    pub(crate) event: Bytes,
    /// What goes into `Latest`, unless the event is a deletion.
    pub(crate) live: Option<Bytes>,
    pub(crate) kv: KeyValue,
}

impl Past {
    pub(crate) fn store(self) -> Stored {
        let mut kv = self.kv;
        let mut out = Vec::with_capacity(64 + kv.key.len() + kv.value.len());
        let first = self.sub == 0;
        out.push(
            if self.deleted { DELETED } else { 0 }
                | if self.prev.is_some() { SUPERSEDES } else { 0 }
                | if first { FIRST } else { 0 },
        );
        if first {
            put_varint(&mut out, self.garbage);
        }
        put_bytes(&mut out, &kv.key);
        let key = out.len() - kv.key.len()..out.len();
        if let Some((revision, sub)) = self.prev {
            put_varint(&mut out, revision as u64);
            put_varint(&mut out, u64::from(sub));
        }
        let head = out.len();
        if !self.deleted {
            put_live(&mut out, &kv, self.sub);
        }
        let event = Bytes::from(out);
        let live = (!self.deleted).then(|| event.slice(head..));
        kv.key = event.slice(key);
        kv.value = event.slice(event.len() - kv.value.len()..);
        Stored { event, live, kv }
    }

    pub(crate) fn decode(place: Place, record: Bytes) -> Result<Past, StoreError> {
        let mut r = Reader::new(record);
        let flags = r.u8("event flags")?;
        if flags > DELETED | SUPERSEDES | FIRST {
            return Err(StoreError::corrupt(format!("an event has unknown flags {flags:#x}")));
        }
        let garbage = if flags & FIRST != 0 { r.varint("garbage")? } else { 0 };
        let key = r.bytes("key")?;
        let prev = if flags & SUPERSEDES != 0 {
            Some((r.varint("previous revision")? as i64, sub_of(&mut r)?))
        } else {
            None
        };
        let deleted = flags & DELETED != 0;
        if deleted {
            let kv = KeyValue { key, mod_revision: place.0, ..KeyValue::default() };
            return Ok(Past { deleted, kv, sub: place.1, prev, garbage });
        }
        let live = Live::read(key, r)?;
        if live.place() != place {
            return Err(StoreError::corrupt("an event stands at another's place in history"));
        }
        Ok(Past { deleted, kv: live.kv, sub: live.sub, prev, garbage })
    }
}

/// The key of an event in `History`.
pub(crate) fn place_key((revision, sub): Place) -> Bytes {
    let mut out = Vec::with_capacity(12);
    out.extend_from_slice(&(revision as u64).to_be_bytes());
    out.extend_from_slice(&sub.to_be_bytes());
    out.into()
}

/// The reverse of [`place_key`].
pub(crate) fn place_of(key: &[u8]) -> Result<Place, StoreError> {
    match (key.first_chunk::<8>(), key.get(8..).and_then(|s| <[u8; 4]>::try_from(s).ok())) {
        (Some(revision), Some(sub)) => {
            Ok((u64::from_be_bytes(*revision) as i64, u32::from_be_bytes(sub)))
        }
        _ => Err(StoreError::corrupt("a key of the history is not 12 bytes long")),
    }
}

/// A user key so that what follows it does not disturb the order.
pub(crate) fn escape(key: &[u8], out: &mut Vec<u8>) {
    for &b in key {
        out.push(b);
        if b == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Where the versions of keys at or above `key` begin.
pub(crate) fn versions_from(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2);
    escape(key, &mut out);
    out
}

/// The key of a superseded version in `Versions`: newest first for each user key.
pub(crate) fn version_key(key: &[u8], (revision, sub): Place) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 14);
    escape(key, &mut out);
    out.extend_from_slice(&(!(revision as u64)).to_be_bytes());
    out.extend_from_slice(&(!sub).to_be_bytes());
    out.into()
}

/// The reverse of [`version_key`].
pub(crate) fn version_of(stored: &Bytes) -> Result<(Bytes, Place), StoreError> {
    let bad = || StoreError::corrupt("a key of the versions is malformed");
    let cut = stored.len().checked_sub(14).ok_or_else(bad)?;
    let (escaped, tail) = stored.split_at(cut);
    if tail[..2] != [0, 0] {
        return Err(bad());
    }
    let (revision, sub) = place_of(&tail[2..])?;
    let key = if escaped.contains(&0) {
        let mut key = Vec::with_capacity(escaped.len());
        let mut bytes = escaped.iter();
        while let Some(&b) = bytes.next() {
            key.push(b);
            if b == 0 && bytes.next() != Some(&0xff) {
                return Err(bad());
            }
        }
        key.into()
    } else {
        stored.slice(..cut)
    };
    Ok((key, (!revision, !sub)))
}

/// The record of a superseded version: the revision that superseded it.
pub(crate) fn version_record(superseded_by: i64) -> Bytes {
    let mut out = Vec::with_capacity(10);
    put_varint(&mut out, superseded_by as u64);
    out.into()
}

/// The reverse of [`version_record`].
pub(crate) fn superseded_by(record: Bytes) -> Result<i64, Malformed> {
    Ok(Reader::new(record).varint("superseding revision")? as i64)
}

/// The key of a lease in `Leases`, and the prefix of its keys in `LeaseKeys`.
pub(crate) fn lease_key(id: i64) -> Bytes {
    Bytes::copy_from_slice(&(id as u64).to_be_bytes())
}

/// Where the keys of the next lease begin in `LeaseKeys`.
pub(crate) fn lease_end(id: i64) -> Option<[u8; 8]> {
    (id as u64).checked_add(1).map(u64::to_be_bytes)
}

/// The key of a binding in `LeaseKeys`.
pub(crate) fn lease_key_of(id: i64, key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&(id as u64).to_be_bytes());
    out.extend_from_slice(key);
    out.into()
}

/// The lease id at the start of a key in `Leases` or `LeaseKeys`.
pub(crate) fn lease_id_of(stored: &[u8]) -> Result<i64, StoreError> {
    let id = stored.first_chunk::<8>();
    let id = id.ok_or_else(|| StoreError::corrupt("a lease's key is too short"))?;
    Ok(u64::from_be_bytes(*id) as i64)
}

/// A lease's times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LeaseTimes {
    /// Granted, in seconds.
    pub(crate) ttl: i64,
    /// When it ends, in ms of the lease clock.
    pub(crate) expiry: u64,
}

impl LeaseTimes {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.ttl as u64);
        put_varint(&mut out, self.expiry);
        out.into()
    }

    pub(crate) fn decode(record: Bytes) -> Result<LeaseTimes, Malformed> {
        let mut r = Reader::new(record);
        Ok(LeaseTimes { ttl: r.varint("lease ttl")? as i64, expiry: r.varint("lease expiry")? })
    }
}
