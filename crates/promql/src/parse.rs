//! Tokens to an expression (recursive descent; operators by precedence climbing).

mod length;
mod special;

use crate::Error;
use crate::ast::{
    Aggregation, At, BinaryOp, Expr, Grouping, Kind, Many, Matching, Node, Selector, When,
};
use crate::functions;
use crate::labels::{Matcher, NAME};
use crate::lex::{Placed, Token, tokens};
use std::ops::Range;

/// How deep expressions may nest: each level is a frame of the stack.
const DEPTH_MAX: usize = 100;
/// Words that no series' name may be.
const RESERVED: [&str; 6] = ["atan2", "bool", "group_left", "group_right", "ignoring", "on"];
/// How high an expression may be: a chain of operators has a level for each, and all other
/// levels count twice.
const HEIGHT_MAX: usize = 400;
/// Bytes of a query.
const QUERY_BYTES_MAX: usize = 1 << 20;

/// Reads a query.
pub fn parse(text: &str) -> Result<Node, Error> {
    if text.len() > QUERY_BYTES_MAX {
        let why = format!("the query is longer than {QUERY_BYTES_MAX} bytes");
        return Err(Error::parse(0..0, why));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, height: 0 };
    if *parser.peek() == Token::End {
        return Err(Error::parse(0..0, "no expression found in input"));
    }
    let node = parser.expr(1)?;
    match parser.peek() {
        Token::End => Ok(node),
        other => parser.fail(format!("unexpected {}", show(other))),
    }
}

/// Whether a series' name can stand without quotes.
pub(crate) fn is_bare_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let word = RESERVED.contains(&&*lower) || ["inf", "nan"].contains(&&*lower);
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let first = name.chars().next().is_some_and(|c| part(c) && !c.is_ascii_digit());
    first && !word && name.chars().all(part)
}

/// Reads a selector alone, as `match[]` has it.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, Error> {
    match parse(text)? {
        Node { expr: Expr::Vector(s), .. } if s.time == When::default() => Ok(s.matchers),
        node => Err(Error::parse(node.span, "a series selector is expected")),
    }
}

fn show(token: &Token) -> String {
    match token {
        Token::Name(n) => format!("identifier {n:?}"),
        Token::Number(n) => format!("number {n}"),
        Token::Duration(ms) => format!("duration {ms}ms"),
        Token::Text(t) => format!("string {t:?}"),
        Token::Sign(s) => format!("{s:?}"),
        Token::End => "end of input".into(),
    }
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    /// How high the expression is that was read last: see [`HEIGHT_MAX`].
    height: usize,
}

type Parsed = Result<Node, Error>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn span(&self) -> Range<usize> {
        self.tokens[self.at].1.clone()
    }

    /// The end of what was taken.
    fn end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |i| self.tokens[i].1.end)
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn fail<T>(&self, why: impl Into<String>) -> Result<T, Error> {
        Err(Error::parse(self.span(), why))
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, sign: &str, place: &str) -> Result<(), Error> {
        if self.takes(sign) {
            return Ok(());
        }
        self.fail(format!("unexpected {} in {place}, expected {sign:?}", show(self.peek())))
    }

    /// Whether the next token is this keyword; it is taken then.
    fn takes_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Name(n) if n.eq_ignore_ascii_case(word));
        if found {
            self.next();
        }
        found
    }

    /// One level more above what was read last, by what it takes of the stack.
    fn grow(&mut self, by: usize) -> Result<(), Error> {
        self.height += by;
        if self.height > HEIGHT_MAX {
            return self.fail("the expression has too many levels");
        }
        Ok(())
    }

    fn binary_op(&self) -> Option<BinaryOp> {
        match self.peek() {
            Token::Sign(s) => BinaryOp::named(s),
            Token::Name(n) => BinaryOp::named(&n.to_ascii_lowercase()),
            _ => None,
        }
    }

    fn expr(&mut self, lowest: u8) -> Parsed {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("the expression nests deeper than {DEPTH_MAX} levels"));
        }
        let mut left = self.unary()?;
        while let Some(op) = self.binary_op().filter(|op| op.precedence() >= lowest) {
            let sign = self.span();
            self.next();
            let (returns_bool, matching) = self.modifiers(op)?;
            // The power is the only one that goes from the right.
            let next = op.precedence() + u8::from(op != BinaryOp::Pow);
            let below = self.height;
            let right = self.expr(next)?;
            self.height = self.height.max(below);
            self.grow(1)?;
            left = binary(op, left, right, returns_bool, matching, sign)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn modifiers(&mut self, op: BinaryOp) -> Result<(bool, Matching), Error> {
        let mut matching = Matching::default();
        let mut returns_bool = false;
        if matches!(self.peek(), Token::Name(n) if n.eq_ignore_ascii_case("bool")) {
            if !op.compares() {
                return self.fail("bool modifier can only be used on comparison operators");
            }
            self.next();
            returns_bool = true;
        }
        let on = self.takes_word("on");
        if on || self.takes_word("ignoring") {
            matching.on = on;
            matching.labels = self.label_list()?;
            let left = self.takes_word("group_left");
            if left || self.takes_word("group_right") {
                if op.of_sets() {
                    return self.fail("no grouping allowed for set operations");
                }
                matching.many = if left { Many::Left } else { Many::Right };
                if matches!(self.peek(), Token::Sign("(")) {
                    matching.include = self.label_list()?;
                }
                let both = matching.include.iter().find(|l| on && matching.labels.contains(l));
                if let Some(label) = both {
                    return self.fail(format!(
                        "label {label:?} must not occur in ON and GROUP clause at once"
                    ));
                }
            }
        }
        self.fills(op, &mut matching)?;
        Ok((returns_bool, matching))
    }

    fn label_list(&mut self) -> Result<Vec<String>, Error> {
        self.expect("(", "grouping opts")?;
        let mut labels = Vec::new();
        while !self.takes(")") {
            match self.next() {
                Token::Name(n) if !n.contains(':') => labels.push(n),
                Token::Text(t) => labels.push(t),
                other => {
                    return self.fail(format!("unexpected {} in grouping opts", show(&other)));
                }
            }
            if !self.takes(",") {
                self.expect(")", "grouping opts")?;
                break;
            }
        }
        Ok(labels)
    }

    fn unary(&mut self) -> Parsed {
        let from = self.span().start;
        let minus = self.takes("-");
        if !minus && !self.takes("+") {
            let primary = self.primary()?;
            return self.postfix(primary);
        }
        // It binds like a product, weaker than a power.
        let inner = self.expr(BinaryOp::Mul.precedence() + 1)?;
        self.grow(2)?;
        let span = from..inner.span.end;
        if !matches!(inner.kind(), Kind::Scalar | Kind::Vector) {
            let why = format!(
                "unary expression only allowed on expressions of type scalar or instant vector, \
                 got {:?}",
                inner.kind().name()
            );
            return Err(Error::parse(span, why));
        }
        let expr = match inner.expr {
            Expr::Number(n) => Expr::Number(if minus { -n } else { n }),
            _ if minus => Expr::Minus(Box::new(inner)),
            _ => Expr::Plus(Box::new(inner)),
        };
        Ok(Node { expr, span })
    }

    fn primary(&mut self) -> Parsed {
        let from = self.span().start;
        self.height = 0;
        let expr = match self.peek().clone() {
            Token::Number(n) => {
                self.next();
                Expr::Number(n)
            }
            // As a number it is seconds.
            Token::Duration(ms) => {
                self.next();
                Expr::Number(ms as f64 / 1_000.0)
            }
            Token::Text(t) => {
                self.next();
                Expr::Text(t)
            }
            Token::Sign("(") => {
                self.next();
                let inner = self.expr(1)?;
                self.grow(2)?;
                self.expect(")", "paren expression")?;
                Expr::Paren(Box::new(inner))
            }
            Token::Sign("{") => Expr::Vector(self.selector(None)?),
            Token::Name(name) => self.named(name)?,
            other => return self.fail(format!("unexpected {}", show(&other))),
        };
        Ok(Node { expr, span: from..self.end() })
    }

    fn named(&mut self, name: String) -> Result<Expr, Error> {
        let lower = name.to_ascii_lowercase();
        let from = self.span();
        self.next();
        let calls = matches!(self.peek(), Token::Sign("("));
        let groups = matches!(self.peek(), Token::Name(n)
            if n.eq_ignore_ascii_case("by") || n.eq_ignore_ascii_case("without"));
        if let Some(op) = Aggregation::named(&lower).filter(|_| calls || groups) {
            return self.aggregate(op);
        }
        match &*lower {
            "inf" if !calls => return Ok(Expr::Number(f64::INFINITY)),
            "nan" if !calls => return Ok(Expr::Number(f64::NAN)),
            _ => {}
        }
        if !calls {
            if RESERVED.contains(&&*lower) {
                return Err(Error::parse(from, format!("unexpected <{lower}>")));
            }
            return Ok(Expr::Vector(self.selector(Some(name))?));
        }
        let Some(function) = functions::named(&name) else {
            return Err(Error::parse(from, format!("unknown function with name {name:?}")));
        };
        let args = match function.name {
            "info" => self.info_args()?,
            _ => self.args("function call")?,
        };
        check_args(function, &args, from)?;
        Ok(Expr::Call { function, args })
    }

    fn args(&mut self, place: &str) -> Result<Vec<Node>, Error> {
        self.expect("(", place)?;
        let mut args = Vec::new();
        if self.takes(")") {
            return Ok(args);
        }
        let mut below = 0;
        loop {
            args.push(self.expr(1)?);
            below = self.height.max(below);
            if !self.takes(",") {
                self.expect(")", place)?;
                self.height = below;
                self.grow(2)?;
                return Ok(args);
            }
        }
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, Error> {
        let without = self.takes_word("without");
        if !without && !self.takes_word("by") {
            return Ok(None);
        }
        Ok(Some(Grouping { without, labels: self.label_list()? }))
    }

    fn aggregate(&mut self, op: Aggregation) -> Result<Expr, Error> {
        let mut grouping = self.grouping()?;
        let place = self.span();
        let mut args = self.args("aggregation")?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let wanted = 1 + usize::from(op.has_param());
        if args.len() != wanted {
            let why = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, \
                 got {}",
                args.len()
            );
            return Err(Error::parse(place, why));
        }
        let inner = args.pop().map(Box::new);
        let Some(inner) = inner else { return self.fail("an aggregation needs an argument") };
        of_kind(&inner, Kind::Vector, "aggregation expression")?;
        let param = args.pop().map(Box::new);
        if let Some(param) = &param {
            let kind = if op == Aggregation::CountValues { Kind::Text } else { Kind::Scalar };
            of_kind(param, kind, "aggregation parameter")?;
        }
        Ok(Expr::Aggregate { op, param, inner, grouping: grouping.unwrap_or_default() })
    }

    fn selector(&mut self, name: Option<String>) -> Result<Selector, Error> {
        let from = self.span();
        let matchers = self.matchers(name)?;
        if matchers.iter().all(|m| m.takes("")) {
            let why = "vector selector must contain at least one non-empty matcher";
            return Err(Error::parse(from.start..self.end(), why));
        }
        Ok(Selector { matchers, time: When::default() })
    }

    /// What stands in braces, and a name before them.
    fn matchers(&mut self, name: Option<String>) -> Result<Vec<Matcher>, Error> {
        let from = self.span();
        let mut matchers = Vec::new();
        let mut named = name.is_some();
        if let Some(name) = name {
            matchers
                .push(Matcher::new(NAME, "=", &name).map_err(|e| Error::parse(from.clone(), e))?);
        }
        if self.takes("{") {
            while !self.takes("}") {
                self.matcher(&mut matchers, &mut named)?;
                if !self.takes(",") {
                    self.expect("}", "label matching")?;
                    break;
                }
            }
        }
        Ok(matchers)
    }

    fn matcher(&mut self, matchers: &mut Vec<Matcher>, named: &mut bool) -> Result<(), Error> {
        let from = self.span();
        let (label, quoted) = match self.next() {
            Token::Name(n) if !n.contains(':') => (n, false),
            Token::Text(t) => (t, true),
            other => {
                let why = format!("unexpected {} in label matching", show(&other));
                return Err(Error::parse(from, why));
            }
        };
        let op = match self.peek() {
            Token::Sign(s @ ("=" | "!=" | "=~" | "!~")) => *s,
            // A quoted text alone is the series' name.
            Token::Sign("," | "}") if quoted && !*named => {
                *named = true;
                let name = Matcher::new(NAME, "=", &label);
                matchers.push(name.map_err(|e| Error::parse(from, e))?);
                return Ok(());
            }
            Token::Sign("," | "}") if quoted => {
                return Err(Error::parse(from, "metric name must not be set twice"));
            }
            other => {
                let found = show(other);
                return self.fail(format!(
                    "unexpected {found} in label matching, expected one of \"=\", \"!=\", \"=~\", \"!~\""
                ));
            }
        };
        self.next();
        let Token::Text(value) = self.peek().clone() else {
            let found = show(self.peek());
            return self.fail(format!("unexpected {found} in label matching, expected string"));
        };
        let place = self.span();
        self.next();
        if label == NAME && *named {
            return Err(Error::parse(from, "metric name must not be set twice"));
        }
        let matcher = Matcher::new(&label, op, &value);
        matchers.push(matcher.map_err(|e| Error::parse(place, e))?);
        Ok(())
    }

    /// Ranges, subqueries, `offset` and `@`.
    fn postfix(&mut self, mut node: Node) -> Parsed {
        loop {
            if self.takes("[") {
                node = self.range(node)?;
            } else if self.takes_word("offset") {
                let (offset, written) = self.signed_duration()?;
                let place = self.end();
                let time = time_of(&mut node, "offset")?;
                if time.offset != 0 || time.written.is_some() {
                    return self.fail("offset may not be set multiple times");
                }
                (time.offset, time.written) = (offset, written);
                node.span.end = place;
            } else if self.takes("@") {
                let at = self.at_time()?;
                let place = self.end();
                let time = time_of(&mut node, "@ modifier")?;
                if time.at.is_some() {
                    return self.fail("@ <timestamp> may not be set multiple times");
                }
                time.at = Some(at);
                node.span.end = place;
            } else {
                return Ok(node);
            }
        }
    }

    fn range(&mut self, node: Node) -> Parsed {
        let (range, written) = self.duration("a range")?;
        let from = node.span.start;
        self.grow(2)?;
        if self.takes(":") {
            let step = match self.peek() {
                Token::Sign("]") => None,
                _ => Some(self.duration("a subquery's step")?),
            };
            let (step, of_step) = step.unzip();
            let written = (written, of_step.flatten());
            self.expect("]", "subquery selector")?;
            if !matches!(node.kind(), Kind::Vector | Kind::Scalar) || node.kind() == Kind::Scalar {
                let why = format!(
                    "subquery is only allowed on instant vector, got {} instead",
                    node.kind().name()
                );
                return Err(Error::parse(node.span, why));
            }
            let inner = Box::new(node);
            let expr = Expr::Subquery { inner, range, step, time: When::default(), written };
            return Ok(Node { expr, span: from..self.end() });
        }
        self.expect("]", "matrix selector")?;
        match node.expr {
            Expr::Vector(selector) if selector.time == When::default() => {
                Ok(Node { expr: Expr::Matrix { selector, range, written }, span: from..self.end() })
            }
            Expr::Vector(_) => {
                Err(Error::parse(node.span, "no offset or @ modifiers allowed before range"))
            }
            _ => Err(Error::parse(node.span, "ranges only allowed for vector selectors")),
        }
    }

    fn at_time(&mut self) -> Result<At, Error> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.takes_word(word) {
                self.expect("(", "@ modifier")?;
                self.expect(")", "@ modifier")?;
                return Ok(at);
            }
        }
        let minus = self.takes("-");
        if !minus {
            self.takes("+");
        }
        let seconds = match self.peek() {
            Token::Number(n) => *n,
            other => {
                return self.fail(format!("unexpected {} in @, expected timestamp", show(other)));
            }
        };
        let ms = (seconds * 1_000.0).round() * if minus { -1.0 } else { 1.0 };
        if !ms.is_finite() || ms.abs() >= i64::MAX as f64 {
            return self.fail(format!("timestamp out of bounds for @ modifier: {seconds}"));
        }
        self.next();
        Ok(At::Time(ms as i64))
    }
}

fn time_of<'a>(node: &'a mut Node, what: &str) -> Result<&'a mut When, Error> {
    let span = node.span.clone();
    match &mut node.expr {
        Expr::Vector(s) | Expr::Matrix { selector: s, .. } => Ok(&mut s.time),
        Expr::Subquery { time, .. } => Ok(time),
        _ => {
            let why = format!(
                "{what} must be preceded by an instant vector selector or range vector selector \
                 or a subquery"
            );
            Err(Error::parse(span, why))
        }
    }
}

fn of_kind(node: &Node, wanted: Kind, place: &str) -> Result<(), Error> {
    if node.kind() == wanted {
        return Ok(());
    }
    let (wanted, got) = (wanted.name(), node.kind().name());
    let why = format!("expected type {wanted} in {place}, got {got}");
    Err(Error::parse(node.span.clone(), why))
}

fn check_args(
    function: &'static functions::Function,
    args: &[Node],
    span: Range<usize>,
) -> Result<(), Error> {
    let (least, most) = (function.takes.len() - function.optional, function.takes.len());
    if args.len() < least || args.len() > most && !function.variadic {
        let wanted = match (function.optional, function.variadic) {
            (0, false) => format!("{least}"),
            (_, true) => format!("at least {least}"),
            _ => format!("{least} to {most}"),
        };
        let why = format!(
            "expected {wanted} argument(s) in call to {:?}, got {}",
            function.name,
            args.len()
        );
        return Err(Error::parse(span, why));
    }
    for (i, arg) in args.iter().enumerate() {
        let wanted = function.takes[i.min(most - 1)];
        of_kind(arg, wanted, &format!("call to function {:?}", function.name))?;
    }
    Ok(())
}

fn binary(
    op: BinaryOp,
    left: Node,
    right: Node,
    returns_bool: bool,
    matching: Matching,
    sign: Range<usize>,
) -> Parsed {
    for side in [&left, &right] {
        if !matches!(side.kind(), Kind::Scalar | Kind::Vector) {
            let why = "binary expression must contain only scalar and instant vector types";
            return Err(Error::parse(side.span.clone(), why));
        }
    }
    let scalars = [&left, &right].iter().filter(|n| n.kind() == Kind::Scalar).count();
    let why = if op.of_sets() && scalars > 0 {
        Some("set operator not allowed in binary scalar expression")
    } else if op.compares() && scalars == 2 && !returns_bool {
        Some("comparisons between scalars must use BOOL modifier")
    } else if scalars > 0 && matching != Matching::default() {
        Some("vector matching only allowed between instant vectors")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(Error::parse(sign, why));
    }
    let span = left.span.start..right.span.end;
    let (left, right) = (Box::new(left), Box::new(right));
    Ok(Node { expr: Expr::Binary { op, left, right, returns_bool, matching }, span })
}
