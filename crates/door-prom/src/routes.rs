//! Which methods the paths of the API have.

use crate::json::{Failure, plain};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

const FORM: &str = "application/x-www-form-urlencoded";

/// The methods of a path; `None`: there is none such.
pub(crate) fn methods(path: &str) -> Option<&'static [Method]> {
    const READ: &[Method] = &[Method::GET];
    const FORMS: &[Method] = &[Method::GET, Method::POST];
    let methods: &[Method] = match path {
        "/-/healthy" | "/-/ready" => &[Method::GET, Method::HEAD],
        "/-/reload" => &[Method::POST, Method::PUT],
        "/federate" | "/graph" => READ,
        _ if path.starts_with("/metrics/job") => &[Method::PUT, Method::POST, Method::DELETE],
        _ => match path.strip_prefix("/api/v1/")? {
            "write" | "read" | "otlp/v1/metrics" => &[Method::POST],
            "query" | "query_range" | "query_exemplars" | "format_query" | "parse_query"
            | "labels" | "series" => FORMS,
            "metadata" | "targets" | "targets/metadata" | "scrape_pools" | "rules" | "alerts"
            | "alertmanagers" => READ,
            "status/config" | "status/buildinfo" | "status/runtimeinfo" | "status/flags"
            | "status/tsdb" => READ,
            rest => {
                let name = rest.strip_prefix("label/")?.strip_suffix("/values")?;
                return (!name.contains('/')).then_some(READ);
            }
        },
    };
    Some(methods)
}

/// That a path does not have a request's method, and which it has.
pub(crate) fn not_allowed(allowed: &[Method]) -> Response<Bytes> {
    let text = "Method Not Allowed\n".to_owned();
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", text);
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
        answer.headers_mut().insert(header::ALLOW, names);
    }
    answer
}

/// The body of a request that is a form.
pub(crate) fn form_body(request: &Request<Bytes>) -> Result<&[u8], Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or(FORM);
    let is_form = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM));
    if is_form || request.body().is_empty() {
        return Ok(request.body());
    }
    Err(Failure {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        kind: "bad_data",
        why: format!("a body of type {kind:?}: only {FORM} is read"),
    })
}
