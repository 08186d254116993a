//! The records about the whole, in [`Space::Meta`].
//!
//! **Invariants**: `compacted <= revision`; `swept <= compacted`;
//! `freed <= garbage <= written` (bytes, see `State::logical_size`);
//! `lease_clock` never goes back.

use crate::store::StoreError;
use crate::types::{AlarmKind, MemberInfo};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};

/// Key of [`Meta`].
pub(crate) const META: &[u8] = b"meta";
/// Key of the members.
pub(crate) const MEMBERS: &[u8] = b"members";
/// Key of the alarms.
pub(crate) const ALARMS: &[u8] = b"alarms";
/// Key of [`State::boundary`](crate::State::boundary). This member's own:
/// snapshots do not carry it on.
pub(crate) const BOUNDARY: &[u8] = b"boundary";

/// Version of the records' formats, all spaces together.
const FORMAT: u64 = 2;

/// A compaction's removal under way: events from `cursor` to the end of
/// revision `target` are still to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sweep {
    pub(crate) target: i64,
    pub(crate) cursor: (i64, u32),
}

/// See the file's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Meta {
    pub(crate) applied: u64,
    pub(crate) term: u64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// The compaction up to which removal is finished.
    pub(crate) swept: i64,
    pub(crate) sweep: Option<Sweep>,
    pub(crate) lease_clock: u64,
    /// Bytes of all versions ever written.
    pub(crate) written: u64,
    /// Bytes that a compaction at `revision` would free, all in all.
    pub(crate) garbage: u64,
    /// Bytes of the deletions at `revision`: garbage from the next revision on.
    pub(crate) tombs: u64,
    /// Bytes freed by compactions (whether removal has got to them or not).
    pub(crate) freed: u64,
}

impl Default for Meta {
    fn default() -> Meta {
        Meta {
            applied: 0,
            term: 0,
            revision: 1,
            compacted: 0,
            swept: 0,
            sweep: None,
            lease_clock: 0,
            written: 0,
            garbage: 0,
            tombs: 0,
            freed: 0,
        }
    }
}

impl Meta {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        let sweep = self.sweep.unwrap_or(Sweep { target: 0, cursor: (0, 0) });
        for field in [
            FORMAT,
            self.applied,
            self.term,
            self.revision as u64,
            self.compacted as u64,
            self.swept as u64,
            sweep.target as u64,
            sweep.cursor.0 as u64,
            u64::from(sweep.cursor.1),
            self.lease_clock,
            self.written,
            self.garbage,
            self.tombs,
            self.freed,
        ] {
            put_varint(&mut out, field);
        }
        out.into()
    }

    pub(crate) fn decode(record: Bytes) -> Result<Meta, StoreError> {
        let mut r = Reader::new(record);
        let format = r.varint("format of the state")?;
        if format != FORMAT {
            return Err(StoreError::corrupt(format!(
                "the state has format {format}, this version reads {FORMAT}"
            )));
        }
        let mut meta = Meta {
            applied: r.varint("applied index")?,
            term: r.varint("applied term")?,
            revision: r.varint("revision")? as i64,
            compacted: r.varint("compacted revision")? as i64,
            swept: r.varint("swept revision")? as i64,
            ..Meta::default()
        };
        let target = r.varint("sweep target")? as i64;
        let cursor = (r.varint("sweep cursor")? as i64, r.varint("sweep cursor")? as u32);
        meta.sweep = (target != 0).then_some(Sweep { target, cursor });
        meta.lease_clock = r.varint("lease clock")?;
        meta.written = r.varint("written bytes")?;
        meta.garbage = r.varint("garbage bytes")?;
        meta.tombs = r.varint("deletion bytes")?;
        meta.freed = r.varint("freed bytes")?;
        r.end("end of the meta record")?;
        if meta.revision < 1 || meta.compacted > meta.revision || meta.freed > meta.written {
            return Err(StoreError::corrupt("the meta record contradicts itself"));
        }
        Ok(meta)
    }

    /// What a new revision makes of the last one's deletions.
    pub(crate) fn begin_revision(&mut self) -> i64 {
        self.garbage += self.tombs;
        self.tombs = 0;
        self.revision += 1;
        self.revision
    }

    pub(crate) fn logical_size(&self) -> u64 {
        self.written - self.freed
    }
}

/// Appends a member.
pub(crate) fn put_member(out: &mut Vec<u8>, m: &MemberInfo) {
    put_varint(out, m.id.0);
    put_bytes(out, m.name.as_bytes());
    for urls in [&m.peer_urls, &m.client_urls] {
        put_varint(out, urls.len() as u64);
        for url in urls {
            put_bytes(out, url.as_bytes());
        }
    }
}

/// Reads what [`put_member`] wrote.
pub(crate) fn member(r: &mut Reader) -> Result<MemberInfo, Malformed> {
    let id = NodeId(r.varint("member id")?);
    let name = r.string("member name")?;
    let mut urls = [Vec::new(), Vec::new()];
    for urls in &mut urls {
        for _ in 0..r.count("number of addresses")? {
            urls.push(r.string("address")?);
        }
    }
    let [peer_urls, client_urls] = urls;
    Ok(MemberInfo { id, name, peer_urls, client_urls })
}

/// The record of the members.
pub(crate) fn encode_members(members: &BTreeMap<NodeId, MemberInfo>) -> Bytes {
    let mut out = Vec::new();
    put_varint(&mut out, members.len() as u64);
    for member in members.values() {
        put_member(&mut out, member);
    }
    out.into()
}

/// The reverse of [`encode_members`].
pub(crate) fn decode_members(record: Bytes) -> Result<BTreeMap<NodeId, MemberInfo>, Malformed> {
    let mut r = Reader::new(record);
    let mut members = BTreeMap::new();
    for _ in 0..r.count("number of members")? {
        let m = member(&mut r)?;
        members.insert(m.id, m);
    }
    r.end("end of the members")?;
    Ok(members)
}

/// An alarm's kind as a number.
pub(crate) fn alarm_number(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

/// The alarm's kind with this number.
pub(crate) fn alarm_kind(number: u8) -> Option<AlarmKind> {
    match number {
        1 => Some(AlarmKind::NoSpace),
        2 => Some(AlarmKind::Corrupt),
        _ => None,
    }
}

/// The record of the alarms.
pub(crate) fn encode_alarms(alarms: &BTreeSet<(NodeId, AlarmKind)>) -> Bytes {
    let mut out = Vec::new();
    for (member, kind) in alarms {
        put_varint(&mut out, member.0);
        out.push(alarm_number(*kind));
    }
    out.into()
}

/// The reverse of [`encode_alarms`].
pub(crate) fn decode_alarms(record: Bytes) -> Result<BTreeSet<(NodeId, AlarmKind)>, StoreError> {
    let mut r = Reader::new(record);
    let mut alarms = BTreeSet::new();
    while !r.is_empty() {
        let member = NodeId(r.varint("alarm's member")?);
        let number = r.u8("alarm's kind")?;
        let kind = alarm_kind(number)
            .ok_or_else(|| StoreError::corrupt(format!("unknown alarm {number}")))?;
        alarms.insert((member, kind));
    }
    Ok(alarms)
}
