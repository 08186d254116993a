//! Series to columns and windows.

use super::{ABSENT, Column, Eval, Query, Sample, Series, Value, Windows, is_stale};
use crate::ast::{Expr, Node, Selector, When};
use crate::{Error, ErrorKind};

impl Eval<'_> {
    fn fetch(&self, selector: &Selector, from: i64, to: i64) -> Result<Vec<Series>, Error> {
        let found = self.source.select(&selector.matchers, from, to);
        let found = found.map_err(|why| Error { kind: ErrorKind::Source, span: None, why })?;
        self.take(found.iter().map(|s| s.samples.len()).sum())?;
        Ok(found)
    }

    /// The first and the last moment that a selector looks at.
    fn reach(&self, when: &When, query: Query) -> (i64, i64) {
        let last = query.at(query.steps().saturating_sub(1));
        (self.time(when, query.start), self.time(when, last))
    }

    /// The newest value within the lookback, which is open at its old end.
    pub(super) fn instant(&self, selector: &Selector, query: Query) -> Result<Vec<Column>, Error> {
        self.newest(selector, query, |s| s.value)
    }

    /// As [`Eval::instant`], but the samples' times, s.
    pub(super) fn timestamps(&self, s: &Selector, query: Query) -> Result<Vec<Column>, Error> {
        self.newest(s, query, |s| s.at as f64 / 1_000.0)
    }

    fn newest(
        &self,
        selector: &Selector,
        query: Query,
        of: impl Fn(&Sample) -> f64,
    ) -> Result<Vec<Column>, Error> {
        let (first, last) = self.reach(&selector.time, query);
        let lookback = self.limits.lookback;
        let steps = query.steps();
        let found = self.fetch(selector, first.saturating_sub(lookback) + 1, last)?;
        self.take(found.len().saturating_mul(steps))?;
        let column = |series: Series| {
            let mut next = 0;
            let mut values = Vec::with_capacity(steps);
            for step in 0..steps {
                let at = self.time(&selector.time, query.at(step));
                while series.samples.get(next).is_some_and(|s| s.at <= at) {
                    next += 1;
                }
                let newest = next.checked_sub(1).map(|i| &series.samples[i]);
                let fresh = newest.filter(|s| s.at > at - lookback && !is_stale(s.value));
                values.push(fresh.map_or(ABSENT, &of));
            }
            Column { labels: series.labels, values }
        };
        Ok(found.into_iter().map(column).filter(|c| !c.is_empty()).collect())
    }

    /// What a range function looks at.
    pub(super) fn windows(&self, node: &Node, query: Query) -> Result<Windows, Error> {
        match &node.expr {
            Expr::Paren(inner) => self.windows(inner, query),
            Expr::Matrix { selector, range } => {
                let (first, last) = self.reach(&selector.time, query);
                let series = self.fetch(selector, first.saturating_sub(*range) + 1, last)?;
                Ok(self.sorted(series, *range, &selector.time, query))
            }
            Expr::Subquery { inner, range, step, time } => {
                let step = step.unwrap_or(self.limits.subquery_step);
                let (first, last) = self.reach(time, query);
                // Steps sit on multiples of the step, wherever the query begins.
                let start = (first - range).div_euclid(step) * step + step;
                let inner_query = Query { start, end: last, step };
                let series = match self.value(inner, inner_query)? {
                    Value::Vector(columns) => columns
                        .into_iter()
                        .map(|c| Series {
                            labels: c.labels,
                            samples: samples(c.values, inner_query),
                        })
                        .collect(),
                    _ => return Err(Error::execution("a subquery needs an instant vector")),
                };
                Ok(self.sorted(series, *range, time, query))
            }
            _ => Err(Error::execution("a range vector is expected")),
        }
    }

    fn sorted(&self, mut series: Vec<Series>, range: i64, when: &When, query: Query) -> Windows {
        for one in &mut series {
            one.samples.retain(|s| !is_stale(s.value));
        }
        let ends = (0..query.steps()).map(|i| self.time(when, query.at(i))).collect();
        Windows { series, range, ends }
    }
}

fn samples(values: Vec<f64>, query: Query) -> Vec<Sample> {
    let placed = values.into_iter().enumerate().filter(|(_, v)| !is_stale(*v));
    placed.map(|(i, value)| Sample { at: query.at(i), value }).collect()
}

impl Windows {
    /// Computes a value of each window that has one; names go unless `named`.
    pub(super) fn each(
        self,
        named: bool,
        of: impl Fn(usize, &[Sample], i64) -> Option<f64>,
    ) -> Vec<Column> {
        let Windows { series, range, ends } = self;
        let column = |s: Series| {
            let (mut from, mut to) = (0, 0);
            let values = ends.iter().enumerate().map(|(step, &end)| {
                // With `@` all windows are one; else they only move on.
                while s.samples.get(to).is_some_and(|s| s.at <= end) {
                    to += 1;
                }
                while from < to && s.samples[from].at <= end - range {
                    from += 1;
                }
                let window = &s.samples[from..to];
                if window.is_empty() { ABSENT } else { of(step, window, end).unwrap_or(ABSENT) }
            });
            let values = values.collect();
            Column { labels: if named { s.labels } else { s.labels.nameless() }, values }
        };
        series.into_iter().map(column).filter(|c| !c.is_empty()).collect()
    }
}
