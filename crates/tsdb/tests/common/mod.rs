//! A head and its blocks, as a node has them.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use synod_promql::{Labels, Matcher, Sample};
use synod_tsdb::{Blocks, Fault, Files, Head, Limits, OutFile, RealFiles, Refused, Spill, Taken};

/// What a store should hold: the bits of values, by labels and times.
pub type Model = BTreeMap<Labels, BTreeMap<i64, u64>>;

pub struct Store {
    pub head: RwLock<Head>,
    pub blocks: Blocks,
    pub limits: Limits,
    pub spill: Mutex<Spill>,
    pub told: Arc<Mutex<Vec<String>>>,
}

impl Store {
    pub fn open(dir: &Path, limits: Limits, files: Arc<dyn Files>) -> Store {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = told.clone();
        let on_event = Box::new(move |event: synod_tsdb::BlockEvent| {
            hears.lock().expect("no panic").push(event.to_string());
        });
        let blocks = Blocks::open(dir, files, 7, on_event).expect("a folder");
        let mut head = Head::new(limits);
        head.raise_floor(blocks.end().unwrap_or(i64::MIN / 4));
        let spill = Spill::open(&dir.with_extension("head")).expect("a folder");
        Store { head: RwLock::new(head), blocks, limits, spill: Mutex::new(spill), told }
    }

    pub fn real(dir: &Path, limits: Limits) -> Store {
        Store::open(dir, limits, Arc::new(RealFiles))
    }

    pub fn append(&self, labels: &Labels, at: i64, value: f64) -> Result<Taken, Refused> {
        let mut head = self.head.write().expect("no panic");
        let id = head.series(labels)?;
        head.append(id, Sample { at, value })
    }

    /// Moves chunks out of memory; gives how many.
    pub fn spill(&self) -> usize {
        let mut spill = self.spill.lock().expect("no panic");
        spill.run(&self.head).expect("space")
    }

    /// Cuts blocks until none is due; gives how many were.
    pub fn cut(&self) -> Result<usize, Fault> {
        let mut count = 0;
        while let Some(until) = self.blocks.cut(&self.head, 1_000)? {
            self.spill.lock().expect("no panic").forget(until, self.limits.block_range);
            count += 1;
        }
        Ok(count)
    }

    pub fn compact(&self) -> Result<usize, Fault> {
        let mut count = 0;
        while self.blocks.compact(&self.limits, 2_000)? {
            count += 1;
        }
        Ok(count)
    }

    pub fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Model, String> {
        let found =
            synod_tsdb::stored(&self.head, Some(&self.blocks), matchers, from, to, usize::MAX)?;
        let mut model = Model::new();
        for series in found {
            let samples = series.samples.iter().map(|s| (s.at, s.value.to_bits()));
            assert!(series.samples.is_sorted_by(|a, b| a.at < b.at), "{}", series.labels);
            assert!(model.insert(series.labels, samples.collect()).is_none(), "a series twice");
        }
        Ok(model)
    }

    pub fn all(&self) -> Model {
        self.select(&[], i64::MIN, i64::MAX).expect("whole")
    }

    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().expect("no panic"))
    }
}

/// Those of a model that matchers take, within a time.
pub fn part(model: &Model, matchers: &[Matcher], from: i64, to: i64) -> Model {
    let taken = model.iter().filter(|(labels, _)| synod_promql::all_take(matchers, labels));
    let part = taken.map(|(l, s)| (l.clone(), s.range(from..=to).map(|(a, v)| (*a, *v)).collect()));
    part.filter(|(_, s): &(_, BTreeMap<i64, u64>)| !s.is_empty()).collect()
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.blocks.folder().with_extension("head"));
    }
}

/// A disk that is full after some bytes.
pub struct SmallDisk(pub Arc<AtomicI64>);

struct SmallFile(Box<dyn OutFile>, Arc<AtomicI64>);

impl Files for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OutFile>> {
        Ok(Box::new(SmallFile(RealFiles.create(path)?, self.0.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }
}

impl Write for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1.fetch_sub(bytes.len() as i64, Ordering::Relaxed) < bytes.len() as i64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl OutFile for SmallFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

/// A program of Prometheus's.
pub fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = root.join("target/peers/deb/prometheus/usr/bin").join(name);
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    program
}
