//! The tables of a page.

use crate::CORES;
use crate::meter::{Sample, Work};

/// How many of [`CORES`] are Synod's.
const OURS: usize = 3;

/// The head of a store's figures.
pub fn figures(store: &str) -> String {
    format!(
        "\n{store}:\n\n\
         | bytes, in flight | core | commands/s | CPU ns a command | allocations | messages | p50 µs | p99 µs |\n\
         |---|---|---|---|---|---|---|---|\n"
    )
}

/// The head of what they come to.
pub fn ratios() -> String {
    let mut head = "\nCommands per CPU-second, Synod ÷ the best of the others; p99, Synod ÷ the least of the others:\n\n\
                    | bytes, in flight |"
        .to_owned();
    for (name, _) in &CORES[..OURS] {
        head += &format!(" {name} | p99 |");
    }
    head + "\n|---|" + &"---|".repeat(2 * OURS) + "\n"
}

/// One cell of the sweep: a row a core, and a row of ratios.
pub fn add(figures: &mut String, ratios: &mut String, work: &Work, samples: &[Vec<Sample>]) {
    let title = format!("{}, {}", work.payload, work.in_flight);
    for ((name, _), samples) in CORES.iter().zip(samples).filter(|(_, s)| !s.is_empty()) {
        let of = |of| Spread::of(samples, of);
        *figures += &format!(
            "| {title} | {name} | {} | {} | {:.2} | {:.3} | {:.1} | {:.1} |\n",
            of(|s| s.per_second).text(),
            of(|s| s.cpu_ns).text(),
            of(|s| s.allocations).median,
            of(|s| s.messages).median,
            of(|s| s.p50_us).median,
            of(|s| s.p99_us).median,
        );
    }
    let least = |side: &[Vec<Sample>], of: fn(&Sample) -> f64| {
        side.iter()
            .filter(|s| !s.is_empty())
            .map(|s| Spread::of(s, of).median)
            .fold(f64::INFINITY, f64::min)
    };
    let (ours, others) = samples[..samples.len() - 1].split_at(OURS);
    *ratios += &format!("| {title} |");
    for core in ours {
        let core = std::slice::from_ref(core);
        let cpu = least(others, |s| s.cpu_ns) / least(core, |s| s.cpu_ns);
        let p99 = least(core, |s| s.p99_us) / least(others, |s| s.p99_us);
        *ratios += &format!(" **{cpu:.2}** | {p99:.2} |");
    }
    *ratios += "\n";
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(samples: &[Sample], of: fn(&Sample) -> f64) -> Spread {
        let mut all: Vec<f64> = samples.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        Spread { least: all[0], median: all[all.len() / 2], most: all[all.len() - 1] }
    }

    fn text(&self) -> String {
        format!("{:.0} ({:.0} to {:.0})", self.median, self.least, self.most)
    }
}
