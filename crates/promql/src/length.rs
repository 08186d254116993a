//! Lengths of time that are computed: `[5m * 2]`, `offset (1h / 2)`, `[max(step(), 30s)]`.
//! All is in seconds, plain numbers too. What depends on the query is known when that is
//! evaluated; until then the expression's length is 0.

use crate::Error;
use crate::ast::{Expr, Node, When};
use crate::eval::Query;
use crate::lex::DURATION_MAX;
use crate::print::duration_text;
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

/// See the file's header.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// A duration, ms.
    Ms(i64),
    /// A number.
    Seconds(f64),
    /// `step()`: between two steps of the query; 0 if it has but one.
    Step,
    /// `range()`: from the first to the last.
    Range,
    /// The negative.
    Minus(Box<Length>),
    /// In parentheses.
    Paren(Box<Length>),
    /// One of `+`, `-`, `*`, `/`, `%`, `^`.
    Two(char, Box<Length>, Box<Length>),
    /// `min(a, b)`.
    Least(Box<Length>, Box<Length>),
    /// `max(a, b)`.
    Most(Box<Length>, Box<Length>),
}

impl Length {
    /// Whether it is what it is, whatever the query.
    pub(crate) fn is_constant(&self) -> bool {
        match self {
            Length::Ms(_) | Length::Seconds(_) => true,
            Length::Step | Length::Range => false,
            Length::Minus(a) | Length::Paren(a) => a.is_constant(),
            Length::Two(_, a, b) | Length::Least(a, b) | Length::Most(a, b) => {
                a.is_constant() && b.is_constant()
            }
        }
    }

    /// In this query; what cannot be computed says why.
    pub(crate) fn seconds(&self, query: Query) -> Result<f64, &'static str> {
        let instant = query == Query::instant(query.start);
        Ok(match self {
            Length::Ms(ms) => *ms as f64 / 1_000.0,
            Length::Seconds(s) => *s,
            Length::Step | Length::Range if instant => 0.0,
            Length::Step => query.step as f64 / 1_000.0,
            Length::Range => (query.end - query.start) as f64 / 1_000.0,
            Length::Minus(a) => -a.seconds(query)?,
            Length::Paren(a) => a.seconds(query)?,
            Length::Least(a, b) => a.seconds(query)?.min(b.seconds(query)?),
            Length::Most(a, b) => a.seconds(query)?.max(b.seconds(query)?),
            Length::Two(sign, a, b) => {
                let (a, b) = (a.seconds(query)?, b.seconds(query)?);
                match sign {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    '/' if b == 0.0 => return Err("division by zero"),
                    '/' => a / b,
                    '%' if b == 0.0 => return Err("modulo by zero"),
                    '%' => a % b,
                    _ => a.powf(b),
                }
            }
        })
    }

    /// In this query, ms; above 0 if it has to be.
    pub(crate) fn ms(&self, query: Query, positive: bool) -> Result<i64, &'static str> {
        let ms = (self.seconds(query)? * 1_000.0).round();
        if ms.is_nan() || ms.abs() > DURATION_MAX as f64 {
            return Err("duration out of range");
        }
        match ms as i64 {
            ms if positive && ms <= 0 => Err("duration must be greater than 0"),
            ms => Ok(ms),
        }
    }
}

impl Display for Length {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Length::Ms(0) => f.write_str("0s"),
            Length::Ms(ms) => f.write_str(&duration_text(*ms)),
            Length::Seconds(s) => write!(f, "{s}"),
            Length::Step => f.write_str("step()"),
            Length::Range => f.write_str("range()"),
            Length::Minus(a) => write!(f, "-{a}"),
            Length::Paren(a) => write!(f, "({a})"),
            Length::Two(sign, a, b) => write!(f, "{a} {sign} {b}"),
            Length::Least(a, b) => write!(f, "min({a}, {b})"),
            Length::Most(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

/// The expression with all lengths as they are in this query.
pub(crate) fn resolved(node: &Node, query: Query) -> Result<Cow<'_, Node>, Error> {
    if !node.has_lengths() {
        return Ok(Cow::Borrowed(node));
    }
    let mut node = node.clone();
    resolve(&mut node, query).map_err(Error::execution)?;
    Ok(Cow::Owned(node))
}

fn resolve_when(time: &mut When, query: Query) -> Result<(), &'static str> {
    if let Some(written) = &time.written {
        time.offset = written.ms(query, false)?;
    }
    Ok(())
}

fn resolve(node: &mut Node, query: Query) -> Result<(), &'static str> {
    match &mut node.expr {
        Expr::Number(_) | Expr::Text(_) => Ok(()),
        Expr::Vector(selector) => resolve_when(&mut selector.time, query),
        Expr::Matrix { selector, range, written } => {
            if let Some(written) = written {
                *range = written.ms(query, true)?;
            }
            resolve_when(&mut selector.time, query)
        }
        Expr::Subquery { inner, range, step, time, written } => {
            if let Some(written) = &written.0 {
                *range = written.ms(query, true)?;
            }
            if let Some(written) = &written.1 {
                *step = Some(written.ms(query, true)?);
            }
            resolve_when(time, query)?;
            resolve(inner, query)
        }
        Expr::Minus(inner) | Expr::Plus(inner) | Expr::Paren(inner) => resolve(inner, query),
        Expr::Call { args, .. } => args.iter_mut().try_for_each(|arg| resolve(arg, query)),
        Expr::Aggregate { param, inner, .. } => {
            param.iter_mut().try_for_each(|param| resolve(param, query))?;
            resolve(inner, query)
        }
        Expr::Binary { left, right, .. } => {
            resolve(left, query)?;
            resolve(right, query)
        }
    }
}

impl Node {
    /// Whether a length in it is computed.
    fn has_lengths(&self) -> bool {
        match &self.expr {
            Expr::Number(_) | Expr::Text(_) => false,
            Expr::Vector(selector) => selector.time.written.is_some(),
            Expr::Matrix { selector, written, .. } => {
                written.is_some() || selector.time.written.is_some()
            }
            Expr::Subquery { inner, time, written, .. } => {
                written.0.is_some()
                    || written.1.is_some()
                    || time.written.is_some()
                    || inner.has_lengths()
            }
            Expr::Minus(inner) | Expr::Plus(inner) | Expr::Paren(inner) => inner.has_lengths(),
            Expr::Call { args, .. } => args.iter().any(Node::has_lengths),
            Expr::Aggregate { param, inner, .. } => {
                inner.has_lengths() || param.iter().any(|param| param.has_lengths())
            }
            Expr::Binary { left, right, .. } => left.has_lengths() || right.has_lengths(),
        }
    }
}
