//! Paths of nodes, and the keys that stand for them.

use super::FILES;
use crate::prefix_range;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use synod_mvcc::KeyRange;

/// Longest path, bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// Most names in a path; two digits, so that keys sort by depth.
const DEPTH_MAX: usize = 64;

/// The path of a node: names with `/` between them. The root's is empty; it has
/// children and no contents.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FilePath(String);

/// A text is no path; the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPath(&'static str);

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a path (NAME/NAME/...): {}", self.0)
    }
}

impl std::error::Error for BadPath {}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FilePath {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<FilePath, BadPath> {
        if text.is_empty() {
            return Ok(FilePath::default());
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(BadPath("it has more than 1024 bytes"));
        }
        if text.split('/').count() > DEPTH_MAX {
            return Err(BadPath("it has more than 64 names"));
        }
        if text.split('/').any(str::is_empty) {
            return Err(BadPath("a name in it is empty (no / at the ends, none twice)"));
        }
        if text.split('/').any(|name| name == "." || name == "..") {
            return Err(BadPath("nothing stands for . and .. in it"));
        }
        if text.chars().any(char::is_control) {
            return Err(BadPath("it has control characters"));
        }
        if text.split('/').next() == Some("synod") {
            return Err(BadPath("what begins with synod/ is Synod's own"));
        }
        Ok(FilePath(text.into()))
    }
}

impl FilePath {
    /// The path as text; the name of the node's lock too.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Above it; the root has nobody there.
    pub fn parent(&self) -> Option<FilePath> {
        if self.is_root() {
            return None;
        }
        let parent = self.0.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(FilePath(parent.into()))
    }

    /// The last name.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.0.split('/').count() }
    }

    /// The key of the node.
    pub fn key(&self) -> Bytes {
        format!("{FILES}node/{:02}/{}", self.depth(), self.0).into()
    }

    /// The keys of its children.
    pub fn children(&self) -> KeyRange {
        let below = if self.is_root() { "" } else { "/" };
        let prefix = format!("{FILES}node/{:02}/{}{below}", self.depth() + 1, self.0);
        prefix_range(prefix.as_bytes())
    }

    /// The path of a node's key; `None` if it is no such key.
    pub fn of_key(key: &[u8]) -> Option<FilePath> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(FILES)?.strip_prefix("node/")?;
        let path: FilePath = rest.split_once('/')?.1.parse().ok()?;
        (path.key() == key).then_some(path)
    }
}

/// What of a node is cached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Its contents, or that there is no such node.
    Contents,
    /// The names of its children.
    Children,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Contents => "contents",
            Kind::Children => "children",
        }
    }
}

/// What is cached, and changes, as one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Object {
    /// What of the node.
    pub kind: Kind,
    /// Which node.
    pub path: FilePath,
}

impl Object {
    /// A node's contents, or its absence.
    pub fn contents(path: FilePath) -> Object {
        Object { kind: Kind::Contents, path }
    }

    /// The names of a node's children.
    pub fn children(path: FilePath) -> Object {
        Object { kind: Kind::Children, path }
    }

    /// Where its keys stand in the keyspace: the pairs that it is made of.
    pub fn range(&self) -> KeyRange {
        match self.kind {
            Kind::Contents => KeyRange { key: self.path.key(), end: Bytes::new() },
            Kind::Children => self.path.children(),
        }
    }

    /// `of/KIND/PATH//`: no path has an empty name, so nothing else begins like it.
    fn prefix(&self, of: &str) -> String {
        format!("{FILES}{of}/{}/{}//", self.kind.word(), self.path)
    }

    /// All registrations for it.
    pub fn registrations(&self) -> KeyRange {
        prefix_range(self.prefix("cache").as_bytes())
    }

    /// A session's registration for it.
    pub fn registration(&self, session: i64) -> Bytes {
        format!("{}{session:x}", self.prefix("cache")).into()
    }

    /// All marks on it.
    pub fn marks(&self) -> KeyRange {
        prefix_range(self.prefix("mark").as_bytes())
    }

    /// A writer's mark on it, by the writer's lease.
    pub fn mark(&self, lease: i64) -> Bytes {
        format!("{}{lease:x}", self.prefix("mark")).into()
    }

    /// The object that a registration or a mark is for; `None` if it is neither.
    pub(super) fn of_key(key: &[u8], of: &str) -> Option<Object> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(FILES)?.strip_prefix(of)?;
        let (kind, rest) = rest.strip_prefix('/')?.split_once('/')?;
        let path = rest.rsplit_once("//")?.0.parse().ok()?;
        let kinds = [Kind::Contents, Kind::Children];
        let kind = kinds.into_iter().find(|k| k.word() == kind)?;
        Some(Object { kind, path })
    }
}
