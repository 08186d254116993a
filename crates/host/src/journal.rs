//! The journal's thread: it takes everything that waits, writes it as one
//! batch, sleeps in the sync, and says what is durable. One sync in flight;
//! what comes meanwhile makes the next batch (group commit without a timer).

use crate::core_loop::ToCore;
use crate::disk::FileDisk;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Instant;
use synod_base::CellId;
use synod_consensus::{Record, WriteSeq};
use synod_wal::{Disk, Journal, JournalError, Retention};

/// What the core asks of the journal's thread.
pub(crate) enum JournalJob {
    /// Append; `last` is the last log index that any record so far may hold.
    Write { cell: CellId, seq: WriteSeq, record: Record, last: u64 },
    /// Records that only concern indexes up to this may go.
    Forget { upto: u64 },
}

pub(crate) fn start(
    journal: Journal<FileDisk>,
    spares: SpareMaker,
    last: u64,
    mailbox: Arc<Mailbox<ToCore>>,
    metrics: Arc<Metrics>,
) -> std::io::Result<(Sender<JournalJob>, std::thread::JoinHandle<()>)> {
    let (tx, rx) = channel();
    let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
        if let Err(error) = run(journal, spares, last, &rx, &mailbox, &metrics) {
            mailbox.push(ToCore::Fatal(error.to_string()));
        }
    })?;
    Ok((tx, thread))
}

fn run(
    mut journal: Journal<FileDisk>,
    mut spares: SpareMaker,
    last: u64,
    jobs: &Receiver<JournalJob>,
    mailbox: &Mailbox<ToCore>,
    metrics: &Metrics,
) -> Result<(), JournalError> {
    let mut retention = Retention::new(journal.segments(), last);
    let mut records: Vec<(u32, Range<usize>)> = Vec::new();
    let mut buffer = Vec::new();
    spares.keep_one(&mut journal);
    while let Ok(first) = jobs.recv() {
        // Where threads wait for a processor, the core's among them may have more
        // for this sync; where none waits, this returns at once.
        std::thread::yield_now();
        let mut done: Option<WriteSeq> = None;
        let mut forget = None;
        let mut last = 0;
        let mut job = Some(first);
        while let Some(next) = job {
            match next {
                JournalJob::Write { cell, seq, record, last: l } => {
                    let from = buffer.len();
                    record.encode(&mut buffer);
                    records.push((cell.0, from..buffer.len()));
                    done = Some(seq);
                    last = last.max(l);
                }
                JournalJob::Forget { upto } => forget = Some(upto),
            }
            // What is taken must fit one segment, and not delay the first too long.
            let bytes = buffer.len() + 64 * records.len();
            job = if bytes < BATCH_BYTES_MAX { jobs.try_recv().ok() } else { None };
        }
        if let Some(seq) = done {
            let begun = Instant::now();
            metrics.journal_writing.begin();
            let encoded = records.iter().map(|(cell, part)| (*cell, &buffer[part.clone()]));
            let segment = journal.append(encoded)?;
            metrics.journal_writing.end();
            metrics.journal_sync.observe_us(begun.elapsed().as_micros() as u64);
            metrics.journal_bytes.add((buffer.len() + 64 * records.len()) as u64);
            records.clear();
            buffer.clear();
            buffer.shrink_to(BUFFER_KEPT);
            retention.wrote(segment, last);
            mailbox.push(ToCore::Persisted(seq));
            spares.keep_one(&mut journal);
        }
        if let Some(upto) = forget {
            let keep = retention.forget(upto, journal.segment());
            journal.drop_before(keep)?;
        }
    }
    Ok(())
}

/// Makes the next segment while the present one is written to, on a thread of
/// its own: zeroing and syncing it would hold up a batch for long.
pub(crate) struct SpareMaker {
    dir: PathBuf,
    segment_bytes: u64,
    making: Option<Receiver<Option<String>>>,
}

impl SpareMaker {
    pub fn new(dir: PathBuf, segment_bytes: u64) -> SpareMaker {
        SpareMaker { dir, segment_bytes, making: None }
    }

    fn keep_one(&mut self, journal: &mut Journal<FileDisk>) {
        if let Some(made) = &self.making {
            match made.try_recv() {
                Ok(Some(name)) => journal.add_spare(name),
                // A full disk, say: the journal will meet it itself, and name it.
                Ok(None) | Err(TryRecvError::Disconnected) => {}
                Err(TryRecvError::Empty) => return,
            }
            self.making = None;
        }
        let Some(name) = journal.wants_spare() else { return };
        let (tx, rx) = channel();
        let (dir, bytes) = (self.dir.clone(), self.segment_bytes);
        let thread = std::thread::Builder::new().name("spare".into());
        let started = thread.spawn(move || {
            let made = FileDisk::open(&dir).and_then(|mut disk| {
                let making = format!("{name}.making");
                disk.create(&making, bytes)?;
                disk.rename(&making, &name)
            });
            let _ = tx.send(made.ok().map(|()| name));
        });
        self.making = started.ok().map(|_| rx);
    }
}

const BATCH_BYTES_MAX: usize = 4 << 20;

/// Memory for encoded records that is kept between batches.
const BUFFER_KEPT: usize = 256 << 10;
