//! Parameters of requests: of the address and of a form alike.

use bytes::Bytes;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Whether somebody still waits for the answer to a request.
#[derive(Clone, Default)]
pub(crate) struct Asker(Arc<AtomicBool>);

impl Asker {
    /// It leaves when this is dropped.
    pub fn stays(&self) -> Stay {
        Stay(self.clone())
    }

    pub fn has_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Asker::stays`].
pub(crate) struct Stay(Asker);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// How long a request waited for its turn.
#[derive(Clone, Copy, Default)]
pub(crate) struct Queued(pub Duration);

/// Names and values, in their order; whose they are; and how long those waited.
pub(crate) struct Form(Vec<(String, String)>, Asker, Queued);

impl Form {
    /// Those of the address, and of the body if that is a form.
    pub fn of(request: &Request<Bytes>, body: &[u8]) -> Form {
        let form = Form::new(request.uri().query().unwrap_or_default(), body);
        let queued = request.extensions().get().copied().unwrap_or_default();
        Form(form.0, request.extensions().get().cloned().unwrap_or_default(), queued)
    }

    /// Who waits for the answer.
    pub fn asker(&self) -> &Asker {
        &self.1
    }

    /// How long the request waited for its turn.
    pub fn queued(&self) -> Duration {
        self.2.0
    }

    pub fn new(query: &str, body: &[u8]) -> Form {
        let owned = |(n, v): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            (n.into_owned(), v.into_owned())
        };
        let address = form_urlencoded::parse(query.as_bytes()).map(owned);
        let all = form_urlencoded::parse(body).map(owned).chain(address).collect();
        Form(all, Asker::default(), Queued::default())
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| &**v)
    }

    /// All of it as a query of an address, with these parameters set.
    pub fn encoded_with(&self, set: &[(&str, &str)]) -> String {
        let rest = self.0.iter().filter(|(n, _)| set.iter().all(|(name, _)| n != name));
        let rest = rest.map(|(n, v)| (&**n, &**v));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(rest.chain(set.iter().copied())).finish()
    }

    /// A time: seconds since the epoch, or RFC 3339; ms.
    pub fn time(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(text) = self.get(name).filter(|t| !t.is_empty()) else { return Ok(None) };
        let bad =
            || format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp");
        let ms = match text.parse::<f64>() {
            Ok(seconds) => seconds * 1_000.0,
            Err(_) => {
                let time = rfc3339(text).ok_or_else(bad)?;
                match time.duration_since(SystemTime::UNIX_EPOCH) {
                    Ok(since) => since.as_millis() as f64,
                    Err(before) => -(before.duration().as_millis() as f64),
                }
            }
        };
        if ms.is_finite() && ms.abs() < i64::MAX as f64 / 4.0 {
            Ok(Some(ms.round() as i64))
        } else {
            Err(bad())
        }
    }

    /// The times that are asked for: `start` and `end`, or all there are.
    pub fn span(&self) -> Result<(i64, i64), String> {
        let (start, end) = (self.time("start")?, self.time("end")?);
        Ok((start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX)))
    }

    /// A length: seconds, or as PromQL writes it; ms.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(text) = self.get(name).filter(|t| !t.is_empty()) else { return Ok(None) };
        let ms = match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds.abs() < 1e13 => {
                Some((seconds * 1_000.0) as i64)
            }
            Ok(_) => None,
            Err(_) => synod_promql::duration(text),
        };
        let bad =
            || format!("invalid parameter {name:?}: cannot parse {text:?} to a valid duration");
        ms.map(Some).ok_or_else(bad)
    }

    /// A count; 0 is no limit.
    pub fn limit(&self) -> Result<usize, String> {
        let Some(text) = self.get("limit").filter(|t| !t.is_empty()) else { return Ok(usize::MAX) };
        let limit = text.parse().map_err(|_| {
            format!("invalid parameter \"limit\": cannot parse {text:?} to a positive number")
        })?;
        Ok(if limit == 0 { usize::MAX } else { limit })
    }
}

/// With an offset too, which the library refuses.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let at = text.len().checked_sub(6)?;
    let offset = text.get(at..).filter(|o| o.starts_with(['+', '-']) && o.as_bytes()[3] == b':');
    let Some(offset) = offset else { return humantime::parse_rfc3339(text).ok() };
    let time = humantime::parse_rfc3339(&format!("{}Z", &text[..at])).ok()?;
    let (hours, minutes): (u64, u64) = (offset[1..3].parse().ok()?, offset[4..].parse().ok()?);
    let ahead = std::time::Duration::from_secs(hours * 3_600 + minutes * 60);
    if offset.starts_with('+') { time.checked_sub(ahead) } else { time.checked_add(ahead) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_lengths() {
        let form = Form::new(
            "a=1.5&b=1970-01-01T00:00:02Z&c=1970-01-01T01%3A00%3A00%2B01:00&d=x&e=1m30s&limit=3",
            b"a=2.5",
        );
        assert_eq!(form.time("a"), Ok(Some(2_500)));
        assert_eq!(form.time("b"), Ok(Some(2_000)));
        assert_eq!(form.time("c"), Ok(Some(0)));
        assert!(form.time("d").is_err());
        assert_eq!(form.time("none"), Ok(None));
        assert_eq!(form.duration("e"), Ok(Some(90_000)));
        assert_eq!(form.duration("a"), Ok(Some(2_500)));
        assert_eq!(form.limit(), Ok(3));
    }
}
