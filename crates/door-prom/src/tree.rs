//! `parse_query`: an expression as a tree in JSON, as user interfaces of Prometheus 3 draw
//! and change it.

use serde_json::{Value, json};
use synod_promql::ast::{At, Expr, Many, Matching, Selector, When};
use synod_promql::{Kind, Matcher, NAME, Node};

/// The tree of an expression and the text that it was read from.
pub(crate) fn of(node: &Node, query: &str) -> Value {
    let below = |node: &Node| of(node, query);
    match &node.expr {
        Expr::Number(n) => json!({ "type": "numberLiteral", "val": crate::json::value_text(*n) }),
        Expr::Text(text) => json!({ "type": "stringLiteral", "val": text }),
        Expr::Paren(inner) => json!({ "type": "parenExpr", "expr": below(inner) }),
        Expr::Minus(inner) => json!({ "type": "unaryExpr", "op": "-", "expr": below(inner) }),
        Expr::Plus(inner) => json!({ "type": "unaryExpr", "op": "+", "expr": below(inner) }),
        Expr::Vector(selector) => selected("vectorSelector", selector, node, query),
        Expr::Matrix { selector, range, .. } => {
            let mut tree = selected("matrixSelector", selector, node, query);
            tree["range"] = json!(range);
            tree
        }
        Expr::Subquery { inner, range, step, time, .. } => {
            let mut tree = when("subquery", time);
            tree["expr"] = below(inner);
            tree["range"] = json!(range);
            tree["step"] = json!(step.unwrap_or(0));
            tree
        }
        Expr::Call { function, args } => {
            let takes: Vec<&str> = function.takes.iter().map(|kind| short(*kind)).collect();
            // -1: any number of the last.
            let optional = if function.variadic { -1 } else { function.optional as i64 };
            json!({
                "type": "call",
                "func": {
                    "name": function.name,
                    "argTypes": takes,
                    "variadic": optional,
                    "returnType": short(function.gives),
                },
                "args": args.iter().map(below).collect::<Vec<_>>(),
            })
        }
        Expr::Aggregate { op, param, inner, grouping } => json!({
            "type": "aggregation",
            "op": op.name(),
            "expr": below(inner),
            "param": param.as_deref().map(below),
            "grouping": grouping.labels,
            "without": grouping.without,
        }),
        Expr::Binary { op, left, right, returns_bool, matching } => {
            let of_vectors = left.kind() == Kind::Vector && right.kind() == Kind::Vector;
            json!({
                "type": "binaryExpr",
                "op": op.sign(),
                "lhs": below(left),
                "rhs": below(right),
                "matching": of_vectors.then(|| matched(matching, op.of_sets())),
                "bool": returns_bool,
            })
        }
    }
}

/// A selector. Its name stands apart if it stands before the braces, and is a matcher
/// behind the others too.
fn selected(kind: &str, selector: &Selector, node: &Node, query: &str) -> Value {
    let apart = !query.get(node.span.start..).unwrap_or_default().starts_with('{');
    let (name, rest) = match selector.matchers.split_first() {
        Some((name, rest)) if apart => (Some(name), rest),
        _ => (None, &*selector.matchers),
    };
    let matcher = |m: &Matcher| json!({ "name": m.name, "value": m.value, "type": m.op() });
    let mut tree = when(kind, &selector.time);
    debug_assert!(name.is_none_or(|m| m.name == NAME), "{query}");
    tree["name"] = json!(name.map_or("", |m| &m.value));
    tree["matchers"] = rest.iter().chain(name).map(matcher).collect();
    tree
}

/// What looks at a moment.
fn when(kind: &str, time: &When) -> Value {
    let (timestamp, edge) = match time.at {
        None => (None, None),
        Some(At::Time(ms)) => (Some(ms), None),
        Some(At::Start) => (None, Some("start")),
        Some(At::End) => (None, Some("end")),
    };
    json!({ "type": kind, "offset": time.offset, "timestamp": timestamp, "startOrEnd": edge })
}

fn matched(matching: &Matching, of_sets: bool) -> Value {
    let card = match matching.many {
        _ if of_sets => "many-to-many",
        Many::Neither => "one-to-one",
        Many::Left => "many-to-one",
        Many::Right => "one-to-many",
    };
    let mut told = json!({
        "card": card,
        "labels": matching.labels,
        "on": matching.on,
        "include": matching.include,
    });
    if matching.fill_left.is_some() || matching.fill_right.is_some() {
        told["fillValues"] = json!({"lhs": matching.fill_left, "rhs": matching.fill_right});
    }
    told
}

fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Scalar => "scalar",
        Kind::Text => "string",
        Kind::Vector => "vector",
        Kind::Matrix => "matrix",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_promql::parse;

    fn tree(query: &str) -> Value {
        of(&parse(query).expect(query), query)
    }

    fn up() -> Value {
        json!({
            "type": "vectorSelector", "name": "up", "offset": 0, "timestamp": null,
            "startOrEnd": null, "matchers": [{ "name": "__name__", "type": "=", "value": "up" }],
        })
    }

    #[test]
    fn literals_and_signs() {
        for (query, val) in [
            ("1.50", "1.5"),
            ("-Inf", "-Inf"),
            ("NaN", "NaN"),
            ("5m", "300"),
            ("1e21", "1000000000000000000000"),
        ] {
            assert_eq!(tree(query), json!({ "type": "numberLiteral", "val": val }), "{query}");
        }
        assert_eq!(tree("\"a\\\"\""), json!({ "type": "stringLiteral", "val": "a\"" }));
        assert_eq!(tree("(up)"), json!({ "type": "parenExpr", "expr": up() }));
        assert_eq!(tree("-up"), json!({ "type": "unaryExpr", "op": "-", "expr": up() }));
        assert_eq!(tree("+ up"), json!({ "type": "unaryExpr", "op": "+", "expr": up() }));
    }

    #[test]
    fn selectors() {
        let matcher = |name: &str, kind: &str, value: &str| json!({ "name": name, "type": kind, "value": value });
        let name = matcher("__name__", "=", "up");
        assert_eq!(
            tree("up{a=\"1\",b!~\"x|y\"}[5m] @ 1.5 offset -1m"),
            json!({
                "type": "matrixSelector", "name": "up", "range": 300_000, "offset": -60_000,
                "timestamp": 1_500, "startOrEnd": null,
                "matchers": [matcher("a", "=", "1"), matcher("b", "!~", "x|y"), name],
            })
        );
        for query in ["{__name__=\"up\"} @ end()", "{\"up\"} @ end()"] {
            assert_eq!(
                tree(query),
                json!({
                    "type": "vectorSelector", "name": "", "offset": 0, "timestamp": null,
                    "startOrEnd": "end", "matchers": [name],
                }),
                "{query}"
            );
        }
        assert_eq!(
            tree("up[1h:] @ start() offset 1m"),
            json!({
                "type": "subquery", "expr": up(), "range": 3_600_000, "step": 0, "offset": 60_000,
                "timestamp": null, "startOrEnd": "start",
            })
        );
        assert_eq!(tree("up[1h:30s]")["step"], 30_000);
    }

    #[test]
    fn calls_and_aggregations() {
        let func = |name: &str, takes: &[&str], variadic: i64, gives: &str| json!({ "name": name, "argTypes": takes, "variadic": variadic, "returnType": gives });
        assert_eq!(
            tree("round(up)"),
            json!({ "type": "call", "func": func("round", &["vector", "scalar"], 1, "vector"), "args": [up()] })
        );
        assert_eq!(
            tree("time()"),
            json!({ "type": "call", "func": func("time", &[], 0, "scalar"), "args": [] })
        );
        let join = tree("label_join(up, \"a\", \"-\", \"b\", \"c\")");
        let takes = ["vector", "string", "string", "string"];
        assert_eq!(join["func"], func("label_join", &takes, -1, "vector"));
        assert_eq!(join["args"].as_array().map(Vec::len), Some(5));
        assert_eq!(tree("rate(up[1m])")["func"]["argTypes"], json!(["matrix"]));
        assert_eq!(
            tree("topk without (a, b) (3, up)"),
            json!({
                "type": "aggregation", "op": "topk", "expr": up(), "grouping": ["a", "b"],
                "without": true, "param": { "type": "numberLiteral", "val": "3" },
            })
        );
        let sum = tree("sum(up)");
        assert_eq!((&sum["param"], &sum["grouping"]), (&Value::Null, &json!([])));
        assert_eq!(sum["without"], false);
    }

    #[test]
    fn operators() {
        assert_eq!(
            tree("up == bool on (a) group_left (b) up"),
            json!({
                "type": "binaryExpr", "op": "==", "lhs": up(), "rhs": up(), "bool": true,
                "matching": { "card": "many-to-one", "labels": ["a"], "on": true, "include": ["b"] },
            })
        );
        let matching = |query: &str| tree(query)["matching"].clone();
        let card = |card: &str| json!({ "card": card, "labels": [], "on": false, "include": [] });
        assert_eq!(matching("up + up"), card("one-to-one"));
        assert_eq!(matching("up unless up"), card("many-to-many"));
        assert_eq!(matching("up / ignoring () group_right up"), card("one-to-many"));
        assert_eq!(matching("up * 2"), Value::Null);
        assert_eq!(tree("1 atan2 2")["op"], "atan2");
    }
}
