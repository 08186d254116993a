//! Elections with real candidates: priorities, health, and who gives way to whom.

mod common;

#[path = "../../client/examples/election.rs"]
mod example;

use common::shell::{run, synod, until};
use common::{Cluster, block_on};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod_client::{Candidacy, Client, Error, SessionOptions, Stop};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::election_client::ElectionClient;

/// Notes when it begins and when it is asked to end.
const WORK: &str = r#"
trap 'echo "end $NAME" >>"$LOG"; exit 0' TERM
echo "begin $NAME $SYNOD_TOKEN" >>"$LOG"
while :; do sleep 0.05; done
"#;

struct Candidate(Child);

impl Candidate {
    fn start(at: &str, log: &Path, name: &str, more: &[&str]) -> Candidate {
        let args =
            [&["elect", "boss", "--owner", name, "--ttl", "2"], more, &["--", "sh", "-c", WORK]];
        let mut command = synod(at, &args.concat());
        command.env("LOG", log).env("NAME", name).stdout(Stdio::null()).stderr(Stdio::null());
        Candidate(command.spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("its end");
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(log: &PathBuf) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Who began, in order, with growing tokens.
fn leaders(log: &PathBuf) -> Vec<String> {
    let (mut names, mut last) = (Vec::new(), 0);
    for line in lines(log) {
        if let ["begin", name, token] = line.split(' ').collect::<Vec<_>>()[..] {
            let token: i64 = token.parse().expect("a token");
            assert!(token > last, "{line} after {last}");
            last = token;
            names.push(name.to_owned());
        }
    }
    names
}

/// The candidates' number, as an observer sees it.
fn candidates(at: &str) -> usize {
    block_on(async {
        let client = Client::connect(at.split(',')).await.expect("endpoints");
        client.observe("boss").next().await.expect("an answer").candidates.len()
    })
}

#[test]
fn the_clients_example_runs() {
    let cluster = Cluster::start(3);
    let at: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    block_on(example::show(&at)).expect("it runs to its end");
}

#[test]
fn the_best_healthy_candidate_leads_and_gives_way_to_a_better_one() {
    let cluster = Cluster::start(3);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let (log, well) = (dir.path().join("log"), dir.path().join("well"));
    let led = || leaders(&log);
    let mut low = Candidate::start(&at, &log, "low", &["--priority", "1"]);
    until("the first", || led() == ["low"]);
    let check = format!("exec:test -e {}", well.display());
    let checked = ["--priority", "9", "--preempt", "--check", &check, "--every", "100"];
    let _best = Candidate::start(&at, &log, "best", &checked);
    let _middle = Candidate::start(&at, &log, "middle", &["--priority", "5"]);
    until("all candidates", || candidates(&at) == 3);
    std::thread::sleep(Duration::from_millis(500));
    // Neither who fails nor who does not preempt takes it from the leader.
    assert_eq!(led(), ["low"]);
    std::fs::write(&well, "").expect("a file");
    until("the best", || led() == ["low", "best"]);
    // In order: the one had ended before the other began.
    assert_eq!(lines(&log)[1], "end low");
    // It fails its checks, resigns, and the next in order follows.
    std::fs::remove_file(&well).expect("removed");
    until("the next", || led() == ["low", "best", "middle"]);
    until("its return as a candidate", || candidates(&at) == 3);
    low.kill();
    until("the end of the killed one's session", || candidates(&at) == 2);
    assert_eq!(led(), ["low", "best", "middle"]);
}

#[test]
fn what_an_election_refuses_and_how_it_ends() {
    let cluster = Cluster::start(1);
    let at = cluster.endpoints();
    let done = run(&at, &["elect", "boss", "--priority", "-3", "--", "sh", "-c", "exit 7"]);
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    let begun = Instant::now();
    assert!(run(&at, &["elect", "boss", "--", "true"]).status.success());
    assert!(begun.elapsed() < Duration::from_secs(8), "the office was given back");
    let refused = run(&at, &["elect", "boss", "--check", "ttl:5", "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("for services"), "{refused:?}");
}

#[test]
fn a_program_campaigns_proclaims_and_is_told_when_to_stop() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    block_on(async {
        let client = Client::connect(at.split(',')).await.expect("endpoints");
        let first = client.open_session(SessionOptions::named("first")).await.expect("a session");
        let second = client.open_session(SessionOptions::named("second")).await.expect("a session");
        let candidate = first.stand("boss", Candidacy::default()).await.expect("it stands");
        let leads = candidate.campaign().await.expect("elected");
        leads.proclaim("here").await.expect("it leads");
        let mut observer = client.observe("boss");
        let seen = observer.next().await.expect("an answer");
        assert_eq!(seen.leader.expect("a leader").value, "here");

        let better = Candidacy { priority: 1, preempts: true, ..Candidacy::default() };
        let other = second.stand("boss", better).await.expect("it stands");
        let stop =
            tokio::time::timeout(Duration::from_secs(10), leads.must_stop(first.kill_margin()));
        assert_eq!(stop.await.expect("in time"), Stop::Outranked("second".into()));
        let (won, resigned) = tokio::join!(other.campaign(), leads.resign());
        resigned.expect("it led");
        let won = won.expect("elected");
        let seen = observer.next().await.expect("an answer");
        assert!(seen.candidates.len() <= 2, "{seen:?}");

        // By its sequencer anybody can take the office from it, while its session lives.
        let deposed = won.must_stop(second.kill_margin());
        let taken = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let sequencer = won.sequencer().to_string();
            let resign = v1::ElectionResignRequest { sequencer };
            let mut office = ElectionClient::new(cluster.channel(0));
            office.resign(resign).await.expect("it led");
        };
        let deposed = tokio::time::timeout(Duration::from_secs(10), deposed);
        let (deposed, ()) = tokio::join!(deposed, taken);
        assert_eq!(deposed.expect("in time"), Stop::Deposed);
        let won = other.campaign().await.expect("elected again");

        // A margin of its whole time to live is reached at once.
        assert_eq!(won.must_stop(Duration::from_secs(60)).await, Stop::Deadline);
        // What is dropped on the way is given up in the background: a third is elected.
        drop((won, other, candidate));
        let third = client.open_session(SessionOptions::named("third")).await.expect("a session");
        let candidate = third.stand("boss", Candidacy::default()).await.expect("it stands");
        let within = Duration::from_secs(10);
        let won = tokio::time::timeout(within, candidate.campaign()).await.expect("in time");
        drop(won.expect("elected"));
        candidate.withdraw().await.expect("withdrawn");
        third.close().await.expect("closed");
        let nobody = client.report("web", "a", Ok(())).await.expect_err("there is no such one");
        assert!(matches!(&nobody, Error::Refused(s) if s.message().contains("no instance")));
    });
}

/// What a signal means to its command is the command's: the candidate stands again.
#[test]
fn a_command_may_take_a_signal_and_go_on() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let (log, well) = (dir.path().join("log"), dir.path().join("well"));
    std::fs::write(&well, "").expect("a file");
    let check = format!("exec:test -e {}", well.display());
    let reloads = r#"trap 'echo reload >>"$LOG"' HUP; trap 'exit 0' TERM; echo begin >>"$LOG"
        while :; do sleep 0.05; done"#;
    let elect = ["elect", "boss", "--check", &check, "--every", "100", "--", "sh", "-c", reloads];
    let mut command = synod(&at, &elect);
    command.env("LOG", &log).stdout(Stdio::null()).stderr(Stdio::null());
    let mut candidate = Candidate(command.spawn().expect("it starts"));
    until("its term", || lines(&log) == ["begin"]);
    let process = candidate.0.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &process]).status().expect("kill").success());
    until("a word", || lines(&log) == ["begin", "reload"]);
    std::fs::remove_file(&well).expect("removed");
    let shown = || run(&at, &["elect", "boss", "--show"]).stdout;
    until("its end", || String::from_utf8_lossy(&shown()).contains("nobody leads"));
    std::fs::write(&well, "").expect("a file");
    until("its next term", || lines(&log) == ["begin", "reload", "begin"]);
    assert!(candidate.0.try_wait().expect("its state").is_none());
}
