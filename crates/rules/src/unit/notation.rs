//! The short form of samples in test files: `1+2x5 _x3 stale 7`.

use crate::Observed;
use std::sync::Arc;
use synod_promql::{Histogram, Labels, STALE, parse_selector, read_histogram};

/// Values of one series, at most.
const VALUES_MAX: usize = 1_000_000;

/// A series by its name and labels, as a selector writes it.
pub(crate) fn labels(text: &str) -> Result<Labels, String> {
    let text = text.trim();
    if text.is_empty() || text == "{}" {
        return Ok(Labels::default());
    }
    let matchers = parse_selector(text).map_err(|e| e.to_string())?;
    if let Some(m) = matchers.iter().find(|m| m.equal_to().is_none()) {
        return Err(format!("{m}: a series is named with = only"));
    }
    Ok(Labels::new(matchers.iter().map(|m| (m.name.as_str(), m.value.as_str()))))
}

/// The values, one an interval; `None`: there is none.
pub(crate) fn values(text: &str) -> Result<Vec<Option<Observed>>, String> {
    let (mut out, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let item = &rest[..end(rest)];
        add(item, &mut out).map_err(|why| format!("in {item:?}: {why}"))?;
        rest = rest[item.len()..].trim_start();
    }
    Ok(out)
}

/// A histogram, and nothing behind it.
pub(crate) fn histogram(text: &str) -> Result<Histogram, String> {
    match read_histogram(text.trim()) {
        Ok((histogram, "")) => Ok(histogram),
        Ok((_, rest)) => Err(format!("{rest:?} behind a histogram")),
        Err(why) => Err(format!("{text:?}: {why}")),
    }
}

/// Where an item ends: at a space that is not within a histogram.
fn end(text: &str) -> usize {
    let (mut at, mut inside) = (0, false);
    while let Some(c) = text[at..].chars().next() {
        let mark = if inside { "}}" } else { "{{" };
        if text[at..].starts_with(mark) {
            inside = !inside;
            at += 1;
        } else if c.is_whitespace() && !inside {
            break;
        }
        at += c.len_utf8();
    }
    at
}

fn add(item: &str, out: &mut Vec<Option<Observed>>) -> Result<(), String> {
    if item.starts_with("{{") {
        return add_histograms(item, out);
    }
    let number = |value| Some(Observed::Number(value));
    if let Some(rest) = item.strip_prefix('_') {
        // A gap counts what is missing; the others, how often more.
        let count = if rest.is_empty() { 1 } else { times(rest)? };
        return fill(out, count, |_| None);
    }
    if let Some(rest) = item.strip_prefix("stale") {
        let count = if rest.is_empty() { 1 } else { times(rest)? + 1 };
        return fill(out, count, |_| number(STALE));
    }
    let (first, rest) = self::number(item)?;
    if rest.is_empty() {
        return fill(out, 1, |_| number(first));
    }
    let (step, rest) = if rest.starts_with(['+', '-']) { self::number(rest)? } else { (0.0, rest) };
    let count = times(rest)? + 1;
    let mut next = first;
    fill(out, count, |_| {
        let value = next;
        next += step;
        number(value)
    })
}

/// `{{…}}`, `{{…}}x5` or `{{…}}+{{…}}x5`.
fn add_histograms(item: &str, out: &mut Vec<Option<Observed>>) -> Result<(), String> {
    let (mut next, rest) = read_histogram(item).map_err(|e| e.to_string())?;
    let (mut step, mut rest, subtract) = (None, rest, rest.starts_with('-'));
    if let Some(other) = rest.strip_prefix(['+', '-']) {
        let (histogram, behind) = read_histogram(other).map_err(|e| e.to_string())?;
        (step, rest) = (Some(histogram), behind);
    }
    let count = if rest.is_empty() && step.is_none() { 1 } else { times(rest)? + 1 };
    if out.len() + count > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    for _ in 0..count {
        out.push(Some(Observed::Histogram(Arc::new(next.clone()))));
        if let Some(step) = &step {
            let joined = next.joined(step, subtract);
            next = joined.ok_or("one histogram has custom buckets and the other has not")?;
        }
    }
    Ok(())
}

fn fill(
    out: &mut Vec<Option<Observed>>,
    count: usize,
    mut value: impl FnMut(usize) -> Option<Observed>,
) -> Result<(), String> {
    if out.len() + count > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    out.extend((0..count).map(&mut value));
    Ok(())
}

fn times(text: &str) -> Result<usize, String> {
    let count = text.strip_prefix('x').ok_or_else(|| format!("{text:?} where xN is expected"))?;
    let count: usize = count.parse().map_err(|_| format!("{count:?} is no count"))?;
    if count > VALUES_MAX { Err(format!("more than {VALUES_MAX} values")) } else { Ok(count) }
}

/// A number at the beginning, and what stands behind it.
fn number(text: &str) -> Result<(f64, &str), String> {
    let signed = usize::from(text.starts_with(['+', '-']));
    let body = &text[signed..];
    for word in ["Inf", "inf", "NaN", "nan"] {
        if let Some(rest) = body.strip_prefix(word) {
            let size = if word.eq_ignore_ascii_case("nan") { f64::NAN } else { f64::INFINITY };
            return Ok((if text.starts_with('-') { -size } else { size }, rest));
        }
    }
    // No hexadecimal: `0x4` is five zeros.
    let mut end = 0;
    for (at, c) in body.char_indices() {
        let after_exponent = at > 0 && matches!(body.as_bytes()[at - 1], b'e' | b'E');
        let belongs = c.is_ascii_digit()
            || c == '.'
            || matches!(c, 'e' | 'E')
            || (matches!(c, '+' | '-') && after_exponent);
        if !belongs {
            break;
        }
        end = at + 1;
    }
    let digits = &text[..signed + end];
    let value = digits.trim_start_matches('+').parse();
    Ok((value.map_err(|_| format!("{text:?} is no number"))?, &body[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_written_out() {
        let plain = |t: &str| -> Vec<f64> {
            let number = |v| match v {
                Some(Observed::Number(value)) => value,
                _ => -99.0,
            };
            values(t).expect(t).into_iter().map(number).collect()
        };
        assert_eq!(plain("1 2.5 -3"), [1.0, 2.5, -3.0]);
        assert_eq!(plain("1+2x3"), [1.0, 3.0, 5.0, 7.0]);
        assert_eq!(
            plain("4-1x2 _ 1x1 _x2 1e2"),
            [4.0, 3.0, 2.0, -99.0, 1.0, 1.0, -99.0, -99.0, 100.0]
        );
        assert_eq!(plain("-1-1x1 0x2"), [-1.0, -2.0, 0.0, 0.0, 0.0]);
        assert_eq!(plain("Inf -Inf"), [f64::INFINITY, f64::NEG_INFINITY]);
        assert!(plain("NaN")[0].is_nan());
        assert!(synod_promql::is_stale(plain("stale")[0]));
        for bad in [
            "x",
            "1x",
            "1+x3",
            "1y3",
            "_3",
            "{{schema:9}}",
            "{{sum:1}}+{{}}",
            "{{}}+{{schema:-53}}x2",
            "1x99999999999",
            "1x1000000 1",
        ] {
            assert!(values(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn histograms_are_values_too() {
        let all = values("1 {{sum:1 count:2 buckets:[1 1]}}+{{count:1 buckets:[1]}}x2 _ {{}}x1");
        let shown = |v: Option<Observed>| match v {
            None => "_".to_owned(),
            Some(Observed::Number(value)) => value.to_string(),
            Some(Observed::Histogram(h)) => h.to_string(),
        };
        let all: Vec<String> = all.expect("values").into_iter().map(shown).collect();
        let of = |count, first| format!("{{count:{count}, sum:1, (0.5,1]:{first}, (1,2]:1}}");
        let empty = "{count:0, sum:0}";
        assert_eq!(all, ["1", &of(2, 1), &of(3, 2), &of(4, 3), "_", empty, empty]);
        assert!(histogram("{{sum:1}} 2").is_err());
    }

    #[test]
    fn a_series_is_named_by_equality() {
        let all = labels("up{job=\"a\", x='y'}").expect("a series");
        assert_eq!(all, Labels::new([("__name__", "up"), ("job", "a"), ("x", "y")]));
        assert_eq!(labels("{}"), Ok(Labels::default()));
        assert!(labels("up{job=~\"a\"}").is_err());
        assert!(labels("rate(x[5m])").is_err());
    }
}
