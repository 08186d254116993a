use super::*;

fn matcher(name: &str, op: &str, value: &str) -> Matcher {
    Matcher::new(name, op, value).expect("a matcher")
}

fn head() -> Head {
    let mut head = Head::new(Limits { retention: 1_000, ..Limits::default() });
    for (i, job) in ["a", "b", "c"].iter().enumerate() {
        let labels = Labels::new([("__name__", "up"), ("job", job)]);
        let id = head.series(&labels).expect("room");
        for at in 0..500 {
            head.append(id, Sample { at: at * 10, value: i as f64 }).expect("in order");
        }
    }
    head
}

fn sample(at: i64, value: f64) -> Sample {
    Sample { at, value }
}

#[test]
fn series_are_found_by_their_labels() {
    let head = head();
    let found = |matchers: &[Matcher]| {
        let found = head.select(matchers, 100, 200).expect("whole");
        found.iter().map(|s| s.labels.get("job").to_owned()).collect::<Vec<_>>()
    };
    let name = matcher("__name__", "=", "up");
    assert_eq!(found(std::slice::from_ref(&name)), ["a", "b", "c"]);
    assert_eq!(found(&[matcher("job", "=~", "a|c")]), ["a", "c"]);
    assert_eq!(found(&[name.clone(), matcher("job", "!=", "b")]), ["a", "c"]);
    assert_eq!(found(&[name.clone(), matcher("job", "!=", "")]), ["a", "b", "c"]);
    assert_eq!(found(&[name, matcher("none", "=", "")]), ["a", "b", "c"]);
    assert!(found(&[matcher("job", "=", "d")]).is_empty());
    let samples = &head.select(&[matcher("job", "=", "b")], 100, 200).expect("whole")[0].samples;
    assert_eq!((samples.len(), samples[0].at, samples[10].at), (11, 100, 200));
}

#[test]
fn what_is_out_of_order_or_too_much_is_refused() {
    let mut head = Head::new(Limits { series: 1, labels: 2, ..Limits::default() });
    let id = head.series(&Labels::new([("a", "b")])).expect("room");
    assert_eq!(head.append(id, sample(10, 1.0)), Ok(Taken::InOrder));
    assert_eq!(head.append(id, sample(10, 1.0)), Ok(Taken::Again));
    assert_eq!(head.append(id, sample(10, 2.0)), Err(Refused::Duplicate));
    assert_eq!(head.append(id, sample(9, 1.0)), Err(Refused::OutOfOrder));
    assert_eq!(head.series(&Labels::new([("a", "c")])), Err(Refused::TooManySeries(1)));
    let mut head = Head::new(Limits { labels: 1, ..Limits::default() });
    let two = Labels::new([("a", "b"), ("c", "d")]);
    assert_eq!(head.series(&two), Err(Refused::TooManyLabels(1)));
}

#[test]
fn what_is_old_goes() {
    let mut head = head();
    let first = head.series(&Labels::new([("__name__", "up"), ("job", "a")])).expect("there");
    let before = head.stats();
    let late = head.series(&Labels::new([("job", "late")])).expect("room");
    head.append(late, sample(6_000, 1.0)).expect("in order");
    assert_eq!(head.drop_old(), 3);
    assert!(head.stats().chunk_bytes < before.chunk_bytes);
    assert_eq!(head.label_values("job"), ["late"]);
    assert_eq!(head.append(first, sample(9_999, 1.0)), Err(Refused::Gone));
    // Its place is taken by others, which it must not be mistaken for.
    let next = head.series(&Labels::new([("job", "next")])).expect("room");
    assert_eq!(head.append(next, sample(9_999, 2.0)), Ok(Taken::InOrder));
    assert_eq!(head.append(first, sample(10_000, 1.0)), Err(Refused::Gone));
    assert_eq!(head.labels(next), Some(Labels::new([("job", "next")])));
    assert_eq!(head.labels(first), None);
    let found = head.select(&[matcher("job", "=", "next")], 0, 20_000).expect("whole");
    assert_eq!(found[0].samples, [sample(9_999, 2.0)]);
}

#[test]
fn late_samples_are_taken_within_the_window_and_seen_in_their_place() {
    let mut head = Head::new(Limits { out_of_order: 1_000, ..Limits::default() });
    let id = head.series(&Labels::new([("a", "b")])).expect("room");
    for at in [1_000, 2_000, 3_000] {
        assert_eq!(head.append(id, sample(at, 0.0)), Ok(Taken::InOrder));
    }
    // More than a chunk of late ones is made of.
    for at in (2_001..2_999).rev() {
        assert_eq!(head.append(id, sample(at, 1.0)), Ok(Taken::Late));
    }
    assert_eq!(head.append(id, sample(2_001, 1.0)), Ok(Taken::Again));
    assert_eq!(head.append(id, sample(2_001, 7.0)), Err(Refused::Duplicate));
    assert_eq!(head.append(id, sample(1_999, 1.0)), Err(Refused::TooOld));
    let found = head.select(&[matcher("a", "=", "b")], 1_500, 3_000).expect("whole");
    let times: Vec<i64> = found[0].samples.iter().map(|s| s.at).collect();
    assert_eq!(times, (2_000..2_999).chain([3_000]).collect::<Vec<_>>());
    let held = head.stats().chunk_bytes;
    assert!((998 * 16..999 * 16 + 200).contains(&held), "{held} bytes");
    // One that is in order at the same time counts for more.
    assert_eq!(head.append(id, sample(2_000, 9.0)), Ok(Taken::Late));
    let found = head.select(&[matcher("a", "=", "b")], 2_000, 2_000).expect("whole");
    assert_eq!(found[0].samples, [sample(2_000, 0.0)]);
    // A series may begin late.
    let other = head.series(&Labels::new([("a", "c")])).expect("room");
    assert_eq!(head.append(other, sample(2_500, 1.0)), Ok(Taken::InOrder));
    head.trim(0..head.slots(), 3_000, false);
    assert!(head.stats().chunk_bytes < 200, "{:?}", head.stats());
}

#[test]
fn without_a_window_the_old_is_refused() {
    let hour = 3_600_000;
    let mut head = Head::new(Limits::default());
    let id = |head: &mut Head, n: &str| head.series(&Labels::new([("n", n)])).expect("room");
    let (a, b) = (id(&mut head, "a"), id(&mut head, "b"));
    assert_eq!(head.append(a, sample(10 * hour, 1.0)), Ok(Taken::InOrder));
    assert_eq!(head.append(b, sample(7 * hour - 1, 1.0)), Err(Refused::OutOfBounds));
    assert_eq!(head.append(b, sample(7 * hour, 1.0)), Ok(Taken::InOrder));
    head.raise_floor(8 * hour);
    assert_eq!(head.append(b, sample(8 * hour - 1, 1.0)), Err(Refused::OutOfBounds));
    assert_eq!(head.append(b, sample(8 * hour, 1.0)), Ok(Taken::InOrder));
}

#[test]
fn memory_that_no_block_frees_is_bounded() {
    let mut head = Head::new(Limits { head_bytes: 10_000, ..Limits::default() });
    let id = head.series(&Labels::new([("a", "b")])).expect("room");
    let refused = (0..)
        .find(|n| head.append(id, sample(*n, (*n as f64).sqrt())) == Err(Refused::Full(10_000)));
    let refused = refused.expect("it ends");
    let held = head.stats().chunk_bytes;
    assert!((10_000..16_000).contains(&held), "{held} bytes");
    // Late ones count, too.
    head.set_limits(Limits { out_of_order: 1_000, ..head.limits() });
    assert_eq!(head.append(id, sample(refused - 9, 1.0)), Err(Refused::Full(10_000)));
    // Nothing of the old is lost, and there is room again when it is in a block.
    assert_eq!(head.select(&[], 0, i64::MAX).expect("whole")[0].samples.len() as i64, refused);
    head.trim(0..head.slots(), refused, true);
    let id = head.series(&Labels::new([("a", "b")])).expect("room");
    assert_eq!(head.append(id, sample(refused, 1.0)), Ok(Taken::InOrder));
}
