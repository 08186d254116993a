//! Full chunks in files that earlier lives left. The log decides what counts: a chunk is taken
//! for the log's samples only if the log comes to its first sample just behind the chunk
//! before, and its value is the same. From the first one on that does not fit, all of a
//! series comes from the log.

use crate::chunk_file::{BODY_MAX, Key, MAGIC, Record, length, read};
use crate::held::Held;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the names of such files end with; before it stand where the block begins that the
/// chunks go into, and a number that no other life has.
const ENDING: &str = ".chunks";

/// The name of a file.
pub(crate) fn file_name(begin: i64, life: u64) -> String {
    format!("{begin}_{life}{ENDING}")
}

fn parse_name(path: &Path) -> Option<(u64, i64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let (begin, life) = name.split_once('_')?;
    Some((life.parse().ok()?, begin.parse().ok()?))
}

/// A file of an earlier life.
#[derive(Debug)]
pub(crate) struct OldFile {
    /// Where the block begins that its chunks go into.
    pub begin: i64,
    pub path: PathBuf,
    pub file: Arc<File>,
    pub len: u64,
    /// Chunks in it that the log should know, and that it did not.
    unknown: usize,
}

/// A chunk in a file.
#[derive(Clone, Debug)]
struct Left {
    series: u32,
    first: i64,
    last: i64,
    /// The bits of its first value.
    value: u64,
    file: u32,
    at: u32,
    len: u32,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Found {
    files: Vec<OldFile>,
    /// The labels of the series, one behind the other, and where each begins and ends.
    text: Vec<u8>,
    names: Vec<Range<usize>>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// By series and time, once they are [`Found::sort`]ed.
    left: Vec<Left>,
    /// By series: its chunks.
    of: Vec<Range<u32>>,
    /// What cannot be read.
    pub damage: Vec<String>,
}

/// Which of a series' samples are in chunks of files.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    /// Up to when.
    pub to: i64,
    /// The first chunk, the one behind those that hold something of the log, and the end.
    begin: u32,
    next: u32,
    end: u32,
}

impl Cover {
    /// Of a series that is in no file.
    pub const NONE: Cover = Cover { to: i64::MIN, begin: 0, next: 0, end: 0 };

    /// Whether a sample behind those that are covered is in a chunk of a file. If not, none
    /// that follows is.
    pub fn goes_on(&mut self, found: &Found, at: i64, value: u64) -> bool {
        if self.next == self.end {
            return false;
        }
        let chunk = &found.left[self.next as usize];
        if (chunk.first, chunk.value) != (at, value) {
            self.end = self.next;
            return false;
        }
        self.to = chunk.last;
        self.next += 1;
        true
    }
}

impl Found {
    /// Reads all files in a folder; and gives a number for the life that begins. Damage is
    /// no error: what is behind it in its file comes from the log.
    pub fn read(folder: &Path) -> io::Result<(Found, u64)> {
        let (mut paths, mut found) = (Vec::new(), Found::default());
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            match parse_name(&path) {
                Some((life, begin)) => paths.push((life, begin, path)),
                // Of a version that made the folder anew.
                None => std::fs::remove_file(&path)?,
            }
        }
        paths.sort();
        let life = paths.last().map_or(0, |(life, ..)| life + 1);
        for (_, begin, path) in paths {
            let file = Arc::new(File::open(&path)?);
            let len = file.metadata()?.len();
            let number = found.files.len() as u32;
            let whole = found.read_file(number, &file)?;
            if whole < len {
                let (name, bytes) = (path.display(), len - whole);
                found.damage.push(format!("the last {bytes} bytes of {name} cannot be read"));
            }
            found.files.push(OldFile { begin, path, file, len, unknown: 0 });
        }
        Ok((found, life))
    }

    /// Nothing, since a folder could not be read.
    pub fn unreadable(folder: &Path, why: &io::Error) -> Found {
        let damage = vec![format!("{} cannot be read and is made anew: {why}", folder.display())];
        Found { damage, ..Found::default() }
    }

    /// Gives how many bytes of the file could be read.
    fn read_file(&mut self, number: u32, file: &File) -> io::Result<u64> {
        let mut file = file;
        let (mut buffer, mut begin, mut at) = (Vec::new(), 0, 0);
        let mut series = HashMap::<Key, u32>::new();
        let (mut chunks, mut ended) = (Vec::<(Key, Left)>::new(), false);
        loop {
            let rest = &buffer[begin..];
            let wanted = if at == 0 { Some(MAGIC.len()) } else { length(rest) };
            let whole = wanted.filter(|len| *len <= rest.len());
            let Some(len) = whole else {
                if ended || rest.len() > BODY_MAX {
                    break;
                }
                buffer.drain(..begin);
                begin = 0;
                let more = (&mut file).take(2 * BODY_MAX as u64).read_to_end(&mut buffer)?;
                ended = more == 0;
                continue;
            };
            let record = &rest[..len];
            if at == 0 && record != MAGIC {
                break;
            }
            match read(record) {
                _ if at == 0 => {}
                Some(Record::Name { key, labels }) => {
                    series.insert(key, self.series(&record[labels]));
                }
                Some(Record::Chunk { key, first, last, data }) => {
                    let (Some(value), Ok(at)) = (first_value(&record[data]), u32::try_from(at))
                    else {
                        break;
                    };
                    let len = len as u32;
                    chunks
                        .push((key, Left { series: 0, first, last, value, file: number, at, len }));
                }
                Some(Record::Aside { .. }) => {}
                None => break,
            }
            (begin, at) = (begin + len, at + len as u64);
        }
        // One without a name is of a life that ended before it wrote it.
        let named = chunks.into_iter().filter_map(|(key, chunk)| {
            series.get(&key).map(|series| Left { series: *series, ..chunk })
        });
        self.left.extend(named);
        Ok(at)
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        let same = |number: &u32| &self.text[self.names[*number as usize].clone()] == name;
        self.by_name.find(self.hasher.hash_one(name), same).copied()
    }

    fn series(&mut self, name: &[u8]) -> u32 {
        if let Some(known) = self.find(name) {
            return known;
        }
        let (number, begin) = (self.names.len() as u32, self.text.len());
        self.text.extend_from_slice(name);
        self.names.push(begin..self.text.len());
        let (text, names, hasher) = (&self.text, &self.names, &self.hasher);
        let hash = |number: &u32| hasher.hash_one(&text[names[*number as usize].clone()]);
        self.by_name.insert_unique(hasher.hash_one(name), number, hash);
        number
    }

    /// Forgets what is older than `floor`, and puts each series' chunks in order. Of those
    /// of one beginning the longest counts (a chunk is written several times while it
    /// grows), of others that overlap the earlier.
    pub fn sort(&mut self, floor: i64) {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|chunk| chunk.last >= floor);
        left.sort_by_key(|c| (c.series, c.first, std::cmp::Reverse(c.last)));
        left.dedup_by(|next, before| next.series == before.series && next.first <= before.last);
        self.of = vec![0..0; self.names.len()];
        for (place, chunk) in left.iter().enumerate() {
            let of = &mut self.of[chunk.series as usize];
            let begin = if of.start == of.end { place as u32 } else { of.start };
            *of = begin..place as u32 + 1;
            self.files[chunk.file as usize].unknown += 1;
        }
        self.left = left;
    }

    /// The chunks of a series with these labels, as the log has them.
    pub fn cover(&self, name: &[u8]) -> Cover {
        let Some(series) = self.find(name) else { return Cover::NONE };
        let Range { start, end } = self.of[series as usize].clone();
        Cover { begin: start, next: start, end, ..Cover::NONE }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The chunks of which the log knew, oldest first.
    pub fn known(&mut self, cover: &Cover) -> Vec<Held> {
        let mut known = Vec::with_capacity((cover.next - cover.begin) as usize);
        for chunk in &self.left[cover.begin as usize..cover.next as usize] {
            let file = &mut self.files[chunk.file as usize];
            file.unknown -= 1;
            let place = (chunk.at, chunk.len);
            known.push(Held::in_file(chunk.first, chunk.last, &file.file, place));
        }
        known
    }

    /// The files, those first of which the log knew all, then the others: something else may
    /// take the place of what is in them, so no later life is to find them.
    pub fn into_files(self) -> (Vec<OldFile>, Vec<OldFile>) {
        self.files.into_iter().partition(|file| file.unknown == 0)
    }
}

/// The bits of the first value of a chunk's bytes: behind their count and the first time.
fn first_value(data: &[u8]) -> Option<u64> {
    let rest = data.get(2..)?;
    let value = rest.get(rest.iter().position(|byte| *byte < 0x80)? + 1..)?;
    Some(u64::from_be_bytes(*value.first_chunk()?))
}
