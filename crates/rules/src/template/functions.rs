//! The functions of Prometheus's templates; those of Go's are in `builtin.rs`.

use super::exec::OUTPUT_MAX;
use super::{Context, Value, builtin, general, query};
use regex::Regex;
use std::collections::BTreeMap;
use std::rc::Rc;
use synod_promql::pattern::unanchored;

/// From these on, a number gets a prefix.
const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const BINARY: [&str; 8] = ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// All names, and how many arguments each takes at least and at most.
const FUNCTIONS: [(&str, usize, usize); 31] = [
    ("args", 0, usize::MAX),
    ("externalURL", 0, 0),
    ("first", 1, 1),
    ("graphLink", 1, 1),
    ("humanize", 1, 1),
    ("humanize1024", 1, 1),
    ("humanizeDuration", 1, 1),
    ("humanizePercentage", 1, 1),
    ("humanizeTimestamp", 1, 1),
    ("label", 2, 2),
    ("match", 2, 2),
    ("now", 0, 0),
    ("parseDuration", 1, 1),
    ("pathPrefix", 0, 0),
    ("query", 1, 1),
    ("reReplaceAll", 3, 3),
    ("safeHtml", 1, 1),
    ("sortByLabel", 2, 2),
    ("stripDomain", 1, 1),
    ("stripPort", 1, 1),
    ("strvalue", 1, 1),
    ("tableLink", 1, 1),
    ("title", 1, 1),
    ("toDuration", 1, 1),
    ("toLower", 1, 1),
    ("toTime", 1, 1),
    ("toUpper", 1, 1),
    ("urlQueryEscape", 1, 1),
    ("value", 1, 1),
    ("and", 1, usize::MAX),
    ("or", 1, usize::MAX),
];

/// Whether a template may call that.
pub(crate) fn is_function(name: &str) -> bool {
    FUNCTIONS.iter().chain(&builtin::FUNCTIONS).any(|(known, ..)| *known == name)
}

/// The result of a function.
pub(crate) fn call(name: &str, args: Vec<Value>, context: &Context<'_>) -> Result<Value, String> {
    let of = FUNCTIONS.iter().chain(&builtin::FUNCTIONS).find(|(known, ..)| *known == name);
    let (_, least, most) = of.ok_or("not defined")?;
    if args.len() < *least || args.len() > *most {
        let want = if least == most { least.to_string() } else { format!("at least {least}") };
        return Err(format!("wrong number of args: want {want} got {}", args.len()));
    }
    if builtin::FUNCTIONS.iter().any(|(known, ..)| *known == name) {
        return builtin::call(name, &args);
    }
    let url = context.external_url;
    let text = |at: usize| string(&args[at]);
    Ok(match name {
        "args" => {
            let named = args.iter().enumerate().map(|(i, v)| (format!("arg{i}"), v.clone()));
            Value::Map(Rc::new(named.collect::<BTreeMap<_, _>>()))
        }
        "query" => {
            let found = query(text(0)?, context.at, context.source, context.limits)?;
            let samples = found.into_iter().map(|(labels, v)| Value::Sample(labels, v));
            Value::List(Rc::new(samples.collect()))
        }
        "first" => {
            list(&args[0])?.first().cloned().ok_or("first() called on vector with no elements")?
        }
        "sortByLabel" => {
            let label = text(0)?;
            let mut all = list(&args[1])?.to_vec();
            let key = |v: &Value| match v {
                Value::Sample(labels, _) => labels.get(label).to_owned(),
                _ => String::new(),
            };
            all.sort_by_cached_key(key);
            Value::List(Rc::new(all))
        }
        "label" => Value::Text(sample(&args[1])?.0.get(text(0)?).to_owned()),
        "strvalue" => Value::Text(sample(&args[0])?.0.get("__value__").to_owned()),
        "value" => Value::Float(sample(&args[0])?.1),
        "humanize" => Value::Text(humanize(number(&args[0])?)),
        "humanize1024" => Value::Text(humanize_1024(number(&args[0])?)),
        "humanizeDuration" => Value::Text(humanize_duration(number(&args[0])?)),
        "humanizePercentage" => {
            Value::Text(format!("{}%", general(number(&args[0])? * 100.0, Some(4))))
        }
        "humanizeTimestamp" => match number(&args[0])? {
            v if v.is_finite() => Value::Text(time_text(time_of(v)?)),
            v => Value::Text(general(v, Some(4))),
        },
        "toTime" => Value::Time(time_of(number(&args[0])?)?),
        "toDuration" => Value::Text(duration_text(number(&args[0])?)),
        "now" => Value::Float(context.at as f64 / 1_000.0),
        "parseDuration" => {
            let bad = || format!("not a valid duration string: {:?}", args[0].printed());
            let ms = crate::file::duration(text(0)?).ok_or_else(bad)?;
            Value::Float(ms as f64 / 1_000.0)
        }
        "match" => Value::Bool(pattern(text(0)?)?.is_match(text(1)?)),
        "reReplaceAll" => Value::Text(replace_all(text(0)?, text(1)?, text(2)?)?),
        "safeHtml" => Value::Text(text(0)?.to_owned()),
        "title" => Value::Text(title(text(0)?)),
        "toUpper" => Value::Text(text(0)?.chars().map(upper).collect()),
        "toLower" => Value::Text(text(0)?.chars().map(lower).collect()),
        "graphLink" => Value::Text(crate::link(text(0)?, false)),
        "tableLink" => Value::Text(crate::link(text(0)?, true)),
        "urlQueryEscape" => Value::Text(crate::query_escaped(text(0)?)),
        "stripPort" => Value::Text(match host_and_port(text(0)?) {
            Some((host, _)) => host.to_owned(),
            None => text(0)?.to_owned(),
        }),
        "stripDomain" => Value::Text(strip_domain(text(0)?)),
        "externalURL" => Value::Text(url.to_owned()),
        "pathPrefix" => {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            let path = rest.find('/').map_or("", |at| &rest[at..]);
            Value::Text(path.split(['?', '#']).next().unwrap_or_default().to_owned())
        }
        _ => return Err("not defined".into()),
    })
}

fn wrong(value: &Value, wanted: &str) -> String {
    format!("wrong type for value; expected {wanted}; got {}", value.type_name())
}

pub(crate) fn string(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong(other, "string")),
    }
}

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::List(all) => Ok(all),
        other => Err(wrong(other, "template.queryResult")),
    }
}

fn sample(value: &Value) -> Result<(&synod_promql::Labels, f64), String> {
    match value {
        Value::Sample(labels, v) => Ok((labels, *v)),
        other => Err(wrong(other, "*template.sample")),
    }
}

fn number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Float(v) => Ok(*v),
        Value::Int(v) => Ok(*v as f64),
        Value::Text(text) => {
            text.trim_start_matches('+').parse().map_err(|_| format!("{text:?} is no number"))
        }
        other => Err(format!("can't convert {} to float", other.type_name())),
    }
}

fn humanize(mut v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return general(v, Some(4));
    }
    let mut prefix = "";
    if v.abs() >= 1.0 {
        for next in LARGE {
            if v.abs() < 1_000.0 {
                break;
            }
            (prefix, v) = (next, v / 1_000.0);
        }
    } else {
        for next in SMALL {
            if v.abs() >= 1.0 {
                break;
            }
            (prefix, v) = (next, v * 1_000.0);
        }
    }
    general(v, Some(4)) + prefix
}

fn humanize_1024(mut v: f64) -> String {
    if v.abs() <= 1.0 || !v.is_finite() {
        return general(v, Some(4));
    }
    let mut prefix = "";
    for next in BINARY {
        if v.abs() < 1_024.0 {
            break;
        }
        (prefix, v) = (next, v / 1_024.0);
    }
    general(v, Some(4)) + prefix
}

fn humanize_duration(v: f64) -> String {
    if !v.is_finite() {
        return general(v, Some(4));
    }
    if v == 0.0 {
        return "0s".into();
    }
    if v.abs() < 1.0 {
        return humanize(v) + "s";
    }
    let (sign, size) = (if v < 0.0 { "-" } else { "" }, v.abs());
    let whole = size as i64;
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, seconds) = (whole / 60 % 60, whole % 60);
    if days > 0 {
        format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
    } else if hours > 0 {
        format!("{sign}{hours}h {minutes}m {seconds}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m {seconds}s")
    } else {
        format!("{sign}{}s", general(size, Some(4)))
    }
}

/// Seconds as Go prints a duration.
fn duration_text(v: f64) -> String {
    let (sign, size) = (if v < 0.0 { "-" } else { "" }, v.abs());
    let decimals = |v: f64| {
        let text = format!("{v:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if size == 0.0 || size.is_nan() {
        return "0s".into();
    }
    if size < 1.0 {
        let units = [(1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")];
        let (least, unit) = units.into_iter().find(|(least, _)| size >= *least).unwrap_or(units[2]);
        let least = if least == 0.0 { 1e-9 } else { least };
        return format!("{sign}{}{unit}", decimals(size / least));
    }
    let minutes = (size / 60.0).floor();
    let seconds = decimals(size - minutes * 60.0);
    match (minutes as u64 / 60, minutes as u64 % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// Unix ms of a time in seconds.
fn time_of(seconds: f64) -> Result<i64, String> {
    let ms = seconds * 1_000.0;
    if ms.is_finite() && ms.abs() < 1e17 {
        Ok(ms.floor() as i64)
    } else {
        Err(format!("{} is beyond the times that can be shown", general(seconds, None)))
    }
}

/// Year, month from 1 and day from 1 of a day since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day is a year's last; 400 of them are
    // an era of 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, of_month)
}

/// A time as Go prints it, in UTC.
pub(crate) fn time_text(ms: i64) -> String {
    let (year, month, day) = date(ms.div_euclid(86_400_000));
    let rest = ms.rem_euclid(86_400_000);
    let (hours, minutes, seconds) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    let fraction = match rest % 1_000 {
        0 => String::new(),
        ms => format!(".{ms:03}").trim_end_matches('0').to_owned(),
    };
    format!(
        "{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}{fraction} +0000 UTC"
    )
}

/// What a method of a time gives.
pub(crate) fn time_part(ms: i64, name: &str) -> Option<Value> {
    let days = ms.div_euclid(86_400_000);
    let rest = ms.rem_euclid(86_400_000);
    let (year, month, day) = date(days);
    Some(match name {
        "Year" => Value::Int(year),
        "Month" => Value::Text(MONTHS[(month - 1) as usize].to_owned()),
        "Day" => Value::Int(day),
        "Weekday" => Value::Text(WEEKDAYS[(days + 4).rem_euclid(7) as usize].to_owned()),
        "Hour" => Value::Int(rest / 3_600_000),
        "Minute" => Value::Int(rest / 60_000 % 60),
        "Second" => Value::Int(rest / 1_000 % 60),
        "Unix" => Value::Int(ms.div_euclid(1_000)),
        "UnixMilli" => Value::Int(ms),
        _ => return None,
    })
}

fn pattern(text: &str) -> Result<Regex, String> {
    unanchored(text).map_err(|e| format!("error parsing regexp: {e}"))
}

/// Bounded on the way: a pattern that matches everywhere multiplies a text.
fn replace_all(by: &str, with: &str, text: &str) -> Result<String, String> {
    let (mut out, mut from) = (String::new(), 0);
    for found in pattern(by)?.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[from..whole.start()]);
        found.expand(with, &mut out);
        from = whole.end();
        if out.len() > OUTPUT_MAX {
            return Err(format!("gives more than {OUTPUT_MAX} bytes"));
        }
    }
    Ok(out + &text[from..])
}

/// One character for one, as Go has it.
fn upper(c: char) -> char {
    let mut all = c.to_uppercase();
    all.next().filter(|_| all.next().is_none()).unwrap_or(c)
}

/// See [`upper`].
fn lower(c: char) -> char {
    let mut all = c.to_lowercase();
    all.next().filter(|_| all.next().is_none()).unwrap_or(c)
}

/// Each word with a capital at its beginning.
fn title(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.push(upper(c));
        }
        inside = if c.is_ascii() {
            c.is_ascii_alphanumeric() || c == '_'
        } else {
            c.is_alphanumeric() || !c.is_whitespace()
        };
    }
    out
}

/// Of `host:port` and `[host]:port`.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None => (!host.contains([':', '[', ']'])).then_some((host, port)),
    }
}

fn strip_domain(text: &str) -> String {
    let parts = host_and_port(text);
    let host = parts.map_or(text, |(host, _)| host);
    if host.parse::<core::net::IpAddr>().is_ok() {
        return text.to_owned();
    }
    let name = host.split('.').next().unwrap_or_default();
    match parts {
        Some((_, port)) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}
