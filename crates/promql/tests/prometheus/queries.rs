//! The queries: templates that are filled with everything that fits.

mod borders;
mod operators;

/// All of them, none twice.
pub fn all() -> Vec<String> {
    let mut all = Vec::new();
    selectors(&mut all);
    instant_functions(&mut all);
    range_functions(&mut all);
    label_functions(&mut all);
    histograms(&mut all);
    aggregations(&mut all);
    operators::arithmetic(&mut all);
    operators::matching(&mut all);
    modifiers(&mut all);
    subqueries(&mut all);
    borders::literals(&mut all);
    borders::errors(&mut all);
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
