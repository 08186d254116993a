//! `synod journal`: look at a node's journal without touching it.

use crate::Outcome;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use synod_consensus::RecordView;
use synod_wal::{JournalError, MARK_FILE, Mark, Tail, scan_segment};

/// Arguments of `synod journal`.
#[derive(Args)]
pub struct JournalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print every record
    Dump {
        /// The node's data directory
        data_dir: PathBuf,
    },
    /// Check every checksum, and tell what is wrong and where
    Verify {
        /// The node's data directory
        data_dir: PathBuf,
    },
}

/// `synod journal`.
pub fn run(args: &JournalArgs) -> Outcome {
    match &args.what {
        What::Dump { data_dir } => walk(data_dir, true),
        What::Verify { data_dir } => walk(data_dir, false),
    }
}

fn walk(data_dir: &Path, dump: bool) -> Outcome {
    let dir = data_dir.join("journal");
    let entries = std::fs::read_dir(&dir).map_err(|e| {
        format!("cannot read {}: {e}; is it a node's data directory?", dir.display())
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    let (mut batches, mut records, mut bad) = (0, 0, Vec::new());
    let number = |file: &PathBuf| u64::from_str_radix(file.file_stem()?.to_str()?, 16).ok();
    let mark = read_mark(&dir).unwrap_or_else(|what| {
        bad.push(what);
        None
    });
    let segments: Vec<u64> = files.iter().filter_map(number).collect();
    bad.extend(mark.and_then(|mark| mark.check(&segments).err()).map(|e| in_short(&e)));
    for (i, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let scan =
            scan_segment(&bytes).map_err(|unknown| format!("{} is {unknown}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let last = i + 1 == files.len();
        let acknowledged = mark.zip(number(file)).is_some_and(|(mark, n)| mark.has_reached(n));
        if scan.owner.is_none() && (!last || acknowledged) {
            bad.push(format!("{name}: the header cannot be read"));
        }
        if let Some((version, writer)) = scan.format().filter(|_| dump) {
            let writer = if writer.is_empty() { "?" } else { &writer };
            println!("{name} format version {version}, begun by synod {writer}");
        }
        for batch in &scan.batches {
            batches += 1;
            records += batch.records.len();
            if dump {
                println!("{name} byte {} batch {}", batch.offset, batch.number);
                batch.records.iter().for_each(print);
            }
        }
        match scan.tail {
            Tail::Clean => {}
            Tail::Torn { offset } if last => println!(
                "{name}: a torn write at byte {offset}; it was never acknowledged and is cut at the next start"
            ),
            Tail::Torn { offset } => {
                bad.push(format!("{name}: a batch is missing at byte {offset}"))
            }
            Tail::Damaged { offset, what } => bad.push(format!("{name}: byte {offset}: {what}")),
        }
    }
    if !dump {
        println!("{} segments, {batches} batches, {records} records", files.len());
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the journal is damaged:\n  {}\nIf the cluster has a quorum without this node, start it with \
         --rebuild to fetch everything from its peers; else restore from a snapshot",
        bad.join("\n  ")
    ))
}

/// What the mark beside the segments says of them; a journal of an earlier version has none.
fn read_mark(dir: &Path) -> Result<Option<Mark>, String> {
    match std::fs::read(dir.join(MARK_FILE)) {
        Ok(bytes) => Mark::decode(&bytes, 0).map(Some).map_err(|e| in_short(&e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{MARK_FILE}: {e}")),
    }
}

/// Without the remedy, which is said once.
fn in_short(error: &JournalError) -> String {
    match error {
        JournalError::Damaged { file, what, .. } => format!("{file}: {what}"),
        other => other.to_string(),
    }
}

fn print(record: &synod_wal::Record) {
    match RecordView::decode(record.bytes.clone()) {
        Ok(view) => println!("  cell {} {view}", record.cell.0),
        Err(e) => println!("  cell {} {} bytes: {e}", record.cell.0, record.bytes.len()),
    }
}
