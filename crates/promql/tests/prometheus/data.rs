//! The samples that both sides get: made up, but the same at each run.

use std::fmt::Write;
use synod_promql::{Labels, Matcher, NAME, Sample, Series, Source, all_take};

/// The first sample's time, ms. Samples come every [`EVERY`] from here on.
pub const BASE: i64 = 1_600_000_000_000;
/// Between two samples, ms.
pub const EVERY: i64 = 15_000;
/// Samples of a series without gaps: one hour.
const COUNT: i64 = 240;

/// Whether a series has a sample at a turn.
type Present = fn(i64) -> bool;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f64 {
        self.below(2_000_001) as f64 / 1e6 - 1.0
    }
}

/// All series, in memory.
pub struct Data {
    series: Vec<Series>,
    random: Random,
}

impl Source for Data {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let inside = |s: &&Sample| (from..=to).contains(&s.at);
        let cut = |s: &Series| {
            let samples = s.samples.iter().filter(inside).copied().collect();
            Series::new(s.labels.clone(), samples)
        };
        let found = self.series.iter().filter(|s| all_take(matchers, &s.labels)).map(cut);
        Ok(found.filter(|s| !s.samples.is_empty()).collect())
    }
}

impl Data {
    /// The whole data set.
    pub fn new() -> Data {
        let mut data = Data { series: Vec::new(), random: Random(5) };
        data.counters();
        data.gauges();
        data.odd_values();
        data.interrupted();
        data.histograms();
        data.for_matching();
        data.for_labels();
        data
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// As OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for series in &self.series {
            let labels = series.labels.iter().filter(|(n, _)| *n != NAME);
            let labels: Vec<String> =
                labels.map(|(n, v)| format!("{n}={}", synod_promql::quoted(v))).collect();
            for s in &series.samples {
                let value = match s.value {
                    v if v.is_nan() => "NaN".to_owned(),
                    f64::INFINITY => "+Inf".to_owned(),
                    f64::NEG_INFINITY => "-Inf".to_owned(),
                    v => format!("{v:?}"),
                };
                let (name, labels) = (series.labels.get(NAME), labels.join(","));
                let (seconds, ms) = (s.at / 1_000, s.at % 1_000);
                writeln!(text, "{name}{{{labels}}} {value} {seconds}.{ms:03}").expect("a string");
            }
        }
        text + "# EOF\n"
    }

    /// A series of a value for each turn that has one. Its samples lie at odd
    /// milliseconds, other ones in each series, so that none is on a window's edge.
    fn add(
        &mut self,
        labels: &[(&str, &str)],
        mut value: impl FnMut(&mut Random, i64) -> Option<f64>,
    ) {
        let shift = 337 + 7 * (self.series.len() as i64 % 90);
        let mut samples = Vec::new();
        for turn in 0..COUNT {
            if let Some(value) = value(&mut self.random, turn) {
                samples.push(Sample { at: BASE + turn * EVERY + shift, value });
            }
        }
        self.series.push(Series::new(Labels::new(labels.iter().copied()), samples));
    }

    fn counters(&mut self) {
        for (j, job) in ["api", "web"].into_iter().enumerate() {
            for (i, instance) in ["a:1", "b:1", "b:2"].into_iter().enumerate() {
                for (c, code) in ["200", "404", "500"].into_iter().enumerate() {
                    let mut count = (1_000 * j + 100 * i + 10 * c) as f64;
                    let labels = [
                        (NAME, "requests_total"),
                        ("job", job),
                        ("instance", instance),
                        ("code", code),
                    ];
                    self.add(&labels, |random, _| {
                        let reset = random.below(50) == 0;
                        count = if reset { random.below(5) as f64 } else { count };
                        count += random.below(20) as f64 / (c + 1) as f64;
                        Some(count)
                    });
                }
            }
        }
    }

    fn gauges(&mut self) {
        for (z, zone) in ["a", "b", "c"].into_iter().enumerate() {
            for (h, host) in ["h1", "h2", "h3"].into_iter().enumerate() {
                let mut heat = 20.0 * z as f64 - 15.0 + 3.3 * h as f64;
                let labels = [(NAME, "heat"), ("zone", zone), ("host", host)];
                self.add(&labels, |random, _| {
                    heat += random.signed() * 2.0;
                    Some(heat)
                });
                // Not every host has a limit.
                if z + h != 3 {
                    let limit = 12.5 * z as f64 + h as f64 + 0.25;
                    self.add(&[(NAME, "heat_limit"), ("zone", zone), ("host", host)], |_, _| {
                        Some(limit)
                    });
                }
            }
        }
        for n in ["1", "2", "3", "4", "5", "6"] {
            let labels = [(NAME, "small"), ("n", n), ("odd", if n < "4" { "yes" } else { "no" })];
            self.add(&labels, |random, _| Some(random.below(4) as f64 - 1.0));
        }
        let times = [-86_400.0 * 400.5, 0.0, 951_782_399.0, 951_868_800.0, 1_709_251_199.0, 4.1e9];
        for (i, time) in times.into_iter().enumerate() {
            let labels = [(NAME, "moment"), ("i", &*i.to_string())];
            self.add(&labels, |_, turn| Some(time + 86_413.0 * turn as f64));
        }
        for (i, value) in [1e-9, 0.1, 0.5, 0.999, 1.0, 1.5, 30.0].into_iter().enumerate() {
            for (sign, factor) in [("plus", 1.0), ("minus", -1.0)] {
                let labels = [(NAME, "number"), ("i", &*i.to_string()), ("sign", sign)];
                self.add(&labels, |_, turn| Some(factor * value * (1.0 + turn as f64 / 1e5)));
            }
        }
    }

    fn odd_values(&mut self) {
        let odd = [
            ("nan", f64::NAN),
            ("inf", f64::INFINITY),
            ("neginf", f64::NEG_INFINITY),
            ("zero", 0.0),
            ("huge", 1e300),
        ];
        for (kind, value) in odd {
            self.add(&[(NAME, "odd"), ("kind", kind), ("mix", "always")], |_, _| Some(value));
            self.add(&[(NAME, "odd"), ("kind", kind), ("mix", "at_times")], |random, _| {
                Some(if random.below(9) == 0 { value } else { 5.0 + random.signed() })
            });
        }
    }

    /// Gaps beyond the lookback, ends and beginnings. Counters among them are far from
    /// zero and not reset: see the differences in `main.rs`.
    fn interrupted(&mut self) {
        let kinds: [(&str, Present); 5] = [
            ("gap", |turn| !(90..140).contains(&turn)),
            ("short_gap", |turn| !(100..112).contains(&turn)),
            ("ends", |turn| turn < 100),
            ("begins", |turn| turn > 150),
            ("sparse", |turn| turn % 13 == 0),
        ];
        for (kind, present) in kinds {
            let mut count = 1e6;
            self.add(&[(NAME, "broken_total"), ("kind", kind)], |random, turn| {
                count += random.below(30) as f64;
                present(turn).then_some(count)
            });
            self.add(&[(NAME, "broken"), ("kind", kind)], |random, turn| {
                present(turn).then(|| random.signed() * 40.0)
            });
        }
        // One label set, two names, never at once.
        self.add(&[(NAME, "early"), ("x", "1")], |_, t| (t < 100).then_some(t as f64));
        self.add(&[(NAME, "late"), ("x", "1")], |_, t| (t > 160).then_some(t as f64));
    }

    fn histograms(&mut self) {
        for job in ["api", "web"] {
            let bounds = ["0.05", "0.1", "0.25", "1", "2.5", "+Inf"];
            let mut counts = [3e3, 6e3, 9e3, 12e3, 15e3, 18e3];
            let mut table = vec![[0.0; 6]; COUNT as usize];
            for row in &mut table {
                for _ in 0..20 {
                    let place = self.random.below(6).min(self.random.below(6)) as usize;
                    counts[place..].iter_mut().for_each(|c| *c += 1.0);
                }
                *row = counts;
            }
            for (i, le) in bounds.into_iter().enumerate() {
                let labels = [(NAME, "latency_bucket"), ("job", job), ("le", le)];
                self.add(&labels, |_, turn| Some(table[turn as usize][i]));
            }
            self.add(&[(NAME, "latency_count"), ("job", job)], |_, t| Some(table[t as usize][5]));
            self.add(&[(NAME, "latency_sum"), ("job", job)], |_, t| Some(7.7 * (t + 1) as f64));
        }
        // Falling, without the last bucket, below zero, one alone, empty, no number.
        for (kind, buckets) in [
            ("falls", &[("1", 10.0), ("2", 8.0), ("3", 20.0), ("+Inf", 19.0)][..]),
            ("open", &[("1", 10.0), ("2", 12.0)]),
            ("negative", &[("-2", 3.0), ("-1", 4.0), ("+Inf", 9.0)]),
            ("alone", &[("+Inf", 9.0)]),
            ("empty", &[("1", 0.0), ("+Inf", 0.0)]),
            ("text", &[("1", 4.0), ("much", 5.0), ("+Inf", 8.0)]),
            ("twice", &[("1", 4.0), ("1.0", 5.0), ("2", 12.0), ("+Inf", 18.0)]),
        ] {
            for &(le, count) in buckets {
                let labels = [(NAME, "odd_bucket"), ("kind", kind), ("le", le)];
                self.add(&labels, |_, _| Some(count));
            }
        }
    }

    fn for_matching(&mut self) {
        for (host, rack, os) in [("h1", "r1", "linux"), ("h2", "r1", "bsd"), ("h3", "r2", "linux")]
        {
            let labels = [(NAME, "host_info"), ("host", host), ("rack", rack), ("os", os)];
            self.add(&labels, |_, _| Some(1.0));
        }
        for (zone, region) in [("a", "north"), ("b", "north"), ("d", "south")] {
            let labels = [(NAME, "zone_info"), ("zone", zone), ("region", region)];
            self.add(&labels, |_, _| Some(2.0));
        }
        for job in ["api", "web"] {
            self.add(&[(NAME, "job_weight"), ("job", job)], |_, _| Some(job.len() as f64 * 1.5));
            for code in ["200", "500"] {
                let labels = [(NAME, "share"), ("job", job), ("code", code)];
                self.add(&labels, |random, _| Some(0.5 + random.signed() / 4.0));
            }
        }
    }

    fn for_labels(&mut self) {
        for (path, tag) in [("/a/b-1", "x"), ("/a/c-22", "y"), ("", "z"), ("q\"uo\\te", "ö ü")] {
            let labels = [(NAME, "page"), ("path", path), ("tag", tag)];
            self.add(&labels, |random, _| Some(random.below(100) as f64));
        }
    }
}
