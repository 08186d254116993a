//! A template's text to pieces: plain text, and the words of each action.

use super::TemplateError;

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// `.`
    Dot,
    /// `.name`
    Field(String),
    /// `$name`, or `$`.
    Variable(String),
    /// A function's name, a keyword, `true`, `nil`.
    Word(String),
    Int(i64),
    Float(f64),
    Text(String),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A word, and what its place tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Word {
    pub token: Token,
    /// Nothing stands between it and the word before.
    pub glued: bool,
}

/// What a template consists of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Action { words: Vec<Word>, line: usize },
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Splits a template.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let (mut out, mut rest, mut trim) = (Vec::new(), text, false);
    loop {
        let line = 1 + text[..text.len() - rest.len()].matches('\n').count();
        let Some(at) = rest.find("{{") else {
            push_text(&mut out, if trim { rest.trim_start_matches(is_space) } else { rest });
            return Ok(out);
        };
        let mut plain = &rest[..at];
        if trim {
            plain = plain.trim_start_matches(is_space);
        }
        let line = line + rest[..at].matches('\n').count();
        rest = &rest[at + 2..];
        let after = rest.strip_prefix('-').filter(|r| r.starts_with(is_space));
        if let Some(after) = after {
            plain = plain.trim_end_matches(is_space);
            rest = after;
        }
        push_text(&mut out, plain);
        let body = rest.trim_start_matches(is_space);
        if let Some(comment) = body.strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| fail(line, "unclosed comment"))?;
            (rest, trim) = closed(&comment[end + 2..])
                .ok_or_else(|| fail(line, "comment ends before closing delimiter"))?;
            continue;
        }
        let (words, after, trims) = action(rest, line)?;
        out.push(Piece::Action { words, line });
        (rest, trim) = (after, trims);
    }
}

fn push_text(out: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        out.push(Piece::Text(text.to_owned()));
    }
}

fn fail(line: usize, why: impl Into<String>) -> TemplateError {
    TemplateError { line, why: why.into() }
}

/// What stands after the end of an action, if it ends here; and whether space after it goes.
fn closed(rest: &str) -> Option<(&str, bool)> {
    if let Some(after) = rest.strip_prefix("}}") {
        return Some((after, false));
    }
    let spaced = rest.trim_start_matches(is_space);
    let after = spaced.strip_prefix("-}}").filter(|_| spaced.len() < rest.len());
    after.map(|a| (a, true))
}

type Action<'a> = (Vec<Word>, &'a str, bool);

fn action(text: &str, line: usize) -> Result<Action<'_>, TemplateError> {
    let (mut words, mut rest) = (Vec::new(), text);
    let mut glued = false;
    loop {
        if let Some((after, trims)) = closed(rest) {
            return Ok((words, after, trims));
        }
        let Some(c) = rest.chars().next() else { return Err(fail(line, "unclosed action")) };
        if is_space(c) {
            rest = &rest[c.len_utf8()..];
            glued = false;
            continue;
        }
        let (token, length) = word(rest, c).map_err(|why| fail(line, why))?;
        words.push(Word { token, glued });
        rest = &rest[length..];
        glued = true;
    }
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn name(text: &str) -> &str {
    let end = text.find(|c| !is_letter(c)).unwrap_or(text.len());
    &text[..end]
}

fn word(rest: &str, c: char) -> Result<(Token, usize), String> {
    let one = |token| Ok((token, 1));
    match c {
        '|' => one(Token::Pipe),
        '(' => one(Token::Open),
        ')' => one(Token::Close),
        ',' => one(Token::Comma),
        '=' => one(Token::Assign),
        ':' if rest.starts_with(":=") => Ok((Token::Declare, 2)),
        ':' => Err("expected :=".into()),
        '"' => quoted(rest),
        '`' => match rest[1..].find('`') {
            Some(end) => Ok((Token::Text(rest[1..=end].to_owned()), end + 2)),
            None => Err("unterminated raw quoted string".into()),
        },
        '\'' => character(rest),
        '$' => {
            let name = name(&rest[1..]);
            Ok((Token::Variable(name.to_owned()), 1 + name.len()))
        }
        '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
            let name = name(&rest[1..]);
            match name {
                "" => one(Token::Dot),
                name => Ok((Token::Field(name.to_owned()), 1 + name.len())),
            }
        }
        '+' | '-' | '.' | '0'..='9' => number(rest),
        c if is_letter(c) => {
            let name = name(rest);
            Ok((Token::Word(name.to_owned()), name.len()))
        }
        c => Err(format!("unexpected {:?} in command", c.to_string())),
    }
}

fn quoted(rest: &str) -> Result<(Token, usize), String> {
    let (mut out, mut at) = (String::new(), 1);
    loop {
        let c = rest[at..].chars().next().filter(|c| *c != '\n');
        match c.ok_or("unterminated quoted string")? {
            '"' => return Ok((Token::Text(out), at + 1)),
            '\\' => {
                let (c, length) = escape(&rest[at + 1..])?;
                out.push(c);
                at += 1 + length;
            }
            c => {
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
}

/// What stands for a character after a backslash, and its length. Bytes that are no
/// character by themselves are not known here.
fn escape(rest: &str) -> Result<(char, usize), String> {
    let bad = || "invalid escape in a string".to_owned();
    let c = rest.chars().next().ok_or("unterminated quoted string")?;
    let simple = |c| Ok((c, 1));
    let code = |digits: Option<&str>, radix, length| {
        let code = u32::from_str_radix(digits.ok_or_else(bad)?, radix).map_err(|_| bad())?;
        Ok((char::from_u32(code).ok_or_else(bad)?, length))
    };
    match c {
        'n' => simple('\n'),
        't' => simple('\t'),
        'r' => simple('\r'),
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'v' => simple('\x0b'),
        '\\' | '"' | '\'' => simple(c),
        'x' => code(rest.get(1..3), 16, 3),
        'u' => code(rest.get(1..5), 16, 5),
        'U' => code(rest.get(1..9), 16, 9),
        '0'..='7' => code(rest.get(..3), 8, 3),
        _ => Err(bad()),
    }
}

fn character(rest: &str) -> Result<(Token, usize), String> {
    let bad = || "malformed character constant".to_owned();
    let c = rest[1..].chars().next().ok_or_else(bad)?;
    let (c, length) = match c {
        '\\' => escape(&rest[2..]).map(|(c, length)| (c, length + 1))?,
        '\'' | '\n' => return Err(bad()),
        c => (c, c.len_utf8()),
    };
    if !rest[1 + length..].starts_with('\'') {
        return Err(bad());
    }
    Ok((Token::Int(i64::from(c as u32)), length + 2))
}

fn number(rest: &str) -> Result<(Token, usize), String> {
    let signed = usize::from(rest.starts_with(['+', '-']));
    let hex = rest[signed..].starts_with("0x") || rest[signed..].starts_with("0X");
    let mut end = signed;
    for c in rest[signed..].chars() {
        let before = rest.as_bytes()[end.saturating_sub(1)];
        let after_exponent = !hex && end > signed && matches!(before, b'e' | b'E');
        if !(is_letter(c) || c == '.' || (matches!(c, '+' | '-') && after_exponent)) {
            break;
        }
        end += c.len_utf8();
    }
    let text = &rest[..end];
    let bad = || format!("bad number syntax: {text:?}");
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let based = [("0x", 16), ("0b", 2), ("0o", 8)];
    let of_base = based.iter().find_map(|(p, radix)| Some((lower.strip_prefix(p)?, *radix)));
    let whole = |digits: &str, radix| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok();
    let token = match of_base {
        Some((digits, radix)) => Token::Int(whole(digits, radix).ok_or_else(bad)?),
        None if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() => {
            let old_octal = digits.len() > 1 && digits.starts_with('0');
            let radix = if old_octal { 8 } else { 10 };
            Token::Int(whole(digits, radix).ok_or_else(bad)?)
        }
        None if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            Token::Float(plain.trim_start_matches('+').parse().map_err(|_| bad())?)
        }
        None => return Err(bad()),
    };
    Ok((token, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Token> {
        let found = pieces(&format!("{{{{{text}}}}}")).expect("a template");
        match &found[..] {
            [Piece::Action { words, .. }] => words.iter().map(|w| w.token.clone()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_and_texts() {
        assert_eq!(words("1 -2 0x1F 1_000"), [1, -2, 31, 1000].map(Token::Int));
        assert_eq!(words("1.5 1e3 -.5 2."), [1.5, 1000.0, -0.5, 2.0].map(Token::Float));
        let texts =
            ["a\"b\n", "c`".trim_end_matches('`'), "\\n", "é"].map(|t| Token::Text(t.into()));
        assert_eq!(words("\"a\\\"b\\n\" `c` `\\n` \"\\u00e9\""), texts);
        assert_eq!(words("'a' '\\n'"), [97, 10].map(Token::Int));
        for bad in ["\"a", "`a", "'a", "1a", "0x", "#", ":", "\"\\q\"", "\"\n\""] {
            assert!(pieces(&format!("{{{{{bad}}}}}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn space_is_trimmed_where_asked() {
        let texts = |t: &str| {
            let found = pieces(t).expect("a template").into_iter();
            found.filter_map(|p| if let Piece::Text(t) = p { Some(t) } else { None }).collect()
        };
        let all: Vec<String> = texts("a {{- 1 -}} b {{ 2 }} c {{/* no */ -}}  d{{-3}}");
        assert_eq!(all, ["a", "b ", " c ", "d"]);
    }
}
