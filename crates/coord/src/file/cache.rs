//! A client's cache: what it may still rely on, and what it must give up.
//!
//! **Invariants**
//! - An entry is there only while the client has not begun to give its registration
//!   up, and it is told only while the session is safe: then the servers have the
//!   registration, and no writer has passed it.
//! - An answer counts only if nothing was given up since it was asked for.
//! - It holds at most what its [`CacheLimits`] say.

use super::{Child, Node, Object, Registration};
use std::collections::BTreeMap;
use synod_base::planted;

/// What is known of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cached {
    /// The node, or that there is none.
    Node(Option<Node>),
    /// The children, in the order of their names.
    Children(Vec<Child>),
}

impl Cached {
    fn size(&self) -> usize {
        match self {
            Cached::Node(node) => node.as_ref().map_or(0, |n| n.contents.len()),
            Cached::Children(all) => all.iter().map(|c| c.name.len() + size_of::<Child>()).sum(),
        }
    }
}

/// How much a cache holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Objects. Each costs the cluster a key.
    pub entries_max: usize,
    /// Bytes of contents and names.
    pub bytes_max: usize,
}

impl Default for CacheLimits {
    fn default() -> CacheLimits {
        CacheLimits { entries_max: 4_096, bytes_max: 16 << 20 }
    }
}

/// What a cache has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Reads that were answered from it.
    pub hits: u64,
    /// Those of them that were told of an absence.
    pub negative_hits: u64,
    /// Reads that were not.
    pub misses: u64,
    /// Objects that a writer wanted.
    pub invalidations: u64,
    /// Times that everything was given up, because the session was not safe.
    pub flushes: u64,
    /// Objects that made room for others.
    pub evictions: u64,
}

struct Entry {
    registered: i64,
    what: Cached,
    /// When it was last read, by the cache's own count.
    used: u64,
}

/// A read that is on its way to a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fill(u64);

/// See the file's header.
#[derive(Default)]
pub struct Cache {
    limits: CacheLimits,
    entries: BTreeMap<Object, Entry>,
    bytes: usize,
    filling: BTreeMap<Fill, Object>,
    count: u64,
    stats: CacheStats,
}

impl Cache {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Cache {
        Cache { limits, ..Cache::default() }
    }

    /// What it has counted.
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    /// What is known of an object. `safe`: the session is, at this moment.
    pub fn get(&mut self, object: &Object, safe: bool) -> Option<&Cached> {
        if !safe && !planted("file: a cache outlives its session") {
            self.flush();
        }
        self.count += 1;
        let Some(entry) = self.entries.get_mut(object) else {
            self.stats.misses += 1;
            return None;
        };
        entry.used = self.count;
        self.stats.hits += 1;
        self.stats.negative_hits += u64::from(entry.what == Cached::Node(None));
        Some(&entry.what)
    }

    /// An object is about to be asked for.
    pub fn fill(&mut self, object: Object) -> Fill {
        self.count += 1;
        let fill = Fill(self.count);
        self.filling.insert(fill, object);
        fill
    }

    /// It was answered, with the revision of the registration if one was made. What
    /// is to be given up.
    pub fn filled(
        &mut self,
        fill: Fill,
        object: Object,
        answer: Option<(i64, Cached)>,
        safe: bool,
    ) -> Vec<Registration> {
        let counts = self.filling.remove(&fill).is_some();
        let Some((registered, what)) = answer else { return Vec::new() };
        if !safe {
            self.flush();
        }
        let overtaken = !counts && !planted("file: an answer that was overtaken is kept");
        if overtaken || !safe {
            return vec![Registration { object, revision: registered }];
        }
        if self.entries.get(&object).is_some_and(|e| e.registered > registered) {
            return Vec::new();
        }
        self.drop_entry(&object);
        self.bytes += what.size();
        self.entries.insert(object, Entry { registered, what, used: self.count });
        self.make_room()
    }

    /// A writer wants the object, for which this session was seen registered.
    pub fn invalidated(&mut self, object: &Object, registered: i64) -> Registration {
        self.stats.invalidations += 1;
        if !planted("file: a cache keeps what it gives up") {
            self.drop_entry(object);
        }
        self.filling.retain(|_, o| o != object);
        Registration { object: object.clone(), revision: registered }
    }

    /// The client itself is about to change the object.
    pub fn forget(&mut self, object: &Object) -> Option<Registration> {
        self.filling.retain(|_, o| o != object);
        let revision = self.drop_entry(object)?.registered;
        Some(Registration { object: object.clone(), revision })
    }

    /// The session is not safe: nothing here can be relied on, nor what is on its way.
    pub fn flush(&mut self) {
        if !self.entries.is_empty() || !self.filling.is_empty() {
            self.stats.flushes += 1;
        }
        self.entries.clear();
        self.filling.clear();
        self.bytes = 0;
    }

    fn drop_entry(&mut self, object: &Object) -> Option<Entry> {
        let entry = self.entries.remove(object)?;
        self.bytes -= entry.what.size();
        Some(entry)
    }

    fn make_room(&mut self) -> Vec<Registration> {
        let mut gone = Vec::new();
        while self.entries.len() > self.limits.entries_max || self.bytes > self.limits.bytes_max {
            let oldest = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(o, _)| o.clone());
            let Some(object) = oldest else { break };
            if let Some(entry) = self.drop_entry(&object) {
                self.stats.evictions += 1;
                gone.push(Registration { object, revision: entry.registered });
            }
        }
        gone
    }
}
