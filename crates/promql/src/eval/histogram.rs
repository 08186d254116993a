//! `histogram_quantile` over series with an upper bound in the label `le`.

use super::{ABSENT, Column, is_stale};
use crate::labels::{Labels, NAME};
use std::collections::BTreeMap;

/// Relative difference of neighbouring buckets that is taken for an error of rounding.
const SMALL_DELTA: f64 = 1e-12;

/// For each histogram (series that are alike but for `le`) the quantile at each step.
pub(super) fn quantiles(q: &[f64], columns: Vec<Column>) -> Vec<Column> {
    let mut order: Vec<Labels> = Vec::new();
    let mut groups: BTreeMap<Labels, Vec<(f64, Vec<f64>)>> = BTreeMap::new();
    for column in columns {
        let Ok(bound) = bound(column.labels.get("le")) else { continue };
        let labels = column.labels.without(&["le".into(), NAME.into()]);
        let group = groups.entry(labels.clone()).or_insert_with(|| {
            order.push(labels);
            Vec::new()
        });
        group.push((bound, column.values));
    }
    let one = |labels: Labels| {
        let buckets = groups.remove(&labels).unwrap_or_default();
        let at = |step: usize| {
            let there = buckets.iter().map(|(bound, values)| (*bound, values[step]));
            let there: Vec<(f64, f64)> = there.filter(|(_, count)| !is_stale(*count)).collect();
            if there.is_empty() { ABSENT } else { quantile(q[step], there) }
        };
        let values = (0..q.len()).map(at).collect();
        Column { labels, values }
    };
    order.into_iter().map(one).filter(|c| !c.is_empty()).collect()
}

fn bound(text: &str) -> Result<f64, std::num::ParseFloatError> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        other => other.parse(),
    }
}

/// Of (upper bound, cumulative count) pairs.
fn quantile(q: f64, mut buckets: Vec<(f64, f64)>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    monotone(&mut buckets);
    let Some(&(last, total)) = buckets.last() else { return f64::NAN };
    if last != f64::INFINITY || buckets.len() < 2 || total == 0.0 || total.is_nan() {
        return f64::NAN;
    }
    let rank = q * total;
    let at = buckets.partition_point(|(_, count)| *count < rank).min(buckets.len() - 1);
    if at == buckets.len() - 1 {
        return buckets[at - 1].0;
    }
    let (upper, count) = buckets[at];
    if at == 0 {
        return if upper <= 0.0 { upper } else { upper * (rank / count) };
    }
    let (lower, below) = buckets[at - 1];
    lower + (upper - lower) * ((rank - below) / (count - below))
}

/// Scrapes that saw the buckets at different moments, and rounding, make counts that
/// fall; a cumulative count cannot.
fn monotone(buckets: &mut [(f64, f64)]) {
    let mut before = match buckets.first() {
        Some(first) => first.1,
        None => return,
    };
    for bucket in &mut buckets[1..] {
        let count = bucket.1;
        let near =
            (count - before).abs() <= SMALL_DELTA * (count.abs() + before.abs()).min(f64::MAX);
        if near || count < before {
            bucket.1 = before;
        } else {
            before = count;
        }
    }
}
