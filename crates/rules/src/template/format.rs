//! Numbers and `printf`, printed as Go prints them: people compare texts of alerts.

use super::Value;
use std::fmt::Write;

/// Widths and precisions, at most; more is an error in the text, as in Go.
const WIDTH_MAX: usize = 1_000;
/// Below this exponent, or from the precision on, `%g` writes an exponent.
const EXPONENT_MIN: i32 = -4;
/// The precision by which the shortest form decides that.
const SHORTEST_DECIDES: i32 = 6;

/// The digits of a number and its decimal exponent: `1.25e3` is `("125", 3)`.
fn digits(v: f64, precision: Option<usize>) -> (String, i32) {
    let text = match precision {
        Some(p) => format!("{:.*e}", p.saturating_sub(1), v.abs()),
        None => format!("{:e}", v.abs()),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.replace('.', ""), exponent.parse().unwrap_or(0))
}

fn special(v: f64) -> Option<&'static str> {
    if v.is_nan() {
        return Some("NaN");
    }
    v.is_infinite().then_some(if v > 0.0 { "+Inf" } else { "-Inf" })
}

fn sign(v: f64) -> &'static str {
    if v.is_sign_negative() { "-" } else { "" }
}

/// A number with an exponent and as few digits as tell it from all others: `1.5e+00`.
pub fn exponential(v: f64) -> String {
    special(v).map_or_else(
        || {
            let (digits, exponent) = digits(v, None);
            with_exponent(v, &digits, exponent)
        },
        str::to_owned,
    )
}

/// As `%e` writes it: at least two digits of exponent.
fn with_exponent(v: f64, digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let way = if exponent < 0 { '-' } else { '+' };
    format!("{}{first}{point}{rest}e{way}{:02}", sign(v), exponent.abs())
}

/// As `%g` writes it; without a precision, with as few digits as tell the number from all
/// others (`%v`).
pub(crate) fn general(v: f64, precision: Option<usize>) -> String {
    if let Some(text) = special(v) {
        return text.into();
    }
    let precision = precision.map(|p| p.max(1));
    let (digits, exponent) = digits(v, precision);
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        some => some,
    };
    let decides = match precision {
        // Whole digits that are there need no exponent.
        Some(p) if p > digits.len() && digits.len() as i32 > exponent => digits.len() as i32,
        Some(p) => p as i32,
        None => SHORTEST_DECIDES,
    };
    if exponent < EXPONENT_MIN || exponent >= decides {
        return with_exponent(v, digits, exponent);
    }
    let mut out = sign(v).to_owned();
    if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        out.push_str(digits);
        return out;
    }
    let whole = exponent as usize + 1;
    for at in 0..whole.max(digits.len()) {
        if at == whole {
            out.push('.');
        }
        out.push(digits.as_bytes().get(at).map_or('0', |d| char::from(*d)));
    }
    out
}

/// A verb of `printf`, with what stands between it and the `%`.
#[derive(Default)]
struct Verb {
    plus: bool,
    minus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Verb {
    fn padded(&self, text: &str, number: bool) -> String {
        let length = text.chars().count();
        let missing = self.width.unwrap_or(0).saturating_sub(length);
        if missing == 0 {
            return text.to_owned();
        }
        if self.minus {
            return format!("{text}{}", " ".repeat(missing));
        }
        if !self.zero {
            return format!("{}{text}", " ".repeat(missing));
        }
        let signed = number && text.starts_with(['+', '-']);
        let (sign, rest) = text.split_at(usize::from(signed));
        format!("{sign}{}{rest}", "0".repeat(missing))
    }

    fn signed(&self, text: String) -> String {
        match (text.starts_with(['-', '+']), self.plus, self.space) {
            (false, true, _) => format!("+{text}"),
            (false, false, true) => format!(" {text}"),
            _ => text,
        }
    }

    fn float(&self, verb: char, v: f64) -> Option<String> {
        if !v.is_finite() {
            // Not padded with zeros, and the sign of +Inf is written only if asked for.
            let text = if v > 0.0 && !self.plus { "Inf" } else { special(v)? };
            let text = if verb == 'v' && v > 0.0 { "+Inf" } else { text };
            return Some(Verb { zero: false, ..*self }.padded(text, true));
        }
        let text = match verb {
            'v' | 'g' => general(v, self.precision),
            'G' => general(v, self.precision).to_uppercase(),
            'f' | 'F' => format!("{:.*}", self.precision.unwrap_or(6), v),
            'e' | 'E' => {
                let (digits, exponent) = digits(v, Some(self.precision.unwrap_or(6) + 1));
                let text = with_exponent(v, &digits, exponent);
                if verb == 'E' { text.to_uppercase() } else { text }
            }
            _ => return None,
        };
        Some(self.padded(&self.signed(text), true))
    }

    fn int(&self, verb: char, v: i64) -> Option<String> {
        let sign = if v < 0 { "-" } else { "" };
        let size = v.unsigned_abs();
        let text = match verb {
            'v' | 'd' => format!("{sign}{size}"),
            'b' => format!("{sign}{size:b}"),
            'o' => format!("{sign}{}{size:o}", if self.sharp { "0" } else { "" }),
            'x' => format!("{sign}{}{size:x}", if self.sharp { "0x" } else { "" }),
            'X' => format!("{sign}{}{size:X}", if self.sharp { "0X" } else { "" }),
            'c' => u32::try_from(v).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').into(),
            'q' => {
                let c = u32::try_from(v).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                format!("'{c}'")
            }
            'U' => format!("U+{size:04X}"),
            _ => return None,
        };
        let text = if verb == 'c' || verb == 'q' { text } else { self.signed(text) };
        Some(self.padded(&text, true))
    }

    fn text(&self, verb: char, v: &str) -> Option<String> {
        let cut = |v: &str| match self.precision {
            Some(p) => v.chars().take(p).collect(),
            None => v.to_owned(),
        };
        let text = match verb {
            'v' | 's' => cut(v),
            'q' => quoted(&cut(v)),
            'x' => v.bytes().fold(String::new(), |mut out, b| {
                let _ = write!(out, "{b:02x}");
                out
            }),
            'X' => v.bytes().fold(String::new(), |mut out, b| {
                let _ = write!(out, "{b:02X}");
                out
            }),
            _ => return None,
        };
        Some(self.padded(&text, false))
    }

    fn value(&self, verb: char, value: &Value) -> Option<String> {
        match (verb, value) {
            ('T', _) => Some(self.padded(value.type_name(), false)),
            (_, Value::Float(v)) => self.float(verb, *v),
            (_, Value::Int(v)) => self.int(verb, *v),
            (_, Value::Text(v)) => self.text(verb, v),
            ('v' | 't', Value::Bool(v)) => Some(self.padded(&v.to_string(), false)),
            ('v', Value::Nil) => Some(self.padded("<nil>", false)),
            (_, Value::Nil) => None,
            ('v' | 's', other) => Some(self.padded(&other.printed(), false)),
            _ => None,
        }
    }
}

/// In quotes, as Go writes a string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// `printf` of a format and its values. What does not fit is said in the text.
pub(crate) fn printf(format: &str, values: &[Value]) -> String {
    let (mut out, mut rest, mut next) = (String::new(), format, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut verb = Verb::default();
        rest = flags(rest, &mut verb);
        rest = number(rest, values, &mut next, &mut verb.width, &mut verb.minus);
        if let Some(after) = rest.strip_prefix('.') {
            let mut negative = false;
            rest = number(after, values, &mut next, &mut verb.precision, &mut negative);
            verb.precision = verb.precision.or(Some(0)).filter(|_| !negative);
        }
        let Some(letter) = rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &rest[letter.len_utf8()..];
        if letter == '%' {
            out.push('%');
            continue;
        }
        if verb.width.max(verb.precision).is_some_and(|n| n > WIDTH_MAX) {
            out.push_str("%!(BADWIDTH)");
            verb = Verb::default();
        }
        match values.get(next) {
            None => {
                let _ = write!(out, "%!{letter}(MISSING)");
            }
            Some(value) => {
                out.push_str(&verb.value(letter, value).unwrap_or_else(|| match value {
                    Value::Nil => format!("%!{letter}(<nil>)"),
                    v => format!("%!{letter}({}={})", v.type_name(), v.printed()),
                }))
            }
        }
        next += 1;
    }
    out.push_str(rest);
    if let Some(extra) = values.get(next..).filter(|e| !e.is_empty()) {
        let all: Vec<String> =
            extra.iter().map(|v| format!("{}={}", v.type_name(), v.printed())).collect();
        let _ = write!(out, "%!(EXTRA {})", all.join(", "));
    }
    out
}

fn flags<'a>(mut rest: &'a str, verb: &mut Verb) -> &'a str {
    loop {
        match rest.as_bytes().first() {
            Some(b'+') => verb.plus = true,
            Some(b'-') => verb.minus = true,
            Some(b'#') => verb.sharp = true,
            Some(b'0') => verb.zero = true,
            Some(b' ') => verb.space = true,
            _ => return rest,
        }
        rest = &rest[1..];
    }
}

/// Digits, or a `*` that takes a value.
fn number<'a>(
    rest: &'a str,
    values: &[Value],
    next: &mut usize,
    into: &mut Option<usize>,
    negative: &mut bool,
) -> &'a str {
    if let Some(after) = rest.strip_prefix('*') {
        if let Some(Value::Int(n)) = values.get(*next) {
            *negative |= *n < 0;
            *into = Some(n.unsigned_abs().min(WIDTH_MAX as u64 + 1) as usize);
        }
        *next += 1;
        return after;
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if end > 0 {
        *into = Some(rest[..end].parse().unwrap_or(usize::MAX));
    }
    &rest[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_does() {
        let all = [0.0, -0.5, 1e6, 123_456_789.0, 1e21, 1.5e-7, 0.0001, f64::INFINITY, f64::NAN];
        let shown: Vec<String> = all.iter().map(|v| general(*v, None)).collect();
        let wanted =
            ["0", "-0.5", "1e+06", "1.23456789e+08", "1e+21", "1.5e-07", "0.0001", "+Inf", "NaN"];
        assert_eq!(shown, wanted);
        let four = [1234.5, 12345.0, 99.996, 0.000_012_345, 100.0].map(|v| general(v, Some(4)));
        assert_eq!(four, ["1234", "1.234e+04", "100", "1.234e-05", "100"]);
    }

    #[test]
    fn printf_takes_the_verbs() {
        let f = |format: &str, v: Value| printf(format, &[v]);
        assert_eq!(f("%.2f%%", Value::Float(12.345)), "12.35%");
        assert_eq!(f("%6.1f|", Value::Float(-2.25)), "  -2.2|");
        assert_eq!(f("%-6s|%%", Value::Text("ab".into())), "ab    |%");
        assert_eq!(f("%05d", Value::Int(-42)), "-0042");
        assert_eq!(f("%d", Value::Float(3.0)), "%!d(float64=3)");
        assert_eq!(f("%q %s", Value::Text("a\"b".into())), "\"a\\\"b\" %!s(MISSING)");
        assert_eq!(f("x", Value::Bool(true)), "x%!(EXTRA bool=true)");
        assert_eq!(f("%e", Value::Float(1234.5)), "1.234500e+03");
        assert_eq!(f("%v", Value::Float(1e21)), "1e+21");
        assert_eq!(f("%99999999d", Value::Int(1)), "%!(BADWIDTH)1");
        assert_eq!(f("%", Value::Int(1)), "%!(NOVERB)");
    }
}
