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

/// Messages of a stream, read one after another.
pub(crate) struct MessageReader {
    body: Incoming,
    buffer: BytesMut,
    bytes_max: usize,
}

impl MessageReader {
    pub fn new(body: Incoming, bytes_max: usize) -> MessageReader {
        MessageReader { body, buffer: BytesMut::new(), bytes_max }
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(bytes) = self.split()? {
                let message = M::decode(bytes)
                    .map_err(|e| Status::internal(format!("malformed protobuf: {e}")))?;
                return Ok(Some(message));
            }
            match next_frame(&mut self.body).await {
                None => return Ok(None),
                Some(Err(e)) => return Err(Status::cancelled(e.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn split(&mut self) -> Result<Option<Bytes>, Status> {
        split_message(&mut self.buffer, self.bytes_max)
    }
}

/// Takes one whole message off the front.
fn split_message(b: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, Status> {
    if b.len() < 5 {
        return Ok(None);
    }
    let length = u32::from_be_bytes([b[1], b[2], b[3], b[4]]) as usize;
    if b[0] != 0 {
        return Err(Status::unimplemented("compressed messages are not read on this stream"));
    }
    if length > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {bytes_max})"
        )));
    }
    if b.len() < 5 + length {
        return Ok(None);
    }
    let _ = b.split_to(5);
    Ok(Some(b.split_to(length).freeze()))
}

/// All messages of a body that is there.
pub(crate) fn split_messages<M: Message + Default>(mut b: BytesMut) -> Result<Vec<M>, Status> {
    let mut all = Vec::new();
    while let Some(bytes) = split_message(&mut b, usize::MAX)? {
        let message =
            M::decode(bytes).map_err(|e| Status::internal(format!("malformed protobuf: {e}")))?;
        all.push(message);
    }
    Ok(all)
}

/// A stream of encoded messages; an error ends it with that status.
pub(crate) struct StreamBody {
    messages: Option<tokio::sync::mpsc::Receiver<Result<Bytes, Status>>>,
    trailers: Option<HeaderMap>,
    /// Whether each message has gRPC's five bytes before it.
    framed: bool,
}

/// Messages joined into one frame of HTTP/2.
const FRAME_BYTES: usize = 64 << 10;

impl StreamBody {
    /// The messages as they are, without frames and trailers (for JSON).
    pub fn plain(messages: tokio::sync::mpsc::Receiver<Result<Bytes, Status>>) -> StreamBody {
        StreamBody { messages: Some(messages), trailers: None, framed: false }
    }

    fn end(&mut self, status: &Status) {
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from_static("13"));
        }
        self.messages = None;
        self.trailers = self.framed.then_some(trailers);
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut out = BytesMut::new();
        while let Some(messages) = &mut self.messages {
            match messages.poll_recv(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    out.reserve(message.len() + 5);
                    if self.framed {
                        out.put_u8(0);
                        out.put_u32(message.len() as u32);
                    }
                    out.put_slice(&message);
                    if out.len() >= FRAME_BYTES {
                        break;
                    }
                }
                Poll::Ready(Some(Err(status))) => self.end(&status),
                Poll::Ready(None) => self.end(&Status::new(Code::Ok, "")),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }
}

/// A stream of answers that are made one after another, by whoever reads them: no
/// task, and no room beside what makes the next one.
pub(crate) struct AnswersBody(Option<Answers>);

/// What makes the next answer, encoded, and then the one after it; `None`: the end.
pub(crate) struct Answers(Pin<Box<dyn Future<Output = Option<NextAnswer>> + Send>>);

type NextAnswer = (Result<Bytes, Status>, Answers);

impl Answers {
    /// Those of a future that gives the first, and what makes the others.
    pub fn from(next: impl Future<Output = Option<NextAnswer>> + Send + 'static) -> Answers {
        Answers(Box::pin(next))
    }
}

impl Body for AnswersBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let status = match &mut self.0 {
            None => return Poll::Ready(None),
            Some(next) => match next.0.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some((Ok(message), then))) => {
                    self.0 = Some(then);
                    let mut out = BytesMut::with_capacity(message.len() + 5);
                    out.put_u8(0);
                    out.put_u32(message.len() as u32);
                    out.put_slice(&message);
                    return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
                }
                Poll::Ready(Some((Err(status), _))) => status,
                Poll::Ready(None) => Status::new(Code::Ok, ""),
            },
        };
        self.0 = None;
        let mut trailers = HeaderMap::with_capacity(2);
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from_static("13"));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl AnswersBody {
    /// A body of these answers.
    pub fn new(answers: Answers) -> AnswersBody {
        AnswersBody(Some(answers))
    }
}

/// A response that streams what comes through the channel.
pub(crate) fn streaming(
    messages: tokio::sync::mpsc::Receiver<Result<Bytes, Status>>,
) -> Response<StreamBody> {
    let mut response =
        Response::new(StreamBody { messages: Some(messages), trailers: None, framed: true });
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
