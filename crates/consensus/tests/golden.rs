//! Readable transcripts, one scenario a file in `tests/golden/PROTOCOL`.
//!
//! A line that starts with `>` is a command, one with `#` or an empty one is
//! for the reader, everything else is what the command led to. With
//! `SYNOD_REWRITE=1` the files are written anew; explain each difference.
//!
//! Time passes only by `run` (all nodes, messages arrive at once) and `tick`
//! (one node, messages wait). Commands are in [`Stage::command`].

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use support::{Effect, Node};
use synod_base::{NodeId, Tick};
use synod_consensus::paxos;
use synod_consensus::raft::{HardState, Record};
use synod_consensus::{
    Change, Entry, EntryKind, Input, Limits, Membership, Message, Proposal, Protocol, RecordView,
    SnapshotMeta, zab,
};

#[derive(Default)]
struct Stage {
    protocol: Protocol,
    limits: Limits,
    nodes: BTreeMap<NodeId, Node>,
    logs: BTreeMap<NodeId, BTreeMap<u64, u64>>,
    queue: Vec<(NodeId, NodeId, Message)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    held: BTreeSet<(NodeId, NodeId)>,
    tickets: u64,
    /// Whether messages are shown.
    talk: bool,
    out: String,
}

fn node(word: &str) -> NodeId {
    NodeId(word.trim_start_matches('n').parse().unwrap_or_else(|_| panic!("no node: {word}")))
}

fn link(word: &str) -> (NodeId, NodeId) {
    let (a, b) = word.split_once("->").unwrap_or_else(|| panic!("no link: {word}"));
    (node(a), node(b))
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word}"))
}

fn show_entry(e: &Entry) -> String {
    let what = match e.kind {
        EntryKind::Command => String::from_utf8_lossy(&e.data).into_owned(),
        EntryKind::Noop => "-".to_owned(),
        EntryKind::Config => "members".to_owned(),
    };
    format!("{}:{}={what}", e.index, e.term)
}

/// Long rows of no-ops in short.
fn show_entries(entries: &[Entry]) -> String {
    let alike = |a: &Entry, b: &Entry| {
        let noops = a.kind == EntryKind::Noop && b.kind == EntryKind::Noop;
        noops && a.term == b.term
    };
    let show = |row: &[Entry]| match row {
        [first, .., last] if row.len() > 9 => format!("{}..{}", first.index, show_entry(last)),
        _ => row.iter().map(show_entry).collect::<Vec<_>>().join(" "),
    };
    entries.chunk_by(alike).map(show).collect::<Vec<_>>().join(" ")
}

/// Long rows of one term in short.
fn show_terms(terms: &[u64]) -> String {
    let show = |row: &[u64]| match row {
        [term, ..] if row.len() > 19 => format!("{term}*{}", row.len()),
        _ => row.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    };
    terms.chunk_by(|a, b| a == b).map(show).collect::<Vec<_>>().join(",")
}

impl Stage {
    fn say(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn take(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            let line = match effect {
                Effect::Send { to, message } => {
                    let line = format!("{id:?}->{to:?} {}", message);
                    self.queue.push((id, to, message));
                    if !self.talk {
                        continue;
                    }
                    line
                }
                Effect::Wrote { record, .. } => {
                    self.note_record(id, &record);
                    continue;
                }
                Effect::Applied(entries) => {
                    format!("{id:?} applies {}", show_entries(&entries))
                }
                Effect::Accepted { ticket, index, term } => {
                    format!("{id:?} takes #{ticket} at {index}:{term}")
                }
                Effect::Refused { ticket, why, leader } => {
                    format!("{id:?} refuses #{ticket}: {why:?}, leader {leader:?}")
                }
                Effect::ReadReady { tickets, index } => {
                    format!("{id:?} may answer reads {tickets:?} at {index}")
                }
                Effect::NeedSnapshot { to } => format!("{id:?} wants a snapshot sent to {to:?}"),
                Effect::Event(e) => format!("{id:?} {e}"),
                Effect::Forget { upto } => format!("{id:?} forgets up to {upto}"),
            };
            self.say(&line);
        }
    }

    fn note_record(&mut self, id: NodeId, record: &RecordView) {
        let log = self.logs.entry(id).or_default();
        if let Some(from) = record.void_from {
            log.split_off(&from);
        }
        log.extend(record.entries.iter().map(|(_, e)| (e.index, e.term)));
    }

    fn act(&mut self, id: NodeId, act: impl FnOnce(&mut Node) -> Vec<Effect>) {
        let effects = act(self.nodes.get_mut(&id).unwrap_or_else(|| panic!("no {id:?}")));
        self.take(id, effects);
    }

    fn step(&mut self, id: NodeId, input: Input) {
        self.act(id, |n| n.step(input));
    }

    /// Delivers what was queued when it began, over one link or all.
    fn deliver_once(&mut self, only: Option<(NodeId, NodeId)>) -> bool {
        let mut moved = false;
        for (from, to, message) in std::mem::take(&mut self.queue) {
            if only.is_some_and(|l| l != (from, to)) || self.held.contains(&(from, to)) {
                self.queue.push((from, to, message));
                continue;
            }
            moved = true;
            let up = self.nodes.get(&to).is_some_and(Node::up);
            if up && !self.cut.contains(&(from, to)) {
                self.step(to, Input::Receive { from, message });
            }
        }
        moved
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            for id in ids {
                self.tick(id, 5);
            }
            for _ in 0..50 {
                if !self.deliver_once(None) {
                    break;
                }
            }
        }
    }

    fn tick(&mut self, id: NodeId, ms: u64) {
        self.act(id, |n| {
            n.now = Tick(n.now.0 + ms);
            n.step(Input::Tick)
        });
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn limit(&mut self, word: &str) {
        let (name, value) = word.split_once('=').expect("limit=value");
        let (l, v) = (&mut self.limits, number(value));
        match name {
            "lease" => l.lease_reads = v != 0,
            "stall" => l.disk_stall_ms = v,
            "retain" => l.retained_entries_max = v as usize,
            "reads" => l.reads_waiting_max = v as usize,
            "uncommitted" => l.uncommitted_bytes_max = v as usize,
            "append" => l.append_bytes_max = v as usize,
            "inflight" => l.inflight_messages_max = v as usize,
            _ => panic!("no limit {name}"),
        }
    }

    fn cell(&mut self, voters: u64, spare: u64) {
        let membership = Membership::of_voters((1..=voters).map(NodeId));
        let first = SnapshotMeta { membership, ..SnapshotMeta::default() };
        for id in (1..=voters + spare).map(NodeId) {
            let first = if id.0 <= voters { first.clone() } else { SnapshotMeta::default() };
            let mut node = Node::new(self.protocol, id, self.limits.clone(), first);
            node.now = Tick(1_000);
            self.nodes.insert(id, node);
        }
    }

    /// `log n1 term=7 vote=n2 commit=3 terms=1,1,1,4`: what an earlier life left.
    /// With Multi-Paxos `-` is a hole, `1@3` a value of ballot 1 accepted in 3. With
    /// Zab `term` is the accepted epoch, `vote` its leader, and the current epoch
    /// `current=6`, or the accepted one.
    fn plant(&mut self, id: NodeId, words: &[&str]) {
        let mut hard = HardState::default();
        let mut current = None;
        let mut accepted = Vec::new();
        for word in words {
            match word.split_once('=').expect("name=value") {
                ("term", v) => hard.term = number(v),
                ("vote", v) => hard.vote = Some(node(v)),
                ("current", v) => current = Some(number(v)),
                ("commit", v) => hard.commit = number(v),
                ("terms", v) => {
                    let terms = (1..).zip(v.split(',')).filter(|(_, word)| *word != "-");
                    accepted.extend(terms.map(|(index, word)| {
                        let (term, ballot) = word.split_once('@').unwrap_or((word, word));
                        let (term, data) = (number(term), format!("t{term}").into());
                        let kind = EntryKind::Command;
                        (number(ballot), Entry { index, term, kind, data })
                    }));
                }
                (other, _) => panic!("no field {other}"),
            }
        }
        let bytes = match self.protocol {
            Protocol::Raft => {
                let entries: Vec<Entry> = accepted.into_iter().map(|(_, e)| e).collect();
                Record { hard, boundary: None, first: 1, entries: entries.into() }.to_bytes()
            }
            Protocol::Paxos => {
                let HardState { term: round, vote: promised, commit } = hard;
                let accepted = accepted.into_iter().map(|(b, e)| (b, e.into())).collect();
                paxos::Record { round, promised, commit, boundary: None, accepted }.to_bytes()
            }
            Protocol::Zab => {
                let entries: Vec<Entry> = accepted.into_iter().map(|(_, e)| e).collect();
                let HardState { term: accepted, vote: leader, commit } = hard;
                let current = current.unwrap_or(accepted);
                let hard = zab::HardState { accepted, leader, current, commit };
                zab::Record { hard, boundary: None, cut: None, first: 1, entries: entries.into() }
                    .to_bytes()
            }
        };
        self.note_record(id, &RecordView::decode(bytes.clone()).unwrap());
        self.nodes.get_mut(&id).unwrap().plant(bytes.to_vec());
    }

    fn change(&mut self, id: NodeId, words: &[&str]) {
        let mut change = Change::default();
        for word in words {
            let (name, ids) = word.split_once('=').expect("name=ids");
            let ids = ids.split(',').map(node).collect();
            match name {
                "learners" => change.add_learners = ids,
                "promote" => change.promote = ids,
                "voters" => change.add_voters = ids,
                "remove" => change.remove = ids,
                _ => panic!("no change {name}"),
            }
        }
        let ticket = self.ticket();
        self.step(
            id,
            Input::Reconfigure { ticket, change: Box::new(change), context: bytes::Bytes::new() },
        );
    }

    fn snapshot(&mut self, from: NodeId, to: NodeId, word: Option<&str>) {
        let state = self.nodes[&from].snapshot().expect("a snapshot");
        let index = state.snapshot.index;
        if word == Some("fails") {
            return self.step(from, Input::SnapshotSent { to, installed: None });
        }
        self.act(to, |n| n.install(state));
        if word != Some("unreported") {
            self.step(from, Input::SnapshotSent { to, installed: Some(index) });
        }
    }

    fn state(&mut self) {
        let mut lines = String::new();
        for (id, n) in &self.nodes {
            let Some(core) = &n.core else {
                writeln!(lines, "{id:?} down").unwrap();
                continue;
            };
            let s = core.status();
            let log = self.logs.get(id).cloned().unwrap_or_default();
            let terms: Vec<u64> = log.range(s.first..).map(|(_, t)| *t).collect();
            let (role, term, commit) = (s.role, s.term, s.commit);
            let (persisted, applied) = (s.persisted, n.state.index());
            write!(
                lines,
                "{id:?} {role:?} term {term} leader {:?} log {}: {}",
                s.leader,
                s.first,
                show_terms(&terms)
            )
            .unwrap();
            writeln!(lines, " | commit {commit} persisted {persisted} applied {applied}").unwrap();
        }
        self.out.push_str(&lines);
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // Set the stage.
            ["limit", ref rest @ ..] => rest.iter().for_each(|w| self.limit(w)),
            ["cell", voters] => self.cell(number(voters), 0),
            ["cell", voters, "spare", spare] => self.cell(number(voters), number(spare)),
            ["log", id, ref rest @ ..] => self.plant(node(id), rest),
            ["start"] => {
                let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
                ids.into_iter().for_each(|id| self.act(id, |n| n.start(id.0)));
            }
            ["start" | "restart", id] => self.act(node(id), |n| n.start(n.id.0)),
            ["talk"] => self.talk = true,
            ["hush"] => self.talk = false,
            // Time and the network.
            ["run", ms] => self.run(number(ms)),
            ["tick", id, ms] => (0..number(ms) / 5).for_each(|_| self.tick(node(id), 5)),
            ["sleep", id, ms] => self.tick(node(id), number(ms)),
            ["deliver"] => while self.deliver_once(None) {},
            ["deliver", l] => {
                self.deliver_once(Some(link(l)));
            }
            ["drop", l] => self.queue.retain(|(a, b, _)| (*a, *b) != link(l)),
            ["repeat", l] => {
                let (from, to) = link(l);
                let copy = self.queue.iter().find(|(a, b, _)| (*a, *b) == (from, to));
                let (_, _, m) = copy.expect("a message to repeat");
                self.queue.push((from, to, m.clone()));
            }
            ["hold", l] => {
                self.held.insert(link(l));
            }
            ["release", l] => {
                self.held.remove(&link(l));
            }
            ["cut", a, b] => {
                self.cut.extend([(node(a), node(b)), (node(b), node(a))]);
            }
            ["heal"] => self.cut.clear(),
            ["disconnect", at, peer] => self.step(node(at), Input::Disconnected(node(peer))),
            // The machine.
            ["crash", id] => self.act(node(id), |n| {
                n.crash(0);
                Vec::new()
            }),
            ["disk", id, how] => {
                self.nodes.get_mut(&node(id)).unwrap().disk_runs = how == "runs";
            }
            ["persist", id] => self.act(node(id), |n| n.persist(usize::MAX)),
            ["persist", id, n] => self.act(node(id), |node| node.persist(number(n) as usize)),
            ["checkpoint", id] => self.act(node(id), Node::checkpoint),
            ["snapshot", from, to] => self.snapshot(node(from), node(to), None),
            ["snapshot", from, to, word] => self.snapshot(node(from), node(to), Some(word)),
            // Requests.
            ["propose", id, ref data @ ..] => {
                let batch = data
                    .iter()
                    .map(|d| Proposal { ticket: self.ticket(), data: d.to_string().into() });
                let batch = batch.collect();
                self.step(node(id), Input::Propose(batch));
            }
            ["read", id] => {
                let ticket = self.ticket();
                self.step(node(id), Input::Read { ticket });
            }
            ["transfer", id, ref to @ ..] => {
                let (ticket, to) = (self.ticket(), to.first().map(|w| node(w)));
                self.step(node(id), Input::Transfer { ticket, to });
            }
            ["change", id, ref rest @ ..] => self.change(node(id), rest),
            ["boundary", id, index] => {
                let core = self.nodes[&node(id)].core.as_ref().unwrap();
                let b = core.boundary(number(index));
                let line = match b {
                    Some(b) => format!("{}:{} voters {:?}", b.index, b.term, b.membership.voters),
                    None => "not known".to_owned(),
                };
                self.say(&line);
            }
            ["state"] => self.state(),
            _ => panic!("no command: {line}"),
        }
    }
}

fn play(protocol: Protocol, text: &str) -> String {
    let mut stage = Stage { protocol, ..Stage::default() };
    for line in text.lines() {
        if let Some(command) = line.strip_prefix('>') {
            stage.say(line);
            stage.command(command.trim());
        } else if line.is_empty() || line.starts_with('#') {
            stage.say(line);
        }
    }
    stage.out
}

fn transcripts(protocol: Protocol) {
    let dir = format!("{}/tests/golden/{protocol}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let want = std::fs::read_to_string(&file).unwrap();
        println!("{}", file.display());
        let got = play(protocol, &want);
        if std::env::var_os("SYNOD_REWRITE").is_some() {
            std::fs::write(&file, &got).unwrap();
        } else if got != want {
            let at = got.lines().zip(want.lines()).position(|(a, b)| a != b);
            let at = at.unwrap_or(got.lines().count().min(want.lines().count()));
            let line = |t: &str| t.lines().nth(at).unwrap_or("(end)").to_owned();
            wrong.push(format!(
                "{}:{}\n  want {}\n  got  {}",
                file.display(),
                at + 1,
                line(&want),
                line(&got)
            ));
        }
    }
    assert!(wrong.is_empty(), "transcripts differ (SYNOD_REWRITE=1):\n{}", wrong.join("\n"));
}

#[test]
fn paxos() {
    transcripts(Protocol::Paxos);
}

#[test]
fn raft() {
    transcripts(Protocol::Raft);
}

#[test]
fn zab() {
    transcripts(Protocol::Zab);
}
