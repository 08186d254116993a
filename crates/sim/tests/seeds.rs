//! Whole clusters under all faults. `SYNOD_SEED=n` runs one seed,
//! `SYNOD_SEEDS=n` as many, from `SYNOD_FROM` on; `SYNOD_NODES=n` machines each.

use synod_consensus::Protocol;
use synod_sim::{Scenario, run, run_traced, shrink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn nodes(seed: u64) -> u64 {
    if let Some(nodes) = number("SYNOD_NODES") {
        return nodes;
    }
    [3, 3, 3, 5, 1, 3, 7, 5][seed as usize % 8]
}

/// Runs a seed; a failure is shrunk and told with the command that replays it.
fn check(protocol: Protocol, seed: u64) -> u64 {
    check_scenario(Scenario::of_seed(protocol, nodes(seed), seed))
}

fn check_scenario(scenario: Scenario) -> u64 {
    let (protocol, seed) = (scenario.protocol, scenario.seed);
    let report = run(&scenario);
    if let Some(violation) = &report.violation {
        let (small, why) = shrink(&scenario, 60).expect("it fails again");
        panic!(
            "{protocol} seed {seed}: {violation:?}\nsmaller: {}: {}\nrun it again: {}",
            why.rule,
            why.what,
            small.command()
        );
    }
    if number("SYNOD_SEED").is_some() {
        println!("{report:?}");
    }
    report.ms
}

fn sweep(protocol: Protocol) {
    if let Some(seed) = number("SYNOD_SEED") {
        check(protocol, seed);
        return;
    }
    let from = number("SYNOD_FROM").unwrap_or(0);
    let seeds = number("SYNOD_SEEDS").unwrap_or(100);
    let half =
        |first: u64| (first..from + seeds).step_by(2).map(|s| check(protocol, s)).sum::<u64>();
    let (a, b) = std::thread::scope(|s| {
        let other = s.spawn(|| half(from + 1));
        (half(from), other.join().expect("the odd seeds"))
    });
    println!("{protocol}: {seeds} seeds, {} s simulated", (a + b) / 1_000);
}

/// Seeds that found bugs.
#[test]
fn regressions() {
    for seed in [3, 6, 129, 233, 295, 400, 979, 1295, 1527] {
        check(Protocol::Raft, seed);
    }
    check(Protocol::Paxos, 1025);
    for seed in [787, 1358] {
        check(Protocol::Zab, seed);
    }
}

#[test]
fn raft_under_all_faults() {
    sweep(Protocol::Raft);
}

/// Every run with clients of files, more of them than otherwise.
#[test]
fn caches_under_all_faults() {
    let from = number("SYNOD_FROM").unwrap_or(0);
    let seeds = number("SYNOD_SEEDS").unwrap_or(100) / 3;
    let protocols = [Protocol::Raft, Protocol::Paxos, Protocol::Zab];
    for seed in from..from + seeds {
        for protocol in protocols {
            let scenario = Scenario::of_seed(protocol, nodes(seed), seed);
            check_scenario(Scenario { file_clients: 5, clients: 2, ..scenario });
        }
    }
}

/// Sessions are in jeopardy, and live on by their grace: otherwise its rules check nothing.
#[test]
fn sessions_outlive_jeopardy() {
    for protocol in [Protocol::Raft, Protocol::Paxos, Protocol::Zab] {
        let seeds = (0..40).filter(|seed| matches!(seed % 8, 4 | 5));
        let graces =
            seeds.map(|seed| run(&Scenario::of_seed(protocol, 3, seed)).graces).sum::<u64>();
        println!("{protocol}: {graces} sessions went on after jeopardy");
        assert!(graces > 0, "{protocol}");
    }
}

/// The rarer faults strike, and are met: otherwise their runs show nothing.
#[test]
fn disks_lie_and_releases_change() {
    let mut told = [("refuses to start", 0), ("stops: ", 0), ("is of another release", 0)];
    for seed in 0..30 {
        let faults = "astray,state-rot,upgrade,crash".parse().expect("kinds of fault");
        let scenario = Scenario { faults, ..Scenario::of_seed(Protocol::Raft, 3, seed) };
        let (report, lines, _) = run_traced(&scenario, 0, 0);
        assert_eq!(report.violation, None, "seed {seed}");
        for (what, times) in &mut told {
            *times += lines.iter().filter(|line| line.contains(*what)).count();
        }
    }
    println!("{told:?}");
    assert!(told.iter().all(|(_, times)| *times > 5), "{told:?}");
}

#[test]
fn paxos_under_all_faults() {
    sweep(Protocol::Paxos);
}

#[test]
fn zab_under_all_faults() {
    sweep(Protocol::Zab);
}

/// A diagram of any times is drawn, and shows what there was.
#[test]
fn diagrams_show_faults_and_commits() {
    let scenario = Scenario {
        faults: "pause,cut,crash,slow-disk,storm".parse().expect("kinds of fault"),
        ms: 30_000,
        ..Scenario::of_seed(Protocol::Raft, 3, 5)
    };
    for (from, to) in [(0, 0), (5_000, 100), (900_000, 5), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
        let short = Scenario { ms: 1_000, ..scenario.clone() };
        assert!(run_traced(&short, from, to).2.ends_with("</svg>\n"), "{from} {to}");
    }
    let (_, lines, svg) = run_traced(&scenario, 0, 30_000);
    for what in ["n1 ", "n2 ", "n3 ", "is paused", "cut n", "slow disk of", "storm", "crashes"] {
        assert!(lines.iter().any(|line| line.contains(what)), "{what} in the lines");
        assert!(svg.contains(what.trim_end()), "{what} in the diagram");
    }
    assert!(svg.contains(">leads") && !svg.contains("machine"));
    // The first entry is committed in the first second, on each lane.
    let (_, _, svg) = run_traced(&scenario, 0, 1_000);
    assert!(svg.matches(">2<title>2</title>").count() == 3, "commits are marked");
}

/// Members are removed, leaders too, and join again; each run tells the same when it is repeated.
#[test]
fn members_come_and_go() {
    let mut told = [0; 3];
    let words = ["is to be removed", "whoever leads is removed", "will take its place"];
    for protocol in [Protocol::Raft, Protocol::Paxos, Protocol::Zab] {
        for seed in 0..number("SYNOD_SEEDS").unwrap_or(12) {
            let faults = "members,crash,cut,transfer,slow-link".parse().expect("kinds of fault");
            let nodes = [3, 5][seed as usize % 2];
            let scenario = Scenario { faults, ..Scenario::of_seed(protocol, nodes, seed) };
            let (report, lines, _) = run_traced(&scenario, 0, 0);
            assert_eq!(report.violation, None, "{}", scenario.command());
            for (what, times) in words.iter().zip(&mut told) {
                *times += lines.iter().filter(|line| line.contains(what)).count();
            }
            if seed == 0 {
                assert_eq!(run_traced(&scenario, 0, 0).1, lines, "the same seed, the same run");
            }
        }
    }
    println!("{told:?}");
    assert!(told.iter().all(|times| *times > 5), "{told:?}");
}

/// What came later strikes in the seeds that are meant to have it.
#[test]
fn later_faults_strike() {
    let words = ["closes", "is reached, for", "a chain from", "the only one that the others"];
    let mut told = [0; 4];
    for seed in (0..60).filter(|seed| matches!(seed % 13, 0 | 1 | 2 | 5)) {
        let scenario = Scenario::of_seed(Protocol::Paxos, 5, seed);
        let lines = run_traced(&scenario, 0, 0).1;
        for (what, times) in words.iter().zip(&mut told) {
            *times += lines.iter().filter(|line| line.contains(what)).count();
        }
    }
    println!("{told:?}");
    assert!(told.iter().all(|times| *times > 1), "{told:?}");
}
