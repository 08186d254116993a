//! Why a call has no result.

use std::fmt;
use tonic::{Code, Status};

/// Why a call has no result.
#[derive(Clone, Debug)]
pub enum Error {
    /// An endpoint is no URL.
    BadEndpoint(String),
    /// No endpoint answered; whether a write took effect is not known.
    Unavailable(String),
    /// The lock is not free: somebody else holds it, or it is closed by a lock-delay.
    Held(String),
    /// The session is over, and with it what it held.
    SessionOver,
    /// The session is no candidate in this election.
    NoCandidate(String),
    /// The sequencer is stale: its holder has lost the lock. Nothing was written.
    Stale(String),
    /// A file is not what the writer expected. Nothing was written.
    Changed(String),
    /// Another session is this instance of the service.
    Taken(String),
    /// Others' caches have not let go of a file in time. Nothing was written.
    Cached(String),
    /// The cluster refused for another reason.
    Refused(Status),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadEndpoint(e) => write!(f, "{e}"),
            Error::Unavailable(e) => write!(f, "no endpoint answers ({e}); is the cluster up?"),
            Error::Held(e)
            | Error::Stale(e)
            | Error::NoCandidate(e)
            | Error::Changed(e)
            | Error::Taken(e)
            | Error::Cached(e) => write!(f, "{e}"),
            Error::SessionOver => write!(f, "the session is over, and with it what it held"),
            Error::Refused(status) => write!(f, "{}", status.message()),
        }
    }
}

impl std::error::Error for Error {}

/// What the server's words begin with where Synod speaks for itself.
const OWN: &str = "synod: ";

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        let words = status.message();
        let words = words.strip_prefix(OWN).unwrap_or(words).to_owned();
        match status.code() {
            _ if is_unanswered(&status) => Error::Unavailable(words),
            Code::DeadlineExceeded if words.contains("nothing was written") => Error::Cached(words),
            Code::Aborted | Code::DeadlineExceeded => Error::Held(words),
            Code::FailedPrecondition if words.contains("sequencer is stale") => Error::Stale(words),
            Code::FailedPrecondition if words.contains("is no candidate") => {
                Error::NoCandidate(words)
            }
            Code::FailedPrecondition | Code::AlreadyExists
                if words.contains("is of generation") =>
            {
                Error::Changed(words)
            }
            Code::AlreadyExists if words.contains("cannot be registered") => Error::Taken(words),
            Code::NotFound if words.contains("there is no session") => Error::SessionOver,
            Code::NotFound if words.contains("there is no node") => Error::Changed(words),
            _ => Error::Refused(Status::new(status.code(), words)),
        }
    }
}

/// Why there was no answer: the first cause that is known, or the server's words.
pub(crate) fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause.and_then(|c| c.source()) {
        cause = Some(deeper);
    }
    let words = status.message();
    cause.map_or(words.strip_prefix(OWN).unwrap_or(words).to_owned(), ToString::to_string)
}

/// Whether no server decided this: none was reached, the connection broke, or the
/// cell had no leader in time.
pub(crate) fn is_unanswered(status: &Status) -> bool {
    // What the transport reports has a source; what a server says has none.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}
