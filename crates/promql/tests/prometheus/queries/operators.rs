//! Queries of two sides.

use super::add;

pub fn arithmetic(all: &mut Vec<String>) {
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

pub fn matching(all: &mut Vec<String>) {
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
