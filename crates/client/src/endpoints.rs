//! The members that a client knows, and which of them it talks to.

use crate::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A connection whose other end does not answer for as long is given up.
const PING_EVERY: Duration = Duration::from_secs(2);
const PONG_WITHIN: Duration = Duration::from_secs(2);

/// One channel an endpoint; one of them is in use until it fails.
pub(crate) struct Endpoints {
    channels: Vec<Channel>,
    /// As they were given.
    names: Vec<String>,
    current: AtomicUsize,
}

impl Endpoints {
    /// Connects to nobody yet. A bare `host:port` means `http://host:port`.
    pub fn new<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>) -> Result<Endpoints, Error> {
        let names: Vec<String> =
            endpoints.into_iter().map(|text| text.as_ref().trim().to_owned()).collect();
        let channel = |text: &String| {
            let url = if text.contains("://") { text.clone() } else { format!("http://{text}") };
            let bad = |e| Error::BadEndpoint(format!("endpoint {text:?}: {e}"));
            let endpoint = Endpoint::from_shared(url).map_err(bad)?;
            let endpoint = endpoint
                .connect_timeout(CONNECT_WITHIN)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PONG_WITHIN)
                .tcp_nodelay(true);
            Ok(endpoint.connect_lazy())
        };
        let channels = names.iter().map(channel).collect::<Result<Vec<_>, Error>>()?;
        if channels.is_empty() {
            return Err(Error::BadEndpoint("no endpoint is given".into()));
        }
        Ok(Endpoints { channels, names, current: AtomicUsize::new(0) })
    }

    /// The endpoint of this number, as it was given.
    pub fn name(&self, number: usize) -> &str {
        &self.names[number]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.channels.len()
    }

    /// The one in use, and its number for [`Endpoints::failed`].
    pub fn current(&self) -> (usize, Channel) {
        let number = self.current.load(Ordering::Relaxed);
        (number, self.channels[number].clone())
    }

    /// The one that is used when this fails.
    pub fn after(&self, number: usize) -> (usize, Channel) {
        let next = (number + 1) % self.channels.len();
        (next, self.channels[next].clone())
    }

    /// That one did not answer: the next is used from now on, unless another call
    /// has found that out already.
    pub fn failed(&self, number: usize) {
        let next = (number + 1) % self.channels.len();
        let _ = self.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}
