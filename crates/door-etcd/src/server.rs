//! Connections: HTTP/1 and HTTP/2 on one port, and who answers which path.

use crate::door::Door;
use crate::error;
use crate::grpc::{self, UnaryBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

type OtherBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Answer = Response<Either<UnaryBody, OtherBody>>;

/// A door that is open; closing it ends its listeners.
pub struct Serving {
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Accepts no more connections.
    pub fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Serves the door on these addresses, on the present runtime.
pub async fn serve(door: Door, addresses: &[SocketAddr]) -> std::io::Result<Serving> {
    let mut tasks = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            std::io::Error::new(e.kind(), format!("cannot listen for clients on {address}: {e}"))
        })?;
        tasks.push(tokio::spawn(accept(listener, door.clone())));
    }
    Ok(Serving { tasks })
}

async fn accept(listener: TcpListener, door: Door) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("accepting a client: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let door = door.clone();
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http2()
                .max_concurrent_streams(door.config().streams_max)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(16 << 20);
            let service = service_fn(move |request| answer(door.clone(), request));
            let served = builder.serve_connection(TokioIo::new(stream), service).await;
            if let Err(e) = served {
                tracing::debug!("a client's connection ended: {e}");
            }
        });
    }
}

async fn answer(door: Door, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let hot = request.uri().path().strip_prefix("/etcdserverpb.KV/");
    if let Some(call) = hot.and_then(Hot::of)
        && grpc::is_plain(&request)
    {
        let (response, _code) = answer_hot(&door, call, request).await;
        return Ok(response.map(Either::Left));
    }
    Ok(door.answer_other(request).await.map(Either::Right))
}

#[derive(Clone, Copy)]
enum Hot {
    Range,
    Put,
    Delete,
    Txn,
}

impl Hot {
    fn of(method: &str) -> Option<Hot> {
        match method {
            "Range" => Some(Hot::Range),
            "Put" => Some(Hot::Put),
            "DeleteRange" => Some(Hot::Delete),
            "Txn" => Some(Hot::Txn),
            _ => None,
        }
    }
}

async fn answer_hot(
    door: &Door,
    call: Hot,
    request: Request<Incoming>,
) -> (Response<UnaryBody>, Code) {
    if grpc::wants_leader(request.headers()) && door.handle().leader().is_none() {
        let status = error::no_leader();
        return (grpc::refused(&status), status.code());
    }
    // etcd's own margin over the largest request: what else is in a message.
    let most = door.config().request_bytes_max + (512 << 10);
    let body = request.into_body();
    match call {
        Hot::Range => grpc::unary(body, most, |m| door.range(m)).await,
        Hot::Put => grpc::unary(body, most, |m| door.put(m)).await,
        Hot::Delete => grpc::unary(body, most, |m| door.delete_range(m)).await,
        Hot::Txn => grpc::unary(body, most, |m| door.txn(m)).await,
    }
}

impl Door {
    async fn answer_other(&self, _request: Request<Incoming>) -> Response<OtherBody> {
        let status = Status::unimplemented("not here yet");
        let body = http_body_util::Empty::new().map_err(|e| match e {});
        let mut response = Response::new(body.boxed_unsync());
        let _ = status.add_header(response.headers_mut());
        response
            .headers_mut()
            .insert("content-type", http::HeaderValue::from_static("application/grpc"));
        response
    }
}
