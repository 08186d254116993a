//! Patterns in the syntax of RE2, which Prometheus's users write, for a library whose syntax
//! differs in places.
//!
//! What differs: `\d`, `\w`, `\s` and `\b` know ASCII only; a brace that begins no repetition
//! is itself; within brackets there are no further brackets and no operations on sets; `\Q…\E`
//! quotes. More than RE2's syntax is taken (`(?x)`, repetitions above 1,000).

use regex::Regex;
use std::iter::Peekable;
use std::str::Chars;

/// Compiled size of a pattern, at most.
const BYTES_MAX: usize = 1 << 20;

/// A pattern that takes whole texts only, and whose `.` takes any character.
pub fn anchored(pattern: &str) -> Result<Regex, String> {
    compiled(&format!("^(?s:{})$", translated(pattern)))
}

/// A pattern as it is.
pub fn unanchored(pattern: &str) -> Result<Regex, String> {
    compiled(&translated(pattern))
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(BYTES_MAX).build();
    built.map_err(|e| e.to_string())
}

/// The pattern in the library's syntax. What is wrong stays wrong.
fn translated(pattern: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(pattern.len()), pattern.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut out, &mut rest),
            '[' => class(&mut out, &mut rest),
            '{' if !repeats(rest.clone()) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    out
}

/// Whether what follows a brace makes it a repetition: `3}`, `3,}` or `3,5}`.
fn repeats(rest: Peekable<Chars<'_>>) -> bool {
    let inner: String = rest.take_while(|c| c.is_ascii_digit() || matches!(c, ',' | '}')).collect();
    // The brace at the end is taken too, and whatever else fits behind it.
    let Some((inner, _)) = inner.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    !least.is_empty() && !most.contains(',')
}

/// What a letter behind a backslash takes, without brackets.
fn kind(letter: char) -> Option<&'static str> {
    match letter.to_ascii_lowercase() {
        'd' => Some("0-9"),
        'w' => Some("0-9A-Za-z_"),
        's' => Some("\\t\\n\\f\\r "),
        _ => None,
    }
}

fn escape(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    let Some(c) = rest.next() else { return out.push('\\') };
    match (c, kind(c)) {
        ('Q', _) => {
            let text: String = rest.by_ref().collect();
            let (quoted, after) = text.split_once("\\E").unwrap_or((&text, ""));
            out.push_str(&regex::escape(quoted));
            out.push_str(&translated(after));
        }
        ('b', _) => out.push_str("(?-u:\\b)"),
        // Elsewhere these are the ends of words.
        ('<' | '>', _) => out.push(c),
        (_, Some(kind)) => {
            let not = if c.is_ascii_uppercase() { "^" } else { "" };
            out.push_str(&format!("[{not}{kind}]"));
        }
        _ => out.extend(['\\', c]),
    }
}

/// What is in brackets, up to the end of it.
fn class(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    out.push('[');
    out.extend(rest.next_if_eq(&'^'));
    // A bracket that closes nothing is itself.
    if rest.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
    let mut before = None;
    while let Some(c) = rest.next() {
        match c {
            ']' => return out.push(']'),
            '[' if rest.peek() == Some(&':') => {
                out.push('[');
                // Up to `:]`, or to the end of what is wrong then.
                while let Some(inner) = rest.next() {
                    out.push(inner);
                    if inner == ':' && rest.next_if_eq(&']').is_some() {
                        out.push(']');
                        break;
                    }
                }
            }
            '[' | '&' | '~' => out.extend(['\\', c]),
            '-' if before == Some('-') => out.push_str("\\-"),
            '\\' => match rest.next() {
                None => out.push('\\'),
                Some(letter) => match kind(letter) {
                    Some(kind) if letter.is_ascii_uppercase() => {
                        out.push_str(&format!("[^{kind}]"));
                    }
                    Some(kind) => out.push_str(kind),
                    None if matches!(letter, '<' | '>') => out.push(letter),
                    None => out.extend(['\\', letter]),
                },
            },
            _ => out.push(c),
        }
        before = Some(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        for (pattern, takes, not) in [
            (r"\d+", "12", "\u{0663}"),
            (r"\D", "\u{0663}", "1"),
            (r"\w", "_", "é"),
            (r"[\w-]+", "a-b", "é"),
            (r"[^\d]", "x", "5"),
            (r"[\D]", "x", "5"),
            (r"a\sb", "a\tb", "a\u{a0}b"),
            (r".*\bé", " aé", "é"),
            ("{", "{", "x"),
            ("a{,3}", "a{,3}", "aa"),
            ("a{2}", "aa", "a{2}"),
            ("a{2,}b", "aaab", "ab"),
            ("x{a}{2}", "x{a}}", "x{a}{2}"),
            ("a{3", "a{3", "aaa"),
            ("[a&&b]+", "a&b", "x"),
            ("[[a]", "[", "x"),
            ("[[a]]", "[]", "a"),
            ("[]a]+", "]a", "x"),
            ("[^]a]", "x", "]"),
            ("[[:digit:]x]+", "1x", ":"),
            ("[a~~b]+", "~a", "x"),
            ("[+--]+", "+,-", "."),
            (r"\Qa.b\E.", "a.bc", "axbc"),
            (r"\Q[", "[", "x"),
            (r"\<a\>", "<a>", "a"),
            (r"a\.b", "a.b", "axb"),
            ("(a|b)c", "bc", "ab"),
        ] {
            let regex = anchored(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert!(regex.is_match(takes), "{pattern} {takes:?} as {}", regex.as_str());
            assert!(!regex.is_match(not), "{pattern} {not:?} as {}", regex.as_str());
        }
        for wrong in ["(", "[a", "a**b)", r"\", "[b-a]", "(?=x)", r"\1", "[a--b]", "+"] {
            assert!(anchored(wrong).is_err(), "{wrong}");
        }
        assert!(unanchored("b").is_ok_and(|r| r.is_match("abc")));
    }
}
