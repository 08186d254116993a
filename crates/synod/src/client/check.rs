//! Checks of the health of a service's instance or a candidate.

use super::reports::Reports;
use super::shell::{self, LeftBehind};
use crate::Outcome;
use clap::Args;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use synod_coord::Health;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How an instance's health is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Somebody accepts connections there.
    Tcp(String),
    /// A GET is answered with a status from 200 to 399.
    Http { authority: String, path: String },
    /// A command, run by `sh -c`, ends with 0.
    Command(String),
    /// It reports itself, at least so often.
    Ttl(Duration),
}

/// How checks are done, and what they must come to.
#[derive(Args, Clone)]
pub(crate) struct CheckFlags {
    /// How to check its health: tcp:HOST:PORT, http://HOST:PORT/PATH or exec:COMMAND (and,
    /// of a service's instance, ttl:SECONDS: it reports itself); repeated, all must pass;
    /// without any it is healthy as long as this process runs
    #[arg(long, value_name = "CHECK")]
    pub check: Vec<Check>,
    /// Time between checks (half of it while one fails that has passed), and for one check (less then)
    #[arg(long, default_value_t = 500, value_name = "MS")]
    every: u64,
    /// Checks in a row that must pass before it is healthy
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    rise: u32,
    /// Checks in a row that must fail before it is not
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    fall: u32,
}

impl CheckFlags {
    /// Nothing is known yet.
    pub fn health(&self) -> Health {
        Health::new(self.rise, self.fall)
    }

    /// The time to live of reports, if it is checked: the shortest.
    pub fn ttl(&self) -> Option<Duration> {
        let ttl = |c: &Check| if let Check::Ttl(ttl) = c { Some(*ttl) } else { None };
        self.check.iter().filter_map(ttl).min()
    }

    /// Runs all checks again and again, twice as often while one fails that has passed
    /// before: the failure's words, or none. `reports`: what a check of kind `ttl` goes by.
    pub fn run(&self, reports: Option<Reports>) -> mpsc::Receiver<Outcome> {
        let (tx, rx) = mpsc::channel(1);
        let (checks, every) = (self.check.clone(), Duration::from_millis(self.every.max(10)));
        let mut pace = Pace { every, usual: Duration::ZERO, health: self.health() };
        tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                let result = round(&checks, pace.time(), reports.as_ref()).await;
                for _ in 0..pace.counts(result.is_ok(), begun.elapsed()) {
                    if tx.send(result.clone()).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep_until(begun + pace.pause()).await;
            }
        });
        rx
    }
}

/// The least time that a check has while one before it has failed, if it has so much
/// otherwise: a machine may be busy.
const TIME_IN_DOUBT: Duration = Duration::from_millis(250);

/// When checks are made, and how much time they have.
struct Pace {
    /// Between two, and for one, unless there is doubt.
    every: Duration,
    /// How long the last one took that passed.
    usual: Duration,
    health: Health,
}

impl Pace {
    /// How much time the next check has: less while one fails that has passed, but enough
    /// for one that is as slow as it was when it passed.
    fn time(&self) -> Duration {
        if !self.health.is_in_doubt() {
            return self.every;
        }
        (self.every / 2).max(TIME_IN_DOUBT).max(2 * self.usual).min(self.every)
    }

    /// A check ended after so long. How many results it stands for: one that hung, as many
    /// as there would have been meanwhile of such that fail at once.
    fn counts(&mut self, passed: bool, took: Duration) -> u32 {
        let count = if !passed && took >= self.every { 2 } else { 1 };
        for _ in 0..count {
            self.health.checked(passed);
        }
        if passed {
            self.usual = took;
        }
        count
    }

    /// From the begin of a check to that of the next.
    fn pause(&self) -> Duration {
        if self.health.is_in_doubt() { self.every / 2 } else { self.every }
    }
}

/// All checks, up to the first that fails.
async fn round(checks: &[Check], within: Duration, reports: Option<&Reports>) -> Outcome {
    for check in checks {
        check.run(within, reports).await?;
    }
    Ok(())
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Outcome<Check> {
        let bad = || {
            format!(
                "{text:?} is no check: tcp:HOST:PORT, http://HOST:PORT/PATH, exec:COMMAND or ttl:SECONDS"
            )
        };
        if let Some(rest) = text.strip_prefix("http://") {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let port = if authority.contains(':') { "" } else { ":80" };
            let authority = format!("{authority}{port}");
            return Ok(Check::Http { authority, path: format!("/{path}") });
        }
        match text.split_once(':') {
            Some(("tcp", at)) if at.contains(':') => Ok(Check::Tcp(at.into())),
            Some(("exec", command)) if !command.is_empty() => Ok(Check::Command(command.into())),
            Some(("ttl", seconds)) => match seconds.parse::<f64>() {
                Ok(s) if (0.01..=86_400.0).contains(&s) => {
                    Ok(Check::Ttl(Duration::from_secs_f64(s)))
                }
                _ => Err(bad()),
            },
            Some(("https", _)) => Err("checks over https are not built: use exec:curl".into()),
            _ => Err(bad()),
        }
    }
}

impl Check {
    /// One check; the error says what is wrong.
    async fn run(&self, within: Duration, reports: Option<&Reports>) -> Outcome {
        match tokio::time::timeout(within, self.once(reports)).await {
            Ok(done) => done,
            Err(_) => Err(format!("no result within {} ms", within.as_millis())),
        }
    }

    async fn once(&self, reports: Option<&Reports>) -> Outcome {
        match self {
            Check::Ttl(ttl) => match reports {
                Some(reports) => reports.judge(*ttl),
                None => Err("nobody can report here".into()),
            },
            Check::Tcp(at) => {
                TcpStream::connect(at).await.map(drop).map_err(|e| format!("{at}: {e}"))
            }
            Check::Http { authority, path } => get(authority, path).await,
            Check::Command(command) => {
                shell::run(command, &[], Stdio::null(), LeftBehind::Ends).await
            }
        }
    }
}

async fn get(authority: &str, path: &str) -> Outcome {
    let words = |e: &dyn std::fmt::Display| format!("http://{authority}{path}: {e}");
    let stream = TcpStream::connect(authority).await.map_err(|e| words(&e))?;
    let io = TokioIo::new(stream);
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| words(&e))?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", authority)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| words(&e))?;
    let answer = send.send_request(request).await.map_err(|e| words(&e));
    connection.abort();
    let status = answer?.status();
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(words(&status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A healthy one's, of three failures.
    fn pace(every: u64, usual: u64) -> Pace {
        let mut health = Health::new(1, 3);
        assert_eq!(health.checked(true), Some(true));
        let ms = Duration::from_millis;
        Pace { every: ms(every), usual: ms(usual), health }
    }

    /// From the begin of the first check that fails; each of them takes so long, or as
    /// long as it may.
    fn believed_after(mut pace: Pace, takes: Duration) -> Duration {
        let mut begun = Duration::ZERO;
        loop {
            let took = takes.min(pace.time());
            pace.counts(false, took);
            if pace.health.healthy() == Some(false) {
                return begun + took;
            }
            begun += took.max(pace.pause());
        }
    }

    #[test]
    fn a_check_that_hangs_is_believed_in_time() {
        let ms = Duration::from_millis;
        assert_eq!(believed_after(pace(500, 10), Duration::ZERO), ms(500));
        assert_eq!(believed_after(pace(500, 10), Duration::MAX), ms(750));
        assert_eq!(believed_after(pace(4_000, 10), Duration::MAX), ms(6_000));
    }

    #[test]
    fn a_slow_check_has_its_time_in_doubt_too() {
        let in_doubt = |every, usual| {
            let mut pace = pace(every, usual);
            assert_eq!(pace.time(), pace.every);
            assert_eq!(pace.counts(false, Duration::ZERO), 1);
            pace.time().as_millis()
        };
        assert_eq!(in_doubt(500, 10), 250);
        assert_eq!(in_doubt(500, 200), 400);
        assert_eq!(in_doubt(500, 400), 500);
        assert_eq!(in_doubt(100, 10), 100);
        assert_eq!(in_doubt(4_000, 10), 2_000);
    }

    #[test]
    fn checks_are_read_or_refused() {
        let read = |text: &str| text.parse::<Check>();
        assert_eq!(read("tcp:localhost:80"), Ok(Check::Tcp("localhost:80".into())));
        let http = Check::Http { authority: "x:80".into(), path: "/".into() };
        assert_eq!(read("http://x"), Ok(http));
        let http = Check::Http { authority: "x:8080".into(), path: "/health?a=b".into() };
        assert_eq!(read("http://x:8080/health?a=b"), Ok(http));
        assert_eq!(read("exec:true"), Ok(Check::Command("true".into())));
        assert_eq!(read("ttl:0.5"), Ok(Check::Ttl(Duration::from_millis(500))));
        for bad in ["", "tcp:80", "exec:", "https://x", "ping:x", "ttl:", "ttl:0", "ttl:-1"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
