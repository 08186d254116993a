//! Metrics as text: families with their meaning, in Prometheus's text format 0.0.4. The
//! one way in which every part of the process shows its numbers.

use crate::metrics::Histogram;
use std::fmt::{Display, Write};

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
    text: String,
}

impl Page {
    /// An empty page for these families.
    pub fn new(table: &'static [Family]) -> Page {
        Page { table, text: String::with_capacity(16 << 10) }
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

    /// The rows of a histogram.
    pub fn buckets(&mut self, name: &str, labels: &str, h: &Histogram) {
        let (rows, total, sum) = h.read();
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in rows {
            self.row(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.row(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), total);
        self.row(&format!("{name}_sum"), labels, sum);
        self.row(&format!("{name}_count"), labels, total);
    }
}
