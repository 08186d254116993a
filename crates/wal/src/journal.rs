//! Appending, rolling over to the next segment, recycling, recovery.

use crate::disk::Disk;
use crate::error::JournalError;
use crate::format::{
    FOOTER_CELL, FOOTER_LEN, Place, Record, SEGMENT_HEADER_LEN, SegmentHeader, VERSION,
    VERSION_OLDEST, record_size, this_release,
};
use crate::mark::Mark;
use crate::scan::{SegmentScan, Tail, scan_segment, segment_name, segment_number};
use crate::sectors::{DATA, SECTOR, Sectors, capacity, lay_out, physical};
use std::io;
use synod_base::planted;

/// Sizes of a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a segment. Sane: 1 MiB to 1 GiB. No batch may be larger.
    pub segment_bytes: u64,
    /// Dropped segments kept for reuse, so that their blocks need no
    /// allocation again. Each costs its size on disk.
    pub spares_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 16 << 20, spares_max: 2 }
    }
}

/// What was found when a journal was opened.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Every record of every whole batch, oldest first.
    pub records: Vec<Record>,
    /// File and offset of a torn tail that was cut.
    pub cut: Option<(String, u64)>,
}

/// A journal open for appending. One owner; blocking calls.
pub struct Journal<D: Disk> {
    disk: D,
    node: u64,
    options: Options,
    /// Of the segments that are begun.
    version: u32,
    /// Of the last segment; 0: its header is to be written.
    last_version: u32,
    /// Live segments, oldest first; the last one is written to.
    segments: Vec<u64>,
    spares: Vec<String>,
    mark: Mark,
    /// Where the next batch goes in the last segment; 0: its header is to be written.
    end: usize,
    /// Logical bytes of the last segment, which may be of another size.
    end_max: usize,
    chain: u32,
    next_batch: u64,
    buffer: Vec<u8>,
    /// The same as it goes to the disk.
    laid_out: Vec<u8>,
    closed: bool,
}

pub(crate) fn io_error(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> JournalError {
    let file = file.to_owned();
    move |source| JournalError::Io { doing, file, source }
}

/// The spares among these files that are as long as a segment; the others go.
fn usable_spares(
    disk: &mut impl Disk,
    names: Vec<String>,
    segment_bytes: u64,
) -> Result<Vec<String>, JournalError> {
    let mut spares = names;
    spares.retain(|name| name.ends_with(".spare"));
    let mut usable = Vec::new();
    for spare in spares {
        if disk.len(&spare).map_err(io_error("looking at", &spare))? == segment_bytes {
            usable.push(spare);
        } else {
            disk.remove(&spare).map_err(io_error("removing", &spare))?;
        }
    }
    Ok(usable)
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in `disk`, reading what earlier lives left. `node` is
    /// bound into every checksum.
    pub fn open(
        disk: D,
        node: u64,
        options: Options,
    ) -> Result<(Journal<D>, Recovery), JournalError> {
        let mut records = Vec::new();
        let opened = Journal::open_each(disk, node, options, |_, record| records.push(record));
        opened.map(|(journal, recovery)| (journal, Recovery { records, ..recovery }))
    }

    /// Like [`Journal::open`], and hands out each record with its segment instead of
    /// gathering them: no more than a segment is in memory. What was handed out may be
    /// followed by an error.
    pub fn open_each(
        mut disk: D,
        node: u64,
        options: Options,
        mut take: impl FnMut(u64, Record),
    ) -> Result<(Journal<D>, Recovery), JournalError> {
        let names = disk.list().map_err(io_error("listing", "the directory"))?;
        let mut segments: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
        segments.sort_unstable();
        let mark = Mark::open(&mut disk, &names, node)?;
        let spares = usable_spares(&mut disk, names, options.segment_bytes)?;
        let mut journal = Journal {
            disk,
            node,
            options,
            version: VERSION,
            last_version: 0,
            segments: Vec::new(),
            spares,
            mark,
            end: 0,
            end_max: 0,
            chain: 0,
            next_batch: 1,
            buffer: Vec::new(),
            laid_out: Vec::new(),
            closed: false,
        };
        let mut recovery = Recovery::default();
        for (i, &segment) in segments.iter().enumerate() {
            let last = i + 1 == segments.len();
            let records = journal.recover_segment(segment, last, &mut recovery)?;
            records.into_iter().for_each(|record| take(segment, record));
        }
        journal.mark.check(&segments)?;
        let last = segments.last().copied().unwrap_or(journal.mark.reached);
        // Of a journal without a mark; the last one may not be begun.
        let begun =
            if journal.end > 0 { last } else { segments.iter().rev().nth(1).copied().unwrap_or(0) };
        if begun > journal.mark.reached {
            journal.mark.begin_at(&mut journal.disk, segments[0])?;
            journal.mark.reach(&mut journal.disk, begun)?;
        }
        if journal.segments.is_empty() {
            journal.add_segment(last + 1)?;
        }
        Ok((journal, recovery))
    }

    fn recover_segment(
        &mut self,
        segment: u64,
        last: bool,
        recovery: &mut Recovery,
    ) -> Result<Vec<Record>, JournalError> {
        let file = segment_name(segment);
        let bytes = self.disk.read(&file).map_err(io_error("reading", &file))?;
        let scan = scan_segment(&bytes).map_err(|version| JournalError::Foreign {
            file: file.clone(),
            what: version.to_string(),
        })?;
        if scan.header.is_none_or(|h| h.segment != segment) {
            return self.recover_unbegun(segment, last, file).map(|()| Vec::new());
        }
        self.check_continuity(&file, &scan, segment)?;
        match &scan.tail {
            Tail::Damaged { offset, what } => {
                if !planted("journal: damage in the middle is cut off as a torn tail") {
                    return Err(JournalError::Damaged {
                        file,
                        offset: *offset,
                        what: what.clone(),
                    });
                }
            }
            Tail::Torn { offset }
                if !last && !planted("journal: damage in the middle is cut off as a torn tail") =>
            {
                let what = "a batch is missing at the end of a segment that is not the last".into();
                return Err(JournalError::Damaged { file, offset: *offset, what });
            }
            Tail::Torn { offset } => {
                self.write_tail_again(&file, &bytes, &scan)?;
                recovery.cut = Some((file, *offset));
            }
            Tail::Clean if last => self.write_tail_again(&file, &bytes, &scan)?,
            Tail::Clean => {}
        }
        self.segments.push(segment);
        (self.end, self.end_max) = (scan.end, capacity(bytes.len()));
        self.last_version = scan.header.map_or(0, |h| h.version);
        self.chain = scan.chain;
        self.next_batch = scan.next_batch;
        Ok(scan.batches.into_iter().flat_map(|b| b.records).collect())
    }

    /// A segment whose header is not its own: made, and never written to.
    fn recover_unbegun(
        &mut self,
        segment: u64,
        last: bool,
        file: String,
    ) -> Result<(), JournalError> {
        if !last || self.mark.has_reached(segment) {
            let what = "the header cannot be read, and something behind it was acknowledged".into();
            return Err(JournalError::Damaged { file, offset: 0, what });
        }
        let bytes = self.disk.read(&file).map_err(io_error("reading", &file))?;
        let sectors = Sectors::read(&bytes);
        let place = Place { node: self.node, segment };
        let (mut at, mut later) = (SEGMENT_HEADER_LEN, false);
        while at < sectors.data.len() {
            match place.get_since(&sectors.data, at, 1) {
                Some(raw) => {
                    later |= raw.batch > self.next_batch;
                    at = raw.next;
                }
                None => at += 8,
            }
        }
        // Its first append has been acknowledged only if the sector with the
        // header was written.
        if later || sectors.written(0, SEGMENT_HEADER_LEN, self.next_batch) {
            let what = "the segment's header was written and cannot be read".into();
            return Err(JournalError::Damaged { file, offset: 0, what });
        }
        self.wipe(&file, bytes.len(), 0, 0)?;
        self.segments.push(segment);
        (self.end, self.end_max, self.last_version) = (0, capacity(bytes.len()), 0);
        Ok(())
    }

    /// Makes durable what can be read of the last segment, and nothing behind it.
    ///
    /// The process before may have ended between the write and the sync of its last batch,
    /// or *because* that sync failed. Then the system takes the pages for clean: they are
    /// read as they were written, a further sync does nothing for them, and a loss of power
    /// takes them. So they are written again: the last batch (those before it were synced
    /// before it was begun), and all that is behind it, which may have been wiped in vain.
    fn write_tail_again(
        &mut self,
        file: &str,
        bytes: &[u8],
        scan: &SegmentScan,
    ) -> Result<(), JournalError> {
        if planted("journal: what a failed sync left is believed after a restart")
            && scan.tail == Tail::Clean
        {
            return self.disk.sync(file).map_err(io_error("syncing", file));
        }
        // The first batch was written together with the segment's header.
        let from = match scan.batches.as_slice() {
            [_, .., batch] => batch.offset as usize / SECTOR * SECTOR,
            _ => 0,
        };
        self.disk
            .write_at(file, from as u64, &bytes[from..physical(scan.end)])
            .map_err(io_error("writing again", file))?;
        self.wipe(file, bytes.len(), scan.end, scan.next_batch - 1)
    }

    /// Nothing but zeros from `end` on, so that pieces of a torn batch cannot be
    /// met again behind a later one; its sector keeps the stamp of the last batch.
    fn wipe(
        &mut self,
        file: &str,
        file_bytes: usize,
        end: usize,
        last_batch: u64,
    ) -> Result<(), JournalError> {
        let mut at = physical(end);
        if !end.is_multiple_of(DATA) {
            lay_out(&mut self.laid_out, end, &[], last_batch);
            self.disk
                .write_at(file, at as u64, &self.laid_out)
                .map_err(io_error("wiping", file))?;
            at += self.laid_out.len();
        }
        let zeros = vec![0; file_bytes.saturating_sub(at).min(1 << 20)];
        while at < file_bytes {
            let n = zeros.len().min(file_bytes - at);
            self.disk.write_at(file, at as u64, &zeros[..n]).map_err(io_error("wiping", file))?;
            at += n;
        }
        self.disk.sync(file).map_err(io_error("syncing", file))
    }

    fn check_continuity(
        &self,
        file: &str,
        scan: &SegmentScan,
        segment: u64,
    ) -> Result<(), JournalError> {
        let Some(header) = scan.header else {
            return Ok(());
        };
        if header.node != self.node {
            return Err(JournalError::Foreign {
                file: file.to_owned(),
                what: format!("the journal of node {:x}, not of {:x}", header.node, self.node),
            });
        }
        let Some(&before) = self.segments.last() else {
            return Ok(());
        };
        let follows = planted("journal: damage in the middle is cut off as a torn tail")
            || before + 1 == segment
                && header.first_batch == self.next_batch
                && header.prev == self.chain;
        if follows {
            return Ok(());
        }
        let what = format!(
            "it begins at batch {} but the segment before it ends before batch {}",
            header.first_batch, self.next_batch
        );
        Err(JournalError::Damaged { file: file.to_owned(), offset: 0, what })
    }

    /// Segments begun from now on are of this version, so that a release that knows no
    /// newer one can read them; the present one is ended by the next append if it is of
    /// another. Brought within [`VERSION_OLDEST`] to [`VERSION`].
    pub fn set_version(&mut self, version: u32) {
        self.version = version.clamp(VERSION_OLDEST, VERSION);
    }

    /// The segment that appends go to now.
    pub fn segment(&self) -> u64 {
        self.segments.last().copied().unwrap_or(0)
    }

    /// Most payload bytes of one batch of one record.
    pub fn record_bytes_max(&self) -> usize {
        self.room() - SEGMENT_HEADER_LEN - record_size(0) - FOOTER_LEN
    }

    /// Logical bytes of a segment.
    fn room(&self) -> usize {
        capacity(self.options.segment_bytes as usize)
    }

    /// Appends the records as one batch and makes them durable. Returns the
    /// segment that holds them. On an error nothing more can be appended.
    pub fn append<'a>(
        &mut self,
        records: impl Iterator<Item = (u32, &'a [u8])> + Clone,
    ) -> Result<u64, JournalError> {
        if self.closed {
            return Err(JournalError::Closed);
        }
        let done = self.try_append(records);
        self.closed = done.is_err();
        done
    }

    fn try_append<'a>(
        &mut self,
        records: impl Iterator<Item = (u32, &'a [u8])> + Clone,
    ) -> Result<u64, JournalError> {
        let bytes: usize =
            records.clone().map(|(_, b)| record_size(b.len())).sum::<usize>() + FOOTER_LEN;
        let most = self.room() - SEGMENT_HEADER_LEN;
        if bytes > most {
            return Err(JournalError::TooLarge { bytes, most });
        }
        let begun = self.end.max(SEGMENT_HEADER_LEN);
        let foreign = self.last_version != 0 && self.last_version != self.version;
        if foreign || begun + bytes > self.end_max {
            self.add_segment(self.segment() + 1)?;
        }
        let segment = self.segment();
        let place = Place { node: self.node, segment };
        self.buffer.clear();
        let base = self.end as u64;
        if self.end == 0 {
            let header = SegmentHeader {
                version: self.version,
                writer: this_release(),
                node: self.node,
                segment,
                first_batch: self.next_batch,
                prev: self.chain,
                sectors: (self.end_max / DATA) as u32,
            };
            self.buffer.extend_from_slice(&header.encode());
            self.last_version = self.version;
        }
        let (mut count, mut chain) = (0u32, self.chain);
        for (cell, payload) in records {
            chain = place.put(&mut self.buffer, base, self.next_batch, chain, cell, payload);
            count += 1;
        }
        let mut footer = [0u8; 8];
        footer[..4].copy_from_slice(&count.to_le_bytes());
        footer[4..].copy_from_slice(&self.chain.to_le_bytes());
        chain = place.put(&mut self.buffer, base, self.next_batch, chain, FOOTER_CELL, &footer);
        let file = segment_name(segment);
        lay_out(&mut self.laid_out, self.end, &self.buffer, self.next_batch);
        self.disk
            .write_at(&file, physical(self.end) as u64, &self.laid_out)
            .map_err(io_error("writing", &file))?;
        if !planted("journal: a batch is not synced") {
            self.disk.sync(&file).map_err(io_error("syncing", &file))?;
        }
        self.mark.reach(&mut self.disk, segment)?;
        self.end = base as usize + self.buffer.len();
        self.chain = chain;
        self.next_batch += 1;
        if self.buffer.capacity() > 4 << 20 {
            (self.buffer, self.laid_out) = (Vec::new(), Vec::new());
        }
        Ok(segment)
    }

    fn add_segment(&mut self, segment: u64) -> Result<(), JournalError> {
        let file = segment_name(segment);
        match self.spares.pop() {
            Some(spare) => self.disk.rename(&spare, &file).map_err(io_error("reusing", &spare))?,
            None => {
                // Made under another name: a half-made file is then never a segment.
                let temporary = format!("{segment:016x}.making");
                self.disk
                    .create(&temporary, self.options.segment_bytes)
                    .map_err(io_error("creating", &temporary))?;
                self.disk.rename(&temporary, &file).map_err(io_error("naming", &temporary))?;
            }
        }
        self.segments.push(segment);
        (self.end, self.end_max, self.last_version) = (0, self.room(), 0);
        Ok(())
    }

    /// Drops whole segments older than `segment`; the present one always stays.
    pub fn drop_before(&mut self, segment: u64) -> Result<(), JournalError> {
        let keep = self.segments.partition_point(|s| *s < segment);
        let first = self.segments[keep.min(self.segments.len() - 1)];
        self.mark.begin_at(&mut self.disk, first)?;
        while self.segments[0] < first {
            let file = segment_name(self.segments[0]);
            if self.spares.len() < self.options.spares_max {
                let spare = format!("{:016x}.spare", self.segments[0]);
                self.disk.rename(&file, &spare).map_err(io_error("keeping", &file))?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&file).map_err(io_error("removing", &file))?;
            }
            self.segments.remove(0);
        }
        Ok(())
    }

    /// The name under which a segment made beforehand would be welcome, when
    /// the present one is half full and no spare is left. Whoever makes it (with
    /// [`Disk::create`], the size of a segment) hands it in by
    /// [`Journal::add_spare`], so that appends never wait for it.
    pub fn wants_spare(&self) -> Option<String> {
        let half = self.end * 2 >= self.end_max;
        let first = self.end == 0 || self.segments.len() == 1;
        let wanted = self.spares.is_empty() && (half || first);
        wanted.then(|| format!("{:016x}-{}.spare", self.segment(), self.next_batch))
    }

    /// Takes a segment that was made beforehand.
    pub fn add_spare(&mut self, name: String) {
        self.spares.push(name);
    }

    /// Live segments, oldest first.
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }
}
