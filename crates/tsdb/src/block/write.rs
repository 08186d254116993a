//! Writing a block: into a temporary folder, which gets its name when all is on the disk.

use super::bytes::{Fault, put_text, put_uvarint, put_varint};
use super::chunks;
use super::index::{self, ChunkRef};
use super::meta::{BlockId, BlockStats, Compaction, Meta};
use super::tombstones::Tombstones;
use crate::chunk;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_base::{crc32c, crc32c_append};

/// What the folder of a half-written block ends with.
pub(crate) const MAKING: &str = ".tmp-for-creation";
/// What the folder of a block that is being deleted ends with.
pub(crate) const DELETING: &str = ".tmp-for-deletion";
/// Bytes of a file of chunks, at most.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// The system's calls that write. A test may put a disk there that fails.
pub trait Files: Send + Sync {
    /// A new file.
    fn create(&self, path: &Path) -> io::Result<Box<dyn OutFile>>;

    /// Renames, durably.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// A file that is written.
pub trait OutFile: Write {
    /// Makes durable what was written.
    fn sync(&mut self) -> io::Result<()>;
}

/// The real ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OutFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // The names within first: they are to be there once the folder has its own.
        File::open(from)?.sync_all()?;
        std::fs::rename(from, to)?;
        File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl OutFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// A chunk as it goes into a block.
#[derive(Clone, Debug)]
pub struct ChunkData {
    /// Its first sample's time.
    pub min: i64,
    /// Its last sample's time.
    pub max: i64,
    /// How its data are to be read.
    pub encoding: u8,
    /// See [`crate::Chunk`].
    pub data: Box<[u8]>,
}

/// A file with the place at which the next byte goes.
struct Out {
    file: BufWriter<Box<dyn OutFile>>,
    at: u64,
}

impl Out {
    fn create(files: &dyn Files, path: &Path) -> io::Result<Out> {
        Ok(Out { file: BufWriter::with_capacity(BUFFER, files.create(path)?), at: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let rest = self.at.next_multiple_of(to) - self.at;
        self.put(&[0; 16][..rest as usize])
    }

    /// A section with its length before it and its checksum behind.
    fn section(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a table over 4 GiB"))?;
        self.put(&len.to_be_bytes())?;
        self.put(bytes)?;
        self.put(&crc32c(bytes).to_be_bytes())
    }

    fn end(mut self) -> io::Result<u64> {
        self.file.flush()?;
        self.file.get_mut().sync()?;
        Ok(self.at)
    }
}

/// Where a block goes.
pub(crate) struct Place<'a> {
    pub files: Arc<dyn Files>,
    pub folder: &'a Path,
    pub id: BlockId,
    /// Set when it is to be given up.
    pub stopping: &'a AtomicBool,
}

/// See the file's header.
pub(crate) struct BlockWriter<'a> {
    place: Place<'a>,
    making: PathBuf,
    done: bool,
    symbols: Vec<Arc<str>>,
    index: Out,
    chunks: Option<Out>,
    chunk_files: u32,
    series: Vec<u32>,
    postings: BTreeMap<(u32, u32), Vec<u32>>,
    symbols_at: u64,
    stats: BlockStats,
    buffer: Vec<u8>,
}

impl Drop for BlockWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            // What stays is deleted at the next start.
            let _ = std::fs::remove_dir_all(&self.making);
        }
    }
}

impl<'a> BlockWriter<'a> {
    /// Begins a block. `symbols` are all names and values of its series'
    /// labels, in order, none twice.
    pub fn begin(place: Place<'a>, symbols: Vec<Arc<str>>) -> io::Result<BlockWriter<'a>> {
        let making = place.folder.join(format!("{}{MAKING}", place.id));
        std::fs::create_dir_all(making.join("chunks"))?;
        let index = match Out::create(&*place.files, &making.join("index")) {
            Ok(index) => index,
            Err(e) => {
                let _ = std::fs::remove_dir_all(&making);
                return Err(e);
            }
        };
        let mut writer = BlockWriter {
            place,
            making,
            done: false,
            symbols,
            index,
            chunks: None,
            chunk_files: 0,
            series: Vec::new(),
            postings: BTreeMap::new(),
            symbols_at: 0,
            stats: BlockStats::default(),
            buffer: Vec::new(),
        };
        writer.put_symbols()?;
        Ok(writer)
    }

    fn put_symbols(&mut self) -> io::Result<()> {
        self.index.put(&index::MAGIC.to_be_bytes())?;
        self.index.put(&[index::VERSION])?;
        self.symbols_at = self.index.at;
        let mut table = (self.symbols.len() as u32).to_be_bytes().to_vec();
        for symbol in &self.symbols {
            put_text(&mut table, symbol);
        }
        self.index.section(&table)
    }

    /// Adds a series, later in order than those before. Its labels as symbols, in the order
    /// of their names; its chunks in the order of their times.
    pub fn add(&mut self, labels: &[(u32, u32)], chunks: &[ChunkData]) -> Result<(), Fault> {
        if self.place.stopping.load(Ordering::Relaxed) {
            return Err(Fault::Stopped);
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let mut entry = std::mem::take(&mut self.buffer);
        entry.clear();
        put_uvarint(&mut entry, labels.len() as u64);
        for (name, value) in labels {
            put_uvarint(&mut entry, u64::from(*name));
            put_uvarint(&mut entry, u64::from(*value));
        }
        put_uvarint(&mut entry, chunks.len() as u64);
        let mut last: Option<ChunkRef> = None;
        for chunk in chunks {
            let at = self.put_chunk(chunk)?;
            match last {
                None => {
                    put_varint(&mut entry, chunk.min);
                    put_uvarint(&mut entry, chunk.max.wrapping_sub(chunk.min) as u64);
                    put_uvarint(&mut entry, at);
                }
                Some(last) => {
                    put_uvarint(&mut entry, chunk.min.wrapping_sub(last.max) as u64);
                    put_uvarint(&mut entry, chunk.max.wrapping_sub(chunk.min) as u64);
                    put_varint(&mut entry, at.wrapping_sub(last.at) as i64);
                }
            }
            last = Some(ChunkRef { min: chunk.min, max: chunk.max, at });
        }
        self.index.pad(16)?;
        let number = u32::try_from(self.index.at / 16)
            .map_err(|_| io::Error::other("an index over 64 GiB"))?;
        let mut len = Vec::new();
        put_uvarint(&mut len, entry.len() as u64);
        self.index.put(&len)?;
        self.index.put(&entry)?;
        self.index.put(&crc32c(&entry).to_be_bytes())?;
        self.series.push(number);
        for pair in labels {
            self.postings.entry(*pair).or_default().push(number);
        }
        self.stats.series += 1;
        self.buffer = entry;
        Ok(())
    }

    fn put_chunk(&mut self, chunk: &ChunkData) -> io::Result<u64> {
        let mut head = Vec::with_capacity(8);
        put_uvarint(&mut head, chunk.data.len() as u64);
        head.push(chunk.encoding);
        let size = (head.len() + chunk.data.len() + 4) as u64;
        if self.chunks.as_ref().is_some_and(|out| out.at + size > FILE_BYTES_MAX)
            && let Some(full) = self.chunks.take()
        {
            full.end()?;
        }
        let out = match &mut self.chunks {
            Some(out) => out,
            None => {
                self.chunk_files += 1;
                let path = self.making.join("chunks").join(chunks::name(self.chunk_files));
                let mut out = Out::create(&*self.place.files, &path)?;
                out.put(&chunks::header())?;
                self.chunks.insert(out)
            }
        };
        let at = u64::from(self.chunk_files - 1) << 32 | out.at;
        out.put(&head)?;
        out.put(&chunk.data)?;
        out.put(&crc32c_append(&[&[chunk.encoding], &chunk.data]).to_be_bytes())?;
        self.stats.chunks += 1;
        self.stats.samples += chunk::count(&chunk.data) as u64;
        Ok(at)
    }

    /// Makes it durable and gives it its name. Gives its folder; `None`: nothing was added,
    /// and there is no such block.
    pub fn finish(
        mut self,
        (min_time, max_time): (i64, i64),
        mut compaction: Compaction,
    ) -> io::Result<Option<PathBuf>> {
        if self.series.is_empty() {
            return Ok(None);
        }
        self.put_postings()?;
        if let Some(chunks) = self.chunks.take() {
            chunks.end()?;
        }
        let name = self.place.id.to_string();
        if compaction.sources.is_empty() {
            compaction.sources.push(name.clone());
        }
        let meta = Meta {
            ulid: name.clone(),
            min_time,
            max_time,
            stats: self.stats,
            compaction,
            version: 1,
        };
        let meta = serde_json::to_vec_pretty(&meta).map_err(io::Error::other)?;
        for (file, bytes) in [("meta.json", meta), ("tombstones", Tombstones::none())] {
            let mut out = Out::create(&*self.place.files, &self.making.join(file))?;
            out.put(&bytes)?;
            out.end()?;
        }
        File::open(self.making.join("chunks"))?.sync_all()?;
        let path = self.place.folder.join(name);
        self.place.files.rename(&self.making, &path)?;
        self.done = true;
        Ok(Some(path))
    }

    /// The lists of series, the table that says where they are, and the table of contents.
    fn put_postings(&mut self) -> io::Result<()> {
        self.index.pad(16)?;
        let begin = self.index.at;
        let postings = std::mem::take(&mut self.postings);
        let mut table = (postings.len() as u32 + 1).to_be_bytes().to_vec();
        let all = (("", ""), std::mem::take(&mut self.series));
        let symbols = std::mem::take(&mut self.symbols);
        let text = |symbol: u32| symbols.get(symbol as usize).map_or("", |text| &**text);
        let lists = postings.into_iter().map(|((n, v), list)| ((text(n), text(v)), list));
        for ((name, value), list) in std::iter::once(all).chain(lists) {
            self.index.pad(4)?;
            table.push(2);
            put_text(&mut table, name);
            put_text(&mut table, value);
            put_uvarint(&mut table, self.index.at);
            let mut bytes = (list.len() as u32).to_be_bytes().to_vec();
            list.iter().for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
            self.index.section(&bytes)?;
        }
        let table_at = self.index.at;
        self.index.section(&table)?;
        // Zero: there is no such section. Label indices are of use to nobody any more.
        let contents = [self.symbols_at, 0, 0, 0, begin, table_at];
        let toc: Vec<u8> = contents.iter().flat_map(|at| at.to_be_bytes()).collect();
        self.index.put(&toc)?;
        self.index.put(&crc32c(&toc).to_be_bytes())?;
        self.index.file.flush()?;
        self.index.file.get_mut().sync()
    }
}
