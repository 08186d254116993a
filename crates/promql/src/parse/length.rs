//! Lengths of time, and what computes them.

use super::{DEPTH_MAX, Parser, show};
use crate::Error;
use crate::eval::Query;
use crate::length::Length;
use crate::lex::{DURATION_MAX, Token};

/// Signs in a length, at most.
const SIGNS_MAX: usize = 100;

/// A length, and what it was computed from, if that is more than a number.
pub(super) type Written = (i64, Option<Length>);

impl Parser {
    /// A length above 0: all that stands there.
    pub(super) fn duration(&mut self, what: &str) -> Result<Written, Error> {
        let from = self.span();
        let length = self.sum(what, 1, &mut 0)?;
        self.checked(length, true, from.start)
    }

    /// An offset: one number or duration, or what is in parentheses.
    pub(super) fn signed_duration(&mut self) -> Result<Written, Error> {
        let from = self.span().start;
        let minus = self.takes("-");
        if !minus {
            self.takes("+");
        }
        let length = self.term("an offset", &mut 0)?;
        match if minus { Length::Minus(Box::new(length)) } else { length } {
            Length::Minus(inner) if matches!(*inner, Length::Ms(_) | Length::Seconds(_)) => {
                self.checked(*inner, false, from).map(|(ms, _)| (-ms, None))
            }
            length => self.checked(length, false, from),
        }
    }

    fn checked(&self, length: Length, positive: bool, from: usize) -> Result<Written, Error> {
        let fail = |why: &str| Error::parse(from..self.end(), why);
        let bare = matches!(length, Length::Ms(_) | Length::Seconds(_));
        if !length.is_constant() {
            return Ok((0, Some(length)));
        }
        if let Length::Seconds(s) = length
            && s * 1_000.0 > DURATION_MAX as f64
        {
            return Err(fail("duration out of range"));
        }
        // It is the same in any query.
        let ms = match length {
            // A number's thousandths are cut off, not rounded.
            Length::Seconds(s) => (s * 1_000.0) as i64,
            _ => length.ms(Query::instant(0), false).map_err(fail)?,
        };
        if positive && ms <= 0 {
            return Err(fail("duration must be greater than 0"));
        }
        Ok((ms, (!bare).then_some(length)))
    }

    /// Terms with signs between them, none of which binds weaker.
    fn sum(&mut self, what: &str, lowest: u8, signs: &mut usize) -> Result<Length, Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("the expression nests deeper than {DEPTH_MAX} levels"));
        }
        let mut left = if self.takes("-") {
            Length::Minus(Box::new(self.sum(what, lowest.max(2), signs)?))
        } else {
            self.takes("+");
            self.term(what, signs)?
        };
        while let Some((sign, binds)) = self.sign().filter(|(_, binds)| *binds >= lowest) {
            *signs += 1;
            if *signs > SIGNS_MAX {
                return self.fail(format!("a duration has more than {SIGNS_MAX} operators"));
            }
            self.next();
            // The power is the only one that goes from the right.
            let right = self.sum(what, binds + u8::from(sign != '^'), signs)?;
            left = Length::Two(sign, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn sign(&self) -> Option<(char, u8)> {
        match self.peek() {
            Token::Sign("+") => Some(('+', 1)),
            Token::Sign("-") => Some(('-', 1)),
            Token::Sign("*") => Some(('*', 2)),
            Token::Sign("/") => Some(('/', 2)),
            Token::Sign("%") => Some(('%', 2)),
            Token::Sign("^") => Some(('^', 3)),
            _ => None,
        }
    }

    fn term(&mut self, what: &str, signs: &mut usize) -> Result<Length, Error> {
        let length = match self.peek() {
            Token::Duration(ms) => Length::Ms(*ms),
            Token::Number(s) => Length::Seconds(*s),
            Token::Sign("(") => {
                self.next();
                let inner = self.sum(what, 1, signs)?;
                self.expect(")", what)?;
                return Ok(Length::Paren(Box::new(inner)));
            }
            Token::Name(name) => {
                let word = name.to_ascii_lowercase();
                return self.named_length(what, &word, signs);
            }
            other => {
                let found = show(other);
                return self.fail(format!("unexpected {found} as {what}, expected duration"));
            }
        };
        self.next();
        Ok(length)
    }

    fn named_length(&mut self, what: &str, word: &str, signs: &mut usize) -> Result<Length, Error> {
        if !matches!(word, "step" | "range" | "min" | "max") {
            let found = show(self.peek());
            return self.fail(format!("unexpected {found} as {what}, expected duration"));
        }
        self.next();
        self.expect("(", what)?;
        let length = match word {
            "step" => Length::Step,
            "range" => Length::Range,
            _ => {
                let first = Box::new(self.sum(what, 1, signs)?);
                self.expect(",", what)?;
                let second = Box::new(self.sum(what, 1, signs)?);
                match word {
                    "min" => Length::Least(first, second),
                    _ => Length::Most(first, second),
                }
            }
        };
        self.expect(")", what)?;
        Ok(length)
    }
}
