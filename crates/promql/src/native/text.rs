//! Histograms as text: as people see them, and the notation of test files,
//! `{{schema:1 count:5 sum:3 z_bucket:1 buckets:[1 3]}}`.

use super::{Bucket, CUSTOM, Histogram, NoHistogram, ResetHint, no};
use std::fmt;

/// A number, with an exponent where its digits would be many.
fn general(v: f64) -> String {
    if v == 0.0 || !v.is_finite() || (1e-4..1e21).contains(&v.abs()) {
        return crate::eval::number_text(v);
    }
    let text = format!("{v:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{size:0>2}")
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) =
            (if self.lower_within { '[' } else { '(' }, if self.upper_within { ']' } else { ')' });
        let (lower, upper, count) = (general(self.lower), general(self.upper), general(self.count));
        write!(f, "{open}{lower},{upper}{close}:{count}")
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", general(self.count), general(self.sum))?;
        for bucket in self.buckets() {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

/// A histogram in the notation of test files at the beginning of a text, and what stands
/// behind it.
pub fn read(text: &str) -> Result<(Histogram, &str), NoHistogram> {
    let body = text.strip_prefix("{{").ok_or(NoHistogram("a histogram begins with {{".into()))?;
    let end = body.find("}}").ok_or(NoHistogram("}} is missing".into()))?;
    let (mut rest, behind) = (body[..end].trim_start(), &body[end + 2..]);
    let (mut read, mut offsets) = (Histogram::default(), [0i32; 2]);
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (name, value, after) = pair(rest)?;
        rest = after;
        match name {
            "schema" => read.schema = number(value)? as i32,
            "sum" => read.sum = number(value)?,
            "count" => read.count = number(value)?,
            "z_bucket" => read.zero_count = number(value)?,
            "z_bucket_w" => read.zero_threshold = number(value)?,
            "offset" => offsets[0] = number(value)? as i32,
            "n_offset" => offsets[1] = number(value)? as i32,
            "buckets" => positive = numbers(value)?,
            "n_buckets" => negative = numbers(value)?,
            "custom_values" => read.bounds = numbers(value)?,
            "counter_reset_hint" => read.hint = hint(value)?,
            _ => return no(format!("{name:?} is no part of a histogram")),
        }
    }
    let placed = |counts: Vec<f64>, offset: i32| {
        let indices = (0..counts.len() as i32).map(|i| i.saturating_add(offset));
        indices.zip(counts).collect()
    };
    read.positive = placed(positive, offsets[0]);
    read.negative = placed(negative, offsets[1]);
    if read.schema != CUSTOM && !super::SCHEMAS.contains(&read.schema) {
        return no(format!("the schema {} is not known", read.schema));
    }
    Ok((read, behind))
}

/// A name, its value, and what follows.
fn pair(text: &str) -> Result<(&str, &str, &str), NoHistogram> {
    let Some((name, rest)) = text.split_once(':') else {
        return no(format!("{text:?} is no name with a value"));
    };
    let end = match rest.starts_with('[') {
        true => rest.find(']').map(|at| at + 1),
        false => Some(rest.find(char::is_whitespace).unwrap_or(rest.len())),
    };
    let Some(end) = end else { return no("] is missing") };
    Ok((name.trim_end(), &rest[..end], rest[end..].trim_start()))
}

fn number(text: &str) -> Result<f64, NoHistogram> {
    text.parse().map_err(|_| NoHistogram(format!("{text:?} is no number")))
}

fn numbers(text: &str) -> Result<Vec<f64>, NoHistogram> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let Some(inner) = inner else { return no(format!("{text:?} is no list")) };
    inner.split_whitespace().map(number).collect()
}

fn hint(text: &str) -> Result<ResetHint, NoHistogram> {
    Ok(match text {
        "unknown" => ResetHint::Unknown,
        "reset" => ResetHint::Reset,
        "not_reset" => ResetHint::NoReset,
        "gauge" => ResetHint::Gauge,
        _ => return no(format!("{text:?} says nothing about a reset")),
    })
}
