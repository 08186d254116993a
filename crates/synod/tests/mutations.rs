//! The fuzz entries (`fuzz/src/lib.rs`) on a stable toolchain: valid encodings,
//! mutated from a seed, a bounded number of times. With `SYNOD_CORPUS=DIR` the
//! valid encodings are written there, a folder for each entry, for a fuzzer to
//! begin with.

mod common;
#[path = "../../../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod entries;

use bytes::Bytes;
use common::differ::{Request, Requests};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use synod_base::{NodeId, Rng, Tick};
use synod_cell::{PeerMessage, Work};
use synod_consensus::{
    Change, Input, Limits, Membership, Output, Proposal, Protocol, Recovered, Refusal, SnapshotMeta,
};
use synod_door_etcd::txn_request;
use synod_etcd_proto::etcdserverpb as pb;
use synod_mvcc::{
    AlarmKind, Command, DeleteRequest, KeyRange, MemStore, MemberInfo, PutRequest, SnapshotCursor,
    SnapshotWriter, State, StateLimits,
};
use synod_wal::{Disk, Journal, MemDisk, segment_name};

const MUTANTS: usize = 20_000;
/// Bytes at which codecs turn corners.
const CORNERS: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x40, 0x20];

/// Runs an entry over its valid inputs and mutants of them.
fn run(name: &str, seeds: &[Vec<u8>], entry: fn(&[u8]) -> bool) {
    if let Some(dir) = std::env::var_os("SYNOD_CORPUS") {
        let dir = std::path::Path::new(&dir).join(name);
        std::fs::create_dir_all(&dir).expect("a folder for the corpus");
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(i.to_string()), seed).expect("a file of the corpus");
        }
    }
    for seed in seeds {
        assert!(entry(seed), "{name} refuses what is valid: {seed:?}");
    }
    let mut rng = Rng::new(1);
    let mut accepted = 0;
    for i in 0..MUTANTS {
        let mutant = mutate(&mut rng, seeds);
        let done = std::panic::catch_unwind(|| entry(&mutant));
        accepted += usize::from(done.unwrap_or_else(|_| panic!("{name}, mutant {i}: {mutant:?}")));
    }
    println!("{name}: {accepted} of {MUTANTS} mutants are accepted");
    assert!(accepted > 0 && accepted < MUTANTS, "{name}: {accepted} of {MUTANTS} accepted");
}

/// One of the inputs with a few changes.
fn mutate(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut Rng| &seeds[rng.below(seeds.len() as u64) as usize];
    let mut bytes = pick(rng).clone();
    for _ in 0..rng.between(1, 4) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let end = (at + rng.between(1, 12) as usize).min(bytes.len());
        match rng.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, rng.next_u64() as u8),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = pick(rng);
                let from = rng.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ if at == bytes.len() => {}
            5 => bytes[at] = CORNERS[rng.below(8) as usize],
            6 => bytes[at] = bytes[at].wrapping_add(1),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
    }
    bytes
}

/// Transactions as clients send them, those that pass the door's checks.
fn transactions(count: usize) -> Vec<(pb::TxnRequest, Command)> {
    let mut requests = Requests::new(1);
    let mut all = Vec::new();
    while all.len() < count {
        if let Request::Txn(txn) = requests.next()
            && let Ok(request) = txn_request(txn.clone(), 128)
        {
            all.push((txn, Command::Txn(request)));
        }
    }
    all
}

fn commands() -> Vec<Command> {
    let put = PutRequest { key: "k".into(), value: "value".into(), ..PutRequest::default() };
    let range = KeyRange { key: "a".into(), end: "z".into() };
    let member = MemberInfo {
        id: NodeId(9),
        name: "n9".into(),
        peer_urls: vec!["http://127.0.0.1:1".into()],
        client_urls: vec!["http://127.0.0.1:2".into(), String::new()],
    };
    let mut all = vec![
        Command::Put(PutRequest { lease: 1 << 40, prev_kv: true, ..put.clone() }),
        Command::Put(PutRequest { ignore_value: true, ignore_lease: true, ..put }),
        Command::Delete(DeleteRequest { range, prev_kv: true }),
        Command::Compact { revision: 300 },
        Command::LeaseGrant { id: 77, ttl: 60, clock: 1_000 },
        Command::LeaseRevoke { id: 77 },
        Command::LeaseRenew { ids: vec![1, 2, 1 << 50], clock: 5_000 },
        Command::LeaseExpire { ids: vec![3], clock: 9_000 },
        Command::LeaseClock { clock: 1 << 40 },
        Command::Alarm { raise: true, member: NodeId(9), kind: AlarmKind::NoSpace },
        Command::MemberSet(member),
        Command::MemberRemove(NodeId(9)),
    ];
    all.extend(transactions(20).into_iter().map(|(_, command)| command));
    all
}

/// Records and messages of a real protocol: those of a cell that is led, writes,
/// and changes its members.
fn traffic() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut messages = vec![
        PeerMessage::SnapshotChunk {
            stream: 3,
            number: 70_000,
            last: true,
            bytes: Bytes::from_static(b"a piece"),
        },
        PeerMessage::SnapshotAck { stream: 3, next: 9, installed: Some(1 << 33), failed: false },
        PeerMessage::HashAsk { revision: 40 },
        PeerMessage::HashTell { revision: 40, hash: Some((u32::MAX, 12)) },
        PeerMessage::HashTell { revision: 41, hash: None },
    ];
    let change = Change { add_learners: BTreeSet::from([NodeId(4)]), ..Change::default() };
    let items = commands().into_iter().map(|c| (1 << 33, Work::Command(c.encode())));
    let mut items: Vec<_> = items.collect();
    items.push((5, Work::Change(change, vec![commands()[0].encode()])));
    let id = synod_cell::ForwardId { life: 1 << 60, number: 2 };
    messages.push(PeerMessage::Forward { term: 7, id, items });
    let verdicts = vec![(id, 5, Ok((9, 7))), (id, 6, Err(Refusal::Overloaded))];
    messages.push(PeerMessage::Forwarded(verdicts));
    let mut records = Vec::new();
    for protocol in Protocol::ALL {
        let (written, sent) = consensus_traffic(protocol);
        records.extend(written);
        messages.extend(sent.into_iter().map(PeerMessage::Consensus));
    }
    let encode = |m: &PeerMessage| {
        let mut out = Vec::new();
        m.encode(&mut out);
        out
    };
    (records, messages.iter().map(encode).collect())
}

/// Three members elect a leader, write, and take in a learner: every record and
/// every message of theirs.
fn consensus_traffic(protocol: Protocol) -> (Vec<Vec<u8>>, Vec<synod_consensus::Message>) {
    let membership = Membership::of_voters((1..=3).map(NodeId));
    let first = SnapshotMeta { membership, ..SnapshotMeta::default() };
    let start = |id: u64| {
        let recovered = Recovered { snapshot: first.clone(), ..Recovered::default() };
        let core = protocol.start(NodeId(id), Limits::default(), id, recovered, Tick(0));
        (NodeId(id), core.expect("a fresh member"))
    };
    let mut members: BTreeMap<NodeId, _> = (1..=3).map(start).collect();
    let (mut records, mut messages) = (Vec::new(), Vec::new());
    let mut inputs = VecDeque::new();
    for now in 0..2_000 {
        inputs.extend(members.keys().map(|id| (*id, Input::Tick)));
        if now % 100 == 50 {
            let proposals = vec![Proposal { ticket: now, data: "a command".into() }];
            inputs.extend(members.keys().map(|id| (*id, Input::Propose(proposals.clone()))));
            inputs.extend(members.keys().map(|id| (*id, Input::Read { ticket: now })));
        }
        if now == 1_000 {
            let change = Change { add_learners: [NodeId(4)].into(), ..Change::default() };
            let context = Bytes::from_static(b"addresses");
            let ask = |id: &NodeId| {
                let (change, context) = (change.clone(), context.clone());
                (*id, Input::Reconfigure { ticket: now, change: Box::new(change), context })
            };
            inputs.extend(members.keys().map(ask).collect::<Vec<_>>());
        }
        while let Some((id, input)) = inputs.pop_front() {
            let Some(core) = members.get_mut(&id) else { continue };
            let mut out = Vec::new();
            core.step(Tick(now), input, &mut out);
            for output in out {
                match output {
                    Output::Write { seq, record } => {
                        records.push(record.to_bytes().to_vec());
                        inputs.push_back((id, Input::Persisted(seq)));
                    }
                    Output::Send { to, message, .. } => {
                        messages.push(message.clone());
                        inputs.push_back((to, Input::Receive { from: id, message }));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(records.len() > 40 && messages.len() > 500, "{} {}", records.len(), messages.len());
    // Most are heartbeats: as many of them as of anything else would drown it.
    messages.retain(|m| !m.is_heartbeat());
    (records, messages)
}

#[test]
fn journals() {
    let mut seeds = Vec::new();
    for batches in 1..6u8 {
        let (mut journal, _) =
            Journal::open(MemDisk::default(), entries::NODE, entries::options()).expect("fresh");
        for batch in 0..batches {
            let records = [vec![batch; 5], vec![0xff; 40 * usize::from(batch)], Vec::new()];
            journal.append(records.iter().map(|r| (3, r.as_slice()))).expect("an append");
        }
        let mut bytes = journal.into_disk().read(&segment_name(1)).expect("the segment");
        // The zeros at the end would take most of the changes.
        let end = bytes.iter().rposition(|b| *b != 0).expect("it was written to");
        bytes.truncate(end + 1);
        seeds.push(bytes);
    }
    run("journal", &seeds, entries::journal);
}

#[test]
fn records_and_messages() {
    let (records, messages) = traffic();
    run("record", &records, entries::record);
    run("message", &messages, entries::message);
    let mut frames = vec![Vec::new(); 8];
    for (i, message) in messages.iter().enumerate() {
        let out = &mut frames[i % 8];
        if out.len() < 2_000 {
            synod_host::wire::put_frame(out, 0, |out| out.extend_from_slice(message));
        }
    }
    run("frames", &frames, entries::frames);
}

#[test]
fn snapshots() {
    let mut state = State::open(MemStore::new(), StateLimits::default()).expect("memory");
    for (index, command) in commands().iter().cycle().take(60).enumerate() {
        let _ = state.apply(index as u64 + 1, 1, command).expect("memory");
    }
    state.commit().expect("memory");
    let published = state.reader().published();
    let seeds = [20, 100, 5_000].map(|chunk| {
        let writer = SnapshotWriter::new(Arc::clone(&published), chunk);
        let mut bytes = vec![chunk as u8];
        let mut cursor = SnapshotCursor::default();
        while let Some((chunk, next)) = writer.chunk(&cursor).expect("memory") {
            bytes.extend_from_slice(&chunk);
            cursor = next;
        }
        bytes
    });
    run("snapshot", &seeds, entries::snapshot);
    // Checksums refuse nearly all of these, so others are changed beneath them.
    let mut rng = Rng::new(2);
    let mut accepted = 0;
    for i in 0..MUTANTS / 10 {
        let seed = &seeds[rng.below(3) as usize];
        let sealed = change_beneath(&mut rng, seed);
        let done = std::panic::catch_unwind(|| entries::snapshot(&sealed));
        accepted += usize::from(done.unwrap_or_else(|_| panic!("mutant {i}: {sealed:?}")));
    }
    println!("snapshot, sealed anew: {accepted} of {} are accepted", MUTANTS / 10);
    assert!(accepted > 0, "nothing gets through");
}

/// A snapshot with one frame's payload changed and the checksums right again.
fn change_beneath(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    // How it is to be cut, the magic; then length, checksum, kind and payload.
    let (mut out, mut rest) = (seed[..9].to_vec(), &seed[9..]);
    let mut frames = Vec::new();
    while let Some((head, more)) = rest.split_first_chunk::<9>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        frames.push((head[8], more[..length].to_vec()));
        rest = &more[length..];
    }
    let at = rng.below(frames.len() as u64) as usize;
    frames[at].1 = mutate(rng, std::slice::from_ref(&frames[at].1));
    for (kind, payload) in frames {
        let offset = (out.len() - 1) as u64;
        let sum = synod_base::crc32c_append(&[&offset.to_le_bytes(), &[kind], &payload]);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&sum.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&payload);
    }
    out
}

#[test]
fn commands_and_transactions() {
    let seeds: Vec<_> = commands().iter().map(|c| c.encode().to_vec()).collect();
    run("command", &seeds, entries::command);
    let seeds: Vec<_> = transactions(40).iter().map(|(txn, _)| txn.encode_to_vec()).collect();
    run("txn", &seeds, entries::txn);
}

#[test]
fn queries_and_pages() {
    let queries = [
        "sum by (job) (rate(http_requests_total{code=~\"5..\"}[5m] offset 1h)) > bool 0.5",
        "a * on (x, y) group_left (z) b or -c ^ 2 unless {__name__=~\"m.*\"} @ 12.5",
        "max_over_time(deriv(m[1h30m])[1d:5m] @ end()) and absent(up{job=\"a\\n\"})",
        "histogram_quantile(0.9, h_bucket) + label_replace(a, \"b\", \"$1\", 'c', `(.*)`)",
    ];
    let seeds: Vec<_> = queries.iter().map(|q| q.as_bytes().to_vec()).collect();
    run("query", &seeds, entries::query);
    let pages = [
        "# HELP a Things.\n# TYPE a counter\na{b=\"c\",d=\"\\\"\"} 1.5 1500\nx +Inf\n",
        "# TYPE h histogram\nh_bucket{le=\"0.1\"} 3 # {t=\"x\"} 0.05\nh_count 3 1.5\n# EOF\n",
    ];
    let seeds: Vec<_> = pages.iter().map(|p| p.as_bytes().to_vec()).collect();
    run("page", &seeds, entries::page);
}

/// The index of a block of some series.
fn block_index() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let range = 1_000;
    let limits = synod_tsdb::Limits { block_range: range, ..synod_tsdb::Limits::default() };
    let mut head = synod_tsdb::Head::new(limits);
    let mut put = |n: u32, at: i64| {
        let labels = [("__name__", "m"), ("job", "j"), ("n", &format!("{n}"))];
        let id = head.series(&synod_promql::Labels::new(labels)).expect("room");
        head.append(id, synod_promql::Sample { at, value: f64::from(n) }).expect("in order");
    };
    for at in [1, 2, 500] {
        (0..90).for_each(|n| put(n, at));
    }
    // So late that a block is due.
    put(0, 2_900);
    let files = Arc::new(synod_tsdb::RealFiles);
    let blocks = synod_tsdb::Blocks::open(dir.path(), files, 1, Box::new(|_| {}));
    let blocks = blocks.expect("a folder");
    blocks.cut(&std::sync::RwLock::new(head), 1).expect("space").expect("a block");
    std::fs::read(blocks.all()[0].folder().join("index")).expect("an index")
}

#[test]
fn indices_of_blocks_and_chunks() {
    let index = block_index();
    run("block_index", std::slice::from_ref(&index), entries::block_index);
    let mut rng = Rng::new(4);
    let chunks: Vec<Vec<u8>> = [1u64, 20, 1 << 62]
        .iter()
        .map(|noise| {
            let value = |rng: &mut Rng| f64::from_bits(rng.below(*noise));
            let first = synod_promql::Sample { at: 1_700_000_000_000, value: value(&mut rng) };
            let mut chunk = synod_tsdb::Chunk::new(first);
            for round in 1..50 {
                let at = first.at + round * 15_000 + rng.below(*noise % 4_000 + 1) as i64;
                chunk.push(synod_promql::Sample { at, value: value(&mut rng) });
            }
            chunk.data().to_vec()
        })
        .collect();
    run("chunk", &chunks, entries::chunk);
}

/// Parts of an index that have a checksum behind them.
fn summed_parts(index: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number =
        |at: usize| u32::from_be_bytes(index[at..at + 4].try_into().expect("four")) as usize;
    let toc = index.len() - 52;
    let table = number(toc + 44);
    let mut parts = vec![9..9 + number(5), table + 4..table + 4 + number(table), toc..toc + 48];
    let read = synod_tsdb::IndexReader::open(index.to_vec()).expect("an index");
    for series in read.all().expect("whole") {
        // Entries here are shorter than 128 bytes.
        let at = series as usize * 16;
        parts.push(at + 1..at + 1 + usize::from(index[at]));
    }
    parts
}

#[test]
fn an_index_that_was_changed_beneath_its_checksums() {
    let index = block_index();
    let parts = summed_parts(&index);
    let (mut rng, mut accepted) = (Rng::new(3), 0);
    for i in 0..MUTANTS / 10 {
        // The tables as often as all series together.
        let all = if rng.below(2) == 0 { 3 } else { parts.len() as u64 };
        let part = parts[rng.below(all) as usize].clone();
        let mut mutant = index.clone();
        for _ in 0..rng.between(1, 3) {
            let at = part.start + rng.below(part.len() as u64) as usize;
            mutant[at] = match rng.below(3) {
                0 => CORNERS[rng.below(8) as usize],
                1 => mutant[at].wrapping_add(1),
                _ => mutant[at] ^ 1 << rng.below(8),
            };
        }
        let sum = synod_base::crc32c(&mutant[part.clone()]).to_be_bytes();
        mutant[part.end..part.end + 4].copy_from_slice(&sum);
        let done = std::panic::catch_unwind(|| entries::block_index(&mutant));
        accepted += usize::from(done.unwrap_or_else(|_| panic!("mutant {i} of {part:?}")));
    }
    println!("index, summed anew: {accepted} of {} are accepted", MUTANTS / 10);
    assert!(accepted > 0 && accepted < MUTANTS / 10, "{accepted}");
}

#[test]
fn templates_and_rules() {
    let templates = [
        "{{ $labels.instance }} of {{ .Labels.job | toUpper }}: {{ printf \"%.2f%%\" $value }}",
        "{{ range $i, $s := query \"up\" | sortByLabel \"job\" }}{{ if $i }},{{ else }}-{{ end }}{{ .Value }}{{ end }}",
        "{{- with query `up` }}{{ . | first | value | humanizeDuration }}{{ else }}{{ $externalLabels.x }}{{ end -}}",
        "{{ define \"t\" }}{{ .arg0 }}{{ end }}{{ template \"t\" (args 1 2.5) }}{{ $x := 1 }}{{ $x = 2 }}{{/* c */}}",
        "{{ range 9 }}{{ if and (lt . 5) (not false) }}{{ continue }}{{ end }}{{ slice \"abc\" 1 }}{{ break }}{{ end }}",
    ];
    let seeds: Vec<_> = templates.iter().map(|t| t.as_bytes().to_vec()).collect();
    run("template", &seeds, entries::template);
    let rules = [
        "groups:\n- name: g\n  interval: 1m\n  rules:\n  - {record: 'a:b', expr: sum(x), labels: {c: d}}\n",
        "groups:\n- name: g\n  limit: 5\n  rules:\n  - alert: A\n    expr: absent(up) > 0\n    for: 5s\n    keep_firing_for: 1m\n    annotations:\n      s: '{{ $value | humanize }}'\n",
    ];
    let seeds: Vec<_> = rules.iter().map(|r| r.as_bytes().to_vec()).collect();
    run("rules", &seeds, entries::rules);
    let tests = [
        "rule_files: [a.yml]\ntests:\n- interval: 1m\n  input_series:\n  - {series: 'up{a=\"b\"}', values: '1+2x3 _x2 stale'}\n",
        "tests:\n- alert_rule_test: [{eval_time: 5m, alertname: A, exp_alerts: [{exp_labels: {a: b}}]}]\n  promql_expr_test: [{expr: up, eval_time: 1m, exp_samples: [{labels: up, value: 1}]}]\n",
    ];
    let seeds: Vec<_> = tests.iter().map(|t| t.as_bytes().to_vec()).collect();
    run("rule_tests", &seeds, entries::rule_tests);
}
