//! The short form of samples in test files: `1+2x5 _x3 stale 7`.

use synod_promql::{Labels, STALE, parse_selector};

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
pub(crate) fn values(text: &str) -> Result<Vec<Option<f64>>, String> {
    let mut out = Vec::new();
    for item in text.split_whitespace() {
        add(item, &mut out).map_err(|why| format!("in {item:?}: {why}"))?;
    }
    Ok(out)
}

fn add(item: &str, out: &mut Vec<Option<f64>>) -> Result<(), String> {
    if item.contains("{{") {
        return Err("native histograms are not built".into());
    }
    if let Some(rest) = item.strip_prefix('_') {
        // A gap counts what is missing; the others, how often more.
        let count = if rest.is_empty() { 1 } else { times(rest)? };
        return fill(out, count, |_| None);
    }
    if let Some(rest) = item.strip_prefix("stale") {
        let count = if rest.is_empty() { 1 } else { times(rest)? + 1 };
        return fill(out, count, |_| Some(STALE));
    }
    let (first, rest) = number(item)?;
    if rest.is_empty() {
        return fill(out, 1, |_| Some(first));
    }
    let (step, rest) = if rest.starts_with(['+', '-']) { number(rest)? } else { (0.0, rest) };
    let count = times(rest)? + 1;
    let mut next = first;
    fill(out, count, |_| {
        let value = next;
        next += step;
        Some(value)
    })
}

fn fill(
    out: &mut Vec<Option<f64>>,
    count: usize,
    mut value: impl FnMut(usize) -> Option<f64>,
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
            values(t).expect(t).into_iter().map(|v| v.unwrap_or(-99.0)).collect()
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
        for bad in ["x", "1x", "1+x3", "1y3", "_3", "{{schema:1}}", "1x99999999999", "1x1000000 1"]
        {
            assert!(values(bad).is_err(), "{bad}");
        }
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
