//! Relabelling: rules that keep, drop and rewrite the labels of a target or of a sample,
//! as Prometheus's configuration describes them (`relabel_configs`).

use regex::Regex;
use std::fmt;
use synod_promql::Labels;

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Sets the target label to the replacement if the pattern takes the source.
    Replace,
    /// Sets the target label to the source in lower case.
    Lowercase,
    /// Sets the target label to the source in upper case.
    Uppercase,
    /// Drops what the pattern does not take.
    Keep,
    /// Drops what the pattern takes.
    Drop,
    /// Drops what has another value in the target label than the source.
    KeepEqual,
    /// Drops what has the source's value in the target label.
    DropEqual,
    /// Sets the target label to a hash of the source, modulo `modulus`.
    HashMod,
    /// Copies labels whose names the pattern takes to the name in the replacement.
    LabelMap,
    /// Removes labels whose names the pattern takes.
    LabelDrop,
    /// Removes labels whose names the pattern does not take.
    LabelKeep,
}

impl Action {
    /// By its name in a configuration, in any case.
    pub fn named(name: &str) -> Option<Action> {
        Some(match &*name.to_ascii_lowercase() {
            "replace" => Action::Replace,
            "lowercase" => Action::Lowercase,
            "uppercase" => Action::Uppercase,
            "keep" => Action::Keep,
            "drop" => Action::Drop,
            "keepequal" => Action::KeepEqual,
            "dropequal" => Action::DropEqual,
            "hashmod" => Action::HashMod,
            "labelmap" => Action::LabelMap,
            "labeldrop" => Action::LabelDrop,
            "labelkeep" => Action::LabelKeep,
            _ => return None,
        })
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Labels whose values, joined by the separator, are the source.
    pub source: Vec<String>,
    /// Between the values of the source.
    pub separator: String,
    /// What the source (or a label's name) is held against.
    pub pattern: Pattern,
    /// For [`Action::HashMod`].
    pub modulus: u64,
    /// The label that is set or compared.
    pub target: String,
    /// What is set, with `$1` and `${name}` for what the pattern took.
    pub replacement: String,
}

/// A pattern, anchored at both ends; `.` takes any character.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles it.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let regex =
            synod_promql::pattern::anchored(text).map_err(|e| format!("pattern {text:?}: {e}"))?;
        Ok(Pattern { text: text.to_owned(), regex })
    }

    fn takes(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.action == other.action
            && self.source == other.source
            && self.separator == other.separator
            && self.pattern == other.pattern
            && self.modulus == other.modulus
            && self.target == other.target
            && self.replacement == other.replacement
    }
}

impl Rule {
    /// A rule with Prometheus's defaults.
    pub fn new(action: Action) -> Rule {
        Rule {
            action,
            source: Vec::new(),
            separator: ";".into(),
            pattern: Pattern::new("(.*)").expect("a valid pattern"),
            modulus: 0,
            target: String::new(),
            replacement: "$1".into(),
        }
    }

    /// Whether its parts fit together, as Prometheus demands.
    pub fn check(&self) -> Result<(), String> {
        let default = Rule::new(self.action);
        let needs_target = matches!(
            self.action,
            Action::Replace
                | Action::HashMod
                | Action::Lowercase
                | Action::Uppercase
                | Action::KeepEqual
                | Action::DropEqual
        );
        let name = format!("{:?}", self.action).to_lowercase();
        if needs_target && self.target.is_empty() {
            return Err(format!("action {name} needs target_label"));
        }
        if self.source.iter().any(String::is_empty) {
            return Err("a source label has no name".into());
        }
        if self.action == Action::LabelMap && self.replacement.is_empty() {
            return Err("action labelmap needs a replacement that names labels".into());
        }
        let other_case = matches!(self.action, Action::Lowercase | Action::Uppercase);
        if other_case && self.replacement != default.replacement {
            return Err(format!("action {name} takes no replacement"));
        }
        if self.action == Action::HashMod && self.modulus == 0 {
            return Err("action hashmod needs a modulus above 0".into());
        }
        let plain = self.pattern == default.pattern
            && self.modulus == 0
            && self.replacement == default.replacement
            && self.separator == default.separator;
        if matches!(self.action, Action::KeepEqual | Action::DropEqual) && !plain {
            return Err(format!("action {name} takes source_labels and target_label only"));
        }
        let nothing_else = plain_but_pattern(self, &default);
        if matches!(self.action, Action::LabelDrop | Action::LabelKeep) && !nothing_else {
            return Err(format!("action {name} takes regex only"));
        }
        let fixed = !self.target.contains('$');
        let cased = matches!(self.action, Action::Lowercase | Action::Uppercase | Action::HashMod);
        if cased && (!fixed || self.target.is_empty()) {
            return Err(format!("{:?} is no label name", self.target));
        }
        Ok(())
    }

    fn source_of(&self, labels: &Labels) -> String {
        let values: Vec<&str> = self.source.iter().map(|name| labels.get(name)).collect();
        values.join(&self.separator)
    }

    /// `None`: dropped.
    fn apply(&self, labels: Labels) -> Option<Labels> {
        let source = self.source_of(&labels);
        let kept = |keep: bool, labels| keep.then_some(labels);
        match self.action {
            Action::Keep => kept(self.pattern.takes(&source), labels),
            Action::Drop => kept(!self.pattern.takes(&source), labels),
            Action::KeepEqual => kept(labels.get(&self.target) == source, labels),
            Action::DropEqual => kept(labels.get(&self.target) != source, labels),
            Action::Replace => Some(self.replace(labels, &source)),
            Action::Lowercase => Some(labels.with(&self.target, &source.to_lowercase())),
            Action::Uppercase => Some(labels.with(&self.target, &source.to_uppercase())),
            Action::HashMod => {
                Some(labels.with(&self.target, &(hash(&source) % self.modulus).to_string()))
            }
            Action::LabelMap => {
                let mut mapped = labels.clone();
                for (name, value) in labels.iter() {
                    if self.pattern.takes(name) {
                        let to = self.pattern.regex.replace(name, &*self.replacement);
                        mapped = mapped.with(&to, value);
                    }
                }
                Some(mapped)
            }
            Action::LabelDrop => Some(self.of_names(&labels, false)),
            Action::LabelKeep => Some(self.of_names(&labels, true)),
        }
    }

    fn of_names(&self, labels: &Labels, keep: bool) -> Labels {
        Labels::new(labels.iter().filter(|(name, _)| self.pattern.takes(name) == keep))
    }

    fn replace(&self, labels: Labels, source: &str) -> Labels {
        let Some(taken) = self.pattern.regex.captures(source) else { return labels };
        let (mut target, mut value) = (String::new(), String::new());
        taken.expand(&self.target, &mut target);
        taken.expand(&self.replacement, &mut value);
        if !is_label_name(&target) {
            return labels;
        }
        labels.with(&target, &value)
    }
}

fn plain_but_pattern(rule: &Rule, default: &Rule) -> bool {
    rule.source.is_empty()
        && rule.target.is_empty()
        && rule.modulus == 0
        && rule.separator == default.separator
        && rule.replacement == default.replacement
}

/// Whether a label may have this name: any text but the empty one.
pub(crate) fn is_label_name(name: &str) -> bool {
    !name.is_empty()
}

/// The last eight bytes of the MD5 of the text: what Prometheus takes, so that both put a
/// target into the same shard.
fn hash(text: &str) -> u64 {
    let digest = md5::compute(text.as_bytes());
    u64::from_be_bytes(digest[8..].try_into().expect("eight of sixteen bytes"))
}

/// All rules in turn; `None`: one of them dropped it.
pub fn relabel(labels: Labels, rules: &[Rule]) -> Option<Labels> {
    rules.iter().try_fold(labels, |labels, rule| rule.apply(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, source: &[&str], target: &str, pattern: &str, with: &str) -> Rule {
        let mut rule = Rule::new(action);
        rule.source = source.iter().map(|s| (*s).to_owned()).collect();
        rule.target = target.into();
        rule.pattern = Pattern::new(pattern).expect("a pattern");
        rule.replacement = with.into();
        rule
    }

    fn check(rules: &[Rule], from: &[(&str, &str)], to: Option<&[(&str, &str)]>) {
        let labels = relabel(Labels::new(from.iter().copied()), rules);
        assert_eq!(labels, to.map(|pairs| Labels::new(pairs.iter().copied())), "{rules:?}");
    }

    #[test]
    fn every_action_does_what_it_says() {
        let from = [("a", "foo"), ("b", "Bar"), ("c", "foo")];
        let with = |more: &[(&'static str, &'static str)]| [&from[..], more].concat();
        let is = |action, source: &[&str], target, pattern, replacement, to: Option<&[_]>| {
            check(&[rule(action, source, target, pattern, replacement)], &from, to);
        };
        is(
            Action::Replace,
            &["a", "b"],
            "d",
            "f(.*);(.).*",
            "$2-${1}",
            Some(&with(&[("d", "B-oo")])),
        );
        // No match, no change; an empty value removes; the target may hold a group.
        is(Action::Replace, &["a"], "d", "x", "y", Some(&from));
        is(Action::Replace, &["a"], "b", "foo", "", Some(&[("a", "foo"), ("c", "foo")]));
        is(Action::Replace, &["a"], "${1}_x", "(f).*", "v", Some(&with(&[("f_x", "v")])));
        is(
            Action::Lowercase,
            &["b"],
            "b",
            "(.*)",
            "$1",
            Some(&[("a", "foo"), ("b", "bar"), ("c", "foo")]),
        );
        is(
            Action::Uppercase,
            &["a"],
            "a",
            "(.*)",
            "$1",
            Some(&[("a", "FOO"), ("b", "Bar"), ("c", "foo")]),
        );
        is(Action::Keep, &["a"], "", "fo+", "$1", Some(&from));
        is(Action::Keep, &["a"], "", "fo", "$1", None);
        is(Action::Drop, &["a"], "", "fo+", "$1", None);
        is(Action::Drop, &["none"], "", ".+", "$1", Some(&from));
        is(Action::KeepEqual, &["a"], "c", "(.*)", "$1", Some(&from));
        is(Action::KeepEqual, &["a"], "b", "(.*)", "$1", None);
        is(Action::DropEqual, &["a"], "c", "(.*)", "$1", None);
        is(
            Action::LabelMap,
            &[],
            "",
            "(a|b)",
            "x_$1",
            Some(&with(&[("x_a", "foo"), ("x_b", "Bar")])),
        );
        is(Action::LabelDrop, &[], "", "a|b", "$1", Some(&[("c", "foo")]));
        is(Action::LabelKeep, &[], "", "a|b", "$1", Some(&[("a", "foo"), ("b", "Bar")]));
    }

    #[test]
    fn the_hash_is_that_of_prometheus() {
        // The MD5 of "foo" is acbd18db4cc2f85cedef654fccc4a4d8.
        let mut of = rule(Action::HashMod, &["a"], "shard", "(.*)", "$1");
        of.modulus = 1 << 32;
        check(&[of], &[("a", "foo")], Some(&[("a", "foo"), ("shard", "3435439320")]));
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let told = |rule: Rule| rule.check().expect_err("refused");
        assert!(told(Rule::new(Action::Replace)).contains("target_label"));
        assert!(told(rule(Action::HashMod, &["a"], "b", "(.*)", "$1")).contains("modulus"));
        assert!(told(rule(Action::LabelDrop, &["a"], "", "b", "$1")).contains("regex only"));
        assert!(told(rule(Action::KeepEqual, &["a"], "b", "x", "$1")).contains("only"));
        assert!(Pattern::new("(").is_err());
    }
}
