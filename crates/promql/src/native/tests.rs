use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Histogram {
    read_histogram(text).expect(text).0
}

#[test]
fn bounds_are_powers() {
    assert_eq!([-1, 0, 1, 5].map(|i| bound(i, 0)), [0.5, 1.0, 2.0, 32.0]);
    assert_eq!([-2, 1, 2].map(|i| bound(i, 1)), [0.5, 2f64.sqrt(), 2.0]);
    assert_eq!([0, 1, 2].map(|i| bound(i, -2)), [1.0, 16.0, 256.0]);
    // The last bucket has all numbers that there are.
    assert_eq!((bound(1_024, 0), bound(1_025, 0)), (f64::MAX, f64::INFINITY));
    assert_eq!((bound(64, -4), bound(4_096, 2)), (f64::MAX, f64::MAX));
    assert!(bound(4_095, 2) < f64::MAX && bound(4_095, 2) > 1e308);
    assert!(bound(-4_290, 2) > 0.0 && bound(i32::MIN, 8) == 0.0 && bound(i32::MAX, -4) > 1e308);
}

#[test]
fn it_is_shown_with_its_bounds() {
    let h = read(
        "{{schema:0 count:12 sum:18.4 z_bucket:2 z_bucket_w:0.001 buckets:[2 0 1] \
         n_buckets:[3 4] n_offset:1}}",
    );
    assert_eq!(
        h.to_string(),
        "{count:12, sum:18.4, [-4,-2):4, [-2,-1):3, [-0.001,0.001]:2, (0.5,1]:2, (2,4]:1}"
    );
    let custom = read("{{schema:-53 count:6 sum:5 custom_values:[1 2.5] buckets:[1 2 3]}}");
    assert_eq!(custom.to_string(), "{count:6, sum:5, [-Inf,1]:1, (1,2.5]:2, (2.5,+Inf]:3}");
    for bad in ["{{", "{{a:1}}", "{{sum:x}}", "{{buckets:[1}}", "{{schema:9}}", "{{sum}}"] {
        assert!(read_histogram(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_from_outside_is_checked() {
    let good = read("{{schema:0 count:5 sum:18 z_bucket:1 buckets:[2 0 1] n_buckets:[1]}}");
    assert_eq!(good.check(), Ok(()));
    let refused = |change: fn(&mut Histogram), why: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let told = bad.check().expect_err(why).to_string();
        assert!(told.contains(why), "{told} / {why}");
    };
    refused(|h| h.schema = 9, "schema");
    refused(|h| h.count = 4.0, "observations");
    refused(|h| h.count = 6.0, "observations");
    refused(|h| h.positive[0].1 = -2.0, "fewer than no");
    refused(|h| h.positive.swap(0, 1), "order");
    refused(|h| h.bounds.push(1.0), "bounds");
    refused(|h| h.zero_threshold = f64::NAN, "zero bucket");
    refused(|h| h.positive = (0..20_000).map(|i| (i, 0.0)).collect(), "limit is 10000");
    let custom = read("{{schema:-53 count:6 sum:5 custom_values:[1 2] buckets:[1 2 3]}}");
    assert_eq!(custom.check(), Ok(()));
    for bad in [
        "{{schema:-53 count:6 sum:5 custom_values:[2 1] buckets:[1 2 3]}}",
        "{{schema:-53 count:6 sum:5 custom_values:[1] buckets:[1 2 3]}}",
        "{{schema:-53 count:6 sum:5 custom_values:[1 2] buckets:[1 2 3] offset:-1}}",
        "{{schema:-53 count:6 sum:5 custom_values:[1 2] buckets:[1 2 2] z_bucket:1}}",
    ] {
        assert!(read(bad).check().is_err(), "{bad}");
    }
}

#[test]
fn spans_name_the_indices_of_buckets() {
    let buckets = [(-3, 1.0), (-2, 1.0), (1, 2.0), (2, 2.0), (9, 1.0)];
    let spans = Histogram::spans(&buckets);
    let plain: Vec<(i32, u32)> = spans.iter().map(|s| (s.offset, s.length)).collect();
    assert_eq!(plain, [(-3, 2), (2, 2), (6, 1)]);
    assert_eq!(Histogram::indices(spans), Ok(buckets.map(|(i, _)| i).to_vec()));
    let span = |offset, length| Span { offset, length };
    for bad in [
        vec![span(0, 2), span(-1, 1)],
        vec![span(i32::MAX, 2)],
        vec![span(0, u32::MAX)],
        vec![span(i32::MAX - 1, 1), span(3, 1)],
    ] {
        assert!(Histogram::indices(bad).is_err());
    }
}

#[test]
fn sums_are_as_coarse_as_the_coarser_part() {
    let mut a = read("{{schema:1 count:10 sum:1 buckets:[1 2 3 4] offset:-1}}");
    let b = read("{{schema:0 count:3 sum:2 buckets:[1 2]}}");
    a.add(&b).expect("alike");
    // Of schema 1, buckets -1 and 0 lie in 0 of schema 0; 1 and 2 in 1.
    assert_eq!((a.schema, a.count, a.sum), (0, 13.0, 3.0));
    assert_eq!(a.positive, [(0, 4.0), (1, 9.0)]);
    // A wider zero bucket takes whole buckets only.
    let mut c = read("{{schema:0 count:6 sum:1 z_bucket:1 z_bucket_w:0.001 buckets:[2 3]}}");
    let d = read("{{schema:0 count:1 sum:1 z_bucket:1 z_bucket_w:0.6}}");
    c.add(&d).expect("alike");
    assert_eq!((c.zero_threshold, c.zero_count), (1.0, 4.0));
    assert_eq!(c.positive, [(1, 3.0)]);
    let custom = read("{{schema:-53 count:6 sum:5 custom_values:[1 2 5] buckets:[1 2 2 1]}}");
    assert_eq!(c.add(&custom), Err(Unlike));
    let mut other = read("{{schema:-53 count:3 sum:5 custom_values:[2 5 7] buckets:[1 1 1]}}");
    assert!(other.add(&custom).expect("alike").fewer_bounds);
    assert_eq!(
        (other.bounds, other.positive),
        (vec![2.0, 5.0], vec![(0, 4.0), (1, 3.0), (2, 2.0)])
    );
}

#[test]
fn a_reset_is_what_no_counter_does() {
    let before = read("{{schema:1 count:10 sum:1 z_bucket_w:0.01 z_bucket:2 buckets:[3 5]}}");
    let reset = |text: &str| read(text).is_reset_since(&before);
    assert!(!reset("{{schema:1 count:11 sum:1 z_bucket_w:0.01 z_bucket:2 buckets:[3 6]}}"));
    assert!(!reset("{{schema:0 count:11 sum:1 z_bucket_w:0.01 z_bucket:2 buckets:[3 6]}}"));
    // Fewer in a bucket, though more in all; a bucket gone; finer; narrower.
    assert!(reset("{{schema:1 count:11 sum:1 z_bucket_w:0.01 z_bucket:2 buckets:[2 7]}}"));
    assert!(reset("{{schema:1 count:11 sum:1 z_bucket_w:0.01 z_bucket:8 buckets:[3]}}"));
    assert!(reset("{{schema:2 count:20 sum:1 z_bucket_w:0.01 z_bucket:2 buckets:[9 9]}}"));
    assert!(reset("{{schema:1 count:20 sum:1 z_bucket_w:0.001 z_bucket:2 buckets:[9 9]}}"));
    assert!(reset("{{schema:1 count:20 sum:1 z_bucket_w:0.01 z_bucket:1 buckets:[9 10]}}"));
    // A wider zero bucket is none, if no bucket is divided by it.
    assert!(!reset("{{schema:1 count:11 sum:1 z_bucket_w:1 z_bucket:5 buckets:[0 6]}}"));
    assert!(reset("{{schema:1 count:11 sum:1 z_bucket_w:0.9 z_bucket:5 buckets:[0 6]}}"));
    let told = "{{schema:1 count:99 sum:1 z_bucket_w:0.01 z_bucket:9 buckets:[45 45]";
    assert!(!reset(&format!("{told}}}}}")));
    assert!(reset(&format!("{told} counter_reset_hint:reset}}}}")));
}

#[test]
fn quantiles_lie_within_the_bucket_of_their_rank() {
    let h = read("{{schema:0 count:8 sum:20 buckets:[2 4 2]}}");
    // Half of the bucket (1, 2], evenly on the logarithm.
    assert_eq!(h.quantile(0.5), 2f64.sqrt());
    assert_eq!([0.25, 0.75, 1.0].map(|q| h.quantile(q)), [1.0, 2.0, 4.0]);
    assert!(h.quantile(-0.1) == f64::NEG_INFINITY && h.quantile(1.1) == f64::INFINITY);
    assert!(Histogram::default().quantile(0.5).is_nan());
    assert_eq!(h.fraction(1.0, 2.0), 0.5);
    assert!((h.fraction(f64::NEG_INFINITY, 2f64.sqrt()) - 0.5).abs() < 1e-12);
    let zero = read("{{schema:0 count:4 sum:1 z_bucket:2 z_bucket_w:0.5 buckets:[0 2]}}");
    assert_eq!(zero.quantile(0.25), 0.25);
    let custom = read("{{schema:-53 count:4 sum:9 custom_values:[2 4] buckets:[2 1 1]}}");
    assert_eq!([0.25, 0.625, 1.0].map(|q| custom.quantile(q)), [1.0, 3.0, 4.0]);
    assert_eq!(custom.fraction(0.0, 3.0), 0.625);
    let negative = read("{{schema:0 count:4 sum:-9 n_buckets:[2 2]}}");
    assert!((negative.quantile(0.25) + 2f64.sqrt()).abs() < 1e-12);
    assert!((negative.fraction(-2.0, 0.0) - 1.0).abs() < 1e-12);
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    let buckets = prop::collection::btree_map(-20i32..20, 0u32..1_000, 0..12);
    (SCHEMAS, 0u32..50, 0usize..4, buckets.clone(), buckets).prop_map(
        |(schema, zero, width, positive, negative)| {
            let counts = |b: std::collections::BTreeMap<i32, u32>| -> Vec<(i32, f64)> {
                b.into_iter().map(|(i, count)| (i, f64::from(count))).collect()
            };
            let (positive, negative) = (counts(positive), counts(negative));
            let total: f64 = positive.iter().chain(&negative).map(|b| b.1).sum();
            Histogram {
                schema,
                zero_threshold: [0.0, 1e-3, 0.7, 3.0][width],
                zero_count: f64::from(zero),
                count: total + f64::from(zero),
                sum: 1.5,
                positive,
                negative,
                ..Histogram::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_added_can_be_taken_away(a in any_histogram(), b in any_histogram()) {
        let mut sum = a.clone();
        sum.add(&b).expect("alike");
        let total: f64 = sum.buckets().map(|bucket| bucket.count).sum();
        prop_assert_eq!(total, a.count + b.count);
        prop_assert!(!sum.is_reset_since(&a), "{} since {}", sum, a);
        let mut other = b.clone();
        other.add(&a).expect("alike");
        prop_assert!(other.same(&sum), "{} and {}", other, sum);
        sum.subtract(&b).expect("alike");
        let left: f64 = sum.positive.iter().chain(&sum.negative).map(|bucket| bucket.1).sum();
        prop_assert_eq!(left + sum.zero_count, a.count);
    }

    #[test]
    fn quantiles_and_fractions_undo_each_other(h in any_histogram(), q in 0.01f64..0.99) {
        let value = h.quantile(q);
        if value.is_finite() && h.zero_count == 0.0 {
            let back = h.fraction(f64::NEG_INFINITY, value);
            prop_assert!((back - q).abs() < 1e-6, "{} is {}, of which {}", q, value, back);
        }
    }
}
