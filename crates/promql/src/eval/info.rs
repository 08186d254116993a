//! `info`: series get the labels of what is known of their job and instance.

use super::{ABSENT, Column, Eval, Query};
use crate::Error;
use crate::ast::{Expr, Node, Selector, When};
use crate::labels::{Labels, Matcher, NAME, all_take};
use std::collections::BTreeMap;

/// The labels that series and what is known of them have in common.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
/// The series that are looked at if no name is asked for.
const USUAL: &str = "target_info";

/// What is known, by the labels in common, and then by its name: the times of its samples.
type Known = BTreeMap<Labels, BTreeMap<String, Vec<Column>>>;

/// What of it is wanted.
struct Wanted {
    names: Vec<Matcher>,
    /// Which labels, and of which series; none: all.
    data: Vec<Matcher>,
}

impl Wanted {
    fn of(node: Option<&Node>) -> Result<Wanted, Error> {
        let all = match node.map(|node| &node.expr) {
            Some(Expr::Vector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let (mut names, data): (Vec<_>, Vec<_>) = all.into_iter().partition(|m| m.name == NAME);
        if names.is_empty() {
            names.push(Matcher::new(NAME, "=", USUAL).map_err(Error::execution)?);
        }
        Ok(Wanted { names, data })
    }

    fn is_info(&self, labels: &Labels) -> bool {
        all_take(&self.names, labels)
    }
}

fn identity(labels: &Labels) -> Labels {
    Labels::new(IDENTIFYING.map(|name| (name, labels.get(name))))
}

impl Eval<'_> {
    /// `info(v, {…})`.
    pub(super) fn info(&self, args: &[Node], query: Query) -> Result<Vec<Column>, Error> {
        let wanted = Wanted::of(args.get(1))?;
        let columns = self.vector(&args[0], query)?;
        let known = self.known(&wanted, &columns, query)?;
        let mut done = Vec::with_capacity(columns.len());
        for column in columns {
            // What is known is not looked up for itself.
            if wanted.is_info(&column.labels) {
                done.push(column);
                continue;
            }
            let about = known.get(&identity(&column.labels));
            done.extend(enriched(&column, about, &wanted)?);
        }
        self.merged(done)
    }

    /// What there is about these series.
    fn known(&self, wanted: &Wanted, columns: &[Column], query: Query) -> Result<Known, Error> {
        let mut matchers: Vec<Matcher> = wanted.names.iter().chain(&wanted.data).cloned().collect();
        for name in IDENTIFYING {
            let of = columns.iter().filter(|c| !wanted.is_info(&c.labels));
            let mut values: Vec<String> = of.map(|c| regex::escape(c.labels.get(name))).collect();
            values.sort_unstable();
            values.dedup();
            let one = Matcher::new(name, "=~", &values.join("|")).map_err(Error::execution)?;
            matchers.push(one);
        }
        let selector = Selector { matchers, time: When::default() };
        let mut known = Known::new();
        for column in self.timestamps(&selector, query)? {
            let id = identity(&column.labels);
            if !id.is_empty() {
                let name = column.labels.get(NAME).to_owned();
                known.entry(id).or_default().entry(name).or_default().push(column);
            }
        }
        Ok(known)
    }
}

/// A series with what is known about it, which may be other at each step.
fn enriched(
    column: &Column,
    about: Option<&BTreeMap<String, Vec<Column>>>,
    wanted: &Wanted,
) -> Result<Vec<Column>, Error> {
    let mut all: BTreeMap<Labels, Column> = BTreeMap::new();
    for step in (0..column.values.len()).filter(|step| column.has(*step)) {
        let mut labels = column.labels.clone();
        for infos in about.into_iter().flat_map(BTreeMap::values) {
            if let Some(info) = newest(infos, step)? {
                labels = with_data(labels, &column.labels, &info.labels, wanted)?;
            }
        }
        // Whoever asks for a label that is not empty wants no series without.
        if labels == column.labels && wanted.data.iter().any(|m| !m.takes("")) {
            continue;
        }
        let made = all.entry(labels).or_insert_with_key(|labels| {
            Column::new(labels.clone(), vec![ABSENT; column.values.len()])
        });
        made.take_from(column, step);
    }
    Ok(all.into_values().collect())
}

/// Of several that have one name the one whose sample is the newest: the others are what it
/// was before.
fn newest(infos: &[Column], step: usize) -> Result<Option<&Column>, Error> {
    let mut newest: Option<&Column> = None;
    for info in infos.iter().filter(|info| info.has(step)) {
        match newest {
            Some(other) if other.values[step] > info.values[step] => {}
            Some(other) if other.values[step] == info.values[step] => {
                let (a, b) = (&other.labels, &info.labels);
                let why = format!("found duplicate series for info metric: {a} and {b}");
                return Err(Error::execution(why));
            }
            _ => newest = Some(info),
        }
    }
    Ok(newest)
}

/// Labels with those of what is known that are wanted. A series' own stay.
fn with_data(
    mut labels: Labels,
    own: &Labels,
    info: &Labels,
    wanted: &Wanted,
) -> Result<Labels, Error> {
    for (name, value) in info.iter() {
        let is_data = name != NAME && !IDENTIFYING.contains(&name);
        let asked = wanted.data.is_empty() || wanted.data.iter().any(|m| m.name == name);
        if !is_data || !asked || !own.get(name).is_empty() {
            continue;
        }
        let before = labels.get(name);
        if !before.is_empty() && before != value {
            return Err(Error::execution(format!("conflicting label: {name}")));
        }
        labels = labels.with(name, value);
    }
    Ok(labels)
}
