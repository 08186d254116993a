//! Everything that reads bytes which Synod did not just make itself: from a disk,
//! from a peer, from a client. Each entry takes any bytes, must not panic, and
//! says whether they were accepted; what is accepted must hold what it promises.

use bytes::{Bytes, BytesMut};
use prost::Message;
use synod_cell::PeerMessage;
use synod_consensus::RecordView;
use synod_etcd_proto::etcdserverpb as pb;
use synod_host::wire;
use synod_mvcc::{
    Command, KeyRange, MemStore, REVISION_BUMP, RangeRequest, SnapshotReader, State, StateLimits,
    Store,
};
use synod_wal::{Disk, Journal, MemDisk, Options, SEGMENT_HEADER_LEN, segment_name};

/// Whose journal [`journal`] opens.
pub const NODE: u64 = 7;
/// Bytes of its segments.
pub const SEGMENT: u64 = 4_096;
/// etcd's limit of a transaction's lists.
const TXN_OPS_MAX: usize = 128;

/// Options of the journals here.
pub fn options() -> Options {
    Options { segment_bytes: SEGMENT, spares_max: 1 }
}

/// The bytes as the only segment of a journal. One that opens takes an append,
/// and opens again with all that it had and what was appended.
pub fn journal(data: &[u8]) -> bool {
    let mut disk = MemDisk::default();
    let len = data.len().max(SEGMENT_HEADER_LEN) as u64;
    let name = segment_name(1);
    disk.create(&name, len.max(SEGMENT)).expect("memory");
    disk.write_at(&name, 0, data).expect("memory");
    disk.sync(&name).expect("memory");
    let Ok((mut journal, found)) = Journal::open(disk, NODE, options()) else { return false };
    let more = b"one more".as_slice();
    journal.append(std::iter::once((3, more))).expect("an open journal takes records");
    let (_, again) = Journal::open(journal.into_disk(), NODE, options()).expect("it opens again");
    let bytes = |r: &[synod_wal::Record]| r.iter().map(|r| r.bytes.clone()).collect::<Vec<_>>();
    let (mut before, after) = (bytes(&found.records), bytes(&again.records));
    before.push(Bytes::from_static(more));
    assert_eq!(before, after, "the journal lost or made up records");
    !found.records.is_empty()
}

/// The bytes as what a journal's record holds.
pub fn record(data: &[u8]) -> bool {
    let Ok(view) = RecordView::decode(Bytes::copy_from_slice(data)) else { return false };
    // What `synod journal` prints of it.
    let (_, _) = (view.last_index(), view.to_string());
    true
}

/// The bytes as they come on a peer's connection: frames with messages in them.
pub fn frames(data: &[u8]) -> bool {
    let mut buffer = BytesMut::from(data);
    let mut whole = 0;
    while let Ok(Some((_, payload))) = wire::take_frame(&mut buffer) {
        message(&payload);
        whole += 1;
    }
    assert!(buffer.len() <= data.len());
    whole > 0
}

/// The bytes as a peer's message. One that is read is written and read again as
/// the same.
pub fn message(data: &[u8]) -> bool {
    let Ok(message) = PeerMessage::decode(Bytes::copy_from_slice(data)) else { return false };
    let mut again = Vec::new();
    message.encode(&mut again);
    assert_eq!(PeerMessage::decode(again.into()), Ok(message), "a message changed on its way");
    true
}

/// The bytes as a snapshot's stream, in pieces whose size the first byte says.
/// Whole, it is restored as `synod snapshot restore` does, or refused.
pub fn snapshot(data: &[u8]) -> bool {
    let Some((first, data)) = data.split_first() else { return false };
    let mut store = MemStore::new();
    store.stage_begin().expect("memory");
    let mut reader = SnapshotReader::new();
    let mut read = 0;
    for piece in data.chunks(usize::from(*first) + 1) {
        match reader.feed(piece) {
            Ok(pairs) => {
                read += pairs.iter().map(|(_, k, v)| k.len() + v.len()).sum::<usize>();
                store.stage_put(pairs).expect("memory");
            }
            Err(e) => {
                assert!(e.offset <= data.len() as u64, "{e}");
                return false;
            }
        }
    }
    assert!(read <= data.len(), "more was read than there is");
    if reader.finish().is_err() {
        return false;
    }
    store.stage_swap().expect("memory");
    let Ok(mut state) = State::open(store, StateLimits::default()) else { return false };
    // What is wrong within may be found by any of these, as an error.
    state.rebase(REVISION_BUMP, 1, 1, Vec::new());
    let _ = state.commit();
    let published = state.reader().published();
    let everything = KeyRange { key: Bytes::from_static(&[0]), end: Bytes::from_static(&[0]) };
    let _ = published.history(1, i64::MAX, &everything, usize::MAX, true);
    let _ = published.range(&RangeRequest { range: everything, ..RangeRequest::default() });
    let _ = published.leases();
    published.hash().is_ok()
}

/// The bytes as a command from the log. One that is read is written and read
/// again as the same, and a state answers it.
pub fn command(data: &[u8]) -> bool {
    let Ok(command) = Command::decode(Bytes::copy_from_slice(data)) else { return false };
    assert_eq!(Command::decode(command.encode()).as_ref(), Ok(&command), "it changed on its way");
    let mut state = State::open(MemStore::new(), StateLimits::default()).expect("memory");
    let _ = state.apply(1, 1, &command).expect("memory");
    state.commit().expect("memory");
    true
}

/// The bytes as a client's transaction, which holds all other requests of KV.
/// One that passes the checks is a command like others.
pub fn txn(data: &[u8]) -> bool {
    let Ok(request) = pb::TxnRequest::decode(data) else { return false };
    let Ok(made) = synod_door_etcd::txn_request(request, TXN_OPS_MAX) else { return false };
    assert!(
        command(&Command::Txn(made).encode()),
        "a checked transaction cannot be read from the log"
    );
    true
}

/// The bytes as a query in PromQL. One that is read prints as text that reads as the same.
pub fn query(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(node) = synod_promql::parse(text) else { return false };
    let printed = node.to_string();
    let again = synod_promql::parse(&printed).map(|n| n.to_string());
    assert_eq!(again.as_deref(), Ok(&*printed), "{text:?} changed when it was printed");
    true
}

/// The bytes as a page that a target shows, by the rules of both formats.
pub fn page(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let reads = |openmetrics| synod_door_prom::parse(text, openmetrics, |_| Ok(()), |_, _, _| {});
    let (plain, open) = (reads(false), reads(true));
    plain.is_ok() || open.is_ok()
}

/// The bytes as the index of a block of series. Of one that is read, all that it says can be
/// asked for, or is an error.
pub fn block_index(data: &[u8]) -> bool {
    let Ok(index) = synod_tsdb::IndexReader::open(data.to_vec()) else { return false };
    let names: Vec<String> = index.names().map(str::to_owned).collect();
    for name in &names {
        let _ = index.values(name, |_, _| {});
        let pattern = synod_promql::Matcher::new(name, "=~", ".+").expect("a pattern");
        let _ = index.candidates(&[pattern]);
    }
    index.all().is_ok_and(|all| all.iter().all(|number| index.series(*number).is_ok()))
}

/// The bytes as a chunk of samples. One that is read holds as many as it says.
pub fn chunk(data: &[u8]) -> bool {
    let Ok(samples) = synod_tsdb::samples(data) else { return false };
    assert_eq!(samples.len(), usize::from(u16::from_be_bytes([data[0], data[1]])));
    true
}

/// A store with nothing in it.
struct Nothing;

impl synod_promql::Source for Nothing {
    fn select(
        &self,
        _: &[synod_promql::Matcher],
        _: i64,
        _: i64,
    ) -> Result<Vec<synod_promql::Series>, String> {
        Ok(Vec::new())
    }
}

impl synod_rules::Store for Nothing {
    fn append(&self, _: i64, _: &[(synod_promql::Labels, f64)]) -> usize {
        0
    }

    fn append_histograms(
        &self,
        _: i64,
        _: &[(synod_promql::Labels, std::sync::Arc<synod_promql::Histogram>)],
    ) -> usize {
        0
    }
}

/// The bytes as a template of an alert. One that is read runs within bounds.
pub fn template(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(template) = synod_rules::Template::new(text) else { return false };
    let labels = synod_promql::Labels::new([("job", "a"), ("instance", "b:1")]);
    let context = synod_rules::Context {
        labels: &labels,
        value: 12.5,
        external_labels: &labels,
        external_url: "http://localhost/x",
        at: 1_500,
        source: &Nothing,
        limits: synod_promql::Limits::default(),
    };
    if let Ok(text) = template.expand(&context) {
        assert!(text.len() <= 256 << 10, "a template gave {} bytes", text.len());
    }
    true
}

/// The bytes as a file of rules. One that is read is evaluated.
pub fn rules(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(file) = synod_rules::RuleFile::parse(text) else { return false };
    for spec in file.groups {
        let mut group = synod_rules::Group::new(spec, "f", 1_000, 0, Default::default());
        group.eval(0, &Nothing);
        group.eval(1_000, &Nothing);
    }
    true
}

/// The bytes as a file of unit tests of rules.
pub fn rule_tests(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| synod_rules::unit::TestFile::parse(text).is_ok())
}
