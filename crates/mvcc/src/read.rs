//! Reading ranges, now and at old revisions, over any [`Read`].
//!
//! **Invariants**
//! - A key has at most one version visible at a revision `r`: the live pair if
//!   its last change is at or below `r`, else the superseded version `v` with
//!   `v <= r < superseded_by(v)`.
//! - What is visible does not depend on how far a compaction's removal has got.

use crate::records::{self, Live, Past, Place, bounds};
use crate::store::{Item, Read, Space, StoreError};
use crate::types::*;
use bytes::Bytes;
use std::cmp::Ordering;
use std::iter::Peekable;

/// How many versions of one key are passed over before seeking behind them.
const SKIPS_MAX: u32 = 16;

/// Where a read looks: what is stored, and the revisions that hold there.
pub(crate) struct At<'v, V> {
    pub(crate) view: &'v V,
    /// The newest revision in the view.
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
}

/// A version visible at a revision, its value perhaps not loaded yet.
enum Found {
    Live(Live),
    Past(Bytes, Place),
}

impl Found {
    fn key(&self) -> &Bytes {
        match self {
            Found::Live(live) => &live.kv.key,
            Found::Past(key, _) => key,
        }
    }
}

type Founds<'a> = Box<dyn Iterator<Item = Result<Found, StoreError>> + 'a>;

impl<'v, V: Read> At<'v, V> {
    /// The live pair of a key.
    pub(crate) fn live(&self, key: &Bytes) -> Result<Option<Live>, StoreError> {
        let record = self.view.get(Space::Latest, key)?;
        record.map(|record| Live::decode(key.clone(), record)).transpose()
    }

    /// Whether a read at `revision` (0 or less: the present) can be answered.
    pub(crate) fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision > self.revision {
            Err(Error::FutureRevision)
        } else if revision > 0 && revision < self.compacted {
            Err(Error::Compacted)
        } else {
            Ok(())
        }
    }

    /// The event at a place; it must be there.
    pub(crate) fn past(&self, place: Place) -> Result<Past, StoreError> {
        let record = self.view.get(Space::History, &records::place_key(place))?;
        let record = record.ok_or_else(|| {
            StoreError::corrupt(format!("the event of revision {}.{} is missing", place.0, place.1))
        })?;
        Past::decode(place, record)
    }

    fn load(&self, found: Found) -> Result<KeyValue, StoreError> {
        match found {
            Found::Live(live) => Ok(live.kv),
            Found::Past(_, place) => Ok(self.past(place)?.kv),
        }
    }

    /// The version of one key visible at `revision`.
    fn find(&self, key: &Bytes, revision: i64) -> Result<Option<Found>, StoreError> {
        if let Some(live) = self.live(key)?
            && live.kv.mod_revision <= revision
        {
            return Ok(Some(Found::Live(live)));
        }
        let from = records::version_key(key, (revision, u32::MAX));
        let to = records::version_key(key, (0, 0));
        let newest = self.view.scan(Space::Versions, &from, Some(&to), false).next();
        let Some((stored, record)) = newest.transpose()? else {
            return Ok(None);
        };
        let visible = records::superseded_by(record)? > revision;
        Ok(if visible {
            Some(Found::Past(key.clone(), records::version_of(&stored)?.1))
        } else {
            None
        })
    }

    /// The versions in a range of keys visible at `revision`, in key order.
    fn founds(&self, from: &[u8], to: Option<&[u8]>, revision: i64, reverse: bool) -> Founds<'v> {
        let live = self.view.scan(Space::Latest, from, to, reverse);
        if revision >= self.revision {
            return Box::new(live.map(|item| {
                let (key, record) = item?;
                Ok(Found::Live(Live::decode(key, record)?))
            }));
        }
        let live: Founds<'v> = Box::new(live.filter_map(move |item| {
            let live = item.and_then(|(key, record)| Live::decode(key, record));
            match live {
                Ok(live) if live.kv.mod_revision > revision => None,
                Ok(live) => Some(Ok(Found::Live(live))),
                Err(e) => Some(Err(e)),
            }
        }));
        let superseded = Superseded {
            view: self.view,
            scan: self.view.scan(
                Space::Versions,
                &records::versions_from(from),
                to.map(records::versions_from).as_deref(),
                reverse,
            ),
            to: to.map(records::versions_from),
            revision,
            reverse,
            skipped: 0,
        };
        let superseded: Founds<'v> = Box::new(superseded);
        Box::new(Merged { a: live.peekable(), b: superseded.peekable(), reverse })
    }

    /// How many keys are visible in a range.
    fn count(&self, from: &[u8], to: Option<&[u8]>, revision: i64) -> Result<i64, StoreError> {
        if revision >= self.revision {
            return Ok(self.view.count(Space::Latest, from, to)? as i64);
        }
        let mut n = 0;
        for found in self.founds(from, to, revision, false) {
            found?;
            n += 1;
        }
        Ok(n)
    }

    /// The pairs visible at `revision`, in key order.
    pub(crate) fn pairs(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        revision: i64,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> + use<'_, 'v, V> {
        self.founds(from, to, revision, false).map(|found| self.load(found?))
    }

    /// See [`RangeRequest`].
    pub(crate) fn range(
        &self,
        req: &RangeRequest,
    ) -> Result<Result<RangeResult, Error>, StoreError> {
        if let Err(e) = self.check_revision(req.revision) {
            return Ok(Err(e));
        }
        let revision = if req.revision <= 0 { self.revision } else { req.revision };
        let mut result = match bounds(&req.range) {
            None => self.one(req, revision)?,
            Some((from, to)) if to.is_some_and(|to| to <= from) => RangeResult::default(),
            Some((from, to)) if req.count_only => {
                RangeResult { count: self.count(from, to, revision)?, ..RangeResult::default() }
            }
            Some((from, to)) if req.target == SortTarget::Key => {
                self.by_key(req, from, to, revision)?
            }
            Some((from, to)) => self.sorted(req, from, to, revision)?,
        };
        if req.keys_only {
            for kv in &mut result.kvs {
                kv.value = Bytes::new();
            }
        }
        Ok(Ok(result))
    }

    /// The same, if it is about no more than `most` pairs of the present; so it takes no
    /// longer than these do.
    pub(crate) fn range_of_few(
        &self,
        req: &RangeRequest,
        most: usize,
    ) -> Result<Option<Result<RangeResult, Error>>, StoreError> {
        let Some((from, to)) = bounds(&req.range) else { return self.range(req).map(Some) };
        let present = req.revision <= 0 || req.revision == self.revision;
        if !present || req.target != SortTarget::Key || to.is_some_and(|to| to <= from) {
            return Ok(None);
        }
        let reverse = req.order == SortOrder::Descend;
        let limit = if req.limit > 0 { req.limit as usize } else { usize::MAX };
        let mut result = RangeResult::default();
        for found in self.founds(from, to, self.revision, reverse) {
            let found = found?;
            result.count += 1;
            if result.count as usize > most {
                return Ok(None);
            }
            if req.count_only || result.more {
                continue;
            }
            let mut kv = self.load(found)?;
            let full = result.kvs.len() >= limit;
            if full {
                result.more = !filters(req) || passes(req, &kv);
            } else if passes(req, &kv) {
                if req.keys_only {
                    kv.value = Bytes::new();
                }
                result.kvs.push(kv);
            }
        }
        Ok(Some(Ok(result)))
    }

    fn one(&self, req: &RangeRequest, revision: i64) -> Result<RangeResult, StoreError> {
        let Some(found) = self.find(&req.range.key, revision)? else {
            return Ok(RangeResult::default());
        };
        let mut result = RangeResult { count: 1, ..RangeResult::default() };
        if !req.count_only {
            let kv = self.load(found)?;
            if passes(req, &kv) {
                result.kvs.push(kv);
            }
        }
        Ok(result)
    }

    fn by_key(
        &self,
        req: &RangeRequest,
        from: &[u8],
        to: Option<&[u8]>,
        revision: i64,
    ) -> Result<RangeResult, StoreError> {
        let reverse = req.order == SortOrder::Descend;
        let limit = if req.limit > 0 { req.limit as usize } else { usize::MAX };
        let mut result = RangeResult::default();
        for found in self.founds(from, to, revision, reverse) {
            let found = found?;
            let key = found.key().clone();
            result.count += 1;
            let full = result.kvs.len() >= limit;
            if full && !filters(req) {
                result.more = true;
            } else {
                let kv = self.load(found)?;
                if passes(req, &kv) {
                    result.more = full;
                    if !full {
                        result.kvs.push(kv);
                    }
                }
            }
            if result.more {
                // What is left matters only for its number.
                result.count += if reverse {
                    self.count(from, Some(&key), revision)?
                } else {
                    self.count(&records::after(&key), to, revision)?
                };
                break;
            }
        }
        Ok(result)
    }

    fn sorted(
        &self,
        req: &RangeRequest,
        from: &[u8],
        to: Option<&[u8]>,
        revision: i64,
    ) -> Result<RangeResult, StoreError> {
        let limit = if req.limit > 0 { req.limit as usize } else { usize::MAX };
        // Only the best `limit` are kept, so that a small answer costs little
        // memory; the cut comes seldom enough for its sort not to matter.
        let room = limit.saturating_mul(2).saturating_add(1024);
        // As etcd: without an order, the limit cuts in the order of keys, and what
        // is left (and one more) is then sorted by the target.
        let early = req.order == SortOrder::None && !filters(req);
        let mut result = RangeResult::default();
        for found in self.founds(from, to, revision, false) {
            result.count += 1;
            let kv = self.load(found?)?;
            let key = kv.key.clone();
            if passes(req, &kv) {
                result.kvs.push(kv);
            }
            if early && result.kvs.len() > limit {
                result.count += self.count(&records::after(&key), to, revision)?;
                break;
            }
            if result.kvs.len() >= room {
                cut(req, &mut result, limit);
            }
        }
        cut(req, &mut result, limit);
        Ok(result)
    }
}

fn cut(req: &RangeRequest, result: &mut RangeResult, limit: usize) {
    let order = |a: &KeyValue, b: &KeyValue| match req.target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match req.order {
        SortOrder::Descend => result.kvs.sort_by(|a, b| order(b, a)),
        SortOrder::None | SortOrder::Ascend => result.kvs.sort_by(order),
    }
    result.more |= result.kvs.len() > limit;
    result.kvs.truncate(limit);
}

fn filters(req: &RangeRequest) -> bool {
    req.min_mod_revision != 0
        || req.max_mod_revision != 0
        || req.min_create_revision != 0
        || req.max_create_revision != 0
}

fn passes(req: &RangeRequest, kv: &KeyValue) -> bool {
    (req.min_mod_revision == 0 || kv.mod_revision >= req.min_mod_revision)
        && (req.max_mod_revision == 0 || kv.mod_revision <= req.max_mod_revision)
        && (req.min_create_revision == 0 || kv.create_revision >= req.min_create_revision)
        && (req.max_create_revision == 0 || kv.create_revision <= req.max_create_revision)
}

/// The superseded versions visible at a revision, in key order.
struct Superseded<'v, V> {
    view: &'v V,
    scan: Box<dyn Iterator<Item = Item> + 'v>,
    to: Option<Vec<u8>>,
    revision: i64,
    reverse: bool,
    skipped: u32,
}

impl<V: Read> Superseded<'_, V> {
    /// Passes over a version; after many of one key, seeks to `next` instead.
    fn pass_over(&mut self, next: impl FnOnce() -> Bytes) {
        self.skipped += 1;
        if self.skipped > SKIPS_MAX && !self.reverse {
            self.scan = self.view.scan(Space::Versions, &next(), self.to.as_deref(), false);
            self.skipped = 0;
        }
    }

    fn look(&mut self, item: Item) -> Result<Option<Found>, StoreError> {
        let (stored, record) = item?;
        let (key, place) = records::version_of(&stored)?;
        let revision = self.revision;
        if place.0 > revision {
            self.pass_over(|| records::version_key(&key, (revision, u32::MAX)));
            return Ok(None);
        }
        if records::superseded_by(record)? <= revision {
            // So are all older versions of this key. Revision 0 has none.
            self.pass_over(|| records::version_key(&key, (0, 0)));
            return Ok(None);
        }
        self.skipped = 0;
        Ok(Some(Found::Past(key, place)))
    }
}

impl<V: Read> Iterator for Superseded<'_, V> {
    type Item = Result<Found, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = self.scan.next()?;
            match self.look(item) {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// Two streams in key order made one; they have no key in common.
struct Merged<'a> {
    a: Peekable<Founds<'a>>,
    b: Peekable<Founds<'a>>,
    reverse: bool,
}

impl Iterator for Merged<'_> {
    type Item = Result<Found, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.a.peek(), self.b.peek()) {
            (Some(Ok(a)), Some(Ok(b))) => a.key().cmp(b.key()),
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        let first = if self.reverse && self.a.peek().is_some() && self.b.peek().is_some() {
            order.reverse()
        } else {
            order
        };
        if first == Ordering::Less { self.a.next() } else { self.b.next() }
    }
}
