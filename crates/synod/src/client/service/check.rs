//! Checks of an instance's health.

use crate::Outcome;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How an instance's health is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Somebody accepts connections there.
    Tcp(String),
    /// A GET is answered with a status from 200 to 399.
    Http { authority: String, path: String },
    /// A command, run by `sh -c`, ends with 0.
    Command(String),
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Outcome<Check> {
        let bad = || {
            format!("{text:?} is no check: tcp:HOST:PORT, http://HOST:PORT/PATH or exec:COMMAND")
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
            Some(("https", _)) => Err("checks over https are not built: use exec:curl".into()),
            _ => Err(bad()),
        }
    }
}

impl Check {
    /// One check; the error says what is wrong.
    pub async fn run(&self, within: Duration) -> Outcome {
        match tokio::time::timeout(within, self.once()).await {
            Ok(done) => done,
            Err(_) => Err(format!("no result within {} ms", within.as_millis())),
        }
    }

    async fn once(&self) -> Outcome {
        match self {
            Check::Tcp(at) => {
                TcpStream::connect(at).await.map(drop).map_err(|e| format!("{at}: {e}"))
            }
            Check::Http { authority, path } => get(authority, path).await,
            Check::Command(command) => {
                let mut shell = tokio::process::Command::new("sh");
                shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
                let status = shell.kill_on_drop(true).status().await;
                match status {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(format!("{command}: {status}")),
                    Err(e) => Err(format!("sh: {e}")),
                }
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

    #[test]
    fn checks_are_read_or_refused() {
        let read = |text: &str| text.parse::<Check>();
        assert_eq!(read("tcp:localhost:80"), Ok(Check::Tcp("localhost:80".into())));
        let http = Check::Http { authority: "x:80".into(), path: "/".into() };
        assert_eq!(read("http://x"), Ok(http));
        let http = Check::Http { authority: "x:8080".into(), path: "/health?a=b".into() };
        assert_eq!(read("http://x:8080/health?a=b"), Ok(http));
        assert_eq!(read("exec:true"), Ok(Check::Command("true".into())));
        for bad in ["", "tcp:80", "exec:", "https://x", "ping:x"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
