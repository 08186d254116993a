//! Functions of labels, and of dates.

use super::Column;
use crate::Error;
use std::cmp::Ordering;

fn check_name(name: &str, which: &str, function: &str) -> Result<(), Error> {
    if name.is_empty() {
        let why = format!("invalid {which} label name in {function}(): {name:?}");
        return Err(Error::execution(why));
    }
    Ok(())
}

/// `label_replace(v, dst, replacement, src, regex)`.
pub(super) fn replace(mut columns: Vec<Column>, texts: &[String]) -> Result<Vec<Column>, Error> {
    let [to, replacement, from, pattern] = texts else {
        return Err(Error::execution("label_replace takes four strings"));
    };
    let anchored = crate::pattern::anchored(pattern).map_err(|_| {
        Error::execution(format!("invalid regular expression in label_replace(): {pattern}"))
    })?;
    check_name(to, "destination", "label_replace")?;
    for column in &mut columns {
        if let Some(found) = anchored.captures(column.labels.get(from)) {
            let mut value = String::new();
            found.expand(replacement, &mut value);
            column.labels = column.labels.with(to, &value);
        }
    }
    Ok(columns)
}

/// `label_join(v, dst, separator, src…)`.
pub(super) fn join(mut columns: Vec<Column>, texts: &[String]) -> Result<Vec<Column>, Error> {
    let [to, separator, from @ ..] = texts else {
        return Err(Error::execution("label_join takes two strings and more"));
    };
    check_name(to, "destination", "label_join")?;
    for name in from {
        check_name(name, "source", "label_join")?;
    }
    for column in &mut columns {
        let values: Vec<&str> = from.iter().map(|name| column.labels.get(name)).collect();
        column.labels = column.labels.with(to, &values.join(separator));
    }
    Ok(columns)
}

/// By the values of labels, digits as numbers.
pub(super) fn sorted_by(mut columns: Vec<Column>, names: &[String], down: bool) -> Vec<Column> {
    columns.sort_by(|a, b| {
        let of_one = |name: &String| natural(a.labels.get(name), b.labels.get(name));
        let by_names = names.iter().map(of_one).find(|o| o.is_ne());
        let order = by_names.unwrap_or_else(|| a.labels.cmp(&b.labels));
        if down { order.reverse() } else { order }
    });
    columns
}

/// `a2` before `a10`.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    loop {
        let (in_a, in_b) = (digits(a), digits(b));
        if in_a > 0 && in_b > 0 {
            let (x, y) = (a[..in_a].trim_start_matches('0'), b[..in_b].trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[in_a..], &b[in_b..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

/// Part of a date: Unix time in seconds, in UTC.
pub(super) fn of_date(part: &str, time: f64) -> f64 {
    if !time.is_finite() {
        return f64::NAN;
    }
    let time = time as i64;
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    (match part {
        "minute" => second / 60 % 60,
        "hour" => second / 3_600,
        "day_of_week" => (days + 4).rem_euclid(7),
        "day_of_month" => day,
        "day_of_year" => days - days_before(year, 1) + 1,
        "days_in_month" => match month {
            12 => 31,
            _ => days_before(year, month + 1) - days_before(year, month),
        },
        "month" => month,
        _ => year,
    }) as f64
}

/// Days from the epoch to the first of a month, in the Gregorian calendar: years of 400
/// and months from March on have steady lengths (Richards, "Mapping Time", chapter 25).
fn days_before(year: i64, month: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 - 719_468
}

/// Year, month and day of a day since the epoch: the year is guessed by its mean length,
/// which is never off by more than one.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + (days * 400).div_euclid(146_097);
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    while days_before(year, 1) > days {
        year -= 1;
    }
    let month = (1..=12).rev().find(|m| days_before(year, *m) <= days).unwrap_or(1);
    (year, month, days - days_before(year, month) + 1)
}
