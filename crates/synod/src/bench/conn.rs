//! gRPC on a bare HTTP/2 connection: a load tool must cost less than what it
//! measures.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::time::Duration;
use tokio::net::TcpStream;

/// One connection to an endpoint; clones share it.
#[derive(Clone)]
pub struct Conn {
    send: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Conn {
    /// Connects to `HOST:PORT`, with or without `http://`.
    pub async fn open(endpoint: &str) -> Result<Conn, String> {
        let authority = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let connected =
            tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(&authority));
        let stream = connected
            .await
            .map_err(|_| format!("{authority} does not answer"))?
            .map_err(|e| format!("cannot reach {authority}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("{authority} does not speak HTTP/2: {e}"))?;
        tokio::spawn(connection);
        Ok(Conn { send, authority })
    }

    /// Whether it broke.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    fn request(&self, path: &str, message: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|e| e.to_string())?;
        Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message))
            .map_err(|e| e.to_string())
    }

    /// One message out, one message in.
    pub async fn unary<O: Message + Default>(
        &self,
        path: &str,
        message: Bytes,
    ) -> Result<O, String> {
        let request = self.request(path, message)?;
        let response = self.send.clone().send_request(request).await.map_err(|e| e.to_string())?;
        check(response.headers())?;
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        if let Some(trailers) = body.trailers() {
            check(trailers)?;
        }
        let bytes = body.to_bytes();
        if bytes.len() < 5 {
            return Err("an answer without a message".into());
        }
        O::decode(bytes.slice(5..)).map_err(|e| e.to_string())
    }
}

fn check(headers: &http::HeaderMap) -> Result<(), String> {
    match tonic::Status::from_header_map(headers).filter(|s| s.code() != tonic::Code::Ok) {
        None => Ok(()),
        Some(status) => Err(format!("status {}: {}", status.code() as i32, status.message())),
    }
}

/// A message as it stands on the wire.
pub fn frame<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(0);
    out.put_u32(length as u32);
    // Only a full buffer can fail, and this one was sized for the message.
    let _ = message.encode(&mut out);
    out.freeze()
}
