//! `synod sim`: a whole cluster on a simulated network, disk and clock.

use crate::Outcome;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;
use synod_consensus::Protocol;
use synod_sim::{Faults, Report, Scenario, run, run_traced, shrink};

/// Arguments of `synod sim`.
#[derive(Args)]
pub struct SimArgs {
    /// How the cell agrees: raft, paxos or zab
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// Machines, 1 to 9; a real cluster has 1, 3, 5 or 7
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Whence all that is random; the same seed gives the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kinds of fault: all, none, light, or some of storm, slow-link, isolate, cut, crash,
    /// ambush, blackout, pause, clock, slow-disk, bad-disk, full-disk, rot, state-rot, astray,
    /// upgrade, replace, transfer, close, partial, minority, drift,
    /// members
    #[arg(long, default_value_t = Faults::light())]
    faults: Faults,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 5)]
    clients: u64,
    /// Clients of small files, each with a cache
    #[arg(long, default_value_t = 0)]
    file_clients: u64,
    /// How long the faults go on, simulated ms
    #[arg(long, default_value_t = 10_000)]
    ms: u64,
    /// Numbers of scheduled faults to leave out
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// Run this many seeds, from --seed on, and print no lines; the first failing one is shrunk
    #[arg(long)]
    seeds: Option<u64>,
    /// Write a space-time diagram to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The diagram's first moment, simulated ms
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The diagram's last moment, simulated ms, after the first [default: half a second after it]
    #[arg(long)]
    to: Option<u64>,
}

/// Runs of the shrinker at most.
const SHRINK_RUNS: usize = 200;

impl SimArgs {
    fn scenario(&self, seed: u64) -> Scenario {
        Scenario {
            protocol: self.protocol,
            nodes: self.nodes,
            seed,
            faults: self.faults.clone(),
            clients: self.clients,
            file_clients: self.file_clients,
            ms: self.ms,
            without: self.without.iter().copied().collect(),
        }
    }

    /// Runs it.
    pub fn run(self) -> Outcome {
        if !(1..=9).contains(&self.nodes) || self.clients == 0 {
            return Err("--nodes must be from 1 to 9, --clients at least 1".into());
        }
        if self.seeds.is_some() && self.svg.is_some() {
            return Err(
                "--svg draws one run, --seeds makes many: give one of them; draw the seed \
                        that you want with --seed"
                    .into(),
            );
        }
        if self.svg.is_none() && (self.from > 0 || self.to.is_some()) {
            return Err("--from and --to are the times of a diagram: give --svg too".into());
        }
        if self.to.is_some_and(|to| to <= self.from) {
            return Err(format!("--to must be after --from, which is {} ms", self.from));
        }
        match self.seeds {
            Some(count) => self.sweep(count),
            None => self.one(),
        }
    }

    fn one(&self) -> Outcome {
        let begun = Instant::now();
        let scenario = self.scenario(self.seed);
        let to = self.to.unwrap_or(self.from.saturating_add(500));
        let (report, lines, svg) = run_traced(&scenario, self.from, to);
        for line in lines {
            println!("{line}");
        }
        if let Some(path) = &self.svg {
            std::fs::write(path, svg).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        summary(&report, 1, begun);
        verdict(&report, &scenario)
    }

    fn sweep(&self, count: u64) -> Outcome {
        let progress = crate::progress::Progress::new("seeds");
        let begun = Instant::now();
        let mut sum: Option<Report> = None;
        for seed in self.seed..self.seed.saturating_add(count) {
            let scenario = self.scenario(seed);
            let report = run(&scenario);
            if report.violation.is_some() {
                progress.end();
                eprintln!("seed {seed} fails; looking for a smaller one");
                let small = shrink(&scenario, SHRINK_RUNS).map_or(scenario, |(s, _)| s);
                return verdict(&run(&small), &small);
            }
            progress.count(seed - self.seed + 1, count);
            let sum = sum.get_or_insert(Report { violation: None, ..Report::default() });
            sum.ms += report.ms;
            sum.agreed += report.agreed;
            sum.answered += report.answered;
            sum.faults += report.faults;
            sum.messages += report.messages;
            sum.watched += report.watched;
            sum.cached += report.cached;
            sum.graces += report.graces;
        }
        progress.end();
        summary(&sum.unwrap_or_default(), count, begun);
        Ok(())
    }
}

/// What the runs came to. The time that they took goes to standard error: the rest is the same
/// each time.
fn summary(r: &Report, seeds: u64, begun: Instant) {
    let took = begun.elapsed().as_secs_f64();
    eprintln!("took {took:.2} s: {:.0} x", r.ms as f64 / 1e3 / took);
    println!(
        "{seeds} seeds: {:.1} s simulated, {} faults, {} messages, {} \
         entries agreed on, {} requests answered, {} revisions watched, {} reads from caches, \
         {} sessions went on after jeopardy",
        r.ms as f64 / 1e3,
        r.faults,
        r.messages,
        r.agreed,
        r.answered,
        r.watched,
        r.cached,
        r.graces
    );
}

fn verdict(report: &Report, scenario: &Scenario) -> Outcome {
    match &report.violation {
        None => {
            println!("no rule was broken");
            Ok(())
        }
        Some(v) => Err(format!(
            "at {} ms a rule was broken: {}: {}\nrun it again: {}",
            v.at_ms,
            v.rule,
            v.what,
            scenario.command()
        )),
    }
}
