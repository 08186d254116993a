//! The machine around the process, as the kernel tells it. What it does not tell is left
//! out.

use std::path::Path;

/// Time that tasks were held up for want of a resource, in all, seconds (the kernel's
/// pressure stall information).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pressure {
    /// `cpu`, `memory` or `io`.
    pub resource: &'static str,
    /// `some` task waited, or `full`: all did.
    pub kind: &'static str,
    /// How long.
    pub seconds: f64,
}

/// See the file's header.
#[derive(Clone, Default, Debug)]
pub struct Machine {
    /// How long tasks waited for what.
    pub pressures: Vec<Pressure>,
    /// Bytes of memory: in all, and what could be had.
    pub memory: Option<(u64, u64)>,
    /// Mean number of tasks that ran or wanted to, over a minute.
    pub load: Option<f64>,
    /// Bytes of the disk with the data: in all, and what is free.
    pub disk: Option<(u64, u64)>,
    /// Logical cores.
    pub cores: usize,
}

/// Reads it. A few small files: some tens of microseconds.
pub fn read(data: &Path) -> Machine {
    let mut pressures = Vec::new();
    for resource in ["cpu", "memory", "io"] {
        let text = std::fs::read_to_string(format!("/proc/pressure/{resource}"));
        for line in text.unwrap_or_default().lines() {
            pressures.extend(pressure(resource, line));
        }
    }
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    Machine {
        pressures,
        memory: memory.and_then(|text| {
            Some((kilobytes(&text, "MemTotal:")?, kilobytes(&text, "MemAvailable:")?))
        }),
        load: load.and_then(|text| text.split_whitespace().next()?.parse().ok()),
        disk: disk(data),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Bytes of the disk with these data: in all, and what is free.
pub fn disk(data: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(data).ok()?;
    Some((disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
}

/// A line such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, in microseconds.
fn pressure(resource: &'static str, line: &str) -> Option<Pressure> {
    let (kind, rest) = line.split_once(' ')?;
    let kind = ["some", "full"].into_iter().find(|k| *k == kind)?;
    let total: u64 = rest.rsplit_once("total=")?.1.trim().parse().ok()?;
    Some(Pressure { resource, kind, seconds: total as f64 / 1e6 })
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let line = "full avg10=1.00 avg60=0.50 avg300=0.10 total=2500000";
        assert_eq!(
            pressure("io", line),
            Some(Pressure { resource: "io", kind: "full", seconds: 2.5 })
        );
        assert_eq!(pressure("io", "none total=1"), None);
        assert_eq!(
            kilobytes("MemFree: 1 kB\nMemTotal:       16 kB\n", "MemTotal:"),
            Some(16 << 10)
        );
        let machine = read(Path::new("."));
        assert!(machine.disk.is_some_and(|(all, free)| free <= all));
    }
}
