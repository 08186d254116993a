//! The JSON gateway: `/v3/...` over HTTP/1, each path one gRPC method. JSON
//! becomes the method's message by reflection, the call goes through the same
//! services, and what they answer becomes JSON again.
//!
//! JSON as etcd's gateway has it: names as in the `.proto` files, 64-bit numbers
//! as strings, bytes in base64, default values left out; a stream is one
//! `{"result": ...}` a line.

use crate::coord::{FENCE_HEADER, check_fence, fence_of};
use crate::grpc::StreamBody;
use crate::metrics::Counted;
use crate::server::{OtherBody, Site};
use crate::slow::Asked;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, SerializeOptions,
    Value,
};
use std::borrow::Cow;
use std::sync::LazyLock;
use synod_etcd_proto::DESCRIPTORS;
use tonic::{Code, Status};
use tower_service::Service;

/// Path to method; `/v3beta/` and `/v3alpha/` of older clients mean the same.
const PATHS: &[(&str, &str)] = &[
    ("/v3/kv/range", "/etcdserverpb.KV/Range"),
    ("/v3/kv/put", "/etcdserverpb.KV/Put"),
    ("/v3/kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("/v3/kv/txn", "/etcdserverpb.KV/Txn"),
    ("/v3/kv/compaction", "/etcdserverpb.KV/Compact"),
    ("/v3/watch", "/etcdserverpb.Watch/Watch"),
    ("/v3/lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("/v3/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("/v3/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/v3/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/v3/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("/v3/cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("/v3/cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("/v3/cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("/v3/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("/v3/maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("/v3/maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("/v3/maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("/v3/maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("/v3/maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("/v3/maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("/v3/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("/v3/maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("/v3/auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("/v3/auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("/v3/auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("/v3/auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("/v3/auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("/v3/auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("/v3/auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("/v3/auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("/v3/auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("/v3/auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("/v3/auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("/v3/auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("/v3/auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("/v3/auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("/v3/auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("/v3/auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("/v3/auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("/v3/lock/lock", "/v3lockpb.Lock/Lock"),
    ("/v3/lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("/v3/election/campaign", "/v3electionpb.Election/Campaign"),
    ("/v3/election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("/v3/election/leader", "/v3electionpb.Election/Leader"),
    ("/v3/election/observe", "/v3electionpb.Election/Observe"),
    ("/v3/election/resign", "/v3electionpb.Election/Resign"),
];

/// The same for Synod's own interface.
const OWN_PATHS: &[(&str, &str)] = &[
    ("/synod/v1/session/open", "/synod.v1.Session/Open"),
    ("/synod/v1/session/keepalive", "/synod.v1.Session/KeepAlive"),
    ("/synod/v1/session/close", "/synod.v1.Session/Close"),
    ("/synod/v1/session/list", "/synod.v1.Session/List"),
    ("/synod/v1/lock/acquire", "/synod.v1.Lock/Acquire"),
    ("/synod/v1/lock/release", "/synod.v1.Lock/Release"),
    ("/synod/v1/lock/check", "/synod.v1.Lock/Check"),
    ("/synod/v1/lock/describe", "/synod.v1.Lock/Describe"),
    ("/synod/v1/file/get", "/synod.v1.File/Get"),
    ("/synod/v1/file/set", "/synod.v1.File/Set"),
    ("/synod/v1/file/delete", "/synod.v1.File/Delete"),
    ("/synod/v1/file/list", "/synod.v1.File/List"),
    ("/synod/v1/file/events", "/synod.v1.File/Events"),
    ("/synod/v1/file/invalidations", "/synod.v1.File/Invalidations"),
    ("/synod/v1/file/release", "/synod.v1.File/Release"),
    ("/synod/v1/election/stand", "/synod.v1.Election/Stand"),
    ("/synod/v1/election/campaign", "/synod.v1.Election/Campaign"),
    ("/synod/v1/election/proclaim", "/synod.v1.Election/Proclaim"),
    ("/synod/v1/election/resign", "/synod.v1.Election/Resign"),
    ("/synod/v1/election/withdraw", "/synod.v1.Election/Withdraw"),
    ("/synod/v1/election/observe", "/synod.v1.Election/Observe"),
    ("/synod/v1/service/register", "/synod.v1.Service/Register"),
    ("/synod/v1/service/report", "/synod.v1.Service/Report"),
    ("/synod/v1/service/list", "/synod.v1.Service/List"),
    ("/synod/v1/service/health", "/synod.v1.Service/Health"),
    ("/synod/v1/service/failover", "/synod.v1.Service/Failover"),
];

const ETCD_PREFIXES: [&str; 3] = ["/v3/", "/v3beta/", "/v3alpha/"];

/// All messages and services of the interface.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Compiled into this binary: it decodes, or no test passes.
    DescriptorPool::decode(DESCRIPTORS).expect("the descriptors of this build")
});

fn method_of(path: &str) -> Option<(&'static str, MethodDescriptor)> {
    let grpc = match ETCD_PREFIXES.iter().find_map(|p| path.strip_prefix(p)) {
        Some(rest) => PATHS.iter().find(|(p, _)| p.strip_prefix("/v3/") == Some(rest))?.1,
        None => OWN_PATHS.iter().find(|(p, _)| *p == path)?.1,
    };
    let (service, method) = grpc.trim_start_matches('/').split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    let method = service.methods().find(|m| m.name() == method)?;
    Some((grpc, method))
}

/// Whether the gateway has an answer for this path.
pub(crate) fn is_mine(path: &str) -> bool {
    path.starts_with("/synod/v1/") || ETCD_PREFIXES.iter().any(|p| path.starts_with(p))
}

/// Answers a JSON request.
pub(crate) async fn answer<B>(site: &mut Site, request: Request<B>) -> Response<OtherBody>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let path = request.uri().path().to_owned();
    let Some((grpc, method)) = method_of(&path) else {
        return failure(
            &Status::new(Code::Unimplemented, "Not Found"),
            Some(StatusCode::NOT_FOUND),
        );
    };
    if request.method() != Method::POST {
        let why = Status::new(Code::Unimplemented, "Method Not Allowed");
        return failure(&why, Some(StatusCode::METHOD_NOT_ALLOWED));
    }
    // A JSON request is larger than the message that it becomes.
    let most = site.door.config().request_bytes_max * 2 + (512 << 10);
    let (head, body) = request.into_parts();
    let fence = check_fence(&head.headers, grpc).and_then(|()| fence_of(&head.headers));
    if let Err(status) = fence {
        return failure(&status, None);
    }
    match call(site, grpc, &method, &head.headers, body, most).await {
        Ok(response) => response,
        Err(status) => failure(&status, None),
    }
}

async fn call<B>(
    site: &mut Site,
    grpc: &str,
    method: &MethodDescriptor,
    headers: &HeaderMap,
    body: B,
    most: usize,
) -> Result<Response<OtherBody>, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    site.check_learner(grpc)?;
    let json = collect(body, most).await?;
    let (messages, asked) = parse(method, &json)?;
    let limit = site.door.config().request_bytes_max + (512 << 10);
    if messages.len() > limit {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({} vs. {limit})",
            messages.len()
        )));
    }
    let streams_in = method.is_client_streaming();
    let started = site.door.call_metrics().start(grpc).traced(headers).asking(asked);
    let answer = if grpc == "/etcdserverpb.Watch/Watch" {
        site.watch_messages(messages)?.map(tonic::body::Body::new)
    } else {
        let body = Full::new(Bytes::from(messages));
        let mut request = Request::post(grpc)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .map_err(|e| Status::internal(e.to_string()))?;
        if let Some(fence) = headers.get(FENCE_HEADER) {
            request.headers_mut().insert(FENCE_HEADER, fence.clone());
        }
        match site.routes.call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    };
    if let Some(status) = Status::from_header_map(answer.headers()).filter(|s| s.code() != Code::Ok)
    {
        started.handled(status.code());
        return Err(status);
    }
    let body = Counted::new(answer.into_body(), started);
    if method.is_server_streaming() || streams_in {
        return Ok(stream_json(method.clone(), body));
    }
    let body = body.collect().await?;
    if let Some(status) = body.trailers().and_then(Status::from_header_map)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let mut bytes = BytesMut::from(body.to_bytes());
    let message = take_message(&mut bytes);
    let message = message.ok_or_else(|| Status::internal("the service answered nothing"))?;
    let text = to_json(method, message)?;
    Ok(respond(StatusCode::OK, text))
}

async fn collect<B>(mut body: B, most: usize) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::cancelled(e.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > most {
                return Err(crate::error::request_too_large());
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// One JSON object (several for a method that takes a stream) as framed messages, and what
/// the last of them asks for.
fn parse(method: &MethodDescriptor, json: &[u8]) -> Result<(BytesMut, Asked), Status> {
    let (mut out, mut asked) = (BytesMut::new(), Asked::default());
    let bad = |e: serde_json::Error| Status::invalid_argument(e.to_string());
    // etcd's gateway passes over fields that it does not know; ours names the mistake.
    let own = method.parent_service().package_name().starts_with("synod.");
    let values = serde_json::Deserializer::from_slice(json).into_iter::<serde_json::Value>();
    let mut count = 0;
    for value in values {
        let mut value = value.map_err(bad)?;
        if !own {
            drop_unknown(&method.input(), &mut value);
        }
        let message = DynamicMessage::deserialize(method.input(), value).map_err(bad)?;
        asked = asked_of(&message);
        put_frame(&mut out, &message);
        count += 1;
    }
    if count == 0 {
        put_frame(&mut out, &DynamicMessage::new(method.input()));
    }
    if count > 1 && !method.is_client_streaming() {
        return Err(Status::invalid_argument("one JSON object is expected"));
    }
    Ok((out, asked))
}

/// Takes away what no field of the message is called. Only that: a name that an enum does not
/// have is a mistake, or a comparison would become another.
fn drop_unknown(message: &MessageDescriptor, value: &mut serde_json::Value) {
    let serde_json::Value::Object(fields) = value else { return };
    fields.retain(|name, value| {
        let field =
            message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        let Some(field) = field else { return false };
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
        {
            match value {
                serde_json::Value::Array(all) => {
                    all.iter_mut().for_each(|value| drop_unknown(&inner, value));
                }
                one => drop_unknown(&inner, one),
            }
        }
        true
    });
}

/// The key, name or path of a message, and its revision.
fn asked_of(message: &DynamicMessage) -> Asked {
    let field = |name| message.get_field_by_name(name).map(Cow::into_owned);
    let text = |value| match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::String(text) => Some(text.into()),
        _ => None,
    };
    let key = ["key", "name", "path"].into_iter().filter_map(field).find_map(text);
    let compared = || field("compare")?.as_list()?.first()?.as_message().map(asked_of);
    let key = key.or_else(|| compared().map(|c| c.key)).unwrap_or_default();
    let revision = field("revision").and_then(|r| r.as_i64()).unwrap_or_default();
    Asked { key, revision }
}

fn put_frame(out: &mut BytesMut, message: &DynamicMessage) {
    use prost_reflect::prost::Message;
    let bytes = message.encode_to_vec();
    out.put_u8(0);
    out.put_u32(bytes.len() as u32);
    out.put_slice(&bytes);
}

fn to_json(method: &MethodDescriptor, message: Bytes) -> Result<String, Status> {
    let internal = |e: &dyn std::fmt::Display| Status::internal(format!("to JSON: {e}"));
    let message = DynamicMessage::decode(method.output(), message).map_err(|e| internal(&e))?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    message.serialize_with_options(&mut serializer, &options).map_err(|e| internal(&e))?;
    String::from_utf8(out).map_err(|e| internal(&e))
}

/// A stream of messages as lines.
fn stream_json(
    method: MethodDescriptor,
    mut body: Counted<tonic::body::Body>,
) -> Response<OtherBody> {
    let (tx, rx) = tokio::sync::mpsc::channel::<Result<Bytes, Status>>(4);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                if status.code() != Code::Ok {
                    let line = format!("{{\"error\":{}}}\n", error_json(&status));
                    let _ = tx.send(Ok(line.into())).await;
                }
                return;
            }
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(message) = take_message(&mut buffer) {
                let Ok(text) = to_json(&method, message) else { return };
                let line = format!("{{\"result\":{text}}}\n");
                if tx.send(Ok(line.into())).await.is_err() {
                    return;
                }
            }
        }
    });
    let body = StreamBody::plain(rx).map_err(|e| match e {}).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn take_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let head: [u8; 5] = buffer.get(..5)?.try_into().ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

fn error_json(status: &Status) -> String {
    let (text, code) = (status.message(), status.code() as i32);
    serde_json::json!({ "error": text, "message": text, "code": code }).to_string()
}

fn failure(status: &Status, code: Option<StatusCode>) -> Response<OtherBody> {
    let code = code.unwrap_or(match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    });
    respond(code, error_json(status))
}

fn respond(code: StatusCode, text: String) -> Response<OtherBody> {
    let body = Full::new(Bytes::from(text)).map_err(|e| match e {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}
