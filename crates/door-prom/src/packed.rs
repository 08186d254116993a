//! Answers compressed by gzip, for those who take them so.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Request, Response, header};
use std::io::Write;

/// Shorter answers are sent as they are.
const SHORT: usize = 1_400;

/// The answer to this request, compressed if it may be and is worth it.
pub(crate) fn packed(request: &Request<Bytes>, mut answer: Response<Bytes>) -> Response<Bytes> {
    if answer.body().len() < SHORT || answer.headers().contains_key(header::CONTENT_ENCODING) {
        return answer;
    }
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip(request) {
        return answer;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail; if it did, the answer would go as it is.
    let Ok(body) = encoder.write_all(answer.body()).and_then(|()| encoder.finish()) else {
        return answer;
    };
    *answer.body_mut() = body.into();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(header::CONTENT_LENGTH);
    answer
}

/// Whether gzip is among the encodings that a request takes. Named itself, it counts for
/// more than `*`.
fn takes_gzip(request: &Request<Bytes>) -> bool {
    let lists = request.headers().get_all(header::ACCEPT_ENCODING).iter();
    let codings = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    let mut any = false;
    for coding in codings {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let wanted = weight.is_none_or(|q| q.parse().is_ok_and(|q: f64| q > 0.0));
        match name {
            _ if name.eq_ignore_ascii_case("gzip") => return wanted,
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (accept, takes) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5, *;q=0", true),
            ("br", false),
            ("*", true),
            ("*, gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("", false),
        ] {
            let request = Request::builder().header("accept-encoding", accept);
            let request = request.body(Bytes::new()).expect("a request");
            assert_eq!(takes_gzip(&request), takes, "{accept}");
        }
    }
}
