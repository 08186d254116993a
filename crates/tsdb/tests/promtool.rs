//! Our blocks and Prometheus's own tools, both ways.

mod common;

use common::{Model, Store, program};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use synod_base::Rng;
use synod_promql::{Labels, Matcher, Sample};
use synod_tsdb::{Block, Chunk, FileAt, Limits, ReadAt};

const HOUR: i64 = 3_600_000;
/// A multiple of two hours.
const BEGIN: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

fn promtool(args: &[&str]) -> String {
    let run = Command::new(program("promtool")).args(args).output().expect("promtool runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{args:?}: {out}{err}");
    assert!(!err.contains("error"), "{args:?}: {err}");
    out.into_owned()
}

fn labels(n: u64) -> Labels {
    let job = if n.is_multiple_of(2) { "even" } else { "odd \"ö\"" };
    Labels::new([("__name__", "m"), ("job", job), ("instance", &format!("host-{n}"))])
}

/// Half a day of some series, a sample every fifteen seconds or so.
fn samples(mut take: impl FnMut(Labels, i64, f64)) {
    let mut rng = Rng::new(1);
    for round in 0..12 * 240 {
        for n in 0..20 {
            let at = BEGIN + round * 15_000 + rng.below(40) as i64;
            let value = match n % 4 {
                0 => (round * 17) as f64,
                1 => 1.0,
                2 => rng.below(1_000) as f64 / 8.0,
                _ => f64::from_bits(rng.below(1 << 62)),
            };
            take(labels(n), at, value);
        }
    }
}

/// What `promtool tsdb dump` prints, as a model.
fn dumped(folder: &str) -> Model {
    let mut model = Model::new();
    for line in promtool(&["tsdb", "dump", folder]).lines() {
        let (name, rest) = line.rsplit_once("} ").expect("labels");
        let (value, at) = rest.split_once(' ').expect("a time");
        let pairs = synod_promql::parse_selector(&format!("{name}}}")).expect("a selector");
        let labels = Labels::new(pairs.iter().map(|m| (&*m.name, &*m.value)));
        let value: f64 = value.parse().expect("a number");
        let at = at.parse().expect("a time");
        let twice = model.entry(labels).or_default().insert(at, value.to_bits());
        assert_eq!(twice, None, "{line}");
    }
    model
}

#[test]
fn promtool_reads_our_blocks() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_str().expect("a name");
    // The late ones make blocks that overlap others until they are compacted.
    let limits = Limits { out_of_order: 13 * HOUR, ..Limits::default() };
    let store = Store::real(dir.path(), limits);
    let mut model = Model::new();
    samples(|labels, at, value| {
        store.append(&labels, at, value).expect("in order");
        model.entry(labels).or_default().insert(at, value.to_bits());
    });
    assert_eq!(store.cut().expect("space"), 5);
    // A late one, and what the next cut needs to be due.
    store.append(&labels(3), BEGIN + 7_777, 0.5).expect("late");
    model.entry(labels(3)).or_default().insert(BEGIN + 7_777, 0.5f64.to_bits());
    let end = BEGIN + 14 * HOUR;
    store.append(&labels(0), end, 2.0).expect("in order");
    assert_eq!(store.cut().expect("space"), 1);
    let blocks = store.blocks.all();
    assert_eq!(blocks.len(), 7);
    assert_eq!(dumped(folder), model);

    while store.compact().expect("space") > 0 {}
    let blocks = store.blocks.all();
    let listed = promtool(&["tsdb", "list", folder]);
    for block in blocks.iter() {
        let meta = block.meta();
        let line = listed.lines().find(|l| l.starts_with(&meta.ulid));
        let line = line.unwrap_or_else(|| panic!("{} is not listed:\n{listed}", meta.ulid));
        let stats = meta.stats;
        for number in [stats.samples, stats.chunks, stats.series] {
            let told = line.split_whitespace().any(|word| word == number.to_string());
            assert!(told, "{line}: {stats:?}");
        }
    }
    assert_eq!(blocks.len(), listed.lines().count() - 1, "{listed}");
    assert_eq!(dumped(folder), model);
    let shown = promtool(&["tsdb", "analyze", folder, &blocks[0].meta().ulid]);
    for part in ["Series: 20\n", "Label names: 3", "20 __name__=m", "20 instance\n", "2 job\n"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    let found =
        promtool(&["tsdb", "dump", folder, "--match", "{instance=~\"host-1.\", job!=\"even\"}"]);
    assert!(found.contains("host-11") && !found.contains("host-12"), "{found}");
}

fn create_blocks(dir: &Path) -> Model {
    let (mut text, mut model) = (String::from("# TYPE m gauge\n"), Model::new());
    let mut all = std::collections::BTreeMap::<Labels, Vec<(i64, f64)>>::new();
    samples(|labels, at, value| all.entry(labels).or_default().push((at, value)));
    for (labels, samples) in all {
        let name = labels.to_string().replace(", ", ",");
        for (at, value) in samples {
            writeln!(text, "{name} {value:e} {}.{:03}", at / 1_000, at % 1_000).expect("text");
            model.entry(labels.clone()).or_default().insert(at, value.to_bits());
        }
    }
    text.push_str("# EOF\n");
    std::fs::write(dir.join("text"), text).expect("a file");
    let (input, output) = (dir.join("text"), dir.join("data"));
    let (input, output) = (input.to_str().expect("a name"), output.to_str().expect("a name"));
    promtool(&["tsdb", "create-blocks-from", "openmetrics", input, output]);
    model
}

#[test]
fn we_read_the_blocks_of_prometheus() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = create_blocks(dir.path());
    let data = dir.path().join("data");
    let store = Store::real(&data, Limits::default());
    assert!(store.blocks.all().len() >= 6, "{:?}", store.events());
    assert_eq!(store.all(), model);
    let (theirs, ours) = (store.blocks.bytes(), bytes_of_ours(&model));
    assert!(ours <= theirs, "{ours} bytes for what takes Prometheus {theirs}");
    let matcher = Matcher::new("instance", "=~", "host-1.").expect("a matcher");
    let found = store.select(std::slice::from_ref(&matcher), BEGIN, BEGIN + HOUR);
    assert_eq!(found.expect("whole").len(), 10);
    // Ours go on where theirs end, and theirs become part of ours.
    assert!(store.append(&labels(0), BEGIN, 1.0).is_err());
    while store.compact().expect("space") > 0 {}
    assert!(store.blocks.all().len() < 6);
    assert_eq!(store.all(), model);
    assert_eq!(dumped(data.to_str().expect("a name")), model);
}

/// The half day in blocks of ours.
fn write_blocks(folder: &Path) -> Store {
    let store = Store::real(folder, Limits::default());
    samples(|labels, at, value| {
        store.append(&labels, at, value).expect("in order");
    });
    // So late that all of the half day is cut off.
    store.append(&labels(0), BEGIN + 16 * HOUR, 1.0).expect("in order");
    store.cut().expect("space");
    store
}

/// What the same samples take in blocks of ours.
fn bytes_of_ours(model: &Model) -> u64 {
    let dir = tempfile::tempdir().expect("a folder");
    let store = write_blocks(dir.path());
    let count: u64 = store.blocks.all().iter().map(|b| b.meta().stats.samples).sum();
    assert_eq!(count as usize, model.values().map(|samples| samples.len()).sum::<usize>());
    store.blocks.bytes()
}

/// A request by HTTP/1.0 to a port of this machine; the answer.
fn post(port: u16, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(connection, "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_server_of_prometheus_reads_ours_and_what_it_deletes_stays_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(write_blocks(&dir.path().join("data")));
    let mut model = Model::new();
    samples(|labels, at, value| {
        model.entry(labels).or_default().insert(at, value.to_bits());
    });
    std::fs::write(dir.path().join("prometheus.yml"), "global: {}\n").expect("the settings");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let mut server = Command::new(program("prometheus"))
        .current_dir(dir.path())
        .args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.enable-admin-api",
        ])
        .args(["--storage.tsdb.retention.time=100y", "--log.level=error"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .spawn()
        .expect("prometheus starts");
    let (from, to) = (BEGIN / 1_000 + 3_000, BEGIN / 1_000 + 9_000);
    let delete = format!(
        "/api/v1/admin/tsdb/delete_series?match[]=m%7Binstance=%22host-3%22%7D&start={from}&end={to}"
    );
    let count = format!(
        "/api/v1/query?query=sum(count_over_time(m[13h]))&time={}",
        (BEGIN + 12 * HOUR + HOUR / 2) / 1_000
    );
    let begun = std::time::Instant::now();
    let (counted, deleted) = loop {
        match post(port, &count) {
            Ok(answer) if answer.contains("success") => {
                break (answer, post(port, &delete).expect("an answer"));
            }
            _ if begun.elapsed() > std::time::Duration::from_secs(30) => {
                break (String::new(), String::new());
            }
            _ => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    };
    server.kill().expect("it ends");
    server.wait().expect("it ends");
    let total: usize = model.values().map(|samples| samples.len()).sum();
    assert!(counted.contains(&format!("\"{total}\"]")), "{total}: {counted}");
    assert!(deleted.contains(" 204 "), "{deleted}");
    let samples = model.get_mut(&labels(3)).expect("a series");
    let before = samples.len();
    samples.retain(|at, _| !(from * 1_000..=to * 1_000).contains(at));
    assert!(samples.len() < before);
    let store = Store::real(&dir.path().join("data"), Limits::default());
    assert_eq!(store.all(), model);
    while store.compact().expect("space") > 0 {}
    assert_eq!(store.all(), model, "compacted");
}

#[test]
fn a_chunk_has_the_bytes_that_prometheus_gives_it() {
    let dir = tempfile::tempdir().expect("a folder");
    create_blocks(dir.path());
    let store = Store::real(&dir.path().join("data"), Limits::default());
    let mut compared = 0;
    for block in store.blocks.all().iter() {
        let block = Block::open(block.folder()).expect("whole");
        let file = FileAt::open(&block.folder().join("chunks/000001")).expect("chunks");
        let mut at = 8;
        while at < file.len() {
            let mut head = [0; 3];
            file.read_at(at, &mut head).expect("a chunk");
            // A length of one or two bytes, the encoding, the data, a checksum.
            let (len, prefix) = match head[0] {
                low @ 0..0x80 => (usize::from(low), 1),
                low => (usize::from(low & 0x7f) | usize::from(head[1]) << 7, 2),
            };
            let mut theirs = vec![0; len];
            file.read_at(at + prefix + 1, &mut theirs).expect("data");
            let samples: Vec<Sample> = synod_tsdb::samples(&theirs).expect("whole");
            let mut ours = Chunk::new(samples[0]);
            samples[1..].iter().for_each(|sample| ours.push(*sample));
            assert_eq!(ours.data(), theirs, "{samples:?}");
            at += prefix + 1 + len as u64 + 4;
            compared += 1;
        }
        assert_eq!(at, file.len());
    }
    assert!(compared > 300, "{compared}");
}
