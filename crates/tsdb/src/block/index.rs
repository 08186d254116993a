//! A block's index (version 2 of Prometheus's format): symbols, series, postings. Of the
//! tables only every so many entries are kept in memory; the rest is read when asked for.

use super::bytes::{Cursor, Fault, ReadAt, Window, damaged, read};
use crate::index::{Numbers, intersection};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use synod_base::crc32c;
use synod_promql::Matcher;

pub(crate) const MAGIC: u32 = 0xbaaa_d700;
pub(crate) const VERSION: u8 = 2;
pub(crate) const TOC_LEN: u64 = 6 * 8 + 4;
/// Of so many entries of a table one is kept in memory.
const SAMPLED: u32 = 32;
/// Bytes of a series' entry, at most.
const SERIES_BYTES_MAX: u64 = 64 << 20;

/// Where a chunk is, and the times that it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef {
    /// Its first sample's time.
    pub min: i64,
    /// Its last sample's time.
    pub max: i64,
    /// The file's number from 0 in the upper half, the offset in it in the lower.
    pub at: u64,
}

/// What the index says of a series.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeriesEntry {
    /// Symbols of names and values, in the order of the names.
    pub labels: Vec<(u32, u32)>,
    /// In the order of their times.
    pub chunks: Vec<ChunkRef>,
}

/// Values of a name in the table of postings.
#[derive(Debug, Default)]
struct Values {
    /// Some of the values, and where their entries begin in the table.
    sampled: Vec<(Box<str>, u32)>,
    /// How many there are.
    count: u32,
    /// Where the entry of the last ends.
    end: u32,
}

/// See the file's header.
#[derive(Debug)]
pub struct IndexReader<R> {
    source: R,
    /// Where the symbols' entries begin in the file.
    symbols: u64,
    symbol_count: u32,
    /// Where each 32nd symbol begins, and where the last ends, from there.
    symbol_offsets: Vec<u32>,
    /// Where the entries of the table of postings begin in the file.
    table: u64,
    names: BTreeMap<Box<str>, Values>,
}

/// A section with its length before it and its checksum behind.
fn section(source: &impl ReadAt, offset: u64, what: &str) -> Result<Vec<u8>, Fault> {
    let len = Cursor(&read(source, offset, 4)?).u32()?;
    let mut bytes = read(source, offset + 4, u64::from(len) + 4)?;
    let sum = Cursor(&bytes[len as usize..]).u32()?;
    bytes.truncate(len as usize);
    if crc32c(&bytes) != sum {
        return damaged(format!("the checksum of the {what} at {offset} does not hold"));
    }
    Ok(bytes)
}

impl<R: ReadAt> IndexReader<R> {
    /// Reads the tables.
    pub fn open(source: R) -> Result<IndexReader<R>, Fault> {
        let head = read(&source, 0, 5)?;
        let mut head = Cursor(&head);
        let (magic, version) = (head.u32()?, head.u8()?);
        if magic != MAGIC || version != VERSION {
            return damaged(format!("{magic:x}, version {version}, is no index that is known"));
        }
        let begin = source.len().saturating_sub(TOC_LEN);
        let toc = read(&source, begin, TOC_LEN)?;
        if crc32c(&toc[..48]) != Cursor(&toc[48..]).u32()? {
            return damaged("the checksum of the table of contents does not hold");
        }
        let mut toc = Cursor(&toc);
        let symbols = toc.u64()?;
        toc.take(4 * 8)?;
        let table = toc.u64()?;
        let mut index = IndexReader {
            source,
            symbols: symbols.saturating_add(8),
            symbol_count: 0,
            symbol_offsets: Vec::new(),
            table: table.saturating_add(8),
            names: BTreeMap::new(),
        };
        index.read_symbols(symbols)?;
        index.read_table(table)?;
        Ok(index)
    }

    fn read_symbols(&mut self, offset: u64) -> Result<(), Fault> {
        let bytes = section(&self.source, offset, "symbols")?;
        let mut cursor = Cursor(&bytes);
        self.symbol_count = cursor.u32()?;
        let begin = cursor.0.len();
        for number in 0..self.symbol_count {
            if number % SAMPLED == 0 {
                self.symbol_offsets.push((begin - cursor.0.len()) as u32);
            }
            cursor.text()?;
        }
        self.symbol_offsets.push((begin - cursor.0.len()) as u32);
        Ok(())
    }

    fn read_table(&mut self, offset: u64) -> Result<(), Fault> {
        let bytes = section(&self.source, offset, "table of postings")?;
        let mut cursor = Cursor(&bytes);
        let count = cursor.u32()?;
        let begin = cursor.0.len();
        let mut before: Option<(&str, &str)> = None;
        for _ in 0..count {
            let at = (begin - cursor.0.len()) as u32;
            let (name, value, _) = table_entry(&mut cursor)?;
            if before.is_some_and(|before| before >= (name, value)) {
                return damaged("the table of postings is not in order");
            }
            before = Some((name, value));
            if !self.names.contains_key(name) {
                self.names.insert(name.into(), Values::default());
            }
            let Some(values) = self.names.get_mut(name) else { continue };
            if values.count.is_multiple_of(SAMPLED) {
                values.sampled.push((value.into(), at));
            }
            values.count += 1;
            values.end = (begin - cursor.0.len()) as u32;
        }
        Ok(())
    }

    /// How many symbols there are.
    pub fn symbol_count(&self) -> u32 {
        self.symbol_count
    }

    /// A run of symbols, beginning with the first of those that contains this one; gives
    /// that one's number.
    fn symbol_group(&self, number: u32) -> Result<(u32, Vec<u8>), Fault> {
        let group = (number / SAMPLED) as usize;
        let range = self.symbol_offsets.get(group..group + 2);
        let Some(&[begin, end]) = range.filter(|_| number < self.symbol_count) else {
            return damaged(format!("there is no symbol {number}"));
        };
        let bytes = read(&self.source, self.symbols + u64::from(begin), u64::from(end - begin))?;
        Ok((group as u32 * SAMPLED, bytes))
    }

    /// All label names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name).filter(|name| !name.is_empty())
    }

    /// The entries of the table of postings from one to another.
    fn entries(&self, begin: u32, end: u32) -> Result<Vec<u8>, Fault> {
        read(&self.source, self.table + u64::from(begin), u64::from(end.saturating_sub(begin)))
    }

    /// All values of a label in order, and where their postings are.
    pub fn values(&self, name: &str, mut take: impl FnMut(&str, u64)) -> Result<(), Fault> {
        let Some(values) = self.names.get(name) else { return Ok(()) };
        let bytes = self.entries(values.sampled[0].1, values.end)?;
        let mut cursor = Cursor(&bytes);
        while !cursor.0.is_empty() {
            let (_, value, offset) = table_entry(&mut cursor)?;
            take(value, offset);
        }
        Ok(())
    }

    /// The series that have a label with this value.
    pub fn having(&self, name: &str, value: &str) -> Result<Numbers, Fault> {
        let Some(values) = self.names.get(name) else { return Ok(Vec::new()) };
        let behind = values.sampled.partition_point(|(sampled, _)| **sampled <= *value);
        let Some(first) = behind.checked_sub(1) else { return Ok(Vec::new()) };
        let end = values.sampled.get(behind).map_or(values.end, |(_, at)| *at);
        let bytes = self.entries(values.sampled[first].1, end)?;
        let mut cursor = Cursor(&bytes);
        while !cursor.0.is_empty() {
            let (_, found, offset) = table_entry(&mut cursor)?;
            if found == value {
                return self.postings(offset);
            }
        }
        Ok(Vec::new())
    }

    /// What it says of a series.
    pub fn series(&self, number: u32) -> Result<SeriesEntry, Fault> {
        SeriesWalk::new(self).get(number)
    }

    /// All series, in order.
    pub fn all(&self) -> Result<Numbers, Fault> {
        self.having("", "")
    }

    fn postings(&self, offset: u64) -> Result<Numbers, Fault> {
        let bytes = section(&self.source, offset, "postings")?;
        let mut cursor = Cursor(&bytes);
        let count = cursor.u32()? as usize;
        if cursor.0.len() != count * 4 {
            return damaged(format!("the postings at {offset} are not {count}"));
        }
        let list: Numbers = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
        if !list.is_sorted_by(|a, b| a < b) {
            return damaged(format!("the postings at {offset} are not in order"));
        }
        Ok(list)
    }

    /// The series that pass all matchers that do not take an empty value.
    pub fn candidates(&self, matchers: &[Matcher]) -> Result<Numbers, Fault> {
        let mut sets = Vec::new();
        for matcher in matchers.iter().filter(|m| !m.takes("")) {
            sets.push(self.passing(matcher)?);
        }
        sets.sort_by_key(Vec::len);
        match sets.into_iter().reduce(intersection) {
            Some(found) => Ok(found),
            None => self.all(),
        }
    }

    fn passing(&self, matcher: &Matcher) -> Result<Numbers, Fault> {
        if let Some(value) = matcher.equal_to() {
            return self.having(&matcher.name, value);
        }
        let mut offsets = Vec::new();
        self.values(&matcher.name, |value, offset| {
            if matcher.takes(value) {
                offsets.push(offset);
            }
        })?;
        let mut all = Vec::new();
        for offset in offsets {
            all.append(&mut self.postings(offset)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

fn table_entry<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, &'a str, u64), Fault> {
    match cursor.u8()? {
        2 => Ok((cursor.text()?, cursor.text()?, cursor.uvarint()?)),
        other => damaged(format!("postings of {other} names")),
    }
}

/// Symbols of an index that were read already.
pub(crate) struct Symbols<'a, R> {
    index: &'a IndexReader<R>,
    known: HashMap<u32, Arc<str>>,
    /// The run that was read last, and its first symbol.
    group: Option<(u32, Vec<u8>)>,
}

impl<'a, R: ReadAt> Symbols<'a, R> {
    pub fn new(index: &'a IndexReader<R>) -> Symbols<'a, R> {
        Symbols { index, known: HashMap::new(), group: None }
    }

    pub fn get(&mut self, number: u32) -> Result<Arc<str>, Fault> {
        if let Some(text) = self.known.get(&number) {
            return Ok(text.clone());
        }
        let first = number / SAMPLED * SAMPLED;
        let (_, bytes) = match self.group.take() {
            Some(group) if group.0 == first => self.group.insert(group),
            _ => self.group.insert(self.index.symbol_group(number)?),
        };
        let mut cursor = Cursor(bytes);
        for _ in first..number {
            cursor.text()?;
        }
        let text: Arc<str> = cursor.text()?.into();
        self.known.insert(number, text.clone());
        Ok(text)
    }
}

/// All symbols of an index in order, without keeping them.
pub(crate) struct SymbolWalk<'a, R> {
    index: &'a IndexReader<R>,
    next: u32,
    group: Vec<u8>,
    at: usize,
}

impl<'a, R: ReadAt> SymbolWalk<'a, R> {
    pub fn new(index: &'a IndexReader<R>) -> SymbolWalk<'a, R> {
        SymbolWalk { index, next: 0, group: Vec::new(), at: 0 }
    }

    /// The next one, if there is one.
    pub fn next(&mut self) -> Result<Option<String>, Fault> {
        if self.next >= self.index.symbol_count {
            return Ok(None);
        }
        if self.next.is_multiple_of(SAMPLED) {
            (self.group, self.at) = (self.index.symbol_group(self.next)?.1, 0);
        }
        let mut cursor = Cursor(&self.group[self.at..]);
        let text = cursor.text()?.to_owned();
        self.at = self.group.len() - cursor.0.len();
        self.next += 1;
        Ok(Some(text))
    }
}

/// Reads entries of series, those that stand near each other at once.
pub(crate) struct SeriesWalk<'a, R> {
    index: &'a IndexReader<R>,
    window: Window,
}

impl<'a, R: ReadAt> SeriesWalk<'a, R> {
    pub fn new(index: &'a IndexReader<R>) -> SeriesWalk<'a, R> {
        SeriesWalk { index, window: Window::default() }
    }

    pub fn get(&mut self, number: u32) -> Result<SeriesEntry, Fault> {
        let offset = u64::from(number) * 16;
        let source = &self.index.source;
        let mut begin = Cursor(self.window.get(source, offset, 10)?);
        let before = begin.0.len();
        let len = begin.uvarint()?;
        let prefix = before - begin.0.len();
        if len > SERIES_BYTES_MAX || offset + len + 4 > source.len() {
            return damaged(format!("series {number} would be {len} bytes long"));
        }
        let whole = self.window.get(source, offset, prefix + len as usize + 4)?;
        let mut cursor = Cursor(&whole[prefix..]);
        let bytes = cursor.take(len as usize)?;
        if crc32c(bytes) != cursor.u32()? {
            return damaged(format!("the checksum of series {number} does not hold"));
        }
        series_entry(bytes)
    }
}

fn series_entry(bytes: &[u8]) -> Result<SeriesEntry, Fault> {
    let mut cursor = Cursor(bytes);
    let mut entry = SeriesEntry::default();
    for _ in 0..cursor.uvarint()? {
        entry.labels.push((cursor.number()?, cursor.number()?));
    }
    let mut last: Option<ChunkRef> = None;
    for _ in 0..cursor.uvarint()? {
        let chunk = match last {
            None => {
                let min = cursor.varint()?;
                let max = min.wrapping_add(cursor.uvarint()? as i64);
                ChunkRef { min, max, at: cursor.uvarint()? }
            }
            Some(last) => {
                let min = last.max.wrapping_add(cursor.uvarint()? as i64);
                let max = min.wrapping_add(cursor.uvarint()? as i64);
                ChunkRef { min, max, at: last.at.wrapping_add(cursor.varint()? as u64) }
            }
        };
        entry.chunks.push(chunk);
        last = Some(chunk);
    }
    Ok(entry)
}
