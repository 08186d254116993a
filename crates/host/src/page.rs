//! Metrics as text: families with their meaning, in Prometheus's text format 0.0.4 or as
//! OpenMetrics 1.0.0, which has exemplars. The one way in which every part of the process
//! shows its numbers.

use crate::metrics::Histogram;
use std::fmt::{Display, Write};
use std::time::UNIX_EPOCH;

/// How a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0, but for its last line: several pages may make up one.
    OpenMetrics,
}

/// A family of series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Prometheus's type: counter, gauge or histogram.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// A family that only grows.
pub const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "counter", help }
}

/// A family that goes up and down.
pub const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "gauge", help }
}

/// A family of buckets.
pub const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "histogram", help }
}

/// Writes families of a table, each told before its rows.
pub struct Page {
    table: &'static [Family],
    format: Format,
    text: String,
}

impl Page {
    /// An empty page for these families.
    pub fn new(table: &'static [Family], format: Format) -> Page {
        Page { table, format, text: String::with_capacity(16 << 10) }
    }

    /// What was written.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Begins a family of the table.
    pub fn head(&mut self, name: &str) {
        let family = self.table.iter().find(|f| f.name == name);
        debug_assert!(family.is_some(), "{name} is not in the table of families");
        let Some(f) = family else { return };
        // OpenMetrics names a family of counters without the suffix of its rows.
        let name = match self.format {
            Format::OpenMetrics if f.kind == "counter" => name.trim_end_matches("_total"),
            _ => name,
        };
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {}", f.help, f.kind);
    }

    /// A row of the family begun; `labels` as the format wants them.
    pub fn row(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            l => writeln!(self.text, "{name}{{{l}}} {value}"),
        };
    }

    /// A family of one number without labels.
    pub fn number(&mut self, name: &str, value: impl Display) {
        self.head(name);
        self.row(name, "", value);
    }

    /// A family of one histogram without labels.
    pub fn histogram(&mut self, name: &str, h: &Histogram) {
        self.head(name);
        self.buckets(name, "", h);
    }

    /// The rows of a histogram; OpenMetrics shows its exemplars too.
    pub fn buckets(&mut self, name: &str, labels: &str, h: &Histogram) {
        let (rows, total, sum) = h.read();
        let comma = if labels.is_empty() { "" } else { "," };
        let last = rows.len();
        for (i, (bound, count)) in rows.into_iter().enumerate() {
            let bound = match self.format {
                Format::Text => bound.to_string(),
                Format::OpenMetrics => format!("{bound:?}"),
            };
            self.bucket(name, &format!("{labels}{comma}le=\"{bound}\""), count, h, i);
        }
        self.bucket(name, &format!("{labels}{comma}le=\"+Inf\""), total, h, last);
        self.row(&format!("{name}_sum"), labels, sum);
        self.row(&format!("{name}_count"), labels, total);
    }

    fn bucket(&mut self, name: &str, labels: &str, count: u64, h: &Histogram, number: usize) {
        let exemplar = h.exemplar(number).filter(|_| self.format == Format::OpenMetrics);
        let value = match exemplar {
            None => count.to_string(),
            Some(e) => {
                let at = e.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                let (name, id, seconds) = (e.label, e.id, e.us as f64 / 1e6);
                format!("{count} # {{{name}=\"{id}\"}} {seconds} {at:.3}")
            }
        };
        self.row(&format!("{name}_bucket"), labels, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Exemplar;
    use std::time::Duration;

    const TABLE: &[Family] = &[counter("c_total", "Things."), histogram("h", "Times.")];

    fn page(format: Format) -> String {
        let h = Histogram::with_bounds(&[1_000_000]).with_exemplars();
        for us in [500_000, 3_000_000] {
            h.observe_us(us);
        }
        let at = UNIX_EPOCH + Duration::from_millis(1_500);
        h.exemplify(Exemplar { label: "trace_id", id: "ab".into(), us: 3_000_000, at });
        let mut page = Page::new(TABLE, format);
        page.number("c_total", 7);
        page.histogram("h", &h);
        page.into_text()
    }

    #[test]
    fn the_text_format_has_no_exemplars() {
        let text = "# HELP c_total Things.\n# TYPE c_total counter\nc_total 7\n# HELP h Times.\n\
                    # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\n\
                    h_count 2\n";
        assert_eq!(page(Format::Text), text);
    }

    #[test]
    fn openmetrics_has_them() {
        let text = "# HELP c Things.\n# TYPE c counter\nc_total 7\n# HELP h Times.\n\
                    # TYPE h histogram\nh_bucket{le=\"1.0\"} 1\n\
                    h_bucket{le=\"+Inf\"} 2 # {trace_id=\"ab\"} 3 1.500\nh_sum 3.5\nh_count 2\n";
        assert_eq!(page(Format::OpenMetrics), text);
    }
}
