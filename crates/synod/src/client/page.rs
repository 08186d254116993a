//! Pages of a node, over plain HTTP.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The text of a page, if there is one; asked for no longer than two seconds.
pub(super) async fn page(url: &str, path: &str) -> Option<String> {
    let got = tokio::time::timeout(Duration::from_secs(2), get(url, path)).await;
    let (status, body) = got.ok()?.ok()?;
    (status == 200).then_some(body)
}

/// Status and text of a page.
pub(super) async fn get(url: &str, path: &str) -> std::io::Result<(u16, String)> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split_ascii_whitespace().nth(1).and_then(|s| s.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(std::io::Error::other(format!("{address} does not speak HTTP"))),
    }
}
