//! Functions of a window's samples.

use super::Sample;

/// A sum that does not lose what is small beside what is large (Kahan; Neumaier's form).
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub(super) fn add(&mut self, value: f64) {
        let next = self.sum + value;
        if next.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.lost += (self.sum - next) + value;
        } else {
            self.lost += (value - next) + self.sum;
        }
        self.sum = next;
    }

    pub(super) fn get(self) -> f64 {
        self.sum + self.lost
    }

    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|v| sum.add(v));
        sum.get()
    }
}

fn values(window: &[Sample]) -> impl Iterator<Item = f64> {
    window.iter().map(|s| s.value)
}

/// The mean; by increments if the sum would be infinite.
pub(super) fn mean(values: &[f64]) -> f64 {
    let sum = Sum::of(values.iter().copied());
    if sum.is_finite() || values.iter().any(|v| !v.is_finite()) {
        return sum / values.len() as f64;
    }
    let mut mean = 0.0;
    for (i, v) in values.iter().enumerate() {
        mean += v / (i + 1) as f64 - mean / (i + 1) as f64;
    }
    mean
}

/// The population's variance (Welford).
pub(super) fn variance(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut n, mut mean, mut squares) = (0.0, Sum::default(), Sum::default());
    for v in values {
        n += 1.0;
        let delta = v - mean.get();
        mean.add(delta / n);
        squares.add(delta * (v - mean.get()));
    }
    squares.get() / n
}

/// The `q`-quantile by interpolation between the nearest ranks.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // NaN counts as smaller than all numbers.
    values.sort_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => a.total_cmp(b),
    });
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor();
    let upper = (lower as usize + 1).min(values.len() - 1);
    let weight = rank - lower;
    values[lower as usize] * (1.0 - weight) + values[upper] * weight
}

/// `rate`, `increase` (counters) and `delta`: what came to pass within the window,
/// extrapolated to its edges where the series seems to go on there.
pub(super) fn extrapolated(
    window: &[Sample],
    end: i64,
    range: i64,
    counter: bool,
    per_second: bool,
) -> Option<f64> {
    let (first, last) = (window.first()?, window.last()?);
    if window.len() < 2 {
        return None;
    }
    let mut result = last.value - first.value;
    if counter {
        for pair in window.windows(2) {
            if pair[1].value < pair[0].value {
                result += pair[0].value;
            }
        }
    }
    // A counter was never below zero.
    let zero = (counter && result > 0.0 && first.value >= 0.0).then(|| first.value / result);
    let span = Sampled { first: first.at, last: last.at, count: window.len() };
    Some(result * span.stretch(end, range, zero, per_second))
}

/// The samples of a window.
pub(super) struct Sampled {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) count: usize,
}

impl Sampled {
    /// By what a difference between first and last is multiplied for the whole window.
    /// `zero`: how long before the first it was zero, of the time between first and last.
    pub(super) fn stretch(&self, end: i64, range: i64, zero: Option<f64>, per_second: bool) -> f64 {
        let seconds = |ms: i64| ms as f64 / 1_000.0;
        let sampled = seconds(self.last - self.first);
        let spacing = sampled / (self.count - 1) as f64;
        let mut to_start = seconds(self.first - (end - range));
        let mut to_end = seconds(end - self.last);
        let threshold = spacing * 1.1;
        if to_start >= threshold {
            to_start = spacing / 2.0;
        }
        if let Some(zero) = zero {
            to_start = to_start.min(sampled * zero);
        }
        if to_end >= threshold {
            to_end = spacing / 2.0;
        }
        let factor = (sampled + to_start + to_end) / sampled;
        if per_second { factor / seconds(range) } else { factor }
    }
}

/// `irate` and `idelta`: of the last two samples.
pub(super) fn instantaneous(window: &[Sample], rate: bool) -> Option<f64> {
    let [.., before, last] = window else { return None };
    let passed = last.at - before.at;
    if passed == 0 {
        return None;
    }
    let value =
        if rate && last.value < before.value { last.value } else { last.value - before.value };
    Some(if rate { value / (passed as f64 / 1_000.0) } else { value })
}

/// Least squares: slope a second, and the value at `origin`.
pub(super) fn regression(window: &[Sample], origin: i64) -> Option<(f64, f64)> {
    if window.len() < 2 {
        return None;
    }
    let first = window[0].value;
    if values(window).all(|v| v == first) {
        return first.is_finite().then_some((0.0, first)).or(Some((f64::NAN, f64::NAN)));
    }
    let n = window.len() as f64;
    let x = |s: &Sample| (s.at - origin) as f64 / 1_000.0;
    let sum_x = Sum::of(window.iter().map(x));
    let sum_y = Sum::of(values(window));
    let sum_xy = Sum::of(window.iter().map(|s| x(s) * s.value));
    let sum_xx = Sum::of(window.iter().map(|s| x(s) * x(s)));
    let covariance = sum_xy - sum_x * sum_y / n;
    let spread = sum_xx - sum_x * sum_x / n;
    let slope = covariance / spread;
    Some((slope, sum_y / n - slope * sum_x / n))
}

/// Holt's linear method: smoothing factor and trend factor, both within 0 and 1.
pub(super) fn smoothed(window: &[Sample], factor: f64, trend_factor: f64) -> Option<f64> {
    let [first, second, ..] = window else { return None };
    let (mut before, mut level) = (0.0, first.value);
    let mut trend = second.value - first.value;
    for (i, sample) in window.iter().enumerate().skip(1) {
        let scaled = factor * sample.value;
        if i > 1 {
            trend = trend_factor * (level - before) + (1.0 - trend_factor) * trend;
        }
        (before, level) = (level, scaled + (1.0 - factor) * (level + trend));
    }
    Some(level)
}

/// The functions that take nothing but the window.
pub(super) fn plain(name: &str, window: &[Sample]) -> Option<f64> {
    let all = || values(window).collect::<Vec<f64>>();
    let last = window.last()?;
    let pairs = |differs: fn(f64, f64) -> bool| {
        window.windows(2).filter(|p| differs(p[0].value, p[1].value)).count() as f64
    };
    // A NaN gives way to any number.
    let best = |better: fn(f64, f64) -> bool| {
        let mut best = window[0];
        for s in window {
            if better(s.value, best.value) || best.value.is_nan() {
                best = *s;
            }
        }
        best
    };
    let time = |s: Sample| s.at as f64 / 1_000.0;
    Some(match name {
        "avg_over_time" => mean(&all()),
        "sum_over_time" => Sum::of(values(window)),
        "count_over_time" => window.len() as f64,
        "min_over_time" => best(|a, b| a < b).value,
        "max_over_time" => best(|a, b| a > b).value,
        "ts_of_min_over_time" => time(best(|a, b| a <= b)),
        "ts_of_max_over_time" => time(best(|a, b| a >= b)),
        "ts_of_first_over_time" => time(window[0]),
        "ts_of_last_over_time" => time(*last),
        "stddev_over_time" => variance(values(window)).sqrt(),
        "stdvar_over_time" => variance(values(window)),
        "last_over_time" => last.value,
        "first_over_time" => window[0].value,
        "present_over_time" => 1.0,
        "changes" => pairs(|a, b| a != b && !(a.is_nan() && b.is_nan())),
        "resets" => pairs(|a, b| b < a),
        "mad_over_time" => {
            let median = quantile(0.5, all());
            quantile(0.5, values(window).map(|v| (v - median).abs()).collect())
        }
        _ => return None,
    })
}
