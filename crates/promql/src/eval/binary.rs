//! Two sides.

use super::{ABSENT, Column, Content, Eval, Value, is_stale, operate};
use crate::Error;
use crate::ast::{BinaryOp, Many, Matching, Node};
use crate::labels::Labels;
use std::collections::BTreeMap;

/// Which operator, and how.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) op: BinaryOp,
    pub(super) returns_bool: bool,
    pub(super) matching: &'a Matching,
    pub(super) node: &'a Node,
}

impl Eval<'_> {
    pub(super) fn binary(&self, by: By<'_>, left: Value, right: Value) -> Result<Value, Error> {
        let By { op, matching, .. } = by;
        Ok(match (left, right) {
            (Value::Scalar(a), Value::Scalar(b)) => {
                let one = |(a, b): (&f64, &f64)| match operate(op, *a, *b) {
                    Some(_) if op.compares() => 1.0,
                    Some(v) => v,
                    None => 0.0,
                };
                Value::Scalar(a.iter().zip(&b).map(one).collect())
            }
            (Value::Vector(columns), Value::Scalar(b)) => {
                Value::Vector(
                    self.beside(by, columns, &b, false, |step, v| operate(op, v, b[step]))?,
                )
            }
            (Value::Scalar(a), Value::Vector(columns)) => {
                Value::Vector(self.beside(by, columns, &a, true, |step, v| {
                    // A comparison keeps the series' value, whichever side it is on.
                    let result = operate(op, a[step], v);
                    if op.compares() { result.map(|_| v) } else { result }
                })?)
            }
            (Value::Vector(a), Value::Vector(b)) if op.of_sets() => {
                Value::Vector(self.merged(sets(op, a, b, matching))?)
            }
            (Value::Vector(a), Value::Vector(b)) => Value::Vector(self.matched(by, a, b)?),
            _ => return Err(Error::execution("an operator needs scalars or instant vectors")),
        })
    }

    /// A vector and a scalar, which may be the left side.
    fn beside(
        &self,
        by: By<'_>,
        columns: Vec<Column>,
        scalar: &[f64],
        swapped: bool,
        of: impl Fn(usize, f64) -> Option<f64>,
    ) -> Result<Vec<Column>, Error> {
        let By { op, returns_bool, .. } = by;
        let named = op.compares() && !returns_bool;
        let one = |c: Column| {
            if c.has_histograms() {
                let at = |(step, content)| match content {
                    Content::Nothing => Content::Nothing,
                    Content::Number(v) => outcome(of(step, v), returns_bool).into(),
                    histogram if swapped => self.counted(self.operate_mixed(
                        by,
                        Content::Number(scalar[step]),
                        histogram,
                    )),
                    histogram => self.counted(self.operate_mixed(
                        by,
                        histogram,
                        Content::Number(scalar[step]),
                    )),
                };
                let contents: Vec<Content> = c.contents().enumerate().map(at).collect();
                return Column::mixed(if named { c.labels } else { c.labels.nameless() }, contents);
            }
            let values = c.values.into_iter().enumerate().map(|(step, v)| {
                if is_stale(v) {
                    ABSENT
                } else {
                    outcome(of(step, v), returns_bool).unwrap_or(ABSENT)
                }
            });
            let values = values.collect();
            Column::new(if named { c.labels } else { c.labels.nameless() }, values)
        };
        let all = columns.into_iter().map(one).filter(|c| !c.is_empty()).collect();
        self.merged(all)
    }

    fn matched(
        &self,
        by: By<'_>,
        left: Vec<Column>,
        right: Vec<Column>,
    ) -> Result<Vec<Column>, Error> {
        let By { op, returns_bool, matching, .. } = by;
        let swapped = matching.many == Many::Right;
        let (mut many, mut one) = if swapped { (right, left) } else { (left, right) };
        let (fill_many, fill_one) = match swapped {
            true => (matching.fill_right, matching.fill_left),
            false => (matching.fill_left, matching.fill_right),
        };
        let fill = |value: Option<f64>, of: &[Column], side: &[Column]| {
            value.map_or(Vec::new(), |value| fillers(of, side, matching, value))
        };
        let mut ones = fill(fill_one, &many, &one);
        many.append(&mut fill(fill_many, &one, &many));
        one.append(&mut ones);
        let (Some(first), false) = (many.first(), one.is_empty()) else { return Ok(Vec::new()) };
        let steps = first.values.len();
        let ones = by_signature(&one, matching);
        let present = |columns: &[Column], step: usize| columns.iter().any(|c| c.has(step));
        for (signature, group) in &ones {
            let twice = (0..steps).find(|&step| {
                group.iter().filter(|i| one[**i].has(step)).count() > 1 && present(&many, step)
            });
            if twice.is_some() {
                let side = if swapped { "left" } else { "right" };
                return Err(Error::execution(format!(
                    "found duplicate series for the match group {signature} on the {side} hand-side \
                     of the operation: [{}, {}];many-to-many matching not allowed: matching labels \
                     must be unique on one side",
                    one[group[1]].labels, one[group[0]].labels
                )));
            }
        }
        let mut taken: BTreeMap<Labels, Vec<bool>> = BTreeMap::new();
        let mut all = Vec::new();
        for column in &many {
            let signature = signature(&column.labels, matching);
            for &i in ones.get(&signature).map_or(&[][..], |group| group) {
                let other = &one[i];
                let seen = (matching.many == Many::Neither)
                    .then(|| taken.entry(signature.clone()).or_insert_with(|| vec![false; steps]));
                let labels = result_labels(op, column, other, returns_bool, matching);
                let result = if column.has_histograms() || other.has_histograms() {
                    Column::mixed(labels, self.pair_mixed(by, column, other, seen)?)
                } else {
                    Column::new(labels, pair(by, column, other, seen)?)
                };
                if !result.is_empty() {
                    self.take(steps)?;
                    all.push(result);
                }
            }
        }
        self.merged(all).map_err(|_| {
            Error::execution(
                "multiple matches for labels: grouping labels must ensure unique matches",
            )
        })
    }
}

/// What a result is worth: with `bool` a comparison gives 0 or 1.
pub(super) fn outcome(result: Option<f64>, returns_bool: bool) -> Option<f64> {
    if returns_bool { Some(f64::from(u8::from(result.is_some()))) } else { result }
}

/// The values of two series that belong together. `seen`: where the left side has had
/// one in this group already, if it may have only one.
fn pair(
    by: By<'_>,
    many: &Column,
    one: &Column,
    mut seen: Option<&mut Vec<bool>>,
) -> Result<Vec<f64>, Error> {
    let swapped = by.matching.many == Many::Right;
    let mut values = Vec::with_capacity(many.values.len());
    for (step, (&m, &o)) in many.values.iter().zip(&one.values).enumerate() {
        if is_stale(m) || is_stale(o) {
            values.push(ABSENT);
            continue;
        }
        let (a, b) = if swapped { (o, m) } else { (m, o) };
        let value = outcome(operate(by.op, a, b), by.returns_bool).unwrap_or(ABSENT);
        // What a comparison filters out may match as often as it likes.
        if let Some(seen) = &mut seen
            && !is_stale(value)
            && std::mem::replace(&mut seen[step], true)
        {
            return Err(twice());
        }
        values.push(value);
    }
    Ok(values)
}

fn twice() -> Error {
    Error::execution(
        "multiple matches for labels: many-to-one matching must be explicit \
         (group_left/group_right)",
    )
}

impl Eval<'_> {
    /// As [`pair`], of series with histograms.
    fn pair_mixed(
        &self,
        by: By<'_>,
        many: &Column,
        one: &Column,
        mut seen: Option<&mut Vec<bool>>,
    ) -> Result<Vec<Content>, Error> {
        let swapped = by.matching.many == Many::Right;
        let mut contents = Vec::with_capacity(many.values.len());
        for (step, (m, o)) in many.contents().zip(one.contents()).enumerate() {
            let (a, b) = if swapped { (o, m) } else { (m, o) };
            let content = match (a, b) {
                (Content::Nothing, _) | (_, Content::Nothing) => Content::Nothing,
                (Content::Number(a), Content::Number(b)) => {
                    outcome(operate(by.op, a, b), by.returns_bool).into()
                }
                (a, b) => self.counted(self.operate_mixed(by, a, b)),
            };
            if let Some(seen) = &mut seen
                && !matches!(content, Content::Nothing)
                && std::mem::replace(&mut seen[step], true)
            {
                return Err(twice());
            }
            contents.push(content);
        }
        Ok(contents)
    }
}

fn signature(labels: &Labels, matching: &Matching) -> Labels {
    if matching.on {
        labels.only(&matching.labels)
    } else {
        labels.nameless().without(&matching.labels)
    }
}

fn by_signature(columns: &[Column], matching: &Matching) -> BTreeMap<Labels, Vec<usize>> {
    let mut all: BTreeMap<Labels, Vec<usize>> = BTreeMap::new();
    for (i, column) in columns.iter().enumerate() {
        all.entry(signature(&column.labels, matching)).or_default().push(i);
    }
    all
}

/// Series for one side where the other has some that belong to none of it: with the labels
/// that are matched, and this value.
fn fillers(of: &[Column], for_side: &[Column], matching: &Matching, value: f64) -> Vec<Column> {
    let there = by_signature(for_side, matching);
    let mut all = Vec::new();
    for (labels, wanted) in by_signature(of, matching) {
        let has = there.get(&labels).map_or(&[][..], |group| group);
        let steps = of[wanted[0]].values.len();
        let at = |step: usize| {
            let missing = wanted.iter().any(|i| of[*i].has(step))
                && !has.iter().any(|i| for_side[*i].has(step));
            if missing { value } else { ABSENT }
        };
        let column = Column::new(labels, (0..steps).map(at).collect());
        if !column.is_empty() {
            all.push(column);
        }
    }
    all
}

fn result_labels(
    op: BinaryOp,
    many: &Column,
    one: &Column,
    returns_bool: bool,
    matching: &Matching,
) -> Labels {
    let mut labels = many.labels.clone();
    if !op.compares() || returns_bool {
        labels = labels.nameless();
    }
    if matching.many == Many::Neither {
        labels = if matching.on {
            labels.only(&matching.labels)
        } else {
            labels.without(&matching.labels)
        };
    }
    for name in &matching.include {
        labels = labels.with(name, one.labels.get(name));
    }
    labels
}

/// `and`, `or` and `unless`: by step, a series is there or not.
fn sets(op: BinaryOp, left: Vec<Column>, right: Vec<Column>, matching: &Matching) -> Vec<Column> {
    let (mut kept, other) = match op {
        BinaryOp::Or => (right, &left),
        _ => (left.clone(), &right),
    };
    let there = by_signature(other, matching);
    for column in &mut kept {
        let signature = signature(&column.labels, matching);
        let group = there.get(&signature).map_or(&[][..], |group| group);
        for step in 0..column.values.len() {
            let found = group.iter().any(|i| other[*i].has(step));
            if found != (op == BinaryOp::And) {
                column.clear(step);
            }
        }
    }
    if op == BinaryOp::Or {
        let mut all = left;
        all.append(&mut kept);
        kept = all;
    }
    kept.retain(|c| !c.is_empty());
    kept
}
