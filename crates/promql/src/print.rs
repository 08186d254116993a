//! Expressions as text.

use crate::ast::{At, Expr, Grouping, Many, Matching, Node, Selector, When};
use crate::labels::{NAME, quoted};
use crate::length::Length;
use crate::lex::UNITS;
use crate::parse::is_bare_name;
use std::fmt::{self, Display, Formatter};

/// Reads back as the same expression.
impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.expr {
            Expr::Number(n) if n.is_infinite() => {
                f.write_str(if *n > 0.0 { "Inf" } else { "-Inf" })
            }
            Expr::Number(n) => write!(f, "{n}"),
            Expr::Text(text) => f.write_str(&quoted(text)),
            Expr::Vector(s) => write!(f, "{s}{}", s.time),
            Expr::Matrix { selector, range, written } => {
                write!(f, "{selector}[{}]{}", length(*range, written), selector.time)
            }
            Expr::Subquery { inner, range, step, time, written } => {
                let step = step.map(|step| length(step, &written.1)).unwrap_or_default();
                write!(f, "{inner}[{}:{step}]{time}", length(*range, &written.0))
            }
            Expr::Call { function, args } => {
                let arg = |(i, arg): (usize, &Node)| match &arg.expr {
                    Expr::Vector(s) if i == 1 && function.name == "info" => in_braces(&s.matchers),
                    _ => arg.to_string(),
                };
                let args: Vec<String> = args.iter().enumerate().map(arg).collect();
                write!(f, "{}({})", function.name, args.join(", "))
            }
            Expr::Aggregate { op, param, inner, grouping } => {
                write!(f, "{}{grouping} (", op.name())?;
                if let Some(param) = param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{inner})")
            }
            Expr::Binary { op, left, right, returns_bool, matching } => {
                let returns_bool = if *returns_bool { " bool" } else { "" };
                write!(f, "{left} {}{returns_bool}{matching} {right}", op.sign())
            }
            Expr::Minus(inner) => write!(f, "-{inner}"),
            Expr::Plus(inner) => write!(f, "+{inner}"),
            Expr::Paren(inner) => write!(f, "({inner})"),
        }
    }
}

/// The matchers alone.
impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names = self.matchers.iter().filter(|m| m.name == NAME).count();
        let name = self.matchers.first().filter(|m| m.name == NAME && names == 1);
        let name = name.and_then(|m| m.equal_to()).filter(|name| is_bare_name(name));
        let rest = &self.matchers[usize::from(name.is_some())..];
        f.write_str(name.unwrap_or_default())?;
        if rest.is_empty() {
            return Ok(());
        }
        f.write_str(&in_braces(rest))
    }
}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.at {
            None => {}
            Some(At::Start) => f.write_str(" @ start()")?,
            Some(At::End) => f.write_str(" @ end()")?,
            Some(At::Time(ms)) => {
                let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
                write!(f, " @ {sign}{}.{:03}", ms / 1_000, ms % 1_000)?;
            }
        }
        if let Some(written) = &self.written {
            return write!(f, " offset {written}");
        }
        match self.offset {
            0 => Ok(()),
            ms if ms < 0 => write!(f, " offset -{}", duration_text(-ms)),
            ms => write!(f, " offset {}", duration_text(ms)),
        }
    }
}

impl Display for Grouping {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.without, self.labels.is_empty()) {
            (false, true) => Ok(()),
            (true, _) => write!(f, " without ({})", list(&self.labels)),
            (false, false) => write!(f, " by ({})", list(&self.labels)),
        }
    }
}

impl Display for Matching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if *self == Matching::default() {
            return Ok(());
        }
        let unfilled = Matching { fill_left: None, fill_right: None, ..self.clone() };
        if unfilled != Matching::default() {
            let which = if self.on { "on" } else { "ignoring" };
            write!(f, " {which} ({})", list(&self.labels))?;
        }
        match self.many {
            Many::Neither => {}
            Many::Left => write!(f, " group_left ({})", list(&self.include))?,
            Many::Right => write!(f, " group_right ({})", list(&self.include))?,
        }
        match (self.fill_left, self.fill_right) {
            (Some(left), Some(right)) if left == right => write!(f, " fill ({left})"),
            (left, right) => {
                left.iter().try_for_each(|v| write!(f, " fill_left ({v})"))?;
                right.iter().try_for_each(|v| write!(f, " fill_right ({v})"))
            }
        }
    }
}

fn list(labels: &[String]) -> String {
    labels.iter().map(|l| label(l)).collect::<Vec<_>>().join(", ")
}

fn label(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let plain = first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { quoted(name) }
}

/// A length as it is written, or as it is.
fn length(ms: i64, written: &Option<Length>) -> String {
    written.as_ref().map_or_else(|| duration_text(ms), Length::to_string)
}

fn in_braces(matchers: &[crate::Matcher]) -> String {
    let matcher = |m: &crate::Matcher| format!("{}{}{}", label(&m.name), m.op(), quoted(&m.value));
    let all: Vec<String> = matchers.iter().map(matcher).collect();
    format!("{{{}}}", all.join(", "))
}

/// A duration in ms, as [`crate::duration`] reads it.
pub fn duration_text(mut ms: i64) -> String {
    let mut text = String::new();
    for (unit, length) in UNITS {
        // Years and weeks only if nothing is left: 15 days are not two weeks and one.
        let coarse = matches!(unit, "y" | "w");
        if ms >= length && (!coarse || ms % length == 0) {
            text += &format!("{}{unit}", ms / length);
            ms %= length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::duration_text;

    #[test]
    fn durations_are_as_prometheus_writes_them() {
        let day = 86_400_000;
        for (ms, text) in [
            (15 * day, "15d"),
            (14 * day, "2w"),
            (365 * day, "1y"),
            (366 * day, "366d"),
            (day + 3_600_000, "1d1h"),
            (5_400_000, "1h30m"),
            (1_500, "1s500ms"),
        ] {
            assert_eq!(duration_text(ms), text);
            assert_eq!(crate::duration(text), Some(ms));
        }
    }
}
