//! Queries at random, always the same ones: the grammar's parts put together, and tokens in
//! any order, most of which are errors. Of the former, what makes the last bit of a computed
//! value visible (`%`, `floor`, `count_values`) is left out: it depends on the order of
//! additions.

use crate::data::Random;

/// How many of tokens in any order.
const TOKENS_COUNT: usize = 2_000;
/// How many of the grammar's parts.
const COUNT: usize = 1_500;

const SELECTORS: [&str; 16] = [
    "heat",
    "heat_limit",
    "requests_total",
    "requests_total{code=\"200\"}",
    "small",
    "small{odd=\"yes\"}",
    "broken",
    "broken_total",
    "host_info",
    "zone_info",
    "job_weight",
    "share",
    "latency_bucket",
    "odd{mix=\"at_times\",kind!=\"huge\"}",
    "{__name__=~\"heat.*\",zone=\"b\"}",
    "nothing",
];
const TIMES: [&str; 7] = [
    " offset 3m",
    " offset -2m30s",
    " @ 1600001500.013",
    " @ start()",
    " @ end()",
    " @ end() offset 11m",
    " offset 7m @ 1600003000.013",
];
const NUMBERS: [&str; 8] = ["0", "1", "-2.5", "100", "time()", "scalar(job_weight)", "NaN", "1e3"];
const RANGES: [&str; 4] = ["[5m]", "[1m7s]", "[20s]", "[13m]"];
/// No range is a multiple of a step: no inner window begins at a sample's time.
const SUBQUERIES: [&str; 3] = ["[4m7s:30s]", "[10m1s:1m]", "[2m3s:20s]"];
const LABELS: [&str; 9] = ["job", "code", "zone", "host", "n", "le", "kind", "odd", "instance"];

/// The queries.
pub fn all() -> Vec<String> {
    let mut random = Random(17);
    let made: Vec<String> = (0..COUNT).map(|i| vector(&mut random, 1 + i % 4)).collect();
    made.into_iter().chain((0..TOKENS_COUNT).map(|_| tokens(&mut random))).collect()
}

/// What tokens at random are taken from; without what only 3.x knows (numbers for
/// durations and the other way round, names in quotes).
const TOKENS: [&str; 59] = [
    "heat",
    "small",
    "sum",
    "topk",
    "by",
    "without",
    "(",
    ")",
    "(",
    ")",
    "}",
    "[5m]",
    "[2m3s:20s]",
    "[5m:]",
    ",",
    "1",
    "0x1f",
    "+",
    "-",
    "*",
    "/",
    "^",
    "%",
    "==",
    ">",
    ">=",
    "!=",
    "bool",
    "on",
    "ignoring",
    "(zone)",
    "()",
    "group_left",
    "group_right",
    "offset",
    "offset 5m",
    "heat offset -1m",
    "@ 1600001000.013",
    "@ start()",
    "@",
    "start",
    "end",
    "and",
    "or",
    "unless",
    "rate",
    "abs",
    "rate(heat[5m])",
    "(heat)",
    "{zone=\"a\"}",
    "{zone",
    "=",
    "=~",
    "!~",
    "\"a\"}",
    "inf",
    "NaN",
    "atan2",
    "time()",
];

/// Tokens in any order: mostly errors, on both sides.
fn tokens(random: &mut Random) -> String {
    let count = 1 + random.below(7);
    let words: Vec<&str> = (0..count).map(|_| pick(random, &TOKENS)).collect();
    words.join(" ")
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn labels(random: &mut Random) -> String {
    let count = random.below(3);
    let names: Vec<&str> = (0..count).map(|_| pick(random, &LABELS)).collect();
    format!("({})", names.join(", "))
}

/// An expression that gives an instant vector.
fn vector(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        let time = if random.below(4) == 0 { pick(random, &TIMES) } else { "" };
        return format!("{}{time}", pick(random, &SELECTORS));
    }
    match random.below(10) {
        0 | 1 => aggregate(random, depth),
        2 => {
            let functions = ["abs", "sgn", "exp", "sqrt", "-", "deg", "sort", "rad", "atan"];
            format!("{}({})", pick(random, &functions), vector(random, depth - 1))
        }
        3 | 4 => window(random, depth),
        5 | 6 => {
            let bound = pick(random, &NUMBERS);
            let op = operator(random);
            let (left, right) = (vector(random, depth - 1), bound.to_owned());
            let (left, right) = if random.below(3) == 0 { (right, left) } else { (left, right) };
            format!("({left} {op} {right})")
        }
        _ => binary(random, depth),
    }
}

fn operator(random: &mut Random) -> &'static str {
    let all = ["+", "-", "*", "/", ">", "<", ">=", "!=", "> bool", "<= bool", "== bool"];
    pick(random, &all)
}

fn aggregate(random: &mut Random, depth: usize) -> String {
    let all = ["sum", "avg", "min", "max", "count", "group", "quantile"];
    let op = pick(random, &all);
    let by = pick(random, &["", "by", "without"]);
    let by = if by.is_empty() { String::new() } else { format!(" {by} {}", labels(random)) };
    let param = if op == "quantile" { "0.3, " } else { "" };
    let inner = vector(random, depth - 1);
    format!("{op}{by} ({param}{inner})")
}

fn window(random: &mut Random, depth: usize) -> String {
    let functions = ["avg", "min", "max", "sum", "count", "last", "present", "absent"];
    let function = match random.below(4) {
        0 => pick(random, &["delta", "idelta", "irate", "changes", "resets"]).to_owned(),
        _ => format!("{}_over_time", pick(random, &functions)),
    };
    let (inner, range) = match random.below(3) {
        0 => (format!("({})", vector(random, depth - 1)), pick(random, &SUBQUERIES)),
        _ => (pick(random, &SELECTORS).to_owned(), pick(random, &RANGES)),
    };
    let time = if random.below(4) == 0 { pick(random, &TIMES) } else { "" };
    format!("{function}({inner}{range}{time})")
}

fn binary(random: &mut Random, depth: usize) -> String {
    let sets = random.below(3) == 0;
    let op = if sets { pick(random, &["and", "or", "unless"]) } else { operator(random) };
    let mut matching = match random.below(3) {
        0 => String::new(),
        1 => format!("on {}", labels(random)),
        _ => format!("ignoring {}", labels(random)),
    };
    if !sets && !matching.is_empty() && random.below(2) == 0 {
        let group = pick(random, &["group_left", "group_right"]);
        matching += &format!(" {group} {}", labels(random));
    }
    let (left, right) = (vector(random, depth - 1), vector(random, depth - 1));
    format!("({left} {op} {matching} {right})")
}
