//! Pages in Prometheus's protobuf form, which alone has native histograms: read as the text
//! that they would be, with the histograms beside it.

use crate::json::value_text;
use crate::push::families::{MetricFamily, samples};
use crate::push::histogram::{WrittenHistogram, received};
use prost::Message;
use std::fmt::Write;
use std::sync::Arc;
use synod_promql::{Histogram, Labels, NAME, quoted};

/// The page's content type.
pub(crate) const KIND: &str = "application/vnd.google.protobuf";
/// What asks for it.
pub(crate) const ACCEPT: &str = "application/vnd.google.protobuf;\
                                 proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7";
/// The number of the type of histograms that are no counters.
const GAUGE_HISTOGRAM: i32 = 5;

/// A native histogram of a page.
#[derive(Clone, Debug)]
pub(crate) struct Native {
    /// Name and labels, as text has them.
    pub series: String,
    /// Its own time, ms.
    pub at: Option<i64>,
    pub value: Arc<Histogram>,
}

/// The page as text, and its native histograms. What has native buckets has classic ones in
/// the text only if those are wanted too.
pub(crate) fn read(mut body: &[u8], classic: bool) -> Result<(String, Vec<Native>), String> {
    let (mut text, mut natives) = (String::new(), Vec::new());
    while !body.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut body).map_err(|e| e.to_string())?;
        let kinds = ["counter", "gauge", "summary", "untyped", "histogram", "gaugehistogram"];
        let kind = usize::try_from(family.kind).ok().and_then(|k| kinds.get(k));
        let kind = kind.ok_or_else(|| format!("{}: no type {}", family.name, family.kind))?;
        // Of the kinds that the text has, a histogram that may fall is nearest to a histogram.
        let kind = if *kind == "gaugehistogram" { "histogram" } else { kind };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(text, "# HELP {} {help}\n# TYPE {} {kind}", family.name, family.name);
        for metric in family.metric {
            // Whoever honours labels has to know of those too.
            let empty = metric.label.iter().filter(|l| l.value.is_empty()).map(|l| l.name.clone());
            let empty: Vec<String> = empty.collect();
            let at = metric.timestamp_ms.filter(|at| *at != 0);
            let gauge = family.kind == GAUGE_HISTOGRAM;
            let native = metric.histogram.as_ref().and_then(|h| h.native(gauge));
            if let Some(native) = native {
                let pairs = metric.label.iter().map(|l| (&*l.name, &*l.value));
                let series = line(&Labels::new(pairs.chain([(NAME, &*family.name)])), &empty);
                let value = received(&native).map_err(|why| format!("{series}: {why}"))?;
                natives.push(Native { series, at, value: Arc::new(value) });
                if !classic {
                    continue;
                }
            }
            let mut all = Vec::new();
            samples(&family.name, metric, &mut all);
            for (labels, value) in all {
                let _ = write!(text, "{} {}", line(&labels, &empty), value_text(value));
                let _ = at.map(|at| write!(text, " {at}"));
                text.push('\n');
            }
        }
    }
    Ok((text, natives))
}

/// A series as the text form has it, with these labels that are empty.
fn line(labels: &Labels, empty: &[String]) -> String {
    let pairs = labels.iter().filter(|(n, _)| *n != NAME);
    let pairs = pairs.chain(empty.iter().map(|name| (&**name, "")));
    let pairs: Vec<String> = pairs.map(|(n, v)| format!("{n}={}", quoted(v))).collect();
    format!("{}{{{}}}", labels.get(NAME), pairs.join(","))
}

/// Whether a message has native buckets is said by a zero bucket or by spans.
pub(crate) fn is_native(w: &WrittenHistogram) -> bool {
    w.zero_threshold > 0.0
        || w.zero_count_int.unwrap_or(0) > 0
        || w.zero_count_float.unwrap_or(0.0) > 0.0
        || !w.positive_spans.is_empty()
        || !w.negative_spans.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::families::{Histogram, LabelPair, Metric};
    use crate::push::histogram::WrittenSpan;

    #[test]
    fn a_page_is_text_and_native_histograms() {
        let label = |name: &str, value: &str| LabelPair { name: name.into(), value: value.into() };
        let native = Metric {
            label: vec![label("path", "/a\"b")],
            histogram: Some(Histogram {
                count: 7,
                sum: 3.5,
                schema: 1,
                zero_threshold: 0.001,
                zero_count: 1,
                positive_span: vec![WrittenSpan { offset: 0, length: 2 }],
                positive_delta: vec![2, 2],
                ..Histogram::default()
            }),
            timestamp_ms: Some(5_000),
            ..Metric::default()
        };
        let classic = Metric {
            histogram: Some(Histogram { count: 2, sum: 1.5, ..Histogram::default() }),
            ..Metric::default()
        };
        let family = MetricFamily {
            name: "took".into(),
            help: "two\nlines".into(),
            kind: 4,
            metric: vec![native, classic],
        };
        let body = family.encode_length_delimited_to_vec();
        let (text, found) = read(&body, false).expect("a page");
        assert_eq!(
            text,
            "# HELP took two\\nlines\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 2\n\
             took_sum{} 1.5\ntook_count{} 2\n"
        );
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*one.series, one.at), ("took{path=\"/a\\\"b\"}", Some(5_000)));
        assert_eq!(one.value.positive, [(0, 2.0), (1, 4.0)]);
        let (both, _) = read(&body, true).expect("a page");
        assert!(both.contains("took_count{path=\"/a\\\"b\"} 7 5000\n"), "{both}");
        // Nothing that it is cut to, or that is no message, is a panic.
        (0..body.len()).for_each(|end| drop(read(&body[..end], true)));
    }
}
