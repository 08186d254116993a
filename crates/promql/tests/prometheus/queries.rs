//! The queries: templates that are filled with everything that fits.

/// All of them, none twice.
pub fn all() -> Vec<String> {
    let mut all = Vec::new();
    selectors(&mut all);
    instant_functions(&mut all);
    range_functions(&mut all);
    label_functions(&mut all);
    histograms(&mut all);
    aggregations(&mut all);
    arithmetic(&mut all);
    matching(&mut all);
    modifiers(&mut all);
    subqueries(&mut all);
    literals(&mut all);
    errors(&mut all);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|q| seen.insert(q.clone()));
    all
}

/// Each template with each filling in place of `%`.
fn fill(all: &mut Vec<String>, templates: &[&str], fillings: &[&str]) {
    for template in templates {
        all.extend(fillings.iter().map(|filling| template.replace('%', filling)));
    }
}

fn add(all: &mut Vec<String>, queries: &[&str]) {
    all.extend(queries.iter().map(|q| (*q).to_owned()));
}

fn selectors(all: &mut Vec<String>) {
    let selectors = [
        "requests_total",
        "broken",
        "broken{kind!=\"gap\"}",
        "requests_total{code=~\"2..|4.*\",job!~\"w.b\"}",
        "requests_total{code=\"200\",code!=\"404\",instance=~\"b:.\"}",
        "{__name__=~\"heat.*\",zone=\"a\"}",
        "{__name__=\"small\",missing=\"\"}",
        "heat{zone=~\"|a\"}",
        "page{path=\"\"}",
        "page{path!=\"\"}",
        "page{path=\"q\\\"uo\\\\te\"}",
        "page{path=~'.*\\\\\\\\te'}",
        "page{tag=`ö ü`}",
        "page{tag=~\"[x-z]\",}",
        "page{tag=~\"x|ö.*\"}",
        "nothing",
        "odd",
        "requests_total{job=\"a\"}",
        "requests_total{job=~\"a\"}",
        "odd # and a remark\n",
    ];
    fill(all, &["%", "count(%)"], &selectors);
    fill(all, &["%[2m]", "%[2m] offset 3m"], &["broken", "heat{zone=\"a\"}", "odd", "nothing"]);
}

fn instant_functions(all: &mut Vec<String>) {
    let functions = [
        "abs",
        "ceil",
        "floor",
        "exp",
        "ln",
        "log2",
        "log10",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "deg",
        "rad",
        "sgn",
        "sort",
        "sort_desc",
        "timestamp",
        "round",
        "scalar",
        "absent",
    ];
    for function in functions {
        fill(all, &[&format!("{function}(%)")], &["number", "odd", "nothing", "heat * 10"]);
    }
    let dates = [
        "minute",
        "hour",
        "day_of_week",
        "day_of_month",
        "day_of_year",
        "days_in_month",
        "month",
        "year",
    ];
    for date in dates {
        fill(all, &[&format!("{date}(%)")], &["", "moment", "vector(time() * 3)", "moment - 1e9"]);
    }
    let clamps =
        ["-1, 1", "1, -1", "NaN, 1", "-Inf, Inf", "0.5, scalar(heat{zone=\"a\",host=\"h1\"})"];
    fill(all, &["clamp(heat, %)", "clamp(odd, %)"], &clamps);
    let bounds = ["0", "-3.5", "NaN", "Inf", "time() - 1600001800"];
    let clamps =
        ["clamp_min(heat, %)", "clamp_max(heat, %)", "clamp_min(odd, %)", "clamp_max(odd, %)"];
    fill(all, &clamps, &bounds);
    fill(all, &["round(heat, %)", "round(odd, %)"], &["0.1", "5", "-2", "0", "NaN", "1e10"]);
    add(
        all,
        &[
            "vector(1)",
            "vector(time())",
            "vector(scalar(heat))",
            "scalar(job_weight{job=\"api\"})",
            "time()",
            "pi()",
            "pi() * 2",
            "timestamp(broken)",
            "timestamp((broken))",
            "timestamp(broken offset 4m)",
            "timestamp(broken + 1)",
            "timestamp(timestamp(broken))",
            "timestamp(vector(3))",
            "absent(broken{kind=\"begins\"})",
            "absent(nothing{a=\"1\",b=~\"x\",c=\"2\"})",
            "absent(nothing{a=\"1\",a=\"2\",c=\"2\"})",
            "absent(sum(nothing{a=\"1\"}))",
            "absent((nothing{a=\"1\"}))",
            "absent(heat > 1000)",
            "absent({__name__=\"nothing\",x=\"y\"})",
            "sort(heat)",
            "sort_desc(heat)",
            "sort(-heat)",
            "sort_desc(requests_total)",
            "sort(odd{mix=\"at_times\"})",
        ],
    );
}

fn range_functions(all: &mut Vec<String>) {
    let functions = [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "deriv",
        "changes",
        "resets",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "sum_over_time",
        "count_over_time",
        "stddev_over_time",
        "stdvar_over_time",
        "last_over_time",
        "present_over_time",
        "absent_over_time",
    ];
    let ranges = [
        "requests_total[5m]",
        "requests_total[20s]",
        "broken_total[4m]",
        "heat[3m]",
        "small[10m]",
        "odd[2m]",
        "nothing[5m]",
        "broken[7m30s]",
        "heat[1500ms]",
    ];
    for function in functions {
        // The square of what is huge overflows in other ways in 2.42: see `main.rs`.
        let deviation = function.starts_with("std");
        let fit = ranges.iter().filter(|r| !(deviation && r.starts_with("odd"))).copied();
        fill(all, &[&format!("{function}(%)")], &fit.collect::<Vec<_>>());
    }
    fill(
        all,
        &["stddev_over_time(%)", "stdvar_over_time(%)"],
        &["odd{kind!=\"huge\"}[2m]", "small[1m]"],
    );
    let quantiles =
        ["0", "0.5", "0.9", "1", "-1", "2", "NaN", "scalar(share{job=\"api\",code=\"200\"})"];
    fill(all, &["quantile_over_time(%, heat[5m])", "quantile_over_time(%, odd[2m])"], &quantiles);
    let lengths = ["60", "-3600", "0", "time() - 1.6e9"];
    fill(all, &["predict_linear(heat[5m], %)", "predict_linear(broken[10m], %)"], &lengths);
    let factors = ["0.5, 0.1", "0.01, 0.99", "0.3, scalar(share{job=\"api\",code=\"200\"})"];
    fill(all, &["holt_winters(heat[5m], %)", "holt_winters(broken[10m], %)"], &factors);
    add(
        all,
        &[
            "absent_over_time(broken{kind=\"gap\"}[2m])",
            "absent_over_time(nothing{a=\"b\"}[2m])",
            "rate({__name__=~\"early|late\"}[5m])",
            "rate({__name__=~\"latency_.*\",job=\"api\"}[5m])",
            "last_over_time({__name__=~\"early|late\"}[5m])",
            "-{__name__=~\"early|late\"}",
            "abs({__name__=~\"early|late\"})",
            "sum_over_time({__name__=~\"early|late\"}[5m])",
            "{__name__=~\"early|late\"} + 1",
            "holt_winters(nothing[5m], 2, 2)",
            "holt_winters(heat[5m], 2, 0.5)",
            "holt_winters(heat[5m], 0.5, 0)",
            "predict_linear(heat[5m] offset 2m, 60)",
            "sum(rate(requests_total[5m])) by (job) / 60",
            "rate(requests_total[5m])[3m:]",
        ],
    );
}

fn label_functions(all: &mut Vec<String>) {
    add(
        all,
        &[
            r#"label_replace(page, "n", "$1", "path", ".*-([0-9]+)")"#,
            r#"label_replace(page, "n", "${1}_$2", "path", "/(.)/(.).*")"#,
            r#"label_replace(page, "n", "$1x", "path", "/(.)/(.).*")"#,
            r#"label_replace(page, "n", "$name", "path", "/(?P<name>.)/.*")"#,
            r#"label_replace(page, "n", "$$", "path", ".*")"#,
            r#"label_replace(page, "n", "a$", "path", ".*")"#,
            r#"label_replace(page, "n", "none", "missing", "")"#,
            r#"label_replace(page, "n", "none", "missing", ".+")"#,
            r#"label_replace(page, "path", "", "path", ".*")"#,
            r#"label_replace(page, "tag", "one", "tag", ".*")"#,
            r#"label_replace(sum by (tag) (page), "tag", "one", "tag", ".*")"#,
            r#"label_replace(page, "__name__", "other", "tag", "x")"#,
            r#"label_replace(page, "", "one", "tag", ".*")"#,
            r#"label_replace(page, "n", "one", "tag", "(")"#,
            r#"label_replace(heat, "spot", "$1-$2", "host", "(.)(.)")"#,
            r#"label_join(page, "n", "-", "path", "tag")"#,
            r#"label_join(page, "n", "", "path", "missing", "tag")"#,
            r#"label_join(page, "n", "-")"#,
            r#"label_join(page, "path", ",", "tag")"#,
            r#"label_join(page, "path", ",", "missing")"#,
            r#"label_join(sum by (tag) (page), "tag", ",", "missing")"#,
            r#"label_join(page, "", ",", "tag")"#,
            r#"label_join(page, "n", ",", "")"#,
            r#"label_join(page, "__name__", "_", "tag", "tag")"#,
            r#"label_join(heat, "spot", "/", "zone", "host")"#,
        ],
    );
}

fn histograms(all: &mut Vec<String>) {
    let quantiles = [
        "0",
        "0.1",
        "0.5",
        "0.99",
        "1",
        "-0.5",
        "1.5",
        "NaN",
        "scalar(share{job=\"web\",code=\"500\"})",
    ];
    let templates = [
        "histogram_quantile(%, latency_bucket)",
        "histogram_quantile(%, odd_bucket)",
        "histogram_quantile(%, rate(latency_bucket[5m]))",
        "histogram_quantile(%, sum by (le) (rate(latency_bucket[10m])))",
    ];
    fill(all, &templates, &quantiles);
    add(
        all,
        &[
            "histogram_quantile(0.5, heat)",
            "histogram_quantile(0.9, nothing)",
            "histogram_quantile(0.9, latency_bucket{le!=\"+Inf\"})",
            "histogram_quantile(0.9, sum without (job) (latency_bucket))",
            "histogram_count(latency_bucket)",
            "histogram_sum(heat)",
            "histogram_fraction(0, 1, heat)",
            "rate(latency_sum[5m]) / rate(latency_count[5m])",
        ],
    );
}

fn aggregations(all: &mut Vec<String>) {
    let inner = [
        "heat",
        "requests_total",
        "small",
        "broken",
        "nothing",
        "heat / 0",
        "number{sign=\"plus\"}",
    ];
    let grouped = [
        "%(@)",
        "% by (zone, code) (@)",
        "%(@) without (host, instance)",
        "% by () (@)",
        "% without () (@)",
    ];
    for op in ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"] {
        for template in grouped {
            let template = template.replace('%', op).replace('@', "%");
            // Of an infinity the deviation differs from 2.42's: see `main.rs`.
            let deviation = op.starts_with("std");
            let fit = inner.iter().filter(|i| !(deviation && i.contains("/ 0"))).copied();
            fill(all, &[&template], &fit.collect::<Vec<_>>());
        }
    }
    for op in ["sum", "avg", "min", "max", "count", "group"] {
        fill(
            all,
            &[&format!("{op}(%)"), &format!("{op} by (mix) (%)")],
            &["odd{kind!=\"huge\"}", "odd{kind=\"nan\"}", "odd{kind=~\".*inf\"}"],
        );
    }
    for op in ["topk", "bottomk"] {
        let numbers = ["1", "3", "0", "-1", "100", "2.9", "NaN", "1e30", "scalar(sum(host_info))"];
        fill(all, &[&format!("{op}(%, heat)"), &format!("{op} by (zone) (%, heat)")], &numbers);
        fill(
            all,
            &[&format!("{op} without (host) (2, %)"), &format!("{op}(4, %)")],
            &["heat", "heat * 7", "broken"],
        );
    }
    add(all, &["topk(50, odd)", "bottomk(50, odd)", "topk(1, nothing)", "topk(NaN, nothing)"]);
    let quantiles =
        ["0", "0.3", "0.5", "1", "-1", "7", "NaN", "scalar(share{job=\"api\",code=\"200\"})"];
    fill(
        all,
        &["quantile(%, heat)", "quantile(%, odd)", "quantile by (zone) (%, heat)"],
        &quantiles,
    );
    let counted = [
        "count_values(\"v\", %)",
        "count_values by (odd) (\"v\", %)",
        "count_values without (n) (\"v\", %)",
        "count_values without (v, n, kind) (\"v\", %)",
        "count_values by (odd) (\"odd\", %)",
        "count_values without (odd) (\"n\", %)",
        "count_values(\"__name__\", %)",
    ];
    fill(all, &counted, &["small", "odd{mix=\"always\"}", "host_info * 2.5e10", "nothing"]);
    add(
        all,
        &[
            "count_values(\"\", small)",
            "SUM(heat)",
            "Sum By (zone) (heat)",
            "sum by (zone,) (heat)",
            "sum(sum by (zone) (heat)) by (zone)",
        ],
    );
}

fn arithmetic(all: &mut Vec<String>) {
    for op in ["+", "-", "*", "/", "%%", "^", "atan2"] {
        let op = op.replace("%%", "%");
        for (left, right) in [
            ("heat", "3"),
            ("2.5", "heat"),
            ("heat", "heat_limit"),
            ("7", "-2"),
            ("odd", "0"),
            ("Inf", "odd"),
            ("number", "NaN"),
            ("heat", "time()"),
            ("heat", "-heat"),
            ("0", "0"),
        ] {
            // 2.42 keeps the name beside atan2: see `main.rs`.
            let nameless = if op == "atan2" { "0 + " } else { "" };
            all.push(format!("{nameless}({left} {op} {right})"));
        }
    }
    for op in ["==", "!=", ">", "<", ">=", "<="] {
        for (left, right) in [
            ("small", "1"),
            ("0", "small"),
            ("heat", "heat_limit"),
            ("odd", "NaN"),
            ("odd", "Inf"),
            ("small", "time()"),
        ] {
            all.push(format!("{left} {op} {right}"));
            all.push(format!("{left} {op} bool {right}"));
        }
        all.push(format!("2 {op} bool 2"));
        all.push(format!("2 {op} 2"));
        all.push(format!("small {op} on (n) small"));
        all.push(format!("heat {op} on (host) group_left heat{{zone=\"b\"}}"));
        all.push(format!("heat{{zone=\"b\"}} {op} on (host) group_right heat"));
        all.push(format!("heat {op} bool on (host) group_left (zone) heat{{zone=\"b\"}}"));
        all.push(format!(
            "requests_total {op} ignoring (code, instance) group_left job_weight * 1000"
        ));
    }
    add(
        all,
        &[
            "-heat",
            "+heat",
            "--heat",
            "-(heat + 1)",
            "-2 ^ 2",
            "2 ^ -2",
            "2 ^ 3 ^ 2",
            "2 * 3 % 4",
            "10 - 3 - 2",
            "1 + 2 * 3 ^ 2",
            "-heat ^ 2",
            "-1 - -1",
            "8 / 4 / 2",
            "7 % 4 * 2",
            "1 - heat > bool 3",
            "heat > 3 < 20",
            "heat > 1 and heat < 10 or heat > 20",
            "1 atan2 2 * 3",
            "-time()",
            "heat * -1 + 2",
            "(1 + 2) * 3",
            "1 == bool 1 != bool 0",
            "vector(1) > bool vector(0)",
            "2 ^ heat_limit % 7",
            "heat unless heat > 0 or heat_limit",
        ],
    );
}

fn matching(all: &mut Vec<String>) {
    add(
        all,
        &[
            "heat * on (host) group_left (rack) host_info",
            "heat * on (host) group_left (rack, os) host_info",
            "heat * on (host) group_left host_info",
            "heat * on (host) host_info",
            "heat * host_info",
            "host_info * on (host) group_right heat",
            "host_info * on (host) group_right (rack) heat",
            "host_info * on (host) group_right (os, missing) heat",
            "heat * on (zone) group_left (region) zone_info",
            "heat * on (zone, host) heat_limit",
            "heat * ignoring (zone) heat_limit",
            "heat * ignoring () heat_limit",
            "heat * on () heat_limit",
            "heat * on () group_left heat_limit{zone=\"a\",host=\"h1\"}",
            "heat{zone=\"a\"} * ignoring (zone) heat{zone=\"b\"}",
            "heat{zone=\"a\"} * on (host) heat{zone=\"b\"}",
            "heat{zone=\"a\"} * on (host) group_left (zone) heat{zone=\"b\"}",
            "share / on (job) group_left job_weight",
            "share / ignoring (code) group_left job_weight",
            "job_weight / on (job) group_right share",
            "job_weight / ignoring (code) group_right share",
            "job_weight / on (job) share",
            "sum by (job) (requests_total) / on (job) job_weight",
            "requests_total * on (job, code) group_left share",
            "requests_total / ignoring (instance) group_left share",
            "requests_total + on (job) group_left (zone) job_weight",
            "requests_total * on (job) group_left (code) job_weight",
            "heat + on (missing) host_info",
            "heat * on (host) group_left (zone) zone_info",
            "host_info + host_info",
            "nothing * on (x) heat",
            "heat * on (host) group_left nothing",
            "host_info * on (rack) group_left host_info",
            "heat > on (host, zone) heat_limit",
            "heat > on (host) group_left heat_limit",
            "host_info == on (rack) host_info",
            "heat < on (host) heat{zone=\"a\"}",
            "heat{zone=\"a\"} > on () heat{zone=\"b\",host=\"h1\"}",
            "small > on (odd) small{n=\"2\"}",
            "small{n=~\"1|2\"} > on (odd) small{n=\"3\"}",
            "small{n=~\"1|2\"} > bool on (odd) small{n=\"3\"}",
            "small{n=~\"1|2\"} + on (odd) small{n=\"3\"}",
            "heat * on (__name__) heat_limit",
            "heat * on (__name__, host, zone) heat",
            "heat * ignoring (__name__) heat",
            "{__name__=~\"heat|heat_limit\"} + on (host, zone) group_left heat_limit",
            "{__name__=~\"heat|heat_limit\"} > on (host, zone) group_left heat_limit - 100",
            "heat * on (host) group_left (__name__) host_info",
        ],
    );
    for op in ["and", "or", "unless"] {
        for (left, on, right) in [
            ("heat", "", "heat_limit"),
            ("heat", "on (host)", "host_info{os=\"linux\"}"),
            ("heat", "on (zone)", "zone_info"),
            ("heat", "on ()", "nothing"),
            ("heat", "on ()", "vector(1)"),
            ("nothing", "", "heat"),
            ("heat", "ignoring (zone)", "heat{zone=\"a\"}"),
            ("heat", "", "broken"),
            ("broken", "on (missing)", "heat"),
            ("early", "", "late"),
            ("late", "ignoring (x)", "early"),
            ("heat > 0", "", "heat < 5"),
            ("broken{kind=\"gap\"}", "on ()", "broken{kind=\"sparse\"}"),
        ] {
            all.push(format!("{left} {op} {on} {right}"));
        }
        add(
            all,
            &[
                "heat AND heat_limit OR small UNLESS small",
                "heat or small and nothing",
                "(heat or small) unless on (host) host_info",
            ],
        );
    }
}

fn modifiers(all: &mut Vec<String>) {
    let times = [
        "offset 5m",
        "offset -5m",
        "offset 1h",
        "offset 1m30s500ms",
        "@ 1600001000.013",
        "@ start()",
        "@ end()",
        "@ 1600001000.013 offset 2m",
        "offset 2m @ 1600001000.013",
        "@ end() offset -7m",
        "@ 0",
        "@ -5.5",
        "offset 1y",
        "@ 1.600002e9",
        "@ 1599999000",
    ];
    let templates = [
        "heat{zone=\"a\"} %",
        "rate(requests_total{job=\"api\"}[5m] %)",
        "broken %",
        "sum_over_time(broken[3m] %)",
        "sum(heat %) + sum(heat)",
        "max_over_time(sum(heat)[4m7s:30s] %)",
    ];
    fill(all, &templates, &times);
    add(
        all,
        &[
            "heat - heat offset 5m",
            "rate(requests_total[5m]) - rate(requests_total[5m] offset 10m)",
            "topk(2, heat @ end())",
            "heat and topk(2, heat @ end())",
            "predict_linear(heat[5m] @ end(), 60)",
            "timestamp(heat @ end())",
            "time() @ 5",
            "timestamp(broken @ 1600001000.013)",
            "absent(broken{kind=\"gap\"} @ start())",
            "count(heat @ start() > heat @ end())",
            "year(moment @ 1600001000.013)",
            "vector(time()) + vector(scalar(sum(heat @ start())))",
        ],
    );
}

fn subqueries(all: &mut Vec<String>) {
    let functions = [
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "sum_over_time",
        "count_over_time",
        "stddev_over_time",
        "last_over_time",
        "present_over_time",
        "absent_over_time",
        "rate",
        "delta",
        "deriv",
        "changes",
        "irate",
    ];
    let inner = [
        "heat[10m:1m]",
        "heat[10m:]",
        "(heat > 5)[5m:20s]",
        "sum by (zone) (heat)[7m:45s]",
        "broken_total[12m:17s] offset 3m",
        "rate(requests_total{job=\"web\"}[2m])[6m:30s]",
        "vector(time())[3m:13s]",
        "nothing[5m:1m]",
    ];
    for function in functions {
        fill(all, &[&format!("{function}(%)")], &inner);
    }
    // The ranges are no multiples of the steps: no inner window begins at a sample's time.
    add(
        all,
        &[
            "max_over_time(avg_over_time(heat[4m7s:40s])[9m:1m])",
            "sum_over_time(max_over_time(rate(requests_total[2m])[5m13s:30s])[11m:2m])",
            "max_over_time(sum(heat @ start())[5m:1m])",
            "max_over_time(time()[5m:1m])",
            "quantile_over_time(0.7, heat[10m:33s])",
            "predict_linear(heat[10m:30s], 600)",
            "holt_winters(heat[10m:30s], 0.5, 0.5)",
            "heat[3m:1m]",
            "sum(heat)[3m:]",
            "timestamp(heat)[2m:30s]",
            "max_over_time((time() - heat)[5m:10s])",
            "max_over_time(heat[5m:10s] @ end())",
            "sum_over_time(vector(1)[1h:10m] @ 1600001000.013)",
            "count_over_time((heat offset 2m)[5m:10s])",
            "count_over_time(heat[5m3s:10s])[4m:1m]",
            "histogram_quantile(0.9, max_over_time(latency_bucket[5m:1m]))",
        ],
    );
}

fn literals(all: &mut Vec<String>) {
    let numbers = [
        "1",
        "1.",
        ".5",
        "0.5e3",
        "5e-3",
        "1E+2",
        "0x1f",
        "0XFF",
        "Inf",
        "+inf",
        "-INF",
        "NaN",
        "nan",
        "010",
        "08",
        "-0",
        "1e400",
        "1e-400",
        "9007199254740993",
        "0.1",
        "1_",
        "1e",
        "0x",
        "5x",
        "1.2.3",
    ];
    fill(all, &["%", "% + heat{zone=\"a\"}"], &numbers);
    add(
        all,
        &[
            "\"text\"",
            "'te\"xt'",
            "`ra\\w`",
            "\"\\u00e4\\x41\\101\\n\"",
            "\"\\q\"",
            "\"open",
            "(\"text\")",
        ],
    );
}

/// What neither side takes, or the series do not allow.
fn errors(all: &mut Vec<String>) {
    add(
        all,
        &[
            "",
            "(",
            ")",
            "heat)",
            "sum(",
            "sum(heat",
            "sum heat",
            "heat{",
            "heat{zone}",
            "heat{zone=}",
            "heat{zone=a}",
            "{}",
            "{zone=~\".*\"}",
            "{zone!=\"x\"}",
            "heat{zone=~\"(\"}",
            "heat[5m",
            "heat[]",
            "heat[5]m",
            "heat[0s]",
            "heat[1h1h]",
            "heat[5m1h]",
            "heat[5m] + 1",
            "rate(heat)",
            "rate(1)",
            "rate(heat[5m:])[",
            "abs(heat[5m])",
            "abs()",
            "abs(heat, heat)",
            "foo(heat)",
            "sum(1)",
            "sum(heat, 1)",
            "topk(heat)",
            "topk(heat, heat)",
            "quantile(\"a\", heat)",
            "count_values(1, heat)",
            "count_values(heat, \"a\")",
            "vector(heat)",
            "scalar(1)",
            "1 and 2",
            "1 or heat",
            "heat and 1",
            "1 > 2",
            "heat + bool heat",
            "1 + on (a) 2",
            "heat + on (a) 1",
            "heat and on (a) group_left heat",
            "heat * group_left host_info",
            "heat * on (a) group_left (a) heat",
            "heat * on host_info",
            "heat offset",
            "heat offset 5",
            "heat offset 1m offset 2m",
            "heat @ 1 @ 2",
            "heat @",
            "heat @ foo()",
            "sum(heat) offset 5m",
            "(heat) @ 5",
            "heat offset 5m [1m]",
            "heat[5m][5m]",
            "1[5m:1m]",
            "sum(heat)[5m]",
            "heat[5m:1m:1m]",
            "heat[5m:0s]",
            "\"a\" + 1",
            "-\"a\"",
            "-heat[5m]",
            "heat{__name__=\"x\"}",
            "heat{__name__=~\"x\"}",
            "sum by zone (heat)",
            "sum by (zone) (heat) by (zone)",
            "heat by (zone)",
            "label_replace(heat, \"a\", \"b\", \"c\")",
            "label_replace(heat, a, b, c, d)",
            "label_join(heat)",
            "time(1)",
            "heat; heat",
            "heat $ heat",
            "heat ! heat",
            "heat = 1",
            "heat =~ \"a\"",
            "sum_over_time(heat)",
            "abs(heat,)",
            "on",
            "by",
            "offset",
            "bool",
            "sum",
            "start",
            "end",
            "and",
            "group_left",
            "Inf(1)",
            "heat{on=\"a\",by=\"b\"}",
            "sum by (by, on) (heat)",
            "heat{a:b=\"c\"}",
            "heat:rule",
            ":rule",
            "sum(heat) by (a:b)",
            "5m",
            "heat[5m] offset -1m",
            "rate(heat[5m] @ start())",
            "heat @ Inf",
            "heat @ NaN",
            "atan2",
            "heat atan2",
            "1 atan2 1",
            "heat == bool heat",
            "not heat",
            "heat <> heat",
            "heat[5m]offset 1m",
            "heat{}",
            "absent_over_time(heat)",
            "ABS(heat)",
            "heat\n+\n1",
            "heat[ 5m ]",
            "heat[5m : 1m]",
            "sum without(zone)(heat)",
            "1+2",
            "1 +- 2",
            "heat*-1",
            "heat@1600001000.013",
            "predict_linear(heat[5m])",
            "holt_winters(heat[5m])",
            "histogram_quantile(latency_bucket)",
        ],
    );
}
