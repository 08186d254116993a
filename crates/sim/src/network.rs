//! The network: which links carry what, and how long it takes. Links keep their
//! order unless a storm says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use synod_base::Rng;

/// Links by (from, to) machine numbers; times in µs.
#[derive(Default)]
pub struct Network {
    cut: BTreeSet<(usize, usize)>,
    slow: BTreeMap<(usize, usize), u64>,
    storm: Option<(u64, u64, u64)>,
    /// When the last message of a link arrives: later ones do not overtake it.
    last: BTreeMap<(usize, usize), u64>,
    /// When the connection was closed: what was sent before does not arrive any more.
    closed: BTreeMap<(usize, usize), u64>,
}

impl Network {
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
    }

    /// Cuts all links but those that `keeps`; the others are mended.
    pub fn keep_only(&mut self, machines: usize, keeps: impl Fn(usize, usize) -> bool) {
        let pairs = (0..machines).flat_map(|a| (0..machines).map(move |b| (a, b)));
        self.cut = pairs.filter(|(a, b)| a != b && !keeps(*a, *b)).collect();
    }

    /// A connection closes, with all that is on its way; the next one begins.
    pub fn close(&mut self, now: u64, a: usize, b: usize) {
        for link in [(a, b), (b, a)] {
            self.closed.insert(link, now);
            self.last.remove(&link);
        }
    }

    /// Whether what was sent then was lost with its connection.
    pub fn was_closed(&self, from: usize, to: usize, sent: u64) -> bool {
        self.closed.get(&(from, to)).is_some_and(|at| sent <= *at)
    }

    pub fn slow(&mut self, from: usize, to: usize, delay: u64) {
        self.slow.insert((from, to), delay);
    }

    pub fn quicken(&mut self, from: usize, to: usize) {
        self.slow.remove(&(from, to));
    }

    pub fn storm(&mut self, storm: Option<(u64, u64, u64)>) {
        self.storm = storm;
    }

    pub fn heal(&mut self) {
        let (last, closed) = (std::mem::take(&mut self.last), std::mem::take(&mut self.closed));
        *self = Network { last, closed, ..Network::default() };
    }

    pub fn carries(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// When copies of a message sent now arrive.
    pub fn send(&mut self, now: u64, from: usize, to: usize, rng: &mut Rng) -> [Option<u64>; 2] {
        if !self.carries(from, to) {
            return [None, None];
        }
        let slow = self.slow.get(&(from, to)).copied().unwrap_or(0);
        let mut at = now + 80 + rng.below(120) + slow;
        if let Some((loss, twice, late)) = self.storm {
            if rng.one_in(loss) {
                return [None, None];
            }
            at += rng.below(late) * rng.below(2);
            let again = rng.one_in(twice).then(|| at + rng.below(late));
            return [Some(at), again];
        }
        let last = self.last.entry((from, to)).or_default();
        at = at.max(*last);
        *last = at;
        [Some(at), None]
    }
}
