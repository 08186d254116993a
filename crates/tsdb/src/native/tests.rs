use super::*;
use crate::limits::Limits;
use crate::log::{Gather, SeriesLog};
use proptest::prelude::*;
use synod_promql::{CUSTOM, Labels, Series, read_histogram};
use synod_wal::{MemDisk, Options};

fn histogram(text: &str) -> Arc<Histogram> {
    Arc::new(read_histogram(text).expect(text).0)
}

/// How a counter's histogram goes on: how much later, and what is added.
fn steps() -> impl Strategy<Value = Vec<(i64, Histogram)>> {
    let buckets = || prop::collection::btree_map(-300i32..300, 1u32..1_000, 0..6);
    let one = (1i64..1 << 20, 0usize..30, buckets(), buckets(), 0u32..9, prop::num::f64::NORMAL);
    let made = one.prop_map(|(step, special, positive, negative, zero, sum)| {
        // Now and then counts that are not whole, another layout, a reset, a gauge.
        let factor = if special == 1 { 0.3 } else { 1.0 };
        let counts = |b: std::collections::BTreeMap<i32, u32>| -> Vec<(i32, f64)> {
            b.into_iter().map(|(i, count)| (i, f64::from(count) * factor)).collect()
        };
        let mut h = Histogram {
            schema: if special == 2 { 4 } else { 3 },
            zero_threshold: [0.0, 0.001, 2f64.powi(-128)][special % 3],
            zero_count: f64::from(zero) * factor,
            sum,
            positive: counts(positive),
            negative: counts(negative),
            hint: if special == 4 { ResetHint::Gauge } else { ResetHint::Unknown },
            ..Histogram::default()
        };
        if special == 3 {
            let count = |b: &(i32, f64)| (b.0.rem_euclid(4), b.1);
            let mut all: Vec<(i32, f64)> = h.positive.iter().map(count).collect();
            all.sort_by_key(|b| b.0);
            all.dedup_by_key(|b| b.0);
            let bounds = vec![-0.25, 1.0 / 3.0, 40_000.0];
            h = Histogram { schema: CUSTOM, positive: all, bounds, sum, ..Histogram::default() };
        }
        h.count = h.positive.iter().chain(&h.negative).map(|b| b.1).sum::<f64>() + h.zero_count;
        (step, h)
    });
    prop::collection::vec(made, 1..40)
}

/// Each that is like the one before grows from it.
fn grown(start: i64, steps: Vec<(i64, Histogram)>) -> Vec<HistogramSample> {
    let mut all: Vec<HistogramSample> = Vec::new();
    let mut at = start;
    for (step, mut h) in steps {
        at += step;
        if let Some(before) = all.last().map(|s| &s.value)
            && before.schema == h.schema
            && before.zero_threshold == h.zero_threshold
            && h.hint == before.hint
        {
            for (to, from) in
                [(&mut h.positive, &before.positive), (&mut h.negative, &before.negative)]
            {
                for (index, count) in from {
                    match to.binary_search_by_key(index, |b| b.0) {
                        Ok(place) => to[place].1 += count,
                        Err(place) => to.insert(place, (*index, *count)),
                    }
                }
            }
            h.zero_count += before.zero_count;
            h.count += before.count;
        }
        all.push(HistogramSample { at, value: Arc::new(h) });
    }
    all
}

fn decoded(chunks: &[(u8, Sealed)]) -> Vec<HistogramSample> {
    let (mut found, mut ends) = (Vec::new(), Vec::new());
    for (kind, chunk) in chunks {
        let known = read(&[(*kind, &chunk.data)], (i64::MIN, i64::MAX), &mut found, &mut ends);
        assert_eq!(known, Ok(true));
    }
    assert!(ends.is_empty());
    found
}

fn same(found: &[HistogramSample], wanted: &[HistogramSample]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), wanted.len());
    for (a, b) in found.iter().zip(wanted) {
        prop_assert_eq!(a.at, b.at);
        prop_assert!(a.value.same(&b.value), "{} is not {}", a.value, b.value);
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_goes_into_chunks_comes_out(start in -1i64 << 40..1i64 << 40, steps in steps()) {
        let all = grown(start, steps);
        let chunks = packed(&all);
        same(&decoded(&chunks), &all)?;
        // Ascending, and resets only where a chunk begins.
        prop_assert!(chunks.is_sorted_by(|a, b| a.1.last < b.1.first));
        let found = decoded(&chunks);
        for pair in found.windows(2) {
            let unknown = Histogram { hint: ResetHint::Unknown, ..Histogram::clone(&pair[1].value) };
            if pair[1].value.hint == ResetHint::NoReset {
                prop_assert!(!unknown.is_reset_since(&pair[0].value));
            }
        }
    }

    #[test]
    fn the_log_has_them_as_they_are(steps in steps()) {
        for sample in grown(0, steps) {
            let mut out = Vec::new();
            put(&mut out, &sample.value);
            let read = get(&mut Reader::new(out.into())).expect("whole");
            prop_assert!(read.same(&sample.value) && read.hint == sample.value.hint);
        }
    }

    #[test]
    fn damaged_bytes_are_told_or_read_but_never_panic(
        steps in steps(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let (mut found, mut ends) = (Vec::new(), Vec::new());
        let mut reads = |kind: u8, data: &[u8]| {
            let _ = read(&[(kind, data)], (i64::MIN, i64::MAX), &mut found, &mut ends);
        };
        for (kind, chunk) in packed(&grown(0, steps)) {
            let mut data = chunk.data.to_vec();
            for (place, byte) in &damage {
                let place = place.index(data.len());
                data[place] = *byte;
            }
            reads(kind, &data);
            reads(5 - kind, &data);
            let most = data.len();
            reads(kind, &data[..damage[0].0.index(most)]);
        }
        reads(WHOLE, &noise);
        reads(FLOAT, &noise);
        let _ = get(&mut Reader::new(noise.into()));
    }
}

fn labels(name: &str) -> Labels {
    Labels::new([("__name__", name)])
}

fn head() -> Head {
    Head::new(Limits { block_range: 100_000, ..Limits::default() })
}

/// What there is of all series: times and texts, numbers among them.
fn held(head: &Head) -> Vec<String> {
    let of = |s: Series| {
        let mut all: Vec<(i64, String)> =
            s.samples.iter().map(|s| (s.at, s.value.to_string())).collect();
        all.extend(s.histograms.iter().map(|h| (h.at, h.value.to_string())));
        all.sort();
        format!("{} {all:?}", s.labels)
    };
    let mut all: Vec<String> =
        head.select(&[], i64::MIN, i64::MAX).expect("whole").into_iter().map(of).collect();
    all.sort();
    all
}

#[test]
fn a_series_takes_both_kinds_in_order() {
    let mut head = head();
    let id = head.series(&labels("m")).expect("room");
    let one = histogram("{{count:1 sum:2 buckets:[1]}}");
    let two = histogram("{{count:2 sum:4 buckets:[1 1]}}");
    let number = |at| Sample { at, value: 7.0 };
    assert_eq!(head.append(id, number(1_000)), Ok(Taken::InOrder));
    assert_eq!(head.append_histogram(id, 2_000, &one), Ok(Taken::InOrder));
    assert_eq!(head.append_histogram(id, 2_000, &one), Ok(Taken::Again));
    assert_eq!(head.append_histogram(id, 2_000, &two), Err(Refused::Duplicate));
    assert_eq!(head.append_histogram(id, 1_500, &two), Err(Refused::LateHistogram));
    assert_eq!(head.append(id, number(1_500)), Err(Refused::OutOfOrder));
    assert_eq!(head.append(id, number(3_000)), Ok(Taken::InOrder));
    assert_eq!(head.append_histogram(id, 2_500, &two), Err(Refused::LateHistogram));
    assert_eq!(head.append_histogram(id, 4_000, &two), Ok(Taken::InOrder));
    let found = held(&head);
    assert_eq!(
        found,
        ["m [(1000, \"7\"), (2000, \"{count:1, sum:2, (0.5,1]:1}\"), (3000, \"7\"), \
          (4000, \"{count:2, sum:4, (0.5,1]:1, (1,2]:1}\")]"]
    );
    assert_eq!(head.stats().chunks, 4);
    assert_eq!(head.trim(0..1, 3_500, false), 0);
    assert_eq!(head.stats().chunks, 1);
    assert_eq!(head.trim(0..1, 4_500, false), 1);
    assert_eq!((head.stats().chunks, head.stats().chunk_bytes), (0, 0));
}

#[test]
fn the_log_brings_them_back() {
    let options = || Options { segment_bytes: 1 << 20, spares_max: 1 };
    let mut first = head();
    let (mut log, _) = SeriesLog::open(MemDisk::default(), options(), &mut first).expect("open");
    let (mut gather, id) = (Gather::default(), first.series(&labels("m")).expect("room"));
    for round in 1..30 {
        let at = round * 1_000;
        if round % 3 == 0 {
            // A number of the same series.
            first.append(id, Sample { at, value: 0.5 }).expect("in order");
            gather.add(&first, at, &[(id, 0.5)]);
            log.write(&gather.take(), 0).expect("written");
            continue;
        }
        let one = histogram(&format!("{{{{count:{round} sum:2 buckets:[{round}]}}}}"));
        first.append_histogram(id, at, &one).expect("in order");
        gather.add_histograms(&first, at, &[(id, one)]);
        log.write(&gather.take(), 0).expect("written");
    }
    let mut again = head();
    let (_, recovered) = SeriesLog::open(log.into_disk(), options(), &mut again).expect("open");
    assert_eq!((recovered.samples, recovered.skipped), (29, 0));
    assert_eq!(held(&again), held(&first));
}
