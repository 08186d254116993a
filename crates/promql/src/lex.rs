//! Text to tokens.

use crate::Error;
use std::ops::Range;

/// One token.
#[derive(Clone, PartialEq, Debug)]
pub enum Token {
    /// A name, a keyword, or a series' name (which may contain colons).
    Name(String),
    /// A number.
    Number(f64),
    /// A length of time, ms.
    Duration(i64),
    /// A text without its quotes and escapes.
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    /// Behind the last one.
    End,
}

/// A token and where it stands (bytes).
pub type Placed = (Token, Range<usize>);

const SIGNS: [&str; 26] = [
    "=~", "!~", "!=", "==", ">=", "<=", "(", ")", "{", "}", "[", "]", ",", "+", "-", "*", "/", "%",
    "^", ">", "<", "=", "@", ":", "!", ";",
];

/// All tokens, with [`Token::End`] last.
pub fn tokens(text: &str) -> Result<Vec<Placed>, Error> {
    let mut lexer = Lexer { text, at: 0, brackets: 0 };
    let mut all = Vec::new();
    loop {
        lexer.skip_blank();
        let from = lexer.at;
        if from == text.len() {
            all.push((Token::End, from..from));
            return Ok(all);
        }
        let token = lexer.token()?;
        all.push((token, from..lexer.at));
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Depth of `[`: a colon in there separates.
    brackets: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn first(&self) -> char {
        self.rest().chars().next().unwrap_or('\0')
    }

    fn skip_blank(&mut self) {
        loop {
            let blank = self.rest().len() - self.rest().trim_start().len();
            self.at += blank;
            if self.first() != '#' {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take_while(&mut self, part: impl Fn(char) -> bool) -> String {
        let end = self.rest().find(|c| !part(c)).unwrap_or(self.rest().len());
        let taken = self.rest()[..end].to_owned();
        self.at += end;
        taken
    }

    fn fail<T>(&self, from: usize, why: impl Into<String>) -> Result<T, Error> {
        Err(Error::parse(from..self.at.max(from + 1).min(self.text.len().max(from)), why))
    }

    fn token(&mut self) -> Result<Token, Error> {
        let c = self.first();
        let next_digit = self.rest()[c.len_utf8()..].starts_with(|d: char| d.is_ascii_digit());
        if c.is_ascii_digit() || c == '.' && next_digit {
            return self.number();
        }
        if matches!(c, '"' | '\'' | '`') {
            return self.quoted(c);
        }
        let colon = c == ':' && self.brackets == 0;
        if c.is_ascii_alphabetic() || c == '_' || colon {
            let colons = self.brackets == 0;
            let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || colons && c == ':';
            return Ok(Token::Name(self.take_while(part)));
        }
        match SIGNS.iter().find(|s| self.rest().starts_with(**s)) {
            Some(sign) => {
                self.at += sign.len();
                match *sign {
                    "[" => self.brackets += 1,
                    "]" => self.brackets = self.brackets.saturating_sub(1),
                    _ => {}
                }
                Ok(Token::Sign(sign))
            }
            None => {
                let from = self.at;
                self.at += c.len_utf8();
                self.fail(from, format!("unexpected character {c:?}"))
            }
        }
    }

    /// Digits, without the underscores that may stand before each.
    fn digits(&mut self, digit: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        loop {
            text += &self.take_while(&digit);
            let between = self.first() == '_' && self.rest()[1..].starts_with(&digit);
            if !between {
                return text;
            }
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Token, Error> {
        let from = self.at;
        let lower = self.rest().get(..2).unwrap_or_default().to_ascii_lowercase();
        if lower == "0x" {
            self.at += 2;
            let digits = self.digits(|c| c.is_ascii_hexdigit());
            let number = i64::from_str_radix(&digits, 16);
            return match number {
                Ok(n) => Ok(Token::Number(n as f64)),
                Err(_) => self.fail(from, format!("bad number {:?}", &self.text[from..self.at])),
            };
        }
        let whole = self.digits(|c| c.is_ascii_digit());
        if self.first().is_ascii_alphabetic() && !matches!(self.first(), 'e' | 'E') {
            self.at = from;
            let text = self.take_while(|c| c.is_ascii_alphanumeric());
            return match duration(&text) {
                Some(ms) => Ok(Token::Duration(ms)),
                None => self.fail(from, format!("bad number or duration {text:?}")),
            };
        }
        let mut text = whole;
        if self.first() == '.' {
            self.at += 1;
            text += ".";
            text += &self.digits(|c| c.is_ascii_digit());
        }
        if matches!(self.first(), 'e' | 'E') {
            self.at += 1;
            text += "e";
            if matches!(self.first(), '+' | '-') {
                text.push(self.first());
                self.at += 1;
            }
            text += &self.take_while(|c| c.is_ascii_digit());
        }
        if self.first().is_ascii_alphabetic() || self.first() == '_' {
            self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
            return self.fail(from, format!("bad number {:?}", &self.text[from..self.at]));
        }
        // As in Go, a whole number that begins with 0 is octal if it can be.
        let octal = text.len() > 1 && text.starts_with('0');
        if octal && let Ok(n) = i64::from_str_radix(&text, 8) {
            return Ok(Token::Number(n as f64));
        }
        match text.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Token::Number(n)),
            _ => self.fail(from, format!("bad number {text:?}")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Token, Error> {
        let from = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return self.fail(from, "unterminated quoted string");
            };
            self.at += c.len_utf8();
            match c {
                c if c == quote => break,
                '\n' if quote != '`' => return self.fail(from, "unterminated quoted string"),
                '\\' if quote != '`' => self.escape(quote, &mut bytes)?,
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(Token::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Escapes as Go has them.
    fn escape(&mut self, quote: char, out: &mut Vec<u8>) -> Result<(), Error> {
        let from = self.at - 1;
        let c = self.first();
        self.at += c.len_utf8().min(self.rest().len());
        let plain = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            c if c == quote => Some(quote as u8),
            _ => None,
        };
        if let Some(byte) = plain {
            out.push(byte);
            return Ok(());
        }
        let digits = match c {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return self.fail(from, "unknown escape sequence"),
        };
        let code = self.rest().get(..digits.0).and_then(|d| u32::from_str_radix(d, digits.1).ok());
        let Some(code) = code else { return self.fail(from, "bad escape sequence") };
        self.at += digits.0;
        match (c, u8::try_from(code), char::from_u32(code)) {
            ('x' | '0'..='7', Ok(byte), _) => out.push(byte),
            ('u' | 'U', _, Some(c)) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            _ => return self.fail(from, "the escape sequence is no character"),
        }
        Ok(())
    }
}

/// The longest length of time, ms: 292 years, what nanoseconds in 64 bits hold.
pub const DURATION_MAX: i64 = i64::MAX / 1_000_000;

/// Units of time, ms.
pub const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `1h30m` and the like, ms: units in descending order, each at most once.
pub fn duration(text: &str) -> Option<i64> {
    let (mut rest, mut total, mut last) = (text, 0i64, None);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let which = UNITS.iter().position(|(name, _)| *name == &unit[..end])?;
        if last.is_some_and(|l| which <= l) {
            return None;
        }
        last = Some(which);
        total = total.checked_add(number.checked_mul(UNITS[which].1)?)?;
        rest = &unit[end..];
    }
    last.filter(|_| total <= DURATION_MAX).map(|_| total)
}
