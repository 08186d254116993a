//! Queries of the series that a node keeps, and what it scrapes.

use super::{Connect, page};
use crate::Outcome;
use clap::Args;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Steps of a range that names no step: as many as fit a line.
const STEPS: f64 = 60.0;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Arguments of `synod query`.
#[derive(Args)]
pub struct QueryArgs {
    /// What is asked, in PromQL
    #[arg(value_name = "PROMQL")]
    query: String,
    /// Not only now, but over so long until now (such as 10m)
    #[arg(long, value_parser = length, value_name = "DURATION")]
    range: Option<f64>,
    /// Between two values of a range (such as 15s) [default: a sixtieth of the range]
    #[arg(long, value_parser = length, value_name = "DURATION", requires = "range")]
    step: Option<f64>,
    /// At this time instead of now: Unix seconds, or RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "range")]
    time: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `synod targets`.
#[derive(Args)]
pub struct TargetsArgs {
    #[command(flatten)]
    connect: Connect,
}

/// As PromQL writes it; s.
fn length(text: &str) -> Result<f64, String> {
    let ms = synod_promql::duration(text).filter(|ms| *ms > 0);
    ms.map(|ms| ms as f64 / 1_000.0)
        .ok_or_else(|| format!("{text:?} is no duration such as 15s or 1h30m"))
}

/// `data` of an answer of the first endpoint that has one; what it does not hold is told.
pub(super) async fn ask(
    connect: &Connect,
    path: &str,
    params: &[(&str, String)],
) -> Outcome<Value> {
    let (data, warnings) = ask_noted(connect, path, params).await?;
    for warning in warnings {
        eprintln!("synod: {warning}");
    }
    Ok(data)
}

/// The same, with the warnings.
pub(super) async fn ask_noted(
    connect: &Connect,
    path: &str,
    params: &[(&str, String)],
) -> Outcome<(Value, Vec<String>)> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in params {
        form.append_pair(name, value);
    }
    let path = format!("{path}?{}", form.finish());
    let mut last = String::from("no endpoint was given");
    for endpoint in &connect.endpoints {
        let asked = page::get(endpoint, &path);
        match tokio::time::timeout(Duration::from_secs(connect.timeout), asked).await {
            Ok(Ok((503, why))) => last = format!("{endpoint}: {}", why.trim_end()),
            Ok(Ok((_, body))) => {
                let answer: Value = serde_json::from_str(&body).map_err(|_| {
                    format!("{endpoint} keeps no series (monitor = false?): {body}")
                })?;
                let warnings = answer["warnings"].as_array().into_iter().flatten();
                let warnings = warnings.map(|w| word(w).to_owned()).collect();
                return match answer["error"].as_str() {
                    Some(why) => Err(why.to_owned()),
                    None => Ok((answer["data"].clone(), warnings)),
                };
            }
            Ok(Err(e)) => last = format!("{endpoint}: {e}"),
            Err(_) => last = format!("{endpoint}: no answer within {} s", connect.timeout),
        }
    }
    Err(format!("no endpoint answers ({last}); is the cluster up? `synod up` starts one here"))
}

impl QueryArgs {
    pub async fn run(self) -> Outcome {
        let mut params = vec![("query", self.query.clone())];
        let path = match self.range {
            Some(range) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = now.as_secs_f64();
                params.push(("start", (now - range).to_string()));
                params.push(("end", now.to_string()));
                params.push(("step", self.step.unwrap_or(range / STEPS).to_string()));
                "/api/v1/query_range"
            }
            None => {
                params.extend(self.time.clone().map(|t| ("time", t)));
                "/api/v1/query"
            }
        };
        let data = ask(&self.connect, path, &params).await?;
        if self.connect.json() {
            println!("{data}");
            return Ok(());
        }
        let found = data["result"].as_array().map_or(&[][..], Vec::as_slice);
        match data["resultType"].as_str() {
            Some("scalar" | "string") => println!("{}", word(&data["result"][1])),
            _ if found.is_empty() => println!("nothing matches"),
            Some("matrix") => found.iter().for_each(print_range),
            _ => print_table(found),
        }
        Ok(())
    }
}

pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A series as PromQL writes it.
fn name_of(series: &Value) -> String {
    let labels = series["metric"].as_object().into_iter().flatten();
    synod_promql::Labels::new(labels.map(|(n, v)| (&**n, word(v)))).to_string()
}

fn print_table(found: &[Value]) {
    let value = |s: &Value| match s.get("histogram") {
        Some(histogram) => histogram_text(&histogram[1]),
        None => word(&s["value"][1]).to_owned(),
    };
    let rows: Vec<(String, String)> = found.iter().map(|s| (name_of(s), value(s))).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        println!("{name:<width$}  {value}");
    }
}

/// A native histogram as PromQL's documents write one: each bucket with its bounds.
fn histogram_text(histogram: &Value) -> String {
    let (count, sum) = (word(&histogram["count"]), word(&histogram["sum"]));
    let mut text = format!("{{count:{count}, sum:{sum}");
    for bucket in histogram["buckets"].as_array().into_iter().flatten() {
        // The rule says which of the bounds are within.
        let (open, close) = match bucket[0].as_u64() {
            Some(0) => ('(', ']'),
            Some(1) => ('[', ')'),
            Some(2) => ('(', ')'),
            _ => ('[', ']'),
        };
        let (lower, upper, count) = (word(&bucket[1]), word(&bucket[2]), word(&bucket[3]));
        text += &format!(", {open}{lower},{upper}{close}:{count}");
    }
    text + "}"
}

fn print_range(series: &Value) {
    let values = series["values"].as_array().into_iter().flatten();
    let mut values: Vec<f64> = values.filter_map(|v| word(&v[1]).parse().ok()).collect();
    if let Some(histograms) = series["histograms"].as_array() {
        // A picture can show how many observations there are.
        values = histograms.iter().filter_map(|h| word(&h[1]["count"]).parse().ok()).collect();
    }
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (least, most) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(v), m.max(v)));
    println!("{}", name_of(series));
    let last = values.last().copied().unwrap_or(f64::NAN);
    let bars = spark(&values, least, most);
    let what = if series["histograms"].is_array() { "counts of histograms: " } else { "" };
    println!("  {bars}  {what}{} to {}, last {}", short(least), short(most), short(last));
}

/// Four digits tell enough beside a picture.
fn short(v: f64) -> String {
    if v == v.trunc() || !v.is_finite() {
        return v.to_string();
    }
    let digits = (3 - v.abs().log10().floor() as i32).clamp(0, 12) as usize;
    format!("{v:.digits$}")
}

/// A line of bars, one a value.
pub(super) fn spark(values: &[f64], least: f64, most: f64) -> String {
    let bar = |v: &f64| {
        if !v.is_finite() {
            return ' ';
        }
        let share = if most > least { (v - least) / (most - least) } else { 0.0 };
        BARS[((share * 7.0).round() as usize).min(7)]
    };
    values.iter().map(bar).collect()
}

impl TargetsArgs {
    pub async fn run(self) -> Outcome {
        let data = ask(&self.connect, "/api/v1/targets", &[]).await?;
        if self.connect.json() {
            println!("{data}");
            return Ok(());
        }
        for t in data["activeTargets"].as_array().into_iter().flatten() {
            let took = t["lastScrapeDuration"].as_f64().unwrap_or(0.0) * 1_000.0;
            let (labels, error) = (&t["labels"], word(&t["lastError"]));
            println!(
                "{:<7} {:<22} {:<12} {:<8} every {}, took {took:.1} ms{}{error}",
                word(&t["health"]),
                word(&labels["instance"]),
                word(&labels["job"]),
                word(&labels["node"]),
                word(&t["scrapeInterval"]),
                if error.is_empty() { "" } else { ": " },
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_go_from_least_to_most() {
        assert_eq!(spark(&[0.0, 3.5, f64::NAN, 7.0], 0.0, 7.0), "▁▅ █");
        assert_eq!(spark(&[2.0, 2.0], 2.0, 2.0), "▁▁");
        let all = [3.0, 0.0288888, 1234.56, -1.5, f64::NAN].map(short);
        assert_eq!(all, ["3", "0.02889", "1235", "-1.500", "NaN"]);
    }

    #[test]
    fn a_histogram_is_shown_with_the_bounds_of_its_buckets() {
        let histogram = serde_json::json!({"count": "6", "sum": "2.5", "buckets": [
            [1, "-2", "-1", "3"], [3, "-0.001", "0.001", "1"], [0, "0.5", "1", "2"]]});
        assert_eq!(
            histogram_text(&histogram),
            "{count:6, sum:2.5, [-2,-1):3, [-0.001,0.001]:1, (0.5,1]:2}"
        );
        assert_eq!(
            histogram_text(&serde_json::json!({"count": "0", "sum": "0"})),
            "{count:0, sum:0}"
        );
    }
}
