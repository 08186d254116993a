//! Random requests from a seed, of all kinds that an etcd and Synod must answer
//! alike: few keys, so that they meet; now and then one that must be refused.

use synod_base::Rng;
use synod_etcd_proto::etcdserverpb as pb;

#[derive(Clone, Debug)]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases(pb::LeaseLeasesRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
    /// Its history is read, then it ends.
    Watch(pb::WatchCreateRequest),
    /// It is read at the end of all requests.
    StayingWatch(pb::WatchCreateRequest),
}

/// With the two odd ones of [`Requests::key`] at most six: etcd's sort leaves the
/// order of equals to chance where there are more.
const KEYS: u64 = 4;
const LEASES: u64 = 5;
/// Long enough that none ends by itself during a run.
const TTL: i64 = 5_000;
/// Operations that a transaction may have.
const OPS_MAX: usize = 128;
const DEPTH_MAX: u32 = 2;

pub struct Requests {
    rng: Rng,
    revision: i64,
    made: usize,
}

impl Requests {
    pub fn new(seed: u64) -> Requests {
        Requests { rng: Rng::new(seed), revision: 1, made: 0 }
    }

    /// The newest revision that an answer told of.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Takes the revision from an answer's text.
    pub fn learn(&mut self, answer: &str) {
        let header = answer.lines().find_map(|l| l.trim().strip_prefix("revision: "));
        let revision = header.and_then(|r| r.trim_end_matches(',').parse().ok());
        self.revision = self.revision.max(revision.unwrap_or(0));
    }

    pub fn next(&mut self) -> Request {
        self.made += 1;
        if self.made.is_multiple_of(60) {
            return Request::StayingWatch(self.watch());
        }
        match self.rng.below(100) {
            0..26 => Request::Put(self.put()),
            26..50 => Request::Range(self.range()),
            50..57 => Request::Delete(self.delete()),
            57..81 => {
                let mut txn = self.txn(0);
                spare_etcd(&mut txn);
                Request::Txn(txn)
            }
            81..83 => Request::Compact(self.compact()),
            83..88 => Request::Grant(self.grant()),
            88..91 => Request::Revoke(pb::LeaseRevokeRequest { id: self.lease() }),
            91..93 => Request::TimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.lease(),
                keys: self.rng.one_in(2),
            }),
            93..94 => Request::Leases(pb::LeaseLeasesRequest {}),
            94..96 => Request::KeepAlive(pb::LeaseKeepAliveRequest { id: self.lease() }),
            _ => Request::Watch(self.watch()),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        match self.rng.below(60) {
            0 => Vec::new(),
            1 => vec![0],
            2 => vec![0xff],
            _ => format!("k/{}", self.rng.below(KEYS)).into_bytes(),
        }
    }

    /// A key and the end of a range; mostly one key.
    fn span(&mut self) -> (Vec<u8>, Vec<u8>) {
        let key = self.key();
        match self.rng.below(12) {
            0..6 => (key, Vec::new()),
            6 => (key, vec![0]),
            7 => (vec![0], vec![0]),
            8 => (b"k/".to_vec(), b"k0".to_vec()),
            _ => {
                let end = self.key();
                // Turned round now and then.
                if key <= end || self.rng.one_in(6) { (key, end) } else { (end, key) }
            }
        }
    }

    fn lease(&mut self) -> i64 {
        1 + self.rng.below(LEASES) as i64
    }

    /// 0 mostly; else near the present, on both sides of it.
    fn at(&mut self) -> i64 {
        match self.rng.below(12) {
            0 => -1,
            1 => self.revision + self.rng.between(1, 3) as i64,
            2..6 => (self.revision - self.rng.below(30) as i64).max(0),
            _ => 0,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.rng.one_in(9);
        let ignore_lease = self.rng.one_in(9);
        let with_value = if ignore_value { self.rng.one_in(6) } else { !self.rng.one_in(12) };
        let with_lease = if ignore_lease { self.rng.one_in(6) } else { self.rng.one_in(4) };
        let value = if with_value { self.rng.below(5).to_string() } else { String::new() };
        pb::PutRequest {
            key: self.key().into(),
            value: value.into(),
            lease: if with_lease { self.lease() } else { 0 },
            prev_kv: self.rng.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.span();
        let bound = |r: &mut Requests| {
            if r.rng.one_in(10) { (r.revision - r.rng.below(20) as i64).max(0) } else { 0 }
        };
        let mut request = pb::RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
            ..Default::default()
        };
        request.limit = [0, 0, 0, 1, 2, 3, 100, -1][self.rng.below(8) as usize];
        request.revision = self.at();
        // Only valid ones: 3.5.1 takes others, later etcds (and Synod) refuse them.
        request.sort_order = self.rng.below(3) as i32;
        request.sort_target = self.rng.below(5) as i32;
        request.serializable = self.rng.one_in(3);
        request.keys_only = self.rng.one_in(6);
        request.count_only = self.rng.one_in(8);
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (mut key, mut range_end) = self.span();
        if self.rng.one_in(2) {
            (key, range_end) = (self.key(), Vec::new());
        }
        pb::DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: self.rng.one_in(2),
        }
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        let revision = match self.rng.below(5) {
            0 => self.revision + 5,
            1 => 1,
            // Not 0: etcd takes that once, before anything else was compacted.
            _ => (self.revision - self.rng.below(25) as i64).max(1),
        };
        pb::CompactionRequest { revision, physical: self.rng.one_in(2) }
    }

    fn grant(&mut self) -> pb::LeaseGrantRequest {
        let ttl = if self.rng.one_in(10) { 9_000_000_001 } else { TTL };
        pb::LeaseGrantRequest { ttl, id: self.lease() }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
        let list = |r: &mut Requests| {
            // One too many is refused, so seldom.
            let many = depth == 0 && r.rng.one_in(80);
            let len = if many { OPS_MAX + 1 } else { r.rng.below(4) as usize };
            (0..len).map(|_| r.op(depth)).collect()
        };
        let success = list(self);
        let failure = list(self);
        pb::TxnRequest { compare, success, failure }
    }

    fn compare(&mut self) -> pb::Compare {
        use pb::compare::TargetUnion;
        let near = (self.revision - self.rng.below(6) as i64).max(0);
        let target = self.rng.below(5) as i32;
        let operand = match target {
            0 => TargetUnion::Version(self.rng.below(3) as i64),
            1 => TargetUnion::CreateRevision(near),
            2 => TargetUnion::ModRevision(near),
            3 => TargetUnion::Value(self.rng.below(5).to_string().into()),
            _ => TargetUnion::Lease(self.rng.below(3) as i64),
        };
        let (key, range_end) = self.span();
        pb::Compare {
            result: self.rng.below(4) as i32,
            target,
            key: key.into(),
            range_end: range_end.into(),
            target_union: Some(operand),
        }
    }

    fn op(&mut self, depth: u32) -> pb::RequestOp {
        use pb::request_op::Request as Op;
        let request = match self.rng.below(16) {
            0..6 => Op::RequestPut(self.put()),
            6..12 => Op::RequestRange(self.range()),
            12..14 => Op::RequestDeleteRange(self.delete()),
            _ if depth < DEPTH_MAX => Op::RequestTxn(self.txn(depth + 1)),
            _ => Op::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn watch(&mut self) -> pb::WatchCreateRequest {
        let (key, range_end) = self.span();
        let start = match self.rng.below(10) {
            0 => 0,
            1 => self.revision + 2,
            _ => (self.revision - self.rng.below(40) as i64).max(1),
        };
        let filter = self.rng.below(6) as i32;
        pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: start,
            filters: (0..2).filter(|f| *f == filter).collect(),
            prev_kv: self.rng.one_in(2),
            ..Default::default()
        }
    }
}

/// etcd 3.5.1 dies of a transaction that deletes a key (in a range with an end of
/// `\0`, which its check for duplicates does not see) and then puts it, keeping a
/// value or lease that is gone. Such puts keep nothing.
fn spare_etcd(txn: &mut pb::TxnRequest) {
    use pb::request_op::Request as Op;
    let mut deletes = false;
    visit(txn, &mut |op| {
        deletes |= matches!(op, Op::RequestDeleteRange(r) if r.range_end[..] == [0]);
    });
    visit(txn, &mut |op| match op {
        Op::RequestPut(put) if deletes => (put.ignore_value, put.ignore_lease) = (false, false),
        _ => {}
    });
}

/// Every operation of a transaction and of those in it.
fn visit(txn: &mut pb::TxnRequest, f: &mut dyn FnMut(&mut pb::request_op::Request)) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match op.request.as_mut() {
            Some(pb::request_op::Request::RequestTxn(txn)) => visit(txn, f),
            Some(op) => f(op),
            None => {}
        }
    }
}
