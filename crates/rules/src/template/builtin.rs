//! The functions that every template of Go has.

use super::format::{printf, quoted};
use super::functions::string;
use super::{Value, exec::OUTPUT_MAX};
use std::cmp::Ordering;

/// All names, and how many arguments each takes at least and at most.
pub(crate) const FUNCTIONS: [(&str, usize, usize); 18] = [
    ("call", 1, usize::MAX),
    ("eq", 2, usize::MAX),
    ("ge", 2, 2),
    ("gt", 2, 2),
    ("html", 0, usize::MAX),
    ("index", 1, usize::MAX),
    ("js", 0, usize::MAX),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lt", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("print", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("println", 0, usize::MAX),
    ("slice", 1, 4),
    ("urlquery", 0, usize::MAX),
    ("urlqueryescaper", 0, usize::MAX),
];

pub(crate) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    Ok(match name {
        "eq" => {
            for other in &args[1..] {
                if same(&args[0], other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Value::Bool(false)
        }
        "ne" => Value::Bool(!same(&args[0], &args[1])?),
        "lt" => Value::Bool(order(&args[0], &args[1])? == Some(Ordering::Less)),
        "gt" => Value::Bool(order(&args[0], &args[1])? == Some(Ordering::Greater)),
        "le" => Value::Bool(matches!(order(&args[0], &args[1])?, Some(o) if o.is_le())),
        "ge" => Value::Bool(matches!(order(&args[0], &args[1])?, Some(o) if o.is_ge())),
        "not" => Value::Bool(!args[0].holds()),
        "len" => Value::Int(match &args[0] {
            Value::Text(t) => t.len(),
            Value::Labels(l) => l.len(),
            Value::Map(m) => m.len(),
            Value::List(l) => l.len(),
            other => return Err(format!("len of type {}", other.type_name())),
        } as i64),
        "index" => args[1..].iter().try_fold(args[0].clone(), |of, key| index(&of, key))?,
        "slice" => slice(args)?,
        "print" => Value::Text(print(args, false)?),
        "println" => Value::Text(print(args, true)? + "\n"),
        "printf" => {
            let text = printf(string(&args[0])?, &args[1..]);
            Value::Text(bounded(text)?)
        }
        "html" => Value::Text(escaped(&print(args, false)?, html)?),
        "js" => Value::Text(escaped(&print(args, false)?, js)?),
        "urlquery" => Value::Text(crate::query_escaped(&print(args, false)?)),
        _ => return Err("there is nothing that can be called".into()),
    })
}

fn bounded(text: String) -> Result<String, String> {
    if text.len() > OUTPUT_MAX {
        return Err(format!("gives more than {OUTPUT_MAX} bytes"));
    }
    Ok(text)
}

/// What is no text on either side is set apart by a space; `println` always does.
fn print(args: &[Value], always: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut text_before = true;
    for (i, arg) in args.iter().enumerate() {
        let text = matches!(arg, Value::Text(_));
        if i > 0 && (always || !(text || text_before)) {
            out.push(' ');
        }
        match arg {
            Value::Nil => out.push_str("<nil>"),
            other => out.push_str(&other.printed()),
        }
        text_before = text;
        if out.len() > OUTPUT_MAX {
            return bounded(out);
        }
    }
    Ok(out)
}

/// Numbers are compared with numbers of their own type only, as Go does: `gt $value 5`
/// fails, and says so.
fn same(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Nil, Value::Nil) => Ok(true),
        (Value::Nil, _) | (_, Value::Nil) => Ok(false),
        (a, b) => Err(apart(a, b)),
    }
}

fn apart(a: &Value, b: &Value) -> String {
    let basic =
        |v: &Value| matches!(v, Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_));
    if basic(a) && basic(b) {
        "incompatible types for comparison".into()
    } else {
        "invalid type for comparison".into()
    }
}

fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        (a, b) => Err(apart(a, b)),
    }
}

fn index(of: &Value, key: &Value) -> Result<Value, String> {
    match (of, key) {
        (Value::Labels(labels), Value::Text(key)) => Ok(Value::Text(labels.get(key).to_owned())),
        (Value::Map(map), Value::Text(key)) => Ok(map.get(key).cloned().unwrap_or(Value::Nil)),
        (Value::List(all), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| all.get(at)).cloned();
            found.ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Text(text), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            found.map(|b| Value::Int(i64::from(*b))).ok_or(format!("index out of range: {at}"))
        }
        (Value::Nil, _) => Err("index of untyped nil".into()),
        (of, key) => {
            Err(format!("can't index item of type {} with {}", of.type_name(), key.type_name()))
        }
    }
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let length = match &args[0] {
        Value::Text(t) => t.len(),
        Value::List(l) => l.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let bound = |at: usize, default: usize| match args.get(at) {
        None => Ok(default),
        Some(Value::Int(n)) => usize::try_from(*n)
            .ok()
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("index out of range: {n}")),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    let (from, to) = (bound(1, 0)?, bound(2, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match &args[0] {
        Value::Text(t) => {
            let part = t.get(from..to).ok_or("a slice would cut a character")?;
            Ok(Value::Text(part.to_owned()))
        }
        Value::List(all) => Ok(Value::List(all[from..to].to_vec().into())),
        _ => Err("can't slice".into()),
    }
}

/// Each character by what stands for it, if something does.
fn escaped(text: &str, of: fn(char) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    for c in text.chars() {
        match of(c) {
            Some(by) => out.push_str(&by),
            None => out.push(c),
        }
    }
    bounded(out)
}

fn html(c: char) -> Option<String> {
    let by = match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&#34;",
        '\'' => "&#39;",
        '\0' => "\u{fffd}",
        _ => return None,
    };
    Some(by.into())
}

fn js(c: char) -> Option<String> {
    match c {
        '\\' | '\'' => Some(format!("\\{c}")),
        '"' => Some(quoted("\"")[1..3].to_owned()),
        '<' | '>' | '&' | '=' => Some(format!("\\u{:04X}", c as u32)),
        c if c.is_control() => Some(format!("\\u{:04X}", c as u32)),
        _ => None,
    }
}
