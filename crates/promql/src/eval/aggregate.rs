//! Many series to few.

use super::over_time::{Sum, mean, quantile, variance};
use super::{ABSENT, Column, Content, Eval, Query, Value, is_stale};
use crate::Error;
use crate::ast::{Aggregation, Grouping, Node};
use crate::labels::Labels;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The series of one group.
pub(super) struct Group {
    pub(super) labels: Labels,
    pub(super) members: Vec<Column>,
}

/// Which aggregation, and of what.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) op: Aggregation,
    pub(super) grouping: &'a Grouping,
    pub(super) node: &'a Node,
}

fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    if grouping.without {
        labels.nameless().without(&grouping.labels)
    } else {
        labels.only(&grouping.labels)
    }
}

fn groups(columns: Vec<Column>, grouping: &Grouping) -> Vec<Group> {
    let mut places: BTreeMap<Labels, usize> = BTreeMap::new();
    let mut all: Vec<Group> = Vec::new();
    for column in columns {
        let labels = group_labels(&column.labels, grouping);
        let at = *places.entry(labels.clone()).or_insert_with(|| {
            all.push(Group { labels, members: Vec::new() });
            all.len() - 1
        });
        all[at].members.push(column);
    }
    all
}

impl Eval<'_> {
    pub(super) fn aggregate(
        &self,
        by: By<'_>,
        param: Option<Value>,
        columns: Vec<Column>,
        query: Query,
    ) -> Result<Vec<Column>, Error> {
        let By { op, grouping, .. } = by;
        use Aggregation::{Bottomk, CountValues, LimitRatio, Limitk, Topk};
        let steps = query.steps();
        if op == CountValues {
            return match param {
                Some(Value::Text(label)) if !label.is_empty() => {
                    Ok(counted(columns, &label, grouping, steps))
                }
                _ => Err(Error::execution("invalid label name \"\" in count_values")),
            };
        }
        let groups = groups(columns, grouping);
        let number = match &param {
            Some(Value::Scalar(values)) => values.clone(),
            _ => Vec::new(),
        };
        match op {
            Topk | Bottomk | Limitk | LimitRatio => {
                check_counts(op, &number)?;
                if matches!(op, Topk | Bottomk) {
                    groups.iter().for_each(|g| self.note_ignored(by, g));
                }
                Ok(groups.into_iter().flat_map(|g| chosen(op, &number, g)).collect())
            }
            _ => {
                self.take(groups.len().saturating_mul(steps))?;
                let one = |group: Group| {
                    if group.members.iter().any(Column::has_histograms) {
                        let at = |step| {
                            let param = number.get(step).copied();
                            self.counted(self.of_both(by, &group, step, param))
                        };
                        let contents: Vec<Content> = (0..steps).map(at).collect();
                        return Column::mixed(group.labels, contents);
                    }
                    let at = |step: usize| {
                        let there = group.members.iter().map(|c| c.values[step]);
                        let there: Vec<f64> = there.filter(|v| !is_stale(*v)).collect();
                        if there.is_empty() {
                            return ABSENT;
                        }
                        number_of(op, there, number.get(step).copied())
                    };
                    let values = (0..steps).map(at).collect();
                    Column::new(group.labels, values)
                };
                Ok(groups.into_iter().map(one).filter(|c| !c.is_empty()).collect())
            }
        }
    }
}

pub(super) fn number_of(op: Aggregation, there: Vec<f64>, param: Option<f64>) -> f64 {
    // A NaN gives way to any number.
    let best = |better: fn(f64, f64) -> bool| {
        let take = |best: f64, v: &f64| if better(*v, best) || best.is_nan() { *v } else { best };
        there.iter().fold(there[0], take)
    };
    match op {
        Aggregation::Sum => Sum::of(there),
        Aggregation::Avg => mean(&there),
        Aggregation::Min => best(|a, b| a < b),
        Aggregation::Max => best(|a, b| a > b),
        Aggregation::Count => there.len() as f64,
        Aggregation::Group => 1.0,
        Aggregation::Stddev => variance(there).sqrt(),
        Aggregation::Stdvar => variance(there),
        Aggregation::Quantile => quantile(param.unwrap_or(f64::NAN), there),
        _ => ABSENT,
    }
}

fn check_counts(op: Aggregation, numbers: &[f64]) -> Result<(), Error> {
    for n in numbers {
        if n.is_nan() {
            return Err(Error::execution("Parameter value is NaN"));
        }
        if op != Aggregation::LimitRatio && (*n >= i64::MAX as f64 || *n <= i64::MIN as f64) {
            return Err(Error::execution(format!("Scalar value {n} overflows int64")));
        }
    }
    Ok(())
}

/// Of each group, at each step, the members that the operator keeps.
fn chosen(op: Aggregation, numbers: &[f64], group: Group) -> Vec<Column> {
    let mut kept: Vec<Column> = group
        .members
        .iter()
        .map(|c| Column::new(c.labels.clone(), vec![ABSENT; c.values.len()]))
        .collect();
    let mut rank = vec![usize::MAX; kept.len()];
    for (step, &number) in numbers.iter().enumerate() {
        let ranks = matches!(op, Aggregation::Topk | Aggregation::Bottomk);
        let takes = |i: &usize| match ranks {
            true => !is_stale(group.members[*i].values[step]),
            false => group.members[*i].has(step),
        };
        let mut there: Vec<usize> = (0..kept.len()).filter(takes).collect();
        let value = |i: &usize| group.members[*i].values[step];
        match op {
            Aggregation::Topk => there.sort_by(|a, b| nan_last(value(b), value(a), value(a))),
            Aggregation::Bottomk => there.sort_by(|a, b| nan_last(value(a), value(b), value(a))),
            _ => {}
        }
        let keep = match op {
            Aggregation::LimitRatio => {
                there.retain(|i| within_ratio(&kept[*i].labels, number));
                there.len()
            }
            _ => number.max(0.0) as usize,
        };
        for (place, &i) in there.iter().take(keep).enumerate() {
            kept[i].take_from(&group.members[i], step);
            rank[i] = rank[i].min(place);
        }
    }
    // An instant answer comes in the order of the values.
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by_key(|i| rank[*i]);
    let mut kept: Vec<Option<Column>> = kept.into_iter().map(Some).collect();
    let ordered = order.into_iter().filter_map(|i| kept[i].take());
    ordered.filter(|c| !c.is_empty()).collect()
}

/// Whether `limit_ratio` keeps a series: its labels' hash lies below the ratio, or, for a
/// negative one, at or above its complement. So a series is always in or always out, and
/// `r` and `r - 1` share nothing and leave nothing out.
fn within_ratio(labels: &Labels, ratio: f64) -> bool {
    // FNV-1a, and a mixer since its upper bits alone are poor.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (name, value) in labels.iter() {
        for byte in name.bytes().chain([0xff]).chain(value.bytes()).chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 32;
    let place = hash as f64 / u64::MAX as f64;
    if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio }
}

/// Compares `a` with `b`; whichever is NaN comes last. `own` is the left one's value.
fn nan_last(a: f64, b: f64, own: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.total_cmp(&b),
        (true, true) => Ordering::Equal,
        _ if own.is_nan() => Ordering::Greater,
        _ => Ordering::Less,
    }
}

/// How many series have which value, under that value in a label. The label is set
/// before the series are grouped.
fn counted(columns: Vec<Column>, label: &str, grouping: &Grouping, steps: usize) -> Vec<Column> {
    let mut by = grouping.clone();
    if !by.without {
        by.labels.push(label.to_owned());
    }
    let mut places: BTreeMap<Labels, usize> = BTreeMap::new();
    let mut all: Vec<Column> = Vec::new();
    for column in &columns {
        for (step, content) in column.contents().enumerate() {
            let text = match content {
                Content::Nothing => continue,
                Content::Number(v) => number_text(v),
                Content::Histogram(h) => h.to_string(),
            };
            let labels = group_labels(&column.labels.with(label, &text), &by);
            let at = *places.entry(labels).or_insert_with_key(|labels| {
                all.push(Column::new(labels.clone(), vec![ABSENT; steps]));
                all.len() - 1
            });
            let count = &mut all[at].values[step];
            *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
        }
    }
    all
}

/// A number as its shortest text.
pub(crate) fn number_text(v: f64) -> String {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        format!("{v}")
    }
}
