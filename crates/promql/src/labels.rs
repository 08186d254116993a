//! Names of series, and what selects them.

use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// The label that holds a series' name.
pub const NAME: &str = "__name__";

/// The labels of a series, in order of their names, none twice and none empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// From pairs in any order; of those with one name the last counts, and an empty
    /// value is none.
    pub fn new<N: Into<Arc<str>>, V: Into<Arc<str>>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Labels {
        let mut all: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        for (name, value) in pairs {
            let (name, value) = (name.into(), value.into());
            match all.binary_search_by(|(n, _)| n.cmp(&name)) {
                Ok(at) => all[at].1 = value,
                Err(at) => all.insert(at, (name, value)),
            }
        }
        all.retain(|(_, v)| !v.is_empty());
        Labels(all.into())
    }

    /// From pairs that are in the order of their names already, none twice and none empty.
    pub fn sorted(pairs: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Labels {
        let labels = Labels(pairs.into_iter().collect());
        debug_assert!(labels.0.is_sorted_by(|a, b| a.0 < b.0));
        labels
    }

    /// The value of a label; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        match self.0.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => &self.0[at].1,
            Err(_) => "",
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of these names.
    pub fn only(&self, names: &[String]) -> Labels {
        self.filtered(|n| names.iter().any(|wanted| wanted == n))
    }

    /// All but those of these names.
    pub fn without(&self, names: &[String]) -> Labels {
        self.filtered(|n| !names.iter().any(|gone| gone == n))
    }

    /// Without the series' name.
    pub fn nameless(&self) -> Labels {
        if self.get(NAME).is_empty() { self.clone() } else { self.filtered(|n| n != NAME) }
    }

    /// With this label set, or removed if the value is empty.
    pub fn with(&self, name: &str, value: &str) -> Labels {
        let mut all: Vec<_> = self.0.iter().filter(|(n, _)| &**n != name).cloned().collect();
        if !value.is_empty() {
            let at = all.partition_point(|(n, _)| &**n < name);
            all.insert(at, (name.into(), value.into()));
        }
        Labels(all.into())
    }

    fn filtered(&self, keep: impl Fn(&str) -> bool) -> Labels {
        Labels(self.0.iter().filter(|(n, _)| keep(n)).cloned().collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest: Vec<String> = self
            .iter()
            .filter(|(n, _)| *n != NAME)
            .map(|(n, v)| format!("{n}={}", quoted(v)))
            .collect();
        let name = self.get(NAME);
        match (name, rest.is_empty()) {
            ("", _) => write!(f, "{{{}}}", rest.join(", ")),
            (_, true) => f.write_str(name),
            _ => write!(f, "{name}{{{}}}", rest.join(", ")),
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text in double quotes.
pub fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// How a matcher compares.
#[derive(Clone, Debug)]
enum Test {
    Equal,
    NotEqual,
    Like(Regex),
    NotLike(Regex),
}

/// A condition on one label.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label.
    pub name: String,
    /// The value or pattern, as written.
    pub value: String,
    test: Test,
}

impl Matcher {
    /// `op` is `=`, `!=`, `=~` or `!~`. Patterns are anchored at both ends, and `.`
    /// takes any character.
    pub fn new(name: &str, op: &str, value: &str) -> Result<Matcher, String> {
        let pattern = || {
            crate::pattern::anchored(value)
                .map_err(|e| format!("the pattern {} cannot be used: {e}", quoted(value)))
        };
        let test = match op {
            "=" => Test::Equal,
            "!=" => Test::NotEqual,
            "=~" => Test::Like(pattern()?),
            "!~" => Test::NotLike(pattern()?),
            other => return Err(format!("{other:?} does not compare a label with a value")),
        };
        Ok(Matcher { name: name.into(), value: value.into(), test })
    }

    /// Whether a value passes.
    pub fn takes(&self, value: &str) -> bool {
        match &self.test {
            Test::Equal => self.value == value,
            Test::NotEqual => self.value != value,
            Test::Like(p) => p.is_match(value),
            Test::NotLike(p) => !p.is_match(value),
        }
    }

    /// The one value that passes, if it asks for equality.
    pub fn equal_to(&self) -> Option<&str> {
        matches!(self.test, Test::Equal).then_some(&*self.value)
    }

    /// As it is written.
    pub fn op(&self) -> &'static str {
        match self.test {
            Test::Equal => "=",
            Test::NotEqual => "!=",
            Test::Like(_) => "=~",
            Test::NotLike(_) => "!~",
        }
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Matcher) -> bool {
        (&self.name, self.op(), &self.value) == (&other.name, other.op(), &other.value)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, self.op(), quoted(&self.value))
    }
}

/// Whether all matchers pass.
pub fn all_take(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|m| m.takes(labels.get(&m.name)))
}
