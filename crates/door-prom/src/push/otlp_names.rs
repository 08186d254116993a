//! From names of OpenTelemetry to names of Prometheus, as the specification of their
//! compatibility describes it ("underscore escaping with suffixes").

/// A label's name: what a name cannot have becomes an underscore; a digit does not begin.
pub(super) fn label_name(key: &str) -> String {
    let mut name: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert_str(0, "key_");
    } else if name.starts_with('_') && !name.starts_with("__") {
        name.insert_str(0, "key");
    }
    name
}

/// A metric's name, with its unit and what its kind wants at the end.
pub(super) fn metric_name(name: &str, unit: &str, kind: &str) -> String {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != ':';
    let mut words: Vec<String> =
        name.split(word).filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let (main, per) = units(unit);
    for suffix in [main, per.map(|per| format!("per_{per}"))].into_iter().flatten() {
        // A unit that the name has already is not said twice.
        let said = words.contains(&suffix) || words.join("_").ends_with(&format!("_{suffix}"));
        if !said {
            words.push(suffix);
        }
    }
    let last = |words: &mut Vec<String>, suffix: &str| {
        words.retain(|w| w != suffix);
        words.push(suffix.to_owned());
    };
    if kind == "counter" {
        last(&mut words, "total");
    }
    if kind == "gauge" && unit == "1" {
        last(&mut words, "ratio");
    }
    let mut full = words.join("_");
    if full.is_empty() || full.starts_with(|c: char| c.is_ascii_digit()) {
        full.insert(0, '_');
    }
    full
}

/// The words of a unit of UCUM: what is measured, and per what.
fn units(unit: &str) -> (Option<String>, Option<String>) {
    let (main, per) = match unit.split_once('/') {
        Some((main, per)) => (main, Some(per)),
        None => (unit, None),
    };
    let word = |text: &str, known: &[(&str, &str)]| {
        let text = text.trim();
        // What stands in braces is a remark.
        if text.is_empty() || text.contains(['{', '}']) || text == "1" {
            return None;
        }
        let found = known.iter().find(|(short, _)| *short == text);
        let word = found.map_or_else(|| label_name(text), |(_, long)| (*long).to_owned());
        Some(word.trim_matches('_').to_owned()).filter(|w| !w.is_empty())
    };
    (word(main, &UNITS), per.and_then(|per| word(per, &PER)))
}

const UNITS: [(&str, &str); 29] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("%", "percent"),
    ("bit", "bits"),
    ("kBy", "kilobytes"),
    ("mo", "months"),
    ("wk", "weeks"),
];

const PER: [(&str, &str); 7] = [
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prometheus() {
        for (name, unit, kind, full) in [
            (
                "http.server.request.duration",
                "s",
                "histogram",
                "http_server_request_duration_seconds",
            ),
            ("system.cpu.time", "s", "counter", "system_cpu_time_seconds_total"),
            ("system.network.io", "By", "counter", "system_network_io_bytes_total"),
            ("system.cpu.utilization", "1", "gauge", "system_cpu_utilization_ratio"),
            ("requests", "{request}", "counter", "requests_total"),
            ("requests_total", "", "counter", "requests_total"),
            ("io.rate", "By/s", "gauge", "io_rate_bytes_per_second"),
            ("bytes", "By", "gauge", "bytes"),
            ("2xx", "", "gauge", "_2xx"),
            ("a..b", "", "gauge", "a_b"),
        ] {
            assert_eq!(metric_name(name, unit, kind), full);
        }
        assert_eq!(label_name("http.status-code"), "http_status_code");
        assert_eq!(label_name("1st"), "key_1st");
        assert_eq!(label_name("_x"), "key_x");
    }
}
