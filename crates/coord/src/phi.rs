//! A failure detector that adapts (phi accrual: Hayashibara, Défago, Yared and
//! Katayama, SRDS'04): how sure one can be that heartbeats have stopped, from how
//! they came before.
//!
//! The intervals of the latest heartbeats are taken for normally distributed. With
//! P the probability that the next one comes even later than now, phi = -log10 P:
//! at phi 8 a heartbeat that is merely late would be mistaken once in 10^8 times, if
//! intervals were as assumed. They are not quite; hence the parameters.

use std::collections::VecDeque;

/// The parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PhiOptions {
    /// Intervals that are remembered.
    pub window: usize,
    /// From which phi on the sender is suspected.
    pub threshold: f64,
    /// The standard deviation is not taken for less, ms: clocks and schedulers are
    /// not as regular as a sender in a quiet hour seems to be.
    pub min_deviation_ms: f64,
    /// A silence that is longer than usual by so much is no sign yet, ms: pauses of
    /// the sender (a collection of garbage) or of the way there.
    pub acceptable_pause_ms: f64,
    /// What the intervals are taken for before any was seen, ms.
    pub first_interval_ms: f64,
}

impl Default for PhiOptions {
    fn default() -> PhiOptions {
        PhiOptions {
            window: 100,
            threshold: 8.0,
            min_deviation_ms: 50.0,
            acceptable_pause_ms: 200.0,
            first_interval_ms: 1_000.0,
        }
    }
}

/// Phi at the moment when a heartbeat is due with its pause, rounded up: half come later.
const PHI_WHEN_DUE: f64 = 0.302;
/// Fewer intervals than this say little of how regular a sender is.
const FEW: usize = 10;
/// After so many suspicious silences in a row the sender has another rhythm, and what
/// was learnt of the old one is forgotten.
const ANOTHER_RHYTHM: u32 = 3;

/// Estimates one sender. Times are milliseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct PhiDetector {
    options: PhiOptions,
    intervals: VecDeque<u64>,
    sum: u64,
    squares: u128,
    last_ms: Option<u64>,
    /// Suspicious silences in a row.
    suspicions: u32,
}

impl PhiDetector {
    /// Nothing was heard yet.
    pub fn new(options: PhiOptions) -> PhiDetector {
        let intervals = VecDeque::new();
        PhiDetector { options, intervals, sum: 0, squares: 0, last_ms: None, suspicions: 0 }
    }

    /// A heartbeat came. The silence before one that came when the sender was
    /// suspected already was none of its intervals, and is not learnt from.
    pub fn heard(&mut self, now_ms: u64) {
        self.suspicions = if self.is_suspect(now_ms) { self.suspicions + 1 } else { 0 };
        if self.suspicions == ANOTHER_RHYTHM {
            self.intervals.clear();
            (self.sum, self.squares, self.suspicions) = (0, 0, 0);
        }
        let learns = self.suspicions == 0;
        if let Some(last) = self.last_ms.replace(now_ms).filter(|_| learns) {
            let interval = now_ms.saturating_sub(last);
            self.intervals.push_back(interval);
            self.sum += interval;
            self.squares += u128::from(interval).pow(2);
        }
        while self.intervals.len() > self.options.window.max(1) {
            let Some(old) = self.intervals.pop_front() else { break };
            self.sum -= old;
            self.squares -= u128::from(old).pow(2);
        }
    }

    /// The listener stood still for so long until now: its silence is none of the
    /// sender's.
    pub fn stood_still(&mut self, for_ms: u64, now_ms: u64) {
        if let Some(last) = &mut self.last_ms {
            *last = last.saturating_add(for_ms).min(now_ms.max(*last));
        }
    }

    /// The usual time between heartbeats, ms.
    pub fn usual_ms(&self) -> u64 {
        self.distribution().0.round() as u64
    }

    /// Mean and standard deviation of the intervals, ms; before there are any, the mean
    /// is as the options say. While there are few the deviation is a quarter at least.
    fn distribution(&self) -> (f64, f64) {
        let least = self.options.min_deviation_ms.max(1e-3);
        let count = self.intervals.len() as f64;
        let mean = match self.intervals.is_empty() {
            true => self.options.first_interval_ms,
            false => self.sum as f64 / count,
        };
        if self.intervals.len() < FEW.min(self.options.window) {
            let seen = (self.squares as f64 / count.max(1.0) - mean * mean).max(0.0).sqrt();
            return (mean, seen.max(mean / 4.0).max(least));
        }
        let variance = (self.squares as f64 / count - mean * mean).max(0.0);
        (mean, variance.sqrt().max(least))
    }

    /// How sure it is that no heartbeat will come; 0 before the first.
    pub fn phi(&self, now_ms: u64) -> f64 {
        self.lateness(now_ms).map_or(0.0, minus_log10_of_tail)
    }

    /// By how many deviations the next heartbeat is later than is acceptable.
    fn lateness(&self, now_ms: u64) -> Option<f64> {
        let (mean, deviation) = self.distribution();
        let silence = now_ms.saturating_sub(self.last_ms?) as f64;
        Some((silence - mean - self.options.acceptable_pause_ms) / deviation)
    }

    /// Whether the sender is suspected to have failed.
    pub fn is_suspect(&self, now_ms: u64) -> bool {
        let threshold = self.options.threshold;
        // Most of the time nobody is late, which is told without the sum.
        let surely_not = |y: f64| y <= 0.0 && threshold > PHI_WHEN_DUE;
        !self.lateness(now_ms).is_none_or(surely_not) && self.phi(now_ms) >= threshold
    }

    /// From when on the sender is suspected if nothing is heard until then.
    pub fn suspect_at_ms(&self) -> Option<u64> {
        let last = self.last_ms?;
        // Phi grows with time: halve the range in which it passes the threshold.
        let (mut low, mut high) = (last, last.saturating_add(1));
        while !self.is_suspect(high) && high < last.saturating_add(1 << 40) {
            high = last.saturating_add((high - last) * 2);
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.is_suspect(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }
}

/// -log10 of the probability that a normal variable is more than `y` deviations
/// above its mean.
fn minus_log10_of_tail(y: f64) -> f64 {
    if y < 5.0 {
        return -tail(y).log10();
    }
    // Too small to be written as a number soon: the asymptotic expansion.
    let correction = 1.0 - 1.0 / (y * y) + 3.0 / y.powi(4) - 15.0 / y.powi(6);
    let density = y * y / 2.0 + (2.0 * std::f64::consts::PI).ln() / 2.0;
    (density + y.ln() - correction.ln()) / std::f64::consts::LN_10
}

/// The same probability for `y` below 5, by Simpson's rule over the density.
fn tail(y: f64) -> f64 {
    if y <= -8.0 {
        return 1.0;
    }
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    const STEPS: u32 = 200;
    let width = (10.0 - y) / f64::from(STEPS);
    let weight = |i: u32| match i {
        0 | STEPS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=STEPS).map(|i| weight(i) * density(y + f64::from(i) * width)).sum();
    (sum * width / 3.0).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regular(every: u64, count: u64, options: PhiOptions) -> PhiDetector {
        let mut phi = PhiDetector::new(options);
        (0..count).for_each(|i| phi.heard(i * every));
        phi
    }

    #[test]
    fn the_tail_of_the_normal_distribution() {
        for (y, p) in [(-3.0, 0.998_650), (0.0, 0.5), (1.0, 0.158_655), (3.0, 1.349_898e-3)] {
            assert!((tail(y) / p - 1.0).abs() < 1e-4, "{y}: {}", tail(y));
        }
        // Known values, on both sides of the seam.
        for (y, p) in [(4.0, 3.167_124e-5_f64), (5.0, 2.866_516e-7), (6.0, 9.865_876e-10)] {
            let log = minus_log10_of_tail(y);
            assert!((log + p.log10()).abs() < 2e-3, "{y}: {log}");
        }
        let seam = minus_log10_of_tail(5.0) - minus_log10_of_tail(4.999_999);
        assert!(seam.abs() < 1e-3, "{seam}");
    }

    #[test]
    fn phi_grows_with_the_silence_and_adapts_to_the_rhythm() {
        let options = PhiOptions::default();
        assert_eq!(PhiDetector::new(options).phi(1_000_000), 0.0, "nobody has spoken yet");
        for every in [100, 1_000] {
            let phi = regular(every, 50, options);
            let last = 49 * every;
            let mut before = -1.0;
            for silence in (0..20 * every).step_by(10) {
                let now = phi.phi(last + silence);
                assert!(now >= before, "{every} {silence}: {now} after {before}");
                before = now;
            }
            let at = phi.suspect_at_ms().expect("it was heard") - last;
            // The interval, the pause that is acceptable, and 5.6 deviations.
            let expected = every + 200 + 281;
            assert!(at.abs_diff(expected) <= 2, "{every}: {at}, not {expected}");
            assert!(!phi.is_suspect(last + at - 1) && phi.is_suspect(last + at));
        }
    }

    #[test]
    fn an_irregular_sender_is_given_more_time() {
        let options = PhiOptions::default();
        let mut phi = PhiDetector::new(options);
        let mut now = 0;
        for i in 0..100 {
            now += if i % 2 == 0 { 20 } else { 380 };
            phi.heard(now);
        }
        let at = phi.suspect_at_ms().expect("it was heard") - now;
        let steady = regular(200, 100, options).suspect_at_ms().expect("it was heard") - 99 * 200;
        assert!(at > steady + 500, "{at} {steady}");
    }

    /// Somebody who renews by hand, every twenty seconds or so: one interval is no rhythm.
    #[test]
    fn few_intervals_are_not_taken_for_a_steady_rhythm() {
        let options = PhiOptions { first_interval_ms: 30_000.0, ..PhiOptions::default() };
        let mut phi = PhiDetector::new(options);
        let mut now = 0;
        for interval in [20_000, 23_000, 18_000, 24_000, 19_000, 25_000, 22_000] {
            now += interval;
            assert!(!phi.is_suspect(now), "after {interval}");
            phi.heard(now);
        }
        assert!(phi.is_suspect(now + 60_000));
    }

    #[test]
    fn a_silence_that_was_suspicious_does_not_blunt_the_detector() {
        let mut phi = regular(100, 100, PhiOptions::default());
        let before = phi.suspect_at_ms().expect("it was heard") - 9_900;
        phi.heard(60_000);
        phi.heard(60_100);
        let after = phi.suspect_at_ms().expect("it was heard") - 60_100;
        assert!(after.abs_diff(before) <= 1, "{before} {after}");
    }

    #[test]
    fn another_rhythm_is_learnt() {
        let mut phi = regular(100, 100, PhiOptions::default());
        (1..=20).for_each(|i| phi.heard(9_900 + i * 5_000));
        assert!(!phi.is_suspect(9_900 + 21 * 5_000));
    }

    #[test]
    fn only_the_latest_intervals_count() {
        let mut phi = regular(1_000, 100, PhiOptions { window: 10, ..PhiOptions::default() });
        let begun = 99_000;
        (1..=10).for_each(|i| phi.heard(begun + i * 100));
        let at = phi.suspect_at_ms().expect("it was heard") - (begun + 1_000);
        assert!(at.abs_diff(100 + 200 + 281) <= 2, "{at}");
    }
}
