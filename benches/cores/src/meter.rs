//! What is measured, and of what.

use crate::journal::Journal;
use crate::pump::Failure;
use rustix::time::{ClockId, clock_gettime};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One cell of the sweep.
pub struct Work {
    /// Bytes of a command.
    pub payload: usize,
    /// Commands offered and not yet applied by the leader.
    pub in_flight: usize,
    /// Where the journals go; `None`: memory.
    pub dir: Option<PathBuf>,
    /// How long it is measured, after a fifth of that to warm up.
    pub time: Duration,
}

impl Work {
    /// The journal of a replica.
    pub fn journal(&self, id: u64) -> std::io::Result<Journal> {
        match &self.dir {
            Some(dir) => Journal::file(&dir.join(id.to_string())),
            None => Ok(Journal::memory()),
        }
    }
}

/// Command number `n`: the number as far as there is room, then a filling.
pub fn command(n: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; size];
    let head = size.min(8);
    bytes[..head].copy_from_slice(&n.to_le_bytes()[..head]);
    bytes
}

/// The state machine: how many commands, and a hash over all of them in order.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct State {
    /// Commands applied.
    pub count: u64,
    hash: u64,
}

impl State {
    /// Applies a command. A longer one is added up in four sums at once, or its
    /// hash would cost more than agreeing on it.
    pub fn apply(&mut self, command: &[u8]) {
        self.count += 1;
        let mut hash = self.hash.rotate_left(23) ^ command.len() as u64;
        let rows = command.chunks_exact(32);
        let rest = rows.remainder();
        if command.len() >= 32 {
            let mut sums = [hash, 1, 2, 3];
            for row in rows {
                for (sum, word) in sums.iter_mut().zip(row.chunks_exact(8)) {
                    *sum = mix(*sum, u64::from_le_bytes(word.try_into().unwrap_or_default()));
                }
            }
            hash = sums.into_iter().fold(0, mix);
        }
        let words = rest.chunks_exact(8);
        for &byte in words.remainder() {
            hash = mix(hash, u64::from(byte));
        }
        for word in words {
            hash = mix(hash, u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        self.hash = hash;
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(MIX)
}

/// An odd number without pattern (2^64 over the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The results of one run.
pub struct Sample {
    /// Commands that the leader applied, a second.
    pub per_second: f64,
    /// CPU time of the process (all three replicas and the pump), ns a command.
    pub cpu_ns: f64,
    /// Calls of the allocator for new memory, a command.
    pub allocations: f64,
    /// Messages between replicas, a command.
    pub messages: f64,
    /// Time from offered to applied, µs.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
}

struct Counters {
    at: Instant,
    cpu: Duration,
    allocations: u64,
    messages: u64,
}

impl Counters {
    fn now(at: Instant, messages: u64) -> Counters {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32);
        Counters { at, cpu, allocations: ALLOCATIONS.load(Relaxed), messages }
    }
}

/// Keeps the window full and the time.
pub struct Meter {
    in_flight: usize,
    warm: Instant,
    end: Instant,
    waiting: VecDeque<(Instant, u64)>,
    outstanding: usize,
    began: Option<Counters>,
    ended: Option<Counters>,
    last: Instant,
    latencies: Vec<u32>,
}

impl Meter {
    /// Begins.
    pub fn new(work: &Work) -> Meter {
        let now = Instant::now();
        Meter {
            in_flight: work.in_flight,
            warm: now + work.time / 5,
            end: now + work.time / 5 + work.time,
            waiting: VecDeque::new(),
            outstanding: 0,
            began: None,
            ended: None,
            last: now,
            latencies: Vec::with_capacity(1 << 22),
        }
    }

    /// Whether there is time left; an error if nothing moves any more.
    pub fn goes_on(&mut self, now: Instant, messages: u64) -> Result<bool, Failure> {
        if now.duration_since(self.last) > Duration::from_secs(10) {
            return Err("nothing was applied for ten seconds".into());
        }
        if self.began.is_none() && now >= self.warm {
            self.began = Some(Counters::now(now, messages));
        }
        if now >= self.end && !self.latencies.is_empty() {
            self.ended = Some(Counters::now(now, messages));
        }
        Ok(self.ended.is_none())
    }

    /// How many commands may be offered.
    pub fn room(&self) -> usize {
        self.in_flight - self.outstanding
    }

    /// `n` commands are offered now.
    pub fn offered(&mut self, n: usize) {
        self.outstanding += n;
        self.waiting.push_back((Instant::now(), n as u64));
    }

    /// The leader has applied the oldest `n` of them.
    pub fn applied(&mut self, mut n: u64) {
        if n == 0 {
            return;
        }
        self.last = Instant::now();
        self.outstanding -= n as usize;
        while let Some((since, left)) = self.waiting.front_mut().filter(|_| n > 0) {
            let taken = n.min(*left);
            if self.began.is_some() {
                let ns = self.last.duration_since(*since).as_nanos() as u32;
                self.latencies.extend(std::iter::repeat_n(ns, taken as usize));
            }
            (n, *left) = (n - taken, *left - taken);
            if *left == 0 {
                self.waiting.pop_front();
            }
        }
    }

    /// What was seen.
    pub fn sample(mut self) -> Sample {
        let (Some(a), Some(b)) = (&self.began, &self.ended) else {
            unreachable!("a sample before the end of the run");
        };
        let count = self.latencies.len() as f64;
        self.latencies.sort_unstable();
        let quantile = |q: f64| f64::from(self.latencies[(q * (count - 1.0)) as usize]) / 1e3;
        Sample {
            per_second: count / b.at.duration_since(a.at).as_secs_f64(),
            cpu_ns: (b.cpu - a.cpu).as_nanos() as f64 / count,
            allocations: (b.allocations - a.allocations) as f64 / count,
            messages: (b.messages - a.messages) as f64 / count,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
        }
    }
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// mimalloc, counted. The count is exact while one thread runs, which is all
/// that the pump has; a load and a store cost less than a locked addition.
pub struct Counting;

// SAFETY: every call goes to mimalloc as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.store(ALLOCATIONS.load(Relaxed) + 1, Relaxed);
        // SAFETY: the caller's promise is mimalloc's condition.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.store(ALLOCATIONS.load(Relaxed) + 1, Relaxed);
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.realloc(at, layout, size) }
    }
}
