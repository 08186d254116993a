//! Slow requests: each leaves a line in the log, a place among the recent events, and an
//! exemplar in its histogram, all three with the same id. Those that are quick enough pay
//! one comparison.

use crate::metrics::{CODE_NAMES, CallStat};
use bytes::Bytes;
use http::HeaderValue;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use synod_host::metrics::{Counter, Exemplar};
use tonic::Code;

/// The header by which a caller says of which trace its request is (W3C Trace Context).
pub(crate) const TRACE_HEADER: &str = "traceparent";
/// How many are kept to look at.
const KEPT: usize = 500;
/// So many a second are told of, at most; others are counted only.
const TOLD_A_SECOND: u32 = 10;
/// Bytes of a key that are shown, at most.
const KEY_BYTES: usize = 128;

/// What a request asked for, as far as it is known.
#[derive(Clone, Default, Debug)]
pub(crate) struct Asked {
    /// A key, the first of several; a name or a path where those are asked for.
    pub key: Bytes,
    /// The revision to read at; 0: the newest.
    pub revision: i64,
}

/// By what a slow request is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestId {
    /// `trace_id` if the caller gave one, else `request_id`.
    pub label: &'static str,
    pub id: String,
}

/// A request that was slow.
#[derive(Clone, Debug)]
pub(crate) struct SlowRequest {
    /// When it ended.
    pub at: SystemTime,
    pub took: Duration,
    pub id: RequestId,
    method: String,
    code: &'static str,
    key: String,
    revision: i64,
}

impl std::fmt::Display for SlowRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (label, seconds) = (self.id.label, self.took.as_secs_f64());
        write!(f, "slow request: {} took {seconds:.3} s ({})", self.method, self.code)?;
        if !self.key.is_empty() {
            write!(f, ", key \"{}\"", self.key)?;
        }
        if self.revision != 0 {
            write!(f, ", revision {}", self.revision)?;
        }
        write!(f, ", {label}={}", self.id.id)
    }
}

/// Which requests are slow, and those that were of late.
pub(crate) struct Slow {
    /// Microseconds from which on one is.
    bound_us: u64,
    pub total: Counter,
    kept: Mutex<Kept>,
}

struct Kept {
    recent: VecDeque<SlowRequest>,
    /// The second in which so many were told of, and how many were not since one was.
    second: Instant,
    told: u32,
    left_out: u64,
}

impl Kept {
    /// Whether one more may be told of now.
    fn may_tell(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.told) = (Instant::now(), 0);
        }
        if self.told == TOLD_A_SECOND {
            self.left_out += 1;
            return false;
        }
        self.told += 1;
        true
    }
}

impl Slow {
    /// Requests are slow from so many milliseconds on; 0: none is.
    pub fn from_ms(ms: u64) -> Slow {
        let bound_us = if ms == 0 { u64::MAX } else { ms.saturating_mul(1_000) };
        let second = Instant::now();
        let kept = Kept { recent: VecDeque::new(), second, told: 0, left_out: 0 };
        Slow { bound_us, total: Counter::default(), kept: Mutex::new(kept) }
    }

    /// Whether a request that took so long was slow.
    pub fn is_slow(&self, us: u64) -> bool {
        us >= self.bound_us
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Those of late, oldest first.
    pub fn recent(&self) -> Vec<SlowRequest> {
        self.kept().recent.iter().cloned().collect()
    }

    /// Tells of a request that was slow.
    pub fn tell(
        &self,
        stat: &CallStat,
        us: u64,
        code: Code,
        trace: Option<&HeaderValue>,
        asked: &Asked,
    ) {
        self.total.inc();
        let mut kept = self.kept();
        if !kept.may_tell() {
            return;
        }
        let left_out = std::mem::take(&mut kept.left_out);
        let key = &asked.key[..asked.key.len().min(KEY_BYTES)];
        let request = SlowRequest {
            at: SystemTime::now(),
            took: Duration::from_micros(us),
            id: request_id(trace),
            method: stat.path.clone(),
            code: CODE_NAMES[code as usize % CODE_NAMES.len()],
            key: key.escape_ascii().to_string(),
            revision: asked.revision,
        };
        if kept.recent.len() == KEPT {
            kept.recent.pop_front();
        }
        kept.recent.push_back(request.clone());
        drop(kept);
        let SlowRequest { at, id, method, code, key, revision, .. } = request;
        let of = |label: &str| (id.label == label).then_some(&*id.id);
        tracing::warn!(
            target: "synod::slow",
            trace_id = of("trace_id"),
            request_id = of("request_id"),
            method,
            code,
            seconds = us as f64 / 1e6,
            key = Some(&*key).filter(|key| !key.is_empty()),
            revision = Some(revision).filter(|revision| *revision != 0),
            left_out = Some(left_out).filter(|count| *count > 0),
            "slow request"
        );
        stat.seconds.exemplify(Exemplar { label: id.label, id: id.id, us, at });
    }
}

fn request_id(trace: Option<&HeaderValue>) -> RequestId {
    if let Some(id) = trace.and_then(|value| trace_id(value.as_bytes())) {
        return RequestId { label: "trace_id", id };
    }
    let mut bytes = [0; 8];
    // Without entropy the time has to do: the id is for people who look for a line.
    if getrandom::fill(&mut bytes).is_err() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        bytes = (now.as_nanos() as u64).to_be_bytes();
    }
    RequestId { label: "request_id", id: format!("{:016x}", u64::from_be_bytes(bytes)) }
}

/// The trace that a `traceparent` names: version, trace, caller's span and flags, in
/// hexadecimal digits with dashes between. Later versions may have more behind.
fn trace_id(value: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(value).ok()?.trim().split('-');
    let mut part = |length: usize| {
        let digits = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(|part| part.len() == length).filter(digits)
    };
    let (version, trace, span, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let more = parts.next().is_some();
    if version == "ff" || version == "00" && more || is_zero(trace) || is_zero(span) {
        return None;
    }
    Some(trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_trace_is_taken_if_it_is_one() {
        let trace = |text: &str| trace_id(text.as_bytes());
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(trace(&good).as_deref(), Some(TRACE));
        assert_eq!(trace(&good.replacen("00", "cc", 1)).as_deref(), Some(TRACE));
        assert_eq!(trace(&format!("cc{}-more", &good[2..])).as_deref(), Some(TRACE));
        for bad in [
            "",
            "00",
            &format!("{good}-more"),
            &good.replacen("00", "ff", 1),
            &good.to_uppercase(),
            &good.replace(TRACE, &TRACE[1..]),
            &good.replace(TRACE, &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", "0000000000000000"),
            &good.replace("-01", "-"),
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_flood_is_counted_and_not_told() {
        let slow = Slow::from_ms(1);
        assert!(
            slow.is_slow(1_000) && !slow.is_slow(999) && !Slow::from_ms(0).is_slow(u64::MAX - 1)
        );
        let stat = CallStat::new("/a.B/C", None);
        for _ in 0..50 {
            slow.tell(&stat, 5_000, Code::Ok, None, &Asked::default());
        }
        assert_eq!(slow.total.get(), 50);
        // A second may begin in between.
        assert!((10..=20).contains(&slow.recent().len()), "{}", slow.recent().len());
    }

    #[test]
    fn it_is_told_with_what_was_asked() {
        let slow = Slow::from_ms(1);
        let stat = CallStat::new("/etcdserverpb.KV/Range", None);
        let trace =
            HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let asked = Asked { key: Bytes::from_static(b"a\xff"), revision: 7 };
        slow.tell(&stat, 1_500_000, Code::OutOfRange, Some(&trace), &asked);
        slow.tell(&stat, 2_000_000, Code::Ok, None, &Asked::default());
        let told: Vec<String> = slow.recent().iter().map(ToString::to_string).collect();
        let first = "slow request: /etcdserverpb.KV/Range took 1.500 s (OutOfRange), key \"a\\xff\", \
                     revision 7, trace_id=4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(told[0], first);
        let id = told[1].rsplit_once("request_id=").expect("an id").1;
        assert_eq!(id.len(), 16);
    }
}
