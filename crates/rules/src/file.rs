//! Rule files: read, and checked as promtool does.

use crate::template::Template;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use synod_promql::{Kind, Labels, NAME, Node, parse};

/// Bytes of a file, at most.
const FILE_MAX: usize = 4 << 20;

/// Where something stands in a file; both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Where, if that is known.
    pub place: Option<Place>,
    /// Group, number of the rule from 1, and the rule's name, if it is one of a rule.
    pub rule: Option<(String, usize, String)>,
    /// Why.
    pub why: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{}:{}: ", place.line, place.column)?;
        }
        if let Some((group, number, name)) = &self.rule {
            write!(f, "group {group:?}, rule {number}, {name:?}: ")?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for FileError {}

/// A rule file, checked.
#[derive(Clone, Debug, Default)]
pub struct RuleFile {
    /// Its groups.
    pub groups: Vec<GroupSpec>,
}

/// A group as its file says.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its name, once in a file.
    pub name: String,
    /// How often it is evaluated, ms; `None`: as all.
    pub interval: Option<i64>,
    /// How far back from now its queries look, ms; `None`: as all.
    pub query_offset: Option<i64>,
    /// Series or alerts of a rule, at most; 0: as many as there are.
    pub limit: usize,
    /// In their order.
    pub rules: Vec<RuleSpec>,
}

/// A rule as its file says.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// What it gives.
    pub kind: RuleKind,
    /// What is evaluated.
    pub expr: Node,
    /// Labels of what it gives, the group's among them; of alerts, they are templates.
    pub labels: Vec<(String, Template)>,
    /// Where it stands.
    pub place: Place,
}

/// See [`RuleSpec`].
#[derive(Clone, Debug)]
pub enum RuleKind {
    /// Series of that name.
    Record(String),
    /// Alerts.
    Alert {
        /// Their name.
        name: String,
        /// How long the condition holds before they fire, ms.
        hold: i64,
        /// How long they fire after it held last, ms.
        keep: i64,
        /// Texts about them.
        annotations: Vec<(String, Template)>,
    },
}

impl RuleSpec {
    /// The name of its series or alerts.
    pub fn name(&self) -> &str {
        match &self.kind {
            RuleKind::Record(name) | RuleKind::Alert { name, .. } => name,
        }
    }
}

type Texts = Option<BTreeMap<String, Option<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    groups: Option<Vec<Spanned<RawGroup>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    interval: Option<Spanned<String>>,
    #[serde(default)]
    query_offset: Option<Spanned<String>>,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    labels: Texts,
    #[serde(default)]
    rules: Option<Vec<Spanned<RawRule>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(default)]
    record: Option<Spanned<String>>,
    #[serde(default)]
    alert: Option<Spanned<String>>,
    #[serde(default)]
    expr: Option<Spanned<String>>,
    #[serde(default, rename = "for")]
    hold: Option<Spanned<String>>,
    #[serde(default, rename = "keep_firing_for")]
    keep: Option<Spanned<String>>,
    #[serde(default)]
    labels: Texts,
    #[serde(default)]
    annotations: Texts,
}

fn place<T>(of: &Spanned<T>) -> Place {
    Place { line: of.referenced.line(), column: of.referenced.column() }
}

/// A duration as Prometheus's files have it, ms.
pub(crate) fn duration(text: &str) -> Option<i64> {
    if text == "0" { Some(0) } else { synod_promql::duration(text) }
}

/// Reads YAML; the error names its place.
pub(crate) fn yaml<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FileError> {
    let fail = |place, why| FileError { place, rule: None, why };
    if text.len() > FILE_MAX {
        return Err(fail(None, format!("the file is larger than {FILE_MAX} bytes")));
    }
    serde_saphyr::from_str(text).map_err(|e| {
        let place = e.location().map(|l| Place { line: l.line(), column: l.column() });
        let why = e.without_snippet().to_string();
        // The place stands in front already.
        let why = why.lines().next().unwrap_or_default();
        let why = why.rfind(" at line ").map_or(why, |at| &why[..at]);
        fail(place, why.to_owned())
    })
}

/// Gathers what is wrong.
struct Check {
    errors: Vec<FileError>,
}

impl Check {
    fn fail(&mut self, place: Option<Place>, why: impl Into<String>) {
        self.errors.push(FileError { place, rule: None, why: why.into() });
    }

    fn duration(&mut self, text: Option<&Spanned<String>>) -> Option<i64> {
        let text = text?;
        let found = duration(&text.value);
        if found.is_none() {
            let why = format!("not a valid duration string: {:?}", text.value);
            self.fail(Some(place(text)), why);
        }
        found
    }
}

impl RuleFile {
    /// Reads a file; all that is wrong, if something is.
    pub fn parse(text: &str) -> Result<RuleFile, Vec<FileError>> {
        let raw: Option<RawFile> = yaml(text).map_err(|e| vec![e])?;
        let mut check = Check { errors: Vec::new() };
        let (mut groups, mut names) = (Vec::new(), BTreeSet::new());
        for group in raw.and_then(|f| f.groups).unwrap_or_default() {
            let at = Some(place(&group));
            let name = group.value.name.clone().unwrap_or_default();
            if name.is_empty() {
                check.fail(at, "Groupname must not be empty");
            } else if !names.insert(name.clone()) {
                check.fail(at, format!("groupname: {name:?} is repeated in the same file"));
            }
            groups.push(check.group(name, group.value, at));
        }
        if check.errors.is_empty() { Ok(RuleFile { groups }) } else { Err(check.errors) }
    }
}

impl Check {
    fn group(&mut self, name: String, raw: RawGroup, at: Option<Place>) -> GroupSpec {
        let interval = self.duration(raw.interval.as_ref()).filter(|i| *i > 0);
        let query_offset = self.duration(raw.query_offset.as_ref());
        let shared = texts(raw.labels);
        for (label, _) in shared.iter().filter(|(l, _)| l == NAME || l.is_empty()) {
            self.fail(at, format!("group {name:?}: invalid label name: {label}"));
        }
        let mut rules = Vec::new();
        for (number, rule) in raw.rules.unwrap_or_default().into_iter().enumerate() {
            let before = self.errors.len();
            let rule_name = match (&rule.value.record, &rule.value.alert) {
                (Some(name), _) if !name.value.is_empty() => name.value.clone(),
                (_, alert) => alert.as_ref().map(|n| n.value.clone()).unwrap_or_default(),
            };
            rules.extend(self.rule(rule, &shared));
            for error in &mut self.errors[before..] {
                error.rule = Some((name.clone(), number + 1, rule_name.clone()));
            }
        }
        let limit = usize::try_from(raw.limit.unwrap_or(0)).unwrap_or(0);
        GroupSpec { name, interval, query_offset, limit, rules }
    }

    fn rule(&mut self, rule: Spanned<RawRule>, shared: &[(String, String)]) -> Option<RuleSpec> {
        let at = place(&rule);
        let raw = rule.value;
        let named = |n: Option<Spanned<String>>| n.filter(|n| !n.value.is_empty());
        let (record, alert) = (named(raw.record), named(raw.alert));
        let alerts = alert.is_some();
        if record.is_some() && alert.is_some() {
            self.fail(Some(at), "only one of 'record' and 'alert' must be set");
        }
        let expr = self.expression(raw.expr, at);
        let (hold, keep) = (self.duration(raw.hold.as_ref()), self.duration(raw.keep.as_ref()));
        let annotations = texts(raw.annotations);
        for (name, _) in &annotations {
            if name.is_empty() {
                self.fail(Some(at), format!("invalid annotation name: {name}"));
            }
        }
        let own = texts(raw.labels);
        for (name, _) in &own {
            if name.is_empty() || name == NAME {
                self.fail(Some(at), format!("invalid label name: {name}"));
            }
        }
        let mut labels: Vec<(String, String)> = shared.to_vec();
        labels.retain(|(name, _)| !own.iter().any(|(o, _)| o == name));
        labels.extend(own);
        let labels = self.templates("label", labels, alerts, at);
        let kind = match (record, alert) {
            (Some(record), _) => {
                self.record(&record, hold, keep, !annotations.is_empty());
                RuleKind::Record(record.value)
            }
            (None, Some(alert)) => RuleKind::Alert {
                name: alert.value,
                hold: hold.unwrap_or(0),
                keep: keep.unwrap_or(0),
                annotations: self.templates("annotation", annotations, true, at),
            },
            (None, None) => {
                self.fail(Some(at), "one of 'record' or 'alert' must be set");
                return None;
            }
        };
        Some(RuleSpec { kind, expr: expr?, labels, place: at })
    }

    fn record(
        &mut self,
        name: &Spanned<String>,
        hold: Option<i64>,
        keep: Option<i64>,
        annotated: bool,
    ) {
        let at = Some(place(name));
        if annotated {
            self.fail(at, "invalid field 'annotations' in recording rule");
        }
        if hold.is_some_and(|h| h != 0) {
            self.fail(at, "invalid field 'for' in recording rule");
        }
        if keep.is_some_and(|k| k != 0) {
            self.fail(at, "invalid field 'keep_firing_for' in recording rule");
        }
        if name.value.contains(['{', '}']) {
            let why = "braces present in the recording rule name; should it be in expr?";
            self.fail(at, format!("{why}: {}", name.value));
        }
    }

    fn expression(&mut self, text: Option<Spanned<String>>, rule: Place) -> Option<Node> {
        let Some(text) = text.filter(|t| !t.value.trim().is_empty()) else {
            self.fail(Some(rule), "field 'expr' must be set in rule");
            return None;
        };
        match parse(&text.value) {
            Ok(node) if matches!(node.kind(), Kind::Scalar | Kind::Vector) => Some(node),
            Ok(node) => {
                let kind = node.kind().name();
                let why = format!("an expression of type {kind} has no value at a moment");
                self.fail(Some(place(&text)), why);
                None
            }
            Err(e) => {
                self.fail(
                    Some(place(&text)),
                    format!("could not parse expression: {}", e.told(&text.value)),
                );
                None
            }
        }
    }

    /// What is no template (labels of recording rules) is kept as it is.
    fn templates(
        &mut self,
        what: &str,
        all: Vec<(String, String)>,
        templates: bool,
        at: Place,
    ) -> Vec<(String, Template)> {
        let mut out = Vec::new();
        for (name, text) in all {
            if !templates {
                out.push((name, Template::plain(&text)));
                continue;
            }
            match Template::new(&text) {
                Ok(template) => out.push((name, template)),
                Err(e) => self.fail(Some(at), format!("{what} {name:?}: {e}")),
            }
        }
        out
    }
}

fn texts(all: Texts) -> Vec<(String, String)> {
    let all = all.unwrap_or_default().into_iter();
    all.map(|(name, text)| (name, text.unwrap_or_default())).collect()
}

/// Whether every version of Prometheus takes that as a name: the newer take any text.
fn is_classic(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// Names of series and labels that Prometheus before 3.0 refuses, each once.
pub fn modern_names<'a>(files: impl IntoIterator<Item = &'a RuleFile>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in files.into_iter().flat_map(|f| &f.groups).flat_map(|g| &g.rules) {
        let labels = rule.labels.iter().map(|(n, _)| n.as_str());
        let record = match &rule.kind {
            RuleKind::Record(name) => Some(name.as_str()),
            RuleKind::Alert { .. } => None,
        };
        found.extend(labels.chain(record).filter(|n| !is_classic(n)).map(str::to_owned));
    }
    found.into_iter().collect()
}

/// Rules that give the same name with the same labels as one before them: name and labels
/// of each, once.
pub fn duplicates<'a>(files: impl IntoIterator<Item = &'a RuleFile>) -> Vec<(String, Labels)> {
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for rule in files.into_iter().flat_map(|f| &f.groups).flat_map(|g| &g.rules) {
        let labels = Labels::new(rule.labels.iter().map(|(n, t)| (n.as_str(), t.text())));
        let key = (rule.name().to_owned(), labels);
        if !seen.insert(key.clone()) {
            twice.insert(key);
        }
    }
    twice.into_iter().collect()
}

#[cfg(test)]
mod tests;
