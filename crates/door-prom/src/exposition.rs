//! The text that a target shows: Prometheus's text format 0.0.4, and OpenMetrics 1.0 as
//! far as samples of numbers and their exemplars go.

use std::fmt;
use synod_promql::{Labels, NAME};

/// A sample as it stands on a page.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Line<'a> {
    /// Name and labels, as written.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// Unix time, ms, if the page gives one.
    pub at: Option<i64>,
    /// The exemplar behind it, as written: labels in braces, value, perhaps a time.
    pub exemplar: Option<&'a str>,
}

/// What a page says about a family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meaning {
    /// `counter`, `gauge`, `histogram`, `summary` or `unknown`.
    pub kind: String,
    /// In words.
    pub help: String,
    /// Its unit (OpenMetrics).
    pub unit: String,
}

/// A line that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// Why.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for BadLine {}

/// What takes a page as it is read.
pub(crate) trait Taker<'a> {
    /// The series that the next line is likely to be of, as written; empty: none.
    fn expects(&self) -> &str;
    /// A sample.
    fn sample(&mut self, line: Line<'a>) -> Result<(), String>;
    /// A comment that says something: `HELP`, `TYPE` or `UNIT`, of what, and what.
    fn meaning(&mut self, what: &'a str, name: &'a str, text: &'a str);
}

struct Calls<S, M>(S, M);

impl<'a, S, M> Taker<'a> for Calls<S, M>
where
    S: FnMut(Line<'a>) -> Result<(), String>,
    M: FnMut(&'a str, &'a str, &'a str),
{
    fn expects(&self) -> &str {
        ""
    }

    fn sample(&mut self, line: Line<'a>) -> Result<(), String> {
        self.0(line)
    }

    fn meaning(&mut self, what: &'a str, name: &'a str, text: &'a str) {
        self.1(what, name, text);
    }
}

/// Reads a page; `openmetrics`: by those rules (times in seconds, `# EOF` at the end).
pub fn parse<'a>(
    page: &'a str,
    openmetrics: bool,
    sample: impl FnMut(Line<'a>) -> Result<(), String>,
    meaning: impl FnMut(&'a str, &'a str, &'a str),
) -> Result<(), BadLine> {
    read(page, openmetrics, &mut Calls(sample, meaning))
}

/// The same.
pub(crate) fn read<'a>(
    page: &'a str,
    openmetrics: bool,
    taker: &mut impl Taker<'a>,
) -> Result<(), BadLine> {
    let mut ended = false;
    for (number, line) in page.lines().enumerate() {
        let bad = |why: String| BadLine { line: number + 1, why };
        if ended {
            return Err(bad("there is more behind # EOF".into()));
        }
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            ended = openmetrics && comment == " EOF";
            let mut words = comment.trim_start().splitn(3, [' ', '\t']);
            if let (Some(what @ ("HELP" | "TYPE" | "UNIT")), Some(name)) =
                (words.next(), words.next())
            {
                taker.meaning(what, name, words.next().unwrap_or_default());
            }
            continue;
        }
        if !line.is_empty() {
            let read = read_line(line, openmetrics, taker.expects());
            read.and_then(|line| taker.sample(line)).map_err(bad)?;
        }
    }
    if openmetrics && !ended {
        let line = page.lines().count().max(1);
        return Err(BadLine { line, why: "the page does not end with # EOF".into() });
    }
    Ok(())
}

/// Whether a line is of this series: it begins with it, and a blank and a value follow.
fn begins_with(line: &str, series: &str) -> bool {
    let rest = line.strip_prefix(series).filter(|_| !series.is_empty());
    // A blank may stand before the braces of another.
    rest.and_then(|rest| rest.strip_prefix(' '))
        .is_some_and(|rest| !rest.starts_with([' ', '\t', '{']))
}

fn read_line<'a>(line: &'a str, openmetrics: bool, expected: &str) -> Result<Line<'a>, String> {
    let end = if begins_with(line, expected) { expected.len() } else { series_end(line)? };
    let (series, rest) = line.split_at(end);
    // An exemplar stands behind a hash.
    let parts = if openmetrics { rest.split_once(" # ") } else { None };
    let (rest, exemplar) = parts.map_or((rest, None), |(rest, text)| (rest, Some(text.trim())));
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or_else(|| format!("no value behind {series:?}"))?;
    let value = number(value).ok_or_else(|| format!("{value:?} is no number"))?;
    let at = match words.next() {
        None => None,
        Some(text) if openmetrics => {
            let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no time"))?;
            Some((seconds * 1_000.0).round() as i64)
        }
        Some(text) => Some(text.parse().map_err(|_| format!("{text:?} is no time"))?),
    };
    match words.next() {
        Some(more) => Err(format!("{more:?} is too much")),
        None => Ok(Line { series: series.trim_end(), value, at, exemplar }),
    }
}

/// Labels, value and time (ms) of an exemplar as it is written.
pub(crate) fn exemplar_of(text: &str) -> Result<(Labels, f64, Option<i64>), String> {
    let bad = || format!("exemplar {text:?} is not {{LABELS}} VALUE [TIME]");
    let end = series_end(text)?;
    let (labels, rest) = text.split_at(end);
    if !labels.starts_with('{') {
        return Err(bad());
    }
    // The labels alone are no series: any name makes them one.
    let labels = labels_of(&format!("x{labels}"))?.nameless();
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().and_then(number).ok_or_else(bad)?;
    let at = words.next().map(|t| t.parse::<f64>().map_err(|_| bad())).transpose()?;
    match words.next() {
        Some(_) => Err(bad()),
        None => Ok((labels, value, at.map(|s| (s * 1_000.0).round() as i64))),
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

/// Where name and labels end: behind the closing brace, or at the first blank.
fn series_end(line: &str) -> Result<usize, String> {
    let (mut quoted, mut escaped) = (false, false);
    let mut brace = false;
    for (at, c) in line.bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if brace => quoted = !quoted,
            _ if quoted => {}
            b'{' => brace = true,
            b'}' if brace => return Ok(at + 1),
            b' ' | b'\t' if !brace => {
                // A blank may stand before the brace.
                if line[at..].trim_start().starts_with('{') {
                    continue;
                }
                return Ok(at);
            }
            _ => {}
        }
    }
    Err(if brace { "the braces are not closed".into() } else { "no value".into() })
}

/// The labels of a series as it stands on a page, the name among them.
pub(crate) fn labels_of(series: &str) -> Result<Labels, String> {
    let pairs = pairs_of(series)?;
    Ok(Labels::new(pairs.iter().map(|(n, v)| (&**n, &**v))))
}

/// Whether a name may stand on a page without quotes.
fn is_classic(name: &str, colons: bool) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || c == '_' || colons && c == ':';
    name.chars().all(may) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The same with labels whose value is empty, in their order.
pub(crate) fn pairs_of(series: &str) -> Result<Vec<(String, String)>, String> {
    let (name, rest) = match series.split_once('{') {
        Some((name, rest)) => (name.trim_end(), rest.strip_suffix('}').unwrap_or(rest)),
        None => (series, ""),
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    if !name.is_empty() {
        if !is_classic(name, true) {
            return Err(format!("{name:?} is no name without quotes"));
        }
        pairs.push((NAME.into(), name.into()));
    }
    let mut rest = rest.trim_start();
    while !rest.is_empty() {
        let (label, after) = if rest.starts_with('"') {
            take_quoted(rest)?
        } else {
            let end = rest.find('=').ok_or_else(|| format!("no \"=\" in {rest:?}"))?;
            let label = rest[..end].trim_end();
            if !is_classic(label, false) {
                return Err(format!("{label:?} is no label without quotes"));
            }
            (label.to_owned(), &rest[end..])
        };
        let after = after.trim_start();
        let (pair, after) = match after.strip_prefix('=') {
            Some(after) => {
                let (value, after) = take_quoted(after.trim_start())?;
                ((label, value), after)
            }
            // A quoted text alone is the name.
            None => ((NAME.into(), label), after),
        };
        if pair.0.is_empty() || pairs.iter().any(|(n, _)| *n == pair.0) {
            return Err(format!("label {:?} is empty or there twice", pair.0));
        }
        pairs.push(pair);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if after.is_empty() => after,
            None => return Err(format!("expected a comma before {after:?}")),
        };
    }
    let named = pairs.iter().any(|(name, value)| name == NAME && !value.is_empty());
    if named { Ok(pairs) } else { Err("a series without a name".into()) }
}

/// A quoted text, and what is behind it.
fn take_quoted(text: &str) -> Result<(String, &str), String> {
    let Some(rest) = text.strip_prefix('"') else {
        return Err(format!("expected a quoted text at {text:?}"));
    };
    let (mut out, mut escaped) = (String::new(), false);
    for (at, c) in rest.char_indices() {
        match c {
            'n' if escaped => out.push('\n'),
            c if escaped => out.push(c),
            '\\' => {
                escaped = true;
                continue;
            }
            '"' => return Ok((out, &rest[at + 1..])),
            c => out.push(c),
        }
        escaped = false;
    }
    Err("a quoted text does not end".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(page: &str, openmetrics: bool) -> Result<Vec<(String, f64, Option<i64>)>, BadLine> {
        let mut all = Vec::new();
        let sample = |l: Line<'_>| {
            all.push((labels_of(l.series)?.to_string(), l.value, l.at));
            Ok(())
        };
        parse(page, openmetrics, sample, |_, _, _| {})?;
        Ok(all)
    }

    #[test]
    fn a_page_is_read() {
        let page = "# HELP a Things.\n# TYPE a counter\na{b=\"c d}\",e=\"\\\"\\n\"} 1 1500\n\
                    x +Inf\n y {z = \"1\",} 2.5e3 \n{\"with.dots\", l=\"v\"} NaN\n";
        let all = rows(page, false).expect("a page");
        assert_eq!(all[0], ("a{b=\"c d}\", e=\"\\\"\\n\"}".into(), 1.0, Some(1_500)));
        assert_eq!(all[1], ("x".into(), f64::INFINITY, None));
        assert_eq!(all[2], ("y{z=\"1\"}".into(), 2_500.0, None));
        assert_eq!(all[3].0, "with.dots{l=\"v\"}");
        let open = "a_total 1 1.5 # {trace=\"x\"} 0.5\n# EOF\n";
        assert_eq!(rows(open, true).expect("a page"), [("a_total".into(), 1.0, Some(1_500))]);
    }

    #[test]
    fn exemplars_are_read() {
        let read = |text: &str| exemplar_of(text).map(|(l, v, at)| (l.to_string(), v, at));
        assert_eq!(read("{trace=\"a b\"} 0.5"), Ok(("{trace=\"a b\"}".into(), 0.5, None)));
        assert_eq!(read("{} 1 1.25"), Ok(("{}".into(), 1.0, Some(1_250))));
        for bad in ["", "1", "x 1", "{a=\"b\"}", "{a=\"b\"} x", "{a=\"b\"} 1 2 3", "{a} 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (page, open, line, why) in [
            ("a 1\nb x\n", false, 2, "\"x\" is no number"),
            ("a{b=\"c\" 1", false, 1, "the braces are not closed"),
            ("a{b=1} 1", false, 1, "expected a quoted text at \"1\""),
            ("a{b=\"1\",b=\"2\"} 1", false, 1, "label \"b\" is empty or there twice"),
            ("1abc 1", false, 1, "\"1abc\" is no name without quotes"),
            ("foo-bar 2", false, 1, "\"foo-bar\" is no name without quotes"),
            ("x{1=\"a\"} 1", false, 1, "\"1\" is no label without quotes"),
            ("a 1\n", true, 1, "the page does not end with # EOF"),
            ("a 1 2 3", false, 1, "\"3\" is too much"),
        ] {
            assert_eq!(rows(page, open), Err(BadLine { line, why: why.into() }), "{page}");
        }
    }

    #[test]
    fn what_is_expected_changes_nothing() {
        for (line, expected) in [
            ("a{b=\"c\"} 1 5", "a{b=\"c\"}"),
            ("a{b=\"c\"}1", "a{b=\"c\"}"),
            ("a {b=\"c\"} 1", "a"),
            ("a  {b=\"c\"} 1", "a"),
            ("a 1", "a"),
            ("a -Inf", "a"),
            ("a", "a"),
            ("ab 1", "a"),
            ("a_total 1 1.5 # {x=\"y\"} 2", "a_total"),
        ] {
            assert_eq!(read_line(line, true, expected), read_line(line, true, ""), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "[ -~\n\\\\\"{}=,é]{0,80}", open in any::<bool>()) {
            let _ = (rows(&page, open), exemplar_of(&page));
        }
    }
}
