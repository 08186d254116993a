//! gRPC on a bare HTTP/2 request, for the calls that are made most: one message
//! in, one message out, without the layers between.
//!
//! Wire: a message is one byte of flags (bit 0: compressed), four bytes of
//! length (big-endian), then protobuf; the status stands in the trailers.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use prost::Message;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::{Code, Status};

/// A message and then the trailers, or the trailers alone.
pub(crate) struct UnaryBody {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for UnaryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.trailers.is_none()
    }
}

/// Whether this module can answer the request: compressed ones go elsewhere.
pub(crate) fn is_plain<B>(request: &Request<B>) -> bool {
    request.headers().get("grpc-encoding").is_none_or(|e| e == "identity")
}

/// Whether a client asked to be refused rather than to wait for a leader.
pub(crate) fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|v| v == "true")
}

/// Runs one call.
pub(crate) async fn unary<I, O, F>(
    body: Incoming,
    bytes_max: usize,
    call: impl FnOnce(I) -> F,
) -> (Response<UnaryBody>, Code)
where
    I: Message + Default,
    O: Message,
    F: Future<Output = Result<O, Status>>,
{
    let result = match read_message(body, bytes_max).await {
        Ok(message) => call(message).await,
        Err(status) => Err(status),
    };
    match result {
        Ok(message) => (ok(&message), Code::Ok),
        Err(status) => (refused(&status), status.code()),
    }
}

async fn read_message<I: Message + Default>(body: Incoming, bytes_max: usize) -> Result<I, Status> {
    let bytes = read_body(body, bytes_max + 5).await?;
    if bytes.len() < 5 {
        return Err(Status::internal("a gRPC message has at least five bytes"));
    }
    if bytes[0] != 0 {
        return Err(Status::unimplemented("compressed messages need a grpc-encoding header"));
    }
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length != bytes.len() - 5 {
        return Err(Status::internal("the gRPC message's length is not that of the body"));
    }
    I::decode(bytes.slice(5..)).map_err(|e| Status::internal(format!("malformed protobuf: {e}")))
}

/// Collects a body, without a copy when it came in one piece.
async fn read_body(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Status> {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = next_frame(&mut body).await {
        let frame = frame.map_err(|e| Status::cancelled(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = all.len() + first.as_ref().map_or(0, Bytes::len);
        if so_far + data.len() > bytes_max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({} vs. {bytes_max})",
                so_far + data.len()
            )));
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(before) => {
                all.extend_from_slice(&before);
                all.extend_from_slice(&data);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

async fn next_frame(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

fn ok<O: Message>(message: &O) -> Response<UnaryBody> {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    // Only a full buffer can fail, and this one was sized for the message.
    let _ = message.encode(&mut bytes);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    response(UnaryBody { message: Some(bytes.freeze()), trailers: Some(trailers) }, None)
}

/// An answer that is a status alone.
pub(crate) fn refused(status: &Status) -> Response<UnaryBody> {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from_static("13"));
    }
    response(UnaryBody { message: None, trailers: None }, Some(headers))
}

fn response(body: UnaryBody, status: Option<HeaderMap>) -> Response<UnaryBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(status) = status {
        headers.extend(status);
    }
    response
}
