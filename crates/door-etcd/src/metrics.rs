//! Counts of calls, by method and code, whichever way they run. Every call that
//! begins ends once.

use crate::gateway::POOL;
use crate::server::HOT_PATHS;
use crate::slow::{Asked, Slow, TRACE_HEADER};
use crate::traffic::Traffic;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use synod_host::metrics::{Counter, Histogram};
use tonic::{Code, Status};

/// Prometheus's customary buckets for request times, microseconds.
const CALL_BOUNDS_US: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
const CODES: usize = 17;
/// Names of gRPC's codes, as etcd's server labels them.
pub(crate) const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Calls that wait for others by design: however long they take, they are not slow.
const WAITING: [&str; 5] = [
    "/v3lockpb.Lock/Lock",
    "/v3electionpb.Election/Campaign",
    "/synod.v1.Lock/Acquire",
    "/synod.v1.Election/Campaign",
    "/synod.v1.Service/Failover",
];

/// Counts of one method.
pub(crate) struct CallStat {
    /// `/SERVICE/METHOD`
    pub path: String,
    pub started: Counter,
    pub handled: [Counter; CODES],
    pub seconds: Histogram,
    /// Judges whether calls are slow; `None`: they last as long as their client wants.
    slow: Option<Arc<Slow>>,
}

impl CallStat {
    pub fn new(path: &str, slow: Option<Arc<Slow>>) -> CallStat {
        CallStat {
            path: path.to_owned(),
            started: Counter::default(),
            handled: Default::default(),
            seconds: Histogram::with_bounds(&CALL_BOUNDS_US).with_exemplars(),
            slow,
        }
    }
}

/// A gRPC method and its counts.
pub(crate) struct Method {
    /// Its labels: name, service and kind, as etcd's server has them.
    pub labels: String,
    pub stat: Arc<CallStat>,
}

/// Counts of all methods that there are; others, which a client may make up,
/// are not counted.
pub(crate) struct CallMetrics {
    hot: [Arc<CallStat>; HOT_PATHS.len()],
    /// By path.
    pub all: BTreeMap<String, Method>,
    /// Calls that took long.
    pub slow: Arc<Slow>,
    /// Bytes on clients' connections.
    pub traffic: Arc<Traffic>,
}

impl CallMetrics {
    /// None yet. Calls are slow from so many milliseconds on; 0: none is.
    pub fn new(slow_ms: u64) -> CallMetrics {
        let (mut all, slow) = (BTreeMap::new(), Arc::new(Slow::from_ms(slow_ms)));
        for method in POOL.services().flat_map(|s| s.methods().collect::<Vec<_>>()) {
            let (service, name) = (method.parent_service().full_name(), method.name());
            let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                (true, true) => "bidi_stream",
                (true, false) => "client_stream",
                (false, true) => "server_stream",
                (false, false) => "unary",
            };
            let labels =
                format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let path = format!("/{service}/{name}");
            let judged = kind == "unary" && !WAITING.contains(&&*path);
            let stat = Arc::new(CallStat::new(&path, judged.then(|| slow.clone())));
            all.insert(path, Method { labels, stat });
        }
        debug_assert!(WAITING.iter().all(|path| all.contains_key(*path)));
        let none = |path| Arc::new(CallStat::new(path, None));
        let hot = HOT_PATHS.map(|p| all.get(p).map_or_else(|| none(p), |m| m.stat.clone()));
        CallMetrics { hot, all, slow, traffic: Arc::default() }
    }
}

/// A call that has begun. Dropped before it ended, the client went away.
pub(crate) struct Started {
    stat: Option<Arc<CallStat>>,
    at: Instant,
    /// What is told of it if it is slow; in a box, since streams keep this for long.
    about: Option<Box<About>>,
}

#[derive(Default)]
struct About {
    trace: Option<HeaderValue>,
    asked: Asked,
}

impl CallMetrics {
    /// One of [`HOT_PATHS`].
    pub fn start_hot(&self, number: usize) -> Started {
        Started::new(self.hot[number].clone())
    }

    /// Any.
    pub fn start(&self, path: &str) -> Started {
        match self.all.get(path) {
            Some(method) => Started::new(method.stat.clone()),
            None => Started { stat: None, at: Instant::now(), about: None },
        }
    }
}

impl Started {
    fn new(stat: Arc<CallStat>) -> Started {
        stat.started.inc();
        Started { stat: Some(stat), at: Instant::now(), about: None }
    }

    /// The same, of the trace that the headers name, if they do.
    pub fn traced(mut self, headers: &HeaderMap) -> Started {
        if let Some(trace) = headers.get(TRACE_HEADER) {
            self.about.get_or_insert_default().trace = Some(trace.clone());
        }
        self
    }

    /// The same, and what it asks for.
    pub fn asking(mut self, asked: Asked) -> Started {
        self.about.get_or_insert_default().asked = asked;
        self
    }

    /// It ended so.
    pub fn handled(mut self, code: Code) {
        self.end(code, None);
    }

    /// It ended so, and asked for this.
    pub fn handled_asked(mut self, code: Code, asked: &Asked) {
        self.end(code, Some(asked));
    }

    fn end(&mut self, code: Code, asked: Option<&Asked>) {
        let Some(stat) = self.stat.take() else { return };
        stat.handled[code as usize % CODES].inc();
        let us = self.at.elapsed().as_micros() as u64;
        stat.seconds.observe_us(us);
        if let Some(slow) = stat.slow.as_ref().filter(|slow| slow.is_slow(us)) {
            let about = self.about.take().unwrap_or_default();
            slow.tell(&stat, us, code, about.trace.as_ref(), asked.unwrap_or(&about.asked));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end(Code::Cancelled, None);
    }
}

/// A body that tells how its call ended.
pub(crate) struct Counted<B> {
    body: B,
    started: Option<Started>,
}

impl<B> Counted<B> {
    pub fn new(body: B, started: Started) -> Counted<B> {
        Counted { body, started: Some(started) }
    }

    fn end(&mut self, code: Code) {
        if let Some(started) = self.started.take() {
            started.handled(code);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(f)) => {
                if let Some(trailers) = f.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.end(status.map_or(Code::Ok, |s| s.code()));
                }
            }
            Some(Err(_)) => self.end(Code::Unknown),
            None => self.end(Code::Ok),
        }
        Poll::Ready(frame)
    }
}
