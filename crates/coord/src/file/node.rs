//! What a node's key holds.
//!
//! **Format**: version byte, CRC-32C of what follows (little-endian), generation of
//! the access list (varint), the contents.

use super::FilePath;
use bytes::Bytes;
use std::fmt;
use synod_base::codec::{Reader, put_varint};
use synod_base::crc32c;
use synod_mvcc::KeyValue;

/// Largest contents of a node, bytes (Chubby's).
pub const CONTENTS_BYTES_MAX: usize = 256 << 10;

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// A node as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its contents.
    pub contents: Bytes,
    /// When it was created: a revision. A node that was deleted and made again under
    /// the same path is another instance.
    pub instance: i64,
    /// When its contents were last written: a revision, greater than that of every
    /// earlier write of any instance.
    pub generation: i64,
    /// How often its contents were written since it was created.
    pub writes: i64,
    /// How often its access list was changed: none can be set yet, so it is 0.
    pub acl_generation: u64,
    /// CRC-32C of the contents; it was checked when they were read.
    pub checksum: u32,
    /// The session that it ends with; 0: it stays.
    pub session: i64,
}

/// What stands in a node's key is not what was written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damaged {
    /// Whose.
    pub key: Bytes,
    what: &'static str,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        write!(f, "what stands in key {key:?} is damaged: {}", self.what)
    }
}

impl std::error::Error for Damaged {}

impl Node {
    /// What stands in the key of a node with these contents.
    pub fn encode(contents: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEADER + 1 + contents.len());
        out.push(VERSION);
        out.extend_from_slice(&[0; 4]);
        put_varint(&mut out, 0);
        out.extend_from_slice(contents);
        let sum = crc32c(&out[HEADER..]);
        out[1..HEADER].copy_from_slice(&sum.to_le_bytes());
        out.into()
    }

    /// Reads a node's key, and checks that it is whole.
    pub fn decode(kv: &KeyValue) -> Result<Node, Damaged> {
        let bad = |what| Damaged { key: kv.key.clone(), what };
        let mut reader = Reader::new(kv.value.clone());
        if reader.u8("version").map_err(|_| bad("it is empty"))? != VERSION {
            return Err(bad("it has another version"));
        }
        let sum = reader.u32("checksum").map_err(|_| bad("it is too short"))?;
        if crc32c(&kv.value[HEADER..]) != sum {
            return Err(bad("its checksum is another"));
        }
        let acl_generation = reader.varint("access list").map_err(|_| bad("it is too short"))?;
        let contents = reader.rest();
        Ok(Node {
            checksum: crc32c(&contents),
            contents,
            instance: kv.create_revision,
            generation: kv.mod_revision,
            writes: kv.version,
            acl_generation,
            session: kv.lease,
        })
    }
}

/// A child in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    /// Its last name.
    pub name: String,
    /// See [`Node::instance`].
    pub instance: i64,
    /// See [`Node::session`].
    pub session: i64,
}

impl Child {
    /// Reads a child off its key; `None` if that is no node's.
    pub fn of(kv: &KeyValue) -> Option<Child> {
        let name = FilePath::of_key(&kv.key)?.name().to_owned();
        Some(Child { name, instance: kv.create_revision, session: kv.lease })
    }
}
