//! `histogram_quantile` and `histogram_fraction` over series with an upper bound in the label `le`.

use super::{ABSENT, Column, is_stale};
use crate::labels::{Labels, NAME};
use std::collections::{BTreeMap, BTreeSet};

/// Relative difference of neighbouring buckets that is taken for an error of rounding.
const SMALL_DELTA: f64 = 1e-12;

/// For each histogram (series that are alike but for `le`) the quantile at each step; and
/// the names of those whose counts fell by more than rounding.
pub(super) fn quantiles(q: &[f64], columns: Vec<Column>) -> (Vec<Column>, BTreeSet<String>) {
    let mut fixed = BTreeSet::new();
    let found = each(q.len(), columns, &mut fixed, |step, buckets| quantile(q[step], buckets));
    (found, fixed)
}

/// For each histogram which part of its observations lies between two values.
pub(super) fn fractions(lower: &[f64], upper: &[f64], columns: Vec<Column>) -> Vec<Column> {
    let fixed = &mut BTreeSet::new();
    each(lower.len(), columns, fixed, |step, buckets| fraction(lower[step], upper[step], buckets))
}

/// Computes a value of each histogram's buckets at each step: (upper bound, cumulative
/// count) pairs in order of the bounds.
fn each(
    steps: usize,
    columns: Vec<Column>,
    fixed: &mut BTreeSet<String>,
    of: impl Fn(usize, Vec<(f64, f64)>) -> f64,
) -> Vec<Column> {
    let mut order: Vec<Labels> = Vec::new();
    let mut groups: BTreeMap<Labels, Vec<(f64, Vec<f64>)>> = BTreeMap::new();
    for column in columns {
        let Ok(bound) = bound(column.labels.get("le")) else { continue };
        let labels = column.labels.without(&["le".into()]);
        let group = groups.entry(labels.clone()).or_insert_with(|| {
            order.push(labels);
            Vec::new()
        });
        group.push((bound, column.values));
    }
    let one = |labels: Labels| {
        let buckets = groups.remove(&labels).unwrap_or_default();
        let mut fell = false;
        let at = |step: usize| {
            let there = buckets.iter().map(|(bound, values)| (*bound, values[step]));
            let there: Vec<(f64, f64)> = there.filter(|(_, count)| !is_stale(*count)).collect();
            if there.is_empty() { ABSENT } else { of(step, cumulative(there, &mut fell)) }
        };
        let values = (0..steps).map(at).collect();
        if fell {
            fixed.insert(labels.get(NAME).to_owned());
        }
        Column::new(labels.nameless(), values)
    };
    order.into_iter().map(one).filter(|c| !c.is_empty()).collect()
}

/// In order of the bounds, none twice, with counts that never fall.
fn cumulative(mut buckets: Vec<(f64, f64)>, fell: &mut bool) -> Vec<(f64, f64)> {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    *fell |= monotone(&mut buckets);
    buckets
}

pub(super) fn bound(text: &str) -> Result<f64, std::num::ParseFloatError> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        other => other.parse(),
    }
}

/// The number of observations, if there are some and a last bucket for all the rest.
fn total(buckets: &[(f64, f64)]) -> Option<f64> {
    let &(last, total) = buckets.last()?;
    (last == f64::INFINITY && total != 0.0).then_some(total)
}

fn fraction(lower: f64, upper: f64, buckets: Vec<(f64, f64)>) -> f64 {
    let Some(total) = total(&buckets) else { return f64::NAN };
    if lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank(upper, &buckets, total) - rank(lower, &buckets, total)) / total
}

/// How many observations are at most `value`, by interpolation.
fn rank(value: f64, buckets: &[(f64, f64)], total: f64) -> f64 {
    let mut below = (if buckets[0].0 > 0.0 { 0.0 } else { f64::NEG_INFINITY }, 0.0);
    if value <= below.0 {
        return 0.0;
    }
    for &(bound, count) in buckets {
        if value < bound && below.0 == f64::NEG_INFINITY {
            return count;
        }
        if value < bound {
            return below.1 + (count - below.1) * (value - below.0) / (bound - below.0);
        }
        below = (bound, count);
    }
    total
}

fn quantile(q: f64, buckets: Vec<(f64, f64)>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let Some(total) = total(&buckets).filter(|_| buckets.len() > 1) else { return f64::NAN };
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
/// fall; a cumulative count cannot. Says whether one fell by more than rounding.
fn monotone(buckets: &mut [(f64, f64)]) -> bool {
    let mut before = match buckets.first() {
        Some(first) => first.1,
        None => return false,
    };
    let mut fell = false;
    for bucket in &mut buckets[1..] {
        let count = bucket.1;
        let near =
            (count - before).abs() <= SMALL_DELTA * (count.abs() + before.abs()).min(f64::MAX);
        if near || count < before {
            fell |= !near;
            bucket.1 = before;
        } else {
            before = count;
        }
    }
    fell
}
