//! Connections: HTTP/1 and HTTP/2 on one port, and who answers which path.

use crate::coord::{check_fence, fence_of};
use crate::cors;
use crate::door::Door;
use crate::grpc::{self, AnswersBody, MessageReader, StreamBody, UnaryBody};
use crate::metrics::{Counted, Started};
use crate::slow::Asked;
use crate::traffic::Metered;
use crate::watch::stream::WatchStream;
use crate::{error, gateway, pages, services};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use synod_etcd_proto::etcdserverpb as pb;
use synod_host::page::Format;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower_service::Service;

pub(crate) type OtherBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Answer = Response<Either<UnaryBody, OtherBody>>;

/// Requests of one watch stream that wait for its task.
const WATCH_REQUESTS: usize = 16;
/// Answers that wait for the connection.
const WATCH_ANSWERS: usize = 64;
/// Largest request of a stream of renewals.
const RENEWAL_BYTES: usize = 1 << 10;
/// Bytes of a request to one of [`MorePages`].
const MORE_BYTES_MAX: usize = 40 << 20;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);

/// A door that is open; closing it ends its listeners.
pub struct Serving {
    tasks: Vec<JoinHandle<()>>,
    /// What it listens on (with the real ports where 0 was asked for).
    pub addresses: Vec<SocketAddr>,
}

impl Serving {
    /// Accepts no more connections.
    pub fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Pages of another door on the same ports.
pub trait MorePages: Send + Sync + 'static {
    /// Whether this path is one of them.
    fn is_mine(&self, path: &str) -> bool;

    /// Further families for the metrics page, in its format.
    fn metrics(&self, format: Format) -> String;

    /// Answers a request to one of them.
    fn answer(&self, request: Request<Bytes>) -> PageAnswer;
}

/// See [`MorePages::answer`].
pub type PageAnswer = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

/// Serves the door on these addresses, on the present runtime.
pub async fn serve(
    door: Door,
    addresses: &[SocketAddr],
    more: Option<Arc<dyn MorePages>>,
) -> std::io::Result<Serving> {
    let site = Site { routes: services::routes(&door), door, more };
    let mut serving = Serving { tasks: Vec::new(), addresses: Vec::new() };
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let why = format!("cannot listen for clients on {address}: {e}; is it in use?");
            std::io::Error::new(e.kind(), why)
        })?;
        serving.addresses.push(listener.local_addr()?);
        serving.tasks.push(tokio::spawn(accept(listener, site.clone())));
    }
    Ok(serving)
}

async fn accept(listener: TcpListener, site: Site) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accepting a client failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let site = site.clone();
        let traffic = site.door.call_metrics().traffic.clone();
        let metered = Metered { stream, traffic };
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEPALIVE_EVERY)
                .keep_alive_timeout(KEEPALIVE_WITHIN)
                .max_concurrent_streams(site.door.config().streams_max)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(16 << 20);
            // In a box, which goes when the answer begins: a stream that lasts would keep
            // room for the largest of all calls otherwise.
            let service = service_fn(move |request| Box::pin(site.clone().answer(request)));
            let served = builder.serve_connection(TokioIo::new(metered), service).await;
            if let Err(e) = served {
                tracing::debug!(error = %e, "a client's connection ended");
            }
        });
    }
}

/// The door with its services, as a connection uses them.
#[derive(Clone)]
pub(crate) struct Site {
    pub door: Door,
    pub routes: Routes,
    more: Option<Arc<dyn MorePages>>,
}

impl Site {
    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let hot = request.uri().path().strip_prefix("/etcdserverpb.KV/");
        if let Some(call) = hot.and_then(Hot::of)
            && grpc::is_plain(&request)
        {
            let started = self.door.call_metrics().start_hot(call as usize);
            let started = started.traced(request.headers());
            let mut asked = Asked::default();
            let (response, code) = answer_hot(&self.door, call, request, &mut asked).await;
            started.handled_asked(code, &asked);
            return Ok(response.map(Either::Left));
        }
        Ok(self.answer_other(request).await.map(Either::Right))
    }

    async fn answer_other(self, request: Request<Incoming>) -> Response<OtherBody> {
        let path = request.uri().path().to_owned();
        let is_grpc = request
            .headers()
            .get("content-type")
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            let started = self.door.call_metrics().start(&path).traced(request.headers());
            if grpc::wants_leader(request.headers()) && self.door.handle().leader().is_none() {
                started.handled(Code::Unavailable);
                return grpc::refused(&error::no_leader()).map(boxed);
            }
            let fence = check_fence(request.headers(), &path);
            if let Err(status) = self.check_learner(&path).and(fence) {
                started.handled(status.code());
                return grpc::refused(&status).map(boxed);
            }
            return self.call(request, &path, started).await;
        }
        let origin = cors::allowed(&self.door.config().cors, request.headers());
        let mut response = match *request.method() {
            Method::OPTIONS => Response::new(boxed(Empty::new())),
            _ => self.answer_http(request, path).await,
        };
        if let Some(origin) = origin {
            cors::tell(response.headers_mut(), origin);
        }
        response
    }

    /// What is no gRPC.
    async fn answer_http(
        mut self,
        request: Request<Incoming>,
        path: String,
    ) -> Response<OtherBody> {
        if gateway::is_mine(&path) {
            return gateway::answer(&mut self, request).await;
        }
        if let Some(more) = self.more.as_ref().filter(|more| more.is_mine(&path)) {
            return answer_more(&**more, request).await;
        }
        let query = request.uri().query().unwrap_or("").to_owned();
        let format = pages::format_wanted(request.headers());
        let page = self.door.page(request.method(), &path, &query, format).await;
        let (code, kind, mut text) = page.unwrap_or_else(|| pages::not_found(&path));
        if path == "/metrics" && code == StatusCode::OK {
            text += &self.more.map(|more| more.metrics(format)).unwrap_or_default();
            if format == Format::OpenMetrics {
                text += "# EOF\n";
            }
        }
        let mut response = Response::new(boxed(Full::new(Bytes::from(text))));
        *response.status_mut() = code;
        response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
        response
    }

    /// A learner answers what concerns itself, and serializable reads.
    pub fn check_learner(&self, path: &str) -> Result<(), Status> {
        let own = ["Maintenance/Status", "Maintenance/Snapshot", "KV/Range", "KV/RangeStream"];
        let answers = match path.strip_prefix("/etcdserverpb.") {
            Some(call) => own.contains(&call),
            None => path.starts_with("/grpc."),
        };
        if answers { Ok(()) } else { self.door.refuse_on_learner() }
    }

    async fn call(
        mut self,
        request: Request<Incoming>,
        path: &str,
        started: Started,
    ) -> Response<OtherBody> {
        if path == "/etcdserverpb.Watch/Watch" && grpc::is_plain(&request) {
            let body = Counted::new(self.watch(request).into_body(), started);
            return grpc_response(boxed(body));
        }
        if path == "/synod.v1.Session/KeepAlive" && grpc::is_plain(&request) {
            let reader = MessageReader::new(request.into_body(), RENEWAL_BYTES);
            let answers = self.door.clone().keep_alive_stream(reader, BTreeMap::new());
            let body = Counted::new(AnswersBody::new(answers), started);
            return grpc_response(boxed(body));
        }
        let response = match self.routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        // A status in the headers is an answer without a body.
        if let Some(status) = Status::from_header_map(response.headers()) {
            started.handled(status.code());
            return response.map(boxed);
        }
        response.map(|body| boxed(Counted::new(body, started)))
    }

    fn watch(&self, request: Request<Incoming>) -> Response<StreamBody> {
        let most = self.door.config().request_bytes_max + (512 << 10);
        let wants_leader = grpc::wants_leader(request.headers());
        let (tx, rx) = mpsc::channel(WATCH_REQUESTS);
        let mut reader = MessageReader::new(request.into_body(), most);
        let (out, answers) = mpsc::channel(WATCH_ANSWERS);
        let errors = out.clone();
        tokio::spawn(async move {
            loop {
                match reader.next::<pb::WatchRequest>().await {
                    Ok(Some(message)) => {
                        if tx.send(message).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(status) => {
                        let _ = errors.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        tokio::spawn(WatchStream::new(self.door.clone(), wants_leader, out).run(rx));
        grpc::streaming(answers)
    }

    /// A watch whose requests are all there (from the JSON gateway); it lasts
    /// until the client goes.
    pub fn watch_messages(&self, frames: BytesMut) -> Result<Response<StreamBody>, Status> {
        let requests = grpc::split_messages::<pb::WatchRequest>(frames)?;
        let (tx, rx) = mpsc::channel(requests.len().max(1));
        for request in requests {
            // Never full: it was made for all of them.
            let _ = tx.try_send(request);
        }
        let (out, answers) = mpsc::channel(WATCH_ANSWERS);
        let gone = out.clone();
        tokio::spawn(async move {
            gone.closed().await;
            drop(tx);
        });
        tokio::spawn(WatchStream::new(self.door.clone(), false, out).run(rx));
        Ok(grpc::streaming(answers))
    }
}

fn boxed<B>(body: B) -> OtherBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}

async fn answer_more(more: &dyn MorePages, request: Request<Incoming>) -> Response<OtherBody> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MORE_BYTES_MAX).collect().await {
        Ok(body) => {
            let request = Request::from_parts(head, body.to_bytes());
            more.answer(request).await.map(|b| boxed(Full::new(b)))
        }
        Err(e) => {
            let why = format!("reading the request: {e} (at most {MORE_BYTES_MAX} bytes)\n");
            let mut response = Response::new(boxed(Full::new(Bytes::from(why))));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
    }
}

fn grpc_response(body: OtherBody) -> Response<OtherBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The calls that run on the bare stream, in the order of [`HOT_PATHS`].
#[derive(Clone, Copy)]
enum Hot {
    Range,
    Put,
    Delete,
    Txn,
}

/// Their paths, for the metrics.
pub(crate) const HOT_PATHS: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
];

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
    asked: &mut Asked,
) -> (Response<UnaryBody>, Code) {
    if grpc::wants_leader(request.headers()) && door.handle().leader().is_none() {
        let status = error::no_leader();
        return (grpc::refused(&status), status.code());
    }
    // etcd's own margin over the largest request: what else is in a message.
    let most = door.config().request_bytes_max + (512 << 10);
    let checked = check_fence(request.headers(), HOT_PATHS[call as usize]);
    let fence = match checked.and_then(|()| fence_of(request.headers())) {
        Ok(fence) => fence,
        Err(status) => return (grpc::refused(&status), status.code()),
    };
    let body = request.into_body();
    match call {
        Hot::Range => {
            let call = |m: pb::RangeRequest| {
                *asked = Asked { key: m.key.clone(), revision: m.revision };
                door.range(m)
            };
            grpc::unary(body, most, call).await
        }
        Hot::Put => {
            let call = |m: pb::PutRequest| {
                asked.key = m.key.clone();
                door.put(m, fence)
            };
            grpc::unary(body, most, call).await
        }
        Hot::Delete => {
            let call = |m: pb::DeleteRangeRequest| {
                asked.key = m.key.clone();
                door.delete_range(m, fence)
            };
            grpc::unary(body, most, call).await
        }
        Hot::Txn => {
            let call = |m: pb::TxnRequest| {
                asked.key = m.compare.first().map(|c| c.key.clone()).unwrap_or_default();
                door.txn(m, fence)
            };
            grpc::unary(body, most, call).await
        }
    }
}
